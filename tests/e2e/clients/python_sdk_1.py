"""A client on the Python SDK 1.x: list → call → await_future → gather; prints what it got as one JSON object.

Usage: python python_sdk_1.py (http URL | sse URL | stdio COMMAND ARGS...)
Runs in a virtual environment of its own, which has `mcp<2` and nothing of ours.
"""

import json
import os
import sys
from contextlib import AsyncExitStack

import anyio
from mcp import ClientSession, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client


async def main(kind: str, target: str, *args: str) -> None:
    """Drive the bridge once."""
    async with AsyncExitStack() as stack:
        if kind == "stdio":
            parameters = StdioServerParameters(command=target, args=list(args), env=dict(os.environ))
            streams = await stack.enter_async_context(stdio_client(parameters))
        elif kind == "sse":
            streams = await stack.enter_async_context(sse_client(target))
        else:
            streams = await stack.enter_async_context(streamablehttp_client(target))
        session = await stack.enter_async_context(ClientSession(streams[0], streams[1]))
        await session.initialize()

        tools: list[str] = []
        with anyio.fail_after(15):
            while "toy__sleep" not in tools:
                tools = [tool.name for tool in (await session.list_tools()).tools]
                await anyio.sleep(0.05)
        futures: list[str] = []
        for tag in "abc":
            handle = await session.call_tool("toy__sleep", {"seconds": 0.5, "tag": tag})
            futures.append(handle.meta["asyncfc/futures"][0]["future_id"])
        beats: list[float] = []

        async def hear(progress: float, total: float | None, message: str | None) -> None:
            beats.append(progress)

        steps = await session.call_tool("toy__progress", {"steps": 4})
        future = steps.meta["asyncfc/futures"][0]["future_id"]
        await session.call_tool("await_future", {"future_id": future}, progress_callback=hear)
        awaited = await session.call_tool("await_future", {"future_id": futures[0]})
        gathered = await session.call_tool("gather", {"future_ids": futures})
        broken = await session.call_tool("toy__bad_schema", {})
        report = {"tools": tools, "futures": futures, "beats": len(beats)}
        for name, result in (("awaited", awaited), ("gathered", gathered), ("broken", broken)):
            report[name] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        print(json.dumps(report))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
