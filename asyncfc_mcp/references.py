r"""References: futures named inside the arguments of a later call, and the values that take their place.

Pure and synchronous: what is a reference is asked of `known`, values come from `value_of`. This module neither waits
for a future nor knows its state.

What is a reference. Only IDs and names that `known` knows; everything else stays as it is, to the byte.

- A string that is nothing but `$f3`, `$name` or, with a path, `$f3.items[0].id`: the value, typed.
- `${f:f3}` or `${f:name.title}` inside a longer string, any number of times: text. On its own it is the value, typed.
  The `f:` is there because calls carry files: `${name}` is a variable of shells, JavaScript, Make, Kotlin and of many
  templates, `${f:name}` of none (`benchmarks/reference_form.py` counts both in published packages). A number after
  the colon is no name, so that substrings in bash (`${f:0:3}`) are no references.
- `{"$future": "f3", "path": "items[0].id"}` with no other keys (`path` may be missing or null): the value, typed.
- A path is made of `.word` (letters of any alphabet, digits, `_`, `-`), `[0]`, `[-1]`, `["any key"]` and
  `['any key']`, where a backslash makes the next character stand for itself. `.0` on an array is an index.
- `$$` is an escape only directly before something that would otherwise be a reference. A whole string `$$f3` gives
  `$f3`: of several `$`, one is taken away. Before `{f:f3}` each pair of `$` gives one, so that `$${f:f3}` is the text
  `${f:f3}`, and `$$${f:f3}` is a dollar sign and the value. `cost $$5`, `echo $$` and `$$HOME` are none of this.
- Keys of objects are never references, and what a future gave is never looked at again.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, cast

from asyncfc_mcp.errors import (
    ArgumentsTooLarge,
    NestedTooDeeply,
    PathMissing,
    PathUnreadable,
    ReferenceFailed,
    ValueUnfit,
)
from asyncfc_mcp.expect import Expected, expected
from asyncfc_mcp.json_types import is_array, is_object, json_type, parse_json, printable, shown_path
from asyncfc_mcp.protocol import content_blocks

Known = Callable[[str], str | None]
"""An ID or a name (without `$`) → the key of the future that it means; None if it means none."""
Result = Mapping[str, Any]
"""A `CallToolResult` as it came off the wire."""
Step = str | int

_NAME: Final = r"[A-Za-z_][A-Za-z0-9_-]*+"
_STEP: Final = r"""\.[\w-]++|\[-?[0-9]{1,18}\]|\["(?:[^"\\]|\\.)*+"\]|\['(?:[^'\\]|\\.)*+'\]"""
# Possessive throughout: no text can make these backtrack.
_WHOLE: Final = re.compile(rf"(\$++)({_NAME})((?:{_STEP})*+)", re.DOTALL)
_BRACED: Final = re.compile(rf"(?<!\$)(\$++)\{{f:({_NAME})((?:{_STEP})*+)\}}", re.DOTALL)
_OBJECT_HEAD: Final = re.compile(rf"\$?({_NAME})")
_OBJECT_PATH: Final = re.compile(rf"(?:{_STEP})*+", re.DOTALL)
_EACH_STEP: Final = re.compile(_STEP, re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_LOOKS_LIKE_ID: Final = re.compile(r"f(?:[0-9]+|[0-9a-f]{32})")
_LONGEST_NAME: Final = 64

_QUOTES: Final = 2
_OBJECT_KEYS: Final = ({"$future"}, {"$future", "path"})
_TEXT: Final = Expected(frozenset({"string"}))


@dataclass(frozen=True, slots=True)
class Found:
    """References in arguments."""

    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """ID or name as written → key of the future that it means, in order of appearance."""
    unknown: tuple[str, ...] = ()
    """Heads of what would be references if they were known, escaped ones too.

    Never what looks like an ID: no future can be named so.
    """

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the futures that the arguments need, in order of appearance."""
        return tuple(dict.fromkeys(self.names.values()))


@dataclass(frozen=True, slots=True)
class _Reference:
    written: str
    head: str
    key: str
    path: tuple[Step, ...] | None
    """None: it cannot be read."""


Reading = _Reference | list[str | _Reference]
"""What stands in an argument's place: one value, or pieces of text. Pieces without a reference undo an escape."""

_Link = tuple["_Link | None", Step]
"""A position: the position above it, and the key from there. Not a flat path, which would cost depth × positions."""


def find(arguments: Any, known: Known) -> Found:
    """What the arguments refer to. `known` is asked about escaped references, too: undoing an escape needs it.

    One walk, without recursion, where no string holds a `$`.
    """
    if not may_refer(arguments):
        return Found()
    unknown: dict[str, None] = {}
    names: dict[str, str] = {}
    for _, _, reading in _readings(arguments, known, unknown):
        for part in (reading,) if isinstance(reading, _Reference) else reading:
            if isinstance(part, _Reference):
                names[part.head] = part.key
    return Found(names, tuple(unknown))


def is_reference(value: Any, known: Known) -> bool:
    """Whether the value is a reference or contains one, at any depth."""
    return bool(find(value, known).names)


def substitute(
    arguments: Any,
    known: Known,
    value_of: Callable[[str], Result],
    schema: Mapping[str, Any] | None,
    max_bytes: int,
    label: Callable[[str], str],
) -> Any:
    """The arguments with values in place of references; the very same object if there is nothing to replace.

    Each value takes the type that `schema`, the target's own input schema, asks for where it stands: text for a string,
    structured content or else the text read as JSON for the rest, base64 data where binary content is wanted. The
    `{"result": …}` in which servers' frameworks wrap what is no object is taken off. Nothing is copied or changed that
    need not be, so the result shares what it can with the arguments and with the values.

    Args:
        known: as it answered when the call was submitted; a name may mean another future by now.
        value_of: key → result of a future that has one.
        max_bytes: bound on the arguments as JSON in UTF-8, checked before anything large is built.
        label: key → what to call the future in messages.

    Raises:
        ReferenceFailed: a path leads nowhere, a value does not fit, or the arguments become too large.
    """
    if not may_refer(arguments):
        return arguments
    places = list(_readings(arguments, known, {}))
    if not places:
        return arguments
    values = _Values(value_of, label)
    # What stays is counted first, so that each value is checked against all else before anything is put together.
    total = _size(arguments, "an argument") + sum(_fixed(reading) - _size(old, "") for _, old, reading in places)
    new: list[tuple[list[Step], Any]] = []
    for link, _, reading in places:
        path = _path(link)
        if isinstance(reading, _Reference):
            value, size = values.typed(reading, expected(schema, path))
            total += size
            _bound(total, max_bytes, reading)
            new.append((path, value))
            continue
        for piece in reading:
            if isinstance(piece, _Reference):
                total += values.typed(piece, _TEXT)[1] - _QUOTES
                _bound(total, max_bytes, piece)
        texts = (piece if isinstance(piece, str) else values.typed(piece, _TEXT)[0] for piece in reading)
        new.append((path, "".join(texts)))
    return _replaced(arguments, new)


# --- finding them ----------------------------------------------------------------------------------------------------


def may_refer(arguments: Any) -> bool:
    stack = [arguments]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            if "$" in node:
                return True
        elif isinstance(node, dict):
            if "$future" in node:
                return True
            stack.extend(cast("dict[str, Any]", node).values())
        elif isinstance(node, list):
            stack += node
    return False


def _readings(arguments: Any, known: Known, unknown: dict[str, None]) -> Iterator[tuple[_Link | None, Any, Reading]]:
    """Every position whose value is not to stay as it is, in order of appearance; adds to `unknown` on the way."""
    # A stack of our own: arguments may be nested more deeply than Python recurses.
    stack: list[tuple[_Link | None, Any]] = [(None, arguments)]
    while stack:
        link, node = stack.pop()
        if isinstance(node, str):
            if "$" in node and (reading := _read(node, known, unknown)) is not None:
                yield link, node, reading
        elif is_object(node):
            if "$future" in node and (reference := _read_object(node, known, unknown)) is not None:
                yield link, node, reference
            else:
                stack.extend(((link, key), value) for key, value in reversed(node.items()))
        elif is_array(node):
            stack.extend(((link, index), node[index]) for index in range(len(node) - 1, -1, -1))


def _read(text: str, known: Known, unknown: dict[str, None]) -> Reading | None:
    """What a string stands for; None: for itself."""
    if (whole := _WHOLE.fullmatch(text)) is not None:
        dollars, head, path = whole.groups()
        if (key := known(head)) is not None:
            return _Reference(text, head, key, _steps(path)) if len(dollars) == 1 else [text[1:]]
        _note(head, unknown)
    pieces = _read_pieces(text, known, unknown)
    if pieces is not None and len(pieces) == 3 and isinstance(pieces[1], _Reference) and not (pieces[0] or pieces[2]):
        return pieces[1]
    return pieces


def _read_pieces(text: str, known: Known, unknown: dict[str, None]) -> list[str | _Reference] | None:
    pieces: list[str | _Reference] = []
    done = position = 0
    while (match := _BRACED.search(text, position)) is not None:
        dollars, head, path = match.groups()
        if (key := known(head)) is None:
            _note(head, unknown)
            # What looks like a quoted key of an unknown name may be live itself: `${f:x["${f:f3}"]}`.
            position = match.end(1)
            continue
        pieces.append(text[done : match.start()] + "$" * (len(dollars) // 2))
        written = match[0][len(dollars) - 1 :]
        pieces.append(_Reference(written, head, key, _steps(path)) if len(dollars) % 2 else written[1:])
        done = position = match.end()
    if not pieces:
        return None
    pieces.append(text[done:])
    return pieces


def _read_object(node: dict[str, Any], known: Known, unknown: dict[str, None]) -> _Reference | None:
    """The reference that an object is; None: it is an object like any other."""
    named = node["$future"]
    if node.keys() not in _OBJECT_KEYS or not isinstance(named, str):
        return None
    # Nobody writes this form by accident, so what is meant is clear with a `$` as well.
    if (head := _OBJECT_HEAD.fullmatch(named)) is None:
        return None
    if (key := known(head[1])) is None:
        _note(head[1], unknown)
        return None
    path = node.get("path")
    written = json.dumps({"$future": named, **({"path": path} if isinstance(path, str) else {})}, ensure_ascii=False)
    if path is None or path == "":
        return _Reference(written, head[1], key, ())
    steps: tuple[Step, ...] | None = None
    if isinstance(path, str):
        dotted = path if path[0] in ".[" else "." + path
        steps = _steps(dotted) if _OBJECT_PATH.fullmatch(dotted) is not None else None
    return _Reference(written, head[1], key, steps)


def _note(head: str, unknown: dict[str, None]) -> None:
    if len(head) <= _LONGEST_NAME and _LOOKS_LIKE_ID.fullmatch(head) is None:
        unknown[head] = None


def _steps(path: str) -> tuple[Step, ...]:
    return tuple(_step(match[0]) for match in _EACH_STEP.finditer(path))


def _step(written: str) -> Step:
    if written[0] == ".":
        return written[1:]
    if written[1] in "\"'":
        return _ESCAPED.sub(r"\1", written[2:-2])
    return int(written[1:-1])


# --- their values ----------------------------------------------------------------------------------------------------

_NOTHING: Final[Any] = object()
"""No value at all, as distinct from `None`, which is JSON's null."""
_HEAD: Final = 80
_SHOWN_KEYS: Final = 20


class _Source:
    """What one future's result offers; a large text is read as JSON at most once, however often it is referred to."""

    def __init__(self, result: Result) -> None:
        self.texts: list[str] = []
        self.binaries: list[str] = []
        self.kinds: list[str] = []
        for block in content_blocks(result):
            self._take(block)
        structured = result.get("structuredContent")
        self.raw: Any = _NOTHING if structured is None else structured
        self.wrapped = is_object(structured) and structured.keys() == {"result"}
        self.structured: Any = structured["result"] if is_object(structured) and self.wrapped else self.raw

    def _take(self, block: dict[str, Any]) -> None:
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

    @cached_property
    def parsed(self) -> Any:
        """The text read as JSON, or `_NOTHING`."""
        return _parsed(self.text) if self.texts else _NOTHING

    @property
    def described(self) -> str:
        """What there is instead of something that was looked for."""
        if self.texts:
            return f"has text that is not JSON: {printable(json.dumps(self.text[:_HEAD], ensure_ascii=False))}"
        if self.kinds:
            return f"has no text or structured content, only {', '.join(sorted(set(self.kinds)))}"
        return "is empty"


class _Values:
    """Values of references, each with its size as JSON; the same one is made and measured once."""

    def __init__(self, value_of: Callable[[str], Result], label: Callable[[str], str]) -> None:
        self._value_of = value_of
        self._label = label
        self._sources: dict[str, _Source] = {}
        self._made: dict[tuple[str, tuple[Step, ...], Expected], tuple[Any, int]] = {}

    def typed(self, reference: _Reference, want: Expected) -> tuple[Any, int]:
        """The value in the type that is wanted, and its size; a string if only strings are.

        Raises:
            ReferenceFailed: there is no such value.
        """
        if reference.path is None:
            raise PathUnreadable(_shown(reference.written), self._label(reference.key))
        made = (reference.key, reference.path, want)
        if made not in self._made:
            source = self._sources.get(reference.key)
            if source is None:
                source = self._sources[reference.key] = _Source(self._value_of(reference.key))
            if reference.path:
                value = _converted(self._selected(reference, reference.path, source), want)
            else:
                value = self._entire(reference, source, want)
            self._made[made] = value, _size(value, f"the value of {_shown(reference.written)}")
        return self._made[made]

    def _unfit(self, reference: _Reference, wanted: str, found: str) -> ReferenceFailed:
        return ValueUnfit(_shown(reference.written), self._label(reference.key), wanted, found)

    def _entire(self, reference: _Reference, source: _Source, want: Expected) -> Any:
        if want.base64 and source.binaries:
            if len(source.binaries) > 1:
                raise self._unfit(reference, "binary data", f"has {len(source.binaries)} of them, and one is wanted")
            return source.binaries[0]
        if source.structured is not _NOTHING and _fits(source.structured, want):
            return source.structured
        if want.types is None or "string" in want.types:
            return self._as_text(reference, source)
        # A real `{"result": …}` is put together again only where nothing else fits.
        for value in (source.parsed, source.raw):
            if value is not _NOTHING and _fits(value, want):
                return value
        for value in (source.structured, source.parsed):
            # Of a wrong type, which the target's schema tells the caller better than we could.
            if value is not _NOTHING:
                return value
        raise self._unfit(reference, str(want), source.described)

    def _as_text(self, reference: _Reference, source: _Source) -> str:
        if source.text:
            return source.text
        if source.structured is not _NOTHING:
            return _as_string(source.structured)
        if not source.texts and len(source.binaries) == 1:
            return source.binaries[0]
        if source.texts or not source.kinds:
            return ""
        raise self._unfit(reference, "text", source.described)

    def _selected(self, reference: _Reference, path: tuple[Step, ...], source: _Source) -> Any:
        value = source.raw if source.wrapped and path[0] == "result" else source.structured
        if value is _NOTHING:
            value = source.parsed
        if value is _NOTHING:
            raise self._unfit(reference, "a part of structured content or of JSON text", source.described)
        if isinstance(value, str) and (inner := _parsed(value)) is not _NOTHING:
            # A tool that returns JSON as a string, wrapped by its framework.
            value = inner
        for depth, step in enumerate(path):
            found = _step_into(value, step)
            if found is _NOTHING:
                raise PathMissing(
                    _shown(reference.written),
                    self._label(reference.key),
                    shown_path(path[: depth + 1]),
                    _there(shown_path(path[:depth]), value),
                )
            value = found
        return value


def _step_into(value: Any, step: Step) -> Any:
    if is_object(value):
        return value.get(step, _NOTHING) if isinstance(step, str) else _NOTHING
    if is_array(value):
        if isinstance(step, str):
            if not (step.isascii() and step.removeprefix("-").isdigit() and len(step) <= 18):
                return _NOTHING
            step = int(step)
        return value[step] if -len(value) <= step < len(value) else _NOTHING
    return _NOTHING


def _there(where: str, value: Any) -> str:
    """What stands at the deepest point that a path reached."""
    if is_array(value):
        return f"{where} is an array of length {len(value)}"
    if not is_object(value):
        return f"{where} is {_with_article(json_type(value))}"
    if not value:
        return f"{where} is an empty object"
    keys = [json.dumps(key[:_HEAD], ensure_ascii=False) for _, key in zip(range(_SHOWN_KEYS), value, strict=False)]
    more = f" and {len(value) - _SHOWN_KEYS} more" if len(value) > _SHOWN_KEYS else ""
    return printable(f"{where} has the keys {', '.join(keys)}{more}", 1000)


def _with_article(kind: str) -> str:
    return kind if kind == "null" else f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _converted(value: Any, want: Expected) -> Any:
    """A selected part in the type that is wanted; as it is where that cannot be, for the target's schema to judge."""
    if _fits(value, want):
        return value
    if want.types is not None and "string" in want.types:
        return _as_string(value)
    if isinstance(value, str) and (parsed := _parsed(value)) is not _NOTHING and _fits(parsed, want):
        return parsed
    return value


def _fits(value: Any, want: Expected) -> bool:
    return want.types is None or json_type(value) in want.types


def _as_string(value: Any) -> str:
    return value if isinstance(value, str) else _written(value, "a value")


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return _NOTHING


# --- sizes and building ----------------------------------------------------------------------------------------------


def _written(value: Any, what: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise NestedTooDeeply(what) from None


def _size(value: Any, what: str) -> int:
    """Bytes of the value as canonical JSON in UTF-8."""
    text = _written(value, what)
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _fixed(reading: Reading) -> int:
    """Bytes of what a position will hold besides values."""
    if isinstance(reading, _Reference):
        return 0
    return _QUOTES + sum(_size(piece, "") - _QUOTES for piece in reading if isinstance(piece, str))


def _bound(total: int, max_bytes: int, reference: _Reference) -> None:
    if total > max_bytes:
        raise ArgumentsTooLarge(_shown(reference.written), max_bytes)


def _shown(written: str) -> str:
    return printable(written, 200)


def _path(link: _Link | None) -> list[Step]:
    path: list[Step] = []
    while link is not None:
        link, key = link
        path.append(key)
    path.reverse()
    return path


def _replaced(arguments: Any, new: list[tuple[list[Step], Any]]) -> Any:
    """A copy with other values at some positions; only the containers above them are copied, each once."""
    if not new[0][0]:
        return new[0][1]
    root: Any = arguments.copy()
    ours = {id(root)}
    for path, value in new:
        node = root
        for step in path[:-1]:
            child = node[step]
            if id(child) not in ours:
                child = node[step] = child.copy()
                ours.add(id(child))
            node = child
        node[path[-1]] = value
    return root
