"""JSON-RPC messages as bytes: parsing, serializing, and repairing the mistakes of servers.

Owns the JSON of both sides, the check of the envelope, and the tolerance for servers' mistakes, which is that of the
most tolerant client known for each (named in the tests): a server that works with one of them works behind the bridge.
Pure. Leaves the source of bytes to `line_reader`, and the request that a response belongs to to `peer`.
"""

import gc
import json
import re
from typing import Any, Final, cast

from pydantic_core import from_json

from asyncfc_mcp.protocol import INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR
from asyncfc_mcp.values.bounds import MOST_FROM_CLIENTS, MOST_FROM_SERVERS, Nesting, has_more_values
from asyncfc_mcp.values.text import encode, encode_escaped

Message = dict[str, Any]
"""One JSON-RPC message."""


class MalformedMessage(ValueError):
    """Bytes that are not one JSON-RPC message; `code` is the JSON-RPC error code for them.

    Attributes:
        is_answer: True for a malformed response. It must not be answered: its ID is one of ours, and an error with that
            ID would end a request of the other side with the same number.
        ends: for a response, the error with which its request ends; its ID is None if none can be read. Without it, the
            request would wait for ever.
        incomplete: True for JSON that breaks off, as the beginning of a longer text does.
    """

    incomplete = False

    def __init__(
        self,
        code: int,
        problem: str,
        request_id: int | str | None = None,
        *,
        is_answer: bool = False,
        ends: Message | None = None,
    ) -> None:
        super().__init__(problem)
        self.code, self.request_id, self.is_answer, self.ends = code, request_id, is_answer, ends


class Oversized(MalformedMessage):
    """A message of more bytes or values than the bound, refused without parsing; `size` describes its size in words.

    Attributes:
        hides_an_answer: True if it may be the response to any request.
    """

    size = ""

    @property
    def hides_an_answer(self) -> bool:
        return self.is_answer and self.ends is None


class Doubtful(dict[str, Any]):
    """An error made of a response that is not JSON. It may be a truncated copy in a server's debug output, whose
    original is still to arrive."""


class Related(dict[str, Any]):
    """A message that a server sent on the response stream of a request, so that it belongs to that request.

    Attributes:
        request_id: of the client's request.
    """

    def __init__(self, message: "Message", request_id: int | str) -> None:
        super().__init__(message)
        self.request_id = request_id


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_LARGE: Final = 100_000
MOST_DIGITS: Final = 4000
_BOM: Final = b"\xef\xbb\xbf"
_decode: Final = json.JSONDecoder(parse_constant=_no_constant).decode
# NaN and Infinity become null, as JavaScript's and pydantic's writers serialize them; raw control characters stay in
# strings; a number with more digits than Python converts to an integer becomes a float.
_read_tolerantly: Final = json.JSONDecoder(
    strict=False,
    parse_constant=lambda name: None,
    parse_int=lambda digits: int(digits) if len(digits) < MOST_DIGITS else float(digits),
).raw_decode
_SPACE: Final = re.compile(r"\s*")
# pydantic's parser and writer take a third of the time of `json`'s (a small message: 3 µs for both, not 10; measured)
# and belong to a package that is needed anyway. `json` handles the texts that they refuse. Its decoders are created
# once: `json.loads` with any argument creates one for every call, which costs as much as a small message.


def parse_message(line: bytes, most: int = MOST_FROM_CLIENTS) -> Message:
    """Parse one JSON-RPC message and check its envelope: a request, a notification, a result or an error.

    Args:
        most: bound on the number of its values.

    Raises:
        MalformedMessage: it is not JSON, or not one JSON-RPC 2.0 message, or it has too many values.
    """
    if len(line) > 2 * most and has_more_values(line, most):
        refusal = oversized(line[:EDGE_BYTES], line[-EDGE_BYTES:], f"more than {most} values")
        assert refusal is not None, "the message is complete"
        raise refusal
    try:
        value: Any = from_json(line, allow_inf_nan=False) if len(line) < _LARGE else _from_large_json(line)
    except ValueError:
        # What pydantic's parser refuses may still be JSON: a byte order mark, lone surrogates, deep nesting.
        try:
            value = _decode(line.removeprefix(_BOM).decode())
        except RecursionError:
            raise MalformedMessage(PARSE_ERROR, "Parse error: nested too deeply") from None
        except ValueError as exc:
            raise MalformedMessage(PARSE_ERROR, f"Parse error: {exc}") from None
    return checked_message(value)


