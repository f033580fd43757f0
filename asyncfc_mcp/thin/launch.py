"""Joining the user's daemon, which is started if there is none.

Owns the search for the daemon, its start, the exchange of the first lines, and the bound on all of that. Standard
library only.

A daemon is started as `PROGRAM daemon run --name NAME SOURCE…`, as the leader of a session of its own, in the folder
that `place.daemon_folder` returns, with nothing on standard input, and its log file as standard output and error. The
environment variable `ASYNCFC_DAEMON_READY` names the descriptor of a pipe, to which it writes one line and then closes
it:

    ok              it listens
    config REASON   its configuration is wrong, which `serve` reports
    error REASON    it cannot run, with the reason for users

If it ends without a line, another daemon has the lock, which is starting or ending: the session connects again.
"""

import fcntl
import os
import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from asyncfc_mcp import __version__
from asyncfc_mcp.thin import greeting
from asyncfc_mcp.thin.place import (
    Place,
    PlaceUnsafe,
    connect,
    daemon_folder,
    daemon_name,
    is_absent,
    listens,
    make_folder,
    runtime_folder,
    source_words,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

READY_VARIABLE: Final = "ASYNCFC_DAEMON_READY"
FIRST_JOIN_S: Final = 20.0
"""Bound on the first join, after which the session runs a bridge of its own."""
FIRST_WAIT_S: Final = 7.0
"""Bound on the wait for a daemon that ends or does not answer, in the first join: some hosts give up after 10 s."""
REJOIN_S: Final = 30.0
CONNECT_S: Final = 5.0
GREETING_S: Final = 5.0
"""Bound on the daemon's answer to a greeting. A daemon that is busy for longer is as good as none."""
SHORTEST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.5
MOST_LOG_BYTES: Final = 8 << 20
"""Size from which the log of a daemon is begun anew at its start. Daemons keep it smaller, unless they fail before."""


class Unusable(Exception):
    """No daemon can be joined.

    Args:
        reason: for users.
        told: the reason need not be shown, since `serve` shows it itself.
    """

    def __init__(self, reason: str, *, told: bool = False) -> None:
        super().__init__(reason)
        self.told = told


class Source(NamedTuple):
    """Servers that a session wants, as its command line names them."""

    config: str | None
    url: str | None
    command: Sequence[str]


class Joined(NamedTuple):
    """A connection to the daemon.

    Attributes:
        received: bytes after the daemon's first line.
        about: that line.
    """

    sock: "socket"
    received: bytes
    about: dict[str, Any]


class Launcher:
    """Finds or starts the daemon of one session, as often as that is needed.

    Args:
        source: the servers of the session.
        environ: of the session.

    Attributes:
        program: the command of this program; replaced by a newer one that a daemon names.
        wait: waits until a descriptor is readable, for some seconds at most, and returns whether it is; may raise an
            exception to end the wait. Without a descriptor, it waits for that time.

    Raises:
        Unusable: the folder of the socket cannot be used.
    """

    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._words = source_words(*source)
        self._cwd = _folder()
        self.program = self._own = own_program()
        self.wait: Callable[[int | None, float], bool] = _wait
        name = daemon_name(self._words, environ, self._cwd)
        self.log = os.path.join(log_folder(environ), f"daemon-{name}.log")
        """Where the daemon logs (`housekeeping.log_folder.daemon_log`)."""
        given = environ.get("CLAUDE_CODE_SESSION_ID")
        self._conversation = f"claude-code:{given}" if given else os.urandom(16).hex()
        try:
            self.place = Place(runtime_folder(environ), name)
        except PlaceUnsafe as exc:
            raise Unusable(str(exc)) from None

    def join(self, within_s: float, *, resumed: bool) -> Joined:
        """Return a connection to the daemon.

        Args:
            within_s: bound on all attempts.
            resumed: the session was joined to a daemon before.

        Raises:
            Unusable: there is none, and none can be started.
        """
        now = time.monotonic()
        deadline, patience = now + within_s, now + (within_s if resumed else min(within_s, FIRST_WAIT_S))
        wait = SHORTEST_PAUSE_S
        while True:
            problem = "it does not answer"
            try:
                joined = self._greet(connect(self.place, CONNECT_S), resumed)
                if joined is not None:
                    return joined
            except PlaceUnsafe as exc:
                raise Unusable(str(exc)) from None
            except OSError as exc:
                if is_absent(exc):
                    started = self._start(deadline)
                    if started:
                        continue
                    if started is None:
                        patience = deadline
                    problem = "it is ending, or does not listen"
                elif isinstance(exc, TimeoutError | BlockingIOError):  # busy; or as many wait as can
                    problem = "it does not accept connections"
                else:
                    raise Unusable(f"{self.place.socket}: {exc.strerror or exc}") from None
            if time.monotonic() > patience:
                raise Unusable(f"the daemon at {self.place.socket} cannot be joined: {problem}; its log: {self.log}")
            self.wait(None, wait)
            wait = min(wait * 2, LONGEST_PAUSE_S)

    def _greet(self, sock: "socket", resumed: bool) -> Joined | None:
        """Exchange the first lines; return None if the connection ends before.

        Raises:
            Unusable: the daemon is of another kind.
        """
        hello = greeting.join(
            version=__version__,
            pid=os.getpid(),
            conversation=self._conversation,
            cwd=self._cwd,
            environ=self._environ,
            program=self.program,
            resumed=resumed,
        )
        received = b""
        try:
            sock.settimeout(GREETING_S)
            sock.sendall(hello)
            deadline = time.monotonic() + GREETING_S
            while b"\n" not in received:
                ready = self.wait(sock.fileno(), max(deadline - time.monotonic(), 0))
                data = sock.recv(65536) if ready else b""
                if not data or len(received) > greeting.MOST_BYTES:
                    sock.close()
                    return None
                received += data
            sock.settimeout(None)
        except OSError:
            sock.close()
            return None
        first, _, received = received.partition(b"\n")
        try:
            answer = greeting.read(first)
        except greeting.NotAGreeting:
            answer = {}
        if answer.get("protocol") != greeting.PROTOCOL or not isinstance(answer.get("joined"), dict):
            sock.close()
            reason = answer.get("error")
            shown = reason if isinstance(reason, str) else "it is of another version of this program"
            raise Unusable(f"the daemon at {self.place.socket} refuses: {shown}")
        return Joined(sock, received, answer["joined"])

    def _start(self, deadline: float) -> bool | None:
        """Start the daemon, and return once it listens; return False if another one has been started or is ending, and
        None if another session is starting it.

        Raises:
            Unusable: it cannot be started.
        """
        try:
            make_folder(self.place.folder)
            lock = os.open(self.place.starting, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except PlaceUnsafe as exc:
            raise Unusable(str(exc)) from None
        except OSError as exc:
            raise Unusable(f"{self.place.starting}: {exc.strerror or exc}") from None
        try:
            for path in (self.place.starting, self.place.lock):
                if not _is_own(path):  # left from a time when the folder was open to others, who may hold it locked
                    raise Unusable(f"{path}: belongs to another user")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            except OSError as exc:
                raise Unusable(f"{self.place.starting}: {exc.strerror or exc}") from None
            if not _is_at(lock, self.place.starting):
                return False
            if listens(self.place, CONNECT_S):
                return True
            # A daemon that is ending has it still: another one could not start.
            if _is_locked(self.place.lock):
                return False
            try:
                return self._started(deadline)
            except Unusable:
                if self.program == self._own:
                    raise
            self.program = self._own  # the newer one that the last daemon has named does not run
            return self._started(deadline)
        finally:
            os.close(lock)

    def _started(self, deadline: float) -> bool:
        reading, writing = os.pipe()
        try:
            try:
                log = open_log(self.log)
            except OSError as exc:
                raise Unusable(f"{self.log}: {exc.strerror or exc}") from None
            try:
                words = [*self.program, "daemon", "run", "--name", self.place.name, *self._words]
                folder = daemon_folder(self._words, self._environ, self._cwd)
                spawn(words, self._environ, folder, log, writing)
            except OSError as exc:
                raise Unusable(f"{self.program[0]}: {exc.strerror or exc}") from None
            finally:
                os.close(log)
                os.close(writing)
                writing = -1
            said = b""
            while b"\n" not in said:
                if not self.wait(reading, max(deadline - time.monotonic(), 0)):
                    raise Unusable(f"the daemon does not start; its log: {self.log}")
                data = os.read(reading, 4096)
                if not data:
                    return False
                said += data
        finally:
            os.close(reading)
            if writing >= 0:
                os.close(writing)
        word, _, reason = said.decode(errors="replace").strip().partition(" ")
        if word == "ok":
            return True
        if word == "config":
            raise Unusable(f"its configuration is wrong: {reason}", told=True)
        raise Unusable(f"{reason or word}; the daemon's log: {self.log}")


def _wait(fd: int | None, seconds: float) -> bool:
    return bool(select.select([] if fd is None else [fd], [], [], seconds)[0])


def _is_at(descriptor: int, path: str) -> bool:
    """Return whether an open file is still the one with this path: a lock on one that was removed locks nobody out.
    The same as `private_files.is_at`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _is_own(path: str) -> bool:
    """Return whether a file is this user's, or there is none."""
    try:
        return os.lstat(path).st_uid == os.geteuid()
    except OSError:
        return True


def _is_locked(path: str) -> bool:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def spawn(command: Sequence[str], environ: Mapping[str, str], folder: str, log: int, ready: int) -> None:
    """Start a process that is no child of this one, in a session of its own.

    Raises:
        OSError: it cannot be started.
    """
    # The error of a failed exec comes back through this pipe, which a successful one closes.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.setsid()
            if os.fork() == 0:
                os.chdir(folder)
                null = os.open(os.devnull, os.O_RDWR)
                for fd, number in ((null, 0), (log, 1), (log, 2)):
                    os.dup2(fd, number)
                os.set_inheritable(ready, True)
                os.execvpe(command[0], list(command), {**environ, "PWD": folder, READY_VARIABLE: str(ready)})
        except OSError as exc:
            os.write(writing, str(exc.errno or 0).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        failed = os.read(reading, 16)
        os.waitpid(child, 0)
    finally:
        os.close(reading)
    if failed:
        raise OSError(int(failed), os.strerror(int(failed)))


def own_program() -> list[str]:
    """Return the command of this program, without arguments."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "asyncfc-mcp" and os.access(script, os.X_OK):
        return [script]
    # -P: the daemon works in a folder whose files are no modules of it.
    return [sys.executable, "-P", "-m", "asyncfc_mcp"]


def log_folder(environ: Mapping[str, str]) -> str:
    """Return the folder of logs of this user, which is that of `cli.process`."""
    given = environ.get("ASYNCFC_LOG_DIR")
    if given:
        return given
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        return os.path.join(home, "Library", "Logs", "asyncfc-mcp")
    state = environ.get("XDG_STATE_HOME") or ""
    return os.path.join(state if state.strip() else os.path.join(home, ".local", "state"), "asyncfc-mcp", "log")


def open_log(path: str) -> int:
    """Open the log of a daemon, and create its folder where it is missing.

    Raises:
        OSError: it cannot be opened.
    """
    mask = os.umask(0o077)  # the mode of `makedirs` is not that of missing parents
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    finally:
        os.umask(mask)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    if os.fstat(log).st_size > MOST_LOG_BYTES:
        os.ftruncate(log, 0)
    return log


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return "/"
