"""Clients behind proxies: whose word counts, and that limits count for the client and not for the proxy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.transports.http.connections import Connections, Limits, Phase
from asyncfc_mcp.transports.http.forwarded import TrustedProxies
from asyncfc_mcp.transports.http.options import UnusableOptions
from tests.transports.http.test_connections import Peer

PROXIES = TrustedProxies(["10.0.0.0/8", "127.0.0.1", "fd00::/8"])


def headers(*forwarded: str, proto: str | None = None) -> list[tuple[bytes, bytes]]:
    found = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    return [*found, *([] if proto is None else [(b"x-forwarded-proto", proto.encode())])]


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (("203.0.113.7",), "203.0.113.7"),
        (("1.1.1.1, 203.0.113.7",), "203.0.113.7"),
        (("1.1.1.1, 203.0.113.7, 10.1.2.3",), "203.0.113.7"),
        (("1.1.1.1", "203.0.113.7"), "203.0.113.7"),
        (("1.1.1.1", "203.0.113.7", "10.0.0.2"), "203.0.113.7"),
        (("203.0.113.7:5123",), "203.0.113.7"),
        (("[2001:db8::7]:443",), "2001:db8::7"),
        (("2001:db8::7",), "2001:db8::7"),
        (("10.0.0.9, 10.0.0.8",), "10.0.0.9"),
        (("1.1.1.1, unknown, 10.0.0.8",), "10.0.0.8"),
        (("evil",), None),
        (("",), None),
        ((), None),
    ],
)
def test_the_client_is_the_last_one_that_is_no_proxy(forwarded: tuple[str, ...], client: str | None):
    """Whatever the client itself has written before it."""
    assert PROXIES.client_of(headers(*forwarded))[0] == client


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [("https", "https"), ("HTTP", "http"), ("http, https", "https"), ("gopher", None), (None, None)],
)
def test_the_scheme_is_that_of_the_last_proxy(proto: str | None, scheme: str | None):
    """HTTP or HTTPS, and nothing else."""
    assert PROXIES.client_of(headers(proto=proto))[1] == scheme


@given(st.lists(st.text(alphabet=st.characters(max_codepoint=255), max_size=40), max_size=5))
def test_no_header_breaks_it(values: list[str]):
    """It is an address, or nothing."""
    found = [(b"x-forwarded-for", value.encode("latin-1")) for value in values]
    client, _ = PROXIES.client_of(found)
    assert client is None or client[0] in "0123456789abcdef:"


def test_only_named_peers_are_proxies():
    """Everybody can send the header."""
    for peer in ("10.255.0.1", "127.0.0.1", "::ffff:10.0.0.1", "fd12::1"):
        assert PROXIES.trusts_peer(peer)
    for peer in ("11.0.0.1", "::1", "", "localhost"):
        assert not PROXIES.trusts_peer(peer)
    assert TrustedProxies(["*"]).trusts_peer("203.0.113.7")
    for wrong in ("proxy", "10.0.0.0/99", "10.0.0"):
        with pytest.raises(UnusableOptions):
            TrustedProxies([wrong])


def test_a_proxys_connection_counts_for_the_client_whose_request_it_carries():
    """As long as it does: the proxy has no limit of its own, and a client the same as without one."""
    connections = Connections(Limits(100, max_connections_per_address=2), clock=lambda: 0.0)
    peers = [Peer(Phase.ANSWER) for _ in range(5)]
    for peer in peers:
        assert connections.admit(peer, "10.0.0.1", proxy=True)
    assert connections.attribute(peers[0], "203.0.113.7")
    assert connections.attribute(peers[0], "203.0.113.7")
    assert connections.attribute(peers[1], "203.0.113.7")
    assert not connections.attribute(peers[2], "203.0.113.7")
    assert connections.attribute(peers[2], "203.0.113.8")
    assert not connections.admit(Peer(Phase.ANSWER), "203.0.113.7")
    assert connections.attribute(peers[0], None)
    assert connections.attribute(peers[3], "203.0.113.7")
    for peer in peers:
        connections.forget(peer)
        connections.forget(peer)
        assert connections.attribute(peer, "203.0.113.7")
    assert not connections._of
