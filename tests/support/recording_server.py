"""A server over HTTP in a process of its own, which records every message that it receives and every hang-up.

    python tests/attacks/recording_server.py WAY LOG

WAY is `handshake` or `modern` (Streamable HTTP), or `sse` (HTTP+SSE). Its tool `hang` never answers, `give` returns its
arguments. It announces its port on stdout. LOG gets a JSON object a line: `got` with the method, ID and parameters of a
message, `closed` with the ID of a call of `hang` whose connection has ended. Nothing of the bridge is imported.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.hostile_http import Exchange, HostileServer

UNKNOWN = '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"Method not found"}}'


class RecordingServer(HostileServer):
    """Records, and serves in one of three ways."""

    def __init__(self, way: str, log: Path) -> None:
        super().__init__({"hang": self._hang, "give": self._give})
        self._way, self._log = way, log
        self._lock = threading.Lock()
        self._stream: Exchange | None = None
        self.session = None if way == "modern" else self.session
        self.override = self._receive

    def _note(self, **what: Any) -> None:
        with self._lock, self._log.open("a") as file:
            file.write(json.dumps(what) + "\n")

    def _receive(self, exchange: Exchange) -> bool:
        message = exchange.message
        if message:
            self._note(got=message.get("method"), id=exchange.id, params=message.get("params"))
        if self._way == "sse":
            self._serve_sse(exchange)
            return True
        if self._way == "modern" and message.get("method") == "server/discover":
            found = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
            exchange.send(exchange.result(resultType="complete", serverInfo={"name": "r", "version": "1"}, **found))
            return True
        return False

    def _serve_sse(self, exchange: Exchange) -> None:
        if exchange.method == "GET":
            exchange.stream("event: endpoint\ndata: /post\n\n")
            self._stream = exchange
            return
        exchange.send(status=202)
        answers: dict[str, dict[str, Any]] = {
            "initialize": {
                "protocolVersion": "2024-11-05",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "r", "version": "1"},
            },
            "tools/list": {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in self.tools]},
            "tools/call": {"content": [], "structuredContent": exchange.arguments},
        }
        method = exchange.message["method"]
        hangs = (exchange.message.get("params") or {}).get("name") == "hang"
        if exchange.id is not None and not hangs:
            assert self._stream is not None
            data = exchange.result(**answers[method]).decode() if method in answers else UNKNOWN % exchange.id
            with self._lock:
                self._stream.event(f"event: message\ndata: {data}\n\n")

    def _hang(self, exchange: Exchange) -> None:
        try:
            while exchange.connection.recv(65536):
                pass
        except OSError:
            pass
        self._note(closed=exchange.id)
        exchange.close()

    def _give(self, exchange: Exchange) -> None:
        exchange.send(exchange.result(content=[], structuredContent=exchange.arguments))


if __name__ == "__main__":
    print(RecordingServer(sys.argv[1], Path(sys.argv[2])).port, flush=True)
    threading.Event().wait()
