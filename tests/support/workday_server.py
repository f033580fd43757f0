"""Servers of an ordinary working day: `web`, `ci`, `files` and `db`, with tools that take seconds and mean it.

    python tests/support/workday_server.py NAME    the server of that name, over stdio

Owns results that refer to each other as real ones do: pages of a search, artifacts of a build, rows of a table. They
are the same in every run. Durations are multiplied by WORKDAY_SCALE.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

SCALE = float(os.environ.get("WORKDAY_SCALE", "1"))
LOOK_UP = ToolAnnotations(readOnlyHint=True, openWorldHint=False)
WRITE = ToolAnnotations(readOnlyHint=False, destructiveHint=False, openWorldHint=False)

web, ci, files, db = MCPServer("web"), MCPServer("ci"), MCPServer("files"), MCPServer("db")


async def work(seconds: float) -> None:
    """Take time."""
    await anyio.sleep(seconds * SCALE)


@web.tool(annotations=LOOK_UP)
async def search(query: str) -> dict[str, Any]:
    """Search the web."""
    await work(1.6)
    slug = query.lower().replace(" ", "-")
    titles = ("Release notes", "Migration guide", "Changelog")
    return {
        "query": query,
        "results": [
            {"url": f"https://docs.example.com/{slug}/{n}", "title": title} for n, title in enumerate(titles, 1)
        ],
    }


@web.tool(annotations=LOOK_UP)
async def fetch(url: str) -> dict[str, Any]:
    """Fetch a page as Markdown."""
    await work(2.4 if url.endswith("1") else 1.3)
    return {"url": url, "title": "Release notes", "markdown": f"# Release notes\n\nFrom {url}.\n\n- faster\n- smaller"}


@ci.tool(annotations=LOOK_UP)
async def run_tests(suite: str, ctx: Context) -> dict[str, Any]:
    """Run a suite of tests."""
    steps = {"unit": 5, "integration": 9, "e2e": 300}.get(suite, 4)
    for step in range(1, steps + 1):
        await work(0.55)
        await ctx.report_progress(step, steps, f"{step * 40} tests")
    return {"suite": suite, "passed": steps * 40, "failed": 0, "seconds": round(steps * 0.55, 1)}


@ci.tool(annotations=LOOK_UP)
async def lint(path: str) -> dict[str, Any]:
    """Check the style of a folder."""
    await work(1.1)
    return {"path": path, "problems": 0}


@ci.tool(annotations=LOOK_UP)
async def build(target: str) -> dict[str, Any]:
    """Build a target."""
    await work(2.2)
    return {"target": target, "artifact": f"dist/{target}-1.4.0.tar.gz", "bytes": 1_482_113}


@ci.tool(annotations=WRITE)
async def deploy(artifact: str, environment: str) -> dict[str, Any]:
    """Deploy an artifact."""
    await work(1.2)
    return {"environment": environment, "artifact": artifact, "url": f"https://{environment}.example.com"}


@files.tool(annotations=WRITE)
async def append(path: str, text: str) -> dict[str, Any]:
    """Append text to a file."""
    await work(0.7)
    return {"path": path, "bytes": len(text)}


@files.tool(annotations=LOOK_UP)
async def read_file(path: str) -> dict[str, Any]:
    """Read a file."""
    await work(0.5)
    return {"path": path, "text": "# Notes\n\nTwo sources, one summary."}


@db.tool(annotations=LOOK_UP)
async def query(sql: str) -> dict[str, Any]:
    """Run a query."""
    await work(0.9)
    if "orders_2019" in sql:
        print("db: relation orders_2019 does not exist", file=sys.stderr, flush=True)
        raise ToolError('relation "orders_2019" does not exist (did you mean "orders"?)')
    return {"columns": ["day", "orders"], "rows": [["2026-11-26", 412], ["2026-11-27", 498]]}


if __name__ == "__main__":
    {"web": web, "ci": ci, "files": files, "db": db}[sys.argv[1]].run()
