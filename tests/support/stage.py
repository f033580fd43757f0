"""Real processes for end-to-end tests: the bridge, what it wraps, and their clients.

Owns starting and ending processes. A process that outlives its stage fails the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.client import (
    HANDSHAKE,
    PATIENCE,
    Json,
    eventually,
)
from tests.support.http_client import HttpWire
from tests.support.stdio_client import Wire

REPO = Path(__file__).resolve().parents[2]
TOYS = REPO / "tests" / "support" / "process_servers.py"
MARK = "ASYNCFC_TEST_MARK"


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@dataclass(frozen=True)
class HttpBridge:
    """A bridge that listens on loopback."""

    process: subprocess.Popen[bytes]
    port: int
    stderr_path: Path
    context: ssl.SSLContext | None = None
    """Verifies it, where it serves TLS."""

    @property
    def base(self) -> str:
        """http://host:port"""
        return f"http{'' if self.context is None else 's'}://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> HttpWire:
        """A new Streamable HTTP client with its own session."""
        client = HttpWire(f"{self.base}/mcp", context=self.context, **options)
        client.process = self.process
        return client.open()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Status and body of a GET."""
        status, _, body = HttpWire(self.base + path, context=self.context).exchange("GET", None, headers)
        return status, body.decode(errors="replace")

    def stderr(self) -> str:
        """What the bridge has written on stderr."""
        return self.stderr_path.read_text(errors="replace")


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
        self.settings: Json = {}
        """Settings of every configuration file, unless a test gives others."""
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
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                if process.poll() is None:
                    process.terminate()  # a bridge over HTTP finishes what it has after the first one
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
        path.write_text(json.dumps({"mcpServers": dict(servers), "asyncfc": self.settings | settings}))
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
        descriptors: int | None = None,
        config: Path | None = None,
        context: ssl.SSLContext | None = None,
        **settings: Any,
    ) -> HttpBridge:
        """A bridge over HTTP (or SSE) that answers `/healthz`; `descriptors` is its limit of open files. With `config`,
        that file is used in place of servers and settings; `context` verifies a bridge that serves TLS."""
        port = free_port()
        log = self._file("bridge.stderr")
        source = ["--config", str(config or self.config(servers, **settings))]
        command = self.command("serve", *source, "--transport", transport, "--port", str(port), *args)
        if descriptors is not None:
            command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$0" "$@"', *command]
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
        bridge = HttpBridge(process, port, log, context)

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
