"""The MCP server that clients see: the entry of every request, the exit of every response.

Owns the table of methods, the handshake, the result envelope of 2026-07-28, and the translation of errors to the wire,
which happens only here. Refuses to know the transport. Results of servers go up unchanged, neither validated nor
filtered; that is why this is not the SDK's low-level `Server`.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, cast

import anyio
import anyio.abc

from asyncfc_mcp import __version__
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.views import View
from asyncfc_mcp.core.futures import Question, Result
from asyncfc_mcp.core.identity import Principal, Scope
from asyncfc_mcp.errors import CallFailed, ProtocolFailure, RpcError, TooManyCallers
from asyncfc_mcp.protocol import (
    CLIENT_METHODS,
    HANDSHAKE_VERSIONS,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    LATEST_HANDSHAKE_VERSION,
    METHOD_NOT_FOUND,
    MODERN_VERSIONS,
    SERVER_INFO_META_KEY,
    TASKS_EXTENSION,
    Channel,
    Deferred,
)
from asyncfc_mcp.upstream import task_shapes
from asyncfc_mcp.upstream.callers import CallerIdentities, conversation_key
from asyncfc_mcp.upstream.client_requests import ClientRequests
from asyncfc_mcp.upstream.clients import Clients
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.envelope import EnvelopeReader, are_capabilities, bounded, client_name, with_checked_meta
from asyncfc_mcp.upstream.handle_calls import HandleCalls
from asyncfc_mcp.upstream.input_required import CodecSeal, InputRounds
from asyncfc_mcp.upstream.instructions import InstructionsFor
from asyncfc_mcp.upstream.notifications import NotificationHub
from asyncfc_mcp.upstream.request import Handler, Params, Request, Session, awaited
from asyncfc_mcp.upstream.request_order import RequestOrder, RequestOrders
from asyncfc_mcp.upstream.request_tracing import RequestTracer, traced
from asyncfc_mcp.upstream.server_features import ServerFeatures
from asyncfc_mcp.upstream.subscriptions import Subscriptions
from asyncfc_mcp.upstream.sync_calls import SyncCalls
from asyncfc_mcp.upstream.tasks import Tasks
from asyncfc_mcp.upstream.tools import ToolCalls

INFO: Final = {"name": "asyncfc-mcp", "title": "asyncfc-mcp", "version": __version__}
"""`serverInfo` of the bridge."""
CACHEABLE: Final = frozenset(
    {"server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"}
)
"""Methods whose results carry cache hints on 2026-07-28."""

NOT_INITIALIZED: Final = "Not initialized: send initialize first, or the 2026-07-28 envelope"


class Upstream:
    """One bridge as an MCP server, for any number of connections and transports at once.

    Args:
        bridge: the servers behind it; opened by the caller, before and beyond any connection.
        tracer: traces requests; None: nothing does.
    """

    def __init__(self, bridge: Bridge, tracer: RequestTracer | None = None) -> None:
        self.bridge = bridge
        self._tracer = tracer
        self._orders = RequestOrders()
        self._client_requests = ClientRequests()
        epoch = time.time() - anyio.current_time()
        self._instructions = InstructionsFor(bridge)
        hub = NotificationHub(
            bridge, self._instructions, lambda future, asks: task_shapes.detailed(future, epoch, asks=asks)
        )
        identities = CallerIdentities()
        clients = Clients(bridge, identities, self._put)
        rounds = InputRounds(bridge, CodecSeal(bridge.settings.shared_secret))
        sync_calls = SyncCalls(bridge, hub, rounds)
        calls = ToolCalls(bridge, clients, sync_calls, HandleCalls(bridge, clients, hub, rounds), rounds, epoch)
        self._subscriptions = Subscriptions(bridge, hub, identities)
        self._server_features = ServerFeatures(bridge, identities, self._instructions)
        of_tasks = Tasks(bridge, clients, sync_calls, epoch)
        both: Mapping[str, Handler] = {**calls.methods, **self._server_features.methods, **of_tasks.methods}
        subscriptions = self._subscriptions
        self._handshake: Mapping[str, Handler] = {
            **both, **subscriptions.handshake_methods, **of_tasks.handshake_methods
        }  # fmt: skip
        self._modern: Mapping[str, Handler] = {
            "server/discover": self._discover,
            **both,
            **subscriptions.modern_methods,
            **of_tasks.modern_methods,
        }
        self._envelopes = EnvelopeReader()
        self._extension: Handler = awaited(self._server_features.extension)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the tasks beside requests, until cancelled: notifications, and questions to clients."""
        async with anyio.create_task_group() as tg:
            await tg.start(self._client_requests.run)
            await tg.start(self._subscriptions.run)
            task_status.started()

    def _put(self, request: Request, question: Question) -> bool:
        """Put a question to a client at once, beside the request that waits; the user may take longer than that waits.
        False if the client cannot be reached."""
        return request.channel.reachable and self._client_requests.start(self.bridge.engine, request, question)

    # --- the two eras --------------------------------------------------------------------------------------------

    def handshake(self, session: Session, channel: Channel, method: str, params: Params | None) -> Result | Deferred:
        """Answer a request on a connection that shakes hands, at once or deferred.

        Raises:
            RpcError: the error to answer with; so does the deferred result.
        """
        if self._tracer is None:
            return self._handshake_request(session, channel, method, params)
        version = None if method == "initialize" else session.version
        span = self._tracer.begin(method, params, channel.request_id, version, session.id)
        return traced(span, partial(self._handshake_request, session, channel, method))

    def _handshake_request(
        self, session: Session, channel: Channel, method: str, params: Params | None
    ) -> Result | Deferred:
        params = with_checked_meta(params)
        credentials = self._enter(session.principal)
        if method == "initialize":
            session.order.restart(channel.request_id)
            return self._initialize(session, params)
        session.order.see(channel.request_id)
        if method == "ping":
            return {}
        handler = self._handshake.get(method)
        if handler is None and method in CLIENT_METHODS:
            raise RpcError(METHOD_NOT_FOUND, "Method not found", method)
        if not session.accepted:
            # An unknown method is refused as such also before the handshake: clients that probe rely on it.
            if method in CLIENT_METHODS:
                raise RpcError(INVALID_PARAMS, NOT_INITIALIZED)
            raise RpcError(METHOD_NOT_FOUND, "Method not found", method)
        request = Request(
            method, params, session.principal, session.version, session.host, session.capabilities, channel, session
        )
        request.order, request.credentials, request.connection = session.order, credentials, session.connection
        # A method that MCP does not define may belong to a server's extension.
        return self._answer(handler or self._extension, request)

    async def resume(self, session: Session) -> None:
        """Serve a session that another replica has opened."""
        await self._subscriptions.resume(session)
        if session.log_level is not None and (least := self._subscriptions.least_level()) is not None:
            await self.bridge.set_log_level(least)

    def modern(
        self,
        principal: Principal,
        channel: Channel,
        method: str,
        params: Params | None,
        connection: Connection | None = None,
    ) -> Result | Deferred:
        """Answer a request that carries its own envelope (2026-07-28), at once or deferred.

        Args:
            principal: the principal behind it.
            connection: the connection that it arrived on, if that is one client of its own.

        Raises:
            RpcError: the error to answer with; so does the deferred result.
        """
        if self._tracer is None:
            return self._modern_request(principal, channel, method, connection, params)
        span = self._tracer.begin(method, params, channel.request_id)
        return traced(span, partial(self._modern_request, principal, channel, method, connection))

    def _modern_request(
        self,
        principal: Principal,
        channel: Channel,
        method: str,
        connection: Connection | None,
        params: Params | None,
    ) -> Result | Deferred:
        params = params or {}
        version, host, capabilities = self._envelopes.read(params)
        if connection is None:
            order = self._order_of(principal.scope, host, params)
        else:
            order, connection.host = connection.order, host
        if order is not None:
            (order.restart if method == "server/discover" else order.see)(channel.request_id)
        handler = self._modern.get(method)
        if handler is None and method in CLIENT_METHODS:
            raise RpcError(METHOD_NOT_FOUND, "Method not found", method)
        request = Request(method, params, principal, version, host, capabilities, channel, None, connection, order)
        request.credentials = self._enter(principal)
        return self._answer(handler or self._extension, request)

    def _enter(self, principal: Principal) -> str | None:
        """Take note of a request; return the key of its caller's credentials.

        Raises:
            RpcError: there are too many callers with credentials of their own.
        """
        try:
            return self.bridge.enter(principal)
        except TooManyCallers as exc:
            raise RpcError(INTERNAL_ERROR, str(exc)) from None

    def input_schema(self, principal: Principal, name: str) -> Mapping[str, Any] | None:
        """Return the schema that a tool is listed with for a principal; None if it is not listed."""
        self._enter(principal)
        tool = self.bridge.views.of(principal).catalog.tools.get(name)
        return tool.listed.get("inputSchema") if tool is not None else None

    def _order_of(self, scope: Scope, host: str | None, params: Params) -> RequestOrder | None:
        """Return the request numbering of a client that has neither a connection nor a session of its own: that of
        the conversation, or of all clients with its name. None without authentication, where equal words may be those
        of another client."""
        if not scope.listed:
            return None
        return self._orders.of((host, conversation_key(params)), scope.key)

    def notified(self, session: Session, method: str) -> Callable[[], Awaitable[None]] | None:
        """Accept a notification of a client that shook hands; return what is left to be done about it, or None.
        (2026-07-28 has no notifications of clients that matter here.)"""
        if method == "notifications/initialized":
            session.accepted = True
            self._subscriptions.listener(session)
        elif method == "notifications/roots/list_changed" and session.accepted:
            return partial(self.bridge.notify_servers, session.principal, method)
        return None

    def _answer(self, handler: Handler, request: Request) -> Result | Deferred:
        try:
            answer = handler(request)
        except CallFailed as exc:
            raise _wire_error(exc) from None
        if isinstance(answer, dict):
            return self.enveloped(request, answer)
        return _Enveloped(self, request, answer)

    async def wait(self, request: Request, deferred: Deferred) -> Result:
        """Wait for a deferred result; return it as `enveloped`.

        Raises:
            RpcError: the error to answer with.
        """
        try:
            return self.enveloped(request, await deferred())
        except CallFailed as exc:
            raise _wire_error(exc) from None

    def enveloped(self, request: Request, result: Result) -> Result:
        """Return a result in the form of the client's protocol era; values that a downstream server set stay."""
        if not request.modern:
            if "resultType" in result:
                return {key: value for key, value in result.items() if key != "resultType"}
            return result
        meta = result.get("_meta")
        out = {"resultType": "complete", **result}
        if request.method in CACHEABLE:
            out.setdefault("ttlMs", 0)
            out.setdefault("cacheScope", "private")
        if meta is None or isinstance(meta, dict):
            out["_meta"] = {SERVER_INFO_META_KEY: INFO, **(meta or {})}
        return out

    # --- handshake and discovery --------------------------------------------------------------------------------

    def _initialize(self, session: Session, params: Params) -> Result:
        """Answer the handshake with the capabilities of all servers together, and with instructions for the model."""
        requested, capabilities, info = (params.get(key) for key in ("protocolVersion", "capabilities", "clientInfo"))
        if not isinstance(requested, str):
            raise RpcError(INVALID_PARAMS, f"initialize: protocolVersion must be a string; found {requested!r:.80}")
        if not are_capabilities(capabilities):
            raise RpcError(
                INVALID_PARAMS, f"initialize: capabilities must be an object of objects; found {capabilities!r:.80}"
            )
        name = client_name(info)
        if name is None:
            raise RpcError(INVALID_PARAMS, f"initialize: clientInfo must be an object with a name; found {info!r:.80}")
        capabilities_of_client = bounded(cast("dict[str, Any]", capabilities))
        session.version = requested if requested in HANDSHAKE_VERSIONS else LATEST_HANDSHAKE_VERSION
        session.host, session.capabilities = name, capabilities_of_client
        session.identity.host = name
        if session.connection is not None:
            session.connection.host = name
        if self._tracer is not None and not session.accepted:
            session.at_end(_at_end(self._tracer.session(session.version)))
        session.accepted = True
        view = self.bridge.views.of(session.principal)
        offered = self._capabilities(view)
        if session.version == task_shapes.EXPERIMENTAL_VERSION:
            offered["tasks"] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
        return {
            "protocolVersion": session.version,
            "capabilities": offered,
            "serverInfo": INFO,
            "instructions": self._instructions.host(view, name).text,
        }

    def _discover(self, request: Request) -> Result:
        # If several servers declare an extension, requests go to the first, so its declaration counts.
        view = self.bridge.views.of(request.principal)
        declared = reversed(view.snapshots().values())
        extensions = {k: v for offered in declared if offered is not None for k, v in offered.extensions.items()}
        return {
            "supportedVersions": list(MODERN_VERSIONS),
            "capabilities": {**self._capabilities(view), "extensions": {**extensions, TASKS_EXTENSION: {}}},
            "instructions": self._instructions.host(view, request.host, takes_tasks=request.takes_tasks).text,
        }

    def _capabilities(self, view: View) -> dict[str, Any]:
        capabilities: dict[str, Any] = {
            "tools": {"listChanged": True},
            # Futures are resources, whatever the servers have.
            "resources": {"listChanged": True, "subscribe": True},
        }
        for offered in view.snapshots().values():
            # A server that was never seen may have them; a capability too many does no harm.
            assumed: Mapping[str, Any] = {"prompts": {}, "completions": {}, "logging": {}}
            offers = assumed if offered is None else offered.capabilities
            if offers.get("prompts") is not None:
                capabilities["prompts"] = {"listChanged": True}
            for kind in ("completions", "logging"):
                if offers.get(kind) is not None:
                    capabilities[kind] = {}
        return capabilities


class _Enveloped(Deferred):
    """A deferred result in the envelope of the client's protocol era."""

    __slots__ = ("_deferred", "_request", "_upstream")

    def __init__(self, upstream: Upstream, request: Request, deferred: Deferred) -> None:
        self._upstream, self._request, self._deferred = upstream, request, deferred

    def add_done_callback(self, callback: Callable[[], None]) -> bool:
        return self._deferred.add_done_callback(callback)

    def remove_done_callback(self) -> None:
        self._deferred.remove_done_callback()

    def result_nowait(self) -> Result | None:
        try:
            result = self._deferred.result_nowait()
        except CallFailed as exc:
            raise _wire_error(exc) from None
        return None if result is None else self._upstream.enveloped(self._request, result)

    def __call__(self) -> Awaitable[Result]:
        return self._upstream.wait(self._request, self._deferred)


def _at_end(callback: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def end() -> None:
        callback()

    return end


def _wire_error(exc: CallFailed) -> RpcError:
    if isinstance(exc, ProtocolFailure):
        return RpcError(exc.code, exc.message, exc.data)
    return RpcError(INTERNAL_ERROR, str(exc))
