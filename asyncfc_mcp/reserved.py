"""The bridge's own arguments (`_as`, `_wait`), added to the input schemas of tools.

Pure: no I/O, and nothing given is ever changed in place.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from asyncfc_mcp.json_types import Schema, is_object, listed
from asyncfc_mcp.patterns import matches
from asyncfc_mcp.walk import ANNOTATIONS, all_schemas, at_pointer, pointer_of

_MAX_PATTERNS: Final = 50
_MAX_PATTERN_TEXT: Final = 4_000
"""Characters of all patterns of a tool. Beyond either bound the tool is taken to have arguments of our names."""
RESERVED: Final = ("_as", "_wait")


def add_reserved(schema: Mapping[str, Any], *, as_: bool, wait: bool) -> tuple[Schema, tuple[str, ...]]:
    """The schema with the bridge's own optional arguments `_as` and `_wait`, and those that had to be left out.

    One is left out where the tool has an argument of that name itself. No description: what they mean is said once, in
    the server's instructions. But a type, although `{}` would do with a third fewer tokens: the Gemini CLI skips a tool
    if one of its arguments has none. They come last, because some clients (mcporter) give arguments by position.

    A root that is only a `$ref` is replaced by what it refers to, because hosts show the root's `properties`. Parts
    that allow no further properties learn of the two; `propertyNames` and `maxProperties` make room. Never raises; a
    schema whose `properties` are broken is returned as it is, with both left out.
    """
    wanted = tuple(name for name, on in zip(RESERVED, (as_, wait), strict=True) if on)
    if not wanted:
        return dict(schema), ()
    try:
        return _with_reserved(_inlined(dict(schema)), wanted)
    except (RecursionError, TypeError, ValueError, AttributeError):
        return dict(schema), wanted


def _with_reserved(root: Schema, wanted: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
    parts = _same_value(root)
    patterns = [str(pattern) for part in parts for pattern in part.get("patternProperties", {})]
    if len(patterns) > _MAX_PATTERNS or sum(map(len, patterns)) > _MAX_PATTERN_TEXT:
        return root, wanted
    skipped = tuple(
        name
        for name in wanted
        if any(_declares(part, name) for part in parts) or any(matches(pattern, name) for pattern in patterns)
    )
    added = [name for name in wanted if name not in skipped]
    if not added:
        return root, skipped
    if any(part is not root and _is_narrow(part) for part in parts):
        root = json.loads(json.dumps(root))  # a fifth of the time of `deepcopy`
        for part in _same_value(root):
            if part is not root and _is_closed(part):
                part["properties"] = {**part.get("properties", {}), **{name: {} for name in added}}
            _make_room(part, added)
    else:
        root = dict(root)
        _make_room(root, added)
    root["properties"] = {**root.get("properties", {}), **{name: {"type": "string"} for name in added}}
    return root, skipped


def _same_value(root: Schema) -> list[Schema]:
    """The schemas that judge the root's own value: the root first, then all that it is combined with."""
    found: dict[int, Schema] = {}
    stack: list[Any] = [root]
    while stack:
        schema = stack.pop()
        if not is_object(schema) or id(schema) in found:
            continue
        found[id(schema)] = schema
        for word in ("allOf", "anyOf", "oneOf", "then", "else"):
            stack += listed(schema.get(word))
        for word in ("dependentSchemas", "dependencies"):
            if is_object(group := schema.get(word)):
                stack += group.values()
        if (pointer := pointer_of(schema.get("$ref"))) is not None:
            stack.append(at_pointer(root, pointer))
    return list(found.values())


def _declares(schema: Schema, name: str) -> bool:
    return name in schema.get("properties", {}) or name in schema.get("required", ())


def _is_closed(schema: Schema) -> bool:
    """Whether properties that it does not name may be refused."""
    return not all(schema.get(word) in (None, True, {}) for word in ("additionalProperties", "unevaluatedProperties"))


def _is_narrow(schema: Schema) -> bool:
    return _is_closed(schema) or "propertyNames" in schema or "maxProperties" in schema


def _make_room(schema: Schema, added: list[str]) -> None:
    if "propertyNames" in schema:
        schema["propertyNames"] = {"anyOf": [schema["propertyNames"], {"enum": added}]}
    if "maxProperties" in schema:
        schema["maxProperties"] += len(added)


def _inlined(root: Schema) -> Schema:
    """A root that only refers to another schema, replaced by that; any other root as it is."""
    pointer = pointer_of(root.get("$ref"))
    target = at_pointer(root, pointer) if pointer else None
    beside = {word: value for word, value in root.items() if word != "$ref"}
    # Before 2019-09 what stands beside a `$ref` counts for nothing; it must not begin to.
    if not pointer or not is_object(target) or not beside.keys() <= {*ANNOTATIONS, "type"}:
        return root
    if target.keys() & {"$ref", "$defs", "definitions"}:
        return root
    merged = {**target, **beside}
    group = merged.get(pointer[0])
    if pointer[0] in ("$defs", "definitions") and len(pointer) == 2 and is_object(group):
        rest = {name: sub for name, sub in group.items() if name != pointer[1]}
        slim = {word: value for word, value in merged.items() if word != pointer[0]} | (
            {pointer[0]: rest} if rest else {}
        )
        others = (pointer_of(sub.get("$ref")) for _, sub in all_schemas(slim))
        if not any(other is not None and other[:2] == pointer for other in others):
            return slim
    return merged
