"""Answers that are none, over every transport: each costs its own call, and what is behind it is made."""

from __future__ import annotations

import copy
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.support import hostile
from tests.support.client import text_of
from tests.support.hostile_http import Exchange, HostileServer
from tests.support.stage import Stage
from tests.support.stdio_client import Wire

SERVER = hostile.__file__
BOUND_S = 8.0
"""The longest that a broken answer may be waited for, on a machine that is busy."""
LANES = 5
"""Servers that are asked at the same time: a doubtful answer is waited for for a second."""

HEAD = '{"jsonrpc":"2.0","id":%ID%,'
OK = '{"content":[{"type":"text","text":"ok"}]}'
LEVELS = '{"a":' + "[" * 3000 + "]" * 3000 + "}"


def meant(value: str) -> str:
    """An answer with a value beside its text."""
    return HEAD + '"result":{"content":[{"type":"text","text":"ok"}],"_meta":{"n":' + value + "}}}"


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
    "result beside an error": (HEAD + '"result":' + OK + ',"error":{"code":-5,"message":"bad day"}}', "bad day"),
    "error beside a result": (HEAD + '"error":{"code":-5,"message":"bad day"},"result":' + OK + "}", "bad day"),
    "ID 7.0": ('{"jsonrpc":"2.0","id":%ID%.0,"result":' + OK + "}", "ok"),
    "ID 7e0": ('{"jsonrpc":"2.0","id":%ID%e0,"result":' + OK + "}", "ok"),
    "ID as text": ('{"jsonrpc":"2.0","id":"%ID%","result":' + OK + "}", "ok"),
    "ID with an escaped key": ('{"jsonrpc":"2.0","\\u0069d":%ID%,"result":' + OK + "}", "ok"),
    "ID twice": ('{"jsonrpc":"2.0","id":987654,"id":%ID%,"result":' + OK + "}", "ok"),
    "result twice": (HEAD + '"result":{"content":[]},"result":' + OK + "}", "ok"),
    "no ID": ('{"jsonrpc":"2.0","result":' + OK + "}", ""),
    "null ID": ('{"jsonrpc":"2.0","id":null,"result":' + OK + "}", ""),
    "list as ID": ('{"jsonrpc":"2.0","id":[%ID%],"result":' + OK + "}", ""),
    "endless ID": ('{"jsonrpc":"2.0","id":' + "7" * 5000 + ',"result":' + OK + "}", ""),
    "infinite ID": ('{"jsonrpc":"2.0","id":1e400,"result":' + OK + "}", ""),
    "error without ID": ('{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no JSON"}}', "no JSON"),
    "NaN": (meant("NaN"), "ok"),
    "Infinity": (meant("Infinity"), "ok"),
    "-Infinity": (meant("-Infinity"), "ok"),
    "-0": (meant("-0"), "ok"),
    "1e400": (meant("1e400"), "ok"),
    "1e-400": (meant("1e-400"), "ok"),
    "300 digits": (meant("9" * 300), "ok"),
    "5,000 digits": (meant("9" * 5000), "ok"),
    "a million digits": (meant("-" + "9" * 1_000_000), "ok"),
    "5,000 digits and a fraction": (meant("9" * 5000 + ".5"), "ok"),
    "lone surrogate": (meant('"\\ud800"'), "ok"),
    "surrogates the wrong way round": (meant('"\\udc00\\ud800"'), "ok"),
    "lone surrogate in a key": (meant('{"\\udfff":1}'), "ok"),
    "surrogate in UTF-8": (meant('"\xed\xa0\x80"'), "ok"),
    "NUL in a text": (meant('"\0"'), "ok"),
    "NUL behind it": (meant("1") + "\0", "Invalid answer"),
    "NUL before it": ("\0" + meant("1"), ""),
    "BOM": ("\xef\xbb\xbf" + meant("1"), "ok"),
    "carriage return": (meant("1") + "\r", "ok"),
    "blanks": (" \t" + meant("1") + " ", "ok"),
    "Latin-1": (HEAD + '"result":{"content":[{"type":"text","text":"ok \xe9"}]}}', "ok \N{REPLACEMENT CHARACTER}"),
    "Latin-1 in a key": (meant('{"\xe9":1}'), "ok"),
    "line end": (HEAD + '"result":{"content":[{"type":"text","text":"ok\nthen"}]}}', "ok\nthen"),
    "batch": ("[" + meant("1") + "]", "ok"),
    "batch with more": ('[1,{"jsonrpc":"2.0","method":"x"},' + meant("1") + ',{"jsonrpc":"2.0","id":9876}]', "ok"),
    "twice in a line": (meant("1") + meant("2"), "ok"),
    "half a line": (HEAD + '"result":{"content":[{"type":"text","text":"cut', "Invalid answer"),
    "half a key": (HEAD + '"res', "Invalid answer"),
    "too much": (HEAD + '"result":' + OK + "}}", "Invalid answer"),
    "single quotes": (HEAD + "'result':" + OK + "}", "Invalid answer"),
    "levels": (HEAD + '"result":' + LEVELS + "}", "nested too deeply"),
    "levels elsewhere": (HEAD + '"rest":' + LEVELS + "}", "nested too deeply"),
    "levels, ID last": ('{"jsonrpc":"2.0","result":' + LEVELS + ',"id":%ID%}', "nested too deeply"),
    "levels, ID and version last": ('{"result":' + LEVELS + ',"jsonrpc":"2.0","id":%ID%}', "nested too deeply"),
    "open levels": (HEAD + '"result":{"a":' + "[" * 100_000, "Invalid answer"),
    "values, ID first": (meant("[" + "[]," * 1_100_000 + "1]"), "more than 1000000 values"),
    "values, ID last": (
        '{"jsonrpc":"2.0","result":{"a":[' + "[]," * 1_100_000 + '1]},"id":%ID%}',
        "more than 1000000 values",
    ),
}  # fmt: skip
SECRETIVE = {"no ID", "null ID", "list as ID", "endless ID", "infinite ID", "error without ID"}
"""Answers that name no request: they can be told while nothing else is asked, or on a request's own connection."""
NOISE = {"NUL before it"}
"""What is before an answer makes it one of a log, unless it is on its request's own connection."""


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


