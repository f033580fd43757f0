"""JSON texts of a server that span several lines: printed with indentation, or with a raw line end inside a string.

Owns the lines that may form one text, and the decisions when they do, when they cannot, and when they are too many.
Pure. Leaves reading lines, timeouts and reports to `line_reader`.
"""

from typing import Final

from asyncfc_mcp.jsonrpc.channel import InputGivenUp
from asyncfc_mcp.jsonrpc.codec import EDGE_BYTES, MalformedMessage, Message, Oversized, oversized, parse_from_server
from asyncfc_mcp.protocol import PARSE_ERROR
from asyncfc_mcp.values.bounds import Nesting

MAX_REPARSED_BYTES: Final = 128 << 20
"""Bound on the bytes that are parsed for one text in all: every attempt parses the whole of it again."""
SKIP_FACTOR: Final = 16
"""A message beyond the bound is skipped up to so many times the bound; then its connection is given up."""


def too_many_bytes(limit: int) -> str:
    """Return the reason for which a message is refused, as a noun phrase."""
    return f"more than {limit} bytes (setting max_message_bytes)"


def too_many_to_skip(limit: int) -> InputGivenUp:
    """Return the end of an input whose message is too long even to be skipped."""
    return InputGivenUp(f"sent a message of more than {SKIP_FACTOR * limit} bytes (max_message_bytes)")


class MultilineText:
    """Lines that may form one JSON text together; false while there are none."""

    def __init__(self) -> None:
        self.lines: list[tuple[bytes, MalformedMessage]] = []
        self.unparsable = False
        """True if no further line can make it JSON."""
        self._size = 0
        self._parsed = 0
        self._problem: MalformedMessage | None = None
        self._nesting = Nesting()
        self.discarding = False
        """True once it was refused: the rest of it is skipped."""

    def __bool__(self) -> bool:
        return self._size > 0

    def add(self, line: bytes, exc: MalformedMessage) -> None:
        """Append a line, with the error that it is by itself."""
        self.skip(line)
        if not self.discarding:
            if exc.ends is None:
                self._problem = self._problem or exc
                exc = self._problem  # one for all lines: there may be a line for every few bytes
            self.lines.append((line, exc))

    def skip(self, lines: bytes) -> None:
        """Count lines that are not kept."""
        self._size += len(lines) + 1
        self._nesting.add(lines)

    def discard(self) -> None:
        """Drop all lines, and those that are still to arrive: the text was refused."""
        self.discarding = True
        self.lines.clear()

    @property
    def discarded(self) -> bool:
        """True once all lines of a refused text have arrived."""
        return self.discarding and self._nesting.open <= 0

    def oversized(self, limit: int) -> Oversized | None:
        """Return the refusal of the text, once it has more bytes than the limit.

        Raises:
            InputGivenUp: it has so many more that skipping the rest is not worth it.
        """
        if self.discarding and self._size > SKIP_FACTOR * limit:
            raise too_many_to_skip(limit)
        if self.discarding or self._size <= limit:
            return None
        start = b"\n".join(line[:EDGE_BYTES] for line, _ in self.lines[:EDGE_BYTES])[:EDGE_BYTES]
        return oversized(start, b"", too_many_bytes(limit))

    def parse(self) -> list[Message | MalformedMessage] | None:
        """Return the messages of the text; None while it is incomplete."""
        if len(self.lines) < 2 or self._nesting.open > 0 or not self.lines[-1][0].rstrip().endswith((b"}", b"]")):
            return None
        self._parsed += self._size
        parsed = parse_from_server(b"\n".join(line for line, _ in self.lines))
        if not (isinstance(parsed[0], MalformedMessage) and parsed[0].code == PARSE_ERROR):
            return parsed
        self.unparsable |= self._parsed > MAX_REPARSED_BYTES or not parsed[0].incomplete
        return None
