"""Composition of authentication: from the options of an endpoint to its authenticator.

Owns which principals there are. Leaves tokens to the authenticators.
"""

from typing import Final

from asyncfc_mcp.core.identity import LOCAL, PUBLIC, TOKEN, Scope
from asyncfc_mcp.transports.http.auth.authenticator import Authenticator
from asyncfc_mcp.transports.http.auth.bearer_token import Principals
from asyncfc_mcp.transports.http.auth.resource import ProtectedResource
from asyncfc_mcp.transports.http.options import HttpOptions, is_loopback

SHARED_TOKEN: Final = Scope("shared-token")
"""Holders of the token of the environment where there are other principals beside them."""


def anyone_at(options: HttpOptions) -> Scope:
    """Return the scope of clients where no token is required."""
    return LOCAL if is_loopback(options.host) else PUBLIC


def protected_resource(options: HttpOptions, port: int, scopes: frozenset[str]) -> ProtectedResource | None:
    """Return the endpoint as a resource for which clients can sign in; None if there is nowhere to do so.

    Args:
        port: the one that is listened on.
        scopes: all that any request needs.
    """
    if options.issuer is None:
        return None
    url = options.public_url or options.base(port)
    return ProtectedResource(url, options.paths, issuer=options.issuer, scopes=scopes)


def authenticator_of(
    options: HttpOptions, token: str | None, persons: Authenticator | None, resource: ProtectedResource | None
) -> Authenticator:
    """Return the authenticator of an endpoint.

    Args:
        token: the token of all clients.
        persons: authenticates persons by their tokens (`TokenFile`).
        resource: the endpoint, where tokens of an authorization server are accepted.
    """
    parts: list[Authenticator] = [] if persons is None else [persons]
    if options.issuer is not None and resource is not None:
        from asyncfc_mcp.transports.http.auth.documents import fetch_document
        from asyncfc_mcp.transports.http.auth.jwt_tokens import JwtAuthenticator
        from asyncfc_mcp.transports.http.auth.signing_keys import SigningKeys

        audiences = options.audiences or resource.identifiers
        parts.append(JwtAuthenticator(options.issuer, audiences, SigningKeys(options.issuer, fetch_document)))
    if token is not None:
        # Before the others, since their errors say more.
        parts.insert(0, Principals({token: SHARED_TOKEN if parts else TOKEN}))
    if not parts:
        return Principals(anyone=anyone_at(options))
    if len(parts) == 1:
        return parts[0]
    from asyncfc_mcp.transports.http.auth.several import AnyOf

    return AnyOf(parts)
