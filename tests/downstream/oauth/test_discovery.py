"""Discovery: the order of the addresses, and what each document must be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.client.auth import utils
from mcp.shared.auth_utils import check_resource_allowed
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from asyncfc_mcp.downstream.oauth.discovery import (
    canonical_resource,
    find_resource,
    find_server,
    is_resource_of,
    read_configured_server,
    read_resource,
    read_server,
    resource_metadata_urls,
    server_metadata_urls,
)
from asyncfc_mcp.downstream.oauth.failures import (
    AddressRefused,
    AuthorizationServerUnreachable,
    MetadataUnusable,
    NoAuthorizationServer,
    NoPkce,
    WrongIssuer,
    WrongResource,
)
from asyncfc_mcp.downstream.oauth.oauth_http import OAuthHttp
from asyncfc_mcp.errors import SignInFailed
from tests.support.threaded_app import ThreadedApp

PATHS = st.lists(st.sampled_from(["a", "b", "mcp", "tenant1"]), max_size=3).map(
    lambda parts: "".join(f"/{p}" for p in parts)
)
HOSTS = st.sampled_from(["mcp.example", "mcp.example:8443", "127.0.0.1:9000", "[::1]:80"])
URLS = st.builds("https://{}{}{}".format, HOSTS, PATHS, st.sampled_from(["", "/"]))


class Pages(ThreadedApp):
    """Serves what is put into `pages`: a path → a JSON value, or a response."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: dict[str, Any] = {}
        self.asked: list[str] = []

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{rest:path}", self._serve)])

    async def _serve(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        page = self.pages.get(request.url.path)
        if page is None:
            return Response(status_code=404)
        return page if isinstance(page, Response) else JSONResponse(page)

    def resource(self, **members: Any) -> dict[str, Any]:
        return {"resource": f"{self.origin}/mcp", "authorization_servers": ["https://as.example"], **members}

    def server(self, issuer: str, **members: Any) -> dict[str, Any]:
        every = {
            "issuer": issuer,
            "authorization_endpoint": f"{self.origin}/authorize",
            "token_endpoint": f"{self.origin}/token",
            "code_challenge_methods_supported": ["plain", "S256"],
            **members,
        }
        return {key: value for key, value in every.items() if value is not None}


@pytest.fixture(scope="module")
def served() -> Iterator[Pages]:
    with Pages() as pages:
        yield pages


@pytest.fixture
def pages(served: Pages) -> Pages:
    """A server without pages, which nobody has asked yet."""
    served.pages.clear()
    served.asked.clear()
    return served


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def http_of(pages: Pages, path: str = "/mcp") -> OAuthHttp:
    return OAuthHttp("s", f"{pages.origin}{path}")


# --- addresses -----------------------------------------------------------------------------------------------------


@given(URLS, st.sampled_from(["", "https://mcp.example/somewhere"]))
def test_resource_metadata_are_looked_for_where_the_sdk_looks(url: str, challenged: str):
    """The challenge's, then at the path, then at the root."""
    urls = utils.build_protected_resource_metadata_discovery_urls(challenged or None, url)
    assert list(resource_metadata_urls(challenged, url)) == list(dict.fromkeys(urls))


@given(URLS)
def test_server_metadata_are_looked_for_where_the_sdk_looks(issuer: str):
    """RFC 8414 with the path inserted, then both forms of OpenID Connect."""
    urls = utils.build_oauth_authorization_server_metadata_discovery_urls(issuer, "https://unused.example")
    assert list(server_metadata_urls(issuer)) == urls


@given(URLS, URLS)
def test_a_resource_matches_where_it_does_for_the_sdk(url: str, resource: str):
    """Same origin, and the same path or one above it."""
    assert is_resource_of(resource, url) == check_resource_allowed(url, resource)
    assert is_resource_of(canonical_resource(url), url)


@pytest.mark.parametrize(
    "resource",
    ["https://mcp.example/mc", "https://evil.example/mcp", "http://mcp.example/mcp", "https://mcp.example:1/mcp",
     "https://mcp.example.evil/mcp", "https://mcp.example@evil.example/mcp", "https://mcp.example/mcp/more",
     "https://user@mcp.example/mcp", "https://mcp.example/mcp#x", "mcp", "", "https://[", "https://mcp.example/mcp\n"],
)  # fmt: skip
def test_another_resource_does_not_match(resource: str):
    """A token for it could be used elsewhere."""
    assert not is_resource_of(resource, "https://mcp.example/mcp")


@given(st.text(), st.text())
def test_no_resource_raises(resource: str, url: str):
    """Servers send anything."""
    is_resource_of(resource, f"https://{url}")


@pytest.mark.parametrize(
    ("url", "resource"),
    [
        ("https://MCP.Example/Path", "https://mcp.example/Path"),
        ("https://mcp.example/", "https://mcp.example"),
        ("https://user:secret@mcp.example/mcp?token=secret#x", "https://mcp.example/mcp"),
    ],
)
def test_the_resource_of_a_server_has_no_secret(url: str, resource: str):
    """What may be a token in its URL is not for the authorization server."""
    assert canonical_resource(url) == resource


# --- protected resources -------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    "place", ["/custom", "/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource"]
)
async def test_metadata_are_found_in_each_place(pages: Pages, place: str):
    """Those before it answer 404, and are asked in their order."""
    pages.pages[place] = pages.resource(scopes_supported=["a", "b", 'no"scope', 5])
    async with http_of(pages) as http:
        found = await find_resource(http, f"{pages.origin}/custom")
    places = ["/custom", "/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource"]
    assert pages.asked == places[: places.index(place) + 1]
    assert (found.resource, found.issuers, found.scopes) == (f"{pages.origin}/mcp", ("https://as.example",), ("a", "b"))
    assert not found.legacy


