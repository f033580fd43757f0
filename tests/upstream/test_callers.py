"""Identities of callers: the same at every replica where requests show that it is the same caller."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from asyncfc_mcp.core.identity import LOCAL, LOCAL_PRINCIPAL, CallerIdentity, Principal, Scope
from asyncfc_mcp.upstream.callers import CONVERSATION_KEY, CallerIdentities
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.request import Request, Session


async def notify(method: str, params: Any) -> None: ...


def request(
    *, host: str | None = "h", key: str | None = None, session: Session | None = None, scope: Scope = LOCAL
) -> Request:
    params = {} if key is None else {"_meta": {CONVERSATION_KEY: key}}
    channel = cast("Any", SimpleNamespace(request_id=1))
    return Request("tools/call", params, Principal(scope), "2026-07-28", host, {}, channel, session)


def tokens(made: Request) -> list[tuple[str, str]]:
    """Token of the client and of the namer, at two replicas."""
    replicas = [CallerIdentities() for _ in range(2)]
    return [(each.of(made).token, each.namer(made).token) for each in replicas]


@pytest.mark.parametrize(
    "made",
    [
        request(),
        request(host=None),
        request(key="k"),
        request(key="k" * 500),
        request(session=Session(LOCAL_PRINCIPAL, notify, "1" * 32)),
        request(session=Session(LOCAL_PRINCIPAL, notify, "1" * 32), key="k"),
    ],
)
def test_a_caller_has_one_token_at_all_replicas(made: Request):
    """A conversation, a session, or all clients of one name; with a colon, which says so."""
    first, second = tokens(made)
    assert first == second
    assert all(":" in token for token in first)


def test_different_callers_have_different_tokens():
    """Though one client chose a name that looks like another's token."""
    sessions = [Session(LOCAL_PRINCIPAL, notify, digit * 32) for digit in "12"]
    callers = [
        request(), request(host="other"), request(host="key:h/k"), request(key="k"), request(key="l"),
        request(host="other", key="k"), *(request(session=session) for session in sessions),
    ]  # fmt: skip
    assert len({tokens(made)[0][0] for made in callers}) == len(callers)


def test_callers_of_one_process_only_have_no_such_token():
    """Standard streams, and a connection without an ID."""
    made = request()
    made.connection = Connection()
    assert ":" not in CallerIdentities().of(made).token
    assert ":" not in Session(LOCAL_PRINCIPAL, notify).identity.token


def test_two_identities_with_one_token_are_one_caller():
    """Another replica made its own of it."""
    one, same, other = (CallerIdentity("h", token=token) for token in ("session:a", "session:a", "session:b"))
    assert one.may_be(same)
    assert not one.may_be(other)
