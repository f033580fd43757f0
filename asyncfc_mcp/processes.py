"""The processes of wrapped servers: started in groups of their own, listened to, and ended without a trace.

Owns process groups, their stderr, and the guard that ends them if we vanish. Refuses to know what is said over the
pipes.
"""

import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TextIO

import anyio
import anyio.abc
from anyio.abc import ByteReceiveStream

from asyncfc_mcp.config import StdioSpec
from asyncfc_mcp.wire import FdSink, FdSource, LineReader, LineWriter, MalformedMessage, Sink, Source, StreamSink

logger = logging.getLogger(__name__)

EXIT_GRACE_S: Final = 2.0
"""After its input was closed, and again after SIGTERM, a process gets this long before the next step."""
STALL_S: Final = 30.0
"""A server that does not read its input for so long, while something is written, is taken for dead."""
DRAIN_S: Final = 0.3
"""How long the last output of a process that ended may take to be read."""
STDERR_LINES: Final = 10
"""How many last lines of a server's stderr an error quotes."""
LOG_BYTES: Final = 5 << 20
"""A log file larger than this is started anew."""


class Reaper:
    """Ends the process groups that we started if we vanish without a chance to (SIGKILL, a crash).

    A shell that reads our group IDs from a pipe: when the pipe ends while groups are still on its list, it ends them.
    A parent-death signal would reach only the direct child, and only on Linux.
    """

    _SCRIPT: Final = (
        "trap '' INT TERM HUP; g=' '; while read -r op p; do case $op in "
        '+) g="$g$p ";; -) g="${g%% $p *} ${g#* $p }";; esac; done; '
        "for s in TERM KILL; do for p in $g; do kill -$s -$p 2>/dev/null; done; "
        "case $g in *[0-9]*) [ $s = TERM ] && sleep 2;; esac; done"
    )

    def __init__(self) -> None:
        self._shell: subprocess.Popen[bytes] | None = None

    def _tell(self, op: str, pgid: int) -> None:
        if os.name != "posix":
            return
        if self._shell is None:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", self._SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        assert self._shell.stdin is not None
        with suppress(OSError, ValueError):
            self._shell.stdin.write(f"{op} {pgid}\n".encode())
            self._shell.stdin.flush()

    def watch(self, pgid: int) -> None:
        self._tell("+", pgid)

    def forget(self, pgid: int) -> None:
        self._tell("-", pgid)

    def close(self) -> None:
        """All groups that are watched have ended; the shell ends too."""
        if self._shell is not None:
            assert self._shell.stdin is not None
            with suppress(OSError):
                self._shell.stdin.close()
            try:
                self._shell.wait(timeout=EXIT_GRACE_S * 2)
            except subprocess.TimeoutExpired:
                self._shell.kill()
                self._shell.wait()
            self._shell = None


class Stderr:
    """Where a server's stderr goes: a log file of its own, ours with `--verbose`, and the tail that errors quote."""

    def __init__(self, name: str, path: Path | None, echo: TextIO | None) -> None:
        self._name, self._path, self._echo = name, path, echo
        self.tail: deque[str] = deque(maxlen=STDERR_LINES)
        self._file: TextIO | None = None
        self._written = 0

    def open(self) -> None:
        self.tail.clear()
        if self._path is None or self._file is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.exists() and self._path.stat().st_size > LOG_BYTES
            self._file = self._path.open("w" if fresh else "a", encoding="utf-8")
        except OSError as exc:
            logger.warning("no log file for server %r: %s", self._name, exc)
            self._path = None

    def line(self, text: str) -> None:
        self.tail.append(text)
        if self._file is not None:
            with suppress(OSError, ValueError):
                if self._written > LOG_BYTES:
                    self._file.truncate(0)
                    self._written = 0
                self._written += self._file.write(text + "\n")
                self._file.flush()
        if self._echo is not None:
            self._echo.write(f"[{self._name}] {text}\n")

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None


