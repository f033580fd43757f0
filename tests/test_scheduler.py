"""The scheduler: what may run runs, in an order that keeps the result of calls made one after another."""

import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from lab import on_virtual_time, run_on_virtual_time, settle

from asyncfc_mcp.config import Policy
from asyncfc_mcp.errors import (
    CallFailed,
    CallTimedOut,
    HttpRefused,
    NotSent,
    ProtocolFailure,
    ServerDied,
    ServerRefused,
    ServerUnavailable,
)
from asyncfc_mcp.futures import LOCAL, PUBLIC, Future, FutureStore, Result, Scope, State
from asyncfc_mcp.ordering import Effect, Path
from asyncfc_mcp.protocol import OnSent
from asyncfc_mcp.scheduler import Abandon, Call, Ended, Scheduler, wait_for
from asyncfc_mcp.validate import Validator

pytestmark = pytest.mark.anyio

STOP = Policy(on_failure="stop")
OK: Result = {"content": [{"type": "text", "text": "ok"}]}


def text(words: str, **more: Any) -> Result:
    return {"content": [{"type": "text", "text": words}], **more}


def failing(words: str) -> Result:
    return text(words, isError=True)


def effect(reads: str = "", writes: str = "") -> Effect:
    """Of paths such as `a/x b`, all below the server `s`."""
    return Effect(
        tuple(("s", *path.split("/")) for path in reads.split()),
        tuple(("s", *path.split("/")) for path in writes.split()),
        "config",
    )


@dataclass
class Parked:
    """A call that the downstream has; it ends when and how the test says."""

    call: Call
    arguments: Any
    progress: Any
    ended: anyio.Event = field(default_factory=anyio.Event)
    outcome: Result | Exception = field(default_factory=lambda: OK)
    at_once: Callable[[Result | Exception], None] | None = None
    """Ends a call that has no task."""

    def end(self, outcome: Result | Exception = OK) -> None:
        self.outcome = outcome
        self.ended.set()
        if self.at_once is not None:
            self.at_once(outcome)


