"""Listings of thousands of tools, and tools with huge schemas: they are rewritten in steps, and only what changed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import hostile
from tests.support.client import Json, RpcError, eventually
from tests.support.stage import Stage
from tests.support.stdio_client import Wire
from tests.support.steps import measured, steps

SERVER = hostile.__file__
ARGUMENTS: Json = {
    "type": "object",
    "properties": {
        "owner": {"type": "string"},
        "number": {"type": "integer", "minimum": 1},
        "kind": {"type": "string", "enum": ["open", "closed"]},
        "labels": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["owner"],
    "additionalProperties": False,
}


def tools(count: int, description: str = "") -> list[Json]:
    """Tools as servers of large APIs have them."""
    return [hostile.tool(f"list_{number:05}", ARGUMENTS, description=description) for number in range(count)]


def bridge_with(stage: Stage, listed: list[Json]) -> tuple[Wire, Path]:
    """A bridge with a calm server and one that lists these tools; the latter's listing."""
    calm = hostile.listing(stage.folder, [hostile.tool("give")], "calm.json")
    large = hostile.listing(stage.folder, listed, "large.json")
    servers = {
        "calm": stage.entry(sys.executable, SERVER, calm, stage.mark),
        "large": stage.entry(sys.executable, SERVER, large, stage.mark),
    }
    return stage.bridge(servers), Path(large)


def change(bridge: Wire, listing: Path, listed: list[Json]) -> None:
    """Have the server list something else, and wait until clients are told."""
    listing.write_text(json.dumps(listed))
    seen = len(bridge.notifications)
    bridge.call("large__tell_of_changes")

    def told() -> bool:
        return any("list_changed" in each["method"] for each in bridge.notifications[seen:])

    eventually(told, "list_changed")


TELL = hostile.tool("tell_of_changes")


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.attacks_long)])
def test_thousands_of_tools_hold_up_nobody(stage: Stage, count: int):
    """At the first listing, and at every change: of all, of one, and of another server."""
    bridge, listing = bridge_with(stage, [TELL])
    bridge.wait_for_tools("calm__give", "large__tell_of_changes")
    quiet = hostile.baseline(bridge)
    listed = [TELL, *tools(count)]
    for shown, fresh in (
        (f"large__list_{count - 1:05}", listed),
        ("large__one_more", [*listed, hostile.tool("one_more")]),
        ("large__and_another", [TELL, *tools(count, "Described anew."), hostile.tool("and_another")]),
    ):
        with hostile.pulse(bridge) as trips:
            change(bridge, listing, fresh)
        hostile.assert_steady(trips, quiet)
        bridge.wait_for_tools(shown)


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.attacks_long)])
def test_no_step_is_long_however_many_tools_are_listed(stage: Stage, count: int):
    """At the first listing, at every change, at a list request, at an unknown name near all, and at the next start."""
    measured(stage)
    bridge, listing = bridge_with(stage, [TELL])
    bridge.wait_for_tools("calm__give", "large__tell_of_changes")
    listed = [TELL, *tools(count)]
    with steps(stage) as long:
        change(bridge, listing, listed)
        change(bridge, listing, [*listed, hostile.tool("one_more")])
        change(bridge, listing, [TELL, *tools(count, "Described anew.")])
        assert len(bridge.tools()) > count
        with pytest.raises(RpcError, match="did you mean"):
            bridge.call(f"large__list_{count // 2:05}x")
    long.assert_short()
    bridge.close()
    with steps(stage) as long:
        # Known from the cache: listed before the server is up.
        (config,) = stage.folder.glob("*config.json")
        again = stage.serve("--config", str(config))
        again.wait_for_tools(f"large__list_{count - 1:05}")
    long.assert_short()


def chain(levels: int) -> Json:
    """Alternatives within alternatives, each with many more beside."""
    schema: Json = {"type": "integer"}
    for level in range(levels):
        schema = {
            "anyOf": [schema, *({"type": "object", "properties": {f"p{level}": {"const": n}}} for n in range(20))]
        }
    return schema


HUGE: dict[str, Any] = {
    "alternatives": {"anyOf": [{"type": "object", "properties": {f"p{n}": {"const": n}}} for n in range(5_000)]},
    "chain": chain(80),
    "definitions": {"$ref": "#/$defs/d0"},
    "choices": {"enum": list(range(50_000))},
}


@pytest.mark.parametrize("schema", HUGE.values(), ids=HUGE)
def test_huge_schemas_hold_up_nobody(stage: Stage, schema: Json):
    """100 to 400 KB for one argument: listed, with references or without, and the note says so."""
    defs = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"type": "integer"}]} for n in range(3_000)}
    parts = {"$defs": {**defs, "d3000": {}}} if "$ref" in schema else {}
    tool = hostile.tool("huge", {"type": "object", "properties": {"a": schema}, **parts})
    bridge, listing = bridge_with(stage, [TELL])
    bridge.wait_for_tools("calm__give", "large__tell_of_changes")
    quiet = hostile.baseline(bridge)
    with hostile.pulse(bridge) as trips:
        change(bridge, listing, [TELL, tool])
        bridge.call("large__huge", {"a": 1})
    hostile.assert_steady(trips, quiet)
