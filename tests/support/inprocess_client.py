"""A client of the SDK, connected to a whole bridge within the test's process; its requests and answers are raw."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from mcp import Client
from mcp_types import Implementation

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.identity import LOCAL, LOCAL_PRINCIPAL, Principal, Scope
from asyncfc_mcp.jsonrpc.codec import MalformedMessage, format_message
from asyncfc_mcp.jsonrpc.line_reader import LineReader
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.peer import Peer
from asyncfc_mcp.transports.lifecycle import drain
from asyncfc_mcp.transports.line_server import LineServer
from asyncfc_mcp.transports.sdk_adapter import sdk_server
from asyncfc_mcp.upstream.answers import META_KEY
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.server import Upstream
from tests.support.inprocess_server import Pipe, Toy, bridge_over

ERAS = ["legacy", "2026-07-28"]
SERVER_INFO = "io.modelcontextprotocol/serverInfo"
KNOWN, UNKNOWN = "codex-mcp-client", "somebody"
"""A host whose connection is one conversation, and one of which nothing is known."""

SYNC = {"mode": "sync"}

Answer = dict[str, Any]


def words(answer: Answer) -> str:
    return "\n".join(block["text"] for block in answer["content"] if block["type"] == "text")


def records(answer: Answer) -> list[tuple[str, str]]:
    """ID and status of every future that an answer speaks of."""
    return [(record["future_id"], record["status"]) for record in answer["_meta"][META_KEY]]


@dataclass
class Host:
    """A client: the SDK's connection, spoken to in raw dictionaries, so that nothing is sieved on the way."""

    client: Client

    async def request(self, method: str, params: Mapping[str, Any] | None = None, *, progress: Any = None) -> Answer:
        session: Any = self.client.session
        data: dict[str, Any] = {"method": method, "params": dict(params or {})}
        options: dict[str, Any] = {}
        session._stamp(data, options)
        if progress is not None:
            options["on_progress"] = progress
            # In one process nobody makes a token of the callback.
            data["params"]["_meta"] = {**data["params"].get("_meta", {}), "progressToken": "token"}
        return await session._dispatcher.send_raw_request(method, data["params"], options)

    async def call(self, tool: str, arguments: Any = None, *, meta: Any = None, progress: Any = None) -> Answer:
        params = {"name": tool} if arguments is None else {"name": tool, "arguments": arguments}
        if meta is not None:
            params["_meta"] = meta
        return await self.request("tools/call", params, progress=progress)

    async def outcome(self, future: str) -> Answer:
        return await self.call("await_future", {"future_id": future})


@asynccontextmanager
async def connected(
    bridge: Bridge, era: str, name: str = KNOWN, *, scope: Scope = LOCAL, pipe: bool = True
) -> AsyncGenerator[Host]:
    """A client with a server of its own around a bridge."""
    upstream = Upstream(bridge)
    connection = Connection() if pipe else None
    async with anyio.create_task_group() as tg:
        await tg.start(upstream.run)
        info = Implementation(name=name, version="1")
        server = sdk_server(upstream, Principal(scope), connection)
        async with Client(server, mode=era, client_info=info, cache=None) as client:
            yield Host(client)
        tg.cancel_scope.cancel()


@dataclass
class Stage:
    bridge: Bridge
    host: Host
    toy: Toy


@asynccontextmanager
async def stage(
    era: str = "legacy", name: str = KNOWN, *, toy: Toy | None = None, scope: Scope = LOCAL, **more: Any
) -> AsyncGenerator[Stage]:
    """One client, a bridge, one toy."""
    toy = toy or Toy()
    async with bridge_over(toy, **more) as bridge, connected(bridge, era, name, scope=scope) as host:
        yield Stage(bridge, host, toy)


class Took:
    """How long a block took, in seconds of the clock."""

    def __enter__(self) -> "Took":
        self._began = anyio.current_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = anyio.current_time() - self._began


class Progress:
    """What a client is told while it waits."""

    def __init__(self) -> None:
        self.told: list[tuple[float, float | None, str | None]] = []
        self.at: list[float] = []

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.told.append((progress, total, message))
        self.at.append(anyio.current_time())

    def assert_grows(self) -> None:
        numbers = [progress for progress, _, _ in self.told]
        assert numbers == sorted(set(numbers)), "progress must increase with each notification"


@asynccontextmanager
async def over_lines(bridge: Bridge, into: Pipe, out: Pipe) -> AsyncGenerator[Peer]:
    """A client that has shaken hands over pipes, as over stdio; what it gets is in `out`, the answer to that first."""
    async with anyio.create_task_group() as tg:
        upstream = Upstream(bridge)
        await tg.start(upstream.run)
        peer = Peer(LineReader(into, never), LineWriter(out))
        tg.start_soon(serve_only, upstream, peer)
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        into.send_nowait(format_message({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}))
        into.send_nowait(format_message({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        yield peer
        tg.cancel_scope.cancel()
    into.close()
    out.close()


async def serve_only(upstream: Upstream, peer: Peer) -> None:
    """Serve the only client of a process."""
    drained = partial(drain, upstream.bridge, peer.answered)
    await LineServer(upstream, LOCAL_PRINCIPAL, peer, Connection()).run(drained)


async def never(exc: MalformedMessage, line: bytes) -> None:
    raise AssertionError(f"{exc}: {line!r}")
