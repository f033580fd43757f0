r"""References: futures named inside the arguments of a later call.

Owns finding references in arguments, and which texts are none. Pure and synchronous: `known` resolves IDs and names.
`expressions` reads what stands behind a name; `reference_values` puts values in their place; nothing here waits for a
future or reads its state.

Syntax. Only IDs and names that `known` resolves make a reference; everything else stays as it is, to the byte.

- A string that is nothing but `$f3`, `$name` or a JMESPath expression that begins with one (`$f3.items[0].id`,
  `$f3.items | min_by(@, &price).id`) or with a function (`length($f3.items)`): the value, typed.
- `${f:f3}`, `${f:name.title}` or `${f:length($f3.items)}` inside a longer string, any number of times: text. On its
  own it is the value, typed. The `f:` is there because calls carry files: `${name}` is a variable of many languages
  and templates, `${f:name}` of none (`benchmarks/reference_form.py` counts both in published packages). A number after
  the colon is no name, so that substrings in bash (`${f:0:3}`) are no references.
- `{"$future": "f3", "path": "items[0].id"}` with no other keys (`path` may be missing or null): the value, typed.
- What is no valid expression is text, unless it can only be meant as one (`[?`, `@` or `&` as an argument, operators
  between parts of futures). Then the call fails with the position. The object form never is text.
- `$$` is an escape only directly before something that would otherwise be a reference. A whole string `$$f3` gives
  `$f3`, and `length($$f3)` gives `length($f3)`: of several `$` before the first name, one is removed. Before `{f:f3}`
  each pair of `$` gives one, so that `$${f:f3}` is the text `${f:f3}`, and `$$${f:f3}` is a dollar sign and the value.
  `cost $$5`, `echo $$` and `$$HOME` are no escapes.
- Keys of objects are never references, and values put in are never searched for references.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

from asyncfc_mcp.errors import TooManyReferences
from asyncfc_mcp.schema.json_types import is_array, is_object
from asyncfc_mcp.values.sizes import levels

if TYPE_CHECKING:
    from asyncfc_mcp.core.expressions import Expression

Known = Callable[[str], str | None]
"""Resolves an ID or a name (without `$`) to the key of its future, or to None."""
Step = str | int
"""One step of a path: a key of an object, or an index of an array."""

# All quantifiers are possessive, so that no text causes backtracking.
_NAME: Final = r"[A-Za-z_][A-Za-z0-9_-]*+"
_WHOLE: Final = re.compile(rf"(\$++)({_NAME})")
_CALL: Final = re.compile(r"[a-z_]++\(")
_OPENING: Final = "${f:"
_BRACED: Final = re.compile(rf"(\$++)\{{f:(?:({_NAME})(?!\()|(?=[a-z_]++\())")
_OBJECT_HEAD: Final = re.compile(rf"\$?({_NAME})")
_GOES_ON: Final = frozenset(".[ \t\r\n|&=!<>")
"""Characters that may stand directly behind the first name of an expression."""
_LOOKS_LIKE_ID: Final = re.compile(r"f(?:[0-9]+|[0-9a-f]{32})")
_LONGEST_NAME: Final = 64
_LONGEST_WHOLE: Final = 8192
"""Maximum characters of a reference with its path; a longer string is text."""
MAX_REFERENCES: Final = 10_000
"""Maximum references of one call, and places in its texts that look like them: each takes microseconds."""
MAX_UNKNOWN: Final = 256
"""Maximum names not yet in use that a call may wait for."""
_MOST_BRACED: Final = 514
"""Maximum tokens within braces."""
_MOST_WORK: Final = 40_000
"""Maximum work of reading the expressions of one call: 10,000 with one step each, and about a microsecond per unit."""
_FEW_PARTS: Final = 250
"""Maximum parts of arguments that are examined one by one, not level by level."""
_OBJECT_KEYS: Final = ({"$future"}, {"$future", "path"})


@dataclass(frozen=True, slots=True)
class Found:
    """References in arguments."""

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """ID or name as written → key of the future that it means, in order of appearance."""
    unknown: tuple[str, ...] = ()
    """Names of would-be references that `known` does not resolve, also escaped ones; none looks like an ID."""
    unreadable: bool = False
    """True where one is written wrongly, so that the call fails whatever the futures give."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the futures that the arguments need, in order of appearance."""
        return tuple(dict.fromkeys(self.names.values()))


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference as it appears in arguments."""

    written: str
    keys: Mapping[str, str]
    """ID or name, without `$` → `FutureKey` of the future; in order of appearance."""
    expression: "Expression | None" = None
    """The part or the computation; None for the whole value of the only future."""
    problem: tuple[int | None, str] | None = None
    """Position (from 1) and description of what is wrong with it."""

    @property
    def certain(self) -> bool:
        """True where it cannot be meant as anything else."""
        return self.problem is not None or (self.expression is not None and self.expression.certain)

    @property
    def selected(self) -> frozenset[str]:
        """IDs and names of which it takes a part."""
        return self.expression.selected if self.expression is not None else frozenset()


Replacement = Reference | list[str | Reference]
"""Replacement of an argument: one value, or pieces of text to join. Pieces without a reference undo an escape."""

Position = tuple["Position | None", Step]
"""Position in arguments: the position of the container, and the step from there. Not a flat path, which would cost
depth × positions."""


def find(arguments: Any, known: Known) -> Found:
    """Find the references in arguments. `known` is asked about escaped references as well: undoing an escape needs it.

    One walk without recursion where no string contains a `$`.

    Raises:
        TooManyReferences: there are more than `MAX_REFERENCES`, or places in texts that look like them.
    """
    if not may_refer(arguments):
        return Found()
    search = Search(known, MAX_REFERENCES)
    names: dict[str, str] = {}
    unreadable = False
    for _, _, replacement in replacements(arguments, search):
        for part in (replacement,) if isinstance(replacement, Reference) else replacement:
            if isinstance(part, Reference):
                names.update(part.keys)
                unreadable = unreadable or part.problem is not None
    # More distinct names than this are data that contains dollar signs.
    return Found(names, tuple(search.unknown) if len(search.unknown) <= MAX_UNKNOWN else (), unreadable)


def mentioned(arguments: Any) -> list[str]:
    """Return every ID and name that `find` may ask about, whatever exists."""
    names: dict[str, None] = {}

    def unknown(name: str) -> None:
        if len(name) <= _LONGEST_NAME:
            names[name] = None

    # Where a name is unknown, its surroundings are searched, too: this finds more than `find` does, never less. If it
    # exceeds a limit before `find` does, the rest counts as unknown there.
    with suppress(TooManyReferences):
        find(arguments, unknown)
    return list(names)


def is_reference(value: Any, known: Known) -> bool:
    """Return true where the value is a reference or contains one, at any depth."""
    return any(
        isinstance(part, Reference)
        for _, _, replacement in replacements(value, Search(known))
        for part in ((replacement,) if isinstance(replacement, Reference) else replacement)
    )


def may_refer(arguments: Any) -> bool:
    """Return true where any text contains a `$`; most arguments contain none and need no further search."""
    parts: list[Any] = [arguments]
    for item in parts:  # grows meanwhile
        kind = type(item)  # pyright: ignore[reportUnknownVariableType]
        if kind is str:
            if "$" in item:
                return True
        elif kind is dict or kind is list:
            if kind is dict and "$future" in item:
                return True
            if len(parts) + len(item) > _FEW_PARTS:
                break
            parts += item.values() if kind is dict else item
    else:
        return False
    for kind, items in levels(arguments):
        if kind is str and any(map(str.__contains__, items, repeat("$"))):
            return True
        if kind is dict and any(map(dict[str, Any].__contains__, items, repeat("$future"))):
            return True
    return False


class Search:
    """State of one search: `known` is asked once for each name, and references are counted.

    Args:
        limit: maximum references, and places in texts that look like them; None for any number.
    """

    __slots__ = ("_keys", "_known", "_left", "_read", "_work", "unknown")

    def __init__(self, known: Known, limit: int | None = None) -> None:
        self._known, self._left = known, limit
        self._work = _MOST_WORK
        self._read: dict[str, Expression] = {}
        self._keys: dict[str, str | None] = {}
        self.unknown: dict[str, None] = {}
        """IDs and names of would-be references that `known` does not resolve, in order of appearance."""

    def key_of(self, head: str) -> str | None:
        """Return the key of the future with this ID or name; None where there is none, which is recorded."""
        if head not in self._keys:
            self._keys[head] = self._known(head)
        key = self._keys[head]
        if key is None and len(head) <= _LONGEST_NAME and _LOOKS_LIKE_ID.fullmatch(head) is None:
            self.unknown[head] = None
        return key

    def whole(self, text: str) -> "Expression | None":
        """Return the expression that a whole string is, or attempts to be; None where too much was read already."""
        expression = self._read.get(text)
        if expression is None:
            if self._work < 0:
                return None
            expression = self._read[text] = self.reading(text, 0, len(text))
        return expression

    def reading(self, text: str, start: int, end: int, origin: int = 0, **more: Any) -> "Expression":
        """Read an expression; see `expressions.Tokens`."""
        # Loaded by the first call that needs it: the grammar costs every start some milliseconds.
        from asyncfc_mcp.core.expressions import Tokens, read

        expression = read(Tokens(text, start, end, origin, **more))
        self._work -= expression.work
        return expression

    def check_work(self) -> None:
        """
        Raises:
            TooManyReferences: more was read than the limit admits.
        """
        if self._left is not None and self._work < 0:
            raise TooManyReferences(MAX_REFERENCES)

    def count(self) -> None:
        """Count one reference, or place that looks like one.

        Raises:
            TooManyReferences: the limit is exceeded.
        """
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise TooManyReferences(MAX_REFERENCES)


def replacements(arguments: Any, search: Search) -> Iterator[tuple[Position | None, Any, Replacement]]:
    """Yield position, value and replacement of each value that is to be replaced, in order of appearance."""
    # An explicit stack: arguments may be nested more deeply than Python recurses.
    stack: list[tuple[Position | None, Any]] = [(None, arguments)]
    while stack:
        position, node = stack.pop()
        if isinstance(node, str):
            if "$" in node and (replacement := _parse(node, search)) is not None:
                yield position, node, replacement
        elif is_object(node):
            if "$future" in node and (reference := _parse_object(node, search)) is not None:
                yield position, node, reference
            else:
                stack.extend(((position, key), value) for key, value in reversed(node.items()) if _may_contain(value))
        elif is_array(node):
            stack.extend(
                ((position, index), node[index]) for index in range(len(node) - 1, -1, -1) if _may_contain(node[index])
            )


def _may_contain(value: Any) -> bool:
    """Return true for a value in which a reference is possible."""
    return isinstance(value, dict | list) or (isinstance(value, str) and "$" in value)


def _parse(text: str, search: Search) -> Replacement | None:
    """Return the replacement of a string; None where it stays as it is."""
    if len(text) <= _LONGEST_WHOLE and (whole := _parse_whole(text, search)) is not None:
        return whole
    pieces = _parse_pieces(text, search)
    if pieces is not None and len(pieces) == 3 and isinstance(pieces[1], Reference) and not (pieces[0] or pieces[2]):
        return pieces[1]
    return pieces


def _parse_whole(text: str, search: Search) -> Replacement | None:
    """Return the replacement of a string that is nothing but a reference."""
    head = _WHOLE.match(text)
    if head is not None and head.end() == len(text):
        key = search.key_of(head[2])
        if key is None:
            return None
        search.count()
        return Reference(text, {head[2]: key}) if len(head[1]) == 1 else [text[1:]]
    if text[head.end()] not in _GOES_ON if head is not None else _CALL.match(text) is None:
        return None
    if text[-1].isspace():
        return None
    expression = search.whole(text)
    if expression is None:
        if head is not None and search.key_of(head[2]) is not None:
            search.check_work()
        return None
    if (reference := _bound(expression, text, search)) is None:
        return None
    search.count()
    if expression.dollars == 1:
        return reference
    return [text[: expression.first] + text[expression.first + 1 :]]


def _bound(expression: "Expression", written: str, search: Search) -> Reference | None:
    """Return the reference that an expression is; None where it is text."""
    problem = expression.problem
    if problem is not None and not expression.certain:
        return None
    keys: dict[str, str] = {}
    missing = ""
    for name in expression.names:
        if (key := search.key_of(name)) is not None:
            keys[name] = key
        else:
            missing = missing or name
    if not keys:
        return None
    if problem is not None:
        return Reference(written, keys, None, (expression.position(problem.at), problem.text))
    if missing:
        return Reference(written, keys, None, (None, f"no future is called {missing}"))
    return Reference(written, keys, expression)


def _parse_pieces(text: str, search: Search) -> list[str | Reference] | None:
    pieces: list[str | Reference] = []
    done = position = 0
    while (at := text.find(_OPENING, position)) >= 0:
        search.count()
        start = at
        while start > position and text[start - 1] == "$":
            start -= 1
        if (match := _BRACED.match(text, start)) is None:
            position = at + len(_OPENING)
            continue
        # A quoted key behind an unknown name may itself contain a reference: `${f:x["${f:f3}"]}`.
        position = match.end()
        dollars, head = match.groups()
        found = _parse_braced(text, at, match.end(), head, search)
        if found is None:
            continue
        reference, end = found
        pieces.append(text[done : match.start()] + "$" * (len(dollars) // 2))
        pieces.append(reference if len(dollars) % 2 else reference.written[1:])
        done = position = end
    if not pieces:
        return None
    pieces.append(text[done:])
    return pieces


def _parse_braced(text: str, at: int, start: int, head: str | None, search: Search) -> tuple[Reference, int] | None:
    """Return the reference in braces and the position behind it.

    Args:
        at: position of the `$`.
        start: position behind the first name.
        head: the first name; None where a function comes first.
    """
    after = text[start : start + 1]
    if head is not None and after == "}":
        key = search.key_of(head)
        return None if key is None else (Reference(text[at : start + 1], {head: key}), start + 1)
    if head is not None and after not in _GOES_ON:
        return None
    search.check_work()
    expression = search.reading(text, start, min(len(text), start + _LONGEST_WHOLE), at, head=head, braced=True)
    closed = text[expression.end : expression.end + 1] == "}"
    if expression.dollars > 1 or (expression.problem is None and not closed) or expression.tokens > _MOST_BRACED:
        return None
    end = expression.end + closed
    if expression.problem is not None:
        end = max(end, text.find("}", end, end + _LONGEST_NAME) + 1)
    reference = _bound(expression, text[at:end], search)
    return None if reference is None else (reference, end)


def _parse_object(node: dict[str, Any], search: Search) -> Reference | None:
    """Return the reference that an object is; None for any other object."""
    named = node["$future"]
    if node.keys() not in _OBJECT_KEYS or not isinstance(named, str):
        return None
    # This form is never accidental, so a `$` before the name is accepted.
    if (head := _OBJECT_HEAD.fullmatch(named)) is None:
        return None
    if (key := search.key_of(head[1])) is None:
        return None
    search.count()
    path = node.get("path")
    written = json.dumps({"$future": named, **({"path": path} if isinstance(path, str) else {})}, ensure_ascii=False)
    keys = {head[1]: key}
    if path is None or path == "":
        return Reference(written, keys)
    if not isinstance(path, str):
        return Reference(written, keys, None, (None, "it is no text"))
    if len(path) > _LONGEST_WHOLE:
        return Reference(written, keys, None, (None, f"it has more than {_LONGEST_WHOLE} characters"))
    if path != path.strip():
        return Reference(written, keys, None, (1 if path[0].isspace() else len(path), "no space may stand here"))
    search.check_work()
    expression = search.reading(path, 0, len(path), head=head[1])
    reference = _bound(expression, written, search)
    if reference is not None:
        return reference
    assert expression.problem is not None  # the first name is known
    return Reference(written, keys, None, (expression.position(expression.problem.at), expression.problem.text))
