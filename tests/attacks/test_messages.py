"""Floods, messages of millions of values, and names near thousands: nobody waits for them."""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import threading
import time
from contextlib import closing

import pytest

from tests.support import hostile, steps
from tests.support.client import Json, RpcError, eventually
from tests.support.hostile import FLOODS
from tests.support.hostile_http import Exchange, HostileServer
from tests.support.stage import Stage
from tests.support.stdio_client import Pending, Wire

SERVER = hostile.__file__
SECONDS = 2.0


def attacked(stage: Stage, tools: list[Json], **more: object) -> Wire:
    """A bridge with a hostile server and a good one."""
    bad = hostile.listing(stage.folder, [hostile.tool("flood"), *tools])
    good = hostile.listing(stage.folder, [hostile.tool("give")], "good.json")
    return stage.bridge(
        {
            "bad": stage.entry(sys.executable, SERVER, bad, stage.mark),
            "good": stage.entry(sys.executable, SERVER, good, stage.mark),
        },
        **more,
    )


@pytest.mark.parametrize("kind", [*FLOODS, "stderr"])
def test_a_flood_is_slowed_down_and_others_are_not(stage: Stage, kind: str):
    """Lines as fast as a server can write them: it waits for us, and nobody waits for it."""
    bridge = attacked(stage, [])
    bridge.wait_for_tools("bad__flood", "good__give")
    quiet = hostile.baseline(bridge)
    held = bridge.submit("bad__flood", {"kind": kind, "seconds": SECONDS})
    served = 0
    with hostile.pulse(bridge) as measured:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            given = bridge.outcome(bridge.submit("good__give", {"n": served}).id)
            assert given["structuredContent"] == {"n": served}
            served += 1
    hostile.assert_steady(measured, quiet)
    assert served >= 10
    assert bridge.outcome(held.id)["structuredContent"]["kind"] == kind


