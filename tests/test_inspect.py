"""`inspect`: what it says is what the bridge does, for people and for machines."""

import json
from typing import Any
from unittest.mock import patch

import anyio
import pytest
from lab import Toy, bridge_over, on_virtual_time, spawning

from asyncfc_mcp import inspect
from asyncfc_mcp.bridge import RESERVED, Bridge
from asyncfc_mcp.config import BridgeConfig, Policy, ServerConfig, StdioSpec
from asyncfc_mcp.errors import UnknownTool
from asyncfc_mcp.explanation import explain


def toy_with(*tools: str, **annotations: dict[str, Any]) -> Toy:
    """A toy with just these tools."""
    toy = Toy()
    toy.listing.clear()
    toy.tools.clear()
    for tool in tools:
        toy.add(tool, toy._echo, annotations=annotations.get(tool, {}))
    return toy


FILES: dict[str, Any] = {
    "max_concurrency": 4,
    "tools": {
        "read": {"reads": ("fs/{path}",), "single_flight": True},
        "write": {"writes": ("fs/{path}",), "timeout_s": 20.0, "max_concurrency": 1},
        "wipe": {"writes": ("fs",)},
        "touch_a": {"writes": ("fs/a",)},
        "time": {"reads": (), "writes": ()},
        "misspelt": {"timeout_s": 1.0},
    },
}
TOOLS = ("read", "write", "wipe", "touch_a", "time", "plain")


def by_name(facts: dict[str, Any]) -> dict[str, Any]:
    return {tool["name"]: tool for tool in facts["tools"]}


@on_virtual_time
async def test_every_tool_is_shown_with_its_effect_and_where_it_is_known_from():
    """Config, annotation, or nothing said; and with whom it takes turns."""
    toy = toy_with(*TOOLS, "look", "change", look={"readOnlyHint": True}, change={"destructiveHint": True})
    async with bridge_over(toy, server=FILES) as bridge:
        tools = by_name(inspect.report(bridge))
    shown = {name: (tool["effect"], tool["effect_from"]) for name, tool in tools.items()}
    assert shown == {
        "read": ("reads toy/fs/{path}", "config"),
        "write": ("writes toy/fs/{path}", "config"),
        "wipe": ("writes toy/fs", "config"),
        "touch_a": ("writes toy/fs/a", "config"),
        "time": ("touches nothing", "config"),
        "plain": ("nothing said, not ordered", "nothing said"),
        "look": ("reads toy", "annotation"),
        "change": ("writes toy", "annotation"),
    }
    assert tools["read"]["in_turn_with"] == ["write", "wipe", "touch_a", "change"]
    assert tools["write"]["in_turn_with"] == ["read", "write", "wipe", "touch_a", "look", "change"]
    assert tools["plain"]["in_turn_with"] == []
    assert tools["time"]["in_turn_with"] == []


@pytest.mark.parametrize(
    ("ordering", "effect", "source"),
    [
        ("strict", "writes toy", 'nothing said; ordering "strict"'),
        ("none", "not ordered", 'ordering "none"'),
        ("declared", "nothing said, not ordered", "nothing said"),
    ],
)
@on_virtual_time
async def test_what_ordering_makes_of_a_silent_tool_is_shown(ordering: str, effect: str, source: str):
    """So that nobody has to know the default."""
    async with bridge_over(toy_with("plain"), policy={"ordering": ordering}) as bridge:
        (tool,) = inspect.report(bridge)["tools"]
    assert (tool["effect"], tool["effect_from"]) == (effect, source)


@on_virtual_time
async def test_all_limits_of_a_tool_are_shown_as_they_apply():
    """Retries and single-flight only where they can happen."""
    toy = toy_with(*TOOLS, read={"readOnlyHint": True}, wipe={"idempotentHint": True})
    async with bridge_over(toy, server=FILES, policy={"retries": 3, "single_flight": True}) as bridge:
        tools = by_name(inspect.report(bridge))
    assert tools["write"]["limits"] == {
        "max_concurrency": 1,
        "server_max_concurrency": 4,
        "timeout_s": 20.0,
        "grace_ms": 25.0,
        "retries": 0,
        "single_flight": False,
        "on_failure": "continue",
        "references": "all",
        "names": True,
        "wait": True,
        "max_argument_bytes": 8 << 20,
    }
    assert (tools["read"]["limits"]["retries"], tools["read"]["limits"]["single_flight"]) == (3, True)
    assert (tools["wipe"]["limits"]["retries"], tools["wipe"]["limits"]["single_flight"]) == (3, False)
    fields = set(Policy.__dataclass_fields__) - {"mode", "ordering", "reads", "writes"}
    assert fields <= tools["write"]["limits"].keys(), "a setting that inspect does not show"


