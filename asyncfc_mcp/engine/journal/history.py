"""History in a journal's file: pages of futures by a query, calls as they were made, and runs; outside the event loop.

Owns the bounds of a search: time, and rows at once, so that no transaction stays open while bridges write. Every
method opens a connection of its own that only reads, so that it can run in any thread, and in a process that is no
bridge. Leaves looking up single futures on the event loop to `reader`.
"""

import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.futures import Future, Result
from asyncfc_mcp.core.history import MOST_RUNS, SEARCH_S, SEARCHED_BYTES, RecordedRun, RecordPage, Serves
from asyncfc_mcp.core.records import CallRecord, FutureRecord
from asyncfc_mcp.engine.journal import schema
from asyncfc_mcp.engine.journal.rows import (
    MAX_NUMBER,
    SELECTED,
    Column,
    id_column,
    readable,
    text_column,
)
from asyncfc_mcp.engine.record_json import call_of
from asyncfc_mcp.engine.restoration import Restoration, missing_result

BUSY_S: Final = 5.0
"""Seconds for which a search waits for the file."""
WINDOW: Final = 2_000
"""Numbers of IDs that one statement looks at."""
_TIMES: Final = "f.submitted_at"
_ADDED: Final = {'f."waits"': "NULL", 'f."queued_at"': "NULL", 'f."attempts"': "1"}
"""Columns that files of the first version do not have → what stands for them."""


