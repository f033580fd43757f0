"""Newline-delimited JSON over pipes: framing, reading and writing, for both sides of the bridge.

The SDK's stdio transports hop a thread per line (server) or pass each message through memory streams and a pydantic
union (client); here a line is read once, parsed once and written once, and what it carries stays the plain value
that came off the wire. Refuses to know MCP, and who answers what: that is `peer`'s.
"""

import math
import os
import stat
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import anyio
import anyio.lowlevel

from asyncfc_mcp.codec import MalformedMessage, Message, format_message, parse_from_server, parse_message, too_large
from asyncfc_mcp.json_bounds import MOST_FROM_CLIENTS, MOST_FROM_SERVERS
from asyncfc_mcp.protocol import PARSE_ERROR

_CHUNK: Final = 64 * 1024
"""What a pipe holds. A larger buffer would be mapped for every read and cost more than all the rest of it."""
_BEGINNINGS: Final = (b"{", b"[", b"\xef\xbb\xbf{", b"\xef\xbb\xbf[")
NOISE_LINES: Final = 100
NOISE_PAUSE_S: Final = 0.002
"""Pause after so many lines in a row that are no message: it slows down a server that writes them as fast as it can."""
HELD_S: Final = 1.0
"""How long the beginning of a JSON text that stopped at a line end waits for its next line."""
JOINED_BYTES: Final = 128 << 20
"""How much of it may be parsed in all, since every attempt parses the whole of it again."""
MAX_MESSAGE_BYTES: Final = 64 << 20
"""Bound on one message, where no setting says another."""
SKIPPED: Final = 16
"""A line beyond the bound is skipped up to so many times the bound; then its connection is given up."""
SKIP_STALL_S: Final = 5.0
"""A server that stops in the midst of such a line for this long is given up."""
KEPT: Final = 1024
"""How much of both ends of such a line is kept, to find the ID of its request."""
FINISH_S: Final = 2.0
"""At the end of a connection, how long a line that was begun may take to be written."""


class Source(Protocol):
    """Where bytes come from."""

    async def receive(self) -> bytes:
        """The next bytes, or none to say that there may be something to look at; raises `anyio.EndOfStream` at the
        end."""
        ...


class Sink(Protocol):
    """Where bytes go."""

    position: int
    """Bytes that were written, or may have been, since it was opened."""

    def unread(self) -> int:
        """How many of these bytes certainly nobody has read, nor will; 0 where that is not known."""
        ...

    def send_now(self, data: bytes | memoryview) -> int:
        """Write what can be written without waiting; how many bytes that were."""
        ...

    async def send(self, data: bytes | memoryview) -> None:
        """Write all; raises `anyio.BrokenResourceError` if nobody reads any more."""
        ...

    def close(self) -> None:
        """Give up: whoever writes finds it broken."""
        ...