@pytest.fixture(params=["each call in a task", "calls sent at once"], scope="module", autouse=True)
def _way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every promise is kept by both ways of making calls."""
    Downstream.at_once = request.param == "calls sent at once"
    yield
    Downstream.at_once = False


class Downstream:
    """`execute` and `send` for a scheduler under test."""

    at_once = False

    def __init__(self) -> None:
        self.running: dict[str, Parked] = {}
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.sends = True

    async def __call__(self, call: Call, arguments: Any, on_progress: Any, on_sent: Callable[[], None]) -> Result:
        if self.sends:
            on_sent()
        parked = Parked(call, arguments, on_progress)
        assert call.future.id not in self.running
        self.running[call.future.id] = parked
        self.started.append(call.future.id)
        try:
            await parked.ended.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(call.future.id)
            raise
        finally:
            del self.running[call.future.id]
        if isinstance(parked.outcome, Exception):
            raise parked.outcome
        return parked.outcome

    def send(self, call: Call, arguments: Any, ended: Ended) -> Abandon | None:
        if not (self.at_once and self.sends):
            return None
        parked = Parked(call, arguments, call.on_progress)
        assert call.future.id not in self.running
        self.running[call.future.id] = parked
        self.started.append(call.future.id)

        def end(outcome: Result | Exception) -> None:
            async def die() -> Result:
                assert isinstance(outcome, Exception)
                raise outcome

            del self.running[call.future.id]
            # As it is in life: that a connection ended takes a while to explain.
            died = isinstance(outcome, Exception) and not isinstance(outcome, ProtocolFailure)
            ended(die if died else outcome)  # type: ignore[arg-type]

        def abandon(reason: str) -> None:
            del self.running[call.future.id]
            self.cancelled.append(call.future.id)

        parked.at_once = end
        return abandon


@dataclass
class Lab:
    """A scheduler and the means to put calls into it."""

    store: FutureStore
    scheduler: Scheduler
    downstream: Downstream

    def submit(
        self,
        reads: str = "",
        writes: str = "",
        *,
        needs: Sequence[Future] = (),
        tool: str = "tool",
        server: str = "s",
        scope: Scope = LOCAL,
        policy: Policy | None = None,
        arguments: dict[str, Any] | None = None,
        source: str = "config",
        **more: Any,
    ) -> Future:
        future = self.store.create(scope, tool=tool, server=server)
        bindings = {needed.id: needed.key for needed in needs}
        if arguments is None:
            arguments = {needed.id: f"${needed.id}" for needed in needs}
        touched = replace(effect(reads, writes), source=source)
        self.scheduler.submit(Call(future, tool, arguments, policy or Policy(), touched, bindings=bindings, **more))
        return future

    @property
    def running(self) -> list[str]:
        return sorted(self.downstream.running)

    async def end(self, future: Future, outcome: Result | Exception = OK) -> None:
        """Let a call end, and everything happen that follows from it."""
        await settle()
        self.downstream.running[future.id].end(outcome)
        await settle()

    async def only_running(self) -> Future:
        """The one call that the downstream has. Of calls submitted together any may be the first to get there."""
        await settle()
        (parked,) = self.downstream.running.values()
        return parked.call.future

    def assert_nothing_is_left(self) -> None:
        """All futures have ended, and the scheduler remembers none of them."""
        assert [future.id for future in self.store.everything() if not future.done] == []
        assert self.store.pending == 0
        scheduler: Any = self.scheduler
        assert not scheduler.unfinished
        assert len(scheduler._tree) == 0
        assert scheduler._tree.size == 0
        assert not scheduler._dependents
        assert not scheduler._flights


@asynccontextmanager
async def lab(execute: Any = None, limits: Mapping[str, int | None] | None = None, **more: Any) -> AsyncGenerator[Lab]:
    """A scheduler that runs. Whatever hangs fails after 5 seconds (of the test's clock)."""
    downstream = Downstream()
    store = FutureStore(anyio.current_time)
    send = None if execute else downstream.send
    clock = anyio.current_time
    scheduler = Scheduler(store, execute or downstream, clock=clock, server_limits=limits, send=send, **more)
    async with anyio.create_task_group() as tg:
        await tg.start(scheduler.run)
        yield Lab(store, scheduler, downstream)
        tg.cancel_scope.cancel()


def states(*futures: Future) -> list[str]:
    return [future.state.value for future in futures]


# --- running and ordering ------------------------------------------------------------------------------------------


async def test_calls_that_share_nothing_run_at_the_same_time():
    """A slow call delays nobody, and each ends with its own result."""
    async with lab() as it:
        first, second, third = (it.submit(writes=path) for path in ("a", "b", ""))
        await settle()
        assert it.running == ["f1", "f2", "f3"]
        await it.end(third, text("3"))
        await it.end(first, text("1"))
        assert states(first, second, third) == ["completed", "running", "completed"]
        assert third.result == text("3")
        await it.end(second)
        it.assert_nothing_is_left()


async def test_submitting_does_not_wait_and_the_call_has_started_when_it_returns():
    """The answer to the client says `running` at once, without a turn of the event loop."""
    async with lab() as it:
        assert it.submit().state is State.RUNNING


async def test_conflicting_calls_run_in_the_order_of_submission():
    """Writes one after another; reads between them together."""
    async with lab() as it:
        write = it.submit(writes="a")
        reads = [it.submit(reads="a"), it.submit(reads="a/x")]
        last = it.submit(writes="a/x")
        await settle()
        assert it.running == ["f1"]
        await it.end(write)
        assert it.running == ["f2", "f3"]
        await it.end(reads[1])
        assert it.running == ["f2"]
        await it.end(reads[0])
        assert it.running == ["f4"]
        await it.end(last)
        it.assert_nothing_is_left()


async def test_a_call_waits_for_the_futures_in_its_arguments_and_gets_their_values():
    """Typed, when all of them are there; the downstream never sees a reference."""
    async with lab() as it:
        one, two = it.submit(), it.submit()
        arguments = {"rows": "$f1.rows", "sentence": "see ${f:f2}"}
        both = it.submit(needs=[one, two], arguments=arguments)
        await it.end(two, text("two"))
        assert both.state is State.WAITING
        await it.end(one, text("", structuredContent={"rows": [1, 2]}))
        assert it.downstream.running["f3"].arguments == {"rows": [1, 2], "sentence": "see two"}
        assert arguments == {"rows": "$f1.rows", "sentence": "see ${f:f2}"}
        await it.end(both)
        it.assert_nothing_is_left()


async def test_a_call_that_needs_an_ended_future_starts_at_once():
    """What is there already is not waited for."""
    async with lab() as it:
        one = it.submit()
        await it.end(one, text("value"))
        it.submit(needs=[one])
        await settle()
        assert it.downstream.running["f2"].arguments == {"f1": "value"}


async def test_a_call_that_needs_a_result_holds_its_place_in_the_order():
    """Waiting for a value does not let a later write overtake."""
    async with lab() as it:
        slow = it.submit()
        write = it.submit(writes="a", needs=[slow])
        later = it.submit(writes="a")
        await settle()
        assert it.running == ["f1"]
        await it.end(slow)
        assert it.running == ["f2"]
        await it.end(write)
        assert it.running == ["f3"]
        await it.end(later)


async def test_arguments_are_judged_by_the_tools_own_schema_once_values_are_in_place():
    """A value of the wrong type fails the call with the path, and the downstream never hears of it."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}}
    async with lab() as it:
        one = it.submit()
        two = it.submit(needs=[one], arguments={"n": "$f1"}, schema=schema, validator=Validator(schema))
        await it.end(one, text("4"))
        assert two.state is State.FAILED
        assert "the arguments of tool do not fit its schema at n" in str(two.failure)
        assert it.downstream.started == ["f1"]


async def test_arguments_without_references_are_the_servers_to_judge():
    """They reach it as they came, wrong or not: the very same object."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    arguments = {"n": "many"}
    async with lab() as it:
        it.submit(arguments=arguments, schema=schema, validator=Validator(schema))
        await settle()
        assert it.downstream.running["f1"].arguments is arguments


async def test_a_path_that_leads_nowhere_fails_the_call_and_says_what_there_is():
    """The text names the path and the keys that exist."""
    async with lab() as it:
        one = it.submit()
        two = it.submit(needs=[one], arguments={"x": "$f1.tilte"})
        await it.end(one, text("", structuredContent={"title": "t"}))
        assert two.state is State.FAILED
        assert "f1 has no tilte" in str(two.failure)
        assert '"title"' in str(two.failure)


# --- failures ------------------------------------------------------------------------------------------------------


async def test_a_tools_own_error_is_a_failure_with_its_result_kept():
    """`isError` fails the future; what the tool said stays to be read."""
    async with lab() as it:
        future = it.submit()
        await it.end(future, failing("no such file"))
        assert future.state is State.FAILED
        assert future.result == failing("no such file")
        assert future.failure is None


async def test_a_failure_runs_down_the_chain_and_names_its_first_cause():
    """Dependents of dependents fail at once, unsent, and say where it began."""
    async with lab() as it:
        chain = [it.submit()]
        for _ in range(3):
            chain.append(it.submit(needs=[chain[-1]]))
        unrelated = it.submit()
        await it.end(chain[0], failing("disk full"))
        assert states(*chain, unrelated) == ["failed"] * 4 + ["running"]
        assert sorted(it.downstream.started) == ["f1", "f5"]
        assert str(chain[1].failure) == "not sent: it needs f1, which has no result: disk full"
        assert str(chain[3].failure) == ("not sent: it needs f3, which has no result (because of f1): disk full")
        assert [future.cause for future in chain[1:]] == ["f1"] * 3
        await it.end(unrelated)
        it.assert_nothing_is_left()


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_a_call_that_needs_a_future_without_a_result_fails_when_it_is_submitted(how: str):
    """It would never be ready, so it is not kept waiting."""
    async with lab() as it:
        one = it.submit()
        if how == "failed":
            await it.end(one, failing("broken"))
        else:
            it.scheduler.cancel(one)
            await settle()
        two = it.submit(needs=[one], writes="a")
        assert two.state is State.FAILED
        assert "it needs f1" in str(two.failure)
        assert ("broken" if how == "failed" else "cancelled") in str(two.failure)
        three = it.submit(writes="a")
        assert three.state is State.RUNNING
        await it.end(three)
        it.assert_nothing_is_left()


async def test_a_failed_dependency_beside_one_that_still_runs_fails_the_call_once():
    """The other one's end changes nothing any more."""
    async with lab() as it:
        slow, bad = it.submit(), it.submit()
        both = it.submit(needs=[slow, bad])
        await it.end(bad, failing("bad"))
        late = it.submit(needs=[slow, bad])
        assert states(both, late) == ["failed", "failed"]
        await it.end(slow, failing("bad, too"))
        assert "needs f2" in str(both.failure)
        it.assert_nothing_is_left()


async def test_a_very_long_chain_fails_without_recursion():
    """A chain may be as long as there are futures."""
    async with lab() as it:
        chain = [it.submit(writes="a")]
        for _ in range(5000):
            chain.append(it.submit(needs=[chain[-1]], reads="a"))
        await it.end(chain[0], failing("broken"))
        assert {future.state for future in chain} == {State.FAILED}
        assert "(because of f1): broken" in str(chain[-1].failure)
        it.assert_nothing_is_left()


async def test_a_failed_write_stops_nothing_that_does_not_take_its_value():
    """The writes behind it run, as they do for a host that makes the same calls directly."""
    async with lab() as it:
        bad = it.submit(writes="a")
        read, behind, takes = it.submit(reads="a/y"), it.submit(writes="a/x"), it.submit(needs=[bad])
        await it.end(bad, failing("no space"))
        assert states(bad, read, behind, takes) == ["failed", "running", "running", "failed"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("config", "config", "cancelled"), ("config", "annotation", "running"), ("annotation", "config", "running")],
)
async def test_fail_stop_is_between_calls_whose_state_is_declared_by_path(first: str, second: str, expected: str):
    """An annotation covers a whole server: a failure somewhere in it says nothing of the rest."""
    async with lab() as it:
        bad = it.submit(writes="a", policy=STOP, source=first)
        behind = it.submit(writes="a", policy=STOP, source=second)
        await it.end(bad, failing("no space"))
        assert behind.state.value == expected


