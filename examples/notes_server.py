"""Example server with state: notes and accounts in a folder. Run: `python examples/notes_server.py FOLDER` (stdio).

Every tool pauses between reading and writing, so concurrent conflicting calls would lose updates. With
`examples/config.json` the bridge keeps conflicting calls in order and runs the others concurrently.
"""

import os
import sys
from pathlib import Path

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

SCALE = float(os.environ.get("ASYNCFC_DEMO_SCALE", "1"))
"""Factor for every delay."""
READS = ToolAnnotations(readOnlyHint=True, openWorldHint=False)
WRITES = ToolAnnotations(readOnlyHint=False, destructiveHint=True, openWorldHint=False)
ADDS = ToolAnnotations(readOnlyHint=False, destructiveHint=False, openWorldHint=False)

server = MCPServer("notes")
folder = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASYNCFC_NOTES", "notes-data"))


async def think() -> None:
    await anyio.sleep(0.4 * SCALE)


def place(kind: str, name: str) -> Path:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ToolError(f"a name is letters, digits, '-' and '_'; found {name!r}")
    path = folder / kind / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def amount_in(account: str) -> int:
    path = place("accounts", account)
    return int(path.read_text()) if path.exists() else 0


@server.tool(annotations=WRITES)
async def write_note(name: str, text: str) -> str:
    """Write a note, replacing its text."""
    await think()
    place("notes", name).write_text(text)
    return f"wrote {name}"


@server.tool(annotations=ADDS)
async def append_note(name: str, text: str) -> str:
    """Add a line to a note."""
    path = place("notes", name)
    before = path.read_text() if path.exists() else ""
    await think()
    path.write_text(before + text + "\n")
    return f"appended to {name}"


@server.tool(annotations=READS)
async def read_note(name: str) -> str:
    """Read a note."""
    await think()
    path = place("notes", name)
    if not path.exists():
        raise ToolError(f"there is no note {name!r}")
    return path.read_text()


@server.tool(annotations=READS)
async def list_notes() -> list[str]:
    """List the names of all notes."""
    await think()
    return sorted(path.stem for path in (folder / "notes").glob("*.txt"))


@server.tool(annotations=WRITES)
async def deposit(account: str, amount: int) -> int:
    """Put money into an account and return its new balance."""
    before = amount_in(account)
    await think()
    place("accounts", account).write_text(str(before + amount))
    return before + amount


@server.tool(annotations=WRITES)
async def transfer(source: str, target: str, amount: int) -> str:
    """Move money from one account to another; fails if there is too little."""
    have, there = amount_in(source), amount_in(target)
    await think()
    if have < amount:
        raise ToolError(f"{source} has {have}, not {amount}")
    place("accounts", source).write_text(str(have - amount))
    place("accounts", target).write_text(str(there + amount))
    return f"moved {amount} from {source} to {target}"


@server.tool(annotations=READS)
async def balance(account: str) -> int:
    """Read the balance of an account."""
    await think()
    return amount_in(account)


if __name__ == "__main__":
    server.run()
