"""Explanation of the ordering of two tools: their effects, the paths on which they conflict, and unknown effects.

Owns the text of `inspect --explain`. Claims neither an order nor an independence that does not follow from the
annotations and the configuration.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.tool_routes import ToolRoute
from asyncfc_mcp.core.effects import Effect, EffectTemplate, conflict

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
    """Return the source of a tool's effect, in words."""
    return effect.reason or SOURCES.get(effect.source, effect.source)


def unbound(route: ToolRoute) -> Effect:
    """Return the effect without arguments: a placeholder counts as its parent path."""
    return route.effect.bind_unknown()


def explain(bridge: Bridge, first: str, second: str) -> str:
    """Explain whether calls of two tools are ordered, by which paths, and how to change it.

    Raises:
        UnknownTool: one of the tools is not listed.
    """
    routes = {name: bridge.directory.route(name) for name in (first, second)}
    lines = [f"{name}: {route.effect.describe()} ({known_from(route.effect)})" for name, route in routes.items()]
    a, b = routes[first], routes[second]
    found = conflict(unbound(a), unbound(b))
    if found is None:
        return "\n".join([*lines, *_apart(bridge, routes)]) + "\n"
    mine, theirs = ("/".join(path) for path in found)
    lines.append(f"They can conflict: {first} at {mine}, {second} at {theirs}, and at least one of them writes there.")
    # Bind arguments that differ from each other and from every declared path: do the two still conflict?
    distinct = [
        route.effect.bind(dict.fromkeys(route.effect.placeholders, mark), lambda value: False)
        for route, mark in ((a, "\ue000a"), (b, "\ue000b"))
    ]
    if a.effect.placeholders | b.effect.placeholders and conflict(*distinct) is None:
        names = ", ".join(sorted(a.effect.placeholders | b.effect.placeholders))
        lines.append(f"They are ordered only where their arguments meet ({names}); otherwise they run concurrently.")
    else:
        lines.append("Whatever their arguments are, they run in the order in which they were submitted.")
    return "\n".join(lines) + "\n"


def _apart(bridge: Bridge, routes: Mapping[str, ToolRoute]) -> list[str]:
    """Return the reasons why two tools are not ordered."""
    lines: list[str] = []
    undeclared = [name for name, route in routes.items() if route.effect.source == "nothing said"]
    if undeclared:
        subject = "Both tools declare" if len(undeclared) == len(routes) > 1 else f"{undeclared[0]} declares"
        lines.append(f"{subject} no effects, so their order is not kept: they run concurrently.")
        several = len({route.entry.server for route in routes.values()}) > 1
        remedy = 'the same "state" on both servers' if several else '"ordering": "strict" on the server'
        lines.append(f'To keep an order, await each call, or declare the effects ("reads" and "writes", or {remedy}).')
        return lines
    if free := [name for name, route in routes.items() if route.effect.source == "off"]:
        lines.append(f'{" and ".join(free)}: not ordered, because of "ordering": "none".')
        lines.append("They run concurrently. To keep an order, await each call.")
        return lines
    lines.append("As declared, neither writes what the other touches: they run concurrently.")
    servers = list(dict.fromkeys(route.entry.server for route in routes.values()))
    touching = all(route.effect.reads or route.effect.writes for route in routes.values())
    if len(servers) > 1 and touching and any(route.effect.source != "config" for route in routes.values()):
        one, other = (bridge.directory.state_of(server) for server in servers)
        if not one.meets(other):
            lines.append(
                f"No shared state of {one.server} and {other.server} is declared. If they work on the same thing, give "
                'both the same "state"; for a folder, "files:" and the folder.'
            )
    return lines
