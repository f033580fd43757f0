"""The contract of `engine.api.Engine`, over every implementation: submitting, order, ends, waiting, and what is kept.

Uses nothing but the interface, an executor whose calls the test ends, and a virtual clock where there are deadlines.
Names and what is looked up is `test_contract_names.py`'s, questions are `test_contract_questions.py`'s.
"""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import LOCAL, PUBLIC, TOKEN, CallerIdentity, Scope
from asyncfc_mcp.errors import (
    CallFailed,
    CallTimedOut,
    DependencyFailed,
    NotDrained,
    ProtocolFailure,
    ServerDied,
    Stopped,
    TooManyFutures,
    UnknownFuture,
)
from asyncfc_mcp.schema.validate import Validator
from tests.support.engines import Bench, OpenBench
from tests.support.parked_calls import OK, failing, states, text
from tests.support.virtual_time import on_virtual_time, settle

pytestmark = pytest.mark.anyio

STOP = Policy(on_failure="stop")
SHARED = Policy(single_flight=True)
DIED = ServerDied("s", "exited with code 3")


# --- the life of a future ------------------------------------------------------------------------------------------


async def test_a_call_runs_by_itself_and_completes_with_its_result(bench: OpenBench):
    """Its future is there at once, and is the record of the submission."""
    async with bench() as it:
        caller = CallerIdentity("host")
        future = await it.submit(
            tool="search", name="s", client=caller, namer=caller, context={"conversation": "c"}, arguments={"q": 1}
        )
        assert (future.tool, future.server, future.name, future.conversation) == ("SEARCH", "s", "s", "c")
        assert (future.scope, future.caller, future.namer) == (LOCAL, caller, caller)
        parked = await it.parked(future)
        assert (parked.call.tool, parked.arguments, parked.call.future) == ("search", {"q": 1}, future)
        assert future.state is State.RUNNING
        await it.end(future, text("found"))
        assert (future.state, future.result, future.failure, future.cause) == (
            State.COMPLETED,
            text("found"),
            None,
            None,
        )
        it.assert_nothing_is_left()


async def test_a_tools_own_error_fails_the_future_and_is_kept(bench: OpenBench):
    """The result is there, and there is no failure beside it."""
    async with bench() as it:
        future = await it.submit()
        await it.end(future, failing("no such file"))
        assert (future.state, future.result, future.failure) == (State.FAILED, failing("no such file"), None)
        it.assert_nothing_is_left()


async def test_a_call_without_a_result_says_why(bench: OpenBench):
    """The executor's `CallFailed` is kept as it is."""
    async with bench() as it:
        future = await it.submit()
        failure = ProtocolFailure("tool", -32055, "refused", {"why": [None]})
        await it.end(future, failure)
        assert (future.state, future.result, future.failure) == (State.FAILED, None, failure)
        it.assert_nothing_is_left()


async def test_any_other_exception_fails_its_call_and_no_other(bench: OpenBench, caplog: pytest.LogCaptureFixture):
    """It is a bug: logged, told, and over."""
    async with bench() as it:
        bad, good = await it.submit(), await it.submit()
        await it.end(bad, ZeroDivisionError("division by zero"))
        assert str(bad.failure) == "internal error in the bridge: ZeroDivisionError: division by zero"
        assert "division by zero" in caplog.text
        await it.end(good)
        assert states(bad, good) == ["failed", "completed"]
        it.assert_nothing_is_left()


async def test_a_call_cancelled_before_it_starts_was_never_made(bench: OpenBench):
    """It ends without its turn; writes behind it go on, and what takes its value fails."""
    async with bench() as it:
        slow, waiting, behind = [await it.submit(writes="a") for _ in range(3)]
        dependent = await it.submit(needs=[waiting])
        it.engine.cancel_nowait(waiting)
        await it.ended(waiting, dependent)
        assert states(waiting, dependent) == ["cancelled", "failed"]
        assert str(waiting.failure) == "cancelled; it was never sent"
        assert waiting.started_at is None
        await it.end(slow)
        await it.end(behind)
        assert it.calls.started == [slow.id, behind.id]
        it.assert_nothing_is_left()


