"""Who is told what: list changes, updated resources, futures that changed, log messages.

Owns the listeners (handshake connections, and the `subscriptions/listen` streams of 2026-07-28), what each has asked
for, and a bounded queue for each, so that one that does not read holds up nobody. Refuses to decide what changed.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio

from asyncfc_mcp.backoff import Brake
from asyncfc_mcp.bridge import Bridge
from asyncfc_mcp.futures import CallerIdentity, Future, Scope, State

logger = logging.getLogger(__name__)

BACKLOG: Final = 1024
"""Notifications kept for a listener that does not read; a change is a reason to look again, so losing some is none."""
GATHER_S: Final = 0.05
"""List changes within this time are told once."""
ANNOUNCE_S: Final = (0.2, 5.0)
"""First and longest pause between two announcements of a list that keeps changing."""
LOGS_PER_S: Final = 50
"""Log messages of one server passed on in a second; a server that says more than that is not read by anybody."""
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
FUTURE_URI: Final = "future://"
UNSUBSCRIBE_S: Final = 2.0
"""How long a server may take to let go of what a listener who left was subscribed to."""
ATTEND_S: Final = 1.0
"""How long a request that waits may take to accept a log message; the next one must not wait for it for ever."""

LIST_CHANGES: Final[Mapping[str, str]] = {
    "tools": "tools",
    "prompts": "prompts",
    "resources": "resources",
    "resourceTemplates": "resources",
}
"""Kind of a listing → the kind that clients are told about."""

Notify = Callable[[str, Mapping[str, Any] | None], Awaitable[None]]


class Listener:
    """Somebody who is told of changes.

    Args:
        notify: sends a notification to them.
        lists: of which lists they want to hear.
        stamp: `_meta` of everything they are told.
        connection: the handshake connection that they are; None for a stream.
    """

    def __init__(
        self,
        notify: Notify,
        scope: Scope,
        *,
        lists: Iterable[str],
        stamp: Mapping[str, Any] | None = None,
        connection: object = None,
    ) -> None:
        self.notify = notify
        self.connection = connection
        self.scope = scope
        self.lists = frozenset(lists)
        self.stamp = dict(stamp or {})
        self.uris: set[str] = set()
        self.futures: dict[str, Future] = {}
        self.level: str | None = None
        """The least severe log messages that they want; None: they did not say."""
        self.watched: dict[str, Callable[[Future], None]] = {}
        self._running = self._closed = False
        self._send, self._receive = anyio.create_memory_object_stream[tuple[str, dict[str, Any] | None]](BACKLOG)

    def tell(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        body = dict(params or {})
        if self.stamp:
            body["_meta"] = {**(body.get("_meta") or {}), **self.stamp}
        try:
            self._send.send_nowait((method, body or None))
        except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
            logger.debug("a listener missed %s", method)

    async def run(self) -> None:
        """Send what they are told, until cancelled or closed."""
        if self._closed:
            return  # they left before we came to run
        self._running = True
        async with self._receive:
            async for method, params in self._receive:
                try:
                    await self.notify(method, params)
                except Exception:
                    # Somebody who cannot be told costs nobody else anything.
                    logger.exception("telling a listener of %s failed", method)

    def close(self) -> None:
        """Nothing more will be told; what was is still sent."""
        self._closed = True
        self._send.close()
        if not self._running:
            self._receive.close()


class Attendance:
    """A request that waits for servers, and hears what they log meanwhile.

    Args:
        level: the level that the request itself asked for (2026-07-28).
        connection: the handshake connection that it came on; None on 2026-07-28.
        stir: called when it is about to hear something.
    """

    __slots__ = ("_heard", "connection", "level", "notify", "owed", "stir")

    def __init__(
        self, notify: Notify, level: str | None, connection: object, stir: Callable[[], None] = lambda: None
    ) -> None:
        self.notify, self.level, self.connection, self.stir = notify, level, connection, stir
        self.owed = 0
        """Messages that it is about to hear: its result must not come before them."""
        self._heard: anyio.Event | None = None

    def owe(self) -> None:
        self.owed += 1
        self.stir()

    async def tell(self, method: str, params: Mapping[str, Any]) -> None:
        """Have it hear one of those, or not if it does not take it in time."""
        try:
            with anyio.move_on_after(ATTEND_S):
                await self.notify(method, params)
        except Exception:
            logger.exception("telling a request of %s failed", method)
        finally:
            self.owed -= 1
            if not self.owed and self._heard is not None:
                self._heard.set()

    async def heard(self) -> None:
        """Return when it has heard everything that was said before."""
        while self.owed:
            self._heard = anyio.Event()
            await self._heard.wait()


class Listeners:
    """Everybody who listens to one bridge."""

    def __init__(self, bridge: Bridge, scope: Scope, task_of: Callable[[Future, bool], Mapping[str, Any]]) -> None:
        self._bridge = bridge
        self._scope = scope
        self._task_of = task_of
        self._all: dict[Listener, None] = {}
        self._changed: set[str] = set()
        self._dirty = anyio.Event()
        self._logged: dict[str, tuple[float, int]] = {}
        self._attending: dict[str, dict[Attendance, None]] = {}
        bridge.observe(self._on_lists)
        bridge.on_notification = self._on_notification

    def add(self, listener: Listener) -> None:
        self._all[listener] = None

    async def discard(self, listener: Listener) -> None:
        """Forget a listener, and what was subscribed to for them alone."""
        self._all.pop(listener, None)
        listener.close()
        for key in tuple(listener.watched):
            self._unwatch(listener, key)
        # Side by side: a server that does not answer costs the others nothing, and the listener's end little.
        with anyio.move_on_after(UNSUBSCRIBE_S):
            async with anyio.create_task_group() as tg:
                for uri in tuple(listener.uris):
                    tg.start_soon(self.unsubscribe, listener, uri)

    async def run(self) -> None:
        """Tell of list changes, until cancelled; each kind with pauses that grow while it keeps changing."""
        brakes = {kind: Brake(*ANNOUNCE_S) for kind in LIST_CHANGES.values()}
        while True:
            await self._dirty.wait()
            await anyio.sleep(GATHER_S)
            self._dirty = anyio.Event()
            waiting = {kind: brakes[kind].left() for kind in {LIST_CHANGES[each] for each in self._changed}}
            for kind in sorted(kind for kind, left in waiting.items() if left <= 0):
                self._changed -= {each for each, told in LIST_CHANGES.items() if told == kind}
                brakes[kind].ran()
                for listener in tuple(self._all):
                    if kind in listener.lists:
                        listener.tell(f"notifications/{kind}/list_changed")
            if self._changed:
                with anyio.move_on_after(min(left for left in waiting.values() if left > 0)):
                    await self._dirty.wait()
                self._dirty.set()

    # --- subscriptions -------------------------------------------------------------------------------------------

    async def subscribe(self, listener: Listener, uri: str, namer: CallerIdentity | None = None) -> None:
        """Tell the listener when this resource changes.

        Args:
            namer: the caller among whose names that of a future is.

        Raises:
            AmbiguousName: it is a name that several callers gave.
            CallFailed: the server that offers it refuses.
        """
        if uri in listener.uris:
            return
        first = not any(uri in other.uris for other in self._all)
        if uri.startswith(FUTURE_URI):
            future = self._bridge.store.find(listener.scope, uri.removeprefix(FUTURE_URI), namer)
            listener.uris.add(uri)
            if future is not None:
                self._watch(listener, f"uri:{uri}", future, lambda _: self._future_read(listener, uri, future))
                # It may have ended on the way here, and nothing will change any more.
                self._future_read(listener, uri, future)
            return
        listener.uris.add(uri)
        if first:
            try:
                await self._bridge.subscribe(listener.scope, uri)
            except BaseException:  # a refusal, or its request was cancelled
                listener.uris.discard(uri)
                raise

    async def unsubscribe(self, listener: Listener, uri: str) -> None:
        if uri not in listener.uris:
            return
        listener.uris.discard(uri)
        self._unwatch(listener, f"uri:{uri}")
        if not uri.startswith(FUTURE_URI) and not any(uri in other.uris for other in self._all):
            await self._bridge.unsubscribe(uri)

    def follow(self, listener: Listener, future: Future, *, asks: bool = True) -> None:
        """Tell the listener of every change of this future's status (`notifications/tasks`).

        Args:
            asks: its questions may be put to this client.
        """
        last: list[State] = []

        def changed(_: Future) -> None:
            if last != [future.state]:
                last[:] = [future.state]
                listener.tell("notifications/tasks", self._task_of(future, asks))

        self._watch(listener, f"task:{future.key}", future, changed)
        if future.done:
            changed(future)  # on the way here, maybe, and nothing will change any more

    def _watch(self, listener: Listener, key: str, future: Future, watcher: Callable[[Future], None]) -> None:
        listener.futures[key] = future
        listener.watched[key] = watcher
        future.watchers.append(watcher)

    def _unwatch(self, listener: Listener, key: str) -> None:
        watcher, future = listener.watched.pop(key, None), listener.futures.pop(key, None)
        if watcher is not None and future is not None and watcher in future.watchers:
            future.watchers.remove(watcher)

    def _future_read(self, listener: Listener, uri: str, future: Future) -> None:
        if future.done:
            listener.tell("notifications/resources/updated", {"uri": uri})
            self._unwatch(listener, f"uri:{uri}")

    # --- told by the bridge --------------------------------------------------------------------------------------

    def _on_lists(self, kinds: frozenset[str]) -> None:
        self._changed |= kinds
        self._dirty.set()

    def attend(self, attendance: Attendance, servers: Iterable[str]) -> Callable[[], None]:
        """Let what these servers log go to a request that waits for them, on its own stream, until what is returned
        is called."""
        lists = [self._attending.setdefault(server, {}) for server in servers]
        for each in lists:
            each[attendance] = None

        return partial(_leave, attendance, lists)

    @asynccontextmanager
    async def attending(self, attendance: Attendance, servers: Iterable[str]) -> AsyncGenerator[Attendance]:
        """`attend`, while it lasts; it lasts until everything is heard that was said in it."""
        leave = self.attend(attendance, servers)
        try:
            yield attendance
            await attendance.heard()
        finally:
            leave()

    def _on_notification(
        self, server: str, method: str, params: Mapping[str, Any]
    ) -> Callable[[], Awaitable[None]] | None:
        """Take in a notification of a server; what is left to be done about it, if anything is."""
        if method == "notifications/resources/updated":
            uri = params.get("uri")
            for listener in tuple(self._all):
                # Of the server that was asked only: another one has nothing to say about its resources.
                if isinstance(uri, str) and any(
                    _covers(wanted, uri) and self._bridge.subscribed_at(wanted) == server for wanted in listener.uris
                ):
                    listener.tell(method, {key: value for key, value in params.items() if key != "_meta"})
        elif method == "notifications/message" and self._scope.listed and self._within_rate(server):
            return self._logged_by(server, method, params)
        return None

    def _logged_by(self, server: str, method: str, params: Mapping[str, Any]) -> Callable[[], Awaitable[None]] | None:
        level = params.get("level")
        hearers: list[Attendance] = []
        told: set[object] = set()
        for attendance in self._attending.get(server, ()):
            wanted = attendance.level
            if (own := self._by_connection(attendance.connection)) is not None:
                wanted = own.level
                told.add(own)
            elif wanted is None:
                continue  # 2026-07-28: no messages for a request that did not ask for any
            if self.wants(wanted, level):
                hearers.append(attendance)
        # Outside a request only handshake connections hear, where nobody else's messages could be among them.
        for listener in tuple(self._all):
            if not (listener in told or listener.stamp) and listener.scope.listed and self.wants(listener.level, level):
                listener.tell(method, params)
        for attendance in hearers:
            # Not through a queue, and owed from now on: it must not be overtaken by the answer to that request, which
            # may come right behind.
            attendance.owe()
        return partial(_tell_all, hearers, method, params) if hearers else None

    def _by_connection(self, connection: object) -> Listener | None:
        if connection is None:
            return None
        return next((listener for listener in self._all if listener.connection is connection), None)

    def _within_rate(self, server: str) -> bool:
        now = anyio.current_time()
        since, count = self._logged.get(server, (now, 0))
        if now - since >= 1:
            since, count = now, 0
        self._logged[server] = (since, count + 1)
        return count < LOGS_PER_S

    @staticmethod
    def wants(wanted: str | None, level: object) -> bool:
        """Whether a message of this level is severe enough for somebody who asked for `wanted` and above."""
        if wanted not in LEVELS or level not in LEVELS:
            return True
        return LEVELS.index(str(level)) >= LEVELS.index(wanted)

    def least_level(self) -> str | None:
        """The least severe level that anybody wants."""
        levels = [LEVELS.index(listener.level) for listener in self._all if listener.level in LEVELS]
        return LEVELS[min(levels)] if levels else None


def _leave(attendance: Attendance, lists: Iterable[dict[Attendance, None]]) -> None:
    for each in lists:
        each.pop(attendance, None)


async def _tell_all(hearers: Iterable[Attendance], method: str, params: Mapping[str, Any]) -> None:
    """Side by side: one that does not read costs the others nothing."""
    async with anyio.create_task_group() as tg:
        for attendance in hearers:
            tg.start_soon(attendance.tell, method, params)


def _covers(wanted: str, uri: str) -> bool:
    """Whether a change of `uri` concerns who subscribed to `wanted`: itself, or a part of it, as servers may name."""
    return uri == wanted or (uri.startswith(wanted) and (wanted[-1:] in ("/", "?", "#") or uri[len(wanted)] in "/?#"))
