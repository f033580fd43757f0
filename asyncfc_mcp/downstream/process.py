"""The processes of wrapped servers: started in process groups of their own and ended as whole groups.

Owns process groups, their pipes, and the orderly end of a group. The end after a crash of the bridge is left to
`reaper`, log files to `stderr`, and the messages on the pipes to `jsonrpc`.
"""

import logging
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream

from asyncfc_mcp.config.model import ServerConfig, StdioSpec
from asyncfc_mcp.downstream import stall_policy
from asyncfc_mcp.downstream.reaper import Reaper
from asyncfc_mcp.downstream.stderr import Stderr
from asyncfc_mcp.jsonrpc.codec import MalformedMessage
from asyncfc_mcp.jsonrpc.line_reader import LineReader
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.pipes import FdSink, FdSource, Sink, Source, StreamSink

logger = logging.getLogger(__name__)

EXIT_GRACE_S: Final = 2.0
"""Time for a process to exit after its input is closed, and again after SIGTERM, before the next step."""
STDERR_LINES_PER_READ: Final = 500
STDERR_PAUSE_S: Final = 0.02
"""Pause after a read of more lines than that. It throttles only servers that write as fast as they can."""
STDOUT_DRAIN_S: Final = 0.3
"""Time to read the last output of a process that has exited."""
EXIT_POLL_S: Final = 0.01
GROUP_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Child:
    """A started process and the bridge's ends of its pipes."""

    pid: int
    exit_code: Callable[[], int | None]
    """None while the process runs; the negative signal number if a signal ended it."""
    kill: Callable[[], None]
    stdin: Sink
    stdout: Source
    stderr: Source
    entry: int
    """Number of its entry in the `Reaper`."""


