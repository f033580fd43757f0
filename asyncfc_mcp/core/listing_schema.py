"""Conformance of listings to MCP's schema, so that one entry cannot make a client reject all others.

Clients validate a listing as a whole: for one entry with an invalid `null` they reject every entry of every server. An
entry is repaired where its meaning is clear; otherwise the field is left out, or the entry. Fields that the schema does
not define are kept. The strictest consumer of each field decides: the TypeScript SDK's schemas, the Python SDK's
models, and their JSON parsers.

Pure. Used once for each entry of a server's listing, never per request. Arguments of calls are validated against the
server's own schema, not against the repaired one.
"""

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, cast

from pydantic_core import Url

from asyncfc_mcp.quotation import label
from asyncfc_mcp.schema.compilable import uncompilable, without_nulls

Json = dict[str, Any]
Rule = Callable[[Any, str, list[str]], Any]
"""Checks a value, with its path and the list of remarks; returns the value, the same object if valid, or `REMOVED`."""

REMOVED: Final = object()
DEPTH_LIMIT: Final = 100
"""Maximum levels of an entry. The parser of the Python SDK rejects a message of more than 200."""
SHOWN: Final = 40
"""Maximum characters of a value in a remark."""


def conform(kind: str, raw: Json) -> tuple[Json | None, tuple[str, ...]]:
    """Return an entry of a listing that conforms to MCP's schema, and remarks on changes other than removed nulls.

    Args:
        kind: key of the listing's result: `tools`, `prompts`, `resources`, `resourceTemplates`.

    Returns:
        The same object if it conforms; None if it has to be left out. The root of `outputSchema` may be another type
        than object, as 2026-07-28 allows (see `for_handshake`).
    """
    remarks: list[str] = []
    entry = raw
    for key, value in raw.items():
        if isinstance(value, dict | list) and _is_deep(cast("Any", value)):
            remarks.append(f"{key} is nested more than {DEPTH_LIMIT} levels deep and is left out")
            entry = {**entry, key: None}
    entry = _ENTRIES[kind](_with_finite_numbers(entry), "", remarks)
    return (None if entry is REMOVED else entry), tuple(remarks)


def for_handshake(tool: Json) -> Json:
    """Return a conforming tool for clients of versions before 2026-07-28, which require an output of type `object`."""
    schema = tool.get("outputSchema")
    if schema is None or schema.get("type") == "object":
        return tool
    return {key: value for key, value in tool.items() if key != "outputSchema"}


def _with_finite_numbers(value: Json) -> Json:
    """Return the value with the largest float in place of numbers that are infinite in JavaScript."""
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


# --- rules for values ------------------------------------------------------------------------------------------------


def _wrong(value: Any, path: str, expected: str, remarks: list[str]) -> Any:
    if value is not None:
        shown = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
        remarks.append(f"{path} is not {expected} ({shown[:SHOWN]}) and is left out")
    return REMOVED


def _text(value: Any, path: str, remarks: list[str]) -> Any:
    return value if isinstance(value, str) else _wrong(value, path, "text", remarks)


def _label(value: Any, path: str, remarks: list[str]) -> Any:
    """Rule for a text that hosts show on one line, beside other text."""
    if not isinstance(value, str):
        return _wrong(value, path, "text", remarks)
    if (line := label(value)) == value:
        return value
    remarks.append(f"{path} has control characters, which are escaped or left out")
    return line


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
    """Return a rule for a list, without invalid elements."""

    def rule(value: Any, path: str, remarks: list[str]) -> Any:
        if not isinstance(value, list):
            return _wrong(value, path, "a list", remarks)
        items = cast("list[Any]", value)
        kept = [of(item, f"{path}[{number}]", remarks) for number, item in enumerate(items)]
        same = all(new is old for new, old in zip(kept, items, strict=True))
        return items if same else [item for item in kept if item is not REMOVED]

    return rule