async def test_a_running_call_is_cancelled_at_the_downstream(bench: OpenBench):
    """Its effect is unknown, and its text says so."""
    async with bench() as it:
        future = await it.submit()
        await it.parked(future)
        it.engine.cancel_nowait(future)
        await it.ended(future)
        assert it.calls.cancelled == [future.id]
        assert (future.state, future.result) == (State.CANCELLED, None)
        assert str(future.failure) == "cancelled; it may or may not have taken effect"
        it.assert_nothing_is_left()


async def test_a_call_whose_server_is_still_starting_is_cancelled_as_one_that_was_never_sent(bench: OpenBench):
    """Its executor had it, and had not sent it: nothing behind it is stopped."""
    async with bench() as it:
        it.calls.sends = False
        unsent, behind = await it.submit(writes="a"), await it.submit(writes="a", policy=STOP)
        await it.parked(unsent)
        it.engine.cancel_nowait(unsent)
        await it.ended(unsent)
        assert str(unsent.failure) == "cancelled; it was never sent"
        await it.end(behind)
        it.assert_nothing_is_left()


@on_virtual_time
async def test_a_call_ends_at_its_time_limit(bench: OpenBench):
    """Counted from its start, to the second; the downstream is told, and the place behind it is free."""
    async with bench() as it:
        first, second = [await it.submit(writes="a", policy=Policy(timeout_s=20)) for _ in range(2)]
        began = anyio.current_time()
        assert await it.engine.wait([first, second])
        assert anyio.current_time() - began == pytest.approx(40)
        assert [type(future.failure) for future in (first, second)] == [CallTimedOut] * 2
        assert states(first, second) == ["failed", "failed"]
        assert it.calls.cancelled == [first.id, second.id]
        it.assert_nothing_is_left()


@on_virtual_time
async def test_a_call_that_ended_in_time_is_not_touched_by_its_limit(bench: OpenBench):
    """Nor is one without a limit ever."""
    async with bench() as it:
        limited, endless = await it.submit(policy=Policy(timeout_s=20)), await it.submit()
        await it.end(limited)
        await anyio.sleep(10_000)
        assert states(limited, endless) == ["completed", "running"]
        await it.end(endless)
        it.assert_nothing_is_left()


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_an_ended_future_never_changes(bench: OpenBench, end: str):
    """Whatever is done to it afterwards, and no watcher is called for it."""
    async with bench() as it:
        future = await it.submit()
        call = await it.running_call(future)
        if end == "cancelled":
            it.engine.cancel_nowait(future)
            await it.ended(future)
        else:
            await it.end(future, OK if end == "completed" else DIED)
        before = (future.state, future.result, future.failure, future.ended_at)
        changes: list[State] = []
        future.watchers.append(lambda each: changes.append(each.state))
        it.engine.cancel_nowait(future)
        it.engine.cancel_nowait(future)
        call.on_progress(1, 2, "late")
        await it.settle()
        assert future.state.value == end
        assert (future.state, future.result, future.failure, future.ended_at) == before
        assert not changes
        it.assert_nothing_is_left()


async def test_watchers_are_told_of_every_change(bench: OpenBench):
    """Start, progress and end, on the shared record."""
    async with bench() as it:
        first, second = await it.submit(writes="a"), await it.submit(writes="a")
        changes: list[Any] = []
        second.watchers.append(lambda each: changes.append((each.state, each.progress)))
        await it.end(first)
        (await it.parked(second)).progress(1, 3, "step 1")
        await it.end(second)
        step = (1, 3, "step 1")
        assert changes == [(State.RUNNING, None), (State.RUNNING, step), (State.COMPLETED, step)]


# --- submitting ----------------------------------------------------------------------------------------------------


async def test_submitting_without_a_wait_is_the_same_or_nothing(bench: OpenBench):
    """Where it would have to wait it returns None, and then there is no future, name or call."""
    async with bench() as it:
        submission = it.submission(name="n")
        future = it.engine.submit_nowait(submission)
        if future is None:
            assert not list(await it.engine.list_futures(LOCAL))
            assert it.engine.find_nowait(LOCAL, "n") is None
            future = await it.engine.submit(submission)
        assert it.engine.find_nowait(LOCAL, "n") is future
        await it.end(future)
        assert it.calls.started == [future.id]
        it.assert_nothing_is_left()


