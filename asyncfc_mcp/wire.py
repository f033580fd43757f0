"""Newline-delimited JSON over pipes: framing, parsing and writing, for both sides of the bridge.

The SDK's stdio transports hop a thread per line (server) or pass each message through memory streams and a pydantic
union (client); here a line is read once, parsed once and written once, and what it carries stays the plain value
that came off the wire. Refuses to know MCP, and who answers what: that is `peer`'s.
"""

import json
import math
import os
import stat
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, cast

import anyio
import anyio.lowlevel
from pydantic_core import from_json, to_json

from asyncfc_mcp.protocol import INVALID_REQUEST, PARSE_ERROR

_CHUNK: Final = 64 * 1024
"""What a pipe holds. A larger buffer would be mapped for every read and cost more than all the rest of it."""
FINISH_S: Final = 2.0
"""At the end of a connection, how long a line that was begun may take to be written."""

Message = dict[str, Any]
"""One JSON-RPC message."""


class MalformedMessage(ValueError):
    """A line that is not one JSON-RPC message; `code` is the JSON-RPC error for it.

    Attributes:
        is_answer: it is an answer as far as it is anything. Answers are not answered: its ID is one of ours, and an
            error with that ID would reach whatever the other side has asked under the same number.
    """

    def __init__(
        self, code: int, problem: str, request_id: int | str | None = None, *, is_answer: bool = False
    ) -> None:
        super().__init__(problem)
        self.code, self.request_id, self.is_answer = code, request_id, is_answer


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_decode: Final = json.JSONDecoder(parse_constant=_no_constant).decode
# pydantic's parser and writer take a third of the time of `json`'s (a small message: 3 µs for both, not 10; measured)
# and come with a package that is needed anyway. `json` does what they refuse.
# Made once: `json.dumps` with any argument makes an encoder for every call, which costs as much as a small message.
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_encode_ascii: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def parse_message(line: bytes) -> Message:
    """One JSON-RPC message, its envelope checked: a request, a notification, a result or an error.

    Raises:
        MalformedMessage: it is not JSON, or not one JSON-RPC 2.0 message.
    """
    try:
        value: Any = from_json(line, allow_inf_nan=False)
    except ValueError:
        # What pydantic's parser refuses may still be JSON: lone surrogates, deep nesting.
        try:
            value = _decode(line.decode())
        except (ValueError, RecursionError) as exc:
            raise MalformedMessage(PARSE_ERROR, f"Parse error: {exc}") from None
    if not isinstance(value, dict):
        what = "a batch" if isinstance(value, list) else "not an object"
        raise MalformedMessage(INVALID_REQUEST, f"Invalid Request: {what}; send one JSON-RPC message at a time")
    message: Message = value  # pyright: ignore[reportUnknownVariableType]
    request_id = message.get("id")
    # `type` and not `isinstance`: True is an int, and no ID.
    shown = request_id if type(request_id) is int or type(request_id) is str else None
    problem = _envelope_problem(message, shown)
    if problem is not None:
        is_answer = "method" not in message and ("result" in message or "error" in message)
        what = "Invalid answer" if is_answer else "Invalid Request"
        raise MalformedMessage(INVALID_REQUEST, f"{what}: {problem}", shown, is_answer=is_answer)
    return message


def _envelope_problem(message: Message, request_id: int | str | None) -> str | None:
    if message.get("jsonrpc") != "2.0":
        return '"jsonrpc" must be "2.0"'
    if "method" in message:
        if not isinstance(message["method"], str):
            return "method must be a string"
        if not isinstance(message.get("params", {}), dict | None):
            return "params must be an object"
        if "id" in message and request_id is None:
            return "id must be a string or an integer"
    elif "result" in message:
        if request_id is None:
            return "a result needs the id of its request"
        if not isinstance(message["result"], dict):
            return "result must be an object"
    elif "error" in message:
        error = cast("dict[str, object]", message["error"])
        if not isinstance(error, dict) or type(error.get("code")) is not int:
            return "malformed error"
    else:
        return "neither a request, a notification nor a response"
    return None


def format_message(message: Message) -> bytes:
    """The line for a message, newline included."""
    try:
        line = to_json(message, inf_nan_mode="constants")
        # Infinity is no JSON; a text that has the word takes the long way for nothing, and that is all.
        if b"Infinity" not in line and b"NaN" not in line:
            return line + b"\n"
    except (ValueError, RecursionError):
        pass
    try:
        return _encode(message).encode() + b"\n"
    except (ValueError, RecursionError):
        return _encode_oddity(message).encode() + b"\n"


