"""Sessions of hosts on one daemon's bridge, in the test's process; the servers are real processes.

Owns connections over pipes in memory. What a daemon does with sockets is tested with one.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from asyncfc_mcp.app import compose
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.config.model import BridgeConfig
from asyncfc_mcp.core.identity import LOCAL, ClientProcess, Principal
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.jsonrpc.inbound import deferred_handler
from asyncfc_mcp.jsonrpc.line_reader import LineReader
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.peer import Peer
from asyncfc_mcp.transports.http.serve import ALL_CLIENT_CAPABILITIES
from asyncfc_mcp.transports.line_server import LineServer
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.server import Upstream
from tests.support.inprocess_server import Pipe

Json = dict[str, Any]
CAPABILITIES: Json = {"roots": {"listChanged": True}, "elicitation": {}}


async def never(exc: Exception, line: bytes) -> None:
    raise AssertionError(f"{exc}: {line!r}")


class Session:
    """The host's end of a session, which shakes hands."""

    def __init__(self, name: str, folder: Path, environ: Mapping[str, str], peer: Peer) -> None:
        self.name, self.folder, self.environ, self.peer = name, folder, environ, peer
        self.questions: list[str] = []
        """Methods of the requests that it was sent."""
        self.notified: list[str] = []

    async def on_request(self, inbound: object, method: str, params: Any) -> Json:
        self.questions.append(method)
        if method == "roots/list":
            return {"roots": [{"uri": self.folder.as_uri(), "name": self.name}]}
        return {"action": "accept", "content": {"name": self.name}}

    async def call(self, tool: str, **arguments: Any) -> Any:
        """Return the value that a tool returns, or the text of its error."""
        return await self.value({"name": tool, "arguments": arguments})

    async def value(self, params: Json) -> Any:
        result = await self.peer.send_raw_request("tools/call", params)
        if not result.get("isError") and "value" in (found := result.get("structuredContent", {})):
            return found["value"]
        return "\n".join(block["text"] for block in result["content"])

    async def tools(self) -> list[str]:
        result = await self.peer.send_raw_request("tools/list", None)
        return [tool["name"] for tool in result["tools"]]


class Daemon:
    """A bridge that sessions join."""

    def __init__(self, bridge: Bridge, upstream: Upstream) -> None:
        self.bridge, self._upstream = bridge, upstream

    @asynccontextmanager
    async def session(
        self, name: str, folder: Path, environ: Mapping[str, str], *, capabilities: Json | None = None
    ) -> AsyncGenerator[Session]:
        """A session while the block lasts."""
        there, back = Pipe(), Pipe()
        process = ClientProcess(name, str(folder), dict(environ))
        principal, connection = Principal(LOCAL, process=process), Connection(process)
        served = Peer(LineReader(there, never), LineWriter(back))
        peer = Peer(LineReader(back, never), LineWriter(there))
        session = Session(name, folder, environ, peer)

        async def serve() -> None:
            await LineServer(self._upstream, principal, served, connection).run(served.answered)
            self.bridge.end_session(principal)
            back.end()

        async def noted(method: str) -> None:
            session.notified.append(method)

        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(serve)
                await tg.start(
                    peer.run,
                    deferred_handler(session.on_request),
                    lambda inbound, method, params: partial(noted, method),
                )
                params = {
                    "protocolVersion": "2025-11-25",
                    "capabilities": CAPABILITIES if capabilities is None else capabilities,
                    "clientInfo": {"name": "claude-code", "version": "1"},
                }
                await peer.send_raw_request("initialize", params)
                await peer.notify("notifications/initialized", None)
                yield session
                there.end()
        finally:
            there.close()
            back.close()


@asynccontextmanager
async def daemon(
    config: BridgeConfig, *, cache: Path | None = None, logs: Path | None = None, journal: Path | None = None
) -> AsyncGenerator[Daemon]:
    """The bridge of a daemon with these servers, and its upstream side."""
    made = compose(config, cache=ListingCache(cache), log_folder=logs, journal=journal, daemon=True)
    async with made.open() as bridge:
        bridge.server_requests.set_client_capabilities(ALL_CLIENT_CAPABILITIES)
        upstream = Upstream(bridge)
        async with anyio.create_task_group() as tg:
            await tg.start(upstream.run)
            yield Daemon(bridge, upstream)
            tg.cancel_scope.cancel()
