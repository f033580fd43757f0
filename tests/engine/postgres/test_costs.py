"""What a call costs is what `docs/scaling.md` says: transactions, rows, notifications."""

import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.job_manager import CHANNEL
from tests.support.cluster import cluster
from tests.support.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[3] / "docs" / "scaling.md").read_text()
CALLS = 20
TRANSACTIONS = {
    "submit": r"FROM submit_futures\(",
    "make ready": r"SELECT ready_futures_2\(",
    "claim": r"WITH changed AS \(\s*UPDATE futures f SET state = 'running'",
    "end": r"FROM end_futures_2\(",
    "remove the job": r"DELETE FROM procrastinate_jobs WHERE id = ANY",
    "mark as read": r"UPDATE futures SET read_at",
}


async def make_calls(url: str) -> None:
    """Make calls one by one at two replicas, each awaited and read at the other one."""
    async with cluster(url) as it:
        for number in range(CALLS):
            future = await it.submit(number % 2)
            await it.end(future)
            there = await it.seen(1 - number % 2, future.id)
            with anyio.fail_after(10):
                assert await it.replicas[1 - number % 2].engine.wait([there])
            it.replicas[1 - number % 2].engine.mark_read(there)
            await it.settle()


@asynccontextmanager
async def notifications(database: Database) -> AsyncGenerator[list[psycopg.Notify]]:
    """Collect what is notified."""
    received: list[psycopg.Notify] = []
    connection = await database.connect()
    try:
        for channel in (database.channel, CHANNEL):
            await connection.execute(f'LISTEN "{channel}"')  # pyright: ignore[reportArgumentType]
        yield received
        received += [each async for each in connection.notifies(timeout=0)]
    finally:
        await connection.close()


async def rows_changed(url: str) -> dict[str, tuple[int, int, int]]:
    """Return inserted, updated and deleted rows of each table. Each connection counts them until its end."""
    database = Database(url)
    connection = await database.connect()
    try:
        cursor = await connection.execute(
            "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables WHERE schemaname = %s",
            (database.schema,),
        )
        return {row[0]: (row[1], row[2], row[3]) for row in await cursor.fetchall()}
    finally:
        await connection.close()


def documented_rows() -> dict[str, tuple[int, ...]]:
    found = re.findall(r"^\| `(\w+)`[^|]*\| (\d) \| (\d) \| (\d) \|$", PAGE, re.M)
    return {table: tuple(map(int, numbers)) for table, *numbers in found}


@pytest.fixture(scope="module")
def logging_postgres() -> Any:
    """A server that logs its statements."""
    with postgres_server(settings={"log_statement": "all"}) as server:
        yield server


async def test_the_page_counts_what_a_call_costs(logging_postgres: PostgresServer, postgres: PostgresServer):
    """Rows by table, statements of each kind, and notifications, of calls that are made one by one."""
    url = logging_postgres.url("costs")
    async with cluster(url):
        pass  # creates the tables
    before = len((logging_postgres.folder / "log").read_text())
    async with notifications(Database(url)) as received:
        await make_calls(url)
    documented = documented_rows()
    assert len(documented) == 7

    with anyio.fail_after(30):
        while True:
            found = await rows_changed(url)
            # A scope has a row of its own.
            if all(tuple(n // CALLS for n in found[table]) == numbers for table, numbers in documented.items()):
                break
            await anyio.sleep(0.1)
    # No other table grows with calls.
    others = {table: sum(numbers) for table, numbers in found.items() if table not in documented}
    assert all(
        count < CALLS for table, count in others.items() if table not in ("replicas", "procrastinate_migrations")
    ), others

    log = (logging_postgres.folder / "log").read_text()[before:]
    for name, statement in TRANSACTIONS.items():
        assert f"| {name} |" in PAGE
        assert len(re.findall(statement, log)) == CALLS, name

    kinds = Counter(
        "job" if each.channel == CHANNEL else re.sub(r'.*"kind" ?: ?"(\w+)".*', r"\1", each.payload)
        for each in received
    )
    for of_replicas in ("left", "released"):
        kinds.pop(of_replicas, None)
    assert kinds == {"submitted": CALLS, "job": CALLS, "changed": 2 * CALLS}
    assert "A call notifies four times" in PAGE
    assert "7 rows inserted, 6 updated and 5 deleted" in PAGE
    assert [sum(column) for column in zip(*documented.values(), strict=True)] == [7, 6, 5]
