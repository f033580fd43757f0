"""The bridge: all wrapped servers behind one interface.

Owns the parts between clients and servers, what connects them, and the change of all of them to another configuration.
They are open to what is above: `directory` (what is listed), `views` (what of it a principal may see), `submitter`
(tool calls), `forwarding` (other requests), `server_requests` (what servers ask and announce) and `engine` (futures).
`app` puts them together.
"""

from collections import ChainMap, Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio

from asyncfc_mcp.bridge.caller_connections import CallerConnections, Connect
from asyncfc_mcp.bridge.config_file import ConfigFile
from asyncfc_mcp.bridge.directory import Directory
from asyncfc_mcp.bridge.executor import Executor
from asyncfc_mcp.bridge.forwarding import Forwarding
from asyncfc_mcp.bridge.guests import Guests
from asyncfc_mcp.bridge.host_sessions import ConnectInstance, HostSession, HostSessions, InstanceListings
from asyncfc_mcp.bridge.hosts import Hosts
from asyncfc_mcp.bridge.outgoing import Outgoing
from asyncfc_mcp.bridge.relaying import Relaying
from asyncfc_mcp.bridge.server_requests import Ask, ServerRequests, askers_of
from asyncfc_mcp.bridge.servers import Connect as ConnectServer
from asyncfc_mcp.bridge.servers import Servers
from asyncfc_mcp.bridge.shape_learner import ShapeLearner
from asyncfc_mcp.bridge.sign_ins import SignIn, SignIns
from asyncfc_mcp.bridge.stopping import Stopping
from asyncfc_mcp.bridge.submitting import Submitter
from asyncfc_mcp.bridge.views import View, Views
from asyncfc_mcp.config.caller_headers import uses_callers
from asyncfc_mcp.config.changes import ConfigChanges, changes, lost_servers
from asyncfc_mcp.config.model import BridgeConfig, HttpSpec, ServerConfig
from asyncfc_mcp.core.access import AccessRules
from asyncfc_mcp.core.catalog import ToolEntry, selected
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import Asker, Principal
from asyncfc_mcp.core.state_paths import ServerState
from asyncfc_mcp.core.state_tree import NEAREST
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.downstream.reaper import Reaper
from asyncfc_mcp.downstream.start_queue import StartQueue
from asyncfc_mcp.downstream.supervisor import Status
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import EntryBroken, ToolRemoved


