"""Token confusion: what is no access token of this bridge is refused, whoever signed it."""

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.transports.http.auth.authenticator import Access, NotAuthenticated, Token
from asyncfc_mcp.transports.http.auth.jwt_checks import (
    LEEWAY_S,
    Claims,
    Header,
    read_claims,
    read_header,
    verified_payload,
)
from asyncfc_mcp.transports.http.auth.jwt_tokens import JwtAuthenticator
from asyncfc_mcp.transports.http.auth.signing_keys import SigningKeys
from tests.support.token_issuer import AUDIENCE, TokenIssuer
from tests.support.virtual_time import on_virtual_time

NOW = 1_800_000_000
ISSUER = TokenIssuer(clock=lambda: NOW)
ISSUER.add_key("rsa", "RS256")
ISSUER.add_key("ed", "EdDSA")
STRANGER = TokenIssuer(clock=lambda: NOW)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def signed(header: dict[str, Any] | bytes, payload: bytes, key_id: str = "k1") -> str:
    """A token whose header and claims are these bytes, with a good signature of the key."""
    private, algorithm = ISSUER.keys[key_id]
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    text = f"{b64(head)}.{b64(payload)}"
    return f"{text}.{b64(jwt.get_algorithm_by_name(algorithm).sign(text.encode(), private))}"


def with_hmac(algorithm: str, secret: bytes, **header: Any) -> str:
    head = json.dumps({"alg": algorithm, "typ": "at+jwt", **header}).encode()
    text = f"{b64(head)}.{b64(json.dumps(ISSUER.claims()).encode())}"
    return f"{text}.{b64(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def unsigned(algorithm: str) -> str:
    return f"{b64(json.dumps({'alg': algorithm}).encode())}.{b64(json.dumps(ISSUER.claims()).encode())}."


async def check(token: str) -> Access:
    keys = SigningKeys(ISSUER.url, ISSUER.fetch, clock=lambda: 0.0)
    found = Token.of(f"Bearer {token}".encode())
    assert found is not None
    return await JwtAuthenticator(ISSUER.url, [AUDIENCE], keys, clock=lambda: NOW).check(found)


