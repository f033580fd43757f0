"""Sleeps of the machine, stops of the process, and changes of the network: what happened meanwhile costs no call, and
no call is made twice."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from asyncfc_mcp import suspension
from asyncfc_mcp.app import compose
from asyncfc_mcp.config.model import BridgeConfig, HttpSpec, ServerConfig
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.downstream.http import sse
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.downstream.snapshot import ServerSnapshot
from tests.support.black_hole import BlackHole, black_hole
from tests.support.client import MODERN, text_of
from tests.support.hostile_http import Exchange, HostileServer
from tests.support.stage import Stage

ENOUGH_S = 20
HANDSHAKE_VERSION = "2025-11-25"


class Machine:
    """A machine that sleeps when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept = 0.0
        monkeypatch.setattr(suspension, "slept_s", lambda: self.slept)

    def sleep(self) -> None:
        self.slept += 3600


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


class Remembered(ListingCache):
    """A cache that knows which protocol a server used last."""

    def __init__(self, version: str) -> None:
        super().__init__(None)
        self._version = version

    def load(self, config: ServerConfig) -> ServerSnapshot:
        return ServerSnapshot(protocol_version=self._version)


@asynccontextmanager
async def connected(url: str, version: str = HANDSHAKE_VERSION) -> AsyncGenerator[Downstream]:
    """A bridge over one server, that uses this protocol."""
    spec = HttpSpec(url, kind="sse" if url.endswith("/sse") else "http")
    config = BridgeConfig((ServerConfig("s", spec),), identity="test")
    async with compose(config, cache=Remembered(version)).open() as bridge:
        with anyio.fail_after(ENOUGH_S):
            await bridge.downstreams["s"].wait_until_ready()
        yield bridge.downstreams["s"]


async def count(server: Downstream) -> int:
    """Make a call, and return how many the server has seen."""
    with anyio.fail_after(ENOUGH_S):
        result = await server.request("tools/call", {"name": "counter", "arguments": {}})
    return json.loads(result["content"][0]["text"])["count"]


async def until(what: Callable[[], object]) -> None:
    with anyio.fail_after(ENOUGH_S):
        while not what():  # noqa: ASYNC110 - nobody tells us
            await anyio.sleep(0.01)


def over_proxy(test: Callable[..., Awaitable[None]], url: str, *args: Any) -> None:
    """Run a test with a proxy before a server."""

    async def run() -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        async with black_hole(parts.port) as proxy:
            await test(proxy, f"http://127.0.0.1:{proxy.port}{parts.path}", *args)

    anyio.run(run)


@pytest.mark.parametrize("version", [HANDSHAKE_VERSION, MODERN])
def test_a_call_after_a_sleep_uses_no_dead_connection(stage: Stage, machine: Machine, version: str):
    """It is made once, on a new connection; notifications arrive again, in both eras."""

    async def test(proxy: BlackHole, url: str) -> None:
        async with connected(url, version) as server:
            assert server.modern == (version == MODERN)
            first = await count(server)
            proxy.kill()
            machine.sleep()
            assert await count(server) == first + 1
            assert await count(server) == first + 2
            tools = len(server.snapshot.listing("tools"))

            async def grown() -> None:
                # The stream for notifications is opened anew beside the call, and the first change may come before it.
                while len(server.snapshot.listing("tools")) == tools:
                    name = f"tool-{time.monotonic_ns()}"
                    await server.request("tools/call", {"name": "add_tool", "arguments": {"name": name}})
                    with anyio.move_on_after(0.5):
                        await until(lambda: len(server.snapshot.listing("tools")) > tools)

            with anyio.fail_after(ENOUGH_S):
                await grown()

    over_proxy(test, stage.http_toy())


@pytest.mark.parametrize("dead", [True, False], ids=["dead", "alive"])
def test_an_event_stream_is_probed_after_a_sleep(
    stage: Stage, machine: Machine, monkeypatch: pytest.MonkeyPatch, dead: bool
):
    """HTTP+SSE: responses would be lost on a dead one, so that it is replaced before a call is sent; one that is alive
    stays."""
    monkeypatch.setattr(sse, "PROBE_TIMEOUT_S", 0.5 if dead else ENOUGH_S)

    async def test(proxy: BlackHole, url: str) -> None:
        async with connected(url) as server:
            first = await count(server)
            stream = server._supervisor.connection
            if dead:
                proxy.kill()
            machine.sleep()
            assert await count(server) == first + 1
            assert (server._supervisor.connection is not stream) == dead

    over_proxy(test, stage.http_toy("--sse"))


