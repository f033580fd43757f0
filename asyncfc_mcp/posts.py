"""Requests of 2026-07-28 over Streamable HTTP: each a POST of its own, answered straight from ASGI.

Owns what HTTP adds to such a request: whose pages may send it, which headers repeat its body, the status of an answer,
when an answer becomes a stream, and that hanging up cancels. The SDK's entry decides the same (a test compares them),
through a router, message models, a task group and a memory stream for each request; here a request that is answered at
once costs a parse, two sends and no task. Refuses to know what is asked, and leaves everything else to the app behind.
"""

import base64
import logging
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.abc

from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.futures import Result
from asyncfc_mcp.protocol import (
    HANDSHAKE_VERSIONS,
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    MODERN_VERSIONS,
    PARSE_ERROR,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallOptions,
    Later,
    RequestId,
    progress_of,
    progress_token,
)
from asyncfc_mcp.requests import Params
from asyncfc_mcp.server import Upstream, envelope_of, unsupported
from asyncfc_mcp.wire import MalformedMessage, Message, format_message, parse_message

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

PING_S: Final = 15.0
"""How long an answer may take until a stream is made of it, and how often that stream then shows that it lives:
proxies close what is silent for longer."""
UNWATCHED_S: Final = 0.05
"""How long a request may wait for its result before somebody looks out for its client's hanging up."""
STATUS: Final[Mapping[int, int]] = MappingProxyType(
    {
        PARSE_ERROR: 400,
        INVALID_REQUEST: 400,
        INVALID_PARAMS: 400,
        HEADER_MISMATCH: 400,
        MISSING_REQUIRED_CLIENT_CAPABILITY: 400,
        UNSUPPORTED_PROTOCOL_VERSION: 400,
        METHOD_NOT_FOUND: 404,
    }
)
"""The HTTP status of an error that is an answer by itself; 200 for all others."""
NAMED_BY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tools/call": "name",
        "prompts/get": "name",
        "resources/read": "uri",
        "tasks/get": "taskId",
        "tasks/update": "taskId",
        "tasks/cancel": "taskId",
    }
)
"""The parameter that `Mcp-Name` repeats, by method."""

_VERSION: Final = b"mcp-protocol-version"
_METHOD: Final = b"mcp-method"
_NAME: Final = b"mcp-name"
_ROUTING: Final = frozenset({_VERSION, _METHOD, _NAME})
_PARAM: Final = b"mcp-param-"
_DECLARATION: Final = b'"x-mcp-header"'

