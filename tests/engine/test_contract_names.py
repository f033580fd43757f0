"""The contract of `engine.api.Engine`, over every implementation: IDs, names, scopes, and calls that wait for names."""

from typing import Any

import anyio
import pytest

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.identity import LOCAL, PUBLIC, CallerIdentity, Scope
from asyncfc_mcp.errors import AmbiguousName, Cycle, ForeignName, InvalidName, NameInUse, UnknownFuture
from tests.support.engines import OpenBench
from tests.support.virtual_time import on_virtual_time

pytestmark = pytest.mark.anyio

ALICE, BOB = Scope("alice"), Scope("bob")


def session(host: str = "host", **more: Any) -> CallerIdentity:
    return CallerIdentity(host, **more)


# --- IDs and scopes ------------------------------------------------------------------------------------------------


async def test_ids_count_for_each_scope(bench: OpenBench):
    """Where futures can be listed; an ID is never given twice."""
    async with bench() as it:
        ids = [(await it.submit(scope=scope)).id for scope in (ALICE, BOB, ALICE, ALICE, BOB)]
        assert ids == ["f1", "f1", "f2", "f3", "f2"]


async def test_scopes_see_nothing_of_each_other(bench: OpenBench):
    """No ID, name, fate, list, or announcement; and the same name may be in use in each."""
    async with bench(forward_wait_ms=50) as it:
        first, second = [await it.submit(scope=ALICE, name=name) for name in ("n", "m")]
        engine = it.engine
        for ref in ("f1", "f2", "n", "$m"):
            assert engine.find_nowait(BOB, ref) is None
            assert engine.find_own_nowait(BOB, ref) is None
            assert engine.find_referred_nowait(BOB, ref) is None
            assert engine.fate_nowait(BOB, ref) is None
            with pytest.raises(UnknownFuture) as unknown:
                engine.get_nowait(BOB, ref)
            assert "f1" not in str(unknown.value).replace(ref, "")
            with pytest.raises(UnknownFuture):
                await engine.get(BOB, [ref])
        assert list(await engine.list_futures(BOB)) == []
        engine.check_name_nowait(BOB, "n")
        mine = await it.submit(scope=BOB, name="n")
        assert [engine.find_nowait(scope, "n") for scope in (ALICE, BOB)] == [first, mine]
        assert list(await engine.list_futures(ALICE)) == [second, first]
        assert list(await engine.list_futures(BOB)) == [mine]


async def test_where_nobody_is_authenticated_an_id_is_the_only_right(bench: OpenBench):
    """Random, neither listed nor near another one; without a fate, and without names."""
    async with bench() as it:
        one, two = [await it.submit(scope=PUBLIC) for _ in range(2)]
        assert all(len(future.id) == 33 for future in (one, two))
        assert it.engine.get_nowait(PUBLIC, one.id) is one
        assert await it.engine.get(PUBLIC, [two.id, one.id]) == [two, one]
        assert list(await it.engine.list_futures(PUBLIC)) == []
        assert it.engine.fate_nowait(PUBLIC, "f1") is None
        for name in ("n", "name"):
            with pytest.raises(InvalidName):
                it.engine.check_name_nowait(PUBLIC, name)
            with pytest.raises(InvalidName):
                await it.submit(scope=PUBLIC, name=name)
        with pytest.raises(UnknownFuture) as unknown:
            it.engine.get_nowait(PUBLIC, one.id[:-1] + "x")
        assert two.id not in str(unknown.value)
        assert one.id not in str(unknown.value)


async def test_futures_are_listed_newest_first(bench: OpenBench):
    """Whatever has become of them."""
    async with bench() as it:
        futures = [await it.submit() for _ in range(3)]
        await it.end(futures[1])
        it.engine.cancel_nowait(futures[0])
        await it.ended(futures[0])
        assert list(await it.engine.list_futures(LOCAL)) == futures[::-1]


async def test_an_unknown_future_is_answered_with_the_nearest_that_exist(bench: OpenBench):
    """IDs and names of the scope."""
    async with bench() as it:
        await it.submit(name="search_results")
        with pytest.raises(UnknownFuture, match="search_results"):
            it.engine.get_nowait(LOCAL, "search_result")
        with pytest.raises(UnknownFuture, match="f1"):
            it.engine.get_nowait(LOCAL, "f7")
        assert it.engine.fate_nowait(LOCAL, "f7") is None
        assert it.engine.fate_nowait(LOCAL, "word") is None


