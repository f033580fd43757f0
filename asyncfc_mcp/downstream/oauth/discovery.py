"""Discovery of the authorization server that protects a server, and of its endpoints.

Owns the order of the addresses (RFC 9728, RFC 8414, OpenID Connect Discovery, and the fallback of servers of
2025-03-26), and the checks of the documents: resource, issuer, PKCE, addresses. The choice between several
authorization servers is left to `sign_in`, as nothing here knows this program's registrations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlsplit, urlunsplit

from asyncfc_mcp.downstream.oauth.challenges import union
from asyncfc_mcp.downstream.oauth.failures import (
    AuthorizationServerUnreachable,
    MetadataUnusable,
    NoAuthorizationServer,
    NoPkce,
    WrongIssuer,
    WrongResource,
)
from asyncfc_mcp.downstream.oauth.oauth_http import OAuthHttp
from asyncfc_mcp.errors import SignInFailed
from asyncfc_mcp.protocol import MODERN_VERSIONS

MAX_SERVERS: Final = 5
"""Authorization servers of one resource that are considered."""
_RESOURCE: Final = "/.well-known/oauth-protected-resource"
_OAUTH: Final = "/.well-known/oauth-authorization-server"
_OIDC: Final = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class ProtectedResource:
    """A server, as its metadata describe it (RFC 9728).

    Attributes:
        resource: identifier for the parameter `resource`.
        issuers: of its authorization servers, in its order.
        legacy: it has no such metadata; the only issuer is the server's own origin (2025-03-26).
    """

    resource: str
    issuers: tuple[str, ...]
    scopes: tuple[str, ...] = ()
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """An authorization server, as its metadata describe it (RFC 8414). Every address was checked.

    Attributes:
        authorization_endpoint: empty at a server for machines only.
        auth_methods, prompts, grant_types: None if it does not say.
        responds_with_issuer: redirects have `iss` (RFC 9207).
        takes_documents: a client ID may be the URL of a metadata document.
    """

    issuer: str
    token_endpoint: str
    authorization_endpoint: str = ""
    registration_endpoint: str | None = None
    revocation_endpoint: str | None = None
    scopes: tuple[str, ...] = ()
    auth_methods: tuple[str, ...] | None = None
    grant_types: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None
    responds_with_issuer: bool = False
    takes_documents: bool = False


# --- protected resources -------------------------------------------------------------------------------------------


def canonical_resource(url: str) -> str:
    """Return the resource identifier of a server's URL (RFC 8707): without fragment, user and query, which may hold
    tokens, and without the slash of an empty path."""
    parts = urlsplit(url)
    path = "" if parts.path == "/" else parts.path
    return urlunsplit((parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower(), path, "", ""))


def resource_metadata_urls(challenged: str, url: str) -> tuple[str, ...]:
    """Return where the metadata of a protected resource may be: the URL of its challenge, then at its path, then at
    the root."""
    parts = urlsplit(canonical_resource(url))
    root = f"{parts.scheme}://{parts.netloc}{_RESOURCE}"
    return tuple(dict.fromkeys(filter(None, (challenged, f"{root}{parts.path}", root))))


def is_resource_of(resource: str, url: str) -> bool:
    """Return whether a resource identifier is that of a server: same origin, and the same path or one above it."""
    if not resource.isascii() or not resource.isprintable():
        return False
    try:
        named, own = urlsplit(resource), urlsplit(url)
        ports = [parts.port or (443 if parts.scheme == "https" else 80) for parts in (named, own)]
    except ValueError:
        return False
    if (named.scheme, named.hostname, ports[0]) != (own.scheme, own.hostname, ports[1]) or named.fragment:
        return False
    return named.username is None and f"{own.path.rstrip('/')}/".startswith(f"{named.path.rstrip('/')}/")


async def find_resource(http: OAuthHttp, challenged: str = "") -> ProtectedResource:
    """Find the metadata of the server's protected resource.

    Args:
        challenged: `resource_metadata` of its challenge; empty if there is none.

    Raises:
        SignInFailed: they are unusable, for another resource, or not reachable for now.
    """
    if challenged:
        http.check(challenged, "metadata URL")
    unreachable: AuthorizationServerUnreachable | None = None
    for url in resource_metadata_urls(challenged, http.url):
        document = await _document(http, url, "resource")
        if isinstance(document, AuthorizationServerUnreachable):
            unreachable = unreachable or document
        elif document is not None:
            return read_resource(http, url, document)
    if unreachable is not None:
        # No fallback: that the metadata are missing is not known.
        raise unreachable
    parts = urlsplit(canonical_resource(http.url))
    return ProtectedResource(canonical_resource(http.url), (f"{parts.scheme}://{parts.netloc}",), legacy=True)


def read_resource(http: OAuthHttp, url: str, members: Mapping[str, Any]) -> ProtectedResource:
    """Return the metadata of the server's protected resource.

    Args:
        url: where they were found.

    Raises:
        SignInFailed: they are unusable, or for another resource.
    """
    resource = members.get("resource")
    if not isinstance(resource, str) or not is_resource_of(resource, http.url):
        raise WrongResource(http.server, http.url, resource if isinstance(resource, str) else "nothing")
    issuers = _strings(members, "authorization_servers") or ()
    if not issuers:
        raise MetadataUnusable(http.server, url, "name no authorization server")
    return ProtectedResource(
        resource, tuple(dict.fromkeys(issuers))[:MAX_SERVERS], union(_strings(members, "scopes_supported") or ())
    )


# --- authorization servers -----------------------------------------------------------------------------------------


def server_metadata_urls(issuer: str) -> tuple[str, ...]:
    """Return where the metadata of an authorization server may be: RFC 8414, then both forms of OpenID Connect."""
    parts = urlsplit(issuer)
    root, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    urls = (f"{root}{_OAUTH}{path}", f"{root}{_OIDC}{path}", f"{root}{path}{_OIDC}")
    return tuple(dict.fromkeys(urls))


async def find_server(
    http: OAuthHttp, issuer: str, *, legacy: bool = False, machine: bool = False
) -> AuthorizationServer:
    """Find the metadata of an authorization server.

    Args:
        legacy: the issuer was made of the server's origin, so that a slash at its end is no difference.
        machine: for a grant without a user, which needs neither authorization endpoint nor PKCE.

    Raises:
        SignInFailed: there are none that are usable, or they are not reachable for now.
    """
    http.check(issuer, "authorization server")
    if urlsplit(issuer).query or urlsplit(issuer).fragment:
        raise MetadataUnusable(http.server, http.url, "name an authorization server with a query")
    failure: SignInFailed | None = None
    for url in server_metadata_urls(issuer):
        document = await _document(http, url, "issuer")
        if isinstance(document, AuthorizationServerUnreachable):
            failure = failure or document
            continue
        if document is None:
            continue
        found = document["issuer"]
        if found != issuer and not (legacy and found == f"{issuer}/"):
            failure = WrongIssuer(http.server, issuer, found if isinstance(found, str) else "nothing")
            continue
        return read_server(http, url, document, machine=machine)
    raise failure or NoAuthorizationServer(http.server, (issuer,))


async def read_configured_server(http: OAuthHttp, url: str, *, machine: bool = False) -> AuthorizationServer:
    """Read metadata at a URL of the configuration, which is trusted to name its issuer.

    Raises:
        SignInFailed: they are unusable, or not reachable for now.
    """
    http.check(url, "metadata URL", named_by=url)
    answer = await http.get(url)
    if (temporary := http.temporary(url, answer)) is not None:
        raise temporary
    members = answer.members() if answer.status == 200 else None
    if members is None:
        raise MetadataUnusable(http.server, url, f"are not there (HTTP {answer.status})")
    return read_server(http, url, members, machine=machine)


def read_server(http: OAuthHttp, url: str, members: Mapping[str, Any], *, machine: bool) -> AuthorizationServer:
    """Return the metadata of an authorization server whose issuer was checked.

    Args:
        url: where they were found.
        machine: see `find_server`.

    Raises:
        SignInFailed: they are unusable.
    """
    issuer = members.get("issuer")
    if not isinstance(issuer, str):
        raise MetadataUnusable(http.server, url, "name no issuer")
    http.check(issuer, "issuer", named_by=url)

    def endpoint(name: str) -> str | None:
        value = members.get(name)
        # Some servers write an empty text in place of nothing.
        return http.check(value, name.replace("_", " "), named_by=url) if isinstance(value, str) and value else None

    token, authorization = endpoint("token_endpoint"), endpoint("authorization_endpoint")
    if token is None or (authorization is None and not machine):
        missing = "token" if token is None else "authorization"
        raise MetadataUnusable(http.server, url, f"name no {missing} endpoint")
    if not machine and "S256" not in (_strings(members, "code_challenge_methods_supported") or ()):
        raise NoPkce(http.server, issuer)
    return AuthorizationServer(
        issuer=issuer,
        token_endpoint=token,
        authorization_endpoint=authorization or "",
        registration_endpoint=endpoint("registration_endpoint"),
        revocation_endpoint=endpoint("revocation_endpoint"),
        scopes=union(_strings(members, "scopes_supported") or ()),
        auth_methods=_strings(members, "token_endpoint_auth_methods_supported"),
        grant_types=_strings(members, "grant_types_supported"),
        prompts=_strings(members, "prompt_values_supported"),
        responds_with_issuer=members.get("authorization_response_iss_parameter_supported") is True,
        takes_documents=members.get("client_id_metadata_document_supported") is True,
    )


async def _document(
    http: OAuthHttp, url: str, member: str
) -> Mapping[str, Any] | AuthorizationServerUnreachable | None:
    """Return the metadata at one of the addresses where they may be; the failure if that is not known for now.

    Args:
        member: that metadata have. A page of a web application in place of 404 has not.
    """
    try:
        answer = await http.get(url, {"mcp-protocol-version": MODERN_VERSIONS[-1]})
    except AuthorizationServerUnreachable as exc:
        return exc
    members = answer.members() if answer.status == 200 else None
    if members is not None and member in members:
        return members
    return http.temporary(url, answer)


def _strings(members: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    """Return the texts of a list; None if there is no list."""
    value = members.get(name)
    if not isinstance(value, list):
        return None
    return tuple(item for item in cast("list[Any]", value)[:1000] if isinstance(item, str))
