"""Futures for tests of the database: new ones, and their way from submission to their end.

Owns no assertions.
"""

from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from asyncfc_mcp.core.effects import NOTHING
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.records import CallRecord, FutureRecord
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.futures_table import Ending, FuturesTable, NewFuture, Ready
from asyncfc_mcp.engine.postgres.rows import Row

ALL = 1 << 62
"""As `known` of a submission: no other futures are asked for."""


def new(*, scope: str = "local", server: str = "s", tool: str = "t", arguments: Any = None, **fields: Any) -> NewFuture:
    """Return a future that is to be submitted; `fields` are those of its record."""
    fields.setdefault("call", CallRecord(tool, arguments))
    return NewFuture(str(uuid4()), FutureRecord(scope, True, "", server, tool, **fields), NOTHING)


async def submit(table: FuturesTable, *batch: NewFuture) -> list[Row]:
    """Submit futures, and return their rows."""
    submitted = await table.submit(batch or [new()], ALL)
    rows = [row for row in submitted.rows if isinstance(row, Row)]
    assert len(rows) == len(submitted.rows)
    return rows


async def make_ready(
    table: FuturesTable,
    rows: Iterable[Row],
    server_limit: int | None = None,
    tool_limit: int | None = None,
    share: float = 1.0,
) -> None:
    """Make calls ready, with the names of their records."""
    await table.make_ready(
        [Ready(row.seq, row.record.server, row.record.tool, "any", server_limit, tool_limit, share) for row in rows]
    )


async def started(table: FuturesTable, *batch: NewFuture) -> list[Row]:
    """Submit and claim futures."""
    rows = await submit(table, *batch)
    await make_ready(table, rows)
    claimed = [await table.claim(row.seq) for row in rows]
    return [row for row in claimed if row is not None]


async def ended(table: FuturesTable, *batch: NewFuture, result: bytes = b"{}", **fields: Any) -> list[Row]:
    """Submit and claim futures, and end them with a result."""
    rows = await started(table, *batch)
    fields = {"size": len(result), **fields}
    endings = [Ending(row.seq, State.COMPLETED, ran=True, result=result, **fields) for row in rows]
    assert await table.end(endings) == [True] * len(rows)
    return rows


async def jobs(database: Database) -> list[int]:
    """Return the futures that have jobs, in the order in which workers take them."""
    found = await database.fetch("SELECT (args->>'seq')::bigint FROM procrastinate_jobs ORDER BY id")
    return [seq for (seq,) in found]
