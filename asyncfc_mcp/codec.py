"""JSON-RPC messages as bytes: parsing, writing, and reading what servers send that is nearly a message.

Owns the JSON of both sides, the envelope check, and the tolerance for servers' mistakes, which is that of the most
tolerant client known for each (named in the tests): a server that works with one of them works behind the bridge.
Pure. Refuses to know where bytes are from, and which request waits for an answer: these are `wire` and `peer`.
"""

import gc
import json
import math
import re
from sys import getsizeof
from typing import Any, Final, cast

from pydantic_core import from_json, to_json

from asyncfc_mcp.json_bounds import MOST_FROM_CLIENTS, MOST_FROM_SERVERS, has_more_values
from asyncfc_mcp.protocol import INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR

Message = dict[str, Any]
"""One JSON-RPC message."""


class MalformedMessage(ValueError):
    """Bytes that are not one JSON-RPC message; `code` is the JSON-RPC error for them.

    Attributes:
        is_answer: it is an answer as far as it is anything. Answers are not answered: its ID is one of ours, and an
            error with that ID would reach whatever the other side has asked under the same number.
        ends: for an answer, the error with which its request ends; with the ID None if none can be read. Dropped, it
            would be waited for without end.
        incomplete: JSON that only breaks off: the beginning of something longer.
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


class TooManyValues(MalformedMessage):
    """A message that would take too long to parse."""


class Doubtful(dict[str, Any]):
    """An error made of an answer that is no JSON. It may be the cut-off copy of a message in a server's debug output,
    whose original is still to arrive."""


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_LARGE: Final = 100_000
_BOM: Final = b"\xef\xbb\xbf"
_decode: Final = json.JSONDecoder(parse_constant=_no_constant).decode
# NaN and Infinity become null, as JavaScript's and pydantic's writers have it; raw control characters stay in texts.
_read_tolerantly: Final = json.JSONDecoder(strict=False, parse_constant=lambda name: None).raw_decode
_SPACE: Final = re.compile(r"\s*")
# pydantic's parser and writer take a third of the time of `json`'s (a small message: 3 µs for both, not 10; measured)
# and come with a package that is needed anyway. `json` does what they refuse.
# Made once: `json.dumps` with any argument makes an encoder for every call, which costs as much as a small message.
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_encode_ascii: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def parse_message(line: bytes, most: int = MOST_FROM_CLIENTS) -> Message:
    """Parse one JSON-RPC message and check its envelope: a request, a notification, a result or an error.

    Args:
        most: bound on the number of its values.

    Raises:
        MalformedMessage: it is not JSON, or not one JSON-RPC 2.0 message, or it has too many values.
    """
    if len(line) > 2 * most and has_more_values(line, most):
        raise TooManyValues(INVALID_REQUEST, f"Invalid message: it has more than {most} values")
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
    return _checked(value)


def _from_large_json(data: bytes) -> Any:
    """Parse without looking for garbage at every 700th object, which doubles the time."""
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
    becomes an error with that ID: in place, or as `ends` of a `MalformedMessage` where the data is no JSON.
    """
    try:
        return [parse_message(data, MOST_FROM_SERVERS)]
    except TooManyValues as exc:
        exc.ends = _salvaged(data, str(exc))
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
    """The messages of a line: one, the entries of a batch, or several that threads of a server wrote into each other's
    lines, each whole."""
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
# Broken off or spoilt in another place: no request, whose next key would be its method or its parameters.
_ID_ONLY: Final = re.compile(
    rb"\s*\{\s*(?:" + _VERSION + rb",\s*" + _ID + rb"|" + _ID + rb",\s*" + _VERSION + rb')(?:\}|,\s*"[^mp"])'
)
_ANSWER: Final = re.compile(rb"\s*\{\s*(?:" + _VERSION + rb',\s*)?"(?:result|error)"\s*:')
_TAIL: Final = 500


def _salvaged(data: bytes, problem: str) -> Message | None:
    """The error for an answer that is no JSON, if its ID stands where serializers put it: before the result or at the
    very end. Anywhere else it may be part of the result, and another request would end."""
    data = data.removeprefix(_BOM)
    found = _ID_FIRST.match(data) or _ID_ONLY.match(data)
    if found is None and _ANSWER.match(data):
        found = _ID_LAST.search(data[-_TAIL:])
    if found is None:
        return None
    request_id = _whole(json.loads(next(filter(None, found.groups())).decode(errors="replace")))
    return Doubtful(_error_answer(request_id, PARSE_ERROR, f"Invalid answer: {problem}"))