class Spoken(Exchange):
    """A request whose answer is an event on the stream of its server."""

    def send(self, body: bytes = b"", status: int = 200, kind: str | None = None, **headers: str) -> None:
        server = self.server
        assert isinstance(server, OldServer)
        if body:
            data = b"".join(b"data: " + line + b"\n" for line in body.split(b"\n")) + b"\n"
            with server.turn:
                server.stream.raw(b"%x\r\n%s\r\n" % (len(data), data))


class OldServer(HostileServer):
    """A server that answers on the stream of one GET (HTTP+SSE)."""

    stream: Exchange

    def __init__(self, *args: Any) -> None:
        self.turn = threading.Lock()
        super().__init__(*args)
        self.session = None

    def _answer(self, exchange: Exchange) -> None:
        if exchange.method == "GET":
            self.stream = exchange
            exchange.stream("event: endpoint\ndata: /mcp\n\n")
        else:
            exchange.send(status=202)
            spoken = copy.copy(exchange)
            spoken.__class__ = Spoken
            super()._answer(spoken)


@contextmanager
def breaking(stage: Stage, way: str, servers: int = 1, **own: Any) -> Iterator[Wire]:
    """A bridge with servers that answer as they are asked to."""
    entries: dict[str, Any] = {}
    with ExitStack() as stack:
        for number in range(servers):
            if way == "stdio":
                path = hostile.listing(stage.folder, [hostile.tool("raw"), hostile.tool("give")])
                entry = stage.entry(sys.executable, SERVER, path, stage.mark)
            else:
                kind = OldServer if way == "sse" else HostileServer
                server = stack.enter_context(kind({"raw": answer_raw, "give": give}))
                entry = {"url": server.url} | ({"type": "sse"} if way == "sse" else {})
            entries[f"bad{number or ''}"] = entry | {"asyncfc": own}
        yield stage.bridge(entries)


@pytest.mark.parametrize("ordering", ["none", "strict"])
@pytest.mark.parametrize("way", ["stdio", "json", "events", "sse"])
def test_an_answer_that_is_none_ends_its_call(stage: Stage, way: str, ordering: str):
    """Whatever it is, within seconds; and the calls behind it are made."""
    cases = [case for case in ODD if case not in NOISE or way in ("json", "events")]
    with breaking(stage, way, LANES, ordering=ordering) as bridge:

        def lane(number: int) -> None:
            server = f"bad{number or ''}"
            bridge.wait_for_tools(f"{server}__raw", f"{server}__give")
            for case in cases[number::LANES]:
                data, words = ODD[case]
                started = time.monotonic()
                held = bridge.submit(f"{server}__raw", {"data": data, "events": way == "events"})
                if case not in SECRETIVE:
                    behind = bridge.submit(f"{server}__give", {"n": case})
                    assert bridge.outcome(behind.id).get("structuredContent") == {"n": case}, case
                outcome = bridge.outcome(held.id)
                assert words in text_of(outcome), case
                assert time.monotonic() - started < BOUND_S, case

        with ThreadPoolExecutor(LANES) as pool:
            for done in [pool.submit(lane, number) for number in range(LANES)]:
                done.result()
