"""Memory that calls and results hold, weighed after the fact: large values in slices, beside everything else.

Owns the estimate that counts until a value is weighed. The bounds are `core.retention`'s.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from asyncfc_mcp.core.futures import RECORD_BYTES, Future
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.signals import WakeUp
from asyncfc_mcp.slices import Slices
from asyncfc_mcp.turns import in_slices
from asyncfc_mcp.values.large import Weight, small_weight, weighing

_PAUSES: Final = 4
"""Steps of `weighing` that are taken at once."""
UNKNOWN: Final = Weight(64 << 20, 500_000)
"""Weight of a large value until it has been weighed: too large for what small results are given, and no more memory
than it has for certain."""


class Scales:
    """Scales of one store."""

    def __init__(self, store: FutureStore) -> None:
        self._store = store
        self._left: deque[tuple[Slices[Weight], Callable[[Weight], None]]] = deque()
        self._added = WakeUp()

    def arguments(self, future: Future, arguments: Any) -> None:
        """Count the arguments of a call that has not ended."""

        def count(weight: Weight) -> None:
            if not future.done:
                self._store.charge(future, RECORD_BYTES + weight.held)

        if (weight := small_weight(arguments)) is not None:
            count(weight)
        else:
            self._weigh(arguments, count)

    def result(self, future: Future) -> None:
        """Count the result of a call that has ended, or of its failure."""
        if not future.loaded:
            return self._store.weigh(future, future.size, RECORD_BYTES)
        held = future.failure.holds if future.failure is not None else None
        value = held if future.result is None else future.result
        if (weight := small_weight(value)) is not None:
            size = 0 if future.result is None else weight.size
            return self._store.weigh(future, size, RECORD_BYTES + weight.held)
        counted = False

        def count(weight: Weight) -> None:
            nonlocal counted
            if counted and future.held == 0:
                return  # the future was dropped meanwhile
            counted = True
            size = weight.size if future.has_result else 0
            self._store.weigh(future, size, RECORD_BYTES + (weight.held if future.loaded else 0))

        self._weigh(value, count)

    def _weigh(self, value: Any, count: Callable[[Weight], None]) -> None:
        work = weighing(value)
        try:
            for _ in range(_PAUSES):
                next(work)
        except StopIteration as end:
            count(end.value)
            return
        count(UNKNOWN)
        self._left.append((work, count))
        self._added.set()

    async def run(self) -> None:
        """Weigh large values, until cancelled."""
        while True:
            await self._added.wait()
            while self._left:
                work, count = self._left.popleft()
                count(await in_slices(work))