def _object(
    fields: Mapping[str, Rule], required: Iterable[str] = (), *, more: Callable[[Json], Json] | None = None
) -> Rule:
    """Return a rule for an object, without invalid fields; removed without a required one. `more` may add fields
    first."""
    required = tuple(required)

    def rule(value: Any, path: str, remarks: list[str]) -> Any:
        if not isinstance(value, dict):
            return _wrong(value, path or "the entry", "an object", remarks)
        checked = cast("Json", value) if more is None else more(cast("Json", value))
        dot = f"{path}." if path else ""
        for key in fields.keys() & checked.keys():
            old = checked[key]
            new = fields[key](old, dot + key, remarks)
            if new is old:
                continue
            if new is REMOVED:
                checked = {name: item for name, item in checked.items() if name != key}
            else:
                checked = {**checked, key: new}
        if missing := [key for key in required if key not in checked]:
            remarks.append(f"{path or 'it'} has no usable {' and '.join(missing)} and is left out")
            return REMOVED
        return checked

    return rule


def _any_object(value: Any, path: str, remarks: list[str]) -> Any:
    return cast("Json", value) if isinstance(value, dict) else _wrong(value, path, "an object", remarks)


# --- rules for schemas of tools --------------------------------------------------------------------------------------


def _properties(value: Any, path: str, remarks: list[str]) -> Any:
    if not isinstance(value, dict):
        return _wrong(value, path, "an object", remarks)
    properties = cast("Json", value)
    wrong = [name for name, schema in properties.items() if not isinstance(schema, dict)]
    if not wrong:
        return properties
    # `true` and `false` are schemas, but the TypeScript SDK rejects them; an object can express the same.
    repaired: Json = {name: {"not": {}} if properties[name] is False else {} for name in wrong}
    return {**properties, **repaired}


_ROOT: Final = _object({"properties": _properties, "required": _each(_text), "$schema": _text, "$defs": _any_object})


def _input_schema(value: Any, path: str, remarks: list[str]) -> Any:
    if not isinstance(value, dict):
        if value not in (None, True):
            remarks.append(f"{path} is not an object; any arguments are listed as accepted")
        return {"type": "object"}
    schema = _ROOT(without_nulls(cast("Json", value)), path, remarks)
    if schema.get("type") == "object":
        return schema
    kinds = schema.get("type", "object")
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        remarks.append(f'{path}.type is listed as "object": arguments are one')
    return {**schema, "type": "object"}


def _output_schema(value: Any, path: str, remarks: list[str]) -> Any:
    if not isinstance(value, dict):
        return _wrong(value, path, "an object", remarks)
    schema = _ROOT(without_nulls(cast("Json", value)), path, remarks)
    if schema.get("type") in (["object", "null"], ["null", "object"], ["object"]):
        schema = {**schema, "type": "object"}  # structured content is never null
    # Clients compile it when they receive the listing, and reject the listing if that fails.
    if (problem := uncompilable(schema, schema)) is not None:
        remarks.append(f"{path} is left out: {problem}")
        return REMOVED
    return schema


# --- rules for entries -----------------------------------------------------------------------------------------------

_ICON: Final = _object(
    {"src": _text, "mimeType": _text, "sizes": _each(_text), "theme": _choice("light", "dark")}, ["src"]
)
_COMMON: Final[Mapping[str, Rule]] = {
    "name": _text,
    "title": _label,
    "description": _text,
    "icons": _each(_ICON),
    "_meta": _any_object,
}
_HINTS: Final = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
_TOOL: Final[Mapping[str, Rule]] = {
    **_COMMON,
    "inputSchema": _input_schema,
    "outputSchema": _output_schema,
    "annotations": _object({"title": _label, **dict.fromkeys(_HINTS, _flag)}),
    "execution": _object({"taskSupport": _choice("required", "optional", "forbidden")}),
}
_ANNOTATED: Final[Mapping[str, Rule]] = {
    **_COMMON,
    "name": _label,
    "mimeType": _text,
    "annotations": _object(
        {"audience": _each(_choice("user", "assistant")), "priority": _priority, "lastModified": _moment}
    ),
}
_ARGUMENT: Final = _object({"name": _text, "title": _text, "description": _text, "required": _flag}, ["name"])


def _named_by(key: str) -> Callable[[Json], Json]:
    """Return a function that gives an entry without a name its identifier as name."""

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