class Bridge:
    """All wrapped servers behind one interface. Opened once, above all connections: its state outlives requests and
    clients.

    Args:
        config: the servers, and all settings.
        engine: executes calls and keeps their futures.
        connect: makes the connection to a server that all callers share; it reports to this bridge.
        connect_caller: makes a connection to a server that gets credentials of callers.
        connect_instance: makes a connection to an instance of a server for a session of a host; None outside of a
            daemon.
        cache: the listings last seen.
        states: returns for each server of a configuration the part of the state tree in which its state lies; raises
            `ConfigError` if a declared state path is wrong.
        reserved: names of the bridge's own tools, which no wrapped tool may have.
        starts: the order in which servers are started.
        reaper: ends the servers' processes if the bridge is killed.
        sign_in: signs in to a server; None: calls do not ask their users for it.
    """

    def __init__(
        self,
        config: BridgeConfig,
        engine: Engine,
        connect: Callable[["Bridge", ServerConfig], Downstream],
        *,
        cache: ListingCache,
        states: Callable[[BridgeConfig], dict[str, ServerState]],
        reserved: Sequence[str],
        starts: StartQueue,
        reaper: Reaper,
        connect_caller: Connect | None = None,
        connect_instance: ConnectInstance | None = None,
        sign_in: SignIn | None = None,
    ) -> None:
        self.config = config
        self.settings = config.settings
        self.engine = engine
        self._states_of, self._states = states, states(config)
        self.server_requests = ServerRequests(engine, self._states)
        self.sessions: HostSessions | None = None
        if connect_instance is not None:
            self.sessions = HostSessions(_without_callers(config), self._states, connect_instance, cache.load)
        common = self._common(config)
        self.servers = self.downstreams = Servers(common, partial(connect, self), engine, lambda: self.settings.drain_s)
        self.shapes = ShapeLearner(_without_callers(config), cache, self._entry_of)
        self.directory = Directory(config, self.downstreams, cache, reserved, self._states, starts, self.shapes.texts)
        self._callers: CallerConnections | None = None
        own = self.sessions is not None or any(map(uses_callers, config.servers))
        if connect_caller is not None and own:

            def directory(
                downstreams: Mapping[str, Downstream],
                lacking: Sequence[tuple[str, str]],
                session: HostSession | None,
            ) -> Directory:
                places: Mapping[str, ServerState] = self._states
                shapes, kept, like = self.shapes.texts, ListingCache(None), self.directory
                if session is not None and self.sessions is not None and self._callers is not None:
                    places = ChainMap(session.states, self._states)
                    kept = InstanceListings(cache, self.sessions)
                    like = self._callers.session_directory() or like
                return Directory(self.config, downstreams, kept, reserved, places, starts, shapes, lacking, like)

            def is_subscribed(key: str) -> bool:
                return self.forwarding.has_subscriptions(key)

            def own_servers(configs: Sequence[ServerConfig], connect: ConnectServer, key: str) -> Servers:
                return Servers(configs, connect, engine, lambda: self.settings.drain_s, key)

            self._callers = CallerConnections(
                config.servers,
                self.downstreams,
                own_servers,
                connect_caller,
                directory,
                self.server_requests,
                is_subscribed,
                sessions=self.sessions,
            )
        callers = self._callers
        self.views = Views(self.directory, _access_rules(config), callers)
        self.sign_ins = SignIns(
            engine,
            self.downstreams,
            _with_sign_in(common),
            sign_in,
            timeout_s=config.settings.question_timeout_s,
        )
        self.executor = Executor(
            engine,
            self.downstreams,
            self.shapes,
            self.directory.wait_for_own_tool,
            lambda server, scope: self.forwarding.add_user(server, scope),
            callers,
            self.sign_ins,
        )
        hosting = engine.hosting
        relay = None if hosting is None else hosting.relay
        self._guests = Guests() if relay is None else Guests(lambda: relay.replicas)
        self.forwarding = Forwarding(engine, self.downstreams, relay, self._guests, callers)
        self.submitter = Submitter(engine, lambda: self.settings, self.downstreams, callers, self.forwarding.add_user)
        self._hosts, self._relaying = None, None
        if hosting is not None:
            self._relaying = Relaying(
                hosting, self.downstreams, self.forwarding, self.server_requests, self._guests, self._apply_level
            )
            self._hosts = Hosts(hosting, self.downstreams, self._relaying.lost)
            self.directory.on_saved = self._hosts.listed
        self.starts = starts
        self._reaper = reaper
        self.config_file: ConfigFile | None = None
        """The file of the configuration, which is followed; None where it has none."""
        if config.origin is not None:
            follows = lambda: self.settings.reload == "auto"  # noqa: E731
            self.config_file = ConfigFile(config, config.origin, self.reload, follows)
        self._reloading = anyio.Lock()
        self._reload_observers: list[Callable[[ConfigChanges], None]] = []
        self.stopping = Stopping()
        self._settled = anyio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator["Bridge"]:
        """Start all servers side by side, but those that another replica runs, and keep them until the block ends; then
        nothing of theirs is left."""
        try:
            async with self.engine.open(self.executor), anyio.create_task_group() as tg:
                tg.start_soon(self.directory.run)
                tg.start_soon(self.shapes.run)
                await tg.start(self.sign_ins.run)
                if self._callers is not None:
                    await tg.start(self._callers.run)
                hosting = self.engine.hosting
                await tg.start(self.servers.run, () if hosting is None else hosting.servers)
                if self._hosts is not None and self._relaying is not None:
                    self._hosts.prepare()
                    tg.start_soon(self._hosts.run)
                    tg.start_soon(self._relaying.run)
                tg.start_soon(self._watch_start)
                if self.config_file is not None:
                    tg.start_soon(self.config_file.run)
                yield self
                tg.cancel_scope.cancel()
        finally:
            await self.executor.aclose()
            self._reaper.close()

    async def _watch_start(self) -> None:
        await self.directory.wait_for_restored()
        for downstream in self.downstreams.values():
            await downstream.wait_settled()
        self._settled.set()

    @property
    def has_started(self) -> bool:
        """True once every server that is started here is up or has failed once."""
        return self._settled.is_set()

    async def started(self) -> None:
        """Return when every server that is started here is up or has failed once."""
        await self._settled.wait()

    def trace(self, outgoing: Outgoing) -> None:
        """Have the requests traced that are sent to servers from now on."""
        self.executor.outgoing = self.forwarding.outgoing = outgoing

    # --- another configuration -----------------------------------------------------------------------------------

    def observe_reload(self, observer: Callable[[ConfigChanges], None]) -> None:
        """Have `observer` called with each change of the configuration, as soon as it counts."""
        self._reload_observers.append(observer)

    async def reload(self, config: BridgeConfig) -> ConfigChanges:
        """Use another configuration from now on; return what has changed once clients see it. Servers that have not
        changed keep running; one that is restarted or removed gets `drain_s` for its calls, which is not waited for.
        Several reloads follow each other; the last one counts.

        Raises:
            BridgeError: the configuration cannot be used; nothing has changed.
        """
        async with self._reloading:
            if lost := lost_servers(self.config, config):
                raise EntryBroken(config.source, lost[0].name, lost[0].reason)
            states = self._states_of(config)
            found = changes(self.config, config)
            if found.lines() or found.rest or found.order != tuple(server.name for server in self.config.servers):
                self._use(found, states)
                async with anyio.create_task_group() as tg:
                    for directory in (self.directory, *(self._callers.directories() if self._callers else ())):
                        tg.start_soon(directory.reconfigure, self.config)
            return found

    def _use(self, found: ConfigChanges, states: Mapping[str, ServerState]) -> None:
        """Change all parts at once: no request is handled between two of them, so that access is nowhere wider than one
        of both configurations allows."""
        before, config = self.config, found.applied(self.config)
        self.config, self.settings = config, config.settings
        self.views.configure(_access_rules(config))
        self._take_states(before, states)
        self.engine.configure(config.settings, config.servers)
        if self.sessions is not None:
            self.sessions.configure(_without_callers(config))
        common = self._common(config)
        self.starts.resize(len(config.servers))
        self.shapes.configure(_without_callers(config))
        self.sign_ins.configure(_with_sign_in(common), config.settings.question_timeout_s)
        level = self._guests.least_level()
        for name in self.servers.reconfigure(common).added:
            self.servers[name].want_log_level(level)
        if self._callers is not None:
            self._callers.reconfigure(config.servers)
        for name in found.removed:
            self.forwarding.forget(name)
        selecting = {server.name: server for server in (*found.restarted, *found.updated)}

        def left_out(call: Call) -> bool:
            server = selecting.get(call.future.server)
            return server is not None and not selected(server, call.tool)

        self.servers.fail_waiting(left_out, lambda call: ToolRemoved(call.future.tool, call.future.server))
        for observer in self._reload_observers:
            observer(found)

    def _take_states(self, before: BridgeConfig, states: Mapping[str, ServerState]) -> None:
        """Use other places in the state tree. A server whose place is the same keeps what its client has said of it
        (its roots)."""
        known = {server.name: server for server in before.servers}
        for server in self.config.servers:
            old, was = self._states.get(server.name), known.get(server.name)
            same = was is not None and (was.spec, was.state) == (server.spec, server.state)
            if old is None or not same or old.root != states[server.name].root:
                self._states[server.name] = states[server.name]
        for name in self._states.keys() - {server.name for server in self.config.servers}:
            del self._states[name]

    # --- callers -------------------------------------------------------------------------------------------------

    def enter(self, principal: Principal) -> str | None:
        """Take note of a request: the servers that get credentials of its caller are connected with those that it has.
        Return their key; None where no server gets any.

        Raises:
            TooManyCallers: see `CallerConnections.use`.
        """
        connected = None if self._callers is None else self._callers.use(principal)
        return None if connected is None else connected.key

    def introduce(self, principal: Principal, capabilities: Mapping[str, Any], direct: Ask | None = None) -> None:
        """Take note of the capabilities that a client on a line connection declares: servers that are started for it
        get them, the only client's or those with an instance for each session.

        Args:
            direct: sends the client a request at any time; None if its protocol does not allow that.
        """
        if principal.process is None:
            self.server_requests.set_client_capabilities(capabilities, direct)
        elif self.sessions is not None:
            self.sessions.of(principal.process).client.introduce(capabilities, direct)

    async def notify_servers(self, principal: Principal, method: str) -> None:
        """Pass on a notification of a client that shook hands. Of several sessions, each speaks for its own instances
        of servers only."""
        own = principal.process is not None
        await self.forwarding.notify_servers(method, self.views.of(principal), own=own)

    def end_session(self, principal: Principal) -> None:
        """Take note that the connection of a session has ended: its instances of servers end with their last call. To
        be called once, after the last request."""
        if principal.process is None or self._callers is None or self.sessions is None:
            return
        session = self.sessions.present(principal.process)
        if session is not None:
            calls = [call.future for call in self.engine.unfinished if call.credentials == session.key]
            self._callers.end_session(principal.process, calls)

    def observe_lists(self, observer: Callable[[View, frozenset[str]], None]) -> None:
        """Have `observer` called with the whole view whose listings changed, and their kinds (see
        `Directory.observe`)."""
        self.directory.observe(partial(observer, self.views.everything))
        if self._callers is not None:
            self._callers.observe(lambda connected, kinds: observer(self.views.whole_of(connected), kinds))

    def server_conditions(self, principal: Principal | None = None) -> list[dict[str, str]]:
        """Return name, status and condition of each server that all share, or of each instance that is the principal's
        own; for `daemon status`."""
        if principal is not None:
            connected = None if self._callers is None else self._callers.current(principal)
            own: Mapping[str, Downstream] = {} if connected is None else connected.own
            return [
                {"name": name, "status": each.status.value, "condition": each.condition} for name, each in own.items()
            ]
        shared = {name: each.status.value for name, each in self.downstreams.items()}
        return [
            {"name": name, "status": shared.get(name, "misconfigured"), "condition": condition}
            for name, condition in self.directory.conditions()
        ]

    def server_instances(self) -> list[dict[str, Any]]:
        """Return each server with an instance for each session of this daemon, the reason, and the instances by their
        condition; for `daemon status`."""
        if self.sessions is None or self._callers is None:
            return []
        own = self._callers.all_downstreams()
        return [
            {
                "name": name,
                "reason": sharing.reason,
                "instances": dict(Counter(each.status.value for each in own if each.name == name)),
            }
            for name, sharing in self.sessions.sharing.items()
            if sharing.per_session
        ]

    def waiting_for(self, future: Future, limit: int = NEAREST) -> tuple[tuple[str, ...], str]:
        """Return what a call waits for (see `Engine.waiting_for`). For a call that waits for its server to start, there
        are no IDs, only the reason."""
        ids, why = self.engine.waiting_for(future, limit)
        if not ids and future.state is State.RUNNING:
            downstream = self.downstreams.get(future.server)
            if downstream is None and self._callers is not None:
                downstream = self._callers.serving(future)
            # A server that sleeps is woken by this call in a moment.
            if downstream is not None and downstream.status in (Status.STARTING, Status.SLEEPING):
                why = f"server {future.server!r} is starting"
        return ids, why

    def _common(self, config: BridgeConfig) -> tuple[ServerConfig, ...]:
        """Return the servers that all callers share."""
        servers, sessions = _without_callers(config), self.sessions
        return tuple(each for each in servers if sessions is None or not sessions.is_per_session(each.name))

    def _entry_of(self, server: str, tool: str) -> ToolEntry | None:
        """Return the entry of a server's tool; None if it is not listed."""
        found = self.directory.entry_of(server, tool)
        return found if found is not None or self._callers is None else self._callers.entry_of(server, tool)

    # --- reported by the servers (`downstream.DownstreamHandler`) ----------------------------------------------------

    async def on_listing_changed(self, downstream: Downstream, kind: str) -> None:
        if kind == "tools" and self.sessions is not None and self._callers is not None:
            if self.sessions.decide_listed(downstream.config, downstream.snapshot):
                # At once, so that it is in no catalog: clients see the tools of their own instances only.
                self.servers.reconfigure(self._common(self.config))
                self._callers.reconfigure(self.config.servers)
                return
        await self.directory.update(downstream, kind)
        if self._callers is not None:
            await self._callers.update(downstream, kind)

    async def wait_for_client_capabilities(self) -> None:
        await self.server_requests.wait_for_capabilities()

    async def on_server_request(
        self,
        downstream: Downstream,
        method: str,
        params: Mapping[str, Any] | None,
        causes: Sequence[object] | None,
    ) -> dict[str, Any]:
        return await self.server_requests.ask(downstream.name, method, params, causes, at_work=downstream.causes)

    def on_server_notification(
        self, downstream: Downstream, method: str, params: Mapping[str, Any] | None
    ) -> Callable[[], Awaitable[None]] | None:
        return self.server_requests.notified(downstream.name, method, params)

    def askers_at(self, server: str) -> set[Asker]:
        """Return those whose requests a server that all callers share may be working on."""
        downstream = self.downstreams.get(server)
        return set() if downstream is None else askers_of(downstream.causes())

    # --- set by clients ------------------------------------------------------------------------------------------

    async def set_log_level(self, level: str) -> None:
        """Ask all servers that have log messages for those of this level and above."""
        self._guests.own_level = level
        self._apply_level()
        if self._callers is not None:
            self._callers.log_level = level
        await self.forwarding.set_log_level(level)

    def _apply_level(self) -> str | None:
        """Have calls ask for log messages of the least level that this replica or another one wants; return it."""
        self.executor.log_level = self._guests.least_level()
        return self.executor.log_level


def _without_callers(config: BridgeConfig) -> tuple[ServerConfig, ...]:
    """Return the servers that get no credentials of callers."""
    return tuple(server for server in config.servers if not uses_callers(server))


def _access_rules(config: BridgeConfig) -> AccessRules | None:
    access = config.settings.access
    return None if access is None else AccessRules(access)


def _with_sign_in(servers: Sequence[ServerConfig]) -> list[str]:
    """Return the servers that a user signs in to."""
    specs = {server.name: server.spec for server in servers}
    oauth = {name: spec.oauth for name, spec in specs.items() if isinstance(spec, HttpSpec)}
    return [name for name, of_server in oauth.items() if of_server and of_server.grant == "authorization_code"]
