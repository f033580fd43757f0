"""What a call has waited for, as its record keeps it: each of these calls ended before it started."""

from dataclasses import dataclass

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.waits import WaitKind
from asyncfc_mcp.engine.scheduler import SHOWN_WAITS
from tests.support.parked_calls import OK, failing
from tests.support.scheduler_lab import lab
from tests.support.virtual_time import run_on_virtual_time, settle


@dataclass(frozen=True)
class Plan:
    reads: str
    writes: str
    needs: frozenset[int]
    server: str
    fails: bool


PATHS = st.sampled_from(["", "", "a", "a/x", "a/y", "b"])
PLANS = st.lists(
    st.builds(Plan, PATHS, PATHS, st.frozensets(st.integers(0, 9), max_size=2), st.sampled_from("st"), st.booleans()),
    min_size=2,
    max_size=12,
)


async def all_run(plans: list[Plan], choices: list[int]) -> None:
    async with lab(limits={"s": 1, "t": None}) as it:
        futures: list[Future] = []
        began: dict[str, float] = {}
        for number, plan in enumerate(plans):
            needs = [futures[each] for each in sorted(plan.needs) if each < number]
            future = it.submit(plan.reads, plan.writes, needs=needs, server=plan.server)
            began[future.id] = anyio.current_time()
            futures.append(future)
            await anyio.sleep(1)
        for step in range(3 * len(plans)):
            await settle()
            if not it.running:
                break
            chosen = it.running[choices[step % len(choices)] % len(it.running)]
            future = next(each for each in futures if each.id == chosen)
            await it.end(future, failing("no") if plans[futures.index(future)].fails else OK)
            await anyio.sleep(1)
        by_id = {future.id: future for future in futures}
        for future in futures:
            assert future.done
            assert len(future.waits) == len(set(future.waits)) <= 3 * (SHOWN_WAITS + 1) + 1
            for wait in future.waits:
                other = by_id[wait.on]
                assert other is not future
                assert bool(wait.path) == (wait.kind is WaitKind.STATE)
                if future.started_at is not None:
                    assert other.ended_at is not None
                    assert other.ended_at <= future.started_at
            if future.started_at is not None and future.started_at > began[future.id]:
                assert future.waits, f"{future.id} started late, and nothing says why"
            if future.started_at == began[future.id]:
                assert future.waits == ()
            if future.started_at is None:
                assert future.state is State.FAILED


@settings(max_examples=60, deadline=None)
@given(PLANS, st.lists(st.integers(0, 11), min_size=1))
def test_a_call_starts_after_the_end_of_all_that_it_waited_for(plans: list[Plan], choices: list[int]):
    """And one that has started late names something that it waited for."""
    run_on_virtual_time(all_run, plans, choices)
