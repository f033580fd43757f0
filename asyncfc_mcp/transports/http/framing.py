"""HTTP/1.1 framing, read strictly: an h11 connection that refuses messages which two parsers may read differently.

Owns the rules that h11 does not enforce: line ends, folded lines, repeated headers, versions, and the size of heads and
chunk extensions. Leaves sockets and time limits to `uvicorn_protocol` and `connections`. A proxy in front of the bridge
may parse such a message differently than h11 and then disagree on where the next request begins (request smuggling); no
client sends any of it. Two of the rules need the received bytes, which h11 normalizes before it reports a request, so
its receive buffer is extended. Rejected: a separate scan of the head, since it would be a second parser that has to
agree with h11's.
"""

import re
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import h11
from h11._receivebuffer import ReceiveBuffer  # pyright: ignore[reportPrivateUsage]

if TYPE_CHECKING:
    from collections.abc import Sequence

SINGLE: Final = frozenset(
    b"authorization content-length content-type host last-event-id mcp-method mcp-name mcp-protocol-version "
    b"mcp-session-id origin".split()
)
"""Headers of which two parsers may use different occurrences."""
MAX_HEAD_BYTES: Final = 64 << 10
"""Bound on a head or trailer section; h11 applies its own bound only to incomplete ones."""
MAX_HEADERS: Final = 256
"""Bound on the lines of a head or trailer section: h11 takes microseconds for each."""
MAX_EXTENSION_BYTES: Final = 16 << 10
"""Bound on the chunk extensions of a body, which are ignored and not counted as its bytes."""


# On a head whose lines end with LF: a loop over its lines costs several times as much.
_FOLDED: Final = re.compile(rb"^[ \t]", re.MULTILINE)
_LENGTHS: Final = re.compile(rb"^content-length:[^\n]*", re.MULTILINE | re.IGNORECASE)


class StrictConnection(h11.Connection):
    """The server side of a connection.

    Args:
        max_incomplete_event_size: see `h11.Connection`.
    """

    def __init__(self, max_incomplete_event_size: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size)
        self._strict_buffer = _StrictBuffer()
        self._receive_buffer = cast("Any", self._strict_buffer)

    @property
    def fault(self) -> str | None:
        """Reason of the last refusal; None where it was h11's own."""
        return self._strict_buffer.fault

    def next_event(self) -> Any:
        """See `h11.Connection`.

        Raises:
            h11.RemoteProtocolError: also for messages that this module refuses.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._strict_buffer.extension_bytes = 0
            fault = fault_of(event.http_version, event.headers)
            if fault is not None:
                self._strict_buffer.fault = fault
                raise h11.RemoteProtocolError(fault)
        return event


def fault_of(version: bytes, headers: "Sequence[tuple[bytes, bytes]]") -> str | None:
    """Return the reason to refuse a request that h11 has parsed; None to accept it. Header names are in lower case."""
    if version not in (b"1.1", b"1.0"):
        return "Only HTTP/1.1 and HTTP/1.0 are spoken here"
    names = [name for name, _ in headers]
    if len(set(names)) < len(names):
        for name in SINGLE.intersection(names):
            if names.count(name) > 1:
                return _twice(name)
    if b"transfer-encoding" in names:
        if b"content-length" in names:
            return "Content-Length and Transfer-Encoding exclude each other"
        if version == b"1.0":
            return "HTTP/1.0 has no Transfer-Encoding"
    return None


def _twice(name: bytes) -> str:
    return f"The header {name.decode()} must not be repeated"


class _StrictBuffer(ReceiveBuffer):
    """Receive buffer that checks the lines which h11 extracts."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: str | None = None
        self.extension_bytes = 0
        """Bytes of chunk extensions in the current body."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """Return a head or a trailer section without its line ends; None while it is incomplete."""
        size = len(self)
        lines = super().maybe_extract_lines()
        if lines is not None:
            self._check(lines, size - len(self))
        return lines

    def _check(self, lines: list[bytearray], taken: int) -> None:
        if taken != sum(map(len, lines)) + 2 * len(lines) + 2:
            self._refuse("Lines must end with CR LF")
        if taken > MAX_HEAD_BYTES or len(lines) > MAX_HEADERS:
            self._refuse("The head is too large")
        head = b"\n".join(lines)
        if _FOLDED.search(head):
            self._refuse("Headers must not be folded")
        lengths = _LENGTHS.findall(head)
        if len(lengths) > 1 or (lengths and b"," in lengths[0]):  # h11 merges equal ones
            self._refuse(_twice(b"content-length"))

    def maybe_extract_next_line(self) -> bytearray | None:
        """Return the line before a chunk; None while it is incomplete."""
        line = super().maybe_extract_next_line()
        if line is not None and b";" in line:
            self.extension_bytes += len(line)
            if self.extension_bytes > MAX_EXTENSION_BYTES:
                self._refuse("The chunk extensions are too large")
        return line

    def _refuse(self, fault: str) -> NoReturn:
        self.fault = fault
        raise h11.LocalProtocolError(fault)  # h11 turns it into a RemoteProtocolError
