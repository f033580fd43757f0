"""A client on LangChain's MCP adapters: list → call → await_future → gather; prints what it got as one JSON object.

Usage: python langchain_client.py (http URL | stdio COMMAND ARGS...)
Over HTTP the tools are those of `get_tools()`, each call of which opens a session of its own; over stdio those of
`session()`, since `get_tools()` would start a process for every call.
Runs in a virtual environment of its own, which has the adapters and nothing of ours.
"""

import json
import os
import re
import sys
from contextlib import AsyncExitStack
from typing import Any

import anyio
from langchain_core.tools import BaseTool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools


async def use(tool: BaseTool, **arguments: Any) -> dict[str, Any]:
    """A call as an agent makes it: what the model is shown, and what it is not."""
    message = await tool.ainvoke({"type": "tool_call", "id": "1", "name": tool.name, "args": arguments})
    words = "\n".join(block.get("text", "") for block in message.content)
    return {"text": words, "artifact": message.artifact, "status": message.status}


async def main(kind: str, target: str, *args: str) -> None:
    """Drive the bridge once."""
    connection: Any = {"transport": "streamable_http", "url": target}
    if kind == "stdio":
        connection = {"transport": "stdio", "command": target, "args": list(args), "env": dict(os.environ)}
    client = MultiServerMCPClient({"bridge": connection})
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(client.session("bridge")) if kind == "stdio" else None
        tools: dict[str, BaseTool] = {}
        with anyio.fail_after(15):
            while "toy__sleep" not in tools:
                found = await load_mcp_tools(session) if session is not None else await client.get_tools()
                tools = {tool.name: tool for tool in found}
        handles = [await use(tools["toy__sleep"], seconds=0.5, tag=tag) for tag in "abc"]
        futures = [re.findall(r"\bf\d+\b", handle["text"])[0] for handle in handles]
        named = await use(tools["toy__sleep"], seconds=0, _as="quick")
        report = {
            "tools": list(tools),
            "taught": tools["await_future"].description,
            "futures": futures,
            "handle": handles[0],
            "named": named,
            "awaited": await use(tools["await_future"], future_id=futures[0]),
            "gathered": await use(tools["gather"], future_ids=[*futures, "quick"]),
            "broken": await use(tools["toy__bad_schema"]),
            "failed": await use(tools["toy__fail"], message="no luck", _wait="this"),
            "referred": await use(tools["toy__echo"], text="$quick", _wait="this"),
        }
        print(json.dumps(report))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
