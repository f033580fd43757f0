"""Server-sent events: an incremental decoder from bytes to events.

Pure. Owns the line endings, fields and size limits of `text/event-stream`. Event data stays bytes: each event holds one
JSON-RPC message, and the JSON parser reads bytes without a decoding step. Connections and resumption are left to the
transports.
"""

import re
from dataclasses import dataclass
from typing import Final

BOM: Final = b"\xef\xbb\xbf"
MAX_EVENT_BYTES: Final = 64 << 20
"""Default size limit of one event."""
MAX_RETRY_MS: Final = 3_600_000
"""Upper bound for `retry`; a larger value is reduced to it."""

_ID: Final = re.compile(rb"([^\x00-\x20\x7f]+([ \t]+[^\x00-\x20\x7f]+)*)?")
"""Event IDs that fit into a header. All others are ignored, as the specification requires for IDs with NUL."""
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


class EventTooLarge(ValueError):
    """An event exceeds the decoder's size limit; the rest of the stream cannot be decoded."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"sent an event of more than {limit} bytes (setting max_message_bytes)")


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event. Events without data are not dispatched."""

    kind: str
    data: bytes


class EventDecoder:
    """Decodes events from chunks of bytes with arbitrary boundaries.

    Args:
        limit: size limit of one event in bytes.

    Attributes:
        last_id: ID of the last complete event that has one, for `Last-Event-ID`. Events without data count: servers
            send them so that a stream can be resumed before its first message.
        retry_ms: reconnection delay that the server requested last, in milliseconds.
    """

    def __init__(self, *, limit: int = MAX_EVENT_BYTES) -> None:
        self.last_id: str | None = None
        self.retry_ms: int | None = None
        self._limit = limit
        self._rest: list[bytes] = []
        """Chunks of an unfinished line, joined once at its end: joining at every chunk is quadratic."""
        self._size = 0
        self._after_cr = False
        self._started = False
        self._kind = ""
        self._data: list[bytes] = []
        self._id: str | None = None

    def resumed(self) -> "EventDecoder":
        """Return a decoder for the stream that resumes this one, with its last ID and retry delay."""
        decoder = EventDecoder(limit=self._limit)
        decoder.last_id, decoder.retry_ms = self.last_id, self.retry_ms
        return decoder

    def feed(self, chunk: bytes) -> list[Event]:
        """Decode one chunk and return the events that it completes.

        Raises:
            EventTooLarge: an event exceeds the size limit.
        """
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._size += len(chunk)
        if self._size > self._limit:
            raise EventTooLarge(self._limit)
        head, newline, tail = chunk.partition(b"\n")
        self._rest.append(head)
        events: list[Event] = []
        if newline:
            first = b"".join(self._rest)
            *lines, last = tail.split(b"\n")
            self._rest = [last] if last else []
            for line in (first, *lines):
                self._take_line(line, events)
        return events

    def _take_line(self, line: bytes, events: list[Event]) -> None:
        if not self._started:
            self._started = True
            line = line.removeprefix(BOM)
        if line:
            self._take_field(line)
            return
        if self._id is not None:
            # Only at the end of the event: one that was cut off has not been received.
            self.last_id, self._id = self._id or None, None
        if data := b"\n".join(self._data):
            events.append(Event(self._kind or "message", data))
        self._kind, self._data = "", []
        self._size = sum(map(len, self._rest))

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value)
            case b"event":
                self._kind = value.decode("utf-8", "replace")
            case b"id" if _ID.fullmatch(value):
                self._id = value.decode("utf-8", "replace")
            case b"retry" if value.isdigit() and len(value) < 10:
                self.retry_ms = min(int(value), MAX_RETRY_MS)
            case _:
                pass  # a comment or an unknown field


def looks_like_events(start: bytes) -> bool:
    """Return whether a body with another content type is an event stream, judged by its first bytes."""
    return start.removeprefix(BOM).lstrip().startswith(_FIELDS)
