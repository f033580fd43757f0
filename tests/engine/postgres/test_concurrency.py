"""Many replicas at once: one order of submissions, and each future claimed, ended and adopted by one of them."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import pytest

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.records import FailureRecord
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.futures_table import Ending, FuturesTable
from asyncfc_mcp.engine.postgres.rows import Row
from asyncfc_mcp.errors import NameInUse
from tests.support.postgres_futures import ALL, make_ready, new, started, submit

pytestmark = pytest.mark.anyio


async def at_once(*works: Callable[[], Awaitable[None]]) -> None:
    """Run everything at the same time."""
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tg:
            for work in works:
                tg.start_soon(work)


async def test_nothing_appears_below_what_a_replica_knows(database: Database):
    """While four replicas submit, a fifth one asks for what is newer: it gets each future once, in order."""
    tables = [FuturesTable(database, f"R{number}") for number in range(4)]
    reader = FuturesTable(database, "reader")
    chance = random.Random(1)
    submitted: list[int] = []
    others_of: dict[FuturesTable, list[int]] = {}
    done = 0

    async def submitting(table: FuturesTable) -> None:
        nonlocal done
        known, mine, seen = 0, list[int](), list[int]()
        for _ in range(40):
            outcome = await table.submit([new() for _ in range(chance.randint(1, 3))], known)
            assert all(row.seq > known for row in outcome.others)
            seen += [row.seq for row in outcome.others]
            mine += [row.seq for row in outcome.rows if isinstance(row, Row)]
            known = outcome.last
        submitted.extend(mine)
        others_of[table] = sorted({*seen, *mine})
        done += 1

    async def reading() -> None:
        known, seen = 0, list[int]()
        while True:
            finished = done == len(tables)
            rows, last = await reader.newer(known)
            seen += [row.seq for row in rows]
            assert last >= known
            assert not rows or rows[-1].seq <= last
            known = last
            if finished:
                break
        assert seen == sorted(submitted), "each once, in order"

    await at_once(reading, *(lambda table=table: submitting(table) for table in tables))
    for seen in others_of.values():
        assert seen == [seq for seq in sorted(submitted) if seq <= seen[-1]], "no gaps up to what it knows"


async def test_ids_of_one_scope_are_given_in_order_and_without_gaps(table: FuturesTable, other: FuturesTable):
    """By concurrent replicas, refusals of names included."""
    rows: list[Row] = []

    async def submitting(table: FuturesTable) -> None:
        for _ in range(30):
            outcome = await table.submit([new(name="n", namer="x"), new(), new(scope="b"), new()], ALL)
            rows.extend(row for row in outcome.rows if isinstance(row, Row) and row.record.scope == "local")

    await at_once(*(lambda table=table: submitting(table) for table in (table, other, table, other)))
    rows.sort(key=lambda row: row.seq)
    assert [row.record.id for row in rows] == [f"f{number}" for number in range(1, len(rows) + 1)]
    assert len(rows) == 241
    assert await table.last_number("local") == 241
    assert await table.last_number("b") == 120


async def test_a_name_is_given_once_at_a_time(table: FuturesTable, other: FuturesTable):
    """Of concurrent submissions with one name, one is accepted until its future ends."""
    holders = 0

    async def naming(table: FuturesTable) -> None:
        nonlocal holders
        for _ in range(20):
            (outcome,) = (await table.submit([new(name="n", namer="x")], ALL)).rows
            if isinstance(outcome, NameInUse):
                continue
            holders += 1
            assert holders == 1
            assert isinstance(outcome, Row)
            await table.rows([outcome.seq])
            holders -= 1
            assert await table.end([Ending(outcome.seq, State.CANCELLED, ran=False)]) == [True]

    await at_once(*(lambda table=table: naming(table) for table in (table, other, table, other)))


async def test_a_call_is_claimed_once(database: Database, table: FuturesTable):
    """By one of many replicas that all have a job for it, or by none if it was cancelled before."""
    rows = await submit(table, *(new() for _ in range(50)))
    await make_ready(table, rows)
    tables = [FuturesTable(database, f"R{number}") for number in range(5)]
    claims: Counter[int] = Counter()
    cancelled: set[int] = set()

    async def claiming(table: FuturesTable) -> None:
        for row in random.sample(rows, len(rows)):
            if (claimed := await table.claim(row.seq)) is not None:
                assert claimed.record.call == row.record.call or claimed.record.call is not None
                claims[row.seq] += 1

    async def cancelling() -> None:
        for row in rows[::5]:
            if await table.end([Ending(row.seq, State.CANCELLED, ran=False)]) == [True]:
                cancelled.add(row.seq)

    await at_once(cancelling, *(lambda table=table: claiming(table) for table in tables))
    assert set(claims.values()) == {1}
    assert set(claims) == {row.seq for row in rows} - cancelled


async def test_an_end_is_written_once(table: FuturesTable, other: FuturesTable):
    """By the replica that runs the call, or by the one that believes that replica to be dead."""
    rows = await started(table, *(new() for _ in range(40)))
    ends: Counter[int] = Counter()

    async def ending() -> None:
        for start in range(0, len(rows), 4):
            some = rows[start : start + 4]
            written = await table.end([Ending(row.seq, State.COMPLETED, ran=True, result=b"{}") for row in some])
            ends.update(row.seq for row, done in zip(some, written, strict=True) if done)

    async def interrupting() -> None:
        for row in reversed(rows):
            if await other.interrupt(row, FailureRecord("interrupted", "detail")):
                ends[row.seq] += 1

    await at_once(ending, interrupting)
    assert ends == Counter(row.seq for row in rows)


async def test_a_dead_replicas_futures_are_adopted_once(database: Database, table: FuturesTable):
    """All of them, by one of several replicas; the calls that it ran are set back or interrupted once."""
    waiting = await submit(table, *(new() for _ in range(30)))
    running = await started(table, *(new() for _ in range(10)))
    survivors = [FuturesTable(database, f"R{number}") for number in range(4)]
    (kept,) = await submit(survivors[0], new())
    adopted: Counter[int] = Counter()
    treated: Counter[int] = Counter()

    async def adopting(table: FuturesTable) -> None:
        rows = await table.adopt(["A", "Z"])
        assert [row.seq for row in rows] == sorted(row.seq for row in rows)
        assert all(row.record.call is not None for row in rows)
        adopted.update(row.seq for row in rows)
        for row in await table.orphans(["A"]):
            assert row.record.call is not None
            if row.seq % 2:
                done = await table.requeue(row)
            else:
                done = await table.interrupt(row, FailureRecord("interrupted", "detail"))
            treated[row.seq] += done

    await at_once(*(lambda table=table: adopting(table) for table in survivors))
    assert adopted == Counter(row.seq for row in [*waiting, *running])
    assert treated == Counter(row.seq for row in running)
    assert (await table.rows([kept.seq]))[kept.seq].owner == "R0"
    again = (await table.rows([row.seq for row in running])).values()
    assert {(row.seq % 2, row.record.state, row.worker) for row in again} == {
        (1, State.WAITING, None),
        (0, State.FAILED, "A"),
    }


async def test_released_futures_are_adopted_without_a_death(table: FuturesTable, other: FuturesTable):
    """Unfinished ones only, and only those of the replica that releases them."""
    rows = await submit(table, new(), new())
    await table.end([Ending(rows[0].seq, State.CANCELLED, ran=False)])
    await submit(other, new())
    await table.release()
    assert [row.seq for row in await other.adopt([])] == [rows[1].seq]
    assert await other.adopt([]) == []


async def test_changes_of_the_same_futures_do_not_wait_for_each_other_forever(table: FuturesTable, other: FuturesTable):
    """Batches in any order, over two servers with limits: a deadlock would take a second each."""
    chance = random.Random(5)
    rows = await submit(table, *(new(server=chance.choice("xy"), tool=chance.choice("ab")) for _ in range(60)))

    def shuffled() -> list[Row]:
        return chance.sample(rows, 20)

    async def readying(table: FuturesTable) -> None:
        for _ in range(10):
            await make_ready(table, shuffled(), server_limit=5, tool_limit=3)

    async def cancelling(table: FuturesTable) -> None:
        for _ in range(10):
            await table.end([Ending(row.seq, State.CANCELLED, ran=False) for row in shuffled()[:4]])

    async def running(table: FuturesTable) -> None:
        for _ in range(10):
            some = shuffled()
            for row in some:
                await table.claim(row.seq)
            await table.end([Ending(row.seq, State.COMPLETED, ran=True) for row in some])

    async def adopting(table: FuturesTable) -> None:
        for _ in range(10):
            await table.adopt(["A", "B"])
            await table.mark_read([row.seq for row in shuffled()])
            await table.release()

    works = (readying, cancelling, running, adopting)
    await at_once(*(lambda work=work, table=each: work(table) for work in works for each in (table, other)))
