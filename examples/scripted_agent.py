"""A scripted agent: a stand-in for a model and its host, which tells what happens as JSON lines on stdout.

    python examples/scripted_agent.py direct    one call after the other, straight to the servers, as most hosts do
    python examples/scripted_agent.py bridge    the same calls through `asyncfc-mcp serve`, over stdio

It "thinks" for a fixed time each turn, then makes the calls of that turn. The last line has every result.
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
"""How long the model takes for one turn."""

SERVERS = {"travel": "travel_server.py", "ci": "ci_server.py"}
TURNS: list[list[tuple[str, str, dict[str, Any]]]] = [
    [
        ("travel", "search_flights", {"origin": "Berlin", "destination": "Lisbon"}),
        ("travel", "search_hotels", {"city": "Lisbon"}),
        ("travel", "weather", {"city": "Lisbon"}),
        ("ci", "run_tests", {"suite": "unit"}),
        ("ci", "build", {"target": "site"}),
        ("ci", "lint", {"path": "src"}),
    ],
]
"""What the model asks for: turns of (server, tool, arguments)."""

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
    """Every call blocks the next, and the model."""
    results: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(Client(stdio([sys.executable, str(HERE / file)])))
            for name, file in SERVERS.items()
        }
        for client in clients.values():
            await client.list_tools()
        tell("start")
        for number, turn in enumerate(TURNS):
            await think(number)
            for server, tool, arguments in turn:
                name = f"{server}__{tool}"
                tell("call", name=name)
                tell("running", name=name)
                results[name] = value(await clients[server].call_tool(tool, arguments))
                tell("done", name=name)
        await think(len(TURNS))
        tell("answer")
    return results


async def observe(client: Client, names: dict[str, str]) -> None:
    """Tell when each call runs and ends. Only for the drawing: no model sees or waits for any of this."""
    waiting = dict(names)
    seen: set[str] = set()
    while waiting:
        answer = await client.call_tool("gather", {"future_ids": list(waiting), "return_when": "any"})
        for record in answer.meta["asyncfc/futures"] if answer.meta else []:
            name = record["name"]
            if name not in seen:
                seen.add(name)
                tell("running", name=names[name], future=record["future_id"])
            if record["status"] in ("completed", "failed", "cancelled") and name in waiting:
                tell("done", name=waiting.pop(name), future=record["future_id"])


async def bridged() -> dict[str, Any]:
    """Every call is answered with a future at once; the last call of a turn waits for all."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "mcp.json"
        servers = {name: {"command": sys.executable, "args": [str(HERE / file)]} for name, file in SERVERS.items()}
        config.write_text(json.dumps({"mcpServers": servers}))
        command = [sys.executable, "-m", "asyncfc_mcp", "serve", "--config", str(config)]
        me = Implementation(name="asyncfc-scripted-agent", version="1")
        async with Client(stdio(command), client_info=me) as client:
            await client.list_tools()
            # Tools may be listed from the cache while their servers start; the clock starts when those are up.
            while (await client.call_tool("list_futures", {})).structured_content.get("servers"):  # noqa: ASYNC110
                await anyio.sleep(0.05)
            tell("start")
            for number, turn in enumerate(TURNS):
                await think(number)
                names = {tool: f"{server}__{tool}" for server, tool, _ in turn}
                async with anyio.create_task_group() as tg:
                    tg.start_soon(observe, client, names)
                    for place, (server, tool, arguments) in enumerate(turn, 1):
                        tell("call", name=f"{server}__{tool}")
                        wait = {"_wait": "all"} if place == len(turn) else {}
                        await client.call_tool(f"{server}__{tool}", {**arguments, "_as": tool, **wait})
            await think(len(TURNS))
            tell("answer")
            # For the comparison of both runs: what each tool itself said.
            for turn in TURNS:
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
