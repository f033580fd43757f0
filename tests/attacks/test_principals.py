"""Two principals at one bridge: whatever one of them sends, nothing of the other is read, ended, changed or counted."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import late_asker
from tests.support.client import HANDSHAKE, MODERN, Handle, Json, RpcError, text_of
from tests.support.http_client import HttpWire
from tests.support.stage import HttpBridge, Stage

SECRET = "the-secret-of-alice"
NAME = "plans"
ERAS = pytest.mark.parametrize("era", [HANDSHAKE, MODERN])


@dataclass
class Scene:
    """A bridge, and the tokens of two persons."""

    bridge: HttpBridge
    tokens: dict[str, str]

    def client(self, person: str, era: str, **options: Any) -> HttpWire:
        return self.bridge.client(era=era, headers=self.header(person), **options)

    def header(self, person: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[person]}"}


@pytest.fixture(scope="module")
def scene(shared_stage: Stage) -> Scene:
    tokens: dict[str, str] = {}
    lines = ""
    for person in ("alice", "bob", "carol"):
        ran = shared_stage.run("token", person)
        tokens[person], lines = ran.stderr.split()[-1], lines + ran.stdout
    file = shared_stage.folder / "tokens.toml"
    file.write_text(lines)
    file.chmod(0o600)
    return Scene(
        shared_stage.http_bridge({"toy": shared_stage.toy()}, "--auth-tokens", str(file), "--sse", grace_ms=0), tokens
    )


@dataclass
class Mine:
    """What alice has: a result, and a call that runs."""

    wire: HttpWire
    done: Handle
    running: Handle


@pytest.fixture
def mine(scene: Scene, request: pytest.FixtureRequest) -> Iterator[Mine]:
    era = request.node.callspec.params["era"]
    wire = scene.client("alice", era)
    wire.wait_for_tools("toy__sleep")
    done = wire.submit("toy__echo", {"text": SECRET, "_as": NAME})
    assert SECRET in text_of(wire.outcome(done.id))
    yield Mine(wire, done, wire.submit("toy__sleep", {"seconds": 20, "tag": SECRET}))
    wire.call("cancel_future", {"future_id": f"f{max(numbers(wire))}"})


def numbers(wire: HttpWire) -> list[int]:
    """The numbers of a client's futures."""
    shown = wire.call("list_futures")["_meta"]["asyncfc/futures"]
    return [int(each["future_id"].removeprefix("f")) for each in shown]


def attempts(refs: list[str]) -> Iterator[tuple[str, Json]]:
    """Requests that name something of another principal."""
    for ref in refs:
        for tool, argument in (("await_future", "future_id"), ("cancel_future", "future_id")):
            yield "tools/call", {"name": tool, "arguments": {argument: ref}}
        yield "tools/call", {"name": "gather", "arguments": {"future_ids": [ref]}}
        for own in (
            {"text": "$" + ref},
            {"text": f"${{{ref}}}"},
            {"text": f"${{f:{ref}}}"},
            {"text": "x", "_after": ref},
        ):
            yield "tools/call", {"name": "toy__echo", "arguments": {**own, "_wait": "this"}}
        yield "tools/call", {"name": "toy__echo", "arguments": {"text": "x", "_wait": ref}}
        yield "tools/call", {"name": "list_futures", "arguments": {"future_ids": [ref]}}
        for method in ("tasks/get", "tasks/cancel", "tasks/result"):
            yield method, {"taskId": ref}
        yield "tasks/update", {"taskId": ref, "inputResponses": {}}
        for uri in (f"future://{ref}", f"future://{ref}?offset=0&limit=100", f"future://{ref}#0"):
            yield "resources/read", {"uri": uri}
        yield "resources/subscribe", {"uri": f"future://{ref}"}
        argument = {"ref": {"type": "ref/resource", "uri": "future://{id}"}, "argument": {"name": "id", "value": ""}}
        yield "completion/complete", argument
    for method in ("tools/list", "resources/list", "resources/templates/list", "prompts/list", "tasks/list"):
        yield method, {}
    yield "tools/call", {"name": "list_futures", "arguments": {}}