async def test_with_fail_stop_a_failed_write_stops_the_writes_queued_behind_it_and_nothing_else():
    """Reads go on, other state is not touched, and what is submitted afterwards runs."""
    async with lab() as it:
        bad = it.submit(writes="a", policy=STOP)
        read, behind, elsewhere = it.submit(reads="a"), it.submit(writes="a/x", policy=STOP), it.submit(writes="b")
        await it.end(bad, failing("no space"))
        assert states(bad, read, behind, elsewhere) == ["failed", "running", "cancelled", "running"]
        assert str(behind.failure) == ("not sent: f1 failed before it: no space; submit again if you still want it")
        after = it.submit(writes="a", policy=STOP)
        await it.end(read)
        assert after.state is State.RUNNING
        await it.end(after)
        await it.end(elsewhere)
        it.assert_nothing_is_left()


async def test_writes_that_were_told_to_continue_are_not_stopped():
    """`on_failure: continue` is of the call that would be stopped."""
    async with lab() as it:
        bad = it.submit(writes="a", policy=STOP)
        behind = it.submit(writes="a", policy=Policy(on_failure="continue"))
        await it.end(bad, failing("no space"))
        assert behind.state is State.RUNNING


async def test_a_failed_read_stops_nobody():
    """It changed nothing that a later write could have counted on."""
    async with lab() as it:
        bad, behind = it.submit(reads="a"), it.submit(writes="a", policy=STOP)
        await it.end(bad, failing("no such file"))
        assert behind.state is State.RUNNING


async def test_what_was_stopped_names_the_first_cause():
    """However long the way from it: along a reference, then along the order, then along both."""
    async with lab() as it:
        first = it.submit()
        second = it.submit(needs=[first], writes="a")
        third = it.submit(writes="a b", policy=STOP)
        fourth = it.submit(writes="b", policy=STOP)
        fifth = it.submit(needs=[fourth])
        await it.end(first, failing("expired token"))
        assert states(second, third, fourth, fifth) == ["failed", "cancelled", "cancelled", "failed"]
        assert str(third.failure) == (
            "not sent: f2 failed before it (the first to fail was f1): expired token; submit again if you still want it"
        )
        assert "f3" in str(fourth.failure)
        assert "the first to fail was f1" in str(fourth.failure)
        assert "needs f4" in str(fifth.failure)
        assert "(because of f1): expired token" in str(fifth.failure)
        assert [future.cause for future in (second, third, fourth, fifth)] == ["f1"] * 4
        it.assert_nothing_is_left()


async def test_an_exception_that_nobody_foresaw_ends_its_call_and_no_other(caplog: pytest.LogCaptureFixture):
    """It is logged, the client reads what it was, and the scheduler goes on."""
    async with lab() as it:
        bad, good = it.submit(), it.submit()
        await it.end(bad, ZeroDivisionError("division by zero"))
        assert bad.state is State.FAILED
        assert str(bad.failure) == "internal error in the bridge: ZeroDivisionError: division by zero"
        assert "f1 of tool failed unexpectedly" in caplog.text
        await it.end(good)
        assert it.submit().state is State.RUNNING


async def test_a_protocol_error_is_kept_whole():
    """Code, message and data, for clients of `sync` tools."""
    async with lab() as it:
        future = it.submit()
        await it.end(future, ProtocolFailure("tool", -32055, "refused", {"why": [None]}))
        assert isinstance(future.failure, ProtocolFailure)
        assert (future.failure.code, future.failure.data) == (-32055, {"why": [None]})


# --- cancelling ----------------------------------------------------------------------------------------------------


