"""The bridge as a low-level `Server` of the SDK, for the transports that the SDK implements.

These are HTTP+SSE, standard streams on Windows, and its own Streamable HTTP, with which tests compare ours. Owns the
conversion between the SDK's contexts and `Upstream`, errors included. Responses are made in a middleware, without
`call_next`: the SDK validates and filters the results of its handlers, and a server's result must not be changed.
Leaves every decision about a request to `Upstream`. Imported only where it is needed, since it loads the whole SDK.
"""

from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.dispatcher import CallOptions as SdkOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import ErrorData, JSONRPCError, JSONRPCRequest, JSONRPCResponse

from asyncfc_mcp.core.identity import Principal
from asyncfc_mcp.errors import ConnectionEnded, RpcError
from asyncfc_mcp.jsonrpc.codec import EDGE_BYTES, format_message, oversized
from asyncfc_mcp.protocol import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    MODERN_VERSIONS,
    PROBES,
    CallOptions,
    Deferred,
    RequestId,
)
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.envelope import has_envelope
from asyncfc_mcp.upstream.request import Session
from asyncfc_mcp.upstream.server import INFO, Upstream
from asyncfc_mcp.values.bounds import MOST_FROM_CLIENTS, has_more_values

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Message as AsgiMessage
    from starlette.types import Scope as AsgiScope

SESSION: Final = "asyncfc"
"""Key of our `Session` in the state of the SDK's `Connection`."""

REFUSED: Final = "asyncfc/refused"
"""Method of the message that replaces a refused request, so that the response goes out on its own stream."""

Context = ServerRequestContext[Any, Any]


def sdk_server(upstream: Upstream, principal: Principal, connection: Connection | None = None) -> Server[Any]:
    """Return a server that answers all requests with `upstream`, for this principal.

    Args:
        connection: the only connection of the server, if that is one client of its own.
    """
    server: Server[Any] = Server(
        INFO["name"],
        version=INFO["version"],
        title=INFO["title"],
        get_tool_input_schema=partial(upstream.input_schema, principal),
    )

    async def answer(ctx: Context, call_next: CallNext) -> HandlerResult:
        modern = ctx.protocol_version in MODERN_VERSIONS
        try:
            if ctx.request_id is None:
                await call_next(ctx)  # the SDK tracks the handshake as well
                if (
                    not modern
                    and (rest := upstream.notified(_session(ctx, principal, connection), ctx.method)) is not None
                ):
                    await rest()
                return None
            channel = _Channel(ctx.session._request_outbound)  # pyright: ignore[reportPrivateUsage]
            if modern:
                result = upstream.modern(principal, channel, ctx.method, ctx.params, connection)
            else:
                session = _session(ctx, principal, connection)
                result = upstream.handshake(session, channel, ctx.method, ctx.params)
            return await result() if isinstance(result, Deferred) else result
        except RpcError as exc:
            raise MCPError(exc.code, exc.message, exc.data) from None

    # Without the SDK's tracing middleware, which would cost every call more than the handle does.
    server.middleware[:] = [answer]
    return server


async def serve_streams(
    upstream: Upstream, principal: Principal, reader: Any, writer: Any, connection: Connection | None = None
) -> None:
    """Serve one client on a pair of the SDK's streams until the input ends.

    Args:
        connection: the connection, if that is one client of its own.
    """
    server = sdk_server(upstream, principal, connection)
    probed: Any = _Probed(upstream, principal, reader, writer)
    await server.run(probed, writer, server.create_initialization_options())


def bounded(app: "ASGIApp", max_body: int) -> "ASGIApp":
    """Wrap the SDK's application for posted messages: a message with too many values is replaced by a refusal."""

    async def bounded_app(scope: "AsgiScope", receive: "Receive", send: "Send") -> None:
        async def whole() -> "AsgiMessage":
            parts: list[bytes] = []
            size = 0
            while size <= max_body:
                part = await receive()
                if part["type"] != "http.request":
                    return part
                parts.append(part.get("body", b""))
                size += len(parts[-1])
                if not part.get("more_body", False):
                    return {"type": "http.request", "body": _small_enough(b"".join(parts)), "more_body": False}
            return {"type": "http.request", "body": b"".join(parts), "more_body": True}  # the SDK refuses it

        await app(scope, whole, send)

    return bounded_app


