"""Requests of 2026-07-28 over Streamable HTTP: each a POST of its own, without a session.

Owns what that protocol version adds over HTTP: the headers that repeat the body, the status of a response, and
cancellation by disconnect. The SDK's endpoint decides the same (a test compares them). Leaves methods to `Upstream`,
and versions with a handshake to `sessions`.
"""

import base64
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import Principal
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.jsonrpc.codec import Message, format_message
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
    Deferred,
    RequestId,
)
from asyncfc_mcp.schema.loosen import HEADER
from asyncfc_mcp.transports.http.admission import AdmissionPolicy, Admitted, parse_body
from asyncfc_mcp.transports.http.asgi import VERSION, Headers, JsonRpcRefusal, Refusal, refuse, respond
from asyncfc_mcp.transports.http.exchange import Exchange
from asyncfc_mcp.transports.http.in_flight import InFlightRequests
from asyncfc_mcp.upstream.envelope import envelope_of, unsupported
from asyncfc_mcp.upstream.request import Params
from asyncfc_mcp.upstream.server import Upstream

if TYPE_CHECKING:
    from starlette.types import Receive, Send
    from starlette.types import Scope as AsgiScope

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
"""HTTP status of a plain response by its error code; 200 for all others."""
NAME_PARAMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tools/call": "name",
        "prompts/get": "name",
        "resources/read": "uri",
        "tasks/get": "taskId",
        "tasks/update": "taskId",
        "tasks/cancel": "taskId",
    }
)
"""Parameter that the header `Mcp-Name` repeats, by method."""
_NAME_OPTIONAL: Final = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})
"""Methods of the tasks extension: clients built on the SDK (`fastmcp-tasks`) do not repeat their task's ID."""

_METHOD: Final = b"mcp-method"
_NAME: Final = b"mcp-name"
_ROUTING: Final = frozenset({VERSION, _METHOD, _NAME})
_PARAM: Final = b"mcp-param-"
"""Prefix of headers that repeat arguments. All names are searched at once; a match elsewhere only costs a check."""
_DECLARATION: Final = f'"{HEADER}"'.encode()


class StatelessExchange(Exchange):
    """A request that a disconnect cancels."""

    __slots__ = ()

    def http_status(self, error: RpcError) -> int:
        return STATUS.get(error.code, 200)

    def on_disconnect(self) -> None:
        super().on_disconnect()
        self.scope.cancel()


class StatelessEndpoint:
    """Endpoint for requests of 2026-07-28, and of unknown versions, which it refuses."""

    def __init__(self, upstream: Upstream, admission: AdmissionPolicy, in_flight: InFlightRequests) -> None:
        self._upstream, self._admission, self._in_flight = upstream, admission, in_flight
        self._declaring: dict[str, tuple[object, bool]] = {}
        """Tool → the schema that was searched, and whether it declares headers."""

    async def serve(self, scope: "AsgiScope", headers: Headers, receive: "Receive", send: "Send") -> None:
        """Respond to one HTTP request."""
        post = scope["method"] == "POST"
        try:
            admitted = await self._admission.admit(headers, post=post)
            if not post:
                raise Refusal(405, b"", (b"allow", b"POST"))
            if not (admitted.json and admitted.stream):
                raise Refusal(406)
            with self._admission.traffic.request(admitted.principal):
                with self._admission.traffic.body(admitted.principal) as counted:
                    body = await self._admission.read_body(receive, counted)
                    message = None if body is None else await parse_body(body)
                    del body
                if message is not None:
                    await self._post(admitted, message, headers, receive, send)
        except Refusal as exc:
            await refuse(send, exc)

    async def _post(
        self, admitted: Admitted, message: Message, headers: Headers, receive: "Receive", send: "Send"
    ) -> None:
        self._admission.permit(admitted, message.get("method"), message.get("id"))
        if "method" not in message:
            problem = "Invalid Request: an answer; post a request or a notification"
            raise JsonRpcRefusal(400, RpcError(INVALID_REQUEST, problem))
        if "id" not in message:
            # No notification has a meaning here, since a disconnect cancels; some clients send them all the same.
            if (version := headers.get(VERSION)) not in MODERN_VERSIONS:
                raise JsonRpcRefusal(400, unsupported(version))
            return await respond(send, 202)
        self._in_flight.admit()
        method, params = cast("str", message["method"]), cast("Params", message.get("params") or {})
        exchange = StatelessExchange(send, cast("RequestId", message["id"]), params)
        exchange.lasting = method == "subscriptions/listen"
        exchange.access = admitted.access
        handler = partial(self._handle, admitted.principal, exchange, headers, method, params)
        await self._in_flight.handle(receive, exchange, handler)

    def _handle(
        self, principal: Principal, exchange: Exchange, headers: Headers, method: str, params: Params
    ) -> Result | Deferred:
        _check_headers(headers, method, params)
        if method == "tools/call":
            self._check_declared(principal, headers, params)
        return self._upstream.modern(principal, exchange, method, params)

    def _check_declared(self, principal: Principal, headers: Headers, params: Params) -> None:
        """Compare a call with the `Mcp-Param-*` headers that its tool's schema declares.

        Raises:
            RpcError: one is missing, or differs from the argument.
        """
        name, arguments = params.get("name"), params.get("arguments")
        if not (isinstance(name, str) and (arguments is None or isinstance(arguments, dict))):
            return
        arguments = cast("dict[str, Any] | None", arguments)
        schema = self._upstream.input_schema(principal, name)
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
        searched, declares = self._declaring.get(name, (None, False))
        if searched is not schema:
            declares = _DECLARATION in format_message(dict(schema))
            self._declaring[name] = schema, declares
        return declares


def _repeated(headers: Headers) -> str | None:
    """Return a header used for routing that is repeated: an intermediary may use another occurrence than we do."""
    if len(headers.raw) == len(headers.values):
        return None
    seen: set[bytes] = set()
    for name, _ in headers.raw:
        if name in seen and name in _ROUTING:
            return name.decode()
        seen.add(name)
    return None


def _check_headers(headers: Headers, method: str, params: Params) -> None:
    """Compare a request with the headers that repeat it: an intermediary may have routed by them.

    Raises:
        RpcError: they differ, or the body lacks the repeated value.
    """
    if (repeated := _repeated(headers)) is not None:
        raise RpcError(HEADER_MISMATCH, f"{repeated} header appears more than once")
    if headers.get(VERSION) != envelope_of(params)[PROTOCOL_VERSION_META_KEY]:
        raise _mismatch(VERSION, "request envelope's protocol version")
    if headers.get(_METHOD) != method:
        raise _mismatch(_METHOD, "request body's method")
    if (key := NAME_PARAMS.get(method)) is not None:
        name, header = params.get(key), headers.get(_NAME)
        if header is None and method in _NAME_OPTIONAL:
            return
        if name is not None and decoded(header) != name:
            raise _mismatch(_NAME, f"request body's {key!r} parameter")


def _mismatch(header: bytes, what: str) -> RpcError:
    return RpcError(HEADER_MISMATCH, f"{header.decode()} header does not match the {what}")


def decoded(value: str | None) -> str | None:
    """Return the value of a header that may be encoded as `=?base64?…?=`; None if that is invalid."""
    if value is None or not (len(value) >= 11 and value.startswith("=?base64?") and value.endswith("?=")):
        return value
    payload = value[9:-2]
    try:
        raw = base64.b64decode(payload, validate=True)
        # Only the canonical encoding: other readers may decode another one differently.
        return raw.decode() if base64.b64encode(raw).decode() == payload else None
    except ValueError:
        return None