def _from_large_json(data: bytes) -> Any:
    """Parse without garbage collection, which runs at every 700th object and doubles the time."""
    if not gc.isenabled():
        return from_json(data, allow_inf_nan=False)
    gc.disable()
    try:
        return from_json(data, allow_inf_nan=False)
    finally:
        gc.enable()


def parse_from_server(data: bytes) -> list[Message | MalformedMessage]:
    """Parse a message, or a batch (2025-03-26), as the most tolerant client known does.

    Accepted beyond `parse_message`: bytes that are not UTF-8 (U+FFFD in their place), NaN and Infinity (null), control
    characters in texts, an ID like `3.0`, the method beside its result, an error beside an empty result or the other
    way round (of two that are not empty the error counts), and errors of any form. Any other answer with a readable ID
    becomes an error with that ID: in place, or as `ends` of a `MalformedMessage` if the data is not JSON.
    """
    try:
        return [parse_message(data, MOST_FROM_SERVERS)]
    except Oversized as exc:
        return [exc]
    except MalformedMessage as exc:
        refused = exc
    try:
        values = _values(data.removeprefix(_BOM).decode(errors="replace"))
    except (ValueError, RecursionError) as exc:
        refused.incomplete = isinstance(exc, json.JSONDecodeError) and (
            exc.pos >= len(exc.doc.rstrip()) or exc.msg.startswith("Unterminated string")
        )
        refused.ends = _salvaged(data, str(refused))
        return [refused]
    return [_mended(value) for value in values] or [refused]


def _values(text: str) -> list[object]:
    """Return the messages of a line: one, the entries of a batch, or several complete ones that threads of a server
    wrote into one line."""
    values: list[object] = []
    at = _SPACE.match(text).end()  # pyright: ignore[reportOptionalMemberAccess]
    while at < len(text):
        value, at = _read_tolerantly(text, at)
        values += cast("list[object]", value) if isinstance(value, list) and value else [cast("object", value)]
        at = _SPACE.match(text, at).end()  # pyright: ignore[reportOptionalMemberAccess]
    return values


_ID: Final = rb'"id"\s*:\s*(-?[0-9]{1,18}(?:\.0+)?|"[^"\\]{1,200}")\s*'
_VERSION: Final = rb'"jsonrpc"\s*:\s*"2\.0"\s*'
_ID_FIRST: Final = re.compile(
    rb"\s*\{\s*(?:" + _VERSION + rb",\s*)?" + _ID + rb",\s*(?:" + _VERSION + rb',\s*)?"(?:result|error)"\s*:'
)
_ID_LAST: Final = re.compile(
    rb"\}\s*,\s*(?:" + _VERSION + rb",\s*" + _ID + rb"|" + _ID + rb",\s*" + _VERSION + rb")\}\s*\Z"
)
# Truncated or broken elsewhere. Not a request, whose next key would be its method or its parameters.
_ID_ONLY: Final = re.compile(
    rb"\s*\{\s*(?:" + _VERSION + rb",\s*" + _ID + rb"|" + _ID + rb",\s*" + _VERSION + rb")(?:\}|,\s*[\"'][^mp\"'])"
)
_ANSWER: Final = re.compile(rb"\s*\{\s*(?:" + _VERSION + rb',\s*)?"(?:result|error)"\s*:')
_TAIL: Final = 500


