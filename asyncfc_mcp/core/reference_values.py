"""Values of references: parts of results, converted to the expected type and put into arguments.

Owns the value of a result, its conversion and the bound on the size of arguments. Pure and synchronous: `value_of`
gives the results. `references` finds the references, `evaluation` computes parts.
"""

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

from asyncfc_mcp.core.references import Known, Position, Reference, Replacement, Search, Step, may_refer, replacements
from asyncfc_mcp.errors import (
    ArgumentsTooLarge,
    NestedTooDeeply,
    PathUnreadable,
    ReferenceFailed,
    ValueUnfit,
)
from asyncfc_mcp.protocol import content_blocks
from asyncfc_mcp.schema.expect import Expected, expected
from asyncfc_mcp.schema.json_types import compact, is_object, json_type, parse_json, printable
from asyncfc_mcp.slices import Slices, at_once
from asyncfc_mcp.values.bounds import MOST_FROM_SERVERS, counting_values
from asyncfc_mcp.values.large import LARGE_BYTES, is_large, measuring, parsing, writing

if TYPE_CHECKING:
    from asyncfc_mcp.core.evaluation import Budget
    from asyncfc_mcp.core.expressions import Expression

Result = Mapping[str, Any]
"""A `CallToolResult` as it was received."""

_QUOTES: Final = 2
_TEXT: Final = Expected(frozenset({"string"}))
_NOTHING: Final[Any] = object()
"""No value, as distinct from `None`, which is JSON's null."""
_UNPARSED: Final[Any] = object()
"""Text that was not yet parsed as JSON."""
_TOO_LARGE: Final[Any] = object()
"""JSON text of more values than are parsed."""
_TOO_LARGE_TEXT: Final = f"has text of more than {MOST_FROM_SERVERS} JSON values"
_HEAD: Final = 80


def substituting(
    arguments: Any,
    known: Known,
    value_of: Callable[[str], Result],
    schema: Mapping[str, Any] | None,
    max_bytes: int,
    label: Callable[[str], str],
) -> Slices[Any]:
    """Return the arguments with values in place of references; the same object if there is nothing to replace.

    Each value gets the type that `schema`, the input schema of the target tool, expects at its position: text for a
    string, base64 data for binary content, otherwise structured content or else the text parsed as JSON. The
    `{"result": …}` in which server frameworks wrap anything that is not an object is removed. Only containers above a
    replaced value are copied; all else is shared with the arguments and the results.

    Args:
        known: resolves names as at submission; a name may belong to another future by now.
        value_of: gives the result of a future with this key that has one.
        max_bytes: bound on the arguments as JSON in UTF-8, checked before anything large is built.
        label: gives the word for a future with this key in messages.

    Raises:
        ReferenceFailed: a reference is written wrongly, for which no value is asked; a path leads nowhere, a value does
            not fit, or the arguments become too large.
    """
    if not may_refer(arguments):
        return arguments
    places = list(replacements(arguments, Search(known)))
    if not places:
        return arguments
    for _, _, replacement in places:
        for part in (replacement,) if isinstance(replacement, Reference) else replacement:
            if isinstance(part, Reference) and part.problem is not None:
                raise PathUnreadable(_shown(part.written), *part.problem)
    values = _Values(value_of, label, max_bytes)
    # The parts that stay are measured first, so that each value is checked against the total before anything is built.
    total = yield from _size(arguments, "an argument", max_bytes)
    for _, old, replacement in places:
        total += _literal_size(replacement) - at_once(_size(old, "", max_bytes))
        yield
    new: list[tuple[list[Step], Any]] = []
    for position, _, replacement in places:
        path = _path(position)
        if isinstance(replacement, Reference):
            value, size = yield from values.typed(replacement, expected(schema, path))
            total += size
            _check_size(total, max_bytes, replacement)
            new.append((path, value))
            continue
        for piece in replacement:
            if isinstance(piece, Reference):
                total += (yield from values.typed(piece, _TEXT))[1] - _QUOTES
                _check_size(total, max_bytes, piece)
        # Converted and measured above, so these do not pause.
        texts = (piece if isinstance(piece, str) else at_once(values.typed(piece, _TEXT))[0] for piece in replacement)
        new.append((path, "".join(texts)))
        yield
    return _replaced(arguments, new)


