"""Example server that runs git, pytest and ruff on a project. Run: `python project_server.py` (stdio).

pytest and ruff are run with `uvx`, so the environment of the server does not have to contain them.
"""

import re
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

CHECK = ToolAnnotations(readOnlyHint=True, openWorldHint=False)
CLONE = ToolAnnotations(readOnlyHint=False, destructiveHint=False, openWorldHint=False)

server = MCPServer("project")


async def run(*command: str, folder: str | None = None, allowed: tuple[int, ...] = (0,)) -> str:
    done = await anyio.run_process(command, cwd=folder, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode not in allowed:
        raise ToolError(f"{' '.join(command)} ended with {done.returncode}: {said[-500:]}")
    return said


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


@server.tool(annotations=CLONE)
async def clone(url: str, folder: str) -> dict[str, Any]:
    """Clone a repository into a folder."""
    await run("git", "clone", "--quiet", url, folder)
    return {"folder": folder}


@server.tool(annotations=CHECK)
async def run_tests(folder: str) -> dict[str, Any]:
    """Run the tests of a project with pytest."""
    said = await run("uvx", "pytest", "-q", "-p", "no:cacheprovider", folder=folder, allowed=(0, 1))
    return {"passed": number(r"(\d+) passed", said), "failed": number(r"(\d+) failed", said)}


@server.tool(annotations=CHECK)
async def lint(folder: str) -> dict[str, Any]:
    """Check the style of a project with ruff."""
    said = await run("uvx", "ruff", "check", "--no-cache", folder=folder, allowed=(0, 1))
    return {"problems": number(r"Found (\d+) error", said)}


if __name__ == "__main__":
    server.run()
