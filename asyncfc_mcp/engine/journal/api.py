"""Interface of the journal: the durable record of futures, for an engine of one process.

Pure interface. `sqlite_journal` implements it; `NoJournal` keeps nothing. Methods are called from the event loop, and
write without waiting: a writer commits what was added in groups, in order. Leaves to the engine what is recorded when.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.abc

from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.history import RecordedRun, RecordPage, Serves
from asyncfc_mcp.core.identity import FutureKey
from asyncfc_mcp.core.records import CallRecord, Change, FutureRecord
from asyncfc_mcp.slices import Slices

OnCommitted = Callable[[], None]
"""Called on the event loop once everything that was written before is committed, or cannot be (`usable` is False then);
never from within the method that it was handed to. Only callbacks that were handed over with a change of the same
future wait for a large result, which takes long to encode: others do not wait for it."""


class Journal(Protocol):
    """Durable record of the futures of all bridges that share a file."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own the writer, and call callbacks, until cancelled; then everything that was written is committed. Started
        once the file is open, or cannot be opened."""
        ...

    @property
    def usable(self) -> bool:
        """False from the moment at which the file could not be opened or written. A warning has said why. Calls go on
        in memory; callbacks are still called."""
        ...

    # --- writing -------------------------------------------------------------------------------------------------

    def add(self, record: FutureRecord, *, soon: bool = True) -> None:
        """Write a new future. Its place in the order of submission is the order of these calls.

        Args:
            soon: false where it is enough to write it with what follows, at most a moment later.
        """
        ...

    def update(
        self, key: FutureKey, change: Change, on_committed: OnCommitted | None = None, *, soon: bool = True
    ) -> None:
        """Write changes of a future. Those of a future that is not in the journal are ignored.

        Args:
            soon: see `add`.
        """
        ...

    def after_commit(self, on_committed: OnCommitted) -> None:
        """Call back once everything that was written so far is committed; soon, if it is already."""
        ...

    def reserved(self, scope: str, first: int, last: int) -> None:
        """Record that the numbers from `first` to `last` were reserved for IDs of this bridge. A number that was not
        reserved here may have been given by a bridge without this journal; see `never_sent`."""
        ...

    def trusts(self, key: FutureKey) -> bool:
        """Return false for a future that stands in the file as `waiting` while the file cannot be written any more: if
        its call were sent, another run would send it once more."""
        ...

    # --- reading (from the event loop; a lookup takes less than a millisecond) --------------------------------------

    def adopted(self) -> list[FutureRecord]:
        """Return the unfinished futures of bridges that have ended, in the order of their submission. They belong to
        this bridge from now on: another one that starts at the same moment does not get them. Once per run."""
        ...

    def find(self, scope: str, future_id: str) -> FutureRecord | None:
        """Return a future that has ended, of this run or another; None without one. Records of futures that have ended
        have no `call`, which may be large."""
        ...

    def owner(self, scope: str, future_id: str) -> tuple[int, float] | None:
        """Return process ID and start (wall clock) of the running bridge whose unfinished future this is; None if there
        is none."""
        ...

    def named(self, scope: str, name: str) -> list[FutureRecord]:
        """Return the futures with this name that have ended, of each caller the last one, newest first."""
        ...

    def newest(self, scope: str, before: int | None = None) -> Iterator[FutureRecord]:
        """Yield the futures of a scope that have ended, the highest number in their ID first, read a page at a time.

        Args:
            before: only numbers below this one.
        """
        ...

    def unread(self, scope: str, conversation: str) -> list[FutureRecord]:
        """Return the futures of a conversation that have ended and were not read, oldest first, at most 1,000."""
        ...

    def forgotten(self, scope: str, number: int) -> bool:
        """Return whether the future with this number was in the journal and was dropped (`ttl_s`, size cap)."""
        ...

    def never_sent(self, scope: str, number: int) -> bool:
        """Return true if no call with effects was sent for this number: a bridge that has ended reserved it (see
        `reserved`) and kept a complete journal, in which it is not. False where the machine went down, the bridge could
        not write its journal, or the journal began later: the call may have been sent."""
        ...

    def parsing(self, key: FutureKey) -> Slices[Result | None]:
        """Return the result of a future in slices; None where it is not in the journal (any more), or is damaged."""
        ...

    def result_path(self, key: FutureKey) -> Path | None:
        """Return the file in which a large result lies; None for results in the journal itself."""
        ...

    # --- history (outside of the event loop) ---------------------------------------------------------------------

    async def page(self, scope: str, query: CallQuery, serves: Serves) -> RecordPage:
        """Return the futures of a scope that have ended and that a query means; nothing where the file cannot be
        read."""
        ...

    async def call(self, scope: str, future_id: str) -> CallRecord | None:
        """Return a call as it was made, of a future that may have ended; None where it is not recorded."""
        ...

    async def runs(self, scope: str, since: float) -> list[RecordedRun]:
        """Return the runs of calls that have ended since a time of the wall clock."""
        ...

    def place(self) -> tuple[Path, int] | None:
        """Return the path of the file, and its bytes with its log; None if it cannot be used."""
        ...

    def status(self) -> dict[str, Any]:
        """Return path, bytes, futures and bounds, for `inspect`."""
        ...
