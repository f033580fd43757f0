"""A handshake-era server over stdio whose tool, prompt and resource return the `_meta` of their requests.

Standard library only: nothing adds anything to `_meta`.
"""

import json
import sys
from typing import Any


def answered(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a request; None if there is no such method."""
    text = json.dumps(params.get("_meta"), sort_keys=True)
    match method:
        case "initialize":
            return {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}, "prompts": {}},
                "serverInfo": {"name": "meta", "version": "1"},
            }
        case "tools/list":
            return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("meta", "refuse")]}
        case "prompts/list":
            return {"prompts": [{"name": "meta"}]}
        case "prompts/get":
            return {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}
        case "tools/call" if params["name"] == "refuse":
            return {"content": [{"type": "text", "text": json.dumps(params.get("arguments"))}], "isError": True}
        case "tools/call":
            return {"content": [{"type": "text", "text": text}]}
        case _:
            return None


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        result = answered(message["method"], message.get("params") or {})
        outcome = {"error": {"code": -32601, "message": "Method not found"}} if result is None else {"result": result}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **outcome}), flush=True)


if __name__ == "__main__":
    main()
