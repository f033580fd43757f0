"""A plain Python client of the bridge, on the official SDK, without any framework.

    pip install 'mcp>=2.3'
    python examples/clients/python_client.py     from the clone, with asyncfc-mcp on the PATH

No model takes part: TURN is what one would ask for in one turn. With a real model, pass it the tools of `list_tools()`,
and take the calls from its answer in place of TURN.
"""

import asyncio
import os
import time
from typing import Any

from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types import Implementation

TURN: list[tuple[str, dict[str, Any]]] = [
    ("travel__search_flights", {"origin": "Berlin", "destination": "Lisbon", "_as": "flights"}),
    ("travel__search_hotels", {"city": "Lisbon", "_as": "hotels"}),
    ("travel__weather", {"city": "Lisbon", "_as": "sky"}),
    # The cheapest of the flights that the first call is still looking for, and a wait for everything.
    (
        "travel__hold_seat",
        {
            "flight_id": "$flights.flights | min_by(@, &price).id",
            "_as": "seat",
            "_wait": "flights, hotels, sky, seat",
        },
    ),
]


async def main() -> None:
    bridge = StdioServerParameters(
        command="asyncfc-mcp",
        args=["serve", "--config", "examples/config.json"],
        env=dict(os.environ),
    )
    async with Client(bridge, client_info=Implementation(name="my-agent", version="1")) as client:
        print("tools:", ", ".join(tool.name for tool in (await client.list_tools()).tools))
        began = time.monotonic()
        # One call after another: each but the last is answered at once, so they overlap all the same.
        for tool, arguments in [*TURN, ("list_futures", {})]:
            answer = await client.call_tool(tool, arguments)
            print(f"{time.monotonic() - began:5.1f} s  {tool}")
            for block in answer.content:
                print("\n".join(f"           {line}" for line in block.text.splitlines()))


if __name__ == "__main__":
    asyncio.run(main())
