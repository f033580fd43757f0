"""Replicas that are taken for dead: with all that they have, while they run calls, and although they live.

One replica takes over from another that goes on as if nothing had happened, which is what a suspended process does when
it comes back. That a silent replica is found is `test_replicas`' promise.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from random import Random, SystemRandom
from typing import Any

import anyio
import pytest

from asyncfc_mcp.config.settings import Policy, Settings
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import CallerIdentity
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.executor_api import ToolRules
from asyncfc_mcp.engine.postgres.futures_table import Ending
from asyncfc_mcp.engine.postgres.jobs import ANY
from asyncfc_mcp.errors import CallFailed, RpcError
from tests.support.cluster import PATIENCE_S, Cluster, cluster, replica
from tests.support.parked_calls import failing, text
from tests.support.virtual_time import until

pytestmark = pytest.mark.anyio
STOP = Policy(on_failure="stop")
AGAIN = Policy(rerun_interrupted=True)
SEED = int(os.environ.get("ASYNCFC_SEED", "0")) or SystemRandom().randrange(1 << 32)
"""Printed by the test that uses chance; set the variable to repeat a run."""


async def take_over(it: Cluster, by: int, *of: int) -> None:
    """Have a replica take others for dead."""
    await it.replicas[by].engine._take_over([it.replicas[each].engine._replica for each in of])


def serve_only(it: Cluster, at: int) -> None:
    """Have all calls made at one replica from now on."""
    for number, bench in enumerate(it.replicas):
        (bench.engine._jobs.serve if number == at else bench.engine._jobs.withdraw)(ANY)


def set_rules(it: Cluster, policy: Policy) -> None:
    for bench in it.replicas:
        bench.calls.rules["s", "tool"] = ToolRules(policy, None, None, None)


async def ended(it: Cluster, *futures: Future) -> None:
    """Return once all replicas say the same of these futures, and that they have ended."""
    with anyio.fail_after(PATIENCE_S):
        seen = [[await it.seen(number, each.id) for each in futures] for number in range(len(it.replicas))]
        for bench, there in zip(it.replicas, seen, strict=True):
            await bench.engine.wait([*there, *futures])
        for there in seen:
            assert [each.state for each in there] == [each.state for each in futures]
            for mine, theirs in zip(there, futures, strict=True):
                assert str(mine.failure) == str(theirs.failure)
                assert mine.result == theirs.result


def cancelled(it: Cluster) -> list[str]:
    return [each for bench in it.replicas for each in bench.calls.cancelled]


async def test_an_end_after_a_takeover_does_not_count(postgres_url: str):
    """The call is interrupted everywhere, and its server is told to stop."""
    async with cluster(postgres_url) as it:
        serve_only(it, 0)
        first, second = await it.submit(0, writes="x"), await it.submit(0, writes="x")
        await it.parked(first)
        await take_over(it, 1, 0)
        await ended(it, first)
        assert "may or may not have taken effect" in str(first.failure)
        assert cancelled(it) == [first.id]
        await it.end(second)
        await ended(it, first, second)
        assert second.state is State.COMPLETED


@pytest.mark.parametrize("owner", [0, 1])
@pytest.mark.parametrize("runs_at", [0, 1])
async def test_a_repeatable_call_is_made_again(postgres_url: str, owner: int, runs_at: int):
    """Whoever had submitted it, and whoever makes it again; the first run is given up and changes nothing."""
    async with cluster(postgres_url) as it:
        set_rules(it, AGAIN)
        serve_only(it, 0)
        future = await it.submit(owner, writes="x", repeatable=True, policy=AGAIN)
        behind = await it.submit(owner, writes="x")
        _, before = await it.parked(future)
        serve_only(it, runs_at)
        await take_over(it, 1, 0)
        with anyio.fail_after(PATIENCE_S):
            while True:
                at, parked = await it.parked(future)
                if parked is not before:
                    break
                await anyio.sleep(0.002)
        assert at == runs_at
        before.end(text("too late"))
        parked.end(text("again"))
        await ended(it, future)
        assert future.result == text("again")
        await it.end(behind)
        await ended(it, behind)


@pytest.mark.parametrize("round_", [False, True])
async def test_open_questions_of_a_dead_replica(postgres_url: str, round_: bool):
    """One that a server asks over its connection ends with its call. One of a round can be asked again: the call goes
    out again with the answer, and only then."""
    capabilities = {"elicitation": {}}
    params = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}}
    request: dict[str, Any] = {"method": "elicitation/create", "params": params}
    async with cluster(postgres_url) as it:
        for bench in it.replicas:
            bench.calls.engine = bench.engine  # type: ignore[attr-defined]
        serve_only(it, 0)
        future = await it.submit(0, writes="x", capabilities=capabilities)
        _, parked = await it.parked(future)
        engine = it.replicas[0].engine

        async def ask(call: Call) -> None:
            with suppress(RpcError, CallFailed):
                if round_:
                    await engine.answer_round(call, {"inputRequests": {"q": request}, "requestState": "s"})
                else:
                    await engine.ask([call], request["method"], params)

        there = await it.seen(1, future.id)
        async with anyio.create_task_group() as tg:
            tg.start_soon(ask, parked.call)
            await until(lambda: there.questions)
            await it.settle()
            serve_only(it, 1)
            await take_over(it, 1, 0)
            if not round_:
                await ended(it, future)
                assert "may or may not have taken effect" in str(there.failure)
                assert not there.questions
            else:
                await until(lambda: future.id not in it.replicas[0].calls.running)
                await until(lambda: there.questions)
                assert future.id not in it.running
                with it.replicas[1].engine.claiming(None, capabilities, CallerIdentity()) as take:
                    [(_, question)] = take([there])
                    await it.replicas[1].engine.answer(question, {"action": "decline"})
                at, again = await it.parked(future)
                assert at == 1
                again.end(text("answered"))
                await ended(it, future)
                assert there.result == text("answered")
            tg.cancel_scope.cancel()


@pytest.mark.parametrize("by", [0, 1])
async def test_a_call_that_is_cancelled_while_it_is_claimed_ends(postgres_url: str, by: int):
    """It is never sent, if it is cancelled where it is claimed; elsewhere it may be known too late for that."""
    async with cluster(postgres_url) as it:
        serve_only(it, 0)
        table = it.replicas[0].engine._table
        claim, claimed, go_on = table.claim, anyio.Event(), anyio.Event()

        async def slow(seq: int) -> Any:
            row = await claim(seq)
            claimed.set()
            await go_on.wait()
            return row

        table.claim = slow  # type: ignore[method-assign]
        future = await it.submit(0, arguments={})
        await claimed.wait()
        there = await it.seen(by, future.id)
        await it.replicas[by].engine.cancel(there)
        go_on.set()
        await ended(it, future)
        assert future.state is State.CANCELLED
        if by == 0:
            assert "never sent" in str(future.failure)
        assert not it.running


async def test_a_call_that_was_never_sent_stops_nothing(postgres_url: str):
    """A write is cancelled while it waits: those behind it run, at all replicas."""
    async with cluster(postgres_url) as it:
        futures = [await it.submit(number % 2, writes="x", policy=STOP) for number in range(4)]
        await it.parked(futures[0])
        await it.replicas[0].engine.cancel(await it.seen(0, futures[1].id))
        await ended(it, futures[1])
        for each in (futures[0], futures[2], futures[3]):
            await it.end(each)
        await ended(it, *futures)
        assert [each.state for each in futures] == [State.COMPLETED, State.CANCELLED, *[State.COMPLETED] * 2]


async def test_a_failure_stops_the_writes_of_all_replicas(postgres_url: str):
    """In the order in which they were submitted, with the same reason everywhere; reads go on."""
    async with cluster(postgres_url) as it:
        futures = [await it.submit(number % 2, writes="x", policy=STOP) for number in range(4)]
        read = await it.submit(1, reads="x")
        await it.end(futures[0], failing("no"))
        await it.end(read)
        await ended(it, *futures, read)
        assert [each.state for each in futures] == [State.FAILED, *[State.CANCELLED] * 3]
        assert {each.cause for each in futures[1:]} == {futures[0].id}


async def test_a_stop_that_a_dead_replica_has_not_written_is_kept(postgres_url: str):
    """The one that takes its calls over writes it; they are never sent."""
    async with cluster(postgres_url) as it:
        serve_only(it, 1)
        table = it.replicas[0].engine._table
        end = table.end

        async def dead(batch: Iterable[Ending]) -> Any:
            batch = list(batch)
            done = await end([each for each in batch if each.ran])
            if any(not each.ran for each in batch):  # they may come together with the end of the call that failed
                await anyio.sleep_forever()
            return done

        first = await it.submit(0, writes="x", policy=STOP)
        second = await it.submit(0, writes="x", policy=STOP)
        third = await it.submit(0, arguments={}, after=[second])
        await it.parked(first)
        table.end = dead  # type: ignore[method-assign]
        await it.end(first, failing("no"))
        with anyio.fail_after(PATIENCE_S):
            await it.replicas[1].engine.wait([await it.seen(1, first.id)])
        await take_over(it, 1, 0)
        await ended(it, second, third)
        assert (second.state, third.state) == (State.CANCELLED, State.FAILED)
        assert it.replicas[1].calls.started == [first.id]
        table.end = end  # type: ignore[method-assign]


async def test_places_of_dead_replicas_are_given_to_others(postgres_url: str):
    """In order of submission."""
    async with cluster(postgres_url, limits={"s": 1}) as it:
        serve_only(it, 0)
        futures = [await it.submit(number % 2, arguments={"n": number}) for number in range(3)]
        await it.parked(futures[0])
        serve_only(it, 1)
        await take_over(it, 1, 0)
        for each in futures[1:]:
            await it.end(each)
        await ended(it, *futures)


async def test_calls_without_an_owner_are_found_at_the_start(postgres_url: str):
    """The last replica of a cluster has left them; the next one that starts makes them."""
    async with cluster(postgres_url, size=1) as it:
        first, second = await it.submit(0, writes="x"), await it.submit(0, writes="x")
        await it.parked(first)
    async with replica(postgres_url, Settings(), {}) as bench:
        it = Cluster([bench])
        await it.end(await it.seen(0, second.id))
        await bench.engine.wait([await it.seen(0, second.id)])
        assert bench.calls.started == [second.id]


async def test_a_lost_job_is_made_again(postgres_url: str):
    """Whatever has removed it, the call is made."""
    async with cluster(postgres_url, replica_timeout_s=2) as it:
        for bench in it.replicas:
            bench.engine._jobs.withdraw(ANY)
        future = await it.submit(0, arguments={})
        database = it.replicas[0].engine._database
        with anyio.fail_after(PATIENCE_S):
            while not await database.fetch("DELETE FROM procrastinate_jobs RETURNING id"):  # noqa: ASYNC110
                await anyio.sleep(0.01)
        serve_only(it, 1)
        assert (await it.parked(future))[0] == 1
        await it.end(future)
        await ended(it, future)


@pytest.mark.parametrize(
    "steps", [120, pytest.param(4_000, marks=[pytest.mark.attacks_long, pytest.mark.timeout(900)])]
)
async def test_promises_hold_whoever_is_taken_for_dead(postgres_url: str, steps: int):
    """Random calls at three replicas, which take each other for dead all the time: no call is made twice, conflicting
    writes start in their order, all ends are the same everywhere, and everything ends."""
    print(f"ASYNCFC_SEED={SEED}")
    dice = Random(SEED)
    async with cluster(postgres_url, size=3, limits={"s": 4}) as it:
        set_rules(it, AGAIN)
        started: list[str] = []
        for bench in it.replicas:
            bench.calls.started = started
        futures: list[Future] = []
        repeatable: set[str] = set()
        paths: dict[str, str] = {}
        for _ in range(steps):
            at = dice.randrange(3)
            match dice.choice(["submit", "submit", "submit", "end", "end", "cancel", "take over", "pause"]):
                case "submit":
                    path = dice.choice(["", "x", "y", "x/a"])
                    more: dict[str, Any] = {}
                    if futures and dice.random() < 0.3:
                        before = await it.seen(at, dice.choice(futures[-10:]).id)
                        more = dice.choice([{"needs": [before]}, {"predecessors": [before]}])
                    again = dice.random() < 0.2
                    policy = Policy(on_failure=dice.choice(["stop", "continue"]), rerun_interrupted=True)
                    future = await it.submit(at, writes=path, repeatable=again, policy=policy, **more)
                    futures.append(future)
                    paths[future.id] = path
                    if again:
                        repeatable.add(future.id)
                case "end":
                    running = [parked for bench in it.replicas for parked in bench.calls.running.values()]
                    if running:
                        dice.choice(running).end(dice.choice([text("yes"), text("yes"), failing("no")]))
                case "cancel" if futures:
                    found = await it.seen(at, dice.choice(futures[-10:]).id)
                    await it.replicas[at].engine.cancel(found)
                case "take over":
                    await take_over(it, at, dice.choice([each for each in range(3) if each != at]))
                case _:
                    await anyio.sleep(dice.random() * 0.02)
        with anyio.fail_after(60):
            while not all(future.done for future in futures):
                for bench in it.replicas:
                    for parked in list(bench.calls.running.values()):
                        parked.end(text("yes"))
                await anyio.sleep(0.01)
        await ended(it, *futures)
        twice = {each for each in started if started.count(each) > 1}
        assert twice <= repeatable
        order = {future.id: number for number, future in enumerate(futures)}
        for path in ("x", "y", "x/a"):
            # One that was interrupted may start late: its replica does not know yet that it was taken for dead.
            kept = [each for each in started if "may or may not" not in str(futures[order[each]].failure)]
            firsts = [each for each in dict.fromkeys(kept) if paths[each] == path]
            assert firsts == sorted(firsts, key=order.__getitem__)
        database = it.replicas[0].engine._database
        with anyio.fail_after(PATIENCE_S):
            while await database.fetch("SELECT id FROM procrastinate_jobs LIMIT 1"):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        for table in ("calls", "places", "queued", "questions", "procrastinate_events"):
            assert not await database.fetch(f"SELECT 1 FROM {table} LIMIT 1"), table
