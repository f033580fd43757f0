"""The daemons of this user: found by their files, asked over their sockets.

Owns the commands' side of a connection, and the wait for an end or a restart. Leaves texts to `daemon`.
"""

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from asyncfc_mcp.private_files import open_private, read_private, try_lock
from asyncfc_mcp.thin import greeting
from asyncfc_mcp.thin.place import Place, PlaceUnsafe, connect, is_absent, peer_pid, runtime_folder, source_words

ANSWER_S: Final = 5.0
"""Time limit for a daemon's answer to a command."""
RELOAD_S: Final = 30.0
"""The same for reading the configuration again."""
END_S: Final = 60.0
"""Longest wait for the end of a daemon, or for its restart, beyond what its calls may take (`drain_s`)."""
START_S: Final = 15.0
"""Longest time in which a daemon that has ended starts again."""
POLL_S: Final = 0.05


@dataclass(slots=True)
class Found:
    """A daemon.

    Attributes:
        about: what its file says of it; empty if there is none.
        status: its answer to the command; None if it did not answer.
        problem: the reason for that.
        pid: the process that listens, where the system says.
        is_absent: nothing listened.
    """

    place: Place
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    status: Mapping[str, Any] | None = None
    problem: str = ""
    pid: int | None = None
    is_absent: bool = False

    @property
    def configuration(self) -> str:
        """What it serves, for people."""
        return str((self.status or self.about).get("configuration", self.place.name))

    @property
    def file(self) -> Path | None:
        """Its configuration file; None if it serves a URL or a command."""
        match self.about.get("words"):
            case ["--config", str(file)]:
                return Path(file)
            case _:
                return None

    def serves(self, file: Path) -> bool:
        """Return whether this is its configuration file."""
        return self.about.get("words") == source_words(str(file), None, ())


def find(environ: Mapping[str, str], command: str = "status") -> list[Found]:
    """Return the daemons that run, each with its answer to a command.

    Raises:
        PlaceUnsafe: their folder is not this user's alone.
    """
    found: list[Found] = []
    for place in _places(environ):
        each = Found(place, _about(place))
        deadline = time.monotonic() + ANSWER_S
        # One that is starting, or has been replaced by another one a moment ago, answers soon.
        while not (answered := ask(each, command)) and each.is_absent and is_locked(place):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        if answered or is_locked(place):
            each.about = each.about or _about(place)
            found.append(each)
    return found


def ask(daemon: Found, command: str) -> bool:
    """Have a daemon carry out a command, and keep its answer; return whether it answered in time.

    Raises:
        PlaceUnsafe: another user listens there.
    """
    within_s = RELOAD_S if command == "reload" else ANSWER_S
    try:
        sock = connect(daemon.place, ANSWER_S)
    except OSError as exc:
        daemon.is_absent = is_absent(exc)
        busy = f"it does not accept ({exc.strerror or exc})"
        daemon.problem = "it is starting or ending" if daemon.is_absent else busy
        return False
    with sock:
        daemon.pid = peer_pid(sock)
        try:
            sock.settimeout(within_s)
            sock.sendall(greeting.line(protocol=greeting.PROTOCOL, command=command))
            received = b""
            while not received.endswith(b"\n"):
                data = sock.recv(65536)
                if not data:
                    break
                received += data
            answer = greeting.read(received)
        except greeting.NotAGreeting:
            daemon.problem = "it has ended, or is of another version"
            return False
        except OSError:
            daemon.problem = f"it does not answer within {within_s:g} s"
            return False
    if not isinstance(answer.get("answer"), dict):
        daemon.problem = str(answer.get("error") or "it is of another version")
        return False
    daemon.status = cast("dict[str, Any]", answer["answer"])
    return True


def terminate(daemon: Found) -> bool:
    """Send SIGTERM to a daemon that does not answer; return whether that can be done: its process must be known."""
    if daemon.pid is None or not is_locked(daemon.place):
        return False
    try:
        os.kill(daemon.pid, signal.SIGTERM)
    except OSError:
        return False
    return True


def wait_for_end(daemon: Found, within_s: float) -> bool:
    """Return whether a daemon ends in time."""
    before, deadline = _run_of(daemon), time.monotonic() + within_s
    while is_locked(daemon.place) and _run(daemon.place) in (None, before):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def wait_for_restart(daemon: Found, within_s: float) -> bool:
    """Return whether another run of a daemon serves sessions in time."""
    before, deadline = _run_of(daemon), time.monotonic() + within_s
    while _run(daemon.place) in (None, before):
        now = time.monotonic()
        if now > deadline:
            return False
        if not is_locked(daemon.place):
            deadline = min(deadline, now + START_S)
        time.sleep(POLL_S)
    return True


def is_locked(place: Place) -> bool:
    """Return whether a daemon of this name lives."""
    try:
        lock = open_private(Path(place.lock), os.O_RDWR)
    except OSError:
        return False
    try:
        return not try_lock(lock, exclusive=False)
    except OSError:
        return False
    finally:
        os.close(lock)


def _places(environ: Mapping[str, str]) -> Iterator[Place]:
    folder = runtime_folder(environ)
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    if os.stat(folder).st_uid != os.geteuid():
        raise PlaceUnsafe(folder, "belongs to another user")
    for name in names:
        if name.endswith(".lock"):
            yield Place(folder, name.removesuffix(".lock"))


def _about(place: Place) -> Mapping[str, Any]:
    try:
        about = json.loads(read_private(Path(place.about)))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", about) if isinstance(about, dict) else {}


def _run_of(daemon: Found) -> object:
    return (daemon.status or daemon.about).get("run")


def _run(place: Place) -> object:
    """Return the run of the daemon that answers; None if none does."""
    found = Found(place)
    return found.status.get("run") if ask(found, "status") and found.status is not None else None