GOOD = {"alg": "ES256", "kid": "k1", "typ": "at+jwt"}
CLAIMS = json.dumps(ISSUER.claims()).encode()
GOOD_TOKENS = {
    "ES256": ISSUER.token(),
    "RS256": ISSUER.token("rsa"),
    "EdDSA": ISSUER.token("ed"),
    "no kid": signed({"alg": "ES256"}, CLAIMS),
    "typ JWT": ISSUER.token(headers={"typ": "JWT"}),
    "typ with application/": ISSUER.token(headers={"typ": "application/at+JWT"}),
    "several audiences": ISSUER.token(aud=["https://other.example", AUDIENCE]),
    "expired within the leeway": ISSUER.token(exp=NOW - LEEWAY_S + 1),
    "not before within the leeway": ISSUER.token(nbf=NOW + LEEWAY_S),
    "keys of somebody in the header are ignored": ISSUER.token(
        headers={"jku": "https://evil.example/keys", "x5u": "https://evil.example/x", "jwk": STRANGER.public_jwk("k1")}
    ),
}
BAD_TOKENS = {
    "unsigned": unsigned("none"),
    "unsigned, in capitals": unsigned("None"),
    "without an algorithm": signed({"kid": "k1"}, CLAIMS),
    "HMAC with the public key in PEM": with_hmac("HS256", ISSUER.public_pem("rsa"), kid="rsa"),
    "HMAC with the public key as JWK": with_hmac("HS256", json.dumps(ISSUER.public_jwk("rsa")).encode(), kid="rsa"),
    "HMAC with nothing": with_hmac("HS256", b"", kid="k1"),
    "another algorithm of the same key": jwt.encode(
        ISSUER.claims(), ISSUER.keys["rsa"][0], algorithm="PS256", headers={"kid": "rsa"}
    ),
    "another server's key under our key ID": STRANGER.token(),
    "another server's key in the header": STRANGER.token(headers={"jwk": STRANGER.public_jwk("k1")}),
    "another server's key at a URL": STRANGER.token(headers={"jku": "https://evil.example/keys"}),
    "unknown key ID": ISSUER.token(headers={"kid": "k2"}),
    "key ID of another kind of key": ISSUER.token(headers={"kid": "rsa"}),
    "key ID as a path": ISSUER.token(headers={"kid": "../../../../dev/null"}),
    "key ID as a URL": ISSUER.token(headers={"kid": "https://evil.example/k1"}),
    "key ID as SQL": ISSUER.token(headers={"kid": "x' UNION SELECT 'k1"}),
    "key ID that is no text": signed({**GOOD, "kid": ["k1"]}, CLAIMS),
    "endless key ID": signed({**GOOD, "kid": "k" * 2000}, CLAIMS),
    "another issuer": ISSUER.token(iss="https://login.example.evil"),
    "issuer with a slash": ISSUER.token(iss=ISSUER.url + "/"),
    "issuer in a list": signed(GOOD, json.dumps({**ISSUER.claims(), "iss": [ISSUER.url]}).encode()),
    "without an issuer": ISSUER.token(iss=None),
    "another audience": ISSUER.token(aud="https://bridge.example/other"),
    "an audience that begins like ours": ISSUER.token(aud=AUDIENCE + "/x"),
    "an audience that ours begins like": ISSUER.token(aud="https://bridge.example"),
    "audience in an object": signed(GOOD, json.dumps({**ISSUER.claims(), "aud": {AUDIENCE: 1}}).encode()),
    "without an audience": ISSUER.token(aud=None),
    "expired": ISSUER.token(exp=NOW - LEEWAY_S),
    "without an end": ISSUER.token(exp=None),
    "an end that is text": signed(GOOD, json.dumps({**ISSUER.claims(), "exp": "9999999999"}).encode()),
    "an end that is true": signed(GOOD, json.dumps({**ISSUER.claims(), "exp": True}).encode()),
    "an end in milliseconds": ISSUER.token(exp=NOW * 1000),
    "an infinite end": signed(GOOD, CLAIMS.replace(b'"exp": ', b'"exp": Infinity, "e": ')),
    "not valid yet": ISSUER.token(nbf=NOW + LEEWAY_S + 1),
    "issued in the future": ISSUER.token(iat=NOW + LEEWAY_S + 1),
    "without a subject": ISSUER.token(sub=None),
    "an empty subject": ISSUER.token(sub=""),
    "a subject that is a number": signed(GOOD, json.dumps({**ISSUER.claims(), "sub": 7}).encode()),
    "a subject with a line end": ISSUER.token(sub="alice\nbob"),
    "a subject with half a character": signed(GOOD, CLAIMS.replace(b'"alice"', b'"\\ud800"')),
    "an endless subject": ISSUER.token(sub="a" * 256),
    "an issuer twice": signed(GOOD, CLAIMS.replace(b'"iss"', b'"iss": "https://evil.example", "iss"')),
    "a subject twice": signed(GOOD, CLAIMS.replace(b'"sub"', b'"sub": "bob", "sub"')),
    "an algorithm twice": signed(b'{"alg": "none", "alg": "ES256", "kid": "k1"}', CLAIMS),
    "scopes that are no texts": signed(GOOD, json.dumps({**ISSUER.claims(), "scope": {"mcp": 1}}).encode()),
    "a logout token": ISSUER.token(headers={"typ": "logout+jwt"}),
    "a proof of possession": ISSUER.token(headers={"typ": "dpop+jwt"}),
    "an ID token": ISSUER.token(at_hash="x"),
    "an ID token of Cognito": ISSUER.token(token_use="id"),
    "an ID token of Keycloak": ISSUER.token(**{"typ": "ID"}),
    "an unknown extension": ISSUER.token(headers={"crit": ["exp"]}),
    "an unencoded payload": signed({**GOOD, "b64": False}, CLAIMS),
    "claims in a list": signed(GOOD, b"[1]"),
    "claims without end": signed(GOOD, b"[" * 8000),
    "a header without end": signed(b"[" * 5000, CLAIMS),
    "a header that is a list": signed(b"[]", CLAIMS),
    "four parts": ISSUER.token() + ".x",
    "two parts": ISSUER.token().rpartition(".")[0],
    "an encrypted token": "a.b.c.d.e",
    "no token": "hunter2",
}


