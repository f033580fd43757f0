"""Entries of listings held to MCP's own schema, so that one of them cannot make a client refuse all others.

Clients check a listing as a whole: where one entry has a `null` that the schema does not have, they refuse every entry
of every server. An entry is mended where its meaning is clear; else the field is left out, or the entry. What the
schema does not name passes. The strictest reader of each field decides: the TypeScript SDK's schemas, the Python SDK's
models, and their JSON parsers.

Pure. Used once for each entry that a server lists, never per request. Arguments of calls are checked against the
server's own schema, not against what this module made of it.
"""

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, cast

from pydantic_core import Url

Json = dict[str, Any]
Rule = Callable[[Any, str, list[str]], Any]
"""Takes a value, its path and the remarks; returns the value, the very same if it is right, or `GONE`."""

GONE: Final = object()
DEPTH_LIMIT: Final = 100
"""Levels of an entry. The parser of the Python SDK refuses a message of more than 200."""
SHOWN: Final = 40
"""Characters of a value that a remark quotes."""


def conform(kind: str, raw: Json) -> tuple[Json | None, tuple[str, ...]]:
    """An entry of a listing as MCP's schema has it, and remarks on what was changed beyond dropped nulls.

    Args:
        kind: key of the listing's result: `tools`, `prompts`, `resources`, `resourceTemplates`.

    Returns:
        The very same object if it is right; None if it has to be left out. `outputSchema` may have a root that is no
        object, as 2026-07-28 allows (see `for_handshake`).
    """
    remarks: list[str] = []
    entry = raw
    for key, value in raw.items():
        if isinstance(value, dict | list) and _is_deep(cast("Any", value)):
            remarks.append(f"{key} is nested more than {DEPTH_LIMIT} levels deep and is left out")
            entry = {**entry, key: None}
    entry = _ENTRIES[kind](_carried_numbers(entry), "", remarks)
    return (None if entry is GONE else entry), tuple(remarks)


def for_handshake(tool: Json) -> Json:
    """A conforming tool for clients of before 2026-07-28, whose schema wants `type: "object"` at an output's root."""
    schema = tool.get("outputSchema")
    if schema is None or schema.get("type") == "object":
        return tool
    return {key: value for key, value in tool.items() if key != "outputSchema"}


def _carried_numbers(value: Json) -> Json:
    """The value with the largest number in place of those that are infinite to JavaScript."""
    if all(_is_finite(item) for item in _leaves(value)):
        return value
    return cast("Json", _clamped(value))


def _is_finite(item: object) -> bool:
    if isinstance(item, float):
        return math.isfinite(item)
    return not isinstance(item, int) or -sys.float_info.max <= item <= sys.float_info.max


def _leaves(value: Any) -> Iterable[Any]:
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo += cast("Json", item).values()
        elif isinstance(item, list):
            todo += cast("list[Any]", item)
        else:
            yield item


def _clamped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clamped(item) for key, item in cast("Json", value).items()}
    if isinstance(value, list):
        return [_clamped(item) for item in cast("list[Any]", value)]
    if _is_finite(value):
        return value
    return sys.float_info.max if value > 0 else -sys.float_info.max


