"""Example server with slow build jobs. Run: `python examples/ci_server.py` (stdio)."""

import os
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp_types import ToolAnnotations

SCALE = float(os.environ.get("ASYNCFC_DEMO_SCALE", "1"))
"""Factor for every delay."""
JOB = ToolAnnotations(readOnlyHint=True, openWorldHint=False)

server = MCPServer("ci")


@server.tool(annotations=JOB)
async def run_tests(suite: str, ctx: Context) -> dict[str, Any]:
    """Run a test suite."""
    for step in range(1, 6):
        await anyio.sleep(0.5 * SCALE)
        await ctx.report_progress(step, 5, f"{step * 20} tests")
    return {"suite": suite, "passed": 100, "failed": 0}


@server.tool(annotations=JOB)
async def build(target: str) -> dict[str, Any]:
    """Build a target."""
    await anyio.sleep(1.8 * SCALE)
    return {"target": target, "artifact": f"dist/{target}.tar.gz", "ok": True}


@server.tool(annotations=JOB)
async def lint(path: str) -> dict[str, Any]:
    """Check the style of a path."""
    await anyio.sleep(0.9 * SCALE)
    return {"path": path, "problems": 0}


@server.tool()
async def publish(target: str) -> dict[str, Any]:
    """Publish a target."""
    await anyio.sleep(0.8 * SCALE)
    return {"target": target, "url": f"https://example.com/{target}"}


if __name__ == "__main__":
    server.run()
