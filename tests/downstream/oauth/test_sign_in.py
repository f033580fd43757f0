"""Signing in, against a small authorization server and a protected server on loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.to_thread
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from asyncfc_mcp.config.model import HttpSpec, OAuthSpec
from asyncfc_mcp.downstream.oauth import sign_in as sign_in_module
from asyncfc_mcp.downstream.oauth.failures import (
    AddressRefused,
    AuthorizationRefused,
    AuthorizationServerUnreachable,
    CallbackUnavailable,
    ClientUnknown,
    IssuerChanged,
    KeyUnusable,
    NoAuthorizationServer,
    NobodySignedIn,
    NoClientId,
    NoCredentials,
    RegistrationDead,
    RegistrationRefused,
    TokenRefused,
    WrongResource,
    WrongResponseIssuer,
)
from asyncfc_mcp.downstream.oauth.records import Grant, Registration
from asyncfc_mcp.downstream.oauth.redirect_listener import Callbacks
from asyncfc_mcp.downstream.oauth.sign_in import SignIn, machine_grant, sign_in
from asyncfc_mcp.downstream.oauth.token_endpoint import refresh, revoke
from asyncfc_mcp.errors import SignInFailed
from tests.support.authorization_server import AuthorizationServer, ProtectedServer, browse, get
from tests.support.credential_stores import MemoryStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def visit(url: str) -> tuple[int, str]:
    """Follow a sign-in to the loopback redirect; return the status and the page there."""
    return get(browse(url))


@dataclass
class World:
    """An authorization server, a server that it protects, a store, and a browser."""

    authorization: AuthorizationServer
    mcp: ProtectedServer
    store: MemoryStore = field(default_factory=MemoryStore)
    port: int = field(default_factory=free_port)
    shown: list[str] = field(default_factory=list)
    pages: list[tuple[int, str]] = field(default_factory=list)

    @property
    def redirect_uri(self) -> str:
        return f"http://127.0.0.1:{self.port}/callback"

    def spec(self, **oauth: Any) -> HttpSpec:
        return HttpSpec(self.mcp.url, oauth=OAuthSpec(**{"callback_port": self.port, **oauth}))

    async def show(self, url: str) -> None:
        """Play the browser."""
        self.shown.append(url)
        self.pages.append(await anyio.to_thread.run_sync(visit, url))

    async def sign_in(self, *needed: str, **oauth: Any) -> Grant:
        with anyio.fail_after(20):
            return await sign_in("s", self.spec(**oauth), self.store, scopes=needed, show=self.show)

    def add_client(self, **known: Any) -> None:
        """Register a client by hand."""
        self.authorization.add_client("by-hand", redirect_uris=(self.redirect_uri,), **known)

    def asked(self, number: int = -1) -> dict[str, str]:
        """Parameters of an address that the browser was shown."""
        return {key: value for key, (value,) in parse_qs(urlsplit(self.shown[number]).query).items()}

    def accepts(self, grant: Grant) -> bool:
        return self.authorization.check(grant.access_token, self.mcp.url) is not None


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[AuthorizationServer, ProtectedServer]]:
    with AuthorizationServer() as authorization, ProtectedServer(authorization) as mcp:
        yield authorization, mcp


@pytest.fixture
def world(servers: tuple[AuthorizationServer, ProtectedServer]) -> World:
    for each in servers:
        each.reset()
    return World(*servers)


# --- the whole -----------------------------------------------------------------------------------------------------


async def test_a_first_sign_in_registers_and_saves_a_grant(world: World):
    """From the challenge to tokens that the server accepts, with everything that a later refresh needs."""
    grant = await world.sign_in()
    assert world.accepts(grant)
    assert world.store.load_grant("s", world.mcp.url) == grant
    assert grant.scopes == ("read", "offline_access")
    assert 3500 < (grant.expires_at or 0) - time.time() <= 3600
    assert world.pages[0][0] == 200
    registered = next(iter(world.authorization.clients.values())).metadata
    assert registered["application_type"] == "native"
    assert registered["redirect_uris"] == [world.redirect_uri, f"http://localhost:{world.port}/callback"]
    assert registered["token_endpoint_auth_method"] == "none"
    renewed = await refresh("s", world.spec(), world.store, grant)
    assert world.accepts(renewed)
    assert renewed.refresh_token != grant.refresh_token
    assert renewed.obtained_at > grant.obtained_at
    assert await revoke("s", world.spec(), world.store, renewed)
    assert not world.accepts(renewed)
    resources = [params.get("resource") for what, params in world.authorization.seen if what[:5] in ("autho", "token")]
    assert resources == [world.mcp.url] * 3


async def test_no_secret_is_in_a_text_or_a_repr(world: World):
    """Neither tokens, nor the code, nor the verifier, nor the state."""
    attempt = SignIn("s", world.spec(), world.store)
    request = await attempt.begin()
    redirected = await anyio.to_thread.run_sync(browse, request.url)
    grant = await attempt.complete(request, redirected)
    with pytest.raises(TokenRefused) as caught:  # a code is valid once
        await attempt.complete(request, redirected)
    code = parse_qs(urlsplit(redirected).query)["code"][0]
    texts = f"{request!r} {grant!r} {caught.value} {world.store.registrations!r}"
    for secret in (code, request.verifier, request.state, grant.access_token, grant.refresh_token or ""):
        assert secret
        assert secret not in texts


async def test_a_pasted_address_completes_a_sign_in(world: World):
    """Without a browser on this machine, and without a listener."""
    attempt = SignIn("s", world.spec(), world.store)
    request = await attempt.begin()
    assert world.accepts(await attempt.complete(request, f"{await anyio.to_thread.run_sync(browse, request.url)}\n"))


async def test_a_second_sign_in_uses_the_same_client(world: World):
    """Whatever the server; the client is of the issuer and the redirect."""
    first = await world.sign_in()
    second = await world.sign_in()
    assert first.client_id == second.client_id
    assert world.authorization.requests["register"] == 1
    with ProtectedServer(world.authorization) as other:
        world.mcp = other
        assert (await world.sign_in()).client_id == first.client_id


@pytest.mark.parametrize("path", ["/tenant1", "/a/b"])
async def test_an_issuer_with_a_path(path: str):
    """RFC 8414 inserts it."""
    with AuthorizationServer(path) as authorization, ProtectedServer(authorization) as mcp:
        world = World(authorization, mcp)
        assert world.accepts(await world.sign_in())


async def test_a_server_without_metadata_of_its_own_is_its_own_issuer(world: World):
    """The authorization server of 2025-03-26 has the server's origin; here, one with another has no metadata."""
    world.mcp.serves_metadata = world.mcp.says_metadata = False
    with pytest.raises(NoAuthorizationServer, match="authServerMetadataUrl"):
        await world.sign_in()
    url = f"{world.authorization.issuer}/.well-known/oauth-authorization-server"
    assert world.accepts(await world.sign_in(metadata_url=url))


