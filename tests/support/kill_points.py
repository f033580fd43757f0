"""A bridge that kills itself with SIGKILL at a named point: `kill_points.py serve …` with `ASYNCFC_TEST_KILL=POINT:N`.

The bridge dies at the N-th hit of the point. Owns nothing of the bridge's code: SQL statements, writes to pipes, and
changes of files are observed where they leave the program, so the points hold for any implementation.

| point | before … ; `after-POINT`: after it |
|---|---|
| `statement` | a statement that writes to the journal |
| `add`, `claim`, `end` | the commit of a transaction with new futures, with futures that run, with futures that ended |
| `drop`, `adopt` | the commit of a transaction that deletes futures, that takes futures over |
| `call` | writing a call to the pipe of a server |
| `torn-call` | writing the second half of a call |
| `answer` | writing an answer to the client |
| `torn-answer` | writing the second half of an answer |
| `file` | renaming, removing, cutting or synchronising a file |

With the PostgreSQL engine (each statement is a transaction of its own):

| point | before … ; `after-POINT`: after its commit, before the program knows of it |
|---|---|
| `submit`, `ready`, `claim`, `end` | creating futures, giving them places, claiming and ending a call |
| `after-take` | taking a job (only after it) |
| `finish` | removing jobs that have ended |
| `adopt`, `interrupt`, `requeue` | taking over what a dead replica has left |
| `release` | leaving calls to others at a clean end |
| `question`, `round`, `answered` | showing a question, recording a round of questions, answering for another replica |

`ASYNCFC_TEST_OS_BOOT` makes the program believe in another run of the operating system.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

POINTS = ("add", "claim", "end", "call", "answer", "file")
"""Points that a few calls hit, each with an `after-` of its own."""
SLOW = ("add", "claim", "end", "adopt")
SLOW_S = 0.05
"""The disk is slow before it fails: whatever does not wait for these commits has happened by then."""
KILL = "ASYNCFC_TEST_KILL"
OS_BOOT = "ASYNCFC_TEST_OS_BOOT"
ON_POSTGRES = "ASYNCFC_TEST_POSTGRES"
SLOW_TAKE = "ASYNCFC_TEST_SLOW_TAKE"
"""This replica leaves jobs to others that have time."""
CLOCK = "ASYNCFC_TEST_CLOCK"
"""Seconds by which this replica's wall clock is wrong."""
PRUNE = "ASYNCFC_TEST_PRUNE_S"
"""Seconds between two looks for futures that are no longer kept."""
_WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE|BEGIN|COMMIT|CREATE|ALTER|DROP|PRAGMA\s+\w+\s*=)", re.I)
_ENDED = {"completed", "failed", "cancelled"}


class Killer:
    """Kills this process at the n-th hit of a point.

    Args:
        where: `POINT:N`; empty kills never.
    """

    def __init__(self, where: str) -> None:
        self._point, _, number = where.partition(":")
        self._number = int(number or 1)
        self._hits = Counter[str]()

    def hit(self, point: str) -> None:
        """Die here, if this is the hit that was asked for."""
        if point == self._point:
            self._hits[point] += 1
            if self._hits[point] == self._number:
                if point in SLOW:
                    time.sleep(SLOW_S)
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, point: str, act: Callable[[], Any]) -> Any:
        """Run `act` between the point and the point after it."""
        self.hit(point)
        found = act()
        self.hit(f"after-{point}")
        return found


def kinds_of(sql: str, values: Sequence[Any]) -> set[str]:
    """What a statement does to futures."""
    found: set[str] = set()
    words = {each for each in values if isinstance(each, str)} | set(re.findall(r"'(\w+)'", sql))
    if re.match(r"\s*INSERT\s+(OR\s+\w+\s+)?INTO\s+\"?futures\b", sql, re.IGNORECASE):
        found.add("add")
    if re.match(r"\s*DELETE\s+FROM\s+\"?futures\b", sql, re.IGNORECASE):
        found.add("drop")
    if re.match(r"\s*(UPDATE|INSERT)", sql, re.IGNORECASE):
        if "running" in words:
            found.add("claim")
        if words & _ENDED:
            found.add("end")
    if re.match(r"\s*UPDATE\s+\"?futures\"?\s+SET\s+\"?owner\b", sql, re.IGNORECASE):
        found.add("adopt")
    return found


