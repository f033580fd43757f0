"""What is full is full for the one who filled it: room, places and order among callers, and what is counted."""

from __future__ import annotations

import sys
import time
from typing import Any

import psutil
import pytest

from tests.support import hostile
from tests.support.client import MODERN, Json, text_of
from tests.support.http_client import HttpWire
from tests.support.stage import HttpBridge, Stage
from tests.support.stdio_client import Wire

SERVER = hostile.__file__
STRANGERS = ("--host", "0.0.0.0", "--insecure-no-auth")
READS, WRITES = {"readOnlyHint": True}, {"readOnlyHint": False}
TOOLS = [
    hostile.tool("give"),
    hostile.tool("many"),
    hostile.tool("refuse"),
    hostile.tool("stay"),
    hostile.tool("read", annotations=READS),
    hostile.tool("read_for_ever", annotations=READS),
    hostile.tool("write", annotations=WRITES),
    hostile.tool("write_for_ever", annotations=WRITES),
]
NEVER = {"stay": "never", "read_for_ever": "never", "write_for_ever": "never"}


def entry(stage: Stage, error: Json | None = None, **settings: Any) -> Json:
    """A server with endless calls, on which callers' calls are ordered."""
    refusal = {"error": error or {"code": -32000, "message": "no"}}
    script = hostile.script(stage.folder, "full", tools=TOOLS, answers={**NEVER, "refuse": refusal})
    return {**stage.entry(sys.executable, SERVER, script, stage.mark), "asyncfc": {"prefix": "", **settings}}


def public(stage: Stage, settings: Json | None = None, **top: Any) -> tuple[HttpBridge, HttpWire, HttpWire]:
    """A bridge of which nobody is asked who they are, and two sessions."""
    bridge = stage.http_bridge({"s": entry(stage, **(settings or {}))}, *STRANGERS, grace_ms=0, **top)
    one, two = bridge.client(), bridge.client()
    one.wait_for_tools("give")
    return bridge, one, two


def refused(answer: Json) -> bool:
    return bool(answer.get("isError")) and "Refused" in text_of(answer)


# --- what is counted -------------------------------------------------------------------------------------------------

ROOM = 48 << 20
KINDS: dict[str, tuple[str, Json]] = {
    "small values": ("give", {"values": list(range(1000, 101_000))}),
    "pairs": ("give", {"rows": [{"id": each + 1000, "name": f"name {each}"} for each in range(20_000)]}),
    "a big text": ("give", {"text": "x" * 2_000_000}),
    "a text beyond ASCII": ("give", {"text": "\u4e2d" * 1_000_000}),
    "nested lists": ("many", {"count": 50_000}),
    "errors": ("refuse", {}),
    "arguments": ("stay", {"text": "x" * 10_000_000}),
    "metadata": ("stay", {}),
    "tiny results": ("give", {}),
}


SLOW = {"tiny results", "pairs"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.attacks_long] if kind in SLOW else []) for kind in KINDS]
)
def test_what_is_counted_is_near_what_is_used(stage: Stage, kind: str):
    """When new calls are refused, the process holds about as much as the setting says."""
    tool, arguments = KINDS[kind]
    room = ROOM // 4 if kind == "tiny results" else ROOM
    config = stage.config(
        {"s": entry(stage, {"code": 1, "message": "m", "data": "y" * 1_000_000}, grace_ms=0)},
        max_result_bytes_total=room,
        max_pending=1_000_000,
    )
    bridge: Wire = stage.serve("--config", str(config))
    bridge.wait_for_tools("give")
    process = psutil.Process(bridge.pid)
    for _ in range(3):  # what any call of this kind costs for a moment
        bridge.outcome(bridge.submit(tool, arguments).id) if tool != "stay" else bridge.submit("give")
    before, calls = process.memory_info().rss, 0
    params: Json = {"name": tool, "arguments": arguments}
    if kind == "metadata":
        params["_meta"] = {"vendor/x": "x" * 5_000_000}
    while not refused(answer := bridge.request("tools/call", params)):
        bridge.call("read", {"_wait": "this"})  # the server answers in order: so it has ended, and nobody has read it
        calls += 1
        assert calls < 100_000, answer
    used = process.memory_info().rss - before
    print(f"{kind}: {used / room:.2f} of what is counted, {calls} calls")
    passing = 4 * len(arguments.get("text", ""))  # one message is read, and encoded for the journal
    assert room / 2.5 < used < 2.5 * room + passing


