"""Floods, messages of millions of values, and names near thousands: nobody waits for them."""

from __future__ import annotations

import json
import sys
import threading
import time

import pytest
from e2e.harness import Json, RpcError, Stage, Wire

from attacks import hostile
from attacks.hostile import FLOODS

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


@pytest.mark.parametrize("value", [b"[]", b"{}", b"1", b'""'], ids=["arrays", "objects", "numbers", "texts"])
def test_millions_of_values_over_http_are_refused(stage: Stage, value: bytes):
    """One POST of 40 MB."""
    bad = hostile.listing(stage.folder, [hostile.tool("give")])
    bridge = stage.http_bridge({"bad": stage.entry(sys.executable, SERVER, bad, stage.mark)})
    client = bridge.client().open()
    many = (value + b",") * (40_000_000 // (len(value) + 1))
    headers = client.headers | session_of(client)
    quiet = hostile.baseline(client)
    with hostile.pulse(client) as measured:
        status, answer = hostile.post(client.host, client.path, b'{"params":{"a":[' + many + b"1]}}", headers)
    assert status == 400
    assert b"values" in answer
    hostile.assert_steady(measured, quiet)


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
    """Over pipes, too."""
    bridge = attacked(stage, [])
    bridge.wait_for_tools("good__give")
    line = b'{"jsonrpc":"2.0","id":99,"method":"ping","params":{"a":[' + b"[]," * 10_000_000 + b"1]}}"
    quiet = hostile.baseline(bridge)
    sender = threading.Thread(target=bridge.send_line, args=(line,))
    sender.start()
    sender.join()
    with hostile.pulse(bridge) as measured:
        assert bridge.tools()
    hostile.assert_steady(measured, quiet)
    assert "values" in str(bridge.complaints)
