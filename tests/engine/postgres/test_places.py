"""Places at servers and tools: limits hold over all replicas, in order of submission, and no place is left unused."""

import itertools
import random
from collections import Counter

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.records import FailureRecord
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.futures_table import Ending, FuturesTable
from asyncfc_mcp.engine.postgres.rows import Row
from tests.support.postgres_futures import jobs, make_ready, new, submit

pytestmark = pytest.mark.anyio


def end_of(seq: int, ran: bool = True) -> Ending:
    return Ending(seq, State.COMPLETED if ran else State.CANCELLED, ran=ran)


async def test_places_are_given_in_order_of_submission(table: FuturesTable, database: Database):
    """Not of readiness; each with a job in the same transaction."""
    first, second, third = await submit(table, new(), new(), new())
    await make_ready(table, [third], server_limit=1)
    await make_ready(table, [second, first], server_limit=1)
    assert await jobs(database) == [third.seq]
    assert await table.claim(first.seq) is None
    await table.claim(third.seq)
    await table.end([end_of(third.seq)])
    assert await jobs(database) == [third.seq, first.seq]
    await table.end([end_of(first.seq, ran=False)])
    assert await jobs(database) == [third.seq, first.seq, second.seq]


async def test_a_full_tool_does_not_keep_others_from_their_places(table: FuturesTable, database: Database):
    """Calls of other tools overtake those that wait for it, within the limit of the server."""
    slow = await submit(table, *(new(tool="slow") for _ in range(5)))
    others = await submit(table, new(tool="a"), new(tool="b"), new(tool="a"), new(tool="b"))
    await make_ready(table, slow, server_limit=3, tool_limit=1)
    assert await jobs(database) == [slow[0].seq]
    await make_ready(table, others, server_limit=3)
    assert await jobs(database) == [slow[0].seq, others[0].seq, others[1].seq]
    await table.claim(slow[0].seq)
    await table.end([end_of(slow[0].seq)])
    assert (await jobs(database))[3:] == [slow[1].seq]


async def test_a_call_that_is_made_ready_twice_has_one_job(table: FuturesTable, database: Database):
    """Whether it has a place, waits for one, or has ended."""
    rows = await submit(table, *(new() for _ in range(4)))
    unlimited = await submit(table, new(server="u"))
    for _ in range(3):
        await make_ready(table, rows, server_limit=1)
        await make_ready(table, unlimited)
    for row in [*rows, *unlimited]:
        assert await table.claim(row.seq) is not None
        await make_ready(table, [row])
        await table.end([end_of(row.seq)])
        await make_ready(table, [row])
    assert await jobs(database) == [rows[0].seq, unlimited[0].seq, *(row.seq for row in rows[1:])]
    assert await left(database, "s") == await left(database, "u") == []


async def test_a_requeued_call_leaves_its_place(table: FuturesTable, other: FuturesTable, database: Database):
    """The next one gets it, and the call itself gets another when it is ready again."""
    first, second = await submit(table, new(), new())
    await make_ready(table, [first, second], server_limit=1)
    claimed = await other.claim(first.seq)
    assert claimed is not None
    assert await table.requeue(claimed)
    assert await jobs(database) == [first.seq, second.seq]
    assert await other.claim(first.seq) is None, "an old job finds it without a place"
    await make_ready(table, [first], server_limit=1)
    await table.claim(second.seq)
    await table.end([end_of(second.seq)])
    assert (await jobs(database))[2:] == [first.seq]


async def test_the_end_of_a_call_at_a_dead_replica_frees_its_place(table: FuturesTable, other: FuturesTable):
    """Interrupted by another replica."""
    first, second = await submit(table, new(), new())
    await make_ready(table, [first, second], server_limit=1)
    claimed = await other.claim(first.seq)
    assert claimed is not None
    assert await table.end([Ending(first.seq, State.CANCELLED, ran=False)]) == [False]
    await table.interrupt(claimed, FailureRecord("interrupted", "detail"))
    assert await table.claim(second.seq) is not None


# --- between principals --------------------------------------------------------------------------------------------


def of(person: str) -> str:
    return f"person:{person}"


async def run_next(table: FuturesTable, database: Database, done: list[int]) -> int:
    """Run the first job that has not run; return its call."""
    seq = next(each for each in await jobs(database) if each not in done)
    assert await table.claim(seq) is not None
    await table.end([end_of(seq)])
    done.append(seq)
    return seq


