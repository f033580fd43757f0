"""Authentication of HTTP requests: who may enter, and the refusal of those who may not.

Owns the `Authorization` header and the statuses 401, 403 and 503 for it. Leaves tokens to an `Authenticator`, and other
conditions of a request to `admission`.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from asyncfc_mcp.core.identity import Principal
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import INVALID_REQUEST, RequestId
from asyncfc_mcp.quotation import said, shortened
from asyncfc_mcp.transports.http.asgi import Headers, JsonRpcRefusal, Refusal, refuse
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
from asyncfc_mcp.transports.http.auth.resource import ProtectedResource, challenge
from asyncfc_mcp.transports.http.traffic import Traffic

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
        required_scopes: method → the OAuth scopes that its requests need; `*` for all.
        resource: the endpoint as clients see it, if they can sign in.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        caller_headers: Collection[str] = (),
        required_scopes: Mapping[str, Collection[str]] = MappingProxyType({}),
        resource: ProtectedResource | None = None,
        clock: Clock = time.time,
    ) -> None:
        self.authenticator = authenticator
        self.resource = resource
        self._clock = clock
        self.configure(caller_headers, required_scopes)

    def configure(self, caller_headers: Collection[str], required_scopes: Mapping[str, Collection[str]]) -> None:
        """Pass on other headers, and require other scopes, from the next request on."""
        everywhere = frozenset(required_scopes.get("*", ()))
        self._everywhere = everywhere
        self._required = {method: everywhere | frozenset(scopes) for method, scopes in required_scopes.items()}
        self._caller_headers = tuple((name, name.encode("latin-1")) for name in caller_headers)

    async def enter(self, headers: Headers, path: str = "") -> tuple[Access, Principal]:
        """Return the access of a request, and its principal with the headers of this request.

        Args:
            path: of the request, where it is not the main one.

        Raises:
            Refusal: the request is not authenticated.
        """
        access = self.authenticator.anyone
        if access is None:
            access = await self._access(Token.of(headers.values.get(b"authorization")), path)
        principal = access.principal
        return access, self._with_headers(principal, headers) if self._caller_headers else principal

    def restricts(self, principal: Principal) -> bool:
        """Return whether requests of a principal may lack scopes."""
        return bool(self._required) and principal.grants is not None

    def require(
        self, principal: Principal, method: str | None, request_id: RequestId | None = None, path: str = ""
    ) -> None:
        """Require the scopes that requests of a method need.

        Args:
            method: None for what is no request: an answer, or the opening of a stream.

        Raises:
            Refusal: the principal's token lacks one.
        """
        if not self._required or principal.grants is None:
            return
        needed = self._everywhere if method is None else self._required.get(method, self._everywhere)
        if needed <= principal.grants:
            return
        what = "this" if method is None else shortened(said(method), 64)
        why = f"{what} needs the scopes: {' '.join(sorted(needed))}"
        header = challenge(self.resource, path, error="insufficient_scope", why=_quotable(why), scopes=needed)
        error = RpcError(INVALID_REQUEST, f"Forbidden: {why}")
        raise JsonRpcRefusal(403, error, (b"www-authenticate", header), request_id=request_id)

    async def _access(self, token: Token | None, path: str) -> Access:
        if token is None:
            raise self._refused(None, path)
        access = self.authenticator.known(token)
        if access is None:
            try:
                if len(token.text) > MAX_TOKEN_BYTES:
                    raise NotAuthenticated("the token is too long")
                access = await self.authenticator.check(token)
            except NotAuthenticated as exc:
                raise self._refused(str(exc), path) from None
            except CannotAuthenticate as exc:
                delay = (b"retry-after", str(exc.retry_after_s).encode())
                raise Refusal(503, f"{exc}\n".encode(), _TEXT, delay) from None
        if is_over(access, self._clock):
            raise self._refused("the token has expired", path)
        return access

    def is_over(self, access: Access) -> bool:
        """Return whether an access has ended, or lacks scopes that all requests need since the configuration was
        reloaded: a stream that is open then ends."""
        grants = access.principal.grants
        return is_over(access, self._clock) or (grants is not None and not self._everywhere <= grants)

    def revoked(self) -> Refusal:
        """Return the refusal of a request whose access was taken away after it was admitted."""
        return self._refused("the token is no longer accepted", "")

    def _refused(self, why: str | None, path: str) -> Refusal:
        """Return the refusal of a request without a token, or with one that is not accepted (for the reason `why`)."""
        words = "send the bridge's token as 'Authorization: Bearer …'" if why is None else why
        error = None if why is None else "invalid_token"
        header = challenge(self.resource, path, error=error, why=why, scopes=self._everywhere)
        return Refusal(401, f"Unauthorized: {words}\n".encode(), _TEXT, (b"www-authenticate", header))

    def _with_headers(self, principal: Principal, headers: Headers) -> Principal:
        found = {name: headers.get(raw) for name, raw in self._caller_headers}
        return replace(principal, headers={name: value for name, value in found.items() if value is not None})


def _quotable(text: str) -> str:
    """Return a text in the characters that a challenge may contain."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in text)


class AuthMiddleware:
    """ASGI middleware that passes on authenticated requests, with their principal. Exempt are `HEALTH_PATH`,
    `READY_PATH`, and the metadata of the endpoint, from which clients learn how to sign in."""

    def __init__(self, app: "ASGIApp", entrance: Entrance, traffic: Traffic) -> None:
        self._app, self._entrance, self._traffic = app, entrance, traffic
        metadata = () if entrance.resource is None else entrance.resource.metadata_paths()
        self._exempt = _WITHOUT_TOKEN.union(metadata)

    async def __call__(self, scope: "AsgiScope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "http" and scope["path"] not in self._exempt:
            try:
                admitted = await self._entrance.enter(Headers(scope["headers"]), scope["path"])
                traffic = self._traffic.request(admitted[1])
            except Refusal as exc:
                return await refuse(send, exc)
            with traffic:
                return await self._app({**scope, ADMITTED: admitted}, receive, send)
        await self._app(scope, receive, send)