async def test_a_call_whose_caller_is_answered_first_is_sent_after_that(bench: OpenBench):
    """It counts as running at once; calls keep their order."""
    async with bench() as it:
        if not it.engine.submits_nowait:
            pytest.skip("a call starts some time after its submission, whatever its caller gets first")
        futures = [await it.submit_at_once(context={"reply_before_send": reply}) for reply in (True, True, False)]
        assert states(*futures) == ["running"] * 3
        assert not it.calls.started
        await it.settle()
        assert sorted(it.calls.started) == [future.id for future in futures]
        for future in futures:
            await it.end(future)
        it.assert_nothing_is_left()


async def test_beyond_the_bound_a_call_is_refused_and_nothing_is_created(bench: OpenBench):
    """No future, name, or ID; when one has ended there is room."""
    async with bench(max_pending=2) as it:
        first, second = await it.submit(), await it.submit(writes="a")
        for submit in (it.submit, it.submit_at_once):
            with pytest.raises(TooManyFutures, match="max_pending"):
                await submit(name="n")
        assert list(await it.engine.list_futures(LOCAL)) == [second, first]
        assert it.engine.find_nowait(LOCAL, "n") is None
        await it.end(first)
        third = await it.submit(name="n")
        assert third.id == "f3"
        for future in (second, third):
            await it.end(future)
        assert len(it.calls.started) == 3
        it.assert_nothing_is_left()


async def test_unread_results_are_kept_and_new_calls_refused(bench: OpenBench):
    """Beyond the bound of memory; results that were read are dropped for a new call, oldest read first."""
    async with bench(max_result_bytes_total=30_000) as it:
        if not it.engine.submits_nowait:
            pytest.skip("results that have ended are in the database, and need no memory")
        futures = [await it.submit() for _ in range(3)]
        for future in futures:
            await it.end(future, text("x" * 12_000))
        with pytest.raises(TooManyFutures, match="max_result_bytes_total"):
            await it.submit()
        it.engine.mark_read(futures[1])
        it.engine.mark_read(futures[0])
        last = await it.submit()
        it.assert_dropped(futures[1])
        assert [it.engine.find_nowait(LOCAL, future.id) for future in futures[::2]] == futures[::2]
        await it.end(last)


async def test_where_callers_do_not_know_each_other_one_leaves_room_for_others(bench: OpenBench):
    """A share of the bound; each caller's own."""
    greedy, other = CallerIdentity("a"), CallerIdentity("b")
    async with bench(max_pending=8, max_caller_share=0.5) as it:
        futures = [await it.submit(scope=PUBLIC, client=greedy) for _ in range(4)]
        with pytest.raises(TooManyFutures, match="max_caller_share"):
            await it.submit(scope=PUBLIC, client=greedy)
        futures.append(await it.submit(scope=PUBLIC, client=other))
        for future in futures:
            await it.end(future)
        it.assert_nothing_is_left()


async def test_one_of_several_principals_leaves_room_for_the_others(bench: OpenBench):
    """A share of the bound for all its callers together; the only principal of an endpoint has all of it."""
    alice, bob = Scope("person:alice"), Scope("oauth:https://issuer.test#bob")
    async with bench(max_pending=8, max_caller_share=0.5) as it:
        futures = [await it.submit(scope=alice, client=CallerIdentity("a")) for _ in range(4)]
        with pytest.raises(TooManyFutures, match="max_caller_share"):
            await it.submit(scope=alice, client=CallerIdentity("b"))
        futures.append(await it.submit(scope=bob))
        for future in futures:
            await it.end(future)
        futures = [await it.submit(scope=TOKEN) for _ in range(8)]
        for future in futures:
            await it.end(future)
        it.assert_nothing_is_left()


# --- values of other futures ---------------------------------------------------------------------------------------


async def test_a_call_waits_for_the_values_in_its_arguments_and_gets_them(bench: OpenBench):
    """Typed; the downstream never sees a reference, and the submitted arguments stay as they are."""
    async with bench() as it:
        one, two = await it.submit(), await it.submit()
        arguments = {"rows": "$f1.rows", "sentence": "see ${f:f2}"}
        both = await it.submit(needs=[one, two], arguments=arguments)
        assert both.substituted == {"f1": "f1", "f2": "f2"}
        await it.end(two, text("two"))
        assert both.state is State.WAITING
        await it.end(one, text("", structuredContent={"rows": [1, 2]}))
        assert (await it.parked(both)).arguments == {"rows": [1, 2], "sentence": "see two"}
        assert arguments == {"rows": "$f1.rows", "sentence": "see ${f:f2}"}
        later = await it.submit(needs=[one], arguments={"n": "$f1.rows[0]"})
        assert (await it.parked(later)).arguments == {"n": 1}
        for future in (both, later):
            await it.end(future)
        it.assert_nothing_is_left()


