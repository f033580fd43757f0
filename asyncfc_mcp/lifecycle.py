"""The end of a bridge whose client has closed its input: what was accepted is finished first.

Owns the order of that end and its time limit, `drain_s`. Refuses to know what carries messages. Signals do not pass
through here: they cancel everything, a drain included.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from asyncfc_mcp.bridge import Bridge
from asyncfc_mcp.errors import NotDrained
from asyncfc_mcp.futures import State
from asyncfc_mcp.scheduler import Scheduler, wait_for

logger = logging.getLogger(__name__)

LAST_ANSWERS_S: Final = 1.0
"""Time for requests to be answered whose calls were cancelled at the end of a drain."""


async def drain(bridge: Bridge, answered: Callable[[], Awaitable[None]]) -> None:
    """Finish what a client asked for that has closed its input: its requests, and every call that was accepted.

    Questions can be answered no longer, so a call that asks one fails. What is left after `drain_s` is cancelled.

    Args:
        answered: returns when no request waits for its answer any more.
    """
    drain_s, scheduler = bridge.settings.drain_s, bridge.scheduler
    if drain_s <= 0:
        return
    bridge.questions.close()
    with anyio.move_on_after(drain_s):
        await answered()
        # A call that was submitted when its request was answered, or before: nothing new comes.
        while calls := scheduler.unfinished:
            await wait_for([call.future for call in calls])
        return
    _cancel_the_rest(scheduler, drain_s)
    with anyio.move_on_after(LAST_ANSWERS_S):
        await answered()


def _cancel_the_rest(scheduler: Scheduler, drain_s: float) -> None:
    calls = scheduler.unfinished
    if calls:
        logger.warning(
            "%d calls had not ended %g s after the end of input (drain_s) and are cancelled: %s",
            len(calls),
            drain_s,
            ", ".join(f"{call.future.id} {call.future.tool}" for call in calls[:10]),
        )
    # Those that wait first, and of these the newest, so that the end of none starts another.
    waiting = [call for call in reversed(calls) if call.future.state is State.WAITING]
    for call in (*waiting, *calls):
        if not call.future.done:
            scheduler.abort(call, NotDrained(call.future.tool, drain_s, sent=call.sent))
