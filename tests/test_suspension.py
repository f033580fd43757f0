"""Sleeps of the machine are noticed once each, and connections end when their peer is gone."""

import socket
import sys
import time

import pytest

from asyncfc_mcp import suspension
from asyncfc_mcp.suspension import SleepDetector, detect_dead_peer


class Clocks:
    """The clocks of a machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept = self.offset = 0.0
        monkeypatch.setattr(suspension, "slept_s", lambda: self.slept)
        monkeypatch.setattr(suspension, "wall_offset_s", lambda: self.offset)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.mark.parametrize(
    ("slept", "offset", "noticed"),
    [(0, 0, False), (1, 0, False), (3600, 0, True), (0, 29, False), (0, 31, True), (0, -3600, True), (5, -1, True)],
)
def test_a_sleep_is_noticed_once(clocks: Clocks, slept: float, offset: float, noticed: bool):
    """By the clock that counts it, or by a wall clock that was corrected after a pause of a virtual machine."""
    detector = SleepDetector()
    clocks.slept, clocks.offset = slept, offset
    assert detector.has_slept() is noticed
    assert not detector.has_slept()


def test_a_clock_that_is_corrected_a_little_at_a_time_is_no_sleep(clocks: Clocks):
    """As a service for the time does."""
    detector = SleepDetector()
    for _ in range(100):
        clocks.offset += 1
        assert not detector.has_slept()


def test_this_machine_is_awake():
    """The real clocks agree with each other."""
    detector = SleepDetector()
    time.sleep(0.01)
    assert not detector.has_slept()
    assert suspension.slept_s() >= -0.1


@pytest.mark.skipif(sys.platform != "linux", reason="options have other names elsewhere")
def test_accepted_connections_inherit_the_detection_of_dead_peers():
    """Within minutes: probes, and a limit on data without acknowledgement."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        detect_dead_peer(listener)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle, pause, probes = (accepted.getsockopt(socket.IPPROTO_TCP, name) for name in names)
            assert idle + pause * probes <= 300
            assert 0 < accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 300_000
    detect_dead_peer(None)  # an event loop may show no socket
