"""Servers that break: answers that are none, and messages without end. Each costs its own call, or its own server."""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from e2e.harness import Stage, Wire, eventually, text_of
from e2e.hostile_http import Exchange, HostileServer

from attacks import hostile

SERVER = hostile.__file__
BOUND_S = 8.0
"""The longest that a broken answer may be waited for, on a machine that is busy."""

HEAD = '{"jsonrpc":"2.0","id":%ID%,'
OK = '{"content":[{"type":"text","text":"ok"}]}'
ODD: dict[str, tuple[str, str]] = {
    # what it is: the answer; words of what becomes of it
    "neither": ('{"jsonrpc":"2.0","id":%ID%}', "Invalid answer: neither result nor error"),
    "neither, ID as text": ('{"jsonrpc":"2.0","id":"%ID%"}', "Invalid answer: neither result nor error"),
    "another key": (HEAD + '"results":' + OK + "}", "Invalid answer: neither result nor error"),
    "null error": (HEAD + '"error":null}', "Invalid answer: malformed error"),
    "both null": (HEAD + '"result":null,"error":null}', "Invalid answer: result must be an object"),
    "text": (HEAD + '"result":"ok"}', "Invalid answer: result must be an object"),
    "number": (HEAD + '"result":1}', "Invalid answer: result must be an object"),
    "list": (HEAD + '"result":[]}', "Invalid answer: result must be an object"),
    "method beside it": (HEAD + '"method":"tools/call","result":' + OK + "}", "ok"),
    "method beside an error": (HEAD + '"method":"x","error":{"code":-5,"message":"bad day"}}', "bad day"),
    "ID 7.0": ('{"jsonrpc":"2.0","id":%ID%.0,"result":' + OK + "}", "ok"),
    "ID 7e0": ('{"jsonrpc":"2.0","id":%ID%e0,"result":' + OK + "}", "ok"),
    "ID as text": ('{"jsonrpc":"2.0","id":"%ID%","result":' + OK + "}", "ok"),
    "no ID": ('{"jsonrpc":"2.0","result":' + OK + "}", ""),
    "null ID": ('{"jsonrpc":"2.0","id":null,"result":' + OK + "}", ""),
    "list as ID": ('{"jsonrpc":"2.0","id":[%ID%],"result":' + OK + "}", ""),
    "error without ID": ('{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no JSON"}}', "no JSON"),
    "NaN": (HEAD + '"result":{"content":[{"type":"text","text":"ok"}],"_meta":{"n":NaN}}}', "ok"),
    "Latin-1": (HEAD + '"result":{"content":[{"type":"text","text":"ok \xe9"}]}}', "ok \N{REPLACEMENT CHARACTER}"),
    "line end": (HEAD + '"result":{"content":[{"type":"text","text":"ok\nthen"}]}}', "ok\nthen"),
    "half a line": (HEAD + '"result":{"content":[{"type":"text","text":"cut', "Invalid answer"),
    "half a key": (HEAD + '"res', "Invalid answer"),
    "too much": (HEAD + '"result":' + OK + "}}", "Invalid answer"),
    "levels": (HEAD + '"result":{"a":' + "[" * 3000 + "]" * 3000 + "}}", "nested too deeply"),
    "levels elsewhere": (HEAD + '"rest":{"a":' + "[" * 3000 + "]" * 3000 + "}}", "nested too deeply"),
    "open levels": (HEAD + '"result":{"a":' + "[" * 100_000, "Invalid answer"),
}
SECRETIVE = {"no ID", "null ID", "list as ID", "error without ID"}
"""Answers that name no request: they can be told while nothing else is asked, or on a request's own connection."""


def answer_raw(exchange: Exchange) -> None:
    """The bytes asked for, as a body or as an event."""
    data = hostile.raw(exchange.arguments["data"], exchange.id)
    if exchange.arguments.get("events"):
        lines = b"".join(b"data: " + line + b"\n" for line in data.split(b"\n"))
        exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + lines + b"\n")
        exchange.close()
    else:
        exchange.send(data)


def give(exchange: Exchange) -> None:
    exchange.send(exchange.result(content=[], structuredContent=exchange.arguments))


