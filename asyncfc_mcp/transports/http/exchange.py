"""An HTTP request of an MCP client and its response, in every protocol version.

Owns the response: plain JSON, or an event stream from the first notification on. Leaves admission to `admission`,
waiting and disconnects to `in_flight`, and the rules of each protocol version to the subclasses in `stateless` and
`session`. The SDK's endpoints do the same through a router, message models, task groups and memory streams for each
request; here a request that is answered at once costs one parse, two sends and no task.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import anyio

from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.jsonrpc.codec import Message
from asyncfc_mcp.jsonrpc.large import write_message
from asyncfc_mcp.protocol import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    CallOptions,
    RequestId,
    progress_of,
    progress_token,
)
from asyncfc_mcp.transports.http.asgi import JSON, Header, respond
from asyncfc_mcp.transports.http.auth.authenticator import Access
from asyncfc_mcp.upstream.request import Params

if TYPE_CHECKING:
    from starlette.types import Send

    from asyncfc_mcp.core.futures import Result

logger = logging.getLogger(__name__)

_STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
)
_PING: Final = b": ping\r\n\r\n"
_LINE_ENDS: Final = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""Line ends of Unicode and not of event streams: some clients split lines at them all the same."""


class EventStream:
    """A response of server-sent events, written whole and one after another.

    Args:
        headers: sent in addition to those of an event stream.
    """

    __slots__ = ("_lock", "access", "begun", "closed", "headers", "send")

    def __init__(self, send: "Send", headers: Sequence[Header] = ()) -> None:
        self.send = send
        self.headers = headers
        self.access: Access | None = None
        """The access with which the request was admitted; None where no access ends."""
        self._lock: anyio.Lock | None = None
        self.begun = False
        """True once the headers are sent; until then the response may still be plain JSON."""
        self.closed = False

    async def write(self, message: Message) -> bool:
        """Write one message; return False if the stream is closed."""
        return await self._write(await _event(message))

    async def ping(self) -> None:
        """Write a comment, which keeps proxies from closing the connection."""
        await self._write(_PING)

    async def begin(self) -> None:
        """Send the headers, unless they are sent."""
        await self._write(b"")

    async def _write(self, event: bytes) -> bool:
        # Several tasks may write at once, and no event may be sent before the headers of a slow client.
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:
            if self.closed:
                return False
            if not self.begun:
                headers = [*_STREAM_HEADERS, *self.headers]
                await self.send({"type": "http.response.start", "status": 200, "headers": headers})
                self.begun = True
            if event:
                await self.send({"type": "http.response.body", "body": event, "more_body": True})
            return True

    async def end(self, message: Message | None, status: int) -> None:
        """Send the last message, or none, and close. A response that is no event stream yet becomes plain JSON."""
        if self._lock is not None:
            async with self._lock:  # wait for events that are being written
                self.closed = True
        self.closed = True
        if self.begun:
            event = b"" if message is None else await _event(message)
            self.on_last()
            await self.send({"type": "http.response.body", "body": event})
        else:
            assert message is not None, "a stream that was never begun"
            body = await write_message(message)
            self.on_last()
            await respond(self.send, status, body, JSON, *self.headers)

    def on_last(self) -> None:
        """Called before the last message is sent, and so before the client can act on it."""


class Exchange(EventStream):
    """A request and its response: a `Channel` over HTTP.

    A notification turns the response into an event stream; until then it may be plain JSON with its own status. The
    hooks `on_start`, `on_deferred`, `on_wait`, `on_disconnect` and `on_end` differ between protocol versions.
    """

    __slots__ = ("_scope", "_token", "cancelled_with", "lasting", "request_id", "watcher")

    def __init__(self, send: "Send", request_id: RequestId, params: Params, headers: Sequence[Header] = ()) -> None:
        super().__init__(send, headers)
        self.request_id: RequestId | None = request_id
        self._token = progress_token(params)
        self._scope: anyio.CancelScope | None = None
        self.cancelled_with: RpcError | None = None
        """The response to a cancelled request whose client is still connected."""
        self.lasting = False
        """True for a request that lasts as long as its connection."""
        self.watcher: anyio.CancelScope | None = None
        """Cancel scope of the disconnect watcher, if one runs."""

    @property
    def scope(self) -> anyio.CancelScope:
        """Cancelled when the result is no longer wanted. Created on demand: most requests never wait."""
        if self._scope is None:
            self._scope = anyio.CancelScope()
        return self._scope

    def on_start(self) -> None:
        """Called before the request is handled."""

    def on_end(self) -> None:
        """Called when the request is answered or abandoned."""

    async def on_deferred(self) -> None:
        """Called when the result is not available at once, before it is waited for."""

    async def on_wait(self) -> None:
        """Called when the result is not available soon (`in_flight.UNWATCHED_S`)."""

    def on_disconnect(self) -> None:
        """Called when the client disconnects."""
        self.closed = True

    def http_status(self, error: RpcError) -> int:
        """Return the HTTP status of a plain response with this error."""
        return 200

    def cancel(self, error: RpcError) -> None:
        """Respond with an error instead of waiting for the result."""
        self.cancelled_with = error
        self.scope.cancel()

    def response_to(self, result: "Result") -> tuple[Message, int]:
        """Return the response with a result, and its HTTP status."""
        return {"jsonrpc": "2.0", "id": self.request_id, "result": result}, 200

    def response_to_error(self, exc: Exception) -> tuple[Message, int]:
        """Return the response to a request that raised, and its HTTP status."""
        error = exc if isinstance(exc, RpcError) else _internal_error(exc)
        return {"jsonrpc": "2.0", "id": self.request_id, "error": error.wire}, self.http_status(error)

    @property
    def reachable(self) -> bool:
        return False

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise RpcError(INVALID_REQUEST, f"Cannot send {method!r}: there is no way back for requests here")

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        await self.write(notification(method, params))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self._token is not None:
            await self.notify("notifications/progress", progress_of(self._token, progress, total, message))


def _internal_error(exc: Exception) -> RpcError:
    logger.error("handling a request failed", exc_info=exc)
    return RpcError(INTERNAL_ERROR, "Internal server error")


def notification(method: str, params: Mapping[str, Any] | None) -> Message:
    message: Message = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return message


async def _event(message: Message) -> bytes:
    data = (await write_message(message))[:-1]
    for raw, escaped in _LINE_ENDS:
        data = data.replace(raw, escaped)
    return b"event: message\r\ndata: " + data + b"\r\n\r\n"
