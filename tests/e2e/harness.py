"""Real processes for end-to-end tests: the bridge, what it wraps, and clients that see every byte.

Owns starting, talking to, and burying processes. Knows JSON-RPC and the names of the bridge's tools, and nothing of the
bridge's code: not one line of `asyncfc_mcp` or of the SDK is imported here, so a mistake of theirs cannot hide itself.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
Json = dict[str, Any]

REPO = Path(__file__).resolve().parents[2]
TOYS = REPO / "tests" / "toys.py"
MARK = "ASYNCFC_TEST_MARK"
MODERN = "2026-07-28"
HANDSHAKE = "2025-11-25"
PATIENCE = 30.0
"""Seconds after which something that must happen counts as lost. Never a measure of speed."""


class RpcError(Exception):
    """The peer answered with a JSON-RPC error, kept whole."""

    def __init__(self, error: Json) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.error = error


def canonical(value: object) -> str:
    """Canonical JSON: the form in which two results are compared byte for byte."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def eventually(check: Callable[[], T], what: str, *, seconds: float = PATIENCE) -> T:
    """The first truthy value of `check`, polled; fails when there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened within {seconds:g} s: {what} (last: {value!r})")
        time.sleep(0.02)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# --- what answers look like ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Handle:
    """The handle in an answer of a wrapped tool."""

    id: str
    status: str
    tool: str
    result: Json

    @classmethod
    def of(cls, result: Json) -> Handle:
        """Read it from `_meta`, and hold the other two places to the same story."""
        (record,) = records(result)
        handle = cls(record["future_id"], record["status"], record["tool"], result)
        assert handle.id in text_of(result), "the text does not name the future"
        structured = result.get("structuredContent")
        if structured is not None:
            assert structured["future_id"] == handle.id
            assert structured["status"] == handle.status
            assert structured["tool"] == handle.tool
        return handle


def records(result: Json) -> list[Json]:
    """The machine-readable records of an answer."""
    return result["_meta"]["asyncfc/futures"]


def text_of(result: Json) -> str:
    """All text blocks, joined."""
    return "\n".join(block["text"] for block in result["content"] if block["type"] == "text")


class Caller:
    """What every client of ours can do, however its bytes travel."""

    def request(
        self,
        method: str,
        params: Json | None = None,
        *,
        on_progress: Callable[[Json], None] | None = None,
        timeout: float = PATIENCE,
    ) -> Json:
        """The result of one request. Raises RpcError."""
        raise NotImplementedError

    def call(self, tool: str, arguments: Json | None = None, **options: Any) -> Json:
        """The raw result of a `tools/call`."""
        return self.request("tools/call", {"name": tool, "arguments": arguments or {}}, **options)

    def submit(self, tool: str, arguments: Json | None = None, **options: Any) -> Handle:
        """Call a wrapped tool and read its handle."""
        return Handle.of(self.call(tool, arguments, **options))

    def await_future(self, future: str, **options: Any) -> Json:
        """One `await_future`, whatever it answers."""
        arguments = {"future_id": future} | {k: options.pop(k) for k in ("timeout_s",) if k in options}
        return self.call("await_future", arguments, **options)

    def outcome(self, future: str) -> Json:
        """`await_future` until it answers with the result itself."""
        while True:
            result = self.await_future(future)
            if "asyncfc/futures" not in (result.get("_meta") or {}):
                return result
            (record,) = records(result)
            if record["status"] in ("failed", "cancelled"):
                return result

    def gather(self, futures: Sequence[str], **arguments: Any) -> Json:
        """One `gather`."""
        return self.call("gather", {"future_ids": list(futures), **arguments})

    def all_pages(self, method: str, key: str) -> list[Json]:
        """Every item of a paginated list."""
        items: list[Json] = []
        cursor: Json = {}
        while True:
            result = self.request(method, cursor)
            items += result[key]
            if not result.get("nextCursor"):
                return items
            cursor = {"cursor": result["nextCursor"]}

    def tools(self) -> dict[str, Json]:
        """All tools by name."""
        return {tool["name"]: tool for tool in self.all_pages("tools/list", "tools")}

    def wait_for_tools(self, *names: str) -> dict[str, Json]:
        """All tools, once `names` are among them."""
        found: dict[str, Json] = {}

        def listed() -> bool:
            found.clear()
            found.update(self.tools())
            return set(names) <= set(found)

        eventually(listed, f"tools/list shows {', '.join(names)}")
        return found


# --- stdio ---------------------------------------------------------------------------------------------------------


@dataclass
class Pending:
    """A request whose answer is on its way."""

    id: int
    future: Future[Json] = field(default_factory=Future)
    progress: list[Json] = field(default_factory=list)
    on_progress: Callable[[Json], None] | None = None

    def result(self, timeout: float = PATIENCE) -> Json:
        """The result. Raises RpcError; AssertionError when there is no answer within `timeout` seconds."""
        try:
            return self.future.result(timeout)
        except FutureTimeout:
            raise AssertionError(f"request {self.id} got no answer within {timeout:g} s") from None


class Wire(Caller):
    """A stdio client of a process that it started itself."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, stderr: Path, era: str = HANDSHAKE
    ) -> None:
        self.era = era
        self.stderr_path = stderr
        with stderr.open("wb") as sink:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, env=dict(env), cwd=cwd
            )
        self.garbage: list[bytes] = []
        self.complaints: list[Json] = []
        self.notifications: list[Json] = []
        self.opening: Json = {}
        self._changed = threading.Condition()
        self._pending: dict[int, Pending] = {}
        self._next = 0
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="wire-reader", daemon=True)
        self._reader.start()

    # -- the protocol

    def open(self, client: str = "wire", timeout: float = PATIENCE) -> Wire:
        """Say hello in the way of the era."""
        if self.era == MODERN:
            self.client = client
            self.opening = self.request("server/discover", timeout=timeout)
        else:
            hello = {"protocolVersion": self.era, "capabilities": {}, "clientInfo": {"name": client, "version": "1"}}
            self.opening = self.request("initialize", hello, timeout=timeout)
            self.notify("notifications/initialized")
        return self

    def start(
        self, method: str, params: Json | None = None, *, on_progress: Callable[[Json], None] | None = None
    ) -> Pending:
        """Send a request and do not wait."""
        with self._lock:
            self._next += 1
            pending = self._pending[self._next] = Pending(self._next, on_progress=on_progress)
        params = dict(params or {})
        meta = dict(params.pop("_meta", {}))
        if on_progress is not None:
            meta["progressToken"] = f"progress-{pending.id}"
        if self.era == MODERN:
            meta |= {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {},
            }
        if meta:
            params["_meta"] = meta
        message = {"id": pending.id, "method": method} | ({"params": params} if params else {})
        try:
            self.send(message)
        except OSError as error:
            pending.future.set_exception(ConnectionError(f"{error}\n{self.stderr()}"))
        return pending

    def request(
        self,
        method: str,
        params: Json | None = None,
        *,
        on_progress: Callable[[Json], None] | None = None,
        timeout: float = PATIENCE,
    ) -> Json:
        return self.start(method, params, on_progress=on_progress).result(timeout)

    def start_call(self, tool: str, arguments: Json | None = None, **options: Any) -> Pending:
        """Send a `tools/call` and do not wait."""
        return self.start("tools/call", {"name": tool, "arguments": arguments or {}}, **options)

    def notify(self, method: str, params: Json | None = None) -> None:
        """Send a notification."""
        self.send({"method": method} | ({"params": params} if params else {}))

    def send(self, message: Json) -> None:
        """Put one message on the wire."""
        self.send_line(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def send_line(self, line: bytes) -> None:
        """Put one line on the wire, whatever it is."""
        assert self.process.stdin
        with self._lock:
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()

    def notified(self, method: str, *, count: int = 1) -> list[Json]:
        """Wait until `method` has been notified at least `count` times."""
        with self._changed:

            def seen() -> list[Json]:
                return [each for each in self.notifications if each["method"] == method]

            if not self._changed.wait_for(lambda: len(seen()) >= count, PATIENCE):
                raise AssertionError(f"no {method} within {PATIENCE:g} s\n{self.stderr()}")
            return seen()

    def _read(self) -> None:
        assert self.process.stdout
        with contextlib.suppress(ValueError):  # closed under the read, by `close`
            for line in self.process.stdout:
                try:
                    message = json.loads(line)
                    assert message["jsonrpc"] == "2.0"
                    if message.get("id", 0) is None and "error" in message:  # about a line that was no message
                        self.complaints.append(message["error"])
                        continue
                    assert "method" in message or message["id"] in self._pending
                except (ValueError, TypeError, KeyError, AttributeError, AssertionError):
                    self.garbage.append(line)
                    continue
                self._receive(message)
        for pending in list(self._pending.values()):
            if not pending.future.done():
                code = self.process.wait()
                pending.future.set_exception(ConnectionError(f"the peer went away with {code}\n{self.stderr()}"))

    def _receive(self, message: Json) -> None:
        if "method" in message and "id" in message:
            answer: Json = {"result": {}}
            if message["method"] != "ping":
                answer = {"error": {"code": -32601, "message": "Method not found"}}
            with contextlib.suppress(OSError):
                self.send({"id": message["id"], **answer})
        elif "method" in message:
            if message["method"] == "notifications/progress":
                token = str(message["params"]["progressToken"])
                pending = self._pending.get(int(token.removeprefix("progress-")))
                assert pending is not None, f"progress for an unknown token {token}"
                pending.progress.append(message["params"])
                if pending.on_progress is not None:
                    pending.on_progress(message["params"])
            with self._changed:
                self.notifications.append(message)
                self._changed.notify_all()
        else:
            pending = self._pending[message["id"]]
            if "error" in message:
                pending.future.set_exception(RpcError(message["error"]))
            else:
                pending.future.set_result(message["result"])

    # -- the process

    @property
    def pid(self) -> int:
        """The process ID of the peer."""
        return self.process.pid

    def stderr(self) -> str:
        """What the peer has written on stderr, at most its last 4 kB."""
        return self.stderr_path.read_text(errors="replace")[-4096:]

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end of the process; its exit code."""
        return self.process.wait(timeout)

    def hang_up(self) -> None:
        """Close stdin, as a client that leaves does."""
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def close(self) -> None:
        """Hang up, wait for the end, and hold the peer to its wire: nothing but messages on stdout."""
        self.hang_up()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the peer stayed after its stdin had ended\n{self.stderr()}") from None
        finally:
            self._reader.join(PATIENCE)
            assert self.process.stdout
            if not self._reader.is_alive():
                self.process.stdout.close()
        assert not self.garbage, f"not JSON-RPC on stdout: {self.garbage[:3]}"


# --- HTTP ----------------------------------------------------------------------------------------------------------


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
    ) -> None:
        self.name, self.conversation, self.capabilities = name, conversation, capabilities or {}
        self.host, _, path = url.removeprefix("http://").partition("/")
        self.path = "/" + path
        self.era = era
        self.headers = dict(headers or {})
        self.session: str | None = None
        self._next = 0
        self._lock = threading.Lock()

    def exchange(
        self, http_method: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One HTTP exchange: status, headers in lower case, body."""
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
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


@dataclass(frozen=True)
class HttpBridge:
    """A bridge that listens on loopback."""

    process: subprocess.Popen[bytes]
    port: int
    stderr_path: Path

    @property
    def base(self) -> str:
        """http://host:port"""
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> HttpWire:
        """A new Streamable HTTP client with its own session."""
        return HttpWire(f"{self.base}/mcp", **options).open()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Status and body of a GET."""
        status, _, body = HttpWire(self.base + path).exchange("GET", None, headers)
        return status, body.decode(errors="replace")

    def stderr(self) -> str:
        """What the bridge has written on stderr."""
        return self.stderr_path.read_text(errors="replace")


# --- the stage -----------------------------------------------------------------------------------------------------


class Stage:
    """Everything that one test (or one module of tests) starts, in a folder of its own.

    Every process of it carries a mark in its command line or its environment. When the stage ends, whatever still
    carries the mark is a leftover, and a leftover is a failure: that is how each test asserts that `ps` shows nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"toy-{uuid.uuid4().hex}"
        self.wires: list[Wire] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._count = 0
        # Not the whole environment: what a developer's shell has set must not decide a test.
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "USER", "SSL_CERT_FILE", "COVERAGE_PROCESS_START", "COVERAGE_FILE")
        self.env = {name: os.environ[name] for name in kept if name in os.environ} | {
            MARK: self.mark,
            "PYTHONPATH": str(REPO),
            "ASYNCFC_CACHE_DIR": str(folder / "cache"),
            "ASYNCFC_LOG_DIR": str(folder / "logs"),
            "ASYNCFC_STATE_DIR": str(folder / "state"),
        }

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        problems: list[str] = []
        for wire in self.wires:
            try:
                wire.close()
            except AssertionError as problem:
                problems.append(str(problem))
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                problems.append(f"{process.args!r} ignored SIGTERM")
                process.kill()
                process.wait()
        try:
            self.assert_nothing_left()
        except AssertionError as problem:
            problems.append(str(problem))
            for leftover in self.alive():
                with contextlib.suppress(psutil.NoSuchProcess):
                    leftover.kill()
        for log in sorted(self.folder.glob("*.stderr")):
            if log.stat().st_size:
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-4096:]}", file=sys.stderr)
        assert not problems, "\n".join(problems)

    # -- burying

    def alive(self) -> list[psutil.Process]:
        """Every process of this stage that runs, wherever it hangs in the process tree. Zombies have ended."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if self.mark in process.cmdline() or process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def downstreams(self) -> list[psutil.Process]:
        """The toys that run, and their children; not the bridge, nor what it may need for itself."""
        found: list[psutil.Process] = []
        for process in self.alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                if self.mark in process.cmdline():
                    found.append(process)
        return found

    def assert_nothing_left(self, *, besides: Sequence[int] = ()) -> None:
        """No process of this stage runs any more."""

        def left() -> list[psutil.Process]:
            return [process for process in self.alive() if process.pid not in besides]

        try:
            eventually(lambda: not left(), "every process has ended", seconds=15)
        except AssertionError:
            listing = [f"{process.pid} {' '.join(process.cmdline())}" for process in left()]
            raise AssertionError("left in the process table:\n" + "\n".join(listing)) from None

    # -- downstreams

    def toy(self, kind: str = "raw", *options: str, **more: Any) -> Json:
        """An `mcpServers` entry for a toy over stdio."""
        return self.entry(sys.executable, str(TOYS), kind, "--mark", self.mark, *options, **more)

    def entry(self, command: str, *args: str, env: Mapping[str, str] | None = None, **more: Any) -> Json:
        """An `mcpServers` entry for any command."""
        return {"command": command, "args": list(args), "env": {MARK: self.mark, **(env or {})}, **more}

    def http_toy(self, flag: str = "--http", *options: str) -> str:
        """Start a modern toy over HTTP (or `--sse`); its URL."""
        log = self._file("toy.stderr")
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, str(TOYS), "modern", "--mark", self.mark, flag, "0", *options],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=self.env,
                cwd=self.folder,
            )
        self.processes.append(process)

        def port() -> str | None:
            assert process.poll() is None, log.read_text()
            words = log.read_text().partition("listening on ")[2].split()
            return words[0] if words else None

        path = "mcp" if flag == "--http" else "sse"
        return f"http://127.0.0.1:{eventually(port, 'the toy listens')}/{path}"

    def direct(self, entry: Json, **options: Any) -> Wire:
        """Talk to a downstream without the bridge."""
        return self.wire([entry["command"], *entry["args"]], env=entry["env"], **options)

    # -- the bridge

    def config(self, servers: Mapping[str, Json], **settings: Any) -> Path:
        """A config file."""
        path = self._file("config.json")
        path.write_text(json.dumps({"mcpServers": dict(servers), "asyncfc": settings}))
        return path

    def command(self, *args: str) -> list[str]:
        """The command line of the bridge."""
        return [sys.executable, "-m", "asyncfc_mcp", *args]

    def bridge(
        self, servers: Mapping[str, Json], *, era: str = HANDSHAKE, opened: bool = True, **settings: Any
    ) -> Wire:
        """A bridge with a config file, over stdio."""
        return self.serve("--config", str(self.config(servers, **settings)), era=era, opened=opened)

    def serve(self, *args: str, era: str = HANDSHAKE, opened: bool = True, **options: Any) -> Wire:
        """`asyncfc-mcp serve ARGS` over stdio."""
        return self.wire(self.command("serve", *args), era=era, opened=opened, **options)

    def wire(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        era: str = HANDSHAKE,
        opened: bool = True,
        client: str = "wire",
    ) -> Wire:
        """Any stdio server, started and greeted."""
        wire = Wire(command, env=self.env | dict(env or {}), cwd=self.folder, stderr=self._file("wire.stderr"), era=era)
        self.wires.append(wire)
        return wire.open(client) if opened else wire

    def http_bridge(
        self,
        servers: Mapping[str, Json],
        *args: str,
        transport: str = "http",
        env: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> HttpBridge:
        """A bridge over HTTP (or SSE) that answers `/healthz`."""
        port = free_port()
        log = self._file("bridge.stderr")
        source = ["--config", str(self.config(servers, **settings))]
        command = self.command("serve", *source, "--transport", transport, "--port", str(port), *args)
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=self.env | dict(env or {}),
                cwd=self.folder,
            )
        self.processes.append(process)
        bridge = HttpBridge(process, port, log)

        def healthy() -> bool:
            assert process.poll() is None, f"the bridge ended with {process.returncode}:\n{bridge.stderr()}"
            with contextlib.suppress(OSError):
                return bridge.get("/healthz")[0] == 200
            return False

        eventually(healthy, "/healthz answers 200")
        return bridge

    def run(self, *args: str, env: Mapping[str, str] | None = None, timeout: float = PATIENCE) -> Ran:
        """Run `asyncfc-mcp ARGS` to its end, with nothing on stdin."""
        return self.run_command(self.command(*args), env=env, timeout=timeout)

    def run_command(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float = PATIENCE
    ) -> Ran:
        """Run any command to its end, with nothing on stdin."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.env | dict(env or {}),
            cwd=self.folder,
            timeout=timeout,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def _file(self, name: str) -> Path:
        self._count += 1
        return self.folder / f"{self._count:02d}-{name}"


@dataclass(frozen=True)
class Ran:
    """What a command that ended has left."""

    code: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def stage_in(folder: Path) -> Iterator[Stage]:
    """A stage that removes its folder when all went well: 20 MB results are not worth keeping."""
    with Stage(folder) as stage:
        yield stage
    shutil.rmtree(folder, ignore_errors=True)
