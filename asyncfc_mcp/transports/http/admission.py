"""Admission of HTTP requests: authentication, `Host` and `Origin`, media types, and the size of a body.

Owns these decisions, which no protocol version changes. Leaves authentication to `auth.entrance`, framing and
connections to `framing` and `connections`, and the content of a request to `stateless` and `sessions`.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Final, NamedTuple

from asyncfc_mcp.core.identity import Principal
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.jsonrpc.codec import MalformedMessage, Message, Oversized
from asyncfc_mcp.jsonrpc.large import read_message
from asyncfc_mcp.protocol import RequestId
from asyncfc_mcp.transports.http.asgi import Headers, JsonRpcRefusal, Refusal
from asyncfc_mcp.transports.http.auth.authenticator import Access
from asyncfc_mcp.transports.http.auth.entrance import Entrance
from asyncfc_mcp.transports.http.traffic import Body, Traffic

if TYPE_CHECKING:
    from starlette.types import Receive

_CHECKED: Final = (b"content-type", b"host", b"origin", b"accept")
_JSON_TYPES: Final = ("application/json", "application/*")
_STREAM_TYPES: Final = ("text/event-stream", "text/*")

MAX_BODY_BYTES: Final = 64 << 20
"""Largest request body over HTTP."""


def accepted_types(accept: str) -> tuple[bool, bool]:
    """Return whether a client with this `Accept` header takes JSON, and whether it takes event streams."""
    types = {each.partition(";")[0].strip().lower() for each in accept.split(",")}
    if "*/*" in types:
        return True, True
    return not types.isdisjoint(_JSON_TYPES), not types.isdisjoint(_STREAM_TYPES)


class HeaderAllowlist:
    """Allowed values of a header: exact ones, and `name:*` for a name with any port."""

    def __init__(self, patterns: Collection[str]) -> None:
        self._exact = frozenset(patterns)
        self._before_port = frozenset(pattern[:-1] for pattern in patterns if pattern.endswith(":*"))

    def __contains__(self, value: str) -> bool:
        if value in self._exact:
            return True
        name, colon, port = value.rpartition(":")
        return name + colon in self._before_port and port.isdecimal()


class Admitted(NamedTuple):
    """An admitted request: whose it is, for how long that holds, and the media types that its client takes."""

    principal: Principal
    access: Access
    json: bool
    stream: bool


class AdmissionPolicy:
    """Conditions that a request must meet before its body is parsed.

    Args:
        entrance: authentication of the endpoint.
        traffic: bounds on the requests of each principal.
        hosts, origins: allowed values of `Host` and `Origin`, which keep a page in the user's browser from reaching the
            bridge by DNS rebinding; None allows all.
        max_body: largest body, in bytes.
    """

    def __init__(
        self,
        *,
        entrance: Entrance,
        traffic: Traffic,
        hosts: HeaderAllowlist | None,
        origins: HeaderAllowlist | None,
        max_body: int,
    ) -> None:
        self.entrance, self.traffic = entrance, traffic
        self._hosts, self._origins, self._max_body = hosts, origins, max_body
        self._last_values: tuple[object, ...] = ()
        self._accepted = False, False

    async def admit(self, headers: Headers, *, post: bool = True) -> Admitted:
        """Check the headers of a request.

        Raises:
            Refusal: the request is not admitted.
        """
        values = headers.values
        access, principal = await self.entrance.enter(headers)
        if post:
            length = values.get(b"content-length", b"")
            if length.isdigit() and (len(length) > 18 or int(length) > self._max_body):
                raise _too_large()
        # Headers equal to those of the last admitted request, as one client's are, are compared and not checked again.
        checked = (post, *map(values.get, _CHECKED))
        if checked != self._last_values:
            self._check(headers, post=post)
            self._accepted = accepted_types(headers.get(b"accept") or "")
            self._last_values = checked
        json, stream = self._accepted
        return Admitted(principal, access, json, stream)

    def permit(self, admitted: Admitted, method: str | None, request_id: RequestId | None = None) -> None:
        """Check an admitted request once its method is known.

        Args:
            method: None for what is no request: an answer, or the opening of a stream.

        Raises:
            Refusal: the token lacks a scope, or was taken away while the body arrived.
        """
        self.entrance.require(admitted.principal, method, request_id)
        if admitted.access.revoked:
            raise self.entrance.revoked()

    def _check(self, headers: Headers, *, post: bool) -> None:
        if post and not (headers.get(b"content-type") or "").lower().startswith("application/json"):
            raise Refusal(400, b"Invalid Content-Type header")
        if self._hosts is not None and (headers.get(b"host") or "") not in self._hosts:
            raise Refusal(421, b"Invalid Host header")
        if self._origins is not None and (origin := headers.get(b"origin")) and origin not in self._origins:
            raise Refusal(403, b"Invalid Origin header")

    async def read_body(self, receive: "Receive", counted: Body) -> bytes | None:
        """Return the body; None if the client disconnects before its end.

        Raises:
            Refusal: it is too large, or its principal's bodies together are.
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
                raise _too_large()
            counted.grow(len(chunk))
            chunks.append(chunk)
            if not part.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large() -> Refusal:
    return Refusal(413, b"Request body too large")


async def parse_body(body: bytes) -> Message:
    """Return the message in a body.

    Raises:
        Refusal: it is not one JSON-RPC message.
    """
    try:
        return await read_message(body)
    except MalformedMessage as exc:
        # As in the SDK, an invalid request is answered without an ID; a request that is too large is a valid one.
        request_id = exc.request_id if isinstance(exc, Oversized) and not exc.is_answer else None
        raise JsonRpcRefusal(400, RpcError(exc.code, str(exc)), request_id=request_id) from None
