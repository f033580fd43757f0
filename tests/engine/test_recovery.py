"""What the next run makes of futures: results are there, calls that waited are made, and nothing is made twice."""

import itertools
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import LASTING, LOCAL, PUBLIC, CallerIdentity
from asyncfc_mcp.engine.executor_api import ToolRules
from asyncfc_mcp.errors import AmbiguousName, ArgumentsRejected, ProtocolFailure, UnknownFuture, ValueUnfit
from tests.support.engines import Bench
from tests.support.parked_calls import ParkedCalls, failing, states, text
from tests.support.runs import Runs
from tests.support.virtual_time import run_on_virtual_time, settle

pytestmark = pytest.mark.anyio


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def again(it: Bench, *futures: Future) -> list[Future]:
    """The same futures in another run."""
    return [it.engine.get_nowait(future.scope, future.id) for future in futures]


# --- what has ended ------------------------------------------------------------------------------------------------


async def test_results_are_there_in_the_next_run(runs: Runs) -> None:
    """By ID and name, in the list, with everything that a client sees of them; failures too."""
    async with runs.run() as it:
        done = await it.submit(name="s", arguments={"a": "\0\ud800"})
        failed, refused = await it.submit(), await it.submit()
        await it.end(done, text("\0\ud800", structuredContent={"n": 10**40}))
        await it.end(failed, failing("no"))
        await it.end(refused, ProtocolFailure("TOOL", -32602, "bad", {"a": 1}))
        taken = await it.submit(needs=[done])
        await it.end(taken)
        runs.crash()
    async with runs.run() as it:
        assert states(*again(it, done, failed, refused, taken)) == ["completed", "failed", "failed", "completed"]
        for before, after in zip((done, failed, refused, taken), again(it, done, failed, refused, taken), strict=True):
            assert after is not before
            assert after.result == before.result
            assert str(after.failure) == str(before.failure)
            assert (after.tool, after.server, after.substituted, after.unread) == (
                before.tool,
                before.server,
                before.substituted,
                True,
            )
        assert it.engine.get_nowait(LOCAL, "s").id == done.id
        failure = again(it, refused)[0].failure
        assert isinstance(failure, ProtocolFailure)
        assert (failure.code, failure.message, failure.data) == (-32602, "bad", {"a": 1})
        new = await it.submit()
        listed = [future.id for future in await it.engine.list_futures(LOCAL)]
        assert listed == [new.id, taken.id, refused.id, failed.id, done.id]
        assert await it.engine.get(LOCAL, [done.id, "s"]) == again(it, done, done)


async def test_a_read_result_stays_read(runs: Runs) -> None:
    """Whether it was read before its end or after."""
    async with runs.run() as it:
        early, late, unread = [await it.submit() for _ in range(3)]
        it.engine.mark_read(early)
        for future in (early, late, unread):
            await it.end(future)
        it.engine.mark_read(late)
        await it.end(await it.submit())  # written with what follows
        runs.crash()
    async with runs.run() as it:
        assert [future.unread for future in again(it, early, late, unread)] == [False, False, True]


async def test_values_of_earlier_runs_can_be_used(runs: Runs) -> None:
    """As references and in `_after`."""
    async with runs.run() as it:
        done = await it.submit()
        await it.end(done, text("value"))
        runs.crash()
    async with runs.run() as it:
        (source,) = again(it, done)
        user, follower = await it.submit(needs=[source]), await it.submit(after=[source])
        assert (await it.parked(user)).arguments == {done.id: "value"}
        for future in (user, follower):
            await it.end(future)


