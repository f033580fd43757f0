"""A server's listings: each for itself, bounded, and asked for no faster than pays."""

from collections.abc import Awaitable, Callable, Mapping
from itertools import count, pairwise
from typing import Any

import anyio
import pytest

from asyncfc_mcp.downstream import listing
from asyncfc_mcp.downstream.listing import MAX_EMPTY_PAGES, PARTIAL_AFTER_S, REFRESH_S, RETRY_S, ListingFetcher, reusing
from asyncfc_mcp.errors import ConnectionEnded, RpcError
from asyncfc_mcp.slices import at_once
from tests.support.virtual_time import on_virtual_time

Page = dict[str, Any]
ALL = {"tools": True, "prompts": True, "resources": True, "resourceTemplates": True}


def tools(*names: object, **more: Any) -> Page:
    return {"tools": [{"name": name} for name in names], **more}


class Server:
    """Answers list requests as a test says, and keeps what came of it."""

    def __init__(self, answer: Callable[[str, str | None], Awaitable[Page]]) -> None:
        self._answer = answer
        self.asked: list[tuple[float, str, str | None]] = []
        self.came: list[tuple[str, list[Any], bool, str]] = []

    async def ask(self, method: str, params: Mapping[str, Any]) -> Page:
        self.asked.append((anyio.current_time(), method, params.get("cursor")))
        return await self._answer(method, params.get("cursor"))

    async def take(self, kind: str, entries: list[Page], *, complete: bool, problem: str) -> None:
        self.came.append((kind, [entry.get("name") for entry in entries], complete, problem))

    def listings(self, **kinds: bool) -> ListingFetcher:
        return ListingFetcher(self.ask, self.take, kinds or {"tools": True})


async def listed(pages: Mapping[str | None, Page]) -> tuple[list[Any], str, int]:
    """The names, what is wrong, and the number of requests, of a server with these pages, by cursor."""

    async def answer(method: str, cursor: str | None) -> Page:
        return pages[cursor]

    server = Server(answer)
    listings = server.listings()
    async with anyio.create_task_group() as tg:
        tg.start_soon(listings.run)
        await listings.wait_available("tools")
        tg.cancel_scope.cancel()
    ((_, names, complete, problem),) = server.came
    assert complete
    return names, problem, len(server.asked)


ONE, TWO = tools("a", nextCursor="2"), tools("b")


@pytest.mark.parametrize(
    ("pages", "names", "problem", "requests"),
    [
        ({None: TWO}, ["b"], "", 1),
        ({None: ONE, "2": TWO}, ["a", "b"], "", 2),
        ({None: tools("a", nextCursor="")}, ["a"], "", 1),
        ({None: tools("a", nextCursor=None)}, ["a"], "", 1),
        ({None: tools("a", nextCursor=5)}, ["a"], "its nextCursor is not text", 1),
        ({None: ONE, "2": tools("b", nextCursor="2")}, ["a", "b"], "its pages repeat", 2),
        ({None: ONE, "2": tools("a", nextCursor="3")}, ["a"], "its pages have no new entries", 2),
        ({None: ONE, "2": tools("a", "b")}, ["a", "b"], "", 2),
        ({None: ONE, "2": tools(nextCursor="3"), "3": TWO}, ["a", "b"], "", 3),
        ({None: tools("a", "a")}, ["a"], "", 1),
        ({None: tools(None, None, 7, ["x"])}, [None, None, 7, ["x"]], "", 1),
        ({None: {"tools": [None, 5, "x", {"name": "a"}]}}, ["a"], "", 1),
        ({None: {"tools": None}}, [], "its result has no list of tools", 1),
        ({None: {}}, [], "its result has no list of tools", 1),
        ({None: ONE, "2": {"tools": 5}}, ["a"], "its result has no list of tools", 2),
    ],
)
def test_a_cursor_is_followed_once_and_what_came_is_kept(
    pages: dict[str | None, Page], names: list[Any], problem: str, requests: int
):
    """Whatever the pages are like; an entry that comes twice is listed once."""

    @on_virtual_time
    async def run() -> None:
        assert await listed(pages) == (names, f"tools/list: {problem}" if problem else "", requests)

    run()


@pytest.mark.parametrize(
    ("page", "bound", "requests", "entries"),
    [
        (lambda n: tools(f"t{n}", nextCursor=f"c{n}"), "MAX_PAGES", 40, 40),
        (lambda n: tools(*(f"t{n}.{m}" for m in range(10)), nextCursor=f"c{n}"), "MAX_ENTRIES", 5, 45),
        (lambda n: tools("x" * 100 + str(n), nextCursor=f"c{n}"), "MAX_LISTING_BYTES", 8, 7),
        (lambda n: tools(*["x" * 40] * 3, f"t{n}", nextCursor=f"c{n}"), "MAX_LISTING_BYTES", 6, 6),
        (lambda n: {"tools": ["x" * 100, {"name": f"t{n}"}], "nextCursor": f"c{n}"}, "MAX_LISTING_BYTES", 8, 7),
        (lambda n: tools(f"t{n}", nextCursor=f"c{n}", _meta={"x": "x" * 100}), "MAX_LISTING_BYTES", 7, 6),
        (lambda n: tools(f"t{n}", nextCursor=f"{'c' * 100}{n}"), "MAX_LISTING_BYTES", 8, 7),
        (lambda n: tools(nextCursor=f"c{n}"), "", MAX_EMPTY_PAGES, 0),
    ],
)
def test_pages_without_end_end(
    monkeypatch: pytest.MonkeyPatch, page: Callable[[int], Page], bound: str, requests: int, entries: int
):
    """By their number, their entries, their bytes with all that is dropped of them, or that they bring nothing."""
    for name, value in {"MAX_PAGES": 40, "MAX_ENTRIES": 45, "MAX_LISTING_BYTES": 1000}.items():
        monkeypatch.setattr(listing, name, value if name == bound else 10**9)

    @on_virtual_time
    async def run() -> None:
        numbers = count()

        async def answer(method: str, cursor: str | None) -> Page:
            return page(next(numbers))

        server = Server(answer)
        listings = server.listings()
        async with anyio.create_task_group() as tg:
            tg.start_soon(listings.run)
            await listings.wait_available("tools")
            tg.cancel_scope.cancel()
        assert len(server.asked) == requests
        assert server.came[0][3]
        assert len(server.came[0][1]) == entries

    run()


