"""The journal's file: opening, writing, moving it aside when it is damaged, closing.

Owns the connection of the writer, the rights of the files, and this bridge's boot. Runs in the writer's thread. Leaves
the encoding of values to `preparation`, the time of writing to `writer`, and what is dropped to `retention`.
"""

import contextlib
import errno
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from asyncfc_mcp.core.records import FutureRecord
from asyncfc_mcp.engine.journal import adoption, schema
from asyncfc_mcp.engine.journal.blobs import Blobs
from asyncfc_mcp.engine.journal.failures import FileGone, Unsafe, described, is_corrupt
from asyncfc_mcp.engine.journal.owners import BootFile, starting
from asyncfc_mcp.engine.journal.preparation import Prepared
from asyncfc_mcp.engine.journal.rows import INSERTED, text_column
from asyncfc_mcp.private_files import make_folder, open_private

logger = logging.getLogger(__name__)

START_BUSY_S: Final = 2.0
"""Seconds for which the start waits for other bridges: a client waits for it."""

_INSERT: Final = "INSERT INTO futures ({}) VALUES ({}) ON CONFLICT (scope, id) DO UPDATE SET {}".format(
    ", ".join(f'"{name}"' for name in INSERTED),
    ", ".join("?" * len(INSERTED)),
    ", ".join(f'"{name}" = excluded."{name}"' for name in INSERTED if name not in ("scope", "id")),
)
_CALL: Final = "INSERT OR REPLACE INTO calls SELECT seq, ? FROM futures WHERE scope = ? AND id = ?"
_RESULT: Final = """INSERT OR REPLACE INTO results (seq, json, digest, bytes)
    SELECT seq, ?, ?, ? FROM futures WHERE scope = ? AND id = ?"""


