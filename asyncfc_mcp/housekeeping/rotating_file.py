"""A log file that is renamed when it is full, and which several processes may write at the same time.

Owns opening, rotation and permissions. A shared lock on the file shows others that it is in use (`log_folder`).
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from asyncfc_mcp.private_files import is_at, make_folder, open_private, try_lock

LOG_BYTES: Final = 5 << 20
"""Size at which a log file is renamed to `.1` and a new one is created."""
OLDER_LOGS: Final = 2
"""Rotated files that are kept: `.1` and `.2`."""
_PAUSE_S: Final = 0.001
_TRIES: Final = 200 if os.name == "posix" else 1  # elsewhere a lock cannot be shared, and nobody removes an open file
"""Attempts to open a file that others remove at the same time."""


class RotatingFile:
    """An append-only file.

    Args:
        path: its folder is created where it is missing.
        onto: descriptors of the process that are redirected to the file, such as 1 and 2, whenever it is opened.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, onto: Sequence[int] = ()) -> None:
        self.path = path
        self._onto = onto
        self._fd = self._open()
        for older in self._names[1:]:
            with suppress(OSError):
                os.close(open_private(older, os.O_RDONLY))  # opening it sets its mode

    @property
    def _names(self) -> list[Path]:
        """The file and its rotated predecessors, newest first."""
        return [self.path, *(Path(f"{self.path}.{n}") for n in range(1, OLDER_LOGS + 1))]

    def _open(self) -> int:
        fd = self._open_locked()
        for descriptor in self._onto:
            os.dup2(fd, descriptor)
        return fd

    def _open_locked(self) -> int:
        for _ in range(_TRIES):
            make_folder(self.path.parent)
            try:
                fd = open_private(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            except FileNotFoundError:  # the folder was empty, and another process removed it
                continue
            try:
                locked = try_lock(fd, exclusive=False)
            except OSError:  # the file system has no locks
                locked = True
            if locked and is_at(fd, self.path):  # it was not removed or renamed between opening and locking
                return fd
            os.close(fd)
            time.sleep(_PAUSE_S)
        make_folder(self.path.parent)
        return open_private(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, text: str) -> None:
        """Append a text.

        Raises:
            OSError: it cannot be written.
        """
        self.rotate_if_full()
        os.write(self._fd, text.encode("utf-8", "backslashreplace"))

    def rotate_if_full(self) -> None:
        """Begin a new file if this one is full. Called by `write`, and by those who write to `onto` themselves.

        Raises:
            OSError: the new file cannot be opened.
        """
        if self._fd < 0:  # the last rotation could not open a new file
            self._fd = self._open()
        if os.fstat(self._fd).st_size >= LOG_BYTES:
            self._rotate()

    def _rotate(self) -> None:
        ours = os.fstat(self._fd)
        self.close()
        try:
            with suppress(FileNotFoundError):
                # Another bridge may have rotated it already; the path then belongs to another file.
                if os.path.samestat(ours, os.stat(self.path)):
                    names = self._names
                    for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
                        with suppress(FileNotFoundError):
                            newer.replace(older)
        finally:
            self._fd = self._open()

    def close(self) -> None:
        """Close the file; `onto` remain redirected."""
        # Reset before closing: the number may belong to another file immediately afterwards.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
