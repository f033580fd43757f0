"""Several replicas over one real PostgreSQL: submitted at one, awaited, ordered, cancelled and answered at any.

The life of a future on one replica is the contract suite's (`tests/engine/test_contract*.py`).
"""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import pytest

from asyncfc_mcp.config.settings import Policy, Settings
from asyncfc_mcp.core.futures import Future, Result, State
from asyncfc_mcp.core.identity import LOCAL, CallerIdentity
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.jobs import ANY
from asyncfc_mcp.engine.postgres.postgres_engine import PostgresEngine
from asyncfc_mcp.errors import NameInUse, TooManyFutures
from asyncfc_mcp.protocol import OnProgress, OnSent
from tests.engine.test_contract_observer import Seen
from tests.support.cluster import Cluster, cluster, replica
from tests.support.engines import Bench
from tests.support.parked_calls import ParkedCalls, failing, label, text
from tests.support.postgres import PostgresServer
from tests.support.virtual_time import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_future_is_awaited_at_another_replica(postgres_url: str):
    """Its state and its result are the same there, whichever replica ran the call."""
    async with cluster(postgres_url) as it:
        first = await it.submit(0, tool="search", arguments={"q": 1})
        there = await it.seen(1, first.id)
        assert there.state in (State.WAITING, State.RUNNING)
        async with anyio.create_task_group() as tg:
            tg.start_soon(it.end, first, text("found"))
            with anyio.fail_after(10):
                assert await it.replicas[1].engine.wait([there])
                assert await it.replicas[0].engine.wait([first])
        assert first.result == there.result == text("found")
        assert first.state is there.state is State.COMPLETED


async def test_the_start_of_a_call_is_reported_once(postgres_url: str):
    """By the replica that makes it, also where another one has submitted it; and by others at most once."""
    async with cluster(postgres_url) as it:
        seen = [Seen(bench) for bench in it.replicas]
        made: dict[str, int] = {}
        while len(set(made.values())) < 2:
            future = await it.submit(0)
            made[future.id] = (await it.parked(future))[0]
            await it.end(future)
            assert len(made) < 100, "one replica makes all calls"
        await it.settle()
        for number, each in enumerate(seen):
            started = Counter(future.id for future, report in each.reports if report == "starting")
            assert set(started.values()) == {1}
            assert {future_id for future_id, maker in made.items() if maker == number} <= set(started)


async def test_conflicting_calls_of_two_replicas_run_in_the_order_of_submission(postgres_url: str):
    """A write that was submitted later waits for the earlier one, and other calls do not."""
    async with cluster(postgres_url) as it:
        first = await it.submit(0, writes="x")
        second = await it.submit(1, writes="x")
        third = await it.submit(0, reads="x")
        other = await it.submit(1, writes="y")
        await it.settle()
        assert it.running == sorted([first.id, other.id])
        await it.end(first)
        await it.parked(second)
        await it.settle()
        assert it.running == sorted([second.id, other.id])
        await it.end(second, failing("no"))
        await it.parked(third)
        for each in (third, other):
            await it.end(each)
        assert await it.replicas[0].engine.wait([third, first])
        assert await it.replicas[1].engine.wait([other, second])


async def test_a_reference_takes_the_value_of_a_future_of_another_replica(postgres_url: str):
    """The dependent call starts when the other one has completed, with its value in place."""
    async with cluster(postgres_url) as it:
        first = await it.submit(0, arguments={"q": 1})
        needed = await it.seen(1, first.id)
        second = await it.submit(1, needs=[needed], arguments={"v": f"${first.id}"})
        await it.settle()
        assert it.running == [first.id]
        await it.end(first, text("value"))
        _, parked = await it.parked(second)
        assert parked.arguments == {"v": "value"}
        await it.end(second)
        assert await it.replicas[1].engine.wait([second])


async def test_a_failed_dependency_fails_its_dependents_at_other_replicas(postgres_url: str):
    """They are never sent, and the reason is the same everywhere."""
    async with cluster(postgres_url) as it:
        first = await it.submit(0, arguments={})
        needed = await it.seen(1, first.id)
        second = await it.submit(1, needs=[needed])
        await it.end(first, failing("no"))
        with anyio.fail_after(10):
            await it.replicas[1].engine.wait([second])
        assert second.state is State.FAILED
        there = await it.seen(0, second.id)
        with anyio.fail_after(10):
            await it.replicas[0].engine.wait([there])
        assert there.failure is not None
        assert str(there.failure) == str(second.failure)
        assert there.cause == second.cause == first.id
        assert second.id not in [each for bench in it.replicas for each in bench.calls.started]