def _small_enough(body: bytes) -> bytes:
    if not has_more_values(body, MOST_FROM_CLIENTS):
        return body
    refusal = oversized(body[:EDGE_BYTES], body[-EDGE_BYTES:], f"more than {MOST_FROM_CLIENTS} values")
    assert refusal is not None, "the message is complete"
    if refusal.request_id is None or refusal.is_answer:
        return b""
    problem = {"problem": str(refusal)}
    return format_message({"jsonrpc": "2.0", "id": refusal.request_id, "method": REFUSED, "params": problem})


class _Probed:
    """The SDK's input stream without the messages answered here: refusals, and probes before the opening request, since
    the SDK takes the first request for the opening one."""

    def __init__(self, upstream: Upstream, principal: Principal, reader: Any, writer: Any) -> None:
        self._upstream, self._principal, self._reader, self._writer = upstream, principal, reader, writer
        self._opened = False

    @property
    def last_context(self) -> Any:
        return getattr(self._reader, "last_context", None)

    async def receive(self) -> Any:
        while True:
            item = await self._reader.receive()
            request = item.message if isinstance(item, SessionMessage) else None
            if not isinstance(request, JSONRPCRequest):
                return item
            if request.method == REFUSED:
                error = ErrorData(code=INVALID_REQUEST, message=str((request.params or {}).get("problem")))
                await self._writer.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=request.id, error=error)))
                continue
            if self._opened:
                return item
            if request.method not in PROBES:
                self._opened = True
                return item
            await self._writer.send(SessionMessage(self._answer(request)))

    def _answer(self, request: JSONRPCRequest) -> JSONRPCResponse | JSONRPCError:
        # Probes send nothing before their response, so only the ID of the request is needed.
        channel: Any = SimpleNamespace(request_id=request.id)
        method, params = request.method, request.params
        try:
            if has_envelope(params):
                result = self._upstream.modern(self._principal, channel, method, params)
            else:
                result = self._upstream.handshake(Session(self._principal, channel), channel, method, params)
        except RpcError as exc:
            error = ErrorData(code=exc.code, message=exc.message, data=exc.data)
            return JSONRPCError(jsonrpc="2.0", id=request.id, error=error)
        assert not isinstance(result, Deferred)
        return JSONRPCResponse(jsonrpc="2.0", id=request.id, result=result)

    def close(self) -> None:
        self._reader.close()

    async def aclose(self) -> None:
        await self._reader.aclose()

    def __aiter__(self) -> "_Probed":
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> "_Probed":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


class _Channel:
    """A `Channel` over the SDK's, which raises our errors."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.request_id: RequestId | None = channel.request_id
        self.reachable = True
        self.notify = channel.notify
        self.progress = channel.progress

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        try:
            sdk_opts: SdkOptions | None = opts  # pyright: ignore[reportAssignmentType]
            return await self._channel.send_raw_request(method, params, sdk_opts)
        except MCPError as exc:
            if (exc.code, exc.message) == (CONNECTION_CLOSED, "Connection closed"):  # the SDK has no type for it
                raise ConnectionEnded from None
            raise RpcError(exc.code, exc.message, exc.data) from None


def _session(ctx: Context, principal: Principal, own: Connection | None) -> Session:
    """Return our `Session` for the SDK's connection, created at the first use."""
    # The SDK recommends `Connection.exit_stack` for clean-up from middleware, but has no public access to it yet.
    connection = ctx.session._connection  # pyright: ignore[reportPrivateUsage]
    session: Session | None = connection.state.get(SESSION)
    if session is None:
        session = connection.state[SESSION] = Session(principal, connection.notify, connection.session_id, own)
        connection.exit_stack.push_async_callback(session.close)
    return session
