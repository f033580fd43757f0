"""The part of the directory that a principal sees: as the directory changes, and as its own rules do."""

from collections.abc import Mapping

import anyio
import pytest

from asyncfc_mcp.bridge.views import MOST_KEPT, MOST_VIEWS, Views
from asyncfc_mcp.config.settings import AccessEntry
from asyncfc_mcp.core.access import AccessRules
from asyncfc_mcp.core.identity import LOCAL_PRINCIPAL, Principal, Scope
from asyncfc_mcp.errors import UnknownTool
from tests.support.inprocess_server import Toy, bridge_over
from tests.support.virtual_time import on_virtual_time

ALICE, BOB = Principal(Scope("person:alice"), "alice"), Principal(Scope("person:bob"), "bob")


def toy(name: str, *tools: str) -> Toy:
    made = Toy(name)
    made.listing, made.tools = [], {}
    for tool in tools:
        made.add(tool, made._echo)
    return made


def access(**entries: AccessEntry) -> Mapping[str, AccessEntry]:
    return entries


@on_virtual_time
async def test_without_rules_a_view_is_the_directory_itself():
    """For every principal the same, at no cost."""
    async with bridge_over(toy("a", "one")) as bridge:
        view = bridge.views.of(ALICE)
        assert view is bridge.views.of(LOCAL_PRINCIPAL) is bridge.views.everything
        assert view.catalog is bridge.directory.catalog
        assert view.routes is bridge.directory.routes
        assert not view.restricted


@on_virtual_time
async def test_a_view_follows_the_directory():
    """A tool that is listed later is seen, if it is allowed; what has not changed is not made anew."""
    a = toy("a", "get_one", "set_one")
    async with bridge_over(a, access=access(alice=AccessEntry(("a/get_*",)))) as bridge:
        view = bridge.views.of(ALICE)
        assert list(view.catalog.tools) == list(view.routes) == ["get_one"]
        assert view.catalog is view.catalog
        assert view.routes is view.routes
        assert view.routes["get_one"] is bridge.directory.routes["get_one"]
        a.add("get_two", a._echo)
        a.add("set_two", a._echo)
        await a.changed()
        await anyio.sleep(1)
        assert list(view.catalog.tools) == list(view.routes) == ["get_one", "get_two"]
        assert not view.serves("a")
        assert view.touches("a")
        assert not list(bridge.views.of(BOB).routes)
        assert not bridge.views.of(BOB).touches("a")


@on_virtual_time
async def test_suggestions_and_states_are_of_what_is_seen():
    """Of tools and of servers that are not up."""
    down = toy("down")
    down.refuses = True
    async with bridge_over(
        toy("a", "get_one"), toy("b", "get_ones"), down, access=access(alice=AccessEntry(("a",)), bob=AccessEntry())
    ) as bridge:
        alice, bob = bridge.views.of(ALICE), bridge.views.of(BOB)
        with pytest.raises(UnknownTool) as caught:
            await alice.wait_for_tool("get_onse")
        assert "did you mean get_one?" in str(caught.value)
        assert "down" not in str(caught.value)
        with pytest.raises(UnknownTool) as everything:
            await bob.wait_for_tool("get_onse")
        assert "get_ones" in str(everything.value)
        assert "server down" in str(everything.value)
        assert not alice.unavailable_servers()
        assert [name for name, _ in bob.unavailable_servers()] == ["down"]
        assert list(alice.snapshots()) == ["a"]
        assert alice.call_rules().complete
        assert alice.call_rules() is alice.call_rules()
        assert alice.call_rules().unordered == ("a",)
        assert bob.call_rules().unordered == ("a", "b")


@on_virtual_time
async def test_views_are_shared_and_bounded():
    """By what applies to a principal; tokens with ever other grants do not fill the memory, nor keep their headers."""
    rules = AccessRules({"*": AccessEntry(), **{f"scope:{number}": AccessEntry() for number in range(8)}})
    async with bridge_over(toy("a", "one")) as bridge:
        views = Views(bridge.directory, rules)
        assert views.of(ALICE) is views.of(BOB)
        for number in range(3 * MOST_KEPT):
            grants = frozenset(str(bit) for bit in range(8) if number >> bit & 1)
            views.of(Principal(Scope(f"person:{number}"), str(number), grants, headers={"authorization": "secret"}))
        assert len(views._common._by_principal) <= MOST_KEPT  # pyright: ignore[reportPrivateUsage]
        assert len(views._common._by_access) <= MOST_VIEWS  # pyright: ignore[reportPrivateUsage]
        assert "secret" not in repr(list(views._common._by_principal))  # pyright: ignore[reportPrivateUsage]
        assert views.of(ALICE).routes.keys() == {"one"}
