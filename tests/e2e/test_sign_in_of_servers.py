"""Servers that need a sign-in, behind a bridge: its start is not delayed, calls say what to do, and go on afterwards.

Real bridges, against a small authorization server and a server that it protects, on loopback.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from asyncfc_mcp.downstream.oauth.file_store import FileStore
from asyncfc_mcp.downstream.oauth.keyring_store import KeyringStore
from asyncfc_mcp.downstream.oauth.records import Grant
from tests.support.authorization_server import AuthorizationServer, ProtectedServer, browse, get
from tests.support.client import HANDSHAKE, MODERN, Json, eventually, records, text_of
from tests.support.file_keyring import FileKeyring
from tests.support.stage import Stage, free_port
from tests.support.stdio_client import Wire
from tests.support.users import User

ERAS = [HANDSHAKE, MODERN]
CALLS = 12
NEEDED = "Server p: needs sign-in"


class KillingServer(ProtectedServer):
    """Kills the process `victim` at the first request with a token that it has not seen before."""

    victim: int | None = None

    async def _mcp(self, request: Request) -> Response:
        token = request.headers.get("authorization")
        if self.victim is not None and token is not None and token not in self.authorizations:
            os.kill(self.victim, signal.SIGKILL)
            self.victim = None
        return await super()._mcp(request)


@dataclass
class World:
    """An authorization server, a server that it protects, and the store of the bridges of a stage."""

    stage: Stage
    authorization: AuthorizationServer
    mcp: KillingServer
    port: int

    @property
    def store(self) -> FileStore:
        return FileStore(Path(self.stage.env["ASYNCFC_STATE_DIR"]) / "oauth")

    def entry(self, **oauth: Any) -> Json:
        return {"url": self.mcp.url, "oauth": {"clientId": "client", "callbackPort": self.port, **oauth}}

    def grant(self, scopes: tuple[str, ...] = ("read",), **members: Any) -> Grant:
        """Issue tokens as if someone had signed in, and return the grant."""
        return self.authorization.grant(self.mcp.url, scopes, **members)

    def sign_in(self, scopes: tuple[str, ...] = ("read",), **members: Any) -> Grant:
        """Store a grant, as `asyncfc-mcp login` does."""
        grant = self.grant(scopes, **members)
        self.store.save_grant("p", self.mcp.url, grant)
        return grant

    def bridge(self, **options: Any) -> Wire:
        return self.stage.bridge({"p": self.entry()}, **options)

    def user(self, reply: Any, era: str, *, capabilities: Json | None = None) -> User:
        """A client with a user behind it, who answers with `reply`."""

        class Someone(User):
            pass

        Someone.capabilities = {"elicitation": {"url": {}}} if capabilities is None else capabilities
        Someone.reply = None if reply is None else staticmethod(reply)
        config = self.stage.config({"p": self.entry()})
        stderr = self.stage.folder / f"user-{len(self.stage.wires)}.stderr"
        command = self.stage.command("serve", "--config", str(config))
        user = Someone(command, env=self.stage.env, cwd=self.stage.folder, stderr=stderr, era=era)
        self.stage.wires.append(user)
        user.open()
        return user

    def listed_before(self) -> None:
        """Have a bridge list the tools, so that the next one knows them; its sign-in is over afterwards."""
        self.sign_in()
        self.bridge().wait_for_tools("p__echo")
        for wire in self.stage.wires:
            wire.close()
        self.stage.wires.clear()
        self.authorization.revoke_all()


@pytest.fixture
def world(stage: Stage) -> Iterator[World]:
    with AuthorizationServer() as authorization, KillingServer(authorization) as mcp:
        port = free_port()
        authorization.add_client("client", redirect_uris=(f"http://127.0.0.1:{port}/callback",))
        yield World(stage, authorization, mcp, port)


def condition(bridge: Wire) -> str:
    """What `list_futures` says of the servers."""
    return text_of(bridge.call("list_futures"))


def said(bridge: Wire, **arguments: Any) -> str:
    return text_of(bridge.call("p__echo", {"text": "hello", "_wait": "this", **arguments}))


def futures(answer: Json) -> list[str]:
    """IDs of the futures that an answer speaks of."""
    return [record["future_id"] for record in records(answer)]


def visit(url: str) -> None:
    """Approve in the browser, and be redirected to the bridge."""
    status, page = get(browse(url))
    assert status == 200, page


# --- without a client that can be asked ------------------------------------------------------------------------------


def test_a_sign_in_in_another_process_starts_the_server(world: World) -> None:
    """Until then the bridge runs, and says what to do; nothing is started again and again."""
    bridge = world.bridge()
    assert "p__echo" not in bridge.tools()
    eventually(lambda: f"{NEEDED}: asyncfc-mcp login p" in condition(bridge), "it says what to do")
    refused = world.mcp.requests["401"]
    world.sign_in()
    bridge.wait_for_tools("p__echo")
    assert "hello" in said(bridge)
    assert world.mcp.requests["401"] == refused
    assert NEEDED not in condition(bridge)


def test_tools_stay_listed_and_calls_say_what_to_do(world: World) -> None:
    """They are known from an earlier run; a call fails at once, and succeeds after the sign-in."""
    world.listed_before()
    bridge = world.bridge()
    assert "p__echo" in bridge.tools()
    assert "asyncfc-mcp login p" in said(bridge)
    assert f"{NEEDED}: " in condition(bridge)
    assert world.mcp.calls == []
    world.sign_in()
    assert "hello" in said(bridge)


def test_a_grant_that_dies_while_the_server_is_up(world: World) -> None:
    """The call says so, and so does the state; tools stay, and a new sign-in is used."""
    world.sign_in()
    bridge = world.bridge()
    bridge.wait_for_tools("p__echo")
    world.authorization.revoke_all()
    text = said(bridge)
    assert "needs sign-in (its sign-in has expired or was revoked): asyncfc-mcp login p" in text
    assert "p__echo" in bridge.tools()
    assert NEEDED in condition(bridge)
    world.sign_in()
    assert "hello" in said(bridge)
    eventually(lambda: NEEDED not in condition(bridge), "it is up again")


def test_an_authorization_server_that_does_not_answer_delays_no_start(world: World) -> None:
    """The client is answered while the token is being renewed; tools are those of the last run, and calls wait."""
    world.listed_before()
    world.sign_in(expires_at=1.0)
    world.authorization.token_gate.clear()
    bridge = world.bridge()
    assert "p__echo" in bridge.tools()
    call = bridge.start_call("p__echo", {"text": "hello", "_wait": "this"})
    eventually(lambda: world.authorization.requests["token:refresh_token"], "the token is being renewed")
    world.authorization.token_gate.set()
    assert "hello" in text_of(call.result())


def test_a_machine_needs_no_sign_in(world: World) -> None:
    """Client credentials are used by themselves, also for the scopes that a call turns out to need."""
    world.authorization.add_client("machine", secret="machine-secret", auth_method="client_secret_basic")
    oauth = {"clientId": "machine", "clientSecret": "machine-secret", "grant": "client_credentials"}
    bridge = world.stage.bridge({"p": {"url": world.mcp.url, "oauth": oauth}})
    bridge.wait_for_tools("p__write")
    assert "hello" in said(bridge)
    assert "hello" in text_of(bridge.call("p__write", {"text": "hello", "_wait": "this"}))
    assert "machine-secret" not in bridge.stderr() + condition(bridge)


def test_no_token_is_shown(world: World) -> None:
    """Neither in answers nor in the log, whatever a server quotes."""
    grant = world.sign_in()
    bridge = world.bridge()
    bridge.wait_for_tools("p__echo")
    world.mcp.challenge = f'Bearer error="invalid_token", error_description="no {grant.access_token}"'
    world.authorization.revoke_all()
    texts = said(bridge) + condition(bridge) + bridge.stderr()
    assert grant.access_token not in texts
    assert grant.refresh_token is not None
    assert grant.refresh_token not in texts


# --- several processes -----------------------------------------------------------------------------------------------


def test_two_bridges_renew_a_token_once(world: World) -> None:
    """Many calls of both through a token that has expired: one refresh, and all are answered."""
    world.sign_in()
    bridges = [world.bridge(), world.bridge()]
    for bridge in bridges:
        bridge.wait_for_tools("p__echo")
    world.authorization.expire_all()
    calls = [
        bridge.start_call("p__echo", {"text": f"t{i}", "_wait": "this"}) for i in range(CALLS) for bridge in bridges
    ]
    assert all(f"t{i // 2}" in text_of(call.result()) for i, call in enumerate(calls))
    assert world.authorization.requests["token:refresh_token"] == 1


def test_tokens_are_kept_in_the_keyring_of_the_system(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge finds them there, and renews them there; no file holds any."""
    file = world.stage.folder / "keyring.json"
    monkeypatch.setenv("FILE_KEYRING", str(file))
    backend = {"PYTHON_KEYRING_BACKEND": "tests.support.file_keyring.FileKeyring", "FILE_KEYRING": str(file)}
    folder = Path(world.stage.env["ASYNCFC_STATE_DIR"]) / "oauth"
    store = KeyringStore(folder, FileKeyring())
    before = world.grant(expires_at=1.0)
    store.save_grant("p", world.mcp.url, before)
    world.stage.env |= backend
    bridge = world.bridge(credentials="keyring")
    bridge.wait_for_tools("p__echo")
    assert "hello" in said(bridge)
    after = store.load_grant("p", world.mcp.url)
    assert after is not None
    assert after.refresh_token not in (None, before.refresh_token)
    assert world.authorization.requests["token:refresh_token"] == 1
    for each in folder.iterdir():
        assert not any(token.encode() in each.read_bytes() for token in (after.access_token, before.access_token))


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_a_rotated_refresh_token_survives_a_kill(world: World) -> None:
    """It was stored before it was used: the next run needs no sign-in, and no refresh."""
    world.sign_in(expires_at=1.0)
    bridge = world.bridge(opened=False)
    world.mcp.victim = bridge.process.pid
    assert bridge.process.wait(30) == -signal.SIGKILL
    assert world.authorization.requests["token:refresh_token"] == 1
    again = world.bridge()
    again.wait_for_tools("p__echo")
    assert "hello" in said(again)
    assert world.authorization.requests["token:refresh_token"] == 1


