"""The connections of one caller: its servers, and what these send on their own initiative.

Owns no life: opening and ending them is left to `caller_connections`.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from asyncfc_mcp.bridge.directory import Directory
from asyncfc_mcp.bridge.host_sessions import HostSession
from asyncfc_mcp.bridge.server_requests import ServerRequests
from asyncfc_mcp.bridge.servers import Servers
from asyncfc_mcp.downstream.downstream import Downstream


@dataclass(slots=True, eq=False)
class Connected:
    """The connections of one caller, and their use."""

    key: str
    """Of the caller's credentials (see `CallerConnections.key`), or of its session."""
    directory: Directory
    downstreams: Mapping[str, Downstream]
    """Server → its connection, those that all callers share included; without those that lack a credential."""
    own: Servers
    """Those that are of this caller only."""
    headers: Mapping[str, str] = field(repr=False)
    """Of the latest request, by lower-case name."""
    used_at: float
    session: HostSession | None = None
    unfinished: set[str] = field(default_factory=set[str])
    """Keys of futures whose calls need the connections."""
    cancel_scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    views: object = field(default=None, repr=False)
    """What `views` knows of them. It refers to them, so that nothing that outlives them may have it."""

    def use(self, headers: Mapping[str, str], now: float) -> None:
        """Take note of a request, whose credentials count from now on, also for calls that are waiting."""
        self.used_at = now
        if headers != self.headers:
            self.headers = headers
            for downstream in self.own.values():
                downstream.signed_in()


class CallerServers(Mapping[str, Downstream]):
    """The servers of one caller: those that all share, with its own ones in place of some of them.

    Args:
        names: of all servers, in the order of the configuration, which decides clashes of names.
    """

    def __init__(
        self, names: Callable[[], Iterable[str]], common: Mapping[str, Downstream], own: Mapping[str, Downstream]
    ) -> None:
        self._names, self._common, self._own = names, common, own

    def __getitem__(self, name: str) -> Downstream:
        own = self._own.get(name)
        return self._common[name] if own is None else own

    def __iter__(self) -> Iterator[str]:
        return iter([name for name in self._names() if name in self])

    def __len__(self) -> int:
        return sum(name in self for name in self._names())

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._common


class CallerHandler:
    """Handles what the servers of one caller send on their own initiative. Implements `DownstreamHandler`."""

    def __init__(
        self,
        server_requests: ServerRequests,
        key: str,
        session: HostSession | None,
        listed: Callable[[Downstream], None],
    ) -> None:
        self._server_requests = server_requests
        self._key, self._session = key, session
        self._listed = listed
        self.directory: Directory | None = None

    async def on_listing_changed(self, downstream: Downstream, kind: str) -> None:
        assert self.directory is not None
        self._listed(downstream)
        await self.directory.update(downstream, kind)

    async def wait_for_client_capabilities(self) -> None:
        if self._session is None:
            await self._server_requests.wait_for_capabilities()
        else:
            await self._session.client.wait()

    async def on_server_request(
        self,
        downstream: Downstream,
        method: str,
        params: Mapping[str, Any] | None,
        causes: Sequence[object] | None,
    ) -> dict[str, Any]:
        session, name = self._session, downstream.name
        asked = None if session is None else (session.client, session.states[name])
        return await self._server_requests.ask(name, method, params, causes, self._key, session=asked)

    def on_server_notification(
        self, downstream: Downstream, method: str, params: Mapping[str, Any] | None
    ) -> Callable[[], Awaitable[None]] | None:
        return self._server_requests.notified(downstream.name, method, params, self._key)
