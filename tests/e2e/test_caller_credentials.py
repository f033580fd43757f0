"""Credentials of callers through real bridges: each caller's own reach the server, and nothing crosses between callers.

The server is one of the official SDK, which lists and answers something else for each credential and records which one
each request had.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.support.client import HANDSHAKE, MODERN, RpcError, eventually, text_of
from tests.support.credentials_server import CredentialsServer, credentials_server, digest_of
from tests.support.http_client import HttpWire
from tests.support.stage import HttpBridge, Stage

ERAS = pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
ALICE, BOB = "alice-4f6b2c9d81e7a3f0", "bob-90d3e5a7c1b8f624"
SECRETS = (ALICE, BOB)


@pytest.fixture(params=[(), ("--stateful",)], ids=["stateless", "stateful"])
def server(stage: Stage, request: pytest.FixtureRequest) -> Iterator[CredentialsServer]:
    with credentials_server(stage.folder / "seen.log", *request.param) as it:
        yield it


@pytest.fixture
def simple(stage: Stage) -> Iterator[CredentialsServer]:
    with credentials_server(stage.folder / "seen.log") as it:
        yield it


def bridge_to(
    stage: Stage, server: CredentialsServer, *args: str, template: str = "Bearer ${caller:x-token}"
) -> HttpBridge:
    servers = {
        "own": {"url": server.url, "headers": {"X-Api-Key": template}, "asyncfc": {"prefix": ""}},
        "common": stage.toy(),
    }
    return stage.http_bridge(servers, *args)


def caller(bridge: HttpBridge, token: str | None, era: str, **headers: str) -> HttpWire:
    return bridge.client(
        era=era, name="same-host", headers={**({} if token is None else {"X-Token": token}), **headers}
    )


def names(wire: HttpWire) -> set[str]:
    return set(wire.tools())


def assert_nothing_leaked(stage: Stage, bridge: HttpBridge) -> None:
    """No credential is in any file of the stage: logs, caches, the journal."""
    for file in stage.folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert not [secret for secret in SECRETS if secret.encode() in data], file


@ERAS
def test_each_caller_sees_and_uses_its_own_account(stage: Stage, server: CredentialsServer, era: str):
    """At once, without authentication: listings, results, resources and sessions are those of the credentials."""
    bridge = bridge_to(stage, server)
    alice, bob = caller(bridge, ALICE, era), caller(bridge, BOB, era)
    alice.wait_for_tools("of_alice", "common__echo")
    bob.wait_for_tools("of_bob", "common__echo")
    assert "of_bob" not in names(alice)
    assert "of_alice" not in names(bob)
    assert text_of(alice.call("whoami", {"tag": "1", "_wait": "this"})).endswith("alice 1")
    assert text_of(bob.call("whoami", {"tag": "2", "_wait": "this"})).endswith("bob 2")
    profile = {"uri": "account://profile"}
    for wire, name in ((alice, "alice"), (bob, "bob")):
        assert wire.request("resources/read", profile)["contents"][0]["text"] == name
        assert f"of {name}" in json.dumps(wire.request("resources/list"))
    with pytest.raises(RpcError, match="of_alice"):
        bob.call("of_alice", {})
    sessions = {(each["session"], each["digest"]) for each in server.seen() if each["session"]}
    assert len({session for session, _ in sessions}) == len(sessions), "a session was used with two credentials"
    assert {each["digest"] for each in server.seen()} == {digest_of(f"Bearer {each}") for each in SECRETS}
    assert_nothing_leaked(stage, bridge)


@ERAS
def test_calls_at_once_never_mix_credentials(stage: Stage, server: CredentialsServer, era: str):
    """Two hundred calls of two callers side by side: each has its own caller's credential."""
    bridge = bridge_to(stage, server)
    wires = {"alice": caller(bridge, ALICE, era), "bob": caller(bridge, BOB, era)}
    for name, wire in wires.items():
        wire.wait_for_tools(f"of_{name}")

    def call(number: int) -> tuple[str, str]:
        name = ("alice", "bob")[number % 2]
        return f"{name} {name}{number}", text_of(
            wires[name].call("whoami", {"tag": f"{name}{number}", "_wait": "this"})
        )

    with ThreadPoolExecutor(16) as pool:
        for expected, got in pool.map(call, range(200)):
            assert got.endswith(expected)
    calls = [each for each in server.seen("tools/call") if each["tool"] == "whoami"]
    assert len(calls) == 200
    assert all(each["tag"].startswith(each["account"]) for each in calls)
    assert_nothing_leaked(stage, bridge)


