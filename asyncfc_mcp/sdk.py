"""The bridge as a low-level `Server` of the SDK, for what the SDK carries.

That is HTTP+SSE, standard streams on Windows, and its own Streamable HTTP, with which tests compare ours. Owns the way
from the SDK's contexts to `Upstream` and back, errors included. It answers in a middleware, without `call_next`: the
SDK validates and sieves what its handlers return, and a server's answer is not ours to change. Refuses to decide
anything about a request. Imported only where it is needed: it brings the whole SDK with it.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.dispatcher import CallOptions as SdkOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import ErrorData, JSONRPCError, JSONRPCRequest, JSONRPCResponse

from asyncfc_mcp.errors import ConnectionEnded, RpcError
from asyncfc_mcp.protocol import CONNECTION_CLOSED, MODERN_VERSIONS, PROBES, CallOptions, RequestId
from asyncfc_mcp.requests import Session
from asyncfc_mcp.server import INFO, Upstream, has_envelope

SESSION: Final = "asyncfc"
"""Key of our `Session` in the state of the SDK's `Connection`."""

Context = ServerRequestContext[Any, Any]


def sdk_server(upstream: Upstream) -> Server[Any]:
    """A server that answers everything with `upstream`."""
    server: Server[Any] = Server(
        INFO["name"], version=INFO["version"], title=INFO["title"], get_tool_input_schema=upstream.input_schema
    )

    async def answer(ctx: Context, call_next: CallNext) -> HandlerResult:
        modern = ctx.protocol_version in MODERN_VERSIONS
        try:
            if ctx.request_id is None:
                await call_next(ctx)  # the SDK keeps its own account of the handshake
                if not modern and (rest := upstream.notified(_session(ctx), ctx.method)) is not None:
                    await rest()
                return None
            channel = _Channel(ctx.session._request_outbound)  # pyright: ignore[reportPrivateUsage]
            if modern:
                result = upstream.modern(channel, ctx.method, ctx.params)
            else:
                result = upstream.handshake(_session(ctx), channel, ctx.method, ctx.params)
            return await result() if callable(result) else result
        except RpcError as exc:
            raise MCPError(exc.code, exc.message, exc.data) from None

    # Alone: the SDK's own tracing middleware would cost every call more than the handle does.
    server.middleware[:] = [answer]
    return server


async def serve_streams(server: Server[Any], upstream: Upstream, reader: Any, writer: Any) -> None:
    """Serve one client on a pair of the SDK's streams until the input ends."""
    probed: Any = _Probed(upstream, reader, writer)
    await server.run(probed, writer, server.create_initialization_options())


class _Probed:
    """The SDK's input without the probes that come before the opening request: these are answered here, since the SDK
    takes the first request of all for the opening one."""

    def __init__(self, upstream: Upstream, reader: Any, writer: Any) -> None:
        self._upstream, self._reader, self._writer = upstream, reader, writer
        self._opened = False

    @property
    def last_context(self) -> Any:
        return getattr(self._reader, "last_context", None)

    async def receive(self) -> Any:
        while True:
            item = await self._reader.receive()
            request = item.message if isinstance(item, SessionMessage) else None
            if self._opened or not isinstance(request, JSONRPCRequest):
                return item
            if request.method not in PROBES:
                self._opened = True
                return item
            await self._writer.send(SessionMessage(self._answer(request)))

    def _answer(self, request: JSONRPCRequest) -> JSONRPCResponse | JSONRPCError:
        # Neither probe says anything on the way to its answer, so the number of the request is all that is needed.
        channel: Any = SimpleNamespace(request_id=request.id)
        method, params = request.method, request.params
        try:
            if has_envelope(params):
                result = self._upstream.modern(channel, method, params)
            else:
                result = self._upstream.handshake(Session(channel), channel, method, params)
        except RpcError as exc:
            error = ErrorData(code=exc.code, message=exc.message, data=exc.data)
            return JSONRPCError(jsonrpc="2.0", id=request.id, error=error)
        assert not callable(result)
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
    """A way back to the client that raises our errors."""

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


def _session(ctx: Context) -> Session:
    """Our side of the SDK's connection."""
    # The SDK says to push clean-up onto `Connection.exit_stack` from middleware, but has no public way there yet.
    connection = ctx.session._connection  # pyright: ignore[reportPrivateUsage]
    session: Session | None = connection.state.get(SESSION)
    if session is None:
        session = connection.state[SESSION] = Session(connection.notify, connection.session_id)
        connection.exit_stack.push_async_callback(session.close)
    return session
