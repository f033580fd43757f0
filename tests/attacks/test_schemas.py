"""Input schemas that mean harm, or are only large: nobody waits for them, and no call is lost to them."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import pytest

from tests.support import hostile
from tests.support.client import Json
from tests.support.stage import Stage
from tests.support.stdio_client import Wire

SERVER = hostile.__file__


def bridge_of(stage: Stage, tools: list[Json], **more: Any) -> Wire:
    """A bridge with a hostile server that lists these tools, and `give`, which gives back its arguments."""
    path = hostile.listing(stage.folder, [hostile.tool("give"), *tools])
    return stage.bridge({"bad": stage.entry(sys.executable, SERVER, path, stage.mark)}, **more)


def taking(schema: Json, **more: Any) -> Json:
    """A tool that takes one argument."""
    return hostile.tool("take", {"type": "object", "properties": {"a": schema}, **more})


PATTERNS = {
    "optional": ".?" * 200,
    "nested": "^(a+)+$",
    "nested twice": "^((a+)+)+$",
    "alternatives": "^(_|_)*$",
    "back-reference": r"(_+)+\1$",
    "look-ahead": "(?=(_+)+$)",
    "counted": "(((_{0,99}){0,99}){0,99}){0,99}$",
    "long": "_?" * 5000,
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("inside", ["root", "allOf", "names"])
def test_a_listed_pattern_is_no_trap(stage: Stage, pattern: str, inside: str):
    """A server that only lists a tool freezes nobody, and SIGTERM ends the bridge."""
    schema: Json = {
        "root": {"patternProperties": {pattern: {"type": "integer"}}},
        "allOf": {"allOf": [{"patternProperties": {pattern: {}}, "additionalProperties": False}]},
        "names": {"propertyNames": {"pattern": pattern}, "additionalProperties": {"pattern": pattern}},
    }[inside]
    bridge = bridge_of(stage, [hostile.tool("odd", {"type": "object", **schema})])
    quiet = hostile.baseline(bridge, 0.2)
    with hostile.pulse(bridge) as measured:
        bridge.wait_for_tools("bad__give", "bad__odd")
        bridge.call("bad__odd", {"_" * 40 + "!": "a" * 40 + "!"})
    hostile.assert_steady(measured, quiet)
    bridge.process.send_signal(signal.SIGTERM)
    bridge.wait()


def doubling(levels: int) -> Json:
    """Definitions that refer twice to the next."""
    defs: Json = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    return {"$defs": {**defs, f"d{levels}": {"type": "integer"}}}


def unevaluated(levels: int) -> Json:
    """`unevaluatedProperties` that have to look at everything below, at every level."""
    schema: Json = {"type": "object"}
    for _ in range(levels):
        schema = {"anyOf": [schema, {"properties": {"b": schema}}], "unevaluatedProperties": {"not": {}}}
    return schema


ROWS = [{"id": number, "tags": [number, str(number)]} for number in range(2000)]
CHECKS: dict[str, tuple[Json, Json, Any, bool | None]] = {
    # what it is: the argument's schema, what stands beside it, the value, whether it fits (None: nobody can tell)
    "nested quantifiers": ({"pattern": "^(a+)+$"}, {}, "a" * 40 + "!", False),
    "optionals": ({"pattern": "a?" * 28 + "a" * 28}, {}, "a" * 27, False),
    "counted": ({"pattern": "^" + "a{0,99}" * 6 + "!$"}, {}, "a" * 5000, None),
    "names": (
        {"type": "object", "patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
        {},
        {"a" * 40 + "!": 1},
        None,
    ),
    "doubling": ({"$ref": "#/$defs/d0"}, doubling(40), 1, True),
    "doubling, wrong": ({"$ref": "#/$defs/d0"}, doubling(40), "x", None),
    "circle": ({"$ref": "#/properties/a"}, {}, 1, True),
    "unevaluated": (unevaluated(6), {}, {"b": {"b": {"b": {"b": {}}}}}, None),
    "unique rows": ({"type": "array", "uniqueItems": True}, {}, ROWS, True),
    "rows with one twice": ({"type": "array", "uniqueItems": True}, {}, [*ROWS, ROWS[7]], False),
    "many alternatives": ({"anyOf": [{"const": number} for number in range(20_000)]}, {}, 19_999, True),
    "many items": ({"type": "array", "items": {"type": "integer"}}, {}, list(range(100_000)), True),
    "many items, one wrong": ({"type": "array", "items": {"type": "integer"}}, {}, [*range(50_000), "x"], False),
}


@pytest.mark.parametrize(("schema", "beside", "value", "fits"), CHECKS.values(), ids=CHECKS)
def test_a_check_holds_up_nobody(stage: Stage, schema: Json, beside: Json, value: Any, fits: bool | None):
    """A call whose referenced value is checked: others are answered, and it ends with what is true of it."""
    bridge = bridge_of(stage, [taking(schema, **beside)])
    bridge.wait_for_tools("bad__give", "bad__take")
    given = bridge.submit("bad__give", {"value": value})
    bridge.outcome(given.id)
    quiet = hostile.baseline(bridge)
    with hostile.pulse(bridge) as measured:
        taken = bridge.submit("bad__take", {"a": f"${given.id}.value"})
        outcome = bridge.outcome(taken.id)
    hostile.assert_steady(measured, quiet)
    assert "internal error" not in str(outcome)[:300]
    refused = "do not match its schema" in str(outcome)[:1000]
    if fits is not None:
        assert refused is not fits


def test_a_check_that_is_given_up_lets_the_server_judge(stage: Stage):
    """What is not known is not refused; and after a few times it is not tried any more."""
    schema, beside, value, _ = CHECKS["names"]
    bridge = bridge_of(stage, [taking(schema, **beside)])
    given = bridge.submit("bad__give", {"value": value})
    took: list[float] = []
    for _ in range(8):
        started = time.monotonic()
        outcome = bridge.outcome(bridge.submit("bad__take", {"a": f"${given.id}.value"}).id)
        assert outcome["structuredContent"] == {"a": value}
        took.append(time.monotonic() - started)
    assert min(took[3:]) < 1
    assert "unchecked arguments" in bridge.stderr()


def test_others_are_checked_while_one_check_takes_long(stage: Stage):
    """It runs in a process of its own, and its place in the order of calls is kept."""
    schema, beside, value, _ = CHECKS["names"]
    slow = taking(schema, **beside)
    quick = hostile.tool("quick", {"type": "object", "properties": {"a": {"type": "integer"}}})
    bridge = bridge_of(stage, [slow, quick])
    given = bridge.submit("bad__give", {"value": value})
    held = bridge.submit("bad__take", {"a": f"${given.id}.value"})
    wrong = bridge.outcome(bridge.submit("bad__quick", {"a": f"${given.id}.value"}).id)
    assert "do not match its schema at a" in str(wrong)
    assert bridge.outcome(held.id)["structuredContent"] == {"a": value}
