"""Newline-delimited JSON written to a byte stream: whole lines, in the order in which they were sent.

Owns the queue of lines that the sink does not take at once, and the timeout for a reader that has stalled. Leaves the
bytes of a message to `codec` and `large`, and waiting for a descriptor to `pipes`.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio

from asyncfc_mcp.jsonrpc.channel import LineLost
from asyncfc_mcp.jsonrpc.codec import Message, format_message
from asyncfc_mcp.jsonrpc.large import write_message
from asyncfc_mcp.jsonrpc.pipes import Sink
from asyncfc_mcp.signals import Signal
from asyncfc_mcp.values.large import is_large

FINISH_S: Final = 2.0
"""Time limit for writing queued lines when a connection ends."""

SETTLE_S: Final = 0.25
"""Time limit for a process that has closed its output to close its input. It takes milliseconds if the process ends."""
SETTLE_PERIOD_S: Final = 0.001
"""Time between looks at a pipe, for which no event exists."""


class LineWriter:
    """Messages written to a sink of bytes, whole and in order.

    Args:
        stall_s: time after which a reader that takes no byte of a line is given up and the sink closed, unless
            `on_stall` extends it by as long again.

    Attributes:
        on_stall: called after that time; returns True to wait on.
        on_resume: called when the other side reads on after a stall.
    """

    def __init__(self, sink: Sink, *, stall_s: float = math.inf) -> None:
        self._sink = sink
        self._stall_s = stall_s
        self._lock = anyio.Lock()
        self._queue: deque[_Line] = deque()
        """Lines that could not be written at once, in order; the first may be partly written."""
        self.unsent = 0
        """Bytes of queued lines."""
        self._written = Signal()
        self.on_stall: Callable[[], bool] = lambda: False
        self.on_resume: Callable[[], None] = lambda: None

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._sink.position

    @property
    def received(self) -> int:
        """Bytes that the other side has read or may have read."""
        return self._sink.position - self._sink.unread()

    async def settle(self) -> None:
        """Return when `received` is exact, for a connection whose other side is ending; after `SETTLE_S` at most.

        The kernel may close the output of an ending process before its input. Until it has closed both, the lines that
        the process has left unread count as read.
        """
        with anyio.move_on_after(SETTLE_S):
            while self._sink.buffered() > self._sink.unread():  # noqa: ASYNC110 - no event tells of it
                await anyio.sleep(SETTLE_PERIOD_S)

    @property
    def consumed(self) -> int:
        """Bytes that the other side has read or may have read, up to the line that is being written."""
        read = self._sink.position - self._sink.buffered()
        begun = self._queue[0].start if self._queue else None
        return read if begun is None else min(read, begun)

    def send_nowait(self, message: Message, on_lost: Callable[[bool], None] | None = None) -> bool:
        """Write one message at once if the sink takes it, else queue it and return False: then `flush` must be run.

        Args:
            on_lost: called if the queued line could not be written, with whether a part of it was.

        Raises:
            LineLost: the other side does not read.
        """
        line = self._enqueue(message)
        if line is not None:
            line.on_lost = on_lost
        return line is None

    def _enqueue(self, message: Message) -> "_Line | None":
        large = is_large(message)
        rest = memoryview(b"" if large else format_message(message))
        begun = False
        start: int | None = None
        if not (self._queue or large):
            start = self._sink.position
            try:
                sent = self._sink.send_nowait(rest)
            except anyio.BrokenResourceError:
                raise LineLost(begun=False) from None
            if sent == len(rest):
                return None
            rest, begun = rest[sent:], sent > 0
        line = _Line(rest, begun, start, message if large else None)
        self._queue.append(line)
        self.unsent += len(rest)
        return line

    async def wait_for_write(self) -> None:
        """Return when one queued line fewer is left, or the sink is broken; at once if none is queued."""
        if self._queue:
            await self._written.wait()

    async def send(self, message: Message) -> None:
        """Write one message.

        Raises:
            LineLost: the other side does not read.
        """
        line = self._enqueue(message)
        if line is None:
            return
        # Half a line followed by another line would break the connection for every sender. A line that was begun is
        # therefore finished even if its sender is cancelled; the owner of the pipe ends that wait by closing it.
        try:
            with anyio.CancelScope(shield=line.begun):
                await self._lock.acquire()
            await self._write_until(lambda: line.done)
        except anyio.BrokenResourceError:
            pass  # this line is lost, as all queued ones
        finally:
            if not (line.done or line.begun):  # its sender was cancelled before its turn
                self._queue.remove(line)
                self.unsent -= len(line.rest)
        if line.lost:
            raise LineLost(begun=line.reached(self._sink.position))

    async def flush(self) -> None:
        """Write all queued lines.

        Raises:
            anyio.BrokenResourceError: the other side does not read.
        """
        with anyio.CancelScope(shield=bool(self._queue) and self._queue[0].begun):
            await self._lock.acquire()
        await self._write_until(lambda: False)

    async def _write_until(self, enough: Callable[[], bool]) -> None:
        """Write queued lines in order, and release the lock."""
        try:
            while self._queue and not enough():
                first = self._queue[0]
                first.begun = True
                if (message := first.message) is not None:
                    first.message = None
                    with anyio.CancelScope(shield=True):
                        first.rest = memoryview(await write_message(message))
                    self.unsent += len(first.rest)
                if first.start is None:
                    first.start = self._sink.position
                await self._write(first)
                first.done = True
                self._queue.popleft()
                self.unsent -= len(first.rest)
                self._written.notify_all()
        except anyio.BrokenResourceError:
            lost, self._queue = self._queue, deque()
            self.unsent = 0
            for line in lost:
                line.done = line.lost = True
            self._written.notify_all()
            for line in lost:
                if line.on_lost is not None:
                    line.on_lost(line.reached(self._sink.position))
            raise
        finally:
            self._lock.release()

    async def _write(self, line: "_Line") -> None:
        """Write the rest of a line. A slow reader is waited for; one that reads nothing is given up."""
        stalled = False
        while line.rest:
            before = self._sink.position
            with anyio.move_on_after(self._stall_s, shield=True) as writing:
                await self._sink.send(line.rest)
            if not writing.cancelled_caught:
                if stalled:
                    self.on_resume()
                return
            written = self._sink.position - before
            if written == 0 and self.on_stall():
                stalled = True
                continue
            if not 0 < written < len(line.rest):
                self._sink.close()
                raise anyio.BrokenResourceError
            if stalled:
                self.on_resume()
                stalled = False
            line.rest = line.rest[written:]
            self.unsent -= written

    async def finish(self) -> None:
        """Write queued lines for at most `FINISH_S`, then close the sink: the other side may have stopped reading."""
        with anyio.move_on_after(FINISH_S, shield=True):
            while self._queue:
                await self.wait_for_write()
            return
        self._sink.close()


@dataclass(slots=True, eq=False)
class _Line:
    """A queued line."""

    rest: memoryview
    begun: bool
    """True once its turn has come: it is finished before another line even if its sender is cancelled."""
    start: int | None
    """Position of the sink before its first byte; None until its turn."""
    message: Message | None = None
    """A large message, which is serialized in slices when its turn has come."""
    done: bool = False
    lost: bool = False
    """True if it is done and was not written."""
    on_lost: Callable[[bool], None] | None = None

    def reached(self, written: int) -> bool:
        """Return whether a part of the line is among the bytes that were written."""
        return self.start is not None and written > self.start
