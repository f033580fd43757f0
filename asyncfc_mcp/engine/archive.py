"""Archive: futures that have ended and are not in memory, read from a journal.

Implements `core.archive.Archive`. Owns the few futures that were looked up last. Leaves storage to the journal, and
futures that have not ended to `recovery`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from asyncfc_mcp.core.futures import Future, Result
from asyncfc_mcp.core.identity import LASTING, CallerIdentity, FutureKey, Scope, future_key
from asyncfc_mcp.core.records import FutureRecord
from asyncfc_mcp.engine.journal.api import Journal
from asyncfc_mcp.engine.restoration import Restoration, missing_result
from asyncfc_mcp.slices import Slices, at_once

FUTURES: Final = 1_000
"""Bound on the futures that are kept after they were looked up, without their results."""
LISTED: Final = 1_000
"""Bound on the futures of one list: reading them keeps the event loop busy for some 20 ms."""
_NEVER_SENT: Final = (
    "was given out by an earlier run of the bridge, which ended before the call was sent (or, if its tool is "
    "read-only, before it was recorded), so that it had no effect"
)
_DROPPED: Final = "is no longer in the journal (settings ttl_s and journal_max_bytes)"


class Archive:
    """Futures of earlier runs, and those of this run that memory has dropped.

    Args:
        journal: where they are.
        offset_s: returns what gives the time of the wall clock when added to a time of the engine's clock.
        loaded: called after a result was read into memory.
    """

    def __init__(self, journal: Journal, offset_s: Callable[[], float], loaded: Callable[[Future], None]) -> None:
        self._journal = journal
        self._offset_s = offset_s
        self._loaded = loaded
        self._futures: OrderedDict[FutureKey, Future] = OrderedDict()
        self.future = Restoration(offset_s, self.load).future

    def find(self, scope: Scope, future_id: str) -> Future | None:
        key = future_key(scope, future_id)
        if (future := self._futures.get(key)) is None:
            record = self._journal.find(scope.key, future_id)
            return None if record is None else self._ended(record)
        self._futures.move_to_end(key)
        return None if self._expired(future) else future

    def named(self, scope: Scope, name: str, namer: CallerIdentity | None = None) -> list[Future]:
        records = self._journal.named(scope.key, name)
        if namer is not None:
            records = [record for record in records if record.namer == namer.token]
        elif records:
            last = _run(records[0])
            records = [record for record in records if _run(record) == last]
        return [future for record in records if (future := self._ended(record)) is not None]

    def has_names_of(self, namer: CallerIdentity | None) -> bool:
        return namer is not None and namer.lasting

    def newest(self, scope: Scope) -> Iterator[Future]:
        for record in islice(self._journal.newest(scope.key), LISTED):
            future = self._futures.get(future_key(scope, record.id)) or self.future(record)
            if not self._expired(future):
                yield future

    def unread(self, scope: Scope, conversation: str) -> list[Future]:
        """Return the unread futures of a conversation, oldest first."""
        records = self._journal.unread(scope.key, conversation)
        return [future for record in records if (future := self._ended(record)) is not None]

    def fate(self, scope: Scope, number: int) -> str | None:
        if self._journal.forgotten(scope.key, number):
            return _DROPPED
        return _NEVER_SENT if self._journal.never_sent(scope.key, number) else None

    # --- results -------------------------------------------------------------------------------------------------

    def load(self, future: Future) -> Result:
        """Return the result of a future at once."""
        return at_once(self.loading(future))

    def loading(self, future: Future) -> Slices[Result]:
        """Return the result of a future in slices: a large one takes long to parse."""
        result = None if future.private else (yield from self._journal.parsing(future.key))
        if result is None:
            return missing_result(future)
        self._loaded(future)
        return result

    def _ended(self, record: FutureRecord) -> Future | None:
        key = FutureKey(f"{record.scope}/{record.id}")
        future = self._futures.get(key)
        if future is None:
            future = self._futures[key] = self.future(record)
            if len(self._futures) > FUTURES:
                self._futures.popitem(last=False)
        return None if self._expired(future) else future

    def _expired(self, future: Future) -> bool:
        """Return whether a task's own time is over."""
        now = time.time() - self._offset_s()
        kept_s = future.kept_s(now)
        return kept_s is not None and future.submitted_at + kept_s <= now


def _run(record: FutureRecord) -> str:
    """Return the run in which a name was used; for a caller that is one in all runs, the caller."""
    namer = record.namer or ""
    return namer if namer.startswith(LASTING) else namer.partition("/")[0]
