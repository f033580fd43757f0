"""A daemon that several sessions share, and raw sessions that speak to its socket.

Owns the daemon's process and its folder, which is a short one: the path of a socket is bounded.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tests.support.client import HANDSHAKE, PATIENCE, Json, eventually
from tests.support.stage import Stage
from tests.support.stdio_client import Wire

NAME = "tested"


class _Lines:
    """What the daemon sends: its own lines are kept and answered, the others are passed on."""

    def __init__(self, sock: socket.socket, control: list[Json]) -> None:
        self._sock, self._file, self._control = sock, sock.makefile("rb"), control

    def __iter__(self) -> Iterator[bytes]:
        with contextlib.suppress(OSError):
            for line in self._file:
                if line.startswith(b'{"asyncfc":'):
                    self._control.append(json.loads(line)["asyncfc"])
                    if "draining" in self._control[-1]:
                        self._sock.sendall(b'{"asyncfc":{"held":true}}\n')
                else:
                    yield line

    def close(self) -> None:
        self._file.close()


class _Input:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def write(self, data: bytes) -> None:
        self._sock.sendall(data)

    def flush(self) -> None: ...

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)


@dataclass
class _Process:
    """The session's socket in the form of a process, as `Wire` wants it."""

    stdin: _Input
    stdout: _Lines
    pid: int = 0
    args: str = "a session"
    returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        return 0


class Session(Wire):
    """A client that has joined a daemon. It accepts every elicitation, with its own label."""

    def __init__(self, sock: socket.socket, stderr: Path, label: str, era: str) -> None:
        self.socket, self.label, self.era, self.stderr_path = sock, label, era, stderr
        self.control: list[Json] = []
        """The daemon's own lines: first its answer to the greeting."""
        self.questions: list[Json] = []
        self.process = cast("Any", _Process(_Input(sock), _Lines(sock, self.control)))
        self._begin()

    def open(self, client: str = "claude-code", timeout: float = PATIENCE) -> Session:
        if self.era == HANDSHAKE:
            capabilities = {"elicitation": {"form": {}}}
            info = {"name": client, "version": "1"}
            hello = {"protocolVersion": self.era, "capabilities": capabilities, "clientInfo": info}
            self.opening = self.request("initialize", hello, timeout=timeout)
            self.notify("notifications/initialized")
            return self
        super().open(client, timeout)
        return self

    def _receive(self, message: Json) -> None:
        if message.get("method") == "elicitation/create":
            self.questions.append(message)
            self.send({"id": message["id"], "result": {"action": "accept", "content": {"name": self.label}}})
        else:
            super()._receive(message)

    def kill(self) -> None:
        """End it as the death of its process does."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(PATIENCE)
        self.process.stdout.close()
        self.socket.close()


@dataclass
class RunningDaemon:
    """A daemon of a stage, and what its sessions need."""

    stage: Stage
    folder: Path
    source: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes]
    said: str
    """The line that it has written for the session that waits for its start."""
    sessions: list[Session] = field(default_factory=list[Session])

    @property
    def socket_path(self) -> Path:
        return self.folder / f"{NAME}.sock"

    def connect(self) -> socket.socket:
        """A connection that has sent nothing."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.socket_path))  # with a timeout, it would fail where it has to wait
        sock.settimeout(PATIENCE)
        return sock

    def greet(self, **given: Any) -> tuple[socket.socket, Json]:
        """A connection with a first line, and the answer to it; an empty one if it was closed."""
        sock = self.connect()
        sock.sendall(json.dumps({"asyncfc": {"protocol": 1, **given}}).encode() + b"\n")
        return sock, read_line(sock)

    def command(self, command: str) -> Json:
        sock, answer = self.greet(command=command)
        sock.close()
        return answer["answer"]

    def join(self, label: str, *, era: str = HANDSHAKE, client: str = "claude-code", **given: Any) -> Session:
        """A session that has joined and shaken hands; `label` is its conversation."""
        sock, answer = self.greet(join=joining(label, **given))
        assert "joined" in answer, answer
        session = Session(sock, self.log, label, era)
        session.control.append(answer)
        self.sessions.append(session)
        return session.open(client)

    def wait(self) -> int:
        """Wait for the end of the daemon; its exit code."""
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        for session in self.sessions:
            session.kill()
        if self.process.poll() is None:
            self.process.terminate()
            self.wait()


def joining(label: str, *, version: str = "0.1", program: Sequence[str] = ("none",), **more: Any) -> Json:
    """What a session says when it joins."""
    known = {"conversation": label, "pid": os.getpid(), "cwd": "/", "environ": {}, "resumed": False}
    return {**known, "version": version, "program": list(program), **more}


def read_line(sock: socket.socket) -> Json:
    """The daemon's own line that arrives next; an empty one at the end."""
    received = b""
    while not received.endswith(b"\n"):
        data = sock.recv(1)
        if not data:
            return {}
        received += data
    return json.loads(received)["asyncfc"]


def start(
    stage: Stage,
    folder: Path,
    source: Sequence[str],
    *,
    before: Sequence[str] = (),
) -> RunningDaemon:
    """Start a daemon, and return once it listens, or has ended.

    Args:
        before: words before the command, such as a shell that sets limits.
    """
    reading, writing = os.pipe()
    log = stage.folder / "logs" / f"daemon-{NAME}.log"
    variables = {"ASYNCFC_RUNTIME_DIR": str(folder), "ASYNCFC_DAEMON_READY": str(writing)}
    with (stage.folder / "daemon.stderr").open("ab") as sink:
        process = subprocess.Popen(
            [*before, *stage.command("daemon", "run", "--name", NAME, *source)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=stage.env | variables,
            pass_fds=(writing,),
        )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    return RunningDaemon(stage, folder, source, log, process, said.strip())


@contextlib.contextmanager
def runtime_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="asyncfc-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def daemon(
    stage: Stage, servers: Mapping[str, Json], *, config: Path | None = None, **settings: Any
) -> Iterator[RunningDaemon]:
    """A daemon with a config file, which has ended afterwards."""
    with runtime_folder() as folder:
        path = config or stage.config(servers, **settings)
        running = start(stage, folder, ["--config", str(path)])
        assert running.said == "ok", f"{running.said}\n{running.log.read_text()}"
        try:
            yield running
        finally:
            running.close()


def gone(path: Path) -> None:
    """Wait until a file is removed."""
    eventually(lambda: not path.exists(), f"{path} is removed")
