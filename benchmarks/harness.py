"""Processes, clients and rounds, shared by all benchmarks with real processes.

The client is always the SDK's own, except in `RawClient`, which is for holding many calls at little cost. Everything
listens on loopback only and every loop is bounded.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import anyio
import mcp_types as types
import psutil
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from benchmarks.report import Spread

Json = dict[str, Any]
REPO: Final = Path(__file__).resolve().parents[1]
SERVERS: Final = REPO / "benchmarks" / "servers.py"
PATIENCE_S: Final = 60.0
"""Timeout for every expected event, in seconds."""


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    rounds: int
    smoke: bool = False
    peers: bool = True
    say: Callable[[str], None] = print

    def scaled(self, full: int, smoke: int) -> int:
        """Return a size, which is smaller in a smoke run."""
        return smoke if self.smoke else full


def server_command(kind: str, *args: str) -> list[str]:
    """Return the command line of a benchmark server."""
    return [sys.executable, str(SERVERS), kind, *args]


class Workshop:
    """A temporary folder with configs, caches and logs of one benchmark."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0

    def path(self, name: str) -> Path:
        """A fresh path in the folder."""
        self._count += 1
        return self.folder / f"{self._count:03d}-{name}"

    def env(self) -> dict[str, str]:
        """The environment of a bridge: this checkout, and nothing of the user's."""
        return {
            "PYTHONPATH": str(REPO),
            "ASYNCFC_CACHE_DIR": str(self.folder / "cache"),
            "ASYNCFC_LOG_DIR": str(self.folder / "logs"),
        }

    def entry(self, command: Sequence[str], **asyncfc: Any) -> Json:
        """An `mcpServers` entry whose tools keep their names."""
        return {"command": command[0], "args": list(command[1:]), "asyncfc": {"prefix": "", **asyncfc}}

    def config(self, servers: Mapping[str, Json], **settings: Any) -> Path:
        """A config file."""
        path = self.path("config.json")
        path.write_text(json.dumps({"mcpServers": dict(servers), "asyncfc": settings}))
        return path

    def bridge(self, servers: Mapping[str, Json], **settings: Any) -> list[str]:
        """The command line of a bridge, over stdio unless more is appended."""
        return [sys.executable, "-m", "asyncfc_mcp", "serve", "--config", str(self.config(servers, **settings))]


@contextmanager
def workshop() -> Iterator[Workshop]:
    """Create a temporary folder and delete it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="asyncfc-bench-"))
    try:
        yield Workshop(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- SDK clients ---------------------------------------------------------------------------------------------------


@dataclass
class Peer:
    """An open connection and the process at its other end."""

    client: Client
    pid: int

    async def call(self, tool: str, arguments: Json | None = None) -> types.CallToolResult:
        """Make one call that must not fail."""
        result = await self.client.call_tool(tool, arguments or {})
        if result.is_error:
            raise RuntimeError(f"{tool} failed: {result.content}")
        return result


@asynccontextmanager
async def stdio(
    command: Sequence[str], env: Mapping[str, str] | None = None, *, name: str = "benchmark", mode: str = "auto"
) -> AsyncGenerator[Peer]:
    """The SDK's client on a process that it starts, over stdio."""
    before = set(psutil.Process().children())
    parameters = StdioServerParameters(command=command[0], args=list(command[1:]), env=dict(env or {}), cwd=REPO)
    info = types.Implementation(name=name, version="1")
    with open(os.devnull, "w") as sink:  # noqa: ASYNC230
        async with Client(stdio_client(parameters, errlog=sink), client_info=info, mode=mode) as client:
            (process,) = set(psutil.Process().children()) - before
            await client.list_tools()
            yield Peer(client, process.pid)


def free_port() -> int:
    """Return a free loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def http_process(
    command: Sequence[str], port: int, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on `port`."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        cwd=REPO,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[:3]} does not listen on {port}")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@asynccontextmanager
async def http(
    command: Sequence[str], port: int, env: Mapping[str, str] | None = None, *, mode: str = "auto"
) -> AsyncGenerator[Peer]:
    """The SDK's client on a process that listens on `port`, over Streamable HTTP."""
    with http_process(command, port, env) as process:
        info = types.Implementation(name="benchmark", version="1")
        async with Client(f"http://127.0.0.1:{port}/mcp", client_info=info, mode=mode) as client:
            await client.list_tools()
            yield Peer(client, process.pid)


# --- rounds --------------------------------------------------------------------------------------------------------

Action = Callable[[], Awaitable[object]]


@dataclass
class Contender:
    """A candidate that is measured in blocks of calls."""

    action: Action
    calls: int
    after: Action | None = None
    """Callback after each block, not measured."""
    apart_s: float = 0.0
    """Pause before each call, in which the background work of the last one finishes."""
    medians: list[float] = field(default_factory=list)
    """Seconds: the median call of each round."""


