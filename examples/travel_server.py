"""Example server with three slow lookups and a reservation. Run: `python examples/travel_server.py` (stdio)."""

import os
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp_types import ToolAnnotations

SCALE = float(os.environ.get("ASYNCFC_DEMO_SCALE", "1"))
"""Factor for every delay."""
LOOK_UP = ToolAnnotations(readOnlyHint=True, openWorldHint=False)
RESERVATION = ToolAnnotations(readOnlyHint=False, destructiveHint=False, openWorldHint=False)

server = MCPServer("travel")


@server.tool(annotations=LOOK_UP)
async def search_flights(origin: str, destination: str) -> dict[str, Any]:
    """Flights between two cities, by departure."""
    await anyio.sleep(2.0 * SCALE)
    price = 60 + 7 * len(origin) + 11 * len(destination)
    return {
        "flights": [
            {
                "id": f"{origin[:3].upper()}-{destination[:3].upper()}-{n}",
                "price": price + (35, 0, 70)[n],
                "departs": f"{7 + 4 * n:02}:15",
            }
            for n in range(3)
        ]
    }


@server.tool(annotations=RESERVATION)
async def hold_seat(flight_id: str) -> dict[str, Any]:
    """Hold a seat on a flight."""
    await anyio.sleep(0.7 * SCALE)
    return {"flight_id": flight_id, "seat": "12A", "held": True}


@server.tool(annotations=LOOK_UP)
async def search_hotels(city: str) -> dict[str, Any]:
    """Hotels of a city, cheapest first."""
    await anyio.sleep(1.6 * SCALE)
    return {
        "hotels": [
            {"name": f"{city} {kind}", "price": 45 + 40 * n} for n, kind in enumerate(("Hostel", "Inn", "Palace"))
        ]
    }


@server.tool(annotations=LOOK_UP)
async def weather(city: str) -> dict[str, Any]:
    """Tomorrow's weather in a city."""
    await anyio.sleep(1.2 * SCALE)
    return {"city": city, "celsius": 12 + len(city), "sky": "clear"}


if __name__ == "__main__":
    server.run()