@pytest.mark.anyio
async def test_a_server_without_metadata_is_its_own_issuer(pages: Pages):
    """As in 2025-03-26. A page of a web application is no metadata."""
    pages.pages["/.well-known/oauth-protected-resource"] = Response("<!doctype html>" + "x" * 1_000_000)
    async with http_of(pages) as http:
        found = await find_resource(http)
    assert (found.legacy, found.issuers, found.resource) == (True, (pages.origin,), f"{pages.origin}/mcp")


@pytest.mark.anyio
@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_server_in_trouble_is_not_taken_for_one_without_metadata(pages: Pages, status: int):
    """An outage must not send the user to another authorization server."""
    pages.pages["/.well-known/oauth-protected-resource/mcp"] = Response(status_code=status)
    async with http_of(pages) as http:
        with pytest.raises(AuthorizationServerUnreachable, match=str(status)):
            await find_resource(http)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("members", "failure"),
    [
        ({"resource": "https://evil.example/mcp"}, WrongResource),
        ({"resource": None}, WrongResource),
        ({"resource": ["x"]}, WrongResource),
        ({"authorization_servers": []}, MetadataUnusable),
        ({"authorization_servers": None}, MetadataUnusable),
        ({"authorization_servers": "https://as.example"}, MetadataUnusable),
    ],
)
async def test_unusable_metadata_are_refused(pages: Pages, members: dict[str, Any], failure: type[SignInFailed]):
    """And no other place is looked at: what is there would be a downgrade."""
    pages.pages["/.well-known/oauth-protected-resource/mcp"] = pages.resource(**members)
    async with http_of(pages) as http:
        with pytest.raises(failure):
            await find_resource(http)
    assert pages.asked == ["/.well-known/oauth-protected-resource/mcp"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url",
    ["http://mcp.example/x", "file:///etc/passwd", "https://user@mcp.example/x", "https://", "ftp://mcp.example/x",
     "https://mcp.example/ x", "https://mcp.example/\nx", "https://mcp.example:0/x", "https://mcp.example:99999/",
     "javascript:alert(1)", "https://é.example/", "https://[::1/", "https:\\\\evil.example\\",
     "https://x/" + "y" * 3000],
)  # fmt: skip
async def test_an_address_that_is_not_https_is_refused(url: str):
    """Before anything is sent there."""
    async with OAuthHttp("s", "https://mcp.example/mcp") as http:
        with pytest.raises(AddressRefused):
            await find_resource(http, url)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("server", "url", "allowed"),
    [
        ("https://mcp.example", "http://127.0.0.1:1/", False),
        ("https://mcp.example", "https://localhost:1/", False),
        ("https://mcp.example", "https://[::ffff:127.0.0.1]/", False),
        ("https://mcp.example", "https://x.localhost./", False),
        ("https://mcp.example", "https://169.254.169.254/", False),
        ("https://mcp.example", "https://10.0.0.1/", False),
        ("https://mcp.example", "https://0.0.0.0/", False),
        ("https://mcp.example", "https://[fd00::1]/", False),
        ("https://mcp.example", "https://8.8.8.8/", True),
        ("https://10.0.0.2", "https://10.0.0.1/", True),
        ("https://10.0.0.2", "http://127.0.0.1:1/", False),
        ("http://127.0.0.1:1", "https://10.0.0.1/", True),
        ("http://127.0.0.1:1", "http://localhost:2/", True),
        ("http://127.0.0.1:1", "http://10.0.0.1/", False),
    ],
)
async def test_a_server_may_not_name_an_address_inside(server: str, url: str, allowed: bool):
    """One elsewhere could have this machine ask its own network."""
    async with OAuthHttp("s", server) as http:
        if allowed:
            assert http.check(url, "token endpoint") == url
        else:
            with pytest.raises(AddressRefused, match="token endpoint"):
                http.check(url, "token endpoint")