_REQUEST: Final = re.compile(
    rb"\s*\{\s*(?:" + _VERSION + rb",\s*)?(?:" + _ID + rb",\s*)?(?:" + _VERSION + rb',\s*)?"method"\s*:'
)


def too_large(start: bytes, end: bytes, limit: int, *, whole: bool = True) -> MalformedMessage | None:
    """The refusal of a message that has more bytes than the limit, by its first and last few hundred.

    Args:
        whole: False while its end has not arrived.

    Returns:
        None if more can be told when it is whole.
    """
    data = start.removeprefix(_BOM)
    request = _REQUEST.match(data)
    found = request if request is not None and any(request.groups()) else _ID_FIRST.match(data)
    if found is None and not whole:
        return None
    if found is None and data.lstrip().startswith(b"{"):
        found = _ID_LAST.search(end[-_TAIL:])
    request_id: Any = None
    if found is not None:
        request_id = _whole(json.loads(next(filter(None, found.groups())).decode(errors="replace")))
    problem = f"it has more than {limit} bytes"
    if request is not None:
        return MalformedMessage(INVALID_REQUEST, f"Invalid Request: {problem}", request_id)
    problem = f"Invalid answer: {problem} (setting max_message_bytes)"
    ends = _error_answer(request_id, INVALID_REQUEST, problem) if request_id is not None else None
    is_answer = data.lstrip().startswith((b"{", b"["))
    return MalformedMessage(INVALID_REQUEST, problem, request_id, is_answer=is_answer, ends=ends)


def _mended(value: object) -> Message | MalformedMessage:
    """A message whose mistakes are such that it can be told what it means."""
    if isinstance(value, dict):
        message = cast("Message", value)
        value = {**message, "id": _whole(message["id"])} if "id" in message else dict(message)
        has_outcome = value.get("result") is not None or value.get("error") is not None
        if "method" in value and (has_outcome or value["method"] is None):
            del value["method"]  # repeated beside the answer to it, or null: written by serializers of every field
    try:
        return _checked(value)
    except MalformedMessage as exc:
        if exc.is_answer:
            return _mended_answer(cast("Message", value), exc)
        if _is_empty_answer(value) and exc.request_id is not None:
            problem = "Invalid answer: neither result nor error"
            return _error_answer(exc.request_id, INVALID_REQUEST, problem)
        return exc


def _is_empty_answer(value: object) -> bool:
    """Whether it is an answer but for its result. JSON that a server logs has an ID at times, and no version."""
    if not isinstance(value, dict):
        return False
    message = cast("Message", value)
    return message.get("jsonrpc") == "2.0" and "method" not in message


def _mended_answer(message: Message, refused: MalformedMessage) -> Message | MalformedMessage:
    result, error = message.get("result"), message.get("error")
    if message.get("jsonrpc") == "2.0" and error:
        # Without an ID it may still be known what it is about.
        return {"jsonrpc": "2.0", "id": refused.request_id, "error": _mended_error(error)}
    if message.get("jsonrpc") == "2.0" and isinstance(result, dict) and refused.request_id is not None:
        return {key: item for key, item in message.items() if key != "error"}
    if message.get("jsonrpc") == "2.0" and refused.request_id is None:
        refused.ends = _error_answer(None, INVALID_REQUEST, str(refused))
        return refused
    return refused.ends or refused


def _mended_error(error: object) -> dict[str, Any]:
    """An error with a number and a text; whole in `data` where something of it has no other place."""
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
    return value if isinstance(value, str) else _encode_oddity(value)


def _whole(number: object) -> object:
    """3 for 3.0: one number in JSON, and in JavaScript."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _error_answer(request_id: object, code: int, text: str) -> Message:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}


def _checked(value: Any) -> Message:
    """Raises: MalformedMessage: it is not one JSON-RPC 2.0 message."""
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


def held_size(value: Any) -> int:
    """Bytes of memory that a parsed value holds, nearly. Keys count once: the parser makes one text for all that are
    the same. An empty list is two bytes as JSON and 64 in memory."""
    total = 0
    keys: set[str] = set()
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        kind = type(item)  # pyright: ignore[reportUnknownVariableType]
        if kind is dict:
            keys.update(item)
            stack += item.values()
        elif kind is list:
            stack += item
        elif item is None or kind is bool or (kind is int and -6 < item < 257):
            continue  # one object for all
        total += getsizeof(item)
    return total + sum(map(getsizeof, keys))


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
