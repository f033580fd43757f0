"""Clients that leave without a word: what they opened costs little, and its memory returns."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import psutil
import pytest

from tests.support import hostile
from tests.support.client import MODERN, eventually, text_of
from tests.support.stage import HttpBridge, Stage

Json = dict[str, Any]
VERSION = "2025-11-25"
INITIALIZE: Json = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "leaver", "version": "1"}}
SESSION_BYTES = 4500
"""Memory of a session that nobody uses: 2,800 were measured, and 16,200 before there was a bound."""
ROOM = 4 << 20
"""Memory that the heap may gain without a leak."""


def bridge_for(stage: Stage, *options: str, **settings: Any) -> HttpBridge:
    entry = stage.entry(sys.executable, hostile.__file__, hostile.listing(stage.folder, [hostile.tool("give")]))
    entry["args"].append(stage.mark)
    bridge = stage.http_bridge({"bad": entry, "toy": stage.toy()}, *options, **settings)
    bridge.client().wait_for_tools("bad__give", "toy__sleep")
    return bridge


class Leaver(AbstractContextManager["Leaver"]):
    """Opens sessions on one connection, and requests on connections that it resets."""

    def __init__(self, bridge: HttpBridge) -> None:
        self.bridge = bridge
        self.connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=60)
        self.session = ""

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def post(self, message: Json, session: str | None = None) -> tuple[int, str | None]:
        """Status of a POST that is waited for, and the session that it opened."""
        headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        if session is not None:
            headers |= {"Mcp-Session-Id": session, "Mcp-Protocol-Version": VERSION}
        self.connection.request("POST", "/mcp", json.dumps({"jsonrpc": "2.0", **message}).encode(), headers)
        response = self.connection.getresponse()
        response.read()
        return response.status, response.getheader("mcp-session-id")

    def visit(self) -> str:
        """Open a session as a client does, and end nothing."""
        status, session = self.post({"id": 1, "method": "initialize", "params": INITIALIZE})
        assert status == 200
        assert session is not None
        assert self.post({"method": "notifications/initialized"}, session)[0] == 202
        return session

    def break_off(self, head: str, body: bytes = b"", *, until: bytes = b"\r\n\r\n") -> None:
        """Send a request, read until its answer has begun, and reset the connection."""
        with socket.create_connection(("127.0.0.1", self.bridge.port), timeout=20) as sock:
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            sock.sendall(f"{head}\r\nHost: 127.0.0.1\r\n{length}\r\n".encode() + body)
            came = b""
            while until not in came:
                chunk = sock.recv(65536)
                assert chunk, came
                came += chunk
            assert b" 200 " in came.split(b"\r\n")[0], came
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def post_and_break_off(self, message: Json, **headers: str) -> None:
        given = {"Mcp-Session-Id": self.session, "Mcp-Protocol-Version": VERSION} if not headers else headers
        lines = "".join(f"\r\n{name.replace('_', '-')}: {value}" for name, value in given.items())
        head = f"POST /mcp HTTP/1.1\r\nContent-Type: application/json\r\nAccept: */*{lines}"
        self.break_off(head, json.dumps({"jsonrpc": "2.0", "id": 1, **message}).encode())


def get_stream(leaver: Leaver) -> None:
    leaver.break_off(f"GET /mcp HTTP/1.1\r\nAccept: */*\r\nMcp-Session-Id: {leaver.session}")


def sse(leaver: Leaver) -> None:
    leaver.break_off("GET /sse HTTP/1.1\r\nAccept: */*", until=b"session_id=")


def await_future(leaver: Leaver) -> None:
    """The wait goes on for as long as it was to last: its client may come back for the answer to another request."""
    arguments = {"future_id": "long", "timeout_s": 0.5}
    leaver.post_and_break_off({"method": "tools/call", "params": {"name": "await_future", "arguments": arguments}})


def listen(leaver: Leaver) -> None:
    """A stream of 2026-07-28 with subscriptions: to a future, and to what no server has."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "leaver", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["future://f1", "future://nobody"]}
    message = {"method": "subscriptions/listen", "params": {"notifications": wanted, "_meta": meta}}
    leaver.post_and_break_off(message, Mcp_Protocol_Version=MODERN, Mcp_Method="subscriptions/listen")


def subscribe(leaver: Leaver) -> None:
    session = leaver.visit()
    for number in range(5):
        leaver.post(
            {"id": number + 2, "method": "resources/subscribe", "params": {"uri": f"future://f{number}"}}, session
        )
    leaver.connection.request("DELETE", "/mcp", headers={"Mcp-Session-Id": session})
    assert leaver.connection.getresponse().read() == b""


WAYS: dict[str, Callable[[Leaver], None]] = {
    each.__name__: each for each in (get_stream, sse, await_future, listen, subscribe)
}