def _salvaged(data: bytes, problem: str) -> Message | None:
    """Return the error for a response that is not JSON, if its ID stands where serializers put it: before the result or
    at the very end. Anywhere else it may be part of the result, and would end another request."""
    data = data.removeprefix(_BOM)
    found = _ID_FIRST.match(data) or _ID_ONLY.match(data)
    if found is None and _ANSWER.match(data):
        found = _ID_LAST.search(data[-_TAIL:])
        if (
            found is None and Nesting().add(data) == 0
        ):  # no nesting is open, in which it could be the ID of an inner object
            found = _ID_ENDS.search(data[-_TAIL:])
    if found is None:
        return None
    request_id = _whole(json.loads(next(filter(None, found.groups())).decode(errors="replace")))
    return Doubtful(_error_answer(request_id, PARSE_ERROR, f"Invalid answer: {problem}"))


EDGE_BYTES: Final = 1024
"""Bytes at each end of a message refused without parsing that are searched for its ID."""
_OPEN: Final = re.compile(rb"\s*\{")
_MEMBER: Final = re.compile(
    rb'\s*"([^"\\]{1,50}+)"\s*:\s*(?:("(?:[^"\\]|\\.){0,300}+"|[-+.0-9a-zA-Z]{1,40}+)\s*([,}])|)', re.DOTALL
)
_ID_VALUE: Final = re.compile(rb'-?[0-9]{1,18}(?:\.0+)?|"[^"\\]{1,200}"')
_ID_ENDS: Final = re.compile(rb"\}\s*,\s*" + _ID + rb"\}\s*\Z")


