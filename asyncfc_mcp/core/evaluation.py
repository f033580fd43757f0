"""Evaluation of expressions over the values of futures, in slices.

Owns the bounds on time and size. Pure: values are never changed, and what it returns may be a part of one. Reading
expressions is the part of `expressions`, functions that of `expression_functions`, keys that do not exist that of
`missing_keys`. The `jmespath` package's own evaluation can neither pause nor tell a missing key from null.

Texts that hold numbers are not compared letter by letter where that gives another order, and values of different types
have no order; both fail instead of giving null.
"""

from collections.abc import Mapping
from typing import Any, Final

from asyncfc_mcp.core import expression_functions as functions
from asyncfc_mcp.core import expression_order as order
from asyncfc_mcp.core.expression_order import CannotApply, Nothing
from asyncfc_mcp.core.expression_parser import Node
from asyncfc_mcp.core.expressions import Expression
from asyncfc_mcp.core.missing_keys import ALL, ANY, ASKED, MissingKeys, Root
from asyncfc_mcp.schema.json_types import is_array, is_object, shown_content
from asyncfc_mcp.slices import Slices

MAX_STEPS: Final = 1_000_000
"""Maximum work for the expressions of one call: about a microsecond each."""
MAX_ELEMENTS: Final = 1_000_000
"""Maximum elements of an array that an expression makes."""
_PAUSE: Final = 256
"""Steps without a pause."""

_PATHS: Final = frozenset({"chain", "field", "index", "variable", "current"})


class Budget:
    """Work that is left for the expressions of one call.

    Attributes:
        pause_at: steps left at which the next pause is due.
    """

    __slots__ = ("left", "pause_at")

    def __init__(self) -> None:
        self.left = MAX_STEPS
        self.pause_at = MAX_STEPS - _PAUSE


class _TooLong(Exception):
    """The work exceeds the budget, or an array the bound on its elements."""


