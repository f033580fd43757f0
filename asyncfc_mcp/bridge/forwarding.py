"""Forwarding: requests and notifications of clients that are no tool calls, each to the server that it is for.

Owns which server has a resource, who has used a server, and which server was asked to announce a resource's changes.
Results are passed on as they were received, but for the bridge's own `_meta` keys.
"""

import logging
from collections.abc import Mapping, Set
from typing import Any, Final

import anyio

from asyncfc_mcp.bridge.caller_connections import CallerConnections
from asyncfc_mcp.bridge.executor import passed_on
from asyncfc_mcp.bridge.guests import Guests
from asyncfc_mcp.bridge.outgoing import Outgoing
from asyncfc_mcp.bridge.views import View
from asyncfc_mcp.core.identity import CallerIdentity, Scope
from asyncfc_mcp.core.meta_keys import without_our_keys
from asyncfc_mcp.core.owners import extension_owner, linking, resource_owner
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.hosting import Relay, RelayedRequest
from asyncfc_mcp.errors import CallFailed, ProtocolFailure, RunsElsewhere, ServerRemoved, ServerUnavailable
from asyncfc_mcp.protocol import METHOD_NOT_FOUND, RESOURCE_NOT_FOUND

logger = logging.getLogger(__name__)

SET_LEVEL_S: Final = 5.0
"""Time limit for servers to accept a log level: the client waits for them."""
UNSUBSCRIBE_S: Final = 5.0
"""The same for another replica to end a subscription."""