_JSON_KINDS: Final = ("application/json", "application/*")
_STREAM_KINDS: Final = ("text/event-stream", "text/*")
_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-cache, no-transform"),
        (b"connection", b"keep-alive"),
        (b"x-accel-buffering", b"no"),
    ],
}
_TOO_LARGE: Final = b"Request body too large"
_PING: Final = b": ping\r\n\r\n"
_LINE_ENDS: Final = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""What ends no line of a stream, but of a text: clients have been seen to split at these."""


class _Refusal(Exception):
    """Answered by HTTP alone: it does not come to JSON-RPC."""

    def __init__(self, status: int, text: bytes = b"") -> None:
        super().__init__(status)
        self.status, self.text = status, text


class _Headers:
    """The headers of a request; of one that comes several times the first counts."""

    __slots__ = ("_values", "raw", "repeated")

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self.raw = raw
        self._values: dict[bytes, bytes] = {}
        self.repeated: str | None = None
        """One of those that routes go by, and that came more than once: another reader may take the last for it."""
        for name, value in raw:
            if name not in self._values:
                self._values[name] = value
            elif self.repeated is None and name in _ROUTING:
                self.repeated = name.decode()

    def get(self, name: bytes) -> str | None:
        value = self._values.get(name)
        return None if value is None else value.decode("latin-1")

    def any_parameter(self) -> bool:
        """Whether arguments of a tool are repeated."""
        return any(name.startswith(_PARAM) for name in self._values)


class Allowed:
    """Values of a header that are let in: as they are, or with `:*` at their end for any port."""

    def __init__(self, patterns: Collection[str]) -> None:
        self._exactly = frozenset(patterns)
        self._before_port = tuple(pattern[:-1] for pattern in patterns if pattern.endswith(":*"))

    def __contains__(self, value: str) -> bool:
        return value in self._exactly or value.startswith(self._before_port)


class _Exchange:
    """The way back to the client while its request is answered: the `Channel` of 2026-07-28 over HTTP.

    A notification makes the answer a stream of events; until then it may still be a plain one, with its own status.
    """

    __slots__ = ("_closed", "_lock", "_send", "_token", "request_id", "scope", "streams", "watcher")

    def __init__(self, send: "Send", request_id: RequestId, params: Params) -> None:
        self._send = send
        self.request_id: RequestId | None = request_id
        self._token = progress_token(params)
        self._lock: anyio.Lock | None = None
        self._closed = False
        self.streams = False
        self.scope = anyio.CancelScope()
        """Cancelled when the client hangs up."""
        self.watcher: anyio.CancelScope | None = None
        """What waits for that, once it does."""

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise RpcError(INVALID_REQUEST, f"Cannot send {method!r}: there is no way back for requests here")

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        message: Message = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        await self._write(_event(message))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self._token is None:
            return
        await self.notify("notifications/progress", progress_of(self._token, progress, total, message))

    async def ping(self) -> None:
        await self._write(_PING)

    async def _write(self, event: bytes) -> None:
        # Several may tell at once; and a client that reads slowly must not see an event before the headers.
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:
            if self._closed:
                return
            if not self.streams:
                await self._send(_STREAM)
                self.streams = True
            await self._send({"type": "http.response.body", "body": event, "more_body": True})

    async def finish(self, message: Message, status: int) -> None:
        """Send the answer; nothing comes after it."""
        self._closed = True
        if self._lock is not None:
            async with self._lock:  # until what was begun is out
                pass
        if self.streams:
            await self._send({"type": "http.response.body", "body": _event(message)})
        else:
            await _respond(self._send, status, format_message(message), _JSON)


class Posts:
    """ASGI: answers the POSTs of 2026-07-28, and of versions that nobody knows.

    Args:
        app: what all else goes to: other methods, other paths, and clients that shake hands.
        path: where messages are posted.
        hosts, origins: what `Host` and `Origin` may say, so that a page in the user's browser cannot reach us under a
            name of its own; None lets everybody in.
        max_body: largest body, in bytes.
        ping_s: see `PING_S`.
    """

    def __init__(
        self,
        app: "ASGIApp",
        upstream: Upstream,
        path: str,
        *,
        hosts: Allowed | None,
        origins: Allowed | None,
        max_body: int,
        ping_s: float = PING_S,
    ) -> None:
        self._app, self._upstream, self._path = app, upstream, path
        self._hosts, self._origins = hosts, origins
        self._max_body, self._ping_s = max_body, ping_s
        self._unwatched: dict[_Exchange, Receive] = {}
        """Requests that wait for their results, and for whose end nobody looks out yet."""
        self._some = anyio.Event()
        self._declaring: dict[str, tuple[object, bool]] = {}
        """By tool: the schema that was looked at, and whether it declares headers."""

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan":
            async with anyio.create_task_group() as tg:
                await tg.start(self._look_after)
                await self._app(scope, receive, send)
                tg.cancel_scope.cancel()
            return
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != self._path:
            return await self._app(scope, receive, send)
        headers = _Headers(scope["headers"])
        version = headers.get(_VERSION)
        if version is None or version in HANDSHAKE_VERSIONS:
            return await self._app(scope, receive, send)
        try:
            self._admit(headers)
            body = await self._read(receive)
        except _Refusal as exc:
            return await _respond(send, exc.status, exc.text)
        if body is not None:
            await self._answer(body, headers, receive, send)

    def _admit(self, headers: _Headers) -> None:
        """Let a request through whose headers are in order.

        Raises:
            _Refusal: they are not.
        """
        length = headers.get(b"content-length") or ""
        if length.isdecimal() and (len(length) > 18 or int(length) > self._max_body):
            raise _Refusal(413, _TOO_LARGE)
        if not (headers.get(b"content-type") or "").lower().startswith("application/json"):
            raise _Refusal(400, b"Invalid Content-Type header")
        if self._hosts is not None and (headers.get(b"host") or "") not in self._hosts:
            raise _Refusal(421, b"Invalid Host header")
        if self._origins is not None and (origin := headers.get(b"origin")) and origin not in self._origins:
            raise _Refusal(403, b"Invalid Origin header")
        accepted = {kind.partition(";")[0].strip().lower() for kind in (headers.get(b"accept") or "").split(",")}
        if "*/*" not in accepted and (accepted.isdisjoint(_JSON_KINDS) or accepted.isdisjoint(_STREAM_KINDS)):
            raise _Refusal(406)

    async def _read(self, receive: "Receive") -> bytes | None:
        """The body; None if the client hung up in the middle of it.

        Raises:
            _Refusal: it is too large.
        """
        chunks: list[bytes] = []
        size = 0
        while True:
            part = await receive()
            if part["type"] != "http.request":
                return None
            chunk = part.get("body", b"")
            size += len(chunk)
            if size > self._max_body:
                raise _Refusal(413, _TOO_LARGE)
            chunks.append(chunk)
            if not part.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _answer(self, body: bytes, headers: _Headers, receive: "Receive", send: "Send") -> None:
        request_id: RequestId | None = None
        exchange: _Exchange | None = None
        try:
            message = _message(body)
            if "id" not in message:
                # A client has nothing to tell on this wire (it cancels by hanging up), but some do.
                if (version := headers.get(_VERSION)) not in MODERN_VERSIONS:
                    raise unsupported(version)
                return await _respond(send, 202)
            request_id = cast("RequestId", message["id"])
            method, params = cast("str", message["method"]), cast("Params", message.get("params") or {})
            _check_headers(headers, method, params)
            if method == "tools/call":
                self._check_declared(headers, params)
            exchange = _Exchange(send, request_id, params)
            answer = self._upstream.modern(exchange, method, params)
            result = await self._awaited(answer, exchange, receive) if callable(answer) else answer
            if result is None:
                return
            done: Message = {"jsonrpc": "2.0", "id": request_id, "result": result}
            status = 200
        except Exception as exc:  # noqa: BLE001 - where an exception becomes an answer
            error = _error(exc)
            done = {"jsonrpc": "2.0", "id": request_id, "error": error.wire}
            status = STATUS.get(error.code, 200)
        if exchange is None:
            await _respond(send, status, format_message(done), _JSON)
        else:
            await exchange.finish(done, status)

    async def _awaited(self, later: Later, exchange: _Exchange, receive: "Receive") -> Result | None:
        """A result that takes its time; None if the client hung up, which cancels it."""
        if not self._unwatched:
            self._some.set()
        self._unwatched[exchange] = receive
        try:
            with exchange.scope:
                return await later()
        finally:
            self._unwatched.pop(exchange, None)
            if exchange.watcher is not None:
                exchange.watcher.cancel()
        return None

    async def _look_after(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Give a watcher to every request that is not answered soon: a task for each would cost most of them more than
        everything else here."""
        async with anyio.create_task_group() as tg:
            task_status.started()
            while True:
                await self._some.wait()
                self._some = anyio.Event()
                while self._unwatched:
                    seen = list(self._unwatched)
                    await anyio.sleep(UNWATCHED_S)
                    for exchange in seen:
                        receive = self._unwatched.pop(exchange, None)
                        if receive is not None:
                            exchange.watcher = anyio.CancelScope()
                            tg.start_soon(self._watch, exchange, exchange.watcher, receive)

    async def _watch(self, exchange: _Exchange, scope: anyio.CancelScope, receive: "Receive") -> None:
        """Keep a client's connection alive, and cancel what it waits for when it hangs up."""
        with scope:
            try:
                while not exchange.scope.cancel_called:
                    with anyio.move_on_after(self._ping_s) as silence:
                        if (await receive())["type"] == "http.disconnect":
                            exchange.scope.cancel()
                    if silence.cancelled_caught:
                        await exchange.ping()
            except Exception:  # all watchers share a task group
                logger.exception("a connection cannot be watched any more")
                exchange.scope.cancel()

    def _check_declared(self, headers: _Headers, params: Params) -> None:
        """Hold a call to the `Mcp-Param-*` headers that its tool's schema declares.

        Raises:
            RpcError: one is missing, or says something else than the arguments.
        """
        name, arguments = params.get("name"), params.get("arguments")
        if not isinstance(name, str) or not isinstance(arguments, dict | None):
            return
        arguments = cast("dict[str, Any] | None", arguments)
        sent = headers.any_parameter()
        if not sent and not arguments:
            return
        schema = self._upstream.input_schema(name)
        if schema is None or not (sent or self._declares(name, schema)):
            return
        from mcp.shared.inbound import validate_mcp_param_headers
        from starlette.datastructures import Headers

        rejection = validate_mcp_param_headers(schema, arguments or {}, Headers(raw=headers.raw))
        if rejection is not None:
            raise RpcError(rejection.code, rejection.message, rejection.data)

    def _declares(self, name: str, schema: Mapping[str, Any]) -> bool:
        looked_at, declares = self._declaring.get(name, (None, False))
        if looked_at is not schema:
            declares = _DECLARATION in format_message(dict(schema))
            self._declaring[name] = schema, declares
        return declares


