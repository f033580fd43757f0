"""The end of a client's input: what waits is given up so that nothing new begins."""

import logging
from typing import Any

import anyio
import pytest

from asyncfc_mcp.config.settings import AccessEntry, Settings
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.engine.call import CallContext
from asyncfc_mcp.transports.lifecycle import drain, warn_of_useless_access
from tests.support.inprocess_server import Got, Toy, bridge_over
from tests.support.virtual_time import on_virtual_time, settle


@on_virtual_time
async def test_at_the_end_of_a_drain_the_newest_call_that_waits_is_given_up_first():
    """Then the one before it, and those that run at last: the end of none starts another."""
    toy = Toy()

    async def write(got: Got) -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    toy.add("write", write, annotations={"readOnlyHint": False})
    async with bridge_over(toy, drain_s=5) as bridge:
        ended: list[str] = []

        def note(future: Future) -> None:
            if future.done and future.id not in ended:
                ended.append(future.id)

        futures: list[Future] = []
        # Writes wait for each other, and a gate for nothing.
        for tool in ("write", "gate", "write", "write", "write"):
            future = await bridge.submitter.submit(bridge.directory.route(tool), {"name": "never"}, CallContext(LOCAL))
            future.watchers.append(note)
            futures.append(future)
        await settle()
        began = [got.tool for got in toy.got]
        assert began == ["write", "gate"]
        await drain(bridge, settle)
        await settle()
        assert [got.tool for got in toy.got] == began
        one, other, *waiting = (future.id for future in futures)
        assert ended[:3] == waiting[::-1]
        assert set(ended[3:]) == {one, other}
        assert sorted(toy.cancelled) == ["gate", "write"]


def test_entries_that_apply_to_nobody_are_a_warning(caplog: pytest.LogCaptureFixture):
    """Over stdio all but that for everybody; none where their principals can come."""
    settings = Settings(access={name: AccessEntry() for name in ("alice", "scope:ops", "*")})
    with caplog.at_level(logging.WARNING):
        warn_of_useless_access(Settings())
        warn_of_useless_access(settings, ("alice",))
        warn_of_useless_access(settings, tokens=True)
        assert not caplog.records
        warn_of_useless_access(settings)
    [record] = caplog.records
    assert "alice, scope:ops:" in record.getMessage()