@pytest.mark.parametrize("runs", [False, True])
async def test_a_call_is_cancelled_from_another_replica(postgres_url: str, runs: bool):
    """One that has not started is never sent; the cancellation of a running one reaches the server."""
    async with cluster(postgres_url) as it:
        before = await it.submit(0, writes="x")
        await it.parked(before)
        future = await it.submit(0, writes="x")
        target = before if runs else future
        there = await it.seen(1, target.id)
        await it.replicas[1].engine.cancel(there)
        with anyio.fail_after(10):
            await it.replicas[1].engine.wait([there])
            await it.replicas[0].engine.wait([target])
        assert target.state is there.state is State.CANCELLED
        await it.settle()
        cancelled = [each for bench in it.replicas for each in bench.calls.cancelled]
        assert cancelled == ([before.id] if runs else [])
        await it.end(future if runs else before)
        assert await it.replicas[0].engine.wait([before, future])


async def test_limits_hold_over_all_replicas(postgres_url: str):
    """`max_concurrency` counts calls wherever they run, and the next one in order gets a place that is free."""
    async with cluster(postgres_url, limits={"s": 2}) as it:
        futures: list[Any] = []
        for number in range(6):
            futures.append(await it.submit(number % 2, arguments={"n": number}))
            await it.settle()  # it is queued for a place after it was submitted, by its own replica
        assert it.running == sorted(each.id for each in futures[:2])
        for number, each in enumerate(futures):
            await it.end(each)
            if number + 2 < len(futures):
                await it.parked(futures[number + 2])
                await it.settle()
                assert len(it.running) == 2
        for bench, own in zip(it.replicas, (futures[::2], futures[1::2]), strict=True):
            assert await bench.engine.wait(own)


async def test_a_name_is_one_on_all_replicas(postgres_url: str):
    """A caller that is the same everywhere finds its name, and cannot take it twice while its call runs."""
    async with cluster(postgres_url) as it:
        callers = [CallerIdentity("h"), CallerIdentity("h")]
        for each in callers:
            each.token = "key:h/conversation"
        first = await it.submit(0, name="page", namer=callers[0], client=callers[0])
        assert (await it.seen(1, "page", callers[1])).id == first.id
        with pytest.raises(NameInUse):
            await it.submit(1, name="page", namer=callers[1], client=callers[1])
        await it.end(first, text("one"))
        await it.replicas[0].engine.wait([first])
        again = await it.submit(1, name="page", namer=callers[1], client=callers[1])
        assert (await it.seen(0, "page", callers[0])).id == again.id
        await it.end(again)
        await it.replicas[1].engine.wait([again])


async def test_a_name_is_waited_for_that_another_replica_is_about_to_take(postgres_url: str):
    """A request that names it finds it as soon as the call is submitted elsewhere."""
    async with cluster(postgres_url, forward_wait_ms=10_000) as it:
        callers = [CallerIdentity("h"), CallerIdentity("h")]
        for each in callers:
            each.token = "key:h/conversation"
        found: list[str] = []

        async def get() -> None:
            [future] = await it.replicas[1].engine.get(LOCAL, ["late"], callers[1])
            found.append(future.id)

        async with anyio.create_task_group() as tg:
            tg.start_soon(get)
            await it.settle()
            assert not found
            future = await it.submit(0, name="late", namer=callers[0], client=callers[0])
        assert found == [future.id]
        await it.end(future)
        await it.replicas[0].engine.wait([future])


async def test_lists_show_the_futures_of_all_replicas(postgres_url: str):
    """Newest first, with their states, whichever replica has them."""
    async with cluster(postgres_url) as it:
        futures = [await it.submit(number % 2, arguments={}) for number in range(4)]
        await it.end(futures[1])
        await it.replicas[1].engine.wait([futures[1]])
        for bench in it.replicas:
            listed = list(await bench.engine.list_futures(LOCAL))
            assert [each.id for each in listed] == ["f4", "f3", "f2", "f1"]
            assert listed[2].done
        for each in (0, 2, 3):
            await it.end(futures[each])
        await it.replicas[0].engine.wait(futures[::2])
        await it.replicas[1].engine.wait(futures[1::2])


