"""Calls of earlier runs beside those of this one, from the journal."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import pytest

from asyncfc_mcp.app import compose
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Policy, Settings
from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.identity import LOCAL, LOCAL_PRINCIPAL
from asyncfc_mcp.engine.call import CallContext, Submission
from asyncfc_mcp.engine.future_ids import FutureIds
from asyncfc_mcp.monitor.monitor import Monitor
from tests.support.inprocess_server import Toy, spawning

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def one_run(folder: Path) -> AsyncGenerator[tuple[Bridge, Monitor]]:
    """A run of a bridge with a journal, and its monitor."""
    toy = Toy()
    config = BridgeConfig((ServerConfig("toy", StdioSpec("toy"), prefix=""),), Settings(), source="test")
    with patch("asyncfc_mcp.downstream.connection.spawn", spawning({"toy": toy})):
        bridge = compose(config, ids=FutureIds(folder / "ids", "tests"), journal=folder / "journal")
        async with bridge.open(), anyio.create_task_group() as tg:
            await bridge.downstreams["toy"].wait_settled()
            monitor = Monitor(bridge, transport="daemon")
            await tg.start(monitor.run)
            yield bridge, monitor
            tg.cancel_scope.cancel()


async def made(bridge: Bridge, tool: str, arguments: dict[str, Any], **policy: Any) -> str:
    """Make a call, and wait for its end."""
    future = bridge.engine.submit_nowait(
        Submission(CallContext(LOCAL), "toy", tool, tool, arguments, Policy(**policy), read_only=True)
    )
    assert future is not None
    with anyio.fail_after(10):
        assert await bridge.engine.wait([future])
    return future.id


async def ids(monitor: Monitor, **words: str) -> list[str]:
    """IDs of all pages, of two calls each."""
    found: list[str] = []
    query = CallQuery.of({**words, "limit": "2"})
    while True:
        page = await monitor.calls(LOCAL_PRINCIPAL, query)
        found += [entry["id"] for entry in page.entries]
        if page.next is None:
            return found
        query = query.after(page.next)


async def test_calls_of_earlier_runs_are_found_with_arguments_and_results(tmp_path: Path):
    async with one_run(tmp_path) as (bridge, _):
        first = await made(bridge, "echo", {"text": "of the first run"})
        private = await made(bridge, "echo", {"text": "of the first run"}, journal=False)
        failed = await made(bridge, "fail", {"why": "no such thing"})
    async with one_run(tmp_path) as (bridge, monitor):
        second = await made(bridge, "echo", {"text": "of the second run"})
        assert await ids(monitor) == [second, failed, private, first]
        assert await ids(monitor, text="FIRST run") == [first]
        assert await ids(monitor, text="run") == [second, first]
        assert await ids(monitor, text="no such thing") == [failed]
        assert await ids(monitor, state="failed", server="toy") == [failed]
        assert await ids(monitor, server="other") == []
        details = await monitor.call(LOCAL_PRINCIPAL, first)
        assert details["arguments"] == {"text": "of the first run"}
        assert details["result"]["structuredContent"] == {"arguments": {"text": "of the first run"}}
        assert "no such thing" in (await monitor.call(LOCAL_PRINCIPAL, failed))["failure"]
        hidden = await monitor.call(LOCAL_PRINCIPAL, private)
        assert "arguments" not in hidden
        assert "first run" not in str(hidden)
        overview = await monitor.overview(LOCAL_PRINCIPAL)
        assert overview["journal"]["path"] == str(tmp_path / "journal")
        assert overview["journal"]["bytes"] > 0
        assert overview["saved"]["calls"] == {"session": 1, "day": 4, "all": 4}
        lines = b"".join([chunk async for chunk in monitor.export(LOCAL_PRINCIPAL, CallQuery(), "jsonl")])
        assert [json.loads(line)["id"] for line in lines.splitlines()] == [second, failed, private, first]
        trace = b"".join([chunk async for chunk in monitor.export(LOCAL_PRINCIPAL, CallQuery(), "trace")])
        assert sum(event["ph"] == "X" for event in json.loads(trace)["traceEvents"]) >= 4


async def test_calls_that_are_still_in_memory_are_found_once(tmp_path: Path):
    """Whether or not the journal has them already."""
    async with one_run(tmp_path) as (bridge, monitor):
        calls = [await made(bridge, "echo", {"n": number}) for number in range(5)]
        assert await ids(monitor) == calls[::-1]
        assert await ids(monitor, state="completed", text="echo") == calls[::-1]
