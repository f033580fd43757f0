"""Connections of callers: a server that receives credentials of callers has one for each of these.

Owns whose connection that is, its credentials (in memory only), and its life: it is opened by a request of its caller
and ended when it has been idle. Such a connection shares nothing with another one: no session, no listing, no result of
single flight, no notification. Leaves the templates of headers to `config.caller_headers`, and who a caller is to the
transports (`Principal`).
"""

import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Protocol

import anyio
import anyio.abc

from asyncfc_mcp.bridge.directory import Directory
from asyncfc_mcp.bridge.server_requests import ServerRequests
from asyncfc_mcp.config.caller_headers import caller_names, filled
from asyncfc_mcp.config.settings import HttpSpec, ServerConfig
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import OAUTH, PERSON, Principal
from asyncfc_mcp.downstream.downstream import Downstream, DownstreamHandler
from asyncfc_mcp.downstream.http.authorizer import Authorizer
from asyncfc_mcp.errors import CallerCredentialsGone, CallerCredentialsRefused, ServerRemoved, TooManyCallers
from asyncfc_mcp.redaction import SHORTEST_SECRET

logger = logging.getLogger(__name__)

IDLE_S: Final = 900.0
"""Connections of a caller end after this time without a request or an unfinished call of that caller."""
SWEEP_S: Final = 30.0
"""Interval between two searches for idle ones."""
MAX_CALLERS: Final = 256
"""Bound on callers with connections of their own. Beyond it, those make room that have been idle for longest."""
_SCHEMES: Final = frozenset({"bearer", "basic", "token", "digest", "apikey", "negotiate"})
"""Words before a credential, which are not hidden in texts."""
MIN_IDLE_TO_EVICT_S: Final = 10.0
"""Idle time after which connections may make room for another caller's."""


class Connect(Protocol):
    """Makes a connection to a server with the credentials of a caller."""

    def __call__(self, server: ServerConfig, handler: DownstreamHandler, authorizer: Authorizer) -> Downstream: ...


MakeDirectory = Callable[[Mapping[str, Downstream], Sequence[tuple[str, str]]], Directory]
"""Makes the directory of a caller, of its connections and of the servers that lack a credential, each with a reason."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Connected:
    """The connections of one caller, and their use."""

    key: str
    """Of the caller's credentials (see `CallerConnections.key`)."""
    directory: Directory
    downstreams: Mapping[str, Downstream]
    """Server → its connection, those that all callers share included; without those that lack a credential."""
    own: Sequence[Downstream]
    """Those that are of this caller only."""
    headers: Mapping[str, str] = field(repr=False)
    """Of the latest request, by lower-case name."""
    used_at: float
    unfinished: set[str] = field(default_factory=set[str])
    """Keys of futures whose calls need the connections."""
    cancel_scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def use(self, headers: Mapping[str, str], now: float) -> None:
        """Take note of a request, whose credentials count from now on, also for calls that are waiting."""
        self.used_at = now
        if headers != self.headers:
            self.headers = headers
            for downstream in self.own:
                downstream.signed_in()


class CallerAuthorizer:
    """Adds the caller's present headers to the requests to one server. Implements `Authorizer`.

    Args:
        headers: returns them, by lower-case name; all that the server needs are among them.
    """

    def __init__(self, server: str, spec: HttpSpec, headers: Callable[[], Mapping[str, str]]) -> None:
        self._server = server
        self._templates = spec.caller_headers
        self._names = caller_names(spec)
        self._headers = headers
        self._refused: Mapping[str, str] | None = None
        """Headers that the server has refused."""

    @property
    def secrets(self) -> Sequence[str]:
        words = {word for name in self._names for word in self._headers()[name].split()}
        found = [word for word in words if len(word) >= SHORTEST_SECRET and word.lower() not in _SCHEMES]
        return sorted(found, key=len, reverse=True)

    def renewed(self) -> bool:
        return self._refused is not None and self._filled() != self._refused

    async def headers(self) -> Mapping[str, str]:
        return self._filled()

    async def refused(self, status: int, challenges: Sequence[str], sent: Mapping[str, str]) -> bool:
        if self._filled() != sent:
            return True  # the caller has sent others since
        self._refused = sent
        raise CallerCredentialsRefused(self._server, self._names, status)

    def _filled(self) -> dict[str, str]:
        headers = self._headers()
        # As bytes they are sent as they were received, whatever their encoding.
        return {
            name: filled(text, headers).encode("latin-1", "replace").decode("utf-8", "surrogateescape")
            for name, text in self._templates.items()
        }