@ERAS
def test_every_method(scene: Scene, mine: Mine, era: str):
    """IDs, names, references, tasks, resources and completions of another principal are unknown to every method."""
    bob = scene.client("bob", era)
    bob.wait_for_tools("toy__echo")
    ids = [f"f{number}" for number in range(1, max(numbers(mine.wire)) + 1)]
    assert mine.done.id in ids
    for method, params in attempts([*ids, NAME]):
        try:
            answer = json.dumps(bob.request(method, params))
        except RpcError as error:
            answer = json.dumps(error.error)
        assert SECRET not in answer, (method, params)
    shown = text_of(mine.wire.call("list_futures"))
    assert f"{mine.running.id} (toy__sleep)" in shown or "running" in shown
    (record,) = (
        each
        for each in mine.wire.call("list_futures")["_meta"]["asyncfc/futures"]
        if each["future_id"] == mine.running.id
    )
    assert record["status"] == "running", "the other principal has not cancelled it"
    assert SECRET in text_of(mine.wire.outcome(mine.done.id))


def test_a_session_of_another(scene: Scene):
    """A session ID is no credential: with another principal's token it is an unknown session, and goes on."""
    alice = scene.client("alice", HANDSHAKE)
    assert alice.session is not None
    for person in ("bob", "carol"):
        stolen = HttpWire(f"{scene.bridge.base}/mcp", headers=scene.header(person))
        own = {"Mcp-Session-Id": alice.session, "Mcp-Protocol-Version": HANDSHAKE}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        for verb, body in (("POST", message), ("GET", None), ("DELETE", None)):
            status, _, _ = stolen.exchange(verb, body, own)
            assert status == 404, verb
    assert alice.tools()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic BOB"},
        {"Authorization": "bearer  BOBx"},
        {"Authorization": "Bearer BOB, Bearer BOB"},
        {"Authorization": "Bearer BOB,"},
        {"X-Authorization": "Bearer BOB"},
        {"Cookie": "token=BOB"},
        {"Proxy-Authorization": "Bearer BOB"},
    ],
    ids=str,
)
def test_tokens_in_the_wrong_place(scene: Scene, headers: dict[str, str]):
    """Only one form of credentials is one, and it is not taken from a URL."""
    own = {name: value.replace("BOB", scene.tokens["bob"]) for name, value in headers.items()}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
    for path in ("/mcp", f"/mcp?access_token={scene.tokens['bob']}"):
        status, _, body = HttpWire(scene.bridge.base + path).exchange("POST", message, own)
        assert status == 401
        assert scene.tokens["bob"].encode() not in body


def test_two_headers_with_tokens(scene: Scene):
    """A request with two tokens is nobody's: a proxy may have added one of them, and checked the other."""
    body = b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}'
    for first, second in (("bob", "alice"), ("bob", "bob")):
        lines = [f"Authorization: Bearer {scene.tokens[person]}" for person in (first, second)]
        head = ["POST /mcp HTTP/1.1", f"Host: 127.0.0.1:{scene.bridge.port}", "Content-Type: application/json", *lines]
        head += ["Accept: application/json, text/event-stream", f"Content-Length: {len(body)}", "Connection: close"]
        with socket.create_connection(("127.0.0.1", scene.bridge.port), timeout=20) as sock:
            sock.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert answer.split()[1] in (b"400", b"401"), answer[:200]


def test_a_question_of_a_cancelled_call(shared_stage: Stage, scene: Scene):
    """A server that ignores a cancellation may ask later: whoever has a call there by then is not the one to ask."""
    late = shared_stage.entry(sys.executable, str(Path(late_asker.__file__)))
    tokens = str(shared_stage.folder / "tokens.toml")
    bridge = shared_stage.http_bridge({"late": late}, "--auth-tokens", tokens, grace_ms=0)
    there = Scene(bridge, scene.tokens)
    asks = {"elicitation": {"form": {}}}
    alice, bob = (there.client(person, HANDSHAKE, capabilities=asks) for person in ("alice", "bob"))
    alice.wait_for_tools("late__ask")
    asked = alice.submit("late__ask", {"text": SECRET, "after": 1.5})
    shown = [text_of(alice.call("cancel_future", {"future_id": asked.id}))]
    running = bob.submit("late__wait", {"after": 4})
    until = time.monotonic() + 3.5
    while time.monotonic() < until:
        shown.append(json.dumps(bob.call("list_futures")))
        time.sleep(0.1)
    assert "cancelled" in shown[0]
    assert not any(SECRET in each for each in shown[1:])
    assert "waited" in text_of(bob.outcome(running.id))
