"""JSON values and JSON Schema's names for them, and values as they are shown in messages.

Pure: no I/O, and nothing given is ever changed in place.
"""

import json
import math
import re
from collections.abc import Iterable
from typing import Any, Final, TypeGuard

Schema = dict[str, Any]
Pointer = tuple[str, ...]


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a JSON value is an object."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Whether a JSON value is an array."""
    return isinstance(value, list)


def json_type(value: object) -> str:
    """The JSON Schema type of a JSON value; `integer` for every number without a fraction."""
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
    """The value that a text is in JSON, which has neither `NaN` nor numbers beyond every float (`1e999`).

    Raises:
        ValueError, RecursionError: it is none.
    """
    return json.loads(text, parse_constant=_refuse_number, parse_float=_finite)


def _refuse_number(written: str) -> Any:
    raise ValueError(f"{written} is no JSON")


def _finite(written: str) -> float:
    number = float(written)
    return number if math.isfinite(number) else _refuse_number(written)


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def listed(value: Any) -> list[Any]:
    return value if is_array(value) else [value]


_WORD: Final = re.compile(r"[\w-]{1,80}")


def shown_path(path: Iterable[str | int]) -> str:
    """A position in words: `items[0].id`, `["odd key"]`, or `the top level`."""
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
    """Text for a message: no longer than `limit` characters, and without what UTF-8 cannot carry (lone surrogates)."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut.encode("utf-8", "backslashreplace").decode()