async def test_cancelling_a_waiting_call_takes_it_out_as_if_it_had_never_been():
    """It is never sent; writes behind it go on, what needs its value fails."""
    async with lab() as it:
        slow = it.submit(writes="a")
        waiting = it.submit(writes="a")
        behind = it.submit(writes="a")
        dependent = it.submit(needs=[waiting])
        it.scheduler.cancel(waiting)
        assert states(waiting, dependent) == ["cancelled", "failed"]
        assert str(waiting.failure) == "cancelled; it was never sent"
        assert "needs f2, which has no result: cancelled; it was never sent" in str(dependent.failure)
        await it.end(slow)
        assert it.running == ["f3"]
        await it.end(behind)
        assert it.downstream.started == ["f1", "f3"]
        it.assert_nothing_is_left()


async def test_cancelling_a_running_call_tells_the_downstream():
    """Its effect is unknown, and its text says so; with fail-stop the writes behind it are stopped."""
    async with lab() as it:
        running, behind, read = it.submit(writes="a"), it.submit(writes="a", policy=STOP), it.submit(reads="a")
        await settle()
        it.scheduler.cancel(running)
        assert running.state is (State.CANCELLED if it.downstream.at_once else State.RUNNING)
        await settle()
        assert it.downstream.cancelled == ["f1"]
        assert states(running, behind, read) == ["cancelled", "cancelled", "running"]
        assert str(running.failure) == "cancelled; it may or may not have taken effect"
        await it.end(read)
        it.assert_nothing_is_left()


async def test_cancelling_a_call_whose_server_is_still_starting_stops_nobody():
    """It was never sent, so what is behind it goes on."""
    async with lab() as it:
        it.downstream.sends = False
        unsent, behind = it.submit(writes="a"), it.submit(writes="a", policy=STOP)
        await settle()
        it.scheduler.cancel(unsent)
        await settle()
        assert str(unsent.failure) == "cancelled; it was never sent"
        assert states(unsent, behind) == ["cancelled", "running"]


async def test_cancelling_what_has_ended_changes_nothing():
    """And cancelling twice is cancelling once."""
    async with lab() as it:
        done, running = it.submit(), it.submit()
        await it.end(done)
        it.scheduler.cancel(done)
        it.scheduler.cancel(running)
        it.scheduler.cancel(running)
        await settle()
        assert states(done, running) == ["completed", "cancelled"]
        it.assert_nothing_is_left()


async def test_a_result_that_comes_in_spite_of_the_cancellation_is_kept():
    """The downstream has the last word about what it did."""

    async def stubborn(call: Call, arguments: Any, on_progress: Any, on_sent: Callable[[], None]) -> Result:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return OK

    async with lab(stubborn) as it:
        future = it.submit()
        await settle()
        it.scheduler.cancel(future)
        await settle()
        assert future.state is State.COMPLETED


async def test_the_end_of_the_scheduler_cancels_what_runs():
    """Nothing outlives it."""
    async with lab() as it:
        it.submit()
        await settle()
    assert it.downstream.cancelled == ["f1"]


async def test_a_call_whose_caller_is_answered_first_goes_out_right_after_that():
    """It counts as running at once, so the answer says so; calls keep their order."""
    async with lab() as it:
        first, second = (it.submit(answered_first=True) for _ in range(2))
        assert states(first, second) == ["running", "running"]
        assert it.downstream.started == []
        await settle()
        assert sorted(it.downstream.started) == ["f1", "f2"]
        if it.downstream.at_once:
            assert it.downstream.started == ["f1", "f2"]
        await it.end(first)
        await it.end(second)
        it.assert_nothing_is_left()


async def test_calls_reach_a_server_in_the_order_in_which_they_came():
    """However each is answered: one whose caller waits does not pass one that was answered with a handle."""
    async with lab() as it:
        it.submit(answered_first=True)
        it.submit()
        await settle()
        assert sorted(it.downstream.started) == ["f1", "f2"]
        if it.downstream.at_once:
            assert it.downstream.started == ["f1", "f2"]


async def test_a_call_that_cannot_be_sent_at_once_by_a_fault_of_ours_is_made_in_a_task(
    caplog: pytest.LogCaptureFixture,
):
    """Nobody else notices, and its place is given back."""

    def broken(call: Call, arguments: Any, ended: Ended) -> Abandon | None:
        raise KeyError("a bug")

    async with lab(limits={"s": 1}) as it:
        it.scheduler._send = broken
        first, second = it.submit(), it.submit(answered_first=True)
        await it.end(first)
        await it.end(second)
        assert states(first, second) == ["completed", "completed"]
        it.assert_nothing_is_left()
    assert "a bug" in caplog.text


async def test_a_call_that_takes_values_goes_out_in_the_step_that_brought_the_last_of_them():
    """With the values in place; a chain costs no task for each of its links."""
    async with lab() as it:
        one, two = it.submit(), it.submit()
        both = it.submit(needs=[one, two])
        await it.end(one, text("1"))
        assert it.running == ["f2"]
        it.downstream.running["f2"].end(text("2"))
        if it.downstream.at_once:
            assert it.running == ["f3"]
        await settle()
        assert it.downstream.running["f3"].arguments == {"f1": "1", "f2": "2"}
        await it.end(both)
        it.assert_nothing_is_left()


async def test_values_that_do_not_fit_fail_their_call_alone():
    """It is never sent; what else became ready with it is."""
    async with lab() as it:
        one = it.submit()
        unfit = it.submit(needs=[one], arguments={"x": "$f1.nowhere"})
        behind, beside = it.submit(needs=[unfit]), it.submit(needs=[one])
        await it.end(one, text("1"))
        assert states(unfit, behind, beside) == ["failed", "failed", "running"]
        assert "nowhere" in str(unfit.failure)
        await it.end(beside)
        assert it.downstream.started == ["f1", "f4"]
        it.assert_nothing_is_left()


