"""Waiting for futures: for all or any of them, for so long, and without a trace."""

import anyio
import pytest

from asyncfc_mcp.core.futures import Event, Future, Question, State
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.engine.wait import until_done_or_asking, wait_for
from tests.support.scheduler_lab import lab
from tests.support.virtual_time import on_virtual_time, settle

pytestmark = pytest.mark.anyio


@pytest.mark.usefixtures("both_ways")
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


@pytest.mark.usefixtures("both_ways")
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


@pytest.mark.parametrize("how", ["asks", "asked before", "ends", "ended before"])
async def test_a_future_is_awaited_until_it_ends_or_asks(how: str):
    """Whichever is first, or was there before; no watcher is left."""
    future = Future("f1", LOCAL, "tool", "s")
    future.apply(Event.START)
    returned: list[bool] = []

    def happen() -> None:
        if "ask" in how:
            future.questions["q1"] = Question("q1", "roots/list", {})
            future.apply(Event.ASK)
        else:
            future.apply(Event.COMPLETE)

    async def wait() -> None:
        await until_done_or_asking(future)
        returned.append(True)

    if "before" in how:
        happen()
    async with anyio.create_task_group() as tg:
        tg.start_soon(wait)
        await settle()
        if "before" not in how:
            assert not returned
            future.progress = (1, 2, None)
            future.changed()
            await settle()
            assert not returned
            happen()
    assert returned == [True]
    assert not future.watchers


async def test_a_future_that_ended_unseen_needs_no_wait():
    """Any of several that have ended is enough, and nothing is watched."""
    done, other = Future("f1", LOCAL, "tool", "s"), Future("f2", LOCAL, "tool", "s")
    done.apply(Event.CANCEL)
    assert await wait_for([done, other], any_=True)
    assert not await wait_for([done, other], timeout_s=0)
    assert not other.watchers
