"""Addition of the bridge's own arguments (`_as`, `_after`, `_wait`) to the input schemas of tools.

Pure: no I/O, and arguments are never changed in place.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from asyncfc_mcp.schema.json_types import Schema, as_list, is_object
from asyncfc_mcp.schema.patterns import matches
from asyncfc_mcp.schema.walk import ANNOTATIONS, all_schemas, at_pointer, pointer_of

_MAX_PATTERNS: Final = 50
_MAX_PATTERN_TEXT: Final = 4_000
"""Maximum characters of all patterns of a tool. Beyond either bound, the tool counts as having arguments of these
names."""
RESERVED: Final = ("_as", "_after", "_wait")


def add_reserved(
    schema: Mapping[str, Any], *, as_: bool, wait: bool, after: bool = False
) -> tuple[Schema, tuple[str, ...]]:
    """Return the schema with the bridge's optional arguments, and those that were not added.

    An argument is not added where the tool has one of that name itself. They have no description, since the server's
    instructions explain them once, but a type, although `{}` would take a third fewer tokens (`without_types`): the
    Gemini CLI skips a tool if one of its arguments has none, and the Gemini API refuses the request. They are last,
    because some clients (mcporter) pass arguments by position.

    A root that is only a `$ref` is replaced by its target, because hosts show the root's `properties`. They are also
    declared in parts that allow no further properties, and `propertyNames` and `maxProperties` are extended. Never
    raises; a schema with broken `properties` is returned unchanged, without them.
    """
    wanted = tuple(name for name, on in zip(RESERVED, (as_, after, wait), strict=True) if on)
    if not wanted:
        return dict(schema), ()
    try:
        return _with_reserved(_inlined(dict(schema)), wanted)
    except (RecursionError, TypeError, ValueError, AttributeError):
        return dict(schema), wanted


def without_types(schema: Schema, names: Iterable[str]) -> Schema:
    """Return a schema to which `add_reserved` has added these arguments with arguments of any type in their place."""
    return {**schema, "properties": {**schema["properties"], **{name: {} for name in names}}}


def _with_reserved(root: Schema, wanted: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
    parts = same_value(root)
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
        for part in same_value(root):
            if part is not root and _is_closed(part):
                part["properties"] = {**part.get("properties", {}), **{name: {} for name in added}}
            _extend(part, added)
    else:
        root = dict(root)
        _extend(root, added)
    root["properties"] = {**root.get("properties", {}), **{name: {"type": "string"} for name in added}}
    return root, skipped


def same_value(root: Schema) -> list[Schema]:
    """Return the schemas that apply to the root's own value: the root first, then all that it is combined with."""
    found: dict[int, Schema] = {}
    stack: list[Any] = [root]
    while stack:
        schema = stack.pop()
        if not is_object(schema) or id(schema) in found:
            continue
        found[id(schema)] = schema
        for word in ("allOf", "anyOf", "oneOf", "then", "else"):
            stack += as_list(schema.get(word))
        for word in ("dependentSchemas", "dependencies"):
            if is_object(group := schema.get(word)):
                stack += group.values()
        if (pointer := pointer_of(schema.get("$ref"))) is not None:
            stack.append(at_pointer(root, pointer))
    return list(found.values())


def _declares(schema: Schema, name: str) -> bool:
    return name in schema.get("properties", {}) or name in schema.get("required", ())


def _is_closed(schema: Schema) -> bool:
    """Return true where undeclared properties may be rejected."""
    return not all(schema.get(word) in (None, True, {}) for word in ("additionalProperties", "unevaluatedProperties"))


def _is_narrow(schema: Schema) -> bool:
    return _is_closed(schema) or "propertyNames" in schema or "maxProperties" in schema


def _extend(schema: Schema, added: list[str]) -> None:
    if "propertyNames" in schema:
        schema["propertyNames"] = {"anyOf": [schema["propertyNames"], {"enum": added}]}
    if "maxProperties" in schema:
        schema["maxProperties"] += len(added)


def _inlined(root: Schema) -> Schema:
    """Return the target of a root that is only a `$ref`; any other root unchanged."""
    pointer = pointer_of(root.get("$ref"))
    target = at_pointer(root, pointer) if pointer else None
    beside = {word: value for word, value in root.items() if word != "$ref"}
    # Before 2019-09 keywords beside a `$ref` have no effect, and must not get any.
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