@contextmanager
def breaking(stage: Stage, way: str, **own: Any) -> Iterator[Wire]:
    """A bridge with one server that answers as it is asked to."""
    if way == "stdio":
        path = hostile.listing(stage.folder, [hostile.tool("raw"), hostile.tool("give")])
        yield stage.bridge({"bad": stage.entry(sys.executable, SERVER, path, stage.mark) | {"asyncfc": own}})
        return
    with HostileServer({"raw": answer_raw, "give": give}) as server:
        yield stage.bridge({"bad": {"url": server.url, "asyncfc": own}})


@pytest.mark.parametrize("ordering", ["none", "strict"])
@pytest.mark.parametrize("way", ["stdio", "json", "events"])
def test_an_answer_that_is_none_ends_its_call(stage: Stage, way: str, ordering: str):
    """Whatever it is, within seconds; and the calls behind it are made."""
    with breaking(stage, way, ordering=ordering) as bridge:
        bridge.wait_for_tools("bad__raw", "bad__give")
        for case, (data, words) in ODD.items():
            started = time.monotonic()
            held = bridge.submit("bad__raw", {"data": data, "events": way == "events"})
            if case not in SECRETIVE:
                behind = bridge.submit("bad__give", {"n": case})
                assert bridge.outcome(behind.id)["structuredContent"] == {"n": case}, case
            outcome = bridge.outcome(held.id)
            assert words in text_of(outcome), case
            assert time.monotonic() - started < BOUND_S, case


# --- messages without bound ------------------------------------------------------------------------------------------

LIMIT = 1 << 20
MEMORY = 150 << 20
"""More than this a bridge with a bound of 1 MB may never use, whatever is sent to it."""


