"""Whole arguments that are meant as references, although no future has their name: those that must not be sent as text.

Owns the line between such an argument and text that looks like one. Pure: `references` owns the syntax; waiting for a
name, and refusing the call, are the bridge's job.

Meant as a reference is a string that is nothing but one, if its name begins with a lower-case letter, or if it has a
path and its name is no upper-case word (`$HOME`); also `${f:name}` and `{"$future": "name"}`, which nothing else uses.
An expression with operators or functions is meant as one if a part of a future is in it (`length($list.files)`), or
what only JMESPath has (`$list | length(@)`), but not `length($x)` or `$x | sort`, which programs have as well.
Inside objects `$name` without a path stays text, since templates and queries are full of it (`{"$sum": "$price"}`), and
so does each `$name` beside keys that begin with `$`.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from asyncfc_mcp.core.references import MAX_REFERENCES, Position, Reference, Replacement, Search, Step, replacements
from asyncfc_mcp.errors import TooManyReferences
from asyncfc_mcp.schema.json_types import is_object
from asyncfc_mcp.values.sizes import levels

_DOLLARS: Final = re.compile(r"\$\$++(?=[A-Za-z_])")
MAX_DEPTH: Final = 32
"""Depth in arguments below which everything unknown is text: a position costs its depth."""


def required(arguments: Mapping[str, Any], unknown: Collection[str]) -> dict[str, str]:
    """Return those of the `unknown` names that cannot be meant as text → the argument as written."""
    found: dict[str, str] = {}
    judge = _Judge(arguments)
    for position, value, replacement in _would_be(arguments):
        if not isinstance(replacement, Reference):
            continue
        heads = [head for head in replacement.keys if head in unknown and head not in found]
        if heads and (steps := _steps(position)) is not None and judge.is_meant(steps, value, replacement):
            found.update(dict.fromkeys(heads, replacement.written))
    return found


def unescaped(arguments: Mapping[str, Any], unknown: Collection[str]) -> dict[str, Any] | None:
    """Return the arguments with `$$name` as the text `$name`, where that without an escape would be refused because its
    name is `unknown`; None if there is none."""
    changed: dict[str, Any] | None = None
    copied: dict[tuple[Step, ...], Any] = {}
    judge = _Judge(arguments)
    for position, value, replacement in _would_be(arguments):
        if not isinstance(value, str) or isinstance(replacement, Reference) or len(replacement) > 1:
            continue
        (literal,) = replacement
        if not isinstance(literal, str) or (steps := _steps(position)) is None:
            continue
        plain = _DOLLARS.sub("$", value, count=1)
        reference = next((each for _, _, each in _would_be({"": plain})), None)
        if not isinstance(reference, Reference) or not any(head in unknown for head in reference.keys):
            continue
        if judge.is_meant(steps, plain, reference):
            if changed is None:
                changed = copied[()] = dict(arguments)
            _put(copied, steps, literal)
    return changed


def _would_be(arguments: Mapping[str, Any]) -> Iterator[tuple[Position | None, Any, Replacement]]:
    """Yield what would be replaced if each name were known, of very many references the first."""
    with suppress(TooManyReferences):
        yield from replacements(arguments, Search(lambda name: name, MAX_REFERENCES))


def _steps(position: Position | None) -> tuple[Step, ...] | None:
    """Return the steps to a position; None where it is too deep."""
    steps: list[Step] = []
    while position is not None:
        position, step = position
        steps.append(step)
        if len(steps) > MAX_DEPTH:
            return None
    return tuple(reversed(steps))


class _Judge:
    """Tells references from text in the arguments of one call."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._has_dollar_keys: dict[Step, bool] = {}

    def is_meant(self, steps: tuple[Step, ...], value: object, reference: Reference) -> bool:
        """Return true for an argument that can only be meant as a reference."""
        if not isinstance(value, str):
            return True
        if value != reference.written:  # a piece of a longer text
            return False
        if value.startswith("${") or reference.certain:
            return True
        head = next(iter(reference.keys))
        has_path = bool(reference.selected)
        if not has_path and len(value) > len(head) + 1:
            return False
        if not (head[0].islower() or (has_path and head != head.upper())):
            return False
        if not any(isinstance(step, str) for step in steps[1:]):
            return True
        return has_path and not self._is_template(steps[0])

    def _is_template(self, name: Step) -> bool:
        """Return true for an argument with keys that begin with `$`, such as a query."""
        if name not in self._has_dollar_keys:
            self._has_dollar_keys[name] = any(
                kind is dict and any(str(key).startswith("$") for item in items for key in item)
                for kind, items in levels(self._arguments[str(name)])
            )
        return self._has_dollar_keys[name]


def _put(copied: dict[tuple[Step, ...], Any], steps: tuple[Step, ...], value: str) -> None:
    """Set a value in copies of the containers on the way to it, each of which is copied once.

    Args:
        copied: position → copy; has the root.
    """
    for depth in range(1, len(steps)):
        if steps[:depth] not in copied:
            parent, step = copied[steps[: depth - 1]], steps[depth - 1]
            parent[step] = copied[steps[:depth]] = dict(parent[step]) if is_object(parent[step]) else list(parent[step])
    copied[steps[:-1]][steps[-1]] = value
