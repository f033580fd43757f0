"""Hostile authorization servers, resource servers and browsers: what they send is refused in words, and no token, code
or secret ever reaches another host than the one that it belongs to."""

from __future__ import annotations

import copy
import gzip
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

import anyio
import pytest
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse, RedirectResponse, Response

from asyncfc_mcp.config.model import HttpSpec, OAuthSpec
from asyncfc_mcp.downstream.oauth.challenges import BearerChallenge, bearer_challenge
from asyncfc_mcp.downstream.oauth.discovery import read_server
from asyncfc_mcp.downstream.oauth.file_store import FileStore
from asyncfc_mcp.downstream.oauth.oauth_http import OAuthHttp, address_problem
from asyncfc_mcp.downstream.oauth.records import Grant
from asyncfc_mcp.downstream.oauth.sign_in import SignIn, sign_in
from asyncfc_mcp.errors import SignInFailed
from tests.support.authorization_server import AuthorizationServer, ProtectedServer, browse
from tests.support.site import Site
from tests.support.stage import free_port

REDIRECT = "http://127.0.0.1:28463/callback"
SECRET = "s3cr3t-of-the-client"


class Kept:
    """The settings of a server that all tests share, to put them back: starting one takes longer than most tests."""

    def __init__(self, server: Any) -> None:
        self.server = server
        plain = (bool, int, str, tuple, list, dict, set, type(None))
        self.state = copy.deepcopy({name: value for name, value in vars(server).items() if isinstance(value, plain)})

    def put_back(self) -> None:
        vars(self.server).update(copy.deepcopy(self.state))


@dataclass
class Hosts:
    """The servers of all tests."""

    authorization: AuthorizationServer
    server: ProtectedServer
    site: Site
    evil: Site


@dataclass
class Scene:
    """An authorization server, a protected server, a site that answers as a test says, another host, and a store."""

    folder: Path
    authorization: AuthorizationServer
    server: ProtectedServer
    site: Site
    evil: Site
    spec: OAuthSpec = field(default_factory=OAuthSpec)

    @property
    def store(self) -> FileStore:
        return FileStore(self.folder)

    def signing(self) -> SignIn:
        return SignIn("srv", HttpSpec(self.server.url, oauth=self.spec), self.store)

    async def sign_in(self, change: Callable[[str], str] = lambda redirected: redirected) -> Grant:
        """Sign in; `change` is what an attacker makes of the redirect."""
        signing = self.signing()
        request = await signing.begin(REDIRECT)
        redirected = await to_thread.run_sync(browse, request.url)
        return await signing.complete(request, change(redirected))

    async def refused(self, change: Callable[[str], str] = lambda redirected: redirected) -> str:
        """The text of the refusal; nothing was stored, and nothing reached the other host."""
        with pytest.raises(SignInFailed) as caught:
            await self.sign_in(change)
        assert self.store.load_grant("srv", self.server.url) is None
        assert not self.evil.seen
        text = str(caught.value)
        assert text.isprintable(), text
        assert len(text) < 1500
        return text


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with ExitStack() as stack:
        authorization = stack.enter_context(AuthorizationServer())
        server = stack.enter_context(ProtectedServer(authorization))
        yield Hosts(authorization, server, stack.enter_context(Site()), stack.enter_context(Site()))


@pytest.fixture(scope="module")
def kept(hosts: Hosts) -> list[Kept]:
    return [Kept(hosts.authorization), Kept(hosts.server)]


@pytest.fixture
def scene(tmp_path: Path, hosts: Hosts, kept: list[Kept]) -> Iterator[Scene]:
    yield Scene(tmp_path / "store", hosts.authorization, hosts.server, hosts.site, hosts.evil)
    for each in kept:
        each.put_back()
    hosts.server.authorization = hosts.authorization
    for site in (hosts.site, hosts.evil):
        site.reset()


