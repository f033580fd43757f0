"""Callbacks from threads run in the event loop, where everything of anyio works."""

import threading

import anyio
import anyio.lowlevel
import pytest

from asyncfc_mcp.signals import soon_from_thread

pytestmark = pytest.mark.anyio


async def test_a_callback_of_a_thread_can_start_tasks():
    """It finds the event loop, as one that a task calls: calls are sent from there."""
    started: list[anyio.CancelScope] = []
    done = anyio.Event()
    async with anyio.create_task_group() as tg:

        async def task(scope: anyio.CancelScope) -> None:
            with scope:
                await anyio.lowlevel.checkpoint()
                started.append(scope)
            done.set()

        soon = soon_from_thread(lambda: tg.start_soon(task, anyio.CancelScope()))
        threading.Thread(target=soon).start()
        with anyio.fail_after(5):
            await done.wait()
    assert len(started) == 1


def test_a_callback_after_the_end_of_the_loop_is_dropped():
    """The thread is not told, since it cannot do anything about it."""
    called: list[int] = []

    async def main() -> object:
        return soon_from_thread(lambda: called.append(1))

    soon = anyio.run(main)
    assert callable(soon)
    soon()
    assert called == []
