"""The MCP server that clients see: every request's way in, every answer's way out.

Owns which method is whose, the envelope of each protocol era, and the translation of errors to the wire, which happens
here and nowhere else. It answers in a middleware of the SDK's low-level `Server`, without `call_next`: what a server
downstream said then goes up as it came, neither validated nor sieved.
"""

import secrets
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import anyio
import anyio.abc
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, SERVER_INFO_META_KEY
from mcp_types.methods import SPEC_CLIENT_METHODS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from asyncfc_mcp import __version__, tasks
from asyncfc_mcp.bridge import Bridge
from asyncfc_mcp.calls import Asking, ToolCalls
from asyncfc_mcp.errors import CallFailed, ProtocolFailure
from asyncfc_mcp.futures import Result, Scope
from asyncfc_mcp.hosts import profile_for
from asyncfc_mcp.listening import Listeners
from asyncfc_mcp.metatools import instructions
from asyncfc_mcp.offered import Offered
from asyncfc_mcp.offers import TASKS_EXTENSION
from asyncfc_mcp.requests import Handler, Request
from asyncfc_mcp.subscriptions import Subscriptions
from asyncfc_mcp.tasking import Tasks

CACHEABLE: Final = frozenset(
    {"tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"}
)
"""Methods whose results carry cache hints on 2026-07-28."""
TASK_METHODS: Final = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})
"""Methods whose `taskId` is repeated in an HTTP header on 2026-07-28."""

Context = ServerRequestContext[Any, Any]

NotInitialized: Final = MCPError(INVALID_PARAMS, "Not initialized: send initialize first, or the 2026-07-28 envelope")


class _Seal:
    """The SDK's codec for `requestState` under a key of this process, made when the first question travels."""

    @cached_property
    def _codec(self) -> AESGCMRequestStateCodec:
        return AESGCMRequestStateCodec([secrets.token_bytes(32)])

    def seal(self, payload: bytes) -> str:
        return self._codec.seal(payload)

    def open(self, token: str) -> bytes | None:
        try:
            return self._codec.unseal(token)
        except InvalidRequestState:
            return None