async def test_a_server_that_asks_for_nothing_is_said_to(world: World):
    """A sign-in that nobody needs would only confuse."""

    class Open(ProtectedServer):
        async def _mcp(self, request: Any) -> Any:
            request.scope["headers"] = [
                *request.scope["headers"],
                (
                    b"authorization",
                    f"Bearer {world.authorization.grant_tokens(resource=self.url)['access_token']}".encode(),
                ),
            ]
            return await super()._mcp(request)

    with Open(world.authorization) as mcp:
        world.mcp = mcp
        mcp.serves_metadata = False
        with pytest.raises(NoAuthorizationServer, match="accepts requests without one"):
            await world.sign_in()


async def test_the_probe_has_the_headers_of_the_server_and_the_rest_has_none(world: World):
    """A gateway may want them; the authorization server must not see them."""
    spec = replace(world.spec(), headers={"Authorization": "Basic c2VjcmV0"})
    with anyio.fail_after(20):
        await sign_in("s", spec, world.store, show=world.show)
    assert world.mcp.authorizations[0] == "Basic c2VjcmV0"


async def test_given_challenges_spare_the_probe(world: World):
    """They came with the response that asked for the sign-in."""
    challenge = f'Bearer resource_metadata="{world.mcp.metadata_url}", scope="write"'
    request = await SignIn("s", world.spec(), world.store, challenges=[challenge]).begin()
    assert request.scopes == ("write", "offline_access")
    assert world.mcp.authorizations == []


