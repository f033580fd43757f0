"""A server that starts when it is needed: started by a request, ended without one; no request is lost in between."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.app import compose
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.downstream.on_demand import OLD_S, UNUSED_S
from asyncfc_mcp.downstream.supervisor import Status
from asyncfc_mcp.errors import NotSignedIn, SignInNeeded
from tests.support.inprocess_server import Process, Toy, spawning
from tests.support.virtual_time import on_virtual_time, run_on_virtual_time

CALL = {"name": "echo", "arguments": {}}
IDLE_S = 100.0
END_S = 2.0
"""Time that a process takes to end."""


class Bench:
    """One server under a bridge with a cache of listings; starts and ends of its processes."""

    def __init__(self, folder: Path, toy: Toy | None = None, **server: Any) -> None:
        self.toy = toy or Toy()
        self.cache = ListingCache(folder)
        self.config = ServerConfig(
            self.toy.name, StdioSpec(self.toy.name), **{"prefix": "", "start": "lazy", "idle_s": IDLE_S, **server}
        )
        self.refusal: Exception | None = None
        """Failure of all starts."""
        self.starts = 0
        self.running = 0
        self.most_running = 0
        self._spawn = spawning({self.toy.name: self.toy})

    @asynccontextmanager
    async def spawn(self, name: str, *args: Any) -> AsyncGenerator[Process]:
        self.starts += 1
        if self.refusal is not None:
            raise self.refusal
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            async with self._spawn(name, *args) as process:
                yield process
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(END_S)
            self.running -= 1

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncGenerator[Bridge]:
        with patch("asyncfc_mcp.downstream.connection.spawn", self.spawn):
            bridge = compose(BridgeConfig((self.config,), Settings(), "test"), cache=self.cache, **options)
            bridge.server_requests.set_client_capabilities({})
            async with bridge.open():
                await bridge.directory.wait_for_catalog()
                yield bridge

    async def list_once(self) -> None:
        """Have the listings of the server known from an earlier run."""
        async with self.open(connect_all=True) as bridge:
            await bridge.downstreams[self.toy.name].wait_until_listed()
        self.starts = 0

    def age(self, seconds: float) -> None:
        """Have the cached listings be older than they are."""
        for path in Path(self.cache._folder or "").iterdir():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))

    def server(self, bridge: Bridge) -> Downstream:
        return bridge.downstreams[self.toy.name]


@on_virtual_time
async def test_a_server_with_known_listings_is_started_by_its_first_request(tmp_path: Path):
    """Until then there is no process, and its tools are listed; the bridge has started, the server is available."""
    bench = Bench(tmp_path)
    await bench.list_once()
    async with bench.open() as bridge:
        await bridge.started()
        await anyio.sleep(1000)
        assert (bench.starts, bench.server(bridge).status) == (0, Status.SLEEPING)
        assert "echo" in bridge.directory.catalog.tools
        assert bridge.directory.unavailable_servers() == []
        assert bridge.directory.sleeping_servers() == [("toy", "sleeping: starts at its first call")]
        await bench.server(bridge).request("tools/call", CALL)
        assert (bench.starts, bench.server(bridge).status) == (1, Status.READY)


@on_virtual_time
async def test_a_server_is_ended_after_its_idle_time_and_started_again(tmp_path: Path):
    """Counted from the end of its last request; its tools stay."""
    bench = Bench(tmp_path)
    await bench.list_once()
    async with bench.open() as bridge:
        for starts in (1, 2):
            await bench.server(bridge).request("tools/call", CALL)
            await anyio.sleep(IDLE_S - 1)
            await bench.server(bridge).request("tools/call", {"name": "sleep", "arguments": {"s": 3 * IDLE_S}})
            await anyio.sleep(IDLE_S - 1)
            assert (bench.starts, bench.running) == (starts, 1)
            await anyio.sleep(2 + END_S)
            assert (bench.running, bench.server(bridge).status) == (0, Status.SLEEPING)
            assert bench.server(bridge).condition.startswith("sleeping since ")
            assert "echo" in bridge.directory.catalog.tools


@on_virtual_time
async def test_a_server_without_known_listings_starts_at_once_and_then_sleeps(tmp_path: Path):
    """It has had no request, so that it has no state, whatever its idle time is."""
    bench = Bench(tmp_path, idle_s=None)
    async with bench.open() as bridge:
        assert bench.starts == 1
        await anyio.sleep(UNUSED_S + 1)
        assert bench.server(bridge).status is Status.SLEEPING


@on_virtual_time
async def test_a_server_of_which_nothing_is_known_is_not_ended_once_it_was_used(tmp_path: Path):
    """Its process may have state that a new one would not have."""
    bench = Bench(tmp_path, idle_s=None)
    await bench.list_once()
    async with bench.open() as bridge:
        await bench.server(bridge).request("tools/call", CALL)
        await anyio.sleep(80_000)
        assert bench.server(bridge).status is Status.READY


@on_virtual_time
async def test_auto_is_lazy_in_a_daemon_only(tmp_path: Path):
    """In a bridge of one session, the session is the time for which servers are needed."""
    bench = Bench(tmp_path, start="auto")
    await bench.list_once()
    for daemon, starts in ((True, 0), (False, 1)):
        async with bench.open(daemon=daemon):
            await anyio.sleep(1000)
            assert bench.starts == starts


@on_virtual_time
async def test_old_listings_are_read_again_after_the_client_was_answered(tmp_path: Path):
    """Then the server sleeps again, and what has changed is announced."""
    bench = Bench(tmp_path)
    await bench.list_once()
    bench.age(OLD_S)
    bench.toy.add("new", bench.toy.tools["echo"])
    async with bench.open() as bridge:
        seen: list[frozenset[str]] = []
        bridge.directory.observe(seen.append)
        await anyio.sleep(1000)
        assert bench.starts == 0
        bridge.directory.hand_out()
        await anyio.sleep(UNUSED_S + END_S + 1)
        assert (bench.starts, bench.running) == (1, 0)
        assert "new" in bridge.directory.catalog.tools
        assert seen == [frozenset({"tools"})]
    bench.age(OLD_S - 100)
    async with bench.open() as bridge:
        bridge.directory.hand_out()
        await anyio.sleep(90)
        assert bench.starts == 1, "the listings were read in this run, and count as new"


@on_virtual_time
async def test_unchanged_listings_that_were_read_again_count_as_new(tmp_path: Path):
    """Otherwise each start of the bridge would start the server."""
    bench = Bench(tmp_path)
    await bench.list_once()
    bench.age(OLD_S)
    for _ in range(2):
        async with bench.open() as bridge:
            bridge.directory.hand_out()
            await anyio.sleep(1000)
        assert bench.starts == 1


@on_virtual_time
async def test_listings_with_a_fault_count_as_old(tmp_path: Path):
    """Pages may be missing that a bridge had not read when it ended."""
    bench = Bench(tmp_path)
    plain = bench.toy._on_request

    async def on_request(inbound: Any, method: str, params: Any) -> dict[str, Any]:
        result = await plain(inbound, method, params)
        return result | {"nextCursor": 1} if method == "tools/list" else result

    bench.toy._on_request = on_request
    await bench.list_once()
    bench.toy._on_request = plain
    async with bench.open() as bridge:
        bridge.directory.hand_out()
        await anyio.sleep(1000)
        assert bench.starts == 1
    async with bench.open() as bridge:
        bridge.directory.hand_out()
        await anyio.sleep(1000)
        assert bench.starts == 1


@on_virtual_time
async def test_a_subscription_keeps_a_server_running(tmp_path: Path):
    """Until it is ended."""
    toy = Toy()
    plain = toy._on_request

    async def on_request(inbound: Any, method: str, params: Any) -> dict[str, Any]:
        return {} if method.startswith("resources/") else await plain(inbound, method, params)

    toy._on_request = on_request
    bench = Bench(tmp_path, toy)
    await bench.list_once()
    async with bench.open() as bridge:
        await bench.server(bridge).subscribe("toy://x")
        await anyio.sleep(10 * IDLE_S)
        assert bench.server(bridge).status is Status.READY
        await bench.server(bridge).unsubscribe("toy://x")
        await anyio.sleep(IDLE_S + 1)
        assert bench.server(bridge).status is Status.SLEEPING


@on_virtual_time
async def test_a_call_during_the_end_of_a_process_waits_for_the_next_one(tmp_path: Path):
    """Two processes of one server never run side by side: they may use the same files."""
    bench = Bench(tmp_path)
    await bench.list_once()
    async with bench.open() as bridge:
        server = bench.server(bridge)
        await server.request("tools/call", CALL)
        await anyio.sleep(IDLE_S + END_S / 2)
        assert bench.running == 1
        assert server.request_nowait("tools/call", CALL, lambda outcome: None) is None
        await server.request("tools/call", CALL)
        assert (bench.starts, bench.most_running, len(bench.toy.got)) == (2, 1, 2)


@on_virtual_time
async def test_a_server_that_fails_to_start_for_a_call_says_why(tmp_path: Path):
    """As one that was started with the bridge does."""
    bench = Bench(tmp_path)
    await bench.list_once()
    bench.toy.refuses = True
    async with bench.open() as bridge:
        with pytest.raises(Exception, match="refused the connection"):
            await bench.server(bridge).request("tools/call", CALL)
        assert bridge.directory.unavailable_servers()[0][1].startswith("failed: ")


@on_virtual_time
async def test_a_server_that_needs_a_sign_in_says_so_at_its_first_call(tmp_path: Path):
    """Nothing is asked of the user before, and the call fails with what to do, as at a server that is up."""
    bench = Bench(tmp_path)
    await bench.list_once()
    bench.refusal = SignInNeeded("toy", ("read",), "its token was revoked")
    async with bench.open() as bridge:
        await anyio.sleep(1000)
        assert bridge.directory.unavailable_servers() == []
        with pytest.raises(NotSignedIn, match="asyncfc-mcp login toy"):
            await bench.server(bridge).request("tools/call", CALL)
        assert bench.server(bridge).status is Status.SIGN_IN


@given(
    st.lists(
        st.tuples(
            st.floats(0, 3).map(lambda x: round(x, 1)),
            st.sampled_from(["request", "nowait"]),
            st.floats(0, 2).map(lambda x: round(x, 1)),
        ),
        max_size=12,
    ),
    st.sampled_from([0.1, 1.0, 2.0]),
)
@settings(max_examples=40, deadline=None)
def test_no_call_is_lost_or_sent_twice(tmp_path_factory: Any, calls: list[tuple[float, str, float]], idle_s: float):
    """Whatever the times of calls are, relative to the ends of the process."""
    folder = tmp_path_factory.mktemp("cache")

    async def run() -> None:
        bench = Bench(folder, idle_s=idle_s)
        await bench.list_once()
        answered: list[Any] = []
        async with bench.open() as bridge, anyio.create_task_group() as tg:
            server = bench.server(bridge)

            async def call(kind: str, number: int, seconds: float) -> None:
                params = {"name": "sleep", "arguments": {"s": seconds, "number": number}}
                if kind == "request" or server.request_nowait("tools/call", params, answered.append) is None:
                    answered.append(await server.request("tools/call", params))

            for number, (pause, kind, seconds) in enumerate(calls):
                await anyio.sleep(pause)
                tg.start_soon(call, kind, number, seconds)
            await anyio.sleep(1000)
        assert len(answered) == len(calls)
        assert all("content" in outcome for outcome in answered)
        assert sorted(got.arguments["number"] for got in bench.toy.got) == list(range(len(calls)))
        assert bench.most_running == 1

    run_on_virtual_time(run)