def test_who_reads_everything_is_never_refused_for_room(stage: Stage):
    """Results, errors, arguments, and the steps of which only the last is read."""
    big = {"code": 1, "message": "m", "data": "y" * 1_000_000}
    bridge = stage.bridge({"s": entry(stage, big)}, max_result_bytes_total=4 << 20)
    bridge.wait_for_tools("give")
    text = {"text": "x" * 500_000}
    for round in range(12):
        for answer in (bridge.call("give", {**text, "_wait": "this"}), bridge.call("refuse", {"_wait": "this"})):
            assert not refused(answer), round
        bridge.call("give", {**text, "_as": "first"})
        bridge.call("give", {"text": "$first.text", "_as": "second"})
        assert "xxx" in str(bridge.call("give", {"text": "$second.text", "_wait": "this"}))


# --- shares ----------------------------------------------------------------------------------------------------------


def test_a_stranger_does_not_fill_what_may_be_unfinished(stage: Stage):
    """Another one still gets calls through, and so does a third after many."""
    bridge, one, two = public(stage, max_pending=64)
    mine = 0
    while not refused(one.call("stay")):
        mine += 1
    assert mine == 32
    assert two.call("give", {"a": 1, "_wait": "this"})["structuredContent"]["result"] == {"a": 1}
    for _ in range(4):
        greedy = bridge.client()
        while not refused(greedy.call("stay")):
            pass
    assert not refused(bridge.client().call("give", {"_wait": "this"}))


def test_a_stranger_does_not_fill_the_memory(stage: Stage):
    """With results that are not read; they expire, and who reads is not refused."""
    _, one, two = public(stage, max_result_bytes_total=4 << 20, unread_keep_s=3, public_order_s=1)
    text = {"text": "x" * 300_000}
    kept = 0
    while not refused(one.call("give", text)):
        kept += 1
        assert kept < 20
    for _ in range(10):
        assert not refused(two.call("give", {**text, "_wait": "this"}))
    assert refused(one.call("give"))
    over = time.monotonic() + 30
    while refused(one.call("give")):
        assert time.monotonic() < over, "unread results do not expire"
        time.sleep(0.2)


@pytest.mark.parametrize("where", ["server", "tool"])
def test_a_stranger_does_not_take_all_places(stage: Stage, where: str):
    """200 endless calls to a server, or a tool, with 8 places: those of others run."""
    settings: Json = {"max_concurrency": 8} if where == "server" else {"tools": {"stay": {"max_concurrency": 8}}}
    bridge, one, two = public(stage, settings)
    for _ in range(200):
        one.call("stay")
    assert two.call("give", {"a": 1, "_wait": "this"})["structuredContent"]["result"] == {"a": 1}
    assert two.submit("stay").status == "running"
    assert one.submit("stay").status == "waiting"
    assert bridge.client().submit("stay").status == "running"


def test_with_one_principal_all_places_may_be_taken(stage: Stage):
    """Where a token, or loopback, says that all are one: they are used to the last."""
    bridge = stage.http_bridge({"s": entry(stage, max_concurrency=3)})
    one, two = bridge.client(), bridge.client()
    one.wait_for_tools("give")
    assert [one.submit("stay").status for _ in range(4)] == ["running"] * 3 + ["waiting"]
    assert two.submit("stay").status == "waiting"


# --- order -----------------------------------------------------------------------------------------------------------


def block(one: HttpWire, how: str) -> tuple[str, str]:
    """Have one caller's calls stand in the way of others; what a blocked tool is called with."""
    match how:
        case "an endless write":
            one.call("write_for_ever")
            return "read", "public_order_s"
        case "an endless read":
            one.call("read_for_ever")
            return "write", "public_order_s"
        case "a write that waits for a value":
            endless = one.submit("stay").id
            one.call("write", {"text": f"${endless}"})
            return "read", "public_order_s"
        case _:
            for _ in range(20):
                one.call("stay")
            one.call("write")
            return "read", "max_concurrency"


@pytest.mark.parametrize(
    "how", ["an endless write", "an endless read", "a write that waits for a value", "a write that waits for a place"]
)
@pytest.mark.parametrize("era", [MODERN, "2025-11-25"])
def test_a_strangers_calls_hold_up_others_for_a_bounded_time(stage: Stage, how: str, era: str):
    """From their submission, whatever they wait for."""
    limits: Json = {"max_concurrency": 8} if "place" in how else {}
    bridge, one, _ = public(stage, limits, public_order_s=2)
    two = bridge.client(era=era, name="two")
    tool, _ = block(one, how)
    began = time.monotonic()
    answer = two.call(tool, {"a": 1, "_wait": "this"})
    assert answer["structuredContent"]["result"] == {"a": 1}
    assert time.monotonic() - began < 12