def _opening(start: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """Return the members of a message before the first long one, as raw bytes, and the name of the long one."""
    members: dict[bytes, bytes] = {}
    found = _OPEN.match(start)
    while found is not None and (found := _MEMBER.match(start, found.end())) is not None:
        name, value, mark = found.groups()
        if value is None:
            return members, name
        members[name] = value
        if mark == b"}":
            break
    return members, b""


def oversized(start: bytes, end: bytes, size: str, *, whole: bool = True) -> Oversized | None:
    """Return the refusal of a message that is too large, made from its first and last few hundred bytes.

    Args:
        size: in words, such as "more than 100 bytes".
        whole: False while its end has not arrived.

    Returns:
        None if the end of the message is needed to find its ID.
    """
    data = start.removeprefix(_BOM)
    members, long = _opening(data)
    written = members.get(b"id", b"")
    if _ID_VALUE.fullmatch(written) is None:
        if not whole:
            return None
        found = _ID_LAST.search(end[-_TAIL:]) or (_ID_ENDS.search(end[-_TAIL:]) if b"jsonrpc" in members else None)
        written = next(filter(None, found.groups())) if found is not None and _OPEN.match(data) else b"null"
    request_id: Any = _whole(json.loads(written.decode(errors="replace")))
    if b"method" in members or long in (b"method", b"params"):
        refusal = Oversized(INVALID_REQUEST, f"Invalid Request: it has {size}", request_id)
    else:
        problem = f"Invalid answer: it has {size}"
        ends = _error_answer(request_id, INVALID_REQUEST, problem) if request_id is not None else None
        is_answer = data.lstrip().startswith((b"{", b"["))
        refusal = Oversized(INVALID_REQUEST, problem, request_id, is_answer=is_answer, ends=ends)
    refusal.size = size
    return refusal


def _mended(value: object) -> Message | MalformedMessage:
    """Return the message that a malformed one evidently means, or the error if there is none."""
    if isinstance(value, dict):
        message = cast("Message", value)
        value = {**message, "id": _whole(message["id"])} if "id" in message else dict(message)
        has_outcome = value.get("result") is not None or value.get("error") is not None
        if "method" in value and (has_outcome or value["method"] is None):
            del value["method"]  # written beside the result, or null, by serializers that include every field
    try:
        return checked_message(value)
    except MalformedMessage as exc:
        if exc.is_answer:
            return _mended_answer(cast("Message", value), exc)
        if _is_empty_answer(value) and exc.request_id is not None:
            problem = "Invalid answer: neither result nor error"
            return _error_answer(exc.request_id, INVALID_REQUEST, problem)
        return exc


def _is_empty_answer(value: object) -> bool:
    """Return whether a value is a response without result and error. JSON in a server's log may have an ID, but has no
    version."""
    if not isinstance(value, dict):
        return False
    message = cast("Message", value)
    return message.get("jsonrpc") == "2.0" and "method" not in message


def _mended_answer(message: Message, refused: MalformedMessage) -> Message | MalformedMessage:
    result, error = message.get("result"), message.get("error")
    if message.get("jsonrpc") == "2.0" and error:
        # An error without an ID may still be attributed to a request.
        return {"jsonrpc": "2.0", "id": refused.request_id, "error": _mended_error(error)}
    if message.get("jsonrpc") == "2.0" and isinstance(result, dict) and refused.request_id is not None:
        return {key: item for key, item in message.items() if key != "error"}
    if message.get("jsonrpc") == "2.0" and refused.request_id is None:
        refused.ends = _error_answer(None, INVALID_REQUEST, str(refused))
        return refused
    return refused.ends or refused


def _mended_error(error: object) -> dict[str, Any]:
    """Return an error with an integer code and a message; the original is kept in `data` if a part of it would be
    lost."""
    if not isinstance(error, dict):
        return {"code": INTERNAL_ERROR, "message": _worded(error)}
    given = cast("dict[str, Any]", error)
    code, message = given.get("code"), given.get("message")
    if isinstance(code, str) and re.fullmatch(r"-?[0-9]{1,9}", code):
        code = int(code)
    code = _whole(code)
    mended: dict[str, Any] = {
        "code": code if type(code) is int else INTERNAL_ERROR,
        "message": "no reason given" if message is None else _worded(message),
    }
    if type(code) is not int:
        mended["data"] = given
    elif given.get("data") is not None:
        mended["data"] = given["data"]
    return mended


def _worded(value: object) -> str:
    return value if isinstance(value, str) else encode_escaped(value)


def _whole(number: object) -> object:
    """Return 3 for 3.0, which are one number in JSON and in JavaScript."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _error_answer(request_id: object, code: int, text: str) -> Message:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}


def checked_message(value: Any) -> Message:
    """Return a value that is one JSON-RPC 2.0 message.

    Raises:
        MalformedMessage: it is not.
    """
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
        problem = f"{'Invalid answer' if is_answer else 'Invalid Request'}: {problem}"
        ends = _error_answer(shown, INVALID_REQUEST, problem) if is_answer and shown is not None else None
        raise MalformedMessage(INVALID_REQUEST, problem, shown, is_answer=is_answer, ends=ends)
    return message


def _envelope_problem(message: Message, request_id: int | str | None) -> str | None:
    if message.get("jsonrpc") != "2.0":
        return '"jsonrpc" must be "2.0"'
    if "method" in message:
        if not isinstance(message["method"], str):
            return "method must be a string"
        if message.get("result") is not None or message.get("error") is not None:
            return "both a method and a result or an error"
        if not isinstance(message.get("params", {}), dict | None):
            return "params must be an object"
        if "id" in message and request_id is None:
            return "id must be a string or an integer"
    elif "result" in message:
        if request_id is None:
            return "a result needs the id of its request"
        if not isinstance(message["result"], dict):
            return "result must be an object"
        if message.get("error") is not None:
            return "both a result and an error"
    elif "error" in message:
        error = cast("dict[str, object]", message["error"])
        if not isinstance(error, dict) or type(error.get("code")) is not int:
            return "malformed error"
        if not isinstance(error.get("message", ""), str):
            return "the message of an error must be a string"
    else:
        return "neither a request, a notification nor a response"
    return None


def format_message(message: Message) -> bytes:
    """Return the line for a message, newline included."""
    return encode(message) + b"\n"
