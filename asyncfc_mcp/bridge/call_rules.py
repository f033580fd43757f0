"""Rules that hold for the calls of the listed tools, as far as models must know them: order, and arguments of ours.

Pure. Owns the summary only; the effect of each tool is its route's.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from asyncfc_mcp.bridge.tool_routes import ToolRoute


@dataclass(frozen=True, slots=True)
class CallRules:
    """What holds for the tools of one catalog.

    Attributes:
        complete: false if servers may list further tools, of which nothing is known.
        ordered: there are tools whose calls keep an order.
        unordered: servers with tools whose calls keep none, although they may have effects.
        undeclared: such tools declare nothing; otherwise ordering is off for them.
        names, after, wait: there are tools that take `_as`, `_after`, `_wait`.
        references: there are tools whose arguments may be futures.
    """

    complete: bool = False
    ordered: bool = True
    unordered: tuple[str, ...] = ()
    undeclared: bool = True
    names: bool = True
    after: bool = True
    wait: bool = True
    references: bool = True


def call_rules(routes: Iterable[ToolRoute], *, complete: bool) -> CallRules:
    """Summarise the tools behind these routes.

    Args:
        complete: the listings of all servers are known.
    """
    routes = list(routes)
    if not routes:
        return CallRules(complete)
    entries = [route.entry for route in routes]
    unordered = [route for route in routes if route.effect.source in ("nothing said", "off")]
    return CallRules(
        complete,
        any(route.ordered for route in routes),
        tuple(dict.fromkeys(route.entry.server for route in unordered)),
        any(route.effect.source == "nothing said" for route in unordered),
        any(entry.takes_as for entry in entries),
        any(entry.takes_after for entry in entries),
        any(entry.takes_wait for entry in entries),
        any(entry.policy.references != "off" and entry.policy.mode != "sync" for entry in entries),
    )