async def test_a_question_is_answered_at_another_replica(postgres_url: str):
    """The server gets the answer, and the future goes on everywhere."""
    async with cluster(postgres_url) as it:
        capabilities = {"elicitation": {}}
        future = await it.submit(0, arguments={}, capabilities=capabilities)
        at, parked = await it.parked(future)
        answers: list[object] = []

        async def ask() -> None:
            params = {"message": "which one?", "requestedSchema": {"type": "object", "properties": {}}}
            answers.append(await it.replicas[at].engine.ask([parked.call], "elicitation/create", params))

        async with anyio.create_task_group() as tg:
            tg.start_soon(ask)
            other = it.replicas[1 - at].engine
            there = await it.seen(1 - at, future.id)
            await until(lambda: there.questions)
            assert there.state is State.INPUT_REQUIRED
            with other.claiming(None, capabilities, CallerIdentity()) as take:
                [(_, question)] = take([there])
                assert question.params["message"] == "which one?"
                assert (await other.question(question.id)) is question
                await other.answer(question, {"action": "accept", "content": {"n": 1}})
                with anyio.fail_after(10):
                    await other.question_over(question)
        assert answers == [{"action": "accept", "content": {"n": 1}}]
        await until(lambda: there.state is not State.INPUT_REQUIRED)
        await it.end(future)
        assert await it.replicas[0].engine.wait([future])
        assert await other.wait([there])


async def test_calls_that_are_being_written_count(postgres_url: str):
    """A burst beyond `max_pending` is refused at once, though none of its calls is in the table yet."""
    async with cluster(postgres_url, size=1, max_pending=3) as it:
        taken: list[Future] = []
        refused: list[TooManyFutures] = []

        async def submit() -> None:
            try:
                taken.append(await it.submit(0, arguments={}))
            except TooManyFutures as exc:
                refused.append(exc)

        async with anyio.create_task_group() as tg:
            for _ in range(8):
                tg.start_soon(submit)
        assert (len(taken), len(refused)) == (3, 5)
        for each in taken:
            await it.end(each)
        assert await it.replicas[0].engine.wait(taken)


async def test_progress_is_seen_at_another_replica(postgres_url: str):
    """The last one, with its message; a request that waits there is told of it."""
    async with cluster(postgres_url) as it:
        future = await it.submit(0, arguments={})
        at, parked = await it.parked(future)
        there = await it.seen(1 - at, future.id)
        seen: list[object] = []
        there.watchers.append(lambda each: seen.append(each.progress))
        for step in range(1, 4):
            parked.call.on_progress(step, 3, f"step {step} \ud800")
        await until(lambda: there.progress == (3, 3, "step 3 \ud800"))
        assert seen
        await it.end(future)
        assert await it.replicas[1 - at].engine.wait([there])


async def test_private_calls_run_at_their_own_replica(postgres_url: str):
    """With `journal: false` neither arguments nor results are in the database, and other replicas say so."""
    async with cluster(postgres_url) as it:
        policy = Policy(journal=False)
        future = await it.submit(1, arguments={"secret": "hunter2"}, policy=policy)
        at, parked = await it.parked(future)
        assert (at, parked.arguments) == (1, {"secret": "hunter2"})
        parked.end(text("hunter3"))
        assert await it.replicas[1].engine.wait([future])
        assert future.result == text("hunter3")
        there = await it.seen(0, future.id)
        assert there.done
        assert there.result is not None
        assert "was not written" in there.result["content"][0]["text"]
        database = it.replicas[0].engine._database
        for table in ("futures", "calls", "results", "procrastinate_jobs"):
            rows = await database.fetch(f"SELECT t::text FROM {table} AS t")
            assert "hunter" not in str(rows)


async def test_large_and_odd_results_are_the_same_everywhere(postgres_url: str):
    """5 MB, NUL, lone surrogates and big integers pass unchanged, as arguments and as results."""
    odd = {
        "content": [{"type": "text", "text": "\0\ud800 ok"}],
        "structuredContent": {"n": 10**30, "s": "x" * 5_000_000},
    }
    async with cluster(postgres_url) as it:
        future = await it.submit(0, arguments={"a": "\0\ud800", "n": 10**30})
        _, parked = await it.parked(future)
        assert parked.arguments == {"a": "\0\ud800", "n": 10**30}
        parked.end(odd)
        assert await it.replicas[0].engine.wait([future])
        there = await it.seen(1, future.id)
        await it.replicas[1].engine.wait([there])
        assert there.result == odd