class Forwarding:
    """Passes requests on to the wrapped servers.

    Args:
        relay: leads to the replicas that run the servers which do not run here; None where all do.
        guests: what other replicas want of servers that run here.
        callers: connections of callers, where a server has one for each. Requests to such a server name the key of the
            credentials (`View.credentials_for`).

    Attributes:
        outgoing: traces the requests; None: nothing does.
    """

    def __init__(
        self,
        engine: Engine,
        downstreams: Mapping[str, Downstream],
        relay: Relay | None = None,
        guests: Guests | None = None,
        callers: CallerConnections | None = None,
    ) -> None:
        self._engine = engine
        self._downstreams = downstreams
        self._callers = callers
        self._relay = relay
        self._guests = guests or Guests()
        self.outgoing: Outgoing | None = None
        self._users: dict[str, set[Scope]] = {server: set() for server in downstreams}
        """Server → the principals that had a request sent to it."""
        self._subscribed: dict[tuple[str, str | None, str], Scope] = {}
        """Server, credentials, and URI of which it was asked to announce changes → for whom. For two principals, one
        URI may be of two servers."""

    def _downstream(self, server: str, credentials: str | None) -> Downstream:
        """
        Raises:
            OwnConnectionGone: the caller has no connection of its own any more.
            ServerRemoved: the configuration no longer has the server.
        """
        if credentials is None or self._callers is None:
            downstream = self._downstreams.get(server)
            if downstream is None:
                raise ServerRemoved(server)
            return downstream
        return self._callers.downstream(credentials, server)

    def _of(self, view: View) -> Mapping[str, Downstream]:
        """Return the connections that a principal uses."""
        return self._downstreams if view.credentials is None else view.downstreams

    async def ask(
        self,
        scope: Scope,
        server: str,
        method: str,
        params: Mapping[str, Any] | None,
        credentials: str | None = None,
        caller: CallerIdentity | None = None,
    ) -> dict[str, Any]:
        """Pass a request that is no tool call on to one server, for the principal of this scope.

        Args:
            caller: the caller within the scope, if it is a session beside others.

        Raises:
            CallFailed: it gave no answer.
        """
        self.add_user(server, scope)
        out = dict(params or {})
        meta = passed_on(out.pop("_meta", None))
        if self.outgoing is not None:
            with self.outgoing.request(server, method, params or {}) as carried:
                return await self._ask(scope, server, method, out, {**meta, **carried}, credentials, caller)
        return await self._ask(scope, server, method, out, meta, credentials, caller)

    async def _ask(
        self,
        scope: Scope,
        server: str,
        method: str,
        out: dict[str, Any],
        meta: dict[str, Any],
        credentials: str | None,
        caller: CallerIdentity | None,
    ) -> dict[str, Any]:
        if meta:
            out["_meta"] = meta
        cause = scope if caller is None else caller
        while True:
            downstream = self._downstream(server, credentials)
            try:
                return without_our_keys(await downstream.request(method, out, cause=cause))
            except RunsElsewhere:
                return without_our_keys(await self._ask_elsewhere(scope, server, method, out))
            except ServerUnavailable:
                if self._downstream(server, credentials) is downstream:
                    raise
                # A change of the configuration has replaced the connection that the request waited for.

    async def _ask_elsewhere(
        self, scope: Scope | None, server: str, method: str, params: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Have the replica that runs a server make a request.

        Raises:
            CallFailed: it gave no answer.
        """
        if self._relay is None:
            raise RunsElsewhere(server)
        return await self._relay.request(RelayedRequest(server, method, params, scope))

    async def ask_extension(
        self, scope: Scope, method: str, params: Mapping[str, Any], view: View, caller: CallerIdentity | None = None
    ) -> dict[str, Any]:
        """Pass a request that no revision of MCP defines on to the server that declared its extension.

        Args:
            view: what the principal may use.

        Raises:
            CallFailed: that server gave no answer, or it cannot be told which one it is.
        """
        declared = {name: d.snapshot.extensions for name, d in self._of(view).items() if view.serves(name)}
        server = extension_owner(method, declared)
        if server is None:
            raise ProtocolFailure(method, METHOD_NOT_FOUND, "Method not found", method)
        return await self.ask(scope, server, method, params, view.credentials_for(server), caller)

    async def read_resource(
        self, scope: Scope, uri: str, params: Mapping[str, Any], view: View, caller: CallerIdentity | None = None
    ) -> dict[str, Any]:
        """Read a resource from its owner (see `owners`). No other server is asked, whatever that one answers.

        Args:
            view: what the principal may use. For it, there are no other servers.

        Raises:
            CallFailed: it gave no answer; or no server has resources.
        """
        owner = await self._owner_of(scope, uri, "resources/read", view)
        return await self.ask(scope, owner, "resources/read", params, view.credentials_for(owner), caller)

    async def _owner_of(self, scope: Scope, uri: str, method: str, view: View) -> str:
        """Return the server that has a resource, of those that the principal may use.

        Raises:
            ProtocolFailure: no server has resources.
        """
        catalog = await view.wait_for_catalog()
        listed = uri in catalog.resources
        linked = () if listed else linking(uri, await self._engine.list_futures(scope))
        serving = [
            name
            for name, d in self._of(view).items()
            if view.serves(name) and d.snapshot.capabilities.get("resources") is not None
        ]
        server = resource_owner(uri, catalog.resources, catalog.templates, linked, serving)
        if server is None:
            raise ProtocolFailure(method, RESOURCE_NOT_FOUND, f"Resource not found: {uri}", {"uri": uri})
        return server

    async def owner_of(self, scope: Scope, uri: str, view: View) -> str:
        """Return the server that announces the changes of a resource (see `owners`), of those that the principal may
        use.

        Raises:
            CallFailed: no server has resources.
        """
        return await self._owner_of(scope, uri, "resources/subscribe", view)

    async def subscribe(self, scope: Scope, server: str, uri: str, credentials: str | None = None) -> None:
        """Have a server announce the changes of a resource.

        Raises:
            CallFailed: it refuses.
        """
        self.add_user(server, scope)
        key = server, credentials, uri
        self._subscribed[key] = scope  # before its answer: a change may be announced right behind that
        try:
            await self._subscribe_at(scope, server, uri, credentials)
        except BaseException:
            self._subscribed.pop(key, None)
            raise

    async def _subscribe_at(self, scope: Scope, server: str, uri: str, credentials: str | None = None) -> None:
        if self._guests.wants(server, uri):
            return  # it was asked already, for another replica
        try:
            await self._downstream(server, credentials).subscribe(uri)
        except RunsElsewhere:
            await self._ask_elsewhere(scope, server, "resources/subscribe", {"uri": uri})

    async def unsubscribe(self, server: str, uri: str, credentials: str | None = None) -> None:
        """End a subscription at a server; best effort."""
        scope = self._subscribed.pop((server, credentials, uri), None)
        if scope is None or self._guests.wants(server, uri):
            return
        try:
            try:
                await self._downstream(server, credentials).unsubscribe(uri)
            except RunsElsewhere:
                with anyio.move_on_after(UNSUBSCRIBE_S):  # perhaps no replica runs it, and then nothing has to be ended
                    await self._ask_elsewhere(scope, server, "resources/unsubscribe", {"uri": uri})
        except CallFailed as exc:
            logger.debug("unsubscribing from %s: %s", uri, exc)

    def has_subscribed(self, server: str, uri: str) -> bool:
        """Return true where a server was asked to announce the changes of a resource, for clients here."""
        return (server, None, uri) in self._subscribed

    def has_subscriptions(self, credentials: str) -> bool:
        """Return true where a server was asked to announce changes to the caller with these credentials."""
        return any(key == credentials for _, key, _ in self._subscribed)

    async def renew(self, server: str) -> None:
        """Ask a server again for the notifications that clients want: it runs at another replica than before."""
        try:
            for (at, _, uri), scope in list(self._subscribed.items()):
                if at == server:
                    await self._subscribe_at(scope, server, uri)
            downstream = self._downstreams.get(server)
            if downstream is not None and (level := self._guests.own_level) is not None:
                await self._set_level_at(downstream, level)
        except CallFailed as exc:
            logger.debug("server %r is not asked again for notifications: %s", server, exc)

    def forget(self, server: str) -> None:
        """Forget who uses a server that was removed, and its subscriptions, which have ended with it."""
        self._users.pop(server, None)
        for key in [key for key in self._subscribed if key[0] == server]:
            del self._subscribed[key]

    def add_user(self, server: str, scope: Scope) -> None:
        """Record that a principal has a call sent to a server."""
        self._users.setdefault(server, set()).add(scope)

    def users_of(self, server: str) -> Set[Scope]:
        """Return the principals that had a request sent to a server, in this run of the bridge."""
        return self._users.get(server, set())

    async def set_log_level(self, level: str) -> None:
        """Ask all servers that have log messages for those of this level and above."""

        async def set_level(downstream: Downstream) -> None:
            try:
                await self._set_level_at(downstream, level)
            except CallFailed as exc:
                logger.debug("server %r: %s", downstream.name, exc)

        with anyio.move_on_after(SET_LEVEL_S):
            async with anyio.create_task_group() as tg:
                of_callers = () if self._callers is None else self._callers.all_downstreams()
                for downstream in (*self._downstreams.values(), *of_callers):
                    tg.start_soon(set_level, downstream)

    async def _set_level_at(self, downstream: Downstream, level: str) -> None:
        self._guests.own_level = level
        try:
            await downstream.set_log_level(self._guests.least_level() or level)
        except RunsElsewhere:
            await self._ask_elsewhere(None, downstream.name, "logging/setLevel", {"level": level})

    async def notify_servers(self, method: str, view: View, *, own: bool = False) -> None:
        """Pass a client's notification on to all servers that shook hands, and that its principal may use.

        Args:
            own: only to the instances of its session.
        """
        for name, downstream in list((view.own_servers if own else self._of(view)).items()):
            if view.touches(name):
                await downstream.notify(method)
