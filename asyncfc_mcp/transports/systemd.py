"""The process as a service of systemd: notifications of its state, its watchdog, and sockets that it inherits.

Owns the variables of these protocols (sd_notify(3), sd_listen_fds(3)), which no wrapped server inherits. Without
systemd, all of it does nothing. Leaves to `http.serve` when which state is reached. Standard library only, but for the
pauses of the watchdog.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Generator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import anyio

from asyncfc_mcp.errors import BridgeError

logger = logging.getLogger(__name__)

FIRST_DESCRIPTOR: Final = 3
MOST_SOCKETS: Final = 64
SEND_TIMEOUT_S: Final = 1.0
"""Maximum time for which a change of state waits for room in the queue of the service manager, which has ten places.
Signs of life and the status do not wait: there are more of them."""
STATUS_POLL_S: Final = 5.0
"""Interval in which the status is computed again, and sent if it has changed."""
STATUS_CHARS: Final = 500
_VARIABLES: Final = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"),
)


class UnusableSocket(BridgeError):
    """A socket that the process inherits cannot be served.

    Args:
        name: of the socket (`FileDescriptorName=`).
        why: as a predicate.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"the socket {name!r} that systemd passes {why}; set ListenStream= of its unit to a port, or to an "
            f"address and a port (127.0.0.1:8642)"
        )


class Service:
    """Connection to the service manager.

    Args:
        address: of the manager's socket; None: there is no manager.
        watchdog_s: interval in which the manager expects a sign of life.
        sockets: inherited ones with their names.
    """

    def __init__(
        self,
        address: str | None = None,
        watchdog_s: float | None = None,
        sockets: Sequence[tuple[str, socket.socket]] = (),
    ) -> None:
        self._address = address
        self._watchdog_s = watchdog_s
        self._sockets = sockets
        self._status = ""
        self._stopping = False

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> "Service":
        """Return the service that an environment describes, and remove its variables."""
        given = {name: value for name in _VARIABLES if (value := environ.pop(name, None)) is not None}
        own = str(os.getpid())
        watchdog_us = _number(given.get("WATCHDOG_USEC")) if given.get("WATCHDOG_PID", own) == own else 0
        sockets = _inherited(given) if given.get("LISTEN_PID") == own else ()
        address = given.get("NOTIFY_SOCKET")
        if address is not None and address[:1] not in ("/", "@"):
            logger.warning("NOTIFY_SOCKET=%s is no Unix socket: systemd is not notified", address)
            address = None
        return cls(address, watchdog_us / 1e6 if watchdog_us else None, sockets)

    def take_sockets(self) -> list[socket.socket]:
        """Return the inherited sockets, which belong to the caller from now on.

        Raises:
            UnusableSocket: one is no listening TCP socket.
        """
        for name, sock in self._sockets:
            if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
                raise UnusableSocket(name, "is no TCP socket")
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise UnusableSocket(name, "does not listen (Accept=yes is not supported)")
        taken, self._sockets = [sock for _, sock in self._sockets], ()
        return taken

    # --- states --------------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """Report the end of the start."""
        self._send("READY=1")

    @contextmanager
    def reloading(self) -> Generator[None]:
        """Report a reload while the block runs. The manager wants to hear of both ends of one that it has asked for
        (`Type=notify-reload`)."""
        if not self._stopping:
            self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            yield
        finally:
            if not self._stopping:
                self._send("READY=1")

    def stopping(self, within_s: float) -> None:
        """Report the beginning of the end.

        Args:
            within_s: time that it may take, whatever the unit allows.
        """
        self._stopping = True
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(within_s * 1e6)}")

    def status(self, text: str) -> None:
        """Show a line in `systemctl status`."""
        text = " ".join(text.split())[:STATUS_CHARS]
        if text != self._status:
            self._status = text if self._send(f"STATUS={text}", wait=False) else ""

    async def run(self, status: Callable[[], str]) -> None:
        """Send signs of life to the watchdog, and the status whenever it has changed, until cancelled."""
        if self._address is None:
            return
        pause = STATUS_POLL_S if self._watchdog_s is None else min(STATUS_POLL_S, self._watchdog_s / 3)
        while True:
            if self._watchdog_s is not None:
                self._send("WATCHDOG=1", wait=False)
            self.status(status())
            await anyio.sleep(pause)

    def _send(self, state: str, *, wait: bool = True) -> bool:
        """Return whether it was sent."""
        if self._address is None:
            return False
        # A leading @ stands for the zero byte of an abstract socket.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(SEND_TIMEOUT_S if wait else 0)
                sock.connect(address)
                sock.sendall(state.encode("utf-8", "replace"))
        except OSError as exc:
            logger.info("systemd was not notified of %s: %s", state.partition("\n")[0], exc)
            return False
        return True


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def _inherited(given: MutableMapping[str, str]) -> list[tuple[str, socket.socket]]:
    """Return the inherited sockets with their names. No other process inherits them from this one."""
    names = given.get("LISTEN_FDNAMES", "").split(":")
    found: list[tuple[str, socket.socket]] = []
    for index in range(min(_number(given.get("LISTEN_FDS")), MOST_SOCKETS)):
        descriptor = FIRST_DESCRIPTOR + index
        with suppress(OSError):  # closed, or no socket
            os.set_inheritable(descriptor, False)
            name = names[index] if index < len(names) and names[index] else str(descriptor)
            found.append((name, socket.socket(fileno=descriptor)))
    return found
