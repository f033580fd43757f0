"""Functions of expressions: JMESPath's own, and some to calculate and to write texts.

Owns their arguments, their types and their results; all but those that visit elements of an array by an expression,
which are `evaluation`'s. Signatures, and what is as quick for large values as for small, are the `jmespath` package's;
the rest pauses (see `slices`). Pure.

Ours calculate with decimal fractions, as on paper: `add(0.1, 0.2)` is 0.3, and `round` rounds half away from zero. They
also accept text that is a JSON number, since many tools return such.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, DecimalException
from itertools import islice
from math import isfinite
from typing import Any, Final

from jmespath.functions import Functions

from asyncfc_mcp.core.expression_order import (
    NUMERIC,
    TOGETHER,
    CannotApply,
    Nothing,
    Spend,
    article,
    check_keys,
    containing,
    described,
    in_order,
    kind_of,
    kind_of_type,
)
from asyncfc_mcp.schema.json_types import is_array, parse_json, printable
from asyncfc_mcp.slices import Slices
from asyncfc_mcp.values.large import is_large, measuring, writing

BY_EXPRESSION: Final = frozenset({"sort_by", "min_by", "max_by", "map"})
"""Functions that visit elements by an expression."""
_BITS: Final = 2_048
"""Maximum size of a whole number that is calculated with."""
_DECIMALS: Final = 20
"""Maximum decimals to which numbers are rounded."""
_CONTEXT: Final = Context(prec=400, rounding=ROUND_HALF_UP)
_EXACT: Final = 1 << 53
_PLACE: Final = re.compile(r"\{\{|\}\}|\{([0-9]{0,2})(?::\.([0-9]{1,2})f)?\}|[{}]")


_SIGNATURES: Final[Mapping[str, Sequence[Mapping[str, Any]]]] = {
    name: entry["signature"] for name, entry in Functions.FUNCTION_TABLE.items()
}
_IMPLEMENTATIONS: Final[Mapping[str, Callable[..., Any]]] = {
    name: entry["function"] for name, entry in Functions.FUNCTION_TABLE.items()
}
_OURS: Final[Mapping[str, tuple[int, int | None]]] = {
    "round": (1, 2), "add": (2, None), "sub": (2, 2), "mul": (2, None), "div": (2, 2), "format": (1, None),
}  # fmt: skip
"""Our functions, with the least and the largest number of their arguments."""
FUNCTIONS: Final = frozenset(_SIGNATURES) | frozenset(_OURS)
_EMPTY_HAS_NONE: Final = frozenset({"min", "max", "avg"})
_PACKAGE: Final = Functions()


def arity_problem(name: str, arguments: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what is wrong with a call, as far as that is known without values: its name, or its arguments."""
    if name not in FUNCTIONS:
        return f"there is no function {printable(name, 40)}(); there are {', '.join(sorted(FUNCTIONS))}"
    if name in _OURS:
        least, most = _OURS[name]
    else:
        signature = _SIGNATURES[name]
        least, most = len(signature), None if signature[-1].get("variadic") else len(signature)
    if len(arguments) < least or (most is not None and len(arguments) > most):
        wanted = str(least) if least == most else f"at least {least}" if most is None else f"{least} to {most}"
        return f"{name}() takes {wanted} argument{'' if wanted == '1' else 's'}, not {len(arguments)}"
    for index, argument in enumerate(arguments):
        wants = name in BY_EXPRESSION and index == (0 if name == "map" else 1)
        if wants != (argument["type"] == "expref"):
            example = f"{name}(&price, list)" if name == "map" else f"{name}(list, &price)"
            return f"write {example}" if name in BY_EXPRESSION else f"{name}() takes no expression behind &"
    return None


def takes_null(name: str, index: int) -> bool:
    """Return true for an argument of a function that null is meant for."""
    if name in _OURS:
        return name == "format"
    signature = _SIGNATURES[name]
    types = signature[min(index, len(signature) - 1)]["types"]
    return not types or "null" in types


