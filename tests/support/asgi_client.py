"""An ASGI app and its clients without a server between them: what tests of HTTP have in common.

Owns no assertions but those of ASGI itself.
"""

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio

Json = dict[str, Any]
App = Callable[[Any, Any, Any], Any]
LIMIT = 10_000
"""Largest body of the apps under test, in bytes."""
HOSTS = ["127.0.0.1", "localhost", "[::1]", "127.0.0.1:*", "localhost:*", "[::1]:*"]
ORIGINS = [f"{scheme}://{name}:*" for scheme in ("http", "https") for name in HOSTS[:3]]


@dataclass(frozen=True)
class Http:
    """An HTTP request; what is not said is as a good client that shook hands says it."""

    version: ClassVar[str] = "2025-11-25"

    body: Any = None
    """JSON, unless it is bytes or pieces of them."""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    """Beside or instead of a good client's; None leaves one out."""
    more: Sequence[tuple[str, str]] = ()
    """Headers added even if they are there already."""
    method: str = "POST"

    def pieces(self) -> list[bytes]:
        """The body, as it arrives."""
        if isinstance(self.body, list) and self.body and isinstance(self.body[0], bytes):
            return list(self.body)
        return [self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()]

    def good_headers(self) -> dict[str, str]:
        return {
            "host": "127.0.0.1:8642",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": self.version,
        }

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        said = {**self.good_headers(), **self.headers}
        kept = [(name, value) for name, value in said.items() if value is not None]
        return [(name.encode(), value.encode("latin-1")) for name, value in [*kept, *self.more]]


class Exchange:
    """One request to an ASGI app, and what came back. `hang_up` ends it from the client's side."""

    def __init__(self, app: App, post: Http) -> None:
        self._app, self._post = app, post
        self._pieces = post.pieces()
        self._hung_up = anyio.Event()
        self.reads = anyio.Event()
        """Unset, the client reads nothing of what it is sent."""
        self.reads.set()
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.ended = False

    async def run(self, target: str = "/mcp") -> "Exchange":
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": self._post.method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": self._post.raw_headers(),
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8642),
        }
        await self._app(scope, self._receive, self._send)
        return self

    async def _receive(self) -> Json:
        if self._pieces and not self._hung_up.is_set():
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}
        await self._hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Json) -> None:
        await self.reads.wait()
        assert not self.ended
        if message["type"] == "http.response.start":
            assert self.status is None
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            assert self.status is not None
            self.chunks.append(message.get("body", b""))
            self.ended = not message.get("more_body", False)

    def hang_up(self) -> None:
        self._hung_up.set()
        self.reads.set()

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self) -> Json:
        return json.loads(self.body)

    @property
    def streams(self) -> bool:
        return self.headers.get("content-type") == "text/event-stream"

    def events(self) -> list[Json]:
        """The messages of a stream."""
        blocks = [block for block in self.body.decode().split("\r\n\r\n") if block and not block.startswith(":")]
        assert all(block.startswith("event: message\r\ndata: ") for block in blocks)
        return [json.loads(block.partition("data: ")[2]) for block in blocks]

    def pings(self) -> int:
        return self.body.count(b": ping\r\n\r\n")

    def seen(self) -> tuple[Any, ...]:
        """What a client can tell apart."""
        kind = self.headers.get("content-type")
        body: Any = self.events() if self.streams else self.json if kind == "application/json" else self.body
        return self.status, kind, self.headers.get("allow"), self.headers.get("mcp-session-id"), body


@asynccontextmanager
async def alive(app: App) -> AsyncGenerator[None]:
    """An app between its start and its end."""
    up, down, over = anyio.Event(), anyio.Event(), anyio.Event()
    asked = iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))

    async def receive() -> Json:
        message = next(asked)
        if message["type"] == "lifespan.shutdown":
            await down.wait()
        return message

    async def send(message: Json) -> None:
        assert message["type"] != "lifespan.startup.failed", message
        (up if message["type"] == "lifespan.startup.complete" else over).set()

    async with anyio.create_task_group() as tg:
        tg.start_soon(app, {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
        await up.wait()
        yield
        down.set()
        await over.wait()
