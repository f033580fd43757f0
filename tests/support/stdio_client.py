"""A client over stdio that sees every byte.

Owns the process that it talks to.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.client import (
    HANDSHAKE,
    MODERN,
    PATIENCE,
    Caller,
    Json,
    RpcError,
)


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
        self._begin()

    def _begin(self) -> None:
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
