"""Receivers of notifications: handshake connections and listen streams, and requests that wait for servers.

Owns a bounded queue for each connection and stream, so that one that does not read delays no other, and the order of
log messages before the response to a request. Leaves the choice of what each receives to `notifications`.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

import anyio

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import Principal, Scope
from asyncfc_mcp.protocol import LOG_LEVEL_META_KEY, LOG_LEVELS
from asyncfc_mcp.signals import Signal, WakeUp
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.request import Request

logger = logging.getLogger(__name__)

MAX_QUEUED_NOTIFICATIONS: Final = 1024
"""Queue bound per listener. Notifications only tell clients to refetch, so dropping some is harmless."""
LOG_DELIVERY_S: Final = 1.0
"""Longest time in which a waiting request accepts a log message; one that takes longer is dropped, so that it does not
block the next one for ever."""
LEVELS: Final = LOG_LEVELS

Notify = Callable[[str, Mapping[str, Any] | None], Awaitable[None]]


class Listener:
    """A connection or stream that receives notifications of changes.

    A stream sends its queue itself (`run`). For a connection, `start` is given `send` when there is something to send:
    an idle connection costs no task.

    Args:
        notify: sends one notification to the client.
        principal: returns the principal behind it, as of its last request.
        lists: kinds of lists whose changes it wants.
        stamp: added to `_meta` of each notification.
        connection: the handshake connection; None for a stream.
        line: the connection, if that is one client of its own.
        start: runs `send` in a task; None for a stream.
    """

    __slots__ = (
        "_queue", "_queued", "_sending", "_start", "closed", "connection", "futures", "level", "line", "lists",
        "notify", "principal", "stamp", "uris", "watched",
    )  # fmt: skip

    def __init__(
        self,
        notify: Notify,
        principal: Callable[[], Principal],
        *,
        lists: Iterable[str],
        stamp: Mapping[str, Any] | None = None,
        connection: object = None,
        line: Connection | None = None,
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], object] | None = None,
    ) -> None:
        self.notify = notify
        self.connection, self.line = connection, line
        self.principal = principal
        self.lists = frozenset(lists)
        self.stamp = dict(stamp or {})
        self.uris: dict[str, tuple[str, str | None] | None] = {}
        """URI of a subscription → the server that announces its changes, and the key of the credentials of its
        connection (see `View.credentials_for`); None for resources of the bridge."""
        self.futures: dict[str, Future] = {}
        self.level: str | None = None
        """The least severe log messages that it wants; None if the client has not set a level."""
        self.watched: dict[str, Callable[[Future], None]] = {}
        self._start = start
        self.closed = self._sending = False
        self._queue: deque[tuple[str, dict[str, Any] | None]] | None = None
        """None while there is nothing to send: an empty deque takes 800 bytes."""
        self._queued: WakeUp | None = None
        """Set when a running stream has something to send, or was closed."""

    @property
    def scope(self) -> Scope:
        """The futures that it may be notified of."""
        return self.principal().scope

    def enqueue(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Queue a notification; drop it if the queue is full or the listener closed."""
        body = dict(params or {})
        if self.stamp:
            body["_meta"] = {**(body.get("_meta") or {}), **self.stamp}
        if self.closed or (self._queue is not None and len(self._queue) >= MAX_QUEUED_NOTIFICATIONS):
            logger.debug("dropped %s for a listener that is %s", method, "closed" if self.closed else "not reading")
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append((method, body or None))
        if self._queued is not None:
            self._queued.set()
        elif self._start is not None and not self._sending:
            self._sending = True
            self._start(self.send)

    async def send(self) -> None:
        """Send the queue until it is empty."""
        self._sending = True
        try:
            while self._queue:
                method, params = self._queue.popleft()
                try:
                    await self.notify(method, params)
                except Exception:
                    # A client that cannot be reached costs no other listener anything.
                    logger.exception("sending %s to a listener failed", method)
        finally:
            self._sending, self._queue = False, None

    async def run(self) -> None:
        """Send what is queued, until cancelled or closed."""
        if self.closed:
            return  # closed before its task began to run
        queued = self._queued = WakeUp()
        while True:
            await self.send()
            if self.closed:
                return
            await queued.wait()

    def close(self) -> None:
        """Accept nothing more; what is queued is still sent."""
        self.closed = True
        if self._queued is not None:
            self._queued.set()


class RequestLogListener:
    """A request that waits for servers, and receives their log messages meanwhile.

    Args:
        principal: the principal behind the request.
        notify: sends a notification on the request's own stream.
        level: the level that the request itself asks for (2026-07-28).
        connection: the handshake connection that it arrived on; None on 2026-07-28.
        on_pending: called when a message is about to be sent to it.
        line: the connection that it arrived on, if that is one client of its own.
    """

    __slots__ = ("_delivered", "connection", "level", "line", "notify", "on_pending", "pending", "principal")

    def __init__(
        self,
        principal: Principal,
        notify: Notify,
        level: str | None,
        connection: object,
        on_pending: Callable[[], None] = lambda: None,
        line: Connection | None = None,
    ) -> None:
        self.principal, self.line = principal, line
        self.notify, self.level, self.connection, self.on_pending = notify, level, connection, on_pending
        self.pending = 0
        """Messages that are about to be sent: the response to the request must not overtake them."""
        self._delivered: Signal | None = None

    def add_pending(self) -> None:
        """Announce one message, which `deliver` sends."""
        self.pending += 1
        self.on_pending()

    async def deliver(self, method: str, params: Mapping[str, Any]) -> None:
        """Send an announced message; drop it if the client does not accept it in time."""
        try:
            with anyio.move_on_after(LOG_DELIVERY_S):
                await self.notify(method, params)
        except Exception:
            logger.exception("sending %s to a waiting request failed", method)
        finally:
            self.pending -= 1
            if not self.pending and self._delivered is not None:
                self._delivered.notify_all()

    async def drained(self) -> None:
        """Return when every announced message was sent or dropped."""
        while self.pending:
            if self._delivered is None:
                self._delivered = Signal()
            await self._delivered.wait()


def log_listener(request: Request, on_pending: Callable[[], None] = lambda: None) -> RequestLogListener:
    """Return a listener for the log messages that a request receives while it waits."""
    meta = request.params.get("_meta")
    level = meta.get(LOG_LEVEL_META_KEY) if meta else None
    return RequestLogListener(
        request.principal, request.channel.notify, level, request.session, on_pending, request.connection
    )


def severe_enough(level: object, wanted: str | None) -> bool:
    """Return whether a message of this level is for a listener that wants `wanted` and above; unknown levels are."""
    if wanted not in LEVELS or level not in LEVELS:
        return True
    return LEVELS.index(str(level)) >= LEVELS.index(wanted)
