"""The directory: what is listed at this moment, when it is seen, and how a tool is waited for.

Over servers in the test's own process. Names are `core/test_catalog.py`'s, announcements to clients
`upstream/test_notifications.py`'s.
"""

import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import anyio
import pytest

from asyncfc_mcp.app import compose
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.downstream.snapshot import ServerSnapshot
from asyncfc_mcp.errors import UnknownTool
from tests.support.inprocess_server import Got, Toy, bridge_over, spawning, text_result
from tests.support.virtual_time import on_virtual_time


class Late(Toy):
    """A server that reads its input only after a while."""

    def __init__(self, after_s: float, name: str = "toy") -> None:
        super().__init__(name)
        self.after_s, self.reads_at = after_s, math.inf

    async def _on_request(self, inbound: Any, method: str, params: Any) -> dict[str, Any]:
        self.reads_at = min(self.reads_at, anyio.current_time() + self.after_s)
        await anyio.sleep_until(self.reads_at)
        return await super()._on_request(inbound, method, params)


@asynccontextmanager
async def composed(toys: Mapping[str, Toy], snapshot: ServerSnapshot | None = None) -> AsyncGenerator[Bridge]:
    """Open a bridge over servers that start while it is open.

    Args:
        snapshot: of each server, from an earlier run.
    """

    class Cache(ListingCache):
        def load(self, config: ServerConfig) -> ServerSnapshot | None:
            return snapshot

    servers = tuple(ServerConfig(name, StdioSpec(name)) for name in toys)
    with patch("asyncfc_mcp.downstream.connection.spawn", spawning(toys)):
        async with compose(BridgeConfig(servers, source="test"), cache=Cache(None)).open() as bridge:
            bridge.starts.on_client_answered()
            yield bridge


async def _tool(got: Got) -> dict[str, Any]:
    return text_result("new")


@on_virtual_time
async def test_a_tool_is_found_as_soon_as_it_is_listed():
    """One that is not is unknown once all listings are; the error names those that are near."""
    toy = Toy()
    async with bridge_over(toy) as bridge:
        directory = bridge.directory
        assert (await directory.wait_for_tool("echo")).entry.tool == "echo"
        assert directory.route("echo") is await directory.wait_for_tool("echo")
        for name in ("ecko", "new"):
            with pytest.raises(UnknownTool):
                await directory.wait_for_tool(name)
        with pytest.raises(UnknownTool, match="echo"):
            directory.route("ecko")
        toy.add("new", _tool)
        await toy.changed()
        await anyio.sleep(1)
        assert directory.route("new").entry.server == "toy"


@on_virtual_time
async def test_a_change_is_observed_once_clients_see_it_and_only_where_there_is_one():
    """By kind; a server that announces the same listing again changes nothing."""
    toy = Toy()
    async with bridge_over(toy) as bridge:
        directory = bridge.directory
        seen: list[tuple[frozenset[str], bool]] = []
        await anyio.sleep(1)
        directory.observe(lambda kinds: seen.append((kinds, "new" in directory.routes)))
        await toy.changed()
        await anyio.sleep(1)
        assert seen == []
        toy.add("new", _tool)
        await toy.changed()
        await anyio.sleep(1)
        assert seen == [(frozenset({"tools"}), True)]


@on_virtual_time
async def test_a_route_is_kept_where_its_entry_is():
    """What is derived from a tool is derived once; a tool that is gone is unknown, and its name stays its own."""
    toy = Toy()
    async with bridge_over(toy) as bridge:
        directory = bridge.directory
        await directory.wait_for_catalog()
        directory.hand_out()
        before = dict(directory.routes)
        del toy.listing[0]
        await toy.changed()
        await anyio.sleep(1)
        assert "echo" not in directory.routes
        assert all(directory.routes[name] is before[name] for name in directory.routes)
        assert directory.published.tools["echo"] == ("toy", "echo")


@on_virtual_time
async def test_silent_tools_and_servers_that_are_not_up_are_reported():
    """With their reasons; a server that is up is not among them."""
    toy, down = Toy(), Toy("down")
    down.refuses = True
    server = {"tools": {"sleep": {"reads": ["a/{pth}"]}}}
    async with bridge_over(toy, server=server) as bridge:
        await bridge.started()
        assert bridge.directory.unavailable_servers() == []
        assert set(bridge.directory.unannotated_tools()) == {"fail", "gate"}
        assert bridge.directory.state_of("toy").server == "toy"
        assert isinstance(bridge.directory.notes(), list)
    async with bridge_over(down) as bridge:
        await anyio.sleep(20)
        ((name, why),) = bridge.directory.unavailable_servers()
        assert name == "down"
        assert ": " in why
        with pytest.raises(UnknownTool, match="down"):
            bridge.directory.route("echo")


@on_virtual_time
async def test_a_tool_is_found_by_its_own_name_once_its_server_has_listed():
    """None then for what it does not list, and for a server that is not there; neither waits for another server."""
    toy, slow = Late(5), Late(60, "slow")
    async with composed({"toy": toy, "slow": slow}) as bridge:
        find, began = bridge.directory.wait_for_own_tool, anyio.current_time()
        assert await find("nobody", "echo") is None
        assert anyio.current_time() == began
        route = await find("toy", "echo")
        assert route is not None
        assert (route.entry.server, route.entry.tool, route.entry.name) == ("toy", "echo", "toy__echo")
        assert await find("toy", "new") is None
        assert 5 <= anyio.current_time() - began < 60


@on_virtual_time
async def test_a_listing_of_an_earlier_run_counts_for_the_tools_in_it():
    """A call of one of them need not wait for its server; for another tool the new listing counts."""
    toy = Late(5)
    toy.add("new", toy._echo)
    old = {"name": "echo", "inputSchema": {"type": "object"}}
    async with composed({"toy": toy}, ServerSnapshot(listings={"tools": [old]})) as bridge:
        find, began = bridge.directory.wait_for_own_tool, anyio.current_time()
        assert await find("toy", "echo") is not None
        assert anyio.current_time() == began
        assert await find("toy", "new") is not None
        assert anyio.current_time() - began >= 5


@on_virtual_time
async def test_a_server_that_does_not_start_has_no_tools():
    """The wait ends when its start has failed."""
    toy = Late(0)
    toy.refuses = True
    async with composed({"toy": toy}) as bridge:
        with anyio.fail_after(120):
            assert await bridge.directory.wait_for_own_tool("toy", "echo") is None
