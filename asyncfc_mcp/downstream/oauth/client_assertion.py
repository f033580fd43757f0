"""Signed JWTs with which a client authenticates (RFC 7523, `private_key_jwt`).

Owns their claims. Imported only where a private key is configured: the libraries for keys are expensive to import.
"""

import secrets
import time
from typing import Final

import jwt

from asyncfc_mcp.config.model import OAuthSpec
from asyncfc_mcp.downstream.oauth.failures import KeyUnusable

LIFETIME_S: Final = 60.0
"""For the request itself, and for clocks that differ."""
ALGORITHMS: Final = ("ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA")
"""Asymmetric ones only: a shared secret is no private key."""


def client_assertion(server: str, oauth: OAuthSpec, client_id: str, issuer: str) -> str:
    """Return a JWT that authenticates a client once at an authorization server.

    Its audience is the issuer, and not the token endpoint: one that a hostile server named as its own token endpoint
    would be valid at the real one (draft-ietf-oauth-rfc7523bis).

    Raises:
        KeyUnusable: the key cannot sign with the algorithm.
    """
    now = int(time.time())
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": issuer,
        "jti": secrets.token_urlsafe(24),
        "iat": now,
        "exp": now + int(LIFETIME_S),
    }
    if oauth.algorithm not in ALGORITHMS or oauth.private_key is None:
        raise KeyUnusable(server, oauth.algorithm)
    headers = {"kid": oauth.key_id} if oauth.key_id is not None else None
    try:
        return jwt.encode(claims, oauth.private_key, oauth.algorithm, headers=headers)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, NotImplementedError):
        # The library's text may quote the key.
        raise KeyUnusable(server, oauth.algorithm) from None
