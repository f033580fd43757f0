"""Bounds on the number of values in a JSON text, checked before it is parsed.

Pure. Creating a Python object takes 20 to 500 ns on the event loop, whatever its bytes: 60 MB of `[],` are 20 million
and took 10 s. Strings may be large; only values are counted, and only where the text is long enough for many. Does not
parse.
"""

from collections.abc import Iterator
from typing import Final

from asyncfc_mcp.slices import Slices, at_once

MOST_FROM_CLIENTS: Final = 250_000
"""Maximum values in a message of a client. A call with this many numbers (5 MB) takes 60 to 100 ms on the event loop in
total, and one with this many distinct keys twice that. A worker thread does not help: the parser holds the GIL."""
MOST_FROM_SERVERS: Final = 1_000_000
"""Maximum values in a message of a server: results may be tables of a database."""

_SLICE: Final = 1 << 18


def has_more_values(data: bytes, most: int) -> bool:
    """Return true where a JSON text has more than `most` values; a key and its value count as one."""
    return len(data) > 2 * most and at_once(counting_values(data, most))


def counting_values(data: bytes, most: int) -> Slices[bool]:
    """Like `has_more_values`, in slices."""
    if len(data) <= 2 * most:
        return False
    found = 0
    for start in range(0, len(data), _SLICE):
        found += _marks(data[start : start + _SLICE])
        yield
    if found <= most:
        return False
    # Commas and brackets may also be within strings, such as CSV.
    found = 0
    for piece in Nesting().outside_strings(data):
        found += _marks(piece)
        if found > most:
            return True
        yield
    return False


class Nesting:
    """Counts open brackets in a JSON text that is received in pieces; brackets within strings are ignored."""

    __slots__ = ("_inside", "open")

    def __init__(self) -> None:
        self.open = 0
        self._inside = 0

    def add(self, data: bytes) -> int:
        """Process a piece; return the number of open brackets after it, negative where too many were closed."""
        for piece in self.outside_strings(data):
            self.open += piece.count(b"[") + piece.count(b"{") - piece.count(b"]") - piece.count(b"}")
        return self.open

    def outside_strings(self, data: bytes) -> Iterator[bytes]:
        """Yield a piece without the content of strings, slice by slice."""
        start = 0
        while start < len(data):
            end = start + _SLICE
            while data[end - 1 : end] == b"\\":
                end += 1
            pieces = data[start:end].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
            yield b"".join(pieces[self._inside :: 2])
            self._inside ^= len(pieces) - 1 & 1
            start = end


def _marks(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")
