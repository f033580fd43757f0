"""This program as a client of an authorization server: which client ID, and which authentication.

Owns the order (configured, client ID metadata document, dynamic registration) and that the credentials of one issuer
are never used at another. A registration is kept in the store; one that has expired, or that its server no longer
knows, is dropped. Sending credentials is left to `token_endpoint`.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast
from urllib.parse import urlsplit

from asyncfc_mcp import __version__
from asyncfc_mcp.config.model import OAuthSpec
from asyncfc_mcp.downstream.oauth.challenges import union
from asyncfc_mcp.downstream.oauth.discovery import AuthorizationServer
from asyncfc_mcp.downstream.oauth.failures import ClientUnknown, NoClientId, NoCredentials, RegistrationRefused
from asyncfc_mcp.downstream.oauth.oauth_http import Answer, OAuthHttp
from asyncfc_mcp.downstream.oauth.records import EXPIRY_MARGIN_S, AuthMethod, Grant, Registration
from asyncfc_mcp.downstream.oauth.store import CredentialStore

MAX_ID: Final = 2048
"""Characters of a client ID or secret."""
_PREFERRED: Final[tuple[AuthMethod, ...]] = ("none", "client_secret_basic", "client_secret_post")
"""Methods for a registered client, best first: a program on a user's machine cannot keep a secret."""
_REGISTERED: Final = frozenset({200, 201})
_PERHAPS_LESS: Final = frozenset({400, 403, 422})
"""Statuses of a registration that may succeed if it asks for less."""


def configured_client(oauth: OAuthSpec, server: AuthorizationServer, redirect_uri: str | None) -> Registration | None:
    """Return the configured client, or that of a metadata document if the server takes them; None without either."""
    if oauth.client_id is not None:
        method = _method_of(oauth, server.auth_methods)
        return Registration(server.issuer, oauth.client_id, "configured", method, oauth.client_secret, redirect_uri)
    if server.takes_documents and is_document_url(oauth.client_metadata_url):
        method = "none" if oauth.private_key is None else "private_key_jwt"
        return Registration(
            server.issuer, cast("str", oauth.client_metadata_url), "metadata_document", method, None, redirect_uri
        )
    return None


def is_document_url(url: str | None) -> bool:
    """Return whether a URL can be a client ID: https, with a path, and without a fragment or user."""
    parts = urlsplit(url or "")
    return parts.scheme == "https" and parts.path not in ("", "/") and not parts.fragment and "@" not in parts.netloc


def _method_of(oauth: OAuthSpec, supported: Sequence[str] | None) -> AuthMethod:
    """Return the authentication of a configured client. A server that does not say supports Basic (RFC 8414)."""
    if oauth.private_key is not None:
        return "private_key_jwt"
    if oauth.client_secret is None:
        return "none"
    only_post = supported is not None and "client_secret_basic" not in supported and "client_secret_post" in supported
    return "client_secret_post" if only_post else "client_secret_basic"


def machine_client(server_name: str, oauth: OAuthSpec, server: AuthorizationServer) -> Registration:
    """Return the client for a grant without a user.

    Raises:
        NoCredentials: the configuration has none that authenticate it.
    """
    client = configured_client(oauth, server, None)
    if client is None or client.auth_method == "none":
        raise NoCredentials(server_name)
    return client


def stored_client(
    store: CredentialStore, issuer: str, redirect_uri: str | None, now: float | None = None
) -> Registration | None:
    """Return a registration that was made earlier; None if there is none, or its secret expires, so that it is dropped.

    Raises:
        StoreUnusable: the store cannot be read or written.
    """
    kept = store.load_registration(issuer, redirect_uri)
    if kept is None or (kept.issuer, kept.redirect_uri) != (issuer, redirect_uri):
        return None
    expires_at = kept.secret_expires_at
    if expires_at is not None and expires_at - EXPIRY_MARGIN_S <= (time.time() if now is None else now):
        store.drop_registration(issuer, redirect_uri)
        return None
    return kept


def client_of(server_name: str, oauth: OAuthSpec, store: CredentialStore, grant: Grant) -> Registration:
    """Return the client that tokens were issued to.

    Raises:
        ClientUnknown: it is neither configured nor in the store any more.
        StoreUnusable: the store cannot be read.
    """
    if grant.client_id == oauth.client_id:
        # The method that the server took at the sign-in, with what is configured now.
        secret, method = oauth.client_secret, grant.auth_method
        if oauth.private_key is not None:
            method = "private_key_jwt"
        elif secret is None:
            method = "none"
        elif method in ("none", "private_key_jwt"):
            method = "client_secret_basic"
        return Registration(grant.issuer, grant.client_id, "configured", method, secret, grant.redirect_uri)
    if grant.client_id == oauth.client_metadata_url:
        method = "none" if oauth.private_key is None else "private_key_jwt"
        return Registration(grant.issuer, grant.client_id, "metadata_document", method, None, grant.redirect_uri)
    kept = store.load_registration(grant.issuer, grant.redirect_uri)
    if kept is None or (kept.issuer, kept.client_id) != (grant.issuer, grant.client_id):
        raise ClientUnknown(server_name)
    return kept


