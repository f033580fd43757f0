"""Reasons for which a submitted call has not started: the nearest calls that it waits for, or capacity.

Pure and bounded: it runs once for each answer that shows a waiting call, and once for each call that has to wait.
Leaves the order itself to `scheduler` and
`core.state_tree`, and what a client may see to `reasons`.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Final

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import id_of
from asyncfc_mcp.core.state_tree import StateTree
from asyncfc_mcp.core.waits import Wait, WaitKind
from asyncfc_mcp.engine.api import FOLLOWS, NEEDS_RESULT
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.reasons import FOREIGN, is_visible
from asyncfc_mcp.quotation import shortened

CAPACITY: Final = ("capacity",)
"""Stands for the calls that a call waits for where it only lacks a place at its server or tool."""
PATH_LENGTH: Final = 300
"""Maximum characters of a state path in a reason."""
_NEAREST_OF_OTHERS: Final = 3
"""Bound on the calls in the order of the state that are followed from one call to those that it waits for."""


def blockers(call: Call, calls: Mapping[str, Call], tree: StateTree, limit: int) -> tuple[tuple[str, ...], str]:
    """Return the IDs of the calls that a waiting call waits for, without those that others of them wait for, and the
    reason in a few words; at most `limit` IDs and one more.

    Args:
        calls: unfinished calls by key of their future.
    """
    needed = sorted(call.unmet_dependencies, key=lambda key: _by_number(id_of(key)))
    queued = tree.nearest(call.future.key, limit) if _has_to_queue(call, tree) else []
    if not needed and not queued:
        return CAPACITY, "max_concurrency"
    behind = _behind([*needed, *(key for key, _ in queued)], calls, tree, limit)
    names: dict[str, None] = {}
    reasons: dict[str, None] = {}
    for key in needed:
        if key not in behind:
            names[id_of(key)] = None
            reasons[NEEDS_RESULT if key in call.sources else FOLLOWS] = None
    for key, path in queued:
        if key not in behind and id_of(key) not in names:
            names[_name(calls[key].future, call.future)] = None
            if len(reasons) < 2:
                reasons.setdefault(f"same state {_shown('/'.join(path), call, calls[key])}")
    return tuple(sorted(islice(names, limit + 1), key=_by_number)), "; ".join(reasons)


def waits(call: Call, calls: Mapping[str, Call], tree: StateTree, limit: int) -> tuple[Wait, ...]:
    """Return what a call that was just submitted waits for, each directly: the calls whose values it takes, those that
    it follows, and the nearest before it in the order of the state; at most `limit` and one more of each.

    Args:
        calls: unfinished calls by key of their future.
    """
    needed = sorted(call.unmet_dependencies, key=lambda key: _by_number(id_of(key)))[: limit + 1]
    found = [Wait(WaitKind.VALUE if key in call.sources else WaitKind.AFTER, id_of(key)) for key in needed]
    if _has_to_queue(call, tree):
        for key, path in tree.nearest(call.future.key, limit):
            other = calls[key]
            found.append(Wait(WaitKind.STATE, _name(other.future, call.future), _shown("/".join(path), call, other)))
    return tuple(found)


def wait_for_place(call: Call, freed_by: Call) -> Wait:
    """Return the wait of a call that another one's end has given its place."""
    return Wait(WaitKind.CAPACITY, _name(freed_by.future, call.future))


def _shown(path: str, *calls: Call) -> str:
    """Return a state path without values that the configuration puts into the arguments of these calls, and of bounded
    length: arguments give it, and each waiting call has a copy."""
    for call in calls:
        if call.preset is not None:
            path = call.preset.without_secrets(path)
    return shortened(path, PATH_LENGTH)


def _has_to_queue(call: Call, tree: StateTree) -> bool:
    return call.ordered and not tree.ready(call.future.key)


def _behind(keys: list[str], calls: Mapping[str, Call], tree: StateTree, limit: int) -> set[str]:
    """Return the keys of calls that these wait for, directly or not, as far as `limit` steps show them."""
    found: set[str] = set()
    if len(keys) < 2:
        return found
    todo = keys[: limit + 1]
    for _ in range(2 * limit):
        if not todo:
            break
        call = calls.get(todo.pop())
        if call is None:
            continue
        below = [*islice(call.unmet_dependencies, limit)]
        if _has_to_queue(call, tree):
            below += [key for key, _ in tree.nearest(call.future.key, _NEAREST_OF_OTHERS)]
        new = [key for key in below if key not in found]
        found.update(new)
        todo += new
    return found


def _name(other: Future, future: Future) -> str:
    return other.id if is_visible(other, future) else FOREIGN


def _by_number(name: str) -> tuple[int, str]:
    """Return a sort key by which IDs are in order of submission."""
    return len(name), name