def _message(body: bytes) -> Message:
    """The request or notification that was posted.

    Raises:
        RpcError: it is none.
    """
    try:
        message = parse_message(body)
    except MalformedMessage as exc:
        raise RpcError(exc.code, str(exc)) from None
    if "method" not in message:
        raise RpcError(INVALID_REQUEST, "Invalid Request: an answer; post a request or a notification")
    return message


def _check_headers(headers: _Headers, method: str, params: Params) -> None:
    """Hold a request to the headers that repeat it: what stands between may have gone by them.

    Raises:
        RpcError: they differ, or the body lacks what they repeat.
    """
    if headers.repeated is not None:
        raise RpcError(HEADER_MISMATCH, f"{headers.repeated} header appears more than once")
    if headers.get(_VERSION) != envelope_of(params)[PROTOCOL_VERSION_META_KEY]:
        raise _mismatch(_VERSION, "request envelope's protocol version")
    if headers.get(_METHOD) != method:
        raise _mismatch(_METHOD, "request body's method")
    if (key := NAMED_BY.get(method)) is not None:
        name = params.get(key)
        if name is not None and decoded(headers.get(_NAME)) != name:
            raise _mismatch(_NAME, f"request body's {key!r} parameter")


def _mismatch(header: bytes, what: str) -> RpcError:
    return RpcError(HEADER_MISMATCH, f"{header.decode()} header does not match the {what}")


def decoded(value: str | None) -> str | None:
    """What a header says that may be wrapped as `=?base64?…?=`; None if the wrapping is no good."""
    if value is None or not (len(value) >= 11 and value.startswith("=?base64?") and value.endswith("?=")):
        return value
    payload = value[9:-2]
    try:
        raw = base64.b64decode(payload, validate=True)
        # Only the one spelling: what several could mean, others may read differently.
        return raw.decode() if base64.b64encode(raw).decode() == payload else None
    except ValueError:
        return None


def _error(exc: Exception) -> RpcError:
    if isinstance(exc, RpcError):
        return exc
    logger.error("handling a request failed", exc_info=exc)
    return RpcError(INTERNAL_ERROR, "Internal server error")


def _event(message: Message) -> bytes:
    data = format_message(message)[:-1]
    for raw, escaped in _LINE_ENDS:
        data = data.replace(raw, escaped)
    return b"event: message\r\ndata: " + data + b"\r\n\r\n"


async def _respond(send: "Send", status: int, body: bytes = b"", *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
