"""Shape of a tool's result from its `outputSchema`.

Pure. Owns the reading of schemas for this purpose: references, combinations, nullable values, maps. Schemas come from
servers and may be recursive or of any size, so the number of sub-schemas that are read is bounded.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from asyncfc_mcp.core.shapes import ANYTHING, MAP, MOST_FIELDS, MOST_LISTS, Field, Shape
from asyncfc_mcp.schema.json_types import is_array, is_object
from asyncfc_mcp.schema.walk import at_pointer, pointer_of

MOST_SCHEMAS: Final = 2_000
"""Maximum sub-schemas that are read of one schema."""
MOST_NESTED: Final = 8
"""Levels of `anyOf`, `oneOf` and `allOf` directly inside each other."""
_MOST_REFS: Final = 20
_MOST_BRANCHES: Final = 16
_LEVELS: Final = 4
"""Levels of objects that are read: one more than is shown, to tell an object from a map."""
_TYPES: Final = frozenset(("string", "number", "integer", "boolean"))
WRAPPER: Final = "result"
"""Key in which server frameworks wrap a result that is no object; references remove it."""


def declared_shape(schema: object) -> Shape | None:
    """Return the shape that an output schema declares; None if it declares nothing of use.

    The `{"result": …}` in which server frameworks wrap anything that is not an object is removed, as in references.
    """
    if not is_object(schema):
        return None
    shape = _Reader(schema).shape(schema, _LEVELS, MOST_LISTS + 1, MOST_NESTED)
    if [field.name for field in shape.fields] == [WRAPPER] and not shape.more:
        shape = shape.fields[0].shape
    return shape if shape.says_something else None


class _Reader:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = MOST_SCHEMAS

    def shape(self, schema: object, depth: int, lists: int, nested: int) -> Shape:
        """Return the shape of one schema.

        Args:
            depth: levels of objects that are read below.
            lists: levels of lists directly inside each other.
            nested: levels of combinations of schemas.
        """
        self._left -= 1
        schema = self._resolved(schema)
        if schema is None or self._left < 0:
            return ANYTHING
        own = self._own(schema, depth, lists)
        if not nested:
            return own
        nested -= 1
        shapes = [own, *(self.shape(part, depth, lists, nested) for part in _schemas(schema.get("allOf")))]
        shape = _all_of(shapes)
        for word in ("anyOf", "oneOf"):
            branches = [part for part in _schemas(schema.get(word)) if not _is_null(part)]
            if branches:
                shape = _all_of([shape, _any_of([self.shape(part, depth, lists, nested) for part in branches])])
        return shape

    def _resolved(self, schema: object) -> Mapping[str, Any] | None:
        """Return a schema without a `$ref` at its root; None if that leads nowhere."""
        for _ in range(_MOST_REFS):
            if not is_object(schema):
                return None
            if "$ref" not in schema:
                return schema
            pointer = pointer_of(schema["$ref"])
            target = at_pointer(self._root, pointer) if pointer is not None else None
            beside = {word: value for word, value in schema.items() if word != "$ref"}
            schema = {**beside, **target} if is_object(target) else None
        return None

    def _own(self, schema: Mapping[str, Any], depth: int, lists: int) -> Shape:
        """Return the shape that a schema declares itself, without its combinations."""
        kinds = [kind for kind in _texts(schema.get("type")) if kind != "null"]
        if is_object(schema.get("properties")) or kinds == ["object"]:
            return self._object(schema, depth)
        if kinds == ["array"] or "items" in schema or "prefixItems" in schema:
            return Shape(items=self._items(schema, depth, lists - 1) if lists else ANYTHING)
        if len(kinds) == 1 and kinds[0] in _TYPES:
            return Shape(word="number" if kinds[0] == "integer" else kinds[0])
        values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        if is_array(values) and values and all(isinstance(value, str) for value in values[:MOST_FIELDS]):
            return Shape(word="string")
        return ANYTHING

    def _object(self, schema: Mapping[str, Any], depth: int) -> Shape:
        properties = cast("dict[str, Any]", schema["properties"]) if is_object(schema.get("properties")) else {}
        others = schema.get("additionalProperties")
        # `true` says nothing, a schema describes a map.
        keyed = (is_object(others) and bool(others)) or bool(schema.get("patternProperties"))
        if not properties:
            return MAP if keyed else ANYTHING
        if depth == 0:
            return MAP
        required = frozenset(_texts(schema.get("required")))
        fields = tuple(
            Field(
                name,
                self.shape(part, depth - 1, MOST_LISTS, MOST_NESTED),
                name not in required or self._is_nullable(part),
            )
            for _, (name, part) in zip(range(MOST_FIELDS), properties.items(), strict=False)
        )
        return Shape(fields, more=keyed or len(properties) > MOST_FIELDS)

    def _items(self, schema: Mapping[str, Any], depth: int, lists: int) -> Shape:
        parts = [*_schemas(schema.get("prefixItems")), *_schemas(schema.get("items"))]
        if is_object(schema.get("items")):
            parts.append(schema["items"])
        return _any_of([self.shape(part, depth, lists, MOST_NESTED) for part in parts])

    def _is_nullable(self, schema: object) -> bool:
        schema = self._resolved(schema)
        if schema is None:
            return False
        if "null" in _texts(schema.get("type")) and is_array(schema.get("type")):
            return True
        return any(_is_null(part) for word in ("anyOf", "oneOf") for part in _schemas(schema.get(word)))


def _all_of(shapes: Iterable[Shape]) -> Shape:
    """Return the shape of a value that has all of these."""
    known = [shape for shape in shapes if shape != ANYTHING]
    if len(known) < 2:
        return known[0] if known else ANYTHING
    if not all(shape.is_object for shape in known):
        return next((shape for shape in known if shape.says_something), known[0])
    fields: dict[str, Field] = {}
    for field in (field for shape in known for field in shape.fields):
        old = fields.get(field.name)
        fields[field.name] = field if old is None else Field(
            field.name, _all_of([old.shape, field.shape]), old.optional and field.optional
        )  # fmt: skip
    return Shape(tuple(fields.values()), more=any(shape.more for shape in known))


def _any_of(shapes: list[Shape]) -> Shape:
    """Return the shape of a value that has one of these: keys that are not in all of them are optional."""
    shapes = list(dict.fromkeys(shapes))
    if len(shapes) < 2:
        return shapes[0] if shapes else ANYTHING
    if all(shape.items is not None for shape in shapes):
        return Shape(items=_any_of([shape.items for shape in shapes if shape.items is not None]))
    objects = [shape for shape in shapes if shape.is_object]
    if not objects:
        return ANYTHING
    fields: dict[str, Field] = {}
    for field in (field for shape in objects for field in shape.fields):
        if field.name not in fields:
            same = [each for shape in objects for each in shape.fields if each.name == field.name]
            optional = len(same) < len(shapes) or any(each.optional for each in same)
            fields[field.name] = Field(field.name, _any_of([each.shape for each in same]), optional)
    return Shape(tuple(fields.values()), more=any(shape.more for shape in objects))


def _schemas(value: object) -> list[Any]:
    return value[:_MOST_BRANCHES] if is_array(value) else []


def _texts(value: object) -> list[str]:
    return [text for text in (value if is_array(value) else [value]) if isinstance(text, str)]


def _is_null(schema: object) -> bool:
    return is_object(schema) and (schema.get("type") == "null" or schema.get("const", 0) is None)