async def test_a_call_that_is_cancelled_before_it_goes_out_never_happened():
    """Its place is free again, and what is behind it goes on."""
    async with lab(limits={"s": 1}) as it:
        unsent, behind = it.submit(writes="a", answered_first=True), it.submit(writes="a")
        it.scheduler.cancel(unsent)
        assert str(unsent.failure) == "cancelled; it was never sent"
        await settle()
        assert it.downstream.started == ["f2"]
        await it.end(behind)
        it.assert_nothing_is_left()


async def test_calls_that_ended_in_time_leave_nothing_behind():
    """A long limit on many short calls costs nothing when they are over."""
    async with lab() as it:
        for _ in range(500):
            await it.end(it.submit(policy=Policy(timeout_s=3600)))
        it.assert_nothing_is_left()
        scheduler: Any = it.scheduler
        assert len(scheduler._deadlines) <= 100


# --- time ----------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_call_is_cancelled_after_its_time_limit_and_its_place_is_free():
    """To the second, counted from its start and not from its submission; the text names the setting."""
    policy = Policy(timeout_s=20)
    async with lab() as it:
        first, second = it.submit(writes="a", policy=policy), it.submit(reads="a", policy=policy)
        began = anyio.current_time()
        await wait_for([first, second])
        assert anyio.current_time() - began == pytest.approx(40)
        assert [type(future.failure) for future in (first, second)] == [CallTimedOut] * 2
        assert "did not finish within 20 s (setting timeout_s)" in str(first.failure)
        assert "may or may not have taken effect" in str(first.failure)
        assert it.downstream.cancelled == ["f1", "f2"]
        it.assert_nothing_is_left()


class Flaky:
    """Fails so often, then answers; remembers when it was asked."""

    def __init__(self, failures: Sequence[Exception], takes_s: float = 0) -> None:
        self.failures = list(failures)
        self.asked: list[float] = []
        self.takes_s = takes_s

    async def __call__(self, call: Call, arguments: Any, on_progress: Any, on_sent: Callable[[], None]) -> Result:
        self.asked.append(anyio.current_time())
        await anyio.sleep(self.takes_s)
        if self.failures:
            raise self.failures.pop(0)
        return OK


DIED = ServerDied("s", "exited with code 3")
GONE = ServerUnavailable("s", "starting")


@on_virtual_time
async def test_transport_failures_of_repeatable_calls_are_tried_again_with_growing_pauses():
    """0.2 s, then 0.4 s; the client sees only the result."""
    flaky = Flaky([DIED, GONE])
    async with lab(flaky) as it:
        future = it.submit(repeatable=True)
        await wait_for([future])
        assert future.state is State.COMPLETED
        assert [later - earlier for earlier, later in itertools.pairwise(flaky.asked)] == pytest.approx([0.2, 0.4])


@on_virtual_time
async def test_retries_end():
    """After `retries` more attempts the last failure is the call's."""
    flaky = Flaky([DIED] * 9)
    async with lab(flaky) as it:
        future = it.submit(repeatable=True, policy=Policy(retries=3))
        await wait_for([future])
        assert (future.failure, len(flaky.asked)) == (DIED, 4)


@on_virtual_time
async def test_a_retry_that_was_not_sent_does_not_hide_that_a_try_before_was():
    """A server that dies and stays away: the first try may have taken effect, whatever became of the last."""
    async with lab(Flaky([DIED, GONE, GONE])) as it:
        future = it.submit(repeatable=True, policy=Policy(retries=2))
        await wait_for([future])
        assert future.failure is DIED


@pytest.mark.parametrize(
    ("status", "retry_after_s", "repeatable", "pauses"),
    [
        (429, None, False, [0.2]),
        (429, 7, False, [7]),
        (429, 0.1, True, [0.2]),
        (429, 60, False, [60]),
        (429, 61, True, []),
        (503, 7, True, [7]),
        (503, 7, False, []),
        (500, None, True, [0.2]),
        (403, 1, True, []),
        (422, None, True, []),
    ],
)
@on_virtual_time
async def test_a_refused_call_is_made_again_where_that_is_safe_and_soon(
    status: int, retry_after_s: float | None, repeatable: bool, pauses: list[float]
):
    """429 is safe for any call, what may pass for repeatable ones; a server's `Retry-After` is heeded up to 60 s."""
    refused = ServerRefused("s", HttpRefused(status, "words", retry_after_s=retry_after_s))
    flaky = Flaky([refused])
    async with lab(flaky) as it:
        future = it.submit(repeatable=repeatable)
        await wait_for([future])
        assert future.state is (State.COMPLETED if pauses else State.FAILED)
        assert [later - earlier for earlier, later in itertools.pairwise(flaky.asked)] == pytest.approx(pauses)


@pytest.mark.parametrize(
    ("repeatable", "retries", "failure"),
    [
        (False, 2, DIED),
        (False, 2, GONE),
        (True, 0, DIED),
        (True, 2, ProtocolFailure("tool", -32603, "internal")),
        (True, 2, CallFailed("anything else")),
    ],
)
async def test_nothing_else_is_ever_sent_twice(repeatable: bool, retries: int, failure: CallFailed):
    """Only what the server said can be repeated, and only where no answer came."""
    flaky = Flaky([failure] * 3)
    async with lab(flaky) as it:
        future = it.submit(repeatable=repeatable, policy=Policy(retries=retries))
        await wait_for([future], timeout_s=5)
        assert (future.failure, len(flaky.asked)) == (failure, 1)


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_call_of_which_no_part_was_sent_is_made_in_a_task(repeatable: bool):
    """Any call, whatever it does: the server has seen nothing. Meanwhile it counts as not sent."""
    executed: list[tuple[str, bool]] = []
    sent: list[Ended] = []

    async def execute(call: Call, arguments: Any, on_progress: Any, on_sent: OnSent) -> Result:
        executed.append((call.future.id, call.sent))
        await anyio.sleep_forever() if call.future.id == "f2" else on_sent(True)
        return OK

    def send(call: Call, arguments: Any, ended: Ended) -> Abandon:
        sent.append(ended)
        return lambda reason: None

    async with lab(execute) as it:
        it.scheduler._send = send
        futures = [it.submit(repeatable=repeatable) for _ in range(2)]
        for ended in sent:
            ended(NotSent("s", "closed the connection"))
        await wait_for(futures[:1], timeout_s=5)
        it.scheduler.cancel(futures[1])
        await wait_for(futures, timeout_s=5)
        assert futures[0].result == OK
        assert str(futures[1].failure) == "cancelled; it was never sent"
        assert sorted(executed) == [("f1", False), ("f2", False)]
        it.assert_nothing_is_left()


