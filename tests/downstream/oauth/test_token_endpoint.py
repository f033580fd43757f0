"""Answers of token endpoints: what is taken over, and what is refused in words without a secret."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from asyncfc_mcp.config.model import HttpSpec, OAuthSpec
from asyncfc_mcp.downstream.oauth.failures import AuthorizationServerUnreachable, TokenRefused, TokensUnusable
from asyncfc_mcp.downstream.oauth.oauth_http import MAX_BYTES, Answer
from asyncfc_mcp.downstream.oauth.records import Grant, Registration
from asyncfc_mcp.downstream.oauth.token_endpoint import authentication, read_grant, refresh, revoke
from asyncfc_mcp.errors import SignInFailed
from tests.support.credential_stores import MemoryStore
from tests.support.threaded_app import ThreadedApp

URL = "https://as.example/token"
CLIENT = Registration("https://as.example", "client", "registered", redirect_uri="http://127.0.0.1:1/callback")
BEFORE = Grant(
    issuer="https://as.example",
    token_endpoint=URL,
    resource="https://mcp.example/mcp",
    client_id="client",
    access_token="old-access",
    obtained_at=1.0,
    scopes=("a",),
    refresh_token="old-refresh",
    revocation_endpoint="https://as.example/revoke",
)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)


def read(members: Any) -> Grant:
    return read_grant("s", URL, Answer(200, json.dumps(members).encode()), CLIENT, like=BEFORE)


def test_a_minimal_answer_keeps_the_rest():
    """Only the token and the times are new."""
    grant = read({"access_token": "new", "token_type": "bearer"})
    assert (grant.access_token, grant.refresh_token, grant.scopes) == ("new", "old-refresh", ("a",))
    assert grant.expires_at is None
    assert abs(grant.obtained_at - time.time()) < 60
    assert (grant.issuer, grant.resource, grant.revocation_endpoint) == (
        BEFORE.issuer,
        BEFORE.resource,
        BEFORE.revocation_endpoint,
    )


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(60, 60), ("60", 60), (60.5, 60.5), (0, 0), (10**400, 10 * 365 * 86_400), (-5, None), ("soon", None), (True, None),
     (None, None), ("-5", None), ([60], None), ("٣", None), ("9" * 50, None)],
)  # fmt: skip
def test_a_lifetime_is_a_number_of_seconds(said: Any, seconds: float | None):
    """Also as a text; anything else is not known, so that a 401 decides."""
    expires_at = read({"access_token": "new", "expires_in": said}).expires_at
    if seconds is None:
        assert expires_at is None
    else:
        assert expires_at is not None
        assert abs(expires_at - time.time() - seconds) < 60


@pytest.mark.parametrize(
    "members",
    [[], "x", {}, {"access_token": ""}, {"access_token": 5}, {"access_token": "a b"}, {"access_token": "a\r\nx: y"},
     {"access_token": "é"}, {"access_token": "x" * 100_000}, {"access_token": "x", "token_type": "DPoP"},
     {"access_token": "x", "token_type": 5}],
)  # fmt: skip
def test_what_is_no_bearer_token_is_refused(members: Any):
    """It could not be sent, or would be another header."""
    with pytest.raises(TokensUnusable):
        read(members)


@given(
    st.dictionaries(
        st.sampled_from(["access_token", "token_type", "expires_in", "scope", "refresh_token"]), JSON_VALUES
    )
)
def test_no_answer_yields_a_grant_that_cannot_be_kept(members: dict[str, Any]):
    """Any JSON value in any member: a grant that reads back as it was, or an error."""
    try:
        grant = read({"access_token": "x", **members})
    except SignInFailed:
        return
    assert Grant.from_json(json.loads(json.dumps(grant.to_json()))) == grant


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_basic_credentials_are_encoded(client_id: str, secret: str):
    """RFC 6749, section 2.3.1: a colon or another alphabet must not change whose they are."""
    client = Registration("i", client_id, "configured", "client_secret_basic", secret)
    params, headers = authentication("s", OAuthSpec(), client)
    assert params == {}
    pair = base64.b64decode(headers["authorization"].removeprefix("Basic ")).decode("ascii").split(":")
    decoded = parse_qs(f"id={pair[0]}&secret={pair[1]}", keep_blank_values=True)
    assert decoded == {"id": [client_id], "secret": [secret]}


class Endpoint(ThreadedApp):
    """A token and revocation endpoint that answers as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Response] = []
        self.forms: list[dict[str, str]] = []

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/token", self._answer, methods=["POST", "GET"])])

    async def _answer(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode())
        self.forms.append({key: values[0] for key, values in form.items()})
        return self.answers.pop(0)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def grant_at(endpoint: Endpoint) -> tuple[HttpSpec, MemoryStore, Grant]:
    endpoint.answers.clear()
    endpoint.forms.clear()
    store = MemoryStore()
    issuer, url = endpoint.origin, f"{endpoint.origin}/token"
    client = Registration(issuer, "client", "registered", "client_secret_post", "client-s3cret")
    store.save_registration(client)
    grant = Grant(issuer, url, "r", "client", "the-access", 1.0, refresh_token="the-refresh", revocation_endpoint=url)
    return HttpSpec(f"{endpoint.origin}/mcp"), store, grant


