"""Connections that break and databases that restart: every change is made, and none twice."""

import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.records import FailureRecord
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.futures_table import Ending, FuturesTable
from asyncfc_mcp.engine.postgres.rows import Row
from asyncfc_mcp.engine.postgres.schema import migrate
from tests.support.lossy_proxy import Fate, LossyProxy, lossy_proxy
from tests.support.postgres import PostgresServer
from tests.support.postgres_futures import ALL, jobs, make_ready, new, started, submit

pytestmark = pytest.mark.anyio

FAILURE = FailureRecord("text", "detail")


@asynccontextmanager
async def replicas(url: str, count: int) -> AsyncGenerator[list[FuturesTable]]:
    """Open a database for each of several replicas."""
    databases = [Database(url) for _ in range(count)]
    async with anyio.create_task_group() as tg:
        done = anyio.Event()

        async def hold(database: Database, *, task_status: anyio.abc.TaskStatus[None]) -> None:
            async with database.open():
                task_status.started()
                await done.wait()

        for database in databases:
            await tg.start(hold, database)
        yield [FuturesTable(database, f"R{number}") for number, database in enumerate(databases)]
        done.set()


@pytest.fixture
async def proxy(postgres: PostgresServer, anyio_backend: str) -> AsyncGenerator[LossyProxy]:
    """A proxy before the server of all tests."""
    async with lossy_proxy(postgres.port) as proxy:
        yield proxy


async def through(proxy: LossyProxy, postgres: PostgresServer, url: str) -> str:
    """Return the URL of a database with all tables, through a proxy."""
    await migrate(Database(url))
    return url.replace(f":{postgres.port}/", f":{proxy.port}/")


async def test_nothing_happens_twice_when_answers_are_lost(
    proxy: LossyProxy, postgres: PostgresServer, postgres_url: str
):
    """Three replicas whose connections break at random: each future has one place in the order, one job, one claim and
    one end."""
    chance = random.Random(7)
    count = 60
    url = await through(proxy, postgres, postgres_url)
    rows: list[Row] = []
    claims: Counter[int] = Counter()
    ends: Counter[int] = Counter()

    async def live(table: FuturesTable, others: list[FuturesTable]) -> None:
        for _ in range(count // 3):
            submitted = await table.submit([new(), new(name="n")] if chance.random() < 0.5 else [new()], ALL)
            mine = [row for row in submitted.rows if isinstance(row, Row)]
            rows.extend(mine)
            await make_ready(table, mine, server_limit=chance.choice([None, 1_000]))
            for row in mine:
                async with anyio.create_task_group() as tg:
                    for each in [table, *others]:
                        tg.start_soon(run, each, row.seq)

    async def run(table: FuturesTable, seq: int) -> None:
        if await table.claim(seq) is not None:
            claims[seq] += 1
            ending = Ending(seq, State.COMPLETED, ran=True, result=b"{}")
            ends[seq] += sum(await table.end([ending]))

    async with replicas(url, 3) as tables:
        proxy.fate = lambda: chance.choices(list(Fate), [0.85, 0.05, 0.1])[0]
        async with anyio.create_task_group() as tg:
            for table in tables:
                tg.start_soon(live, table, [each for each in tables if each is not table])
        proxy.fate = lambda: Fate.DELIVERED
        seqs = sorted(row.seq for row in rows)
        assert claims == ends == Counter(seqs)
        assert await tables[0].newer(0) == ([], seqs[-1])
        assert sorted(row.record.id for row in rows) == sorted(f"f{number}" for number in range(1, len(rows) + 1))
        assert set(await tables[0].results(seqs)) == set(seqs)
        assert sorted(await jobs(tables[0]._database)) == seqs
    assert proxy.lost > 50


async def test_each_change_is_recognised_by_its_repetition(
    proxy: LossyProxy, postgres: PostgresServer, postgres_url: str
):
    """The answer to each change is lost once, after it was committed; what it returns is as if it were not."""
    url = await through(proxy, postgres, postgres_url)

    def lose_one() -> None:
        fates = iter([Fate.ANSWER_LOST])
        proxy.fate = lambda: next(fates, Fate.DELIVERED)

    async with replicas(url, 2) as (table, other):
        lose_one()
        (row,) = await submit(table, new())
        lose_one()
        await make_ready(table, [row])
        lose_one()
        claimed = await table.claim(row.seq)
        assert claimed is not None
        assert claimed.record.call is not None
        lose_one()
        assert await table.update_running(row.seq, {"state": State.INPUT_REQUIRED})
        lose_one()
        assert [each.seq for each in await other.adopt(["R0"])] == [row.seq]
        lose_one()
        assert await other.requeue(claimed)
        assert not await table.requeue(claimed)
        await make_ready(other, [row])
        claimed = await table.claim(row.seq)
        assert claimed is not None
        lose_one()
        assert await other.interrupt(claimed, FAILURE)
        assert not await table.interrupt(claimed, FAILURE)
        (row,) = await started(table, new())
        lose_one()
        assert await table.end([Ending(row.seq, State.COMPLETED, ran=True, result=b"{}")]) == [True]
    assert proxy.lost == 8


@pytest.mark.parametrize("immediate", [False, True])
async def test_a_restart_of_the_database_loses_and_repeats_nothing(own_postgres: PostgresServer, immediate: bool):
    """With two replicas at work, and a crash of the database as well as an orderly stop."""
    url = own_postgres.url(own_postgres.fresh_schema())
    await migrate(Database(url))
    finished: Counter[int] = Counter()
    stopped = anyio.Event()
    progress = anyio.Event()

    async def live(table: FuturesTable) -> None:
        while not stopped.is_set():
            (row,) = await submit(table, new())
            await make_ready(table, [row])
            claimed = await table.claim(row.seq)
            assert claimed is not None
            finished[row.seq] += sum(await table.end([Ending(row.seq, State.COMPLETED, ran=True, result=b"{}")]))
            if len(finished) % 20 == 0:
                progress.set()

    async def some_progress() -> None:
        nonlocal progress
        progress = anyio.Event()
        with anyio.fail_after(60):
            await progress.wait()

    async with replicas(url, 2) as tables:
        async with anyio.create_task_group() as tg:
            for table in tables * 2:
                tg.start_soon(live, table)
            await some_progress()
            await anyio.to_thread.run_sync(partial(own_postgres.restart, immediate=immediate))
            await some_progress()
            stopped.set()
        rows = await tables[0].rows(range(1, max(finished) + 1))
        assert set(finished) == set(rows)
        assert set(finished.values()) == {1}
        assert all(row.record.state is State.COMPLETED for row in rows.values())
        numbers = sorted(int(row.record.id[1:]) for row in rows.values())
        assert numbers == list(range(1, len(numbers) + 1))
