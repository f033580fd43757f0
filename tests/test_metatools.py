"""Waiting: what a client hears while it does."""

from itertools import pairwise
from typing import Any

import anyio
import pytest
from lab import on_virtual_time

from asyncfc_mcp import metatools
from asyncfc_mcp.futures import LOCAL, Event, Future, FutureStore


@pytest.mark.parametrize("several", [False, True])
def test_futures_that_keep_saying_something_do_not_silence_the_heartbeat(several: bool) -> None:
    """The interval counts from the last report, not from the last change; and the numbers grow."""

    @on_virtual_time
    async def check() -> None:
        store = FutureStore(anyio.current_time)
        futures: list[Future] = []
        for _ in range(2 if several else 1):
            futures.append(store.create(LOCAL, tool="t", server="s"))
            futures[-1].apply(Event.START)
        reports: list[tuple[float, float]] = []

        async def report(progress: float, *_: Any) -> None:
            reports.append((anyio.current_time(), progress))

        async def chatter() -> None:
            while True:
                for future in futures:
                    future.progress = (1.0, None, "the same")
                    future.changed()
                await anyio.sleep(0.7)

        began = anyio.current_time()
        async with anyio.create_task_group() as tg:
            tg.start_soon(chatter)
            tg.start_soon(metatools._keep_awake, futures, report, 5.0)
            await anyio.sleep(60)
            tg.cancel_scope.cancel()
        times = [began, *(at for at, _ in reports)]
        assert max(later - earlier for earlier, later in pairwise(times)) < 7
        assert len(reports) < 20
        numbers = [progress for _, progress in reports]
        assert numbers == sorted(set(numbers))

    check()
