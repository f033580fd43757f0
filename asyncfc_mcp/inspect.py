"""`asyncfc-mcp inspect`: what the bridge makes of the servers it was given, for people and for machines.

Connects to every server once, shows, and ends. Owns the words of that output; decides nothing.
"""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, cast

import anyio
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from asyncfc_mcp import explanation
from asyncfc_mcp.bridge import RESERVED, Bridge, Wiring
from asyncfc_mcp.errors import BridgeError, nearest
from asyncfc_mcp.explanation import known_from, unbound
from asyncfc_mcp.offers import LISTINGS
from asyncfc_mcp.ordering import conflict

CONNECT_S: Final = 60.0
"""How long to wait for servers to come up."""
LISTINGS_S: Final = 10.0
"""How long to wait for what servers that are up have beside tools."""
WIDE: Final = 120
"""Columns from which on the table has everything; a narrower terminal gets the names and the effects."""


class UnknownSubject(BridgeError):
    """No server and no tool has the name whose details were asked for."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        close = nearest(name, known)
        hint = f"did you mean {', '.join(close)}?" if close else f"the servers are {', '.join(known[:20])}"
        super().__init__(f"there is no server or tool {name!r}; {hint}")


def _conflicts(name: str, wirings: Mapping[str, Wiring]) -> list[str]:
    mine = unbound(wirings[name])
    return [other for other, wiring in wirings.items() if conflict(mine, unbound(wiring)) is not None]


def _touches(wiring: Wiring) -> str:
    """The effect in one of few words, by which a server's tools are counted."""
    effect = wiring.effect
    if effect.source == "barrier":
        return "take turns with all of it"
    if effect.writes:
        return "write declared paths" if effect.source == "config" else "write all of it"
    if effect.reads:
        return "read"
    return {"config": "touch nothing", "off": "are not ordered"}.get(effect.source, "say nothing")


def _limits(wiring: Wiring, server_limit: int | None) -> dict[str, Any]:
    policy = wiring.entry.policy
    return {
        "max_concurrency": policy.max_concurrency,
        "server_max_concurrency": server_limit,
        "timeout_s": policy.timeout_s,
        "grace_ms": policy.grace_ms,
        "retries": policy.retries if wiring.entry.repeatable else 0,
        "single_flight": policy.single_flight and wiring.entry.read_only,
        "on_failure": policy.on_failure if wiring.effect.source == "config" else "continue",
        "references": policy.references,
        "names": wiring.entry.takes_as,
        "wait": wiring.entry.takes_wait,
        "max_message_bytes": policy.max_message_bytes,
        "max_argument_bytes": policy.max_argument_bytes,
    }


def report(bridge: Bridge) -> dict[str, Any]:
    """Everything that `inspect` knows, as JSON."""
    wirings = {name: bridge.wiring(name) for name in bridge.catalog.tools}
    tools: list[dict[str, Any]] = []
    for name, wiring in wirings.items():
        entry = wiring.entry
        against = _conflicts(name, wirings)
        tools.append(
            {
                "name": name,
                "server": entry.server,
                "tool": entry.tool,
                "mode": entry.policy.mode,
                "effect": wiring.effect.describe(),
                "touches": _touches(wiring),
                "effect_from": known_from(wiring.effect),
                "effect_source": wiring.effect.source,
                "in_turn_with": against,
                "limits": _limits(wiring, bridge.downstreams[entry.server].config.limit),
                "notes": list(entry.notes),
            }
        )
    servers: list[dict[str, Any]] = [
        {
            "name": name,
            "status": downstream.status.value,
            "reason": downstream.reason,
            "protocol": downstream.offer.protocol_version,
            "tools": sum(tool["server"] == name for tool in tools),
            "prompts": sum(prompt.server == name for prompt in bridge.catalog.prompts.values()),
            "resources": sum(server == name for server, _ in bridge.catalog.resources.values()),
        }
        for name, downstream in bridge.downstreams.items()
    ]
    servers += [
        {"name": it.name, "status": "misconfigured", "reason": it.reason, "protocol": "",
         "tools": 0, "prompts": 0, "resources": 0}
        for it in bridge.config.unusable
    ]  # fmt: skip
    return {
        "source": bridge.config.source,
        "servers": servers,
        "tools": tools,
        "prompts": [
            {"name": prompt.name, "server": prompt.server, "prompt": prompt.prompt}
            for prompt in bridge.catalog.prompts.values()
        ],
        "meta_tools": list(RESERVED),
        "settings": {key: _plain(value) for key, value in asdict(bridge.settings).items()},
        "warnings": list(bridge.config.warnings),
        "notes": bridge.notes(),
    }


