"""Connections to the daemon: each is a session of a host, or a command, by its first line.

Owns accepting them, the check of who is at the other end, their bounds, and the sessions that are joined. A session is
a client of its own with one conversation; its end ends nothing but its requests. Leaves its messages to `line_server`,
and the daemon's life to `daemon`.
"""

import logging
import os
import select
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel

from asyncfc_mcp import __version__
from asyncfc_mcp.core.identity import LOCAL, ClientProcess, Principal
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.pipes import FdSink, FdSource
from asyncfc_mcp.quotation import said
from asyncfc_mcp.signals import Signal
from asyncfc_mcp.thin import greeting
from asyncfc_mcp.thin.place import peer_uid
from asyncfc_mcp.transports.lifecycle import hand_over
from asyncfc_mcp.transports.line_server import LineServer, client_peer
from asyncfc_mcp.transports.local.first_line import Command, Join, Refused, receive
from asyncfc_mcp.transports.local.listening import Listening
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.server import Upstream

logger = logging.getLogger(__name__)

MAX_SESSIONS: Final = 256
"""Bound on sessions, each of which has two descriptors. One that is beyond it is told so, and runs a bridge of its
own."""
MAX_WAITING: Final = 64
"""Bound on connections whose first line has not arrived; beyond it, the oldest of them is closed."""
MAX_CONNECTIONS: Final = MAX_SESSIONS + 2 * MAX_WAITING
"""Bound on all open connections. One that is beyond it is closed, and tries again."""
ANSWER_S: Final = 2.0
"""Time limit for writing one line to a connection that is no session."""
HELD_S: Final = 2.0
"""Longest wait for sessions to say that they send nothing more, before a drain ends."""
GONE_POLL_S: Final = 0.25
"""Interval between two looks whether the other end of a session that sends nothing more still reads."""
CLOSE_S: Final = 5.0
"""Time limit for the end of all sessions."""
NO_DESCRIPTOR_S: Final = 0.1
"""Pause after a connection that could not be accepted: the reason is mostly that there are no descriptors left."""