def applying(name: str, arguments: list[Any], spend: Spend, max_bytes: int) -> Slices[Any]:
    """Apply a function that is not `BY_EXPRESSION` to values, which are not changed.

    Args:
        spend: is called with the steps that pause.
        max_bytes: maximum size of a text that the function makes.

    Raises:
        CannotApply: the values have wrong types, or the result would be too large.
        Nothing: it chooses from an empty array.
    """
    match name:
        case "round":
            return _rounded(arguments)
        case "add" | "sub" | "mul" | "div":
            return _calculated(name, arguments)
        case "format":
            return (yield from _formatting(arguments, spend, max_bytes))
        case _:
            pass
    for index, value in enumerate(arguments):
        signature = _SIGNATURES[name]
        yield from checking(name, value, signature[min(index, len(signature) - 1)]["types"], spend)
    first = arguments[0]
    match name:
        case "sort":
            return (yield from in_order(first, list(first), spend))
        case "to_string":
            return (yield from as_text(first, max_bytes))
        case "to_number":
            return _number(first)
        case "contains" if is_array(first):
            return (yield from containing(first, arguments[1], spend))
        case "contains":
            if not isinstance(arguments[1], str):
                return False
        case "merge":
            return (yield from _merged(arguments, spend))
        case "join":
            _check_length(sum(map(len, arguments[1])) + len(first) * len(arguments[1]), max_bytes)
        case "reverse" if isinstance(first, str):
            _check_length(len(first), max_bytes)
        case _ if name in _EMPTY_HAS_NONE and not first:
            raise Nothing(f"{name}() of an empty array has no value")
        case _:
            pass
    try:
        return _finite(_IMPLEMENTATIONS[name](_PACKAGE, *arguments))
    except (OverflowError, ValueError):
        raise CannotApply(f"the result of {name}() is too large") from None


