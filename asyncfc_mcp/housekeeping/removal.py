"""Removal of files of this user that no process uses.

Owns the order (unused for the longest time first), and the checks before a file is removed: that it is the file that
was looked at, and that no process holds its lock. Best effort: what cannot be removed is left.
"""

import logging
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncfc_mcp.private_files import try_lock

logger = logging.getLogger(__name__)

UNLOCKABLE_S: Final = 7 * 86_400.0
"""Where the file system has no locks, a file counts as unused when it was not written for this long, in seconds."""
_FLAGS: Final = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))


@dataclass(frozen=True, slots=True)
class UnusedFile:
    """A file that may be removed unless a process holds its lock.

    Attributes:
        size: in bytes.
        used: time of its last use, in seconds of the wall clock: it was written, or read as far as the file system
            notes that (see `small_files.mark_used`).
    """

    path: Path
    size: int
    used: float

    @classmethod
    def of(cls, entry: "os.DirEntry[str]") -> "UnusedFile":
        """Return the file of an entry of a folder; of no size if it is gone."""
        try:
            found = entry.stat(follow_symlinks=False)
        except OSError:
            return cls(Path(entry.path), 0, 0.0)
        return cls(Path(entry.path), found.st_size, max(found.st_atime, found.st_mtime))


def scan(folder: Path) -> "list[os.DirEntry[str]]":
    """Return the entries of a folder; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def is_private(entry: "os.DirEntry[str]") -> bool:
    """Return whether an entry is a regular file of this user that others cannot access, as this program makes them."""
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    if not stat.S_ISREG(found.st_mode):
        return False
    return os.name != "posix" or (found.st_uid == os.geteuid() and not found.st_mode & 0o077 and found.st_nlink == 1)


def remove_beyond(files: Iterable[UnusedFile], max_bytes: float, max_files: float, older_than: float = 0.0) -> None:
    """Remove files that are not in use until the others keep to the bounds.

    Args:
        older_than: files that were last used before this time are removed in any case, in seconds of the wall clock.
    """
    ordered = sorted(files, key=lambda file: file.used)
    total, count = sum(file.size for file in ordered), len(ordered)
    for file in ordered:
        if total <= max_bytes and count <= max_files and file.used >= older_than:
            return
        if remove_unused(file.path):
            total, count = total - file.size, count - 1


def remove_unused(path: Path) -> bool:
    """Remove a file unless a process holds its lock; return whether it was removed."""
    try:
        fd = os.open(path, os.O_RDONLY | _FLAGS)
    except OSError:
        return False
    try:
        if not _unused(fd):
            return False
        if os.name == "posix":
            # The holder of the lock is the only one that may remove the path: it belongs to this file, or is gone.
            if not os.path.samestat(os.fstat(fd), os.lstat(path)):
                return False
            path.unlink()
    except OSError as exc:
        logger.debug("%s was not removed: %s", path, exc)
        return False
    finally:
        os.close(fd)
    if os.name != "posix":  # an open file cannot be removed there
        try:
            path.unlink()
        except OSError:
            return False
    logger.debug("removed %s", path)
    return True


def _unused(fd: int) -> bool:
    try:
        return try_lock(fd)
    except OSError:
        return time.time() - os.fstat(fd).st_mtime > UNLOCKABLE_S