def with_query(url: str, **changes: str | None) -> str:
    """A URL with other parameters; None removes one."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query)) | changes
    return urlunsplit(parts._replace(query=urlencode({k: v for k, v in query.items() if v is not None})))


pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# --- metadata ----------------------------------------------------------------------------------------------------


async def test_a_good_server_is_signed_in_to(scene: Scene):
    """The scene itself is sound: what follows fails for its own reason."""
    grant = await scene.sign_in()
    assert scene.store.load_grant("srv", scene.server.url) == grant


METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "wrong issuer": ({"issuer": "http://127.0.0.1:1"}, "identical"),
    "issuer with a slash more": ({"issuer": "SELF/"}, "identical"),
    "issuer is no text": ({"issuer": ["x"]}, "issuer"),
    "no PKCE": ({"code_challenge_methods_supported": None}, "PKCE"),
    "plain PKCE only": ({"code_challenge_methods_supported": ["plain"]}, "PKCE"),
    "PKCE as a text": ({"code_challenge_methods_supported": "S256"}, "PKCE"),
    "token endpoint over http": ({"token_endpoint": "http://evil.example/token"}, "https"),
    "authorization endpoint is a script": ({"authorization_endpoint": "javascript:alert(1)"}, "valid URL"),
    "authorization endpoint is a file": ({"authorization_endpoint": "file:///etc/passwd"}, "valid URL"),
    "authorization endpoint over http": ({"authorization_endpoint": "http://evil.example/a"}, "https"),
    "authorization endpoint is an option": ({"authorization_endpoint": "--incognito"}, "valid URL"),
    "registration endpoint over http": ({"registration_endpoint": "http://evil.example/r"}, "https"),
    "endpoint with a user": ({"token_endpoint": "https://user:pass@evil.example/t"}, "user name"),
    "endpoint with a line break": ({"token_endpoint": "https://evil.example/\r\nX: y"}, "valid URL"),
    "no token endpoint": ({"token_endpoint": None}, "token endpoint"),
    "token endpoint is a number": ({"token_endpoint": 7}, "token endpoint"),
}


@pytest.mark.parametrize("name", METADATA)
async def test_metadata_of_an_authorization_server(scene: Scene, name: str):
    """Each lie is refused before a browser is opened, and nothing is registered."""
    members, words = METADATA[name]
    own = scene.authorization.issuer
    scene.authorization.metadata = {
        key: value.replace("SELF", own) if isinstance(value, str) else value for key, value in members.items()
    }
    assert words in await scene.refused()
    assert not scene.authorization.requests["authorize"]
    assert not scene.authorization.requests["register"]


RESOURCE: dict[str, dict[str, Any]] = {
    "another host": {"resource": "https://evil.example/mcp"},
    "another port": {"resource": "http://127.0.0.1:1/mcp"},
    "a longer path": {"resource": "SELF/more"},
    "a path that only begins alike": {"resource": "ROOT/mc"},
    "another case of the path": {"resource": "ROOT/MCP"},
    "a user": {"resource": "http://x@HOST/mcp"},
    "no text": {"resource": 7},
    "no authorization server": {"authorization_servers": []},
    "authorization server over http": {"authorization_servers": ["http://evil.example"]},
    "authorization server is a file": {"authorization_servers": ["file:///etc"]},
    "authorization server with a query": {"authorization_servers": ["https://evil.example/?x=1"]},
}


@pytest.mark.parametrize("name", RESOURCE)
async def test_metadata_of_a_resource(scene: Scene, name: str):
    """Metadata of another resource are refused, and so are authorization servers that cannot be trusted."""
    url = scene.server.url
    root = url.removesuffix("/mcp")

    def filled(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return value.replace("SELF", url).replace("ROOT", root).replace("HOST", urlsplit(url).netloc)

    scene.server.metadata = {key: filled(value) for key, value in RESOURCE[name].items()}
    await scene.refused()
    assert not scene.authorization.requests["register"]


@pytest.mark.parametrize(
    "url", ["http://evil.example/m", "file:///etc/passwd", "https://u:p@evil.example/", "%00", "x"]
)
async def test_a_challenge_with_a_bad_address(scene: Scene, url: str):
    """The challenge comes from the server; the address in it is checked like any other."""
    scene.server.challenge = f'Bearer resource_metadata="{url}"'
    await scene.refused()


INSIDE = (
    *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "[::1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]"),
    *("10.1", "0xa9fea9fe", "192.168.257", "0", "[2002:a00:1::]", "[fd00::1]", "LOCALHOST.", "a.localhost"),
)
OUTSIDE = ("8.8.8.8", "[2001:4860:4860::8888]", "[64:ff9b::808:808]", "1.example", "0x7f.example")


@pytest.mark.parametrize("host", INSIDE)
def test_numbers_of_this_machine_and_of_private_networks(host: str):
    """A server outside cannot name them, in whatever notation a resolver takes for a number."""
    assert address_problem(f"https://{host}/token", "https://evil.example/mcp")
    assert not address_problem(f"https://{host}/token", "https://127.0.0.1/mcp")


@pytest.mark.parametrize("host", OUTSIDE)
def test_numbers_and_names_outside(host: str):
    """They are as good as any."""
    assert not address_problem(f"https://{host}/token", "https://good.example/mcp")


BODIES: dict[str, tuple[bytes, dict[str, str]]] = {
    "html": (b"<html>hello</html>", {}),
    "an array": (b"[]", {}),
    "deep": (b"[" * 100_000, {}),
    "deep objects": (b'{"a":' * 50_000, {}),
    "large": (b'{"issuer": "' + b"x" * 3_000_000 + b'"}', {}),
    "a bomb": (gzip.compress(b" " * 200_000_000, 9), {"content-encoding": "gzip"}),
    "broken gzip": (b"no gzip", {"content-encoding": "gzip"}),
    "unknown encoding": (b"{}", {"content-encoding": "zstd-of-mine"}),
    "no UTF-8": (b'{"issuer": "\xff\xfe"}', {}),
    "nothing": (b"", {}),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("which", ["resource", "authorization", "registration", "token"])
async def test_bodies_of_any_kind(scene: Scene, name: str, which: str):
    """Each is refused in words, within a bound of memory; no exception of a library reaches the user."""
    body, headers = BODIES[name]
    hostile = lambda request, _: Response(body, 201 if which == "registration" else 200, headers)  # noqa: E731
    site = scene.site
    site.otherwise(hostile)
    if which == "resource":
        scene.server.challenge = f'Bearer resource_metadata="{site.origin}/m"'
        scene.server.serves_metadata = False
        scene.authorization.registers = False
    elif which == "authorization":
        scene.server.metadata = {"authorization_servers": [site.origin]}
    elif which == "registration":
        scene.authorization.metadata = {"registration_endpoint": f"{site.origin}/r"}
    else:
        scene.authorization.metadata = {"token_endpoint": f"{site.origin}/t"}
    await scene.refused()
    assert site.seen


# --- redirects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("which", ["token_endpoint", "registration_endpoint", "metadata", "resource"])
async def test_a_redirect_to_another_host(scene: Scene, which: str, status: int):
    """None is followed, whatever its status: a code, a secret or a registration would go along."""
    site = scene.site
    site.otherwise(RedirectResponse(f"{scene.evil.origin}/stolen", status))
    if which == "metadata":
        scene.server.metadata = {"authorization_servers": [site.origin]}
    elif which == "resource":
        scene.server.challenge = f'Bearer resource_metadata="{site.origin}/m"'
        scene.server.serves_metadata = False
        scene.authorization.registers = False
    else:
        scene.authorization.metadata = {which: f"{site.origin}/x"}
    await scene.refused()


async def test_a_redirect_to_another_name_of_this_machine(scene: Scene):
    """`localhost` and 127.0.0.1 are two origins: another program may listen at the other one."""
    port = urlsplit(scene.evil.origin).port
    site = scene.site
    site.otherwise(RedirectResponse(f"http://localhost:{port}/stolen", 307))
    scene.authorization.metadata = {"token_endpoint": f"{site.origin}/x"}
    await scene.refused()


# --- the browser's answer ----------------------------------------------------------------------------------------


CHANGES: dict[str, Callable[[str], str]] = {
    "forged state": lambda url: with_query(url, state="forged"),
    "no state": lambda url: with_query(url, state=None),
    "empty state": lambda url: with_query(url, state=""),
    "two states": lambda url: f"{url}&state=forged",
    "two codes": lambda url: f"{url}&code=forged",
    "no code": lambda url: with_query(url, code=None),
    "empty code": lambda url: with_query(url, code=""),
    "iss of another server": lambda url: with_query(url, iss="https://evil.example"),
    "iss with a slash": lambda url: with_query(url, iss=parse_qs(urlsplit(url).query)["iss"][0] + "/"),
    "no iss": lambda url: with_query(url, iss=None),
    "two iss": lambda url: f"{url}&iss=https://evil.example",
    "an error with a forged state": lambda url: with_query(url, code=None, error="access_denied", state="forged"),
    "another host": lambda url: url.replace("127.0.0.1:28463", "evil.example"),
    "another path": lambda url: url.replace("/callback", "/other"),
    "no URL": lambda url: "hello",
    "nothing": lambda url: "",
    "huge": lambda url: with_query(url, code="x" * 3_000_000),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_forged_redirect(scene: Scene, name: str):
    """Only the redirect of this very request, from the server that was asked, is exchanged for tokens."""
    await scene.refused(CHANGES[name])
    if name not in ("empty code", "huge"):
        assert not scene.authorization.requests["token:authorization_code"]


async def test_the_redirect_of_another_request(scene: Scene):
    """Login CSRF: a redirect that belongs to another sign-in of the same program is not taken."""
    other = await scene.signing().begin(REDIRECT)
    stolen = await to_thread.run_sync(browse, other.url)
    await scene.refused(lambda _: stolen)


async def test_the_words_of_an_error_are_cleaned(scene: Scene):
    """Terminal sequences and line breaks in an error of the authorization server do not reach a terminal."""

    def denied(url: str) -> str:
        text = "\x1b]0;owned\x07\nsign-in succeeded\u202e"
        return with_query(url, code=None, error="access_denied", error_description=text)

    text = await scene.refused(denied)
    assert "\x1b" not in text
    assert "\u202e" not in text


# --- the listener ------------------------------------------------------------------------------------------------


def exchange(port: int, request: bytes) -> bytes:
    """What the listener answers to bytes, until it closes."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock, suppress(OSError):
        sock.sendall(request)
        while chunk := sock.recv(65536):
            found += chunk
    return found