# --- with a client that can be asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
def test_the_user_is_asked_once_and_all_calls_go_on(world: World, era: str) -> None:
    """The client opens the URL; every call that waits is made afterwards."""
    world.listed_before()
    opened: list[Json] = []

    def agree(method: str, params: Json) -> Json:
        opened.append(params)
        threading.Thread(target=visit, args=(params["url"],)).start()
        return {"action": "accept"}

    user = world.user(agree, era)
    waiting = [futures(user.call("p__echo", {"text": f"t{i}"}))[0] for i in range(CALLS)]
    for future in waiting:
        user.wait_for_question(future)
    results = [user.dialog("await_future", {"future_id": each}) for each in reversed(waiting)]
    assert all(f"t{CALLS - 1 - i}" in text_of(result) for i, result in enumerate(results))
    assert len(opened) == 1
    assert opened[0]["mode"] == "url"
    assert opened[0]["url"].startswith(f"{world.authorization.issuer}/authorize?")
    assert "'p'" in opened[0]["message"]
    assert world.store.load_grant("p", world.mcp.url) is not None


@pytest.mark.parametrize("era", ERAS)
def test_a_user_who_declines_is_not_asked_again_at_once(world: World, era: str) -> None:
    """The call says what to do instead, and so does the next one."""
    world.listed_before()
    user = world.user(lambda method, params: {"action": "decline"}, era)
    for _ in range(3):
        text = text_of(user.dialog("p__echo", {"text": "hello", "_wait": "this"}))
        assert "asyncfc-mcp login p" in text
        assert "hello" not in text
    assert len(user.asked) == 1


