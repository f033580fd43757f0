"""Bounds of HTTP connections, on a clock of the test: places, phases, and clients that read nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from asyncfc_mcp.transports.http.connections import Connections, Limits, Phase, network_of


@dataclass(eq=False)
class Peer:
    """A connection as the bounds see it."""

    phase: Phase = Phase.HEAD
    answered: int = 0
    received: int = 0
    sent: int = 0
    unread: int = 0
    expired: list[Phase] = field(default_factory=list[Phase])

    def expire(self, phase: Phase) -> None:
        self.expired.append(phase)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bounds(clock: Clock) -> Callable[..., Connections]:
    return lambda **limits: Connections(Limits(**limits), clock)


STRANGER = "203.0.113.7"


@pytest.mark.parametrize(
    ("phases", "goes"),
    [
        ("head head", 0),
        ("answer head idle", 1),
        ("answer end idle head", 1),
        ("answer body idle", 2),
        ("answer body body", 1),
        ("answer answer", None),
    ],
)
def test_a_connection_that_does_nothing_makes_room(bounds: Callable[..., Connections], phases: str, goes: int | None):
    """Never one that is being answered; a body only where nothing else is left."""
    peers = [Peer() for _ in phases.split()]
    connections = bounds(max_connections=len(peers))
    for peer, phase in zip(peers, phases.split(), strict=True):
        assert connections.admit(peer, "127.0.0.1")
        peer.phase = Phase(phase)
    connections.sweep()
    assert connections.admit(Peer(), "127.0.0.1") == (goes is not None)
    assert [index for index, peer in enumerate(peers) if peer.expired] == ([] if goes is None else [goes])


def test_of_several_bodies_the_slowest_goes(bounds: Callable[..., Connections], clock: Clock):
    """Not the oldest connection, which may have had many requests."""
    old, slow = Peer(), Peer()
    connections = bounds(max_connections=2)
    for peer in (old, slow):
        assert connections.admit(peer, "127.0.0.1")
    old.phase, slow.phase = Phase.IDLE, Phase.BODY
    connections.sweep()
    clock.now += 1
    old.phase = Phase.BODY
    connections.sweep()
    assert connections.admit(Peer(), "127.0.0.1")
    assert (old.expired, slow.expired) == ([], [Phase.BODY])


@pytest.mark.parametrize("again", [0.5, 16.0, 29.0])
def test_a_client_that_takes_nothing_is_cut_off(bounds: Callable[..., Connections], clock: Clock, again: float):
    """However little waits for it, and however often something is added; its phase makes no difference."""
    for phase in (Phase.ANSWER, Phase.IDLE, Phase.END):
        peer = Peer(phase)
        connections = bounds(body_timeout_s=30)
        assert connections.admit(peer, STRANGER)
        peer.sent = peer.unread = 1
        connections.sweep()
        ends = clock.now + 30
        while clock.now + again < ends:
            clock.now += again
            peer.sent += 10
            peer.unread += 15  # its frame, too
            connections.sweep()
            assert not peer.expired
        clock.now = ends
        connections.sweep()
        assert peer.expired


def test_a_client_that_takes_something_is_not_cut_off(bounds: Callable[..., Connections], clock: Clock):
    """A byte at a time, while more is written than it takes; and a stream may be silent."""
    slow, silent = Peer(Phase.ANSWER), Peer(Phase.ANSWER)
    connections = bounds(body_timeout_s=30)
    for peer in (slow, silent):
        assert connections.admit(peer, STRANGER)
    for _ in range(100):
        clock.now += 20
        slow.sent += 100
        slow.unread += 99
        connections.sweep()
    assert not slow.expired
    assert not silent.expired


def admitted(connections: Connections, address: Callable[[int], str], most: int = 50) -> int:
    """How many connections that are being answered addresses get."""
    count = 0
    while count < most and connections.admit(Peer(Phase.ANSWER), address(count)):
        count += 1
    return count


def test_a_stranger_gets_a_quarter_of_the_places(bounds: Callable[..., Connections]):
    """Where everybody may connect, and nothing else is set; this machine and clients with a token get all."""

    def stranger(_: int) -> str:
        return STRANGER

    assert admitted(bounds(max_connections=40, public=True), stranger) == 10
    assert admitted(bounds(max_connections=40), stranger) == 40
    assert admitted(bounds(max_connections=40, public=True), lambda _: "127.0.0.1") == 40
    assert admitted(bounds(max_connections=40, public=True, max_connections_per_address=30), stranger) == 30
    assert admitted(bounds(max_connections=40, max_connections_per_address=5), lambda _: "127.0.0.1") == 5
    assert admitted(bounds(max_connections=40, public=True), lambda n: f"203.0.113.{n}") == 40


def test_a_network_of_ipv6_is_one_stranger(bounds: Callable[..., Connections]):
    """Everybody who has one address has 2^64."""
    assert admitted(bounds(max_connections=40, public=True), lambda n: f"2001:db8::{n + 1:x}") == 10
    assert admitted(bounds(max_connections=40, public=True), lambda n: f"2001:db8:0:{n:x}::1") == 40


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("127.0.0.1", ("127.0.0.1", True)),
        ("::1", ("::1", True)),
        ("::ffff:127.0.0.1", ("127.0.0.1", True)),
        ("::ffff:203.0.113.7", (STRANGER, False)),
        ("fe80::1%eth0", ("fe80::/64", False)),
        ("", ("", False)),
    ],
)
def test_addresses_are_told_apart_by_network(address: str, network: tuple[str, bool]):
    """IPv4 in the clothes of IPv6 is IPv4."""
    assert network_of(address) == network