class LocalSession:
    """A session that has joined.

    Args:
        join: its first line.
        descriptor: of its socket.
    """

    def __init__(self, join: Join, descriptor: int, source: FdSource, sink: FdSink, begun: bytes) -> None:
        self.join = join
        self.since = time.time()
        self._descriptor = descriptor
        process = ClientProcess(join.conversation, join.cwd, join.environ)
        self.principal = Principal(LOCAL, process=process)
        self.connection = Connection(process)
        self._writer = LineWriter(sink)
        self.peer = client_peer(source, self._writer, begun=begun, on_control=self._on_control)
        self.held = anyio.Event()
        """Set when the session has said that it sends nothing more."""

    def _on_control(self, line: bytes) -> None:
        with suppress(greeting.NotAGreeting):
            if greeting.read(line).get("held"):
                self.held.set()

    async def tell(self, **content: Any) -> None:
        """Send one of the lines that are for the thin process."""
        with suppress(anyio.BrokenResourceError):
            await self._writer.send({greeting.KEY: content})

    async def answered(self) -> None:
        """Return when all requests have responses, or nothing reads these any more."""

        async def watch() -> None:
            while not self._is_gone():  # noqa: ASYNC110 - no event tells of it
                await anyio.sleep(GONE_POLL_S)
            tg.cancel_scope.cancel()

        async with anyio.create_task_group() as tg:
            tg.start_soon(watch)
            await self.peer.answered()
            tg.cancel_scope.cancel()

    def _is_gone(self) -> bool:
        """Return whether the other end has closed both directions. One that has closed its output may still read."""
        poll = select.poll()
        poll.register(self._descriptor, 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    @property
    def about(self) -> dict[str, Any]:
        """Report of the session for `daemon status`."""
        return {
            "client": self.connection.host,
            "cwd": self.join.cwd,
            "pid": self.join.pid,
            "version": self.join.version,
            "since": self.since,
        }


class Sessions:
    """All connections to one daemon.

    Args:
        command: carries out a command and returns the answer.
        joined: called with each session that joins; raises `Refused` for one that cannot.
        left: called with the principal of each session that has ended.
        notes: returns lines for the log of the host of a session that joins.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        command: Callable[[Command], Awaitable[Mapping[str, Any]]],
        joined: Callable[[Join], None],
        left: Callable[[Principal], None],
        notes: Callable[[], Sequence[str]],
    ) -> None:
        self._upstream = upstream
        self._command, self._on_join, self._left, self._notes = command, joined, left, notes
        self._open = 0
        self._waiting: dict[anyio.CancelScope, None] = {}
        """Connections whose first line has not arrived, the oldest first."""
        self._sessions: dict[LocalSession, None] = {}
        self._ended = Signal()
        self.draining = False
        """True once no session can join."""
        self._handed_over = False
        self._tasks: anyio.abc.TaskGroup | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[LocalSession]:
        return iter(tuple(self._sessions))

    def note(self, line: str) -> None:
        """Have the thin processes of all sessions write a line for the logs of their hosts."""
        if self._tasks is not None:
            for session in self._sessions:
                self._tasks.start_soon(partial(session.tell, note=line))

    async def accept(self, listening: Listening) -> None:
        """Serve connections until cancelled."""
        async with anyio.create_task_group() as tg:
            self._tasks = tg
            failing = False
            while not listening.closed:
                try:
                    sock, _ = listening.socket.accept()
                except BlockingIOError:
                    with suppress(anyio.ClosedResourceError):  # listening again
                        await anyio.wait_readable(listening.socket)
                    continue
                except OSError as exc:
                    if not failing:
                        failing = True
                        logger.warning("connections cannot be accepted: %s", exc)
                    await anyio.sleep(NO_DESCRIPTOR_S)
                    continue
                failing = False
                if self._is_admitted(sock):
                    tg.start_soon(self._serve, sock.detach())
                else:
                    sock.close()
                await anyio.lowlevel.checkpoint()

    def _is_admitted(self, sock: socket.socket) -> bool:
        try:
            uid = peer_uid(sock)
        except OSError:
            return False
        if uid is not None and uid != os.geteuid():
            logger.warning("a connection of another user (uid %d) was refused", uid)
            return False
        return self._open < MAX_CONNECTIONS

    async def _serve(self, descriptor: int) -> None:
        self._open += 1
        source = FdSource(descriptor)
        try:
            sink = FdSink(os.dup(descriptor))
            try:
                await self._answer(descriptor, source, sink)
            finally:
                sink.close()
        except Exception:
            logger.exception("a connection has failed")
        finally:
            source.close()
            self._open -= 1

    async def _answer(self, descriptor: int, source: FdSource, sink: FdSink) -> None:
        received = await self._first_line(source, sink)
        if received is None:
            return
        first, rest = received
        if not isinstance(first, Join):
            await _write(sink, greeting.line(answer=await self._command(first)))
        elif not self.draining:
            joined = {"version": __version__, "pid": os.getpid(), "notes": list(self._notes())}
            await _write(sink, greeting.line(protocol=greeting.PROTOCOL, joined=joined))
            await self._serve_session(LocalSession(first, descriptor, source, sink, rest))

    async def _first_line(self, source: FdSource, sink: FdSink) -> tuple[Join | Command, bytes] | None:
        """Return what a connection is for, and the bytes after its first line; None if it is not served."""
        with anyio.CancelScope() as scope:
            self._waiting[scope] = None
            if len(self._waiting) > MAX_WAITING:
                next(iter(self._waiting)).cancel()
            try:
                first, rest = await receive(source)
                if isinstance(first, Join):
                    if len(self._sessions) >= MAX_SESSIONS:
                        raise Refused(f"it has {MAX_SESSIONS} sessions, and serves no more")
                    self._on_join(first)
            except Refused as exc:
                logger.warning("a connection was refused: %s", said(str(exc)))
                await _write(sink, greeting.line(protocol=greeting.PROTOCOL, error=str(exc)))
            except (anyio.EndOfStream, anyio.ClosedResourceError):
                pass
            else:
                return first, rest
            finally:
                del self._waiting[scope]
        return None

    async def _serve_session(self, session: LocalSession) -> None:
        self._sessions[session] = None
        server = LineServer(self._upstream, session.principal, session.peer, session.connection)
        try:
            await server.run(partial(self._last_answers, session))
        finally:
            del self._sessions[session]
            self._ended.notify_all()
            self._left(session.principal)

    async def _last_answers(self, session: LocalSession) -> None:
        """Return when a session that sends nothing more has its responses. Calls that were accepted go on after it."""
        if self._handed_over:
            return
        with anyio.move_on_after(self._upstream.bridge.settings.drain_s):
            await session.answered()

    # --- the end -------------------------------------------------------------------------------------------------

    async def drain(self, program: Sequence[str] | None) -> None:
        """Hand over to the next daemon: sessions hold back what they have not sent, have responses to what they have,
        and are ended.

        Args:
            program: the command with which sessions start the next daemon; None: their own.
        """
        self.draining = True
        async with anyio.create_task_group() as tg:
            for session in self._sessions:
                tg.start_soon(partial(session.tell, draining={"program": None if program is None else list(program)}))
            deadline = anyio.current_time() + HELD_S
            await hand_over(self._upstream.bridge, partial(self._answered, deadline))
            self._handed_over = True
            for session in self._sessions:
                session.peer.end_input()
            with anyio.move_on_after(CLOSE_S):
                while self._sessions:
                    await self._ended.wait()
            tg.cancel_scope.cancel()

    async def _answered(self, deadline: float) -> None:
        """Return when nothing is under way between the sessions and the daemon."""

        async def answered(session: LocalSession) -> None:
            with anyio.move_on_after(deadline - anyio.current_time()):
                await session.held.wait()
            await session.answered()

        async with anyio.create_task_group() as tg:
            for session in self._sessions:
                tg.start_soon(answered, session)


async def _write(sink: FdSink, line: bytes) -> None:
    with anyio.move_on_after(ANSWER_S), suppress(anyio.BrokenResourceError):
        await sink.send(line)
