"""Relaying: requests of other replicas for servers that run here, and notifications between servers and all replicas.

Owns what such requests do, and which notifications of servers other replicas get. Leaves the way between replicas to
the engine (`engine.hosting.Relay`).
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio
import anyio.abc

from asyncfc_mcp.bridge.forwarding import Forwarding
from asyncfc_mcp.bridge.guests import Guests
from asyncfc_mcp.bridge.server_requests import ServerRequests
from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import Scope
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.engine.hosting import Announcement, Hosting, RelayedRequest
from asyncfc_mcp.errors import CallFailed, ProtocolFailure
from asyncfc_mcp.protocol import INVALID_PARAMS, LOG_LEVELS
from asyncfc_mcp.values.sizes import approximate_size

logger = logging.getLogger(__name__)

LOGS_PER_S: Final = 50
"""Log messages of one server that other replicas get in a second."""
LOG_BYTES: Final = 4_000
"""Longest log message that other replicas get whole; a notification of the database has room for no more."""


class Relaying:
    """Connects servers that run here with other replicas, and other replicas' servers with clients here."""

    def __init__(
        self,
        hosting: Hosting,
        downstreams: Mapping[str, Downstream],
        forwarding: Forwarding,
        server_requests: ServerRequests,
        guests: Guests,
        apply_level: Callable[[], str | None],
    ) -> None:
        self._hosting, self._relay = hosting, hosting.relay
        self._downstreams = downstreams
        self._forwarding = forwarding
        self._server_requests = server_requests
        self._guests = guests
        self._apply_level = apply_level
        self._logged: dict[str, tuple[float, int]] = {}
        """Server → the beginning of the present second, and its log messages since."""
        self._tasks: anyio.abc.TaskGroup | None = None
        self._relay.on_hosted.append(self.renew)
        self._relay.on_announced.append(self._hear)
        server_requests.observe(self._announce)

    async def run(self) -> None:
        """Answer other replicas and listen to them, until cancelled."""
        async with anyio.create_task_group() as tg:
            self._tasks = tg
            await self._relay.serve(self._answer)

    def lost(self, server: str) -> None:
        """Take note that a server no longer runs here."""
        self._guests.forget(server)
        self.renew(server)

    def renew(self, server: str) -> None:
        """Ask the replica that runs a server now for the notifications that clients here want of it."""
        if self._tasks is not None and server in self._downstreams:
            self._tasks.start_soon(self._forwarding.renew, server)

    # --- requests of other replicas ------------------------------------------------------------------------------

    async def _answer(self, request: RelayedRequest) -> Result:
        server, params = request.server, request.params
        if request.scope is not None:
            self._forwarding.add_user(server, request.scope)
        downstream = self._downstreams[server]
        match request.method:
            case "resources/subscribe":
                await self._subscribe(downstream, request.replica, str(params["uri"]))
                return {}
            case "resources/unsubscribe":
                await self._unsubscribe(downstream, request.replica, str(params["uri"]))
                return {}
            case "logging/setLevel":
                if params["level"] not in LOG_LEVELS:
                    raise ProtocolFailure(request.method, INVALID_PARAMS, "unknown level")
                self._guests.set_level(request.replica, params["level"])
                await downstream.set_log_level(self._apply_level() or params["level"])
                return {}
            case method:
                return await downstream.request(method, params, cause=request.scope)

    async def _subscribe(self, downstream: Downstream, replica: str, uri: str) -> None:
        server = downstream.name
        known = self._guests.wants(server, uri) or self._forwarding.has_subscribed(server, uri)
        self._guests.subscribe(replica, server, uri)  # before its answer: a change may be announced right behind that
        if known:
            return
        try:
            await downstream.subscribe(uri)
        except BaseException:
            self._guests.unsubscribe(replica, server, uri)
            raise

    async def _unsubscribe(self, downstream: Downstream, replica: str, uri: str) -> None:
        server = downstream.name
        self._guests.unsubscribe(replica, server, uri)
        if not self._guests.wants(server, uri) and not self._forwarding.has_subscribed(server, uri):
            await downstream.unsubscribe(uri)

    # --- notifications of servers --------------------------------------------------------------------------------

    def _announce(self, server: str, method: str, params: Mapping[str, Any], credentials: str | None) -> None:
        """Pass a notification of a server that runs here on to other replicas, if it is for their clients."""
        if not self._hosting.runs(server):
            return
        if method == "notifications/resources/updated":
            if self._guests.has_subscriptions(server):
                plain = {key: value for key, value in params.items() if key != "_meta"}
                self._relay.announce(Announcement(server, method, plain))
        elif method == "notifications/message" and len(self._relay.replicas) > 1 and self._within_rate(server):
            # As for the clients here, it must not show one principal another's call.
            users = self._forwarding.users_of(server)
            if len(users) < 2 and all(scope.listed for scope in users):
                scope: Scope | None = next(iter(users), None)
                self._relay.announce(Announcement(server, method, _bounded(params), scope))

    def _within_rate(self, server: str) -> bool:
        now = anyio.current_time()
        since, count = self._logged.get(server, (now, 0))
        if now - since >= 1:
            since, count = now, 0
        self._logged[server] = (since, count + 1)
        return count < LOGS_PER_S

    def _hear(self, announcement: Announcement) -> None:
        """Take a notification of a server that runs at another replica for one of its own."""
        server = announcement.server
        if server not in self._downstreams or self._hosting.runs(server) or self._tasks is None:
            return
        if announcement.scope is not None:
            self._forwarding.add_user(server, announcement.scope)
        rest = self._server_requests.notified(server, announcement.method, announcement.params)
        if rest is not None:
            self._tasks.start_soon(self._finish, rest)

    async def _finish(self, rest: Callable[[], Awaitable[None]]) -> None:
        try:
            await rest()
        except CallFailed as exc:
            logger.debug("a notification was not delivered: %s", exc)


def _bounded(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a log message, or in place of one that is too long its beginning."""
    if approximate_size(params) <= LOG_BYTES:
        return params
    data = params.get("data")
    kept = {key: str(params[key])[:200] for key in ("level", "logger") if key in params}
    return {**kept, "data": f"{data[: LOG_BYTES // 8] if isinstance(data, str) else ''}… (the message is longer)"}