def _encode_oddity(value: Any) -> str:
    """JSON of what can be read and not written by the encoder: lone surrogates, which only the escaped form can carry;
    numbers that became infinite, for which JSON has no word; and what was read close to the limit of recursion."""
    texts: list[str] = []
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, tuple):  # none comes from JSON: text that is ready
            texts += cast("tuple[str, ...]", item)
        elif isinstance(item, dict):
            entries = list(cast("dict[str, Any]", item).items())
            todo.append(("}",))
            for number in range(len(entries) - 1, -1, -1):
                key, inner = entries[number]
                todo += (inner, ("," if number else "", _encode_ascii(key), ":"))
            texts.append("{")
        elif isinstance(item, list):
            elements = cast("list[Any]", item)
            todo.append(("]",))
            for number in range(len(elements) - 1, -1, -1):
                todo += (elements[number], ("," if number else "",))
            texts.append("[")
        elif isinstance(item, float) and math.isinf(item):
            texts.append("1e999" if item > 0 else "-1e999")
        else:
            texts.append(_encode_ascii(item))
    return "".join(texts)


def carried(value: Any) -> Any:
    """The value with U+FFFD in place of what UTF-8 cannot carry (lone surrogates); the very same if there is nothing.

    For lists: many readers refuse a message with such text as a whole, and in a list everybody's entries go with it.
    """
    try:
        to_json(value)
    except ValueError:
        return json.loads(_encode(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return value


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

    def send_now(self, data: bytes | memoryview) -> int:
        """Write what can be written without waiting; how many bytes that were."""
        ...

    async def send(self, data: bytes | memoryview) -> None:
        """Write all; raises `anyio.BrokenResourceError` if nobody reads any more."""
        ...

    def close(self) -> None:
        """Give up: whoever writes finds it broken."""
        ...


class LineReader:
    """Messages read from a source of bytes, one per line.

    Args:
        on_malformed: told of every line that is no message. Reading goes on after it: one bad line is not the end of
            a connection. An answer that is none is read as an error, since somebody waits for it.
    """

    def __init__(self, source: Source, on_malformed: Callable[[MalformedMessage, bytes], Awaitable[None]]) -> None:
        self._source = source
        self._on_malformed = on_malformed
        self._lines: deque[bytes] = deque()
        self._rest: list[bytes] = []
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
        return taker() and not self._lines

    def receive_nowait(self) -> Message | None:
        """The next message, if it is there already and is one."""
        while self._lines and not self._lines[0].strip():
            self._lines.popleft()
        if not self._lines:
            return None
        try:
            message = parse_message(self._lines[0])
        except MalformedMessage:
            return None  # `receive` comes to it, and says so
        self._lines.popleft()
        return message

    async def receive(self) -> Message:
        """The next message.

        Raises:
            anyio.EndOfStream: the source ended.
        """
        while True:
            while self._lines:
                line = self._lines.popleft()
                if not line.strip():
                    continue
                try:
                    return parse_message(line)
                except MalformedMessage as exc:
                    await self._on_malformed(exc, line)
                    if exc.is_answer and exc.request_id is not None:
                        return {
                            "jsonrpc": "2.0",
                            "id": exc.request_id,
                            "error": {"code": exc.code, "message": str(exc)},
                        }
            if self._ended:
                raise anyio.EndOfStream
            try:
                chunk = await self._source.receive()
            except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
                # A last line without its newline is still a line.
                self._ended = True
                if self._rest:
                    self._lines.append(b"".join(self._rest))
                    self._rest.clear()
                continue
            self._feed(chunk)

    def _feed(self, chunk: bytes) -> None:
        head, newline, tail = chunk.partition(b"\n")
        self._rest.append(head)
        if newline:
            # Pieces of a long line are joined once, when its end is there: joining at every chunk is quadratic.
            self._lines.append(b"".join(self._rest))
            *lines, last = tail.split(b"\n")
            self._lines.extend(lines)
            self._rest = [last] if last else []


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
                with anyio.move_on_after(self._stall_s, shield=True) as writing:
                    await self._sink.send(first.rest)
                if writing.cancelled_caught:
                    self._sink.close()
                    raise anyio.BrokenResourceError
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


def approximate_size(value: Any) -> int:
    """Bytes of `value` as JSON, roughly, without writing it: escapes and long numbers are taken for short."""
    total = 0
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        kind = type(item)  # pyright: ignore[reportUnknownVariableType]
        if kind is str:
            total += 2 + (len(item) if item.isascii() else len(item.encode("utf-8", "surrogatepass")))
        elif kind is dict:
            total += 2 + 4 * len(item) + len("".join(item))
            stack += item.values()
        elif kind is list:
            total += 2 + len(item)
            stack += item
        else:
            total += 8 if kind is float else 4
    return total
