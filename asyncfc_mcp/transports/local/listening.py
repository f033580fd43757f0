"""The daemon's files: its lock, its socket, and what it says of itself.

Owns that there is one daemon of a name, and that the socket is its own. The lock decides, for as long as the process
lives, and only while its file is found by its name; a socket without it is a remainder of a daemon that was killed, and
is replaced. Leaves connections to `sessions`.
"""

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio

from asyncfc_mcp.private_files import is_at, open_private, replace_private, try_lock
from asyncfc_mcp.thin.place import Place, listens, make_folder

LOCK_ATTEMPTS: Final = 10
LOCK_PAUSE_S: Final = 0.05
"""Sessions look at the lock, each for less than this, so that one look need not mean another daemon."""
BACKLOG: Final = 1024
ANSWER_S: Final = 1.0
"""Time limit for another daemon to accept a connection, where the lock file is not its own any more."""


class Replaced(Exception):
    """Another daemon has taken the lock, whose file was removed: this one has to end."""


class Listening:
    """The files of a running daemon, which has the lock.

    Args:
        place: where they are.
        lock: the descriptor of the locked file.
    """

    def __init__(self, place: Place, lock: int) -> None:
        self.place = place
        self._lock = lock
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.closed = False
        """True once it does not listen, and will not."""
        self._inode: tuple[int, int] | None = None
        self._about: Mapping[str, Any] = {}

    def open(self, about: Mapping[str, Any]) -> None:
        """Listen, in place of a daemon that was killed.

        Args:
            about: what `daemon status` shows of a daemon that does not answer, and `daemon restart` needs.

        Raises:
            OSError: the files cannot be made.
        """
        self._about = about
        self._bind()
        self._write_about()

    def _bind(self) -> None:
        # Under another name first, so that a socket that is found at the place accepts connections and is private.
        path = os.path.join(self.place.folder, f"{self.place.name[:8]}.{os.getpid()}")
        with suppress(FileNotFoundError):
            os.unlink(path)
        new = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            new.setblocking(False)
            new.bind(path)
            os.chmod(path, 0o600)
            new.listen(BACKLOG)
            found = os.lstat(path)
            os.rename(path, self.place.socket)
        except OSError:
            new.close()
            with suppress(OSError):
                os.unlink(path)
            raise
        self._close_socket()
        self.socket = new
        self._inode = found.st_dev, found.st_ino

    def _write_about(self) -> None:
        replace_private(Path(self.place.about), [json.dumps(self._about).encode()])

    def touch(self) -> None:
        """Keep the files from being cleaned up by their age, as those in temporary folders may be."""
        for path in (self.place.lock, self.place.about, self.place.socket):
            with suppress(OSError):
                os.utime(path)

    async def renew(self) -> bool:
        """Make the lock and the socket again if they were removed, and return whether they were.

        Raises:
            Replaced: another daemon has the lock by now.
            PlaceUnsafe, OSError: they cannot be made.
        """
        if self.closed:
            return False
        removed = not is_at(self._lock, Path(self.place.lock))
        if removed:
            lock = await _take_lock(self.place)
            if lock is None:
                raise Replaced
            os.close(self._lock)
            self._lock = lock
        if self.closed or self._is_own_socket():
            return removed
        make_folder(self.place.folder)
        self._bind()
        self._write_about()
        return True

    def _is_own_socket(self) -> bool:
        try:
            found = os.lstat(self.place.socket)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def close(self) -> None:
        """Stop listening and remove the files, except for the lock, which ends with the process."""
        self.closed = True
        self._close_socket()
        if self._is_own_socket():
            for path in (self.place.socket, self.place.about):
                with suppress(OSError):
                    os.unlink(path)

    def _close_socket(self) -> None:
        if self.socket.fileno() >= 0:
            anyio.notify_closing(self.socket)
            self.socket.close()


async def take(place: Place) -> Listening | None:
    """Return the place with its lock taken; None if another daemon has it.

    Raises:
        PlaceUnsafe: the folder or the files are not this user's alone.
        OSError: the lock file cannot be made.
    """
    lock = await _take_lock(place)
    if lock is None:
        return None
    if listens(place, ANSWER_S):  # its lock file was removed, and it will notice
        os.close(lock)
        return None
    return Listening(place, lock)


async def _take_lock(place: Place) -> int | None:
    """Return the descriptor of the locked file; None if another daemon has it.

    Raises:
        PlaceUnsafe, OSError: see `take`.
    """
    make_folder(place.folder)
    path = Path(place.lock)
    for attempt in range(LOCK_ATTEMPTS):
        if attempt:
            await anyio.sleep(LOCK_PAUSE_S)
        lock = open_private(path, os.O_RDWR | os.O_CREAT)
        taken = False
        try:
            taken = try_lock(lock) and is_at(lock, path)
            if taken:
                return lock
        finally:
            if not taken:
                os.close(lock)
    return None
