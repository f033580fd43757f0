"""A server is kept connected: started again after pauses that grow, or at once when a request needs it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import anyio
import pytest

from asyncfc_mcp.app import compose
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.downstream.restart_policy import BACKOFF_S, PROCESS_RETRY_S
from asyncfc_mcp.downstream.supervisor import Status
from asyncfc_mcp.errors import ServerUnavailable
from tests.support.inprocess_server import Process, Toy, spawning
from tests.support.virtual_time import on_virtual_time

CALL = {"name": "echo", "arguments": {}}


class Bench:
    """One server under a bridge; its processes, the times of their starts, and the reasons shown at these times."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        self.started: list[float] = []
        self.reasons: list[str] = []
        self.processes: list[Process] = []
        self._spawn = spawning({toy.name: toy})

    @asynccontextmanager
    async def spawn(self, name: str, *args: Any) -> AsyncGenerator[Process]:
        self.started.append(anyio.current_time())
        self.reasons.append(self._bridge.downstreams[name].reason)
        async with self._spawn(name, *args) as process:
            self.processes.append(process)
            yield process

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Downstream]:
        config = BridgeConfig((ServerConfig(self.toy.name, StdioSpec(self.toy.name), prefix=""),), Settings(), "test")
        with patch("asyncfc_mcp.downstream.connection.spawn", self.spawn):
            bridge = self._bridge = compose(config)
            bridge.server_requests.set_client_capabilities({})
            async with bridge.open():
                server = bridge.downstreams[self.toy.name]
                await server.wait_settled()
                yield server


def refusing() -> Toy:
    toy = Toy()
    toy.refuses = True
    return toy


@on_virtual_time
async def test_a_server_that_fails_is_started_again_after_growing_pauses():
    """Once more at once, with the handshake first; then the pauses double up to the longest."""
    bench = Bench(refusing())
    async with bench.open() as server:
        assert server.status is Status.FAILED
        await anyio.sleep(1000)
        pauses = [later - earlier for earlier, later in pairwise(bench.started)]
        assert pauses[:4] == pytest.approx([0, *(BACKOFF_S[0] * 2**n for n in range(3))])
        assert max(pauses) == pytest.approx(BACKOFF_S[1])
        bench.toy.refuses = False
        await anyio.sleep(BACKOFF_S[1] + 1)
        assert server.status is Status.READY
        assert server.reason == ""


@on_virtual_time
async def test_a_server_that_is_starting_again_says_why_it_failed():
    """The number of failures, and the last reason."""
    bench = Bench(refusing())
    async with bench.open() as server:
        assert "refused the connection" in server.reason
        await anyio.sleep(2)
        assert bench.reasons[0] == ""
        assert bench.reasons[2].startswith("failed before: it refused the connection")
        assert bench.reasons[3].startswith("failed 2 times, last: it refused the connection")


@on_virtual_time
async def test_a_request_starts_a_server_that_has_ended():
    """Without waiting for the end of the pause; what is not sent cannot be lost."""
    bench = Bench(Toy())
    async with bench.open() as server:
        for count in range(2, 6):
            bench.processes[-1].end()
            await anyio.sleep(0.01)
            assert server.status is Status.FAILED
            began = anyio.current_time()
            await server.request("tools/call", CALL)
            assert anyio.current_time() - began < BACKOFF_S[0]
            assert len(bench.started) == count
            await server.request("tools/call", CALL)  # a process that ends after one call would be a one-shot server


@on_virtual_time
async def test_a_server_that_ends_after_each_call_has_not_failed():
    """Its next process is started at once, and is there for the next call."""
    bench = Bench(Toy())
    async with bench.open() as server:
        for count in range(2, 6):
            await server.request("tools/call", CALL)
            bench.processes[-1].end()
            await anyio.sleep(0.01)
            assert server.status is Status.READY
            assert len(bench.started) == count


@on_virtual_time
async def test_requests_that_wait_for_one_start_share_it():
    """However many there are."""
    bench = Bench(Toy())
    async with bench.open() as server:
        bench.processes[-1].end()
        await anyio.sleep(0.01)
        async with anyio.create_task_group() as tg:
            for _ in range(20):
                tg.start_soon(server.request, "tools/call", CALL)
        assert len(bench.started) == 2


@on_virtual_time
async def test_a_request_does_not_start_a_server_that_has_just_failed_to_start():
    """It fails with the reason; a little later another one tries."""
    bench = Bench(refusing())
    async with bench.open() as server:
        pauses = [BACKOFF_S[0] * 2**n for n in range(4)]
        assert pauses[-1] > PROCESS_RETRY_S + 1, "a request is sooner than the next start"
        await anyio.sleep(sum(pauses[:-1]) + PROCESS_RETRY_S - 0.5)
        starts = len(bench.started)
        with pytest.raises(ServerUnavailable, match="refused the connection"):
            await server.request("tools/call", CALL)
        assert len(bench.started) == starts
        await anyio.sleep(1)
        assert len(bench.started) == starts
        bench.toy.refuses = False
        await server.request("tools/call", CALL)
        assert len(bench.started) == starts + 1


@on_virtual_time
async def test_nothing_is_sent_without_waiting_while_the_server_is_not_up():
    """The caller is told, and can wait."""
    bench = Bench(Toy())
    async with bench.open() as server:
        outcomes: list[Any] = []
        for _ in range(2):
            assert server.request_nowait("tools/call", CALL, outcomes.append) is not None
        await anyio.sleep(0.1)
        assert len(outcomes) == 2
        bench.processes[-1].end()
        await anyio.sleep(0.01)
        assert server.request_nowait("tools/call", CALL, outcomes.append) is None
        assert len(outcomes) == 2