class ServerProcess:
    """A server's process and the group that it leads."""

    def __init__(self, process: anyio.abc.Process, source: Source, sink: Sink, stderr: Stderr, name: str) -> None:
        self._process, self._source, self._sink = process, source, sink
        self._stderr, self._name = stderr, name
        self._noise = 0
        self._drained = anyio.Event()
        self.reader = LineReader(source, self._malformed)
        self.writer = LineWriter(sink, stall_s=STALL_S)

    async def _malformed(self, exc: MalformedMessage, line: bytes) -> None:
        """A line on stdout that is no message: a stray print. Said once per server, kept in its log."""
        self._stderr.line(f"(stdout) {line[:500].decode(errors='replace')}")
        self._noise += 1
        if self._noise == 1:
            logger.warning("server %r writes to stdout what is no MCP message; see its log", self._name)

    async def read_stderr(self) -> None:
        assert self._process.stderr is not None
        rest = b""
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
            async for chunk in self._process.stderr:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._stderr.line(line.decode(errors="replace").rstrip("\r"))
                if len(rest) > 65536:
                    self._stderr.line(rest.decode(errors="replace"))
                    rest = b""
        if rest:
            self._stderr.line(rest.decode(errors="replace"))
        self._drained.set()

    async def ended_how(self) -> str:
        """In words: the exit code or the signal."""
        with anyio.move_on_after(1):
            await self._exited(1)
            await self._drained.wait()  # its last words are the most useful ones
        code = self._process.returncode
        if code is None:
            return "closed its output"
        if code < 0:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    async def watch(self) -> None:
        """Close the connection when the process has ended: a grandchild may keep the pipe open, and then nobody
        would ever see its end."""
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                fd = os.pidfd_open(self._process.pid)
                try:
                    await anyio.wait_readable(fd)
                finally:
                    os.close(fd)
        while not await self._exited(60):
            pass
        await anyio.sleep(DRAIN_S)
        await _close(self._source)

    async def _exited(self, timeout_s: float) -> bool:
        # Polled, because `wait()` also waits for the pipes, which a grandchild may keep open.
        deadline = anyio.current_time() + timeout_s
        while self._process.returncode is None:
            if anyio.current_time() >= deadline:
                return False
            await anyio.sleep(0.01)
        return True

    def _signal_group(self, number: int) -> bool:
        """Whether there is anybody left in the group to receive it."""
        try:
            if os.name == "posix":
                os.killpg(self._process.pid, number)
            elif self._process.returncode is None:
                self._process.kill()
            else:
                return False
        except (ProcessLookupError, PermissionError):
            return False
        return True

    async def _group_gone(self, timeout_s: float) -> bool:
        deadline = anyio.current_time() + timeout_s
        while self._signal_group(0):
            if anyio.current_time() >= deadline:
                return False
            await anyio.sleep(0.02)
        return True

    async def stop(self) -> None:
        """Close its input, then ask, then force, the whole group; every wait is bounded."""
        await _close(self._sink)
        await self._exited(EXIT_GRACE_S)
        # Those it started and left behind get the signals too, and no grace of their own when it is gone.
        if self._signal_group(signal.SIGTERM) and not await self._group_gone(EXIT_GRACE_S):
            self._signal_group(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            await self._exited(EXIT_GRACE_S)
        await _close(self._source)
        with anyio.move_on_after(0.2):
            await self._drained.wait()
        transport = getattr(getattr(self._process, "_process", None), "_transport", None)
        if transport is not None:  # asyncio keeps the pipes open while a grandchild holds their other ends
            with suppress(PermissionError):
                transport.close()


async def _close(end: Source | Sink) -> None:
    if isinstance(end, FdSource | FdSink):
        end.close()
    elif isinstance(end, ByteReceiveStream | StreamSink):
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await end.aclose()


async def _start(spec: StdioSpec) -> tuple[anyio.abc.Process, Source, Sink]:
    """The process and our ends of its pipes.

    Descriptors of our own where they can be waited on: an event loop's pipe objects cost more than the read itself.
    """
    command, env = [spec.command, *spec.args], {**os.environ, **spec.env}
    if os.name != "posix":
        process = await anyio.open_process(command, env=env, cwd=spec.cwd)
        assert process.stdin is not None
        assert process.stdout is not None
        return process, process.stdout, StreamSink(process.stdin.send, process.stdin.aclose)
    its_stdin, ours_out = os.pipe()
    ours_in, its_stdout = os.pipe()
    try:
        process = await anyio.open_process(
            command, stdin=its_stdin, stdout=its_stdout, env=env, cwd=spec.cwd, start_new_session=True
        )
    except BaseException:
        os.close(ours_in)
        os.close(ours_out)
        raise
    finally:
        os.close(its_stdin)
        os.close(its_stdout)
    return process, FdSource(ours_in), FdSink(ours_out)


@asynccontextmanager
async def spawn(name: str, spec: StdioSpec, stderr: Stderr, reaper: Reaper) -> AsyncGenerator[ServerProcess]:
    """A server's process for as long as the block lasts; after it nothing of its group is left.

    Raises:
        OSError: it cannot be started.
    """
    process, source, sink = await _start(spec)
    reaper.watch(process.pid)
    server = ServerProcess(process, source, sink, stderr, name)
    async with anyio.create_task_group() as tg:
        tg.start_soon(server.read_stderr)
        tg.start_soon(server.watch)
        try:
            yield server
        finally:
            with anyio.CancelScope(shield=True):
                await server.stop()
            reaper.forget(process.pid)
            tg.cancel_scope.cancel()
