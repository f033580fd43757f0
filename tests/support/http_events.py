"""Notifications that a client receives over HTTP, on the stream of its session or of a request.

Owns reading the stream, in a thread.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading

from tests.support.client import MODERN, PATIENCE, Json, eventually
from tests.support.stage import HttpBridge

TASKS: Json = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"


class Events:
    """Server-sent events of one HTTP response, read in a thread until it is closed."""

    def __init__(self, bridge: HttpBridge, method: str, headers: Json, body: Json | None = None) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=PATIENCE)
        accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        sent = json.dumps(body).encode() if body is not None else None
        self.connection.request(method, "/mcp", sent, {**accept, **headers})
        self.response = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()
        self.messages: list[Json] = []
        self.thread = threading.Thread(target=self._read, name="events", daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException, AttributeError):
            for line in self.response:
                if line.startswith(b"data:") and line[5:].strip():
                    self.messages.append(json.loads(line[5:]))

    def told(self, method: str) -> Json:
        """The parameters of the first notification of this method."""

        def found() -> list[Json]:
            return [each for each in list(self.messages) if each.get("method") == method]

        return eventually(found, f"{method} as an event")[0].get("params") or {}

    def close(self) -> None:
        """Hang up, as a client that leaves does."""
        sock = self.connection.sock or getattr(getattr(self.response.fp, "raw", None), "_sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(2)
        self.thread.join(PATIENCE)
        self.response.close()
        self.connection.close()


def modern_request(method: str, params: Json, capabilities: Json = TASKS, name: str | None = None) -> tuple[Json, Json]:
    """Headers and body of a 2026-07-28 request over HTTP."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "events", "version": "1"},
        CAPABILITIES: capabilities,
        **params.get("_meta", {}),
    }
    headers = {"Mcp-Protocol-Version": MODERN, "Mcp-Method": method} | ({"Mcp-Name": name} if name else {})
    return headers, {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
