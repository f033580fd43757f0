"""JSON text of values, including values that JSON cannot express.

Pure. Owns the encoding of infinite numbers and lone surrogates. Independent of messages.
"""

import json
import math
from typing import Any, Final, cast

from pydantic_core import to_json

_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_encode_ascii: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def encode(value: Any) -> bytes:
    """Return a value as JSON in UTF-8."""
    try:
        text = to_json(value, inf_nan_mode="constants")
        # Infinity is invalid JSON. A string with the word only takes the slow path as well.
        if b"Infinity" not in text and b"NaN" not in text:
            return text
    except (ValueError, RecursionError):
        pass
    try:
        return _encode(value).encode()
    except (ValueError, RecursionError):
        return encode_escaped(value).encode()


def encode_escaped(value: Any) -> str:
    """Return the JSON of values that can be parsed but not encoded: lone surrogates, which need escapes; numbers that
    became infinite, which JSON cannot express; and values nested close to the limit of recursion."""
    texts: list[str] = []
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, tuple):  # never part of a JSON value: finished text
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


def without_surrogates(value: Any) -> Any:
    """Return the value with U+FFFD in place of lone surrogates, which UTF-8 cannot encode; the same object without any.

    For listings: many clients reject a complete message with such text, and so the entries of all servers.
    """
    try:
        to_json(value)
    except ValueError:
        return json.loads(_encode(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return value