async def test_a_tools_own_error_is_an_answer_and_not_tried_again():
    """`isError` comes from the tool, which was reached."""
    async with lab() as it:
        future = it.submit(repeatable=True)
        await it.end(future, failing("no"))
        assert (future.state, it.downstream.started) == (State.FAILED, ["f1"])


@on_virtual_time
async def test_the_time_limit_is_one_for_all_attempts():
    """Retries do not stretch what the user allowed."""
    flaky = Flaky([DIED] * 9, takes_s=2)
    async with lab(flaky) as it:
        future = it.submit(repeatable=True, policy=Policy(retries=9, timeout_s=5))
        began = anyio.current_time()
        await wait_for([future])
        assert isinstance(future.failure, CallTimedOut)
        assert anyio.current_time() - began == pytest.approx(5)


@on_virtual_time
async def test_the_median_of_a_tools_last_calls_is_known():
    """Of the last nine; one outlier does not change it, and another tool has its own."""

    async def sleeps(call: Call, arguments: Any, on_progress: Any, on_sent: Callable[[], None]) -> Result:
        await anyio.sleep(arguments["s"])
        return OK

    async with lab(sleeps) as it:
        assert it.scheduler.median_s("tool") is None
        for seconds in (60, 60, 1, 1, 1, 1, 1, 1, 1, 60):
            await wait_for([it.submit(arguments={"s": seconds})])
        assert it.scheduler.median_s("tool") == pytest.approx(1)
        assert it.scheduler.median_s("other") is None


# --- single-flight -------------------------------------------------------------------------------------------------

SHARED = Policy(single_flight=True)


async def test_identical_reads_at_the_same_time_are_one_call():
    """Each future has the result; the order of keys in the arguments does not matter."""
    async with lab() as it:
        first = it.submit(arguments={"a": 1, "b": 2}, policy=SHARED, read_only=True)
        second = it.submit(arguments={"b": 2, "a": 1}, policy=SHARED, read_only=True)
        await it.end(await it.only_running(), text("one"))
        assert (first.result, second.result) == (text("one"), text("one"))
        third = it.submit(arguments={"a": 1, "b": 2}, policy=SHARED, read_only=True)
        await settle()
        assert it.running == ["f3"]
        await it.end(third)
        it.assert_nothing_is_left()


@pytest.mark.parametrize(
    "second",
    [
        {"arguments": {"a": 2}, "policy": SHARED, "read_only": True},
        {"arguments": {"a": 1}, "policy": SHARED, "read_only": False},
        {"arguments": {"a": 1}, "policy": Policy(), "read_only": True},
        {"arguments": {"a": 1}, "policy": SHARED, "read_only": True, "tool": "other"},
        {"arguments": {"a": 1}, "policy": SHARED, "read_only": True, "server": "other"},
        {"arguments": {"a": True}, "policy": SHARED, "read_only": True},
    ],
)
async def test_calls_that_differ_are_not_shared(second: dict[str, Any]):
    """Other arguments, another tool or server, not read-only, or not asked for: a call of its own."""
    async with lab() as it:
        it.submit(arguments={"a": 1}, policy=SHARED, read_only=True)
        it.submit(**second)
        await settle()
        assert it.running == ["f1", "f2"]


@pytest.mark.parametrize(
    "outcome", [failing("no"), DIED, ProtocolFailure("tool", -1, "no")], ids=["isError", "died", "rpc"]
)
async def test_who_shares_a_call_shares_its_failure(outcome: Result | Exception):
    """The same call a moment later would have failed as well."""
    async with lab() as it:
        futures = [it.submit(policy=SHARED, read_only=True) for _ in range(2)]
        await it.end(await it.only_running(), outcome)
        assert states(*futures) == ["failed", "failed"]
        assert futures[0].failure == futures[1].failure
        assert futures[0].result == futures[1].result
        assert len(it.downstream.started) == 1
        it.assert_nothing_is_left()


async def test_cancelling_the_first_of_shared_calls_cancels_only_it():
    """Its caller does not speak for the others: the next of them makes the call, once, for all that are left."""
    async with lab() as it:
        futures = [it.submit(policy=SHARED, read_only=True) for _ in range(4)]
        first = await it.only_running()
        other = next(future for future in futures if future is not first)
        it.scheduler.cancel(other)
        it.scheduler.cancel(first)
        await settle()
        await it.end(await it.only_running(), text("again"))
        assert states(first, other) == ["cancelled", "cancelled"]
        rest = [future for future in futures if future not in (first, other)]
        assert [future.result for future in rest] == [text("again")] * 2
        assert len(it.downstream.started) == 2
        it.assert_nothing_is_left()


@on_virtual_time
async def test_who_shares_a_call_does_not_wait_longer_than_its_own_time_limit():
    """The first caller's patience is not everybody's."""
    async with lab() as it:
        leader = it.submit(policy=SHARED, read_only=True)
        await settle()
        follower = it.submit(policy=Policy(single_flight=True, timeout_s=5), read_only=True)
        await wait_for([follower])
        assert anyio.current_time() - (follower.started_at or 0) == pytest.approx(5)
        assert isinstance(follower.failure, CallTimedOut)
        assert leader.state is State.RUNNING


# --- capacity ------------------------------------------------------------------------------------------------------


