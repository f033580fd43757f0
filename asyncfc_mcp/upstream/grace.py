"""Grace: a short wait for the result of a tool that is usually quick, so that the result comes in place of a handle.

Owns the decision how long a call's answer waits. Leaves the waiting to `handle_calls`.
"""

from typing import Final

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.catalog import ToolEntry
from asyncfc_mcp.core.futures import Future, State

GRACE_MAX_CONCURRENT: Final = 64
"""Running calls of a tool known to be quick up to which its calls get grace. More are a burst, which is answered at
once, since each call that waits costs a task."""
GRACE_MAX_CONCURRENT_UNMEASURED: Final = 8
"""The same for a tool of which no duration has been measured yet."""


def is_under_way(bridge: Bridge, future: Future) -> bool:
    """Return whether a call is running, or is about to: where calls start some time after their submission, it waits
    for no other one."""
    if future.state is State.WAITING and not bridge.engine.submits_nowait:
        return not bridge.engine.waiting_for(future, 1)[0]
    return future.state is State.RUNNING


def grace_s(bridge: Bridge, entry: ToolEntry) -> float:
    """Return how long the answer to a call of this tool waits for its result, in seconds; 0 if it does not wait."""
    configured_s = entry.policy.grace_ms / 1000
    if configured_s <= 0:
        return 0.0
    median_s = bridge.engine.median_s(entry.name)
    if median_s is not None and median_s > configured_s:
        return 0.0
    most = GRACE_MAX_CONCURRENT_UNMEASURED if median_s is None else GRACE_MAX_CONCURRENT
    return configured_s if bridge.engine.running(entry.server, entry.tool) < most else 0.0