class _Content:
    """Content of one result. Its text is parsed as JSON at most once, however many references there are."""

    def __init__(self, result: Result) -> None:
        self.texts: list[str] = []
        self.binaries: list[str] = []
        self.kinds: list[str] = []
        self._parsed: Any = _UNPARSED
        for block in content_blocks(result):
            self._add(block)
        structured = result.get("structuredContent")
        self.raw: Any = _NOTHING if structured is None else structured
        self.wrapped = is_object(structured) and structured.keys() == {"result"}
        self.structured: Any = structured["result"] if is_object(structured) and self.wrapped else self.raw

    def _add(self, block: dict[str, Any]) -> None:
        kind = block.get("type")
        self.kinds.append(kind if isinstance(kind, str) else "unknown")
        resource = block.get("resource")
        holder = resource if kind == "resource" and is_object(resource) else block
        if kind in ("text", "resource") and isinstance(text := holder.get("text"), str):
            self.texts.append(text)
        elif isinstance(data := holder.get("blob" if kind == "resource" else "data"), str):
            if kind in ("image", "audio", "resource"):
                self.binaries.append(data)

    @cached_property
    def text(self) -> str:
        return "\n".join(self.texts)

    def parsed(self) -> Slices[Any]:
        """Return the text parsed as JSON, `_NOTHING` or `_TOO_LARGE`."""
        if self._parsed is _UNPARSED:
            self._parsed = (yield from _parsed(self.text)) if self.texts else _NOTHING
            if self._parsed is _NOTHING and len(self.texts) > 1:
                self._parsed = yield from _parsed_each(self.texts, len(self.text))
        return self._parsed

    @property
    def described(self) -> str:
        """The content in words, for a message that a value was not found."""
        if self._parsed is _TOO_LARGE:
            return _TOO_LARGE_TEXT
        if self.texts:
            return f"has text that is not JSON: {printable(json.dumps(self.text[:_HEAD], ensure_ascii=False))}"
        if self.kinds:
            return f"has no text or structured content, only {', '.join(sorted(set(self.kinds)))}"
        return "is empty"


class _Values:
    """Values of references, each with its size as JSON; each is converted and measured once."""

    def __init__(self, value_of: Callable[[str], Result], label: Callable[[str], str], max_bytes: int) -> None:
        self._value_of = value_of
        self._max_bytes = max_bytes
        self._label = label
        self._contents: dict[str, _Content] = {}
        self._values: dict[tuple[str, Expected], tuple[Any, int]] = {}
        self._computed: dict[str, Any] = {}
        """Reference as written → its value before conversion."""
        self._budget: Budget | None = None

    def typed(self, reference: Reference, want: Expected) -> Slices[tuple[Any, int]]:
        """Return the value in the expected type, and its size; a string where only strings are expected.

        Raises:
            ReferenceFailed: there is no such value.
        """
        wanted = (reference.written, want)
        if wanted not in self._values:
            if reference.expression is None:
                (key,) = reference.keys.values()
                value = yield from self._whole(reference, self._content(key), want)
            else:
                part = yield from self._part(reference, reference.expression)
                value = yield from self._converted(reference, part, want)
            what = f"the value of {_shown(reference.written)}"
            self._values[wanted] = value, (yield from _size(value, what, self._max_bytes))
        return self._values[wanted]

    def _content(self, key: str) -> _Content:
        content = self._contents.get(key)
        if content is None:
            content = self._contents[key] = _Content(self._value_of(key))
        return content

    def _unfit(self, reference: Reference, wanted: str, found: str, key: str | None = None) -> ReferenceFailed:
        key = next(iter(reference.keys.values())) if key is None else key
        return ValueUnfit(_shown(reference.written), self._label(key), wanted, found)

    def _whole(self, reference: Reference, content: _Content, want: Expected) -> Slices[Any]:
        if want.base64 and content.binaries:
            if len(content.binaries) > 1:
                raise self._unfit(reference, "binary data", f"has {len(content.binaries)} of them, and one is wanted")
            return content.binaries[0]
        if content.structured is not _NOTHING and _fits(content.structured, want):
            return content.structured
        if want.types is None or "string" in want.types:
            return (yield from self._as_text(reference, content))
        parsed = yield from content.parsed()
        # A `{"result": …}` that is the tool's own, not a wrapper, is restored only where nothing else fits.
        for value in (parsed, content.raw):
            if not _is_none(value) and _fits(value, want):
                return value
        for value in (content.structured, parsed):
            # Of a wrong type: validation against the target's schema gives the better message.
            if not _is_none(value):
                return value
        raise self._unfit(reference, str(want), content.described)

    def _as_text(self, reference: Reference, content: _Content) -> Slices[str]:
        if content.text:
            return content.text
        if content.structured is not _NOTHING:
            return (yield from self._as_string(reference, content.structured))
        if not content.texts and len(content.binaries) == 1:
            return content.binaries[0]
        if content.texts or not content.kinds:
            return ""
        raise self._unfit(reference, "text", content.described)

    def _part(self, reference: Reference, expression: "Expression") -> Slices[Any]:
        """Return the value of an expression; it may be a part of a result."""
        # Loaded by the first call that needs it: the functions cost every start some milliseconds.
        from asyncfc_mcp.core.evaluation import Budget, Evaluation, Root

        if reference.written in self._computed:
            return self._computed[reference.written]
        roots: dict[str, Root] = {}
        for name in expression.names:
            key = reference.keys[name]
            content = self._content(key)
            value = yield from self._root(reference, content, key, name in expression.selected)
            roots[name] = Root(value, self._label(key), (content.structured,) if content.wrapped else None)
        self._budget = self._budget or Budget()
        evaluation = Evaluation(expression, _shown(reference.written), roots, self._budget, self._max_bytes)
        value = self._computed[reference.written] = yield from evaluation.run()
        return value

    def _root(self, reference: Reference, content: _Content, key: str, selects: bool) -> Slices[Any]:
        """Return the value of a future to which an expression is applied: structured content, JSON text or text.

        Args:
            selects: a part of it is taken, so that plain text is of no use.
        """
        value = content.structured
        if value is _NOTHING:
            value = yield from content.parsed()
            if not selects and content.texts and value is not _TOO_LARGE:
                # `3.10` may be a version: text stays text where its number would be written otherwise.
                if value is _NOTHING or (isinstance(value, int | float) and compact(value) != content.text):
                    return content.text
        if _is_none(value):
            raise self._unfit(reference, "a part of structured content or of JSON text", content.described, key)
        if isinstance(value, str):
            inner = yield from _parsed(value)
            # JSON that a tool returns as a string, wrapped by its framework.
            value = value if _is_none(inner) else inner
        return value

    def _converted(self, reference: Reference, value: Any, want: Expected) -> Slices[Any]:
        """Return a part in the expected type; unchanged where that is impossible, for the target's schema to reject."""
        if _fits(value, want):
            return value
        if want.types is not None and "string" in want.types:
            return (yield from self._as_string(reference, value))
        if isinstance(value, str):
            parsed = yield from _parsed(value)
            if not _is_none(parsed) and _fits(parsed, want):
                return parsed
        return value

    def _as_string(self, reference: Reference, value: Any) -> Slices[str]:
        if isinstance(value, str):
            return value
        if not is_large(value):
            return _json(value, "a value")
        _check_size((yield from _size(value, "a value", self._max_bytes)), self._max_bytes, reference)
        return b"".join((yield from writing(value))).decode()