def _is_deep(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(DEPTH_LIMIT):
        below: list[Any] = []
        for item in level:
            below += cast("Json", item).values() if isinstance(item, dict) else cast("list[Any]", item)
        level = [item for item in below if isinstance(item, dict | list)]
        if not level:
            return False
    return True


# --- rules -----------------------------------------------------------------------------------------------------------


def _wrong(value: Any, path: str, expected: str, remarks: list[str]) -> Any:
    if value is not None:
        shown = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
        remarks.append(f"{path} is not {expected} ({shown[:SHOWN]}) and is left out")
    return GONE


def _text(value: Any, path: str, remarks: list[str]) -> Any:
    return value if isinstance(value, str) else _wrong(value, path, "text", remarks)


def _flag(value: Any, path: str, remarks: list[str]) -> Any:
    return value if isinstance(value, bool) else _wrong(value, path, "true or false", remarks)


def _size(value: Any, path: str, remarks: list[str]) -> Any:
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return _wrong(value, path, "a whole number", remarks)


def _priority(value: Any, path: str, remarks: list[str]) -> Any:
    fits = type(value) in (int, float) and 0 <= value <= 1
    return value if fits else _wrong(value, path, "a number from 0 to 1", remarks)


_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def _moment(value: Any, path: str, remarks: list[str]) -> Any:
    expected = "a time in ISO 8601 with its offset"
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        return _wrong(value, path, expected, remarks)
    try:
        datetime.fromisoformat(re.sub(r"\.\d+", "", value).replace("Z", "+00:00"))
    except ValueError:
        return _wrong(value, path, expected, remarks)
    return value


_PLAIN_URI: Final = re.compile(r"(?:file|[a-z][a-z0-9-]*)://[a-z][a-z0-9-]*(?:/[A-Za-z0-9._~/-]*)?", re.ASCII)


def _uri(value: Any, path: str, remarks: list[str]) -> Any:
    if not isinstance(value, str):
        return _wrong(value, path, "a URI", remarks)
    if not _PLAIN_URI.fullmatch(value):
        try:
            Url(value)
        except ValueError:
            return _wrong(value, path, "a URI", remarks)
    return value


def _choice(*choices: str) -> Rule:
    def rule(value: Any, path: str, remarks: list[str]) -> Any:
        fits = isinstance(value, str) and value in choices
        return value if fits else _wrong(value, path, f"one of {', '.join(choices)}", remarks)

    return rule


def _each(of: Rule) -> Rule:
    """A list, less the elements that are wrong."""

    def rule(value: Any, path: str, remarks: list[str]) -> Any:
        if not isinstance(value, list):
            return _wrong(value, path, "a list", remarks)
        items = cast("list[Any]", value)
        kept = [of(item, f"{path}[{number}]", remarks) for number, item in enumerate(items)]
        same = all(new is old for new, old in zip(kept, items, strict=True))
        return items if same else [item for item in kept if item is not GONE]

    return rule


def _object(
    fields: Mapping[str, Rule], required: Iterable[str] = (), *, more: Callable[[Json], Json] | None = None
) -> Rule:
    """An object, less the fields that are wrong; gone if a required one is. `more` may add to it first."""
    required = tuple(required)

    def rule(value: Any, path: str, remarks: list[str]) -> Any:
        if not isinstance(value, dict):
            return _wrong(value, path or "the entry", "an object", remarks)
        fitting = cast("Json", value) if more is None else more(cast("Json", value))
        dot = f"{path}." if path else ""
        for key in fields.keys() & fitting.keys():
            old = fitting[key]
            new = fields[key](old, dot + key, remarks)
            if new is old:
                continue
            if new is GONE:
                fitting = {name: item for name, item in fitting.items() if name != key}
            else:
                fitting = {**fitting, key: new}
        if missing := [key for key in required if key not in fitting]:
            remarks.append(f"{path or 'it'} has no usable {' and '.join(missing)} and is left out")
            return GONE
        return fitting

    return rule


def _any_object(value: Any, path: str, remarks: list[str]) -> Any:
    return cast("Json", value) if isinstance(value, dict) else _wrong(value, path, "an object", remarks)


# --- schemas of tools ------------------------------------------------------------------------------------------------


def _properties(value: Any, path: str, remarks: list[str]) -> Any:
    if not isinstance(value, dict):
        return _wrong(value, path, "an object", remarks)
    properties = cast("Json", value)
    wrong = [name for name, schema in properties.items() if not isinstance(schema, dict)]
    if not wrong:
        return properties
    # `true` and `false` are schemas, but not to the TypeScript SDK; the same can be said with an object.
    mended: Json = {name: {"not": {}} if properties[name] is False else {} for name in wrong}
    return {**properties, **mended}


_ROOT: Final = _object({"properties": _properties, "required": _each(_text), "$schema": _text, "$defs": _any_object})


def _input_schema(value: Any, path: str, remarks: list[str]) -> Any:
    if not isinstance(value, dict):
        if value not in (None, True):
            remarks.append(f"{path} is not an object; any arguments are listed as accepted")
        return {"type": "object"}
    schema = _ROOT(_without_nulls(cast("Json", value)), path, remarks)
    if schema.get("type") == "object":
        return schema
    kinds = schema.get("type", "object")
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        remarks.append(f'{path}.type is listed as "object": arguments are one')
    return {**schema, "type": "object"}


def _output_schema(value: Any, path: str, remarks: list[str]) -> Any:
    if not isinstance(value, dict):
        return _wrong(value, path, "an object", remarks)
    schema = _ROOT(_without_nulls(cast("Json", value)), path, remarks)
    if schema.get("type") in (["object", "null"], ["null", "object"], ["object"]):
        schema = {**schema, "type": "object"}  # structured content is never null
    # Clients compile it as they receive the listing, and refuse the listing if they cannot.
    if (problem := _uncompilable(schema, schema)) is not None:
        remarks.append(f"{path} is left out: {problem}")
        return GONE
    return schema


_OF_SCHEMAS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose values are objects of schemas."""
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE: Final = (
    "items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else", "additionalItems",
    "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_COUNTS: Final = (
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains",
)  # fmt: skip
_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_NEVER_NULL: Final = frozenset(
    {
        *_OF_SCHEMAS, *_LISTS, *_SINGLE, *_BOUNDS, *_COUNTS, "type", "enum", "required", "title", "description",
        "format", "pattern", "$ref", "$id", "$anchor", "$comment", "$schema", "uniqueItems", "examples", "deprecated",
        "readOnly", "writeOnly", "dependentRequired",
    }
)  # fmt: skip
"""Keywords of JSON Schema that have no `null`; servers that write their model with all of its fields write them so."""


def _without_nulls(schema: Json) -> Json:
    """The schema without keywords that are null; the very same if there are none. Nested at most `DEPTH_LIMIT`."""
    out = schema
    for key, value in schema.items():
        new = value
        if value is None and key in _NEVER_NULL:
            out = {name: item for name, item in out.items() if name != key}
            continue
        if isinstance(value, dict):
            if key in _SINGLE:
                new = _without_nulls(cast("Json", value))
            elif key in _OF_SCHEMAS:
                new = _mapped_values(cast("Json", value))
        elif isinstance(value, list) and (key in _LISTS or key == "items"):
            items = cast("list[Any]", value)
            parts = [_without_nulls(cast("Json", item)) if isinstance(item, dict) else item for item in items]
            new = items if all(a is b for a, b in zip(parts, items, strict=True)) else parts
        if new is not value:
            out = {**out, key: new}
    return out


def _mapped_values(schemas: Json) -> Json:
    parts = {
        name: _without_nulls(cast("Json", item)) if isinstance(item, dict) else item for name, item in schemas.items()
    }
    return schemas if all(parts[name] is item for name, item in schemas.items()) else parts


_TYPES: Final = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_STRANGE: Final = (
    "$id", "id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$async",
    "dependencies", "discriminator",
)  # fmt: skip
"""Keywords that validators of several dialects read in several ways, or with which they find two schemas or none."""


def _uncompilable(schema: Any, root: Json) -> str | None:
    """Why a validator that is stricter than most might refuse to compile the schema; None if none should."""
    todo: list[tuple[Any, str]] = [(schema, "")]
    while todo:
        part, at = todo.pop()
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict):
            return f"{at or 'its root'} is no schema"
        node = cast("Json", part)
        problem = _misused(node, root)
        if problem is not None:
            return f"{at}/{problem}"
        for key in _OF_SCHEMAS:
            todo += [(item, f"{at}/{key}/{name}") for name, item in node.get(key, {}).items()]
        for key in _LISTS:
            todo += [(item, f"{at}/{key}/{number}") for number, item in enumerate(node.get(key, []))]
        for key in _SINGLE:
            if key in node:
                value = node[key]
                many: list[Any] = cast("list[Any]", value) if isinstance(value, list) and key == "items" else [value]
                todo += [(item, f"{at}/{key}") for item in many]
    return None


def _misused(node: Json, root: Json) -> str | None:
    """The first keyword of one schema whose value has the wrong form."""

    def is_strings(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, str) for item in cast("list[Any]", value))

    for key, value in node.items():
        right = True
        if key in _STRANGE:
            right = False
        elif key in _OF_SCHEMAS:
            right = isinstance(value, dict) and (
                key != "patternProperties" or all(map(_is_pattern, cast("Json", value)))
            )
        elif key in _LISTS:
            right = isinstance(value, list) and bool(cast("list[Any]", value))
        elif key == "type":
            kinds = cast("list[Any]", value) if isinstance(value, list) else [value]
            right = bool(kinds) and all(isinstance(kind, str) and kind in _TYPES for kind in kinds)
            right = right and len(set(kinds)) == len(kinds)
        elif key == "required":
            right = is_strings(value)
        elif key == "enum":
            right = isinstance(value, list) and bool(cast("list[Any]", value))
        elif key in _COUNTS:
            right = type(value) is int and value >= 0
        elif key in _BOUNDS:
            right = type(value) in (int, float)
        elif key in ("uniqueItems", "nullable"):
            right = isinstance(value, bool) and (key != "nullable" or "type" in node)
        elif key == "pattern":
            right = isinstance(value, str) and _is_pattern(value)
        elif key in ("format", "$comment"):
            right = isinstance(value, str)
        elif key == "$ref":
            right = isinstance(value, str) and _leads_somewhere(value, root)
        elif key == "dependentRequired":
            right = isinstance(value, dict) and all(map(is_strings, cast("Json", value).values()))
        if not right:
            return key
    return None


def _leads_somewhere(ref: str, root: Json) -> bool:
    if ref == "#":
        return True
    if not ref.startswith("#/") or "%" in ref:
        return False
    node: Any = root
    for step in ref[2:].split("/"):
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or key not in node:
            return False
        node = cast("Json", node)[key]
    return isinstance(node, dict)


_PIECE: Final = re.compile(
    r"""
      [^\\^$.*+?()\[\]{}|/]                                # a character that stands for itself
    | \\[dDwWsSbBtnrfv^$.*+?()\[\]{}|/\\]
    | [\^$.|/] | \((?:\?:)? | \)
    | \[\^?(?:[^\\\[\]&~\-]|\\[dDwWsStnrfv^$.*+?()\[\]{}|/\\-]|(?<=[A-Za-z0-9])-(?=[A-Za-z0-9])|-(?=\]))+\]
    | [*+?]\?? | \{\d{1,4}(?:,\d{0,4})?\}\??
    """,
    re.VERBOSE,
)


def _is_pattern(pattern: str) -> bool:
    """True if it is surely a regular expression in JavaScript's Unicode mode, as well as here."""
    at, repeated = 0, False
    while at < len(pattern):
        piece = _PIECE.match(pattern, at)
        repeats = piece is not None and piece[0][0] in "*+?{"
        if piece is None or (repeats and repeated):
            return False
        at, repeated = piece.end(), repeats
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