@pytest.mark.anyio
@pytest.mark.parametrize("status", [200, 400, 401])
async def test_an_error_is_shown_without_the_secrets_that_it_quotes(endpoint: Endpoint, status: int):
    """Also with the status 200, which some servers send."""
    spec, store, grant = grant_at(endpoint)
    text = "bad the-refresh of client with client-s3cret\x1b[31m"
    endpoint.answers = [JSONResponse({"error": "invalid_grant", "error_description": text}, status)]
    with pytest.raises(TokenRefused) as caught:
        await refresh("s", spec, store, grant)
    assert caught.value.grant_is_dead
    assert str(caught.value).endswith('refused a token: "invalid_grant: bad … of client with …"; sign in again')


@pytest.mark.anyio
async def test_credentials_do_not_follow_a_redirect(endpoint: Endpoint):
    """Not even one that would repeat the POST."""
    spec, store, grant = grant_at(endpoint)
    for code in (302, 307, 308):
        endpoint.answers = [RedirectResponse(f"{endpoint.origin}/token", code), JSONResponse({"access_token": "x"})]
        with pytest.raises(TokenRefused, match=f"HTTP {code}"):
            await refresh("s", spec, store, grant)
    assert len(endpoint.forms) == 3


@pytest.mark.anyio
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
async def test_an_outage_is_told_apart(endpoint: Endpoint, status: int):
    """The refresh token may still be valid."""
    spec, store, grant = grant_at(endpoint)
    endpoint.answers = [JSONResponse({"error": "invalid_grant"}, status)]
    with pytest.raises(AuthorizationServerUnreachable):
        await refresh("s", spec, store, grant)


@pytest.mark.anyio
async def test_an_endless_answer_is_cut(endpoint: Endpoint):
    """It is no JSON then."""
    spec, store, grant = grant_at(endpoint)
    endpoint.answers = [Response(b'{"access_token": "' + b"x" * (4 * MAX_BYTES) + b'"}')]
    with pytest.raises(TokensUnusable, match="no JSON"):
        await refresh("s", spec, store, grant)


@pytest.mark.anyio
async def test_both_tokens_are_revoked_the_refresh_token_first(endpoint: Endpoint):
    """An access token that the server cannot revoke ends by itself; any other refusal is an error."""
    spec, store, grant = grant_at(endpoint)
    unsupported = {"error": "unsupported_token_type"}
    endpoint.answers = [Response(), JSONResponse(unsupported, 400)]
    assert await revoke("s", spec, store, grant)
    assert [form["token"] for form in endpoint.forms] == ["the-refresh", "the-access"]
    endpoint.answers = [JSONResponse(unsupported, 400), JSONResponse(unsupported, 400)]
    assert not await revoke("s", spec, store, grant)
    endpoint.answers = [JSONResponse({"error": "invalid_client"}, 401)]
    with pytest.raises(TokenRefused):
        await revoke("s", spec, store, grant)
