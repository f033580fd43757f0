"""`inspect`: what it says is what the bridge does, for people and for machines."""

import json
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import anyio
import pytest

from asyncfc_mcp.app import compose
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.cli import inspect
from asyncfc_mcp.cli.explanation import explain
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Policy, Settings
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.errors import UnknownTool
from asyncfc_mcp.upstream.metatools import METATOOLS
from tests.support.inprocess_server import Toy, bridge_over, spawning
from tests.support.virtual_time import on_virtual_time


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
        "write": {"writes": ("fs/{path}",), "timeout_s": 20.0, "max_concurrency": 1, "journal": False},
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
    """Retries, second calls and single-flight only where they can happen."""
    toy = toy_with(*TOOLS, read={"readOnlyHint": True}, wipe={"idempotentHint": True})
    policy = {"retries": 3, "single_flight": True, "rerun_interrupted": True}
    async with bridge_over(toy, server=FILES, policy=policy) as bridge:
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
        "after": True,
        "wait": True,
        "shapes": "learned",
        "max_message_bytes": 64 << 20,
        "max_argument_bytes": 8 << 20,
        "journal": False,
        "rerun_interrupted": False,
    }
    assert (tools["read"]["limits"]["journal"], tools["read"]["limits"]["rerun_interrupted"]) == (True, True)
    assert (tools["read"]["limits"]["retries"], tools["read"]["limits"]["single_flight"]) == (3, True)
    assert (tools["wipe"]["limits"]["retries"], tools["wipe"]["limits"]["single_flight"]) == (3, False)
    fields = set(Policy.__dataclass_fields__) - {"mode", "ordering", "profile", "reads", "writes"}
    assert fields <= tools["write"]["limits"].keys(), "a setting that inspect does not show"


@on_virtual_time
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "one for all sessions (no state of a session is known); starts at the first call"),
        ({"idle_s": 60}, "known); starts at the first call, ends 60 s after the last one"),
        ({"start": "eager", "idle_s": 60}, "known); starts with it\n"),
        ({"share": "session"}, 'an instance for each session ("share": "session"); starts at the first call\n'),
    ],
)
async def test_the_life_of_a_server_in_a_daemon_is_among_its_details(settings: dict[str, Any], said: str):
    async with bridge_over(toy_with(*TOOLS), server=settings) as bridge:
        facts = inspect.report(bridge)
    assert said in inspect.render(facts, ["toy"])
    assert "In a daemon" not in inspect.render(facts)


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
        "profile": None,
        "tools": 7,
        "prompts": 0,
        "resources": 0,
        "start": "auto",
        "idle_s": None,
        "share": {"instances": "user", "for": "no state of a session is known"},
        "credentials": None,
    }
    assert facts["meta_tools"] == list(METATOOLS)
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
    assert "6 tools: 1 read, 3 write declared paths" in rows["toy"]
    assert "Server toy: ready, 2025-11-25" in text
    for said in ("future", "writes toy/fs/{path}", "config", "at most 1 at a time; timeout 20 s"):
        assert said in rows["write"]
    assert "read, write, wipe and 1 more" in rows["wipe"]
    assert "nothing" in rows["plain"]
    assert "1 tool declares no effects" in text
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
        with patch.object(Downstream, "reason", f"command {odd} was not found"):
            text = inspect.render(inspect.report(bridge), width=200)
    assert f"writes toy/{odd}" in text
    assert f"command {odd} was not found" in text
    assert "'[/x]'" in text


@on_virtual_time
async def test_nothing_is_cut_off_on_a_narrow_terminal():
    """Long names are folded, not dropped."""
    name = "a_tool_with_a_very_long_name_indeed"
    async with bridge_over(toy_with(name)) as bridge:
        text = inspect.render(inspect.report(bridge), width=40).partition("\nTools of the bridge")[0]
    assert max(map(len, text.splitlines())) <= 40
    column = "".join(line.split(" ")[0] for line in text.partition("Tools\n")[2].splitlines() if line[:1].strip())
    assert "…" not in text
    assert name in column.replace("Name", "")


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("read", "read", ["As declared, neither writes what the other touches"]),
        ("time", "wipe", ["time: touches nothing (config)", "As declared, neither writes"]),
        ("plain", "wipe", ["plain declares no effects", "await each call, or declare the effects"]),
        ("plain", "plain", ["plain declares no effects"]),
        ("plain", "other", ["Both tools declare no effects"]),
        ("free", "wipe", ['free: not ordered, because of "ordering": "none"', "await each call"]),
        (
            "read",
            "write",
            ["They can conflict: read at toy/fs, write at toy/fs", "only where their arguments meet (path)"],
        ),
        ("write", "write", ["only where their arguments meet (path)"]),
        ("read", "touch_a", ["only where their arguments meet (path)"]),
        ("write", "touch_a", ["only where their arguments meet (path)"]),
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
    assert "only where their arguments meet (folder, name, path)" in text


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "No shared state of one and two is declared"),
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
    assert ("No shared state" in text) == (state is None)