@ERAS
def test_a_missing_header_is_named(stage: Stage, simple: CredentialsServer, era: str):
    """The server's tools are not listed, a call of one names the header; the other servers work."""
    bridge = bridge_to(stage, simple)
    wire = caller(bridge, None, era)
    wire.wait_for_tools("common__echo")
    assert "whoami" not in names(wire)
    with pytest.raises(RpcError, match="x-token"):
        wire.call("whoami", {})
    assert "x-token" in json.dumps(wire.call("list_futures"))
    assert not simple.seen()


@ERAS
def test_refused_credentials_are_said_to_be_the_callers(stage: Stage, simple: CredentialsServer, era: str):
    """In words that name the server and the header; new ones work at once, without a restart of anything."""
    bridge = bridge_to(stage, simple)
    wire = caller(bridge, ALICE, era)
    wire.wait_for_tools("of_alice")
    said = text_of(wire.call("forbidden", {"_wait": "this"}))
    assert "refused the caller's credentials (HTTP 403)" in said
    assert "x-token" in said
    said = json.dumps(wire.call("leak", {"_wait": "this"}))
    assert "cannot use Bearer" in said
    assert ALICE not in said
    simple.refuse(f"Bearer {ALICE}")
    said = text_of(wire.call("whoami", {"_wait": "this"}))
    assert "'own'" in said
    assert "refused the caller's credentials (HTTP 401)" in said
    assert ALICE not in said
    newer = caller(bridge, "alice-new", era)
    newer.wait_for_tools("of_alice")
    assert text_of(newer.call("whoami", {"tag": "x", "_wait": "this"})).endswith("alice x")
    assert_nothing_leaked(stage, bridge)


def person(stage: Stage, name: str) -> tuple[str, str]:
    ran = stage.run("token", name)
    return ran.stderr.strip().rpartition(" ")[2], ran.stdout


@ERAS
def test_a_waiting_call_of_a_person_is_sent_with_the_latest_token(stage: Stage, simple: CredentialsServer, era: str):
    """A person's newer token takes the place of the older one, also for what is queued."""
    (token, line), (other, of_bob) = person(stage, "alice"), person(stage, "bob")
    file = stage.folder / "tokens.toml"
    file.write_text(line + of_bob)
    file.chmod(0o600)
    servers = {
        "own": {
            "url": simple.url,
            "headers": {"X-Api-Key": "${caller:x-token}"},
            "asyncfc": {"prefix": "", "max_concurrency": 1},
        }
    }
    bridge = stage.http_bridge(servers, "--auth-tokens", str(file))
    mine = {"Authorization": f"Bearer {token}"}
    wire = caller(bridge, "alice-old", era, **mine)
    wire.wait_for_tools("of_alice")
    wire.call("slow", {"tag": "first"})
    queued = wire.submit("whoami", {"tag": "queued"})
    eventually(lambda: [each for each in simple.seen("tools/call") if each["tool"] == "slow"], "the first is sent")
    wire.headers["X-Token"] = "alice-new"
    wire.request("tools/list")
    stranger = caller(bridge, BOB, era, Authorization=f"Bearer {other}")
    stranger.wait_for_tools("of_bob")
    simple.let_go()
    assert text_of(wire.await_future(queued.id)).endswith("alice queued")
    sent = {each["tag"]: each["digest"] for each in simple.seen("tools/call")}
    assert sent == {"first": digest_of("alice-old"), "queued": digest_of("alice-new")}


