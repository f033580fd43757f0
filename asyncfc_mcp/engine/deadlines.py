"""Deadlines of calls that run without a task, kept by one task.

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

    async def run(self) -> None:
        """Call the callbacks in time, until cancelled."""
        while True:
            with anyio.CancelScope(deadline=self._heap[0][0] if self._heap else math.inf):
                await self._earlier.wait()
            while self._heap and self._heap[0][0] <= self._clock():
                _, _, key, on_deadline = heappop(self._heap)
                if key in self._live:
                    on_deadline(key)
