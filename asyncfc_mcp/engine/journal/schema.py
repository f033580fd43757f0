"""Tables of the journal's file, its settings, and migrations from older versions.

Owns SQL that defines things; `rows` owns the content of columns, and `journal_file` the opening of the file. A program
migrates older files forward, and refuses those of a newer program.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

APPLICATION_ID: Final = 0x61666A31
"""Marks a SQLite file as a journal of this program."""

BUSY_S: Final = 10.0
"""Seconds for which a write waits for another bridge's transaction."""
CACHE_KB: Final = 256
"""Page cache of a connection. Rows are small, and the operating system caches the file as well."""
WAL_PAGES: Final = 1_000
"""Pages in the write-ahead log after which they are copied into the file."""
WAL_BYTES: Final = 4 << 20
"""Size to which the write-ahead log is cut once it has been copied."""

_FIRST_VERSION: Final = (
    # One row: what the bridges of this journal wrap.
    "CREATE TABLE configuration (hash TEXT NOT NULL)",
    # Columns without a type hold what is written, so that text which is not valid Unicode can be a blob (see `rows`).
    # `seq` is the order of submission. `id` is a number for `f1`, `f2`, ...; text for random IDs.
    """CREATE TABLE futures (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, scope NOT NULL, id NOT NULL, listed INTEGER NOT NULL, server, tool,
        state TEXT NOT NULL, name, namer, host, conversation, submitted_at REAL, started_at REAL, ended_at REAL,
        read_at REAL, ttl_s REAL, cause, substituted TEXT, "after" TEXT, failure TEXT, round TEXT,
        private INTEGER NOT NULL, has_result INTEGER NOT NULL, size INTEGER NOT NULL, owner TEXT, kept_from REAL)""",
    "CREATE UNIQUE INDEX futures_id ON futures (scope, id)",
    "CREATE INDEX futures_unfinished ON futures (owner, seq) WHERE ended_at IS NULL",
    """CREATE INDEX futures_named ON futures (scope, name, seq, namer)
        WHERE name IS NOT NULL AND ended_at IS NOT NULL""",
    """CREATE INDEX futures_unread ON futures (scope, conversation, seq)
        WHERE conversation IS NOT NULL AND ended_at IS NOT NULL AND read_at IS NULL""",
    "CREATE INDEX futures_kept ON futures (read_at IS NULL, kept_from) WHERE ended_at IS NOT NULL",
    # Apart from the futures, so that changing or listing futures does not touch arguments and results, which may be
    # large. Of a result either `json`, or `digest`, which is the name of a file.
    "CREATE TABLE calls (seq INTEGER PRIMARY KEY, json TEXT NOT NULL)",
    "CREATE TABLE results (seq INTEGER PRIMARY KEY, json BLOB, digest TEXT, bytes INTEGER NOT NULL)",
    "CREATE INDEX results_digest ON results (digest, bytes) WHERE digest IS NOT NULL",
    # Numbers of futures that were dropped.
    "CREATE TABLE dropped (scope, first INTEGER, last INTEGER, PRIMARY KEY (scope, first)) WITHOUT ROWID",
    # Numbers that were reserved for IDs. `owner` is null once its bridge has ended and everything was recorded.
    "CREATE TABLE blocks (scope, first INTEGER, last INTEGER, owner TEXT, PRIMARY KEY (scope, first)) WITHOUT ROWID",
)

_HISTORY: Final = (
    # What a call has waited for, since when it lacked nothing but a place, and how often it was sent.
    "ALTER TABLE futures ADD COLUMN waits TEXT",
    "ALTER TABLE futures ADD COLUMN queued_at REAL",
    "ALTER TABLE futures ADD COLUMN attempts INTEGER NOT NULL DEFAULT 1",
)

Migration = Sequence[str] | Callable[[sqlite3.Connection], None]
HISTORY_VERSION: Final = 2
"""First version with the columns of `_HISTORY`."""
MIGRATIONS: Final[Sequence[Migration]] = (_FIRST_VERSION, _HISTORY)
"""Step from version n to n + 1, at index n; version 0 is an empty file. A step is never changed after a release."""


class NewerFile(Exception):
    """The file was written by a newer version of the program."""


class ForeignFile(Exception):
    """The file is a database of another program."""


class OtherConfiguration(Exception):
    """The file is the journal of bridges that wrap something else. Its calls are none of this bridge's servers', and
    its IDs are counted elsewhere."""


def check_version(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Return the version of a file, without a change to it.

    Raises:
        NewerFile, ForeignFile: this program must not write to it.
        sqlite3.Error: it cannot be read.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID:
        tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application or version or tables:
            raise ForeignFile
    elif version > len(migrations):
        raise NewerFile
    return version


def wal_bytes(max_bytes: int) -> int:
    """Return the size of the write-ahead log for a cap that includes it."""
    return max(1 << 16, min(WAL_BYTES, max_bytes // 16))


def check_configuration(connection: sqlite3.Connection, configuration: str) -> None:
    """Record in a new file what its bridges wrap, or compare it. Called under `owners.starting`.

    Raises:
        OtherConfiguration: this bridge wraps something else.
        sqlite3.Error: the file cannot be read or written.
    """
    row = connection.execute("SELECT hash FROM configuration").fetchone()
    if row is None:
        connection.execute("INSERT INTO configuration VALUES (?)", (configuration,))
    elif row[0] != configuration:
        raise OtherConfiguration


def configure(connection: sqlite3.Connection, busy_s: float, wal_bytes: int) -> None:
    """Set what SQLite does not keep in the file, and the format of a new file.

    Raises:
        sqlite3.Error: the file cannot be read or written.
    """
    for pragma in (
        f"busy_timeout = {int(busy_s * 1000)}",
        "auto_vacuum = INCREMENTAL",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        f"wal_autocheckpoint = {min(WAL_PAGES, wal_bytes // 4096)}",
        f"journal_size_limit = {wal_bytes}",
        "temp_store = MEMORY",
        f"cache_size = -{CACHE_KB}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring a file to the version of this program, in one transaction.

    Raises:
        NewerFile, ForeignFile: another bridge has changed the file since it was checked.
        sqlite3.Error: it cannot be written; it has its former content.
    """
    if check_version(connection, migrations) == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in migrations[check_version(connection, migrations) :]:
            if callable(step):
                step(connection)
            else:
                for statement in step:
                    connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
