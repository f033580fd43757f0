"""Deadlines of calls, kept by one task.

Owns time only. What a deadline ends is the callback's job.
"""

import math
from collections.abc import Callable, Container, Sized
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Protocol

import anyio

from asyncfc_mcp.signals import WakeUp

_SPARE: Final = 64
"""Entries beyond twice the live calls at which the entries of ended calls are dropped."""
LATE_S: Final = 0.5
"""Lateness of a deadline that shows that the process did not run for a while, in seconds."""
GRACE_S: Final = 1.0
"""Time for reading what came meanwhile, in seconds."""
OnDeadline = Callable[[str], None]


class Live(Container[str], Sized, Protocol):
    """Keys of the calls that have not ended."""


class Deadlines:
    """One heap for all deadlines.

    Args:
        clock: the event loop's, in seconds.
        live: keys of the calls that have not ended; deadlines of others count no more.
    """

    def __init__(self, clock: Callable[[], float], live: Live) -> None:
        self._clock = clock
        self._live = live
        self._heap: list[tuple[float, int, str, OnDeadline]] = []
        self._numbers = count()  # entries of one time are never compared by their callbacks
        self._earlier = WakeUp()

    def add(self, at: float, key: str, on_deadline: OnDeadline) -> None:
        """Have `on_deadline` called with a call's key at a time of the clock, if the call has not ended by then."""
        if len(self._heap) > 2 * len(self._live) + _SPARE:
            self._heap = [entry for entry in self._heap if entry[2] in self._live]
            heapify(self._heap)
        entry = (at, next(self._numbers), key, on_deadline)
        heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._earlier.set()

    def end_scope(self, at: float, key: str, scope: anyio.CancelScope) -> None:
        """Have a scope of a call cancelled at a time of the clock, if the call has not ended by then."""
        if at <= self._clock():
            scope.cancel()  # before it does anything else
        else:
            self.add(at, key, lambda key: scope.cancel())

    async def run(self) -> None:
        """Call the callbacks in time, until cancelled."""
        while True:
            due, began = self._heap[0][0] if self._heap else math.inf, self._clock()
            with anyio.CancelScope(deadline=due) as pause:
                await self._earlier.wait()
            if pause.cancelled_caught and due > began and self._clock() - due > LATE_S:
                # The process was stopped. Answers that came in time are still in pipes and sockets, and count.
                await anyio.sleep(GRACE_S)
            while self._heap and self._heap[0][0] <= self._clock():
                _, _, key, on_deadline = heappop(self._heap)
                if key in self._live:
                    on_deadline(key)