# --- names ---------------------------------------------------------------------------------------------------------


async def test_a_future_is_found_by_id_and_by_name(bench: OpenBench):
    """With or without `$`; an ID also in a capital letter, except in arguments, where that may be a cell."""
    async with bench() as it:
        future = await it.submit(name="n")
        engine = it.engine
        for find in (engine.find_nowait, engine.find_own_nowait, engine.find_referred_nowait, engine.get_nowait):
            assert [find(LOCAL, ref) for ref in ("f1", "$f1", "n", "$n", " n ")] == [future] * 5
        assert engine.find_nowait(LOCAL, "F1") is future
        assert engine.find_own_nowait(LOCAL, "F1") is None
        assert engine.find_referred_nowait(LOCAL, "F1") is None


@pytest.mark.parametrize("name", ["", "a b", "1a", "f1", "all", "This", "a.b", "x" * 65, "ä", 7, None])
async def test_a_name_that_no_reference_could_use_is_invalid(bench: OpenBench, name: Any):
    """Checked before and with the submission; nothing is created."""
    async with bench() as it:
        with pytest.raises(InvalidName):
            it.engine.check_name_nowait(LOCAL, name)
        if name is not None:
            with pytest.raises(InvalidName):
                await it.submit(name=name)
        assert list(await it.engine.list_futures(LOCAL)) == []
        assert not it.calls.started


async def test_a_name_is_in_use_until_its_future_ends(bench: OpenBench):
    """Then the next may take it; what had it is found by its ID."""
    async with bench() as it:
        first, behind = await it.submit(writes="a", name="n"), await it.submit(writes="a", name="m")
        for name, future in (("n", first), ("m", behind)):
            with pytest.raises(NameInUse, match=future.id):
                it.engine.check_name_nowait(LOCAL, name)
            with pytest.raises(NameInUse):
                await it.submit(name=name)
            with pytest.raises(NameInUse):
                await it.submit_at_once(name=name)
        await it.end(first)
        it.engine.check_name_nowait(LOCAL, "n")
        second = await it.submit(name="n")
        assert second.id == "f3"
        assert it.engine.find_nowait(LOCAL, "n") is second
        assert it.engine.find_nowait(LOCAL, first.id) is first


async def test_each_caller_has_names_of_its_own(bench: OpenBench):
    """Another's is found only where it is the only one; not for references, as long as its session goes on."""
    mine, other, third = session(), session(), session()
    async with bench() as it:
        engine = it.engine
        theirs = await it.submit(name="n", namer=other)
        engine.check_name_nowait(LOCAL, "n", mine)
        assert engine.find_own_nowait(LOCAL, "n", mine) is None
        assert engine.find_nowait(LOCAL, "n", mine) is theirs
        with pytest.raises(ForeignName):
            engine.find_referred_nowait(LOCAL, "n", mine)
        other.ended = True
        assert engine.find_referred_nowait(LOCAL, "n", mine) is theirs
        await it.submit(name="n", namer=third)
        for find in (engine.find_nowait, engine.get_nowait):
            with pytest.raises(AmbiguousName):
                find(LOCAL, "n", mine)
        with pytest.raises(AmbiguousName):
            await engine.get(LOCAL, ["n"], mine)
        own = await it.submit(name="n", namer=mine)
        for find in (engine.find_nowait, engine.find_own_nowait, engine.find_referred_nowait, engine.get_nowait):
            assert find(LOCAL, "n", mine) is own
        assert await engine.get(LOCAL, ["n"], mine) == [own]


async def test_callers_that_cannot_be_told_apart_have_a_name_several_times(bench: OpenBench):
    """It is taken again by the same, or over by another, and the engine does not guess."""
    shared = session(shared=True)
    async with bench() as it:
        first = await it.submit(name="n", namer=shared)
        with pytest.raises(NameInUse):
            await it.submit(name="n", namer=shared)
        await it.end(first)
        await it.submit(name="n", namer=shared)
        for find in (it.engine.find_own_nowait, it.engine.find_nowait, it.engine.find_referred_nowait):
            with pytest.raises(AmbiguousName):
                find(LOCAL, "n", shared)


# --- futures that do not exist yet ---------------------------------------------------------------------------------


