"""A client on FastMCP with its tasks extension: quick and slow calls; prints what it got as one JSON object.

Usage: python fastmcp_tasks_client.py (http URL | stdio COMMAND ARGS...)
Runs in a virtual environment of its own, which has FastMCP and nothing of ours.
"""

import json
import os
import sys

import anyio
import fastmcp_tasks  # noqa: F401  # declares the extension
from fastmcp import Client
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport


async def main(kind: str, target: str, *args: str) -> None:
    """Drive the bridge once."""
    if kind == "stdio":
        transport = StdioTransport(command=target, args=list(args), env=dict(os.environ))
    else:
        transport = StreamableHttpTransport(target)
    async with Client(transport, cache=False) as client:
        tools: list[str] = []
        with anyio.fail_after(15):
            while "toy__sleep" not in tools:
                tools = [tool.name for tool in await client.list_tools()]
                await anyio.sleep(0.05)
        got: dict[str, object] = {}

        async def call(name: str, tool: str, arguments: dict[str, object]) -> None:
            result = await client.call_tool(tool, arguments, raise_on_error=False)
            text = "".join(block.text for block in result.content)
            got[name] = {"text": text, "failed": result.is_error, "meta": dict(result.meta or {})}

        async with anyio.create_task_group() as tg:
            for tag in "abc":
                tg.start_soon(call, tag, "toy__sleep", {"seconds": 0.5, "tag": tag})
        await call("quick", "toy__echo", {"text": "hi"})
        await call("failing", "toy__fail", {"message": "no luck"})
        await call("listed", "list_futures", {})
        print(json.dumps(got))


anyio.run(main, *sys.argv[1:])
