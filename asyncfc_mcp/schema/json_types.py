"""JSON values, their JSON Schema types, and their text in messages.

Pure: no I/O, and arguments are never changed in place.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Any, Final, TypeGuard

_SHOWN_KEYS: Final = 20
_SHOWN_CHARS: Final = 80

Schema = dict[str, Any]
Pointer = tuple[str, ...]


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Return true for a JSON object."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Return true for a JSON array."""
    return isinstance(value, list)


def json_type(value: object) -> str:
    """Return the JSON Schema type of a JSON value; `integer` for every number without a fraction."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def parse_json(text: str) -> Any:
    """Parse a JSON text strictly: `NaN` and numbers beyond the range of floats (`1e999`) are invalid.

    Raises:
        ValueError, RecursionError: it is not valid JSON, or is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse_number, parse_float=_finite)


def _refuse_number(written: str) -> Any:
    raise ValueError(f"{written} is not a JSON number")


def _finite(written: str) -> float:
    number = float(written)
    return number if math.isfinite(number) else _refuse_number(written)


def compact(value: Any) -> str:
    """Return a value as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def as_list(value: Any) -> list[Any]:
    """Return an array itself, and any other value as a list of one."""
    return value if is_array(value) else [value]


_WORD: Final = re.compile(r"[\w-]{1,80}")


def shown_path(path: Iterable[str | int]) -> str:
    """Return a path as text: `items[0].id`, `["odd key"]`, or `the top level`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _WORD.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{compact(step)}]"
    return printable(text) or "the top level"


def printable(text: str, limit: int = 400) -> str:
    """Return text for a message: at most `limit` characters, without lone surrogates, which UTF-8 cannot encode."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut.encode("utf-8", "backslashreplace").decode()


def shown_content(where: str, value: Any) -> str:
    """Return what a value at a place contains, for a message: its keys, its length or its type."""
    if is_array(value):
        return f"{where} is an array of length {len(value)}"
    if not is_object(value):
        return f"{where} is {with_article(json_type(value))}"
    if not value:
        return f"{where} is an empty object"
    keys = [
        json.dumps(key[:_SHOWN_CHARS], ensure_ascii=False) for _, key in zip(range(_SHOWN_KEYS), value, strict=False)
    ]
    more = f" and {len(value) - _SHOWN_KEYS} more" if len(value) > _SHOWN_KEYS else ""
    return printable(f"{where} has the keys {', '.join(keys)}{more}", 1000)


def with_article(kind: str) -> str:
    """Return the word for a type with its article."""
    return kind if kind == "null" else f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