@on_virtual_time
async def test_each_listing_is_for_itself():
    """One fails, one is slow, one is no method: the others are there at once; only what failed is tried again."""

    async def answer(method: str, cursor: str | None) -> Page:
        match method:
            case "tools/list":
                return tools("a")
            case "prompts/list":
                raise RpcError(-32603, "broken")
            case "resources/list":
                await anyio.sleep(6)
                return {"resources": [{"uri": "a://b", "name": "r"}]}
            case _:
                raise RpcError(-32601, "Method not found")

    server = Server(answer)
    listings = server.listings(**ALL)
    async with anyio.create_task_group() as tg:
        tg.start_soon(listings.run)
        for kind in ("tools", "prompts", "resourceTemplates"):
            await listings.wait_available(kind)
        assert anyio.current_time() == server.asked[0][0]
        assert sorted(server.came) == [
            ("prompts", [], False, "prompts/list: broken (JSON-RPC error -32603)"),
            ("resourceTemplates", [], True, ""),
            ("tools", ["a"], True, ""),
        ]
        await listings.wait_available("resources")
        assert server.came[-1] == ("resources", ["r"], True, "")
        await anyio.sleep(2000)
        tg.cancel_scope.cancel()
    again = [method for _, method, _ in server.asked[4:]]
    assert set(again) == {"prompts/list"}
    assert len(again) < 2000 / RETRY_S[1] + 8


@on_virtual_time
async def test_a_listing_that_fails_on_its_way_passes_on_what_came():
    """As what is not complete, so that more that is known is not lost."""

    async def answer(method: str, cursor: str | None) -> Page:
        if cursor is None:
            return ONE
        raise RpcError(-32000, "no more")

    server = Server(answer)
    listings = server.listings()
    async with anyio.create_task_group() as tg:
        tg.start_soon(listings.run)
        await listings.wait_available("tools")
        tg.cancel_scope.cancel()
    assert server.came == [("tools", ["a"], False, "tools/list: no more (JSON-RPC error -32000)")]


@on_virtual_time
async def test_slow_pages_are_used_as_far_as_they_have_come():
    """And completed later."""

    async def answer(method: str, cursor: str | None) -> Page:
        await anyio.sleep(1)
        number = int(cursor or 0)
        return tools(number, **({"nextCursor": str(number + 1)} if number < 9 else {}))

    server = Server(answer)
    listings = server.listings()
    async with anyio.create_task_group() as tg:
        tg.start_soon(listings.run)
        began = anyio.current_time()
        await listings.wait_available("tools")
        assert PARTIAL_AFTER_S < anyio.current_time() - began <= PARTIAL_AFTER_S + 1
        assert server.came == [("tools", [0, 1, 2], False, "tools/list: more pages are being fetched")]
        await anyio.sleep(20)
        tg.cancel_scope.cancel()
    assert server.came[1:] == [("tools", list(range(10)), True, "")]


@on_virtual_time
async def test_a_server_that_announces_a_change_on_each_listing_is_asked_ever_more_rarely():
    """One refresh runs and one waits; after a calm a change is looked at at once again."""
    listings: ListingFetcher | None = None
    storming = True

    async def answer(method: str, cursor: str | None) -> Page:
        assert listings is not None
        for _ in range(100 if storming else 0):
            listings.refresh("tools")
        return tools("a")

    server = Server(answer)
    listings = server.listings()
    async with anyio.create_task_group() as tg:
        tg.start_soon(listings.run)
        await anyio.sleep(3600)
        at = [when for when, _, _ in server.asked]
        pauses = [after - before for before, after in pairwise(at)]
        assert pauses[0] == pytest.approx(REFRESH_S[0])
        assert pauses[-1] == pytest.approx(REFRESH_S[1])
        assert len(at) <= 3600 / REFRESH_S[1] + 10
        storming = False
        await anyio.sleep(60)
        server.asked.clear()
        listings.refresh("tools")
        changed = anyio.current_time()
        await anyio.sleep(1)
        assert [when for when, _, _ in server.asked] == [changed]
        tg.cancel_scope.cancel()


@on_virtual_time
async def test_the_end_of_the_connection_is_no_problem_of_a_listing():
    """Whoever waits for it learns that it ended."""

    async def answer(method: str, cursor: str | None) -> Page:
        raise ConnectionEnded

    server = Server(answer)
    listings = server.listings()
    async with anyio.create_task_group() as tg:
        tg.start_soon(listings.run)
        await listings.wait_available("tools")
        await anyio.sleep(1)
        tg.cancel_scope.cancel()
    assert isinstance(listings.connection_ended, ConnectionEnded)
    assert server.came == []


def test_entries_that_did_not_change_are_the_same_objects():
    """What is derived from them need not be made again."""
    old = [{"name": "a", "x": [1]}, {"name": "b"}, {"name": None}]
    new = [{"name": "b", "y": 1}, {"name": "a", "x": [1]}, {"name": None}]
    found = at_once(reusing("tools", old, new))
    assert found == new
    assert found[1] is old[0]
    assert found[0] is new[0]
