"""Connections of callers: for servers that receive credentials of callers, or keep state of a session.

Such a server has a connection for each of these callers, or for each session of a host that has joined a daemon. Owns
whose connection that is, its credentials (in memory only), and its life: it is opened by a request of its caller, and
ended when it has been idle, or with its session. Such a connection shares nothing with another one: no process, no
result of single flight, no notification. Leaves credentials to `caller_authorizer`, how an instance for a session is
made to `host_sessions`, and who a caller is to the transports (`Principal`).
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Final, Protocol

import anyio
import anyio.abc

from asyncfc_mcp.bridge.caller_authorizer import CallerAuthorizer, lacks
from asyncfc_mcp.bridge.connected import CallerHandler, CallerServers, Connected
from asyncfc_mcp.bridge.directory import Directory
from asyncfc_mcp.bridge.host_sessions import HostSession, HostSessions
from asyncfc_mcp.bridge.server_requests import ServerRequests
from asyncfc_mcp.bridge.servers import Connect as ConnectServer
from asyncfc_mcp.bridge.servers import Servers
from asyncfc_mcp.config.caller_headers import caller_names
from asyncfc_mcp.config.model import HttpSpec, ServerConfig
from asyncfc_mcp.core.catalog import ToolEntry
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import OAUTH, PERSON, ClientProcess, Principal
from asyncfc_mcp.downstream.downstream import Downstream, DownstreamHandler
from asyncfc_mcp.downstream.http.authorizer import Authorizer
from asyncfc_mcp.errors import CallerCredentialsGone, ServerRemoved, SessionGone, TooManyCallers
from asyncfc_mcp.signals import Signal

logger = logging.getLogger(__name__)

IDLE_S: Final = 900.0
"""Connections of a caller end after this time without a request or an unfinished call of that caller."""
SWEEP_S: Final = 30.0
"""Interval between two searches for idle ones."""
MAX_CALLERS: Final = 256
"""Bound on callers with connections of their own. Beyond it, those make room that have been idle for longest."""
RETURN_S: Final = 30.0
"""Time after the start for a session to come back whose calls were waiting for its instance of a server."""
MIN_IDLE_TO_EVICT_S: Final = 10.0
"""Idle time after which connections may make room for another caller's."""


class Connect(Protocol):
    """Makes a connection to a server with the credentials of a caller."""

    def __call__(self, server: ServerConfig, handler: DownstreamHandler, authorizer: Authorizer) -> Downstream: ...


OwnServers = Callable[[Sequence[ServerConfig], ConnectServer, str], Servers]
"""Makes the servers of one caller, of their configurations, a function that connects each, and the caller's key."""
MakeDirectory = Callable[[Mapping[str, Downstream], Sequence[tuple[str, str]], HostSession | None], Directory]
"""Makes the directory of a caller, of its connections and of the servers that lack a credential, each with a reason;
and of a session, if that is one."""