async def test_a_name_is_that_of_the_last_run_which_used_it(runs: Runs) -> None:
    """Callers of one run cannot be told apart in the next, so that a name which two of them gave is ambiguous."""
    one, two = CallerIdentity("host"), CallerIdentity("host")
    async with runs.run() as it:
        for future in [await it.submit(name="a", namer=one), await it.submit(name="b", namer=one)]:
            await it.end(future)
        runs.crash()
    async with runs.run() as it:
        mine, theirs = await it.submit(name="a", namer=one), await it.submit(name="a", namer=two)
        other = await it.submit(name="b", namer=two)
        for future in (mine, theirs, other):
            await it.end(future)
        assert it.engine.find_nowait(LOCAL, "b", two) is other
        runs.crash()
    async with runs.run() as it:
        assert it.engine.get_nowait(LOCAL, "b", CallerIdentity("host")).id == other.id
        with pytest.raises(AmbiguousName, match=f"{mine.id}.*{theirs.id}|{theirs.id}.*{mine.id}"):
            it.engine.get_nowait(LOCAL, "a", CallerIdentity("host"))


async def test_a_conversation_with_a_key_keeps_its_names_and_unread_results(runs: Runs) -> None:
    """Whatever other conversations have called theirs, and however many runs ago."""

    def caller(key: str) -> CallerIdentity:
        return CallerIdentity("", token=f"{LASTING}/{key}")

    futures: dict[str, Future] = {}
    async with runs.run() as it:
        for key in ("one", "two"):
            futures[key] = await it.submit(name="a", namer=caller(key), context={"conversation": f"key:{key}"})
        running = await it.submit(writes="a", context={"conversation": "key:one"})
        waiting = await it.submit(writes="a", context={"conversation": "key:one"})
        for future in futures.values():
            await it.end(future)
        runs.crash()
    async with runs.run() as it:
        assert it.engine.get_nowait(LOCAL, "a", caller("one")).id == futures["one"].id
        assert it.engine.get_nowait(LOCAL, "a", caller("two")).id == futures["two"].id
        unread = it.engine.unread_nowait(LOCAL, "key:one")
        assert [future.id for future in unread] == [futures["one"].id, running.id, waiting.id]
        assert it.engine.unread_nowait(LOCAL, "stdio") == []
        await it.end(again(it, waiting)[0])


async def test_ids_that_are_not_in_the_journal_were_never_sent(runs: Runs) -> None:
    """An ID that was never given is unknown as before."""
    async with runs.run() as it:
        await it.end(await it.submit())
        runs.crash()  # so that the numbers of its block are not given back
    async with runs.run() as it:
        with pytest.raises(UnknownFuture, match="ended before the call was sent"):
            it.engine.get_nowait(LOCAL, "f2")
        with pytest.raises(UnknownFuture) as unknown:
            it.engine.get_nowait(LOCAL, "f99999")
        assert "sent" not in str(unknown.value)


async def test_a_scope_without_a_list_keeps_its_secret_ids(runs: Runs) -> None:
    """Found by ID, and in no list."""
    async with runs.run() as it:
        done = await it.submit(scope=PUBLIC)
        await it.end(done, text("x"))
        runs.crash()
    async with runs.run() as it:
        assert again(it, done)[0].result == text("x")
        assert list(await it.engine.list_futures(PUBLIC)) == []
        assert it.engine.find_nowait(LOCAL, done.id) is None


# --- what has not --------------------------------------------------------------------------------------------------


async def test_a_call_that_was_running_is_interrupted_and_never_made_again(runs: Runs) -> None:
    """And its text says that its effect is unknown; what needed it fails with that reason."""
    async with runs.run() as it:
        running = await it.submit()
        dependent, follower = await it.submit(needs=[running]), await it.submit(predecessors=[running])
        runs.crash()
    async with runs.run() as it:
        await settle()
        one, two, three = again(it, running, dependent, follower)
        assert states(one, two, three) == ["failed", "failed", "failed"]
        assert "may or may not have taken effect" in str(one.failure)
        for each in (two, three):
            assert str(each.failure).startswith("not sent: ")
            assert "interrupted" in str(each.failure)
        assert it.calls.started == []
        runs.crash()
    async with runs.run() as it:  # and in every later run
        assert states(*again(it, running, dependent, follower)) == ["failed", "failed", "failed"]
        assert it.calls.started == []


