"""The journal in a SQLite file.

Owns how its parts work together: the backlog that the event loop fills, the writer in a thread of its own, callbacks on
the event loop, and look-ups. Leaves the file to `journal_file`.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.abc
from anyio import to_thread

from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.history import RecordedRun, RecordPage, Serves
from asyncfc_mcp.core.identity import FutureKey
from asyncfc_mcp.core.records import CallRecord, Change, FutureRecord
from asyncfc_mcp.engine.journal import schema
from asyncfc_mcp.engine.journal.api import OnCommitted
from asyncfc_mcp.engine.journal.backlog import Backlog
from asyncfc_mcp.engine.journal.history import History
from asyncfc_mcp.engine.journal.journal_file import JournalFile
from asyncfc_mcp.engine.journal.reader import Reader
from asyncfc_mcp.engine.journal.retention import RetentionClock, seconds_since_boot
from asyncfc_mcp.engine.journal.rows import is_unfinished, values_of, without_private
from asyncfc_mcp.engine.journal.schema import ForeignFile, NewerFile
from asyncfc_mcp.engine.journal.writer import Writer
from asyncfc_mcp.signals import WakeUp, soon_from_thread
from asyncfc_mcp.slices import Slices

logger = logging.getLogger(__name__)

T = TypeVar("T")

SEARCHES: Final = 4
"""Searches in the file that run at once; others wait."""
LATER_S: Final = 0.05
"""Seconds after which what has time is written."""
CLOSE_S: Final = 15.0
"""Seconds for which the end of the bridge waits for the last commit. A write waits `schema.BUSY_S` for others."""


class SqliteJournal:
    """Implements `api.Journal`.

    Args:
        path: of the file. Its folder is created (mode 0700) if it does not exist.
        configuration: hash of what the bridge wraps. Bridges that wrap something else do not use the file.
        ttl_s: seconds for which a future is kept after its end.
        max_bytes: cap on the file, its log, and files of large results.
        threaded: write in a thread. False writes in the task of `run`, for tests on a virtual clock.
        clock: the wall clock, in seconds.
        elapsed: a clock that is never set, in seconds.
        busy_s: seconds for which a write waits for other bridges before the file is given up.
        migrations: see `schema.MIGRATIONS`.
    """

    def __init__(
        self,
        path: Path,
        *,
        configuration: str = "",
        ttl_s: float,
        max_bytes: int,
        threaded: bool = True,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = seconds_since_boot,
        busy_s: float = schema.BUSY_S,
        migrations: Sequence[schema.Migration] = schema.MIGRATIONS,
    ) -> None:
        self.path = path
        self._ttl_s, self._max_bytes = ttl_s, max_bytes
        self._threaded = threaded
        self._file = JournalFile(
            path,
            configuration=configuration,
            max_bytes=max_bytes,
            since=clock(),
            busy_s=busy_s,
            migrations=migrations,
        )
        self._reader = Reader(self._file, self._suspect)
        self._queue: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """Wakes the writer's thread; true ends it."""
        self._filled = WakeUp()
        self._later = WakeUp()
        """Set once there is something to write that has time."""
        self._backlog = Backlog((lambda: self._queue.put(False)) if threaded else self._filled.set)
        self._committed: deque[OnCommitted] = deque()
        self._signal: Callable[[], None] = lambda: None
        """Wakes `run` from the writer's thread."""
        self._writer = Writer(
            self._file,
            self._backlog,
            RetentionClock(clock, elapsed),
            ttl_s=ttl_s,
            max_bytes=max_bytes,
            post=self._post,
        )
        self._searches = anyio.CapacityLimiter(SEARCHES)
        self._private: set[FutureKey] = set()
        """Unfinished futures whose arguments and results are not written."""

    # --- running -------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(self._write_later)
                if self._threaded:
                    await self._run_thread(task_status)
                else:
                    await self._run_here(task_status)
        finally:
            self._reader.close()
            self._call_back()

    async def _write_later(self) -> None:
        """Have the writer woken a moment after something was added that has time, unless it was woken meanwhile."""
        while True:
            await self._later.wait()
            await anyio.sleep(LATER_S)
            self._backlog.notify()

    async def _run_here(self, task_status: anyio.abc.TaskStatus[None]) -> None:
        writer = self._writer
        writer.open()
        task_status.started()
        try:
            while True:
                await self._filled.wait()
                writer.step()
                while writer.encodes:
                    writer.encode()
                while writer.wait_s() == 0:
                    writer.maintain()
                self._call_back()
        finally:
            writer.finish()

    async def _run_thread(self, task_status: anyio.abc.TaskStatus[None]) -> None:
        opened, closed = anyio.Event(), anyio.Event()
        self._signal = soon_from_thread(self._call_back)
        threading.Thread(target=self._write, args=(opened.set, closed.set), name="asyncfc journal", daemon=True).start()
        try:
            await opened.wait()
            task_status.started()
            await anyio.sleep_forever()
        finally:
            self._queue.put(True)
            with anyio.move_on_after(CLOSE_S, shield=True):
                await closed.wait()
            if not closed.is_set():
                logger.warning("The journal of futures %s could not be closed in time.", self.path)
            self._signal = lambda: None

    def _call_back(self) -> None:
        while self._committed:
            try:
                self._committed.popleft()()
            except Exception:
                # One callback that fails must not prevent the others, which let calls go on.
                logger.exception("a callback of the journal failed")

    def _post(self, callbacks: Sequence[OnCommitted]) -> None:
        self._committed.extend(callbacks)
        self._signal()

    # --- the writer's thread -------------------------------------------------------------------------------------

    def _write(self, opened: Callable[[], None], closed: Callable[[], None]) -> None:
        writer = self._writer
        writer.open()
        self._post([opened])
        ending = False
        while not ending:
            try:
                ending = self._queue.get(timeout=0 if writer.encodes else writer.wait_s())
            except queue.Empty:
                if writer.encodes:
                    writer.encode()
                else:
                    writer.maintain()
            else:
                writer.step()
                writer.maintain()  # under load as well: the queue may never be empty
        writer.finish()
        self._post([closed])

    def _suspect(self, generation: int, exc: BaseException) -> None:
        self._writer.suspicion = generation, exc
        self._backlog.call_back(lambda: None)

    # --- writing -------------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        return self._writer.usable

    def add(self, record: FutureRecord, *, soon: bool = True) -> None:
        if self._writer.usable:
            key = FutureKey(f"{record.scope}/{record.id}")
            values = values_of(record)
            if record.private:
                self._private.add(key)
                values = without_private(values)
            self._backlog.add(key, values, soon=soon)
            if not soon:
                self._later.set()

    def update(
        self, key: FutureKey, change: Change, on_committed: OnCommitted | None = None, *, soon: bool = True
    ) -> None:
        if not self._writer.usable:
            if on_committed is not None:
                self._backlog.call_back(on_committed)
            return
        columns, result = change.columns, change.result
        if self._private and key in self._private:
            columns, result = without_private(columns), None
            if "state" in columns and not is_unfinished(columns["state"]):
                self._private.discard(key)
        self._backlog.update(key, columns, result, on_committed, soon=soon)
        if not soon:
            self._later.set()

    def after_commit(self, on_committed: OnCommitted) -> None:
        self._backlog.call_back(on_committed)

    def reserved(self, scope: str, first: int, last: int) -> None:
        if self._writer.usable:
            self._backlog.reserve(scope, first, last)

    def trusts(self, key: FutureKey) -> bool:
        return self._writer.trusts(key)

    # --- reading -------------------------------------------------------------------------------------------------

    def adopted(self) -> list[FutureRecord]:
        found, self._writer.adopted = self._writer.adopted, []
        self._private.update(FutureKey(f"{each.scope}/{each.id}") for each in found if each.private)
        return found

    def find(self, scope: str, future_id: str) -> FutureRecord | None:
        return self._reader.find(scope, future_id) if self._writer.usable else None

    def owner(self, scope: str, future_id: str) -> tuple[int, float] | None:
        return self._reader.owner(scope, future_id) if self._writer.usable else None

    def named(self, scope: str, name: str) -> list[FutureRecord]:
        return self._reader.named(scope, name) if self._writer.usable else []

    def newest(self, scope: str, before: int | None = None) -> Iterator[FutureRecord]:
        return self._reader.newest(scope, before) if self._writer.usable else iter(())

    def unread(self, scope: str, conversation: str) -> list[FutureRecord]:
        return self._reader.unread(scope, conversation) if self._writer.usable else []

    def forgotten(self, scope: str, number: int) -> bool:
        return self._writer.usable and self._reader.forgotten(scope, number)

    def never_sent(self, scope: str, number: int) -> bool:
        return self._writer.usable and self._reader.never_sent(scope, number)

    def parsing(self, key: FutureKey) -> Slices[Result | None]:
        # Also while the file cannot be written any more: a result in it never changes, and memory may not have it.
        return (yield from self._reader.parsing(key)) if self._file.generation else None

    def result_path(self, key: FutureKey) -> Path | None:
        return self._reader.result_path(key) if self._file.generation else None

    async def page(self, scope: str, query: CallQuery, serves: Serves) -> RecordPage:
        return await self._read(lambda history: history.page(scope, query, serves), RecordPage([], None))

    async def call(self, scope: str, future_id: str) -> CallRecord | None:
        return await self._read(lambda history: history.call(scope, future_id), None)

    async def runs(self, scope: str, since: float) -> list[RecordedRun]:
        return await self._read(lambda history: history.runs(scope, since), list[RecordedRun]())

    async def _read(self, search: Callable[[History], T], nothing: T) -> T:
        """Search the file in a thread; return `nothing` where it cannot be read."""
        if not self._file.generation:
            return nothing
        try:
            if not self._threaded:
                return search(History(self.path))
            return await to_thread.run_sync(lambda: search(History(self.path)), limiter=self._searches)
        except (OSError, sqlite3.Error, ValueError, TypeError, RecursionError, NewerFile, ForeignFile) as exc:
            logger.warning("The journal of futures %s cannot be searched: %s", self.path, exc)
            return nothing

    def place(self) -> tuple[Path, int] | None:
        return (self.path, self._file.size()) if self.usable else None

    def status(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "usable": self.usable,
            "ttl_s": self._ttl_s,
            "max_bytes": self._max_bytes,
            "bytes": self._file.size(),
            **(self._reader.status() if self.usable else {}),
        }

    def inspected(self) -> dict[str, Any]:
        """Return `status`, and as `problem` why the file cannot be used, of a journal that is not run. The file is not
        changed."""
        problem = self._file.problem()
        self._writer.usable = problem is None
        try:
            return {**self.status(), "problem": problem}
        finally:
            self._reader.close()