@on_virtual_time
async def test_servers_settings_and_remarks_are_shown():
    """What was found, what was configured, and what does not fit."""
    toy = toy_with(*TOOLS)
    toy.add("own", toy._echo, schema={"type": "object", "properties": {"_as": {}}})
    async with bridge_over(toy, server=FILES, max_wait_s=20, host_profiles={"x": {"timeout_s": 5}}) as bridge:
        facts = inspect.report(bridge)
    (server,) = facts["servers"]
    assert server == {
        "name": "toy",
        "status": "ready",
        "reason": "",
        "protocol": "2025-11-25",
        "tools": 7,
        "prompts": 0,
        "resources": 0,
    }
    assert facts["meta_tools"] == list(RESERVED)
    assert facts["settings"]["max_wait_s"] == 20
    assert facts["settings"]["host_profiles"] == {"x": {"timeout_s": 5}}
    assert facts["notes"] == ["server 'toy' has settings for tool 'misspelt', which it does not offer"]
    assert by_name(facts)["own"]["notes"] == ["_as is the tool's own argument; ours is off"]
    assert json.loads(json.dumps(facts)) == facts


@on_virtual_time
async def test_the_tables_say_the_same_in_words():
    """Every tool in a row; limits and remarks in it; below them what to do about silent tools."""
    toy = toy_with(*TOOLS)
    async with bridge_over(toy, server=FILES) as bridge:
        text = inspect.render(inspect.report(bridge), width=200)
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "ready" in rows["toy"]
    assert "2025-11-25" in rows["toy"]
    for said in ("future", "writes toy/fs/{path}", "config", "at most 1 at a time; 20 s limit"):
        assert said in rows["write"]
    assert "read, write, wipe and 1 more" in rows["wipe"]
    assert "nothing" in rows["plain"]
    assert "1 tool says nothing of what it changes" in text
    assert '"ordering": "strict"' in text
    assert "Note: server 'toy' has settings for tool 'misspelt'" in text
    assert "await_future, gather, cancel_future, list_futures" in text
    assert not any(line.endswith(" ") for line in text.splitlines())


@on_virtual_time
async def test_brackets_and_colons_are_shown_as_they_are():
    """They are markup to the library that draws the tables, and nothing of the kind to us."""
    odd = "[/red]:warning:[bold]"
    toy = toy_with("plain")
    server = {"tools": {"plain": {"writes": (odd,)}, "[/x]": {"timeout_s": 1.0}}}
    async with bridge_over(toy, server=server) as bridge:
        bridge.downstreams["toy"].reason = f"command {odd} was not found"
        text = inspect.render(inspect.report(bridge), width=200)
    assert f"writes toy/{odd}" in text
    assert f"command {odd} was not found" in text
    assert "'[/x]'" in text


@on_virtual_time
async def test_nothing_is_cut_off_on_a_narrow_terminal():
    """Long names are folded, not dropped."""
    name = "a_tool_with_a_very_long_name_indeed"
    async with bridge_over(toy_with(name)) as bridge:
        text = inspect.render(inspect.report(bridge), width=40)
    assert max(map(len, text.splitlines())) <= 40
    column = "".join(line.split(" ")[0] for line in text.partition("Tools\n")[2].splitlines() if line[:1].strip())
    assert "…" not in text
    assert name in column.replace("Name", "")


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("read", "read", ["By what is known neither writes what the other touches"]),
        ("time", "wipe", ["time: touches nothing (config)", "By what is known neither writes"]),
        ("plain", "wipe", ["Nothing is known of what plain touches", "must be awaited, or their effects declared"]),
        ("plain", "plain", ["Nothing is known of what plain touches"]),
        ("plain", "other", ["Nothing is known of what they touch"]),
        ("free", "wipe", ['free: not ordered, by "ordering": "none"', "must be awaited"]),
        (
            "read",
            "write",
            ["They can conflict: read at toy/fs, write at toy/fs", "Only where their arguments meet (path)"],
        ),
        ("write", "write", ["Only where their arguments meet (path)"]),
        ("read", "touch_a", ["Only where their arguments meet (path)"]),
        ("write", "touch_a", ["Only where their arguments meet (path)"]),
        ("read", "wipe", ["at least one of them writes there", "Whatever their arguments are"]),
        ("wipe", "touch_a", ["wipe at toy/fs, touch_a at toy/fs/a", "Whatever their arguments are"]),
    ],
)
@on_virtual_time
async def test_two_tools_are_explained_with_the_paths_by_which_they_conflict(first: str, second: str, said: list[str]):
    """Always, only where their arguments meet, or not, as far as is known."""
    server = {**FILES, "tools": {**FILES["tools"], "free": {"ordering": "none"}}}
    async with bridge_over(toy_with(*TOOLS, "other", "free"), server=server) as bridge:
        text = explain(bridge, first, second)
    for part in said:
        assert part in text
    assert "never" not in text