class History:
    """The history in one file.

    Args:
        path: of the file, which must exist.
        unfinished: futures that have not ended are returned as well, of whichever bridge.
    """

    def __init__(self, path: Path, *, unfinished: bool = False) -> None:
        self._path, self._unfinished = path, unfinished
        self._restoration = Restoration(lambda: 0.0, missing_result)

    def page(self, scope: str, query: CallQuery, serves: Serves) -> RecordPage:
        """Return the futures of a scope that a query means.

        Raises:
            OSError, sqlite3.Error, NewerFile, ForeignFile: the file cannot be read.
        """
        deadline = time.monotonic() + SEARCH_S
        found: list[FutureRecord] = []
        with self._connected() as connection:
            below = int(min(query.before_number, MAX_NUMBER))
            while True:
                top = _value(
                    connection,
                    "SELECT max(id) FROM futures WHERE scope = ? AND id < ? AND id >= 0",
                    text_column(scope),
                    below,
                )
                if top is None:
                    return RecordPage(found, None)
                records, below = self._window(connection, scope, query, max(0, top - WINDOW), top)
                for record in records:
                    if serves(record.server) and self._finds(connection, query, record):
                        found.append(record)
                        if len(found) > query.limit:
                            return RecordPage(found, int(record.id[1:]))
                    if query.text and time.monotonic() > deadline:
                        return RecordPage(found, int(record.id[1:]))
                if time.monotonic() > deadline:
                    return RecordPage(found, below)

    def call(self, scope: str, future_id: str) -> CallRecord | None:
        """Return a call as it was made; None where it is not recorded.

        Raises:
            OSError, sqlite3.Error, NewerFile, ForeignFile: the file cannot be read.
            ValueError, TypeError, RecursionError: it is damaged.
        """
        with self._connected() as connection:
            text = _value(
                connection,
                "SELECT c.json FROM futures f JOIN calls c ON c.seq = f.seq WHERE f.scope = ? AND f.id = ?",
                text_column(scope),
                id_column(future_id),
            )
        return None if text is None else call_of(text)

    def runs(self, scope: str, since: float) -> list[RecordedRun]:
        """Return the runs of calls that have ended since a time, at most the newest `MOST_RUNS`, in order of their
        submission.

        Raises:
            OSError, sqlite3.Error, NewerFile, ForeignFile: the file cannot be read.
        """
        with self._connected() as connection:
            rows = connection.execute(
                """SELECT coalesce(conversation, 'caller:' || namer, ''), started_at, ended_at FROM futures
                    WHERE scope = ? AND started_at IS NOT NULL AND ended_at >= ? ORDER BY seq DESC LIMIT ?""",
                (text_column(scope), since, MOST_RUNS),
            ).fetchall()
        return [RecordedRun(str(conversation), *times) for conversation, *times in reversed(rows)]

    def scopes(self) -> list[str]:
        """Return the keys of the scopes that have futures which are listed, the one with the newest future first.

        Raises:
            OSError, sqlite3.Error, NewerFile, ForeignFile: the file cannot be read.
        """
        with self._connected() as connection:
            rows = connection.execute(
                "SELECT scope FROM futures WHERE listed GROUP BY scope ORDER BY max(seq) DESC"
            ).fetchall()
        return [key.decode("utf-8", "surrogatepass") if isinstance(key, bytes) else key for (key,) in rows]

    @contextmanager
    def _connected(self) -> Generator[sqlite3.Connection]:
        uri = f"{self._path.absolute().as_uri()}?mode=rw"  # a file that does not exist is not created
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA query_only = 1")
            # Text that is no UTF-8, as in a damaged file, does not hide all other rows.
            connection.text_factory = _decoded
            connection.execute(f"PRAGMA cache_size = -{schema.CACHE_KB}")
            self._version = schema.check_version(connection)
            yield connection

    def _window(
        self, connection: sqlite3.Connection, scope: str, query: CallQuery, below: int, top: int
    ) -> tuple[list[FutureRecord], int]:
        """Return the futures with numbers from `below` to `top` that fulfil all of a query but its text, newest first;
        and the lowest number that was looked at, which is above `below` if there are more than a page has."""
        where = ["f.scope = ?", "f.id >= ?", "f.id <= ?"]
        values: list[Column] = [text_column(scope), below, top]
        if not self._unfinished:
            where.append("f.ended_at IS NOT NULL")
        for name, words in (("server", query.servers), ("tool", query.tools)):
            if words:
                where.append(f"f.{name} IN ({', '.join('?' * len(words))})")
                values += map(text_column, words)
        if query.states:
            where.append(f"f.state IN ({', '.join('?' * len(query.states))})")
            values += [state.value for state in query.states]
        if query.since is not None:
            where.append(f"{_TIMES} >= ?")
            values.append(query.since)
        if query.until is not None:
            where.append(f"{_TIMES} < ?")
            values.append(query.until)
        selected = SELECTED
        if self._version < schema.HISTORY_VERSION:
            for column, instead in _ADDED.items():
                selected = selected.replace(column, instead)
        statement = f"SELECT f.id, {selected} FROM futures f WHERE {' AND '.join(where)} ORDER BY f.id DESC LIMIT ?"
        most = -1 if query.text else query.limit + 1
        rows = connection.execute(statement, (*values, most)).fetchall()
        if len(rows) == most:
            below = int(rows[-1][0])
        return readable(row[1:] for row in rows), below

    def _finds(self, connection: sqlite3.Connection, query: CallQuery, record: FutureRecord) -> bool:
        if not query.text or query.finds_in(self._restoration.future(record)):
            return True
        if record.private:
            return False
        rows = connection.execute(
            """SELECT CASE WHEN length(c.json) <= ? THEN c.json END, r.json
                FROM futures f LEFT JOIN calls c ON c.seq = f.seq
                LEFT JOIN results r ON r.seq = f.seq AND r.bytes <= ?
                WHERE f.scope = ? AND f.id = ?""",
            (SEARCHED_BYTES, SEARCHED_BYTES, text_column(record.scope), id_column(record.id)),
        ).fetchall()
        return any(query.finds_in_json(*map(_text, row)) for row in rows)


def restored(records: list[FutureRecord]) -> list[Future]:
    """Return records as futures with times of the wall clock, whose results cannot be read."""

    def load(future: Future) -> Result:
        return missing_result(future)

    restoration = Restoration(lambda: 0.0, load)
    return [restoration.future(record) for record in records]


def _text(column: Any) -> str | None:
    if isinstance(column, bytes):
        return column.decode("utf-8", "replace")
    return None if column is None else str(column)


def _value(connection: sqlite3.Connection, statement: str, *parameters: Column) -> Any:
    row = connection.execute(statement, parameters).fetchone()
    return None if row is None else row[0]


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")