def journaled_ids(stage: Stage) -> set[str]:
    """Return the IDs of the futures in the journal, which has their numbers."""
    [path] = (stage.folder / "state" / "journal").glob("*/journal.db")
    with closing(sqlite3.connect(path)) as journal:
        return {f"f{number}" for (number,) in journal.execute("SELECT id FROM futures")}


def test_a_call_of_an_earlier_run_fails_with_words(stage: Stage, simple: CredentialsServer):
    """Its credentials are gone; the journal has never had them."""
    servers = {
        "own": {
            "url": simple.url,
            "headers": {"X-Api-Key": "${caller:x-token}"},
            "asyncfc": {"prefix": "", "max_concurrency": 1},
        }
    }
    config = stage.config(servers)
    bridge = stage.http_bridge({}, config=config)
    wire = caller(bridge, ALICE, HANDSHAKE)
    wire.wait_for_tools("of_alice")
    wire.call("slow", {"tag": "first"})
    queued = wire.submit("whoami", {"tag": "queued"})
    eventually(lambda: simple.seen("tools/call"), "the first is sent")
    # The handle of a call that waits is given before its record is committed.
    eventually(lambda: queued.id in journaled_ids(stage), "the journal has the second")
    bridge.process.kill()
    bridge.process.wait()
    assert_nothing_leaked(stage, bridge)
    again = stage.http_bridge({}, config=config)
    later = caller(again, ALICE, HANDSHAKE)
    said = text_of(later.await_future(queued.id))
    assert "caller's credentials" in said
    assert "call again" in said
    later.wait_for_tools("of_alice")
    assert [each["tool"] for each in simple.seen("tools/call")] == ["slow"]
    assert_nothing_leaked(stage, again)


def test_a_changed_listing_is_announced_to_its_caller_only(stage: Stage):
    """On its own stream; the other caller's list stays as it was."""
    with credentials_server(stage.folder / "seen.log", "--stateful") as server:
        bridge = bridge_to(stage, server)
        alice, bob = caller(bridge, ALICE, HANDSHAKE), caller(bridge, BOB, HANDSHAKE)
        alice.wait_for_tools("of_alice")
        bob.wait_for_tools("of_bob")
        alice.call("grow", {"_wait": "this"})
        if any(each["http"] == "GET" for each in server.seen()):
            alice.wait_for_tools("grown_alice")
        assert not {name for name in names(bob) if name.startswith("grown")}


def test_the_bridges_own_token_is_not_passed_on(stage: Stage, simple: CredentialsServer):
    """The start is refused, with another way."""
    servers = {"own": {"url": simple.url, "headers": {"X-Api-Key": "${caller:authorization}"}}}
    config = str(stage.config(servers))
    ran = stage.run("serve", "--config", config, "--transport", "http", "--auth-token-env", "T", env={"T": "abc"})
    assert ran.code == 2
    assert "would send the bridge's own tokens to server 'own'" in ran.stderr


def test_over_stdio_the_server_is_left_out(stage: Stage, simple: CredentialsServer):
    """With a reason on stderr and in the list of futures; `inspect` shows it without a connection."""
    servers = {"own": {"url": simple.url, "headers": {"X-Api-Key": "${caller:x-token}"}}, "common": stage.toy()}
    wire = stage.bridge(servers)
    assert not {name for name in wire.tools() if name.startswith("own")}
    assert "over stdio sends no headers" in json.dumps(wire.call("list_futures"))
    ran = stage.run("inspect", "--config", str(stage.config(servers)))
    assert ran.code == 0
    assert "connected for each caller" in ran.stdout
    assert not simple.seen()