class ServerProcess:
    """A server's process and the process group that it leads."""

    def __init__(self, child: Child, stderr: Stderr, name: str) -> None:
        self._child, self._stderr, self._name = child, stderr, name
        self._malformed_lines = self._stderr_reads = 0
        self._stderr_ended = anyio.Event()
        self.reader = LineReader(child.stdout, self._on_malformed, server=True)
        self.writer = LineWriter(child.stdin, stall_s=stall_policy.STALL_S)

    async def _on_malformed(self, exc: MalformedMessage, line: bytes) -> None:
        """Log a line on stdout that is no message, such as a stray print; warn once per process."""
        self._stderr.line(f"(stdout) {line[:500].decode(errors='replace')}")
        self._malformed_lines += 1
        if self._malformed_lines == 1:
            logger.warning("server %r writes lines to stdout that are no MCP messages; see its log", self._name)

    def monitor_activity(self) -> stall_policy.ActivityMonitor:
        """Start to monitor the output and the processor time of the process group."""
        return stall_policy.ActivityMonitor(self._child.pid, lambda: self.reader.chunks + self._stderr_reads)

    async def read_stderr(self) -> None:
        rest = b""
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError, ValueError):
            while True:
                *lines, rest = (rest + await self._child.stderr.receive()).split(b"\n")
                self._stderr_reads += 1
                if lines:
                    self._stderr.lines([line.decode(errors="replace").rstrip("\r") for line in lines])
                if len(rest) > 65536:
                    self._stderr.line(rest.decode(errors="replace"))
                    rest = b""
                if len(lines) > STDERR_LINES_PER_READ:
                    await anyio.sleep(STDERR_PAUSE_S)
        if rest:
            self._stderr.line(rest.decode(errors="replace"))
        self._stderr_ended.set()

    async def describe_exit(self) -> str | None:
        """Return the exit code or the signal as a predicate of the server; None if the process is still running."""
        with anyio.move_on_after(1):
            await self._wait_for_exit(1)
            await self._stderr_ended.wait()  # the last lines usually have the cause
        code = self._child.exit_code()
        if code is None:
            return None
        if code < 0:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    @property
    def killed(self) -> bool:
        """True if a signal ended the process."""
        code = self._child.exit_code()
        return code is not None and code < 0

    async def watch_exit(self) -> None:
        """Close the connection when the process has exited: a grandchild may keep the pipe open, and then its end would
        never be read."""
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                fd = os.pidfd_open(self._child.pid)
                try:
                    await anyio.wait_readable(fd)
                finally:
                    os.close(fd)
        while not await self._wait_for_exit(60):
            pass
        await anyio.sleep(STDOUT_DRAIN_S)
        await _close(self._child.stdout)

    async def _wait_for_exit(self, timeout_s: float) -> bool:
        # Polled, because `wait()` also waits for the pipes, which a grandchild may keep open.
        deadline = anyio.current_time() + timeout_s
        while self._child.exit_code() is None:
            if anyio.current_time() >= deadline:
                return False
            await anyio.sleep(EXIT_POLL_S)
        return True

    def _signal_group(self, number: int) -> bool:
        """Send a signal to the group; return whether any process was left to receive it."""
        try:
            if os.name == "posix":
                self._child.exit_code()  # reaps the process: until then a zombie counts as a member of the group
                os.killpg(self._child.pid, number)
            elif self._child.exit_code() is None:
                self._child.kill()
            else:
                return False
        except (ProcessLookupError, PermissionError):
            return False
        return True

    async def _wait_for_group_exit(self, timeout_s: float) -> bool:
        deadline = anyio.current_time() + timeout_s
        while self._signal_group(0):
            if anyio.current_time() >= deadline:
                return False
            await anyio.sleep(GROUP_POLL_S)
        return True

    async def stop(self) -> None:
        """End the whole group: close its input, then SIGTERM, then SIGKILL. Every wait is bounded."""
        await _close(self._child.stdin)
        await self._wait_for_exit(EXIT_GRACE_S)
        # Processes that the server left behind get the signals too, without another grace period.
        if self._signal_group(signal.SIGTERM) and not await self._wait_for_group_exit(EXIT_GRACE_S):
            self._signal_group(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            await self._wait_for_exit(EXIT_GRACE_S)
        await _close(self._child.stdout)
        with anyio.move_on_after(0.2):
            await self._stderr_ended.wait()
        await _close(self._child.stderr)  # a grandchild may hold its other end


async def _close(end: Source | Sink) -> None:
    if isinstance(end, FdSource | FdSink):
        end.close()
    elif isinstance(end, ByteReceiveStream | StreamSink):
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await end.aclose()


def _start(spec: StdioSpec, reaper: Reaper) -> Child:
    """Start a process on raw descriptors: an event loop's pipe objects cost more than the read itself.

    Needs no event loop. POSIX only, where the event loop can wait for descriptors.

    Raises:
        OSError: the process cannot be started.
    """
    pipes: list[tuple[int, int]] = []
    try:
        pipes.extend(os.pipe() for _ in range(3))
    except OSError:
        for fd in chain.from_iterable(pipes):
            os.close(fd)
        raise
    (child_stdin, stdin), (stdout, child_stdout), (stderr, child_stderr) = pipes
    entry, add_own_group = reaper.reserve()
    try:
        process = subprocess.Popen(
            [spec.command, *spec.args],
            stdin=child_stdin,
            stdout=child_stdout,
            stderr=child_stderr,
            env=spec.environment(os.environ),
            cwd=spec.cwd,
            start_new_session=True,
            preexec_fn=add_own_group,
        )
    except BaseException:
        reaper.remove(entry)
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        raise
    finally:
        for fd in (child_stdin, child_stdout, child_stderr):
            os.close(fd)
    reaper.record(entry, process.pid)
    return Child(process.pid, process.poll, process.kill, FdSink(stdin), FdSource(stdout), FdSource(stderr), entry)


async def _start_in_loop(spec: StdioSpec, reaper: Reaper) -> Child:
    entry, _ = reaper.reserve()
    process = await anyio.open_process([spec.command, *spec.args], env=spec.environment(os.environ), cwd=spec.cwd)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    stdin = StreamSink(process.stdin.send, process.stdin.aclose)
    return Child(process.pid, lambda: process.returncode, process.kill, stdin, process.stdout, process.stderr, entry)


def start_ahead(servers: Iterable[ServerConfig], reaper: Reaper) -> dict[str, Child]:
    """Start servers before there is an event loop, so that their imports run in parallel with the bridge's own.

    Returns:
        The processes by server name, without those that cannot be started: `spawn` reports the reason later.
    """
    children: dict[str, Child] = {}
    if os.name == "posix":
        for server in servers:
            if isinstance(server.spec, StdioSpec):
                with suppress(OSError, ValueError):
                    children[server.name] = _start(server.spec, reaper)
    return children


@asynccontextmanager
async def spawn(
    name: str, spec: StdioSpec, stderr: Stderr, reaper: Reaper, child: Child | None = None
) -> AsyncGenerator[ServerProcess]:
    """Run a server's process while the block lasts; afterwards no process of its group is left.

    Args:
        child: the process, if it was started ahead.

    Raises:
        OSError: the process cannot be started.
    """
    if child is None:
        child = _start(spec, reaper) if os.name == "posix" else await _start_in_loop(spec, reaper)
    server = ServerProcess(child, stderr, name)
    async with anyio.create_task_group() as tg:
        tg.start_soon(server.read_stderr)
        tg.start_soon(server.watch_exit)
        try:
            yield server
        finally:
            with anyio.CancelScope(shield=True):
                await server.stop()
            reaper.remove(child.entry)
            tg.cancel_scope.cancel()
