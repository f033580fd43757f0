"""Keys and indices that do not exist, in expressions.

Owns the difference between null and a missing key, and the words for what is missing. Pure. Leaves to `evaluation`
where an expression looks.

JMESPath gives null for a key that does not exist. Here it fails, with the keys that exist:

- On the way from a value to one part (`$f3.a.b`, `$f3 | [0].id`), every key and index has to exist.
- Within elements (`[*].a`, `[?a > 1]`, `&a`) an element may be without the key, as in JMESPath, but not all of them.
- Null is meant where an expression asks if something is there: left of `||`; behind `!`, a path left of `&&`, and a
  path that is a whole filter (`[?a]`); in `not_null()`; and in a comparison with `null` in backticks. There a missing
  key is null.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from asyncfc_mcp.core.expression_parser import Node
from asyncfc_mcp.core.expressions import Expression
from asyncfc_mcp.errors import ExpressionFailed, PathMissing
from asyncfc_mcp.schema.json_types import is_array, printable, shown_content, shown_path

ALL: Final = 0
"""Mode: every key has to exist."""
ANY: Final = 1
"""Mode within elements: some element has to have the key."""
ASKED: Final = 2
"""Mode: a missing key is null."""
_HEAD: Final = 80

Way = tuple[str, list[str | int]]
"""Name of a future, and the steps from its value to a part."""


@dataclass(frozen=True, slots=True)
class Root:
    """Value of a future.

    Attributes:
        label: ID of the future, for messages.
        result: the value as `.result`, which a server's framework has put it into; None where there is none.
    """

    value: Any
    label: str
    result: tuple[Any] | None


class MissingKeys:
    """Keys that one evaluation has looked for.

    Args:
        written: the reference as it was written.
        roots: the value of each future.
    """

    def __init__(self, expression: Expression, written: str, roots: Mapping[str, Root]) -> None:
        self._expression = expression
        self._written = written
        self._roots = roots
        self._absent: dict[int, Callable[[], ExpressionFailed]] = {}
        """`id` of a node that no element had so far → the failure that this is in the end."""
        self._present: set[int] = set()

    def failed(self, at: int, problem: str) -> ExpressionFailed:
        """Return the failure of the part of the expression at a position."""
        return ExpressionFailed(self._written, self._expression.position(at), problem)

    def present(self, node: Node) -> None:
        """Record that a value, or an element, has what a node takes."""
        self._present.add(id(node))

    def check(self) -> None:
        """
        Raises:
            ExpressionFailed: no element had what the expression takes of elements.
        """
        for node, failure in self._absent.items():
            if node not in self._present:
                raise failure()

    def key(self, node: Node, value: Any, mode: int, way: Way | None) -> None:
        """Record that a value does not have the key or index of a node.

        Args:
            way: to the value, where the expression has taken nothing but keys and indices so far.

        Raises:
            PathMissing: it has to exist.
            ExpressionFailed: it has not, but no element had an earlier one.
        """
        if mode == ALL:
            self.check()
            raise self._missing(node, value, way)
        if value is not None and id(node) not in self._present:
            self._absent.setdefault(id(node), lambda: self._nowhere(node, value))

    def other(self, node: Node, mode: int, problem: Callable[[], str]) -> None:
        """Record that a value is not what a node can be applied to.

        Raises:
            ExpressionFailed: it has to be.
        """
        if mode == ALL:
            self.check()
            raise self.failed(node.get("at", 0), problem())
        if mode == ANY and id(node) not in self._present:
            self._absent.setdefault(id(node), lambda: self.failed(node.get("at", 0), problem()))

    def _missing(self, node: Node, value: Any, way: Way | None) -> PathMissing:
        if way is not None:
            name, trail = way
            missing = shown_path([*trail, node["value"]])
            return PathMissing(self._written, self._roots[name].label, missing, shown_content(shown_path(trail), value))
        before = self._expression.text[self._expression.start : node["at"]].rstrip(" \t\r\n.|")
        where = f"`{printable(before[-_HEAD:])}`" if before else "it"
        missing = f"{shown_path([node['value']])} at character {self._expression.position(node['at'])}"
        return PathMissing(self._written, where, missing, shown_content("it", value))

    def _nowhere(self, node: Node, value: Any) -> ExpressionFailed:
        name, at = node["value"], node["at"]
        shown = shown_path([name])
        problem = f"no element has {shown}; {shown_content('the first', value)}"
        if isinstance(name, int) and not is_array(value):
            problem += f"; for element {name} of the array write | {shown}"
        elif name in ("true", "false", "null"):
            problem += f"; the value is written `{name}`, in backticks"
        elif self._expression.text[at : at + 1] == '"':
            problem += f"; text is written '{printable(str(name), _HEAD)}', in single quotes"
        return self.failed(at, problem)
