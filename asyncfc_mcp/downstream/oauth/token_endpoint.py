"""Requests at the token endpoint, and revocation.

Owns the authentication of this client there, and reading the answers. A grant that is returned is not saved: the caller
does that before it uses it. `resource` is part of each request (RFC 8707).
"""

import base64
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote_plus

from asyncfc_mcp.config.model import HttpSpec, OAuthSpec
from asyncfc_mcp.downstream.oauth.challenges import scopes_in
from asyncfc_mcp.downstream.oauth.clients import client_of
from asyncfc_mcp.downstream.oauth.discovery import AuthorizationServer
from asyncfc_mcp.downstream.oauth.failures import TokenRefused, TokensUnusable
from asyncfc_mcp.downstream.oauth.oauth_http import Answer, OAuthHttp
from asyncfc_mcp.downstream.oauth.records import Grant, Registration
from asyncfc_mcp.downstream.oauth.store import CredentialStore

MAX_TOKEN: Final = 64 << 10
"""Characters of a token. A larger one fits into no header anyway."""
MAX_LIFETIME_S: Final = 10 * 365 * 86_400.0
_JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


async def refresh(server: str, spec: HttpSpec, store: CredentialStore, grant: Grant) -> Grant:
    """Exchange a refresh token for new tokens. The old one may not be valid after this: save the new grant first.

    Args:
        server: name in the configuration.
        store: has the registration that the tokens belong to; nothing is written.

    Raises:
        TokenRefused: see its `grant_is_dead` and `client_is_dead`.
        AuthorizationServerUnreachable: the server could not be reached, or failed; the old token may still be valid.
        SignInFailed: base class of both, and of all else that a new sign-in has to correct.
        StoreUnusable: the store cannot be read.
    """
    oauth = spec.oauth or OAuthSpec()
    client = client_of(server, oauth, store, grant)
    async with OAuthHttp(server, spec.url) as http:
        endpoint = http.check(grant.token_endpoint, "token endpoint", named_by=grant.token_endpoint)
        token = grant.refresh_token or ""
        params = {"grant_type": "refresh_token", "refresh_token": token, "resource": grant.resource}
        answer = await _ask(http, endpoint, oauth, client, params, (token,))
        return read_grant(server, endpoint, answer, client, like=grant)


async def revoke(server: str, spec: HttpSpec, store: CredentialStore, grant: Grant) -> bool:
    """Revoke a grant at its server (RFC 7009); return false if the server cannot.

    The refresh token is revoked first, since a server that revokes the access token only keeps the grant.

    Raises:
        SignInFailed: it may still be valid; see `refresh`.
        StoreUnusable: the store cannot be read.
    """
    if grant.revocation_endpoint is None:
        return False
    oauth = spec.oauth or OAuthSpec()
    client = client_of(server, oauth, store, grant)
    async with OAuthHttp(server, spec.url) as http:
        endpoint = http.check(grant.revocation_endpoint, "revocation endpoint", named_by=grant.revocation_endpoint)
        revoked = False
        for hint, token in (("refresh_token", grant.refresh_token), ("access_token", grant.access_token)):
            if not token:
                continue
            try:
                await _ask(http, endpoint, oauth, client, {"token": token, "token_type_hint": hint}, (token,))
            except TokenRefused as exc:
                # An access token that is a JWT often cannot be revoked; it ends by itself.
                if exc.error != "unsupported_token_type":
                    raise
            else:
                revoked = True
    return revoked


async def exchange_code(
    http: OAuthHttp,
    authorization: AuthorizationServer,
    oauth: OAuthSpec,
    client: Registration,
    code: str,
    verifier: str,
    resource: str,
    scopes: tuple[str, ...],
) -> Grant:
    """Exchange an authorization code, which is valid once.

    Args:
        scopes: that were asked for.

    Raises:
        SignInFailed: see `refresh`.
    """
    params = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": client.redirect_uri or "",
        "code_verifier": verifier,
        "resource": resource,
    }
    answer = await _ask(http, authorization.token_endpoint, oauth, client, params, (code, verifier))
    return read_grant(
        http.server, authorization.token_endpoint, answer, client, like=_blank(authorization, client, resource, scopes)
    )


async def client_credentials(
    http: OAuthHttp,
    authorization: AuthorizationServer,
    oauth: OAuthSpec,
    client: Registration,
    resource: str,
    scopes: tuple[str, ...],
) -> Grant:
    """Ask for tokens without a user.

    Raises:
        SignInFailed: see `refresh`.
    """
    params = {"grant_type": "client_credentials", "resource": resource}
    if scopes:
        params["scope"] = " ".join(scopes)
    answer = await _ask(http, authorization.token_endpoint, oauth, client, params, ())
    return read_grant(
        http.server, authorization.token_endpoint, answer, client, like=_blank(authorization, client, resource, scopes)
    )


