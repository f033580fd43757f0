"""The runner: calls sent at once or in tasks, their order on the wire, time limits, and ends from outside."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Result, State
from asyncfc_mcp.core.outcome import CancelRequest, CompletionCallback
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.wait import wait_for
from asyncfc_mcp.errors import (
    CallTimedOut,
    NotSent,
    ProtocolFailure,
)
from asyncfc_mcp.protocol import OnSent
from tests.support.parked_calls import OK, states, text
from tests.support.scheduler_lab import lab
from tests.support.virtual_time import on_virtual_time, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_ways")]

STOP = Policy(on_failure="stop")


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
        first, second = (it.submit(reply_before_send=True) for _ in range(2))
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
        it.submit(reply_before_send=True)
        it.submit()
        await settle()
        assert sorted(it.downstream.started) == ["f1", "f2"]
        if it.downstream.at_once:
            assert it.downstream.started == ["f1", "f2"]


async def test_a_call_that_cannot_be_sent_at_once_by_a_fault_of_ours_is_made_in_a_task(
    caplog: pytest.LogCaptureFixture,
):
    """Nobody else notices, and its place is given back."""

    def broken(call: Call, arguments: Any, completed: CompletionCallback) -> CancelRequest | None:
        raise KeyError("a bug")

    async with lab(limits={"s": 1}) as it:
        it.scheduler._runner._execute_nowait = broken
        first, second = it.submit(), it.submit(reply_before_send=True)
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


async def test_a_call_that_is_cancelled_before_it_goes_out_never_happened():
    """Its place is free again, and what is behind it goes on."""
    async with lab(limits={"s": 1}) as it:
        unsent, behind = it.submit(writes="a", reply_before_send=True), it.submit(writes="a")
        it.scheduler.cancel(unsent)
        assert str(unsent.failure) == "cancelled; it was never sent"
        await settle()
        assert it.downstream.started == ["f2"]
        await it.end(behind)
        it.assert_nothing_is_left()


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


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_call_of_which_no_part_was_sent_is_made_in_a_task(repeatable: bool):
    """Any call, whatever it does: the server has seen nothing. Meanwhile it counts as not sent."""
    executed: list[tuple[str, bool]] = []
    sent: list[CompletionCallback] = []

    async def execute(call: Call, arguments: Any, on_progress: Any, on_sent: OnSent) -> Result:
        executed.append((call.future.id, call.sent))
        await anyio.sleep_forever() if call.future.id == "f2" else on_sent(True)
        return OK

    def send(call: Call, arguments: Any, completed: CompletionCallback) -> CancelRequest:
        sent.append(completed)
        return lambda reason: None

    async with lab(execute) as it:
        it.scheduler._runner._execute_nowait = send
        futures = [it.submit(repeatable=repeatable) for _ in range(2)]
        for completed in sent:
            completed(NotSent("s", "closed the connection"))
        await wait_for(futures[:1], timeout_s=5)
        it.scheduler.cancel(futures[1])
        await wait_for(futures, timeout_s=5)
        assert futures[0].result == OK
        assert str(futures[1].failure) == "cancelled; it was never sent"
        assert sorted(executed) == [("f1", False), ("f2", False)]
        it.assert_nothing_is_left()


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


@on_virtual_time
async def test_a_call_cancelled_before_its_first_step_is_never_sent() -> None:
    """Even with a time limit, which is not what ended it; and those behind it run as if it had not been."""
    async with lab() as it:
        it.scheduler._runner._execute_nowait = None  # what is sent at once has no step before that
        limited = it.submit(writes="a", policy=Policy(timeout_s=9))
        behind = it.submit(writes="a")
        it.scheduler.cancel(limited)
        await settle()
        assert limited.state is State.CANCELLED
        assert it.downstream.started == [behind.id]
