"""A client on FastMCP: list → call → await_future → gather; prints what it got as one JSON object.

Usage: python fastmcp_client.py (auto | legacy) (http URL | sse URL | stdio COMMAND ARGS...)
Runs in a virtual environment of its own, which has FastMCP and nothing of ours.
"""

import json
import os
import sys

import anyio
from fastmcp import Client
from fastmcp.client.transports import SSETransport, StdioTransport, StreamableHttpTransport
from fastmcp.exceptions import ToolError


async def main(mode: str, kind: str, target: str, *args: str) -> None:
    """Drive the bridge once."""
    if kind == "stdio":
        transport = StdioTransport(command=target, args=list(args), env=dict(os.environ))
    else:
        transport = SSETransport(target) if kind == "sse" else StreamableHttpTransport(target)
    async with Client(transport, mode=mode, cache=False) as client:
        tools: list[str] = []
        with anyio.fail_after(15):
            while "toy__sleep" not in tools:
                tools = [tool.name for tool in await client.list_tools()]
                await anyio.sleep(0.05)
        futures: list[str] = []
        for tag in "abc":
            handle = await client.call_tool("toy__sleep", {"seconds": 0.5, "tag": tag})
            # What FastMCP makes of structured content, for a program that reads no `_meta`.
            assert handle.data["future_id"] == handle.structured_content["future_id"]
            futures.append(handle.data["future_id"])
        beats: list[float] = []

        async def hear(progress: float, total: float | None, message: str | None) -> None:
            beats.append(progress)

        steps = await client.call_tool("toy__progress", {"steps": 4})
        future = steps.data["future_id"]
        await client.call_tool("await_future", {"future_id": future}, progress_handler=hear)
        awaited = await client.call_tool_mcp("await_future", {"future_id": futures[0]})
        gathered = await client.call_tool_mcp("gather", {"future_ids": futures})
        broken = await client.call_tool_mcp("toy__bad_schema", {})
        refused: list[str] = []
        for tool, arguments in (
            ("toy__fail", {"message": "no luck", "_wait": "this"}),
            ("toy__fail", {"message": "$bad.nowhere", "_wait": "this"}),
            ("await_future", {"future_id": "nobody"}),
        ):
            try:
                await client.call_tool(tool, arguments)
            except ToolError as error:
                refused.append(str(error))
            await client.call_tool("toy__echo", {"text": "x", "_as": "bad", "_wait": "this"})
        report = {"refused": refused, "tools": tools, "futures": futures, "beats": len(beats)}
        for name, result in (("awaited", awaited), ("gathered", gathered), ("broken", broken)):
            report[name] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        print(json.dumps(report))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
