"""Keys of an authorization server: when they are fetched, which are used, and what happens while it is down."""

import json
from typing import Any

import anyio
import pytest

from asyncfc_mcp.transports.http.auth import jwt_tokens
from asyncfc_mcp.transports.http.auth.authenticator import Access, CannotAuthenticate, NotAuthenticated, Token
from asyncfc_mcp.transports.http.auth.jwt_tokens import JwtAuthenticator
from asyncfc_mcp.transports.http.auth.signing_keys import (
    MOST_WAITING,
    REFRESH_S,
    STALE_S,
    UNKNOWN_KEY_S,
    FetchFailed,
    SigningKeys,
    UnusableIssuer,
    check_issuer,
    metadata_urls,
    read_keys,
)
from tests.support.token_issuer import AUDIENCE, TokenIssuer
from tests.support.virtual_time import on_virtual_time, settle


def now() -> float:
    return 1e9 + anyio.current_time()


def token_of(text: str) -> Token:
    found = Token.of(f"Bearer {text}".encode())
    assert found is not None
    return found


class Lab:
    """An issuer, its keys, and an authenticator over them."""

    def __init__(self) -> None:
        self.issuer = TokenIssuer(clock=now)
        self.keys = SigningKeys(self.issuer.url, self.issuer.fetch)
        self.authenticator = JwtAuthenticator(self.issuer.url, [AUDIENCE], self.keys, clock=now)

    async def enter(self, text: str) -> Access:
        token = token_of(text)
        return self.authenticator.known(token) or await self.authenticator.check(token)

    @property
    def fetches(self) -> int:
        return self.issuer.fetched.count(f"{self.issuer.url}/keys")


@on_virtual_time
async def test_a_known_token_costs_a_look_up():
    """No fetch, no signature: the very same access until it expires."""
    it = Lab()
    text = it.issuer.token()
    access = await it.enter(text)
    fetched = len(it.issuer.fetched)
    it.issuer.down = True
    assert it.authenticator.known(token_of(text)) is access
    assert len(it.issuer.fetched) == fetched


@on_virtual_time
async def test_many_unknown_tokens_fetch_the_keys_once():
    """Requests that come together wait for one fetch."""
    it = Lab()
    entered: list[Access] = []

    async def enter(number: int) -> None:
        entered.append(await it.enter(it.issuer.token(sub=f"s{number}")))

    async with anyio.create_task_group() as tg:
        for number in range(20):
            tg.start_soon(enter, number)
    assert len(entered) == 20
    assert it.fetches == 1


@on_virtual_time
async def test_few_requests_wait_for_a_server_that_does_not_answer():
    """They are not authenticated, and each has a connection: more are refused at once."""
    it = Lab()
    outcomes: list[str] = []

    async def hang(url: str) -> bytes:
        await anyio.sleep(10)
        raise FetchFailed(url, "did not answer")

    authenticator = JwtAuthenticator(it.issuer.url, [AUDIENCE], SigningKeys(it.issuer.url, hang), clock=now)

    async def enter(number: int) -> None:
        with pytest.raises(CannotAuthenticate):
            await authenticator.check(token_of(it.issuer.token(sub=f"s{number}")))
        outcomes.append("refused")

    async with anyio.create_task_group() as tg:
        for number in range(MOST_WAITING + 20):
            tg.start_soon(enter, number)
        await settle()
        assert len(outcomes) == 20
    assert len(outcomes) == MOST_WAITING + 20


@on_virtual_time
async def test_a_new_key_is_fetched_when_it_is_used_and_made_up_ones_are_not():
    """An unknown key ID fetches the keys, but not more often than an interval: everybody can send one."""
    it = Lab()
    await it.enter(it.issuer.token())
    await anyio.sleep(UNKNOWN_KEY_S)
    it.issuer.add_key("k2", "ES256")
    await it.enter(it.issuer.token("k2"))
    assert it.fetches == 2
    for number in range(100):
        with pytest.raises(NotAuthenticated):
            await it.enter(it.issuer.token(headers={"kid": f"made-up-{number}"}))
    assert it.fetches == 2
    await anyio.sleep(UNKNOWN_KEY_S)
    with pytest.raises(NotAuthenticated):
        await it.enter(it.issuer.token(headers={"kid": "made-up"}))
    assert it.fetches == 3


@on_virtual_time
async def test_a_withdrawn_key_counts_no_more():
    """Neither for new tokens nor for those that it has verified; the others stay known."""
    it = Lab()
    it.issuer.add_key("k2", "ES256")
    async with anyio.create_task_group() as tg:
        await tg.start(it.authenticator.run)
        await settle()
        leaked, good = it.issuer.token(exp=now() + 9e4), it.issuer.token("k2", exp=now() + 9e4)
        stolen, kept = await it.enter(leaked), await it.enter(good)
        withdrawn = it.issuer.keys.pop("k1")
        await anyio.sleep(REFRESH_S + 1)
        assert withdrawn
        assert stolen.revoked, "also for streams, whose token does not come again"
        with pytest.raises(NotAuthenticated):
            await it.enter(leaked)
        assert await it.enter(good) is kept
        tg.cancel_scope.cancel()