async def test_one_principal_cannot_keep_all_places(table: FuturesTable, database: Database):
    """A share of those of the server, and of those of a tool; the only principal of an endpoint has all of them."""
    alice = await submit(table, *(new(scope=of("alice")) for _ in range(6)))
    await make_ready(table, alice, server_limit=4, share=0.5)
    assert await jobs(database) == [row.seq for row in alice[:2]]
    bob = await submit(table, *(new(scope=of("bob")) for _ in range(3)))
    await make_ready(table, bob, server_limit=4, share=0.5)
    assert await jobs(database) == [alice[0].seq, alice[1].seq, bob[0].seq]
    one = await submit(table, *(new(server="t", scope="token") for _ in range(6)))
    await make_ready(table, one, server_limit=4, share=0.5)
    assert (await jobs(database))[3:] == [row.seq for row in one[:4]]


async def test_places_that_become_free_go_to_principals_in_turn(table: FuturesTable, database: Database):
    """However many calls one of them has queued before; also where there is one place only."""
    alice = await submit(table, *(new(scope=of("alice")) for _ in range(8)))
    await make_ready(table, alice, server_limit=1, share=0.5)
    others = await submit(table, *(new(scope=of(who)) for who in ("bob", "carol", "bob")))
    await make_ready(table, others, server_limit=1, share=0.5)
    done: list[int] = []
    order = [await run_next(table, database, done) for _ in range(11)]
    names = {row.seq: row.record.scope.removeprefix("person:") for row in (*alice, *others)}
    assert [names[seq] for seq in order[:6]] == ["alice", "bob", "carol", "alice", "bob", "alice"]
    assert sorted(order) == [row.seq for row in (*alice, *others)]
    assert await left(database, "s") == []


async def test_a_full_tool_of_one_principal_does_not_keep_others_waiting(table: FuturesTable, database: Database):
    """Nor its calls of other tools, and a cancelled call takes no place."""
    slow = await submit(table, *(new(tool="slow", scope=of("alice")) for _ in range(4)))
    await make_ready(table, slow, server_limit=6, tool_limit=2, share=0.5)
    assert await jobs(database) == [slow[0].seq]
    quick = await submit(table, new(tool="quick", scope=of("alice")), new(tool="slow", scope=of("bob")))
    await table.end([end_of(slow[1].seq, ran=False)])
    await make_ready(table, quick[:1], server_limit=6, share=0.5)
    await make_ready(table, quick[1:], server_limit=6, tool_limit=2, share=0.5)
    assert await jobs(database) == [slow[0].seq, quick[0].seq, quick[1].seq]
    assert await table.claim(slow[0].seq) is not None
    await table.end([end_of(slow[0].seq)])
    assert (await jobs(database))[3:] == [slow[2].seq]


# --- against a model -----------------------------------------------------------------------------------------------

TOOLS = ("a", "b", "c")
LIMITS = st.sampled_from([1, 2, 3, None])
STEPS = st.lists(
    st.tuples(st.sampled_from(["ready", "ready", "run", "run", "cancel"]), st.integers(0, 11)), min_size=8, max_size=40
)
servers = (f"s{number}" for number in itertools.count())