class Memory:
    """The largest resident size of a process, sampled."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self.most = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.is_set():
            self.most = max(self.most, self._process.memory_info().rss)
            self._over.wait(0.01)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


LONG = {
    # what it is: its head and tail, between which it is filled up, and whether its request can be told
    "ID first": ('{"jsonrpc":"2.0","id":%ID%,"result":{"a":"', '"}}', True),
    "ID last": ('{"result":{"a":"', '"},"jsonrpc":"2.0","id":%ID%}', True),
    "ID nowhere": ('{"result":{"a":"', '"},"jsonrpc":"2.0"}', False),
    "ID in between": ('{"result":{"a":"', '"},"id":%ID%,"x":1,"jsonrpc":"2.0"}', False),
    "a notification": ('{"jsonrpc":"2.0","method":"x","params":{"a":"', '"}}', None),
    "no JSON": ("loading ", "", None),
}


@pytest.mark.parametrize("megabytes", [2, 12, pytest.param(300, marks=pytest.mark.attacks_long)])
@pytest.mark.parametrize("case", LONG)
def test_a_long_line_ends_its_call_or_its_server(stage: Stage, case: str, megabytes: int):
    """As soon as it can be told which, with the reason; the next call is answered, and memory stays bounded."""
    head, tail, told = LONG[case]
    with breaking(stage, "stdio", max_message_bytes=max(LIMIT, megabytes << 17)) as bridge:
        bridge.wait_for_tools("bad__raw", "bad__give")
        bridge.outcome(bridge.submit("bad__give").id)
        with Memory(bridge.process.pid) as memory:
            arguments = {"data": head, "fill": megabytes << 20, "tail": tail, "answer": told is None}
            outcome = bridge.outcome(bridge.submit("bad__raw", arguments).id)
            after = bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)
        assert after["structuredContent"] == {"n": 1}
        assert memory.most < MEMORY + (megabytes << 18)
        if told is None:
            assert outcome["structuredContent"].get("answer"), text_of(outcome)
        else:
            assert "max_message_bytes" in text_of(outcome)
            assert ("may or may not" in text_of(outcome)) is not told


@pytest.mark.parametrize("known", [True, False])
def test_a_line_without_end_ends_its_server(stage: Stage, known: bool):
    """It stops in the midst of it: the call ends, and the server is started again, since all that follows is lost."""
    head = LONG["ID first" if known else "ID nowhere"][0]
    with breaking(stage, "stdio", max_message_bytes=LIMIT) as bridge:
        bridge.wait_for_tools("bad__raw", "bad__give")
        started = time.monotonic()
        held = bridge.submit("bad__raw", {"data": head, "fill": 4 << 20, "stop": True})
        assert "max_message_bytes" in text_of(bridge.outcome(held.id)) or not known

        def given() -> bool:
            outcome = bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)
            return (outcome.get("structuredContent") or {}).get("n") == 1

        eventually(given, "the server serves again")
        assert time.monotonic() - started < 20


def test_a_long_line_of_a_client_is_refused(stage: Stage):
    """The session goes on."""
    path = hostile.listing(stage.folder, [hostile.tool("give")])
    bridge = stage.bridge({"bad": stage.entry(sys.executable, SERVER, path, stage.mark)})
    bridge.wait_for_tools("bad__give")
    with Memory(bridge.process.pid) as memory:
        line = b'{"jsonrpc":"2.0","method":"ping","params":{"a":"' + b"x" * (100 << 20) + b'"},"id":99}'
        bridge.send_line(line)
        assert bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)["structuredContent"] == {"n": 1}
    assert memory.most < 300 << 20
    assert "more than 67108864 bytes" in str(bridge.complaints)


def zeros(exchange: Exchange, megabytes: int, encoding: str | None, kind: str, head: bytes) -> None:
    """A body of so many megabytes, compressed if asked for, and no end."""
    lines = [f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n"]
    lines += [f"content-encoding: {encoding}\r\n"] if encoding else []
    exchange.raw("".join(lines).encode() + b"\r\n")
    packers = [zlib.compressobj(9, zlib.DEFLATED, 31) for _ in (encoding.split(",") if encoding else ())]
    try:
        for piece in [head, *[b"0" * (1 << 20)] * megabytes]:
            for packer in packers:
                piece = packer.compress(piece)
            exchange.raw(piece)
        for packer in packers:
            exchange.raw(packer.flush())
    except OSError:
        pass  # it is read no further
    exchange.close()


@pytest.mark.parametrize("megabytes", [20, pytest.param(600, marks=pytest.mark.attacks_long)])
@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_long_answer_over_http_ends_its_call(stage: Stage, kind: str, encoding: str | None, megabytes: int):
    """Plain and compressed, a body and an event: one call fails, with the reason, and it is made once."""
    head = (b"data: " if "event" in kind else b"") + b'{"jsonrpc":"2.0","id":1,"result":{"a":"'

    def long(exchange: Exchange) -> None:
        zeros(exchange, megabytes, encoding, kind, head)

    with HostileServer({"long": long, "give": give}) as server:
        server.annotations = {"long": {"readOnlyHint": True}}
        bridge = stage.bridge({"bad": {"url": server.url, "asyncfc": {"max_message_bytes": LIMIT}}})
        bridge.wait_for_tools("bad__long", "bad__give")
        quiet = hostile.baseline(bridge)
        with Memory(bridge.process.pid) as memory, hostile.pulse(bridge) as measured:
            outcome = bridge.outcome(bridge.submit("bad__long").id)
            assert bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)["structuredContent"] == {"n": 1}
        assert "more than 1048576 bytes (setting max_message_bytes)" in text_of(outcome)
        assert server.calls() == 2
        assert memory.most < MEMORY
        hostile.assert_steady(measured, quiet)


# --- servers that stop reading, and servers that never answer ---------------------------------------------------------


def deaf(stage: Stage) -> Wire:
    path = hostile.listing(stage.folder, [hostile.tool("deaf"), hostile.tool("give")])
    bridge = stage.bridge({"bad": stage.entry(sys.executable, SERVER, path, stage.mark)}, max_wait_s=10)
    bridge.wait_for_tools("bad__deaf", "bad__give")
    return bridge


def test_a_server_that_closes_its_input_is_started_again(stage: Stage):
    """What it has not read is sent to its next process."""
    bridge = deaf(stage)
    for number in range(2):
        held = bridge.submit("bad__deaf", {"answers": True, "closes": True})
        assert bridge.outcome(held.id)["structuredContent"] == {"heard": True}
        assert bridge.outcome(bridge.submit("bad__give", {"n": number}).id)["structuredContent"] == {"n": number}


@pytest.mark.attacks_long
@pytest.mark.parametrize("closes", [True, False])
def test_a_server_that_reads_nothing_more_and_owes_an_answer_is_started_again(stage: Stage, closes: bool):
    """After 30 seconds of a write and as many of silence: calls that it may have read fail, others are sent again."""
    bridge = deaf(stage)
    held = bridge.submit("bad__deaf", {"answers": False, "closes": closes})
    text = "x" * (1 << 20)
    waiting = [bridge.submit("bad__give", {"n": number, "text": text}) for number in range(3)]
    outcomes = [bridge.outcome(each.id) for each in (held, *waiting)]
    assert "stopped reading its input" in text_of(outcomes[0])
    assert "may or may not" in text_of(outcomes[0])
    # Of the first a part was written, where the pipe was open.
    assert [(each.get("structuredContent") or {}).get("n") for each in outcomes[2:]] == [1, 2]
    assert closes == (outcomes[1].get("structuredContent", {}).get("n") == 0)


HANG = threading.Event()


def hang(exchange: Exchange) -> None:
    HANG.wait(60)


def test_calls_over_http_that_are_given_up_give_back_their_connections(stage: Stage):
    """Beyond 200 at a time they wait and say so; after they were cancelled or timed out the server serves as before."""
    with HostileServer({"hang": hang, "give": give}) as server:
        own = {"tools": {"hang": {"timeout_s": 8}}}
        bridge = stage.bridge({"bad": {"url": server.url, "asyncfc": own}}, max_pending=1000)
        bridge.wait_for_tools("bad__hang", "bad__give")
        held = [bridge.submit("bad__hang") for _ in range(250)]
        eventually(lambda: server.calls() == 200, "200 calls arrived")
        assert [each.status for each in held] == ["running"] * 200 + ["waiting"] * 50
        for each in held[200:]:
            bridge.call("cancel_future", {"future_id": each.id})
        for each in held[200:]:
            assert "cancelled" in text_of(bridge.outcome(each.id))
        assert server.calls() == 200
        for each in held[:200]:
            assert "did not finish within 8 s" in text_of(bridge.outcome(each.id))
        assert bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)["structuredContent"] == {"n": 1}
        HANG.set()
        eventually(lambda: len(server._open) <= 20, "connections are closed")


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_what_is_kept_on_disk_is_for_its_user_only(stage: Stage):
    """Logs, listings and counts: files 0600 in folders 0700, whatever the umask."""
    before = os.umask(0)
    try:
        bridge = deaf(stage)
    finally:
        os.umask(before)
    bridge.outcome(bridge.submit("bad__give", {"n": 1}).id)
    files = [
        each for name in ("cache", "logs", "state") for each in stage.folder.glob(f"{name}/**/*") if each.is_file()
    ]
    assert len(files) >= 3
    assert {each.stat().st_mode & 0o777 for each in files} == {0o600}, files
    assert {each.parent.stat().st_mode & 0o777 for each in files} == {0o700}, files


def test_a_stream_that_brings_nothing_is_resumed_with_growing_pauses(stage: Stage):
    """Though the server asks for none: at most seven times in the first three seconds."""

    def begin(exchange: Exchange) -> None:
        exchange.stream("id: 1\nretry: 0\ndata:\n\n", end=True)

    def nothing(exchange: Exchange) -> bool:
        resumed = exchange.method == "GET" and "last-event-id" in exchange.headers
        if resumed:
            exchange.stream(": nothing\n\n", end=True)
        return resumed

    with HostileServer({"begin": begin, "give": give}) as server:
        server.override = nothing
        bridge = stage.bridge({"bad": {"url": server.url, "asyncfc": {"tools": {"begin": {"timeout_s": 3}}}}})
        bridge.wait_for_tools("bad__begin")
        outcome = bridge.outcome(bridge.submit("bad__begin").id)
        assert "did not finish within 3 s" in text_of(outcome)
        resumed = [each for each in server.headers if "last-event-id" in each]
        assert 1 <= len(resumed) <= 7