async def test_users_sign_in_to_several_servers_at_once(world: World):
    """All pages are open before the first is answered, and all return to one port."""
    callbacks = Callbacks()
    grants: list[Grant] = []
    both = anyio.Event()
    with ProtectedServer(world.authorization) as other:

        async def one(name: str, url: str) -> None:
            async def show(url: str) -> None:
                world.shown.append(url)
                if len(world.shown) == 2:
                    both.set()
                await both.wait()
                await anyio.to_thread.run_sync(visit, url)

            spec = replace(world.spec(), url=url)
            grants.append(await sign_in(name, spec, world.store, show=show, callbacks=callbacks))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one, "a", world.mcp.url)
                tasks.start_soon(one, "b", other.url)
        assert {grant.resource for grant in grants} == {world.mcp.url, other.url}
        assert {name for name, _ in world.store.grants} == {"a", "b"}
        for grant in grants:  # both belong to the one registration that is kept
            assert (await refresh("s", world.spec(), world.store, grant)).access_token


# --- scopes --------------------------------------------------------------------------------------------------------


async def test_scopes_of_the_challenge_go_before_those_of_the_resource(world: World):
    """And those that are needed before both; what was granted is kept, configured ones replace all."""
    world.mcp.scope = "write"
    assert (await world.sign_in()).scopes == ("write", "offline_access")
    assert (await world.sign_in("read")).scopes == ("write", "offline_access", "read")
    assert world.asked()["prompt"] == "consent"
    assert (await world.sign_in("write", scopes=("read",))).scopes == ("read", "offline_access")


async def test_no_scope_is_sent_where_nobody_names_one(world: World):
    """The authorization server has defaults then."""
    world.mcp.metadata = {"scopes_supported": None}
    grant = await world.sign_in()
    assert "scope" not in world.asked()
    assert grant.scopes == ("read",)


# --- identity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("supported", "method"),
    [
        (None, "client_secret_basic"),
        (["client_secret_post", "client_secret_basic"], "client_secret_basic"),
        (["client_secret_post"], "client_secret_post"),
    ],
)
async def test_a_configured_client_is_used_before_all_others(world: World, supported: list[str] | None, method: str):
    """With its secret, by a method that the server has; also in a refresh. Special characters are encoded."""
    world.authorization.metadata = {"token_endpoint_auth_methods_supported": supported}
    world.add_client(secret="s3cret:+% ü", auth_method=method)
    config = {"client_id": "by-hand", "client_secret": "s3cret:+% ü", "client_metadata_url": "https://me.example/c"}
    grant = await world.sign_in(**config)
    assert (grant.client_id, grant.auth_method) == ("by-hand", method)
    assert world.authorization.requests["register"] == 0
    assert world.store.registrations == {}
    renewed = await refresh("s", world.spec(**config), world.store, grant)
    assert world.accepts(renewed)
    assert await revoke("s", world.spec(**config), world.store, renewed)


async def test_a_metadata_document_goes_before_registration(world: World):
    """Where the server takes one; otherwise this client is registered."""
    document = "https://me.example/client.json"
    assert (await world.sign_in(client_metadata_url=document)).client_id != document
    world.authorization.metadata = {"client_id_metadata_document_supported": True}
    grant = await world.sign_in(client_metadata_url=document)
    assert grant.client_id == document
    assert world.authorization.requests["register"] == 1
    assert world.accepts(await refresh("s", world.spec(client_metadata_url=document), world.store, grant))