class Model:
    """Places of one server, as they should be."""

    def __init__(self, tools: dict[int, str], server_limit: int | None, tool_limits: dict[str, int | None]) -> None:
        self.tools, self.server_limit, self.tool_limits = tools, server_limit, tool_limits
        self.queued: set[int] = set()
        self.placed: set[int] = set()
        self.jobs: list[int] = []

    def give(self) -> None:
        for seq in sorted(self.queued):
            taken = Counter(self.tools[each] for each in self.placed)
            limit = self.tool_limits[self.tools[seq]]
            if self.server_limit is not None and len(self.placed) >= self.server_limit:
                return
            if limit is None or taken[self.tools[seq]] < limit:
                self.queued.discard(seq)
                self.placed.add(seq)
                self.jobs.append(seq)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tools=st.lists(st.sampled_from(TOOLS), min_size=4, max_size=12),
    server_limit=LIMITS,
    tool_limits=st.fixed_dictionaries(dict.fromkeys(TOOLS, LIMITS)),
    steps=STEPS,
)
async def test_places_are_those_of_the_model(
    table: FuturesTable,
    database: Database,
    tools: list[str],
    server_limit: int | None,
    tool_limits: dict[str, int | None],
    steps: list[tuple[str, int]],
):
    """After each step: who has a place, and in which order places were given."""
    server = next(servers)
    await database.fetch("DELETE FROM procrastinate_jobs")
    rows = await submit(table, *(new(server=server, tool=tool) for tool in tools))
    model = Model({row.seq: row.record.tool for row in rows}, server_limit, tool_limits)
    ended: set[int] = set()
    claimed: set[int] = set()
    for kind, number in steps:
        row = rows[number % len(rows)]
        seq = row.seq
        if kind == "ready":  # with those of the same tool behind it
            some = [each for each in rows[number % len(rows) :] if each.record.tool == row.record.tool]
            await make_ready(table, some, server_limit, tool_limits[row.record.tool])
            model.queued |= {each.seq for each in some} - ended - model.placed
        elif kind == "run" and seq not in claimed:
            may = seq in model.placed
            assert (await table.claim(seq) is not None) == may
            claimed |= {seq} if may else set()
        else:
            may = seq not in ended and (seq in claimed) == (kind == "run")
            assert await table.end([end_of(seq, kind == "run")]) == [may]
            if may:
                ended.add(seq)
                model.queued.discard(seq)
                model.placed.discard(seq)
        model.give()
        assert await jobs(database) == model.jobs
    await table.end([end_of(row.seq, row.seq in claimed) for row in rows])
    assert await left(database, server) == []


async def left(database: Database, server: str) -> list[tuple[object, ...]]:
    """Return the places and waiting calls of a server."""
    return await database.fetch(
        "SELECT seq FROM places WHERE server = %s UNION ALL SELECT seq FROM queued WHERE server = %s", (server, server)
    )


# --- concurrently --------------------------------------------------------------------------------------------------


async def test_limits_hold_and_every_place_is_used_by_concurrent_replicas(
    table: FuturesTable, other: FuturesTable, database: Database
):
    """Calls of two servers are made ready, claimed, ended and cancelled by two replicas at once."""
    chance = random.Random(3)
    server_limits = {"x": 4, "y": 3}
    tool_limits = {"a": 1, "b": 2, "c": None}
    batch = [new(server=chance.choice("xy"), tool=chance.choice("abc")) for _ in range(240)]
    rows = await submit(table, *batch)
    of = {row.seq: (row.record.server, row.record.tool) for row in rows}
    running: Counter[str | tuple[str, str]] = Counter()
    done: set[int] = set()
    seen: set[int] = set()

    def entered(seq: int, by: int) -> None:
        server, tool = of[seq]
        running[server] += by
        running[server, tool] += by
        assert running[server] <= server_limits[server]
        limit = tool_limits[tool]
        assert limit is None or running[server, tool] <= limit

    async def ready(table: FuturesTable, mine: list[Row]) -> None:
        for start in range(0, len(mine), 7):
            by_limits: dict[tuple[str, str], list[Row]] = {}
            for row in mine[start : start + 7]:
                by_limits.setdefault(of[row.seq], []).append(row)
            for (server, tool), some in by_limits.items():
                await make_ready(table, some, server_limits[server], tool_limits[tool])

    async def run(table: FuturesTable, seq: int) -> None:
        if await table.claim(seq) is None:
            return
        entered(seq, 1)
        await anyio.sleep(chance.random() / 200)
        entered(seq, -1)  # before the end is written, since the place is free as soon as it is
        assert await table.end([end_of(seq)]) == [True]
        done.add(seq)

    async def cancel(mine: list[Row]) -> None:
        for row in mine:
            if await table.end([end_of(row.seq, ran=False)]) == [True]:
                done.add(row.seq)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tg:
            tg.start_soon(ready, table, rows[::2])
            tg.start_soon(ready, other, rows[1::2])
            tg.start_soon(cancel, chance.sample(rows, 40))
            while len(done) < len(rows):
                for seq in set(await jobs(database)) - seen:
                    seen.add(seq)
                    tg.start_soon(run, chance.choice([table, other]), seq)
    assert await left(database, "x") == await left(database, "y") == []
    found = await jobs(database)
    assert len(found) == len(set(found))
