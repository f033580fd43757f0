"""Look-ups in the journal, on the event loop.

Owns a connection of its own, which is opened with the first look-up and only reads. Each look-up is one or two searches
in an index. Failures are answered with "nothing": `writer` warns about the file, and a damaged file is reported to it.
"""

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import FutureKey, id_of
from asyncfc_mcp.core.records import FutureRecord
from asyncfc_mcp.engine.journal import owners
from asyncfc_mcp.engine.journal.failures import is_corrupt
from asyncfc_mcp.engine.journal.journal_file import JournalFile
from asyncfc_mcp.engine.journal.preparation import scope_of
from asyncfc_mcp.engine.journal.rows import MAX_NUMBER, SELECTED, Column, id_column, readable, text_column
from asyncfc_mcp.engine.journal.schema import CACHE_KB
from asyncfc_mcp.engine.record_json import parse
from asyncfc_mcp.slices import Slices
from asyncfc_mcp.values.large import LARGE_BYTES, parsing

logger = logging.getLogger(__name__)

BUSY_S: Final = 0.2
"""Seconds for which the event loop waits for the file."""
PAGE: Final = 50
"""Futures that are read at once."""
UNREAD: Final = 1_000
"""Maximum unread futures of a conversation that are returned."""
_CALLERS: Final = 100
"""Maximum futures of one name that are returned."""
_SAME_NAME: Final = 2_000
"""Maximum futures of one name that are looked at."""

_ENDED: Final = f"SELECT {SELECTED} FROM futures f WHERE f.ended_at IS NOT NULL AND"


