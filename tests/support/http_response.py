"""One response over Streamable HTTP that is read while it grows, for what `HttpWire` reads as a whole.

Owns its connection. Every read has a time limit.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.client import MODERN, PATIENCE, Json
from tests.support.http_client import HttpWire


class GrowingResponse:
    """The messages of an event stream, or the one of a plain response.

    Args:
        client: in whose session, or with whose envelope, the request is made.
        method: of JSON-RPC; None opens the session's own stream (GET).
    """

    def __init__(
        self, client: HttpWire, method: str | None, params: Json | None = None, *, request_id: int = 900
    ) -> None:
        self._connection = http.client.HTTPConnection(client.host, timeout=PATIENCE)
        params = dict(params or {})
        if client.era == MODERN:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientInfo": {"name": client.name, "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": client.capabilities,
                **({} if client.conversation is None else {"asyncfc/conversation": client.conversation}),
            }
        headers = {
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            **client.headers,
            **client._session_headers(method or "", params),
        }
        body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        data = None if method is None else json.dumps(body).encode()
        self._connection.request("GET" if method is None else "POST", client.path, data, headers)
        self._response: Any = None
        self._messages: Iterator[Json] | None = None
        self.seen: list[Json] = []

    @property
    def status(self) -> int:
        """HTTP status, once the response has begun."""
        return self._begun().status

    def _begun(self) -> Any:
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def _read(self) -> Iterator[Json]:
        response = self._begun()
        if not response.getheader("content-type", "").startswith("text/event-stream"):
            yield json.loads(response.read())
            return
        for line in iter(response.readline, b""):
            if line.startswith(b"data:") and line[5:].strip():
                yield json.loads(line[5:])

    def next(self, wanted: Callable[[Json], bool]) -> Json:
        """The next message that is wanted; the others are kept in `seen`."""
        if self._messages is None:
            self._messages = self._read()
        for message in self._messages:
            self.seen.append(message)
            if wanted(message):
                return message
        raise AssertionError(f"the response ended without it: {self.seen}")

    def close(self) -> None:
        """Disconnect."""
        if self._response is not None:
            self._response.close()
        self._connection.close()
