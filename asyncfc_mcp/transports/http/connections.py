"""Limits of HTTP connections: their number, and the time for a head, a body, and reading a response.

Owns the limits, and the decision which connection is closed for them. Does not parse HTTP: each connection reports its
own phase.
"""

import ipaddress
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
"""Interval between two sweeps over all connections, and the precision of timeouts. A timer for each connection would
slow down every request."""
MIN_BODY_RATE: Final = 1000
"""Bytes per second that extend the time limit of a body, so that one byte now and then does not keep a connection
open."""
RESERVED_DESCRIPTORS: Final = 256
"""File descriptors left for servers, log files and connections being accepted, if the limit is high enough."""

BACKLOG: Final = 128
MAX_SHARE: Final = 4
"""A remote address gets at most one connection in so many where strangers can connect. Not fewer: Docker and carrier
NAT show many clients as one address."""


class Phase(Enum):
    """Phase of a connection, by which its limits are chosen."""

    HEAD = "head"
    """Waiting for the head of a request that is the first one or has begun."""
    BODY = "body"
    """Receiving the body of a request."""
    ANSWER = "answer"
    """Sending a response, which may take any time: an event stream is one."""
    IDLE = "idle"
    """Waiting for the next request."""
    END = "end"
    """Closing: the last response is written, and the client has a moment to read it."""


class Connection(Protocol):
    """A connection, as far as its limits are concerned."""

    @property
    def phase(self) -> Phase: ...
    @property
    def answered(self) -> int:
        """Number of completed responses."""
        ...

    @property
    def received(self) -> int:
        """Bytes received."""
        ...

    @property
    def sent(self) -> int:
        """Bytes of response bodies written, without framing."""
        ...

    @property
    def unread(self) -> int:
        """Bytes written that neither the client nor the operating system's buffers have taken."""
        ...

    def expire(self, phase: Phase) -> None:
        """Close the connection: a phase took too long, or another connection needs its place."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of connections: the settings of the same names."""

    max_connections: int = 1000
    max_connections_per_address: int | None = None
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    public: bool = False
    """True where strangers can connect: a remote address then gets at most a quarter of the connections, unless
    `max_connections_per_address` sets another limit."""


