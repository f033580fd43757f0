"""Messages between a host and the daemon, as far as the thin process has to understand them.

Owns splitting a stream into lines, of which long ones are passed on in pieces, and finding the kind and the ID of a
message, of a long one by its two ends. Pure. Standard library only. The meaning of messages is left to `conversation`.
"""

import json
import re
from collections.abc import Generator
from typing import Any, Final, NamedTuple, cast

WHOLE_BYTES: Final = 256 << 10
"""Lines up to this size are held until they are complete."""
EDGE_BYTES: Final = 4096
"""Bytes at each end of a longer line that are searched."""

REQUEST: Final = "request"
NOTIFICATION: Final = "notification"
RESULT: Final = "result"
ERROR: Final = "error"
OTHER: Final = "other"
"""No message, a batch, or a message whose kind is not among what was searched."""

Id = int | str


class Piece(NamedTuple):
    """A line, or a part of a long one, with its newline if it has been received."""

    data: bytes
    first: bool
    last: bool


class Message(NamedTuple):
    """Facts of a message.

    Attributes:
        id: None if it has none, or it is not among what was searched.
        params: those of a request or notification that was parsed.
    """

    kind: str
    id: Id | None = None
    method: str = ""
    params: dict[str, Any] | None = None

    @property
    def tool(self) -> str:
        """The tool of a `tools/call`; empty if it is none, or not known."""
        name = (self.params or {}).get("name") if self.method == "tools/call" else None
        return name if isinstance(name, str) else ""


class Lines:
    """Splits received data into lines, and long lines into pieces."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        self._size = 0
        self.inside = False
        """True between the first and the last piece of a long line."""

    def feed(self, data: bytes) -> Generator[Piece]:
        """Yield what can be passed on now."""
        start = 0
        while start < len(data):
            end = data.find(b"\n", start) + 1
            piece = data[start : end or len(data)]
            start += len(piece)
            if self.inside:
                self.inside = not end
                yield Piece(piece, first=False, last=bool(end))
                continue
            self._begun.append(piece)
            self._size += len(piece)
            if end or self._size > WHOLE_BYTES:
                held = self._begun[0] if len(self._begun) == 1 else b"".join(self._begun)
                self._begun, self._size, self.inside = [], 0, not end
                yield Piece(held, first=True, last=bool(end))

    def rest(self) -> bytes:
        """Return a last line that has no newline."""
        held, self._begun, self._size = b"".join(self._begun), [], 0
        return held


class Edges:
    """Both ends of a long line, of which pieces are added as they arrive."""

    def __init__(self, head: bytes) -> None:
        self.head = head[:EDGE_BYTES]
        self._tail = head[-EDGE_BYTES:]

    def add(self, data: bytes) -> None:
        """Add the next piece."""
        self._tail = (self._tail + data)[-EDGE_BYTES:]

    def message(self) -> Message:
        """Return the facts of the message, once it is complete."""
        return long_message(self.head, self._tail)


_WRITTEN: Final = re.compile(
    rb'\{"jsonrpc":"2\.0",(?:"id":(-?[0-9]+|null|"(?:[^"\\]|\\.)*"),)?"(result|error|method)":(?:"([^"\\]*)")?'
)
"""Beginning of each line that `jsonrpc.codec` writes."""
_KINDS: Final = {b"result": RESULT, b"error": ERROR}


def of_daemon(line: bytes) -> Message:
    """Return the facts of a message of the daemon, by its beginning."""
    found = _WRITTEN.match(line)
    if found is None:
        return Message(OTHER)
    written, key, method = found.groups()
    message_id = None if written is None else _id(json.loads(written))
    if key == b"method":
        return Message(NOTIFICATION if written is None else REQUEST, message_id, (method or b"").decode())
    return Message(_KINDS[key], message_id)


def of_host(line: bytes) -> Message:
    """Return the facts of a message of the host, whose keys may have any order."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return Message(OTHER)
    if not isinstance(value, dict):
        return Message(OTHER)
    message = cast("dict[str, Any]", value)
    message_id, method, params = _id(message.get("id")), message.get("method"), message.get("params")
    if isinstance(method, str):
        kind = NOTIFICATION if "id" not in message else REQUEST if message_id is not None else OTHER
        return Message(kind, message_id, method, cast("dict[str, Any]", params) if isinstance(params, dict) else {})
    if message_id is None or not ("result" in message or "error" in message):
        return Message(OTHER)
    return Message(RESULT if "result" in message else ERROR, message_id)


def _id(value: Any) -> Id | None:
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


_OPEN: Final = re.compile(rb"\s*\{")
_MEMBER: Final = re.compile(
    rb'\s*"([^"\\]{1,50}+)"\s*:\s*(?:("(?:[^"\\]|\\.){0,300}+"|[-+.0-9a-zA-Z]{1,40}+)\s*([,}])|)', re.DOTALL
)
_VERSION: Final = rb'"jsonrpc"\s*:\s*"2\.0"\s*'
_ID: Final = rb'"id"\s*:\s*(-?[0-9]{1,18}|"(?:[^"\\]|\\.){0,200}")\s*'
_END: Final = re.compile(
    rb"[\]}]\s*,\s*(?:" + _VERSION + rb",\s*" + _ID + rb"|" + _ID + rb",\s*" + _VERSION + rb"|" + _ID + rb")\}\s*\Z"
)
"""End of a message whose ID follows its parameters. Not an ID alone at the end of the parameters, which ends with two
brackets."""


def long_message(head: bytes, tail: bytes) -> Message:
    """Return the facts of a message of which only its two ends are given.

    Serializers write short members before or after the long one: the ID and the method are looked for there.
    """
    members: dict[bytes, bytes] = {}
    long = b""
    found = _OPEN.match(head)
    while found is not None and (found := _MEMBER.match(head, found.end())) is not None:
        name, value, mark = found.groups()
        if value is None:
            long = name
            break
        members[name] = value
        if mark == b"}":
            break
    written = members.get(b"id")
    if written is None and (end := _END.search(tail)) is not None:
        written = next(filter(None, end.groups()))
    try:
        message_id = None if written is None else _id(json.loads(written))
        method = _text(members.get(b"method"))
    except ValueError:
        return Message(OTHER)
    if method or long == b"params":
        return Message(NOTIFICATION if written is None else REQUEST, message_id, method)
    if long in (b"result", b"error") and message_id is not None:
        return Message(_KINDS[long], message_id)
    return Message(OTHER, message_id)


def _text(written: bytes | None) -> str:
    value: Any = "" if written is None else json.loads(written)
    return value if isinstance(value, str) else ""
