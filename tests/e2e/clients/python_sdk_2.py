"""A client on the Python SDK 2.3: list → call → await_future → gather; prints what it got as one JSON object.

Usage: python python_sdk_2.py (auto | legacy) (http URL | stdio COMMAND ARGS...)
"""

import json
import os
import sys

import anyio
from mcp import Client, StdioServerParameters


async def main(mode: str, kind: str, target: str, *args: str) -> None:
    """Drive the bridge once."""
    server = target if kind == "http" else StdioServerParameters(command=target, args=[*args], env=dict(os.environ))
    async with Client(server, mode=mode, cache=None) as client:
        tools: list[str] = []
        with anyio.fail_after(15):
            while "toy__sleep" not in tools:
                tools = [tool.name for tool in (await client.list_tools()).tools]
                await anyio.sleep(0.05)
        futures: list[str] = []
        for tag in "abc":
            handle = await client.call_tool("toy__sleep", {"seconds": 0.5, "tag": tag})
            futures.append(handle.meta["asyncfc/futures"][0]["future_id"])
        beats: list[float] = []

        async def hear(progress: float, total: float | None, message: str | None) -> None:
            beats.append(progress)

        steps = await client.call_tool("toy__progress", {"steps": 4})
        future = steps.meta["asyncfc/futures"][0]["future_id"]
        await client.call_tool("await_future", {"future_id": future}, progress_callback=hear)
        awaited = await client.call_tool("await_future", {"future_id": futures[0]})
        gathered = await client.call_tool("gather", {"future_ids": futures})
        broken = await client.call_tool("toy__bad_schema", {})
        report = {"tools": tools, "futures": futures, "beats": len(beats), "version": client.protocol_version}
        for name, result in (("awaited", awaited), ("gathered", gathered), ("broken", broken)):
            report[name] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        print(json.dumps(report))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
