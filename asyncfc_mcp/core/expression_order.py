"""Equality and order of values in expressions.

Owns when two values are equal, when they have an order, and sorting. Pure; what takes long pauses (see `slices`).
Leaves to `expression_functions` and `evaluation` what they do with it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from asyncfc_mcp.schema.json_types import json_type, parse_json, printable
from asyncfc_mcp.slices import Slices

MAX_KEY_CHARS: Final = 1_000
"""Maximum characters of a text that is compared with others to sort them."""
TOGETHER: Final = 4_096
"""Elements that are sorted, or whose types are looked at, without a pause."""
PAUSE: Final = 256
"""Steps without a pause."""
NUMERIC: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,40}+)(?:\.[0-9]{1,40}+)?(?:[eE][+-]?[0-9]{1,3})?")


class CannotApply(Exception):
    """A function has no result for its arguments. The text says why, and what to do."""


class Nothing(Exception):
    """A function has no result because there is nothing to choose from; JMESPath gives null."""


Spend = Callable[[int], None]
"""Counts steps of work; it may raise."""


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def kind_of(value: Any) -> str:
    return kind_of_type(type(value))  # pyright: ignore[reportUnknownArgumentType]


def kind_of_type(sort: type[Any]) -> str:
    return _KINDS.get(sort, "null")


_KINDS: Final[Mapping[type[Any], str]] = {
    bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object",
}  # fmt: skip


def described(value: Any) -> str:
    kind = json_type(value)
    if isinstance(value, str):
        return f"the string {printable(json.dumps(value[:40], ensure_ascii=False))}"
    return kind if kind == "null" else f"{article(kind)} {kind}"


def numeric(value: Any) -> int | float | None:
    """Return the number that a text holds; None for other text."""
    return parse_json(value) if NUMERIC.fullmatch(value) is not None else None


def check_keys(keys: Sequence[Any], spend: Spend) -> Slices[None]:
    """Check texts that are going to be compared.

    Raises:
        CannotApply: one is too long, or they are numbers whose order as text is another.
    """
    wholes: set[int] | None = set()
    """Lengths of the digits before the point, while all texts are positive numbers: equal ones sort as the numbers."""
    for start in range(0, len(keys), TOGETHER):
        some = keys[start : start + TOGETHER]
        spend(len(some) // 16 + 1)
        if max(map(len, some)) > MAX_KEY_CHARS:
            raise CannotApply(f"texts of more than {MAX_KEY_CHARS} characters are not compared")
        if wholes is not None and all(map(NUMERIC.fullmatch, some)):
            wholes.update(-1 if text[0] == "-" or "e" in text.lower() else len(text.partition(".")[0]) for text in some)
        else:
            wholes = None
        yield
    if wholes is not None and len(keys) > 1 and (len(wholes) > 1 or -1 in wholes):
        raise CannotApply(
            f"the values are text that holds numbers, such as {described(keys[0])}, and text is compared letter by "
            "letter; write to_number(x)"
        )


def in_order(items: Sequence[Any], keys: list[Any], spend: Spend) -> Slices[list[Any]]:
    """Return the items sorted by their keys, which are all numbers or all texts. Equal ones keep their order.

    Sorted in pieces, of which two at a time are then merged: the sort of Python's lists does that in one pass.
    """
    runs: list[list[int]] = []
    for start in range(0, len(items), TOGETHER):
        run = sorted(range(start, min(start + TOGETHER, len(items))), key=keys.__getitem__)
        runs.append(run)
        spend(len(run))
        yield
    while len(runs) > 1:
        merged: list[list[int]] = []
        for first in range(0, len(runs), 2):
            run = [*runs[first], *(runs[first + 1] if first + 1 < len(runs) else ())]
            run.sort(key=keys.__getitem__)
            spend(len(run) // 8)
            merged.append(run)
            yield
        runs = merged
    return [items[index] for index in runs[0]] if runs else []


def containing(items: list[Any], wanted: Any, spend: Spend) -> Slices[bool]:
    for number, item in enumerate(items, 1):
        spend(1)
        if not number % PAUSE:
            yield
        if (yield from equal(item, wanted, spend)):
            return True
    return False


def equal(one: Any, other: Any, spend: Spend) -> Slices[bool]:
    """Return true where two values are equal as JSON: 1 and 1.0 are, 1 and true are not."""
    if one is other:
        return True
    kind = kind_of(one)
    if kind != kind_of(other):
        return False
    if kind not in ("array", "object"):
        return one == other
    # Pairs that are still to be compared: an explicit stack, since values may be nested deeply.
    todo: list[tuple[Any, Any]] = [(one, other)]
    steps = 0
    while todo:
        spend(1)
        steps += 1
        if not steps % PAUSE:
            yield
        left, right = todo.pop()
        if left is right:
            continue
        kind = kind_of(left)
        if kind != kind_of(right):
            return False
        if kind == "array":
            if len(left) != len(right):
                return False
            todo += zip(left, right, strict=True)
        elif kind == "object":
            if left.keys() != right.keys():
                return False
            todo += ((value, right[key]) for key, value in left.items())
        elif left != right:
            return False
    return True


def comparing(comparator: str, left: Any, right: Any) -> bool | None:
    """Compare two numbers or two texts by `lt`, `gt`, `lte` or `gte`; None for others, which have no order.

    Raises:
        CannotApply: both are texts that hold numbers, whose order is another.
    """
    if isinstance(left, str) and isinstance(right, str):
        numbers = numeric(left), numeric(right)
        if None not in numbers and _compare(comparator, left, right) != _compare(comparator, *numbers):
            raise CannotApply(
                f"{described(left)} and {described(right)} are compared letter by letter; write to_number(x)"
            )
    elif kind_of(left) != "number" or kind_of(right) != "number":
        return None
    return _compare(comparator, left, right)


def _compare(comparator: str, left: Any, right: Any) -> bool:
    match comparator:
        case "lt":
            return left < right
        case "gt":
            return left > right
        case "lte":
            return left <= right
        case _:
            return left >= right


def no_order(left: Any, right: Any) -> str:
    """Return the words for two values that have no order."""
    kinds = {json_type(left), json_type(right)}
    hint = "; write to_number(x)" if "string" in kinds and kinds & {"integer", "number"} else ""
    return f"{json_type(left)} and {json_type(right)} have no order{hint}"
