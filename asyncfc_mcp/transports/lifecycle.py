"""Start and end of a bridge, for all transports.

Owns the drain: after the end of input, or a first SIGTERM over HTTP, accepted requests and calls are finished within
`drain_s`. Owns signals, which otherwise cancel everything, a drain included. Leaves connections to the transports.
"""

import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.abc

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.core.access import AccessRules
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import NotDrained
from asyncfc_mcp.quotation import said

logger = logging.getLogger(__name__)

LAST_ANSWERS_S: Final = 1.0
"""Time limit for the responses to requests whose calls were cancelled at the end of a drain."""
WAITS_SHARE: Final = 0.9
"""Share of `drain_s` after which waits of clients end, so that each is answered with the state of its calls."""
LOOK_AGAIN_S: Final = 0.25
"""Interval in which running calls are looked at: one that asks a question may be left to the next run."""


async def drain(bridge: Bridge, answered: Callable[[], Awaitable[None]]) -> None:
    """Finish the requests and accepted calls of a client that has closed our input.

    Questions cannot be answered any longer, so a call that asks one fails. Calls that are left after `drain_s` are
    cancelled, except those that the next run resumes.

    Args:
        answered: returns when every request has its response.
    """
    drain_s, engine = bridge.settings.drain_s, bridge.engine
    bridge.stopping.begun = True
    if drain_s <= 0:
        return
    engine.stop_asking()
    with anyio.move_on_after(drain_s):
        await answered()
        # Every call was submitted before its request was answered, so there will be no new ones.
        await _finish(engine)
        if not engine.submits_nowait:
            engine.hold_nowait()  # calls of other replicas, which this one makes as well
            await _finish(engine)
        return
    _cancel_the_rest(engine, drain_s)
    with anyio.move_on_after(LAST_ANSWERS_S):
        await answered()


async def hand_over(bridge: Bridge, answered: Callable[[], Awaitable[None]]) -> None:
    """Finish the requests and running calls of a bridge that is to stop while its clients stay connected, and so can
    answer questions. Calls that wait are left to the next run, or to other replicas, once no request needs them. Calls
    that are left after `drain_s` are cancelled, except those.

    Args:
        answered: returns when every request has its response; there are no new ones.
    """
    drain_s, engine = bridge.settings.drain_s, bridge.engine
    bridge.stopping.begun = True
    if drain_s <= 0:
        return
    bridge.stopping.announce(anyio.current_time() + WAITS_SHARE * drain_s)
    if not engine.submits_nowait:
        engine.hold_nowait()  # other replicas start what waits, also while requests wait for it here
    with anyio.move_on_after(drain_s):
        await answered()
        while calls := [call.future for call in engine.unfinished if not engine.is_resumed_nowait(call)]:
            if all(future.state is not State.WAITING for future in calls):
                engine.hold_nowait()  # their ends must not start what the next run can start
            with anyio.move_on_after(LOOK_AGAIN_S):
                await engine.wait(calls)
        engine.hold_nowait()
        return
    _cancel_the_rest(engine, drain_s)
    with anyio.move_on_after(LAST_ANSWERS_S):
        await answered()


async def _finish(engine: Engine) -> None:
    """Return when no call is left that can end now."""
    while calls := [call.future for call in engine.unfinished if not _asks_later(engine, call)]:
        await engine.wait(calls)


def _asks_later(engine: Engine, call: Call) -> bool:
    """Return true for a call whose questions are left to the next run."""
    return call.future.state is not State.WAITING and engine.is_resumed_nowait(call)


def _cancel_the_rest(engine: Engine, drain_s: float) -> None:
    engine.hold_nowait()
    calls = [call for call in engine.unfinished if not engine.is_resumed_nowait(call)]
    if calls:
        logger.warning(
            "%d calls were unfinished after %g s (drain_s) and were cancelled: %s",
            len(calls),
            drain_s,
            ", ".join(f"{call.future.id} {call.future.tool}" for call in calls[:10]),
        )
    # Waiting calls first, the newest of them first, so that the end of none starts another.
    waiting = [call for call in reversed(calls) if call.future.state is State.WAITING]
    for call in (*waiting, *calls):
        if not (call.future.done or engine.is_resumed_nowait(call)):
            engine.abort_nowait(call, NotDrained(call.future.tool, drain_s, sent=call.sent))


@asynccontextmanager
async def stop_on_signals(
    terminate: Callable[[], bool] | None = None, hang_up: Callable[[], bool] | None = None
) -> AsyncGenerator[None]:
    """Cancel the body on SIGINT, SIGTERM and SIGHUP, so that it is cleaned up.

    Args:
        terminate: called on the first SIGTERM; true if it lets the body end by itself, until another signal.
        hang_up: called on SIGHUP; true if that ends nothing.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    # Under nohup, a bridge must outlive its terminal.
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    terminate_once = [] if terminate is None else [terminate]
    async with anyio.create_task_group() as tg:

        async def watch(*, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
            with anyio.open_signal_receiver(*numbers) as signals:
                task_status.started()
                async for number in signals:
                    others = number not in (signal.SIGINT, signal.SIGTERM)
                    if others and hang_up is not None and hang_up():
                        continue
                    logger.info("stopping on %s", number.name)
                    asked, terminate_once[:] = terminate_once[:], []
                    if not (number is signal.SIGTERM and any(each() for each in asked)):
                        tg.cancel_scope.cancel()

        await tg.start(watch)
        yield
        tg.cancel_scope.cancel()


def reload_on_hang_up(bridge: Bridge) -> Callable[[], bool]:
    """Return what SIGHUP does: the file of the configuration is read again, as by other servers of the system. Without
    a file it ends the bridge, as does the end of the terminal from which the bridge was started; and one that is ending
    ends at once."""
    had_terminal = _has_terminal()

    def hang_up() -> bool:
        if bridge.config_file is None or bridge.stopping.begun or (had_terminal and not _has_terminal()):
            return False
        bridge.config_file.reload_soon()
        return True

    return hang_up


def _has_terminal() -> bool:
    """Return whether the process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except (OSError, AttributeError):
        return False
    return True


def warn_of_useless_access(settings: Settings, people: Collection[str] = (), *, tokens: bool = False) -> None:
    """Log a line about entries of `access` that apply to nobody who can use this endpoint.

    Args:
        people, tokens: see `AccessRules.useless`.
    """
    useless = [] if settings.access is None else AccessRules(settings.access).useless(people=people, tokens=tokens)
    if useless:
        logger.warning(
            "asyncfc.access: %s: no principal of that name, or with that scope, can use this bridge as it was started "
            "(--auth-tokens, --auth-jwt)",
            ", ".join(map(said, useless[:10])),
        )


async def warn_of_unordered_tools(bridge: Bridge) -> None:
    """Log one line at start-up about tools that are not ordered."""
    await bridge.started()
    silent = bridge.directory.unannotated_tools()
    if silent:
        logger.warning(
            "%d of %d tools declare no effects and are not ordered: they run concurrently with everything else "
            "(see inspect)",
            len(silent),
            len(bridge.directory.catalog.tools),
        )
