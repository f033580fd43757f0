"""Compilable schemas: removal of nulls, and a check that strict validators can compile a schema.

Pure. The check covers the keywords and patterns that several dialects and validators interpret alike; it validates no
values. Schemas are nested no deeper than the caller allows (see `core.listing_schema`).
"""

import re
from typing import Any, Final, cast

Schema = dict[str, Any]

_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
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
        *_MAPS, *_LISTS, *_SINGLE, *_BOUNDS, *_COUNTS, "type", "enum", "required", "title", "description",
        "format", "pattern", "$ref", "$id", "$anchor", "$comment", "$schema", "uniqueItems", "examples", "deprecated",
        "readOnly", "writeOnly", "dependentRequired",
    }
)  # fmt: skip
"""Keywords of JSON Schema that are never null; servers that serialise all fields of a model produce such nulls."""


def without_nulls(schema: Schema) -> Schema:
    """Return the schema without keywords that are null; the same object if there are none. Recursive."""
    out = schema
    for key, value in schema.items():
        new = value
        if value is None and key in _NEVER_NULL:
            out = {name: item for name, item in out.items() if name != key}
            continue
        if isinstance(value, dict):
            if key in _SINGLE:
                new = without_nulls(cast("Schema", value))
            elif key in _MAPS:
                new = _mapped_values(cast("Schema", value))
        elif isinstance(value, list) and (key in _LISTS or key == "items"):
            items = cast("list[Any]", value)
            parts = [without_nulls(cast("Schema", item)) if isinstance(item, dict) else item for item in items]
            new = items if all(a is b for a, b in zip(parts, items, strict=True)) else parts
        if new is not value:
            out = {**out, key: new}
    return out


def _mapped_values(schemas: Schema) -> Schema:
    parts = {
        name: without_nulls(cast("Schema", item)) if isinstance(item, dict) else item for name, item in schemas.items()
    }
    return schemas if all(parts[name] is item for name, item in schemas.items()) else parts


_TYPES: Final = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_UNSUPPORTED: Final = (
    "$id", "id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$async",
    "dependencies", "discriminator",
)  # fmt: skip
"""Keywords that differ between dialects, or with which validators may find two schemas or none."""


def uncompilable(schema: Any, root: Schema) -> str | None:
    """Return the reason why a strict validator may fail to compile the schema; None without one."""
    todo: list[tuple[Any, str]] = [(schema, "")]
    while todo:
        part, at = todo.pop()
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict):
            return f"{at or 'its root'} is not a schema"
        node = cast("Schema", part)
        problem = _misused(node, root)
        if problem is not None:
            return f"{at}/{problem}"
        for key in _MAPS:
            todo += [(item, f"{at}/{key}/{name}") for name, item in node.get(key, {}).items()]
        for key in _LISTS:
            todo += [(item, f"{at}/{key}/{number}") for number, item in enumerate(node.get(key, []))]
        for key in _SINGLE:
            if key in node:
                value = node[key]
                many: list[Any] = cast("list[Any]", value) if isinstance(value, list) and key == "items" else [value]
                todo += [(item, f"{at}/{key}") for item in many]
    return None


def _misused(node: Schema, root: Schema) -> str | None:
    """Return the first keyword of one schema with an invalid value; None without one."""

    def is_strings(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, str) for item in cast("list[Any]", value))

    for key, value in node.items():
        right = True
        if key in _UNSUPPORTED:
            right = False
        elif key in _MAPS:
            right = isinstance(value, dict) and (
                key != "patternProperties" or all(map(_is_pattern, cast("Schema", value)))
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
            right = isinstance(value, str) and _resolves(value, root)
        elif key == "dependentRequired":
            right = isinstance(value, dict) and all(map(is_strings, cast("Schema", value).values()))
        if not right:
            return key
    return None


def _resolves(ref: str, root: Schema) -> bool:
    if ref == "#":
        return True
    if not ref.startswith("#/") or "%" in ref:
        return False
    node: Any = root
    for step in ref[2:].split("/"):
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or key not in node:
            return False
        node = cast("Schema", node)[key]
    return isinstance(node, dict)


_PIECE: Final = re.compile(
    r"""
      [^\\^$.*+?()\[\]{}|/]                                # a literal character
    | \\[dDwWsSbBtnrfv^$.*+?()\[\]{}|/\\]
    | [\^$.|/] | \((?:\?:)? | \)
    | \[\^?(?:[^\\\[\]&~\-]|\\[dDwWsStnrfv^$.*+?()\[\]{}|/\\-]|(?<=[A-Za-z0-9])-(?=[A-Za-z0-9])|-(?=\]))+\]
    | [*+?]\?? | \{\d{1,4}(?:,\d{0,4})?\}\??
    """,
    re.VERBOSE,
)


def _is_pattern(pattern: str) -> bool:
    """Return true for a text that is certainly a regular expression, in JavaScript's Unicode mode and in Python."""
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
