"""Names that another replica gives while a call waits for them."""

from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from asyncfc_mcp.core.effects import NOTHING
from asyncfc_mcp.core.identity import HOST, LOCAL, CallerIdentity
from asyncfc_mcp.engine.call import PendingCall
from asyncfc_mcp.signals import WakeUp
from tests.support.cluster import cluster
from tests.support.engines import Bench

pytestmark = pytest.mark.anyio

HERE, THERE = (CallerIdentity("h", token=f"{HOST}h") for _ in range(2))
"""One caller, as two replicas know it."""


async def wait_for_name(bench: Bench) -> None:
    """Return when a call that needs `later` may be submitted, which is in memory then."""
    await bench.engine.wait_for_turn(PendingCall(LOCAL, THERE, None, NOTHING, (), (), False, required=("later",)))
    assert bench.engine.find_own_nowait(LOCAL, "later", THERE) is not None


async def test_a_call_that_waits_is_woken_by_a_name_that_is_given_elsewhere(postgres_url: str):
    """It does not wait until its time is over."""
    async with cluster(postgres_url, forward_wait_ms=600_000) as it:
        first, second = it.replicas
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tg:
                tg.start_soon(wait_for_name, second)
                while not second.engine.has_pending:
                    await anyio.lowlevel.checkpoint()
                named = await first.engine.submit(first.submission(name="later", namer=HERE))
        await it.end(named)


async def test_the_database_is_asked_once_more_before_a_name_counts_as_unknown(postgres_url: str):
    """A notification may have been lost."""
    async with cluster(postgres_url, forward_wait_ms=1) as it:
        first, second = it.replicas
        cast("Any", second.engine)._names_wanted = WakeUp()  # which nothing waits for
        named = await first.engine.submit(first.submission(name="later", namer=HERE))
        await wait_for_name(second)
        await it.end(named)
