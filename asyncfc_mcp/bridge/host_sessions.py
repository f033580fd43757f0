"""Sessions of hosts that have joined a daemon: the client of each, and its instances of servers.

Owns which servers have an instance for each session, and how such an instance is made: in the session's folder and
environment, with the capabilities of its client, and with a place of its own in the state tree. Leaves the decision
to `sharing`, and the life of the instances to `caller_connections`. Outside of a daemon there are no such sessions.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Protocol

from asyncfc_mcp.bridge.server_profiles import ServerProfiles
from asyncfc_mcp.bridge.server_requests import ServerClient
from asyncfc_mcp.bridge.sharing import Sharing, sharing_of, words_of
from asyncfc_mcp.config.changes import is_another_server
from asyncfc_mcp.config.model import ServerConfig, StdioSpec
from asyncfc_mcp.core.effect_profiles import EffectProfile
from asyncfc_mcp.core.identity import ClientProcess
from asyncfc_mcp.core.state_paths import ServerState
from asyncfc_mcp.core.state_roots import session_state
from asyncfc_mcp.downstream.downstream import Downstream, DownstreamHandler
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.downstream.snapshot import ServerSnapshot

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class HostSession:
    """A session of a host, from its first request until it ends."""

    process: ClientProcess
    profile_of: Callable[[ServerConfig], EffectProfile | None]
    """Returns the effect profile of a server by what its instances list."""
    number: int
    """Smallest number that no other present session has: log files are named by it, so that there are not more of them
    than sessions at a time."""
    key: str = field(default_factory=lambda: f"session:{os.urandom(12).hex()}")
    """Identifies its connections, in this run."""
    client: ServerClient = field(default_factory=ServerClient)
    states: dict[str, ServerState] = field(default_factory=dict[str, ServerState])
    """Server with an instance → the place of its state."""
    ended: bool = False


class ConnectInstance(Protocol):
    """Makes the connection to an instance of a server.

    Args:
        server: its configuration, by which its listings are kept.
        started: the same with the folder and the environment of the session.
        snapshot: listings that are known of another instance.
    """

    def __call__(
        self,
        server: ServerConfig,
        started: ServerConfig,
        handler: DownstreamHandler,
        session: HostSession,
        snapshot: ServerSnapshot | None,
    ) -> Downstream: ...


class HostSessions:
    """All sessions of hosts.

    Args:
        states: server → the part of the state tree in which its state lies.
        connect: makes the connection to an instance.
        listed: returns what an earlier run has listed of a server.
    """

    def __init__(
        self,
        servers: Iterable[ServerConfig],
        states: Mapping[str, ServerState],
        connect: ConnectInstance,
        listed: Callable[[ServerConfig], ServerSnapshot | None],
    ) -> None:
        self._states, self._connect, self._listed = states, connect, listed
        self._profiles = ServerProfiles()
        self._sharing: dict[str, Sharing] = {}
        self._open: set[str] = set()
        """Servers about which their first listing decides."""
        self._snapshots: dict[str, ServerSnapshot] = {}
        """Server with instances → what the last of them has listed."""
        self._sessions: dict[ClientProcess, HostSession] = {}
        self._servers: dict[str, ServerConfig] = {}
        self.configure(servers)

    # --- servers -------------------------------------------------------------------------------------------------

    def configure(self, servers: Iterable[ServerConfig]) -> None:
        """Decide about the servers of a configuration; decisions about unchanged ones stay."""
        before, self._servers = self._servers, {server.name: server for server in servers}
        for name in before.keys() - self._servers.keys():
            self._forget(name)
        for name, server in self._servers.items():
            old = before.get(name)
            if old is None or is_another_server(old, server) or _settings(old) != _settings(server):
                self._forget(name)
                self._decide_configured(server)

    def _decide_configured(self, server: ServerConfig) -> None:
        snapshot = self._listed(server)
        sharing = self._sharing[server.name] = self._decide(server, snapshot)
        if sharing.per_session:
            if snapshot is not None:
                self._snapshots[server.name] = snapshot
        elif snapshot is None and server.share == "auto" and words_of(server):
            self._open.add(server.name)

    def _forget(self, server: str) -> None:
        self._sharing.pop(server, None)
        self._snapshots.pop(server, None)
        self._open.discard(server)

    def decide_listed(self, server: ServerConfig, snapshot: ServerSnapshot) -> bool:
        """Decide about a server by its first listing; return true if it has instances from now on, and had none."""
        if server.name not in self._open:
            return False
        self._open.remove(server.name)
        self._sharing[server.name] = sharing = self._decide(server, snapshot)
        if sharing.per_session:
            logger.info("server %r has an instance for each session from now on: %s", server.name, sharing.reason)
        return sharing.per_session

    def _decide(self, server: ServerConfig, snapshot: ServerSnapshot | None) -> Sharing:
        return sharing_of(server, self._profile(server, snapshot))

    def profile_of(self, server: ServerConfig) -> EffectProfile | None:
        """Return the effect profile of a server with instances."""
        return self._profile(server, self._snapshots.get(server.name))

    def _profile(self, server: ServerConfig, snapshot: ServerSnapshot | None) -> EffectProfile | None:
        setting, profile = server.base.profile, None
        if snapshot is not None:
            profile = self._profiles.choose(setting, snapshot.info, snapshot.listing("tools"))
        return profile or self._profiles.expect(setting, words_of(server))

    @property
    def sharing(self) -> Mapping[str, Sharing]:
        """Server → the decision about it."""
        return self._sharing

    @property
    def may_have_instances(self) -> bool:
        """True if a server has instances, or may turn out to need them."""
        return bool(self._open) or any(each.per_session for each in self._sharing.values())

    def is_per_session(self, server: str) -> bool:
        """Return true for a server with an instance for each session."""
        sharing = self._sharing.get(server)
        return sharing is not None and sharing.per_session

    # --- sessions ------------------------------------------------------------------------------------------------

    def of(self, process: ClientProcess) -> HostSession:
        """Return the session of this process, a new one at its first request."""
        session = self._sessions.get(process)
        if session is None:
            taken = {each.number for each in self._sessions.values()}
            number = next(number for number in count(1) if number not in taken)
            session = self._sessions[process] = HostSession(process, self.profile_of, number)
        return session

    def present(self, process: ClientProcess) -> HostSession | None:
        """Return the session of this process, if it has made a request."""
        return self._sessions.get(process)

    def end(self, process: ClientProcess) -> HostSession | None:
        """Forget a session; return it, marked as ended."""
        session = self._sessions.pop(process, None)
        if session is not None:
            session.ended = True
        return session

    def instance(self, server: ServerConfig, session: HostSession, handler: DownstreamHandler) -> Downstream:
        """Return a new instance of a server for a session, which is not started."""
        started, process = server, session.process
        if isinstance(server.spec, StdioSpec):
            started = replace(server, spec=server.spec.in_session(process.cwd, process.environ))
        session.states[server.name] = session_state(started, self._states[server.name], process.conversation)
        return self._connect(server, started, handler, session, self._snapshots.get(server.name))

    def listed(self, server: str, snapshot: ServerSnapshot) -> None:
        """Take note of what an instance lists: the next one is expected to list the same."""
        if server in self._sharing:
            self._snapshots[server] = snapshot


def _settings(server: ServerConfig) -> tuple[str, str]:
    """Return the settings on which the decision depends."""
    return server.share, server.base.profile


class InstanceListings(ListingCache):
    """Keeps the listings of servers with instances, for the directory of a session. Those of shared servers are kept
    once, not for each session."""

    def __init__(self, cache: ListingCache, sessions: HostSessions) -> None:
        super().__init__(None)
        self._cache, self._sessions = cache, sessions

    async def save(self, config: ServerConfig, snapshot: ServerSnapshot) -> None:
        if self._sessions.is_per_session(config.name):
            await self._cache.save(config, snapshot)
