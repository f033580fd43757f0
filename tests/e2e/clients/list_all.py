"""What a client on a Python SDK, 1.x or FastMCP's, gets of the four listings, as one JSON object: key → names.

Usage: python list_all.py (sdk1 | fastmcp) COMMAND ARGS...
"""

import json
import os
import sys

import anyio

kind, command, *args = sys.argv[1:]


async def sdk1() -> dict[str, list[str]]:
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    parameters = StdioServerParameters(command=command, args=args, env=dict(os.environ))
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        return {
            "tools": [each.name for each in (await session.list_tools()).tools],
            "prompts": [each.name for each in (await session.list_prompts()).prompts],
            "resources": [each.name for each in (await session.list_resources()).resources],
            "resourceTemplates": [each.name for each in (await session.list_resource_templates()).resourceTemplates],
        }


async def fastmcp() -> dict[str, list[str]]:
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    async with Client(StdioTransport(command, args, env=dict(os.environ))) as client:
        return {
            "tools": [each.name for each in await client.list_tools()],
            "prompts": [each.name for each in await client.list_prompts()],
            "resources": [each.name for each in await client.list_resources()],
            "resourceTemplates": [each.name for each in await client.list_resource_templates()],
        }


print(json.dumps(anyio.run({"sdk1": sdk1, "fastmcp": fastmcp}[kind])))
