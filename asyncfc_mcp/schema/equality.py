"""Equality of JSON values, in linear time: 1 and 1.0 are equal, 1 and true are not.

Pure. Callers that bound their work pass `spend`, which is called with the steps of each value and may raise.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from asyncfc_mcp.schema.json_types import is_array, is_object

_MAX_DEPTH: Final = 200


def _unbounded(steps: int) -> None:
    pass


def all_different(values: Sequence[Any], spend: Callable[[int], None] = _unbounded) -> bool:
    """Return true where no two of the values are equal as JSON.

    Raises:
        RecursionError: they are nested too deeply.
    """
    return len({json_key(value, spend) for value in values}) == len(values)


def json_key(value: Any, spend: Callable[[int], None] = _unbounded, depth: int = 0) -> object:
    """Return a hashable object that is equal for equal JSON values.

    Raises:
        RecursionError: the value is nested too deeply.
    """
    spend(2)
    if depth > _MAX_DEPTH:
        raise RecursionError
    if isinstance(value, bool):
        return ("bool", value)
    if is_array(value):
        return ("array", tuple([json_key(item, spend, depth + 1) for item in value]))
    if is_object(value):
        return ("object", frozenset([(name, json_key(inner, spend, depth + 1)) for name, inner in value.items()]))
    return value
