"""Calls of a bridge that runs, from its page.

Owns what `log` asks of the page, and the connection that is made again after it was lost. Leaves requests and their
errors to `page_client`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, cast

import anyio

from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.calls.source import Page, Seen, accepts, collect
from asyncfc_mcp.cli.calls.words import Entry
from asyncfc_mcp.cli.page_client import PageClient, PageLost
from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.errors import BridgeError

AGAIN_S: Final = 1.0
"""Pause before a connection that was lost is made again."""

Connect = Callable[[], AbstractAsyncContextManager[PageClient]]


class PageSource:
    """Finds calls by requests.

    Args:
        client: the first connection.
        connect: makes another one.
        on_loss: called with the reason when the connection is lost.
    """

    def __init__(self, client: PageClient, connect: Connect, on_loss: Callable[[str], None]) -> None:
        self._client, self._connect, self._on_loss = client, connect, on_loss

    @property
    def title(self) -> str:
        return f"the bridge at {self._client.url}"

    async def newest(self, query: CallQuery, most: int) -> tuple[list[Entry], bool]:
        found, following = await collect(self._page, query, most)
        return found[::-1], following is not None

    async def _page(self, query: CallQuery) -> Page:
        answer = words.part({"": await self._client.get("calls", **_words(query))}, "")
        following = answer.get("next")
        return words.parts(answer, "calls"), following if isinstance(following, str) else None

    async def looks(self, query: CallQuery) -> AsyncIterator[Seen]:
        async for seen in _looks(self._client, query):
            yield seen
        while True:
            try:
                async with self._connect() as client:
                    async for seen in _looks(client, query):
                        yield seen
            except BridgeError as exc:
                self._on_loss(str(exc))
            await anyio.sleep(AGAIN_S)


async def _looks(client: PageClient, query: CallQuery) -> AsyncGenerator[Seen]:
    """Yield looks until the bridge ends; one that breaks off has ended, too."""
    try:
        async for event in client.events():
            data = event.get("data")
            if event.get("event") == "calls" and isinstance(data, dict):
                calls = cast("Mapping[str, Any]", data)
                entries = [entry for entry in words.parts(calls, "entries") if accepts(query, entry)]
                yield Seen(entries, calls.get("reset") is not True)
    except PageLost:
        return


def _words(query: CallQuery) -> dict[str, Any]:
    return {
        "server": list(query.servers) or None,
        "tool": list(query.tools) or None,
        "state": [state.value for state in query.states] or None,
        "text": query.text or None,
        "since": query.since,
        "before": query.before,
        "limit": query.limit,
    }