async def test_a_call_without_references_is_sent_with_its_own_arguments(bench: OpenBench):
    """Wrong or not: judging them is the server's part."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    async with bench() as it:
        future = await it.submit(arguments={"n": "many"}, schema=schema, validator=Validator(schema))
        assert (await it.parked(future)).arguments == {"n": "many"}
        await it.end(future)


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [("$f1", text("4"), "do not match its schema at n"), ("$f1.tilte", text("{}"), "f1 has no tilte")],
)
async def test_a_value_that_does_not_fit_fails_its_call_unsent(
    bench: OpenBench, argument: str, value: dict[str, Any], said: str
):
    """By the tool's own schema; and nothing else fails with it."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}}
    async with bench() as it:
        one, slow = await it.submit(), await it.submit()
        unfit = await it.submit(needs=[one], arguments={"n": argument}, schema=schema, validator=Validator(schema))
        await it.end(one, value)
        await it.ended(unfit)
        assert said in str(unfit.failure)
        assert states(unfit, slow) == ["failed", "running"]
        await it.end(slow)
        assert it.calls.started == [one.id, slow.id]
        it.assert_nothing_is_left()


async def test_a_call_can_wait_for_a_future_without_taking_its_value(bench: OpenBench):
    """It starts when that has completed, with its arguments as they are; if that fails, it is not sent."""
    async with bench() as it:
        first, second = await it.submit(), await it.submit()
        after, never = await it.submit(after=[first]), await it.submit(after=[second])
        assert states(after, never) == ["waiting", "waiting"]
        await it.end(first)
        assert (await it.parked(after)).arguments == {}
        await it.end(second, failing("no"))
        assert isinstance(never.failure, DependencyFailed)
        await it.end(after)
        it.assert_nothing_is_left()


async def test_a_failure_ends_what_depends_on_it_and_names_the_first_cause(bench: OpenBench):
    """Down the chain at once, unsent; also what is submitted afterwards."""
    async with bench() as it:
        chain = [await it.submit()]
        for _ in range(3):
            chain.append(await it.submit(needs=[chain[-1]]))
        unrelated = await it.submit()
        await it.end(chain[0], failing("disk full"))
        chain.append(await it.submit(needs=[chain[-1]], writes="a"))
        assert states(*chain, unrelated) == ["failed"] * 5 + ["running"]
        assert str(chain[1].failure) == "not sent: it needs f1, which has no result: disk full"
        assert "needs f3, which has no result (because of f1): disk full" in str(chain[3].failure)
        assert [future.cause for future in chain[1:]] == ["f1"] * 4
        free = await it.submit(writes="a")
        for future in (free, unrelated):
            await it.end(future)
        assert len(it.calls.started) == 3
        it.assert_nothing_is_left()


# --- order and capacity --------------------------------------------------------------------------------------------


async def test_conflicting_calls_run_in_the_order_of_submission(bench: OpenBench):
    """Writes one after another, reads between them together, other state beside them."""
    async with bench() as it:
        write = await it.submit(writes="a")
        reads = [await it.submit(reads="a"), await it.submit(reads="a/x")]
        last, elsewhere = await it.submit(writes="a/x"), await it.submit(writes="b")
        assert it.running == ["f1", "f5"]
        await it.end(write)
        assert it.running == ["f2", "f3", "f5"]
        await it.end(reads[1])
        assert it.running == ["f2", "f5"]
        await it.end(reads[0])
        assert it.running == ["f4", "f5"]
        for future in (last, elsewhere):
            await it.end(future)
        it.assert_nothing_is_left()


async def test_the_place_in_the_order_is_fixed_by_submission_and_not_by_readiness(bench: OpenBench):
    """A write that waits for a value is not overtaken by one that could run."""
    async with bench() as it:
        slow = await it.submit()
        write, later = await it.submit(writes="a", needs=[slow]), await it.submit(writes="a")
        assert it.running == [slow.id]
        for future in (slow, write, later):
            await it.end(future)
        assert it.calls.started == [slow.id, write.id, later.id]
        it.assert_nothing_is_left()