def _merged(arguments: list[dict[str, Any]], spend: Spend) -> Slices[dict[str, Any]]:
    merged: dict[str, Any] = {}
    for argument in arguments:
        members = iter(argument.items())
        while some := dict(islice(members, TOGETHER)):
            merged.update(some)
            spend(len(some) // 8 + 2)
            yield
    return merged


def checking(name: str, value: Any, types: Sequence[str], spend: Spend) -> Slices[None]:
    """Check an argument of a function against its types in JMESPath (`array-number`, `string`, …).

    Raises:
        CannotApply: it has none of them.
    """
    if not types:
        return
    kind = kind_of(value)
    plain = [wanted.partition("-")[0] for wanted in types]
    if kind not in plain:
        raise CannotApply(f"{name}() needs {_either(types)}, not {described(value)}{_hint(name, kind)}")
    items = [wanted.partition("-")[2] for wanted in types if wanted.startswith(kind + "-")]
    if not items:
        return
    for start in range(0, len(value), TOGETHER):
        some = value[start : start + TOGETHER]
        spend(len(some) // 64 + 1)
        kinds = {kind_of_type(sort) for sort in set(map(type, some))}
        items = [wanted for wanted in items if kinds == {wanted}]
        if not items:
            odd = next((item for item in some if kind_of(item) not in _item_kinds(types)), some[0])
            raise CannotApply(f"{name}() needs {_either(types)}, but there is {described(odd)}{_hint(name, 'array')}")
        yield
    if name in ("max", "min", "sort") and "string" in items:
        yield from check_keys(value, spend)


def _item_kinds(types: Sequence[str]) -> set[str]:
    return {wanted.partition("-")[2] for wanted in types}


def _either(types: Sequence[str]) -> str:
    return " or ".join(
        f"an array of {wanted[6:]}s" if wanted.startswith("array-") else f"{article(wanted)} {wanted}"
        for wanted in types
    )


def _hint(name: str, kind: str) -> str:
    if name in ("sum", "avg", "max", "min") and kind == "array":
        return f"; write {name}(list[*].to_number(price)) for text, and filter first: [?price]"
    if kind == "string" and name in ("abs", "ceil", "floor"):
        return f"; write {name}(to_number(x))"
    return ""


# --- numbers -------------------------------------------------------------------------------------------------------


def _number(value: Any) -> int | float:
    """Return the number that a value is, or is the text of.

    Raises:
        Nothing: it is neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and NUMERIC.fullmatch(value) is not None:
        return _finite(parse_json(value))
    raise Nothing(f"{described(value)} is not a number")


def _operand(name: str, value: Any) -> int | Decimal:
    try:
        number = _number(value)
    except (Nothing, ValueError):
        raise CannotApply(f"{name}() needs numbers, not {described(value)}") from None
    if isinstance(number, int):
        if number.bit_length() > _BITS:
            raise CannotApply(f"{name}() does not take a number of so many digits")
        return number
    return Decimal(repr(number))


def _calculated(name: str, arguments: list[Any]) -> int | float:
    total, *rest = [_operand(name, value) for value in arguments]
    try:
        for number in rest:
            if name == "div" and not number:
                raise CannotApply("div() by zero")
            if isinstance(total, int) and isinstance(number, int):
                match name:
                    case "add":
                        total = total + number
                    case "sub":
                        total = total - number
                    case "mul":
                        total = total * number
                    case _:
                        whole, left = divmod(total, number)
                        total = _CONTEXT.divide(Decimal(total), Decimal(number)) if left else whole
                continue
            left, right = Decimal(total), Decimal(number)
            match name:
                case "add":
                    total = _CONTEXT.add(left, right)
                case "sub":
                    total = _CONTEXT.subtract(left, right)
                case "mul":
                    total = _CONTEXT.multiply(left, right)
                case _:
                    total = _CONTEXT.divide(left, right)
    except DecimalException:
        raise CannotApply(f"the result of {name}() is too large") from None
    return _plain(name, total)


def _rounded(arguments: list[Any]) -> int | float:
    number, places = _operand("round", arguments[0]), arguments[1] if len(arguments) > 1 else 0
    if isinstance(places, float) and places.is_integer():
        places = int(places)
    if not isinstance(places, int) or isinstance(places, bool) or abs(places) > _DECIMALS:
        raise CannotApply(f"round(x, n) needs a whole number n of at most {_DECIMALS}, not {described(places)}")
    if isinstance(number, int) and places >= 0:
        return number
    return _plain("round", _quantized(number, places))


def _quantized(number: int | Decimal, places: int) -> Decimal:
    try:
        return Decimal(number).quantize(Decimal(1).scaleb(-places), context=_CONTEXT)
    except DecimalException:
        raise CannotApply("the number is too large to be rounded") from None


def _plain(name: str, number: int | Decimal) -> int | float:
    """Return a number as JSON has it: without a fraction of zero."""
    if isinstance(number, Decimal):
        result = float(number)
        return int(result) if abs(result) < _EXACT and result.is_integer() else _finite(result)
    if number.bit_length() > _BITS:
        raise CannotApply(f"the result of {name}() is too large")
    return number


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        raise CannotApply("the result is too large for a number")
    return value


# --- texts ---------------------------------------------------------------------------------------------------------


def as_text(value: Any, max_bytes: int) -> Slices[str]:
    """Return a value as text: a string itself, and anything else as JSON.

    Raises:
        CannotApply: it would be too large.
    """
    if isinstance(value, str):
        return value
    try:
        if not is_large(value):
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        _check_length((yield from measuring(value, max_bytes)), max_bytes)
        return b"".join((yield from writing(value))).decode()
    except RecursionError:
        raise CannotApply("the value is nested too deeply") from None


def _formatting(arguments: list[Any], spend: Spend, max_bytes: int) -> Slices[str]:
    """Fill the places of a template: `{}` in order, `{0}` by number, `{:.2f}` with decimals; `{{` is a brace."""
    template, *values = arguments
    if not isinstance(template, str):
        raise CannotApply(f"format() needs a text with {{}} in it first, not {described(template)}")
    pieces: list[str] = []
    done = used = length = 0
    for place in _PLACE.finditer(template):
        spend(1)
        piece = template[done : place.start()]
        if place[0] in ("{{", "}}"):
            piece += place[0][0]
        elif len(place[0]) == 1:
            raise CannotApply(f"format() does not know {printable(template[place.start() :], 20)}: write {{}} or {{0}}")
        else:
            index = int(place[1]) if place[1] else used
            used += 1
            if index >= len(values):
                raise CannotApply(f"format() has {len(values)} values for more places than that")
            value = values[index]
            if place[2]:
                value = f"{_quantized(_operand('format', value), min(int(place[2]), _DECIMALS)):f}"
            piece += yield from as_text(value, max_bytes)
        pieces.append(piece)
        length += len(piece)
        _check_length(length, max_bytes)
        done = place.end()
        yield
    if values and not used:
        raise CannotApply("format() needs a {} in its text for each value")
    pieces.append(template[done:])
    return "".join(pieces)


def _check_length(length: int, most: int) -> None:
    if length > most:
        raise CannotApply(f"the text would have more than {most} bytes")
