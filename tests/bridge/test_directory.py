"""The directory: what is listed at this moment, when it is seen, and how a tool is waited for.

Over servers in the test's own process. Names are `core/test_catalog.py`'s, announcements to clients
`upstream/test_notifications.py`'s.
"""

from typing import Any

import anyio
import pytest

from asyncfc_mcp.errors import UnknownTool
from tests.support.inprocess_server import Got, Toy, bridge_over, text_result
from tests.support.virtual_time import on_virtual_time


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