# --- authorization servers -----------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["", "/tenant1"])
@pytest.mark.parametrize("form", [0, 1, -1])
async def test_a_server_is_found_in_each_form(pages: Pages, path: str, form: int):
    """With and without a path in its issuer."""
    issuer = f"{pages.origin}{path}"
    url = server_metadata_urls(issuer)[form]
    pages.pages[url.removeprefix(pages.origin)] = pages.server(
        issuer,
        registration_endpoint="",
        scopes_supported=["a"],
        client_id_metadata_document_supported=True,
        authorization_response_iss_parameter_supported=True,
        token_endpoint_auth_methods_supported=["none"],
    )
    async with http_of(pages) as http:
        found = await find_server(http, issuer)
    assert (found.issuer, found.token_endpoint, found.registration_endpoint) == (issuer, f"{pages.origin}/token", None)
    assert (found.takes_documents, found.responds_with_issuer, found.auth_methods) == (True, True, ("none",))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("members", "failure"),
    [
        ({"issuer": "https://evil.example"}, WrongIssuer),
        ({"issuer": 5}, WrongIssuer),
        ({"issuer": None}, NoAuthorizationServer),
        ({"code_challenge_methods_supported": None}, NoPkce),
        ({"code_challenge_methods_supported": ["plain"]}, NoPkce),
        ({"code_challenge_methods_supported": "S256"}, NoPkce),
        ({"token_endpoint": None}, MetadataUnusable),
        ({"authorization_endpoint": None}, MetadataUnusable),
        ({"authorization_endpoint": "javascript:alert(1)"}, AddressRefused),
        ({"token_endpoint": "http://as.example/token"}, AddressRefused),
        ({"registration_endpoint": "http://as.example/register"}, AddressRefused),
    ],
)
async def test_a_server_that_does_not_hold_to_the_rules_is_refused(
    pages: Pages, members: dict[str, Any], failure: type[SignInFailed]
):
    """Issuer, PKCE, endpoints."""
    pages.pages["/.well-known/oauth-authorization-server"] = pages.server(**{"issuer": pages.origin, **members})
    async with http_of(pages) as http:
        with pytest.raises(failure):
            await find_server(http, pages.origin)


@pytest.mark.anyio
async def test_the_issuer_is_compared_as_a_text(pages: Pages):
    """A slash at the end is a difference, except where the issuer was only made of the server's origin."""
    pages.pages["/.well-known/oauth-authorization-server"] = pages.server(f"{pages.origin}/")
    async with http_of(pages) as http:
        with pytest.raises(WrongIssuer):
            await find_server(http, pages.origin)
        assert (await find_server(http, f"{pages.origin}/")).issuer == f"{pages.origin}/"
        assert (await find_server(http, pages.origin, legacy=True)).issuer == f"{pages.origin}/"
        pages.pages["/.well-known/oauth-authorization-server"] = pages.server("https://evil.example")
        with pytest.raises(WrongIssuer):
            await find_server(http, pages.origin, legacy=True)


