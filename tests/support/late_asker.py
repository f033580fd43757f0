"""A toy server over stdio that asks a question after a while, whether or not its call was cancelled by then.

Tool `ask {text, after}` asks `text` after so many seconds; tool `wait {after}` only waits.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

TOOLS = [
    {"name": name, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}} for name in ("ask", "wait")
]
_lock = threading.Lock()


def say(message: dict[str, Any]) -> None:
    """Write one message."""
    with _lock:
        print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def work(request_id: Any, tool: str, arguments: dict[str, Any]) -> None:
    """Do what a tool does."""
    time.sleep(float(arguments["after"]))
    if tool == "ask":
        form = {"type": "object", "properties": {"name": {"type": "string"}}}
        params = {"message": arguments["text"], "requestedSchema": form}
        say({"id": f"question-{request_id}", "method": "elicitation/create", "params": params})
    else:
        say({"id": request_id, "result": {"content": [{"type": "text", "text": "waited"}]}})


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        message = json.loads(line)
        match message.get("method"):
            case "initialize":
                version = message["params"]["protocolVersion"]
                info = {"name": "late", "version": "1"}
                result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
                say({"id": message["id"], "result": result})
            case "tools/list":
                say({"id": message["id"], "result": {"tools": TOOLS}})
            case "tools/call":
                call = message["params"]
                args = message["id"], call["name"], call.get("arguments", {})
                threading.Thread(target=work, args=args, daemon=True).start()
            case str() if "id" in message:
                say({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
            case _:
                pass


if __name__ == "__main__":
    main()