STRANGERS: dict[str, str] = {
    "a foreign host": "GET TARGET HTTP/1.1\r\nHost: evil.example:PORT\r\n\r\n",
    "another port in Host": "GET TARGET HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n",
    "two hosts": "GET TARGET HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nHost: evil.example\r\n\r\n",
    "no host": "GET TARGET HTTP/1.0\r\n\r\n",
    "POST": "POST TARGET HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Length: 0\r\n\r\n",
    "HEAD": "HEAD TARGET HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
    "a forged state": "GET /callback?code=x&state=forged HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
    "no state": "GET /callback?code=x HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
    "another path": "GET /other?STATE HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
    "an error without the state": "GET /callback?error=access_denied HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
    "no HTTP": "\x16\x03\x01 hello\r\n\r\n",
    "a long head": "GET / HTTP/1.1\r\nX: " + "x" * 200_000 + "\r\n\r\n",
    "two requests": "GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\nGET TARGET HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n",
}


async def test_strangers_at_the_listener(scene: Scene):
    """Whatever another program or page sends to the callback, the sign-in waits for its own browser."""
    port = free_port()
    scene.spec = OAuthSpec(callback_port=port)
    answered: dict[str, bytes] = {}

    def attack(url: str) -> None:
        redirect = browse(url)
        target = redirect.removeprefix(f"http://127.0.0.1:{port}")
        for name, text in STRANGERS.items():
            request = (
                text.replace("TARGET", target).replace("STATE", target.partition("?")[2]).replace("PORT", str(port))
            )
            answered[name] = exchange(port, request.encode("latin-1"))
        answered["the browser"] = exchange(port, f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())

    async def show(url: str) -> None:
        tasks.start_soon(to_thread.run_sync, attack, url)

    async with anyio.create_task_group() as tasks:
        grant = await sign_in("srv", HttpSpec(scene.server.url, oauth=scene.spec), scene.store, show=show)
    assert grant.access_token
    assert answered.pop("the browser").startswith(b"HTTP/1.1 200 ")
    for name, answer in answered.items():
        assert not answer.startswith(b"HTTP/1.1 2"), name
        assert b"code=" not in answer, name


