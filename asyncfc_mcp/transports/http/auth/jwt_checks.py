"""Checks of access tokens in the form of signed JWTs (RFC 7519, RFC 8725, RFC 9068).

Pure. Leaves the keys to `signing_keys`, and which tokens were checked before to `jwt_tokens`. PyJWT verifies the
signature only: it would take the last of repeated claims, warn of what must be refused, and know nothing of the rest.
"""

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from asyncfc_mcp.transports.http.auth.authenticator import NotAuthenticated

LEEWAY_S: Final = 30
"""Seconds by which the clock of the authorization server may differ from ours."""
MAX_SUBJECT: Final = 255
"""Longest subject, in characters (OpenID Connect, section 2)."""
MAX_KEY_ID: Final = 1024
TYPES: Final = frozenset({"at+jwt", "jwt"})
"""Types of access tokens, without `application/`. Others, such as `logout+jwt`, are no access tokens."""
ALGORITHMS: Final[Mapping[str, Collection[str]]] = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
}
"""Kind of key → algorithms that it may be used with. Asymmetric ones only: with an HMAC, the public key would be the
secret, and everybody could sign."""
_KNOWN: Final = frozenset(name for names in ALGORITHMS.values() for name in names)
_FORM: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_LATEST: Final = 1e11
"""Bound on times, in seconds since 1970: some 3,000 years. A larger one is in milliseconds, or made up."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a token, as far as it selects the key."""

    algorithm: str
    key_id: str | None


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a token.

    Args:
        expires_at: seconds since 1970, with the leeway.
    """

    subject: str
    grants: frozenset[str]
    expires_at: float


def is_jwt(token: str) -> bool:
    """Return whether a token has the form of a signed JWT."""
    return _FORM.fullmatch(token) is not None


def read_header(token: str) -> Header:
    """Return the header of a token. Keys that it contains or points to (`jwk`, `x5c`, `jku`, `x5u`) are ignored: they
    are those of whoever made the token.

    Raises:
        NotAuthenticated: no token with this header is accepted.
    """
    if (parts := _FORM.fullmatch(token)) is None:
        raise NotAuthenticated("the token is not a signed JWT")
    try:
        header = _object(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        raise NotAuthenticated("the token's header is not a JSON object") from None
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in _KNOWN:
        raise NotAuthenticated("the token is not signed with an accepted algorithm")
    if "crit" in header or header.get("b64", True) is not True:
        raise NotAuthenticated("the token's header has an extension that is unknown here")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in TYPES:
        raise NotAuthenticated("the token's type is not that of an access token")
    if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= MAX_KEY_ID):
        raise NotAuthenticated("the token's key ID is not a short text")
    return Header(algorithm, key_id)


def verified_payload(token: str, header: Header, key: Any) -> bytes | None:
    """Return the payload of a token; None if this key did not sign it."""
    from jwt import PyJWS, PyJWTError

    try:
        return PyJWS().decode_complete(token, key, algorithms=[header.algorithm])["payload"]
    except (PyJWTError, ValueError):
        return None


def read_claims(payload: bytes, *, issuer: str, audiences: Collection[str], now: float) -> Claims:
    """Return the claims of a token whose signature is verified.

    Raises:
        NotAuthenticated: the token is not for this bridge, or not valid at this time.
    """
    try:
        claims = _object(payload)
    except ValueError:
        raise NotAuthenticated("the token's claims are not a JSON object, or repeat a claim") from None
    if claims.get("iss") != issuer:
        raise NotAuthenticated("the token is from another issuer")
    if _is_id_token(claims):
        raise NotAuthenticated("the token is an ID token, which says who signed in to a client")
    if not _is_for(claims.get("aud"), audiences):
        raise NotAuthenticated("the token is for another audience")
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise NotAuthenticated("the token does not expire")
    if now >= expires_at + LEEWAY_S:
        raise NotAuthenticated("the token has expired")
    for claim in ("nbf", "iat"):
        since = _time(claims, claim)
        if since is not None and now < since - LEEWAY_S:
            raise NotAuthenticated("the token is not valid yet")
    subject = claims.get("sub")
    # The subject becomes part of keys in files and databases, and of lines in logs.
    if not (isinstance(subject, str) and 0 < len(subject) <= MAX_SUBJECT and subject.isprintable()):
        raise NotAuthenticated("the token has no subject that can be used")
    return Claims(subject, _scopes(claims.get("scope")) | _scopes(claims.get("scp")), expires_at + LEEWAY_S)


def _is_id_token(claims: Mapping[str, Any]) -> bool:
    """Return whether claims are those of an ID token. Its audience is a client, so it is refused anyway unless that is
    configured as the audience. The last two are how Cognito and Keycloak mark them."""
    marked = claims.get("token_use") == "id" or claims.get("typ") == "ID"
    return marked or not {"at_hash", "c_hash"}.isdisjoint(claims)


def _is_for(value: Any, audiences: Collection[str]) -> bool:
    values: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    return any(isinstance(each, str) and each in audiences for each in values)


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise NotAuthenticated(f"the token's {name} is not a time")
    return value


def _scopes(value: Any) -> frozenset[str]:
    """Return the scopes in one claim. Servers write them as one text or as a list."""
    if value is None:
        return frozenset()
    values: list[Any] = value.split(" ") if isinstance(value, str) else cast("list[Any]", value)
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise NotAuthenticated("the token's scopes are not texts")
    return frozenset(each for each in cast("list[str]", values) if each)


def _object(data: bytes) -> dict[str, Any]:
    """Return a JSON object in which no key is repeated: two parsers may use different occurrences.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("no object")
    return cast("dict[str, Any]", value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
