"""A server that runs only while it is needed: started for a request, and ended after a time without one.

Owns the use of a server by requests, and the times at which one that runs is put to sleep. Its connection is the
supervisor's; which servers run on demand, and what keeps one running besides requests, is decided above (`Demand`).
"""

import logging
import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, Protocol

import anyio

from asyncfc_mcp.config.model import ServerConfig
from asyncfc_mcp.downstream.server_listings import ServerListings
from asyncfc_mcp.downstream.snapshot import LISTINGS
from asyncfc_mcp.downstream.start_queue import StartQueue
from asyncfc_mcp.downstream.subscriptions import ServerSubscriptions
from asyncfc_mcp.downstream.supervisor import Status, Supervisor

logger = logging.getLogger(__name__)

UNUSED_S: Final = 60.0
"""Time without a request after which a server sleeps again that was started for its listings only."""
OLD_S: Final = 86_400.0
"""Age of listings from which they are read again although nothing else needs their server."""
SPREAD_S: Final = 7200.0
"""Longest time by which that is put off, at random: servers that have listed at the same time need not start again at
the same time."""
RECHECK_S: Final = 300.0
"""Interval between two looks at a server without an idle limit: its effect profile or its settings may give it one."""


class Demand(Protocol):
    """Decides about one server that runs on demand."""

    @property
    def listing_age_s(self) -> float:
        """Seconds between the time at which the server has listed what is known from an earlier run, and the start of
        this one; infinite if that is not known."""
        ...

    @property
    def idle_limit_s(self) -> float | None:
        """Seconds without a request after which the server is ended; None: never, once it has had a request."""
        ...

    def configure(self, server: ServerConfig) -> None:
        """Decide by another configuration of the server from now on."""
        ...

    def has_calls(self) -> bool:
        """Return whether calls of the server have not ended, waiting ones included."""
        ...

    def on_listed(self) -> None:
        """Take note that the server has listed everything in this run."""
        ...


class Usage:
    """Requests that clients have at one server, and requests of the server that are being answered."""

    def __init__(self) -> None:
        self.open = 0
        """Requests that have not ended, those that wait for the server included."""
        self.last = 0.0
        """Time of the last end of a request, on the event loop's clock."""
        self.used = False
        """True if the server has had a request of a client since it was last put to sleep."""

    def begin(self) -> Callable[[], None]:
        """Count a request; return what ends it, which may be called more than once."""
        self.used = True
        return self._count()

    def _count(self) -> Callable[[], None]:
        self.open += 1
        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                self.open -= 1
                self.last = anyio.current_time()

        return end

    @contextmanager
    def using(self) -> Generator[None]:
        """Count a request of a client while the block runs."""
        end = self.begin()
        try:
            yield
        finally:
            end()

    @contextmanager
    def answering(self) -> Generator[None]:
        """Count a request of the server while the block runs. By itself it is no use of the server."""
        end = self._count()
        try:
            yield
        finally:
            end()


class OnDemand:
    """Puts one server to sleep, and refreshes its listings if they are old, while it is run.

    Args:
        supervisor: keeps the server connected.
        demand: decides about it.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        listings: ServerListings,
        subscriptions: ServerSubscriptions,
        usage: Usage,
        starts: StartQueue,
        demand: Demand,
    ) -> None:
        self._supervisor, self._listings, self._subscriptions = supervisor, listings, subscriptions
        self._usage, self._starts, self._demand = usage, starts, demand
        self._old_at: float | None = None
        """Time from which the listings have to be read again; None before the first run."""

    async def run(self) -> None:
        """Put the server to sleep whenever it is not needed, until cancelled."""
        async with anyio.create_task_group() as tg:
            if self._subscriptions.has_resources:
                self._supervisor.wake()  # it takes the place of a connection that had them
            if self._old_at is None:
                left = OLD_S - self._demand.listing_age_s
                self._old_at = anyio.current_time() + left + (_spread() if left > 0 else 0)
            tg.start_soon(self._refresh)
            while True:
                while self._supervisor.status is not Status.READY:
                    await self._supervisor.changed.wait()
                await self._listings.wait_available(LISTINGS)
                if self._supervisor.status is Status.READY and not any(self._listings.problems.values()):
                    self._old_at = anyio.current_time() + OLD_S + _spread()
                    self._demand.on_listed()
                await self._watch()

    async def _refresh(self) -> None:
        """Start the server for its listings whenever they are old, but not before the client has been answered from
        those that are known."""
        await self._starts.wait_for_client_answered()
        while True:
            assert self._old_at is not None, "it runs"
            left = self._old_at - anyio.current_time()
            asleep = self._supervisor.status is Status.SLEEPING
            if asleep and left <= 0:
                self._old_at = anyio.current_time() + OLD_S + _spread()  # also if it lists nothing
                self._supervisor.wake()
            with anyio.move_on_after(left if asleep and left > 0 else None):
                await self._supervisor.changed.wait()

    async def _watch(self) -> None:
        """Return when the server sleeps, or does not run any more."""
        ready_since = anyio.current_time()
        while self._supervisor.status is Status.READY:
            if self._is_held():
                self._usage.last = anyio.current_time()
            limit = sleeps_after_s(used=self._usage.used, limit_s=self._demand.idle_limit_s)
            pause = None if limit is None else max(self._usage.last, ready_since) + limit - anyio.current_time()
            if pause is not None and pause <= 0 and self._supervisor.sleep():
                self._usage.used = False
                logger.info("server %r sleeps until its next call", self._supervisor.name)
                return
            with anyio.move_on_after(RECHECK_S if pause is None else max(pause, 0.01)):
                await self._supervisor.changed.wait()

    def _is_held(self) -> bool:
        """Return whether anything but the time of its last request keeps the server running."""
        connection = self._supervisor.connection
        return (
            self._usage.open > 0
            or self._subscriptions.has_resources
            or not self._listings.are_settled
            or (connection is not None and bool(connection.peer.causes()))  # requests that were given up
            or self._demand.has_calls()
        )


def _spread() -> float:
    return random.uniform(0, SPREAD_S)


def sleeps_after_s(*, used: bool, limit_s: float | None) -> float | None:
    """Return the seconds without a request after which a server that nothing else keeps running is ended; None: never.

    Args:
        used: it has had a request, so that it may have state; one that has only listed its tools has none.
        limit_s: the limit for a server that was used.
    """
    return limit_s if used else min(UNUSED_S, UNUSED_S if limit_s is None else limit_s)