@on_virtual_time
async def test_the_arguments_of_files_keep_two_calls_apart_as_well():
    """`{path:file}` is an argument like any other."""
    server = {"tools": {"read": {"reads": ("{path:file}",)}, "write": {"writes": ("{folder:file}/{name}",)}}}
    async with bridge_over(toy_with("read", "write"), server=server) as bridge:
        text = explain(bridge, "read", "write")
    assert "read at file://, write at file://" in text
    assert "Only where their arguments meet (folder, name, path)" in text


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "one and two have no common state, as far as is known"),
        ("workspace", "Whatever their arguments are, they run in the order"),
        ("files:/data", "They can conflict: one_tool at file:///data, two_tool at file:///data"),
    ],
)
@on_virtual_time
async def test_two_servers_are_not_called_independent(state: str | None, said: str):
    """Nobody knows whether they work on one thing unless a common `state` says so."""
    one, two = Toy("one"), Toy("two")
    for toy in (one, two):
        toy.listing.clear()
        toy.add(f"{toy.name}_tool", toy._echo, annotations={"readOnlyHint": False})
    async with bridge_over(one, two, server={"state": state}) as bridge:
        text = explain(bridge, "one_tool", "two_tool")
    assert said in text
    assert ("no common state" in text) == (state is None)


def bridge_of(toy: Toy) -> Bridge:
    return Bridge(BridgeConfig((ServerConfig(toy.name, StdioSpec(toy.name), prefix=""),), source="test"))


@on_virtual_time
async def test_inspecting_connects_shows_and_ends():
    """As tables or as JSON; two tools explained if they are named."""
    toy = toy_with("plain", "look", look={"readOnlyHint": True})
    with patch("asyncfc_mcp.downstream.spawn", spawning({"toy": toy})):
        table, healthy = await inspect.run(bridge_of(toy), as_json=False, explain=None)
        assert "plain" in table
        assert healthy
        output, _ = await inspect.run(bridge_of(toy), as_json=True, explain=None)
        facts = json.loads(output)
        assert [tool["name"] for tool in facts["tools"]] == ["plain", "look"]
        text, _ = await inspect.run(bridge_of(toy), as_json=False, explain=("plain", "look"))
        assert "Nothing is known of what plain touches" in text


@on_virtual_time
async def test_explaining_a_tool_that_does_not_exist_names_the_nearest():
    """An error of ours, as it is, for the command line to show in one line."""
    toy = toy_with("plain")
    with patch("asyncfc_mcp.downstream.spawn", spawning({"toy": toy})):
        with pytest.raises(UnknownTool, match=r"Unknown tool: plane; did you mean plain\?"):
            await inspect.run(bridge_of(toy), as_json=False, explain=("plain", "plane"))


@on_virtual_time
async def test_a_server_that_cannot_start_is_shown_with_the_reason():
    """And costs the others nothing, nor more than a minute."""

    def broken(*args: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory", "nowhere")

    began = anyio.current_time()
    with patch("asyncfc_mcp.downstream.spawn", broken):
        config = BridgeConfig((ServerConfig("bad", StdioSpec("nowhere")),), source="test")
        output, healthy = await inspect.run(Bridge(config), as_json=True, explain=None)
    assert not healthy
    facts = json.loads(output)
    assert facts["servers"][0]["status"] == "failed"
    assert facts["servers"][0]["reason"] == "command 'nowhere' was not found; is it installed and on PATH?"
    assert facts["tools"] == []
    assert anyio.current_time() - began < 60