@on_virtual_time
async def test_what_to_do_for_a_silent_tool_depends_on_whose_the_other_is():
    """`ordering: strict` orders a server with itself only."""
    one, two = Toy("one"), Toy("two")
    for toy in (one, two):
        toy.listing.clear()
        toy.add(f"{toy.name}_tool", toy._echo)
    async with bridge_over(one, two) as bridge:
        assert '"ordering": "strict" on the server' in explain(bridge, "one_tool", "one_tool")
        assert 'the same "state" on both servers' in explain(bridge, "one_tool", "two_tool")


def bridge_of(toy: Toy) -> Bridge:
    return compose(BridgeConfig((ServerConfig(toy.name, StdioSpec(toy.name), prefix=""),), source="test"))


@on_virtual_time
async def test_inspecting_connects_shows_and_ends():
    """As tables or as JSON; two tools explained if they are named."""
    toy = toy_with("plain", "look", look={"readOnlyHint": True})
    with patch("asyncfc_mcp.downstream.connection.spawn", spawning({"toy": toy})):
        table, healthy = await inspect.run(bridge_of(toy), as_json=False, explain=None)
        assert "plain" in table
        assert healthy
        output, _ = await inspect.run(bridge_of(toy), as_json=True, explain=None)
        facts = json.loads(output)
        assert [tool["name"] for tool in facts["tools"]] == ["plain", "look"]
        text, _ = await inspect.run(bridge_of(toy), as_json=False, explain=("plain", "look"))
        assert "plain declares no effects" in text


@on_virtual_time
async def test_explaining_a_tool_that_does_not_exist_names_the_nearest():
    """An error of ours, as it is, for the command line to show in one line."""
    toy = toy_with("plain")
    with patch("asyncfc_mcp.downstream.connection.spawn", spawning({"toy": toy})):
        with pytest.raises(UnknownTool, match=r"Unknown tool: plane; did you mean plain\?"):
            await inspect.run(bridge_of(toy), as_json=False, explain=("plain", "plane"))


