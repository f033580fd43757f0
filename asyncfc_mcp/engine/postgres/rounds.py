"""Rounds of questions: those that a server of 2026-07-28 has returned in place of a result.

Implements `engine.questions.Rounds`. Owns that they stand in the row of their future, so that another replica asks them
again if this one ends: the server keeps no connection for them.
"""

from collections.abc import Callable, Sequence

import anyio

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
        self._writes = Grouped[_Write, bool](self._write)
        self.run = self._writes.run

    def asked(self, call: Call, result: Result) -> None:
        if not call.future.private:
            self._writes.add((call, result), lambda outcome: None)

    async def _write(self, writes: Sequence[_Write]) -> Sequence[bool]:
        return [await self._write_one(call, result) for call, result in writes]

    async def _write_one(self, call: Call, result: Result | None) -> bool:
        seq = self._seq_of(call.future)
        if seq is None:
            return False
        if result is None:
            return await self._table.update_running(seq, {"state": State.RUNNING, "round": None})
        # Set after the commit: until then another replica takes the call for one that may have been sent.
        call.asks_again = await self._table.update_running(seq, {"state": State.INPUT_REQUIRED, "round": result})
        return call.asks_again

    def resumes(self, call: Call) -> bool:
        return call.asks_again and not call.ending

    async def round_answered(self, call: Call) -> None:
        if not call.future.private and not await self._writes.do((call, None)):
            # This replica was taken for dead. Another one asks the questions, and only that one sends the answers.
            await anyio.sleep_forever()
        call.asks_again = False
