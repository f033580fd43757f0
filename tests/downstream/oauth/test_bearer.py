"""Tokens of a server in a running bridge: renewed once for all requests, and never lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.requests import Request
from starlette.responses import Response

from asyncfc_mcp.config.model import HttpSpec, OAuthSpec
from asyncfc_mcp.downstream.http.client import HttpClient, read_start
from asyncfc_mcp.downstream.oauth import bearer
from asyncfc_mcp.downstream.oauth.bearer import BearerAuthorizer
from asyncfc_mcp.downstream.oauth.failures import IssuerChanged
from asyncfc_mcp.downstream.oauth.file_store import FileStore
from asyncfc_mcp.downstream.oauth.records import Grant, Registration
from asyncfc_mcp.downstream.oauth.sign_in import SignIn
from asyncfc_mcp.downstream.oauth.store import CredentialStore, StoreUnusable
from asyncfc_mcp.errors import NotAuthorized, SignInNeeded, TransportFailure
from tests.support.authorization_server import AuthorizationServer, Issued, ProtectedServer
from tests.support.credential_stores import MemoryStore

pytestmark = pytest.mark.anyio
MANY = 32
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
WRITE = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"write"}}'


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class MeetingServer(ProtectedServer):
    """Answers pings with a valid token once `meet` of them are in: calls that are made one after the other never are.

    Attributes:
        meet: 0 answers each at once.
    """

    meet = 0

    def __init__(self, authorization: AuthorizationServer) -> None:
        super().__init__(authorization)
        self._met = anyio.Event()
        self.inside = 0

    async def _mcp(self, request: Request) -> Response:
        response = await super()._mcp(request)
        if self.meet and response.status_code == 200:
            self.inside += 1
            if self.inside == self.meet:
                self._met.set()
            await self._met.wait()
        return response


@dataclass
class World:
    """An authorization server, a server that it protects, and a store with a grant for it."""

    authorization: AuthorizationServer
    mcp: MeetingServer
    store: CredentialStore = field(default_factory=MemoryStore)
    oauth: OAuthSpec = field(default_factory=lambda: OAuthSpec(client_id="client"))
    statuses: list[int] = field(default_factory=list)

    @property
    def spec(self) -> HttpSpec:
        return HttpSpec(self.mcp.url, oauth=self.oauth)

    @property
    def refreshes(self) -> int:
        return self.authorization.requests["token:refresh_token"]

    def grant(self, **members: Any) -> Grant:
        """Issue tokens as if someone had signed in, and return the grant."""
        return self.authorization.grant(self.mcp.url, **members)

    def sign_in(self, **members: Any) -> Grant:
        """Put such a grant into the store."""
        grant = self.grant(**members)
        self.store.save_grant("s", self.mcp.url, grant)
        return grant

    def almost_expired(self, **members: Any) -> Grant:
        """Put a grant into the store whose token is valid for ten seconds more."""
        now = self.authorization.clock()
        return self.sign_in(expires_at=now + 10, obtained_at=now - 3590, **members)

    def stored(self) -> Grant | None:
        return self.store.load_grant("s", self.mcp.url)

    def authorizer(self, store: CredentialStore | None = None) -> BearerAuthorizer:
        return BearerAuthorizer("s", self.spec, store or self.store)

    @asynccontextmanager
    async def open(self, authorizer: BearerAuthorizer | None = None) -> AsyncGenerator[HttpClient]:
        async with HttpClient(self.spec, authorizer or self.authorizer()) as http:
            with anyio.fail_after(30):
                yield http

    async def send(self, http: HttpClient, body: bytes = PING) -> int:
        async with http.stream("POST", http.url, {"content-type": "application/json"}, body) as response:
            await read_start(response)
            self.statuses.append(response.status_code)
            return response.status_code

    async def send_many(self, http: HttpClient) -> None:
        async with anyio.create_task_group() as tg:
            for _ in range(MANY):
                tg.start_soon(self.send, http)


@pytest.fixture
def world() -> Iterator[World]:
    with AuthorizationServer() as authorization, MeetingServer(authorization) as mcp:
        yield World(authorization, mcp)


# --- tokens are added ------------------------------------------------------------------------------------------------


async def test_a_fresh_token_needs_nothing_but_memory(world: World):
    """No store, no authorization server, and no other task is waited for."""
    grant = world.sign_in()
    it = world.authorizer()
    await it.headers()
    world.store = MemoryStore()
    coroutine = it.headers()
    with pytest.raises(StopIteration) as done:
        coroutine.send(None)
    assert done.value.value == {"authorization": f"Bearer {grant.access_token}"}
    assert sum(world.authorization.requests.values()) == 0


async def test_without_a_grant_the_server_says_what_it_needs(world: World):
    """The first request has no token, since the server may need none; the failure has the scopes of its challenge."""
    world.mcp.scope = "read write"
    async with world.open() as http:
        with pytest.raises(SignInNeeded, match="needs sign-in: asyncfc-mcp login s") as failure:
            await world.send(http)
    assert failure.value.scopes == ("read", "write")
    assert world.mcp.authorizations == [None]


async def test_a_sign_in_of_another_process_is_used_by_the_next_request(world: World):
    """It is looked for with each request while there is none, and noticed without one."""
    it = world.authorizer()
    async with world.open(it) as http:
        with pytest.raises(SignInNeeded):
            await world.send(http)
        assert not it.renewed()
        world.sign_in()
        assert it.renewed()
        assert await world.send(http) == 200
        assert it.renewed(), "whatever request was the first to find it"


@pytest.mark.parametrize("resource", ["https://other.example/mcp", "{origin}/other", "{origin}/mcp/deeper", "garbage"])
async def test_a_token_of_another_resource_is_never_sent(world: World, resource: str):
    """Whatever the store says."""
    world.sign_in(resource=resource.format(origin=world.mcp.origin))
    async with world.open() as http:
        with pytest.raises(SignInNeeded):
            await world.send(http)
    assert world.mcp.authorizations == [None]


async def test_a_token_of_another_client_is_not_used(world: World):
    """The configuration names a client now, and a refresh would fail."""
    world.sign_in(client_id="earlier")
    async with world.open() as http:
        with pytest.raises(SignInNeeded):
            await world.send(http)


async def test_the_resource_of_the_configuration_may_be_another_name(world: World):
    """It was asked for, so its tokens are sent."""
    world.oauth = replace(world.oauth, resource="urn:mine")
    world.mcp.checks_resource = False
    world.sign_in(resource="urn:mine")
    async with world.open() as http:
        assert await world.send(http) == 200


# --- renewal ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["expired", "revoked"])
async def test_many_requests_through_an_expired_token_renew_it_once(world: World, how: str):
    """All are answered, and all at once: each waits for the others at the server."""
    world.mcp.meet = MANY
    world.sign_in(**({"expires_at": 1.0} if how == "expired" else {}))
    world.authorization.expire_all()
    async with world.open() as http:
        await world.send_many(http)
    assert world.statuses == [200] * MANY
    assert world.refreshes == 1
    assert world.mcp.requests["401"] == (0 if how == "expired" else MANY)


async def test_a_token_is_renewed_ahead_of_its_expiry(world: World):
    """With the resource that it is for; the new one is stored, and used."""
    before = world.almost_expired()
    async with world.open() as http:
        assert await world.send(http) == 200
    after = world.stored()
    assert after is not None
    assert world.mcp.authorizations == [f"Bearer {after.access_token}"]
    assert after.refresh_token != before.refresh_token
    assert next(params for what, params in world.authorization.seen if what == "token:refresh_token")["resource"] == (
        world.mcp.url
    )


async def test_a_token_of_a_short_life_is_used(world: World):
    """It is not renewed for every request."""
    world.authorization.expires_in = 20
    world.sign_in(expires_at=1.0)
    async with world.open() as http:
        for _ in range(5):
            assert await world.send(http) == 200
    assert world.refreshes == 1


async def test_requests_do_not_wait_for_a_renewal_ahead_of_expiry(world: World):
    """They use the token that is still valid."""
    world.almost_expired()
    world.authorization.token_gate.clear()
    it = world.authorizer()
    async with world.open(it) as http, anyio.create_task_group() as tg:
        tg.start_soon(world.send, http)
        while world.refreshes == 0:  # noqa: ASYNC110 - it counts in another thread
            await anyio.sleep(0.002)
        assert await world.send(http) == 200
        assert world.statuses == [200], "the first one waits"
        world.authorization.token_gate.set()
    assert world.statuses == [200, 200]


async def test_two_processes_renew_a_token_once(world: World, tmp_path: Path):
    """The one that comes later takes what the other one has stored."""
    world.store = FileStore(tmp_path)
    world.sign_in()
    world.authorization.expire_all()
    async with world.open(world.authorizer()) as one, world.open(world.authorizer(FileStore(tmp_path))) as other:
        async with anyio.create_task_group() as tg:
            for http in (one, other) * 8:
                tg.start_soon(world.send, http)
    assert world.statuses == [200] * 16
    assert world.refreshes == 1


async def test_a_token_that_another_process_has_renewed_is_taken(world: World):
    """Before a refresh is tried: its own refresh token is not valid any more, and its use would revoke the new one."""
    it = world.authorizer()
    world.sign_in()
    async with world.open(it) as http:
        assert await world.send(http) == 200
        world.authorization.expire_all()
        world.sign_in()
        assert await world.send(http) == 200
    assert world.refreshes == 0


# --- renewal that fails ----------------------------------------------------------------------------------------------


async def test_a_revoked_grant_needs_a_sign_in(world: World):
    """All requests fail with the same text after one refresh; the grant is dropped."""
    world.sign_in()
    world.authorization.revoke_all()
    failures: list[SignInNeeded] = []

    async def send(http: HttpClient) -> None:
        with pytest.raises(SignInNeeded) as failure:
            await world.send(http)
        failures.append(failure.value)

    it = world.authorizer()
    async with world.open(it) as http, anyio.create_task_group() as tg:
        for _ in range(MANY):
            tg.start_soon(send, http)
    assert len(failures) == MANY
    assert all("needs sign-in" in each.message for each in failures)
    assert any("expired or was revoked" in each.message for each in failures)
    assert world.refreshes == 1
    kept = world.stored()
    assert kept is not None, "the client is configured"
    assert (kept.issuer, kept.access_token, kept.refresh_token) == (world.authorization.issuer, "", None)
    assert not it.renewed(), "its own change is none"


async def test_a_configured_client_stays_bound_to_its_issuer_once_its_grant_is_dead(world: World):
    """A server that names another authorization server by then does not get the client's secret sent there."""
    world.oauth = OAuthSpec(client_id="client", client_secret="s3cret")
    world.sign_in()
    world.authorization.revoke_all()
    async with world.open() as http:
        for _ in range(2):
            with pytest.raises(SignInNeeded):
                await world.send(http)
    assert world.mcp.authorizations.count("Bearer ") == 0
    with AuthorizationServer() as other:
        world.mcp.metadata = {"authorization_servers": [other.issuer]}
        with pytest.raises(IssuerChanged):
            await SignIn("s", world.spec, world.store).begin("http://127.0.0.1:28463/callback")
        assert "s3cret" not in str(other.seen)
    world.mcp.metadata = {}
    await SignIn("s", world.spec, world.store).begin("http://127.0.0.1:28463/callback")


