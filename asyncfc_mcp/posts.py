"""Requests of 2026-07-28 over Streamable HTTP: each a POST of its own.

Owns what that protocol version adds to a request over HTTP: which headers repeat its body, the status of its answer,
and that hanging up cancels. The SDK's entry decides the same (a test compares them). Refuses to know what is asked, and
clients that shake hands: those are for `sessions`.
"""

import base64
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from asyncfc_mcp.codec import Message, format_message
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.exchange import (
    VERSION,
    Door,
    Exchange,
    Explained,
    Headers,
    Refusal,
    Start,
    Starter,
    Waits,
    read_message,
    refuse,
    respond,
)
from asyncfc_mcp.futures import Result
from asyncfc_mcp.loosen import HEADER
from asyncfc_mcp.protocol import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    MODERN_VERSIONS,
    PARSE_ERROR,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
    Later,
    RequestId,
)
from asyncfc_mcp.requests import Params
from asyncfc_mcp.server import Upstream, envelope_of, unsupported

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

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

_METHOD: Final = b"mcp-method"
_NAME: Final = b"mcp-name"
_ROUTING: Final = frozenset({VERSION, _METHOD, _NAME})
_PARAM: Final = b"mcp-param-"
"""How headers begin that repeat arguments; one that has it elsewhere in its name is looked at for nothing."""
_DECLARATION: Final = f'"{HEADER}"'.encode()


class _Exchange(Exchange):
    """Whoever hangs up wants no answer any more."""

    __slots__ = ()

    def status_of(self, error: RpcError) -> int:
        return STATUS.get(error.code, 200)

    def hung_up(self) -> None:
        super().hung_up()
        self.scope.cancel()


class Posts:
    """Answers what comes in 2026-07-28, and in versions that nobody knows."""

    def __init__(self, upstream: Upstream, door: Door, waits: Waits) -> None:
        self._upstream, self._door, self._waits = upstream, door, waits
        self._declaring: dict[str, tuple[object, bool]] = {}
        """By tool: the schema that was looked at, and whether it declares headers."""

    async def serve(self, scope: "Scope", headers: Headers, receive: "Receive", send: "Send") -> None:
        """Answer one HTTP request."""
        post = scope["method"] == "POST"
        try:
            accepted = self._door.admit(headers, post=post)
            if not post:
                raise Refusal(405, b"", (b"allow", b"POST"))
            if not all(accepted):
                raise Refusal(406)
            body = await self._door.read(receive)
            if body is not None:
                await self._answer(body, headers, receive, send)
        except Refusal as exc:
            await refuse(send, exc)

    async def _answer(self, body: bytes, headers: Headers, receive: "Receive", send: "Send") -> None:
        message = read_message(body)
        if "method" not in message:
            problem = "Invalid Request: an answer; post a request or a notification"
            raise Explained(400, RpcError(INVALID_REQUEST, problem))
        if "id" not in message:
            # A client has nothing to tell on this wire (it cancels by hanging up), but some do.
            if (version := headers.get(VERSION)) not in MODERN_VERSIONS:
                raise Explained(400, unsupported(version))
            return await respond(send, 202)
        await self._waits.answer(receive, *self._request(headers, message, send))

    def starter(self, headers: Headers) -> Starter | None:
        """See `Streamable.starter`."""
        return partial(self._start, headers) if all(self._door.admit(headers)) else None

    def _start(self, headers: Headers, body: bytes, send: "Send") -> Start | None:
        message = read_message(body)
        return self._request(headers, message, send) if "method" in message and "id" in message else None

    def _request(self, headers: Headers, message: Message, send: "Send") -> Start:
        params = cast("Params", message.get("params") or {})
        exchange = _Exchange(send, cast("RequestId", message["id"]), params)
        return exchange, partial(self._begin, exchange, headers, cast("str", message["method"]), params)

    def _begin(self, exchange: Exchange, headers: Headers, method: str, params: Params) -> Result | Later:
        _check_headers(headers, method, params)
        if method == "tools/call":
            self._check_declared(headers, params)
        return self._upstream.modern(exchange, method, params)

    def _check_declared(self, headers: Headers, params: Params) -> None:
        """Hold a call to the `Mcp-Param-*` headers that its tool's schema declares.

        Raises:
            RpcError: one is missing, or says something else than the arguments.
        """
        name, arguments = params.get("name"), params.get("arguments")
        if not (isinstance(name, str) and (arguments is None or isinstance(arguments, dict))):
            return
        arguments = cast("dict[str, Any] | None", arguments)
        schema = self._upstream.input_schema(name)
        if schema is None:
            return
        if not (arguments and self._declares(name, schema)) and _PARAM not in b"".join(headers.values):
            return
        from mcp.shared.inbound import validate_mcp_param_headers
        from starlette.datastructures import Headers as AllHeaders

        rejection = validate_mcp_param_headers(schema, arguments or {}, AllHeaders(raw=headers.raw))
        if rejection is not None:
            raise RpcError(rejection.code, rejection.message, rejection.data)

    def _declares(self, name: str, schema: Mapping[str, Any]) -> bool:
        looked_at, declares = self._declaring.get(name, (None, False))
        if looked_at is not schema:
            declares = _DECLARATION in format_message(dict(schema))
            self._declaring[name] = schema, declares
        return declares


def _repeated(headers: Headers) -> str | None:
    """One of the headers that routes go by and that came more than once: another reader may take the last for it."""
    if len(headers.raw) == len(headers.values):
        return None
    seen: set[bytes] = set()
    for name, _ in headers.raw:
        if name in seen and name in _ROUTING:
            return name.decode()
        seen.add(name)
    return None


def _check_headers(headers: Headers, method: str, params: Params) -> None:
    """Hold a request to the headers that repeat it: what stands between may have gone by them.

    Raises:
        RpcError: they differ, or the body lacks what they repeat.
    """
    if (repeated := _repeated(headers)) is not None:
        raise RpcError(HEADER_MISMATCH, f"{repeated} header appears more than once")
    if headers.get(VERSION) != envelope_of(params)[PROTOCOL_VERSION_META_KEY]:
        raise _mismatch(VERSION, "request envelope's protocol version")
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