# --- dynamic registration ------------------------------------------------------------------------------------------


async def register(
    http: OAuthHttp, server: AuthorizationServer, redirect_uri: str, scopes: Iterable[str] = ()
) -> Registration:
    """Register this program (RFC 7591). The registration is not saved.

    Args:
        scopes: that are asked for now. Some servers refuse others later, so all that the server knows are added.

    Raises:
        NoClientId: the server registers no clients.
        RegistrationRefused: it did not register this one.
        AuthorizationServerUnreachable: it could not be reached.
    """
    if server.registration_endpoint is None:
        raise NoClientId(http.server, server.issuer, redirect_uri)
    method = _registered_method(server.auth_methods)
    answer = Answer(0, b"")
    # Some servers refuse a host name in a loopback redirect, or scopes that they do not give to such clients. What is
    # asked for at last is the least that can work.
    scopes = tuple(scopes)
    for wanted, both_hosts in ((union(scopes, server.scopes), True), (scopes, False), ((), False)):
        document = client_document(server, redirect_uri, method, wanted, both_hosts=both_hosts)
        answer = await http.post_json(server.registration_endpoint, document)
        if (temporary := http.temporary(server.registration_endpoint, answer)) is not None:
            raise temporary
        if answer.status not in _PERHAPS_LESS:
            break
    members = answer.members() or {}
    if answer.status not in _REGISTERED:
        error, description = (_text(members, name) for name in ("error", "error_description"))
        raise RegistrationRefused(http.server, server.issuer, answer.status, error, description)
    return read_registration(http.server, server.issuer, redirect_uri, method, members)


def client_document(
    server: AuthorizationServer, redirect_uri: str, method: AuthMethod, scopes: Iterable[str], *, both_hosts: bool
) -> dict[str, Any]:
    """Return the metadata of this client.

    Args:
        both_hosts: register the redirect at `127.0.0.1` and at `localhost`, the one that is used first.
    """
    refreshes = server.grant_types is None or "refresh_token" in server.grant_types
    document: dict[str, Any] = {
        "client_name": "asyncfc-mcp",
        "redirect_uris": loopback_forms(redirect_uri) if both_hosts else [redirect_uri],
        "grant_types": ["authorization_code", *(["refresh_token"] if refreshes else [])],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
        # Without it, servers of OpenID Connect take this for a web application, and refuse a loopback redirect.
        "application_type": "native",
        "software_id": "asyncfc-mcp",
        "software_version": __version__,
    }
    return document | ({"scope": " ".join(scopes)} if scopes else {})


def loopback_forms(redirect_uri: str) -> list[str]:
    """Return a loopback redirect URI, and that of the other host name; only itself if it is not on loopback."""
    for host, other in (("//127.0.0.1:", "//localhost:"), ("//localhost:", "//127.0.0.1:")):
        if host in redirect_uri:
            return [redirect_uri, redirect_uri.replace(host, other, 1)]
    return [redirect_uri]


def _registered_method(supported: Sequence[str] | None) -> AuthMethod:
    for method in _PREFERRED:
        if supported is None or method in supported:
            return method
    return "none"


def read_registration(
    server_name: str, issuer: str, redirect_uri: str, asked: AuthMethod, members: Mapping[str, Any]
) -> Registration:
    """Return the registration in a response, which may have replaced what was asked for.

    Raises:
        RegistrationRefused: it is not one that can be used.
    """
    client_id, secret = (_text(members, name) for name in ("client_id", "client_secret"))
    method = _text(members, "token_endpoint_auth_method") or asked
    problem = ""
    if not 0 < len(client_id) <= MAX_ID or len(secret) > MAX_ID or not _is_ascii(client_id + secret):
        problem = "the answer has no usable client_id"
    elif method not in _PREFERRED:
        problem = f"the answer asks for authentication with {method}, which this client cannot do"
    elif method != "none" and not secret:
        problem = "the answer has no client_secret"
    if problem:
        raise RegistrationRefused(server_name, issuer, 200, problem, "")
    expires = members.get("client_secret_expires_at")
    if not isinstance(expires, int | float) or isinstance(expires, bool) or not 0 < expires < 1e12 or method == "none":
        expires = None  # zero means never
    return Registration(
        issuer,
        client_id,
        "registered",
        cast("AuthMethod", method),
        secret if method != "none" else None,
        redirect_uri,
        None if expires is None else float(expires),
    )


def _is_ascii(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    return value if isinstance(value, str) else ""