async def test_a_tools_limit_holds_back_its_own_calls_only():
    """In order of submission; other tools of the server run."""
    limited = Policy(max_concurrency=2)
    async with lab() as it:
        calls = [it.submit(policy=limited) for _ in range(4)]
        other = it.submit(tool="other")
        await settle()
        assert it.running == ["f1", "f2", "f5"]
        assert states(*calls) == ["running", "running", "waiting", "waiting"]
        await it.end(calls[1])
        assert it.running == ["f1", "f3", "f5"]
        await it.end(calls[0])
        await it.end(calls[2])
        await it.end(calls[3])
        await it.end(other)
        it.assert_nothing_is_left()


async def test_a_servers_limit_counts_all_its_tools_and_no_other_servers():
    """A busy server delays itself."""
    async with lab(limits={"s": 1}) as it:
        first, second = it.submit(tool="one"), it.submit(tool="two")
        elsewhere = [it.submit(server="t"), it.submit(server="t")]
        await settle()
        assert it.running == ["f1", "f3", "f4"]
        await it.end(first)
        assert second.state is State.RUNNING
        for future in (second, *elsewhere):
            await it.end(future)
        it.assert_nothing_is_left()


async def test_places_are_given_in_order_of_submission_across_tools():
    """A call held back by its tool's limit does not lose its turn on the server to those that came later."""
    one = Policy(max_concurrency=1)
    async with lab(limits={"s": 1}) as it:
        calls = [it.submit(tool=tool, policy=one) for tool in ("a", "a", "b", "a", "b")]
        for future in calls:
            await it.end(future)
        assert it.downstream.started == ["f1", "f2", "f3", "f4", "f5"]
        it.assert_nothing_is_left()


async def test_cancelling_a_queued_call_does_not_lose_the_place_it_would_have_had():
    """Whoever stands behind it gets the place, though it was on the way to the one who left."""
    one = Policy(max_concurrency=1)
    async with lab(limits={"s": 1}) as it:
        running = it.submit(tool="a", policy=one)
        leaves, stays = it.submit(tool="a", policy=one), it.submit(tool="a", policy=one)
        between = it.submit(tool="b")
        await it.end(running)
        for future in (leaves, between):
            if future.state is State.WAITING:
                it.scheduler.cancel(future)
        for _ in range(4):
            for parked in list(it.downstream.running.values()):
                parked.end()
            await settle()
        assert stays.state is State.COMPLETED
        it.assert_nothing_is_left()


async def test_a_call_stopped_while_it_is_queued_for_capacity_gives_way():
    """Fail-stop reaches those that wait for a place as well."""
    async with lab(limits={"s": 1}) as it:
        first = it.submit(writes="a")
        second, third = it.submit(writes="a", policy=STOP), it.submit(reads="b")
        await it.end(first, failing("no"))
        assert states(second, third) == ["cancelled", "running"]
        await it.end(third)
        it.assert_nothing_is_left()


async def test_a_place_is_given_back_however_a_call_ends():
    """Completed, failed, cancelled or broken."""
    async with lab(limits={"s": 1}) as it:
        calls = [it.submit() for _ in range(5)]
        await it.end(calls[0])
        await it.end(calls[1], failing("no"))
        await it.end(calls[2], ZeroDivisionError())
        it.scheduler.cancel(calls[3])
        await settle()
        assert calls[4].state is State.RUNNING
        await it.end(calls[4])
        it.assert_nothing_is_left()


# --- what is said about waiting ------------------------------------------------------------------------------------


async def test_a_waiting_call_says_for_what():
    """IDs and a reason, for the handle and for `list_futures`; a call that runs or has ended says nothing."""
    async with lab(limits={"t": 1}) as it:
        value, write = it.submit(), it.submit(writes="a/x")
        needs = it.submit(needs=[value])
        behind = it.submit(reads="a")
        both = it.submit(needs=[value, needs], reads="a")
        it.submit(server="t")
        queued = it.submit(server="t")
        explain = it.scheduler.waiting_for
        assert explain(value) == ((), "")
        assert explain(needs) == (("f1",), "needs the result")
        assert explain(behind) == (("f2",), "same state s/a")
        assert explain(both) == (("f1", "f3"), "needs the result")
        assert explain(queued) == (("capacity",), "max_concurrency")
        await it.end(write)
        assert explain(write) == ((), "")


async def test_another_clients_calls_are_named_to_nobody():
    """Whoever waits behind one learns neither its ID nor what it was about; so too where nobody is authenticated, since
    there an ID is the right to a future."""
    for others, mine in ((Scope("alice"), Scope("bob")), (PUBLIC, PUBLIC)):
        async with lab() as it:
            foreign = it.submit(writes="a", scope=others)
            foreign_too = it.submit(writes="a", scope=others, policy=STOP)
            own = it.submit(writes="a", scope=mine, policy=STOP)
            needs = it.submit(needs=[own], scope=mine)
            assert it.scheduler.waiting_for(own) == (("another client's call",), "same state s/a")
            assert it.scheduler.waiting_for(needs)[0] == (own.id,)
            await it.end(foreign, failing("secret"))
            assert states(foreign_too, own, needs) == ["cancelled", "cancelled", "failed"]
            for future in (own, needs):
                said = f"{future.failure} {future.cause}"
                assert "another client's call" in said
                assert "secret" not in said
                assert foreign.id not in said.split() or others.listed
                assert not any(each.id in said for each in (foreign, foreign_too) if not others.listed)


async def test_progress_is_kept_and_told():
    """The last one; what comes after the end is dropped."""
    async with lab() as it:
        future = it.submit()
        seen: list[Any] = []
        future.watchers.append(lambda f: seen.append(f.progress))
        await settle()
        progress = it.downstream.running["f1"].progress
        progress(1, 3, "step 1")
        progress(2, None, None)
        await it.end(future)
        progress(3, 3, "late")
        assert future.progress == (2, None, None)
        assert seen[:2] == [(1, 3, "step 1"), (2, None, None)]


# --- waiting for futures -------------------------------------------------------------------------------------------