def _is_none(value: Any) -> bool:
    return value is _NOTHING or value is _TOO_LARGE


def _fits(value: Any, want: Expected) -> bool:
    return want.types is None or json_type(value) in want.types


def _parsed_each(texts: list[str], length: int) -> Slices[Any]:
    """Return a list of several texts that are objects or lists as JSON, as older servers return the elements of a list
    one by one; `_NOTHING` or `_TOO_LARGE`."""
    if length > LARGE_BYTES and (yield from counting_values("\n".join(texts).encode(), MOST_FROM_SERVERS)):
        return _TOO_LARGE
    values: list[Any] = []
    for text in texts:
        value = yield from _parsed(text)
        if not isinstance(value, dict | list):
            return _NOTHING
        values.append(cast("Any", value))
        yield
    return values


def _parsed(text: str) -> Slices[Any]:
    """Return a text parsed as JSON, `_NOTHING` or `_TOO_LARGE`."""
    try:
        if len(text) <= LARGE_BYTES:
            return parse_json(text)
        data = text.encode()
        if (yield from counting_values(data, MOST_FROM_SERVERS)):
            return _TOO_LARGE
        return (yield from parsing(data))
    except (ValueError, RecursionError):
        return _NOTHING


def _json(value: Any, what: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise NestedTooDeeply(what) from None


def _size(value: Any, what: str, limit: int) -> Slices[int]:
    """Return the bytes of the value as compact JSON in UTF-8; beyond the limit, any number above it."""
    if not is_large(value):
        return _small_size(value, what)
    try:
        return (yield from measuring(value, limit))
    except RecursionError:
        raise NestedTooDeeply(what) from None


def _small_size(value: Any, what: str) -> int:
    text = _json(value, what)
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _literal_size(replacement: Replacement) -> int:
    """Return the bytes of a replacement without the values of its references."""
    if isinstance(replacement, Reference):
        return 0
    return _QUOTES + sum(_small_size(piece, "") - _QUOTES for piece in replacement if isinstance(piece, str))


def _check_size(total: int, max_bytes: int, reference: Reference) -> None:
    """
    Raises:
        ArgumentsTooLarge: this reference makes the arguments larger than the bound.
    """
    if total > max_bytes:
        raise ArgumentsTooLarge(_shown(reference.written), max_bytes)


def _shown(written: str) -> str:
    return printable(written, 200)


def _path(position: Position | None) -> list[Step]:
    """Return the steps from the arguments to a position."""
    path: list[Step] = []
    while position is not None:
        position, step = position
        path.append(step)
    path.reverse()
    return path


def _replaced(arguments: Any, new: list[tuple[list[Step], Any]]) -> Any:
    """Return a copy with new values at some paths; only the containers above them are copied, each once."""
    if not new[0][0]:
        return new[0][1]
    root: Any = arguments.copy()
    copied = {id(root)}
    for path, value in new:
        node = root
        for step in path[:-1]:
            child = node[step]
            if id(child) not in copied:
                child = node[step] = child.copy()
                copied.add(id(child))
            node = child
        node[path[-1]] = value
    return root
