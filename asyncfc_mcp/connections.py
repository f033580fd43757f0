"""Connections over HTTP: their number, and the time that each may take for a head, a body, and reading an answer.

Owns the bounds and when a connection is closed for them. Refuses to know HTTP: a connection states its own phase.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import anyio
import anyio.abc

logger = logging.getLogger(__name__)

SWEEP_S: Final = 0.5
"""Time between two looks at all connections: timeouts are exact to that. A timer for each would cost every request."""
LEAST_BYTES_S: Final = 1000
"""Rate of a body below which its time is counted, so that one byte now and then does not keep a connection."""
KEPT_BACK: Final = 256
"""Descriptors that connections leave to servers, log files and connections just accepted, where there are as many."""

BACKLOG: Final = 128


class Phase(Enum):
    """State of a connection, as its bounds see it."""

    HEAD = "head"
    """A request's head has not come, and it is the first, or has begun."""
    BODY = "body"
    """The head of a request has come, and its body has not."""
    ANSWER = "answer"
    """A request is being answered. It may take as long as it likes; a stream of events is one."""
    IDLE = "idle"
    """Nothing has come since the last answer."""


class Connection(Protocol):
    """A connection, as its bounds see it."""

    @property
    def phase(self) -> Phase: ...
    @property
    def answered(self) -> int:
        """Requests that were answered."""
        ...

    @property
    def received(self) -> int:
        """Bytes that were received."""
        ...

    @property
    def unread(self) -> int:
        """Bytes that the client has not taken, where more than it may leave are waiting; else 0."""
        ...

    def expire(self, phase: Phase) -> None:
        """Close it: a phase took too long, or another connection needs its place."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of connections; the settings of these names."""

    max_connections: int = 1000
    max_connections_per_address: int | None = None
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0


@dataclass(slots=True)
class _Seen:
    """A connection as it was last seen."""

    address: str
    phase: Phase
    answered: int
    since: float
    """When it came into that phase."""
    received: int
    """Bytes that it had received then."""
    moved: int = 0
    """Bytes that it had received at the last look."""
    moved_at: float = 0.0
    """When that number last changed."""
    unread: int = 0
    stuck_since: float = 0.0
    """When its client was first seen to have left that many unread."""


class Connections:
    """All connections of a server.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = anyio.current_time) -> None:
        self._limits = limits
        self._clock = clock
        self._most = within_descriptors(limits.max_connections)
        self._seen: dict[Connection, _Seen] = {}
        self._of: dict[str, int] = {}

    @property
    def backlog(self) -> int:
        """Connections that may wait to be accepted. The event loop accepts as many at once, and each is a descriptor
        before it can be refused."""
        return max(1, min(BACKLOG, self._most // 4))

    def admit(self, connection: Connection, address: str) -> bool:
        """Take in a new connection; False where there are too many, and none can be closed for it.

        Where there are too many, one whose head is awaited makes room, the oldest first, then one that is idle: with
        silent connections nobody can keep others out.
        """
        of_address = self._limits.max_connections_per_address
        if of_address is not None and self._of.get(address, 0) >= of_address and not self._make_room(address):
            return False
        if len(self._seen) >= self._most and not self._make_room(None):
            return False
        self._seen[connection] = _Seen(address, Phase.HEAD, 0, self._clock(), 0, moved_at=self._clock())
        self._of[address] = self._of.get(address, 0) + 1
        return True

    def forget(self, connection: Connection) -> None:
        """A connection has ended; once more for one that has makes no difference."""
        seen = self._seen.pop(connection, None)
        if seen is not None:
            self._of[seen.address] -= 1
            if not self._of[seen.address]:
                del self._of[seen.address]

    def _make_room(self, address: str | None) -> bool:
        among = (each for each, seen in self._seen.items() if address in (None, seen.address))
        idle: Connection | None = None
        for each in among:
            phase = each.phase
            if phase is Phase.HEAD:
                self._expire(each, phase)
                return True
            if idle is None and phase is Phase.IDLE:
                idle = each
        if idle is None:
            return False
        self._expire(idle, Phase.IDLE)
        return True

    def _expire(self, connection: Connection, phase: Phase) -> None:
        self.forget(connection)
        with suppress(OSError, RuntimeError):  # its end may be under way
            connection.expire(phase)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Close connections that take too long, until cancelled."""
        task_status.started()
        while True:
            await anyio.sleep(SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """Look at all connections once."""
        now = self._clock()
        for connection, phase in list(self._late(now)):
            self._expire(connection, phase)

    def _late(self, now: float) -> Iterator[tuple[Connection, Phase]]:
        limits = self._limits
        for connection, seen in self._seen.items():
            phase, answered, unread = connection.phase, connection.answered, connection.unread
            if (phase, answered) != (seen.phase, seen.answered):
                seen.phase, seen.answered, seen.since, seen.received = phase, answered, now, connection.received
                seen.moved_at = now
            if connection.received != seen.moved:
                seen.moved, seen.moved_at = connection.received, now
            if not unread or unread != seen.unread:
                seen.unread, seen.stuck_since = unread, now
            elif now - seen.stuck_since >= limits.body_timeout_s:
                yield connection, Phase.ANSWER
                continue
            took = now - seen.since
            if phase is Phase.HEAD and took >= limits.header_timeout_s:
                yield connection, phase
            elif phase is Phase.BODY:
                rate_s = (seen.moved - seen.received) / LEAST_BYTES_S
                if now - seen.moved_at >= limits.body_timeout_s or took >= limits.body_timeout_s + rate_s:
                    yield connection, phase


def within_descriptors(wanted: int) -> int:
    """The most connections, at most as many as wanted, that leave descriptors to everything else."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are no descriptors
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    most = max(soft - KEPT_BACK, soft // 2)
    if most < wanted:
        logger.info("at most %d connections at a time: the limit of descriptors is %d", most, soft)
    return min(wanted, most)
