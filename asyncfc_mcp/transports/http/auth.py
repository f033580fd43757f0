"""Authentication over HTTP: bearer tokens, the principal of each, and the middleware for paths outside `/mcp`.

Owns reading the token from the environment and comparing it. Leaves what a principal may see to `Scope`, and other
conditions of a request to `admission`.
"""

import hmac
import re
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Final

from asyncfc_mcp.core.identity import Principal, Scope
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.redaction import shown_name
from asyncfc_mcp.transports.http.asgi import Refusal, refuse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as AsgiScope

PRINCIPAL: Final = "asyncfc.principal"
"""Key of a request's principal in its ASGI scope, set by `AuthMiddleware`."""
HEALTH_PATH: Final = "/healthz"
READY_PATH: Final = "/readyz"
_WITHOUT_TOKEN: Final = frozenset({HEALTH_PATH, READY_PATH})
"""Paths that need no token: load balancers ask them."""
_SENDABLE: Final = re.compile(r"[!-~]+")


class MissingToken(BridgeError):
    """`--auth-token-env` names a variable that is not set."""

    def __init__(self, name: str) -> None:
        # The name is redacted, since it may be the token itself.
        super().__init__(f"--auth-token-env: the environment variable {shown_name(name)} is unset or empty")


class UnsendableToken(BridgeError):
    """The token contains a character that no client can send in a header, or only with an ambiguous quoting."""

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(
            f"--auth-token-env: the value of {shown_name(name)} {fault}, so no client can send it as a bearer token; "
            f"set it to letters, digits and signs of ASCII without spaces"
        )


class Principals:
    """Principals of one endpoint, identified by their bearer tokens.

    Args:
        tokens: token → principal.
        anyone: principal of requests without a token, where none is required.
    """

    def __init__(self, tokens: Mapping[str, Scope] | None = None, *, anyone: Scope | None = None) -> None:
        self._tokens = [(f"Bearer {token}".encode(), Principal(scope)) for token, scope in (tokens or {}).items()]
        self._anyone = None if anyone is None else Principal(anyone)

    def of(self, authorization: bytes) -> Principal | None:
        """Return the principal of a request with this `Authorization` header; None if it is not authenticated."""
        found = self._anyone
        for expected, principal in self._tokens:  # all of them, so that the time taken is independent of the match
            if hmac.compare_digest(authorization, expected):
                found = principal
        return found


def authenticate(principals: Principals, authorization: bytes) -> Principal:
    """Return the principal of a request with this `Authorization` header.

    Raises:
        Refusal: the request is not authenticated.
    """
    principal = principals.of(authorization)
    if principal is None:
        raise Refusal(
            401,
            "Unauthorized: send the bridge's token as 'Authorization: Bearer …'\n".encode(),
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"www-authenticate", b'Bearer realm="asyncfc-mcp"'),
        )
    return principal


class AuthMiddleware:
    """ASGI middleware that passes on authenticated requests, with their principal; `HEALTH_PATH` and
    `READY_PATH` are exempt."""

    def __init__(self, app: "ASGIApp", principals: Principals) -> None:
        self._app, self._principals = app, principals

    async def __call__(self, scope: "AsgiScope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "http" and scope["path"] not in _WITHOUT_TOKEN:
            try:
                principal = authenticate(self._principals, dict(scope["headers"]).get(b"authorization", b""))
            except Refusal as exc:
                return await refuse(send, exc)
            scope = {**scope, PRINCIPAL: principal}
        await self._app(scope, receive, send)


def take_token(environ: MutableMapping[str, str], name: str) -> str:
    """Return the token in this variable and remove the variable, so that no process started later inherits it.

    Raises:
        MissingToken: the variable is not set or empty.
        UnsendableToken: no client could send the token.
    """
    token = environ.pop(name, "")
    if not token:
        raise MissingToken(name)
    if not _SENDABLE.fullmatch(token):
        raise UnsendableToken(name, _fault(token))
    return token


def _fault(token: str) -> str:
    if not token.strip():
        return "is blank"
    if token.endswith(("\n", "\r")):
        return "ends with a line end"
    if not token.isascii():
        return "has a character that is not ASCII"
    if token != token.strip():
        return "begins or ends with a space"
    return "has a space in it" if " " in token else "has a control character in it"
