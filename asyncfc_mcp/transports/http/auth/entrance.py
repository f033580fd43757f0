"""Authentication of HTTP requests: who may enter, and the refusal of those who may not.

Owns the `Authorization` header and the statuses 401, 403 and 503 for it. Leaves tokens to an `Authenticator`, and other
conditions of a request to `admission`.
"""

import time
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from asyncfc_mcp.core.identity import Principal
from asyncfc_mcp.transports.http.asgi import Headers, Refusal, refuse
from asyncfc_mcp.transports.http.auth.authenticator import (
    MAX_TOKEN_BYTES,
    Access,
    Authenticator,
    CannotAuthenticate,
    Clock,
    NotAuthenticated,
    Token,
    is_over,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as AsgiScope

ADMITTED: Final = "asyncfc.admitted"
"""Key of a request's access and principal in its ASGI scope, set by `AuthMiddleware`."""
HEALTH_PATH: Final = "/healthz"
READY_PATH: Final = "/readyz"
_WITHOUT_TOKEN: Final = frozenset({HEALTH_PATH, READY_PATH})
"""Paths that need no token: load balancers ask them."""
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


class Entrance:
    """Authenticates the requests of one endpoint.

    Args:
        caller_headers: names of headers, in lower case, that wrapped servers receive as the caller's own.
    """

    def __init__(
        self, authenticator: Authenticator, *, caller_headers: Collection[str] = (), clock: Clock = time.time
    ) -> None:
        self.authenticator = authenticator
        self._caller_headers = tuple((name, name.encode("latin-1")) for name in caller_headers)
        self._clock = clock

    async def enter(self, headers: Headers) -> tuple[Access, Principal]:
        """Return the access of a request, and its principal with the headers of this request.

        Raises:
            Refusal: the request is not authenticated.
        """
        access = self.authenticator.anyone
        if access is None:
            access = await self._access(Token.of(headers.values.get(b"authorization")))
        principal = access.principal
        return access, self._with_headers(principal, headers) if self._caller_headers else principal

    async def _access(self, token: Token | None) -> Access:
        if token is None:
            raise self._refused(None)
        access = self.authenticator.known(token)
        if access is None:
            try:
                if len(token.text) > MAX_TOKEN_BYTES:
                    raise NotAuthenticated("the token is too long")
                access = await self.authenticator.check(token)
            except NotAuthenticated as exc:
                raise self._refused(str(exc)) from None
            except CannotAuthenticate as exc:
                delay = (b"retry-after", str(exc.retry_after_s).encode())
                raise Refusal(503, f"{exc}\n".encode(), _TEXT, delay) from None
        if self.is_over(access):
            raise self._refused("the token has expired")
        return access

    def is_over(self, access: Access) -> bool:
        """Return whether an access has ended."""
        return is_over(access, self._clock)

    def _refused(self, why: str | None) -> Refusal:
        """Return the refusal of a request without a token, or with one that is not accepted."""
        words = "send the bridge's token as 'Authorization: Bearer …'" if why is None else why
        challenge = b'Bearer realm="asyncfc-mcp"'
        return Refusal(401, f"Unauthorized: {words}\n".encode(), _TEXT, (b"www-authenticate", challenge))

    def _with_headers(self, principal: Principal, headers: Headers) -> Principal:
        found = {name: headers.get(raw) for name, raw in self._caller_headers}
        return replace(principal, headers={name: value for name, value in found.items() if value is not None})


class AuthMiddleware:
    """ASGI middleware that passes on authenticated requests, with their principal; `HEALTH_PATH` and
    `READY_PATH` are exempt."""

    def __init__(self, app: "ASGIApp", entrance: Entrance) -> None:
        self._app, self._entrance = app, entrance

    async def __call__(self, scope: "AsgiScope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "http" and scope["path"] not in _WITHOUT_TOKEN:
            try:
                admitted = await self._entrance.enter(Headers(scope["headers"]))
            except Refusal as exc:
                return await refuse(send, exc)
            scope = {**scope, ADMITTED: admitted}
        await self._app(scope, receive, send)