async def test_without_any_identity_the_error_says_what_to_configure(world: World):
    """Where to register, with which redirect, and where to put it."""
    world.authorization.registers = False
    with pytest.raises(NoClientId) as caught:
        await world.sign_in()
    for part in (world.authorization.issuer, world.redirect_uri, '"oauth": {"clientId": …}'):
        assert part in str(caught.value)


async def test_a_registered_client_with_a_secret_keeps_it(world: World):
    """The server may insist on one."""
    world.authorization.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    grant = await world.sign_in()
    assert grant.auth_method == "client_secret_post"
    assert world.accepts(await refresh("s", world.spec(), world.store, grant))


@pytest.mark.parametrize(
    "answers",
    [
        {"client_id": None},
        {"client_id": ""},
        {"client_id": "x" * 5000},
        {"client_id": "é"},
        {"token_endpoint_auth_method": "tls_client_auth"},
        {"token_endpoint_auth_method": "client_secret_basic"},
    ],
)
async def test_an_unusable_registration_is_refused(world: World, answers: dict[str, Any]):
    """In words, and it is not kept."""
    world.authorization.registration_answers = answers
    with pytest.raises(RegistrationRefused):
        await world.sign_in()
    assert world.store.registrations == {}


async def test_a_registration_asks_for_less_where_more_is_refused(world: World):
    """Some servers refuse a host name in a loopback redirect, or scopes."""
    world.authorization.refuses_registration = lambda wanted: (
        "invalid_redirect_uri" if len(wanted["redirect_uris"]) > 1 or "scope" in wanted else ""
    )
    assert world.accepts(await world.sign_in())


async def test_an_unknown_registration_is_made_again_before_the_user_sees_it(world: World):
    """The server would only show an error page, and never redirect."""
    await world.sign_in()
    world.authorization.clients.clear()
    assert world.accepts(await world.sign_in())
    assert world.authorization.requests["register"] == 2
    assert len(world.shown) == 2


async def test_a_registration_that_dies_at_the_token_endpoint_is_made_again_once(world: World):
    """The user is shown a second address. A server that refuses every client is not asked for ever."""
    await world.sign_in()
    world.authorization.forgotten |= set(world.authorization.clients)
    assert world.accepts(await world.sign_in())
    assert world.authorization.requests["register"] == 2
    assert len(world.shown) == 3
    world.store.registrations.clear()
    await world.sign_in()
    world.authorization.metadata = {"token_endpoint": f"{world.mcp.origin}/nothing"}
    with pytest.raises(TokenRefused):
        await world.sign_in()


async def test_a_registration_without_a_scope_is_made_again(world: World):
    """Some servers allow only the scopes that a client was registered with."""
    await world.sign_in()
    registration = next(iter(world.store.registrations.values()))
    world.authorization.approves, world.authorization.denial = False, "invalid_scope"
    attempt = SignIn("s", world.spec(), world.store)
    request = await attempt.begin()
    assert request.reused
    with pytest.raises(RegistrationDead):
        await attempt.complete(request, await anyio.to_thread.run_sync(browse, request.url))
    assert registration not in world.store.registrations.values()


async def test_an_expired_secret_is_a_dead_registration(world: World):
    """It is dropped without asking."""
    world.authorization.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_basic"]}
    world.authorization.registration_answers = {"client_secret_expires_at": int(time.time()) + 10}
    await world.sign_in()
    await world.sign_in()
    assert world.authorization.requests["register"] == 2


