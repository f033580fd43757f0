"""Events that are set more than once. anyio's `Event` is set once and for all.

Owns waking waiters. What has changed is the caller's to look up after each wake-up.
"""

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel


class Signal:
    """Wakes all waiters of the moment, as a condition without a lock does."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify_all(self) -> None:
        """Wake every task that waits at this moment."""
        if self._event is not None:
            event, self._event = self._event, None
            event.set()

    async def wait(self) -> None:
        """Wait for the next `notify_all`; an earlier one does not count."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


class WakeUp:
    """Wakes its one consumer; resets itself when the consumer is woken. Being set while nothing waits counts."""

    __slots__ = ("_event", "_set")

    def __init__(self) -> None:
        self._set = False
        self._event: anyio.Event | None = None

    def set(self) -> None:
        self._set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Return once it has been set since the last return."""
        if self._set:
            await anyio.lowlevel.checkpoint()
        else:
            self._event = anyio.Event()
            try:
                await self._event.wait()
            finally:
                self._event = None
        self._set = False


def soon_from_thread(callback: Callable[[], None]) -> Callable[[], None]:
    """Return a function that any thread may call, and that has `callback` called in the event loop of this moment soon.
    It does nothing once the loop is closed.

    anyio has this only with a thread that waits for the call to return (`from_thread.run_sync`).
    """
    loop: Any = anyio.lowlevel.current_token().native_token
    if hasattr(loop, "call_soon_threadsafe"):
        # anyio finds its event loop by the context, and asyncio would take that of the thread.
        schedule = partial(loop.call_soon_threadsafe, context=copy_context())
    else:
        schedule = loop.run_sync_soon

    def soon() -> None:
        try:
            schedule(callback)
        except RuntimeError:  # asyncio: the loop is closed; trio's RunFinishedError is one as well
            pass

    return soon
