"""Clients that sign in to the bridge by themselves, at a certified authorization server: `--auth-jwt`.

Several principals use one bridge at once. Tokens that were not issued for this bridge are refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.client import MODERN, Json, text_of
from tests.support.http_client import HttpWire
from tests.support.oidc_provider import OidcProvider, node_of, oidc_provider
from tests.support.stage import REPO, HttpBridge, Stage

pytestmark = pytest.mark.node
CLIENTS = REPO / "tests" / "e2e" / "clients"
CALLS = json.dumps([["toy__echo", {"text": "hi", "_wait": "this", "_as": "mine"}], ["list_futures", {}]])


@pytest.fixture(scope="module")
def provider(npm_auth: Path) -> Iterator[OidcProvider]:
    """The authorization server of all tests here."""
    with oidc_provider(npm_auth) as provider:
        yield provider


@pytest.fixture(scope="module")
def bridge(shared_stage: Stage, provider: OidcProvider) -> HttpBridge:
    """A bridge that accepts its tokens."""
    return shared_stage.http_bridge({"toy": shared_stage.toy()}, "--auth-jwt", provider.issuer)


def python_client(bridge: HttpBridge, mode: str, login: str) -> list[str]:
    return [sys.executable, str(CLIENTS / "oauth_python_sdk.py"), mode, f"{bridge.base}/mcp", login]


def typescript_client(bridge: HttpBridge, npm_auth: Path, login: str) -> list[str]:
    modules = npm_auth / "node_modules"
    browser = str(REPO / "tests" / "support" / "browser.py")
    script = [node_of(modules), str(CLIENTS / "oauth_typescript.mjs"), str(modules)]
    return [*script, sys.executable, browser, f"{bridge.base}/mcp", login]


def drive(command: list[str]) -> Json:
    """Run a client; what it got."""
    done = subprocess.run(command, input=CALLS, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_clients_of_two_sdks_sign_in(bridge: HttpBridge, npm_auth: Path):
    """Metadata, challenge and tokens are as the clients of the official SDKs expect; each person sees own futures only,
    although all of them use one name."""
    commands = {
        "alice": python_client(bridge, "auto", "alice"),
        "bob": python_client(bridge, "legacy", "bob"),
        "carol": typescript_client(bridge, npm_auth, "carol"),
    }
    with ThreadPoolExecutor(3) as pool:
        reports = dict(zip(commands, pool.map(drive, commands.values()), strict=True))
    for report in reports.values():
        assert {"toy__echo", "await_future"} <= set(report["tools"])
        assert "hi" in text_of(report["results"][0])
        assert text_of(report["results"][1]).count("mine") == 1
    subjects = {jwt.decode(report["token"], options={"verify_signature": False})["sub"] for report in reports.values()}
    assert subjects == set(reports)


def status_of(bridge: HttpBridge, token: str | None) -> tuple[int, str]:
    """Status and challenge of a request with a token."""
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "x", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    own = {"Mcp-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    status, got, _ = HttpWire(f"{bridge.base}/mcp").exchange("POST", message, headers | own)
    return status, got.get("www-authenticate", "")


def claims(provider: OidcProvider, bridge: HttpBridge, **changes: Any) -> Json:
    """The claims of a good token, changed; None removes one."""
    now = int(time.time())
    good = {
        "iss": provider.issuer,
        "aud": f"{bridge.base}/mcp",
        "sub": "mallory",
        "client_id": "c",
        "scope": "mcp",
        "iat": now,
        "exp": now + 600,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def keys_of(provider: OidcProvider) -> list[Json]:
    with urllib.request.urlopen(f"{provider.issuer}/jwks") as response:
        return json.loads(response.read())["keys"]


def unsigned(claims: Json, header: Json, signature: bytes = b"") -> str:
    parts = [json.dumps(each).encode() for each in (header, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature))


def test_a_token_for_this_bridge_is_taken(bridge: HttpBridge, provider: OidcProvider):
    """What is refused below is refused for its own reason."""
    good = provider.mint(aud=f"{bridge.base}/mcp", sub="dave", client_id="c")
    assert status_of(bridge, good)[0] == 200
    status, challenge = status_of(bridge, None)
    assert status == 401
    assert f'resource_metadata="{bridge.base}/.well-known/oauth-protected-resource' in challenge
    assert "error" not in challenge, "a request without credentials gets no error (RFC 6750, section 3.1)"


CLAIMS: dict[str, Json] = {
    "another audience": {"aud": "https://other.example/mcp"},
    "no audience": {"aud": None},
    "an audience that begins alike": {"aud": "URL.evil.example"},
    "an empty audience": {"aud": []},
    "another issuer": {"iss": "https://other.example"},
    "issuer with a slash": {"iss": "ISSUER/"},
    "no issuer": {"iss": None},
    "expired": {"exp": 1},
    "no expiry": {"exp": None},
    "expiry as a text": {"exp": "never"},
    "valid later": {"nbf": 4_000_000_000},
    "no subject": {"sub": None},
    "an empty subject": {"sub": ""},
    "subject is no text": {"sub": {"a": 1}},
    "a long subject": {"sub": "x" * 300},
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_that_are_wrong(bridge: HttpBridge, provider: OidcProvider, name: str):
    """A token of the right server, with its signature, is good for this bridge only, and only for now."""
    changes = {
        key: value.replace("URL", f"{bridge.base}/mcp").replace("ISSUER", provider.issuer)
        if isinstance(value, str)
        else value
        for key, value in CLAIMS[name].items()
    }
    # What `mint` adds by itself has to be replaced, or taken away with null, which is no value of these claims either.
    token = provider.mint(**(claims(provider, bridge) | changes))
    status, challenge = status_of(bridge, token)
    assert status == 401
    assert 'error="invalid_token"' in challenge


def test_signatures_that_are_wrong(bridge: HttpBridge, provider: OidcProvider):
    """No algorithm, a secret made of the public key, a key of the attacker's own, named in the token or not."""
    key = keys_of(provider)[0]
    good = claims(provider, bridge)
    own = rsa.generate_private_key(65537, 2048)
    own_jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(own.public_key()))
    public = jwt.PyJWK(key).key
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    kid = key["kid"]

    def hs256(secret: bytes) -> str:
        head = unsigned(good, {"alg": "HS256", "typ": "at+jwt", "kid": kid}).rpartition(".")[0]
        signature = hmac.new(secret, head.encode(), hashlib.sha256).digest()
        return f"{head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    def by_own(**header: Any) -> str:
        return jwt.encode(good, own, "RS256", headers={"typ": "at+jwt", **header})

    real = provider.mint(**good)
    head, body, signature = real.split(".")
    other_body = unsigned(good | {"sub": "admin"}, {}).split(".")[1]
    attacks = {
        "none": unsigned(good, {"alg": "none", "typ": "at+jwt"}),
        "None": unsigned(good, {"alg": "None", "typ": "at+jwt", "kid": kid}),
        "none, with a signature": unsigned(good, {"alg": "none", "kid": kid}, b"x" * 256),
        "no algorithm": unsigned(good, {"typ": "at+jwt", "kid": kid}),
        "HS256 with the public key as PEM": hs256(pem),
        "HS256 with the modulus": hs256(key["n"].encode()),
        "HS256 with the JWK": hs256(json.dumps(key).encode()),
        "HS256 with nothing": hs256(b""),
        "a key of its own": by_own(),
        "a key of its own under the right ID": by_own(kid=kid),
        "a key in the token": by_own(kid=kid, jwk=own_jwk),
        "a key at an address": by_own(kid="x", jku=f"{provider.issuer}/jwks", x5u="http://127.0.0.1:1/"),
        "a path as the ID": by_own(kid="../../etc/passwd"),
        "critical": by_own(kid=kid, crit=["exp"]),
        "other claims": f"{head}.{other_body}.{signature}",
        "no signature": f"{head}.{body}.",
        "two parts": f"{head}.{body}",
        "four parts": f"{real}.x",
        "a JWE": "a.b.c.d.e",
        "an ID token": jwt.encode(good, own, "RS256", headers={"typ": "JWT"}),
        "no JWT": "x" * 40,
        "long": f"{head}.{body}{'A' * 10_000}.{signature}",
    }
    taken = {name for name, token in attacks.items() if status_of(bridge, token)[0] != 401}
    assert not taken
    assert status_of(bridge, provider.mint(**good))[0] == 200


def test_the_bridge_asks_the_server_rarely(bridge: HttpBridge, provider: OidcProvider):
    """Tokens with unknown keys do not make a bridge fetch keys for each of them."""
    provider.reset_counters()
    own = rsa.generate_private_key(65537, 2048)
    good = claims(provider, bridge)
    with ThreadPoolExecutor(8) as pool:
        tokens = [jwt.encode(good, own, "RS256", headers={"typ": "at+jwt", "kid": f"k{n}"}) for n in range(64)]
        statuses = {status for status, _ in pool.map(lambda token: status_of(bridge, token), tokens)}
    assert statuses <= {401, 503}
    assert provider.count("GET /jwks") <= 3
