"""Traversal of JSON Schemas: sub-schemas, JSON pointers, and local `$ref`s.

Pure: no I/O, and no `$ref` is ever fetched. Schemas come from servers and are not trusted.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from asyncfc_mcp.schema.json_types import Pointer, Schema, is_array, is_object

_MAX_DEPTH: Final = 400
"""Maximum steps from the root of a schema to a sub-schema."""

_MAP_KEYWORDS: Final = ("$defs", "definitions", "properties", "patternProperties", "dependentSchemas", "dependencies")
_LIST_KEYWORDS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONE_KEYWORDS: Final = tuple(
    "items additionalItems unevaluatedItems contains additionalProperties unevaluatedProperties propertyNames "
    "not if then else".split()
)
VALUE_KEYWORDS: Final = frozenset(
    "properties patternProperties prefixItems items additionalItems unevaluatedItems contains additionalProperties "
    "unevaluatedProperties".split()
)
"""Keywords whose sub-schemas describe parts of the value, not the value itself."""
ANNOTATIONS: Final = frozenset(
    "title description default examples deprecated readOnly writeOnly $comment $defs definitions $anchor $schema "
    "$id".split()
)


def _subschemas(schema: Schema) -> Iterator[tuple[Pointer, Any]]:
    for word in _MAP_KEYWORDS:
        if is_object(group := schema.get(word)):
            yield from (((word, name), sub) for name, sub in group.items())
    for word in (*_LIST_KEYWORDS, "items"):
        if is_array(group := schema.get(word)):
            yield from (((word, str(index)), sub) for index, sub in enumerate(group))
    for word in _ONE_KEYWORDS:
        if is_object(sub := schema.get(word)):
            yield (word,), sub


def all_schemas(root: Schema) -> Iterator[tuple[Pointer, Schema]]:
    """Yield every sub-schema that is an object, with its pointer, the root first.

    Raises:
        RecursionError: they are nested too deeply to be rewritten.
    """
    stack: list[tuple[Pointer, Schema]] = [((), root)]
    while stack:
        at, schema = stack.pop()
        if len(at) > _MAX_DEPTH:
            raise RecursionError
        yield at, schema
        stack.extend((at + step, sub) for step, sub in _subschemas(schema) if is_object(sub))


def pointer_of(ref: object) -> Pointer | None:
    """Return the JSON pointer of a local `$ref`; None for any other value."""
    if ref == "#":
        return ()
    if not isinstance(ref, str) or not ref.startswith("#/"):
        return None
    return tuple(unquote(part).replace("~1", "/").replace("~0", "~") for part in ref[2:].split("/"))


def ref_to(pointer: Pointer) -> str:
    """Return the local `$ref` for a JSON pointer."""
    return "/".join(("#", *(part.replace("~", "~0").replace("/", "~1").replace("%", "%25") for part in pointer)))


def at_pointer(root: Mapping[str, Any], pointer: Pointer) -> Any:
    """Return the value at a pointer; None without one."""
    node: Any = root
    for part in pointer:
        if is_object(node):
            node = node.get(part)
        elif is_array(node) and part.isascii() and part.isdigit() and int(part[:9]) < len(node):
            node = node[int(part[:9])]
        else:
            return None
    return node