async def test_another_program_at_the_port(scene: Scene):
    """A port that is taken is an error before a browser opens: the other program would get the code."""
    shown: list[str] = []

    async def show(url: str) -> None:
        shown.append(url)

    with socket.create_server(("127.0.0.1", 0)) as other:
        scene.spec = OAuthSpec(callback_port=other.getsockname()[1])
        with pytest.raises(SignInFailed, match="in use"):
            await sign_in("srv", HttpSpec(scene.server.url, oauth=scene.spec), scene.store, show=show)
    assert not shown


# --- tokens ------------------------------------------------------------------------------------------------------

GOOD = {"access_token": "a", "token_type": "Bearer", "expires_in": 60}
TOKENS: dict[str, Any] = {
    "no access token": {"token_type": "Bearer"},
    "a number": GOOD | {"access_token": 7},
    "an empty token": GOOD | {"access_token": ""},
    "a header in the token": GOOD | {"access_token": "x\r\nX-Injected: 1"},
    "a space in the token": GOOD | {"access_token": "a b"},
    "a token that is not ASCII": GOOD | {"access_token": "grüße"},
    "a token of a megabyte": GOOD | {"access_token": "x" * 200_000},
    "another type": GOOD | {"token_type": "mac"},
    "DPoP": GOOD | {"token_type": "DPoP"},
    "type is no text": GOOD | {"token_type": ["Bearer"]},
    "an error with 200": {"error": "invalid_grant"},
}


