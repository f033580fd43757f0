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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.identity import FutureKey
from asyncfc_mcp.core.records import FutureRecord
from asyncfc_mcp.engine.journal.api import OnCommitted
from asyncfc_mcp.engine.journal.backlog import Backlog, Batch, Entry
from asyncfc_mcp.engine.journal.failures import described, is_corrupt, is_expected
from asyncfc_mcp.engine.journal.journal_file import JournalFile
from asyncfc_mcp.engine.journal.preparation import Prepared, encoding, prepare
from asyncfc_mcp.engine.journal.retention import Retention, RetentionClock
from asyncfc_mcp.slices import Slices
from asyncfc_mcp.values.large import is_large

logger = logging.getLogger(__name__)

GROUP_BYTES: Final = 1 << 20
"""Bytes of one transaction in a batch, so that the write-ahead log stays small."""


@dataclass(slots=True)
class _Large:
    """A change with a large result, which is encoded between the commits of other changes."""

    entry: Entry
    work: Slices[list[bytes]]
    callbacks: list[OnCommitted] = field(default_factory=list[OnCommitted])


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
        self.suspicion: tuple[int, BaseException] | None = None
        """Damage that a look-up found, and in which file (`JournalFile.generation`): it may be replaced by now."""
        self._file = file
        self._backlog = backlog
        self._clock = clock
        self._post = post
        self._retention = Retention(file, clock, ttl_s=ttl_s, max_bytes=max_bytes)
        self._waiting: set[FutureKey] = set()
        """Futures that stand as `waiting` in the file."""
        self._withdrawn = False
        self._large: dict[FutureKey, _Large] = {}
        self._group_bytes = min(GROUP_BYTES, max_bytes // 16)

    def open(self) -> None:
        """Open the file and adopt futures; `usable` is false afterwards if that failed."""
        with self._failing():
            self.adopted = self._file.open()
        self._waiting.update(
            FutureKey(f"{each.scope}/{each.id}") for each in self.adopted if each.state is State.WAITING
        )

    def step(self) -> None:
        """Write everything that was collected, and call back. Large results are left to `encode`."""
        batch = self._backlog.take()
        if self.usable:
            self._set_aside(batch)
            with self._failing():
                self._recovering(lambda: self._write(batch))
        ready: list[OnCommitted] = []
        for key, callback in batch.callbacks:
            large = None if key is None else self._large.get(key)
            (ready if large is None else large.callbacks).append(callback)
        if ready:
            self._post(ready)

    @property
    def encodes(self) -> bool:
        """True while there are large results to write."""
        return bool(self._large)

    def encode(self) -> None:
        """Go on with the first large result, until it is committed or there is something else to write."""
        key, large = next(iter(self._large.items()))
        while self.usable:
            try:
                next(large.work)
            except StopIteration as end:
                with self._failing():
                    self._recovering(partial(self._write_large, key, large.entry, end.value))
                break
            if self._backlog.filled:
                return
        self._large.pop(key, None)
        self._post(large.callbacks)

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
        while self._large:
            self.encode()
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
            if suspicion is not None and suspicion[0] == self._file.generation:
                self._replace(suspicion[1])
            work()
        except sqlite3.DatabaseError as exc:
            if not is_corrupt(exc):
                raise
            self._replace(exc)
            work()

    def _replace(self, reason: BaseException) -> None:
        self._file.replace(reason)
        self._waiting.clear()

    def _set_aside(self, batch: Batch) -> None:
        """Take changes with large results out of a batch: encoding one takes long, and calls wait for other changes. A
        future that is new as well is written as running until then."""
        for key, entry in list(batch.entries.items()):
            large = self._large.get(key)
            if large is not None:
                large.entry.values.update(entry.values)
                del batch.entries[key]
            elif entry.result is not None and is_large(entry.result):
                self._large[key] = _Large(Entry(entry.values, result=entry.result), encoding(key, entry.result))
                if entry.new:
                    begun = {**entry.values, "state": State.RUNNING, "ended_at": None, "has_result": False}
                    batch.entries[key] = Entry(begun, new=True)
                else:
                    del batch.entries[key]

    def _write(self, batch: Batch) -> None:
        rows: list[Prepared] = []
        weight = 0
        blocks = batch.blocks
        for key, entry in batch.entries.items():
            row = self._prepare(key, entry)
            rows.append(row)
            weight += row.weight + row.bytes
            if weight >= self._group_bytes:
                self._commit(rows, blocks)
                rows, weight, blocks = [], 0, []
                if self._retention.wait_s() <= 0:
                    self._retention.step()
        if rows or blocks:
            self._commit(rows, blocks)

    def _write_large(self, key: FutureKey, entry: Entry, pieces: list[bytes]) -> None:
        self._commit([self._prepare(key, entry, pieces)])

    def _prepare(self, key: FutureKey, entry: Entry, pieces: list[bytes] | None = None) -> Prepared:
        return prepare(key, entry, self._file.blobs, self._clock.wall, self._clock.kept_from(), pieces)

    def _commit(self, rows: list[Prepared], blocks: Sequence[tuple[str, int, int]] = ()) -> None:
        # A commit that fails may have been written all the same.
        self._waiting.update(row.key for row in rows if row.columns.get("state") == State.WAITING.value)
        try:
            self._file.write(rows, blocks)
        except BaseException:
            for row in rows:
                if row.digest is not None:
                    with suppress(OSError):
                        self._file.blobs.discard(row.digest)
            raise
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