@dataclass(slots=True)
class _Seen:
    """Record of a connection at the last sweep."""

    address: str
    phase: Phase
    answered: int
    since: float
    """Start of the phase."""
    received: int
    """Bytes received before the phase."""
    moved: int = 0
    """Bytes received at the last sweep."""
    moved_at: float = 0.0
    """Time of the last change of that number."""
    taken: int = 0
    """Bytes that its client had taken, at the maximum so far."""
    stuck_since: float = 0.0
    """Time when that number last grew, or nothing was left to take."""


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
        """Listen backlog. The event loop accepts as many connections at once, and each takes a descriptor before it can
        be refused."""
        return max(1, min(BACKLOG, self._most // 4))

    def admit(self, connection: Connection, address: str, *, proxy: bool = False) -> bool:
        """Register a new connection; return False if the limit is reached and no other connection can be closed.

        At the limit, a connection that waits for a head or is closing is closed first, the oldest one; then an idle
        one, then the one whose body has taken longest. So only requests that are being answered keep others out, and
        those need the token.

        Args:
            proxy: the address is that of a proxy, which counts for no client (see `attribute`).
        """
        address, most = ("", None) if proxy else self._bound_of(address)
        if most is not None and self._of.get(address, 0) >= most and not self._make_room(address):
            return False
        if len(self._seen) >= self._most and not self._make_room(None):
            return False
        now = self._clock()
        self._seen[connection] = _Seen(address, Phase.HEAD, 0, now, 0, moved_at=now, stuck_since=now)
        self._of[address] = self._of.get(address, 0) + 1
        return True

    def attribute(self, connection: Connection, address: str | None) -> bool:
        """Count a proxy's connection for the client whose request it carries; return False if that client has as many
        as it may have.

        Args:
            address: the client's; None once the request is answered.
        """
        seen = self._seen.get(connection)
        if seen is None:
            return True
        network, most = ("", None) if address is None else self._bound_of(address)
        if network == seen.address:
            return True
        if most is not None and self._of.get(network, 0) >= most:
            return False
        self._uncount(seen.address)
        seen.address = network
        self._of[network] = self._of.get(network, 0) + 1
        return True

    def _bound_of(self, address: str) -> tuple[str, int | None]:
        """Return the network that an address counts for, and its number of connections; None without a bound."""
        network, local = network_of(address)
        most = self._limits.max_connections_per_address
        if most is None and self._limits.public and not local:
            most = max(1, self._most // MAX_SHARE)
        return network, most

    def _uncount(self, address: str) -> None:
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]

    def forget(self, connection: Connection) -> None:
        """Remove a connection that has ended; removing it twice is harmless."""
        seen = self._seen.pop(connection, None)
        if seen is not None:
            self._uncount(seen.address)

    def _make_room(self, address: str | None) -> bool:
        idle: Connection | None = None
        body: Connection | None = None
        body_since = self._clock()
        for each, seen in self._seen.items():
            if address is not None and address != seen.address:
                continue
            phase = each.phase
            if phase in (Phase.HEAD, Phase.END):
                self._expire(each, phase)
                return True
            if phase is Phase.IDLE:
                idle = idle or each
            elif phase is Phase.BODY and seen.phase is Phase.BODY and seen.since < body_since:
                body, body_since = each, seen.since
            elif phase is Phase.BODY:
                body = body or each
        for each, phase in ((idle, Phase.IDLE), (body, Phase.BODY)):
            if each is not None:
                self._expire(each, phase)
                return True
        return False

    def _expire(self, connection: Connection, phase: Phase) -> None:
        self.forget(connection)
        with suppress(OSError, RuntimeError):  # it may be closing already
            connection.expire(phase)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Close connections that exceed a time limit, until cancelled."""
        task_status.started()
        while True:
            await anyio.sleep(SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """Close all connections that exceed a time limit at this moment."""
        now = self._clock()
        for connection, phase in list(self._late(now)):
            self._expire(connection, phase)

    def _late(self, now: float) -> Iterator[tuple[Connection, Phase]]:
        limits = self._limits
        for connection, seen in self._seen.items():
            phase, answered, unread = connection.phase, connection.answered, connection.unread
            taken = connection.sent - unread
            if (phase, answered) != (seen.phase, seen.answered):
                seen.phase, seen.answered, seen.since, seen.received = phase, answered, now, connection.received
                seen.moved_at = now
            if connection.received != seen.moved:
                seen.moved, seen.moved_at = connection.received, now
            if not unread or taken > seen.taken:
                seen.taken, seen.stuck_since = taken, now
            elif now - seen.stuck_since >= limits.body_timeout_s:
                yield connection, Phase.ANSWER
                continue
            took = now - seen.since
            if phase is Phase.HEAD and took >= limits.header_timeout_s:
                yield connection, phase
            elif phase is Phase.BODY:
                rate_s = (seen.moved - seen.received) / MIN_BODY_RATE
                if now - seen.moved_at >= limits.body_timeout_s or took >= limits.body_timeout_s + rate_s:
                    yield connection, phase


def network_of(address: str) -> tuple[str, bool]:
    """Return the part of an address that identifies one client, and whether it is a loopback address. One client of
    IPv6 has the 2^64 addresses of its /64 network."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address, False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return (
                str(found) if found.is_loopback else str(ipaddress.ip_network((found, 64), False))
            ), found.is_loopback
        found = found.ipv4_mapped
    return str(found), found.is_loopback


def within_descriptors(wanted: int) -> int:
    """Return the number of connections, at most as many as wanted, that leaves enough file descriptors."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are not file descriptors
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    most = max(soft - RESERVED_DESCRIPTORS, soft // 2)
    if most < wanted:
        logger.info("limited to %d connections, since the process may open %d file descriptors (ulimit -n)", most, soft)
    return min(wanted, most)