async def test_nothing_stays_of_a_dead_grant_of_a_registered_client(world: World):
    """Its registration is kept by its issuer already."""
    world.oauth = OAuthSpec()
    world.store.save_registration(Registration(world.authorization.issuer, "client", "registered"))
    world.sign_in()
    world.authorization.revoke_all()
    async with world.open() as http:
        with pytest.raises(SignInNeeded):
            await world.send(http)
    assert world.stored() is None


async def test_a_client_that_is_no_longer_accepted_needs_a_sign_in(world: World):
    """The grant is kept: the registration may come back with the configuration."""
    grant = world.sign_in(expires_at=1.0)
    world.authorization.clients.clear()
    async with world.open() as http:
        with pytest.raises(SignInNeeded, match="registration of this client is no longer accepted"):
            await world.send(http)
    assert world.stored() == grant


async def test_tokens_of_a_client_that_is_not_configured_any_more_need_a_sign_in(world: World):
    """There is neither a configured client nor a registration that could renew them."""
    world.sign_in(expires_at=1.0)
    world.oauth = OAuthSpec()
    async with world.open() as http:
        with pytest.raises(SignInNeeded, match="not configured any more"):
            await world.send(http)


async def test_a_grant_that_replaced_a_dead_one_is_kept(world: World):
    """A sign-in while the refresh was out."""
    world.sign_in()
    world.authorization.revoke_all()
    world.authorization.token_gate.clear()
    async with world.open() as http, anyio.create_task_group() as tg:
        tg.start_soon(world.send, http)
        while world.refreshes == 0:  # noqa: ASYNC110 - it counts in another thread
            await anyio.sleep(0.002)
        signed_in = world.sign_in()
        world.authorization.token_gate.set()
    assert world.statuses == [200]
    assert world.stored() == signed_in


