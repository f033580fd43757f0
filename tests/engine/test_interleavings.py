"""The scheduler's promise: any interleaving gives the results of calls made one after another, and no idle wait.

Calls over a model of state: a tree of cells, of which each call reads and writes some, as it has declared. Hypothesis
says which calls there are and which is submitted, ends or is cancelled next. The oracle takes the same calls one after
another in order of submission; it knows nothing of the scheduler but when each call had ended, on which `on_failure:
"stop"` depends ("already queued behind it"). By default it does not depend on that either.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.effects import Effect
from asyncfc_mcp.core.futures import Future, Result, State
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.core.state_paths import Path
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.scheduler import Scheduler
from asyncfc_mcp.engine.wait import wait_for
from tests.support.parked_calls import text
from tests.support.scheduler_lab import lab
from tests.support.virtual_time import run_on_virtual_time

CELLS: list[Path] = [("s", "a", "x"), ("s", "a", "y"), ("s", "b"), ("t", "c")]
PATHS: list[Path] = sorted({cell[:depth] for cell in CELLS for depth in (1, 2, 3)})


def cells_of(paths: Sequence[Path]) -> list[Path]:
    """The cells that these paths contain."""
    return [cell for cell in CELLS if any(cell[: len(path)] == path for path in paths)]


@dataclass(frozen=True)
class Plan:
    """A call of the model."""

    reads: list[Path]
    writes: list[Path]
    needs: list[int]
    """Calls before it whose results it needs."""
    fails: bool
    partial: bool
    """Whether it has its effect, should it fail or be cancelled."""
    stoppable: bool
    """Whether its `on_failure` is `stop`; the default is not."""
    declared: bool
    """Whether its state is declared by path, on which fail-stop depends."""
    tool: int
    takes_s: int

    def conflicts(self, other: "Plan") -> bool:
        mine, theirs = cells_of([*self.reads, *self.writes]), cells_of([*other.reads, *other.writes])
        return bool(set(cells_of(self.writes)) & set(theirs) or set(cells_of(other.writes)) & set(mine))

    def apply(self, state: dict[Path, str], number: int, seen: Mapping[Path, str]) -> None:
        for cell in cells_of(self.writes):
            state[cell] = f"{number}({seen[cell]})"

    def answer(self, number: int, arguments: Any, seen: Mapping[Path, str]) -> str:
        return f"{number} {sorted(arguments.items())} {sorted(seen.items())}"


@st.composite
def plans(draw: st.DrawFn, *, failures: bool = True, most: int = 10) -> list[Plan]:
    some_paths = st.sampled_from([*([path] for path in PATHS), [], [], [("s", "b"), ("s", "a", "x")]])
    stop = draw(st.booleans())  # most have the default everywhere
    rarely = st.sampled_from([False] * 2 + [True]) if failures else st.just(False)
    result: list[Plan] = []
    for number in range(draw(st.integers(1, most) | st.just(most))):
        earlier = st.sampled_from(range(number)) if number else st.nothing()
        result.append(
            Plan(
                draw(some_paths),
                draw(some_paths),
                draw(st.lists(earlier, max_size=2, unique=True)) if number else [],
                draw(rarely),
                draw(st.booleans()),
                stop and draw(st.sampled_from([True, True, False])),
                draw(st.sampled_from([True, True, False])),
                draw(st.integers(0, 1)),
                draw(st.integers(1, 9)),
            )
        )
    return result


class Model:
    """The calls of a plan in a scheduler, and what became of them."""

    def __init__(self, plan: list[Plan], limits: tuple[int | None, int | None]) -> None:
        self.plan = plan
        self.server_limit, self.tool_limit = limits
        self.state = dict.fromkeys(CELLS, "")
        self.futures: list[Future] = []
        self.running: dict[int, anyio.Event] = {}
        self.ran: set[int] = set()
        self.ended_when: dict[int, int] = {}
        """Call → how many were submitted when it had ended."""
        self.cancelled: dict[int, bool] = {}
        """Call that was cancelled → whether it was running."""

    async def execute(self, call: Call, arguments: Any, on_progress: Any, on_sent: Callable[[], None]) -> Result:
        on_sent()
        number = int(call.future.id[1:]) - 1
        plan = self.plan[number]
        assert number not in self.ran
        self.ran.add(number)
        seen = {cell: self.state[cell] for cell in cells_of([*plan.reads, *plan.writes])}
        self.running[number] = anyio.Event()
        done = False
        try:
            await self.wait(number)
            done = not plan.fails
        finally:
            del self.running[number]
            if done or plan.partial:
                plan.apply(self.state, number, seen)
        return text(plan.answer(number, arguments, seen), isError=plan.fails)

    async def wait(self, number: int) -> None:
        await self.running[number].wait()

    def submit(self, store: FutureStore, scheduler: Scheduler) -> None:
        number = len(self.futures)
        plan = self.plan[number]
        future = store.create(LOCAL, tool=f"tool{plan.tool}", server="s")
        self.futures.append(future)

        def watch(future: Future) -> None:
            if future.done:
                self.ended_when[number] = len(self.futures)

        future.watchers.append(watch)
        needed = [self.futures[need] for need in plan.needs]
        scheduler.submit(
            Call(
                future,
                f"tool{plan.tool}",
                {need.id: f"${need.id}" for need in needed},
                Policy(on_failure="stop" if plan.stoppable else "continue", max_concurrency=self.tool_limit),
                Effect(tuple(plan.reads), tuple(plan.writes), "config" if plan.declared else "annotation"),
                bindings={need.id: need.key for need in needed},
            )
        )

    def check(self, scheduler: Scheduler) -> None:
        """Nothing runs that must not, and nothing waits that could run."""
        for one, other in itertools.combinations(self.running, 2):
            assert not self.plan[one].conflicts(self.plan[other]), f"{one} and {other} run at the same time"
        of_tool = [sum(self.plan[number].tool == tool for number in self.running) for tool in (0, 1)]
        assert max(of_tool) <= (self.tool_limit or 99)
        assert len(self.running) <= (self.server_limit or 99)
        for number, future in enumerate(self.futures):
            ids, why = scheduler.waiting_for(future)
            if future.state is not State.WAITING:
                assert not ids
                continue
            plan = self.plan[number]
            wanted = {self.futures[need].id for need in plan.needs if not self.futures[need].done}
            turn = {
                self.futures[earlier].id
                for earlier in range(number)
                if not self.futures[earlier].done and self.plan[earlier].conflicts(plan)
            }
            full = len(self.running) == self.server_limit or of_tool[plan.tool] == self.tool_limit
            assert wanted or turn or full, f"{future.id} waits for nothing"
            if not wanted and not turn:
                assert (ids, why) == (("capacity",), "max_concurrency")
                continue
            implied = {key for each in self.waits(number) for key in self.all_waits(each)}
            assert set(ids) == {self.futures[each].id for each in self.waits(number) - implied}
            assert ("needs the result" in why) == bool(wanted & set(ids))
            assert ("same state " in why) == bool(set(ids) - wanted)

    def waits(self, number: int) -> set[int]:
        """The unfinished calls that a waiting call needs the result of, or has its turn behind."""
        plan = self.plan[number]
        if self.futures[number].state is not State.WAITING:
            return set()
        return {
            earlier
            for earlier in range(number)
            if not self.futures[earlier].done and (earlier in plan.needs or self.plan[earlier].conflicts(plan))
        }

    def all_waits(self, number: int) -> set[int]:
        """The same, with what those wait for, and so on."""
        return {each for direct in self.waits(number) for each in (direct, *self.all_waits(direct))}

    def compare_with_the_oracle(self) -> None:
        """Results and final state are those of the same calls made one after another."""
        state = dict.fromkeys(CELLS, "")
        outcome: dict[int, str] = {}
        answers: dict[int, str] = {}
        for number, plan in enumerate(self.plan):
            stops = any(
                outcome[earlier] in ("failed", "unsent")
                and number < self.ended_when[earlier]
                and self.plan[earlier].declared
                and set(cells_of(self.plan[earlier].writes)) & set(cells_of([*plan.reads, *plan.writes]))
                for earlier in range(number)
            )
            if self.cancelled.get(number) is False:
                outcome[number] = "void"
            elif any(outcome[need] != "completed" for need in plan.needs) or (
                stops and plan.writes and plan.stoppable and plan.declared
            ):
                outcome[number] = "unsent"
            else:
                seen = {cell: state[cell] for cell in cells_of([*plan.reads, *plan.writes])}
                failed = plan.fails or number in self.cancelled
                outcome[number] = "failed" if failed else "completed"
                if not failed or plan.partial:
                    plan.apply(state, number, seen)
                arguments = {f"f{need + 1}": answers[need] for need in plan.needs}
                answers[number] = plan.answer(number, arguments, seen)
        for number, future in enumerate(self.futures):
            expected = outcome[number]
            assert (number in self.ran) == (expected in ("completed", "failed")), f"{future.id} {expected}"
            if number in self.ran and number not in self.cancelled:
                assert future.result == text(answers[number], isError=self.plan[number].fails)
            if expected == "unsent":
                assert future.state in (State.FAILED, State.CANCELLED)
                assert future.cause is not None
                assert outcome[int(future.cause[1:]) - 1] in ("failed", "void"), "the cause is not the first one"
            else:
                assert future.state.value == {"void": "cancelled"}.get(expected, expected) or number in self.cancelled
        assert self.state == state


MOVE = st.tuples(st.sampled_from("ssssseeec"), st.integers(0, 9))
LIMITS = st.sampled_from([(None, None), (1, None), (2, None), (None, 1), (2, 1), (3, 2)])


@given(plans(), LIMITS, st.lists(MOVE, min_size=30, max_size=30))
@settings(max_examples=400, deadline=None, phases=set(Phase) - {Phase.explain})
def test_any_interleaving_gives_the_results_and_the_state_of_the_calls_in_sequence(
    plan: list[Plan], limits: tuple[int | None, int | None], moves: list[tuple[str, int]]
):
    """Whoever ends when, fails or is cancelled, whatever the limits: and nobody waits for ever, or for nothing."""
    model = Model(plan, limits)

    async def play() -> None:
        async with lab(model.execute, {"s": limits[0]}) as it:
            for move, number in itertools.chain(moves, itertools.cycle([("s", 0), ("e", 0)])):
                live = [index for index, future in enumerate(model.futures) if not future.done]
                if move == "s" and len(model.futures) < len(plan):
                    model.submit(it.store, it.scheduler)
                elif move == "e" and model.running:
                    model.running[sorted(model.running)[number % len(model.running)]].set()
                elif move == "c" and live:
                    chosen = live[number % len(live)]
                    model.cancelled[chosen] = chosen in model.running
                    it.scheduler.cancel(model.futures[chosen])
                elif len(model.futures) == len(plan) and not model.running:
                    break
                await anyio.wait_all_tasks_blocked()
                model.check(it.scheduler)
            it.assert_nothing_is_left()

    run_on_virtual_time(play)
    model.compare_with_the_oracle()


@given(plans(failures=False, most=14))
@settings(max_examples=100, deadline=None)
def test_unlimited_calls_take_as_long_as_the_critical_path(plan: list[Plan]):
    """Each starts the moment the last call ends that it needs or must come after, to the second."""
    model = Model(plan, (None, None))

    async def play() -> list[float]:
        async def wait(number: int) -> None:
            await anyio.sleep(plan[number].takes_s)

        model.wait = wait  # type: ignore[method-assign]
        async with lab(model.execute) as it:
            began = anyio.current_time()
            for _ in plan:
                model.submit(it.store, it.scheduler)
            await wait_for(model.futures)
            it.assert_nothing_is_left()
            return [(future.ended_at or 0) - began for future in model.futures]

    ended = run_on_virtual_time(play)
    expected: list[float] = []
    for number, call in enumerate(plan):
        before = [i for i in range(number) if i in call.needs or plan[i].conflicts(call)]
        expected.append(max((expected[i] for i in before), default=0) + call.takes_s)
    assert ended == pytest.approx(expected)
    model.compare_with_the_oracle()
