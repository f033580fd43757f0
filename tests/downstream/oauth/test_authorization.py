"""Authorization requests, and which redirects answer them."""

from dataclasses import replace
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.downstream.oauth.authorization import (
    AuthorizationRequest,
    authorization_request,
    code_challenge,
    code_of,
    scopes_to_ask,
)
from asyncfc_mcp.downstream.oauth.discovery import AuthorizationServer
from asyncfc_mcp.downstream.oauth.failures import AuthorizationRefused, RedirectUnusable, WrongResponseIssuer
from asyncfc_mcp.downstream.oauth.records import Registration
from asyncfc_mcp.errors import SignInFailed

ISSUER, REDIRECT = "https://as.example/tenant", "http://127.0.0.1:28463/callback"
SERVER = AuthorizationServer(ISSUER, f"{ISSUER}/token", f"{ISSUER}/authorize", responds_with_issuer=True)
CLIENT = Registration(ISSUER, "client", "registered", redirect_uri=REDIRECT)
SCOPES = st.lists(st.sampled_from(["a", "b", "c", "offline_access", "openid"]), unique=True).map(tuple)


def request(server: AuthorizationServer = SERVER, scopes: tuple[str, ...] = ()) -> AuthorizationRequest:
    return authorization_request(server, CLIENT, "https://mcp.example/mcp", scopes)


def answered(asked: AuthorizationRequest, /, **params: str | None) -> str:
    every = {"code": "the-code", "state": asked.state, "iss": ISSUER, **params}
    return f"{REDIRECT}?{urlencode({key: value for key, value in every.items() if value is not None})}"


def test_a_request_has_all_that_the_specification_asks_for():
    """S256, state, resource, and a redirect URI; two requests share no secret."""
    asked, other = request(scopes=("a", "b")), request()
    params = {key: value for key, (value,) in parse_qs(urlsplit(asked.url).query).items()}
    assert params == {
        "response_type": "code",
        "client_id": "client",
        "redirect_uri": REDIRECT,
        "state": asked.state,
        "code_challenge": code_challenge(asked.verifier),
        "code_challenge_method": "S256",
        "resource": "https://mcp.example/mcp",
        "scope": "a b",
    }
    assert "scope" not in parse_qs(urlsplit(other.url).query)
    assert len({asked.state, other.state, asked.verifier, other.verifier}) == 4
    assert 43 <= len(asked.verifier) <= 128
    assert asked.state not in repr(asked)
    assert asked.verifier not in repr(asked)


def test_the_challenge_is_that_of_the_standard():
    """The example of RFC 7636, appendix B."""
    assert (
        code_challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    )


def test_parameters_of_the_authorization_endpoint_are_kept():
    """RFC 6749, section 3.1."""
    url = request(replace(SERVER, authorization_endpoint=f"{ISSUER}/authorize?tenant=1")).url
    assert parse_qsl(urlsplit(url).query)[:2] == [("tenant", "1"), ("response_type", "code")]


@pytest.mark.parametrize(
    ("prompts", "scopes", "expected"),
    [
        (None, ("a", "offline_access"), ["consent"]),
        (("login", "consent"), ("offline_access",), ["consent"]),
        (("login",), ("offline_access",), None),
        (None, ("a",), None),
    ],
)
def test_a_refresh_token_needs_consent(
    prompts: tuple[str, ...] | None, scopes: tuple[str, ...], expected: list[str] | None
):
    """OpenID Connect, section 11; not where the server does not know the prompt."""
    url = request(replace(SERVER, prompts=prompts), scopes).url
    assert parse_qs(urlsplit(url).query).get("prompt") == expected


