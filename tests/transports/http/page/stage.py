"""A page whose monitor knows what a test tells it, without a bridge and without a socket.

Owns no assertions.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio

from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.core.identity import PERSON, Principal, Scope
from asyncfc_mcp.errors import UnknownFuture
from asyncfc_mcp.transports.http.asgi import respond
from asyncfc_mcp.transports.http.auth.authenticator import Access, Token
from asyncfc_mcp.transports.http.auth.bearer_token import TokenTable
from asyncfc_mcp.transports.http.page.page import Page
from asyncfc_mcp.transports.http.page.same_origin import SameOrigin
from asyncfc_mcp.transports.http.routes import own_names
from asyncfc_mcp.transports.http.traffic import Traffic
from tests.support.asgi_client import Exchange, Http

BEHIND = b"behind the page"
"""What the application behind the page answers."""
Json = dict[str, Any]


class FakeMonitor:
    """Every principal has one call, `f1`, with its own name in it."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.changed = anyio.Event()
        self.open_feeds = 0

    async def overview(self, principal: Principal) -> Json:
        return {"principal": principal.scope.key}

    async def calls(self, principal: Principal, query: Any) -> Any:
        return SimpleNamespace(entries=[{"id": "f1", "name": principal.scope.key}], next=None)

    async def call(self, principal: Principal, future_id: str) -> Json:
        if future_id != "f1":
            raise UnknownFuture(future_id, [])
        return {"id": "f1", "name": principal.scope.key}

    async def cancel(self, principal: Principal, future_id: str) -> Json:
        entry = await self.call(principal, future_id)
        self.cancelled.append(principal.scope.key)
        return entry

    @asynccontextmanager
    async def feed(self, principal: Principal) -> AsyncGenerator[AsyncIterator[Json]]:
        async def events() -> AsyncGenerator[Json]:
            yield {"event": "calls", "data": {"reset": True, "entries": [{"id": "f1", "name": "a\nb\u2028\ud800"}]}}
            await self.changed.wait()
            yield {"event": "calls", "data": {"reset": False, "entries": []}}
            await anyio.sleep_forever()

        self.open_feeds += 1
        try:
            async with aclosing(events()) as following:
                yield following
        finally:
            self.open_feeds -= 1

    async def export(self, principal: Principal, query: Any, form: str) -> AsyncGenerator[bytes]:
        yield b'{"id": "f1"}\n'
        yield b'{"id": "f0"}\n'


class Persons(TokenTable):
    """Persons whose tokens are their names; or, without names, anyone."""

    def __init__(self, *names: str, anyone: Access | None = None, grants: Mapping[str, frozenset[str]] = {}) -> None:
        self.of = {
            name: Access(Principal(Scope(f"{PERSON}{name}"), name=name, grants=grants.get(name))) for name in names
        }
        super().__init__({Token(name.encode()).digest: access for name, access in self.of.items()})
        self.anyone = anyone

    @property
    def lapses(self) -> bool:
        return True

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()


class Paged:
    """A page and its clients."""

    def __init__(
        self,
        persons: Persons | None,
        *,
        host: str = "127.0.0.1",
        public_url: str | None = None,
        **settings: Any,
    ) -> None:
        self.monitor = FakeMonitor()
        monitor: Any = self.monitor
        bridge: Any = SimpleNamespace(settings=Settings(**settings), observe_reload=lambda observer: None)
        names = own_names(host, public_url)
        self.page = Page(
            bridge,
            monitor,
            endpoint=persons,
            origin=SameOrigin(names.hosts, names.origins, public_url),
            traffic=Traffic(bridge.settings),
        )
        self.app = self.page.before(lambda scope, receive, send: respond(send, 418, BEHIND))

    def exchange(self, method: str = "GET", body: Any = None, token: str | None = None, **headers: Any) -> Exchange:
        """A request that is not sent yet. Names of headers have `_` for `-`."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given["authorization"] = f"Bearer {token}"
        return Exchange(self.app, Http({} if body is None else body, headers=given, method=method))

    async def get(self, path: str, **options: Any) -> Exchange:
        return await self.exchange(**options).run(path)

    async def post(self, path: str, body: Any = None, **options: Any) -> Exchange:
        return await self.exchange("POST", body, **options).run(path)

    async def enter(self, token: str | None = None) -> str:
        """A token of the page, for the holder of a token of the endpoint."""
        key = (await self.post("/page/api/key", token=token)).json["key"]
        return (await self.post("/page/api/enter", {"key": key})).json["token"]


def events_of(exchange: Exchange) -> list[Json]:
    """The events of a stream so far."""
    found: list[Json] = []
    for block in exchange.body.decode().split("\n\n"):
        if block and not block.startswith(":"):
            event, data = block.split("\n")
            found.append({"event": event.removeprefix("event: "), "data": json.loads(data.removeprefix("data: "))})
    return found