async def test_a_call_that_waited_for_the_start_of_its_server_is_made(runs: Runs) -> None:
    """It was not sent. Once the server is up it may have been."""
    calls = ParkedCalls()
    calls.arrival = anyio.Event()
    async with runs.run(calls) as it:
        early, behind = await it.submit(writes="a"), await it.submit(writes="a")
        late = await it.submit()
        await it.settle()
        assert (states(early, behind, late), calls.started) == (["running", "waiting", "running"], [])
        runs.crash()
    async with runs.run() as it:
        await it.settle()
        early, behind, late = again(it, early, behind, late)
        await it.end(late)
        await it.end(early)
        await it.end(behind)
        assert states(early, behind, late) == ["completed", "completed", "completed"]
    calls.arrival = anyio.Event()
    async with runs.run(calls) as it:
        sent = await it.submit()
        await it.settle()
        calls.arrival.set()
        await it.settle()
        assert len(calls.started) == 1
        runs.crash()
    async with runs.run() as it:
        await it.settle()
        assert "may or may not have taken effect" in str(again(it, sent)[0].failure)


async def test_a_call_that_waits_for_the_start_of_its_server_can_end(runs: Runs) -> None:
    """Cancelled, or at its time limit; it is not made when the server comes up."""
    calls = ParkedCalls()
    calls.arrival = anyio.Event()
    async with runs.run(calls) as it:
        cancelled, late = await it.submit(), await it.submit(policy=Policy(timeout_s=0.01))
        await it.engine.cancel(cancelled)
        await it.engine.wait([cancelled, late])
        assert states(cancelled, late) == ["cancelled", "failed"]
        assert "did not finish within" in str(late.failure)
        calls.arrival.set()
        await it.settle()
        assert calls.started == []


async def test_calls_that_waited_are_made_in_order_before_new_ones(runs: Runs) -> None:
    """Writes on one state, values of others, `_after`: as in the run that accepted them."""
    async with runs.run() as it:
        slow = await it.submit(writes="a")
        first, second = await it.submit(writes="a"), await it.submit(writes="a", name="second")
        value, elsewhere = await it.submit(needs=[second]), await it.submit(writes="b", predecessors=[first])
        runs.crash()
    async with runs.run() as it:
        new = await it.submit(writes="a")
        assert states(*again(it, slow)) == ["failed"]
        one, two, three, four = again(it, first, second, value, elsewhere)
        assert it.calls.started == [first.id]
        await it.end(one)
        assert sorted(it.calls.started) == sorted([first.id, second.id, elsewhere.id])
        assert it.engine.get_nowait(LOCAL, "second") is two
        await it.end(two, text("v"))
        assert (await it.parked(three)).arguments == {second.id: "v"}
        assert it.calls.started.index(second.id) < it.calls.started.index(new.id)
        for future in (three, four, new):
            await it.end(future)
        it.assert_nothing_is_left()


async def test_repeatable_calls_are_made_again_only_where_the_settings_say_so(runs: Runs) -> None:
    """`rerun_interrupted`; the tool has to be repeatable as well."""
    async with runs.run() as it:
        plain = await it.submit(tool="plain", read_only=True, repeatable=True)
        again_ = await it.submit(tool="again", read_only=True, repeatable=True)
        write = await it.submit(tool="again")
        runs.crash()
    calls = ParkedCalls()
    calls.rules["s", "again"] = ToolRules(Policy(rerun_interrupted=True), None, None, None)
    async with runs.run(calls) as it:
        await settle()
        assert it.calls.started == [again_.id]
        await it.end(again(it, again_)[0], text("second"))
        assert states(*again(it, plain, again_, write)) == ["failed", "completed", "failed"]
        assert "interrupted" in str(again(it, plain)[0].failure)