class Reader:
    """Reads one file.

    Args:
        file: says where it is.
        on_damage: called with the file's generation and the error if its content is damaged.
    """

    def __init__(self, file: JournalFile, on_damage: Callable[[int, BaseException], None]) -> None:
        self._file = file
        self._on_damage = on_damage
        self._connection: sqlite3.Connection | None = None
        self._generation = -1

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _rows(self, statement: str, *parameters: Column) -> list[tuple[Any, ...]]:
        """Return all rows, so that no transaction stays open, which would let the log grow."""
        try:
            if self._connection is None or self._generation != self._file.generation:
                self.close()
                self._generation = self._file.generation
                self._connection = self._connect()
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as exc:
            logger.debug("a look-up in the journal failed: %s", exc)
            self.close()
            if is_corrupt(exc):
                self._on_damage(self._generation, exc)
            return []

    def _connect(self) -> sqlite3.Connection:
        uri = f"{self._file.path.absolute().as_uri()}?mode=rw"  # a file that does not exist is not created
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
        try:
            connection.execute("PRAGMA query_only = 1")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _number(self, statement: str, *parameters: Column) -> int:
        rows = self._rows(statement, *parameters)
        return rows[0][0] if rows else 0

    # --- futures -------------------------------------------------------------------------------------------------

    def find(self, scope: str, future_id: str) -> FutureRecord | None:
        rows = self._rows(f"{_ENDED} f.scope = ? AND f.id = ?", text_column(scope), id_column(future_id))
        return next(iter(readable(rows)), None)

    def owner(self, scope: str, future_id: str) -> tuple[int, float] | None:
        rows = self._rows(
            "SELECT owner FROM futures WHERE scope = ? AND id = ? AND ended_at IS NULL",
            text_column(scope),
            id_column(future_id),
        )
        if not rows or not isinstance(rows[0][0], str):
            return None
        bridge = owners.bridge_of(self._file.bridges, rows[0][0])
        return (bridge.pid, bridge.since) if bridge.running else None

    def named(self, scope: str, name: str) -> list[FutureRecord]:
        newest: dict[Any, int] = {}
        for seq, namer in self._rows(
            """SELECT seq, namer FROM futures WHERE scope = ? AND name = ? AND name IS NOT NULL
                AND ended_at IS NOT NULL ORDER BY seq DESC LIMIT ?""",
            text_column(scope),
            text_column(name),
            _SAME_NAME,
        ):
            newest.setdefault(namer, seq)
        chosen = sorted(newest.values(), reverse=True)[:_CALLERS]
        marks = ", ".join("?" * len(chosen))
        return readable(self._rows(f"{_ENDED} f.seq IN ({marks}) ORDER BY f.seq DESC", *chosen)) if chosen else []

    def newest(self, scope: str, before: int | None) -> Iterator[FutureRecord]:
        below = MAX_NUMBER if before is None else min(before, MAX_NUMBER)
        while True:
            rows = self._rows(
                f"{_ENDED} f.scope = ? AND f.id < ? ORDER BY f.id DESC LIMIT ?", text_column(scope), below, PAGE
            )
            yield from readable(rows)
            if len(rows) < PAGE:
                return
            below = rows[-1][_ID]

    def unread(self, scope: str, conversation: str) -> list[FutureRecord]:
        return readable(
            self._rows(
                f"""{_ENDED} f.scope = ? AND f.conversation = ? AND f.conversation IS NOT NULL AND f.read_at IS NULL
                    ORDER BY f.seq LIMIT ?""",
                text_column(scope),
                text_column(conversation),
                UNREAD,
            )
        )

    # --- numbers -------------------------------------------------------------------------------------------------

    def forgotten(self, scope: str, number: int) -> bool:
        if number > MAX_NUMBER:
            return False
        last = self._number(
            "SELECT last FROM dropped WHERE scope = ? AND first <= ? ORDER BY first DESC LIMIT 1",
            text_column(scope),
            number,
        )
        return last >= number > 0

    def never_sent(self, scope: str, number: int) -> bool:
        if number > MAX_NUMBER:
            return False
        rows = self._rows(
            """SELECT b.last >= ?2 AND b.owner IS NULL
                AND NOT EXISTS (SELECT 1 FROM futures WHERE scope = ?1 AND id = ?2)
                AND coalesce(
                    (SELECT last FROM dropped WHERE scope = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1), -1) < ?2
                FROM blocks b WHERE b.scope = ?1 AND b.first <= ?2 ORDER BY b.first DESC LIMIT 1""",
            text_column(scope),
            number,
        )
        return rows == [(1,)]

    # --- results -------------------------------------------------------------------------------------------------

    def _result(self, columns: str, key: FutureKey) -> tuple[Any, ...] | None:
        rows = self._rows(
            f"SELECT {columns} FROM futures f JOIN results r ON r.seq = f.seq WHERE f.scope = ? AND f.id = ?",
            text_column(scope_of(key)),
            id_column(id_of(key)),
        )
        return rows[0] if rows else None

    def parsing(self, key: FutureKey) -> Slices[Result | None]:
        row = self._result("r.json, r.digest", key)
        if row is None:
            return None
        text, digest = row
        try:
            if digest is not None:
                text = yield from self._file.blobs.reading(digest)
            value: Any = None
            if len(text) > LARGE_BYTES:
                with contextlib.suppress(ValueError):  # it is parsed at once below
                    value = yield from parsing(text)
            if value is None:
                value = parse(text)
            if isinstance(value, dict):
                return value  # pyright: ignore[reportUnknownVariableType]
            raise ValueError("not an object")
        except (OSError, ValueError, TypeError, RecursionError) as exc:
            logger.warning("the result of %s in the journal cannot be read: %s", id_of(key), exc)
            return None

    def result_path(self, key: FutureKey) -> Path | None:
        row = self._result("r.digest", key)
        return None if row is None or row[0] is None else self._file.blobs.path(row[0])

    # --- figures -------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        unfinished = self._number("SELECT count(*) FROM futures WHERE ended_at IS NULL")
        return {
            "futures": self._number("SELECT count(*) FROM futures"),
            "unfinished": unfinished,
            "large_results": self._number(
                "SELECT count(*) FROM (SELECT DISTINCT digest FROM results WHERE digest IS NOT NULL)"
            ),
            "large_result_bytes": self._number(
                """SELECT coalesce(sum(bytes), 0) FROM
                    (SELECT DISTINCT digest, bytes FROM results WHERE digest IS NOT NULL)"""
            ),
        }


_ID: Final = SELECTED.split(", ").index('f."id"')