@on_virtual_time
async def test_getting_waits_a_moment_for_a_name_that_is_about_to_be_taken(bench: OpenBench):
    """In the order asked; without a wait where all exist."""
    async with bench(forward_wait_ms=50) as it:
        first = await it.submit()
        found: list[Any] = []

        async def get() -> None:
            found.extend(await it.engine.get(LOCAL, ["$later", "f1", "later"]))

        began = anyio.current_time()
        assert await it.engine.get(LOCAL, ["f1", "f1"]) == [first, first]
        assert anyio.current_time() == began
        async with anyio.create_task_group() as tg:
            tg.start_soon(get)
            await anyio.sleep(0.03)
            await it.submit(name="other")
            assert not found
            await it.submit(name="later")
        later = it.engine.get_nowait(LOCAL, "later")
        assert found == [later, first, later]
        assert anyio.current_time() - began == pytest.approx(0.03)


@on_virtual_time
async def test_getting_what_does_not_exist_fails_in_time(bench: OpenBench):
    """After `forward_wait_ms`; at once where a name could not exist."""
    async with bench(forward_wait_ms=50) as it:
        await it.submit()
        for scope, waited_s in ((LOCAL, 0.05), (PUBLIC, 0)):
            began = anyio.current_time()
            with pytest.raises(UnknownFuture, match="later"):
                await it.engine.get(scope, ["f1", "later"] if scope is LOCAL else ["later"])
            assert anyio.current_time() - began == pytest.approx(waited_s)


# --- calls that are not submitted yet ------------------------------------------------------------------------------


async def test_a_call_that_waits_for_nothing_has_its_turn(bench: OpenBench):
    """Nothing is pending before or after it."""
    async with bench() as it:
        order: list[str] = []
        assert not it.engine.has_pending
        await it.receive(order, "a", "a")
        await it.receive(order, "b", "a")
        assert order == ["a", "b"]
        assert not it.engine.has_pending


@on_virtual_time
async def test_a_reference_may_overtake_the_call_that_it_means(bench: OpenBench):
    """It waits until that is submitted; for a name that nobody takes as long as `forward_wait_ms`."""
    async with bench(forward_wait_ms=50) as it:
        order: list[str] = []
        began = anyio.current_time()
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: it.receive(order, "uses", missing=("n",)))
            tg.start_soon(lambda: it.receive(order, "in vain", missing=("HOME",)))
            await anyio.sleep(0.02)
            assert it.engine.has_pending
            assert not order
            await it.receive(order, "n", name="n")
            await it.settle()
            assert order == ["n", "uses"]
        assert order == ["n", "uses", "in vain"]
        assert anyio.current_time() - began == pytest.approx(0.05)
        assert not it.engine.has_pending


@on_virtual_time
async def test_a_name_that_another_caller_takes_is_not_the_one_waited_for(bench: OpenBench):
    """Nor one of another scope; and without authentication there are no names to wait for."""
    mine, other = session(), session()
    async with bench(forward_wait_ms=50) as it:
        order: list[str] = []
        began = anyio.current_time()
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: it.receive(order, "mine", missing=("n",), namer=mine))
            await it.settle()
            await it.receive(order, "other", name="n", namer=other)
            await it.receive(order, "bob", name="n", scope=BOB, namer=mine)
            await it.receive(order, "public", missing=("n",), scope=PUBLIC)
            assert anyio.current_time() == began
        assert order == ["other", "bob", "public", "mine"]
        assert anyio.current_time() - began == pytest.approx(0.05)


@on_virtual_time
async def test_calls_on_the_same_state_are_submitted_in_the_order_of_receipt(bench: OpenBench):
    """A call that waits for a name holds those behind it on its state, in its scope, or that come after all."""
    async with bench(forward_wait_ms=50) as it:
        order: list[str] = []
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: it.receive(order, "first", "a", missing=("n",)))
            await it.settle()
            tg.start_soon(lambda: it.receive(order, "second", "a/x"))
            await it.settle()
            tg.start_soon(lambda: it.receive(order, "after", "b", after_pending=True))
            await it.settle()
            await it.receive(order, "elsewhere", "c")
            await it.receive(order, "bob", "a", scope=BOB)
            await it.settle()
            assert order == ["elsewhere", "bob"]
            await it.receive(order, "n", "a", name="n")  # the first waits for it, so it does not wait for the first
        assert order == ["elsewhere", "bob", "n", "first", "second", "after"]