# --- entries ---------------------------------------------------------------------------------------------------------

_ICON: Final = _object(
    {"src": _text, "mimeType": _text, "sizes": _each(_text), "theme": _choice("light", "dark")}, ["src"]
)
_COMMON: Final[Mapping[str, Rule]] = {
    "name": _text,
    "title": _text,
    "description": _text,
    "icons": _each(_ICON),
    "_meta": _any_object,
}
_HINTS: Final = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
_TOOL: Final[Mapping[str, Rule]] = {
    **_COMMON,
    "inputSchema": _input_schema,
    "outputSchema": _output_schema,
    "annotations": _object({"title": _text, **dict.fromkeys(_HINTS, _flag)}),
    "execution": _object({"taskSupport": _choice("required", "optional", "forbidden")}),
}
_ANNOTATED: Final[Mapping[str, Rule]] = {
    **_COMMON,
    "mimeType": _text,
    "annotations": _object(
        {"audience": _each(_choice("user", "assistant")), "priority": _priority, "lastModified": _moment}
    ),
}
_ARGUMENT: Final = _object({"name": _text, "title": _text, "description": _text, "required": _flag}, ["name"])


def _named_by(key: str) -> Callable[[Json], Json]:
    """Gives an entry without a name the one thing that identifies it."""

    def named(entry: Json) -> Json:
        return entry if isinstance(entry.get("name"), str) or key not in entry else {**entry, "name": entry[key]}

    return named


def _with_schema(tool: Json) -> Json:
    return tool if "inputSchema" in tool else {**tool, "inputSchema": None}


_ENTRIES: Final[Mapping[str, Rule]] = {
    "tools": _object(_TOOL, ["name", "inputSchema"], more=_with_schema),
    "prompts": _object({**_COMMON, "arguments": _each(_ARGUMENT)}, ["name"]),
    "resources": _object({**_ANNOTATED, "uri": _uri, "size": _size}, ["uri", "name"], more=_named_by("uri")),
    "resourceTemplates": _object(
        {**_ANNOTATED, "uriTemplate": _text}, ["uriTemplate", "name"], more=_named_by("uriTemplate")
    ),
}
