"""The credentials of a server at a URL, in words and as JSON: for `inspect`, `login` and `logout`.

Pure but for reading the store. Owns the texts; no token is in any of them.
"""

import time
from collections.abc import Mapping
from typing import Any

from asyncfc_mcp.cli.figures import rough_duration
from asyncfc_mcp.config.model import HttpSpec, ServerConfig
from asyncfc_mcp.downstream.oauth.records import Grant
from asyncfc_mcp.downstream.oauth.store import CredentialStore, StoreUnusable
from asyncfc_mcp.downstream.supervisor import Status


def credentials_of(server: ServerConfig, store: CredentialStore, now: float | None = None) -> dict[str, Any] | None:
    """Return the kind of a server's credentials with what is known of them; None for a process.

    Kinds: `header`, `url`, `callers`, `off`, `client credentials`, `signed in`, `expired`, `none`, `unreadable`.
    """
    spec, now = server.spec, time.time() if now is None else now
    if not isinstance(spec, HttpSpec):
        return None
    if spec.caller_headers:
        return {"kind": "callers"}
    if any(name.lower() == "authorization" for name in spec.headers):
        return {"kind": "header"}
    if spec.oauth is None:
        return {"kind": "url" if spec.has_user else "off"}
    try:
        grant = store.load_grant(server.name, spec.url)
    except StoreUnusable as exc:
        return {"kind": "unreadable", "reason": str(exc)}
    machine = spec.oauth.grant == "client_credentials"
    if grant is None or not grant.access_token:
        return {"kind": "client credentials" if machine else "none"}
    facts = {
        "kind": "client credentials" if machine else "signed in",
        "issuer": grant.issuer,
        "scopes": list(grant.scopes),
        "expires_at": grant.expires_at,
        "renewable": machine or grant.refresh_token is not None,
    }
    if not facts["renewable"] and not grant.is_fresh(now):
        facts["kind"] = "expired"
    return facts


def described(facts: Mapping[str, Any], status: str, login: str, now: float | None = None) -> str:
    """Return credentials in words, such as `signed in, token expires in 52 min, scopes: repo`.

    Args:
        facts: of `credentials_of`.
        status: of the server.
        login: the command that signs in.
    """
    now = time.time() if now is None else now
    kind = facts["kind"]
    needs = status == Status.SIGN_IN.value
    match kind:
        case "callers":
            return "credentials of each caller"
        case "header":
            return "header in the configuration"
        case "url":
            return "user in the URL"
        case "off":
            return "none; sign-in is off"
        case "unreadable":
            return f"unknown: {facts['reason']}"
        case "none":
            return (
                f"needs sign-in: {login}"
                if needs
                else ("none needed" if status == Status.READY.value else "no sign-in is stored")
            )
        case "expired":
            return f"the sign-in has expired: {login}"
        case _:
            pass
    parts = [kind]
    if "scopes" in facts:
        parts += [_expiry(facts["expires_at"], facts["renewable"], now), _scopes(facts["scopes"])]
    if needs:
        parts = [f"{kind}, but it is not accepted: {login}"]
    return ", ".join(filter(None, parts))


def expiry_of(grant: Grant, renewable: bool, now: float | None = None) -> str:
    """Return when a token expires, and what happens then."""
    now = time.time() if now is None else now
    text = _expiry(grant.expires_at, renewable, now)
    if grant.expires_at is None:
        return text
    return f"{text} and is renewed by itself" if renewable else f"{text}; sign in again then: there is no refresh token"


def _expiry(expires_at: float | None, renewable: bool, now: float) -> str:
    if expires_at is None:
        return "token without an expiry"
    if expires_at <= now:
        return "token expired, renewed when it is needed" if renewable else "token expired"
    return f"token expires in {rough_duration(expires_at - now)}"


def _scopes(scopes: list[str]) -> str:
    return f"scopes: {' '.join(scopes)}" if scopes else ""