class InputGivenUp(anyio.EndOfStream):
    """Nothing more is read, for a fault of the other side; `how` is a predicate of it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how


class _Cut(bytes):
    """Both ends of a line that has more bytes than the bound."""

    refusal: MalformedMessage


class LineReader:
    """Messages read from a source of bytes, one per line.

    Args:
        on_malformed: called with every line that is no message. Reading goes on after it: one bad line is not the end
            of a connection. An answer that is none is read as an error, since its request waits for it.
        server: read as tolerant clients read what servers send: batches, messages that are printed over several lines
            (Go's SDK accepts both), and all that `parse_from_server` accepts.

    Attributes:
        limit: bound on the bytes of one message. A longer one is refused as soon as it can be told what it is about,
            and skipped; an answer of which that cannot be told ends the input, since any request may wait for it.
    """

    def __init__(
        self,
        source: Source,
        on_malformed: Callable[[MalformedMessage, bytes], Awaitable[None]],
        *,
        server: bool = False,
    ) -> None:
        self._source = source
        self._on_malformed = on_malformed
        self._server = server
        self._most = MOST_FROM_SERVERS if server else MOST_FROM_CLIENTS
        self._lines: deque[bytes] = deque()
        self.limit = MAX_MESSAGE_BYTES
        self._rest: list[bytes] = []
        self._size = 0
        """Bytes of the line that has no end yet."""
        self._skipping: _Skipped | None = None
        self._ready: deque[Message] = deque()
        """Messages that were read in another way than one from one line."""
        self._held = _Held()
        self._ended = False

    def offer(self, taker: Callable[[], bool] | None) -> None:
        """Have `taker` called while `receive` waits and lines come, to take them with `receive_nowait`; if it returns
        False, `receive` goes on with what it left.

        Only where the source can tell; it saves waking a task for every line. None ends it.
        """
        if isinstance(self._source, FdSource):
            self._source.taker = partial(self._offered, taker) if taker is not None else None

    def _offered(self, taker: Callable[[], bool], data: bytes) -> bool:
        self._feed(data)
        return taker() and not self._lines and self._skipping is None

    def receive_nowait(self) -> Message | None:
        """The next message, if it is there already and is one."""
        if self._ready:
            return self._ready.popleft()
        if self._held:
            return None
        while self._lines and not self._lines[0].strip():
            self._lines.popleft()
        if not self._lines or len(self._lines[0]) > self.limit or isinstance(self._lines[0], _Cut):
            return None
        try:
            message = parse_message(self._lines[0], self._most)
        except MalformedMessage:
            return None  # `receive` comes to it, and says so
        self._lines.popleft()
        return message

    async def receive(self) -> Message:
        """The next message.

        Raises:
            anyio.EndOfStream: the source ended; `InputGivenUp`: it is not worth reading on.
        """
        noise = 0
        while True:
            while self._lines and not self._ready:
                noise += 1
                if noise > NOISE_LINES:
                    noise = 0
                    await anyio.sleep(NOISE_PAUSE_S)
                line = self._lines.popleft()
                if isinstance(line, _Cut) or len(line) > self.limit:
                    await self._refuse(line)
                elif self._server and (self._held or line.strip()):
                    await self._read_tolerantly(line)
                elif line.strip():
                    try:
                        return parse_message(line, self._most)
                    except MalformedMessage as exc:
                        await self._on_malformed(exc, line)
                        if exc.ends is not None:
                            return exc.ends
            if self._ready:
                return self._ready.popleft()
            if self._ended:
                if not self._held:
                    raise anyio.EndOfStream
                await self._give_up()
                continue
            if self._skipping is not None and self._skipping.size > SKIPPED * self.limit:
                raise InputGivenUp(f"sent a message of more than {SKIPPED * self.limit} bytes (max_message_bytes)")
            chunk = b""
            skipping = self._server and self._skipping is not None
            try:
                with anyio.move_on_after(SKIP_STALL_S if skipping else HELD_S if self._held else None) as waiting:
                    chunk = await self._source.receive()
                if waiting.cancelled_caught:
                    if skipping:
                        raise InputGivenUp(
                            f"stopped in the midst of a message of more than {self.limit} bytes (max_message_bytes)"
                        )
                    await self._give_up()
                    continue
            except InputGivenUp:
                raise
            except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
                # A last line without its newline is still a line.
                self._ended = True
                if self._rest or self._skipping is not None:
                    self._feed(b"\n")
                continue
            self._feed(chunk)

    async def _read_tolerantly(self, line: bytes) -> None:
        """Read a line of a server: messages, a part of one, or neither."""
        if not (self._held or line.lstrip()[:4].startswith(_BEGINNINGS)):
            await self._report(MalformedMessage(PARSE_ERROR, "Parse error: no JSON object"), line)
            return
        read = parse_from_server(line)
        if isinstance(read[0], MalformedMessage) and read[0].code == PARSE_ERROR:
            # No JSON by itself: noise, or the beginning of a message that goes on in the next lines, or such a line.
            if not (self._held or (read[0].incomplete and line.startswith(_BEGINNINGS))):
                await self._report(read[0], line)
                return
            self._held.add(line, read[0], self.limit)
            read = self._held.joined()
            if read is None:
                if self._held.hopeless:
                    refusal = self._held.too_large(self.limit)
                    await self._give_up()
                    if refusal is not None and refusal.ends is not None:
                        self._ready.append(refusal.ends)
                return
            self._held = _Held()
        elif self._held:
            if isinstance(read[0], MalformedMessage):  # JSON, and no message: a line within one that is printed nicely
                self._held.add(line, read[0], self.limit)
                return
            await self._give_up()
        for each in read:
            if isinstance(each, MalformedMessage):
                await self._report(each, line)
            else:
                self._ready.append(each)

    async def _report(self, exc: MalformedMessage, line: bytes) -> None:
        await self._on_malformed(exc, line)
        if exc.ends is not None:
            self._ready.append(exc.ends)

    async def _give_up(self) -> None:
        """Report the lines that are held: they are no message."""
        held, self._held = self._held, _Held()
        for number, (line, exc) in enumerate(held.lines, 1):
            await self._report(exc, line)
            if number % NOISE_LINES == 0:
                await anyio.sleep(NOISE_PAUSE_S)

    def _feed(self, chunk: bytes) -> None:
        head, newline, tail = chunk.partition(b"\n")
        self._size += len(head)
        if self._size > self.limit:
            self._skip(head, whole=bool(newline))
        else:
            self._rest.append(head)
        if newline:
            # Pieces of a long line are joined once, when its end is there: joining at every chunk is quadratic.
            if self._skipping is None:
                self._lines.append(b"".join(self._rest))
            self._skipping = None
            *lines, last = tail.split(b"\n")
            self._lines.extend(lines)
            self._rest, self._size = ([last] if last else []), len(last)

    def _skip(self, piece: bytes, *, whole: bool) -> None:
        """Drop a piece of a line that has become too long, but for what may name its request."""
        skipped = self._skipping
        if skipped is None:
            start = b""
            for each in (*self._rest, piece):
                start += each[: KEPT - len(start)]
                if len(start) == KEPT:
                    break
            skipped = self._skipping = _Skipped(start)
            self._rest.clear()
        skipped.size = self._size
        skipped.end = (skipped.end + piece)[-KEPT:]
        if not skipped.refused and (refusal := too_large(skipped.start, skipped.end, self.limit, whole=whole)):
            skipped.refused = True
            cut = _Cut(skipped.start + b"\n" + skipped.end)
            cut.refusal = refusal
            self._lines.append(cut)

    async def _refuse(self, line: bytes) -> None:
        """Refuse a message that has more bytes than the bound."""
        if self._held:
            await self._give_up()
        refusal = line.refusal if isinstance(line, _Cut) else too_large(line[:KEPT], line[-KEPT:], self.limit)
        assert refusal is not None
        await self._report(refusal, line[:KEPT])
        if self._server and refusal.is_answer and refusal.ends is None:
            raise InputGivenUp(f"sent an answer of more than {self.limit} bytes (setting max_message_bytes)")


@dataclass(slots=True)
class _Skipped:
    """A line that is longer than the bound, as far as it has come."""

    start: bytes
    end: bytes = b""
    size: int = 0
    refused: bool = False


class _Held:
    """Lines of a server that may be one JSON text together: printed over several lines, or with a line end in a text
    that should have been escaped."""

    def __init__(self) -> None:
        self.lines: list[tuple[bytes, MalformedMessage]] = []
        self.hopeless = False
        """It can be no JSON, whatever follows, or it is too long to go on trying."""
        self._size = 0
        self._parsed = 0

    def __bool__(self) -> bool:
        return bool(self.lines)

    def add(self, line: bytes, exc: MalformedMessage, limit: int) -> None:
        self.lines.append((line, exc))
        self._size += len(line) + 1
        self.hopeless = self._size > limit

    def too_large(self, limit: int) -> MalformedMessage | None:
        """The refusal of what the lines would be together, if it has more bytes than the limit."""
        if self._size <= limit:
            return None
        start = b"\n".join(line[:KEPT] for line, _ in self.lines[:KEPT])[:KEPT]
        return too_large(start, b"", limit)

    def joined(self) -> "list[Message | MalformedMessage] | None":
        """The messages that the lines are together; None if they are none yet."""
        if len(self.lines) < 2 or not self.lines[-1][0].rstrip().endswith((b"}", b"]")):
            return None
        self._parsed += self._size
        read = parse_from_server(b"\n".join(line for line, _ in self.lines))
        if not (isinstance(read[0], MalformedMessage) and read[0].code == PARSE_ERROR):
            return read
        self.hopeless |= self._parsed > JOINED_BYTES or not read[0].incomplete
        return None


class LineLost(anyio.BrokenResourceError):
    """A line could not be written: nobody reads. `begun` is whether a part of it was written."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class LineWriter:
    """Messages written to a sink of bytes, whole and one after another.

    Args:
        stall_s: how long the other side may keep a line that was begun from being finished; then it is given up and
            the sink closed. None waits for as long as it takes.
    """

    def __init__(self, sink: Sink, *, stall_s: float = math.inf) -> None:
        self._sink = sink
        self._stall_s = stall_s
        self._lock = anyio.Lock()
        self._queue: deque[_Line] = deque()
        """Lines that could not be written at once, in order; the first may have been begun."""
        self.unsent = 0
        """Bytes of the lines that wait for the other side to read on."""
        self._moved = anyio.Event()

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._sink.position

    @property
    def received(self) -> int:
        """Bytes that the other side has read, or may have."""
        return self._sink.position - self._sink.unread()

    def post(self, message: Message, lost: Callable[[bool], None] | None = None) -> bool:
        """Write one message at once if the sink takes it. Else it has its place, False, and `flush` must be awaited by
        somebody.

        Args:
            lost: called if it had its place and could not be written after all, with whether a part of it was.

        Raises:
            LineLost: nobody reads any more.
        """
        line = self._enqueue(message)
        if line is not None:
            line.on_lost = lost
        return line is None

    def _enqueue(self, message: Message) -> "_Line | None":
        rest = memoryview(format_message(message))
        begun = False
        start: int | None = None
        if not self._queue:
            start = self._sink.position
            try:
                sent = self._sink.send_now(rest)
            except anyio.BrokenResourceError:
                raise LineLost(begun=False) from None
            if sent == len(rest):
                return None
            rest, begun = rest[sent:], sent > 0
        line = _Line(rest, begun, start)
        self._queue.append(line)
        self.unsent += len(rest)
        return line

    async def moved(self) -> None:
        """Return when one line less waits, or there is nobody any more who would read it."""
        if self._queue:
            await self._moved.wait()

    async def send(self, message: Message) -> None:
        """Write one message.

        Raises:
            LineLost: nobody reads any more.
        """
        line = self._enqueue(message)
        if line is None:
            return
        # Half a line followed by another's would end the connection for everybody, so a line that was begun is
        # finished even if its sender is cancelled; the owner of the pipe ends that wait by closing it.
        try:
            with anyio.CancelScope(shield=line.begun):
                await self._lock.acquire()
            await self._write_until(lambda: line.over)
        except anyio.BrokenResourceError:
            pass  # with all that waited this line is lost, too
        finally:
            if not (line.over or line.begun):  # its sender was cancelled before its turn
                self._queue.remove(line)
                self.unsent -= len(line.rest)
        if line.lost:
            raise LineLost(begun=line.reached(self._sink.position))

    async def flush(self) -> None:
        """Write all lines that wait.

        Raises:
            anyio.BrokenResourceError: nobody reads any more.
        """
        with anyio.CancelScope(shield=bool(self._queue) and self._queue[0].begun):
            await self._lock.acquire()
        await self._write_until(lambda: False)

    async def _write_until(self, enough: Callable[[], bool]) -> None:
        """Write what waits, in order, and give the lock back."""
        try:
            while self._queue and not enough():
                first = self._queue[0]
                first.begun = True
                if first.start is None:
                    first.start = self._sink.position
                await self._write(first)
                first.over = True
                self._queue.popleft()
                self.unsent -= len(first.rest)
                self._stir()
        except anyio.BrokenResourceError:
            lost, self._queue = self._queue, deque()
            self.unsent = 0
            for line in lost:
                line.over = line.lost = True
            self._stir()
            for line in lost:
                if line.on_lost is not None:
                    line.on_lost(line.reached(self._sink.position))
            raise
        finally:
            self._lock.release()

    async def _write(self, line: "_Line") -> None:
        """Write the rest of a line. A reader that is slow is waited for, one that reads nothing is not."""
        while line.rest:
            before = self._sink.position
            with anyio.move_on_after(self._stall_s, shield=True) as writing:
                await self._sink.send(line.rest)
            if not writing.cancelled_caught:
                return
            written = self._sink.position - before
            if not 0 < written < len(line.rest):
                self._sink.close()
                raise anyio.BrokenResourceError
            line.rest = line.rest[written:]
            self.unsent -= written

    def _stir(self) -> None:
        moved, self._moved = self._moved, anyio.Event()
        moved.set()

    async def finish(self) -> None:
        """Give what waits a moment to be written, then give it up: the other side may have stopped reading."""
        with anyio.move_on_after(FINISH_S, shield=True):
            while self._queue:
                await self.moved()
            return
        self._sink.close()


@dataclass(slots=True, eq=False)
class _Line:
    """A line that waits for the sink."""

    rest: memoryview
    begun: bool
    """Its turn came: it is finished before another line, even if its sender is cancelled."""
    start: int | None
    """How much had been written to the sink before its first byte; None until its turn."""
    over: bool = False
    lost: bool = False
    """Over, and not written."""
    on_lost: Callable[[bool], None] | None = None

    def reached(self, written: int) -> bool:
        """Whether a part of it is among the bytes that were written."""
        return self.start is not None and written > self.start


class _Fd:
    """A non-blocking descriptor that can be closed under whoever waits for it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        mode = os.fstat(fd).st_mode
        self._waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)
        if self._waits:
            os.set_blocking(fd, False)

    def close(self) -> None:
        # Set aside before it is closed: the number may belong to another file a moment later.
        fd, self.fd = self.fd, -1
        if fd >= 0:
            anyio.notify_closing(fd)
            os.close(fd)


class _Loop(Protocol):
    """What an event loop may offer beside anyio's own: asyncio's and uvloop's do, trio's does not."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> object: ...

    def remove_reader(self, fd: int) -> object: ...


class FdSource(_Fd):
    """A descriptor to read from.

    Where the event loop can keep a callback for a descriptor, one is there for as long as data is read as fast as it
    comes: `anyio.wait_readable` tells the kernel twice for every read, and costs a turn of the loop more (together a
    sixth of what the bridge spends on a call, measured).
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._loop: _Loop | None = None
        self._asked = False
        self._listening = False
        self._data: deque[bytes] = deque()
        self._come: anyio.Event | None = None
        self._nudged = False
        self.taker: Callable[[bytes], bool] | None = None
        """Takes data as it is read, while somebody waits for some; False to have them go on."""

    async def receive(self) -> bytes:
        if not self._data:
            await self._wait()
        if self._nudged:
            self._nudged = False
            return b""
        data = self._data.popleft()
        if not data:
            self._data.append(data)  # the end stays the end
            raise anyio.EndOfStream
        return data

    async def _wait(self) -> None:
        while not (self._data or self._nudged):
            if self.fd < 0:
                raise anyio.ClosedResourceError
            if not self._waits:  # a file, which is always ready and cannot be waited on
                await anyio.lowlevel.checkpoint()
                self._read()
            elif (loop := self._keeps()) is None:
                await anyio.wait_readable(self.fd)
                self._read()
            else:
                if not self._listening:
                    self._listening = True
                    loop.add_reader(self.fd, self._readable)
                self._come = anyio.Event()
                try:
                    await self._come.wait()
                finally:
                    self._come = None

    def _keeps(self) -> _Loop | None:
        if not self._asked:
            self._asked = True
            native: Any = anyio.lowlevel.current_token().native_token
            # Windows' loop has the method, too, and it raises; there pipes are read in other ways.
            self._loop = native if hasattr(native, "add_reader") and sys.platform != "win32" else None
        return self._loop

    def _readable(self) -> None:
        if self._data:  # nobody takes it: let the pipe fill up
            self._deafen()
            return
        self._read()
        if not self._data:
            return
        if not self._data[0]:
            self._deafen()
        if self._come is not None:
            if self.taker is not None and self._data[0]:
                if self.taker(self._data.popleft()):
                    return
                self._nudged = True
            self._come.set()

    def _read(self) -> None:
        try:
            self._data.append(os.read(self.fd, _CHUNK))
        except BlockingIOError:
            pass
        except OSError:  # the other side broke it off
            self._data.append(b"")

    def _deafen(self) -> None:
        if self._listening and self._loop is not None:
            self._listening = False
            self._loop.remove_reader(self.fd)

    def close(self) -> None:
        self._deafen()
        super().close()
        if self._come is not None:
            self._come.set()


class FdSink(_Fd):
    """A descriptor to write to."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.position = 0

    def unread(self) -> int:
        """What lies in a pipe that has no reader any more, which Linux tells: not one process can have it."""
        if sys.platform != "linux" or self.fd < 0 or not stat.S_ISFIFO(os.fstat(self.fd).st_mode):
            return 0
        import fcntl
        import select
        import termios

        poll = select.poll()
        poll.register(self.fd, 0)
        if not any(event & select.POLLERR for _, event in poll.poll(0)):
            return 0
        return int.from_bytes(fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)), sys.byteorder)

    def send_now(self, data: bytes | memoryview) -> int:
        try:
            count = os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise anyio.BrokenResourceError from exc
        self.position += count
        return count

    async def send(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self.send_now(view) :]
                if view:
                    await anyio.wait_writable(self.fd)
        except (anyio.ClosedResourceError, ValueError) as exc:
            raise anyio.BrokenResourceError from exc


class StreamSink:
    """A byte stream to write to, where there is no descriptor to wait on."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]], close: Callable[[], Awaitable[None]]) -> None:
        self._send = send
        self._closed = False
        self.position = 0
        self.aclose = close

    def unread(self) -> int:
        return 0

    def send_now(self, data: bytes | memoryview) -> int:
        return 0

    async def send(self, data: bytes | memoryview) -> None:
        if self._closed:
            raise anyio.BrokenResourceError
        self.position += len(data)  # before: a part of it may be written though the rest fails
        try:
            await self._send(bytes(data))
        except (anyio.ClosedResourceError, OSError) as exc:
            raise anyio.BrokenResourceError from exc

    def close(self) -> None:
        self._closed = True
