"""Servers that break: answers that are none, and messages without end. Each costs its own call, or its own server."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from e2e.harness import Stage, Wire, text_of
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