async def test_calls_of_all_scopes_share_one_state(bench: OpenBench):
    """And the one behind learns neither the ID nor the reason of a call in another scope."""
    async with bench() as it:
        foreign = await it.submit(writes="a", scope=Scope("alice"), policy=STOP)
        mine = await it.submit(writes="a", scope=Scope("bob"), policy=STOP)
        assert it.engine.waiting_for(mine) == (("another client's call",), "same state s/a")
        await it.end(foreign, failing("secret"))
        assert mine.state is State.CANCELLED
        assert "secret" not in f"{mine.failure} {mine.cause}"
        it.assert_nothing_is_left()


async def test_fail_stop_cancels_the_writes_queued_behind_a_failed_one(bench: OpenBench):
    """And nothing else: reads go on, other state is not touched, and what is submitted afterwards runs."""
    async with bench() as it:
        bad, read = await it.submit(writes="a", policy=STOP), await it.submit(reads="a")
        behind, willing = await it.submit(writes="a/x", policy=STOP), await it.submit(writes="a/y")
        annotated = await it.submit(writes="a/z", policy=STOP, source="annotation")
        await it.end(bad, failing("no space"))
        assert isinstance(behind.failure, Stopped)
        assert (behind.state, behind.cause) == (State.CANCELLED, bad.id)
        await it.end(read)
        assert states(read, willing, annotated) == ["completed", "running", "running"]
        after = await it.submit(writes="a/x", policy=STOP)
        for future in (willing, annotated, after):
            await it.end(future)
        it.assert_nothing_is_left()


async def test_without_authentication_a_failure_stops_no_call(bench: OpenBench):
    """The calls behind it may be another client's."""
    async with bench() as it:
        bad = await it.submit(writes="a", policy=STOP, scope=PUBLIC)
        behind = await it.submit(writes="a", policy=STOP, scope=PUBLIC)
        await it.end(bad, failing("no space"))
        await it.end(behind)
        assert behind.state is State.COMPLETED


@on_virtual_time
async def test_without_authentication_a_place_in_the_order_is_kept_for_a_bounded_time(bench: OpenBench):
    """After `public_order_s` nothing waits for the call; in other scopes it holds as long as it runs."""
    async with bench(public_order_s=3) as it:
        for scope, after in ((PUBLIC, "running"), (LOCAL, "waiting")):
            endless, behind = [await it.submit(writes=scope.key, scope=scope) for _ in range(2)]
            await anyio.sleep(2.9)
            assert states(endless, behind) == ["running", "waiting"]
            await anyio.sleep(0.2)
            assert states(endless, behind) == ["running", after]
            for future in (endless, behind):
                await it.end(future)
        it.assert_nothing_is_left()


async def test_limits_of_servers_and_tools_hold_in_order_of_submission(bench: OpenBench):
    """Other tools and servers run; a place is given back however its call ends."""
    one = Policy(max_concurrency=1)
    async with bench({"s": 2}) as it:
        a1, a2, b1, b2 = [await it.submit(tool=tool, policy=one) for tool in ("a", "a", "b", "b")]
        free = await it.submit(server="t")
        c = await it.submit(tool="c")
        assert it.running == [a1.id, b1.id, free.id]
        assert it.engine.waiting_for(a2) == (("capacity",), "max_concurrency")
        assert [it.engine.running("s", tool) for tool in ("a", "b", "c")] == [1, 1, 0]
        await it.end(a1, failing("no"))
        assert it.running == [a2.id, b1.id, free.id]
        it.engine.cancel_nowait(b1)
        await it.ended(b1)
        assert it.running == [a2.id, b2.id, free.id]
        await it.end(b2, ZeroDivisionError())
        assert it.running == [a2.id, free.id, c.id]
        for future in (a2, free, c):
            await it.end(future)
        assert [it.engine.running("s", tool) for tool in ("a", "b", "c")] == [0, 0, 0]
        it.assert_nothing_is_left()


async def test_principals_get_the_places_of_a_server_in_turn(bench: OpenBench):
    """However many calls one has queued before; and none of them has all places."""
    alice, bob = Scope("person:alice"), Scope("person:bob")
    async with bench({"s": 1, "t": 4}, max_caller_share=0.5) as it:
        many = [await it.submit(scope=alice) for _ in range(4)]
        one = await it.submit(scope=bob)
        for future in (many[0], one, *many[1:]):
            await it.parked(future)
            await it.end(future)
        some = [await it.submit(scope=alice, server="t") for _ in range(4)]
        for future in some[:2]:
            await it.parked(future)
        late = await it.submit(scope=bob, server="t")
        await it.parked(late)
        assert [future.state for future in some[2:]] == [State.WAITING] * 2
        for future in (*some[:2], late, *some[2:]):
            await it.parked(future)
            await it.end(future)
        it.assert_nothing_is_left()