async def test_a_call_whose_tool_is_gone_is_not_made(runs: Runs) -> None:
    """It fails and says that it was never sent; what it held up goes on."""
    async with runs.run() as it:
        slow = await it.submit(writes="a")
        gone, behind = await it.submit(writes="a", tool="gone"), await it.submit(writes="a")
        runs.crash()
    calls = ParkedCalls()
    calls.rules["s", "gone"] = None
    async with runs.run(calls) as it:
        await settle()
        assert states(*again(it, slow, gone, behind)) == ["failed", "failed", "running"]
        assert str(again(it, gone)[0].failure).startswith("not sent: ")
        await it.end(again(it, behind)[0])


async def test_what_may_not_be_written_is_not_there(runs: Runs) -> None:
    """`journal: false`: no arguments and no result, so a waiting call is not made, and a result is not found."""
    secret = Policy(journal=False)
    async with runs.run() as it:
        done = await it.submit(policy=secret, arguments={"a": "swordfish"})
        await it.end(done, text("swordfish"))
        refused = await it.submit(policy=secret)
        await it.end(refused, ProtocolFailure("TOOL", -1, "swordfish", "swordfish"))
        invalid = await it.submit(policy=secret)
        await it.end(invalid, ArgumentsRejected("TOOL", "a", "'swordfish' is not of type 'integer'"))
        follows = await it.submit(needs=[refused])
        after = await it.submit(predecessors=[refused])
        further = await it.submit(needs=[follows])
        misfit = await it.submit(needs=[done])
        await it.end(misfit, ValueUnfit("$f1", "f1", "a number", "is the text 'swordfish'"))
        running = await it.submit(writes="a", policy=secret)
        waiting = await it.submit(writes="a", policy=secret, arguments={"a": "swordfish"})
        runs.crash()
    assert not any(b"swordfish" in path.read_bytes() for path in runs.current.rglob("*") if path.is_file())
    async with runs.run() as it:
        await settle()
        assert states(*again(it, done, refused, running, waiting)) == ["completed", "failed", "failed", "failed"]
        assert "not written to the journal" in again(it, done)[0].result["content"][0]["text"]  # type: ignore[index]
        for future in again(it, invalid, follows, after, further, misfit):
            assert str(future.failure) == (
                "not sent; the reason was not written to the journal (setting journal: false)"
            )
        assert "never sent" in str(again(it, waiting)[0].failure) or "not sent" in str(again(it, waiting)[0].failure)
        assert it.calls.started == []


async def test_what_concerns_the_bridge_only_is_not_written(runs: Runs) -> None:
    """Of a request's `_meta`: the key of its conversation may have any size. The rest is sent with a resumed call."""
    meta = {"asyncfc/conversation": "k" * 1000, "progressToken": "t" * 1000, "vendor/x": 1}
    async with runs.run() as it:
        await it.submit(writes="a")
        waiting = await it.submit(writes="a", context={"meta": meta})
        runs.crash()
    assert not any(b"kkkk" in path.read_bytes() for path in runs.current.rglob("*") if path.is_file())
    async with runs.run() as it:
        assert (await it.running_call(again(it, waiting)[0])).meta == {"vendor/x": 1}
        await it.end(again(it, waiting)[0])


async def test_a_cancelled_call_stays_cancelled(runs: Runs) -> None:
    """Once its client was told so."""
    async with runs.run() as it:
        slow, waiting = await it.submit(writes="a"), await it.submit(writes="a")
        it.engine.cancel_nowait(waiting)
        await it.ended(waiting)
        runs.crash()
    async with runs.run() as it:
        await settle()
        assert states(*again(it, slow, waiting)) == ["failed", "cancelled"]
        assert str(again(it, waiting)[0].failure) == str(waiting.failure)
        assert it.calls.started == []


