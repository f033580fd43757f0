"""Headers and tokens that strangers send to the bridge: whatever they are, they are refused in words, and no exception
of a parser decides over an access."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from asyncfc_mcp.transports.http.auth.authenticator import NotAuthenticated, Token
from asyncfc_mcp.transports.http.auth.jwt_checks import is_jwt, read_claims, read_header

ISSUER, AUDIENCE = "https://issuer.example", "https://bridge.example/mcp"
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(["RS256", "none", "HS256", "JWT", "at+jwt", ISSUER, AUDIENCE, "alice"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda rest: b"Bearer " + rest)))
@example(b"Bearer a\r\nX: y")
@example(b"Bearer  a b")
@example(b"bEaReR x,y")
@example("Bearer grüße".encode())
def test_authorization_headers(value: bytes):
    """A token is printable ASCII without spaces, or there is none; its text is not in its repr."""
    token = Token.of(value)
    if token is not None:
        assert token.text
        assert all("!" <= letter <= "~" for letter in token.text)
        assert len(token.text) < 8 or token.text not in repr(token)


@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.binary(max_size=40).map(encoded), min_size=1, max_size=4).map(".".join),
        st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku"]), VALUES).map(
            lambda header: f"{encoded(json.dumps(header).encode())}.e30.AA"
        ),
    )
)
@example(encoded(b"[" * 100_000) + ".e30.AA")
@example(encoded(b'{"alg": "RS256", "alg": "none"}') + ".e30.AA")
@example(encoded(b'{"alg": 1e999}') + ".e30.AA")
@example("a" * 100_000 + "." * 10)
def test_headers_of_tokens(text: str):
    """Only a known algorithm with a public key is ever looked for."""
    assert is_jwt(text) in (True, False)
    try:
        header = read_header(text)
    except NotAuthenticated:
        return
    assert header.algorithm[:2] in ("RS", "PS", "ES", "Ed")


GOOD: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": 2_000}
NAMES = st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "scope", "scp"])


@given(st.dictionaries(NAMES, VALUES), st.sets(NAMES))
def test_claims_of_tokens(changes: dict[str, Any], removed: set[str]):
    """Claims of any type are refused with the one class of error, or say whose token it is, and until when."""
    claims = {name: value for name, value in (GOOD | changes).items() if name not in removed}
    try:
        found = read_claims(json.dumps(claims).encode(), issuer=ISSUER, audiences={AUDIENCE}, now=1_000.0)
    except NotAuthenticated as refused:
        refusal = str(refused)
        assert refusal.isprintable(), refusal
        return
    assert claims["iss"] == ISSUER
    assert claims["aud"] == AUDIENCE or AUDIENCE in claims["aud"]
    assert found.subject == claims["sub"]
    assert 1_000 < found.expires_at < 1e12


@given(st.binary(max_size=300))
def test_payloads_that_are_no_json(payload: bytes):
    """Bytes that a key has signed may still be anything."""
    try:
        read_claims(payload, issuer=ISSUER, audiences={AUDIENCE}, now=1_000.0)
    except NotAuthenticated:
        return
    raise AssertionError("random bytes are no claims")
