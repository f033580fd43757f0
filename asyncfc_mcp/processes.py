"""The processes of wrapped servers: started in groups of their own, listened to, and ended without a trace.

Owns process groups, their pipes, and the guard that ends them if we vanish; their stderr is left to `stderr`. Refuses
to know what is said over the pipes.
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

from asyncfc_mcp.codec import MalformedMessage
from asyncfc_mcp.config import ServerConfig, StdioSpec
from asyncfc_mcp.environment import environment
from asyncfc_mcp.stderr import Stderr
from asyncfc_mcp.wire import FdSink, FdSource, LineReader, LineWriter, Sink, Source, StreamSink

logger = logging.getLogger(__name__)

EXIT_GRACE_S: Final = 2.0
"""After its input was closed, and again after SIGTERM, a process gets this long before the next step."""
STALL_S: Final = 30.0
"""A server that does not read its input for so long, while something is written, is taken for dead."""
STDERR_LINES: Final = 500
STDERR_PAUSE_S: Final = 0.02
"""Pause after a read of more lines than that: it slows down a server that writes as fast as it can, and no other."""
DRAIN_S: Final = 0.3
"""How long the last output of a process that ended may take to be read."""


class Reaper:
    """Ends the process groups that we started if we vanish without a chance to (SIGKILL, a crash).

    A shell that reads our groups from a pipe: when the pipe ends while groups are still on its list, it ends them. It
    runs before the first server does, and each server's process enters itself before it becomes the server's program:
    it holds the pipe until then, so that the list is complete when the pipe ends, wherever in a start we vanish.

    A parent-death signal would reach only the direct child, and only on Linux. A shell between us and the server, which
    could enter itself as well, drops environment variables whose names are none to a shell.
    """

    _SCRIPT: Final = (
        "trap '' INT TERM HUP; g=' '; while read -r op n p; do case $op in "
        '+) g="$g$n:$p ";; -) case "$g" in *" $n:"*) r="${g#* $n:}"; g="${g%% $n:*} ${r#* }";; esac;; esac; done; '
        "for s in TERM KILL; do for p in $g; do kill -$s -${p#*:} 2>/dev/null; done; "
        "case $g in *[0-9]*) [ $s = TERM ] && sleep 2;; esac; done"
    )

    def __init__(self) -> None:
        self._shell: subprocess.Popen[bytes] | None = None
        self._entered = 0
        self._groups: dict[int, int] = {}
        """Number of an entry → the group."""

    def enter(self) -> "tuple[int, Callable[[], None] | None]":
        """The number of a new entry, and what the new process runs to make it, in a group of its own."""
        self._entered += 1
        if os.name != "posix":
            return self._entered, None
        pipe = self._pipe()
        head = f"+ {self._entered} "

        def make() -> None:
            # Between fork and exec: no locks, no logging, nothing that another thread could have been in the midst of.
            try:
                os.write(pipe, f"{head}{os.getpid()}\n".encode())
            except OSError:
                pass

        return self._entered, make

    def started(self, number: int, pgid: int) -> None:
        """Note the group of an entry, so that it can be made again should the shell be killed."""
        self._groups[number] = pgid

    def leave(self, number: int) -> None:
        """Remove an entry: its group has ended, or could not be started."""
        self._groups.pop(number, None)
        if self._shell is not None:
            self._write(f"- {number}\n")

    def _pipe(self) -> int:
        """The pipe to the shell, which is started where it does not run."""
        if self._shell is None or self._shell.poll() is not None:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", self._SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,
            )
            for number, pgid in self._groups.items():
                self._write(f"+ {number} {pgid}\n")
        assert self._shell.stdin is not None
        return self._shell.stdin.fileno()

    def _write(self, line: str) -> None:
        assert self._shell is not None
        assert self._shell.stdin is not None
        with suppress(OSError, ValueError):
            self._shell.stdin.write(line.encode())

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


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was started, and our ends of its pipes."""

    pid: int
    exit_code: Callable[[], int | None]
    """None while it runs; a signal's number, negative, if one ended it."""
    kill: Callable[[], None]
    stdin: Sink
    stdout: Source
    stderr: Source
    entry: int
    """Its number at the `Reaper`."""


