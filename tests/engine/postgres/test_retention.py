"""Futures are dropped by age and by size: those that were read first, and never unfinished ones."""

import anyio
import pytest

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.futures_table import CHUNK, ROW_BYTES, Ending, FuturesTable
from asyncfc_mcp.engine.postgres.rows import Row
from tests.support.postgres_futures import ended, new, started, submit

pytestmark = pytest.mark.anyio

DAY_S = 86_400.0
ROOM = 1 << 40


async def age(database: Database, rows: list[Row], seconds: float) -> None:
    """Move futures into the past."""
    await database.fetch(
        """UPDATE futures SET submitted_at = submitted_at - %s, started_at = started_at - %s,
            ended_at = ended_at - %s, read_at = read_at - %s, kept_until = kept_until - %s WHERE seq = ANY (%s)""",
        (*[seconds] * 5, [row.seq for row in rows]),
    )


async def left(table: FuturesTable, rows: list[Row]) -> list[int]:
    """Return the positions of those that are in the table."""
    found = await table.rows([row.seq for row in rows])
    return [number for number, row in enumerate(rows) if row.seq in found]


async def test_futures_are_dropped_some_time_after_their_end(table: FuturesTable, database: Database):
    """With everything that belongs to them; unfinished ones stay."""
    rows = await ended(table, new(), new(), new())
    await table.mark_read([rows[1].seq])
    unfinished = [*await submit(table, new()), *await started(table, new())]
    await age(database, [*rows[:2], *unfinished], 2 * DAY_S)
    assert await table.prune(DAY_S, ROOM) == 2
    assert await left(table, rows) == [2]
    assert await left(table, unfinished) == [0, 1]
    assert set(await table.results([row.seq for row in rows])) == {rows[2].seq}
    assert await table.find("local", ["f1"], []) == []
    assert await table.last_number("local") == 5, "its number is not given again"
    assert set(await table.calls([row.seq for row in unfinished])) == {row.seq for row in unfinished}
    assert await table.prune(DAY_S, ROOM) == 0


async def test_tasks_are_kept_by_their_own_time(table: FuturesTable, database: Database):
    """From their submission, but at least half of it after their end."""
    short, long = await ended(table, new(ttl_s=60.0), new(ttl_s=10 * DAY_S))
    await age(database, [short], 50)
    await age(database, [long], 2 * DAY_S)
    assert await table.prune(DAY_S, ROOM) == 0
    await age(database, [short], 11)
    await age(database, [long], 7 * DAY_S)
    assert await table.prune(DAY_S, ROOM) == 1
    assert await left(table, [short, long]) == [1]

    (slow,) = await started(table, new(ttl_s=60.0))
    await age(database, [slow], 600)
    assert await table.end([Ending(slow.seq, State.COMPLETED, ran=True)]) == [True]
    await age(database, [slow], 29)
    assert await table.prune(DAY_S, ROOM) == 0
    await age(database, [slow], 2)
    assert await table.prune(DAY_S, ROOM) == 1


async def test_beyond_the_cap_those_that_were_read_are_dropped_first(table: FuturesTable):
    """Of these the oldest, and no more than it takes."""
    size = 9 * ROW_BYTES
    rows = [row for _ in range(6) for row in await ended(table, new(), result=b" " * size)]
    unfinished = await submit(table, new())
    each = size + ROW_BYTES
    await table.mark_read([rows[1].seq, rows[3].seq, rows[5].seq])
    assert await table.prune(DAY_S, 6 * each) == 0
    assert await table.prune(DAY_S, 4 * each) == 2
    assert await left(table, rows) == [0, 2, 4, 5]
    assert await table.prune(DAY_S, 3 * each - 1) == 2
    assert await left(table, rows) == [2, 4]
    assert await table.prune(DAY_S, 0) == 2
    assert await left(table, unfinished) == [0]


async def test_many_futures_are_dropped_in_small_transactions(database: Database, table: FuturesTable):
    """By two replicas at once, each future by one of them, while a third one submits."""
    count = 3 * CHUNK + 7
    await database.fetch(
        """INSERT INTO futures (token, scope, id, listed, server, tool, state, submitted_at, ended_at, read_at,
                substituted, after, private, effect, size)
            SELECT gen_random_uuid(), 'x', 'f' || n, true, 's', 't', 'completed', 1, 2, 3, '{}', '{}', false,
                '{"reads":[],"writes":[],"source":""}', n
            FROM generate_series(1, %s) n""",
        (count,),
    )
    dropped: list[int] = []

    async def pruning() -> None:
        dropped.append(await table.prune(DAY_S, ROOM))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tg:
            tg.start_soon(pruning)
            tg.start_soon(pruning)
            for _ in range(20):
                await ended(table, new())
    assert sum(dropped) == count
    assert await table.newest("x", 5) == []
    assert len(await table.newest("local", 30)) == 20
