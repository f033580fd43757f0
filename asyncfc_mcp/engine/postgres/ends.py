"""Ends of futures, written in groups.

Implements `scheduler.EndRecorder`. Owns that an end is shown only once it is committed, and only if it is the first one
of its future: another replica may have ended it meanwhile, and then its row is read again.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import anyio.abc

from asyncfc_mcp.core.futures import Future, Result, State
from asyncfc_mcp.core.waits import without_paths
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.postgres.futures_table import Ending, FuturesTable
from asyncfc_mcp.engine.postgres.grouped import Grouped
from asyncfc_mcp.engine.postgres.mirror import Mirror
from asyncfc_mcp.engine.postgres.results import encoded
from asyncfc_mcp.engine.recorder import call_failure_record
from asyncfc_mcp.errors import CallFailed

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _End:
    ending: Ending
    call: Call
    result: Result | None
    committed: Callable[[], None] | None


class Ends:
    """Writes ends of one replica's calls."""

    _mirror: Mirror

    def __init__(self, table: FuturesTable) -> None:
        self._table = table
        self._grouped = Grouped[_End, bool](self._step)
        self.drained = self._grouped.drained

    async def run(self, mirror: Mirror, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write ends until cancelled."""
        self._mirror = mirror
        await self._grouped.run(task_status=task_status)

    def end(
        self,
        call: Call,
        state: State,
        result: Result | None,
        failure: CallFailed | None,
        cause: str | None,
        committed: Callable[[], None] | None,
    ) -> None:
        future = call.future
        seq = self._mirror.seq(future)
        assert seq is not None
        ending = Ending(seq, state, ran=call.claimed, cause=cause, read=future.read_at is not None)
        ending.attempts = future.attempts
        if not call.claimed:  # else it was written when the call became ready
            ending.waits = without_paths(future.waits) if future.private else future.waits
        if failure is not None:
            ending.failure = call_failure_record(call, failure)
        if result is not None:
            ending.private = future.private
        end = _End(ending, call, result, committed)
        self._grouped.add(end, partial(self._written, end))

    def keep(self, future: Future) -> None:
        """Nothing: the bound on results in memory is `lookups`'."""

    async def _step(self, ends: Sequence[_End]) -> Sequence[bool | Exception]:
        for end in ends:
            if end.result is not None and not end.ending.private:
                end.ending.result = await encoded(end.result)
                end.ending.size = len(end.ending.result)
        return await self._table.end([end.ending for end in ends])

    def _written(self, end: _End, outcome: bool | Exception) -> None:
        if outcome is True:
            if end.result is not None:
                end.call.future.size = end.ending.size
            if end.committed is not None:
                end.committed()
            self._mirror.ended(end.call.future)
            return
        if isinstance(outcome, Exception):
            logger.error("the end of %s could not be written: %s", end.call.future.id, outcome)
        elif not end.ending.ran:
            self._mirror.claimed_elsewhere(end.call)
        self._mirror.mark_dirty([end.ending.seq])
