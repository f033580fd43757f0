"""The order in which a client sent its requests, as far as their IDs show it.

Clients number their requests consecutively. With parallel HTTP connections, or threads that write to one pipe, they
arrive in another order. Owns which IDs of a client are missing, and the queue of calls that wait for them. Decides
nothing about calls, and stores nothing of requests but their numbers.
"""

from bisect import insort
from collections.abc import Generator, Hashable
from contextlib import contextmanager
from typing import Final

import anyio
import anyio.lowlevel

from asyncfc_mcp.core.shared_lru import SharedLru

MAX_GAP: Final = 256
"""A larger step is no gap but the start of another numbering. Also the bound on missing IDs that are kept."""
FIRST: Final = 8
"""A numbering whose first ID seen is at most this one is taken to have begun at 1, or at 0."""
PATIENCE: Final = 3
"""After this many consecutive waits for IDs that did not arrive, a client's missing IDs are no longer waited for, until
one arrives late."""
BODY_S: Final = 10.0
"""Longest wait for a missing request while the body of one is being read."""
SOCKET_TURNS: Final = 4
"""Iterations of the event loop in which the request of a new connection is read. A loop that was busy for longer than
the wait runs its timers before it reads such a connection, whose request may have arrived in time."""
MAX_CLIENTS: Final = 1024
"""Bound on the clients without a session whose numberings are kept."""


class RequestOrder:
    """The request IDs of one session, and the calls that wait for missing ones."""

    __slots__ = (
        "_consecutive",
        "_continued",
        "_late",
        "_missing",
        "_next",
        "_reading",
        "_timeouts",
        "_waiting",
        "shared",
    )

    def __init__(self, *, shared: bool = False, continued: bool = False) -> None:
        self.shared = shared
        """Several clients may number their requests here."""
        self._continued = continued
        """The first requests of the numbering were sent to another replica."""
        self._consecutive = False
        """One request at least had the ID that follows the one before it."""
        self._next = -1
        """The ID that follows the highest one seen; negative before the first."""
        self._missing: set[int] = set()
        self._late: set[int] = set()
        """Missing IDs that are no longer waited for. If one arrives after all, this client's gaps do fill."""
        self._timeouts = 0
        self._waiting: list[Turn] = []
        """Sorted by ID."""
        self._reading = 0

    def see(self, request_id: object) -> None:
        """Record the arrival of a request; every method counts."""
        if request_id == self._next:  # nearly always
            self._next += 1
            self._consecutive = True
        elif type(request_id) is int and request_id >= 0:
            self._see(request_id)

    def restart(self, request_id: object) -> None:
        """Record a request with which a client begins a numbering."""
        if type(request_id) is int:
            self._begin(request_id, ())

    def turn(self, request_id: object) -> "Turn | None":
        """Queue a call that has to wait for a missing smaller ID, or for a waiting call with a smaller ID; None if it
        need not wait. The caller must `leave` the turn that is returned."""
        if not (self._missing or self._waiting) or type(request_id) is not int:
            return None
        if not (self._lacks(request_id) or (self._waiting and self._waiting[0].request_id < request_id)):
            return None
        turn = Turn(self, request_id)
        insort(self._waiting, turn)
        return turn

    @contextmanager
    def reading(self) -> Generator[None]:
        """Mark that a request of this client is being read, whose ID is not known yet, while the block lasts."""
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
            self._begin(request_id, () if self._continued or request_id > FIRST else range(1, request_id))
        elif request_id > self._next:
            missing = self._missing if self._timeouts < PATIENCE else self._late
            if len(missing) > MAX_GAP:
                missing.clear()
            missing.update(range(self._next, request_id))
            self._next = request_id + 1

    def _begin(self, request_id: int, missing: "range | tuple[()]") -> None:
        self._missing = set(missing)
        self._late.clear()
        self._consecutive = False
        self._next = request_id + 1
        self.advance()

    def _lacks(self, request_id: int) -> bool:
        return bool(self._missing) and min(self._missing) < request_id

    def advance(self) -> None:
        """Let the first call of the queue proceed, if no smaller ID is missing."""
        if self._waiting and not self._lacks(self._waiting[0].request_id):
            self._waiting[0].ready.set()

    def is_being_read(self, request_id: int) -> bool:
        """Return whether a missing smaller ID may be that of a request whose body is being read."""
        return self._reading > 0 and self._lacks(request_id)

    def give_up(self, request_id: int) -> None:
        """Stop waiting for IDs smaller than this one."""
        lost = {missing for missing in self._missing if missing < request_id}
        if lost:
            self._missing -= lost
            if len(self._late) > MAX_GAP:
                self._late.clear()
            self._late |= lost
            self._timeouts += 1
        self.advance()

    @property
    def fills(self) -> bool:
        """True for consecutive IDs as long as each gap was filled in time: the next one is likely to be."""
        return self._consecutive and self._timeouts == 0

    def leave(self, turn: "Turn") -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
            self.advance()


class Turn:
    """A call's place in the queue, behind those with smaller IDs of its client."""

    __slots__ = ("_order", "ready", "request_id")

    def __init__(self, order: RequestOrder, request_id: int) -> None:
        self._order = order
        self.request_id = request_id
        self.ready = anyio.Event()

    def __lt__(self, other: "Turn") -> bool:
        return self.request_id < other.request_id

    async def wait(self, wait_s: float) -> None:
        """Return when all calls with smaller IDs have left the queue, and each smaller ID has arrived or has been
        missing for `wait_s` seconds."""
        with anyio.move_on_after(wait_s):
            return await self.ready.wait()
        for _ in range(SOCKET_TURNS):
            await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(BODY_S):
            while not self.ready.is_set() and self._order.is_being_read(self.request_id):
                with anyio.move_on_after(wait_s):
                    await self.ready.wait()
        self._order.give_up(self.request_id)
        await self.ready.wait()

    def leave(self) -> None:
        """Let the next call proceed. To be called in the step in which this one was submitted, or given up."""
        self._order.leave(self)


class RequestOrders:
    """Numberings of clients without a session (2026-07-28 over HTTP), by the identity that they give.

    Two clients with the same identity share one. An ID of the other may then seem to be missing; that costs the wait
    and no more, since calls of different clients have no order among each other.
    """

    def __init__(self) -> None:
        self._orders = SharedLru[Hashable, RequestOrder](MAX_CLIENTS)

    def of(self, client: Hashable, scope: str) -> RequestOrder:
        """Return the numbering of a client; a new one is created.

        Args:
            client: its identity.
            scope: key of the scope of its principal.
        """
        order = self._orders.get(scope, client)
        if order is None:
            order = RequestOrder(shared=True)
            self._orders.add(scope, client, order)
        return order
