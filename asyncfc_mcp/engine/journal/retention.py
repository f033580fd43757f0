"""Retention in the journal: time to live, cap on its size, and numbers of futures that were dropped.

Owns which futures are dropped, in small transactions between those of calls. Unfinished ones never are. Runs in the
writer's thread.

Times. A clock may be wrong when a bridge starts, and be set while it runs. Each row has the time from which it is kept,
apart from the times that are shown. That time, and the age of a row, are computed from the wall clock and from the
seconds since the start of the bridge, whichever keeps the row longer. A row from the future is treated as written now,
so that it is not kept for ever. Nothing expires while the clock is obviously not set.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from asyncfc_mcp.engine.journal import owners
from asyncfc_mcp.engine.journal.journal_file import JournalFile

logger = logging.getLogger(__name__)

INTERVAL_S: Final = 60.0
FIRST_S: Final = 5.0
"""Seconds after the start at which rows are first looked at: until then, clients wait for other things."""
CHUNK: Final = 100
"""Maximum futures that are dropped in one transaction."""
_CLOCK_SET_S: Final = 1_600_000_000
"""Time in 2020, before which a clock is not set."""
_ROW_BYTES: Final = 1_000
"""Approximate space of a row with its entries in the indexes."""
_LOW: Final = 0.9
"""Share of the cap to which the size is reduced."""
_VACUUM_PAGES: Final = 256
_MAX_RANGES: Final = 10_000
"""Maximum ranges of dropped numbers of one scope."""
_ORPHANS_S: Final = 3600.0


def seconds_since_boot() -> float:
    """Return a clock that is never set, and that goes on while the machine sleeps where the system has such a one."""
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class RetentionClock:
    """Times of rows.

    Args:
        clock: the wall clock, in seconds.
        elapsed: a clock that is never set.
    """

    def __init__(self, clock: Callable[[], float], elapsed: Callable[[], float] = seconds_since_boot) -> None:
        self.wall, self.elapsed = clock, elapsed
        self._began, self._elapsed_then = clock(), elapsed()

    def _undisturbed(self) -> float:
        return self._began + self.elapsed() - self._elapsed_then

    def kept_from(self) -> float:
        """Return the time from which a row that is written now is kept."""
        return max(self.wall(), self._undisturbed())

    def now(self) -> float:
        """Return the time at which rows are judged."""
        return min(self.wall(), self._undisturbed())


class Retention:
    """Drops futures from one file.

    Args:
        file: the file; open.
        ttl_s: seconds for which a future is kept after its end.
        max_bytes: cap on the file, its log and large results.
    """

    def __init__(self, file: JournalFile, clock: RetentionClock, *, ttl_s: float, max_bytes: int) -> None:
        self._file = file
        self._clock = clock
        self._ttl_s = ttl_s
        self._cap = max(0, max_bytes - 4 * file.wal_bytes)
        """Bound without the log, which may be larger than its limit for a moment, and without what is written before
        the next look."""
        self._next = clock.elapsed() + FIRST_S
        self._next_orphans = self._next
        self._written = 0
        self._check_after = max(1, min(1 << 20, max_bytes // 64))

    def written(self, size: int) -> None:
        """Count bytes that were written, so that the cap is looked at in time."""
        self._written += size

    def wait_s(self) -> float:
        """Return the seconds after which `step` is to be called."""
        return 0.0 if self._written >= self._check_after else max(0.0, self._next - self._clock.elapsed())

    def step(self) -> None:
        """Drop what is to be dropped, at most one chunk. `wait_s` is 0 afterwards if there is more.

        Raises:
            OSError, sqlite3.Error: the file cannot be read or written.
        """
        self._written = 0
        file = self._file
        execute = file.connection.execute
        over = self._excess()
        now = self._clock.now()
        with file.transaction():
            victims = self._expired(now) if now > _CLOCK_SET_S else []
            if over > 0 and len(victims) < CHUNK:
                victims += self._to_make_room(over, {row[0] for row in victims})
            digests = [row[3] for row in victims if row[3] is not None]
            for seq, *_ in victims:
                execute("DELETE FROM futures WHERE seq = ?", (seq,))
                execute("DELETE FROM calls WHERE seq = ?", (seq,))
                execute("DELETE FROM results WHERE seq = ?", (seq,))
            self._remember((scope, number) for _, scope, number, *_ in victims if isinstance(number, int))
        self.remove_unnamed(digests)
        if victims:
            self._written = self._check_after  # look again
            return
        if self._vacuum():
            self._written = self._check_after
            return
        now_s = self._clock.elapsed()
        if now_s >= self._next_orphans:
            self._next_orphans = now_s + _ORPHANS_S
            self._remove_orphans()
        self._next = now_s + INTERVAL_S

    # --- what is dropped -----------------------------------------------------------------------------------------

    def _expired(self, now: float) -> list[tuple[Any, ...]]:
        execute = self._file.connection.execute
        expired: list[tuple[Any, ...]] = []
        for unread in (0, 1):
            execute(
                """UPDATE futures SET kept_from = ? WHERE seq IN (SELECT seq FROM futures
                    WHERE ended_at IS NOT NULL AND (read_at IS NULL) = ? AND kept_from > ? LIMIT ?)""",
                (now, unread, now + 1, CHUNK),
            )
            expired += execute(
                """SELECT f.seq, f.scope, f.id, r.digest FROM futures f LEFT JOIN results r ON r.seq = f.seq
                    WHERE f.ended_at IS NOT NULL AND (f.read_at IS NULL) = ? AND f.kept_from < ?
                    ORDER BY f.kept_from LIMIT ?""",
                (unread, now - self._ttl_s, CHUNK - len(expired)),
            )
        return expired

    def _to_make_room(self, excess: int, without: set[int]) -> list[tuple[Any, ...]]:
        """Return futures to drop: first those that were read, then the others, the oldest first."""
        chosen: list[tuple[Any, ...]] = []
        for unread in (0, 1):
            rows = self._file.connection.execute(
                """SELECT f.seq, f.scope, f.id, r.digest, coalesce(r.bytes, 0)
                    FROM futures f LEFT JOIN results r ON r.seq = f.seq
                    WHERE f.ended_at IS NOT NULL AND (f.read_at IS NULL) = ? ORDER BY f.kept_from LIMIT ?""",
                (unread, 2 * CHUNK),
            )
            for row in rows:
                if excess <= 0 or len(chosen) >= CHUNK:
                    return chosen
                if row[0] not in without:
                    chosen.append(row)
                    excess -= _ROW_BYTES + row[4]
        return chosen

    def used(self) -> tuple[int, int]:
        """Return the bytes that futures take in the file and beside it, and those with the unused pages of the file."""
        value = self._file.value
        page = value("PRAGMA page_size")
        beside = value(
            "SELECT coalesce(sum(bytes), 0) FROM (SELECT DISTINCT digest, bytes FROM results WHERE digest IS NOT NULL)"
        )
        pages = value("PRAGMA page_count")
        return page * (pages - value("PRAGMA freelist_count")) + beside, page * pages + beside

    def _excess(self) -> int:
        """Return how many bytes have to be freed; 0 below the cap."""
        used, _ = self.used()
        return used - int(_LOW * self._cap) if used > self._cap else 0

    # --- numbers that were dropped -------------------------------------------------------------------------------

    def _remember(self, numbers: Iterable[tuple[Any, int]]) -> None:
        """Add numbers to the ranges of dropped ones, joined with their neighbours."""
        execute = self._file.connection.execute
        scopes: set[Any] = set()
        for scope, number in sorted(numbers, key=lambda each: (str(each[0]), each[1])):
            scopes.add(scope)
            first, last = number, number
            below = execute(
                "SELECT first, last FROM dropped WHERE scope = ? AND first <= ? ORDER BY first DESC LIMIT 1",
                (scope, number),
            ).fetchone()
            if below is not None and below[1] >= number:
                continue
            if below is not None and below[1] == number - 1:
                first = below[0]
            above = execute(
                "SELECT first, last FROM dropped WHERE scope = ? AND first = ?", (scope, number + 1)
            ).fetchone()
            if above is not None:
                last = above[1]
                execute("DELETE FROM dropped WHERE scope = ? AND first = ?", (scope, above[0]))
            execute("INSERT OR REPLACE INTO dropped VALUES (?, ?, ?)", (scope, first, last))
        for scope in scopes:
            self._bound_ranges(scope)

    def _bound_ranges(self, scope: Any) -> None:
        """Join the lowest ranges of a scope where there are too many. Numbers between them that were never sent are
        said to be forgotten from then on, which is the safe side."""
        execute = self._file.connection.execute
        count = self._file.value("SELECT count(*) FROM dropped WHERE scope = ?", (scope,))
        if count <= _MAX_RANGES:
            return
        lowest = execute(
            "SELECT first, last FROM dropped WHERE scope = ? ORDER BY first LIMIT ?", (scope, count - _MAX_RANGES // 2)
        ).fetchall()
        first, last = lowest[0][0], lowest[-1][1]
        execute("DELETE FROM dropped WHERE scope = ? AND first <= ?", (scope, lowest[-1][0]))
        execute("INSERT INTO dropped VALUES (?, ?, ?)", (scope, first, last))

    # --- files ---------------------------------------------------------------------------------------------------

    def remove_unnamed(self, digests: Sequence[str]) -> None:
        """Remove files of large results that no future names any more.

        Raises:
            sqlite3.Error: the file cannot be read.
        """
        if not digests:
            return
        file = self._file
        # In a transaction: another bridge puts an equal file in place only in one that names it.
        with file.transaction():
            for digest in digests:
                if not file.value("SELECT count(*) FROM results WHERE digest = ?", (digest,)):
                    try:
                        file.blobs.remove(digest)
                    except OSError as exc:
                        logger.debug("a result of the journal cannot be removed now: %s", exc)

    def _remove_orphans(self) -> None:
        """Remove files that crashes left."""
        file = self._file
        digests = list(file.blobs.digests())
        for start in range(0, len(digests), CHUNK):
            self.remove_unnamed(digests[start : start + CHUNK])
        for boot, path in file.blobs.parts():
            if not owners.bridge_of(file.bridges, boot).running:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _vacuum(self) -> bool:
        """Give unused pages of the file back, where they are many or the file is too large with them; return true if
        there are more."""
        value = self._file.value
        pages, unused = value("PRAGMA page_count"), value("PRAGMA freelist_count")
        too_large = self.used()[1] > self._cap
        if not unused or not (too_large or unused >= max(_VACUUM_PAGES, pages // 4)):
            return False
        self._file.connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
        if too_large:  # the file becomes shorter with a checkpoint
            self._file.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return value("PRAGMA freelist_count") < unused