@pytest.mark.anyio
async def test_a_server_for_machines_needs_neither_pkce_nor_an_authorization_endpoint(pages: Pages):
    """They are for browsers."""
    pages.pages["/.well-known/oauth-authorization-server"] = pages.server(
        pages.origin, code_challenge_methods_supported=None, authorization_endpoint=None
    )
    async with http_of(pages) as http:
        assert (await find_server(http, pages.origin, machine=True)).token_endpoint == f"{pages.origin}/token"


@pytest.mark.anyio
async def test_configured_metadata_name_their_issuer(pages: Pages):
    """The configuration is trusted; PKCE is asked for all the same."""
    pages.pages["/meta"] = pages.server("https://as.example")
    async with http_of(pages) as http:
        assert (await read_configured_server(http, f"{pages.origin}/meta")).issuer == "https://as.example"
        pages.pages["/meta"] = pages.server("https://as.example", code_challenge_methods_supported=["plain"])
        with pytest.raises(NoPkce):
            await read_configured_server(http, f"{pages.origin}/meta")
        with pytest.raises(MetadataUnusable, match="404"):
            await read_configured_server(http, f"{pages.origin}/other")


@pytest.mark.anyio
async def test_metadata_are_redirected_within_their_origin_only(pages: Pages):
    """Elsewhere, they could be someone else's."""
    with Pages() as other:
        other.pages["/meta"] = other.server(pages.origin)
        pages.pages["/.well-known/oauth-authorization-server"] = RedirectResponse(f"{other.origin}/meta")
        async with http_of(pages) as http:
            with pytest.raises(NoAuthorizationServer):
                await find_server(http, pages.origin)
            assert other.asked == []
            pages.pages["/.well-known/oauth-authorization-server"] = RedirectResponse("/meta")
            pages.pages["/meta"] = pages.server(pages.origin)
            assert (await find_server(http, pages.origin)).issuer == pages.origin
            pages.pages["/meta"] = RedirectResponse("/meta")
            with pytest.raises(NoAuthorizationServer):
                await find_server(http, pages.origin)


@pytest.mark.anyio
async def test_a_server_that_is_not_there_is_said_to_be_unreachable(pages: Pages):
    """So that nobody signs in anew for an outage."""
    async with http_of(pages) as http:
        with pytest.raises(AuthorizationServerUnreachable, match=r"connection refused by 127\.0\.0\.1:1;"):
            await find_server(http, "http://127.0.0.1:1")


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.text(), st.floats()),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    ),
    st.data(),
)
def test_no_metadata_raise_anything_else(value: Any, data: st.DataObject):
    """Any JSON value in place of a member."""
    http = OAuthHttp.__new__(OAuthHttp)
    http.server, http.url = "s", "https://mcp.example/mcp"
    base = {
        "resource": http.url,
        "authorization_servers": ["https://as.example"],
        "issuer": "https://as.example",
        "token_endpoint": "https://as.example/t",
        "authorization_endpoint": "https://as.example/a",
        "code_challenge_methods_supported": ["S256"],
    }
    names = st.sampled_from([*base, "scopes_supported", "registration_endpoint", "prompt_values_supported"])
    members = {**base, data.draw(names): value}
    for read in (
        lambda: read_resource(http, http.url, members),
        lambda: read_server(http, http.url, members, machine=False),
    ):
        with suppress(SignInFailed):
            read()


@pytest.mark.parametrize(
    ("what", "hint"),
    [("URL", "correct the URL of this server"), ("token endpoint", "its operator has to correct that")],
)
def test_who_has_to_correct_an_address_depends_on_who_wrote_it(what: str, hint: str):
    """The server's own URL is the user's."""
    refused = AddressRefused("linear", what, "http://as.example/x", "is not an https URL")
    assert str(refused).endswith(f"since it is not an https URL; {hint}")