def _blank(authorization: AuthorizationServer, client: Registration, resource: str, scopes: tuple[str, ...]) -> Grant:
    """Return a grant without tokens."""
    return Grant(
        issuer=authorization.issuer,
        token_endpoint=authorization.token_endpoint,
        resource=resource,
        client_id=client.client_id,
        access_token="",
        obtained_at=0.0,
        scopes=scopes,
        revocation_endpoint=authorization.revocation_endpoint,
    )


async def _ask(
    http: OAuthHttp,
    endpoint: str,
    oauth: OAuthSpec,
    client: Registration,
    params: Mapping[str, str],
    secrets: tuple[str, ...],
) -> Answer:
    """Send a request with this client's authentication.

    Args:
        secrets: of the request, which an error may not quote.

    Raises:
        TokenRefused, AuthorizationServerUnreachable, KeyUnusable: see `refresh`.
    """
    own, headers = authentication(http.server, oauth, client)
    answer = await http.post_form(endpoint, {**params, **own}, headers)
    if (temporary := http.temporary(endpoint, answer)) is not None:
        raise temporary
    members = answer.members() or {}
    error = members.get("error")
    # Some servers report errors with the status 200.
    if not 200 <= answer.status < 300 or isinstance(error, str):
        description = members.get("error_description")
        hidden = (*secrets, *([client.client_secret] if client.client_secret else []), *own.values())
        raise TokenRefused(
            http.server,
            endpoint,
            answer.status,
            error if isinstance(error, str) else "",
            description if isinstance(description, str) else "",
            [each for each in hidden if each != client.client_id],
        )
    return answer


def authentication(server: str, oauth: OAuthSpec, client: Registration) -> tuple[dict[str, str], dict[str, str]]:
    """Return the parameters and the headers that authenticate a client.

    Raises:
        KeyUnusable: the configured private key cannot sign.
    """
    secret = client.client_secret or ""
    match client.auth_method:
        case "none":
            return {"client_id": client.client_id}, {}
        case "client_secret_post":
            return {"client_id": client.client_id, "client_secret": secret}, {}
        case "client_secret_basic":
            pair = f"{quote_plus(client.client_id)}:{quote_plus(secret)}"
            return {}, {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        case "private_key_jwt":
            from asyncfc_mcp.downstream.oauth.client_assertion import client_assertion

            assertion = client_assertion(server, oauth, client.client_id, client.issuer)
            return {"client_assertion_type": _JWT_BEARER, "client_assertion": assertion}, {}


def read_grant(server: str, url: str, answer: Answer, client: Registration, *, like: Grant) -> Grant:
    """Return the grant of an answer.

    Args:
        url: of the token endpoint.
        like: the grant that it renews, or one without tokens. What the answer does not say is as in that one.

    Raises:
        TokensUnusable: there are none in the answer.
    """
    members = answer.members()
    if members is None:
        raise TokensUnusable(server, url, "is no JSON object")
    token, kind = members.get("access_token"), members.get("token_type", "Bearer")
    if not isinstance(token, str) or not _is_token(token):
        raise TokensUnusable(server, url, "has no usable access token")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise TokensUnusable(server, url, "has a token of another type than Bearer")
    renewed, scope = members.get("refresh_token"), members.get("scope")
    now = time.time()
    lifetime_s = _lifetime(members.get("expires_in"))
    return Grant(
        issuer=like.issuer,
        token_endpoint=like.token_endpoint,
        resource=like.resource,
        client_id=client.client_id,
        access_token=token,
        # Of two grants the later one counts, also where the clock was set back in between.
        obtained_at=max(now, like.obtained_at + 0.001),
        scopes=scopes_in(scope) if isinstance(scope, str) and scope.strip() else like.scopes,
        refresh_token=renewed if _is_token(renewed) else like.refresh_token,
        expires_at=None if lifetime_s is None else now + lifetime_s,
        revocation_endpoint=like.revocation_endpoint,
        redirect_uri=client.redirect_uri,
        auth_method=client.auth_method,
    )


def _is_token(value: Any) -> bool:
    """Return whether a value can be sent in a header, and holds no second one."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_TOKEN
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )


def _lifetime(value: Any) -> float | None:
    """Return the seconds for which a token is valid; None if the server does not say. Some send a text."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdecimal() and len(value) < 12 else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        return None
    return float(min(value, MAX_LIFETIME_S))  # in this order: an integer may be too large for a float
