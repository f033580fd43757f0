"""Retention of calls and results: bounds, the order in which results are dropped, and shares of callers.

Owns the bounds on unfinished calls and on memory, and the shares of parties (see `identity.Party`). Pure and
synchronous, and independent of the kind of item: `store` reports when an item begins, ends or is read, and its size.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

from asyncfc_mcp.core.identity import Party
from asyncfc_mcp.errors import TooManyFutures

T = TypeVar("T")
"""Item, compared by identity."""


@dataclass(slots=True)
class _Usage(Generic[T]):
    """Usage of the bounds by one party.

    Attributes:
        read: its items that were read, the least recently read first.
    """

    pending: int = 0
    bytes: int = 0
    read: OrderedDict[T, float] = field(default_factory=OrderedDict[Any, float])


def allowance(share: float, free: float) -> float:
    """Return the maximum that one party may use while this much is free: with a share of a half, the same amount. A
    single party so gets its share of the total, and each further one a part of what the others left, never nothing."""
    return math.inf if share >= 1 else share / (1 - share) * free


class Retention(Generic[T]):
    """Bounds over all items.

    Args:
        drop: drops an item; it has to call `remove`.
        max_pending, max_bytes, keep_s, unread_keep_s, share: see `store.FutureStore`.
    """

    def __init__(
        self,
        drop: Callable[[T], None],
        *,
        max_pending: int,
        max_bytes: int,
        keep_s: float,
        unread_keep_s: float,
        share: float,
    ) -> None:
        self._drop, self._share = drop, share
        self.configure(max_pending=max_pending, max_bytes=max_bytes, keep_s=keep_s, unread_keep_s=unread_keep_s)
        self._read: OrderedDict[T, float] = OrderedDict()
        """Items that were read, with the time, the least recently read first; without those in `_read_timed`."""
        self._used: OrderedDict[T, None] = OrderedDict()
        """Unread items whose values were used by other calls, the least recently used first."""
        self._unread: OrderedDict[T, float] = OrderedDict()
        """Unread items that expire, by the time of their end."""
        self._timed: dict[T, int] = {}
        """Items with a time of their own at which they are dropped, with a number; the other times do not apply."""
        self._numbered: dict[int, T] = {}
        self._ends: list[tuple[float, int]] = []
        """Heap of those times and numbers. The entry of an item that was dropped earlier stays, the item does not."""
        self._last_number = 0
        self._read_timed: OrderedDict[T, None] = OrderedDict()
        """Those of them that were read, the least recently read first."""
        self._usage: dict[Party, _Usage[T]] = {}
        self.pending = 0
        self.bytes = 0

    def configure(self, *, max_pending: int, max_bytes: int, keep_s: float, unread_keep_s: float) -> None:
        """Use other bounds from now on."""
        self._max_pending, self._max_bytes = max_pending, max_bytes
        self._keep_s, self._unread_keep_s = keep_s, unread_keep_s

    def admit(self, party: Party, now: float, needed: Callable[[T], bool]) -> None:
        """Check that one more item may begin; drop items for it where needed: first those that were read, then those
        that were used, the least recent first.

        Args:
            needed: returns true for items that must not be dropped.

        Raises:
            TooManyFutures: a bound is reached.
        """
        if self._read or self._unread or self._ends:
            self._expire(now)
        if self.pending >= self._max_pending:
            raise TooManyFutures(f"{self.pending} calls have not ended yet", str(self._max_pending), "max_pending")
        if self.bytes > self._max_bytes:
            for queue in (self._read, self._read_timed, self._used):
                self._drop_first(queue, needed, lambda: self.bytes > self._max_bytes)
            if self.bytes > self._max_bytes:
                what = f"{self.bytes} bytes of unread results and of arguments are stored"
                raise TooManyFutures(what, str(self._max_bytes), "max_result_bytes_total")
        if party is not None:
            self._check_share(party, needed)

    def _check_share(self, party: Party, needed: Callable[[T], bool]) -> None:
        usage = self._usage.get(party)
        if usage is None:
            return
        limit = f"{self._share:g} of all, or as much as others have left"
        if usage.pending >= max(1, allowance(self._share, self._max_pending - self.pending)):
            what = f"{usage.pending} of your calls have not ended yet"
            raise TooManyFutures(what, limit, "max_caller_share")

        def too_much() -> bool:
            return usage.bytes > allowance(self._share, self._max_bytes - self.bytes)

        self._drop_first(usage.read, needed, too_much)
        if too_much():
            what = f"{usage.bytes} bytes of your results and arguments are stored"
            raise TooManyFutures(what, limit, "max_caller_share")

    def begin(self, party: Party) -> None:
        """Record the beginning of an item."""
        self.pending += 1
        if party is not None:
            self._usage.setdefault(party, _Usage()).pending += 1

    def end(self, item: T, party: Party, now: float, *, read: bool, expires: bool, until: float | None = None) -> None:
        """Record the end of an item.

        Args:
            read: its caller waits for it.
            expires: it is dropped after `unread_keep_s` if unread.
            until: it is dropped then, read or not; unless memory is needed, not earlier.
        """
        self.pending -= 1
        if party is not None:
            self._usage[party].pending -= 1
        if until is not None:
            self._last_number += 1
            self._timed[item], self._numbered[self._last_number] = self._last_number, item
            heappush(self._ends, (until, self._last_number))
            expires = False
        if read:
            self.read(item, party, now)
        elif expires:
            self._unread[item] = now

    def charge(self, party: Party, more: int) -> None:
        """Account more bytes, or fewer, for an item."""
        self.bytes += more
        if party is not None and (usage := self._usage.get(party)) is not None:
            usage.bytes += more
            if not (usage.bytes or usage.pending):
                del self._usage[party]

    def read(self, item: T, party: Party, now: float) -> None:
        """Record that an item that has ended was read."""
        self._unread.pop(item, None)
        self._used.pop(item, None)
        queues: list[OrderedDict[T, Any]] = [self._read_timed if item in self._timed else self._read]
        if party is not None and (usage := self._usage.get(party)) is not None:
            queues.append(usage.read)
        for queue in queues:
            queue[item] = now
            queue.move_to_end(item)

    def use(self, item: T) -> None:
        """Record that a call used the value of an item."""
        if item not in self._read and item not in self._read_timed:
            self._used[item] = None
            self._used.move_to_end(item)

    def remove(self, item: T, party: Party) -> None:
        """Remove an item that is dropped."""
        for queue in (self._read, self._used, self._unread, self._read_timed):
            queue.pop(item, None)
        if (number := self._timed.pop(item, None)) is not None:
            del self._numbered[number]
        if party is not None and (usage := self._usage.get(party)) is not None:
            usage.read.pop(item, None)

    def expire_timed(self, now: float) -> None:
        """Drop items whose own time is over."""
        while self._ends and self._ends[0][0] <= now:
            item = self._numbered.get(heappop(self._ends)[1])
            if item is not None:
                self._drop(item)

    def _expire(self, now: float) -> None:
        """Drop items whose time is over: those that were read, and unread ones that expire."""
        self.expire_timed(now)
        for queue, keep_s in ((self._read, self._keep_s), (self._unread, self._unread_keep_s)):
            while queue and next(iter(queue.values())) <= now - keep_s:
                self._drop(next(iter(queue)))

    def _drop_first(
        self, queue: "OrderedDict[T, Any]", needed: Callable[[T], bool], too_much: Callable[[], bool]
    ) -> None:
        """Drop items of a queue until `too_much` returns false."""
        spared: list[tuple[T, Any]] = []
        while queue and too_much():
            item, when = next(iter(queue.items()))
            if needed(item):
                spared.append((item, when))
                del queue[item]
            else:
                self._drop(item)
        for item, when in reversed(spared):
            queue[item] = when
            queue.move_to_end(item, last=False)
