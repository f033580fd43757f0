"""Newline-delimited JSON read from a byte stream.

Owns framing, the bound on one message, and the reports of lines that are no message.
The SDK's stdio transports change threads for every line (server) or pass each message through memory streams and a
pydantic union (client); this reader scans and parses a line once, and a message stays the plain value that was parsed.
Leaves waiting for a descriptor to `pipes`, and the meaning of a message to `peer`.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel

from asyncfc_mcp.jsonrpc.channel import InputGivenUp
from asyncfc_mcp.jsonrpc.codec import EDGE_BYTES, MalformedMessage, Message, Oversized, oversized, parse_message
from asyncfc_mcp.jsonrpc.large import read_from_server, read_message
from asyncfc_mcp.jsonrpc.multiline import SKIP_FACTOR, MultilineText, too_many_bytes, too_many_to_skip
from asyncfc_mcp.jsonrpc.pipes import FdSource, Source
from asyncfc_mcp.protocol import PARSE_ERROR
from asyncfc_mcp.values.bounds import MOST_FROM_CLIENTS, MOST_FROM_SERVERS
from asyncfc_mcp.values.large import LARGE_BYTES

_NO_OBJECT: Final = "Parse error: no JSON object"
_JSON_STARTS: Final = (b"{", b"[", b"\xef\xbb\xbf{", b"\xef\xbb\xbf[")
_MEMBER_OF_ALL: Final = b'"jsonrpc"'
SKIP_BATCH_LINES: Final = 1000
"""Lines of a refused message that are skipped in one step."""
NOISE_LINES: Final = 100
NOISE_PAUSE_S: Final = 0.002
"""Pause after so many consecutive lines that are no message, which slows down a server that writes only such lines."""
CONTINUATION_TIMEOUT_S: Final = 1.0
"""Time for which the beginning of a multi-line message waits for its next line."""
MAX_MESSAGE_BYTES: Final = 64 << 20
"""Bound on one message where no setting overrides it."""
SKIP_STALL_S: Final = 5.0
"""A server that sends nothing for so long, in the middle of a message beyond the bound, is given up."""


class _OversizedLine(bytes):
    """Both ends of a line that has more bytes than the bound."""

    refusal: Oversized


class LineReader:
    """Messages read from a byte stream, one per line.

    Args:
        on_malformed: called with every line that is no message. Reading continues after it: one bad line does not end a
            connection. A malformed response is read as an error response, since its request waits for it.
        server: read as tolerant clients read servers: batches, messages over several lines (Go's SDK accepts both), and
            everything that `parse_from_server` accepts.
        begun: bytes of the stream that were read before.

    Attributes:
        limit: bound on the bytes of one message. A longer one is refused as soon as its kind and ID are known, and
            skipped; a response whose ID cannot be found ends the input, since any request may be waiting for it.
    """

    def __init__(
        self,
        source: Source,
        on_malformed: Callable[[MalformedMessage, bytes], Awaitable[None]],
        *,
        server: bool = False,
        begun: bytes = b"",
    ) -> None:
        self._source = source
        self._on_malformed = on_malformed
        self._server = server
        self._max_values = MOST_FROM_SERVERS if server else MOST_FROM_CLIENTS
        self._lines: deque[bytes] = deque()
        self.limit = MAX_MESSAGE_BYTES
        self._rest: list[bytes] = []
        """Pieces of the line that has no end yet."""
        self._size = 0
        """Bytes of that line."""
        self._skipping: _SkippedLine | None = None
        self.chunks = 0
        """Number of chunks received."""
        self._ready: deque[Message] = deque()
        """Messages that are not exactly one line."""
        self._text = MultilineText()
        self._ended = False
        if begun:
            self._feed(begun)

    def set_consumer(self, consumer: Callable[[], bool] | None) -> None:
        """Register a callback that takes messages with `receive_nowait` when lines arrive while `receive` waits.

        If it returns False, `receive` returns with the messages that are left. None removes it. It saves waking a task
        for every line, and is called only where the source supports it.
        """
        if isinstance(self._source, FdSource):
            self._source.consumer = partial(self._consume, consumer) if consumer is not None else None

    def _consume(self, consumer: Callable[[], bool], data: bytes) -> bool:
        self._feed(data)
        return consumer() and not self._lines and self._skipping is None

    def receive_nowait(self) -> Message | None:
        """Return the next message; None if it has not arrived, or `receive` is needed to read it."""
        if self._ready:
            return self._ready.popleft()
        lines = self._lines
        if not lines or self._text:
            return None
        while not lines[0].strip():
            lines.popleft()
            if not lines:
                return None
        line = lines[0]
        if len(line) > self.limit or len(line) > LARGE_BYTES or isinstance(line, _OversizedLine):
            return None
        try:
            message = parse_message(line, self._max_values)
        except MalformedMessage:
            return None  # reported by `receive`
        lines.popleft()
        return message

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            anyio.EndOfStream: the source ended; `InputGivenUp` if reading on is not worth it.
        """
        noise = 0
        while True:
            while self._lines and not self._ready:
                if self._text.discarding and self._skip_lines():
                    await anyio.lowlevel.checkpoint()
                    continue
                noise += 1
                if noise > NOISE_LINES:
                    noise = 0
                    await anyio.sleep(0 if self._text else NOISE_PAUSE_S)
                line = self._lines.popleft()
                if isinstance(line, _OversizedLine) or len(line) > self.limit:
                    await self._refuse(line)
                elif self._server and (self._text or line.strip()):
                    await self._read_tolerantly(line)
                elif line.strip():
                    try:
                        return await read_message(line, self._max_values)
                    except MalformedMessage as exc:
                        await self._on_malformed(exc, line)
                        if exc.ends is not None:
                            return exc.ends
            if self._ready:
                return self._ready.popleft()
            if self._ended:
                if not self._text:
                    raise anyio.EndOfStream
                await self._reject_text()
                continue
            if self._skipping is not None and self._skipping.size > SKIP_FACTOR * self.limit:
                raise too_many_to_skip(self.limit)
            await self._receive_chunk()

    async def _receive_chunk(self) -> None:
        """Read from the source once. A multi-line message is rejected if its next line does not arrive in time.

        Raises:
            InputGivenUp: a message beyond the bound stalls.
        """
        skipping = self._server and self._skipping is not None
        timeout = SKIP_STALL_S if skipping else CONTINUATION_TIMEOUT_S if self._text else None
        chunk = b""
        try:
            with anyio.move_on_after(timeout) as waiting:
                chunk = await self._source.receive()
        except InputGivenUp:
            raise
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
            # A last line without its newline is still a line.
            self._ended = True
            if self._rest or self._skipping is not None:
                self._feed(b"\n")
            return
        if not waiting.cancelled_caught:
            self._feed(chunk)
        elif skipping:
            raise InputGivenUp(f"stopped in the midst of a message of more than {self.limit} bytes (max_message_bytes)")
        else:
            await self._reject_text()

    def _skip_lines(self) -> bool:
        """Skip many lines of a refused message in one step; return False if the next line may be a message itself."""
        skipped: list[bytes] = []
        while self._lines and len(skipped) < SKIP_BATCH_LINES:
            if isinstance(self._lines[0], _OversizedLine) or _MEMBER_OF_ALL in self._lines[0]:
                break
            skipped.append(self._lines.popleft())
        if skipped:
            self._text.skip(b"\n".join(skipped))
            self._text.oversized(self.limit)
            if self._text.discarded:
                self._text = MultilineText()
        return bool(skipped)

    async def _read_tolerantly(self, line: bytes) -> None:
        """Read a line of a server: messages, a part of one, or neither."""
        text, json_start = self._text, line.lstrip()[:4].startswith(_JSON_STARTS)
        if not (text or json_start):
            await self._report(MalformedMessage(PARSE_ERROR, _NO_OBJECT), line)
            return
        if not json_start:
            read = [MalformedMessage(PARSE_ERROR, _NO_OBJECT)]
        else:
            read = await read_from_server(line)
        if type(read[0]) is MalformedMessage and (text or read[0].code == PARSE_ERROR):
            # Not JSON by itself: noise, or the first or a later line of a multi-line message; or JSON that is no
            # message, as a part of an indented one.
            if not (text or (read[0].incomplete and line.startswith(_JSON_STARTS))):
                await self._report(read[0], line)
                return
            text.add(line, read[0])
            if (refusal := text.oversized(self.limit)) is not None:
                await self._report(refusal, text.lines[0][0])
                text.discard()
            read = text.parse()
            if text.discarded:
                self._text = MultilineText()
            elif read is None:
                if text.unparsable:
                    await self._reject_text()
                return
            self._text = MultilineText()
        elif text:
            await self._reject_text()
        for each in read or ():
            if isinstance(each, MalformedMessage):
                await self._report(each, line)
            else:
                self._ready.append(each)

    async def _report(self, exc: MalformedMessage, line: bytes) -> None:
        await self._on_malformed(exc, line)
        if exc.ends is not None:
            self._ready.append(exc.ends)
        elif self._server and isinstance(exc, Oversized) and exc.hides_an_answer:
            raise InputGivenUp(f"sent an answer of {exc.size}")

    async def _reject_text(self) -> None:
        """Report the lines of an unfinished multi-line text one by one: they are no message."""
        text, self._text = self._text, MultilineText()
        for number, (line, exc) in enumerate(text.lines, 1):
            await self._report(exc, line)
            if number % NOISE_LINES == 0:
                await anyio.sleep(NOISE_PAUSE_S)

    def _feed(self, chunk: bytes) -> None:
        """Split a chunk into lines."""
        self.chunks += 1
        size = len(chunk) - 1
        if not self._size and chunk.find(b"\n") == size <= self.limit and self._skipping is None:
            return self._lines.append(chunk[:-1])  # one whole line, as almost always
        head, newline, tail = chunk.partition(b"\n")
        self._size += len(head)
        if self._size > self.limit:
            self._skip(head, whole=bool(newline))
        else:
            self._rest.append(head)
        if newline:
            # The pieces of a long line are joined once, at its end: joining at every chunk is quadratic.
            if self._skipping is None:
                self._lines.append(b"".join(self._rest))
            self._skipping = None
            *lines, last = tail.split(b"\n")
            self._lines.extend(lines)
            self._rest, self._size = ([last] if last else []), len(last)

    def _skip(self, piece: bytes, *, whole: bool) -> None:
        """Drop a piece of a line beyond the bound, except the bytes that may contain the ID."""
        skipped = self._skipping
        if skipped is None:
            start = b""
            for each in (*self._rest, piece):
                start += each[: EDGE_BYTES - len(start)]
                if len(start) == EDGE_BYTES:
                    break
            skipped = self._skipping = _SkippedLine(start)
            self._rest.clear()
        skipped.size = self._size
        skipped.end = (skipped.end + piece)[-EDGE_BYTES:]
        if not skipped.refused and (
            refusal := oversized(skipped.start, skipped.end, too_many_bytes(self.limit), whole=whole)
        ):
            skipped.refused = True
            line = _OversizedLine(skipped.start + b"\n" + skipped.end)
            line.refusal = refusal
            self._lines.append(line)

    async def _refuse(self, line: bytes) -> None:
        """Refuse a message that has more bytes than the bound."""
        if self._text:
            await self._reject_text()
        if isinstance(line, _OversizedLine):
            refusal = line.refusal
        else:
            refusal = oversized(line[:EDGE_BYTES], line[-EDGE_BYTES:], too_many_bytes(self.limit))
        assert refusal is not None, "the line is complete"
        await self._report(refusal, line[:EDGE_BYTES])


@dataclass(slots=True)
class _SkippedLine:
    """The part of a line beyond the bound that has arrived."""

    start: bytes
    end: bytes = b""
    size: int = 0
    refused: bool = False