async def test_two_crashes_in_a_row(runs: Runs) -> None:
    """A call that waits in two runs is made in the third, once."""
    async with runs.run() as it:
        await it.submit(writes="a")
        waiting, behind = await it.submit(writes="a"), await it.submit(writes="a")
        runs.crash()
    async with runs.run() as it:
        await settle()
        assert it.calls.started == [waiting.id]
        runs.crash()
    async with runs.run() as it:
        await settle()
        assert it.calls.started == [behind.id]
        assert states(*again(it, waiting, behind)) == ["failed", "running"]
        await it.end(again(it, behind)[0])


# --- invariant -----------------------------------------------------------------------------------------------------

PLANS = st.lists(
    st.tuples(
        st.sampled_from(["", "a", "b"]),  # writes
        st.booleans(),  # repeatable
        st.lists(st.integers(0, 9), max_size=2),  # needs
    ),
    min_size=1,
    max_size=8,
)
MOVES = st.lists(st.tuples(st.sampled_from(["submit", "submit", "end", "fail", "cancel", "crash"]), st.integers(0, 99)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans=PLANS, moves=MOVES)
@example(  # the third needs the other two: the first fails, and the second is then interrupted
    plans=[("", False, []), ("", False, []), ("", False, [1, 0])],
    moves=[("submit", 0), ("submit", 0), ("submit", 0), ("fail", 0), ("crash", 0)],
)
@example(  # the same, and a fourth needs the third and the interrupted one
    plans=[("", False, []), ("", False, []), ("", False, [1, 0]), ("", False, [1, 2])],
    moves=[*[("submit", 0)] * 4, ("fail", 0), ("crash", 0)],
)
def test_nothing_is_made_twice_and_nothing_shown_is_taken_back(
    tmp_path_factory: pytest.TempPathFactory, plans: list[Any], moves: list[tuple[str, int]]
) -> None:
    """Any order of submissions, ends, cancellations and crashes: every call is sent at most once, what was seen as
    ended stays as it was, and writes on one state start in the order of their submission."""

    async def play() -> None:
        runs = Runs(tmp_path_factory.mktemp("runs"))
        futures: list[Future] = []
        started: list[str] = []
        shown: dict[str, tuple[State, Any, str]] = {}
        left = list(plans)
        steps = iter([*moves, *itertools.repeat(("finish", 0), 1)])
        over = False
        while not over:
            async with runs.run() as it:
                await settle()
                while True:
                    move, number = next(steps)
                    live = [it.engine.get_nowait(LOCAL, each.id) for each in futures]
                    for each in live:
                        if each.id in shown:
                            assert (each.state, each.result, str(each.failure)) == shown[each.id]
                    running = [each for each in live if each.id in it.calls.running]
                    match move:
                        case "submit" if left:
                            writes, repeatable, needs = left.pop(0)
                            needed = [live[each % len(live)] for each in needs] if live else []
                            futures.append(await it.submit(writes=writes, repeatable=repeatable, needs=needed))
                        case "end" | "fail" if running:
                            ended = running[number % len(running)]
                            await it.end(ended, text(ended.id) if move == "end" else failing("no"))
                        case "cancel" if live:
                            it.engine.cancel_nowait(live[number % len(live)])
                            await settle()
                        case "finish":
                            while running := [each for each in live if each.id in it.calls.running]:
                                await it.end(running[0], text(running[0].id))
                            over = True
                        case _:
                            pass
                    await settle()
                    for each in (it.engine.get_nowait(LOCAL, each.id) for each in futures):
                        if each.done:
                            shown[each.id] = each.state, each.result, str(each.failure)
                    if move == "crash" or over:
                        started += it.calls.started
                        if not over:
                            runs.crash()
                        break
        assert len(started) == len(set(started)), started
        for path in ("a", "b"):
            own = [each.id for each, plan in zip(futures, plans, strict=False) if plan[0] == path]
            made = [each for each in started if each in own]
            assert made == sorted(made, key=own.index)
        assert all(each.id in shown for each in futures)

    run_on_virtual_time(play)