def watch_sql(killer: Killer) -> None:
    """Observe all connections to databases."""

    class Watched(sqlite3.Connection):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._kinds: set[str] = set()

        def _around(self, sql: str, values: Sequence[Any], act: Callable[[], Any]) -> Any:
            if _WRITES.match(sql):
                killer.hit("statement")
            self._kinds |= kinds_of(sql, values)
            kinds = set(self._kinds)
            if re.match(r"\s*COMMIT", sql, re.IGNORECASE):
                return self._committing(kinds, act)
            found = act()
            if _WRITES.match(sql):
                killer.hit("after-statement")
            if not self.in_transaction:
                self._kinds.clear()
            return found

        def _committing(self, kinds: set[str], act: Callable[[], Any]) -> Any:
            for kind in kinds:
                killer.hit(kind)
            found = act()
            for kind in kinds:
                killer.hit(f"after-{kind}")
            self._kinds.clear()
            return found

        def execute(self, sql: str, values: Any = (), /) -> sqlite3.Cursor:
            given = list(values.values()) if isinstance(values, dict) else list(values)
            return self._around(sql, given, lambda: super(Watched, self).execute(sql, values))

        def executemany(self, sql: str, rows: Any, /) -> sqlite3.Cursor:
            rows = list(rows)
            given = [each for row in rows for each in (row.values() if isinstance(row, dict) else row)]
            return self._around(sql, given, lambda: super(Watched, self).executemany(sql, rows))

        def commit(self) -> None:
            self._committing(set(self._kinds), super().commit)

        def __exit__(self, *exc: Any) -> Any:
            if exc[0] is None:
                self.commit()
                return False
            return super().__exit__(*exc)

    connect = sqlite3.connect

    def watched(*args: Any, **options: Any) -> sqlite3.Connection:
        options.setdefault("factory", Watched)
        return connect(*args, **options)

    sqlite3.connect = watched  # type: ignore[assignment]


POSTGRES = ("submit", "ready", "take", "claim", "end", "finish")
"""Points of the PostgreSQL engine that every call hits."""
_STATEMENTS = {
    "submit": "submit_futures(",
    "ready": "ready_futures_2(",
    "take": "procrastinate_fetch_job",
    "claim": "SET state = 'running', worker",
    "end": "end_futures_2(",
    "finish": "DELETE FROM procrastinate_jobs WHERE id",
    "adopt": "own_futures(",
    "requeue": "requeue_future(",
    "release": "own_futures(%s, NULL",
    "question": "INSERT INTO questions",
    "round": "coalesce(%s, f.state), round",
    "answered": "UPDATE questions SET answer",
}


def point_of(statement: str, values: Any) -> str | None:
    """The point of a statement of the PostgreSQL engine."""
    point = None if values is None else next((p for p, words in _STATEMENTS.items() if words in statement), None)
    if point == "end" and values[2] != values[4]:  # the end of another replica's call
        return "interrupt"
    if point == "adopt" and "own_futures(%s, NULL" in statement:
        return "release"
    if point == "adopt" and not values[0]:  # calls without an owner are looked for all the time
        return None
    return point


def watch_postgres(killer: Killer) -> None:
    """Observe all statements of the PostgreSQL engine."""
    import anyio
    from psycopg import AsyncCursor

    execute = AsyncCursor.execute

    async def watched(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        point = point_of(query, params) if isinstance(query, str) else None
        if point == "take" and SLOW_TAKE in os.environ:
            await anyio.sleep(SLOW_S)
        if point is not None and point != "take":
            killer.hit(point)
        found = await execute(self, query, params, **options)
        nothing = point == "take" and self.pgresult.get_value(0, 1) is None
        if point is not None and not nothing:
            killer.hit(f"after-{point}")
        return found

    AsyncCursor.execute = watched  # type: ignore[method-assign,assignment]


def watch_pipes(killer: Killer) -> None:
    """Observe what is written to servers and to the client."""
    from asyncfc_mcp.jsonrpc.pipes import FdSink

    send = FdSink.send_nowait

    def watched(sink: Any, data: bytes | memoryview) -> int:
        whole = bytes(data)
        point = "call" if b'"tools/call"' in whole else "answer" if b'"method"' not in whole else "other"
        if killer._point == f"torn-{point}":
            count = send(sink, whole[: len(whole) // 2])
            killer.hit(f"torn-{point}")
            return count  # the caller writes the rest
        return killer.around(point, lambda: send(sink, data))

    FdSink.send_nowait = watched  # type: ignore[method-assign]


def move_clock(moved_s: float) -> None:
    """Make the wall clock wrong: what asks for the time or the date gets another one."""
    import datetime

    real, now = time.time, datetime.datetime.now

    class Moved(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return now(tz) + datetime.timedelta(seconds=moved_s)

    time.time = lambda: real() + moved_s
    datetime.datetime = Moved  # type: ignore[misc]


def watch_files(killer: Killer) -> None:
    """Observe changes of files, except for writes."""
    for name in ("replace", "rename", "unlink", "remove", "fsync", "ftruncate", "link"):
        act = getattr(os, name)

        def watched(*args: Any, act: Callable[..., Any] = act, **options: Any) -> Any:
            return killer.around("file", lambda: act(*args, **options))

        setattr(os, name, watched)


def main() -> None:
    if CLOCK in os.environ:
        move_clock(float(os.environ[CLOCK]))
    killer = Killer(os.environ.get(KILL, ""))
    watch_sql(killer)
    watch_files(killer)
    from asyncfc_mcp.cli.main import main as run

    watch_pipes(killer)
    if ON_POSTGRES in os.environ:
        watch_postgres(killer)
    if PRUNE in os.environ:
        from asyncfc_mcp.engine.postgres import upkeep

        upkeep.PRUNE_S = float(os.environ[PRUNE])  # type: ignore[misc]
    if OS_BOOT in os.environ:
        from asyncfc_mcp.engine.journal import owners

        owners.os_boot = lambda: os.environ[OS_BOOT]
    sys.argv[0] = "asyncfc-mcp"
    run()


if __name__ == "__main__":
    main()