@on_virtual_time
async def test_a_call_that_its_client_awaits_beside_others_waits_until_those_are_received(bench: OpenBench):
    """They need not be submitted."""
    async with bench(forward_wait_ms=50) as it:
        order: list[str] = []
        began = anyio.current_time()
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: it.receive(order, "waits", also_wait_for=("n",)))
            await anyio.sleep(0.02)
            assert not order
            tg.start_soon(lambda: it.receive(order, "n", name="n", missing=("unknown",)))
            await anyio.sleep(0.01)
            assert order == ["waits"]
        assert order == ["waits", "n"]
        assert anyio.current_time() - began == pytest.approx(0.07)


async def test_a_name_is_announced_while_its_call_is_not_submitted(bench: OpenBench):
    """To its own caller; then it is found instead."""
    mine, other = session(), session()
    async with bench(forward_wait_ms=5_000) as it:
        order: list[str] = []
        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: it.receive(order, "n", name="n", namer=mine, missing=("m",)))
            await it.settle()
            announced = it.engine.is_announced
            assert announced(LOCAL, "n", mine)
            assert announced(LOCAL, "$n", mine)
            assert not announced(LOCAL, "m", mine)
            assert not announced(LOCAL, "n", other)
            assert not announced(BOB, "n", mine)
            assert it.engine.find_nowait(LOCAL, "n", mine) is None
            await it.receive(order, "m", name="m", namer=mine)
        assert not it.engine.is_announced(LOCAL, "n", mine)
        assert it.engine.get_nowait(LOCAL, "n", mine).tool == "N"


async def test_calls_that_wait_for_each_other_are_all_refused(bench: OpenBench):
    """At once, each with the names of the cycle; others are not touched, and nothing was created."""
    async with bench(forward_wait_ms=5_000) as it:
        order: list[str] = []
        refused: list[tuple[str, ...]] = []

        async def receive(name: str, missing: str) -> None:
            try:
                await it.receive(order, name, name, name=name, missing=(missing,))
            except Cycle as cycle:
                refused.append(cycle.names)

        async with anyio.create_task_group() as tg:
            for name, missing in (("outside", "x"), ("a", "b"), ("b", "c"), ("c", "a")):
                tg.start_soon(receive, name, missing)
                await it.settle()
            assert len(refused) == 3
            assert all(set(names) == {"a", "b", "c"} for names in refused)
            assert not order
            await receive("own", "own")
            assert refused[-1] == ("own", "own")
            await it.receive(order, "x", name="x")
        assert order == ["x", "outside"]
        assert not it.engine.has_pending


async def test_a_call_given_up_before_its_turn_leaves_nothing(bench: OpenBench):
    """Those behind it go on."""
    async with bench(forward_wait_ms=5_000) as it:
        order: list[str] = []
        async with anyio.create_task_group() as tg:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as waiting:
                    waiting.start_soon(lambda: it.receive(order, "gone", "a", missing=("n",), name="g"))
                    await it.settle()
                    tg.start_soon(lambda: it.receive(order, "behind", "a"))
                    await it.settle()
                    assert not order
                    scope.cancel()
            await it.settle()
        assert order == ["behind"]
        assert not it.engine.has_pending
        assert not it.engine.is_announced(LOCAL, "g", None)
        (future,) = await it.engine.list_futures(LOCAL)
        assert future.state is State.RUNNING


# --- coroutines and their `_nowait` forms ---------------------------------------------------------------------------


async def test_a_coroutine_finds_what_its_nowait_form_finds(bench: OpenBench):
    """What this process knows is true for the engine as a whole."""
    async with bench() as it:
        one, _, other = [await it.submit(scope=scope, name="n") for scope in (ALICE, BOB, LOCAL)]
        engine = it.engine
        for scope, ref in ((ALICE, "f1"), (ALICE, "n"), (BOB, "f2"), (LOCAL, "F1"), (PUBLIC, "f1")):
            assert await engine.find(scope, ref) is engine.find_nowait(scope, ref)
            assert await engine.fate(scope, ref) == engine.fate_nowait(scope, ref)
        assert await engine.get(ALICE, ["n"]) == [engine.get_nowait(ALICE, "n")] == [one]
        await engine.cancel(one)
        await engine.wait([one])
        assert one.state is State.CANCELLED
        assert other.state is State.RUNNING
