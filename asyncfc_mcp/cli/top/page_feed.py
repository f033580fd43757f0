"""A bridge as `top` sees it: the page of one that runs.

Owns the translation of errors: whatever fails, the screen says why and goes on. Leaves requests to `page_client`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast
from urllib.parse import quote

from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.page_client import PageClient
from asyncfc_mcp.cli.top.program import Feed, Lost
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.quotation import said


class PageFeed:
    """Asks one page (`top.program.Feed`)."""

    def __init__(self, client: PageClient) -> None:
        self._client = client

    async def events(self) -> AsyncIterator[Mapping[str, Any]]:
        try:
            async for event in self._client.events():
                if event.get("event") == "end":
                    reason = words.text(words.part(event, "data"), "reason", 200)
                    raise Lost(reason or "the bridge has ended the connection")
                yield event
        except BridgeError as exc:
            raise Lost(said(str(exc), 300)) from None

    async def call(self, future_id: str) -> Mapping[str, Any]:
        return await _answer(self._client.get(f"calls/{quote(future_id, safe='', errors='replace')}"))

    async def cancel(self, future_id: str) -> Mapping[str, Any]:
        return await _answer(self._client.post(f"calls/{quote(future_id, safe='', errors='replace')}/cancel"))


async def _answer(request: Awaitable[Any]) -> Mapping[str, Any]:
    try:
        answer: object = await request
    except BridgeError as exc:
        raise Lost(said(str(exc), 300)) from None
    if not isinstance(answer, dict):
        raise Lost("the bridge is of another version")
    return cast("Mapping[str, Any]", answer)


@asynccontextmanager
async def feeding(connect: Callable[[], AbstractAsyncContextManager[PageClient]]) -> AsyncGenerator[Feed]:
    """Connect to a bridge for `top`.

    Raises:
        Lost: it cannot be reached.
    """
    try:
        async with connect() as client:
            yield PageFeed(client)
    except BridgeError as exc:
        raise Lost(said(str(exc), 300)) from None
