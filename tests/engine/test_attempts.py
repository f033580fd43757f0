"""One call on its way through the executor: values put into arguments and checked, retries, identical calls shared."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Result, State
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.wait import wait_for
from asyncfc_mcp.errors import (
    CallFailed,
    CallTimedOut,
    HttpRefused,
    ProtocolFailure,
    ServerDied,
    ServerRefused,
    ServerUnavailable,
)
from asyncfc_mcp.schema.validate import Validator
from tests.support.parked_calls import OK, failing, states, text
from tests.support.scheduler_lab import lab
from tests.support.virtual_time import on_virtual_time, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_ways")]


# --- values and arguments --------------------------------------------------------------------------------------------


async def test_arguments_are_judged_by_the_tools_own_schema_once_values_are_in_place():
    """A value of the wrong type fails the call with the path, and the downstream never hears of it."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}}
    async with lab() as it:
        one = it.submit()
        two = it.submit(needs=[one], arguments={"n": "$f1"}, schema=schema, validator=Validator(schema))
        await it.end(one, text("4"))
        assert two.state is State.FAILED
        assert "the arguments of tool do not match its schema at n" in str(two.failure)
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


# --- retries ---------------------------------------------------------------------------------------------------------


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


# --- single-flight ---------------------------------------------------------------------------------------------------


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
