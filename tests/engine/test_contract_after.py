"""The contract of `engine.api.Engine`, over every implementation: calls that follow others without their values."""

import itertools
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import LOCAL, CallerIdentity, Scope
from asyncfc_mcp.engine.call import PendingCall
from asyncfc_mcp.errors import Cancelled, Cycle, PredecessorFailed
from tests.support.engines import Bench, OpenBench
from tests.support.parked_calls import OK, effect, failing
from tests.support.virtual_time import on_virtual_time, run_on_virtual_time

pytestmark = pytest.mark.anyio


async def test_a_call_starts_when_all_that_it_follows_have_completed(bench: OpenBench):
    """On other servers, too; what it waits for is shown, and what it followed is kept."""
    async with bench() as it:
        first, second = await it.submit(server="one"), await it.submit(server="two")
        third = await it.submit(server="three", predecessors=[first, second, first])
        assert third.state is State.WAITING
        assert it.engine.waiting_for(third) == (("f1", "f2"), "_after")
        assert third.after == {"f1": "f1", "f2": "f2"}
        await it.end(second)
        assert it.engine.waiting_for(third) == (("f1",), "_after")
        await it.end(first)
        assert (await it.parked(third)).arguments == {}
        await it.end(third)
        late = await it.submit(predecessors=[first, second])
        assert late.state is State.RUNNING
        await it.end(late)
        it.assert_nothing_is_left()


async def test_nothing_is_sent_after_a_failure_down_the_chain(bench: OpenBench):
    """At once, with the reason, the call that failed, and the first of the chain."""
    async with bench() as it:
        first = await it.submit(name="engine")
        second = await it.submit(name="tweet", predecessors=[first])
        third = await it.submit(predecessors=[second])
        await it.end(first, failing("all doors must be locked"))
        assert str(second.failure) == "not sent: f1 failed: all doors must be locked"
        assert str(third.failure) == "not sent: f2 failed (because of f1): all doors must be locked"
        assert (third.cause, third.state, third.started_at) == ("f1", State.FAILED, None)
        late = await it.submit(predecessors=[first])
        assert isinstance(late.failure, PredecessorFailed)
        assert it.running == []
        it.assert_nothing_is_left()


async def test_a_cancelled_call_stops_those_after_it(bench: OpenBench):
    """Whether it waited or ran."""
    async with bench() as it:
        running, waiting = await it.submit(writes="a"), await it.submit(writes="a")
        after = [await it.submit(predecessors=[each]) for each in (waiting, running)]
        for cancelled, follower in zip((waiting, running), after, strict=True):
            await it.engine.cancel(cancelled)
            await it.ended(cancelled, follower)
            assert str(follower.failure).startswith(f"not sent: {cancelled.id} was cancelled: it ")
        it.assert_nothing_is_left()


async def test_a_call_may_take_a_value_and_follow_as_well(bench: OpenBench):
    """Also the same future: then the value is what it needs."""
    async with bench() as it:
        first, second = await it.submit(), await it.submit()
        both = await it.submit(needs=[first], predecessors=[first, second])
        assert it.engine.waiting_for(both) == (("f1", "f2"), "needs the result; _after")
        await it.end(first)
        assert it.engine.waiting_for(both) == (("f2",), "_after")
        await it.end(second, failing("no"))
        assert str(both.failure) == "not sent: f2 failed: no"
        it.assert_nothing_is_left()


async def test_a_result_that_is_waited_for_in_vain_is_not_dropped_meanwhile(bench: OpenBench):
    """Read results are dropped for new calls; one that a new call follows is not."""
    async with bench(keep_s=0) as it:
        first = await it.submit()
        await it.end(first)
        it.engine.mark_read(first)
        after = await it.submit(predecessors=[first])
        assert after.state is State.RUNNING
        await it.end(after)


# --- names, before the calls are submitted ---------------------------------------------------------------------------


def pending(name: str | None = None, required: tuple[str, ...] = (), writes: str = "", **more: Any) -> PendingCall:
    scope, namer = more.pop("scope", LOCAL), more.pop("namer", None)
    return PendingCall(scope, namer, name, effect(writes=writes), (), (), False, required=required, **more)


@on_virtual_time
async def test_a_required_name_is_waited_for_half_a_second(bench: OpenBench):
    """A name that may be text a tenth of that."""
    async with bench() as it:
        for call, waited_s in (
            (pending(required=("later",)), 0.5),
            (PendingCall(LOCAL, None, None, effect(), ("later",), (), False), 0.05),
            (PendingCall(LOCAL, None, None, effect(), (), ("later",), False), 0.5),
        ):
            began = anyio.current_time()
            await it.engine.wait_for_turn(call)
            assert anyio.current_time() - began == pytest.approx(waited_s)


@on_virtual_time
async def test_a_received_call_is_waited_for_as_long_as_it_waits_itself(bench: OpenBench):
    """By calls and by waits for its name, and by nothing of another scope or caller."""
    async with bench() as it:
        ended: list[tuple[str, float]] = []

        async def follow(label: str, **more: Any) -> None:
            await it.engine.wait_for_turn(pending(required=("later",), **more))
            ended.append((label, round(anyio.current_time() - began, 3)))

        async def get() -> None:
            [found] = await it.engine.get(LOCAL, ["later"])
            ended.append((found.id, round(anyio.current_time() - began, 3)))

        began = anyio.current_time()
        async with anyio.create_task_group() as tg:
            with it.engine.announcing(LOCAL, "later", None):
                assert it.engine.is_announced(LOCAL, "$later", None)
                tg.start_soon(follow, "mine")
                tg.start_soon(get)
                more: dict[str, Any]
                for label, more in (("scope", {"scope": Scope("bob")}), ("caller", {"namer": CallerIdentity()})):
                    assert not it.engine.is_announced(more.get("scope", LOCAL), "later", more.get("namer"))
                    tg.start_soon(lambda label=label, more=more: follow(label, **more))
                await anyio.sleep(3)
            await it.submit(name="later")
        assert sorted(ended) == [("caller", 0.5), ("f1", 3.0), ("mine", 3.0), ("scope", 0.5)]
        assert not it.engine.has_pending


