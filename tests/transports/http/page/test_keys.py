"""One-time keys: one exchange, for a minute, by the user who asked; and whose a connection is."""

import os
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.core.identity import Principal, Scope
from asyncfc_mcp.transports.http.auth.authenticator import Access
from asyncfc_mcp.transports.http.page.keys import KEY_S, MOST_KEYS, MOST_OWN, Keys, TooManyKeys
from asyncfc_mcp.transports.http.page.peer_user import find, peer_user


def access_of(name: str) -> Access:
    return Access(Principal(Scope(name)))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["issue", "exchange", "again", "wait"])), max_size=60))
def test_a_key_is_exchanged_at_most_once_and_in_time(steps: list[tuple[str, str]]):
    """Whatever is asked for in between, and for the principal that asked for it."""
    now = 0.0
    keys = Keys(lambda: now)
    accesses = {name: access_of(name) for name in "ab"}
    issued: list[tuple[str, str, float]] = []
    used: list[str] = []
    for name, step in steps:
        if step == "issue":
            issued.append((keys.issue(accesses[name]), name, now))
        elif step == "wait":
            now += KEY_S / 3
        elif step == "again" and used:
            assert keys.exchange(used[-1]) is None
        elif step == "exchange" and issued:
            key, owner, since = issued.pop()
            access = keys.exchange(key)
            newer = [each for each in issued if each[1] == owner and each[2] >= since]
            if access is None:
                assert now - since >= KEY_S or len(newer) >= MOST_OWN
            else:
                assert now - since < KEY_S
                assert access is accesses[owner]
            used.append(key)


def test_a_flood_of_keys_costs_only_who_asks_for_them():
    """The oldest key of the same principal gives way; all principals together have a bound."""
    now = 0.0
    keys = Keys(lambda: now)
    own = keys.issue(access_of("quiet"))
    noisy = access_of("noisy")
    flood = [keys.issue(noisy) for _ in range(5 * MOST_OWN)]
    assert [keys.exchange(key) is noisy for key in flood[-MOST_OWN - 1 :]] == [False] + [True] * MOST_OWN
    assert keys.exchange(own) is not None
    for number in range(MOST_KEYS):
        keys.issue(access_of(f"p{number}"))
    with pytest.raises(TooManyKeys):
        keys.issue(access_of("one more"))
    now = KEY_S
    assert keys.issue(access_of("one more"))


def test_a_key_is_for_the_user_who_asked_for_it():
    """Another user, who has read it from the arguments of the browser, neither exchanges it nor uses it up."""
    keys = Keys()
    access = access_of("local")
    key = keys.issue(access, user=1000)
    assert keys.exchange(key, lambda: 1001) is None
    assert keys.exchange(key, lambda: 1000) is access
    for user in (0, None):
        assert keys.exchange(keys.issue(access, user=1000), lambda user=user: user) is access
    assert keys.exchange(keys.issue(access), lambda: 1001) is access


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells whose a connection is")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_user_of_a_connection_is_found(host: str):
    """By both of its ends; a connection that is not there is nobody's."""
    try:
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError:
        pytest.skip("no IPv6 here")
    with listener, socket.create_connection(listener.getsockname()[:2]) as client:
        own, other = client.getsockname()[:2], listener.getsockname()[:2]
        assert peer_user(own, other) == os.getuid()
        assert peer_user(own, (host, 1)) is None
        assert peer_user(("192.0.2.1", own[1]), other) is None
        assert peer_user((own[0], 0), other) is None


def test_the_table_of_the_kernel_is_read_by_both_ends():
    """One port of a client may have several connections, to several servers."""
    lines = [
        "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 1 1 0",
        "   1: 0100007F:9C40 0100007F:1F91 01 00000000:00000000 00:00000000 00000000  1001 0 2 1 0",
        "   2: 0100007F:9C40 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1002 0 3 1 0",
        "broken",
    ]
    if sys.byteorder == "little":
        assert find(lines, ("127.0.0.1", 40000), ("127.0.0.1", 8080)) == 1002
        assert find(lines, ("127.0.0.1", 40000), ("127.0.0.1", 8081)) == 1001
        assert find(lines, ("127.0.0.1", 40001), ("127.0.0.1", 8080)) is None
