"""A client over Streamable HTTP that sees every byte.

Owns its connections.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Mapping

from tests.support.client import (
    HANDSHAKE,
    MODERN,
    PATIENCE,
    Caller,
    Json,
    RpcError,
)


class HttpWire(Caller):
    """A Streamable HTTP client: one POST, one answer; a session in the handshake era."""

    def __init__(
        self,
        url: str,
        *,
        era: str = HANDSHAKE,
        headers: Mapping[str, str] | None = None,
        name: str = "http-wire",
        conversation: str | None = None,
        capabilities: Json | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.name, self.conversation, self.capabilities = name, conversation, capabilities or {}
        self.context = context
        """Verifies the server, where it is one with TLS."""
        self.host, _, path = url.removeprefix("http://").removeprefix("https://").partition("/")
        self.path = "/" + path
        self.era = era
        self.headers = dict(headers or {})
        self.session: str | None = None
        self.process: subprocess.Popen[bytes] | None = None
        """The bridge, where it is known."""
        self._next = 0
        self._lock = threading.Lock()

    def exchange(
        self, http_method: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One HTTP exchange: status, headers in lower case, body."""
        connection = (
            http.client.HTTPConnection(self.host, timeout=PATIENCE)
            if self.context is None
            else http.client.HTTPSConnection(self.host, timeout=PATIENCE, context=self.context)
        )
        with contextlib.closing(connection):
            sent = {"Accept": "application/json, text/event-stream", **self.headers, **(headers or {})}
            if body is not None:
                sent["Content-Type"] = "application/json"
            connection.request(http_method, self.path, json.dumps(body).encode() if body is not None else None, sent)
            response = connection.getresponse()
            data = response.read()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, data

    def open(self) -> HttpWire:
        """Say hello in the way of the era."""
        if self.era == MODERN:
            self.request("server/discover")
            return self
        hello = {
            "protocolVersion": self.era,
            "capabilities": self.capabilities,
            "clientInfo": {"name": self.name, "version": "1"},
        }
        self.request("initialize", hello)
        self.notify("notifications/initialized")
        return self

    def _session_headers(self, method: str, params: Json) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.session:
            headers["Mcp-Session-Id"] = self.session
        if method != "initialize":
            headers["Mcp-Protocol-Version"] = self.era
        if self.era == MODERN:
            headers["Mcp-Method"] = method
            name = params.get("uri") if method == "resources/read" else params.get("name")
            if method in ("tools/call", "prompts/get", "resources/read") and name:
                headers["Mcp-Name"] = name
        return headers

    def request(
        self,
        method: str,
        params: Json | None = None,
        *,
        on_progress: Callable[[Json], None] | None = None,
        timeout: float = PATIENCE,
    ) -> Json:
        assert on_progress is None, "HttpWire reads whole answers"
        with self._lock:
            self._next += 1
            request_id = self._next
        params = dict(params or {})
        if self.era == MODERN:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientInfo": {"name": self.name, "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": self.capabilities,
            }
        if self.conversation is not None:
            params["_meta"] = {**params.get("_meta", {}), "asyncfc/conversation": self.conversation}
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        status, headers, data = self.exchange("POST", message, self._session_headers(method, params))
        self.session = headers.get("mcp-session-id", self.session)
        for answer in self._messages(headers, data):
            if answer.get("id") == request_id and "method" not in answer:
                if "error" in answer:
                    raise RpcError(answer["error"])
                return answer["result"]
        raise AssertionError(f"no answer to {method}: HTTP {status} {data[:500]!r}")

    @staticmethod
    def _messages(headers: Mapping[str, str], data: bytes) -> list[Json]:
        if headers.get("content-type", "").startswith("text/event-stream"):
            lines = data.decode().replace("\r\n", "\n").split("\n")  # not splitlines: U+2028 is no line end here
            return [json.loads(line[5:]) for line in lines if line.startswith("data:") and line[5:].strip()]
        try:
            return [json.loads(data)]
        except ValueError:
            return []

    def notify(self, method: str, params: Json | None = None) -> None:
        """Send a notification."""
        message = {"jsonrpc": "2.0", "method": method} | ({"params": params} if params else {})
        status, _, data = self.exchange("POST", message, self._session_headers(method, params or {}))
        assert status == 202, (status, data)

    def close(self) -> None:
        """End the session."""
        if self.session:
            self.exchange("DELETE", None, self._session_headers("", {}))
