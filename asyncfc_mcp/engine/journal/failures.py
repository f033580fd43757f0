"""Failures of the journal's file, in words: what happened, where, and what to do.

Owns the classification of errors of SQLite and the file system. Pure.
"""

import errno
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from asyncfc_mcp.engine.journal.owners import LockUnavailable
from asyncfc_mcp.engine.journal.schema import ForeignFile, NewerFile, OtherConfiguration
from asyncfc_mcp.errors import JournalUnreadable

_CORRUPT: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_REFUSED: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_FREE: Final = "Free space, or choose another place with the setting `journal`, and start the bridge again"
_CHOOSE: Final = 'Choose another place with the setting `journal`, or turn it off with `journal: "off"`'


class FileGone(Exception):
    """The file was deleted, or another one is in its place."""


class Unsafe(Exception):
    """The file, or its folder, can be changed by other users."""


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Have failures of reading a journal's file raised as errors for users.

    Raises:
        JournalUnreadable: there is no such file, or it cannot be read.
    """
    try:
        if not path.exists():
            raise JournalUnreadable(path, "there is no such file", "A bridge begins it with its first call")
        yield
    except (OSError, sqlite3.Error, NewerFile, ForeignFile) as exc:
        raise JournalUnreadable(path, *described(exc, path)) from exc


def primary_code(exc: BaseException) -> int | None:
    """Return SQLite's primary result code of an error; None for other errors."""
    code: int | None = getattr(exc, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def is_corrupt(exc: BaseException) -> bool:
    """Return true for an error of a file whose content is damaged."""
    return primary_code(exc) in _CORRUPT


def is_expected(exc: BaseException) -> bool:
    """Return true for an error of the file or its place, which words describe; false for a mistake of this program."""
    return isinstance(exc, OSError | sqlite3.Error | NewerFile | ForeignFile | FileGone | Unsafe | LockUnavailable)


def described(exc: BaseException, path: Path) -> tuple[str, str]:
    """Return what happened to the file, and what to do, in words without a full stop."""
    match exc:
        case NewerFile():
            return "it was written by a newer asyncfc-mcp, and is left as it is", f"Update asyncfc-mcp. {_CHOOSE}"
        case ForeignFile():
            return "it is a database of another program, and is left as it is", _CHOOSE
        case OtherConfiguration():
            return "it belongs to another configuration, and is left as it is", _CHOOSE
        case FileGone():
            return "it was deleted or replaced while the bridge ran", "Start the bridge again, which begins a new file"
        case Unsafe() | LockUnavailable():
            return str(exc), _CHOOSE
        case OSError() if exc.errno in _FULL:
            return f"no space is left for it: {exc.strerror}", _FREE
        case OSError():
            return f"{exc.strerror or exc}", f"Check the rights of {path.parent}. {_CHOOSE}"
        case _:
            pass
    code = primary_code(exc)
    if code == sqlite3.SQLITE_FULL:
        return "no space is left for it", _FREE
    if code in _BUSY:
        return "another process keeps it locked", f"End that process (see `fuser {path}`). {_CHOOSE}"
    if code in _REFUSED:
        return f"it cannot be opened or written: {exc}", f"Check the rights of {path.parent}. {_CHOOSE}"
    if code == sqlite3.SQLITE_IOERR:
        return f"it cannot be read or written: {exc}", f"Check the disk, and the rights of {path.parent}. {_CHOOSE}"
    return f"{type(exc).__name__}: {exc}", f"Check the disk and the rights of {path.parent}. {_CHOOSE}"
