"""Submissions whose callers are gone before they are committed."""

import anyio
import anyio.lowlevel
import pytest

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.identity import LOCAL
from tests.support.cluster import cluster

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("ends", [True, False])
async def test_a_call_that_ends_with_its_request_does_not_outlive_it(postgres_url: str, ends: bool):
    """Any other one is made: it has its future, which can be listed."""
    async with cluster(postgres_url) as it:
        bench = it.replicas[0]
        gone = bench.submission(writes="a", tool="gone", context={"ends_with_request": ends})
        async with anyio.create_task_group() as tg:
            tg.start_soon(bench.engine.submit, gone)
            await anyio.lowlevel.checkpoint()
            tg.cancel_scope.cancel()
        with anyio.fail_after(10):
            while await it.replicas[1].engine.find(LOCAL, "f1") is None:  # it was submitted all the same
                await anyio.lowlevel.checkpoint()
        behind = await it.submit(1, writes="a", tool="behind")
        if not ends:
            await it.end(await it.seen(0, "f1"))
        await it.end(behind)
        with anyio.fail_after(10):
            assert await it.replicas[1].engine.wait([behind, first := await it.seen(1, "f1")])
        assert first.state is (State.CANCELLED if ends else State.COMPLETED)
        assert behind.state is State.COMPLETED
        assert [each.id for each in await bench.engine.list_futures(LOCAL)] == ["f2", "f1"]