@on_virtual_time
async def test_a_name_that_is_about_to_be_taken_again_means_the_call_that_takes_it(bench: OpenBench):
    """Where that was received before; the old one is another call."""
    async with bench() as it:
        await it.end(await it.submit(name="n"))
        found: list[str] = []

        async def get() -> None:
            found.extend(each.id for each in await it.engine.get(LOCAL, ["n"]))

        async with anyio.create_task_group() as tg:
            with it.engine.announcing(LOCAL, "n", None):
                tg.start_soon(get)
                tg.start_soon(it.engine.wait_for_turn, pending(required=("n",)))
                await anyio.sleep(0.1)
                assert it.engine.has_pending
            await it.submit(name="n")
        assert found == ["f2"]


@on_virtual_time
async def test_a_cycle_is_refused_with_its_names(bench: OpenBench):
    """Mixed with names in arguments; nothing of it waits longer."""
    async with bench() as it:
        refused: list[tuple[str, ...]] = []

        async def receive(call: PendingCall) -> None:
            try:
                await it.engine.wait_for_turn(call)
            except Cycle as exc:
                refused.append(exc.names)

        began = anyio.current_time()
        async with anyio.create_task_group() as tg:
            tg.start_soon(receive, pending("a", ("b",)))
            tg.start_soon(receive, PendingCall(LOCAL, None, "b", effect(), ("c",), (), False))
            await anyio.wait_all_tasks_blocked()
            tg.start_soon(receive, pending("c", ("x", "a")))
        assert len(refused) == 3
        assert all(names[0] == names[-1] and set(names) == {"a", "b", "c"} for names in refused)
        assert anyio.current_time() == began


# --- any order of arrival --------------------------------------------------------------------------------------------


class Turn:
    """A turn's calls, each with those before it that it follows or whose values it takes; received in some order."""

    def __init__(self, it: Bench, needs: list[set[int]], fails: set[int]) -> None:
        self.it, self.needs, self.fails = it, needs, fails
        self.futures: dict[int, Future] = {}
        self.started: list[int] = []

    async def receive(self, number: int, at_s: float) -> None:
        """Submit a call as the bridge does: by names, which may not exist yet."""
        await anyio.sleep(at_s)
        needs = sorted(self.needs[number])
        await self.it.engine.wait_for_turn(pending(f"n{number}", tuple(f"n{each}" for each in needs)))
        found = [self.it.engine.get_nowait(LOCAL, f"n{each}") for each in needs]
        self.futures[number] = await self.it.submit_at_once(
            name=f"n{number}", needs=found[:1] if number % 2 else [], predecessors=found[number % 2 :]
        )

    async def end_all(self) -> None:
        while len(self.futures) < len(self.needs) or not all(each.done for each in self.futures.values()):
            numbers = {future.id: number for number, future in self.futures.items()}
            for name in self.it.running:
                self.started.append(numbers[name])
                self.it.calls.running[name].end(failing("no") if numbers[name] in self.fails else OK)
            await anyio.sleep(0.01)


@st.composite
def turns(draw: st.DrawFn) -> tuple[list[set[int]], set[int], list[int], list[int]]:
    """Needs of each call, calls that fail, order of arrival, and pauses between arrivals in milliseconds."""
    size = draw(st.integers(1, 7))
    needs = [draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set[int]() for number in range(size)]
    fails = draw(st.sets(st.integers(0, size - 1), max_size=2))
    pauses = draw(st.lists(st.integers(0, 60), min_size=size, max_size=size))
    return needs, fails, list(draw(st.permutations(range(size)))), pauses


@pytest.mark.timeout(240)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turn=turns())
def test_any_order_of_arrival_gives_the_results_of_the_written_order(
    bench: OpenBench, turn: tuple[list[set[int]], set[int], list[int], list[int]]
):
    """Nothing is sent behind a failure, everything else is, and never before what it follows."""
    needs, fails, order, pauses = turn

    async def play() -> None:
        async with bench() as it:
            model = Turn(it, needs, fails)
            async with anyio.create_task_group() as tg:
                at_ms = itertools.accumulate(pauses)
                for number, at in zip(order, at_ms, strict=True):
                    tg.start_soon(model.receive, number, at / 1000)
                tg.start_soon(model.end_all)
            bad: set[int] = set()
            for number, before in enumerate(needs):
                if before & (bad | fails):
                    bad.add(number)
            assert sorted(model.started) == [number for number in range(len(needs)) if number not in bad]
            for number, future in model.futures.items():
                ends = [model.futures[each].ended_at for each in needs[number]]
                if number in bad:
                    assert future.state is State.FAILED
                    assert future.failure is not None
                    assert str(future.failure).startswith("not sent: ")
                    assert future.started_at is None
                else:
                    assert future.state is (State.FAILED if number in fails else State.COMPLETED)
                    assert all(end is not None and end <= (future.started_at or 0) for end in ends)
                assert not isinstance(future.failure, Cancelled)
            it.assert_nothing_is_left()

    run_on_virtual_time(play)
