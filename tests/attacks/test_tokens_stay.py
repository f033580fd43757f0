"""Tokens of a running bridge: no redirect, refusal, error or log carries them to where they do not belong, and no
server makes the bridge ask for tokens without end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from asyncfc_mcp.downstream.oauth.file_store import FileStore
from asyncfc_mcp.downstream.oauth.records import Grant, Registration
from tests.support.authorization_server import AuthorizationServer, ProtectedServer
from tests.support.client import MODERN, Json, eventually, text_of
from tests.support.site import Site
from tests.support.stage import Stage
from tests.support.stdio_client import Wire

SECRET = "client-secret-9f2c"


@dataclass
class Scene:
    """An authorization server, a protected server, another host, and a user who has signed in."""

    stage: Stage
    authorization: AuthorizationServer
    server: ProtectedServer
    evil: Site

    @property
    def store(self) -> FileStore:
        return FileStore(self.stage.folder / "state" / "oauth")

    def sign_in(self, url: str, *, expires_at: float | None = None, scopes: tuple[str, ...] = ("read",)) -> Grant:
        """Put a grant into the store, as `asyncfc-mcp login` does."""
        issuer = self.authorization.issuer
        redirect_uri = "http://127.0.0.1:28463/callback"
        self.authorization.add_client("c", redirect_uris=(redirect_uri,))
        tokens = self.authorization.grant_tokens("c", scopes, url)
        grant = Grant(
            issuer=issuer,
            token_endpoint=f"{issuer}/token",
            resource=url,
            client_id="c",
            access_token=tokens["access_token"],
            refresh_token=tokens.get("refresh_token"),
            obtained_at=time.time(),
            expires_at=time.time() + 3600 if expires_at is None else expires_at,
            scopes=scopes,
            redirect_uri=redirect_uri,
        )
        self.store.save_registration(Registration(issuer, "c", "registered", redirect_uri=redirect_uri))
        self.store.save_grant("srv", url, grant)
        return grant

    def bridge(self, url: str, *args: str, era: str = MODERN, **entry: Any) -> Wire:
        config = self.stage.config({"srv": {"url": url, **entry}}, grace_ms=0)
        return self.stage.serve("--config", str(config), *args, era=era)


@pytest.fixture
def scene(stage: Stage) -> Iterator[Scene]:
    with AuthorizationServer() as authorization, ProtectedServer(authorization) as server, Site() as evil:
        yield Scene(stage, authorization, server, evil)


def call(bridge: Wire, tool: str = "echo", text: str = "hi") -> Json:
    bridge.wait_for_tools(f"srv__{tool}")
    return bridge.outcome(bridge.submit(f"srv__{tool}", {"text": text}).id)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_server_that_redirects_elsewhere(scene: Scene, status: int):
    """The other host gets no request at all, neither with the token nor without it."""
    with Site() as site:
        site.otherwise(RedirectResponse(f"{scene.evil.origin}/mcp", status))
        url = f"{site.origin}/mcp"
        scene.sign_in(url)
        bridge = scene.bridge(url)
        eventually(lambda: site.seen, "the server is asked")
        eventually(lambda: "redirect" in text_of(bridge.call("list_futures")), "the bridge says why")
        assert not scene.evil.seen


def test_a_server_that_takes_no_token(scene: Scene):
    """401 for every token: a few refreshes, then a sign-in is asked for; nothing goes round and round."""
    with Site() as site:
        metadata = f'Bearer resource_metadata="{site.origin}/m"'
        site.otherwise(Response("no", 401, {"www-authenticate": metadata}))
        url = f"{site.origin}/mcp"
        scene.sign_in(url)
        bridge = scene.bridge(url)
        eventually(lambda: "login srv" in text_of(bridge.call("list_futures")), "the bridge says what to run")
        asked, refreshed = len(site.seen), scene.authorization.requests["token:refresh_token"]
        assert refreshed <= 6
        time.sleep(1)  # what would go on without end goes on now
        assert len(site.seen) - asked <= 4
        assert scene.authorization.requests["token:refresh_token"] - refreshed <= 1


def test_a_server_that_wants_no_token_for_what_it_does_not_know(scene: Scene):
    """401 for all but the handshake, which it refuses in another way: a sign-in is asked for nevertheless."""
    with Site() as site:

        def answer(request: Request, body: bytes) -> Response:
            if b'"initialize"' in body:
                return Response("no such method", 400)
            return Response("no", 401, {"www-authenticate": "Bearer"})

        site.otherwise(answer)
        bridge = scene.bridge(f"{site.origin}/mcp")
        eventually(lambda: "login srv" in text_of(bridge.call("list_futures")), "the bridge says what to run")


class Lazy(ProtectedServer):
    """Wants a token for calls only."""

    async def _mcp(self, request: Request) -> Response:
        message = await request.json() if request.method == "POST" else {}
        if request.method != "POST" or message.get("method") == "tools/call":
            return await super()._mcp(request)
        if "id" not in message:
            return Response(status_code=202)
        answer = self._answer(message["method"], message.get("params") or {})
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], **answer})


def test_a_server_that_wants_a_token_for_calls_only(scene: Scene):
    """Its tools are listed without a sign-in, a call says what to run, and is made after that."""
    with Lazy(scene.authorization) as server:
        bridge = scene.bridge(server.url)
        failed = call(bridge)
        assert failed["isError"]
        assert "asyncfc-mcp login srv" in text_of(failed)
        assert "srv__echo" in bridge.tools()
        scene.sign_in(server.url)
        assert text_of(call(bridge)) == "hi"


def test_a_server_that_asks_for_more_and_more_scopes(scene: Scene):
    """403 with a new scope each time: the call fails at once, and says so."""
    count = iter(range(1000))
    scene.sign_in(scene.server.url)
    bridge = scene.bridge(scene.server.url)
    assert text_of(call(bridge)) == "hi"

    class Endless(dict[str, tuple[str, ...]]):
        def get(self, key: str, default: Any = None) -> Any:
            return (f"scope{next(count)}",) if key == "write" else default

    scene.server.needed = Endless()
    failed = call(bridge, "write")
    assert failed["isError"]
    assert "sign-in" in text_of(failed)
    assert next(count) <= 3
    assert text_of(call(bridge)) == "hi", "other calls go on"


def test_a_token_endpoint_that_hangs(scene: Scene):
    """A refresh that has no answer delays neither the start nor the listing of the bridge, nor other servers."""
    scene.authorization.token_gate.clear()
    scene.sign_in(scene.server.url, expires_at=time.time() - 10)
    config = scene.stage.config({"srv": {"url": scene.server.url}, "toy": scene.stage.toy()}, grace_ms=0)
    bridge = scene.stage.serve("--config", str(config))
    try:
        bridge.wait_for_tools("toy__echo")
        assert "hi" in text_of(bridge.outcome(bridge.submit("toy__echo", {"text": "hi"}).id))
    finally:
        scene.authorization.token_gate.set()
    assert text_of(call(bridge)) == "hi"
    assert scene.authorization.requests["token:refresh_token"] == 1


def traces(stage: Stage) -> Iterator[tuple[str, bytes]]:
    """Everything that a bridge leaves behind or shows to others, but for its store of credentials."""
    for path in stage.folder.rglob("*"):
        if path.is_file() and path.parent.name != "oauth":
            yield str(path.relative_to(stage.folder)), path.read_bytes()
    for process in stage.alive():
        with contextlib.suppress(psutil.Error, OSError):
            for name in ("cmdline", "environ"):
                yield f"{name} of {process.pid}", Path(f"/proc/{process.pid}/{name}").read_bytes()


def test_no_trace_of_a_token(scene: Scene, capfd: pytest.CaptureFixture[str]):
    """A server and an authorization server that repeat every credential in their errors: none of them is in a log, an
    error, a listing, the cache, the journal, or the process list."""
    sent: set[str] = set()

    def repeat(request: Request, body: bytes) -> Response:
        header = request.headers.get("authorization", "")
        sent.update(header.split()[1:])
        text = f"I got {header} and {body.decode()}"
        if b'"tools/call"' in body:
            return Response(text, 400, media_type="text/plain")
        if b'"server/discover"' in body or b'"initialize"' in body:
            return JSONResponse({"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": text}}, 500)
        return Response(text, 500)

    with Site() as site:

        def token(request: Request, body: bytes) -> Response:
            return JSONResponse({"error": body.decode(), "error_description": f"{body.decode()} was sent"}, 400)

        site.on("/token", token)
        site.on("/mcp", repeat)
        url = f"{site.origin}/mcp"
        grant = scene.sign_in(url)
        bridge = scene.bridge(url, "-v")
        eventually(lambda: sent, "the token is sent")
        shown = [text_of(bridge.call("list_futures"))]
        eventually(lambda: "srv" in text_of(bridge.call("list_futures")), "the server is unavailable")
        # And a refresh whose error repeats the refresh token.
        stale = Grant(**{**_members(grant), "token_endpoint": f"{site.origin}/token", "expires_at": time.time() - 60})
        scene.store.save_grant("srv", url, stale)
        other = scene.bridge(url, "-v")
        shown += [text_of(other.call("list_futures"))]
        config = next(scene.stage.folder.glob("*config.json"))
        ran = scene.stage.run("inspect", "--config", str(config))
        shown += [ran.stdout, ran.stderr, repr(grant), repr(scene.store), str(shown)]
        found = [*traces(scene.stage), *((f"text {n}", text.encode()) for n, text in enumerate(shown))]
    secrets = {grant.access_token, grant.refresh_token or "", *sent} - {""}
    leaks = {(where, secret[:6]) for where, data in found for secret in secrets if secret.encode() in data}
    assert len(found) > 8
    assert any(b"I got" in data for _, data in found), "what the server says is shown, without the token"
    assert not leaks


def _members(grant: Grant) -> dict[str, Any]:
    return {name: getattr(grant, name) for name in grant.__dataclass_fields__}
