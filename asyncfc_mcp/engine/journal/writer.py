"""The writer: commits what was collected, and keeps calls going when it cannot.

Owns the state of the file (usable, or not any more) and the order of commits and callbacks. It has no thread of its
own: `sqlite_journal` calls it from one, or from the event loop.

Durability. Commits are written to the write-ahead log without a sync (`synchronous = NORMAL`), so they survive any end
of the process. When the machine goes down, the commits of the last seconds may be lost; `owners` explains how the next
run notices.
"""

import logging
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Final

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.identity import FutureKey
from asyncfc_mcp.core.records import FutureRecord
from asyncfc_mcp.engine.journal.api import OnCommitted
from asyncfc_mcp.engine.journal.backlog import Backlog, Batch
from asyncfc_mcp.engine.journal.failures import described, is_corrupt, is_expected
from asyncfc_mcp.engine.journal.journal_file import JournalFile
from asyncfc_mcp.engine.journal.preparation import Prepared, prepare
from asyncfc_mcp.engine.journal.retention import Retention, RetentionClock

logger = logging.getLogger(__name__)

GROUP_BYTES: Final = 1 << 20
"""Bytes of one transaction in a batch, so that the write-ahead log stays small."""


class Writer:
    """Writes to one file.

    Args:
        backlog: what is to be written.
        clock: times of rows.
        ttl_s, max_bytes: see `retention.Retention`.
        post: takes the callbacks of a batch once it is committed, or once it cannot be.
    """

    def __init__(
        self,
        file: JournalFile,
        backlog: Backlog,
        clock: RetentionClock,
        *,
        ttl_s: float,
        max_bytes: int,
        post: Callable[[Sequence[OnCommitted]], None],
    ) -> None:
        self.usable = True
        self.adopted: list[FutureRecord] = []
        self.suspicion: BaseException | None = None
        """Damage that a look-up found."""
        self._file = file
        self._backlog = backlog
        self._clock = clock
        self._post = post
        self._retention = Retention(file, clock, ttl_s=ttl_s, max_bytes=max_bytes)
        self._waiting: set[FutureKey] = set()
        """Futures that stand as `waiting` in the file."""
        self._withdrawn = False

    def open(self) -> None:
        """Open the file and adopt futures; `usable` is false afterwards if that failed."""
        with self._failing():
            self.adopted = self._file.open()
        self._waiting.update(
            FutureKey(f"{each.scope}/{each.id}") for each in self.adopted if each.state is State.WAITING
        )

    def step(self) -> None:
        """Write everything that was collected, and call back."""
        batch = self._backlog.take()
        if self.usable:
            with self._failing():
                self._recovering(lambda: self._write(batch))
        if batch.callbacks:
            self._post(batch.callbacks)

    def wait_s(self) -> float | None:
        """Return the seconds after which `maintain` is to be called; None for never."""
        return self._retention.wait_s() if self.usable else None

    def maintain(self) -> None:
        """Drop futures whose time is over, or for which there is no room; a small part of them in each call."""
        if self.usable and self._retention.wait_s() <= 0:
            with self._failing():
                self._recovering(self._retention.step)

    def finish(self) -> None:
        """Write the rest and close the file."""
        self.step()
        if self.usable:
            with self._failing():
                self._file.close()
            self.usable = False
        elif not self._withdrawn:
            self._withdrawn = self._file.boot.withdraw()
        self._file.close_connection()
        self._file.boot.release()

    def trusts(self, key: FutureKey) -> bool:
        """See `api.Journal.trusts`."""
        return self.usable or self._withdrawn or key not in self._waiting

    # --- writing -------------------------------------------------------------------------------------------------

    def _recovering(self, work: Callable[[], None]) -> None:
        """Do work, once more with a new file if this one is damaged."""
        try:
            suspicion, self.suspicion = self.suspicion, None
            if suspicion is not None:
                self._replace(suspicion)
            work()
        except sqlite3.DatabaseError as exc:
            if not is_corrupt(exc):
                raise
            self._replace(exc)
            work()

    def _replace(self, reason: BaseException) -> None:
        self._file.replace(reason)
        self._waiting.clear()

    def _write(self, batch: Batch) -> None:
        rows: list[Prepared] = []
        weight = 0
        blocks = batch.blocks
        try:
            for key, entry in batch.entries.items():
                row = prepare(key, entry, self._file.blobs, self._clock.wall, self._clock.kept_from())
                rows.append(row)
                weight += row.weight
                if weight >= GROUP_BYTES:
                    self._commit(rows, blocks)
                    rows, weight, blocks = [], 0, []
            if rows or blocks:
                self._commit(rows, blocks)
        except BaseException:
            for row in rows:
                if row.digest is not None:
                    self._file.blobs.discard(row.digest)
            raise

    def _commit(self, rows: list[Prepared], blocks: list[tuple[str, int, int]]) -> None:
        # A commit that fails may have been written all the same.
        self._waiting.update(row.key for row in rows if row.columns.get("state") == State.WAITING.value)
        self._file.write(rows, blocks)
        self._waiting.difference_update(
            row.key for row in rows if row.columns.get("state", State.WAITING.value) != State.WAITING.value
        )
        self._retention.written(sum(row.weight + row.bytes for row in rows))

    # --- failing -------------------------------------------------------------------------------------------------

    @contextmanager
    def _failing(self) -> Generator[None]:
        """Go on without the file after an error. What waits in it must not be sent by another run as well: see
        `owners`."""
        try:
            yield
        except Exception as exc:  # calls go on, whatever it is
            self._withdrawn = self._file.boot.withdraw()
            self.usable = False
            self._file.close_connection()
            what, to_do = described(exc, self._file.path)
            logger.warning(
                "The journal of futures %s cannot be used: %s. Calls go on, but their futures are kept in memory only, "
                "and end with this process. %s.",
                self._file.path,
                what,
                to_do,
                exc_info=None if is_expected(exc) else exc,
            )