@pytest.mark.parametrize("out", [False, True])
async def test_a_sign_in_or_out_during_a_refresh_counts(world: World, out: bool):
    """Its result does not replace what was stored since."""
    world.sign_in(expires_at=1.0)
    world.authorization.token_gate.clear()
    failures: list[SignInNeeded] = []

    async def send(http: HttpClient) -> None:
        try:
            await world.send(http)
        except SignInNeeded as exc:
            failures.append(exc)

    signed_in = None
    async with world.open() as http, anyio.create_task_group() as tg:
        tg.start_soon(send, http)
        while world.refreshes == 0:  # noqa: ASYNC110 - it counts in another thread
            await anyio.sleep(0.002)
        if out:
            world.store.drop_grant("s", world.mcp.url)
        else:
            signed_in = world.sign_in()
        world.authorization.token_gate.set()
    assert world.stored() == signed_in
    assert (world.statuses, len(failures)) == (([], 1) if out else ([200], 0))


async def test_an_authorization_server_that_is_down_is_not_asked_all_the_time(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """A request that is repeated at once fails at once."""
    before = world.sign_in(expires_at=1.0)
    world.sign_in(expires_at=1.0, token_endpoint="http://127.0.0.1:1/token")
    it = world.authorizer()
    async with world.open(it) as http:
        with pytest.raises(TransportFailure):
            await world.send(http)
        asked: list[Grant | None] = []

        async def renew(stale: Grant | None, *rest: object) -> Grant:
            asked.append(stale)
            return before

        monkeypatch.setattr(it, "_renew_alone", renew)
        with pytest.raises(TransportFailure):
            await world.send(http)
        assert asked == []
        monkeypatch.setattr(it, "_unreachable_until", 0.0)
        await world.send(http)
        assert len(asked) == 1


async def test_an_authorization_server_that_is_down_is_no_reason_to_sign_in(world: World):
    """The failure is one of transport, for all that waited, after one attempt; the grant is kept."""
    grant = world.sign_in(expires_at=1.0, token_endpoint="http://127.0.0.1:1/token")
    failures: list[TransportFailure] = []

    async def send(http: HttpClient) -> None:
        with pytest.raises(TransportFailure, match="could not be authorized") as failure:
            await world.send(http)
        failures.append(failure.value)

    async with world.open() as http, anyio.create_task_group() as tg:
        for _ in range(MANY):
            tg.start_soon(send, http)
    assert not any(isinstance(each, SignInNeeded) or each.sent for each in failures)
    assert world.stored() == grant
    assert world.mcp.authorizations == []


async def test_a_valid_token_is_used_if_it_cannot_be_renewed_ahead(world: World):
    """Until it has expired."""
    world.almost_expired(token_endpoint="http://127.0.0.1:1/token")
    async with world.open() as http:
        assert await world.send(http) == 200


async def test_a_token_without_refresh_is_used_until_it_is_refused(world: World):
    """A clock may be wrong; the server decides."""
    world.sign_in(expires_at=1.0, refresh_token=None)
    async with world.open() as http:
        assert await world.send(http) == 200
        world.authorization.expire_all()
        with pytest.raises(SignInNeeded, match="no longer accepted"):
            await world.send(http)


async def test_a_server_that_refuses_every_token_is_given_up(world: World):
    """After a bounded number of renewals, with an error that says so."""
    world.sign_in()
    world.mcp.metadata = {}
    world.authorization.check = lambda token, resource=None: None  # type: ignore[method-assign]
    async with world.open() as http:
        with pytest.raises(NotAuthorized, match="refuses the credentials"):
            await world.send(http)
        with pytest.raises(NotAuthorized):
            await world.send(http)
        for _ in range(3):
            with pytest.raises(SignInNeeded, match="refuses the tokens"):
                await world.send(http)
    assert world.refreshes == bearer.MAX_RENEWALS[0]


async def test_an_answer_that_is_none_of_an_authorization_server_is_no_reason_to_sign_in(world: World):
    """Such as the page of a network that asks for a sign-in of its own: the next attempt may succeed."""
    grant = world.sign_in(expires_at=1.0, token_endpoint=world.mcp.metadata_url)
    async with world.open() as http:
        with pytest.raises(TransportFailure) as failure:
            await world.send(http)
    assert not isinstance(failure.value, SignInNeeded)
    assert world.stored() == grant


async def test_another_process_that_keeps_the_lock_does_not_block_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """The request fails after a bounded time; while it waits, a token in the store ends the wait."""
    monkeypatch.setattr(bearer, "LOCK_WAIT_S", 0.1)
    monkeypatch.setattr(bearer, "UNREACHABLE_S", 0.0)
    world.sign_in()
    world.authorization.expire_all()
    async with world.open() as http:
        with world.store.lock_nowait("s", world.mcp.url) as held:
            assert held
            with pytest.raises(TransportFailure, match="another process"):
                await world.send(http)
            monkeypatch.setattr(bearer, "LOCK_WAIT_S", 30)
            async with anyio.create_task_group() as tg:
                tg.start_soon(world.send, http)
                await anyio.sleep(0.1)
                world.sign_in()
    assert world.statuses == [200]
    assert world.refreshes == 0


# --- nothing is lost -------------------------------------------------------------------------------------------------


async def test_a_cancelled_request_does_not_lose_the_new_refresh_token(world: World):
    """The server has rotated it already: the renewal ends, and is stored, before the cancellation returns."""
    before = world.sign_in(expires_at=1.0)
    world.authorization.token_gate.clear()
    async with world.open() as http:
        async with anyio.create_task_group() as tg:
            tg.start_soon(world.send, http)
            while world.refreshes == 0:  # noqa: ASYNC110 - it counts in another thread
                await anyio.sleep(0.002)
            tg.cancel_scope.cancel()
            world.authorization.token_gate.set()
        after = world.stored()
        assert after is not None
        assert after.refresh_token != before.refresh_token
        assert world.mcp.authorizations == [], "the request itself was cancelled"
        assert await world.send(http) == 200


async def test_a_renewal_that_does_not_end_does_not_keep_a_cancelled_request(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """It is given up after a bounded time, and the next request tries again."""
    monkeypatch.setattr(bearer, "CANCELLED_S", 0.05)
    world.sign_in(expires_at=1.0)
    world.authorization.token_gate.clear()
    async with world.open() as http:
        with anyio.move_on_after(0.05) as scope:
            await world.send(http)
        assert scope.cancelled_caught
        world.authorization.token_gate.set()


async def test_those_that_wait_go_on_after_the_first_is_cancelled(world: World):
    """They use the token that its renewal has yielded."""
    world.sign_in(expires_at=1.0)
    world.authorization.token_gate.clear()
    async with world.open() as http, anyio.create_task_group() as tg:
        first = anyio.CancelScope()

        async def cancelled() -> None:
            with first:
                await world.send(http)

        tg.start_soon(cancelled)
        while world.refreshes == 0:  # noqa: ASYNC110 - it counts in another thread
            await anyio.sleep(0.002)
        for _ in range(4):
            tg.start_soon(world.send, http)
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        world.authorization.token_gate.set()
    assert world.statuses == [200] * 4
    assert world.refreshes == 1


class FullDisk(MemoryStore):
    """A store that takes nothing more."""

    full = False

    def save_grant(self, server: str, url: str, grant: Grant) -> None:
        if self.full:
            raise StoreUnusable("the disk is full")
        super().save_grant(server, url, grant)


async def test_a_token_that_cannot_be_stored_is_used_nevertheless(world: World, caplog: pytest.LogCaptureFixture):
    """The one in the store is not valid any more; the log says so, without the token."""
    world.store = store = FullDisk()
    world.sign_in(expires_at=1.0)
    store.full = True
    async with world.open() as http:
        with caplog.at_level(logging.WARNING):
            assert await world.send(http) == 200
        world.authorization.expire_all()
        assert await world.send(http) == 200, "with the refresh token in memory"
    assert "is not stored: the disk is full" in caplog.text
    assert not any(token.removeprefix("Bearer ") in caplog.text for token in world.mcp.authorizations if token)


class Locked(MemoryStore):
    """A keyring that the user does not unlock."""

    attempts = 0

    def load_grant(self, server: str, url: str) -> Grant | None:
        self.attempts += 1
        raise StoreUnusable("the keyring cannot be read")


async def test_a_server_that_needs_no_sign_in_needs_no_store(world: World):
    """One that cannot be read fails requests only where a token is asked for, and is not tried for each of them."""
    world.store = store = Locked()
    async with world.open() as http:
        for _ in range(3):
            with pytest.raises(NotAuthorized, match="the keyring cannot be read"):
                await world.send(http)
        world.authorization.check = lambda token, resource=None: Issued(  # type: ignore[method-assign]
            "client", (), None, "alice", 0.0, ""
        )
        assert await world.send(http) == 200
    assert store.attempts == 1


async def test_requests_that_read_the_store_at_once_agree(world: World):
    """A slow read does not replace what a later one has found."""
    world.sign_in()
    store, it = world.store, world.authorizer()
    slow, go_on = threading.Event(), threading.Event()
    load = store.load_grant

    def load_slowly(server: str, url: str) -> Grant | None:
        found = load(server, url)
        if not slow.is_set():
            slow.set()
            go_on.wait(10)
        return found

    store.load_grant = load_slowly  # type: ignore[method-assign]
    async with anyio.create_task_group() as tg:
        tg.start_soon(it.headers)
        while not slow.is_set():  # noqa: ASYNC110 - it is set in another thread
            await anyio.sleep(0.002)
        later = world.sign_in()
        assert await it.headers() == {"authorization": f"Bearer {later.access_token}"}
        go_on.set()
    assert await it.headers() == {"authorization": f"Bearer {later.access_token}"}


async def test_tokens_are_secrets_while_a_response_may_quote_them(world: World):
    """Those of now, and those that they have replaced."""
    before = world.sign_in(expires_at=1.0)
    it = world.authorizer()
    await it.headers()
    after = world.stored()
    assert after is not None
    assert set(it.secrets) == {
        before.access_token,
        before.refresh_token,
        after.access_token,
        after.refresh_token,
    }


# --- scopes ----------------------------------------------------------------------------------------------------------


async def test_a_call_that_needs_more_scopes_needs_a_sign_in(world: World):
    """With the scopes that there are and those that it needs; other calls go on."""
    world.sign_in()
    async with world.open() as http:
        with pytest.raises(SignInNeeded, match="asks for the scopes write") as failure:
            await world.send(http, WRITE)
        assert failure.value.status == 403
        assert failure.value.scopes == ("read", "write")
        assert await world.send(http) == 200
        wider = world.authorization.grant_tokens("client", ("read", "write"), world.mcp.url)
        world.sign_in(access_token=wider["access_token"], scopes=("read", "write"))
        assert await world.send(http, WRITE) == 200


async def test_scopes_without_end_are_shown_in_part(world: World):
    """A server chooses them; they are the text of an error. The sign-in asks for all of them."""
    world.sign_in()
    words = tuple(f"ignore-all-previous-instructions-{number}" for number in range(190))
    world.mcp.needed = dict.fromkeys(world.mcp.needed, words)
    async with world.open() as http:
        with pytest.raises(SignInNeeded, match="asks for the scopes ignore") as failure:
            await world.send(http, WRITE)
    assert len(failure.value.scopes) == 191
    assert len(str(failure.value)) < 1500
    assert failure.value.command.startswith("asyncfc-mcp login s --scope 'read ignore-")
    assert failure.value.command.endswith("'")


async def test_a_server_that_asks_for_scopes_that_were_granted_gets_no_further_sign_in(world: World):
    """Its own answer says what is wrong."""
    world.sign_in(scopes=("read", "write"))
    async with world.open() as http:
        assert await world.send(http, WRITE) == 403


# --- machines --------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(world: World) -> World:
    """Client credentials in place of a user."""
    world.authorization.add_client("machine", secret="machine-secret", auth_method="client_secret_basic")
    world.oauth = OAuthSpec(client_id="machine", client_secret="machine-secret", grant="client_credentials")
    return world


async def test_a_machine_gets_its_token_by_itself(machine: World):
    """Once for all requests, without a user, and again when it is refused."""
    async with machine.open() as http:
        await machine.send_many(http)
        assert machine.authorization.requests["token:client_credentials"] == 1
        machine.authorization.expire_all()
        await machine.send_many(http)
    assert machine.statuses == [200] * 2 * MANY
    assert machine.authorization.requests["token:client_credentials"] == 2
    assert machine.stored() is not None


async def test_a_machine_asks_for_the_scopes_that_a_call_needs(machine: World):
    """In union with those that it has, once for all that need them."""
    async with machine.open() as http:
        assert await machine.send(http) == 200
        async with anyio.create_task_group() as tg:
            for _ in range(8):
                tg.start_soon(machine.send, http, WRITE)
        assert await machine.send(http, WRITE) == 200
    assert machine.statuses == [200] * 10
    asked = [params.get("scope") for what, params in machine.authorization.seen if what == "token:client_credentials"]
    assert asked == ["read", "read write"]


async def test_a_server_that_always_asks_for_scopes_is_given_up(machine: World):
    """The error says which; the authorization server is not asked again and again."""
    machine.mcp.needed["write"] = ("write", "read", "more")
    machine.authorization.scopes = (*machine.authorization.scopes, "more")
    answer = machine.authorization._tokens

    def narrower(client: str, scopes: tuple[str, ...], *rest: Any, **options: Any) -> Any:
        return answer(client, ("read",), *rest, **options)

    machine.authorization._tokens = narrower  # type: ignore[method-assign]
    async with machine.open() as http:
        for _ in range(3):
            with pytest.raises(NotAuthorized, match="asks for the scopes write read more, and does not accept"):
                await machine.send(http, WRITE)
        assert await machine.send(http) == 200
    assert machine.authorization.requests["token:client_credentials"] == 2


async def test_the_refusal_of_a_machine_is_no_reason_to_sign_in(machine: World):
    """Its text says what is wrong, without the secret."""
    machine.oauth = replace(machine.oauth, client_secret="wrong-secret")
    async with machine.open() as http:
        with pytest.raises(NotAuthorized, match="invalid_client") as failure:
            await machine.send(http)
    assert "wrong-secret" not in failure.value.message
    assert not isinstance(failure.value, SignInNeeded)