def test_the_code_of_the_right_redirect_is_returned():
    """Also as some browsers show the address, and with more parameters."""
    asked = request()
    for redirected in (
        answered(asked),
        f"  {answered(asked)}\n",
        answered(asked).removeprefix("http://"),
        answered(asked, session_state="x") + "#_=_",
    ):
        assert code_of("s", asked, redirected) == "the-code"


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({"state": None}, RedirectUnusable),
        ({"state": ""}, RedirectUnusable),
        ({"state": "another"}, RedirectUnusable),
        ({"state": "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")}, RedirectUnusable),
        ({"iss": None}, WrongResponseIssuer),
        ({"iss": "https://evil.example"}, WrongResponseIssuer),
        ({"iss": f"{ISSUER}/"}, WrongResponseIssuer),
        ({"iss": ISSUER.upper()}, WrongResponseIssuer),
        ({"iss": ISSUER.replace("https://as.example", "https://as.example:443")}, WrongResponseIssuer),
        ({"iss": "https://evil.example", "error": "access_denied"}, WrongResponseIssuer),
        ({"error": "access_denied", "code": None}, AuthorizationRefused),
        ({"error": "server_error"}, AuthorizationRefused),
        ({"code": None}, RedirectUnusable),
        ({"code": ""}, RedirectUnusable),
    ],
)
def test_every_other_redirect_is_refused(change: dict[str, str | None], failure: type[SignInFailed]):
    """Before its code could be sent anywhere; the issuer is compared as a text."""
    asked = request()
    with pytest.raises(failure) as caught:
        code_of("s", asked, answered(asked, **change))
    assert "the-code" not in str(caught.value)
    assert asked.state not in str(caught.value)


@pytest.mark.parametrize(
    "redirect",
    [
        "http://127.0.0.1:28463/other",
        "http://127.0.0.1:1/callback",
        "https://127.0.0.1:28463/callback",
        "http://user@127.0.0.1:28463/callback",
        "http://[::1/callback",
        "",
    ],
)
def test_an_address_elsewhere_is_no_redirect(redirect: str):
    """A pasted address of another program."""
    asked = request()
    with pytest.raises(RedirectUnusable):
        code_of("s", asked, answered(asked).replace(REDIRECT, redirect))


def test_a_repeated_parameter_is_refused():
    """Two readers could take different ones (RFC 6749, section 3.1)."""
    asked = request()
    for more in ("code=other", "state=x", "iss=https://evil.example"):
        with pytest.raises(RedirectUnusable):
            code_of("s", asked, f"{answered(asked)}&{more}")


def test_a_server_that_does_not_promise_an_issuer_may_leave_it_out():
    """But one that is there is compared (fourth and third row of the specification's table)."""
    asked = request(replace(SERVER, responds_with_issuer=False))
    assert code_of("s", asked, answered(asked, iss=None)) == "the-code"
    with pytest.raises(WrongResponseIssuer):
        code_of("s", asked, answered(asked, iss="https://evil.example"))


def test_the_error_of_a_mixed_up_redirect_is_not_shown():
    """It may be an attacker's text."""
    asked = request()
    with pytest.raises(WrongResponseIssuer) as caught:
        code_of("s", asked, answered(asked, iss="https://evil.example", error="call 555", error_description="now"))
    assert "555" not in str(caught.value)
    assert "evil" not in str(caught.value)


def test_a_refusal_is_shown_in_words_without_control_characters():
    """As a quotation of the server's."""
    asked = request()
    with pytest.raises(AuthorizationRefused) as caught:
        code_of("s", asked, answered(asked, error="access_denied", error_description="no\x1b[31m\n\nreally"))
    assert str(caught.value) == (
        "sign-in to 's' failed: access was denied at https://as.example/tenant: \"access_denied: no really\""
    )


@given(st.text(max_size=200), st.booleans())
def test_no_redirect_raises_anything_else(text: str, own: bool):
    """A text of any kind is an address that does not belong to the request."""
    with pytest.raises(SignInFailed):
        code_of("s", request(), f"{REDIRECT}?{text}" if own else text)


@given(SCOPES, SCOPES, SCOPES, SCOPES, st.one_of(st.none(), SCOPES), st.booleans())
def test_scopes_are_those_of_the_specification(
    needed: tuple[str, ...],
    granted: tuple[str, ...],
    of_resource: tuple[str, ...],
    of_server: tuple[str, ...],
    configured: tuple[str, ...] | None,
    refreshes: bool,
):
    """Configured, else granted with those that are needed, else with the resource's; `offline_access` only beside
    others, where the authorization server has it."""
    asked = scopes_to_ask(
        configured=configured,
        needed=needed,
        granted=granted,
        of_resource=of_resource,
        of_server=of_server,
        refreshes=refreshes,
    )
    chosen = {*configured} if configured is not None else {*granted, *(needed or of_resource)}
    added = {*asked} - chosen
    assert {*asked} >= chosen
    assert added <= {"offline_access"}
    assert not added or (refreshes and "offline_access" in of_server and chosen)
    assert "offline_access" in asked or not (refreshes and chosen and "offline_access" in of_server)
    assert len({*asked}) == len(asked)
