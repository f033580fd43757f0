"""Stands in for `asyncfc-mcp serve`: the tools of the examples, each call of which waits for the others of its turn.

Owns the count of calls that were open at the same time; writes it to $COUNTED when it grows. A call waits until all
four are there, or for the time that a framework which sends one call after another needs to show that it does.
"""

import os
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp_types import ToolAnnotations

CALLS = 4
PATIENCE_S = 1.5
LOOK_UP = ToolAnnotations(readOnlyHint=True, openWorldHint=False)

server = MCPServer("counting")
all_there = anyio.Event()
open_calls = most = 0


async def count() -> dict[str, Any]:
    global open_calls, most
    open_calls += 1
    if open_calls > most:
        most = open_calls
        await anyio.Path(os.environ["COUNTED"]).write_text(str(most))
    if open_calls == CALLS:
        all_there.set()
    with anyio.move_on_after(PATIENCE_S):
        await all_there.wait()
    open_calls -= 1
    return {"ok": True}


@server.tool(annotations=LOOK_UP)
async def travel__search_flights(origin: str, destination: str) -> dict[str, Any]:
    """Flights."""
    return await count()


@server.tool(annotations=LOOK_UP)
async def travel__search_hotels(city: str) -> dict[str, Any]:
    """Hotels."""
    return await count()


@server.tool(annotations=LOOK_UP)
async def travel__weather(city: str) -> dict[str, Any]:
    """Weather."""
    return await count()


@server.tool(annotations=ToolAnnotations(readOnlyHint=False, destructiveHint=False, openWorldHint=False))
async def travel__hold_seat(flight_id: str) -> dict[str, Any]:
    """A seat."""
    return await count()


@server.tool(annotations=LOOK_UP)
async def list_futures() -> dict[str, Any]:
    """Nothing."""
    return {}


if __name__ == "__main__":
    server.run()