@on_virtual_time
async def test_a_server_that_is_down_keeps_nobody_out_who_is_known():
    """The last keys are used for a day; without any, tokens cannot be checked, which is no refusal."""
    it = Lab()
    it.issuer.down = True
    with pytest.raises(CannotAuthenticate):
        await it.enter(it.issuer.token())
    async with anyio.create_task_group() as tg:
        await tg.start(it.authenticator.run)
        await anyio.sleep(60)
        it.issuer.down = False
        await anyio.sleep(60)
        await it.enter(it.issuer.token())
        it.issuer.down = True
        await anyio.sleep(STALE_S - 2 * REFRESH_S)
        await it.enter(it.issuer.token(sub="bob"))
        with pytest.raises(CannotAuthenticate):  # it may be a new one
            await it.enter(it.issuer.token(headers={"kid": "new"}))
        await anyio.sleep(4 * REFRESH_S)
        with pytest.raises(CannotAuthenticate):
            await it.enter(it.issuer.token(sub="carol"))
        it.issuer.down = False
        await anyio.sleep(60)
        await it.enter(it.issuer.token(sub="carol"))
        tg.cancel_scope.cancel()


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://login.example/"},
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": "http://login.example/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "https://user:pass@login.example/keys"},
    ],
)
@on_virtual_time
async def test_metadata_of_another_issuer_or_an_unsafe_address_is_not_used(metadata: dict[str, Any]):
    """The issuer is compared character by character."""
    it = Lab()
    it.issuer.more_metadata = metadata
    with pytest.raises(CannotAuthenticate):
        await it.enter(it.issuer.token())
    assert it.fetches == 0


@on_virtual_time
async def test_the_openid_form_of_the_metadata_is_found():
    """Where the OAuth form is missing; an error of the server is not taken for that."""
    asked: list[str] = []
    documents = {
        "https://login.example/.well-known/openid-configuration/a": None,
        "https://login.example/a/.well-known/openid-configuration": {
            "issuer": "https://login.example/a",
            "jwks_uri": "https://keys.example/k",
        },
        "https://keys.example/k": {"keys": [TokenIssuer().public_jwk("k1")]},
    }

    async def fetch(url: str) -> bytes:
        asked.append(url)
        if (document := documents.get(url)) is None:
            raise FetchFailed(url, "answered HTTP 404", missing=True)
        return json.dumps(document).encode()

    keys = SigningKeys("https://login.example/a", fetch)
    assert len(await keys.find("k1", "ES256")) == 1
    assert asked == [*metadata_urls("https://login.example/a"), "https://keys.example/k"]


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"{" * 99_999, b'{"keys": {}}', b'{"keys": []}', b"\xff", b'{"keys": [[[]]]}', RuntimeError()],
)
@on_virtual_time
async def test_no_answer_of_the_server_ends_the_bridge(document: Any):
    """Whatever it sends as metadata or keys: tokens cannot be checked until it sends better."""
    for broken in ("/.well-known/oauth-authorization-server", "/keys"):
        it = Lab()
        fetch = it.issuer.fetch

        async def hostile(url: str, broken: str = broken, fetch: Any = fetch) -> bytes:
            if not url.endswith(broken):
                return await fetch(url)
            if isinstance(document, Exception):
                raise document
            return document

        it.keys._fetch = hostile
        async with anyio.create_task_group() as tg:
            await tg.start(it.authenticator.run)
            await anyio.sleep(20)
            with pytest.raises(CannotAuthenticate):
                await it.enter(it.issuer.token())
            it.keys._fetch = fetch
            await anyio.sleep(20)
            await it.enter(it.issuer.token())
            tg.cancel_scope.cancel()


@on_virtual_time
async def test_checked_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch):
    """The least recently used one is dropped, and checked again if it is used."""
    monkeypatch.setattr(jwt_tokens, "MOST_CHECKED", 2)
    it = Lab()
    texts = [it.issuer.token(sub=f"s{number}") for number in range(3)]
    for text in (texts[0], texts[1], texts[0], texts[2]):
        await it.enter(text)
    assert [it.authenticator.known(token_of(text)) is not None for text in texts] == [True, False, True]


def test_only_public_keys_for_signatures_are_read():
    """No secrets, no keys for encryption, no weak and no broken ones."""
    issuer = TokenIssuer()
    issuer.add_key("rsa", "RS256")
    good, rsa = issuer.public_jwk("k1"), issuer.public_jwk("rsa")
    entries: list[Any] = [
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        {**good, "use": "enc"},
        {**good, "key_ops": ["deriveKey"]},
        {**good, "alg": "HS256"},
        {**good, "crv": "P-384"},
        {**good, "crv": "secp256k1"},
        {**good, "x": "AA"},
        {**good, "x": 7},
        {**rsa, "n": "AQAB"},
        {**rsa, "n": None},
        "k1",
        None,
    ]
    assert read_keys({"keys": entries}) == []
    assert read_keys({"keys": good}) == read_keys({}) == []
    [key] = read_keys({"keys": [*entries, {**rsa, "d": "AQAB", "alg": None} | {"alg": "PS256"}]})
    assert key.algorithms == {"PS256"}


@pytest.mark.parametrize(
    "issuer",
    [
        "login.example",
        "http://login.example",
        "https://login.example?tenant=1",
        "https://login.example/#a",
        "https://login.example/.well-known/openid-configuration",
        "https://u:p@login.example",
        "ftp://login.example",
        "https://",
        "https://login.example:port",
        "https://login.example/\n",
    ],
)
def test_an_issuer_is_an_address_that_nobody_can_change(issuer: str):
    """HTTP is for this machine only."""
    with pytest.raises(UnusableIssuer):
        check_issuer(issuer)
    assert check_issuer("http://127.0.0.1:8080") == "http://127.0.0.1:8080"
    assert check_issuer("https://login.example/tenant/v2.0") == "https://login.example/tenant/v2.0"