async def test_waiting_ends_with_the_last_or_with_the_first():
    """All, or any; a future given twice counts once."""
    async with lab() as it:
        one, two = it.submit(), it.submit()
        ended: list[str] = []

        async def wait(word: str, any_: bool) -> None:
            assert await wait_for([one, two, one], any_=any_)
            ended.append(word)

        async with anyio.create_task_group() as tg:
            tg.start_soon(wait, "all", False)
            tg.start_soon(wait, "any", True)
            await it.end(two)
            assert ended == ["any"]
            await it.end(one)
            await settle()
            assert ended == ["any", "all"]
        assert await wait_for([one, two], timeout_s=0)
        assert await wait_for([])
        assert not one.watchers
        assert not two.watchers


@on_virtual_time
async def test_a_wait_that_ends_early_leaves_nothing_behind():
    """Timed out or cancelled: no future is cancelled by it, and none remembers it."""
    async with lab() as it:
        future = it.submit()
        began = anyio.current_time()
        assert not await wait_for([future], timeout_s=30)
        assert anyio.current_time() - began == pytest.approx(30)
        with anyio.move_on_after(5):
            await wait_for([future], any_=True)
        assert future.state is State.RUNNING
        assert not future.watchers


async def test_a_result_that_was_forgotten_is_not_waited_for_without_end():
    """A call whose dependency vanished between two of its own steps fails and says why."""
    async with lab() as it:
        gone = Future("f99", LOCAL, "tool", "s")
        future = it.submit(needs=[gone])
        await settle()
        assert future.state is State.FAILED
        assert "f99" in str(future.failure)
        it.assert_nothing_is_left()


@on_virtual_time
async def test_a_value_that_a_call_waits_to_use_is_there_when_its_turn_comes():
    """Though everybody has read it and its time is over."""
    async with lab() as it:
        it.store._keep_s = 10
        value, slow = it.submit(), it.submit(writes="a")
        await it.end(value, text("kept"))
        it.store.mark_read(value)
        user = it.submit(needs=[value], writes="a")
        await anyio.sleep(1000)
        it.submit()
        await it.end(slow)
        assert it.downstream.running[user.id].arguments == {"f1": "kept"}


# --- the promise ---------------------------------------------------------------------------------------------------
#
# Calls over a model of state: a tree of cells, of which each call reads and writes some, as it has declared. Hypothesis
# says which calls there are and who is submitted, ends or is cancelled next. The oracle takes the same calls one after
# another in order of submission; it knows nothing of the scheduler but when each call had ended, on which `on_failure:
# "stop"` depends ("already queued behind it"). By default it does not depend on that either.

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
            if wanted:
                assert (set(ids), why) == (wanted, "needs the result")
            elif turn:
                assert set(ids) <= turn
                assert ids
                assert why.startswith("same state ")
            else:
                assert (ids, why) == (("capacity",), "max_concurrency")

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


@on_virtual_time
async def test_a_call_cancelled_before_its_first_step_is_never_sent() -> None:
    """Even with a time limit, which is not what ended it; and those behind it run as if it had not been."""
    async with lab() as it:
        it.scheduler._send = None  # what is sent at once has no step before that
        limited = it.submit(writes="a", policy=Policy(timeout_s=9))
        behind = it.submit(writes="a")
        it.scheduler.cancel(limited)
        await settle()
        assert limited.state is State.CANCELLED
        assert it.downstream.started == [behind.id]


# --- callers that do not know each other ---------------------------------------------------------------------------


@on_virtual_time
async def test_in_public_an_endless_write_holds_others_for_a_bounded_time():
    """Its place in the order ends, the call goes on, and nobody loses a place in a server's line."""
    async with lab(order_s=3) as it:
        endless = it.submit(writes="a", scope=PUBLIC)
        behind = [it.submit(reads="a", scope=PUBLIC), it.submit(writes="a", scope=PUBLIC)]
        await anyio.sleep(2.9)
        assert states(endless, *behind) == ["running", "waiting", "waiting"]
        await anyio.sleep(0.2)
        assert states(endless, *behind) == ["running", "running", "running"]
        for future in (endless, *behind):
            await it.end(future)
        it.assert_nothing_is_left()


@on_virtual_time
async def test_in_public_a_write_that_never_starts_holds_others_for_a_bounded_time():
    """It waits for a value; what stands behind it does not wait for that, and it still runs when it has it."""
    async with lab(order_s=3) as it:
        value = it.submit(scope=PUBLIC)
        stuck = it.submit(writes="a", needs=[value], scope=PUBLIC)
        read = it.submit(reads="a", scope=PUBLIC)
        await anyio.sleep(3.1)
        assert states(value, stuck, read) == ["running", "waiting", "running"]
        await it.end(value)
        await it.end(stuck)
        await it.end(read)
        it.assert_nothing_is_left()


@on_virtual_time
async def test_in_public_a_call_in_line_for_capacity_is_started_once():
    """Its time in the order may end while it stands there."""
    async with lab(limits={"s": 1}, order_s=3) as it:
        first, second = it.submit(writes="a", scope=PUBLIC), it.submit(writes="b", scope=PUBLIC)
        await anyio.sleep(3.1)
        assert states(first, second) == ["running", "waiting"]
        await it.end(first)
        assert states(second) == ["running"]
        await it.end(second)
        it.assert_nothing_is_left()


@on_virtual_time
async def test_in_public_calls_keep_their_order_until_then():
    """What a caller submits in order, and what ends in time, runs in order."""
    async with lab(order_s=3) as it:
        write, read = it.submit(writes="a", scope=PUBLIC), it.submit(reads="a", scope=PUBLIC)
        await anyio.sleep(2)
        assert states(write, read) == ["running", "waiting"]
        await it.end(write)
        assert states(write, read) == ["completed", "running"]
        await it.end(read)
        await anyio.sleep(5)
        it.assert_nothing_is_left()


@on_virtual_time
async def test_where_callers_are_one_principal_a_write_holds_what_stands_behind_it():
    """For as long as it takes."""
    async with lab(order_s=3) as it:
        write, read = it.submit(writes="a"), it.submit(reads="a")
        await anyio.sleep(1000)
        assert states(write, read) == ["running", "waiting"]
        await it.end(write)
        await it.end(read)
        it.assert_nothing_is_left()
