"""Grouped work: what arrives while a step is under way is done together in the next one (group commit).

Owns the queue and its one consumer. What a step does is the caller's.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import anyio
import anyio.abc

from asyncfc_mcp.signals import WakeUp

T = TypeVar("T")
R = TypeVar("R")

MAX_GROUP: Final = 200
"""Items of one step. More would delay the first of them, and save little."""


class Grouped(Generic[T, R]):
    """Does work for many callers in steps, one after the other.

    Args:
        step: does the work for some items, and returns an outcome for each, in their order. If it raises, that is the
            outcome of all of them.
    """

    def __init__(self, step: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]]) -> None:
        self._step = step
        self._queue: deque[tuple[T, Callable[[R | Exception], None]]] = deque()
        self._added = WakeUp()
        self._idle = anyio.Event()
        self._idle.set()

    def add(self, item: T, done: Callable[[R | Exception], None]) -> None:
        """Have the work done soon, and `done` called with its outcome; never from within."""
        self._queue.append((item, done))
        if self._idle.is_set():
            self._idle = anyio.Event()
        self._added.set()

    async def do(self, item: T) -> R:
        """Return the outcome of the work. Cancelling the wait does not cancel the work.

        Raises:
            Exception: what the step raised, or returned for this item.
        """
        outcomes: list[R | Exception] = []
        done = anyio.Event()

        def take(outcome: R | Exception) -> None:
            outcomes.append(outcome)
            done.set()

        self.add(item, take)
        await done.wait()
        if isinstance(outcome := outcomes[0], Exception):
            raise outcome
        return outcome

    async def drained(self) -> None:
        """Return when nothing is left to do."""
        while not self._idle.is_set():
            await self._idle.wait()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Do the work until cancelled."""
        task_status.started()
        while True:
            await self._added.wait()
            while self._queue:
                group = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_GROUP))]
                outcomes: Sequence[R | Exception]
                try:
                    outcomes = await self._step([item for item, _ in group])
                except Exception as exc:  # noqa: BLE001 - each caller gets it
                    outcomes = [exc] * len(group)
                for (_, done), outcome in zip(group, outcomes, strict=True):
                    done(outcome)
            self._idle.set()