def _plain(value: Any) -> Any:
    return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value


def _few(names: Sequence[str], total: int) -> str:
    if not names:
        return "nothing"
    if len(names) == total:
        return "everything"
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


KINDS: Final = (
    "read", "take turns with all of it", "write all of it", "write declared paths", "touch nothing", "say nothing",
    "are not ordered",
)  # fmt: skip
"""What `_touches` gives, in the order in which a summary counts it."""
ORIGINS: Final[Mapping[str, str]] = {
    "annotation": "annotations",
    "barrier": "",
    "strict": 'ordering "strict"',
    "state": '"state"',
    "nothing said": "",
    "off": "",
}
"""Sources of effects as a summary names them; the others as they are."""


def _summary(server: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> str:
    """A server in a few words, such as `14 tools: 10 read, 4 write all of it; annotations`."""
    counts = Counter(tool["touches"] for tool in tools)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    sources = dict.fromkeys(ORIGINS.get(tool["effect_source"], tool["effect_source"]) for tool in tools)
    text = _counted(len(tools), "tool") + (f": {kinds}" if kinds else "")
    if origins := ", ".join(source for source in sources if source):
        text += f"; {origins}"
    for noun in ("prompt", "resource"):
        if server[f"{noun}s"]:
            text += f"; {_counted(server[f'{noun}s'], noun)}"
    if server["status"] == "ready":
        return text
    return f"{server['status']}; its tools when it was last up: {text}" if tools else server["status"]


def _chosen(facts: Mapping[str, Any], names: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """The servers whose tools are shown, and the tools that are shown one by one.

    Raises:
        UnknownSubject: nothing has one of the names.
    """
    servers = {server["name"]: server for server in facts["servers"]}
    wanted: list[Any] = []
    tools: list[Any] = []
    for name in names:
        same = [tool for tool in facts["tools"] if name in (tool["name"], tool["tool"])]
        if name in servers:
            wanted.append(servers[name])
        elif same:
            tools += same
        else:
            raise UnknownSubject(name, [*servers, *(tool["name"] for tool in facts["tools"])])
    return (wanted, tools) if names or len(servers) > 1 else (list(servers.values()), [])


def render(facts: Mapping[str, Any], names: Sequence[str] = (), width: int | None = None) -> str:
    """The report for people: a line for each server, and the details of those that are named (or of the only one).

    Raises:
        UnknownSubject: nothing has one of the names.
    """
    screen = Console()
    # Into a pipe nothing is folded, so that names can be searched for.
    room = width or (screen.width if screen.is_terminal else 10_000)
    # Names and reasons are others' words: "[/data]" in one is no markup.
    console = Console(file=io.StringIO(), width=room, highlight=False, color_system=None, markup=False, emoji=False)
    servers, tools = _chosen(facts, names)
    if not names:
        _overview(console, facts)
    for server in servers:
        _server(console, server, facts, with_reason=bool(names))
    for tool in tools:
        _tool(console, tool)
    if not names:
        _remarks(console, facts)
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n".join(text.rstrip() for text in output.getvalue().strip("\n").splitlines()) + "\n"


def _overview(console: Console, facts: Mapping[str, Any]) -> None:
    console.print(f"Servers of {facts['source']}")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for server in facts["servers"]:
        own = [tool for tool in facts["tools"] if tool["server"] == server["name"]]
        table.add_row(server["name"], _summary(server, own))
    console.print(table)
    if troubled := [server for server in facts["servers"] if server["reason"]]:
        console.print("\nNot available")
        for server in troubled:
            console.print(Padding(f"{server['name']}: {server['reason']}", (0, 0, 0, 2)))


def _server(console: Console, server: Mapping[str, Any], facts: Mapping[str, Any], *, with_reason: bool) -> None:
    """Every tool of one server."""
    state = [server["status"], server["protocol"], server["reason"] if with_reason else ""]
    console.print(f"\nServer {server['name']}: {', '.join(filter(None, state))}")
    if not server["tools"]:
        return
    table = Table(title="Tools", title_justify="left", box=None, pad_edge=False)
    narrow = console.width < WIDE
    table.add_column("Name", no_wrap=not narrow, overflow="fold")
    for heading in ("Effect",) if narrow else ("Mode", "Effect", "Known from", "Takes turns with", "Notes"):
        table.add_column(heading, overflow="fold")
    for tool in facts["tools"]:
        if tool["server"] != server["name"]:
            continue
        notes = _notes(tool)
        if narrow:  # a name that is cut in two cannot be copied
            mode = "" if tool["mode"] == "future" else f"{tool['mode']}; "
            table.add_row(tool["name"], "; ".join([f"{mode}{tool['effect']} ({tool['effect_from']})", *notes]))
            continue
        turns = _few(tool["in_turn_with"], len(facts["tools"]))
        row = (tool["mode"], tool["effect"] or "-", tool["effect_from"], turns, "; ".join(notes))
        table.add_row(tool["name"], *row)
    console.print(table)


def _notes(tool: Mapping[str, Any]) -> list[str]:
    limits = tool["limits"]
    notes = list(tool["notes"])
    if limits["timeout_s"]:
        notes.insert(0, f"{limits['timeout_s']:g} s limit")
    if limits["max_concurrency"]:
        notes.insert(0, f"at most {limits['max_concurrency']} at a time")
    return notes


def _tool(console: Console, tool: Mapping[str, Any]) -> None:
    """Everything of one tool."""
    table = Table(title=f"\nTool {tool['name']}", title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("server", f"{tool['server']} (there: {tool['tool']})")
    table.add_row("mode", tool["mode"])
    table.add_row("effect", f"{tool['effect'] or 'touches nothing'} ({tool['effect_from']})")
    table.add_row("takes turns with", ", ".join(tool["in_turn_with"]) or "nothing")
    for name, value in tool["limits"].items():
        table.add_row(name, "none" if value is None else str(value))
    for note in tool["notes"]:
        table.add_row("note", note)
    console.print(table)


def _remarks(console: Console, facts: Mapping[str, Any]) -> None:
    console.print(f"\nTools of the bridge itself: {', '.join(facts['meta_tools'])}")
    silent = [tool["name"] for tool in facts["tools"] if tool["effect_source"] == "nothing said"]
    if silent:
        subject = (
            "1 tool says nothing of what it changes and runs"
            if len(silent) == 1
            else (f"{len(silent)} tools say nothing of what they change and run")
        )
        console.print(
            f"{subject} at the same time as everything else. "
            'If order matters to them, declare "reads" and "writes", or set "ordering": "strict" on their server.'
        )
    for note in (*facts["warnings"], *facts["notes"]):
        console.print(f"Note: {note}")
    if len(facts["servers"]) > 1:
        console.print("Details: add the name of a server or of a tool to the command.")


async def run(
    bridge: Bridge, *, as_json: bool, explain: tuple[str, str] | None, names: Sequence[str] = ()
) -> tuple[str, bool]:
    """Connect, and return what to print and whether every server is up.

    Args:
        names: servers and tools whose details are shown; JSON always has everything.

    Raises:
        UnknownTool: `explain` names a tool that is not listed.
        UnknownSubject: nothing has one of the names.
    """
    bridge.introduce({})
    bridge.starts.answered()
    async with bridge.open():
        with anyio.move_on_after(CONNECT_S):
            for downstream in bridge.downstreams.values():
                await downstream.settled()
        with anyio.move_on_after(LISTINGS_S):
            for downstream in bridge.downstreams.values():
                await downstream.listed(LISTINGS)
        facts = report(bridge)
    # Not in the block: what is raised there comes out in a group.
    healthy = all(server["status"] == "ready" for server in facts["servers"])
    if explain is not None:
        return _explained(bridge, explain), healthy
    return (json.dumps(facts, indent=2, ensure_ascii=False) + "\n" if as_json else render(facts, names)), healthy


def _explained(bridge: Bridge, tools: tuple[str, str]) -> str:
    return explanation.explain(bridge, *tools)
