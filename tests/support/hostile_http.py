"""An MCP server over raw sockets, for answers that no well-behaved server gives. Nothing of the bridge is imported."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]


class Exchange:
    """One HTTP request and the socket to answer it on."""

    def __init__(self, server: HostileServer, connection: socket.socket, head: bytes, body: bytes) -> None:
        self.server, self.connection, self.body = server, connection, body
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = first.split(" ", 2)
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.message: Json = json.loads(body) if body.strip().startswith(b"{") else {}
        self.closed = False

    @property
    def id(self) -> Any:
        return self.message.get("id")

    @property
    def arguments(self) -> Json:
        return (self.message.get("params") or {}).get("arguments") or {}

    def result(self, **result: Any) -> bytes:
        """The JSON-RPC message that answers the request."""
        return json.dumps({"jsonrpc": "2.0", "id": self.id, "result": result}).encode()

    def text(self, text: str) -> bytes:
        """The same, for a tool whose result is one text."""
        return self.result(content=[{"type": "text", "text": text}])

    def send(self, body: bytes = b"", status: int = 200, kind: str | None = "application/json", **headers: str) -> None:
        """A whole answer. Underscores in names of headers are dashes."""
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
        lines += [f"content-type: {kind}"] if kind is not None else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self.connection.sendall(data)

    def stream(self, *events: str, end: bool = False) -> None:
        """The head of an event stream, and events."""
        self.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in events:
            self.event(event)
        if end:
            self.raw(b"0\r\n\r\n")

    def event(self, text: str) -> None:
        """More of an event stream."""
        data = text.encode()
        self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    def close(self, *, reset: bool = False) -> None:
        """End the connection; with RST if asked for."""
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.closed = True
        self.connection.close()


class HostileServer:
    """A server that shakes hands, whose tools do what their functions do to the socket.

    Attributes:
        session: the session ID that it knows; None for no sessions.
        seen: method, path and JSON-RPC method of each request.
        override: answers a request in place of everything else, if it returns True.
    """

    def __init__(self, tools: Mapping[str, Callable[[Exchange], None]], *, port: int = 0) -> None:
        self.tools = tools
        self.session: str | None = "one"
        self.sessions = 1
        self.seen: list[tuple[str, str, str]] = []
        self.headers: list[Mapping[str, str]] = []
        self.override: Callable[[Exchange], bool] = lambda exchange: False
        self.annotations: Mapping[str, Json] = {}
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def calls(self, method: str = "tools/call") -> int:
        """How often a JSON-RPC method was posted."""
        return sum(each[2] == method for each in self.seen)

    def forget(self) -> None:
        """Forget the session, as a server does that was started again."""
        self.sessions += 1
        self.session = f"session-{self.sessions}"

    def close(self) -> None:
        """Stop listening, and end all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)  # closing alone leaves `accept` waiting, and the port open
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """End all connections."""
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self) -> HostileServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    chunk = connection.recv(65536)
                    if not chunk:
                        return
                    data += chunk
                    if data.startswith(b"\x16"):  # a TLS handshake
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                        return
                head, _, data = data.partition(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                while len(data) < length:
                    data += connection.recv(65536)
                exchange = Exchange(self, connection, head, data[:length])
                data = data[length:]
                self.seen.append((exchange.method, exchange.path, exchange.message.get("method", "")))
                self.headers.append(exchange.headers)
                if not self.override(exchange):
                    self._answer(exchange)
                if exchange.closed:
                    return
        except OSError:
            pass
        finally:
            self._open.discard(connection)
            connection.close()

    def _answer(self, exchange: Exchange) -> None:
        if exchange.method != "POST":
            exchange.send(status=405)
            return
        method = exchange.message.get("method")
        known = self.session is None or exchange.headers.get("mcp-session-id") == self.session
        if method == "initialize":
            info = {"name": "hostile", "version": "1"}
            extra = {} if self.session is None else {"mcp_session_id": self.session}
            body = exchange.result(protocolVersion="2025-11-25", capabilities={"tools": {}}, serverInfo=info)
            exchange.send(body, **extra)
        elif not known:
            exchange.send(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}', 404)
        elif exchange.id is None:
            exchange.send(status=202)
        elif method == "tools/list":
            tools = [
                {"name": name, "inputSchema": {"type": "object"}, "annotations": self.annotations.get(name, {})}
                for name in self.tools
            ]
            exchange.send(exchange.result(tools=tools))
        elif method == "tools/call":
            self.tools[exchange.message["params"]["name"]](exchange)
        else:
            error = {"code": -32601, "message": "Method not found"}
            exchange.send(json.dumps({"jsonrpc": "2.0", "id": exchange.id, "error": error}).encode())
