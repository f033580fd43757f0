"""Credentials of servers in words: what there is, for how long, and the command where something is to be done."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.cli.figures import rough_duration
from asyncfc_mcp.cli.sign_in_report import credentials_of, described, expiry_of
from asyncfc_mcp.config.model import ServerConfig
from asyncfc_mcp.downstream.oauth.file_store import FileStore
from asyncfc_mcp.downstream.oauth.records import Grant
from tests.support.configurations import entry

NOW = 1_000_000.0
URL = "https://h/mcp"
GRANT = Grant(
    issuer="https://auth.example",
    token_endpoint="https://auth.example/token",
    resource=URL,
    client_id="c",
    access_token="sesame-access",
    obtained_at=NOW - 60,
    scopes=("read", "write"),
    refresh_token="sesame-refresh",
    expires_at=NOW + 52 * 60,
)
MACHINE: dict[str, Any] = {"oauth": {"grant": "client_credentials", "clientId": "c", "clientSecret": "sesame-secret"}}


def text(own: dict[str, Any], grant: Grant | None, status: str, store: FileStore) -> str | None:
    server: ServerConfig = entry(own)
    if grant is not None:
        store.save_grant(server.name, URL, grant)
    facts = credentials_of(server, store, NOW)
    assert "sesame" not in str(facts)
    return None if facts is None else described(facts, status, "LOGIN", NOW)


@pytest.mark.parametrize(
    ("own", "grant", "status", "found"),
    [
        ({"command": "x"}, None, "ready", None),
        ({"url": URL, "headers": {"Authorization": "Bearer sesame"}}, None, "ready", "header in the configuration"),
        ({"url": "https://sesame@h/mcp"}, None, "ready", "user in the URL"),
        ({"url": URL, "oauth": False}, None, "ready", "none; sign-in is off"),
        ({"url": "https://h/@scope/mcp", "oauth": False}, None, "ready", "none; sign-in is off"),
        ({"url": URL, "headers": {"X": "${caller:x}"}}, None, "ready", "credentials of each caller"),
        ({"url": URL}, None, "ready", "none needed"),
        ({"url": URL}, None, "failed", "no sign-in is stored"),
        ({"url": URL}, None, "needs sign-in", "needs sign-in: LOGIN"),
        ({"url": URL}, GRANT, "ready", "signed in, token expires in 52 min, scopes: read write"),
        ({"url": URL}, GRANT, "failed", "signed in, token expires in 52 min, scopes: read write"),
        ({"url": URL}, GRANT, "needs sign-in", "signed in, but it is not accepted: LOGIN"),
        ({"url": URL}, replace(GRANT, scopes=()), "ready", "signed in, token expires in 52 min"),
        (
            {"url": URL},
            replace(GRANT, expires_at=NOW - 1),
            "failed",
            "signed in, token expired, renewed when it is needed, scopes: read write",
        ),
        (
            {"url": URL},
            replace(GRANT, expires_at=None),
            "ready",
            "signed in, token without an expiry, scopes: read write",
        ),
        (
            {"url": URL},
            replace(GRANT, expires_at=NOW - 1, refresh_token=None),
            "needs sign-in",
            "the sign-in has expired: LOGIN",
        ),
        ({"url": URL, **MACHINE}, None, "failed", "client credentials"),
        (
            {"url": URL, **MACHINE},
            replace(GRANT, refresh_token=None),
            "ready",
            "client credentials, token expires in 52 min, scopes: read write",
        ),
    ],
)
def test_credentials_are_described(
    tmp_path: Path, own: dict[str, Any], grant: Grant | None, status: str, found: str | None
) -> None:
    """In one line without any secret."""
    assert text(own, grant, status, FileStore(tmp_path)) == found


def test_a_store_that_cannot_be_read_is_no_failure_of_the_report(tmp_path: Path) -> None:
    """It says so."""
    (tmp_path / "file").write_text("")
    found = text({"url": URL}, None, "failed", FileStore(tmp_path / "file"))
    assert found is not None
    assert found.startswith("unknown: the stored credentials cannot be read")


def test_the_end_of_a_sign_in_says_what_happens_when_a_token_expires() -> None:
    """It is renewed, or the user has to come back."""
    assert expiry_of(GRANT, True, NOW) == "token expires in 52 min and is renewed by itself"
    assert expiry_of(GRANT, False, NOW).endswith("sign in again then: there is no refresh token")
    assert expiry_of(replace(GRANT, expires_at=None), True, NOW) == "token without an expiry"


@pytest.mark.parametrize(
    ("seconds", "found"),
    [(0, "0 s"), (59, "59 s"), (600, "10 min"), (5400, "2 h"), (86_400, "24 h"), (7 * 86_400, "7 days")],
)
def test_a_duration_has_a_readable_unit(seconds: float, found: str) -> None:
    assert rough_duration(seconds) == found