class CallerConnections:
    """The connections of all callers.

    Args:
        servers: all servers, in the order of the configuration.
        common: connections of those that all callers share.
        own_servers: makes the servers of one caller.
        connect: makes a connection for one caller.
        directory: makes the directory of a caller.
        server_requests: handles what their servers send.
        is_subscribed: returns whether there is a subscription that was made with credentials of this key.
        sessions: of hosts; None outside of a daemon.
        max_callers: see `MAX_CALLERS`.
    """

    def __init__(
        self,
        servers: Sequence[ServerConfig],
        common: Mapping[str, Downstream],
        own_servers: OwnServers,
        connect: Connect,
        directory: MakeDirectory,
        server_requests: ServerRequests,
        is_subscribed: Callable[[str], bool] = lambda key: False,
        *,
        sessions: HostSessions | None = None,
        max_callers: int = MAX_CALLERS,
    ) -> None:
        self._common, self._own_servers, self.sessions = common, own_servers, sessions
        self._servers: dict[str, ServerConfig] = {}
        self._names: Sequence[str] = ()
        """Headers of callers that servers get."""
        self._use_servers(servers)
        self._connect, self._directory, self._server_requests = connect, directory, server_requests
        self._is_subscribed, self._max_callers = is_subscribed, max_callers
        self._secret = os.urandom(32)
        self._callers: dict[str, Connected] = {}
        """By key, least recently used first."""
        self._joined = Signal()
        """Notified when connections were opened."""
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
                    if all(each.session is not None for each in self._callers.values()):
                        await self._joined.wait()  # those of sessions end with these
                    await anyio.sleep(SWEEP_S)
                    now = anyio.current_time()
                    for key, each in list(self._callers.items()):
                        if self._idle_s(each, now) >= IDLE_S:
                            self._end(key)
        finally:
            self._tasks = None
            self._callers.clear()

    def _use_servers(self, servers: Sequence[ServerConfig]) -> None:
        self._servers = {server.name: server for server in servers}
        self._names = tuple(sorted({name for server in servers for name in caller_names(server.spec)}))

    def reconfigure(self, servers: Sequence[ServerConfig]) -> None:
        """Use other servers from now on. Callers with credentials have those of servers that are new only when they are
        connected anew."""
        self._use_servers(servers)
        for each in list(self._callers.values()):
            each.own.reconfigure([server for server in servers if self._is_own(server, each)])
        self._joined.notify_all()

    def _is_own(self, server: ServerConfig, each: Connected) -> bool:
        """Return whether a server is one of a caller's own from now on."""
        if caller_names(server.spec):
            return server.name in each.own
        session = each.session
        of_sessions = (session is not None and not session.ended) or server.name in each.own
        return of_sessions and self.sessions is not None and self.sessions.is_per_session(server.name)

    def directories(self) -> list[Directory]:
        """Return the present directories of all callers."""
        return [each.directory for each in self._callers.values()]

    def observe(self, observer: Callable[[Connected, frozenset[str]], None]) -> None:
        """Have `observer` called with the connections of each caller whose listings changed, and their kinds."""
        self._observers.append(observer)

    # --- for requests --------------------------------------------------------------------------------------------

    def use(self, principal: Principal) -> Connected | None:
        """Return the connections of a request's caller, which are opened now if need be. They use the credentials of
        this request from now on. None for a caller that has none of its own.

        Raises:
            TooManyCallers: all that the bound allows are in use.
        """
        session = None
        if self.sessions is not None and principal.process is not None:
            session = self.sessions.of(principal.process)
        elif not self._names:
            return None
        key = self.key(principal) if session is None else session.key
        now = anyio.current_time()
        each = self._callers.pop(key, None)
        if each is None:
            if session is not None and not self._needs_own():
                return None
            self._make_room(now)
            each = self._open(key, principal, session, now)
        self._callers[key] = each
        each.use(principal.headers, now)
        return each

    def current(self, principal: Principal) -> Connected | None:
        """Return the connections of a caller if there are any, without using them."""
        if self.sessions is not None and principal.process is not None:
            session = self.sessions.present(principal.process)
            return None if session is None else self._callers.get(session.key)
        return self._callers.get(self.key(principal)) if self._names else None

    def _needs_own(self) -> bool:
        """Return whether sessions have connections of their own, or may need some: a session whose directory is its own
        from the beginning sees no other one later."""
        return bool(self._names) or (self.sessions is not None and self.sessions.may_have_instances)

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
        return [downstream for each in self._callers.values() for downstream in each.own.values()]

    def session_directory(self) -> Directory | None:
        """Return the directory of the session that made the last request."""
        return next((each.directory for each in reversed(self._callers.values()) if each.session is not None), None)

    def entry_of(self, server: str, tool: str) -> ToolEntry | None:
        """Return the entry of a tool of a server with instances; None if no session lists it."""
        for each in self._callers.values():
            if each.session is not None and (entry := each.directory.entry_of(server, tool)) is not None:
                return entry
        return None

    # --- for calls -----------------------------------------------------------------------------------------------

    def hold(self, credentials: str, future: Future) -> None:
        """Keep a caller's connections until the call of this future has ended."""
        each = self._callers.get(credentials)
        if each is None or future.done or future.key in each.unfinished:
            return
        each.unfinished.add(future.key)

        def changed(future: Future) -> None:
            if future.done and changed in future.watchers:
                future.watchers.remove(changed)
                each.unfinished.discard(future.key)
                each.used_at = anyio.current_time()
                self._end_if_left(each)

        future.watchers.append(changed)

    def downstream(self, credentials: str | None, server: str) -> Downstream:
        """Return the connection of a call.

        Raises:
            OwnConnectionGone: its caller's credentials are not in memory any more, or its session has ended.
            ServerRemoved: the configuration no longer has the server.
        """
        if server not in self._servers:
            raise ServerRemoved(server)
        each = None if credentials is None else self._callers.get(credentials)
        found = None if each is None else each.downstreams.get(server)
        if found is None:
            raise self._gone(server)
        return found

    async def resumed(self, server: str, conversation: str | None) -> Connected:
        """Return the connections for a call of an earlier run: those of its conversation, when its session has come
        back.

        Args:
            conversation: of the session that made the call; None for a call of no session.

        Raises:
            OwnConnectionGone: it gets credentials of its caller, or the session does not come back.
        """
        if conversation is None or self.sessions is None or not self.sessions.is_per_session(server):
            raise self._gone(server)
        with anyio.move_on_after(RETURN_S):
            while True:
                for each in reversed(self._callers.values()):
                    session = each.session
                    if session is not None and session.process.conversation == conversation and server in each.own:
                        return each
                await self._joined.wait()
        raise SessionGone(server)

    def _gone(self, server: str) -> CallerCredentialsGone | SessionGone:
        config = self._servers.get(server)
        return CallerCredentialsGone(server) if config and caller_names(config.spec) else SessionGone(server)

    def serving(self, future: Future) -> Downstream | None:
        """Return the caller's own connection that the call of an unfinished future needs, if it needs one."""
        return next(
            (each.own.get(future.server) for each in self._callers.values() if future.key in each.unfinished), None
        )

    def conversation(self, key: str) -> str | None:
        """Return the conversation of the session with these connections; None for those of credentials."""
        each = self._callers.get(key)
        return None if each is None or each.session is None else each.session.process.conversation

    # --- sessions ------------------------------------------------------------------------------------------------

    def end_session(self, process: ClientProcess, unfinished: Iterable[Future]) -> None:
        """Forget a session; its instances end when its last call has ended.

        Args:
            unfinished: the futures of all its calls on them that have not ended.
        """
        session = None if self.sessions is None else self.sessions.end(process)
        each = None if session is None else self._callers.get(session.key)
        if each is not None:
            for future in unfinished:
                self.hold(each.key, future)
            self._end_if_left(each)

    def _end_if_left(self, each: Connected) -> None:
        if each.session is not None and each.session.ended and not each.unfinished and each.key in self._callers:
            self._end(each.key)

    # --- opening and ending --------------------------------------------------------------------------------------

    async def update(self, downstream: Downstream, kind: str) -> None:
        """Have the directories of all callers take in a changed listing of a server that they share; return when
        clients see it."""
        async with anyio.create_task_group() as tg:
            for each in self._callers.values():
                tg.start_soon(each.directory.update, downstream, kind)

    def _open(self, key: str, principal: Principal, session: HostSession | None, now: float) -> Connected:
        assert self._tasks is not None, "the bridge is open"
        headers: Callable[[], Mapping[str, str]] = lambda: each.headers  # noqa: E731
        handler = CallerHandler(self._server_requests, key, session, partial(self._on_listed, session))

        def connect(server: ServerConfig) -> Downstream:
            if isinstance(server.spec, HttpSpec) and server.spec.caller_headers:
                downstream = self._connect(server, handler, CallerAuthorizer(server.name, server.spec, headers))
            else:
                assert self.sessions is not None
                assert session is not None
                downstream = self.sessions.instance(server, session, handler)
            downstream.want_log_level(self.log_level)
            return downstream

        configs: list[ServerConfig] = []
        lacking: list[tuple[str, str]] = []
        for name, server in self._servers.items():
            names = caller_names(server.spec)
            if missing := [needed for needed in names if needed not in principal.headers]:
                lacking.append((name, lacks(missing)))
            elif names or (session is not None and self.sessions is not None and self.sessions.is_per_session(name)):
                configs.append(server)
        own = self._own_servers(configs, connect, key)
        downstreams = CallerServers(lambda: self._servers, self._common, own)
        directory = handler.directory = self._directory(downstreams, lacking, session)
        each = Connected(key, directory, downstreams, own, principal.headers, now, session)
        directory.observe(lambda kinds: self._on_lists(key, kinds))
        self._tasks.start_soon(self._run, each)
        self._joined.notify_all()
        return each

    def _on_listed(self, session: HostSession | None, downstream: Downstream) -> None:
        if session is not None and self.sessions is not None:
            self.sessions.listed(downstream.name, downstream.snapshot)

    async def _run(self, each: Connected) -> None:
        """Keep the connections of a caller and its directory. A failure ends these only."""
        try:
            with each.cancel_scope:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(each.directory.run)
                    tg.start_soon(each.own.run)
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
        # What a session's instances know is lost with them.
        is_held = each.session is not None or each.unfinished or self._is_subscribed(each.key)
        return 0.0 if is_held else now - each.used_at

    def _end(self, key: str) -> None:
        self._callers.pop(key).cancel_scope.cancel()
