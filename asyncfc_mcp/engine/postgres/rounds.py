"""Rounds of questions: those that a server of 2026-07-28 has returned in place of a result.

Implements `engine.questions.Rounds`. Owns that they stand in the row of their future, so that another replica asks them
again if this one ends: the server keeps no connection for them.
"""

from collections.abc import Callable, Sequence

from asyncfc_mcp.core.futures import Future, Result, State
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.postgres.futures_table import FuturesTable
from asyncfc_mcp.engine.postgres.grouped import Grouped

_Write = tuple[Call, Result | None]


class Rounds:
    """Rounds of the calls of one replica.

    Args:
        seq_of: returns the place of a future in the order of submission.
    """

    def __init__(self, table: FuturesTable, seq_of: Callable[[Future], int | None]) -> None:
        self._table = table
        self._seq_of = seq_of
        # In order: questions must not be written after their answers.
        self._writes = Grouped[_Write, None](self._write)
        self.run = self._writes.run

    def asked(self, call: Call, result: Result) -> None:
        if not call.future.private:
            self._writes.add((call, result), lambda outcome: None)

    async def _write(self, writes: Sequence[_Write]) -> Sequence[None]:
        for call, result in writes:
            seq = self._seq_of(call.future)
            if seq is None:
                continue
            if result is None:
                await self._table.update_running(seq, {"state": State.RUNNING, "round": None})
            else:
                # Set after the commit: until then another replica takes the call for one that may have been sent.
                columns = {"state": State.INPUT_REQUIRED, "round": result}
                call.asks_again = await self._table.update_running(seq, columns)
        return [None] * len(writes)

    def resumes(self, call: Call) -> bool:
        return call.asks_again and not call.ending

    async def round_answered(self, call: Call) -> None:
        if not call.future.private:
            await self._writes.do((call, None))
        call.asks_again = False
