"""The order of two tools in words: what is known of their effects, by what they conflict, and what is not known.

Owns the text of `inspect --explain`. Claims neither an order nor an independence that does not follow from what servers
and the configuration say.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from asyncfc_mcp.bridge import Bridge, Wiring
from asyncfc_mcp.ordering import Effect, EffectTemplate, conflict

SOURCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "config": "config",
        "annotation": "annotation",
        "strict": 'nothing said; ordering "strict"',
        "nothing said": "nothing said",
        "state": 'nothing said; the server has a "state"',
        "off": 'ordering "none"',
    }
)


def known_from(effect: EffectTemplate) -> str:
    """The source of a tool's effect, in words."""
    return effect.reason or SOURCES.get(effect.source, effect.source)


def unbound(wiring: Wiring) -> Effect:
    """The effect while no argument is known: a placeholder stands for its parent path."""
    return wiring.effect.bind({}, lambda value: False)


def explain(bridge: Bridge, first: str, second: str) -> str:
    """Whether calls of two tools keep their order, by which paths, and what would change it.

    Raises:
        UnknownTool: one of them is not listed.
    """
    wirings = {name: bridge.wiring(name) for name in (first, second)}
    lines = [f"{name}: {wiring.effect.describe()} ({known_from(wiring.effect)})" for name, wiring in wirings.items()]
    a, b = wirings[first], wirings[second]
    found = conflict(unbound(a), unbound(b))
    if found is None:
        return "\n".join([*lines, *_apart(bridge, wirings)]) + "\n"
    mine, theirs = ("/".join(path) for path in found)
    lines.append(f"They can conflict: {first} at {mine}, {second} at {theirs}, and at least one of them writes there.")
    # With arguments that differ everywhere, from each other and from all that is declared, are the two kept apart?
    distinct = [
        wiring.effect.bind(dict.fromkeys(wiring.effect.placeholders, mark), lambda value: False)
        for wiring, mark in ((a, "\ue000a"), (b, "\ue000b"))
    ]
    if a.effect.placeholders | b.effect.placeholders and conflict(*distinct) is None:
        names = ", ".join(sorted(a.effect.placeholders | b.effect.placeholders))
        lines.append(f"Only where their arguments meet ({names}): otherwise they run at the same time.")
    else:
        lines.append("Whatever their arguments are, they run in the order in which they were submitted.")
    return "\n".join(lines) + "\n"


def _apart(bridge: Bridge, wirings: Mapping[str, Wiring]) -> list[str]:
    """The reasons why two tools are not ordered."""
    lines: list[str] = []
    silent = [name for name, wiring in wirings.items() if wiring.effect.source == "nothing said"]
    if silent:
        what = "they touch" if len(silent) == len(wirings) > 1 else f"{silent[0]} touches"
        lines.append(f"Nothing is known of what {what}, so their order is not kept: they run at the same time.")
        several = len({wiring.entry.server for wiring in wirings.values()}) > 1
        remedy = 'the same "state" on both servers' if several else '"ordering": "strict" on the server'
        lines.append(
            "Calls that belong in order must be awaited, or their effects declared "
            f'("reads" and "writes", or {remedy}).'
        )
        return lines
    if free := [name for name, wiring in wirings.items() if wiring.effect.source == "off"]:
        lines.append(f'{" and ".join(free)}: not ordered, by "ordering": "none", whatever is touched.')
        lines.append("They run at the same time: calls that belong in order must be awaited.")
        return lines
    lines.append("By what is known neither writes what the other touches: they run at the same time.")
    servers = list(dict.fromkeys(wiring.entry.server for wiring in wirings.values()))
    touching = all(wiring.effect.reads or wiring.effect.writes for wiring in wirings.values())
    if len(servers) > 1 and touching and any(wiring.effect.source != "config" for wiring in wirings.values()):
        one, other = (bridge.state_of(server) for server in servers)
        if not one.meets(other):
            lines.append(
                f"{one.server} and {other.server} have no common state, as far as is known. If they work on one thing, "
                'give both the same "state"; where that is a folder, "files:" and the folder.'
            )
    return lines
