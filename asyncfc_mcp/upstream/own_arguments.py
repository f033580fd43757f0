"""Values of the bridge's own arguments (`_as`, `_after`, `_wait`, those of the meta-tools), as models write them.

Models and hosts send a list as JSON in a string, a single ID as a list, `null` or `""` for an omitted value, other
case, quotes, a `$`. A value with only one possible meaning is accepted; everything else is an error that names what is
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
_NO_NAMES: Final = ("this", "all", "true")
"""Words of `_wait`."""
_NESTING: Final = 4
MOST_REFS: Final = 5000
"""Bound on the futures that one call may name."""
_LONGEST: Final = 40 * MOST_REFS
"""Bound on the characters of a text that are searched for names."""


def refs(value: object) -> list[str] | None:
    """Return the IDs and names in a value, without `$`; None if it holds anything else. Of more than `MOST_REFS` some
    are left out."""
    found: list[str] = []
    return found if _collect(value, found, _NESTING) else None


def _collect(value: object, found: list[str], depth: int) -> bool:
    """Add the IDs and names in a value to `found`; return False if it holds anything else."""
    if depth == 0:
        return False
    if len(found) > MOST_REFS:
        return True
    if isinstance(value, list):
        elements = (each for each in cast("list[object]", value)[: 2 * MOST_REFS] if each is not None)
        return all(_collect(each, found, depth - 1) for each in elements)
    if isinstance(value, dict):
        holder = cast("dict[str, object]", value)
        key = next((key for key in _HOLDERS if key in holder), None)
        return key is not None and _collect(holder[key], found, depth - 1)
    if not isinstance(value, str):
        return False
    text = value[:_LONGEST].strip()
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
    """Return the ID or name of the one future in a meta-tool's argument.

    Raises:
        InvalidArguments: there is none, or more than one.
    """
    found = refs(value)
    if found is None or len(set(found)) != 1:
        shown = "nothing" if value is None else _shown(value, 80)
        more = "; gather waits for several" if found and tool == "await_future" else ""
        raise InvalidArguments(tool, f'future_id must be the ID or name of a future, such as "f1"; found {shown}{more}')
    return found[0]


def several_refs(tool: str, value: object) -> list[str]:
    """Return the IDs and names in the argument of `gather`.

    Raises:
        InvalidArguments: it is no list of them, or an empty one.
    """
    found = refs(value) if value is not None else None
    if found is None:
        raise InvalidArguments(tool, f'future_ids must be a list such as ["f1", "f2"]; found {_shown(value, 200)}')
    if not found:
        raise InvalidArguments(tool, "future_ids is empty; list the IDs or names of the futures to wait for")
    if len(found) > MOST_REFS:
        raise InvalidArguments(tool, f"future_ids has more than {MOST_REFS} entries")
    return found


def choice(tool: str, key: str, value: object, options: Sequence[str], expected: str) -> str | None:
    """Return one of `options`, which may be in any case; None if the argument was omitted.

    Args:
        expected: the options in the words of the error.

    Raises:
        InvalidArguments: it is none of them.
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
    raise InvalidArguments(tool, f"{key} must be {expected}; found {_shown(value, 200)}")


def seconds(tool: str, value: object) -> float | None:
    """Return a number of seconds; infinity where it exceeds a float; None if the argument was omitted.

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
        raise InvalidArguments(tool, f"timeout_s must be a number of seconds, 0 or more; found {_shown(value, 80)}")
    try:
        return float(alone)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def name(value: object) -> Any:
    """Return the name in `_as`; None if it is empty. A value that cannot be a name is left for the store to refuse."""
    alone: object = _alone(value)
    if not isinstance(alone, str):
        return alone
    text = alone.strip()
    if text[:1] == '"' and isinstance(parsed := _parsed(text), str):
        text = parsed
    text = _BRACED.sub(r"\1", text).strip(_AROUND)
    return None if text.lower() in _ABSENT else text.removeprefix("$")


def predecessors(tool: str, value: object) -> tuple[str, ...]:
    """Return the IDs and names in `_after`, each once.

    Raises:
        InvalidArguments: it holds anything else.
    """
    if value is None or value is False or value == "":
        return ()
    found = refs(value)
    # A path is of no use here, and can only be meant as that of a reference.
    named = dict.fromkeys(ref.partition(".")[0] for ref in found or () if ref.lower() not in (*_ABSENT, "false"))
    if found is None or not all(named) or any(ref.lower() in _NO_NAMES for ref in named):
        raise InvalidArguments(
            tool, f"_after must be IDs and names of calls, separated by commas; found {_shown(value, 80)}"
        )
    if len(named) > MOST_REFS:
        raise InvalidArguments(tool, f"_after names more than {MOST_REFS} futures")
    return tuple(named)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Other results that a call's answer waits for beside its own."""

    refs: tuple[str, ...] = ()
    all: bool = False


def wanted(tool: str, value: object) -> Wanted | None:
    """Return the meaning of `_wait`; None if the call does not wait.

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
            tool, f'_wait must be "this", "all", or IDs and names separated by commas; found {_shown(value, 80)}'
        )
    if len(found) > MOST_REFS:
        raise InvalidArguments(tool, f"_wait names more than {MOST_REFS} futures")
    if all(ref.lower() in (*_ABSENT, "false") for ref in found):
        return None
    others = [ref for ref in found if ref.lower() not in _NO_NAMES]
    return Wanted(tuple(others), any(ref.lower() == "all" for ref in found))


def _shown(value: object, length: int) -> str:
    """Return the beginning of a value's `repr`, without writing all of it."""
    if isinstance(value, str | list):
        value = cast("str | list[object]", value)[:length]
    return repr(value)[:length]


def _alone(value: object) -> object:
    """Return the only element of a list, which may be written as JSON; None for an empty list."""
    if isinstance(value, str) and value.lstrip()[:1] == "[" and isinstance(parsed := _parsed(value), list):
        value = cast("list[object]", parsed)
    if isinstance(value, list):
        elements = cast("list[object]", value)
        return elements[0] if len(elements) == 1 else elements or None
    return value
