"""Five dependent calls in one model turn, with names, references and one wait, through the bridge over stdio.

    python examples/one_turn_dag.py

The scripted model sends all five calls at once: it names them with `_as`, passes results that do not exist yet as
references, picks the cheapest flight among them, and waits once, in the last call. Without the bridge, the model can
use the flight's ID only after it has seen it: at least two turns, or one turn per call on a host that makes one call at
a time.
"""

import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp_types import Implementation

HERE = Path(__file__).resolve().parent
THINK_S = 0.5 * float(os.environ.get("ASYNCFC_DEMO_SCALE", "1"))
"""Duration of a model turn."""

CHEAPEST = "${f:flights.flights | min_by(@, &price).id}"
TURN: list[tuple[str, dict[str, Any]]] = [
    ("travel__search_flights", {"origin": "Berlin", "destination": "Lisbon", "_as": "flights"}),
    ("travel__search_hotels", {"city": "Lisbon", "_as": "hotels"}),
    (
        "notes__write_note",
        {"name": "trip", "text": "Fly ${f:flights.flights | min_by(@, &price).id}\n", "_as": "begun"},
    ),
    ("notes__append_note", {"name": "trip", "text": "Sleep at ${f:hotels.hotels[-1].name}", "_as": "noted"}),
    ("notes__read_note", {"name": "trip", "_wait": "all"}),
]
"""One turn of the model. The note is written, extended and read in this order, because all three calls touch it."""


async def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        raw = json.loads((HERE / "config.json").read_text())
        for entry in raw["mcpServers"].values():
            entry["command"] = sys.executable
            entry["args"][0] = str(HERE.parent / entry["args"][0]) if "/" in entry["args"][0] else entry["args"][0]
        raw.setdefault("asyncfc", {})["journal"] = "off"
        config = Path(scratch) / "mcp.json"
        config.write_text(json.dumps(raw))
        kept = {key: os.environ[key] for key in os.environ if key.startswith(("ASYNCFC_", "PYTHON"))}
        bridge = StdioServerParameters(
            command=sys.executable,
            args=["-m", "asyncfc_mcp", "serve", "--config", str(config)],
            env={**kept, "ASYNCFC_NOTES": str(Path(scratch) / "notes")},
        )
        me = Implementation(name="asyncfc-scripted-agent", version="1")
        async with Client(bridge, client_info=me) as client:
            await client.list_tools()
            began = time.monotonic()
            await anyio.sleep(THINK_S)
            answer = None
            for tool, arguments in TURN:
                answer = await client.call_tool(tool, arguments)
                print(f"{tool}({json.dumps(arguments)})\n    {answer.content[0].text}")
            took = time.monotonic() - began
    assert answer is not None
    print("\nThe last answer contains all results:")
    for block in answer.content:
        text = " ".join(block.text.split())
        print(f"    {text if len(text) <= 100 else text[:97] + '...'}")
    print(f"\n1 model turn for {len(TURN)} dependent calls, {took:.1f} s.")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        anyio.run(main)