# --- tried again and shared ----------------------------------------------------------------------------------------


@on_virtual_time
async def test_transport_failures_of_repeatable_calls_are_tried_again(bench: OpenBench):
    """`retries` more times with growing pauses, and one `timeout_s` for all attempts."""
    async with bench() as it:
        future = await it.submit(repeatable=True, policy=Policy(retries=2))
        began = anyio.current_time()
        for pause_s in (0.2, 0.6):
            (await it.parked(future)).end(DIED)
            await it.settle()
            await it.parked(future)
            assert anyio.current_time() - began == pytest.approx(pause_s)
            assert future.state is State.RUNNING
        await it.end(future, DIED)
        assert (future.failure, len(it.calls.started)) == (DIED, 3)
        limited = await it.submit(repeatable=True, policy=Policy(retries=9, timeout_s=5))
        began = anyio.current_time()
        (await it.parked(limited)).end(DIED)
        assert await it.engine.wait([limited])
        assert isinstance(limited.failure, CallTimedOut)
        assert anyio.current_time() - began == pytest.approx(5)
        it.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("repeatable", "outcome"), [(False, DIED), (True, ProtocolFailure("tool", -1, "no")), (True, failing("no"))]
)
async def test_nothing_else_is_made_twice(bench: OpenBench, repeatable: bool, outcome: Any):
    """At most once: not what may take effect twice, and not what has an answer."""
    async with bench() as it:
        future = await it.submit(repeatable=repeatable)
        await it.end(future, outcome)
        assert (future.state, it.calls.started) == (State.FAILED, [future.id])


async def test_identical_reads_at_the_same_time_are_one_call(bench: OpenBench):
    """Where the policy says so. Cancelling the one that is made cancels only it: the next one is made."""
    async with bench() as it:
        more = {"policy": SHARED, "read_only": True}
        futures = [await it.submit(arguments={"a": 1}, **more) for _ in range(4)]
        other = await it.submit(arguments={"a": 2}, **more)
        writes = await it.submit(arguments={"a": 1}, policy=SHARED)
        assert len(it.running) == 3
        for future in (other, writes):
            await it.end(future)
        (first,) = (parked.call.future for parked in it.calls.running.values())
        it.engine.cancel_nowait(first)
        await it.ended(first)
        (second,) = (parked.call.future for parked in it.calls.running.values())
        await it.end(second, text("one"))
        left = [future for future in futures if future is not first]
        await it.ended(*left)
        assert [future.result for future in left] == [text("one")] * 3
        assert first.state is State.CANCELLED
        assert len(it.calls.started) == 4
        it.assert_nothing_is_left()


# --- waiting and what is said about it -----------------------------------------------------------------------------


async def test_a_wait_ends_with_the_last_or_with_the_first(bench: OpenBench):
    """All, or any, however they end; a future given twice counts once, none is no wait."""
    async with bench() as it:
        one, two = await it.submit(), await it.submit()
        ended: list[str] = []

        async def wait(word: str, any_: bool) -> None:
            assert await it.engine.wait([one, two, one], any_=any_)
            ended.append(word)

        async with anyio.create_task_group() as tg:
            tg.start_soon(wait, "all", False)
            tg.start_soon(wait, "any", True)
            await it.end(two, failing("no"))
            assert ended == ["any"]
            it.engine.cancel_nowait(one)
            await it.ended(one)
        assert ended == ["any", "all"]
        assert await it.engine.wait([one, two], timeout_s=0)
        assert await it.engine.wait([])


@on_virtual_time
async def test_a_wait_that_gives_up_changes_nothing(bench: OpenBench):
    """After its time-out, to the second, or when it is cancelled: no call is cancelled by it."""
    async with bench() as it:
        future, done = await it.submit(), await it.submit()
        await it.end(done)
        began = anyio.current_time()
        assert not await it.engine.wait([future, done], timeout_s=30)
        assert anyio.current_time() - began == pytest.approx(30)
        with anyio.move_on_after(5) as scope:
            await it.engine.wait([future], any_=True)
        assert scope.cancelled_caught
        assert future.state is State.RUNNING
        assert not it.calls.cancelled
        await it.end(future)