async def test_what_a_replica_leaves_at_a_clean_end_goes_on_elsewhere(postgres_url: str):
    """Calls that waited start at another replica, in their order; one that ran is interrupted and never sent again."""
    async with replica(postgres_url, Settings(), {}) as staying:
        async with replica(postgres_url, Settings(), {}) as leaving:
            it = Cluster([leaving, staying])
            staying.engine._jobs.withdraw(ANY)
            running = await it.submit(0, writes="x")
            assert (await it.parked(running))[0] == 0
            needed = await it.submit(0, arguments={})
            await it.parked(needed)
            waiting = [await it.submit(0, writes="x"), await it.submit(0, writes="x", needs=[needed])]
            leaving.calls.running[needed.id].end(text("value"))
            assert await leaving.engine.wait([needed])
            there = [await it.seen(1, each.id) for each in (running, *waiting)]
            staying.engine._jobs.serve(ANY)
        it = Cluster([staying])
        with anyio.fail_after(10):
            await staying.engine.wait(there[:1])
        assert "may or may not have taken effect" in str(there[0].failure)
        await it.end(there[1])
        _, parked = await it.parked(there[2])
        assert parked.arguments == {needed.id: "value"}
        await it.end(there[2])
        assert await staying.engine.wait(there)
        assert staying.calls.started == [each.id for each in there[1:]]


# --- many rounds ----------------------------------------------------------------------------------------------------


class Immediate(ParkedCalls):
    """An executor whose calls end by themselves, after no time or very little."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random
        self.made: Counter[str] = Counter()

    async def execute(self, call: Call, arguments: Any, on_progress: OnProgress, on_sent: OnSent) -> Result:
        on_sent()
        self.made[label(call.future)] += 1
        for _ in range(self._random.randrange(4)):
            await anyio.lowlevel.checkpoint()
        if self._random.random() < 0.3:
            await anyio.sleep(self._random.random() * 0.01)
        return text(str(arguments["n"]))


@asynccontextmanager
async def immediate(url: str, seed: int) -> AsyncGenerator[list[tuple[PostgresEngine, Immediate]]]:
    """Run two replicas whose calls end by themselves."""
    async with AsyncExitStack() as stack:
        replicas: list[tuple[PostgresEngine, Immediate]] = []
        for number in range(2):
            engine, calls = PostgresEngine(Settings(), {}, Database(url)), Immediate(Random(seed + number))
            await stack.enter_async_context(engine.open(calls))
            replicas.append((engine, calls))
        yield replicas


async def rounds(
    replicas: Sequence[tuple[PostgresEngine, Immediate]], count: int, random: Random, at_once: int = 16
) -> None:
    """Submit calls at one replica and await each at another at some moment around its end."""
    submit = Bench(replicas[0][0], replicas[0][1]).submission
    left = iter(range(count))

    async def user() -> None:
        for number in left:
            at, to = random.choice([(0, 1), (1, 0), (0, 0), (1, 1)])
            path = random.choice(["", f"x{number % 5}"])
            future = await replicas[at][0].submit(submit(writes=path, arguments={"n": number}))
            for _ in range(random.randrange(6)):
                await anyio.lowlevel.checkpoint()
            if random.random() < 0.3:
                await anyio.sleep(random.random() * 0.02)
            there = await replicas[to][0].find(LOCAL, future.id)
            assert there is not None
            with anyio.fail_after(30):
                assert await replicas[to][0].wait([there])
                assert await replicas[at][0].wait([future])
            assert there.result == future.result == text(str(number))

    async with anyio.create_task_group() as tg:
        for _ in range(at_once):
            tg.start_soon(user)


@pytest.mark.parametrize(
    "count", [400, pytest.param(10_000, marks=[pytest.mark.attacks_long, pytest.mark.timeout(900)])]
)
async def test_no_wake_up_is_lost(postgres_url: str, count: int):
    """However a wait and an end at another replica overlap, the wait returns; and every call is made once."""
    async with immediate(postgres_url, 1) as replicas:
        await rounds(replicas, count, Random(2))
        made = sum((calls.made for _, calls in replicas), Counter[str]())
        assert len(made) == count
        assert set(made.values()) == {1}


async def test_a_restart_of_the_database_under_load_loses_nothing(own_postgres: PostgresServer):
    """Every call that was taken ends with its result, and none is made twice."""
    async with immediate(own_postgres.url("restarted"), 3) as replicas:
        restarts = 0

        async def restart() -> None:
            nonlocal restarts
            for immediate_ in (False, True):
                await anyio.sleep(0.5)
                await anyio.to_thread.run_sync(partial(own_postgres.restart, immediate=immediate_))
                restarts += 1

        async with anyio.create_task_group() as tg:
            tg.start_soon(restart)
            number = 0
            while restarts < 2:
                await rounds(replicas, 40, Random(number))
                number += 1
        made = sum((calls.made for _, calls in replicas), Counter[str]())
        assert set(made.values()) == {1}
