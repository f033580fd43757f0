"""The cost of a call does not grow with the number of futures: statements read the same rows of a large table."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from typing import Any, LiteralString

import pytest

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.engine.postgres.database import Connection, Database
from asyncfc_mcp.engine.postgres.futures_table import Ending, FuturesTable
from asyncfc_mcp.engine.postgres.schema import migrate
from tests.support.postgres_futures import ALL, make_ready, new, submit

pytestmark = pytest.mark.anyio

LARGE = 20_000
_FILL: LiteralString = """
    INSERT INTO futures (token, scope, id, listed, server, tool, state, name, namer, conversation, submitted_at,
            ended_at, substituted, after, private, effect, owner, call_tool)
        SELECT gen_random_uuid(), 'local', 'x' || n, true, 's', 't', 'completed', 'name', 'namer' || n, 'c', 1, 2,
            '{}', '{}', false, '{"reads":[],"writes":[],"source":""}', 'A', 't'
        FROM generate_series(1, %s) n"""


class CountingDatabase(Database):
    """Counts the rows that statements read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.read: Counter[str] = Counter()
        self.label = ""

    async def fetch(
        self, statement: LiteralString, parameters: Sequence[Any] = (), *, planned: bool = False
    ) -> list[tuple[Any, ...]]:
        async def work(connection: Connection) -> list[tuple[Any, ...]]:
            async with connection.cursor(binary=True) as cursor:
                before = await self._rows_read(connection)
                await cursor.execute(statement, parameters, prepare=False if planned else True)
                found = await cursor.fetchall() if cursor.description is not None else []
                self.read[self.label] += await self._rows_read(connection) - before
                return found

        return await self.repeating(work)

    async def _rows_read(self, connection: Connection) -> int:
        """Return a count that is the connection's own until it is idle for a second, but not in a transaction."""
        cursor = await connection.execute(
            "SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint FROM pg_stat_xact_user_tables "
            "WHERE schemaname = current_schema() AND relname NOT LIKE 'procrastinate%'"
        )
        ((rows,),) = await cursor.fetchall()
        return rows


@pytest.fixture
async def counting(postgres_url: str, anyio_backend: str) -> AsyncGenerator[CountingDatabase]:
    """A database that counts."""
    database = CountingDatabase(postgres_url)
    await migrate(database)
    async with database.open():
        yield database


async def rows_read(database: CountingDatabase, table: FuturesTable) -> Counter[str]:
    """Take calls from their submission to the reading of their results; return the rows that each kind of statement
    read."""
    database.read = Counter()
    for _ in range(8):  # a plan for all parameters may be made after five executions
        database.label = "submit"
        rows = await submit(
            table, new(name="other", namer="x", tool="a"), new(tool="b"), new(tool="b", conversation="d")
        )
        database.label = "make_ready"
        await make_ready(table, rows, server_limit=2, tool_limit=1)
        database.label = "newer"
        await FuturesTable(database, "B").newer(rows[0].seq - 1)
        database.label = "claim and end"
        for row in rows:
            assert await table.claim(row.seq) is not None
            assert await table.update_running(row.seq, {"state": State.INPUT_REQUIRED})
            await table.request_cancel(row.seq)
            assert await table.end([Ending(row.seq, State.COMPLETED, ran=True, result=b"{}")]) == [True]
        database.label = "read"
        await table.find("local", [row.record.id for row in rows], ["nobody's"])
        await table.newest("local", 5, rows[-1].seq)
        await table.newest("nobody's", 5)
        await table.unread("local", "d", 5)
        await table.rows([row.seq for row in rows])
        await table.calls([row.seq for row in rows])
        await table.results([row.seq for row in rows])
        await table.last_number("local")
        await table.mark_read([row.seq for row in rows])
    return database.read


async def test_calls_read_as_many_rows_of_a_large_table(counting: CountingDatabase):
    """Also with plans that were made while it was empty."""
    table = FuturesTable(counting, "A")
    small = await rows_read(counting, table)
    await counting.fetch(_FILL, (LARGE,))
    for _ in range(2):
        large = await rows_read(counting, table)
        for label, count in small.items():
            assert large[label] <= 1.5 * count + 20, (label, small, large)
        await counting.fetch("ANALYZE futures, queued, places, calls, results, scopes")


async def test_many_waiting_calls_do_not_make_a_place_dearer(counting: CountingDatabase):
    """A place goes to the first of each queue, whatever waits behind it."""
    table = FuturesTable(counting, "A")
    reads: list[int] = []
    for count in (10, 2_000):
        rows = await submit(table, *(new(server=f"s{count}", tool="ab"[number % 2]) for number in range(count)))
        await make_ready(table, rows, server_limit=2, tool_limit=1)
        counting.label = str(count)
        for row in rows[:6]:
            assert await table.claim(row.seq) is not None
            await table.end([Ending(row.seq, State.COMPLETED, ran=True)])
        reads.append(counting.read[str(count)])
    assert reads[1] <= 1.5 * reads[0] + 20


async def test_a_name_that_is_used_very_often_is_looked_up_in_bounded_time(counting: CountingDatabase):
    """Of earlier futures with it, only the last ones are looked at."""
    table = FuturesTable(counting, "A")
    await counting.fetch(_FILL, (LARGE,))
    await counting.fetch("ANALYZE futures")
    counting.label = "find"
    await table.find("local", [], ["name"])
    assert counting.read["find"] <= 5_000
    counting.label = "submit"
    await table.submit([new(name="name", namer="namer7")], ALL)
    assert counting.read["submit"] <= 20
