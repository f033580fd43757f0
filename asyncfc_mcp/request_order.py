"""The order in which one client sent its requests, as far as their IDs show it.

Clients number their requests one after another. Parallel HTTP connections, and threads that write to one pipe, let them
arrive in another order. Owns which IDs of a client are missing, and the queue of calls that wait for them. Decides
nothing about calls, and keeps nothing of requests but their numbers.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Generator, Hashable
from contextlib import contextmanager
from typing import Final

import anyio
import anyio.lowlevel

MAX_GAP: Final = 256
"""A larger step is no gap but another numbering. Also the most IDs that are kept as missing."""
FIRST: Final = 8
"""A numbering whose first request has an ID up to this one began at 1, or at 0."""
PATIENCE: Final = 3
"""After so many waits in a row for IDs that did not come, this client's are waited for no more until one comes late."""
BODY_S: Final = 10.0
"""Longest wait for a missing request while the body of one is being read."""
SOCKET_TURNS: Final = 4
"""Turns of the event loop in which a new connection's request is read that was there in time. A loop that was busy for
longer than the wait comes to its timers before it comes to such a connection."""
CLIENTS: Final = 1024
"""Clients without a session whose numbering is remembered."""


class RequestOrder:
    """The request IDs of one session, and the calls that wait for missing ones."""

    __slots__ = ("_late", "_missing", "_next", "_reading", "_timeouts", "_waiting")

    def __init__(self) -> None:
        self._next = -1
        """The ID that follows the highest one seen; negative before the first."""
        self._missing: set[int] = set()
        self._late: set[int] = set()
        """IDs that are waited for no more. One that comes all the same shows that this client's gaps do fill."""
        self._timeouts = 0
        self._waiting: list[Turn] = []
        """By their IDs."""
        self._reading = 0

    def see(self, request_id: object) -> None:
        """Take note of a request that arrived; one of any method counts."""
        if request_id == self._next:  # all but always
            self._next += 1
        elif type(request_id) is int and request_id >= 0:
            self._see(request_id)

    def restart(self, request_id: object) -> None:
        """Take note of a request with which a client begins."""
        if type(request_id) is int:
            self._begin(request_id, ())

    def turn(self, request_id: object) -> "Turn | None":
        """A place in the queue for a call that has to wait for a smaller ID, or for a call with one that waits; None if
        it need not. The call has it at once, and must `leave` it."""
        if not (self._missing or self._waiting) or type(request_id) is not int:
            return None
        if not (self._lacks(request_id) or (self._waiting and self._waiting[0].request_id < request_id)):
            return None
        turn = Turn(self, request_id)
        insort(self._waiting, turn)
        return turn

    @contextmanager
    def reading(self) -> Generator[None]:
        """While it lasts, a request of this client is being read whose ID is not known yet."""
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    def _see(self, request_id: int) -> None:
        if request_id in self._missing or request_id in self._late:
            self._missing.discard(request_id)
            self._late.discard(request_id)
            self._timeouts = 0
            self.advance()
        elif self._next < 0 or abs(request_id - self._next) > MAX_GAP:
            self._begin(request_id, range(1, request_id) if request_id <= FIRST else ())
        elif request_id > self._next:
            missing = self._missing if self._timeouts < PATIENCE else self._late
            if len(missing) > MAX_GAP:
                missing.clear()
            missing.update(range(self._next, request_id))
            self._next = request_id + 1

    def _begin(self, request_id: int, missing: "range | tuple[()]") -> None:
        self._missing = set(missing)
        self._late.clear()
        self._next = request_id + 1
        self.advance()

    def _lacks(self, request_id: int) -> bool:
        return bool(self._missing) and min(self._missing) < request_id

    def advance(self) -> None:
        """Let the first of the queue go, if nothing before it is missing."""
        if self._waiting and not self._lacks(self._waiting[0].request_id):
            self._waiting[0].come.set()

    def is_being_read(self, request_id: int) -> bool:
        """Whether a missing smaller ID may be that of a request whose body is being read."""
        return self._reading > 0 and self._lacks(request_id)

    def give_up(self, request_id: int) -> None:
        """Wait no more for the IDs that are smaller."""
        lost = {missing for missing in self._missing if missing < request_id}
        if lost:
            self._missing -= lost
            if len(self._late) > MAX_GAP:
                self._late.clear()
            self._late |= lost
            self._timeouts += 1
        self.advance()

    def leave(self, turn: "Turn") -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
            self.advance()


class Turn:
    """A call's place behind those with smaller IDs of its client."""

    __slots__ = ("_order", "come", "request_id")

    def __init__(self, order: RequestOrder, request_id: int) -> None:
        self._order = order
        self.request_id = request_id
        self.come = anyio.Event()

    def __lt__(self, other: "Turn") -> bool:
        return self.request_id < other.request_id

    async def wait(self, wait_s: float) -> None:
        """Return when all calls with smaller IDs have left the queue, and no smaller ID is missing or it has been for
        `wait_s`."""
        with anyio.move_on_after(wait_s):
            return await self.come.wait()
        for _ in range(SOCKET_TURNS):
            await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(BODY_S):
            while not self.come.is_set() and self._order.is_being_read(self.request_id):
                with anyio.move_on_after(wait_s):
                    await self.come.wait()
        self._order.give_up(self.request_id)
        await self.come.wait()

    def leave(self) -> None:
        """Let the next call go; to be called in the step in which this one has been submitted, or given up."""
        self._order.leave(self)


class RequestOrders:
    """The numberings of clients that have no session (2026-07-28 over HTTP), by what they say of themselves.

    Two that say the same share one. Then an ID may seem to be missing that is the other's; that costs the wait and no
    more, since calls of two clients have no order among each other.
    """

    def __init__(self) -> None:
        self._orders: OrderedDict[Hashable, RequestOrder] = OrderedDict()

    def of(self, client: Hashable) -> RequestOrder:
        order = self._orders.get(client)
        if order is None:
            order = self._orders[client] = RequestOrder()
            if len(self._orders) > CLIENTS:
                self._orders.popitem(last=False)
        else:
            self._orders.move_to_end(client)
        return order