class _Handler:
    """Handles what the servers of one caller send on their own initiative. Implements `DownstreamHandler`."""

    def __init__(self, server_requests: ServerRequests, credentials: str) -> None:
        self._server_requests = server_requests
        self._credentials = credentials
        self.directory: Directory | None = None

    async def on_listing_changed(self, downstream: Downstream, kind: str) -> None:
        assert self.directory is not None
        await self.directory.update(downstream, kind)

    async def wait_for_client_capabilities(self) -> None:
        await self._server_requests.wait_for_capabilities()

    async def on_server_request(
        self,
        downstream: Downstream,
        method: str,
        params: Mapping[str, Any] | None,
        causes: Sequence[object] | None,
    ) -> dict[str, Any]:
        return await self._server_requests.ask(downstream.name, method, params, causes, self._credentials)

    def on_server_notification(
        self, downstream: Downstream, method: str, params: Mapping[str, Any] | None
    ) -> Callable[[], Awaitable[None]] | None:
        return self._server_requests.notified(downstream.name, method, params, self._credentials)


class CallerConnections:
    """The connections of all callers.

    Args:
        servers: all servers, in the order of the configuration.
        common: connections of those that all callers share.
        connect: makes a connection for one caller.
        directory: makes the directory of a caller.
        server_requests: handles what their servers send.
        is_subscribed: returns whether there is a subscription that was made with credentials of this key.
        max_callers: see `MAX_CALLERS`.
    """

    def __init__(
        self,
        servers: Sequence[ServerConfig],
        common: Mapping[str, Downstream],
        connect: Connect,
        directory: MakeDirectory,
        server_requests: ServerRequests,
        is_subscribed: Callable[[str], bool] = lambda key: False,
        *,
        max_callers: int = MAX_CALLERS,
    ) -> None:
        self._servers, self._common = servers, common
        self._names = tuple(sorted({name for server in servers for name in caller_names(server.spec)}))
        self._connect, self._directory, self._server_requests = connect, directory, server_requests
        self._is_subscribed, self._max_callers = is_subscribed, max_callers
        self._secret = os.urandom(32)
        self._callers: dict[str, Connected] = {}
        """By key, least recently used first."""
        self._tasks: anyio.abc.TaskGroup | None = None
        self._observers: list[Callable[[Connected, frozenset[str]], None]] = []
        self.log_level: str | None = None
        """Least level of log messages that clients want of servers of handshake versions."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep the connections of callers, until cancelled."""
        try:
            async with anyio.create_task_group() as self._tasks:
                task_status.started()
                while True:
                    await anyio.sleep(SWEEP_S)
                    now = anyio.current_time()
                    for key, each in list(self._callers.items()):
                        if self._idle_s(each, now) >= IDLE_S:
                            self._end(key)
        finally:
            self._tasks = None
            self._callers.clear()

    def observe(self, observer: Callable[[Connected, frozenset[str]], None]) -> None:
        """Have `observer` called with the connections of each caller whose listings changed, and their kinds."""
        self._observers.append(observer)

    # --- for requests --------------------------------------------------------------------------------------------

    def use(self, principal: Principal) -> Connected:
        """Return the connections of a request's caller, which are opened now if need be. They use the credentials of
        this request from now on.

        Raises:
            TooManyCallers: all that the bound allows are in use.
        """
        key = self.key(principal)
        now = anyio.current_time()
        each = self._callers.pop(key, None)
        if each is None:
            self._make_room(now)
            each = self._open(key, principal, now)
        self._callers[key] = each
        each.use(principal.headers, now)
        return each

    def current(self, principal: Principal) -> Connected | None:
        """Return the connections of a caller if there are any, without using them."""
        return self._callers.get(self.key(principal))

    def key(self, principal: Principal) -> str:
        """Return the key of a caller's connections.

        A person who is authenticated has one set of them, for which newer credentials take the place of older ones.
        Other principals may be several persons, so that only callers with the same credentials share connections.
        Callers that lack a header share none with those that have it.
        """
        headers, scope = principal.headers, principal.scope.key
        present = [name for name in self._names if name in headers]
        values = [] if scope.startswith((PERSON, OAUTH)) else [headers[name] for name in present]
        text = json.dumps([scope, present, values])
        return blake2b(text.encode(), digest_size=16, key=self._secret).hexdigest()

    def all_downstreams(self) -> list[Downstream]:
        """Return the present connections of all callers."""
        return [downstream for each in self._callers.values() for downstream in each.own]

    # --- for calls -----------------------------------------------------------------------------------------------

    def hold(self, credentials: str, future: Future) -> None:
        """Keep a caller's connections until the call of this future has ended."""
        each = self._callers.get(credentials)
        if each is None or future.done:
            return
        each.unfinished.add(future.key)

        def changed(future: Future) -> None:
            if future.done and changed in future.watchers:
                future.watchers.remove(changed)
                each.unfinished.discard(future.key)
                each.used_at = anyio.current_time()

        future.watchers.append(changed)

    def downstream(self, credentials: str | None, server: str) -> Downstream:
        """Return the connection of a call.

        Raises:
            CallerCredentialsGone: its caller's credentials are not in memory any more.
            ServerRemoved: the configuration no longer has the server.
        """
        if all(config.name != server for config in self._servers):
            raise ServerRemoved(server)
        each = None if credentials is None else self._callers.get(credentials)
        found = None if each is None else each.downstreams.get(server)
        if found is None:
            raise CallerCredentialsGone(server)
        return found

    # --- opening and ending --------------------------------------------------------------------------------------

    async def update(self, downstream: Downstream, kind: str) -> None:
        """Have the directories of all callers take in a changed listing of a server that they share; return when
        clients see it."""
        async with anyio.create_task_group() as tg:
            for each in self._callers.values():
                tg.start_soon(each.directory.update, downstream, kind)

    def _open(self, key: str, principal: Principal, now: float) -> Connected:
        assert self._tasks is not None, "the bridge is open"
        handler = _Handler(self._server_requests, key)
        headers: Callable[[], Mapping[str, str]] = lambda: each.headers  # noqa: E731
        downstreams: dict[str, Downstream] = {}
        own: list[Downstream] = []
        lacking: list[tuple[str, str]] = []
        for server in self._servers:
            name, names = server.name, caller_names(server.spec)
            if not isinstance(server.spec, HttpSpec) or not names:
                downstreams[name] = self._common[name]
            elif missing := [needed for needed in names if needed not in principal.headers]:
                lacking.append((name, lacks(missing)))
            else:
                authorizer = CallerAuthorizer(name, server.spec, headers)
                downstreams[name] = self._connect(server, handler, authorizer)
                own.append(downstreams[name])
        directory = handler.directory = self._directory(downstreams, lacking)
        each = Connected(key, directory, downstreams, own, principal.headers, now)
        directory.observe(lambda kinds: self._on_lists(key, kinds))
        self._tasks.start_soon(self._run, each)
        return each

    async def _run(self, each: Connected) -> None:
        """Keep the connections of a caller and its directory. A failure ends these only."""
        try:
            with each.cancel_scope:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(each.directory.run)
                    for downstream in each.own:
                        if self.log_level is not None:
                            await downstream.set_log_level(self.log_level)
                        tg.start_soon(downstream.run)
        except Exception:
            logger.exception("the connections of a caller have failed")
        finally:
            if self._callers.get(each.key) is each:
                del self._callers[each.key]

    def _on_lists(self, key: str, kinds: frozenset[str]) -> None:
        each = self._callers.get(key)
        if each is not None:
            for observer in self._observers:
                observer(each, kinds)

    def _make_room(self, now: float) -> None:
        if len(self._callers) < self._max_callers:
            return
        key = next((key for key, each in self._callers.items() if self._idle_s(each, now) >= MIN_IDLE_TO_EVICT_S), None)
        if key is None:
            raise TooManyCallers(self._max_callers)
        self._end(key)

    def _idle_s(self, each: Connected, now: float) -> float:
        is_held = each.unfinished or self._is_subscribed(each.key)
        return 0.0 if is_held else now - each.used_at

    def _end(self, key: str) -> None:
        self._callers.pop(key).cancel_scope.cancel()


def lacks(names: Sequence[str]) -> str:
    """Return the reason why a server cannot be used by a caller without these headers."""
    return f"needs the header{'s' if len(names) > 1 else ''} {' and '.join(names)} of your client's requests"