@pytest.mark.parametrize("name", GOOD_TOKENS)
@on_virtual_time
async def test_a_good_token_gives_its_subject_access(name: str):
    """Principal, grants and end are those of the claims."""
    access = await check(GOOD_TOKENS[name])
    assert access.principal.scope.key == "oauth:https://login.example#alice"
    assert access.principal.name == "alice"
    assert access.principal.grants == {"mcp"}
    assert access.expires_at > NOW


@pytest.mark.parametrize("name", BAD_TOKENS)
@on_virtual_time
async def test_a_bad_token_gives_nobody_access(name: str):
    """And the reason says nothing of the token, in characters that a header may have."""
    with pytest.raises(NotAuthenticated) as refused:
        await check(BAD_TOKENS[name])
    why = str(refused.value)
    assert why.isascii()
    assert not set(why) & set('"\\\n')
    assert "evil" not in why
    assert not [part for part in BAD_TOKENS[name].split(".") if len(part) > 4 and part in why]


@on_virtual_time
async def test_every_change_of_a_signed_token_is_noticed():
    """In any place of its header and claims."""
    token = ISSUER.token()
    for at in range(0, token.rindex("."), 7):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        if changed[at] == "." or token[at] == ".":
            continue
        with pytest.raises(NotAuthenticated):
            await check(changed)


@given(st.binary(max_size=80))
def test_no_header_breaks_the_check(data: bytes):
    """It is accepted, or refused with words."""
    token = f"{b64(data) or 'A'}.AA.AA"
    try:
        header = read_header(token)
    except NotAuthenticated:
        return
    assert header.algorithm.startswith(("RS", "PS", "ES", "Ed"))


SIGNATURES = st.binary(max_size=80) | st.binary(min_size=64, max_size=64) | st.binary(min_size=256, max_size=256)


@given(st.sampled_from(["k1", "rsa", "ed"]), SIGNATURES)
def test_no_signature_breaks_the_check(key_id: str, signature: bytes):
    """Whatever its length: it is not that of the key."""
    private, algorithm = ISSUER.keys[key_id]
    token = f"{ISSUER.token(key_id).rpartition('.')[0]}.{b64(signature) or 'AA'}"
    assert verified_payload(token, Header(algorithm, key_id), private.public_key()) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "scope", "scp"]), JSON, max_size=4))
def test_no_claims_break_the_check(changes: dict[str, Any]):
    """Whoever signed them: they are accepted, or refused with words."""
    payload = json.dumps({**ISSUER.claims(), **changes}).encode()
    try:
        claims = read_claims(payload, issuer=ISSUER.url, audiences=[AUDIENCE], now=NOW)
    except NotAuthenticated:
        return
    assert isinstance(claims, Claims)
    assert claims.expires_at > NOW


@pytest.mark.parametrize(
    ("scope", "scp", "grants"),
    [
        ("a b", None, {"a", "b"}),
        (None, ["a", "b"], {"a", "b"}),
        (None, "a b", {"a", "b"}),
        ("a", ["b"], {"a", "b"}),
        (None, None, set()),
        ("", None, set()),
    ],
)
def test_scopes_are_read_as_servers_write_them(scope: Any, scp: Any, grants: set[str]):
    """A token without any has none: it is not unrestricted."""
    payload = json.dumps(ISSUER.claims(scope=scope, scp=scp)).encode()
    assert read_claims(payload, issuer=ISSUER.url, audiences=[AUDIENCE], now=NOW).grants == grants


@pytest.mark.parametrize(("subject", "name"), [("*", None), ("scope:admin", None), ("auth0|7", "auth0|7")])
@on_virtual_time
async def test_no_subject_is_another_key_of_access_rules(subject: str, name: str | None):
    """Some servers let users choose it."""
    access = await check(ISSUER.token(sub=subject))
    assert access.principal.name == name
    assert access.principal.scope.key.endswith(f"#{subject}")
