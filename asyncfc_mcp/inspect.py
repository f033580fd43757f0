"""`asyncfc-mcp inspect`: what the bridge makes of the servers it was given, for people and for machines.

Connects to every server once, shows, and ends. Owns the words of that output; decides nothing.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, cast

import anyio
from rich.console import Console
from rich.table import Table

from asyncfc_mcp import explanation
from asyncfc_mcp.bridge import RESERVED, Bridge, Wiring
from asyncfc_mcp.explanation import known_from, unbound
from asyncfc_mcp.ordering import conflict

CONNECT_S: Final = 60.0
"""How long to wait for servers to come up."""
WIDE: Final = 120
"""Columns from which on the table has everything; a narrower terminal gets the names and the effects."""


def _conflicts(name: str, wirings: Mapping[str, Wiring]) -> list[str]:
    mine = unbound(wirings[name])
    return [other for other, wiring in wirings.items() if conflict(mine, unbound(wiring)) is not None]


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
                "effect_from": known_from(wiring.effect),
                "in_turn_with": against,
                "limits": _limits(wiring, bridge.downstreams[entry.server].config.max_concurrency),
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


def render(facts: Mapping[str, Any], width: int | None = None) -> str:
    """The report as tables."""
    screen = Console()
    # Into a pipe nothing is folded, so that names can be searched for.
    room = width or (screen.width if screen.is_terminal else 10_000)
    # Names and reasons are others' words: "[/data]" in one is no markup.
    console = Console(file=io.StringIO(), width=room, highlight=False, color_system=None, markup=False, emoji=False)
    servers = Table(title=f"Servers of {facts['source']}", title_justify="left", box=None, pad_edge=False)
    for heading in ("Server", "Status", "Protocol", "Tools", "Prompts", "Resources"):
        right = heading in ("Tools", "Prompts", "Resources")
        servers.add_column(heading, justify="right" if right else "left", overflow="fold")
    for server in facts["servers"]:
        servers.add_row(
            server["name"], server["status"], server["protocol"] or "-",
            str(server["tools"]), str(server["prompts"]), str(server["resources"]),
        )  # fmt: skip
    console.print(servers)
    for server in facts["servers"]:
        if server["reason"]:
            console.print(f"  {server['name']}: {server['reason']}")
    console.print()
    tools = Table(title="Tools", title_justify="left", box=None, pad_edge=False)
    narrow = console.width < WIDE
    tools.add_column("Name", no_wrap=not narrow, overflow="fold")
    for heading in ("Effect",) if narrow else ("Server", "Mode", "Effect", "Known from", "Takes turns with", "Notes"):
        tools.add_column(heading, overflow="fold")
    for tool in facts["tools"]:
        limits = tool["limits"]
        notes = [
            *(f"at most {limits['max_concurrency']} at a time" for _ in [0] if limits["max_concurrency"]),
            *(f"{limits['timeout_s']:g} s limit" for _ in [0] if limits["timeout_s"]),
            *tool["notes"],
        ]
        turns = _few(tool["in_turn_with"], len(facts["tools"]))
        if narrow:  # a name that is cut in two cannot be copied; the rest is in --json
            mode = "" if tool["mode"] == "future" else f"{tool['mode']}; "
            tools.add_row(tool["name"], "; ".join([f"{mode}{tool['effect']} ({tool['effect_from']})", *notes]))
            continue
        row = (tool["server"], tool["mode"], tool["effect"] or "-", tool["effect_from"], turns, "; ".join(notes))
        tools.add_row(tool["name"], *row)
    console.print(tools)
    console.print()
    console.print(f"Tools of the bridge itself: {', '.join(facts['meta_tools'])}")
    silent = [tool["name"] for tool in facts["tools"] if tool["effect_from"] == "nothing said"]
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
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n".join(text.rstrip() for text in output.getvalue().splitlines()) + "\n"


async def run(bridge: Bridge, *, as_json: bool, explain: tuple[str, str] | None) -> tuple[str, bool]:
    """Connect, and return what to print and whether every server is up.

    Raises:
        UnknownTool: `explain` names a tool that is not listed.
    """
    bridge.introduce({})
    async with bridge.open():
        with anyio.move_on_after(CONNECT_S):
            for downstream in bridge.downstreams.values():
                await downstream.settled()
        facts = report(bridge)
    # Not in the block: what is raised there comes out in a group.
    healthy = all(server["status"] == "ready" for server in facts["servers"])
    if explain is not None:
        return _explained(bridge, explain), healthy
    return (json.dumps(facts, indent=2, ensure_ascii=False) + "\n" if as_json else render(facts)), healthy


def _explained(bridge: Bridge, tools: tuple[str, str]) -> str:
    return explanation.explain(bridge, *tools)