def test_a_client_that_opens_no_urls_is_not_asked(world: World) -> None:
    """Its calls fail at once."""
    world.listed_before()
    user = world.user(
        lambda method, params: {"action": "accept"}, HANDSHAKE, capabilities={"elicitation": {"form": {}}}
    )
    assert "asyncfc-mcp login p" in said(user)
    assert user.asked == []


@pytest.mark.parametrize("era", ERAS)
def test_a_call_that_needs_more_scopes_asks_for_them(world: World, era: str) -> None:
    """Those that there are and the new ones; other calls never stop."""
    world.sign_in()

    def agree(method: str, params: Json) -> Json:
        threading.Thread(target=visit, args=(params["url"],)).start()
        return {"action": "accept"}

    user = world.user(agree, era)
    user.wait_for_tools("p__write")
    assert "hello" in text_of(user.dialog("p__write", {"text": "hello", "_wait": "this"}))
    assert len(user.asked) == 1
    asked = next(params["scope"] for what, params in world.authorization.seen if what == "authorize")
    assert {"read", "write"} <= set(asked.split())


def test_a_sign_in_elsewhere_ends_the_question(world: World) -> None:
    """The call that waits for an answer goes on without it."""
    world.listed_before()
    user = world.user(None, HANDSHAKE)
    call = user.start_call("p__echo", {"text": "hello", "_wait": "this"})
    eventually(lambda: user.asked, "the user is asked")
    world.sign_in()
    assert "hello" in text_of(call.result())
