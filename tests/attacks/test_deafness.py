"""Servers that stop reading their input: one that works is waited for, one that hangs is started again.

Real processes under a bridge in the test's own process, whose times are short.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Sequence
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
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.downstream import connection, process, stall_policy
from asyncfc_mcp.engine.call import CallContext
from asyncfc_mcp.engine.wait import wait_for
from tests.support import hostile
from tests.support.virtual_time import settle

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="signs of life are read from /proc"),
]

STALL_S, SILENT_S, CLOSED_S = 0.5, 3.0, 1.0
LONG_S = 2 * SILENT_S
NEVER_S = 600
TEXT = "x" * (1 << 20)
"""More than a pipe holds."""


@pytest.fixture(params=["asyncio", pytest.param("trio", marks=pytest.mark.attacks_long)])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Both; one of them by default."""
    return request.param


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STALL_S": STALL_S, "SILENT_S": SILENT_S, "CLOSED_S": CLOSED_S}.items():
        monkeypatch.setattr(stall_policy, name, value)


class Bench:
    """A bridge over one hostile server."""

    def __init__(self, bridge: Bridge, starts: Sequence[str]) -> None:
        self.bridge = bridge
        self._starts = starts
        self.server = bridge.downstreams["bad"]

    @property
    def restarts(self) -> int:
        return len(self._starts) - 1

    async def call(self, tool: str, **arguments: Any) -> Future:
        future = await self.bridge.submitter.submit(self.bridge.directory.route(tool), arguments, CallContext(LOCAL))
        await settle()
        return future

    async def ended(self, *futures: Future) -> list[Any]:
        """What came of them: structured content, or the failure in words."""
        with anyio.fail_after(60):
            await wait_for(futures)
        return [future.result["structuredContent"] if future.result else str(future.failure) for future in futures]


@asynccontextmanager
async def bench(folder: Path, *, modern: bool = False, **policy: Any) -> AsyncGenerator[Bench]:
    tools = [hostile.tool(name) for name in ("work", "deaf", "give")]
    path = hostile.script(folder, "server", tools=tools, modern=modern)
    spec = StdioSpec(sys.executable, (hostile.__file__, path))
    config = ServerConfig("bad", spec, prefix="", base=Policy(**policy))
    starts: list[str] = []

    def spawn(name: str, *args: Any) -> Any:
        starts.append(name)
        return process.spawn(name, *args)

    with patch.object(connection, "spawn", spawn):
        async with compose(BridgeConfig((config,), Settings(), source="test")).open() as bridge:
            await bridge.downstreams["bad"].wait_settled()
            yield Bench(bridge, starts)


@pytest.mark.parametrize(
    ("how", "timeout_s"), [("spin", None), ("talk", None), ("sleep", 60.0)], ids=["spin", "talk", "within its time"]
)
async def test_a_server_that_works_is_waited_for(tmp_path: Path, how: str, timeout_s: float | None):
    """Its loop is blocked by one call for many times the bound, and a megabyte waits for it: both are answered."""
    async with bench(tmp_path, timeout_s=timeout_s) as it:
        working = await it.call("work", seconds=LONG_S, how=how)
        behind = await it.call("give", n=1, text=TEXT)
        assert await it.ended(working, behind) == [{"seconds": LONG_S, "how": how}, {"n": 1, "text": TEXT}]
        assert it.restarts == 0


async def test_a_server_that_hangs_in_a_call_is_started_again(tmp_path: Path):
    """It shows no sign of life: the call fails, and what it has not read goes to its next process."""
    async with bench(tmp_path) as it:
        hanging = await it.call("work", seconds=NEVER_S, how="sleep")
        behind = [await it.call("give", n=n, text=TEXT) for n in range(3)]
        failure, *rest = await it.ended(hanging, *behind)
        assert "stopped reading its input" in failure
        assert "may or may not" in failure
        assert [each["n"] for each in rest[1:]] == [1, 2]
        assert it.restarts == 1


async def test_a_server_whose_call_was_given_up_is_started_again(tmp_path: Path):
    """The call's own limit ends it; then nothing is owed, and the server still does not read."""
    async with bench(tmp_path, timeout_s=2.0) as it:
        hanging = await it.call("work", seconds=NEVER_S, how="spin")
        behind = await it.call("give", n=1, text=TEXT)
        assert "did not finish within 2 s" in (await it.ended(hanging))[0]
        await it.ended(behind)
        later: list[Any] = []
        while {"n": 2} not in later:  # until its next process serves, calls reach their limit, too
            assert len(later) < 15, later
            later += await it.ended(await it.call("give", n=2))
        assert it.restarts == 1


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize("closes", [False, True])
async def test_a_server_that_owes_nothing_and_does_not_read_is_started_again(
    tmp_path: Path, closes: bool, modern: bool
):
    """Also where it was asked to tell of changes for as long as it lives: that is no answer that it owes."""
    async with bench(tmp_path, modern=modern) as it:
        assert it.server.modern == modern
        assert await it.ended(await it.call("deaf", answers=True, closes=closes)) == [{"heard": True}]
        behind = [await it.call("give", n=n, text=TEXT) for n in range(2)]
        first, second = await it.ended(*behind)
        assert second["n"] == 1
        # A part of it was written where the pipe was still open.
        assert first["n"] == 0 if closes and isinstance(first, dict) else "stopped reading its input" in first
        assert it.restarts == 1


@pytest.mark.parametrize(("how", "answered"), [("spin", True), ("sleep", False)])
async def test_what_a_server_that_closed_its_input_still_owes(tmp_path: Path, how: str, answered: bool):
    """It is waited for while it works, and others go to its next process."""
    async with bench(tmp_path) as it:
        arguments = {"seconds": 2 * CLOSED_S if answered else NEVER_S, "how": how, "closes": True}
        working = await it.call("work", **arguments)
        await anyio.sleep(0.3)
        behind = await it.call("give", n=1)
        outcome, after = await it.ended(working, behind)
        assert outcome == arguments if answered else "stopped reading its input" in outcome
        assert after == {"n": 1}
        assert it.restarts == 1