class JournalFile:
    """File of one journal, and what lies beside it.

    Args:
        path: of the file.
        configuration: hash of what the bridge wraps.
        max_bytes: cap on the size of the file, its log and large results.
        since: start of the bridge, in seconds of the wall clock.
        busy_s: seconds for which a write waits for others.
        migrations: see `schema.MIGRATIONS`.
    """

    connection: sqlite3.Connection

    def __init__(
        self,
        path: Path,
        *,
        configuration: str = "",
        max_bytes: int,
        since: float,
        busy_s: float = schema.BUSY_S,
        migrations: Sequence[schema.Migration] = schema.MIGRATIONS,
    ) -> None:
        self.path = path
        self.bridges = beside(path, ".bridges")
        self.boot = BootFile(self.bridges, since)
        self.blobs = Blobs(beside(path, ".results"), self.boot.boot)
        self.generation = 0
        """Number of times a file was opened: greater than 1 after a damaged one was replaced."""
        self._configuration = configuration
        self.wal_bytes = schema.wal_bytes(max_bytes)
        """Size to which the write-ahead log is cut."""
        self._busy_s = busy_s
        self._migrations = migrations
        self._identities: dict[Path, tuple[int, int]] = {}
        """Device and inode of the file and its log."""
        self._updates: dict[tuple[str, ...], str] = {}

    # --- opening -------------------------------------------------------------------------------------------------

    def open(self) -> list[FutureRecord]:
        """Open or create the file; return the futures that are adopted.

        Raises:
            OSError, sqlite3.Error, LockUnavailable, NewerFile, ForeignFile, OtherConfiguration, Unsafe: it cannot be
                used.
        """
        make_folder(self.path.parent)
        _check_folder(self.path.parent)
        with starting(self.bridges, min(START_BUSY_S, self._busy_s)):
            try:
                return self._begin()
            except sqlite3.DatabaseError as exc:
                if not is_corrupt(exc):
                    raise
                self.close_connection()
                self._move_aside(exc)
                return self._begin()

    def problem(self) -> str | None:
        """Return why the file cannot be used, as far as that is known without a change to it; None otherwise."""
        try:
            self._check()
        except (OSError, sqlite3.Error, schema.NewerFile, schema.ForeignFile, schema.OtherConfiguration, Unsafe) as exc:
            return described(exc, self.path)[0]
        return None

    def _check(self) -> None:
        folder = next(each for each in self.path.parents if each.exists())
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        if folder == self.path.parent:
            _check_folder(folder)
        _check_private(self.path)
        if self.path.exists() and self.path.stat().st_size:
            with contextlib.closing(self._probe()) as probe:
                if schema.check_version(probe, self._migrations):
                    schema.check_configuration(probe, self._configuration)

    def _probe(self) -> sqlite3.Connection:
        """Open the file read-only, so that one of another program, or a newer one, remains as it is."""
        uri = f"{self.path.absolute().as_uri()}?mode=ro"
        return sqlite3.connect(uri, uri=True, timeout=START_BUSY_S, isolation_level=None)

    def _begin(self) -> list[FutureRecord]:
        self._connect()
        self.boot.create()
        with self.transaction():
            adopted = adoption.adopt(self.connection, self.bridges, self.boot.boot)
        adoption.clean(self.connection, self.bridges, self.boot.boot)
        return adopted

    def replace(self, reason: BaseException) -> None:
        """Move the file aside, which is damaged, and begin a new one.

        Raises:
            FileGone: another bridge has done so.
            OSError, sqlite3.Error, LockUnavailable: it cannot be done.
        """
        self.close_connection()
        with starting(self.bridges, self._busy_s):
            self._check_present(self.path)  # the log is gone with the connection
            self._move_aside(reason)
            self._connect()

    def _connect(self) -> None:
        path = self.path
        for each in (path, *_companions(path)):
            _check_private(each)
        if not path.exists():
            os.close(open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        elif path.stat().st_size:
            with contextlib.closing(self._probe()) as probe:
                schema.check_version(probe, self._migrations)
        self.connection = sqlite3.connect(
            path, timeout=START_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            schema.configure(self.connection, min(START_BUSY_S, self._busy_s), self.wal_bytes)
            schema.migrate(self.connection, self._migrations)
            schema.check_configuration(self.connection, self._configuration)
            self.connection.execute(f"PRAGMA busy_timeout = {int(self._busy_s * 1000)}")
            self.connection.execute("SELECT max(seq) FROM futures").fetchone()
        except BaseException:
            self.close_connection()
            raise
        self._identities = {each: _identity(each) for each in (path, _companions(path)[0]) if each.exists()}
        self.generation += 1

    def _move_aside(self, reason: BaseException) -> None:
        """Rename the file and what belongs to it. Nothing is deleted: it may hold results that can be recovered."""
        aside = beside(self.path, time.strftime(".corrupt-%Y%m%dT%H%M%SZ", time.gmtime()))
        number = 1
        while aside.exists():
            number += 1
            aside = beside(self.path, time.strftime(f".corrupt-%Y%m%dT%H%M%SZ-{number}", time.gmtime()))
        self.path.replace(aside)
        for source in (*_companions(self.path), self.blobs.folder):
            with contextlib.suppress(FileNotFoundError):
                source.replace(beside(aside, source.name.removeprefix(self.path.name)))
        logger.warning(
            "The journal of futures %s is damaged (%s). It was moved to %s, and a new one is begun: futures of earlier "
            "runs are not available.",
            self.path,
            reason,
            aside.name,
        )

    # --- writing -------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Run statements in one transaction, which excludes other writers from its beginning.

        Raises:
            sqlite3.Error: nothing was written.
        """
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            yield
            execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    execute("ROLLBACK")
            raise

    def check_present(self) -> None:
        """Check that the file and its log are still those that were opened: SQLite goes on writing to deleted ones.

        Raises:
            FileGone: they are not.
        """
        for path in self._identities:
            self._check_present(path)

    def _check_present(self, path: Path) -> None:
        try:
            if _identity(path) != self._identities[path]:
                raise FileGone
        except FileNotFoundError as exc:
            raise FileGone from exc

    def write(self, rows: Iterable[Prepared], blocks: Iterable[tuple[str, int, int]] = ()) -> None:
        """Write futures and reserved numbers in one transaction.

        Raises:
            FileGone, OSError, sqlite3.Error: nothing was written.
        """
        self.check_present()
        with self.transaction():
            execute = self.connection.execute
            for scope, first, last in blocks:
                self._reserve(text_column(scope), first, last)
            for row in rows:
                columns = row.columns
                if row.new:
                    columns["owner"] = self.boot.boot
                    execute(_INSERT, [columns.get(name) for name in INSERTED])
                elif columns:
                    execute(self._update(tuple(columns)), (*columns.values(), row.scope, row.id))
                if row.call is not None:
                    execute(_CALL, (row.call, row.scope, row.id))
                if row.json is not None or row.digest is not None:
                    if row.digest is not None:
                        self.blobs.put(row.digest)
                    execute(_RESULT, (row.json, row.digest, row.bytes, row.scope, row.id))

    def _update(self, names: tuple[str, ...]) -> str:
        statement = self._updates.get(names)
        if statement is None:
            columns = ", ".join(f'"{name}" = ?' for name in names)
            statement = self._updates[names] = f"UPDATE futures SET {columns} WHERE scope = ? AND id = ?"
        return statement

    def _reserve(self, scope: Any, first: int, last: int) -> None:
        boot = self.boot.boot
        extended = self.connection.execute(
            "UPDATE blocks SET last = ? WHERE scope = ? AND last = ? AND owner = ?", (last, scope, first - 1, boot)
        )
        if not extended.rowcount:
            self.connection.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?)", (scope, first, last, boot))

    def value(self, statement: str, parameters: tuple[Any, ...] = ()) -> Any:
        """Return the first column of a statement's first row.

        Raises:
            sqlite3.Error: the file cannot be read.
        """
        return self.connection.execute(statement, parameters).fetchone()[0]

    # --- closing -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file once everything is written, so that it is complete whatever happens to the machine.

        Raises:
            OSError, sqlite3.Error: it may not be complete.
        """
        self.check_present()
        with self.transaction():
            # Every ID that was given is in the journal, and numbers that were not given may be given again.
            self.connection.execute("DELETE FROM blocks WHERE owner = ?", (self.boot.boot,))
        wal = _companions(self.path)[0]
        if wal.exists():
            descriptor = os.open(wal, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self.connection.execute("PRAGMA busy_timeout = 0")
        with contextlib.suppress(sqlite3.OperationalError):  # other bridges use the log
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self.close_connection()
        self.boot.close(complete=True)

    def size(self) -> int:
        """Return the bytes of the file and its log, without large results."""
        total = 0
        for each in (self.path, _companions(self.path)[0]):
            with contextlib.suppress(OSError):
                total += each.stat().st_size
        return total

    def close_connection(self) -> None:
        """Close the connection, whatever its state. The lock of this bridge remains."""
        connection: sqlite3.Connection | None = getattr(self, "connection", None)
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file beside another one, with a suffix after its complete name."""
    return path.with_name(path.name + suffix)


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _companions(path: Path) -> tuple[Path, Path]:
    """Return the paths of the write-ahead log and its index."""
    return beside(path, "-wal"), beside(path, "-shm")


def _check_private(path: Path) -> None:
    """Check a file that may exist, and take away the rights of others.

    It is not opened: closing any descriptor of a database removes all locks that this process holds on it.

    Raises:
        Unsafe: it is a link, not a regular file, or owned by another user.
        OSError: its mode cannot be changed.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise Unsafe(f"{path.name} is not a regular file")
    if os.name == "posix":
        if found.st_uid != os.geteuid() or found.st_nlink > 1:
            raise Unsafe(f"{path.name} is not a private file of this user")
        if found.st_mode & 0o077:
            os.chmod(path, 0o600)


def _check_folder(path: Path) -> None:
    """Check that only this user can put files into a folder.

    Raises:
        Unsafe: everybody can.
    """
    if os.name == "posix" and path.stat().st_mode & stat.S_IWOTH:
        raise Unsafe(f"every user can write to the folder {path}")
