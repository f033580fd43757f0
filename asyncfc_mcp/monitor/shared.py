"""Values that several readers ask for at the same time: computed once, and again after a while.

Owns the time for which a value counts, and that no two readers compute the same one beside each other: the number of
open pages does not multiply the work of the event loop. Leaves the values to `monitor`.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

import anyio

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST: Final = 200
"""Bound on the values that are kept."""


class _Place(Generic[V]):
    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.until = float("-inf")
        self.values: list[V] = []


class Shared(Generic[K, V]):
    """Values by their keys.

    Args:
        compute: returns the value for a key.
        period_s: seconds for which it counts.
    """

    def __init__(self, compute: Callable[[K], Awaitable[V]], period_s: float, most: int = MOST) -> None:
        self._compute, self._period_s, self._most = compute, period_s, most
        self._places: OrderedDict[K, _Place[V]] = OrderedDict()

    async def get(self, key: K) -> V:
        """Return the value for a key, which must not be changed: other readers have the same."""
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Place()
            if len(self._places) > self._most:
                self._places.popitem(last=False)
        self._places.move_to_end(key)
        async with place.lock:
            if anyio.current_time() >= place.until:
                place.values = [await self._compute(key)]
                place.until = anyio.current_time() + self._period_s
            return place.values[0]
