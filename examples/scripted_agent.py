"""Scripted agent in place of a model and its host. Prints its events as JSON lines on stdout.

    python examples/scripted_agent.py direct    one call after another, directly to the servers, as most hosts do
    python examples/scripted_agent.py bridge    the same calls through `asyncfc-mcp serve`, over stdio

The agent "thinks" for a fixed time in each turn, then makes the calls of that turn. The last line has all results.
"""

import json
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types import CallToolResult, Implementation

HERE = Path(__file__).resolve().parent
SCALE = float(os.environ.get("ASYNCFC_DEMO_SCALE", "1"))
THINK_S = 0.8 * SCALE
"""Duration of a model turn."""

SERVERS = {"travel": "travel_server.py", "ci": "ci_server.py"}
Call = tuple[str, str, dict[str, Any]]
"""Server, tool, arguments."""
LOOK_UPS: list[Call] = [
    ("travel", "search_flights", {"origin": "Berlin", "destination": "Lisbon"}),
    ("travel", "search_hotels", {"city": "Lisbon"}),
    ("travel", "weather", {"city": "Lisbon"}),
    ("ci", "run_tests", {"suite": "unit"}),
    ("ci", "build", {"target": "site"}),
    ("ci", "lint", {"path": "src"}),
]
CHEAPEST = "$search_flights.flights | min_by(@, &price).id"
"""Through the bridge the choice is part of the call, and takes no turn."""
FOLLOWING: list[Call] = [
    ("travel", "hold_seat", {"flight_id": CHEAPEST}),
    ("ci", "publish", {"target": "site", "_after": "run_tests, build"}),
]
"""A call that needs a choice among earlier results, and one that must follow others without taking their values."""


started = time.monotonic()


def tell(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, "t": round(time.monotonic() - started, 4), **facts}), flush=True)


async def think(turn: int) -> None:
    tell("think", turn=turn)
    await anyio.sleep(THINK_S)
    tell("thought", turn=turn)


def value(result: CallToolResult) -> Any:
    return result.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"meta", "result_type"})


def stdio(command: list[str]) -> StdioServerParameters:
    kept = {key: os.environ[key] for key in os.environ if key.startswith(("ASYNCFC_", "PYTHON"))}
    return StdioServerParameters(command=command[0], args=command[1:], env=kept)


async def direct() -> dict[str, Any]:
    """Run two turns directly: every call blocks the next one, and the model chooses after it has seen the flights."""
    results: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(Client(stdio([sys.executable, str(HERE / file)])))
            for name, file in SERVERS.items()
        }
        for client in clients.values():
            await client.list_tools()
        tell("start")
        for number, turn in enumerate((LOOK_UPS, FOLLOWING)):
            await think(number)
            for server, tool, arguments in turn:
                name = f"{server}__{tool}"
                if tool == "hold_seat":
                    flights = results["travel__search_flights"]["structuredContent"]["flights"]
                    arguments = {"flight_id": min(flights, key=lambda flight: flight["price"])["id"]}
                arguments = {key: given for key, given in arguments.items() if key != "_after"}
                tell("call", name=name)
                tell("running", name=name)
                results[name] = value(await clients[server].call_tool(tool, arguments))
                tell("done", name=name)
        await think(2)
        tell("answer")
    return results


class Watch:
    """Reports when each call starts and ends, from the records in answers.

    Args:
        names: name of each future → the call's name.
    """

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names
        self.open = dict(names)
        self._running: set[str] = set()

    def see(self, answer: CallToolResult) -> None:
        for record in answer.meta["asyncfc/futures"] if answer.meta else []:
            name, status = record.get("name"), record["status"]
            if name in self._names and name not in self._running and status != "waiting":
                self._running.add(name)
                tell("running", name=self._names[name], future=record["future_id"])
            if name in self.open and status in ("completed", "failed", "cancelled"):
                tell("done", name=self.open.pop(name), future=record["future_id"])

    async def follow(self, client: Client) -> None:
        """Wait for all. For the drawing only: no model sees these calls or waits for them."""
        while self.open:
            self.see(await client.call_tool("gather", {"future_ids": list(self.open), "return_when": "any"}))


async def bridged() -> dict[str, Any]:
    """Run one turn through the bridge: calls return futures at once, and the last one waits for all."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "mcp.json"
        servers = {name: {"command": sys.executable, "args": [str(HERE / file)]} for name, file in SERVERS.items()}
        config.write_text(json.dumps({"mcpServers": servers, "asyncfc": {"journal": "off"}}))
        command = [sys.executable, "-m", "asyncfc_mcp", "serve", "--config", str(config)]
        me = Implementation(name="asyncfc-scripted-agent", version="1")
        async with Client(stdio(command), client_info=me) as client:
            await client.list_tools()
            # Tools may be listed from the cache while servers start; the clock starts when all are up.
            while (await client.call_tool("list_futures", {})).structured_content.get("servers"):  # noqa: ASYNC110
                await anyio.sleep(0.05)
            tell("start")
            turn = [*LOOK_UPS, *FOLLOWING]
            await think(0)
            watch = Watch({tool: f"{server}__{tool}" for server, tool, _ in turn})
            async with anyio.create_task_group() as tg:
                tg.start_soon(watch.follow, client)
                for place, (server, tool, arguments) in enumerate(turn, 1):
                    tell("call", name=f"{server}__{tool}")
                    wait = {"_wait": "all"} if place == len(turn) else {}
                    watch.see(await client.call_tool(f"{server}__{tool}", {**arguments, "_as": tool, **wait}))
            await think(1)
            tell("answer")
            # For the comparison of both runs: the result of each tool.
            for server, tool, _ in turn:
                results[f"{server}__{tool}"] = value(await client.call_tool("await_future", {"future_id": tool}))
    return results


async def main() -> None:
    how = sys.argv[1] if len(sys.argv) > 1 else ""
    if how not in ("direct", "bridge"):
        sys.exit(__doc__)
    results = await (direct() if how == "direct" else bridged())
    tell("results", results=results)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        anyio.run(main)