def test_a_call_that_runs_during_a_sleep_keeps_its_connection(stage: Stage, machine: Machine):
    """Its peer may be well: only connections that nobody uses are dropped, and those of old pools are closed later."""

    async def test(proxy: BlackHole, url: str) -> None:
        async with connected(url) as server, anyio.create_task_group() as tg:
            texts: list[str] = []

            async def slow() -> None:
                arguments = {"seconds": 1, "tag": "slept"}
                result = await server.request("tools/call", {"name": "sleep", "arguments": arguments})
                texts.append(result["content"][0]["text"])

            first = await count(server)
            tg.start_soon(slow)
            connection = server._supervisor.connection
            assert connection is not None
            await until(lambda: connection.transport is not None and connection.transport.in_flight)
            await anyio.sleep(0.1)  # the request is on its way
            machine.sleep()
            assert await count(server) == first + 1
            with anyio.fail_after(ENOUGH_S):
                while not texts:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            assert connection.transport is not None
            await until(lambda: not connection.transport.http._replaced)  # pyright: ignore

    over_proxy(test, stage.http_toy())


def test_a_server_at_another_address_is_found_again(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """A change of the network: connections are refused for a while, then the name has another address."""
    addresses = ["127.0.0.1"]
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        known = host in ("localhost", b"localhost")
        return resolve(addresses[0] if known else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    port = urlsplit(stage.http_toy()).port
    assert port is not None

    async def test() -> None:
        async with black_hole(port) as before:
            url = f"http://localhost:{before.port}/mcp"
            async with connected(url) as server, anyio.create_task_group() as tg:
                first = await count(server)
                addresses[0] = "127.0.0.3"  # nothing listens there yet
                before.kill()
                suspension_s = suspension.slept_s() + 100
                monkeypatch.setattr(suspension, "slept_s", lambda: suspension_s)
                with pytest.raises(Exception, match="connection refused"):
                    await count(server)

                async def moved(*, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
                    async with black_hole(port, "127.0.0.3", before.port):
                        task_status.started()
                        await anyio.sleep_forever()

                await tg.start(moved)
                assert await count(server) == first + 1
                tg.cancel_scope.cancel()

    anyio.run(test)


def test_sessions_that_were_forgotten_while_the_bridge_was_stopped_cost_nothing(stage: Stage):
    """The call is made once, in a new session."""
    made: list[str] = []

    def note(exchange: Exchange) -> None:
        made.append(exchange.message["params"]["arguments"]["n"])
        exchange.send(exchange.text("noted"))

    with HostileServer({"note": note}) as server:
        wire = stage.serve("--url", server.url)
        wire.wait_for_tools("note")
        assert text_of(wire.outcome(wire.submit("note", {"n": "1"}).id)) == "noted"
        wire.process.send_signal(signal.SIGSTOP)
        server.forget()
        server.hang_up()
        wire.process.send_signal(signal.SIGCONT)
        assert text_of(wire.outcome(wire.submit("note", {"n": "2"}).id)) == "noted"
        assert made == ["1", "2"]


@pytest.mark.parametrize("remote", [False, True], ids=["stdio", "http"])
def test_answers_that_came_while_the_bridge_was_stopped_count(stage: Stage, remote: bool):
    """Although the time limit of their calls has passed before they are read."""
    entry: dict[str, Any] = {"url": stage.http_toy()} if remote else stage.toy("modern")
    wire = stage.bridge({"toy": entry}, timeout_s=1.5)
    wire.wait_for_tools("toy__sleep")
    futures = [wire.submit("toy__sleep", {"seconds": 0.5, "tag": str(n)}).id for n in range(3)]
    time.sleep(0.2)  # the calls are on their way
    wire.process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    wire.process.send_signal(signal.SIGCONT)
    outcomes = [wire.outcome(future) for future in futures]
    assert not [text_of(outcome) for outcome in outcomes if outcome.get("isError")]
