"""Downstream servers that live in the test's own process, and a bridge over them.

Owns no assertions. For tests of logic; what a real process does is tested with one (`process_servers`).
"""

import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import anyio

from asyncfc_mcp.app import compose
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Policy, Settings
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.jsonrpc.codec import MalformedMessage
from asyncfc_mcp.jsonrpc.inbound import Inbound, deferred_handler
from asyncfc_mcp.jsonrpc.line_reader import LineReader
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.peer import Peer


class Pipe:
    """Bytes from one end to the other, without a process between them."""

    def __init__(self) -> None:
        self.position = 0
        self._into, self._out = anyio.create_memory_object_stream[bytes](math.inf)

    def unread(self) -> int:
        return 0

    def buffered(self) -> int:
        return 0

    def send_nowait(self, data: bytes | memoryview) -> int:
        try:
            self._into.send_nowait(bytes(data))
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            raise anyio.BrokenResourceError from None
        self.position += len(data)
        return len(data)

    async def send(self, data: bytes | memoryview) -> None:
        self.send_nowait(data)

    async def receive(self) -> bytes:
        return await self._out.receive()

    def end(self) -> None:
        """Have the reader find the end of the input."""
        self._into.close()

    def close(self) -> None:
        self._into.close()
        self._out.close()


@dataclass
class Got:
    """A call that a toy got."""

    tool: str
    arguments: dict[str, Any]
    meta: dict[str, Any]
    inbound: Inbound


Tool = Callable[[Got], Awaitable[dict[str, Any]]]


class Toy:
    """A downstream server of the handshake era whose tools are functions of the test."""

    def __init__(self, name: str = "toy", *, instructions: str | None = None) -> None:
        self.name = name
        self.instructions = instructions
        self.listing: list[dict[str, Any]] = []
        self.tools: dict[str, Tool] = {}
        self.got: list[Got] = []
        self.cancelled: list[str] = []
        self.gates: dict[str, anyio.Event] = {}
        self.peer: Peer | None = None
        self.refuses = False
        """It comes up never: the handshake is refused."""
        for tool, annotations in (("echo", {"readOnlyHint": True}), ("sleep", {}), ("fail", {}), ("gate", {})):
            self.add(tool, getattr(self, f"_{tool}"), annotations=annotations)

    def add(self, name: str, tool: Tool, *, schema: dict[str, Any] | None = None, **definition: Any) -> None:
        """Offer one more tool."""
        self.listing.append({"name": name, "inputSchema": schema or {"type": "object"}, **definition})
        self.tools[name] = tool

    def open(self, gate: str) -> None:
        """Let the calls of `gate` with this name end, now and in future."""
        self.gates.setdefault(gate, anyio.Event()).set()

    async def _echo(self, got: Got) -> dict[str, Any]:
        return text_result(json.dumps(got.arguments), structuredContent={"arguments": got.arguments})

    async def _sleep(self, got: Got) -> dict[str, Any]:
        await anyio.sleep(got.arguments["s"])
        return text_result(f"slept {got.arguments['s']}")

    async def _fail(self, got: Got) -> dict[str, Any]:
        return text_result(got.arguments.get("why", "it failed"), isError=True)

    async def _gate(self, got: Got) -> dict[str, Any]:
        await self.gates.setdefault(got.arguments["name"], anyio.Event()).wait()
        return text_result(f"through {got.arguments['name']}")

    async def _on_request(self, inbound: Any, method: str, params: Any) -> dict[str, Any]:
        match method:
            case "initialize" if self.refuses:
                raise RpcError(-32603, "no")
            case "initialize":
                result: dict[str, Any] = {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {"tools": {"listChanged": True}},
                    "serverInfo": {"name": self.name, "version": "1"},
                }
                return result if self.instructions is None else {**result, "instructions": self.instructions}
            case "tools/list":
                return {"tools": self.listing}
            case "tools/call" if params["name"] in self.tools:
                arguments = params.get("arguments") or {}
                got = Got(params["name"], arguments, dict(params.get("_meta") or {}), inbound)
                self.got.append(got)
                try:
                    return await self.tools[got.tool](got)
                except anyio.get_cancelled_exc_class():
                    self.cancelled.append(got.tool)
                    raise
            case _:
                raise RpcError(-32601, f"Method not found: {method}")

    async def _on_notify(self, inbound: Any, method: str, params: Any) -> None: ...

    async def changed(self) -> None:
        """Announce that the tools are others now."""
        assert self.peer is not None
        await self.peer.notify("notifications/tools/list_changed", None)


def text_result(text: str, **more: Any) -> dict[str, Any]:
    """A tool result of one text block."""
    return {"content": [{"type": "text", "text": text}], **more}


class Process:
    """In place of a `ServerProcess`: the bridge's ends of two pipes."""

    killed = False
    monitor_activity = None
    """Its activity cannot be observed."""

    def __init__(self, reader: LineReader, writer: LineWriter, end: Callable[[], None]) -> None:
        self.reader, self.writer = reader, writer
        self.end = end
        """Closes its output, as a process does that exits."""

    async def describe_exit(self) -> str:
        return "was closed by the test"


def spawning(toys: Mapping[str, Toy]) -> Any:
    """In place of `connection.spawn`: a command starts the toy of that name."""

    async def on_malformed(exc: MalformedMessage, line: bytes) -> None:
        raise AssertionError(f"{exc}: {line!r}")

    @asynccontextmanager
    async def spawn(name: str, spec: StdioSpec, stderr: Any, reaper: Any, child: Any = None) -> AsyncGenerator[Process]:
        toy = toys[spec.command]
        there, back = Pipe(), Pipe()
        async with anyio.create_task_group() as tg:
            toy.peer = Peer(LineReader(there, on_malformed), LineWriter(back))
            await tg.start(
                toy.peer.run, deferred_handler(toy._on_request), lambda *args: partial(toy._on_notify, *args)
            )
            try:
                yield Process(LineReader(back, on_malformed), LineWriter(there), back.end)
            finally:
                there.close()
                back.close()
                tg.cancel_scope.cancel()

    return spawn


@asynccontextmanager
async def bridge_over(
    *toys: Toy, policy: Mapping[str, Any] | None = None, server: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncGenerator[Bridge]:
    """A bridge whose downstreams are these toys, all of them up; tools keep their names.

    Args:
        policy: settings of all servers.
        server: further fields of each `ServerConfig`.
        settings: of the bridge as a whole.
    """
    configs = [
        ServerConfig(
            toy.name, StdioSpec(toy.name), **{"prefix": "", "base": Policy(**(policy or {})), **(server or {})}
        )
        for toy in toys
    ]
    with patch("asyncfc_mcp.downstream.connection.spawn", spawning({toy.name: toy for toy in toys})):
        async with compose(BridgeConfig(tuple(configs), Settings(**settings), source="test")).open() as bridge:
            for downstream in bridge.downstreams.values():
                await downstream.wait_settled()
            yield bridge