async def race(contenders: Mapping[str, Contender], rounds: int, warm_up: int = 15) -> None:
    """Measure all contenders block by block, in rotating order, so that none always follows the same one."""
    for contender in contenders.values():
        for _ in range(warm_up):
            await contender.action()
        if contender.after:
            await contender.after()
    order = list(contenders.values())
    for _ in range(rounds):
        for contender in order:
            times: list[float] = []
            await contender.action()  # a process that slept through the others' blocks wakes up
            for _ in range(contender.calls):
                if contender.apart_s:
                    await anyio.sleep(contender.apart_s)
                began = time.perf_counter()
                await contender.action()
                times.append(time.perf_counter() - began)
            contender.medians.append(median(times))
            if contender.after:
                await contender.after()
        order.append(order.pop(0))


def ratio(values: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Return ratios to the baseline of the same round."""
    return Spread.of([value / base for value, base in zip(values, baseline, strict=True)])


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its live threads, in seconds; with nanosecond resolution on Linux."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except (OSError, ValueError, IndexError):
        spent = psutil.Process(pid).cpu_times()
        return spent.user + spent.system


def queued_seconds(pid: int) -> float | None:
    """Time that a process's main thread and the processes below it were ready to run and had no core; None where the
    system does not tell."""
    try:
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        return sum(int(Path(f"/proc/{each}/schedstat").read_text().split()[1]) for each in family) / 1e9
    except (OSError, ValueError, IndexError, psutil.Error):
        return None


def rss_mb(pid: int) -> float:
    """Resident memory of one process, in MB (2**20 bytes)."""
    return psutil.Process(pid).memory_info().rss / 2**20


# --- a client that costs next to nothing -----------------------------------------------------------------------------


class RawClient:
    """JSON-RPC lines to a process over pipes, in the handshake era; blocking, one thread."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], *, name: str = "benchmark") -> None:
        self._stderr = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **env},
            cwd=REPO,
        )
        assert self.process.stdin
        assert self.process.stdout
        self._in, self._out = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._buffer = b""
        self._next = 0
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": name, "version": "1"}}
        self.opening = self.request("initialize", hello)
        """The answer to `initialize`."""
        os.write(self._in, b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        self.request("tools/list", {})

    @property
    def pid(self) -> int:
        """The process ID of the peer."""
        return self.process.pid

    def call(self, tool: str, arguments: Json) -> Json:
        """The result of one call."""
        return self.request("tools/call", {"name": tool, "arguments": arguments})

    def request(self, method: str, params: Json) -> Json:
        """The result of one request."""
        (result,) = self.many([(method, params)])
        return result

    def many(self, requests: Sequence[tuple[str, Json]], window: int = 256) -> list[Json]:
        """The results of many requests, at most `window` of them on their way at a time."""
        first = self._next + 1
        lines: list[bytes] = []
        for method, params in requests:
            self._next += 1
            message = {"jsonrpc": "2.0", "id": self._next, "method": method, "params": params}
            lines.append(json.dumps(message).encode() + b"\n")
        results: dict[int, Json] = {}
        sent, waiting = 0, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            writing = False
            while len(results) < len(lines):
                while not waiting and sent < len(lines) and sent - len(results) < window:
                    batch = lines[sent : sent + window - (sent - len(results))]
                    waiting, sent = b"".join(batch), sent + len(batch)
                if waiting:
                    with suppress(BlockingIOError):
                        waiting = waiting[os.write(self._in, waiting) :]
                if bool(waiting) != writing:
                    writing = not writing
                    selector.register(self._in, selectors.EVENT_WRITE) if writing else selector.unregister(self._in)
                if not selector.select(PATIENCE_S):
                    raise RuntimeError(f"no answer within {PATIENCE_S:g} s")
                with suppress(BlockingIOError):
                    self._read(results)
        return [results[number] for number in range(first, self._next + 1)]

    def _read(self, results: dict[int, Json]) -> None:
        chunk = os.read(self._out, 1 << 18)
        if not chunk:
            code = self.process.wait()
            self._stderr.seek(0)
            raise RuntimeError(f"the peer went away with {code}: {self._stderr.read()[-500:].decode(errors='replace')}")
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "error" in message:
                raise RuntimeError(str(message["error"]))
            if "result" in message and "id" in message:
                results[message["id"]] = message["result"]

    def close(self) -> None:
        """Close the connection, and end a process that does not exit."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self._stderr.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def at_once(action: Callable[[int], Awaitable[object]], count: int, workers: int) -> float:
    """Seconds for `count` actions by `workers` at a time."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await action(number)

    began = time.perf_counter()
    async with anyio.create_task_group() as tg:
        for _ in range(workers):
            tg.start_soon(work)
    return time.perf_counter() - began
