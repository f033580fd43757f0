"""Deadlines: one heap, kept in time by one task, and rid of those that no longer count."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.engine.deadlines import _SPARE, Deadlines
from tests.support.scheduler_lab import lab
from tests.support.virtual_time import on_virtual_time, settle

pytestmark = pytest.mark.anyio


@pytest.mark.usefixtures("both_ways")
async def test_calls_that_ended_in_time_leave_nothing_behind():
    """A long limit on many short calls costs nothing when they are over."""
    async with lab() as it:
        for _ in range(500):
            await it.end(it.submit(policy=Policy(timeout_s=3600)))
        it.assert_nothing_is_left()
        scheduler: Any = it.scheduler
        assert len(scheduler._deadlines._heap) <= 100


class Clock:
    """A clock that the test sets; on the event loop's own nothing is due."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(clock: Callable[[], float], live: set[str]) -> AsyncGenerator[Deadlines]:
    deadlines = Deadlines(clock, live)
    async with anyio.create_task_group() as tg:
        tg.start_soon(deadlines.run)
        yield deadlines
        tg.cancel_scope.cancel()


@on_virtual_time
async def test_callbacks_are_called_in_time_and_in_order():
    """To the second, whatever the order in which they were added; those of one time in the order of adding."""
    called: list[tuple[str, float]] = []
    began = anyio.current_time()

    def note(key: str) -> None:
        called.append((key, anyio.current_time() - began))

    async with running(anyio.current_time, set("abcd")) as deadlines:
        await settle()
        for key, at in (("c", 9), ("a", 3), ("b", 5), ("d", 9)):
            deadlines.add(began + at, key, note)
        await anyio.sleep(4)
        assert called == [("a", 3)]
        deadlines.add(began + 4.5, "a", note)
        await anyio.sleep(10)
    assert called == [("a", 3), ("a", 4.5), ("b", 5), ("c", 9), ("d", 9)]


async def test_what_is_due_when_it_is_added_is_called_at_once_and_never_from_within():
    """Deadlines that have passed already, too."""
    clock, called = Clock(), list[str]()
    clock.now = 100
    async with running(clock, {"a", "b"}) as deadlines:
        deadlines.add(100, "a", called.append)
        deadlines.add(7, "b", called.append)
        assert not called
        await settle()
    assert called == ["b", "a"]


async def test_a_call_that_has_ended_has_no_deadline():
    """It is looked up when the time has come, and also between two that are due together."""
    clock, live, called = Clock(), {"a", "b", "c"}, list[str]()

    def end_b(key: str) -> None:
        called.append(key)
        live.discard("b")

    async with running(clock, live) as deadlines:
        for key in "abc":
            deadlines.add(0, key, end_b)
        live.discard("c")
        await settle()
    assert called == ["a"]


def test_deadlines_of_ended_calls_do_not_pile_up():
    """The heap is at most twice the live calls and a few, and no live call loses its deadline."""
    live: set[str] = {"kept"}
    deadlines: Any = Deadlines(Clock(), live)
    deadlines.add(10_000, "kept", print)
    for number in range(5_000):
        live.add(str(number))
        deadlines.add(1 + number, str(number), print)
        live.discard(str(number))
        assert len(deadlines._heap) <= 2 * (len(live) + 1) + _SPARE + 1
    assert "kept" in [key for _, _, key, _ in deadlines._heap]
