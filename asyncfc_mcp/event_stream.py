"""Server-sent events: an incremental decoder from bytes to events.

Pure. Owns the line endings, the fields and the bounds of `text/event-stream`. Data stay bytes: each is one JSON-RPC
message, which its parser reads without decoding it to text first. Leaves connections and resumption to its users.
"""

import re
from dataclasses import dataclass
from typing import Final

BOM: Final = b"\xef\xbb\xbf"
MAX_EVENT_BYTES: Final = 64 << 20
"""Bound on one event, where no setting says another."""
MAX_RETRY_MS: Final = 3_600_000
"""Longest `retry` that is believed."""

_ID: Final = re.compile(rb"([^\x00-\x20\x7f]+([ \t]+[^\x00-\x20\x7f]+)*)?")
"""An event ID that a header can carry. Any other is ignored, as the specification has it for those with NUL."""
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


class EventTooLarge(ValueError):
    """An event exceeds the decoder's bound; the stream cannot be read on."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"sent an event of more than {limit} bytes (setting max_message_bytes)")


@dataclass(frozen=True, slots=True)
class Event:
    """One event with data."""

    kind: str
    data: bytes


class EventDecoder:
    """Events from chunks of bytes, however they are cut.

    Attributes:
        last_id: the ID of the last complete event that has one, for `Last-Event-ID`. An event without data counts:
            servers send it so that a stream can be resumed before its first message.
        retry_ms: the pause before reconnecting that the server asked for last.
    """

    def __init__(self, *, limit: int = MAX_EVENT_BYTES) -> None:
        self.last_id: str | None = None
        self.retry_ms: int | None = None
        self._limit = limit
        self._rest: list[bytes] = []
        """Pieces of a line whose end is missing, joined once: joining at every chunk is quadratic."""
        self._size = 0
        self._after_cr = False
        self._begun = False
        self._kind = ""
        self._data: list[bytes] = []
        self._id: str | None = None

    def again(self) -> "EventDecoder":
        """A decoder for the stream that resumes this one."""
        decoder = EventDecoder(limit=self._limit)
        decoder.last_id, decoder.retry_ms = self.last_id, self.retry_ms
        return decoder

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this chunk completes.

        Raises:
            EventTooLarge: the bound is exceeded.
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
                self._take(line, events)
        return events

    def _take(self, line: bytes, events: list[Event]) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(BOM)
        if line:
            self._field(line)
            return
        if self._id is not None:
            # Only now: an event that broke off half-way was not received.
            self.last_id, self._id = self._id or None, None
        if data := b"\n".join(self._data):
            events.append(Event(self._kind or "message", data))
        self._kind, self._data = "", []
        self._size = sum(map(len, self._rest))

    def _field(self, line: bytes) -> None:
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
                pass  # a comment, or a field that is not known


def looks_like_events(start: bytes) -> bool:
    """Whether a body with another content type is an event stream all the same, judged by its first bytes."""
    return start.removeprefix(BOM).lstrip().startswith(_FIELDS)
