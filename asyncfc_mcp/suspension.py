"""Detection that this machine was asleep, and TCP options with which dead peers are noticed.

Owns the clocks. A machine that wakes up may be in another network: peers may have dropped its connections without its
knowledge, so that what is sent on them is lost, or what is awaited never comes. What follows from that is left to those
who have connections. Timers of the event loop do not count the sleep where the system has such a clock (Linux, macOS).
"""

import socket
import time
from contextlib import suppress
from typing import Any, Final

SLEPT_S: Final = 2.0
"""Shorter sleeps break no connection."""
CLOCK_STEP_S: Final = 30.0
"""A wall clock that is set by this much counts as a sleep: a virtual machine does not notice that it was paused, but
its clock is corrected. If it was not paused, a check costs little."""
KEEPALIVE: Final = (60, 30, 4)
"""Seconds without data after which a peer is probed, seconds between probes, and probes without an answer after which
the connection ends: a dead peer is noticed within three minutes."""
UNACKNOWLEDGED_S: Final = 180
"""Seconds after which data that was sent and not acknowledged ends the connection (15 minutes by default)."""

_OPTIONS: Final = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
_IDLE_ON_MACOS: Final = getattr(socket, "TCP_KEEPALIVE", None)


def slept_s() -> float:
    """Return the seconds that this machine was asleep since it was started; 0 where the system does not say."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    if boot is not None:
        return time.clock_gettime(boot) - time.clock_gettime(time.CLOCK_MONOTONIC)
    uptime = getattr(time, "CLOCK_UPTIME_RAW", None)
    if uptime is not None:  # macOS, whose monotonic clock goes on during a sleep
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(uptime)
    return 0.0


def wall_offset_s() -> float:
    """Return the difference of the wall clock and the time since the start of the machine, sleeps included."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() - (time.monotonic() if boot is None else time.clock_gettime(boot))


class SleepDetector:
    """Notices sleeps since the last look. Cheap enough to be asked before each request."""

    def __init__(self) -> None:
        self._slept, self._offset = slept_s(), wall_offset_s()

    def has_slept(self) -> bool:
        """Return whether the machine was asleep, or paused, since the last call."""
        slept, offset = slept_s(), wall_offset_s()
        asleep = slept - self._slept > SLEPT_S or abs(offset - self._offset) > CLOCK_STEP_S
        self._slept, self._offset = slept, offset
        return asleep


def detect_dead_peer(sock: Any) -> None:
    """Have a connection end within minutes after its peer has gone without a word. Accepted connections inherit this
    from a listening socket.

    Args:
        sock: a socket, or an object of an event loop in its place.
    """
    with suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if _IDLE_ON_MACOS is not None and not hasattr(socket, "TCP_KEEPIDLE"):
        with suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, _IDLE_ON_MACOS, KEEPALIVE[0])
    for name, value in zip(_OPTIONS, KEEPALIVE, strict=True):
        with suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    with suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNACKNOWLEDGED_S)