@pytest.mark.attacks_long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
def test_memory_returns_after_clients_that_hang_up(stage: Stage, way: str) -> None:
    """The second 2,000 add nothing to what the first 200 left behind, connections included."""
    bridge = bridge_for(stage, "--sse", mode="future", keep_s=1)
    process = psutil.Process(bridge.process.pid)
    client = bridge.client()
    client.submit("toy__sleep", {"seconds": 590, "_as": "long"})
    with Leaver(bridge) as leaver:
        leaver.session = leaver.visit()

        def many(count: int) -> int:
            for _ in range(count):
                WAYS[way](leaver)
            eventually(lambda: process.num_fds() < fds + 5, "connections are closed", seconds=20)
            time.sleep(1)  # waits run out
            assert "echo" in text_of(client.call("toy__echo", {"text": "echo", "_wait": "this"}))
            return process.memory_info().rss

        fds = process.num_fds()
        early = many(200)
        late = many(2000)
        print(f"{way}: {early >> 10} KB, then {late >> 10} KB: {(late - early) / 2000:.0f} bytes each")
        assert late < early + ROOM


KEPT: dict[str, Json] = {
    "capabilities": {"capabilities": {"experimental": {"x": "A" * 20_000_000}}},
    "name": {"clientInfo": {"name": "A" * 20_000_000, "version": "1"}},
}


@pytest.mark.parametrize("kind", KEPT)
def test_a_handshake_leaves_nothing_large(stage: Stage, kind: str) -> None:
    """Ten sessions whose handshakes had 20 MB kept 200 MB for half an hour."""
    bridge = bridge_for(stage)
    process = psutil.Process(bridge.process.pid)
    with Leaver(bridge) as leaver:
        leaver.post({"id": 1, "method": "initialize", "params": INITIALIZE | KEPT[kind]})  # the heap grows once
        before = process.memory_info().rss
        for _ in range(10):
            leaver.post({"id": 1, "method": "initialize", "params": INITIALIZE | KEPT[kind]})
    assert process.memory_info().rss < before + 60_000_000


@pytest.mark.parametrize("kind", ["conversation", "subscription"])
def test_a_key_of_any_size_leaves_nothing_large(stage: Stage, kind: str) -> None:
    """A host's keys of conversations, and URIs of subscriptions, were kept whole: 10 of 20 MB as 200 MB."""
    bridge = bridge_for(stage)
    process = psutil.Process(bridge.process.pid)

    def send(leaver: Leaver, session: str, number: int) -> None:
        text = str(number) + "A" * 20_000_000
        if kind == "conversation":
            params: Json = {"name": "toy__echo", "arguments": {"text": "x"}, "_meta": {"asyncfc/conversation": text}}
            leaver.post({"id": number, "method": "tools/call", "params": params}, session)
        else:
            leaver.post({"id": number, "method": "resources/subscribe", "params": {"uri": f"future://{text}"}}, session)

    with Leaver(bridge) as leaver:
        session = leaver.visit()
        send(leaver, session, 2)
        before = process.memory_info().rss
        for number in range(10):
            send(leaver, session, 3 + number)
    assert process.memory_info().rss < before + 60_000_000


def test_the_meta_of_a_call_counts(stage: Stage) -> None:
    """`_meta` is kept until its call ends, like the arguments: beyond the bound calls are refused."""
    bridge = bridge_for(stage, max_result_bytes_total=30_000_000)
    client = bridge.client()

    def sleep() -> str:
        params = {"name": "toy__sleep", "arguments": {"seconds": 60}, "_meta": {"x": "A" * 10_000_000}}
        return json.dumps(client.request("tools/call", params))[:1000]

    answers = [sleep() for _ in range(6)]
    assert "isError" not in answers[0]
    assert "max_result_bytes_total" in answers[-1]


@pytest.mark.attacks_long
@pytest.mark.timeout(300)
def test_sessions_that_are_left_cost_little_and_end(stage: Stage) -> None:
    """10,000 take 28 MB; beyond that the oldest that made no request makes room, and a client that works stays."""
    bridge = bridge_for(stage)
    process = psutil.Process(bridge.process.pid)
    client = bridge.client()
    client.call("toy__echo", {"text": "x"})
    with Leaver(bridge) as leaver:
        for _ in range(200):
            leaver.visit()
        before = process.memory_info().rss
        sessions = [leaver.visit() for _ in range(9_700)]
        each = (process.memory_info().rss - before) / len(sessions)
        print(f"{each:.0f} bytes a session")
        assert each < SESSION_BYTES
        full = process.memory_info().rss
        for _ in range(3_000):
            leaver.visit()
        assert process.memory_info().rss < full + 3000 * SESSION_BYTES / 3
        assert leaver.post({"id": 9, "method": "tools/list"}, sessions[0])[0] == 404
        assert leaver.post({"id": 9, "method": "tools/list"}, sessions[-1])[0] == 200
        assert "x" in text_of(client.call("toy__echo", {"text": "x", "_wait": "this"}))


def test_sessions_are_bounded(stage: Stage) -> None:
    """`max_sessions` holds, and those that only shake hands keep nobody out."""
    bridge = bridge_for(stage, max_sessions=20)
    client = bridge.client()
    client.call("toy__echo", {"text": "x"})
    with Leaver(bridge) as leaver:
        started = time.monotonic()
        sessions = [leaver.visit() for _ in range(200)]
        assert time.monotonic() - started < 30
        alive = [session for session in sessions if leaver.post({"id": 2, "method": "ping"}, session)[0] == 200]
        assert alive == sessions[-len(alive) :]
        assert 15 <= len(alive) < 20
        assert "x" in text_of(client.call("toy__echo", {"text": "x", "_wait": "this"}))
