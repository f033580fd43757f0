"""Durations: the median of a tool's last calls."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.durations import KEPT, Durations
from asyncfc_mcp.engine.wait import wait_for
from tests.support.parked_calls import OK
from tests.support.scheduler_lab import lab
from tests.support.virtual_time import on_virtual_time


@on_virtual_time
async def test_the_median_of_a_tools_last_calls_is_known():
    """Of the last nine; one outlier does not change it, and another tool has its own."""

    async def sleeps(call: Call, arguments: Any, on_progress: Any, on_sent: Callable[[], None]) -> Result:
        await anyio.sleep(arguments["s"])
        return OK

    async with lab(sleeps) as it:
        assert it.scheduler.durations.median_s("tool") is None
        for seconds in (60, 60, 1, 1, 1, 1, 1, 1, 1, 60):
            await wait_for([it.submit(arguments={"s": seconds})])
        assert it.scheduler.durations.median_s("tool") == pytest.approx(1)
        assert it.scheduler.durations.median_s("other") is None


def test_the_median_is_that_of_each_tools_last_nine():
    """Of two in the middle the longer one: a tool is taken for quick only where most of its calls are."""
    durations = Durations()
    assert durations.median_s("tool") is None
    for seconds, median in ((3, 3), (1, 3), (2, 2), (0, 2)):
        durations.add("tool", seconds)
        assert durations.median_s("tool") == median
    for _ in range(KEPT):
        durations.add("tool", 7)
    assert durations.median_s("tool") == 7
    assert durations.median_s("other") is None
