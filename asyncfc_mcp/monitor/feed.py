"""Feed: what changes in the record of calls, as events for one reader.

Owns the pace and the bound of a reader's events: changes are gathered until the reader takes them, so that a slow one
gets the newest state of each call, or of all, and never a queue that grows. Leaves what happened to `monitor`, which
marks calls as changed.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import anyio

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import FutureKey, Scope
from asyncfc_mcp.signals import WakeUp

FIRST: Final = 2_000
"""Most calls of the first event, and of changes that are gathered: beyond it, the reader gets the present state."""
AT_ONCE: Final = 500
"""Most calls of one event with changes."""
PAUSE_S: Final = 0.1
"""Shortest time between two events with calls."""
OVERVIEW_S: Final = 1.0
"""Time between two looks at the overview, while a reader waits."""

Event = dict[str, Any]


class Feed(AsyncIterator[Event]):
    """The events of one reader. The first has the present calls (`reset`), the second the overview.

    Args:
        scope: whose calls.
        present: returns the data of an event with the present state.
        changed: returns the data of an event with changed calls.
        overview: returns the overview.
    """

    def __init__(
        self,
        scope: Scope,
        present: Callable[[], Awaitable[dict[str, Any]]],
        changed: Callable[[list[Future]], Awaitable[dict[str, Any]]],
        overview: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self.scope = scope
        self._present, self._changed, self._overview = present, changed, overview
        self._reset = True
        self._marked: dict[FutureKey, Future] = {}
        self._awaken = WakeUp()
        self._shown: dict[str, Any] | None = None
        """The last overview that was sent, without its time."""
        self._calls_at = self._overview_at = float("-inf")
        """Times from which on the next event of each kind may be sent."""

    def mark(self, future: Future) -> None:
        """Take note that a call has changed."""
        if self._reset or future.scope != self.scope:
            return
        self._marked[future.key] = future
        if len(self._marked) > FIRST:
            self._reset = True
            self._marked.clear()
        self._awaken.set()

    async def __anext__(self) -> Event:
        while True:
            now = anyio.current_time()
            if (self._reset or self._marked) and now >= self._calls_at:
                event = await self._of_calls()
                self._calls_at = anyio.current_time() + PAUSE_S
                if event is not None:
                    return event
            if now >= self._overview_at:
                overview = await self._overview()
                self._overview_at = anyio.current_time() + OVERVIEW_S
                lasting = {name: value for name, value in overview.items() if name != "now"}
                if lasting != self._shown:
                    self._shown = lasting
                    return {"event": "overview", "data": overview}
            await self._wait()

    async def _of_calls(self) -> Event | None:
        if self._reset:
            # What changes from here on is marked again.
            self._reset = False
            return {"event": "calls", "data": {"reset": True, **await self._present()}}
        marked = [self._marked.pop(key) for key in list(self._marked)[:AT_ONCE]]
        data = await self._changed(marked)
        return {"event": "calls", "data": {"reset": False, **data}} if data["entries"] else None

    async def _wait(self) -> None:
        """Wait for a change, or for the time of the next event."""
        now = anyio.current_time()
        pending = self._reset or self._marked
        with anyio.move_on_after(max(0.0, self._overview_at - now)):
            if pending:
                await anyio.sleep(max(0.0, self._calls_at - now))
            else:
                await self._awaken.wait()
