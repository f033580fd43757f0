"""The contract of `engine.api.Engine`, over every implementation: any interleaving is as good as one after another.

Hypothesis says which calls there are and what is done next. The oracle makes the same calls in order of submission and
knows nothing of the engine. What the scheduler adds (limits, fail-stop, durations) is `test_interleavings.py`'s.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core.futures import Future, Result, State
from asyncfc_mcp.errors import Cancelled, DependencyFailed, PredecessorFailed
from tests.support.engines import Bench, OpenBench
from tests.support.parked_calls import failing, text
from tests.support.virtual_time import run_on_virtual_time

CELLS = ("a/x", "a/y", "b")
PATHS = st.sampled_from(["", "", "a", "a/x", "a/y", "b", "a/x b"])


def cells_of(paths: str) -> set[str]:
    """Return the cells that these paths contain."""
    return {cell for cell in CELLS for path in paths.split() if cell == path or cell.startswith(path + "/")}


@dataclass(frozen=True)
class Plan:
    """A call: the state that it reads and writes, earlier calls whose results it takes, and those that must have
    completed first (`_after`), modulo their number."""

    reads: str
    writes: str
    needs: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def touches(self) -> set[str]:
        return cells_of(self.reads) | cells_of(self.writes)

    def conflicts(self, other: "Plan") -> bool:
        return bool(cells_of(self.writes) & other.touches or cells_of(other.writes) & self.touches)

    def see(self, state: dict[str, str]) -> dict[str, str]:
        return {cell: state[cell] for cell in sorted(self.touches)}

    def result(self, number: int, arguments: Any, seen: dict[str, str]) -> Result:
        return text(f"{number} {sorted(arguments.items())} {sorted(seen.items())}")

    def write(self, number: int, state: dict[str, str], seen: dict[str, str]) -> None:
        for cell in cells_of(self.writes):
            state[cell] = f"{number}({seen[cell]})"


EARLIER = st.lists(st.integers(0, 99), max_size=2).map(tuple)
PLANS = st.lists(st.builds(Plan, PATHS, PATHS, EARLIER, EARLIER), max_size=9)
MOVES = st.lists(
    st.tuples(st.sampled_from(["submit"] * 4 + ["end"] * 3 + ["fail", "cancel", "await"]), st.integers(0, 99))
)


class Model:
    """The calls of a plan in an engine, and what became of the state that they touch."""

    def __init__(self, it: Bench, plans: list[Plan]) -> None:
        self.it, self.plans = it, plans
        self.futures: list[Future] = []
        self.state: dict[str, str] = dict.fromkeys(CELLS, "")
        self.seen: dict[int, dict[str, str]] = {}
        """Call → the state when it started."""
        self.how: dict[int, str] = {}
        """Call → `fail`, or `cancel running` or `cancel waiting`, where the test did that."""
        self.waits = 0

    def needs(self, number: int) -> list[int]:
        return sorted({need % number for need in self.plans[number].needs}) if number else []

    def after(self, number: int) -> list[int]:
        return sorted({before % number for before in self.plans[number].after}) if number else []

    @property
    def running(self) -> list[int]:
        return sorted(int(name[1:]) - 1 for name in self.it.calls.running)

    async def submit(self) -> None:
        number = len(self.futures)
        plan = self.plans[number]
        needed = [self.futures[need] for need in self.needs(number)]
        after = [self.futures[before] for before in self.after(number)]
        self.futures.append(await self.it.submit_at_once(plan.reads, plan.writes, needs=needed, predecessors=after))

    def end(self, number: int, *, fail: bool) -> None:
        plan, parked = self.plans[number], self.it.calls.running[f"f{number + 1}"]
        if fail:
            self.how[number] = "fail"
            parked.end(failing("no"))
        else:
            plan.write(number, self.state, self.seen[number])
            parked.end(plan.result(number, parked.arguments, self.seen[number]))

    async def wait(self, futures: list[Future], any_: bool) -> None:
        self.waits += 1
        assert await self.it.engine.wait(futures, any_=any_)
        ended = [future.done for future in futures]
        assert any(ended) if any_ else all(ended)
        self.waits -= 1

    def check(self) -> None:
        """No two calls run that conflict, and no call waits that could run."""
        running = self.running
        for number in running:
            if number not in self.seen:
                self.seen[number] = self.plans[number].see(self.state)
        for one, other in itertools.combinations(running, 2):
            assert not self.plans[one].conflicts(self.plans[other]), f"{one} and {other} run at the same time"
        for number, future in enumerate(self.futures):
            before = [
                earlier
                for earlier in range(number)
                if earlier in self.needs(number)
                or earlier in self.after(number)
                or self.plans[earlier].conflicts(self.plans[number])
            ]
            if all(self.futures[earlier].done for earlier in before):
                assert future.state is not State.WAITING, f"{future.id} waits for nothing"
            assert (future.state is State.RUNNING) == (number in running)

    def compare_with_the_oracle(self) -> None:
        state: dict[str, str] = dict.fromkeys(CELLS, "")
        for number, (plan, future) in enumerate(zip(self.plans, self.futures, strict=True)):
            needed = [self.futures[need] for need in self.needs(number)]
            seen = plan.see(state)
            match self.how.get(number):
                case "cancel waiting" | "cancel running" as how:
                    assert future.state is State.CANCELLED
                    assert isinstance(future.failure, Cancelled)
                    assert (number in self.seen) == (how == "cancel running")
                case _ if any(each.state is not State.COMPLETED for each in needed):
                    assert isinstance(future.failure, DependencyFailed | PredecessorFailed)
                    assert (future.state, number in self.seen) == (State.FAILED, False)
                case _ if any(self.futures[each].state is not State.COMPLETED for each in self.after(number)):
                    assert isinstance(future.failure, PredecessorFailed)
                    assert (future.state, number in self.seen) == (State.FAILED, False)
                case "fail":
                    assert (future.state, future.result) == (State.FAILED, failing("no"))
                    assert self.seen[number] == seen
                case _:
                    values = {each.id: each.result["content"][0]["text"] for each in needed if each.result}
                    assert (future.state, future.result) == (State.COMPLETED, plan.result(number, values, seen))
                    plan.write(number, state, seen)
        assert self.state == state


@pytest.mark.timeout(240)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans=PLANS, moves=MOVES)
def test_any_interleaving_gives_the_results_and_the_state_of_the_calls_in_sequence(
    bench: OpenBench, plans: list[Plan], moves: list[tuple[str, int]]
):
    """Submitting, ending, cancelling and awaiting in any order: states follow the table, and every wait returns."""

    async def play() -> None:
        async with bench() as it, anyio.create_task_group() as tg:
            model = Model(it, plans)
            for move, number in itertools.chain(moves, itertools.cycle([("submit", 0), ("end", 0)])):
                live = [index for index, future in enumerate(model.futures) if not future.done]
                running = model.running
                if move == "submit" and len(model.futures) < len(plans):
                    await model.submit()
                elif move in ("end", "fail") and running:
                    model.end(running[number % len(running)], fail=move == "fail")
                elif move == "cancel" and live:
                    chosen = live[number % len(live)]
                    model.how[chosen] = "cancel running" if chosen in running else "cancel waiting"
                    it.engine.cancel_nowait(model.futures[chosen])
                elif move == "await" and model.futures:
                    some = model.futures[number % len(model.futures) :]
                    tg.start_soon(model.wait, some, number % 2 == 1)
                elif len(model.futures) == len(plans) and not running:
                    break
                await anyio.wait_all_tasks_blocked()
                model.check()
            it.assert_nothing_is_left()
            assert model.waits == 0
            model.compare_with_the_oracle()

    run_on_virtual_time(play)