@pytest.mark.parametrize("name", TOKENS)
async def test_token_responses(scene: Scene, name: str):
    """What cannot be sent as a bearer token is refused when it comes, not when it is sent."""
    site = scene.site
    site.otherwise(JSONResponse(TOKENS[name]))
    scene.authorization.metadata = {"token_endpoint": f"{site.origin}/t"}
    await scene.refused()


@pytest.mark.parametrize("lifetime", ["60", -5, 0, True, None, [], {}, 10**400, 1e308, "1e999", "NaN", 2**63, "∞"])
async def test_lifetimes_of_any_kind(scene: Scene, lifetime: Any):
    """A strange lifetime neither fails nor makes the stored grant unreadable: it is a number, or there is none."""
    site = scene.site
    site.otherwise(JSONResponse(GOOD | {"expires_in": lifetime, "scope": lifetime, "refresh_token": lifetime}))
    scene.authorization.metadata = {"token_endpoint": f"{site.origin}/t"}
    try:
        await scene.sign_in()
    except SignInFailed:
        return
    grant = scene.store.load_grant("srv", scene.server.url)
    assert grant is not None
    assert grant.expires_at is None or abs(grant.expires_at) < 1e12
    json.dumps(grant.to_json(), allow_nan=False)


async def test_errors_that_repeat_the_request(scene: Scene):
    """A token endpoint that echoes what it was sent makes no secret appear in an error."""
    scene.authorization.add_client("c", redirect_uris=(REDIRECT,), secret=SECRET, auth_method="client_secret_post")
    scene.spec = OAuthSpec(client_id="c", client_secret=SECRET)
    site = scene.site

    def echo(request: Any, body: bytes) -> Response:
        said = f"{body.decode()} {dict(request.headers)}"
        return JSONResponse({"error": f"invalid {said}", "error_description": said}, 400)

    site.otherwise(echo)
    scene.authorization.metadata = {"token_endpoint": f"{site.origin}/t"}
    text = await scene.refused()
    sent = dict(parse_qsl(site.seen[-1].body.decode()))
    header = site.seen[-1].headers.get("authorization", "no header")
    for secret in (SECRET, sent["code"], sent["code_verifier"], header):
        assert secret not in text


