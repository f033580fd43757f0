"""A stdio server of the handshake era whose process ends in many ways, for tests that start real processes.

    python tests/support/ending_server.py HOW LOG

Its tools `act` (says nothing of itself) and `look` (read-only) append their argument to LOG and answer with it and the
process ID. HOW says how the process ends:

    one-shot      exits after each call that it has answered
    reader        the same, and reads no more of its input than one line at a time
    slurp         the same, and has read all of its input before it answers
    deaf          closes its input at the first call, answers a while later, and lives on
    crash         answers the first call of a process, and dies at the second, which it has read

Standard library only.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

HOW = sys.argv[1]
LOG = Path(sys.argv[2])


def lines() -> Any:
    """Lines of standard input, read byte by byte: what follows a line stays in the pipe."""
    line = b""
    while byte := os.read(0, 1):
        line += byte
        if byte == b"\n":
            yield line
            line = b""


def say(message: dict[str, Any]) -> None:
    """Write one message, whole."""
    os.write(1, json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def main() -> None:
    calls = 0
    for line in lines():
        message = json.loads(line)
        if "id" not in message:
            continue
        match message["method"]:
            case "initialize":
                info = {"name": "ending", "version": "1"}
                result: dict[str, Any] = {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {"tools": {}},
                    "serverInfo": info,
                }
            case "tools/list":
                schema = {"type": "object"}
                look = {"name": "look", "inputSchema": schema, "annotations": {"readOnlyHint": True}}
                result = {"tools": [{"name": "act", "inputSchema": schema}, look]}
            case "tools/call":
                calls += 1
                what = message["params"]["arguments"]["n"]
                with LOG.open("a") as file:
                    file.write(f"{what}\n")
                if HOW == "crash" and calls == 2:
                    os._exit(9)
                if HOW == "slurp":
                    time.sleep(0.2)
                    if select.select([0], [], [], 0)[0]:
                        os.read(0, 1 << 20)
                if HOW == "deaf":
                    os.close(0)
                    time.sleep(0.5)
                result = {"content": [{"type": "text", "text": f"did {what} in {os.getpid()}"}]}
            case _:
                say({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
                continue
        say({"id": message["id"], "result": result})
        if calls and HOW in ("one-shot", "slurp"):
            os._exit(0)
        if calls and HOW == "deaf":
            time.sleep(60)


if __name__ == "__main__":
    main()
