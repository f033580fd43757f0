"""Values of the bridge's own arguments (`_as`, `_wait`, those of the meta-tools), read as models write them.

Models and hosts send a list as JSON in a string, a single ID as a list, `null` or `""` for what they leave out, other
case, quotes, a `$`. Where only one meaning is possible it is taken; everything else is an error that says what is
expected. Pure: refers to no future and no tool.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from asyncfc_mcp.errors import InvalidArguments

_BRACED: Final = re.compile(r"\$?\{(?:f:)?([^{}\"':]*)\}")
"""`${f:x}`, `{x}`: a reference in place of a name."""
_SEPARATORS: Final = re.compile(r"[\s,;\[\](){}'\"`<>]+")
_SECONDS: Final = re.compile(r"(?i)(.*[0-9.y])\s*(?:s|sec|secs|seconds?)")
_AROUND: Final = " \t\r\n'\"`.,;"
_ABSENT: Final = ("", "null", "none", "undefined", "nil")
_HOLDERS: Final = ("future_id", "future_ids", "$future", "id", "name")
"""Keys of an object that stands for a future: the record of a handle, an object reference."""
_NESTING: Final = 4


def refs(value: object) -> list[str] | None:
    """IDs and names in a value, without `$`; None if it holds something else."""
    found: list[str] = []
    return found if _collect(value, found, _NESTING) else None


def _collect(value: object, found: list[str], depth: int) -> bool:
    """Add what a value holds to `found`; False if that is no ID or name."""
    if depth == 0:
        return False
    if isinstance(value, list):
        elements = [each for each in cast("list[object]", value) if each is not None]
        return all(_collect(each, found, depth - 1) for each in elements)
    if isinstance(value, dict):
        holder = cast("dict[str, object]", value)
        key = next((key for key in _HOLDERS if key in holder), None)
        return key is not None and _collect(holder[key], found, depth - 1)
    if not isinstance(value, str):
        return False
    text = value.strip()
    if text[:1] in ("[", "{", '"') and (parsed := _parsed(text)) is not None:
        return _collect(parsed, found, depth - 1)
    words = _SEPARATORS.split(_BRACED.sub(r" \1 ", text))
    found += filter(None, (word.removeprefix("$").rstrip(".") for word in words))
    return True


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def one_ref(tool: str, value: object) -> str:
    """The one future that a meta-tool is asked about.

    Raises:
        InvalidArguments: there is none, or more than one.
    """
    found = refs(value)
    if found is None or len(set(found)) != 1:
        shown = "nothing" if value is None else repr(value)[:80]
        more = "; gather waits for several" if found and tool == "await_future" else ""
        raise InvalidArguments(tool, f'future_id must be the ID or name of a future, such as "f1"; found {shown}{more}')
    return found[0]


def several_refs(tool: str, value: object) -> list[str]:
    """The futures that `gather` is asked for.

    Raises:
        InvalidArguments: it is no list of them, or an empty one.
    """
    found = refs(value) if value is not None else None
    if found is None:
        raise InvalidArguments(tool, f'future_ids must be a list such as ["f1", "f2"]; found {value!r}'[:300])
    if not found:
        raise InvalidArguments(tool, "future_ids is empty; list the IDs or names of the futures to wait for")
    return found


def choice(tool: str, key: str, value: object, options: Sequence[str], expected: str) -> str | None:
    """One of `options`, in any case; None where the argument was left out.

    Raises:
        InvalidArguments: it is something else; `expected` says what it must be.
    """
    alone: object = _alone(value)
    if alone is None:
        return None
    if isinstance(alone, str):
        word = alone.strip(_AROUND).lower()
        if word in _ABSENT:
            return None
        if word in options:
            return word
    raise InvalidArguments(tool, f"{key} must be {expected}; found {value!r}"[:300])


def seconds(tool: str, value: object) -> float | None:
    """A number of seconds; infinite where it is larger than any wait; None where the argument was left out.

    Raises:
        InvalidArguments: it is no number, or below 0.
    """
    alone: object = _alone(value)
    if isinstance(alone, str):
        word = alone.strip(_AROUND[:-3]).lower()
        if word in _ABSENT:
            return None
        if (unit := _SECONDS.fullmatch(word)) is not None:
            word = unit[1]
        try:
            alone = float(word)
        except ValueError:
            pass
    if alone is None:
        return None
    if not isinstance(alone, int | float) or isinstance(alone, bool) or not alone >= 0:  # NaN compares with nothing
        raise InvalidArguments(tool, f"timeout_s must be a number of seconds, 0 or more; found {value!r:.80}")
    try:
        return float(alone)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def name(value: object) -> Any:
    """The name in `_as`; None where there is none. What cannot be a name is left for the store to refuse."""
    alone: object = _alone(value)
    if not isinstance(alone, str):
        return alone
    text = alone.strip()
    if text[:1] == '"' and isinstance(parsed := _parsed(text), str):
        text = parsed
    text = _BRACED.sub(r"\1", text).strip(_AROUND)
    return None if text.lower() in _ABSENT else text.removeprefix("$")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Results that a call's answer waits for beside its own."""

    refs: tuple[str, ...] = ()
    all: bool = False


def wanted(tool: str, value: object) -> Wanted | None:
    """The meaning of `_wait`; None where the call does not wait.

    Raises:
        InvalidArguments: it holds no IDs or names.
    """
    if value is None or value is False or value == "":
        return None
    if value is True or value == "this":
        return Wanted()
    found = refs(value)
    if found is None:
        raise InvalidArguments(
            tool, f'_wait must be "this", "all", or IDs and names separated by commas; found {value!r:.80}'
        )
    if all(ref.lower() in (*_ABSENT, "false") for ref in found):
        return None
    others = [ref for ref in found if ref.lower() not in ("this", "true", "all")]
    return Wanted(tuple(others), any(ref.lower() == "all" for ref in found))


def _alone(value: object) -> object:
    """The element of a list that has one, also where the list is written as JSON; None for an empty one."""
    if isinstance(value, str) and value.lstrip()[:1] == "[" and isinstance(parsed := _parsed(value), list):
        value = cast("list[object]", parsed)
    if isinstance(value, list):
        elements = cast("list[object]", value)
        return elements[0] if len(elements) == 1 else elements or None
    return value
