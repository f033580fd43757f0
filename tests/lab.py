"""What the tests of the core share: virtual time, and downstream servers that live in the test's own process.

Owns no assertions. Where time matters a test runs on trio's virtual clock, which jumps as soon as everybody waits: an
hour costs nothing, and what happens at the same second happens at the same second.
"""

import gc
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any
from unittest.mock import patch

import anyio
from trio.testing import MockClock

from asyncfc_mcp.bridge import Bridge
from asyncfc_mcp.codec import MalformedMessage
from asyncfc_mcp.config import BridgeConfig, Policy, ServerConfig, Settings, StdioSpec
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.peer import Inbound, Peer, in_a_task
from asyncfc_mcp.wire import LineReader, LineWriter

FOREVER_S = 1e7
"""No test waits that long, on whatever clock."""


def run_on_virtual_time(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run `function` in an event loop of its own whose clock jumps whenever all tasks wait.

    Raises:
        TimeoutError: nothing more can happen, and `function` has not returned.
    """

    async def bounded() -> Any:
        with anyio.fail_after(FOREVER_S):
            return await function(*args)

    try:
        return anyio.run(bounded, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})
    except BaseExceptionGroup as group:
        # One assertion failed inside of many task groups: it alone is worth reading.
        exc: BaseException = group
        while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
            exc = exc.exceptions[0]
        raise exc from None


def on_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make an asynchronous test one that runs on the virtual clock."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_on_virtual_time(partial(test, *args, **kwargs))

    return run


async def settle() -> None:
    """Let everything happen that can happen now. Cheaper on asyncio than waiting until all tasks are blocked."""
    for _ in range(30):
        await anyio.lowlevel.checkpoint()


async def until(what: Callable[[], object]) -> None:
    """Return when it is true, on the real clock; for what tells nobody."""
    with anyio.fail_after(5):
        while not what():  # noqa: ASYNC110 - nobody tells us
            await anyio.sleep(0.002)


@contextmanager
def uncollected(*types: type) -> Generator[Callable[[], list[Any]]]:
    """While it lasts the garbage collector rests; gives what lists the objects of these types that have come since."""
    gc.collect()
    before = [each for each in gc.get_objects() if isinstance(each, types)]
    known = {id(each) for each in before}
    gc.disable()
    try:
        yield lambda: [each for each in gc.get_objects() if isinstance(each, types) and id(each) not in known]
    finally:
        gc.enable()


# --- downstream servers in the test's own process --------------------------------------------------------------------


class Pipe:
    """Bytes from one end to the other, without a process between them."""

    def __init__(self) -> None:
        self.position = 0
        self._into, self._out = anyio.create_memory_object_stream[bytes](1000)

    def unread(self) -> int:
        return 0

    def send_now(self, data: bytes | memoryview) -> int:
        try:
            self._into.send_nowait(bytes(data))
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            raise anyio.BrokenResourceError from None
        self.position += len(data)
        return len(data)

    async def send(self, data: bytes | memoryview) -> None:
        self.send_now(data)

    async def receive(self) -> bytes:
        return await self._out.receive()

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


class _Process:
    """In place of a `ServerProcess`: the bridge's ends of two pipes."""

    killed = False

    def __init__(self, reader: LineReader, writer: LineWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ended_how(self) -> str:
        return "was closed by the test"


def spawning(toys: Mapping[str, Toy]) -> Any:
    """In place of `downstream.spawn`: a command starts the toy of that name."""

    async def on_malformed(exc: MalformedMessage, line: bytes) -> None:
        raise AssertionError(f"{exc}: {line!r}")

    @asynccontextmanager
    async def spawn(
        name: str, spec: StdioSpec, stderr: Any, reaper: Any, child: Any = None
    ) -> AsyncGenerator[_Process]:
        toy = toys[spec.command]
        there, back = Pipe(), Pipe()
        async with anyio.create_task_group() as tg:
            toy.peer = Peer(LineReader(there, on_malformed), LineWriter(back))
            await tg.start(toy.peer.run, in_a_task(toy._on_request), in_a_task(toy._on_notify))
            try:
                yield _Process(LineReader(back, on_malformed), LineWriter(there))
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
    with patch("asyncfc_mcp.downstream.spawn", spawning({toy.name: toy for toy in toys})):
        async with Bridge(BridgeConfig(tuple(configs), Settings(**settings), source="test")).open() as bridge:
            for downstream in bridge.downstreams.values():
                await downstream.settled()
            yield bridge
