"""Bounded tables that several parties fill: the one with most entries loses its own, the least recently used first.

Pure.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SharedLru(Generic[K, V]):
    """Entries of parties, at most as many as `most` in all.

    A table that drops the least recently used entry whosever it is lets one party, with ever new keys, drop those of
    all others.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._parties: dict[Hashable, OrderedDict[K, V]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, party: Hashable, key: K) -> V | None:
        """Return an entry, which counts as a use; None if there is none."""
        entries = self._parties.get(party)
        if entries is None or key not in entries:
            return None
        entries.move_to_end(key)
        return entries[key]

    def add(self, party: Hashable, key: K, value: V) -> V | None:
        """Add an entry that is not there yet; return the one that was dropped for it, if any."""
        entries = self._parties.get(party)
        if entries is None:
            entries = self._parties[party] = OrderedDict()
        entries[key] = value
        self._count += 1
        if self._count <= self._most:
            return None
        # Of equals, the party that adds: the others have done nothing now.
        largest = max(self._parties, key=lambda each: (len(self._parties[each]), each == party))
        _, dropped = self._parties[largest].popitem(last=False)
        if not self._parties[largest]:
            del self._parties[largest]
        self._count -= 1
        return dropped