async def test_a_waiting_call_says_for_what(bench: OpenBench):
    """IDs of the nearest calls and a reason: values, its turn, or capacity; one that runs or has ended says nothing."""
    async with bench({"t": 1}) as it:
        value, write = await it.submit(), await it.submit(writes="a/x")
        needs, behind = await it.submit(needs=[value]), await it.submit(reads="a")
        both = await it.submit(needs=[value, needs], reads="a")
        first, queued = await it.submit(server="t"), await it.submit(server="t")
        explain = it.engine.waiting_for
        assert explain(value) == ((), "")
        assert explain(needs) == (("f1",), "needs the result")
        assert explain(behind) == (("f2",), "same state s/a")
        assert explain(both) == (("f2", "f3"), "needs the result; same state s/a"), "f3 waits for f1"
        assert explain(queued) == (("capacity",), "max_concurrency")
        for future in (value, write, needs, behind, both, first, queued):
            await it.end(future)
            assert explain(future) == ((), "")
        it.assert_nothing_is_left()


@on_virtual_time
async def test_the_median_of_a_tools_calls_is_known(bench: OpenBench):
    """In seconds, by the tool's name for clients; none before the first call."""
    async with bench() as it:
        assert it.engine.median_s("TOOL") is None
        for seconds in (1, 60, 2):
            future = await it.submit()
            await anyio.sleep(seconds)
            await it.end(future)
        assert it.engine.median_s("TOOL") == pytest.approx(2)
        assert it.engine.median_s("OTHER") is None


# --- what is kept --------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_result_that_was_read_is_dropped_in_time_and_its_id_says_so(bench: OpenBench):
    """Not before `keep_s`, counted from the last reading; unread results stay, and no ID is given twice."""
    async with bench(keep_s=10) as it:
        read, unread, early = [await it.submit() for _ in range(3)]
        it.engine.mark_read(early)  # delivered as soon as it exists
        for future in (read, unread, early):
            await it.end(future)
        assert [future.unread for future in (read, unread, early)] == [True, True, False]
        it.engine.mark_read(read)
        await anyio.sleep(6)
        it.engine.mark_read(read)
        await anyio.sleep(6)
        await it.submit()
        assert [it.engine.find_nowait(LOCAL, future.id) for future in (read, unread)] == [read, unread]
        it.assert_dropped(early)
        await anyio.sleep(5)
        last = await it.submit()
        it.assert_dropped(read)
        assert it.engine.find_nowait(LOCAL, unread.id) is unread
        if not it.outlives_memory:
            fate = it.engine.fate_nowait(LOCAL, read.id)
            assert fate
            with pytest.raises(UnknownFuture, match=fate):
                it.engine.get_nowait(LOCAL, read.id)
        assert last.id == "f5"
        assert it.engine.fate_nowait(LOCAL, "f6") is None


@on_virtual_time
async def test_a_value_that_a_call_waits_to_use_is_there_when_its_turn_arrives(bench: OpenBench):
    """However long ago it was read and dropped."""
    async with bench(keep_s=10) as it:
        value, slow = await it.submit(), await it.submit(writes="a")
        await it.end(value, text("kept"))
        it.engine.mark_read(value)
        user = await it.submit(needs=[value], writes="a")
        await anyio.sleep(1000)
        await it.submit()
        await it.end(slow)
        assert (await it.parked(user)).arguments == {"f1": "kept"}


@on_virtual_time
async def test_where_ids_may_be_lost_unread_results_are_dropped_in_time(bench: OpenBench):
    """After `unread_keep_s`; in a scope that can list its futures they stay."""
    async with bench(unread_keep_s=10) as it:
        lost, listed = await it.submit(scope=PUBLIC), await it.submit()
        for future in (lost, listed):
            await it.end(future)
        await anyio.sleep(9)
        await it.submit()
        assert it.engine.find_nowait(PUBLIC, lost.id) is lost
        await anyio.sleep(2)
        await it.submit()
        it.assert_dropped(lost)
        assert it.engine.find_nowait(LOCAL, listed.id) is listed


