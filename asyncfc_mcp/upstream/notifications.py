"""Distribution of notifications: list changes, updated resources, changed futures, log messages.

Owns which listener receives what, and the rates. Leaves queues and sending to `listeners`, and the decision what has
changed to the bridge.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.views import View
from asyncfc_mcp.config.changes import ConfigChanges
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import Asker, CallerIdentity, Scope
from asyncfc_mcp.core.meta_keys import without_our_keys
from asyncfc_mcp.quotation import said
from asyncfc_mcp.signals import WakeUp
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.future_resources import SCHEME
from asyncfc_mcp.upstream.instructions import InstructionsFor, is_docs, read_docs
from asyncfc_mcp.upstream.list_changes import ListChanges
from asyncfc_mcp.upstream.listeners import LEVELS, Listener, RequestLogListener, severe_enough
from asyncfc_mcp.values.sizes import approximate_size

COALESCE_S: Final = 0.05
"""List changes within this time are announced once."""
LOGS_PER_S: Final = 50
"""Log messages of one server forwarded in a second; more than that cannot be read."""
MAX_LOG_COUNTS: Final = 1024
"""Connections whose log messages are counted; beyond it, those that are quiet are dropped."""
LOG_BYTES: Final = 64 << 10
"""Longest log message that is forwarded whole, in bytes: it is written for each listener."""
UNSUBSCRIBE_S: Final = 2.0
"""Longest wait for servers to end the subscriptions of a listener that has left."""


class NotificationHub:
    """All listeners of one bridge.

    Args:
        instructions: those of the servers, some of which are resources.
        task_of: a future as a task of MCP; with its questions where the second argument is true.
    """

    def __init__(
        self, bridge: Bridge, instructions: InstructionsFor, task_of: Callable[[Future, bool], Mapping[str, Any]]
    ) -> None:
        self._bridge = bridge
        self._instructions = instructions
        self._lists: dict[View, ListChanges] = {}
        """Whole view of each directory that a listener sees → its changes."""
        self._task_of = task_of
        self._listeners: dict[Listener, None] = {}
        self._lists_changed = WakeUp()
        self._log_counts: dict[tuple[str, str | None], tuple[float, int]] = {}
        """Server and credentials of its connection → the beginning of the present second, and its log messages
        since."""
        self._servers = [server.name for server in bridge.config.servers]
        self._requests: dict[str, dict[RequestLogListener, None]] = {}
        """Server → the requests that wait for it."""
        bridge.observe_lists(self._on_lists)
        bridge.observe_reload(self._on_reload)
        bridge.server_requests.observe(self._on_notification)

    def add(self, listener: Listener) -> None:
        self._listeners[listener] = None
        views = self._bridge.views
        seen = {views.everything, *(views.whole(each.principal()) for each in self._listeners)}
        # Views of callers that have left are dropped.
        self._lists = {
            view: self._lists.get(view) or ListChanges(view, self._instructions.documents(view)) for view in seen
        }

    async def discard(self, listener: Listener) -> None:
        """Remove a listener, and end the subscriptions that only it had."""
        self._listeners.pop(listener, None)
        listener.close()
        for key in tuple(listener.watched):
            self._unwatch(listener, key)
        # In parallel: a server that does not answer delays neither the others nor, by much, the listener's end.
        with anyio.move_on_after(UNSUBSCRIBE_S):
            async with anyio.create_task_group() as tg:
                for uri in tuple(listener.uris):
                    tg.start_soon(self.unsubscribe, listener, uri)

    async def run(self) -> None:
        """Announce list changes, until cancelled; each kind with pauses that grow while it keeps changing."""
        while True:
            await self._lists_changed.wait()
            await anyio.sleep(COALESCE_S)
            now = anyio.current_time()
            waiting = [left for whole in tuple(self._lists) if (left := self._announce(whole, now)) is not None]
            if waiting:
                with anyio.move_on_after(min(waiting)):
                    await self._lists_changed.wait()
                self._lists_changed.set()

    def _announce(self, whole: View, now: float) -> float | None:
        """Announce the changes of one directory that are due; return the seconds until the next are."""
        lists = self._lists[whole]
        kinds = lists.due(now)
        listeners = self._listeners_of(whole) if kinds else ()
        for kind in kinds:
            for listener in listeners:
                if kind in listener.lists and lists.is_changed_for(self._view(listener), kind):
                    listener.enqueue(f"notifications/{kind}/list_changed")
        return lists.announced(kinds, now)

    def _on_lists(self, whole: View, kinds: frozenset[str]) -> None:
        lists, listeners = self._lists.get(whole), self._listeners_of(whole)
        if lists is None:
            if not listeners:
                return  # the directory of a caller to which nobody listens
            # Its caller got servers of its own after it began to listen.
            lists = self._lists[whole] = ListChanges(whole, self._instructions.documents(whole))
        views = dict.fromkeys(map(self._view, listeners))
        for uri in lists.record(kinds, self._instructions.documents(whole), views):
            for listener in listeners:
                if uri in listener.uris and self._may_read(listener, uri):
                    listener.enqueue("notifications/resources/updated", {"uri": uri})
        self._lists_changed.set()

    def _on_reload(self, changed: ConfigChanges) -> None:
        """Forget the subscriptions at servers that are gone; announce all lists where principals may use others."""
        self._servers = [server.name for server in self._bridge.config.servers]
        gone = frozenset(changed.removed)
        for listener in self._listeners:
            for uri in [uri for uri, at in listener.uris.items() if at is not None and at[0] in gone]:
                del listener.uris[uri]
        if "access" in changed.settings:
            for lists in self._lists.values():
                lists.record_all()
            self._lists_changed.set()

    def _listeners_of(self, whole: View) -> list[Listener]:
        whole_of = self._bridge.views.whole
        return [listener for listener in self._listeners if whole_of(listener.principal()) is whole]

    def _may_read(self, listener: Listener, uri: str) -> bool:
        """Return true for instructions of a server that the listener's principal may use."""
        view = self._view(listener)
        return not view.restricted or read_docs(uri, self._instructions.servers(view)) is not None

    def _view(self, listener: Listener) -> View:
        return self._bridge.views.of(listener.principal())

    # --- subscriptions -------------------------------------------------------------------------------------------

    async def subscribe(self, listener: Listener, uri: str, namer: CallerIdentity | None = None) -> None:
        """Notify the listener when this resource changes.

        Args:
            namer: the caller among whose names that of a future is.

        Raises:
            AmbiguousName: several callers gave this name.
            CallFailed: the server that offers the resource refuses.
        """
        view = self._view(listener)
        known = listener.uris.get(uri)
        if known is not None and known[1] not in (None, view.credentials):
            await self.unsubscribe(listener, uri)  # its client has other credentials now
        if uri in listener.uris:
            return
        if uri.startswith(SCHEME):
            future = await self._bridge.engine.find(listener.scope, uri.removeprefix(SCHEME), namer)
            listener.uris[uri] = None
            if future is not None:
                self._watch(listener, f"uri:{uri}", future, lambda _: self._notify_if_done(listener, uri, future))
                # It may have ended before it was watched, after which nothing changes.
                self._notify_if_done(listener, uri, future)
            return
        if is_docs(uri):
            listener.uris[uri] = None
            return
        server = await self._bridge.forwarding.owner_of(listener.scope, uri, view)
        if uri in listener.uris or listener.closed:
            return  # by another request meanwhile, or it has left
        at = server, view.credentials_for(server)
        first = not self._has_subscribed(at, uri)
        listener.uris[uri] = at
        if first:
            try:
                await self._bridge.forwarding.subscribe(listener.scope, server, uri, at[1])
            except BaseException:  # a refusal, or its request was cancelled
                listener.uris.pop(uri, None)
                raise

    def _has_subscribed(self, at: tuple[str, str | None], uri: str) -> bool:
        return any(each.uris.get(uri) == at for each in self._listeners)

    async def unsubscribe(self, listener: Listener, uri: str) -> None:
        """End a listener's subscription, and the server's if it was the last one."""
        if uri not in listener.uris:
            return
        at = listener.uris.pop(uri)
        self._unwatch(listener, f"uri:{uri}")
        if at is not None and not self._has_subscribed(at, uri):
            await self._bridge.forwarding.unsubscribe(at[0], uri, at[1])

    def follow(self, listener: Listener, future: Future, *, asks: bool = True) -> None:
        """Notify the listener of every change of this future's status (`notifications/tasks`).

        Args:
            asks: its questions may be put to this client.
        """
        last: list[State] = []

        def changed(_: Future) -> None:
            if last != [future.state]:
                last[:] = [future.state]
                listener.enqueue("notifications/tasks", self._task_of(future, asks))

        self._watch(listener, f"task:{future.key}", future, changed)
        if future.done:
            changed(future)  # it may have ended before it was watched, after which nothing changes

    def _watch(self, listener: Listener, key: str, future: Future, watcher: Callable[[Future], None]) -> None:
        listener.futures[key] = future
        listener.watched[key] = watcher
        future.watchers.append(watcher)

    def _unwatch(self, listener: Listener, key: str) -> None:
        watcher, future = listener.watched.pop(key, None), listener.futures.pop(key, None)
        if watcher is not None and future is not None and watcher in future.watchers:
            future.watchers.remove(watcher)

    def _notify_if_done(self, listener: Listener, uri: str, future: Future) -> None:
        if future.done:
            listener.enqueue("notifications/resources/updated", {"uri": uri})
            self._unwatch(listener, f"uri:{uri}")

    # --- notifications of servers --------------------------------------------------------------------------------

    def _on_notification(
        self, server: str, method: str, params: Mapping[str, Any], credentials: str | None
    ) -> Callable[[], Awaitable[None]] | None:
        """Accept a notification of a server; return what is left to be done about it, or None.

        Args:
            credentials: key of those of the only caller that it is for, if the server has a connection for each.
        """
        if method == "notifications/resources/updated":
            uri, source = params.get("uri"), (server, credentials)
            for listener in tuple(self._listeners):
                # Only from the server that has the subscription: another one may not speak for its resources.
                if (
                    isinstance(uri, str)
                    and any(at == source and _covers(wanted, uri) for wanted, at in listener.uris.items())
                    and self._view(listener).serves(server)
                ):
                    listener.enqueue(method, {key: value for key, value in params.items() if key != "_meta"})
        elif method == "notifications/message" and self._within_rate(server, credentials):
            return self._distribute_log(server, method, self._attributed(server, _bounded_log(params)), credentials)
        return None

    # --- log messages --------------------------------------------------------------------------------------------

    def add_request(self, listener: RequestLogListener, servers: Iterable[str]) -> Callable[[], None]:
        """Send the log messages of these servers to a request that waits for them, on its own stream.

        Returns:
            A callback that ends this.
        """
        lists = [self._requests.setdefault(server, {}) for server in servers]
        for each in lists:
            each[listener] = None
        return partial(_remove, listener, lists)

    @asynccontextmanager
    async def logging_to(
        self, listener: RequestLogListener, servers: Iterable[str]
    ) -> AsyncGenerator[RequestLogListener]:
        """`add_request` while the block lasts; at its end, wait until all announced messages were sent."""
        remove = self.add_request(listener, servers)
        try:
            yield listener
            await listener.drained()
        finally:
            remove()

    def least_level(self) -> str | None:
        """Return the least severe level that a listener wants which may receive messages; None if none has set a
        level."""
        levels = [
            LEVELS.index(listener.level)
            for listener in self._listeners
            if listener.level in LEVELS and any(map(self._view(listener).serves, self._servers))
        ]
        return LEVELS[min(levels)] if levels else None

    def _within_rate(self, server: str, credentials: str | None) -> bool:
        now = anyio.current_time()
        if len(self._log_counts) >= MAX_LOG_COUNTS:
            self._log_counts = {key: each for key, each in self._log_counts.items() if now - each[0] < 1}
        key = server, credentials
        since, count = self._log_counts.get(key, (now, 0))
        if now - since >= 1:
            since, count = now, 0
        self._log_counts[key] = (since, count + 1)
        return count < LOGS_PER_S

    def _attributed(self, server: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a log message without keys of the bridge, and with its server's name where there are several."""
        params = without_our_keys(dict(params))
        if len(self._servers) < 2:
            return params
        own = params.get("logger")
        return {**params, "logger": f"{server}/{said(own)}" if isinstance(own, str) and own else server}

    def _distribute_log(
        self, server: str, method: str, params: Mapping[str, Any], credentials: str | None
    ) -> Callable[[], Awaitable[None]] | None:
        level = params.get("level")
        receivers: list[RequestLogListener] = []
        served: set[object] = set()
        # A message does not name the call that it is about. Where several principals use a server, it might show one of
        # them another's call, so none of them receives it.
        # Nor does one that may use only some of the server's tools, or none. A connection of one caller's own has no
        # other user.
        views = self._bridge.views
        # For the same reason a session beside others receives only messages while nobody else's call is running.
        users = self._bridge.forwarding.users_of(server) if credentials is None else frozenset[Scope]()
        askers = self._askers(server) if credentials is None else set[Asker]()

        def may_receive(view: View, line: Connection | None) -> bool:
            if line is not None and line.is_apart and not askers <= {line.identity}:
                return False
            return view.serves(server) and view.credentials_for(server) == credentials

        if len(users) > 1 or not all(scope.listed for scope in users):
            return None
        for request in self._requests.get(server, ()):
            scope = request.principal.scope
            if (
                not scope.listed
                or (users and scope not in users)
                or not may_receive(views.of(request.principal), request.line)
            ):
                continue
            wanted = request.level
            if (own := self._of_connection(request.connection)) is not None:
                wanted = own.level
                served.add(own)
            elif wanted is None:
                continue  # 2026-07-28: no messages for a request that did not ask for any
            if severe_enough(level, wanted):
                receivers.append(request)
        # Outside a request, only handshake connections receive messages, and only those of one principal.
        for listener in tuple(self._listeners):
            if listener in served or listener.stamp or not listener.scope.listed:
                continue
            if (
                (not users or listener.scope in users)
                and severe_enough(level, listener.level)
                and may_receive(self._view(listener), listener.line)
            ):
                listener.enqueue(method, params)
        for request in receivers:
            # Delivered directly and counted as pending from now on, so that the response to this request, which may
            # follow at once, cannot overtake it.
            request.add_pending()
        return partial(_deliver_all, receivers, method, params) if receivers else None

    def _askers(self, server: str) -> set[Asker]:
        """Return those whose requests a server may be working on; of several sessions at least one where there is none,
        since a message may be about what has just ended."""
        lines = {each.line for each in self._listeners if each.line is not None and each.line.is_apart}
        if not lines:
            return set()
        askers = self._bridge.askers_at(server)
        return askers or ({None} if len(lines) > 1 else set())

    def _of_connection(self, connection: object) -> Listener | None:
        if connection is None:
            return None
        return next((listener for listener in self._listeners if listener.connection is connection), None)


def _bounded_log(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a log message, or in place of one that is too long its beginning and its size."""
    size = approximate_size(params)
    if size <= LOG_BYTES:
        return params
    data = params.get("data")
    start = data[: LOG_BYTES // 16] if isinstance(data, str) else ""
    kept = {key: params[key] for key in ("level", "logger") if isinstance(params.get(key), str)}
    return {**{key: value[:200] for key, value in kept.items()}, "data": f"{start}… (a message of {size} bytes)"}


def _remove(listener: RequestLogListener, lists: Iterable[dict[RequestLogListener, None]]) -> None:
    for each in lists:
        each.pop(listener, None)


async def _deliver_all(receivers: Iterable[RequestLogListener], method: str, params: Mapping[str, Any]) -> None:
    """In parallel: one that does not read costs the others nothing."""
    async with anyio.create_task_group() as tg:
        for receiver in receivers:
            tg.start_soon(receiver.deliver, method, params)


def _covers(wanted: str, uri: str) -> bool:
    """Return whether a change of `uri` concerns a subscription to `wanted`: the same, or a part of it, as servers may
    announce."""
    return uri == wanted or (uri.startswith(wanted) and (wanted[-1:] in ("/", "?", "#") or uri[len(wanted)] in "/?#"))