@pytest.mark.parametrize(
    "answer",
    [
        {"client_id": 7},
        {"client_id": ""},
        {"client_id": "a\r\nb"},
        {"client_id": "x" * 200_000},
        {"client_id": None},
        {"client_secret": ["x"]},
        {"client_secret": "a\nb", "token_endpoint_auth_method": "client_secret_basic"},
        {"token_endpoint_auth_method": "tls_client_auth"},
        {"token_endpoint_auth_method": ["none"]},
        {"client_secret_expires_at": "never"},
        {"client_secret_expires_at": 10**400},
        {"redirect_uris": ["https://evil.example/"]},
    ],
    ids=str,
)
async def test_registrations_of_any_kind(scene: Scene, answer: dict[str, Any]):
    """A strange answer of the registration is refused in words, or does no harm."""
    scene.authorization.registration_answers = answer
    with suppress(SignInFailed, AssertionError):  # the authorization server does not know such a client
        await scene.sign_in()
    assert not scene.evil.seen


async def test_credentials_of_one_issuer_are_not_sent_to_another(scene: Scene):
    """A server that names another authorization server gets a registration made there, and no token of the first."""
    scene.authorization.token_format = "jwt"
    first = await scene.sign_in()
    with AuthorizationServer() as other:
        scene.server.authorization = other
        second = await scene.sign_in()
        assert second.issuer == other.issuer
        assert second.client_id != first.client_id
        said = json.dumps(other.seen)
        for secret in (first.access_token, first.refresh_token, first.client_id):
            assert str(secret) not in said


async def test_a_secret_that_is_configured_goes_to_no_other_issuer(scene: Scene):
    """A protected server that changes its authorization server does not get the client secret of the first one."""
    scene.authorization.add_client("c", redirect_uris=(REDIRECT,), secret=SECRET, auth_method="client_secret_basic")
    scene.spec = OAuthSpec(client_id="c", client_secret=SECRET)
    await scene.sign_in()
    with AuthorizationServer() as other:
        other.add_client("c", redirect_uris=(REDIRECT,), secret=SECRET, auth_method="client_secret_basic")
        scene.server.authorization = other
        with pytest.raises(SignInFailed):
            await scene.sign_in()
        assert not any(name.startswith("token") for name in other.requests)


# --- fuzzing -----------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "Bearer",
        "bearer ",
        "Basic",
        "DPoP",
        ",",
        " ",
        "=",
        '"',
        "\\",
        "\t",
        "realm",
        "scope",
        "error",
        "x y",
        "a=b",
        "resource_metadata",
        'scope="a b"',
        "https://a.example/",
        "==",
        "\r\n",
        "\x00",
        "é",
        "\ud800",
        "insufficient_scope",
    ]
)
HEADERS = st.lists(st.one_of(st.text(max_size=30), st.lists(PIECES, max_size=30).map("".join)), max_size=4)


@given(HEADERS)
def test_challenges_of_any_kind(values: list[str]):
    """No header makes the parser fail, and what it finds are texts that can be sent on."""
    found = bearer_challenge(values)
    assert isinstance(found, BearerChallenge)
    assert all(re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+", scope) for scope in found.scopes)


@pytest.mark.parametrize("piece", ['a="\\', "a=", "a ", " ", ",", '"', "Bearer ", "a" * 50 + " = ", "a=b ", "x(", "\\"])
def test_long_challenges(piece: str):
    """A header of a megabyte costs no more than a short one, whatever it repeats."""
    bearer_challenge([f"Bearer {piece * (1_000_000 // len(piece))}"] * 8)


@given(
    st.dictionaries(
        st.sampled_from(["issuer", "token_endpoint", "authorization_endpoint", "code_challenge_methods_supported"]),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=40)),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        ),
    )
)
def test_metadata_of_any_kind(members: dict[str, Any]):
    """Random members are metadata, or are refused with the one class of error that every caller expects."""
    http = OAuthHttp("srv", "https://mcp.example/mcp")
    with suppress(SignInFailed):
        read_server(http, "https://as.example/", members, machine=False)