class ServerProcess:
    """A server's process and the group that it leads."""

    def __init__(self, child: Child, stderr: Stderr, name: str) -> None:
        self._child, self._stderr, self._name = child, stderr, name
        self._noise = 0
        self._drained = anyio.Event()
        self.reader = LineReader(child.stdout, self._malformed, server=True)
        self.writer = LineWriter(child.stdin, stall_s=STALL_S)

    async def _malformed(self, exc: MalformedMessage, line: bytes) -> None:
        """A line on stdout that is no message: a stray print. Said once per server, kept in its log."""
        self._stderr.line(f"(stdout) {line[:500].decode(errors='replace')}")
        self._noise += 1
        if self._noise == 1:
            logger.warning("server %r writes to stdout what is no MCP message; see its log", self._name)

    async def read_stderr(self) -> None:
        rest = b""
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError, ValueError):
            while True:
                *lines, rest = (rest + await self._child.stderr.receive()).split(b"\n")
                if lines:
                    self._stderr.lines([line.decode(errors="replace").rstrip("\r") for line in lines])
                if len(rest) > 65536:
                    self._stderr.line(rest.decode(errors="replace"))
                    rest = b""
                if len(lines) > STDERR_LINES:
                    await anyio.sleep(STDERR_PAUSE_S)
        if rest:
            self._stderr.line(rest.decode(errors="replace"))
        self._drained.set()

    async def ended_how(self) -> str | None:
        """The exit code or the signal, as a predicate; None if it has not ended."""
        with anyio.move_on_after(1):
            await self._exited(1)
            await self._drained.wait()  # its last words are the most useful ones
        code = self._child.exit_code()
        if code is None:
            return None
        if code < 0:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    @property
    def killed(self) -> bool:
        """Whether a signal ended it."""
        code = self._child.exit_code()
        return code is not None and code < 0

    async def watch(self) -> None:
        """Close the connection when the process has ended: a grandchild may keep the pipe open, and then nobody
        would ever see its end."""
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                fd = os.pidfd_open(self._child.pid)
                try:
                    await anyio.wait_readable(fd)
                finally:
                    os.close(fd)
        while not await self._exited(60):
            pass
        await anyio.sleep(DRAIN_S)
        await _close(self._child.stdout)

    async def _exited(self, timeout_s: float) -> bool:
        # Polled, because `wait()` also waits for the pipes, which a grandchild may keep open.
        deadline = anyio.current_time() + timeout_s
        while self._child.exit_code() is None:
            if anyio.current_time() >= deadline:
                return False
            await anyio.sleep(0.01)
        return True

    def _signal_group(self, number: int) -> bool:
        """Whether there is anybody left in the group to receive it."""
        try:
            if os.name == "posix":
                self._child.exit_code()  # the dead are counted until they are asked for
                os.killpg(self._child.pid, number)
            elif self._child.exit_code() is None:
                self._child.kill()
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
        await _close(self._child.stdin)
        await self._exited(EXIT_GRACE_S)
        # Those it started and left behind get the signals too, and no grace of their own when it is gone.
        if self._signal_group(signal.SIGTERM) and not await self._group_gone(EXIT_GRACE_S):
            self._signal_group(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            await self._exited(EXIT_GRACE_S)
        await _close(self._child.stdout)
        with anyio.move_on_after(0.2):
            await self._drained.wait()
        await _close(self._child.stderr)  # a grandchild may hold its other end


async def _close(end: Source | Sink) -> None:
    if isinstance(end, FdSource | FdSink):
        end.close()
    elif isinstance(end, ByteReceiveStream | StreamSink):
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await end.aclose()


def _environment(spec: StdioSpec) -> dict[str, str]:
    return environment(os.environ, spec.env, spec.env_inherit)


def _start(spec: StdioSpec, reaper: Reaper) -> Child:
    """Start on descriptors of our own: an event loop's pipe objects cost more than the read itself.

    Needs no event loop. Only where descriptors can be waited on (POSIX).

    Raises:
        OSError: it cannot be started.
    """
    pipes: list[tuple[int, int]] = []
    try:
        pipes.extend(os.pipe() for _ in range(3))
    except OSError:
        for fd in chain.from_iterable(pipes):
            os.close(fd)
        raise
    (its_stdin, ours_out), (ours_in, its_stdout), (ours_err, its_stderr) = pipes
    entry, enter = reaper.enter()
    try:
        process = subprocess.Popen(
            [spec.command, *spec.args],
            stdin=its_stdin,
            stdout=its_stdout,
            stderr=its_stderr,
            env=_environment(spec),
            cwd=spec.cwd,
            start_new_session=True,
            preexec_fn=enter,
        )
    except BaseException:
        reaper.leave(entry)
        for fd in (ours_out, ours_in, ours_err):
            os.close(fd)
        raise
    finally:
        for fd in (its_stdin, its_stdout, its_stderr):
            os.close(fd)
    reaper.started(entry, process.pid)
    return Child(
        process.pid, process.poll, process.kill, FdSink(ours_out), FdSource(ours_in), FdSource(ours_err), entry
    )


async def _start_in_loop(spec: StdioSpec, reaper: Reaper) -> Child:
    entry, _ = reaper.enter()
    process = await anyio.open_process([spec.command, *spec.args], env=_environment(spec), cwd=spec.cwd)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    stdin = StreamSink(process.stdin.send, process.stdin.aclose)
    return Child(process.pid, lambda: process.returncode, process.kill, stdin, process.stdout, process.stderr, entry)


def start_ahead(servers: Iterable[ServerConfig], reaper: Reaper) -> dict[str, Child]:
    """Start servers, by name, before there is an event loop: they import what they need while we do.

    One that cannot be started is left out; `spawn` will say why.
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
    """A server's process for as long as the block lasts; after it nothing of its group is left.

    Args:
        child: the process, if it was started ahead.

    Raises:
        OSError: it cannot be started.
    """
    if child is None:
        child = _start(spec, reaper) if os.name == "posix" else await _start_in_loop(spec, reaper)
    server = ServerProcess(child, stderr, name)
    async with anyio.create_task_group() as tg:
        tg.start_soon(server.read_stderr)
        tg.start_soon(server.watch)
        try:
            yield server
        finally:
            with anyio.CancelScope(shield=True):
                await server.stop()
            reaper.leave(child.entry)
            tg.cancel_scope.cancel()