# --- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["running", "waiting"])
async def test_a_call_can_be_ended_with_a_verdict(bench: OpenBench, start: str):
    """As a failure of the bridge; the downstream is told if it has the call."""
    async with bench() as it:
        first, second = await it.submit(writes="a"), await it.submit(writes="a")
        chosen = first if start == "running" else second
        (call,) = [call for call in it.engine.unfinished if call.future is chosen]
        verdict = NotDrained("tool", 10, sent=start == "running")
        it.engine.abort_nowait(call, verdict)
        await it.ended(chosen)
        assert (chosen.state, chosen.failure) == (State.FAILED, verdict)
        assert it.calls.cancelled == [first.id][: start == "running"]
        await it.end(second if start == "running" else first)
        it.assert_nothing_is_left()


async def test_unfinished_calls_are_listed_oldest_first(bench: OpenBench):
    """Of all scopes, waiting and running."""
    async with bench() as it:
        futures = [await it.submit(writes="a", scope=Scope(key)) for key in ("a", "b", "a", "c")]
        assert [call.future for call in it.engine.unfinished] == futures
        it.engine.cancel_nowait(futures[1])
        await it.ended(futures[1])
        assert [call.future for call in it.engine.unfinished] == [futures[0], futures[2], futures[3]]
        for future in (futures[0], *futures[2:]):
            await it.end(future)
        it.assert_nothing_is_left()


async def test_an_engine_that_is_held_starts_no_call(bench: OpenBench):
    """Neither new ones, nor one for which nothing is missing any more; what runs ends as usual."""
    async with bench(limits={"s": 1}) as it:
        running, behind, queued = await it.submit(writes="a"), await it.submit(writes="a"), await it.submit()
        it.engine.hold_nowait()
        new = await it.submit(server="other")
        await it.end(running)
        assert states(running, behind, queued, new) == ["completed", "waiting", "waiting", "waiting"]
        for future in (behind, queued, new):
            it.engine.cancel_nowait(future)
        await it.ended(behind, queued, new)
        assert it.calls.started == [running.id]


@pytest.mark.parametrize("raises", [False, True])
async def test_when_the_engine_is_closed_nothing_runs_and_nothing_starts(bench: OpenBench, raises: bool):
    """What the downstream has is cancelled there, and what waited is never made; ends of the past stay."""

    class Leave(Exception):
        pass

    futures: list[Future] = []

    async def use(it: Bench) -> None:
        futures.extend([await it.submit(), await it.submit(writes="a"), await it.submit(writes="a")])
        futures.append(await it.submit(needs=[futures[1]]))
        await it.end(futures[0], text("1"))
        await it.parked(futures[1])
        futures.append(await it.submit_at_once(writes="b", context={"reply_before_send": True}))
        if raises:
            raise Leave

    one = None
    try:
        async with bench() as it:
            one = it
            await use(it)
    except* Leave:
        assert raises
    assert one is not None
    await settle()
    assert not one.calls.running
    assert one.calls.cancelled[:1] == [futures[1].id]
    assert not {futures[2].id, futures[3].id} & set(one.calls.started)
    assert (futures[0].state, futures[0].result) == (State.COMPLETED, text("1"))
    for future in futures[1:]:
        assert future.state is not State.COMPLETED


async def test_every_way_to_end_a_call_leaves_nothing_behind(bench: OpenBench):
    """Together, and in any order."""
    ends: list[Callable[[Bench, Future], Any]] = [
        lambda it, future: it.calls.running[future.id].end(),
        lambda it, future: it.calls.running[future.id].end(failing("no")),
        lambda it, future: it.calls.running[future.id].end(DIED),
        lambda it, future: it.engine.cancel_nowait(future),
        lambda it, future: it.engine.abort_nowait(it.calls.running[future.id].call, CallFailed("over")),
    ]
    async with bench({"s": 7}) as it:
        futures = [await it.submit(reads=f"x/{number}") for number in range(len(ends))]
        behind = [await it.submit(writes=f"x/{number}", needs=[future]) for number, future in enumerate(futures)]
        for future in futures:
            await it.parked(future)
        for end, future in zip(ends, futures, strict=True):
            end(it, future)
        await it.ended(*futures, *behind[1:])
        assert states(*futures) == ["completed", "failed", "failed", "cancelled", "failed"]
        assert states(*behind) == ["running"] + ["failed"] * 4
        await it.end(behind[0])
        it.assert_nothing_is_left()
