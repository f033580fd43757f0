"""A stdio server of the handshake era that meets `server/discover` badly, for tests that start real processes.

    python tests/support/probe_server.py HOW [LOG]

HOW says what it does with a request that arrives before `initialize`; LOG is a file to which each start and each method
is appended. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

HOW = sys.argv[1]
LOG = Path(sys.argv[2]) if len(sys.argv) > 2 else None
VERSION = sys.argv[3] if len(sys.argv) > 3 else "2025-06-18"


def note(what: str) -> None:
    """Append to the log."""
    if LOG is not None:
        with LOG.open("a") as file:
            file.write(what + "\n")


def say(message: dict[str, Any]) -> None:
    """Write one message."""
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def error(request_id: object, code: int = -32601, message: str = "Method not found") -> None:
    say({"id": request_id, "error": {"code": code, "message": message}})


def early(request_id: object) -> None:
    """Meet a request before `initialize`."""
    match HOW:
        case "exit":  # as Rust's SDK before 3 does
            print("Error: ExpectedInitializeRequest", file=sys.stderr, flush=True)
            sys.exit(1)
        case "exit 0":
            sys.exit(0)
        case "log and exit":
            print("fatal: expected initialize", flush=True)
            sys.exit(3)
        case "signal":
            os.kill(os.getpid(), signal.SIGABRT)
        case "close stdout":
            os.close(1)
            time.sleep(60)
        case "error and exit":
            error(None, -32000, "Server not initialized")
            sys.exit(1)
        case "null id":
            error(None, -32600, "Bad Request")
        case "silent":
            pass
        case "odd error":
            error(request_id, -32099, "what?")
        case "empty result":
            say({"id": request_id, "result": {}})
        case "other versions":
            say({"id": request_id, "result": {"supportedVersions": ["2030-01-01"], "capabilities": {}}})
        case "spoiled":
            error(request_id)
            spoil()


def spoil() -> None:
    """Refuse everything, since the first request was not `initialize`."""
    for line in sys.stdin:
        message = json.loads(line)
        note(message["method"])
        if "id" in message:
            error(message["id"], -32002, "Server not initialized")


def answer(message: dict[str, Any]) -> None:
    """Answer a request as an ordinary server."""
    match message["method"]:
        case "initialize":
            info = {"name": "probe", "version": "1"}
            say(
                {
                    "id": message["id"],
                    "result": {"protocolVersion": VERSION, "capabilities": {"tools": {}}, "serverInfo": info},
                }
            )
        case "tools/list":
            say({"id": message["id"], "result": {"tools": [{"name": "ping", "inputSchema": {"type": "object"}}]}})
        case "tools/call":
            say({"id": message["id"], "result": {"content": [{"type": "text", "text": "pong"}]}})
        case _:
            error(message["id"])


def main() -> None:
    note("start")
    opened = False
    for line in sys.stdin:
        message = json.loads(line)
        note(message["method"])
        if "id" not in message:
            continue
        opened = opened or message["method"] == "initialize"
        if opened:
            answer(message)
        else:
            early(message["id"])


if __name__ == "__main__":
    main()
