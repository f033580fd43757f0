"""A server whose tools answer as a JSON file says, over stdio or HTTP, in either protocol era.

Usage: python answering_server.py FILE [--http] [WORDS...]. Over HTTP it prints "listening on PORT". Keys of the file:

    tools      the entries of its listing
    results    tool → its results in turn, the last one from then on; without one a tool answers with its arguments
    modern     true: 2026-07-28 only; else the handshake
    log        a file to which a line is added for each call: tool, arguments, headers `mcp-param-…`
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Json = dict[str, Any]
MODERN = "2026-07-28"
LOCK = threading.Lock()


class Answers:
    """The answers of one plan."""

    def __init__(self, plan: Json) -> None:
        self.plan = plan
        self.left = {tool: list(results) for tool, results in plan.get("results", {}).items()}

    def of(self, message: Json, headers: dict[str, str]) -> Json:
        """The response to one request."""
        method, params = message["method"], message.get("params") or {}
        result = self._result(method, params, headers)
        if result is None:
            return {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "Method not found"}}
        if self.plan.get("modern"):
            result = {"resultType": "complete", **result}
        return {"jsonrpc": "2.0", "id": message["id"], "result": result}

    def _result(self, method: str, params: Json, headers: dict[str, str]) -> Json | None:
        server = {"name": "answering", "version": "1"}
        match method:
            case "server/discover" if self.plan.get("modern"):
                return {"supportedVersions": [MODERN], "capabilities": {"tools": {}}, "serverInfo": server}
            case "initialize" if not self.plan.get("modern"):
                return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": server}
            case "tools/list":
                cache = {"ttlMs": 0, "cacheScope": "private"} if self.plan.get("modern") else {}
                return {
                    "tools": self.plan["tools"],
                    **cache,
                }
            case "tools/call":
                return self._call(params["name"], params.get("arguments"), headers)
            case "ping":
                return {}
            case _:
                return None

    def _call(self, tool: str, arguments: Json | None, headers: dict[str, str]) -> Json:
        with LOCK:
            if "log" in self.plan:
                with Path(self.plan["log"]).open("a") as file:
                    file.write(json.dumps([tool, arguments, headers]) + "\n")
            left = self.left.get(tool)
            if not left:
                return {"content": [{"type": "text", "text": json.dumps(arguments)}]}
            return left.pop(0) if len(left) > 1 else left[0]


def over_stdio(answers: Answers) -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "method" in message and "id" in message:
            print(json.dumps(answers.of(message, {})), flush=True)


def over_http(answers: Answers) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["content-length"])))
            params = {
                name.lower(): value for name, value in self.headers.items() if name.lower().startswith("mcp-param-")
            }
            body = json.dumps(answers.of(message, params)).encode() if "id" in message else b""
            self.send_response(200 if body else 202)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.send_response(405)
            self.send_header("content-length", "0")
            self.end_headers()

        do_DELETE = do_GET

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"listening on {server.server_address[1]}", flush=True)
    server.serve_forever()


def main() -> None:
    answers = Answers(json.loads(Path(sys.argv[1]).read_text()))
    if "--http" in sys.argv:
        over_http(answers)
    else:
        over_stdio(answers)


if __name__ == "__main__":
    main()