async def test_a_registration_that_is_gone_cannot_refresh(world: World):
    """Another client must not use its tokens."""
    grant = await world.sign_in()
    world.store.registrations.clear()
    with pytest.raises(ClientUnknown):
        await refresh("s", world.spec(), world.store, grant)
    world.store.save_registration(Registration(grant.issuer, "other", "registered", redirect_uri=grant.redirect_uri))
    with pytest.raises(ClientUnknown):
        await refresh("s", world.spec(), world.store, grant)


# --- several authorization servers ---------------------------------------------------------------------------------


async def test_credentials_never_reach_another_authorization_server(world: World):
    """When the server names another one, this client is registered there."""
    first = await world.sign_in()
    with AuthorizationServer() as other:
        world.mcp.metadata = {"authorization_servers": [other.issuer]}
        world.authorization, before = other, world.authorization
        second = await world.sign_in()
        assert (second.issuer, other.requests["register"]) == (other.issuer, 1)
        assert first.client_id not in str(other.seen)
        assert before.issuer != other.issuer


async def test_a_configured_client_is_refused_at_another_authorization_server(world: World):
    """It was registered by hand at one; its secret must not go elsewhere."""
    world.add_client(secret="s3cret", auth_method="client_secret_basic")
    config = {"client_id": "by-hand", "client_secret": "s3cret"}
    await world.sign_in(**config)
    with AuthorizationServer() as other:
        world.mcp.metadata = {"authorization_servers": [other.issuer]}
        with pytest.raises(IssuerChanged, match="asyncfc-mcp logout s"):
            await world.sign_in(**config)
        world.store.grants.clear()
        with pytest.raises(IssuerChanged):
            await world.sign_in(**config, issuer=world.authorization.issuer)
        url = f"{other.issuer}/.well-known/oauth-authorization-server"
        with pytest.raises(IssuerChanged):
            await world.sign_in(**config, issuer=world.authorization.issuer, metadata_url=url)
        assert not {"authorize", "token:authorization_code"} & set(other.requests)


async def test_of_several_authorization_servers_the_usable_one_is_taken(world: World):
    """And the one of the last sign-in before others."""
    with AuthorizationServer() as other:
        other.metadata = {"code_challenge_methods_supported": None}
        issuers = ["http://127.0.0.1:1", "http://as.example", other.issuer, world.authorization.issuer]
        world.mcp.metadata = {"authorization_servers": issuers}
        assert (await world.sign_in()).issuer == world.authorization.issuer
        other.metadata = {}
        assert (await world.sign_in()).issuer == world.authorization.issuer
        world.store.grants.clear()
        request = await SignIn("s", world.spec(), world.store).begin()
        assert request.server.issuer == other.issuer


async def test_a_mixed_up_redirect_is_refused_before_its_code_is_sent(world: World):
    """RFC 9207: the code of one server must not reach another."""
    world.authorization.sends_iss = "wrong"
    with pytest.raises(WrongResponseIssuer):
        await world.sign_in()
    assert world.authorization.requests["token:authorization_code"] == 0
    world.authorization.sends_iss = "absent"
    assert world.accepts(await world.sign_in())
    world.authorization.metadata = {"authorization_response_iss_parameter_supported": True}
    with pytest.raises(WrongResponseIssuer):
        await world.sign_in()


async def test_metadata_of_another_resource_are_refused(world: World):
    """Nothing is asked of any authorization server."""
    world.mcp.metadata = {"resource": "https://bank.example/mcp"}
    with pytest.raises(WrongResource, match=r"https://bank\.example/mcp"):
        await world.sign_in()
    assert not world.authorization.requests


async def test_a_server_without_tls_gets_no_token(world: World):
    """It would be sent in the clear."""
    with pytest.raises(AddressRefused, match="not an https URL"):
        await SignIn("s", HttpSpec("http://mcp.example/mcp"), world.store).begin()


# --- what goes wrong -----------------------------------------------------------------------------------------------


