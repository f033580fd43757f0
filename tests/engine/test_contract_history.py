"""The contract of `engine.api.Engine`, over every implementation: what outlives memory can be searched."""

import pytest

from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.identity import LOCAL, PUBLIC
from tests.support.engines import OpenBench
from tests.support.parked_calls import failing, text

pytestmark = pytest.mark.anyio


async def test_calls_that_have_ended_are_found_with_what_they_waited_for(bench: OpenBench):
    """Newest first, by server, state, text and page; nothing where only memory has them."""
    async with bench() as it:
        first = await it.submit(server="one")
        second = await it.submit(server="two", needs=[first])
        third = await it.submit(server="two", needs=[first])
        running = await it.submit(server="one")
        await it.engine.cancel(third)
        await it.ended(third)
        await it.end(first, text("a needle"))
        await it.end(second, failing("no"))

        async def found(query: CallQuery) -> list[str]:
            return [future.id for future in (await it.engine.history(LOCAL, query, lambda _: True)).futures]

        if not it.outlives_memory:
            assert await found(CallQuery()) == []
            return
        assert await found(CallQuery()) == [third.id, second.id, first.id]
        assert await found(CallQuery(servers=("two",))) == [third.id, second.id]
        assert await found(CallQuery(states=(State.FAILED,))) == [second.id]
        assert await found(CallQuery(text="NEEDLE")) == [first.id]
        assert await found(CallQuery(before=third.id, limit=5)) == [second.id, first.id]
        page = await it.engine.history(LOCAL, CallQuery(limit=1), lambda server: server == "two")
        assert ([future.id for future in page.futures], page.until) == ([third.id, second.id], int(second.id[1:]))
        assert (await it.engine.history(PUBLIC, CallQuery(), lambda _: True)).futures == []
        for future in (await it.engine.history(LOCAL, CallQuery(limit=2), lambda _: True)).futures[:2]:
            assert [(wait.kind.value, wait.on) for wait in future.waits] == [("value", first.id)]
        runs = await it.engine.recorded_runs(LOCAL, 0.0)
        assert runs is not None
        assert len(runs) == 2
        assert all(run.ended_at >= run.started_at for run in runs)
        assert {future.id for future in it.engine.in_memory(LOCAL)} >= {running.id}
        await it.end(running)
