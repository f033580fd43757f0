"""An authorization request, and the redirect that answers it.

Pure. Owns PKCE, `state`, the choice of scopes, and the checks of the redirect in their order: which request it answers
(`state`), from which server it is (`iss`, RFC 9207), and only then what it says.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from asyncfc_mcp.downstream.oauth.challenges import union
from asyncfc_mcp.downstream.oauth.discovery import AuthorizationServer
from asyncfc_mcp.downstream.oauth.failures import AuthorizationRefused, RedirectUnusable, WrongResponseIssuer
from asyncfc_mcp.downstream.oauth.records import Registration

MAX_REDIRECT: Final = 16_384
"""Characters of a redirect's address."""
OFFLINE: Final = "offline_access"
_READ: Final = frozenset({"code", "state", "iss", "error", "error_description"})


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A request that a browser makes, with everything that its answer is checked against.

    Attributes:
        url: for the browser.
        state: of the redirect that answers it.
        server: whose metadata were checked before.
        reused: the client was registered earlier, so that the server may no longer know it.
    """

    url: str = field(repr=False)
    state: str = field(repr=False)
    verifier: str = field(repr=False)
    server: AuthorizationServer
    client: Registration
    resource: str
    scopes: tuple[str, ...]
    reused: bool = False


def authorization_request(
    server: AuthorizationServer,
    client: Registration,
    resource: str,
    scopes: tuple[str, ...],
    *,
    reused: bool = False,
) -> AuthorizationRequest:
    """Make a request with a `state` and a PKCE verifier of its own.

    Args:
        client: has the redirect URI.
    """
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(32)
    params = {
        "response_type": "code",
        "client_id": client.client_id,
        "redirect_uri": client.redirect_uri or "",
        "state": state,
        "code_challenge": code_challenge(verifier),
        "code_challenge_method": "S256",
        "resource": resource,
    }
    if scopes:
        params["scope"] = " ".join(scopes)
    # OpenID Connect gives a refresh token only to a user who was asked for it.
    if OFFLINE in scopes and (server.prompts is None or "consent" in server.prompts):
        params["prompt"] = "consent"
    base, _, _ = server.authorization_endpoint.partition("#")
    url = f"{base}{'&' if '?' in base else '?'}{urlencode(params)}"
    return AuthorizationRequest(url, state, verifier, server, client, resource, scopes, reused)


def code_challenge(verifier: str) -> str:
    """Return the S256 challenge of a verifier (RFC 7636)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def scopes_to_ask(
    *,
    configured: Iterable[str] | None,
    needed: Iterable[str],
    granted: Iterable[str],
    of_resource: Iterable[str],
    of_server: Iterable[str],
    refreshes: bool = True,
) -> tuple[str, ...]:
    """Return the scopes to ask for; empty to leave the parameter out.

    Configured ones replace all others. Else those that a challenge needs, or all of the resource if it does not say,
    together with those that were granted before: a step-up must not lose the others.

    Args:
        refreshes: ask for a refresh token as well, where the authorization server has a scope for it.
    """
    if configured is not None:
        scopes = union(configured)
    else:
        scopes = union(granted, tuple(needed) or of_resource)
    # Alone it would ask for nothing else, in place of what the server gives by itself.
    return union(scopes, [OFFLINE]) if scopes and refreshes and OFFLINE in tuple(of_server) else scopes


def code_of(server: str, request: AuthorizationRequest, redirected: str) -> str:
    """Check the address that a browser was redirected to, and return its code.

    Args:
        server: name in the configuration.

    Raises:
        RedirectUnusable: it does not belong to the request, or is not complete.
        WrongResponseIssuer: it is from another authorization server.
        AuthorizationRefused: the server says so.
    """
    redirected = redirected.strip()
    if "://" not in redirected.partition("?")[0]:
        redirected = f"http://{redirected}"  # as some browsers show it
    if not is_redirect(redirected, request.client.redirect_uri or ""):
        raise RedirectUnusable(server, f"does not begin with {request.client.redirect_uri}")
    params = read_params(redirected)
    if params is None:
        raise RedirectUnusable(server, "is malformed")
    if not is_state(params.get("state", ""), request.state):
        raise RedirectUnusable(server, "belongs to another sign-in (its state differs)")
    issuer = params.get("iss")
    if request.server.issuer != issuer and (issuer is not None or request.server.responds_with_issuer):
        raise WrongResponseIssuer(server, request.server.issuer)
    if "error" in params:
        raise AuthorizationRefused(server, request.server.issuer, params["error"], params.get("error_description", ""))
    if not params.get("code"):
        raise RedirectUnusable(server, "has no code")
    return params["code"]


def is_redirect(redirected: str, redirect_uri: str) -> bool:
    """Return whether an address is a redirect URI with parameters of its own."""
    try:
        there, registered = urlsplit(redirected), urlsplit(redirect_uri)
    except ValueError:
        return False
    return (there.scheme, there.netloc, there.path) == (registered.scheme, registered.netloc, registered.path)


def read_params(redirected: str) -> dict[str, str] | None:
    """Return the parameters of a redirect that count; None if it is too long, or one of them is repeated."""
    if len(redirected) > MAX_REDIRECT:
        return None
    try:
        pairs = parse_qsl(urlsplit(redirected).query, keep_blank_values=True, max_num_fields=64)
    except ValueError:
        return None
    known = [(name, value) for name, value in pairs if name in _READ]
    return dict(known) if len(dict(known)) == len(known) else None


def is_state(found: str, expected: str) -> bool:
    """Compare a `state` in constant time."""
    return hmac.compare_digest(found.encode(errors="surrogatepass"), expected.encode())