@on_virtual_time
async def test_a_server_that_cannot_start_is_shown_with_the_reason():
    """And costs the others nothing, nor more than a minute."""

    def broken(*args: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory", "nowhere")

    began = anyio.current_time()
    with patch("asyncfc_mcp.downstream.connection.spawn", broken):
        config = BridgeConfig((ServerConfig("bad", StdioSpec("nowhere")),), source="test")
        output, healthy = await inspect.run(compose(config), as_json=True, explain=None)
    assert not healthy
    facts = json.loads(output)
    assert facts["servers"][0]["status"] == "failed"
    assert facts["servers"][0]["reason"] == "command 'nowhere' was not found; is it installed and on PATH?"
    assert facts["tools"] == []
    assert anyio.current_time() - began < 60


# --- many servers --------------------------------------------------------------------------------------------------


def many(count: int, tools: int) -> dict[str, Any]:
    """A report on servers with tools of every kind, and two that are not up."""
    limits = {"max_concurrency": None, "timeout_s": None, "journal": True}
    kinds = [("read", "annotation"), ("write everything", "annotation"), ("declare nothing", "nothing said")]
    servers = [
        {"name": f"server_{n}", "status": "ready", "reason": "", "protocol": "2025-06-18", "tools": tools, "prompts": 0,
         "resources": 0}
        for n in range(count)
    ]  # fmt: skip
    listed = [
        {"name": f"server_{n}__tool_{i}", "server": f"server_{n}", "tool": f"tool_{i}", "mode": "future",
         "effect": "reads x", "touches": kinds[i % 3][0], "effect_from": kinds[i % 3][1],
         "effect_source": kinds[i % 3][1], "in_turn_with": [],
         "limits": limits, "notes": []}
        for n in range(count) for i in range(tools)
    ]  # fmt: skip
    down = {"protocol": "", "tools": 0, "prompts": 0, "resources": 0}
    servers += [
        {"name": "gone", "status": "failed", "reason": "it exited with code 1", **down},
        {"name": "wrong", "status": "misconfigured", "reason": "mcpServers.wrong.url: found 5", **down},
    ]
    rest: dict[str, Any] = {"meta_tools": ["gather"], "journal": None, "warnings": [], "notes": []}
    rest["engine"] = {"kind": "embedded"}
    return {"source": "mcp.json", "servers": servers, "tools": listed, **rest}


@pytest.mark.parametrize("width", [80, 120, None])
def test_each_server_is_one_line(width: int | None):
    """Thirteen servers with 14 tools each, at 80 columns, fit on one screen; reasons stand below."""
    text = inspect.render(many(13, 14), width=width)
    lines = text.splitlines()
    assert lines[1] == "server_0   14 tools: 5 read, 5 write everything, 4 declare nothing; annotations"
    assert sum(line.startswith("server_") for line in lines) == 13
    assert "gone       failed" in lines
    assert "wrong      misconfigured" in lines
    assert "  gone: it exited with code 1" in lines
    assert len(lines) <= 28
    assert "tool_3" not in text


def test_details_are_shown_of_what_is_named():
    """A server, a tool by either of its names; nothing else, and JSON is never less."""
    facts = many(3, 4)
    server = inspect.render(facts, ["server_1"], width=100)
    assert "Server server_1: ready, 2025-06-18" in server
    assert "server_1__tool_3" in server
    assert "server_2" not in server
    for name in ("server_2__tool_0", "tool_0"):
        tool = inspect.render(facts, [name], width=100)
        assert "Tool server_2__tool_0" in tool
        assert "server_2 (as tool_0)" in " ".join(tool.split())
    assert "Server gone: failed, it exited with code 1" in inspect.render(facts, ["gone", "server_0"])
    with pytest.raises(inspect.UnknownSubject, match=r"unknown server or tool 'sever_1'; did you mean server_1"):
        inspect.render(facts, ["server_0", "sever_1"])


@pytest.mark.parametrize(
    ("tools", "summary"),
    [
        ([], "0 tools"),
        ([("read", "annotation")], "1 tool: 1 read; annotations"),
        ([("write declared paths", "config"), ("touch nothing", "config")],
         "2 tools: 1 write declared paths, 1 touch nothing; config"),
        ([("declare nothing", "nothing said"), ("read", "annotation"), ("are not ordered", "off")],
         "3 tools: 1 read, 1 declare nothing, 1 are not ordered; annotations"),
    ],
)  # fmt: skip
def test_a_summary_counts_every_tool_once(tools: list[tuple[str, str]], summary: str):
    """By what it touches, and from where that is known."""
    facts = many(2, 0)
    limits = {"journal": True}
    facts["tools"] = [
        {"server": "server_0", "name": str(i), "touches": touches, "effect_source": source, "limits": limits}
        for i, (touches, source) in enumerate(tools)
    ]
    assert inspect.render(facts).splitlines()[1] == f"server_0  {summary}"


@on_virtual_time
async def test_the_details_of_the_only_server_need_no_name():
    """As with `inspect -- CMD`, where words are the command's."""
    async with bridge_over(toy_with("plain"), server=FILES) as bridge:
        text = inspect.render(inspect.report(bridge))
    assert "toy  1 tool: 1 declare nothing" in text
    assert "nothing said, not ordered" in text


@on_virtual_time
async def test_reads_that_are_barriers_are_counted_apart():
    """And the details say by which words they are."""
    hints = {"readOnlyHint": True}
    toy = toy_with("snapshot", "browser_wait_for", "sleep", snapshot=hints, browser_wait_for=hints, sleep=hints)
    async with bridge_over(toy) as bridge:
        facts = inspect.report(bridge)
        assert "3 tools: 1 read, 2 act as barriers; annotations" in inspect.render(facts, width=200)
        assert "its name says that it waits" in inspect.render(facts, ["toy"], width=200)


def test_a_long_source_is_not_folded_into_the_table():
    """A URL or a command line can be longer than the names of its servers."""
    facts = many(2, 1) | {"source": "https://example.com/a/long/path/mcp"}
    assert inspect.render(facts, width=80).splitlines()[0] == "Servers of https://example.com/a/long/path/mcp"


@on_virtual_time
async def test_an_engine_is_shown_without_its_secrets():
    """With the replica, and the servers that not every replica runs."""
    secrets = {"engine": "postgresql://bridge:pa%40sswd@db.example:5432/asyncfc?schema=team", "secret": "s" * 20}
    toys = [toy_with("plain"), Toy("other"), Toy("third")]
    owners = {"toy": None, "other": "left", "third": "any"}
    async with bridge_over(*toys) as bridge:
        servers = tuple(replace(server, owner=owners[server.name]) for server in bridge.config.servers)
        bridge.settings = Settings(replica="right", **secrets)
        bridge.config = replace(bridge.config, servers=servers, settings=bridge.settings)
        facts = inspect.report(bridge)
    engine = facts["engine"]
    assert engine["url"] == "postgresql://db.example:5432/asyncfc?…"
    assert (engine["kind"], engine["replica"], engine["common_secret"]) == ("postgres", "right", True)
    assert engine["owners"] == {"toy": "auto", "other": "left", "third": "any"}
    assert facts["settings"]["secret"] == "…"
    assert facts["settings"]["engine"] == engine["url"]
    text = inspect.render(facts)
    assert (
        f"Engine: {engine['url']}; this is replica right; toy at one replica at a time; other at replica left" in text
    )
    assert "Journal" not in text
    for shown in (json.dumps(facts), text):
        assert not [secret for secret in ("sswd", "ssss", "bridge@", "bridge:p") if secret in shown]
