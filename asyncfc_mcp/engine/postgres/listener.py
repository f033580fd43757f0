"""Notifications between replicas: the one connection of a replica that listens, and the payloads on its channel.

Other channels are received over the same connection (procrastinate's). Owns reconnecting. A notification is a hint:
none survives an interruption of the connection, after which everything that depends on it has to be read again
(`on_connected`). What a kind means is left to the modules that use it.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import anyio
import anyio.abc
import psycopg
from psycopg import sql

from asyncfc_mcp.core.backoff import Backoff
from asyncfc_mcp.engine.postgres.database import Connection, Database, is_interruption, reason

logger = logging.getLogger(__name__)

MAX_PAYLOAD: Final = 7_900
"""Bytes. PostgreSQL allows fewer than 8,000."""
_PROBE_S: Final = 30.0
"""Seconds without a notification after which the connection is tested."""
_FIRST_S: Final = 0.05
_LONGEST_S: Final = 2.0

NOTIFY: Final = "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload"


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification of a replica, possibly this one."""

    kind: str
    by: str
    """Replica that sent it."""
    seqs: Sequence[int] = ()
    """Futures that it concerns."""
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further fields of the payload."""


Handler = Callable[[Notification], None]


class Listener:
    """Receives the notifications of all replicas.

    Args:
        database: to listen to.

    Attributes:
        channels: further channels, and what is called with each notification on them; filled before `run`.
        on_connected: called after each (re)connect, when no later notification is missed any more. Earlier ones may
            have been.
        connected: notifications are being received.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._handlers: dict[str, list[Handler]] = {}
        self.channels: dict[str, Callable[[], None]] = {}
        self.on_connected: list[Callable[[], None]] = []
        self.connected = False

    def handle(self, kind: str, handler: Handler) -> None:
        """Have a function called with each notification of a kind, in the order in which they were committed. It must
        not wait."""
        self._handlers.setdefault(kind, []).append(handler)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled. Started once the first connection listens."""
        backoff = Backoff(_FIRST_S, _LONGEST_S)
        started = lost = False
        while True:
            try:
                connection = await self._database.connect()
                try:
                    for channel in (self._database.channel, *self.channels):
                        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                    backoff.reset()
                    if lost:
                        lost = False
                        logger.info("notifications of other replicas are received again")
                    self.connected = True
                    self._call_all(self.on_connected)
                    if not started:
                        started = True
                        task_status.started()
                    await self._receive(connection)
                finally:
                    self.connected = False
                    await connection.close()
            except psycopg.Error as exc:
                if not is_interruption(exc):
                    raise
                if not lost:
                    lost = True
                    logger.info("notifications of other replicas are not received: %s", reason(exc))
            await anyio.sleep(backoff.next())

    async def _receive(self, connection: Connection) -> None:
        while True:
            async for received in connection.notifies(timeout=_PROBE_S):
                if received.channel in self.channels:
                    self.channels[received.channel]()
                else:
                    self._dispatch(received.payload)
            await connection.execute("")

    def _dispatch(self, payload: str) -> None:
        notification = read(payload)
        if notification is None:
            logger.warning("a notification on channel %s is not one of this program", self._database.channel)
            return
        for handler in self._handlers.get(notification.kind, ()):
            try:
                handler(notification)
            except Exception:
                logger.exception("the notification %r was not handled", notification.kind)

    def _call_all(self, callbacks: Iterable[Callable[[], None]]) -> None:
        for callback in tuple(callbacks):
            try:
                callback()
            except Exception:
                logger.exception("a reconnect was not handled")


async def notify(database: Database, kind: str, by: str, seqs: Sequence[int] = (), **data: Any) -> None:
    """Send a notification to all replicas, in a transaction of its own.

    Raises:
        ValueError: `data` is too long.
    """
    await database.fetch(NOTIFY, (database.channel, payloads(kind, by, seqs, **data)))


def payloads(kind: str, by: str, seqs: Sequence[int] = (), **data: Any) -> list[str]:
    """Return the payloads of one notification, of several if its futures do not fit into one. `NOTIFY` sends them in a
    transaction of the caller's.

    Raises:
        ValueError: `data` is too long.
    """
    head = json.dumps({"kind": kind, "by": by, **data}, separators=(",", ":"))[:-1] + ',"seqs":['
    room = MAX_PAYLOAD - len(head) - len("]}")  # ASCII, so that characters are bytes
    if room < 0:
        raise ValueError(f"a notification {kind!r} of {len(head)} bytes is too long")
    parts: list[list[str]] = [[]]
    used = 0
    for seq in map(str, seqs):
        if used + len(seq) + 1 > room and parts[-1]:
            parts.append([])
            used = 0
        parts[-1].append(seq)
        used += len(seq) + 1
    return [f"{head}{','.join(part)}]}}" for part in parts]


def read(payload: str) -> Notification | None:
    """Return the notification in a payload; None where it is none."""
    try:
        found = json.loads(payload)
        values = cast("dict[str, Any]", dict(found))
        kind, by, seqs = values.pop("kind"), values.pop("by"), tuple(map(int, values.pop("seqs", ())))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return Notification(kind, by, seqs, values) if isinstance(kind, str) and isinstance(by, str) else None