class Evaluation:
    """One evaluation of an expression.

    Args:
        written: the reference as it was written, for messages.
        roots: the value of each future that the expression names.
        max_bytes: maximum size of a text that the expression makes.
    """

    def __init__(
        self, expression: Expression, written: str, roots: Mapping[str, Root], budget: Budget, max_bytes: int
    ) -> None:
        self._expression = expression
        self._roots = roots
        self._missing = MissingKeys(expression, written, roots)
        self._budget = budget
        self._max_bytes = max_bytes

    def run(self) -> Slices[Any]:
        """Return the value of the expression.

        Raises:
            PathMissing: a key or an index does not exist.
            ExpressionFailed: the expression has no value for another reason.
        """
        node = self._expression.node
        assert node is not None
        root = self._roots[self._expression.names[0]]
        try:
            value = yield from self._visit(node, root.value, ALL)
        except _TooLong:
            raise self._missing.failed(0, "it takes too long; select a part of the value first") from None
        except RecursionError:
            raise self._missing.failed(0, "the value is nested too deeply") from None
        self._missing.check()
        return value

    def _spend(self, steps: int) -> None:
        self._budget.left -= steps
        if self._budget.left < 0:
            raise _TooLong

    # --- nodes -----------------------------------------------------------------------------------------------------

    def _visit(self, node: Node, value: Any, mode: int) -> Slices[Any]:
        budget = self._budget
        budget.left -= 1
        if budget.left <= budget.pause_at:
            if budget.left < 0:
                raise _TooLong
            budget.pause_at = budget.left - _PAUSE
            yield
        match node["type"]:
            case "field":
                return self._field(node, value, mode, None)
            case "chain":
                return (yield from self._chain(node, value, mode))
            case "literal":
                return node["value"]
            case "comparator":
                return (yield from self._compared(node, value, mode))
            case "current" | "identity":
                return value
            case "variable":
                return self._roots[node["value"]].value
            case "index":
                return self._field(node, value, mode, None)
            case "function_expression":
                return (yield from self._called(node, value, mode))
            case "multi_select_dict" | "multi_select_list":
                return (yield from self._selected(node, value, mode))
            case "slice":
                return self._sliced(node, value, mode)
            case "or_expression" | "and_expression" | "not_expression":
                return (yield from self._logical(node, value, mode))
            case _:
                return (yield from self._projected(node, value, mode))

    def _chain(self, node: Node, value: Any, mode: int) -> Slices[Any]:
        """Apply steps one after another."""
        base, *steps = node["children"]
        trail: list[str | int] | None = None
        if base["type"] == "variable":
            trail = []
            root = self._roots[base["value"]]
            value = root.value
            if root.result is not None and steps[0]["type"] == "field" and steps[0]["value"] == "result":
                (value,) = root.result
                trail.append("result")
                steps = steps[1:]
        else:
            value = yield from self._visit(base, value, mode)
        for step in steps:
            kind = step["type"]
            if kind == "field" or kind == "index":
                self._spend(1)
                value = self._field(step, value, mode, None if trail is None else (base["value"], trail))
                if trail is not None:
                    trail.append(step["value"])
            else:
                trail = None
                value = yield from self._visit(step, value, mode)
        return value

    def _field(self, node: Node, value: Any, mode: int, way: tuple[str, list[str | int]] | None) -> Any:
        """Return a member of an object or an element of an array.

        Args:
            way: name of a future, and the steps from its value to this one, where there are no others.
        """
        found = _member(value, node["value"])
        if found is not _NOTHING:
            if mode == ANY:
                self._missing.present(node)
            return found
        if mode != ASKED:
            self._missing.key(node, value, mode, way)
        return None

    def _sliced(self, node: Node, value: Any, mode: int) -> Any:
        if not is_array(value):
            return self._no_array(node, value, mode)
        if node["children"][2] == 0:
            raise self._missing.failed(node["at"], "the step of a slice cannot be 0")
        self._spend(len(value) // 8)
        return value[slice(*node["children"])]

    def _no_array(self, node: Node, value: Any, mode: int) -> None:
        """Return null in place of the elements of a value that has none.

        Raises:
            ExpressionFailed: the mode does not allow it.
        """
        if mode == ALL or value is not None:
            wanted = "an object" if node["type"] == "value_projection" else "an array"
            self._missing.other(node, mode, lambda: f"{wanted} is needed here, but {shown_content('the value', value)}")

    def _projected(self, node: Node, value: Any, mode: int) -> Slices[Any]:
        """Apply an expression to each element: `[*]`, `*`, `[?…]` and what follows `[]` or a slice."""
        kind = node["type"]
        base = yield from self._visit(node["children"][0], value, mode)
        if kind == "flatten":
            return (yield from self._flattened(node, base, mode))
        if kind == "value_projection":
            if not is_object(base):
                return self._no_array(node, base, mode)
            base = list(base.values())
        elif not is_array(base):
            return self._no_array(node, base, mode)
        self._missing.present(node)
        each = max(mode, ANY)
        part = node["children"][1]
        condition: Node | None = node["children"][2] if kind == "filter_projection" else None
        asked = ASKED if condition is not None and condition["type"] in _PATHS else each
        found: list[Any] = []
        for element in base:
            if condition is not None and _is_false((yield from self._visit(condition, element, asked))):
                continue
            current = element if part["type"] == "identity" else (yield from self._visit(part, element, each))
            if current is not None:
                found.append(current)
        self._spend(len(base) // 8)
        return found

    def _flattened(self, node: Node, base: Any, mode: int) -> Slices[Any]:
        if not is_array(base):
            return self._no_array(node, base, mode)
        self._missing.present(node)
        merged: list[Any] = []
        for element in base:
            if is_array(element):
                self._spend(1 + len(element) // 8)
                merged += element
            else:
                self._spend(1)
                merged.append(element)
            if len(merged) > MAX_ELEMENTS:
                raise _TooLong
            yield
        return merged

    def _selected(self, node: Node, value: Any, mode: int) -> Slices[Any]:
        """Build an array or an object of several expressions."""
        if value is None and mode != ALL:
            return None
        if node["type"] == "multi_select_list":
            items: list[Any] = []
            for child in node["children"]:
                items.append((yield from self._visit(child, value, mode)))  # noqa: PERF401 - pauses
            return items
        members: dict[str, Any] = {}
        for child in node["children"]:
            members[child["value"]] = yield from self._visit(child["children"][0], value, mode)
        return members

    # --- conditions ------------------------------------------------------------------------------------------------

    def _logical(self, node: Node, value: Any, mode: int) -> Slices[Any]:
        first = node["children"][0]
        is_or = node["type"] == "or_expression"
        asked = ASKED if is_or or first["type"] in _PATHS else mode
        left = yield from self._visit(first, value, asked)
        if node["type"] == "not_expression":
            return _is_false(left)
        if _is_false(left) == is_or:
            return (yield from self._visit(node["children"][1], value, mode))
        return left

    def _compared(self, node: Node, value: Any, mode: int) -> Slices[Any]:
        one, other = node["children"]
        nullable = any(side["type"] == "literal" and side["value"] is None for side in (one, other))
        asked = ASKED if nullable else mode
        left = yield from self._visit(one, value, asked)
        right = yield from self._visit(other, value, asked)
        match node["value"]:
            case "eq":
                return (yield from order.equal(left, right, self._spend))
            case "ne":
                return not (yield from order.equal(left, right, self._spend))
            case _:
                return self._ordered(node, left, right, mode)

    def _ordered(self, node: Node, left: Any, right: Any, mode: int) -> bool | None:
        """Compare two numbers or two texts; null for others."""
        try:
            result = order.comparing(node["value"], left, right)
        except CannotApply as exc:
            raise self._missing.failed(node["at"], str(exc)) from None
        if result is not None:
            self._missing.present(node)
        elif mode == ALL or (left is not None and right is not None):
            self._missing.other(node, mode, lambda: order.no_order(left, right))
        return result

    # --- functions -------------------------------------------------------------------------------------------------

    def _called(self, node: Node, value: Any, mode: int) -> Slices[Any]:
        name = node["value"]
        arguments: list[Any] = []
        for index, child in enumerate(node["children"]):
            if child["type"] == "expref":
                arguments.append(child["children"][0])
                continue
            asked = ASKED if name == "not_null" else mode
            argument = yield from self._visit(child, value, asked)
            if argument is None and mode != ALL and not functions.takes_null(name, index):
                return None
            arguments.append(argument)
        try:
            if name in functions.BY_EXPRESSION:
                return (yield from self._by_expression(name, arguments, mode))
            result: Any = yield from functions.applying(name, arguments, self._spend, self._max_bytes)
        except Nothing as exc:
            if mode == ALL:
                self._missing.check()
                raise self._missing.failed(node["at"], str(exc)) from None
            return None
        except CannotApply as exc:
            self._missing.check()
            raise self._missing.failed(node["at"], str(exc)) from None
        # What functions make takes memory and time, however few they are.
        if isinstance(result, str):
            self._spend(len(result) // 100)
        elif is_array(result) or is_object(result):
            self._spend(len(result) // 8)
        return result

    def _by_expression(self, name: str, arguments: list[Any], mode: int) -> Slices[Any]:
        """Apply a function to an array, of which each element is visited by an expression."""
        items, by = (arguments[1], arguments[0]) if name == "map" else arguments
        yield from functions.checking(name, items, ["array"], self._spend)
        keys: list[Any] = []
        for item in items:
            keys.append((yield from self._visit(by, item, max(mode, ANY))))  # noqa: PERF401 - pauses
        if name == "map":
            return keys
        if not items:
            if name == "sort_by":
                return items
            raise Nothing(f"{name}() of an empty array has no value")
        wanted = "array-string" if isinstance(keys[0], str) else "array-number"
        if any(key is None for key in keys):
            self._missing.check()
            number = next(index for index, key in enumerate(keys) if key is None)
            raise CannotApply(f"element {number} has no value to compare; filter first, as in [?price]")
        yield from functions.checking(name, keys, [wanted], self._spend)
        if wanted == "array-string":
            yield from order.check_keys(keys, self._spend)
        if name == "sort_by":
            return (yield from order.in_order(items, keys, self._spend))
        return items[keys.index(min(keys) if name == "min_by" else max(keys))]


_NOTHING: Final[Any] = object()


def _member(value: Any, step: str | int) -> Any:
    """Return a member of an object or an element of an array; `_NOTHING` where there is none."""
    if is_object(value):
        return value.get(step, _NOTHING) if isinstance(step, str) else _NOTHING
    if is_array(value):
        if isinstance(step, str):
            if not (step.isascii() and step.removeprefix("-").isdigit() and len(step) <= 18):
                return _NOTHING
            step = int(step)
        return value[step] if -len(value) <= step < len(value) else _NOTHING
    return _NOTHING


def _is_false(value: Any) -> bool:
    """Return true for what counts as false: null, false, and an empty text, array or object."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)