class Upstream:
    """One bridge as an MCP server, for any number of connections and transports at once.

    Args:
        bridge: what is served; opened by the caller, before and beyond any connection.
        scope: who all requests of this server's transports come from.
        pipe: whether there is one connection only, so that the connection can stand for a conversation (stdio).
    """

    def __init__(self, bridge: Bridge, scope: Scope, *, pipe: bool) -> None:
        self.bridge = bridge
        self._asking = Asking()
        listeners = Listeners(bridge, scope, lambda future: tasks.detailed(future, calls.epoch))
        calls = ToolCalls(bridge, scope, listeners, self._asking, _Seal(), pipe=pipe)
        self._subscriptions = Subscriptions(bridge, scope, listeners)
        self._offered = Offered(bridge, scope)
        of_tasks = Tasks(bridge, scope, calls)
        self.server: Server[Any] = Server(
            "asyncfc-mcp", version=__version__, title="asyncfc-mcp", get_tool_input_schema=calls.input_schema
        )
        # Alone: the SDK's own tracing middleware would cost every call more than the handle does.
        self.server.middleware[:] = [self._middleware]
        self._stamp = self.server.server_info_stamp
        both: Mapping[str, Handler] = {**calls.methods, **self._offered.methods, **of_tasks.methods}
        subscriptions = self._subscriptions
        self._handshake: Mapping[str, Handler] = {
            **both, **subscriptions.handshake_methods, **of_tasks.handshake_methods
        }  # fmt: skip
        self._modern: Mapping[str, Handler] = {**both, **subscriptions.modern_methods, **of_tasks.modern_methods}

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """What goes on beside requests, until cancelled: listeners are told, clients are asked."""
        async with anyio.create_task_group() as tg:
            await tg.start(self._asking.run)
            await tg.start(self._subscriptions.run)
            task_status.started()

    async def _middleware(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.request_id is None:
            result = await call_next(ctx)
            if ctx.method == "notifications/initialized":
                self._subscriptions.listener(_connection(ctx))
            elif ctx.method == "notifications/roots/list_changed":
                await self.bridge.tell_servers(ctx.method)
            return result
        if not self.answers(ctx.method, modern=ctx.protocol_version in MODERN_PROTOCOL_VERSIONS):
            result = await call_next(ctx)
            if ctx.method in ("initialize", "server/discover") and isinstance(result, dict):
                self._introduce(ctx, result)
            return result
        connection = _connection(ctx)
        self.admit(connection, ctx.method)
        _check_task_header(ctx)
        info = ctx.session.client_params
        return await self.answer(
            Request(
                ctx.method,
                ctx.params if ctx.params is not None else {},
                ctx.protocol_version,
                info.client_info.name if info is not None else None,
                connection.session_id,
                wire_capabilities(connection),
                ctx.session._request_outbound,  # pyright: ignore[reportPrivateUsage]
                connection,
            )
        )

    def admit(self, connection: Any, method: str) -> None:
        """Let a handshake connection's request through.

        Raises:
            MCPError: it has not shaken hands; for a method that nobody knows, that nobody knows it.
        """
        if connection.initialize_accepted:
            return
        if method not in SPEC_CLIENT_METHODS:
            raise MCPError(METHOD_NOT_FOUND, "Method not found", method)
        raise NotInitialized

    def answers(self, method: str, *, modern: bool) -> bool:
        """Whether `answer` knows the method in this protocol era; all others are the SDK's."""
        # A method that MCP does not define may be that of a server's extension.
        return method in (self._modern if modern else self._handshake) or method not in SPEC_CLIENT_METHODS

    async def answer(self, request: Request) -> Result:
        """Answer a request of an initialized client, envelope included.

        Raises:
            MCPError: the JSON-RPC error to answer with.
        """
        meta = request.params.get("_meta")
        if meta is not None and not isinstance(meta, dict):
            raise MCPError(INVALID_PARAMS, "_meta must be an object")
        era = self._modern if request.modern else self._handshake
        handler = era.get(request.method, self._offered.extension)
        try:
            result = await handler(request)
        except CallFailed as exc:
            raise _wire_error(exc) from None
        return self._envelope(request, result)

    def _envelope(self, request: Request, result: Result) -> Result:
        """A result as the client's protocol era wants it; what a server downstream put there stays."""
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
            out["_meta"] = {SERVER_INFO_META_KEY: self._stamp, **(meta or {})}
        return out

    def _introduce(self, ctx: Context, result: dict[str, Any]) -> None:
        """Say what all servers together can do, and teach the model the protocol."""
        modern = ctx.method == "server/discover"
        capabilities: dict[str, Any] = {
            "tools": {"listChanged": True},
            # Futures are resources, whatever the servers have.
            "resources": {"listChanged": True, "subscribe": True},
        }
        for downstream in self.bridge.downstreams.values():
            # A server that was never seen may turn out to have them; to say too much does no harm.
            unseen: Mapping[str, Any] = {"prompts": {}, "completions": {}, "logging": {}}
            offers = downstream.offer.capabilities if downstream.known else unseen
            if offers.get("prompts") is not None:
                capabilities["prompts"] = {"listChanged": True}
            for kind in ("completions", "logging"):
                if offers.get(kind) is not None:
                    capabilities[kind] = {}
        if modern:
            theirs = {k: v for d in self.bridge.downstreams.values() for k, v in d.offer.extensions.items()}
            capabilities["extensions"] = {**theirs, TASKS_EXTENSION: {}}
        elif result.get("protocolVersion") == tasks.EXPERIMENTAL_VERSION:
            capabilities["tasks"] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
        result["capabilities"] = capabilities
        name: str | None = None
        if ctx.method == "initialize":
            info: Mapping[str, Any] = (ctx.params or {}).get("clientInfo") or {}
            name = info.get("name")
        elif ctx.session.client_params is not None:
            name = ctx.session.client_params.client_info.name
        profile = profile_for(name, self.bridge.settings.host_profiles)
        parts = [instructions(conversation=profile.single_conversation)]
        for server, downstream in self.bridge.downstreams.items():
            if downstream.offer.instructions:
                parts.append(f"{server}: {downstream.offer.instructions}")
        result["instructions"] = "\n\n".join(parts)


def _check_task_header(ctx: Context) -> None:
    """Hold a request about a task to its `Mcp-Name`, as the SDK does with the methods that it knows.

    Raises:
        MCPError: over HTTP on 2026-07-28 the header is missing, or names another task.
    """
    if ctx.method not in TASK_METHODS or ctx.request is None or ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return
    task_id = (ctx.params or {}).get("taskId")
    if task_id is not None and decode_header_value(ctx.request.headers.get(MCP_NAME_HEADER)) != task_id:
        raise MCPError(
            HEADER_MISMATCH, f"{MCP_NAME_HEADER} header does not match the request body's 'taskId' parameter"
        )


def _connection(ctx: Context) -> Any:
    # The SDK says to push clean-up onto `Connection.exit_stack` from middleware, but has no public way there yet.
    return ctx.session._connection  # pyright: ignore[reportPrivateUsage]


def _wire_error(exc: CallFailed) -> MCPError:
    if isinstance(exc, ProtocolFailure):
        return MCPError(exc.code, exc.message, exc.data)
    return MCPError(INTERNAL_ERROR, str(exc))


def wire_capabilities(connection: Any) -> dict[str, Any]:
    """A connection's client capabilities as they came."""
    capabilities = connection.client_capabilities
    return {} if capabilities is None else capabilities.model_dump(by_alias=True, mode="json", exclude_none=True)