async def test_a_user_who_denies_is_quoted(world: World):
    """In the program; the page in the browser has words of ours."""
    world.authorization.approves = False
    with pytest.raises(AuthorizationRefused, match=r"access was denied .*the user said no"):
        await world.sign_in()
    assert "was not completed" in world.pages[0][1]
    assert world.store.grants == {}


async def test_a_browser_that_does_not_return_ends_the_sign_in(world: World):
    """After a time; the port is free again."""

    async def look_away(url: str) -> None:
        pass

    for _ in range(2):
        with pytest.raises(NobodySignedIn):
            await sign_in("s", world.spec(), world.store, show=look_away, timeout_s=0.01)


async def test_a_port_in_use_is_said_before_anything_is_asked(world: World):
    """No registration is left behind."""
    with socket.create_server(("127.0.0.1", world.port)), pytest.raises(CallbackUnavailable):
        await world.sign_in()
    assert not world.authorization.requests


async def test_a_refresh_tells_a_dead_grant_from_an_outage(world: World):
    """Only the first needs a new sign-in."""
    grant = await world.sign_in()
    world.authorization.revoke_all()
    with pytest.raises(TokenRefused) as caught:
        await refresh("s", world.spec(), world.store, grant)
    assert (caught.value.grant_is_dead, caught.value.client_is_dead) == (True, False)
    world.authorization.clients.clear()
    with pytest.raises(TokenRefused) as caught:
        await refresh("s", world.spec(), world.store, grant)
    assert (caught.value.grant_is_dead, caught.value.client_is_dead) == (False, True)
    with pytest.raises(AuthorizationServerUnreachable, match="try again later"):
        await refresh("s", world.spec(), world.store, replace(grant, token_endpoint="http://127.0.0.1:1/token"))


async def test_a_refresh_keeps_what_the_answer_leaves_out(world: World):
    """The refresh token of a server that does not rotate, and the scopes."""
    world.authorization.rotates = False
    grant = await world.sign_in()
    renewed = await refresh("s", world.spec(), world.store, grant)
    assert renewed.refresh_token == grant.refresh_token
    assert renewed.scopes == grant.scopes
    assert renewed.access_token != grant.access_token
    assert (renewed.redirect_uri, renewed.issuer) == (grant.redirect_uri, grant.issuer)


async def test_nothing_is_revoked_at_a_server_that_cannot(world: World):
    """It says so, so that the user can be told."""
    world.authorization.metadata = {"revocation_endpoint": None}
    assert not await revoke("s", world.spec(), world.store, await world.sign_in())


# --- machines ------------------------------------------------------------------------------------------------------


def key_pair() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return private, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "private_key_jwt"])
async def test_a_machine_gets_tokens_without_a_user(world: World, method: str):
    """With a secret, or a signed JWT whose audience is the issuer."""
    private, public = key_pair()
    config: dict[str, Any] = {"client_id": "robot", "grant": "client_credentials"}
    if method == "private_key_jwt":
        config |= {"private_key": private, "key_id": "k1"}
        world.authorization.add_client("robot", auth_method=method, public_key=public)
    else:
        config |= {"client_secret": "s3cret"}
        world.authorization.add_client("robot", auth_method=method, secret="s3cret")
        world.authorization.metadata = {"token_endpoint_auth_methods_supported": [method]}
    grants = [await machine_grant("s", world.spec(**config), world.store, scopes=("write",)) for _ in range(2)]
    assert all(map(world.accepts, grants))
    assert grants[0].scopes == ("write",)
    assert world.store.load_grant("s", world.mcp.url) == grants[1]
    assert {"authorize", "register"} & set(world.authorization.requests) == set()
    params = world.authorization.seen[-1][1]
    assert (params["resource"], params["scope"]) == (world.mcp.url, "write")
    if method == "private_key_jwt":
        assertion = params["client_assertion"]
        claims = jwt.decode(assertion, options={"verify_signature": False})
        assert (claims["iss"], claims["sub"], claims["aud"]) == ("robot", "robot", world.authorization.issuer)
        assert 0 < claims["exp"] - time.time() <= 60
        assert jwt.get_unverified_header(assertion) == {"alg": "ES256", "kid": "k1", "typ": "JWT"}


