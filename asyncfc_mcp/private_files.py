"""Private files of one user: logs, cached listings, counts, credentials.

Owns their modes, and the protection against files of other users, links and pipes in their place, even where others can
write to the folder; and locks between processes. Independent of their content.
"""

import errno
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_FLAGS: Final = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))
"""Flags so that links are not followed and a pipe in place of a file does not block."""


def make_folder(path: Path) -> None:
    """Create a folder, and its missing parents, with mode 0700.

    Raises:
        OSError: it cannot be created.
    """
    for each in reversed((path, *path.parents)):
        if not each.is_dir():
            each.mkdir(mode=0o700, exist_ok=True)


def open_private(path: Path, flags: int) -> int:
    """Open a file and return its descriptor. Its mode is set to 0600 where it differs.

    Raises:
        OSError: it cannot be opened, or is a link, not a regular file, or owned by another user.
    """
    fd = os.open(path, flags | _FLAGS, 0o600)
    try:
        if os.name == "posix":
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
                raise OSError(errno.EPERM, "not a private file of this user", str(path))
            if found.st_mode & 0o077:
                os.fchmod(fd, 0o600)  # created by an earlier version, or by hand
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one with this path: a lock on one that was removed locks nobody out."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def read_private(path: Path) -> str:
    """Return the text of a private file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is not UTF-8 text.
    """
    with os.fdopen(open_private(path, os.O_RDONLY), encoding="utf-8") as file:
        return file.read()


def replace_private(path: Path, parts: Iterable[bytes], *, durable: bool = False) -> None:
    """Write a private file atomically: readers and crashes see the old content or the new one, never a part.

    Args:
        durable: return once the content is on the disk, so that it survives a crash of the machine as well.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_suffix(f".{os.getpid()}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(open_private(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        file.writelines(parts)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)
    if durable and os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


if sys.platform == "win32":
    import msvcrt

    _FAR: Final = 1 << 30
    """Position of the locked byte: the content of a locked region cannot be read there."""

    def try_lock(descriptor: int, *, exclusive: bool = True) -> bool:
        """Lock a file unless another process, or another descriptor of this one, has locked it; return whether it is
        locked now. The lock ends with the descriptor, and so with the process.

        Raises:
            OSError: the file system has no locks.
        """
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def try_lock(descriptor: int, *, exclusive: bool = True) -> bool:
        """Lock a file unless another process, or another descriptor of this one, has locked it; return whether it is
        locked now. The lock ends with the descriptor, and so with the process.

        Raises:
            OSError: the file system has no locks.
        """
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True
