"""The scheduler: what may run runs, in an order that keeps the result of calls made one after another."""

import anyio
import pytest

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import LOCAL, PUBLIC, Scope
from tests.support.parked_calls import failing, states, text
from tests.support.scheduler_lab import lab
from tests.support.virtual_time import on_virtual_time, settle

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("both_ways")]

STOP = Policy(on_failure="stop")


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
        assert str(behind.failure) == ("not sent: f1 failed before it: no space; call again if it is still needed")
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
            "not sent: f2 failed before it (the first to fail was f1): expired token; call again if it is still needed"
        )
        assert "f3" in str(fourth.failure)
        assert "the first to fail was f1" in str(fourth.failure)
        assert "needs f4" in str(fifth.failure)
        assert "(because of f1): expired token" in str(fifth.failure)
        assert [future.cause for future in (second, third, fourth, fifth)] == ["f1"] * 4
        it.assert_nothing_is_left()


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
        assert explain(both) == (("f2", "f3"), "needs the result; same state s/a"), "f3 waits for f1"
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


# --- results that are not kept ---------------------------------------------------------------------------------------


async def test_a_result_that_was_forgotten_is_not_waited_for_without_end():
    """A call whose dependency vanished between two of its own steps fails and says why."""
    async with lab() as it:
        gone = Future("f99", LOCAL, "tool", "s")
        future = it.submit(needs=[gone])
        await settle()
        assert future.state is State.FAILED
        assert "f99" in str(future.failure)
        it.assert_nothing_is_left()


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