async def test_a_user_can_sign_in_with_a_key_in_place_of_a_secret(world: World):
    """The key authenticates the client at every token request."""
    private, public = key_pair()
    world.add_client(auth_method="private_key_jwt", public_key=public)
    grant = await world.sign_in(client_id="by-hand", private_key=private)
    renewed = await refresh("s", world.spec(client_id="by-hand", private_key=private), world.store, grant)
    assert world.accepts(renewed)


async def test_a_machine_without_credentials_is_told_what_to_configure(world: World):
    """A client without a secret is nobody."""
    for config in ({}, {"client_id": "robot"}):
        with pytest.raises(NoCredentials, match="clientSecret"):
            await machine_grant("s", world.spec(**config), world.store)


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "HS256", "none", "EdDSA"])
async def test_an_unusable_key_is_said_without_its_text(world: World, algorithm: str):
    """A shared secret is no private key, and `none` is no algorithm."""
    private = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0LWtleQ==\n-----END PRIVATE KEY-----"
    with pytest.raises(KeyUnusable) as caught:
        await machine_grant("s", world.spec(client_id="robot", private_key=private, algorithm=algorithm), world.store)
    assert "c2VjcmV0" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


async def test_a_server_of_the_older_transport_is_asked_in_its_way(world: World):
    """With a GET: a POST to the address of its stream would be refused for another reason."""
    world.mcp.scope = "write"
    spec = replace(world.spec(), kind="sse")
    request = await SignIn("s", spec, world.store).begin()
    assert request.scopes == ("write", "offline_access")


async def test_a_server_that_does_not_answer_can_be_signed_in_to_all_the_same(world: World):
    """Its metadata say how; it may wake up only with a token."""
    spec = replace(world.spec(), headers={"bad header": "x"})  # no request can be made
    assert (await SignIn("s", spec, world.store).begin()).server.issuer == world.authorization.issuer


async def test_slow_servers_do_not_hold_a_sign_in(world: World, monkeypatch: pytest.MonkeyPatch):
    """All requests before the browser have one limit."""
    monkeypatch.setattr(sign_in_module, "DISCOVERY_S", 0.2)
    world.authorization.token_gate.clear()
    world.authorization.add_client("robot", auth_method="client_secret_basic", secret="s3cret")
    try:
        with pytest.raises(AuthorizationServerUnreachable, match=r"within 0\.2 s; try again later"):
            await machine_grant("s", world.spec(client_id="robot", client_secret="s3cret"), world.store)
    finally:
        world.authorization.token_gate.set()


async def test_every_failure_is_a_text_for_people(world: World):
    """One line that begins with the server."""
    world.authorization.registers = False
    with pytest.raises(SignInFailed, match=r"^sign-in to 's' failed: ") as caught:
        await world.sign_in()
    assert str(caught.value).isprintable()


def test_a_page_about_an_unknown_client_is_recognised():
    """In the words of several servers; a sign-in page is none."""
    dead = [
        '{"error":"invalid_client","error_description":"Invalid client_id"}',
        '{"error":"invalid_request","error_description":"Client ID \'abc\' not found"}',
        "<h1>oops</h1><pre><strong>error</strong>: invalid_client</pre>",
        "<p>Client not found.</p>",
        "Unknown client: abc",
        "The client identifier is not registered",
    ]
    alive = ["<h1>Sign in</h1>", "Your session is invalid", "Please enable JavaScript", "Page not found", ""]
    assert [bool(sign_in_module._DEAD_PAGE.search(page)) for page in dead] == [True] * len(dead)
    assert [bool(sign_in_module._DEAD_PAGE.search(page)) for page in alive] == [False] * len(alive)