@pytest.mark.parametrize("kind", ["x", "utf8", "blank", "log", "unknown", "progress", "changed", "tiny"])
def test_a_flood_of_events_slows_nobody_else_down(stage: Stage, kind: str):
    """Over HTTP, in the stream of an answer: a megabyte of events, or comments, as fast as it is read."""
    line = b": x\n" if kind == "tiny" else b"data: " + FLOODS[kind] + b"\n"

    def flooded(exchange: Exchange) -> None:
        exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        exchange.raw(line * (1_000_000 // len(line)))
        exchange.raw(b"\ndata: " + exchange.result(content=[], structuredContent=exchange.arguments) + b"\n\n")
        exchange.close()

    with HostileServer({"flood": flooded}) as server:
        good = hostile.listing(stage.folder, [hostile.tool("give")])
        entry = stage.entry(sys.executable, SERVER, good, stage.mark)
        bridge = stage.bridge({"bad": {"url": server.url}, "good": entry})
        bridge.wait_for_tools("bad__flood", "good__give")
        quiet = hostile.baseline(bridge)
        held = bridge.submit("bad__flood", {"kind": kind})
        with hostile.pulse(bridge) as measured:
            assert bridge.outcome(bridge.submit("good__give", {"n": 1}).id)["structuredContent"] == {"n": 1}
            assert bridge.outcome(held.id)["structuredContent"] == {"kind": kind}
        hostile.assert_steady(measured, quiet)
        print(f"{kind}: median {statistics.median(measured.trips):.3f} s, longest {measured.longest:.3f} s")


VALUES = {"arrays": b"[]", "objects": b"{}", "numbers": b"1", "texts": b'""'}
ORDERS = {
    "ID first": b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":%s}',
    "ID last": b'{"jsonrpc":"2.0","method":"tools/call","params":%s,"id":%d}',
    "ID and version last": b'{"method":"tools/call","params":%s,"jsonrpc":"2.0","id":%d}',
    "ID behind the method": b'{"method":"tools/call","id":%d,"jsonrpc":"2.0","params":%s}',
}


def call_of(order: str, number: int, value: bytes = b"[]", size: int = 4_000_000) -> bytes:
    """A call with so many bytes of one value."""
    params = b'{"name":"good__give","arguments":{"a":[' + (value + b",") * (size // (len(value) + 1)) + b"1]}}"
    text = ORDERS[order]
    return text % ((number, params) if text.index(b"%d") < text.index(b"%s") else (params, number))


def test_millions_of_values_over_http_are_refused(stage: Stage):
    """One POST of 40 MB is refused, and that is the answer to its request."""
    bridge = stage.http_bridge(
        {"good": stage.entry(sys.executable, SERVER, hostile.listing(stage.folder, []), stage.mark)}
    )
    client = bridge.client().open()
    headers = client.headers | session_of(client)
    quiet = hostile.baseline(client)
    for (kind, value), order in zip(VALUES.items(), ORDERS, strict=True):
        body = call_of(order, 99, value, 40_000_000 if kind == "arrays" else 10_000_000)
        with hostile.pulse(client) as measured:
            status, answer = hostile.post(client.host, client.path, body, headers)
        said = json.loads(answer)
        assert (status, said["id"]) == (400, 99), kind
        assert "values" in said["error"]["message"]
        hostile.assert_steady(measured, quiet)


def test_millions_of_values_over_sse_are_refused(stage: Stage):
    """On the stream, where the client waits for the answer."""
    entry = stage.entry(sys.executable, SERVER, hostile.listing(stage.folder, []), stage.mark)
    bridge = stage.http_bridge({"good": entry}, "--sse")
    client = bridge.client().open()
    quiet = hostile.baseline(client)
    connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=60)
    with closing(connection):
        connection.request("GET", "/sse")
        stream = connection.getresponse()
        endpoint = event_of(stream).decode()
        for number, (order, value) in enumerate(zip(ORDERS, VALUES.values(), strict=True), 90):
            with hostile.pulse(client) as measured:
                status, _ = hostile.post(client.host, endpoint, call_of(order, number, value, 10_000_000), {})
                said = json.loads(event_of(stream))
            assert (status, said["id"]) == (202, number)
            assert "values" in said["error"]["message"]
            hostile.assert_steady(measured, quiet)


def event_of(stream: http.client.HTTPResponse) -> bytes:
    """The data of the next event."""
    while not (line := stream.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    return line.removeprefix(b"data: ").strip()


def session_of(client: object) -> dict[str, str]:
    session = getattr(client, "session", None)
    return {"Mcp-Session-Id": session} if session else {}


def test_millions_of_values_in_a_result_end_that_call_only(stage: Stage):
    """The server and all others go on."""
    bridge = attacked(stage, [hostile.tool("many")])
    bridge.wait_for_tools("bad__many", "good__give")
    quiet = hostile.baseline(bridge)
    with hostile.pulse(bridge) as measured:
        outcome = bridge.outcome(bridge.submit("bad__many", {"count": 5_000_000}).id)
    hostile.assert_steady(measured, quiet)
    assert "values" in str(outcome)[:1000]
    assert bridge.outcome(bridge.submit("bad__many", {"count": 3}).id)["structuredContent"] == {"a": [[], [], []]}


def test_an_unknown_tool_near_ten_thousand(stage: Stage):
    """The nearest are named, of those that are likeliest."""
    tools = [hostile.tool(f"list_{number:05}_items_of_a_repository") for number in range(10_000)]
    bridge = attacked(stage, tools)
    bridge.wait_for_tools("good__give", f"bad__{tools[-1]['name']}")
    quiet = hostile.baseline(bridge)
    with hostile.pulse(bridge) as measured, pytest.raises(RpcError, match="did you mean bad__list_"):
        bridge.call("bad__list_00007_items_of_a_repositorx")
    hostile.assert_steady(measured, quiet)


@pytest.mark.attacks_long
def test_an_unknown_name_near_twenty_thousand(stage: Stage):
    """Names that a caller gave, and one that nothing has."""
    bridge = attacked(stage, [], max_pending=50_000)
    bridge.wait_for_tools("good__give")
    pending = [bridge.start_call("good__give", {"_as": f"result_of_step_{number:05}"}) for number in range(20_000)]
    for each in pending:
        each.result(120)
    quiet = hostile.baseline(bridge)
    with hostile.pulse(bridge) as measured:
        answer = bridge.await_future("result_of_step_00012x")
    assert "result_of_step_" in json.dumps(answer)
    hostile.assert_steady(measured, quiet)


def test_a_line_of_millions_of_values_from_a_client(stage: Stage):
    """Over pipes, too: its request ends, wherever its ID stands, and where none is found that is said all the same."""
    bridge = attacked(stage, [])
    bridge.wait_for_tools("good__give")
    quiet = hostile.baseline(bridge)
    for order in ORDERS:
        with bridge._lock:
            bridge._next += 1
            pending = bridge._pending[bridge._next] = Pending(bridge._next)
        line = call_of(order, pending.id, size=30_000_000)
        sender = threading.Thread(target=bridge.send_line, args=(line,))
        sender.start()
        sender.join()
        with hostile.pulse(bridge) as measured, pytest.raises(RpcError, match="more than 250000 values"):
            pending.result(30)
        hostile.assert_steady(measured, quiet)
    bridge.send_line(b'{"params":{"a":[' + b"[]," * 1_000_000 + b"1]}}")
    eventually(lambda: "values" in str(bridge.complaints), "a line without an ID is complained of")


def test_a_quarter_of_a_million_numbers_are_no_attack(stage: Stage):
    """5 MB of them as an argument, and back as a result: nobody else waits for long."""
    bridge = attacked(stage, [])
    bridge.wait_for_tools("good__give")
    quiet = hostile.baseline(bridge)
    numbers = [number / 7 for number in range(240_000)]
    with hostile.pulse(bridge) as measured:
        outcome = bridge.outcome(bridge.submit("good__give", {"numbers": numbers}).id)
    assert outcome["structuredContent"] == {"numbers": numbers}
    hostile.assert_steady(measured, quiet)


SAID: dict[str, Json] = {
    "rows": {"content": [], "structuredContent": {"result": [{"id": n, "name": f"n{n}"} for n in range(100_000)]}},
    "keys": {"content": [], "structuredContent": {f"k{n}": n for n in range(150_000)}},
    "text": {"content": [{"type": "text", "text": "line\\n" * 3_000_000}]},
    "JSON in a text": {"content": [{"type": "text", "text": "[" + "[]," * 900_000 + "[]]"}]},
}


@pytest.mark.parametrize("result", SAID.values(), ids=SAID)
def test_no_step_is_long_however_large_a_value_is(stage: Stage, result: Json):
    """It is read, weighed, put into the arguments of other calls in any form, and written."""
    steps.measured(stage)
    wants = {"any": {}, "words": {"type": "string"}, "an_object": {"type": "object"}, "a_list": {"type": "array"}}
    listed = [hostile.tool(name, {"type": "object", "properties": {"v": want}}) for name, want in wants.items()]
    play = hostile.script(stage.folder, "large", tools=[hostile.tool("make"), *listed], answers={"make": result})
    bridge = stage.bridge(
        {"s": stage.entry(sys.executable, SERVER, play, stage.mark)}, max_argument_bytes=60_000_000, max_wait_s=60
    )
    bridge.wait_for_tools("s__make")
    with steps.steps(stage) as long:
        made = bridge.submit("s__make").id
        for name in wants:
            bridge.call(f"s__{name}", {"v": f"${made}", "_wait": "this"}, timeout=60)
        bridge.call("s__any", {"v": f"of ${{f:{made}}}", "_wait": "this"}, timeout=60)
        assert bridge.outcome(made) == result
    long.assert_short()


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case == "keys" else [pytest.mark.attacks_long]) for case in SAID]
)
def test_no_step_is_long_however_large_a_value_is_over_http(stage: Stage, case: str):
    """A bridge that wraps a bridge over HTTP: one writes the value, as JSON or as an event, and the other reads it."""
    steps.measured(stage)
    play = hostile.script(stage.folder, "large", tools=[hostile.tool("make")], answers={"make": SAID[case]})
    inner = stage.http_bridge({"s": stage.entry(sys.executable, SERVER, play, stage.mark)}, mode="sync")
    outer = stage.bridge({"inner": {"url": f"{inner.base}/mcp"}}, max_wait_s=60)
    outer.wait_for_tools("inner__s__make")
    with steps.steps(stage) as long:
        outcome = outer.outcome(outer.submit("inner__s__make").id)
    assert {key: value for key, value in outcome.items() if key != "_meta"} == SAID[case]
    long.assert_short()
