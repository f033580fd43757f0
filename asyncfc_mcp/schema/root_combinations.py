"""Merging of `allOf`, `anyOf` and `oneOf` at the root of an input schema into one object schema.

The Messages API refuses a tool whose root has one of them, and many hosts show a model only the root's `properties`.
The merged schema accepts everything that the original accepts, and says in the root's `description` which properties
belong together. Pure: no I/O, and arguments are never changed in place. Leaves everything below the root to `loosen`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from asyncfc_mcp.schema.budget import Budget
from asyncfc_mcp.schema.json_types import Pointer, Schema, compact, is_array, is_object
from asyncfc_mcp.schema.walk import ANNOTATIONS, VALUE_KEYWORDS, all_schemas, at_pointer, pointer_of, ref_to

_COMBINATIONS: Final = ("allOf", "anyOf", "oneOf")
_CONDITION: Final = ("if", "then", "else")
_MAX_TEXT: Final = 4_000
"""Maximum characters that are added to the description."""
_MAX_REFS: Final = 50
_ANYTHING: Final[tuple[Schema, ...]] = (
    {"type": "string"},
    {"type": "number"},
    {"type": "boolean"},
    {"type": "object"},
    {"type": "array", "items": {}},
    {"type": "null"},
)
"""Every JSON value, in branches with a type: model APIs refuse one without."""


def without_root_combinations(root: Schema, budget: Budget) -> Schema:
    """Return a schema without `allOf`, `anyOf` and `oneOf` at the root, which accepts all objects that `root` accepts.

    - `allOf`: properties, required ones and bounds of all branches;
    - `anyOf`, `oneOf`: properties of all branches, each with all its alternatives, and what all of them require. A
      property that a branch leaves open may have any value;
    - titles, descriptions and the required properties of alternatives become text in the description;
    - what cannot be merged is left out: the original schema is enforced before a call is sent.

    Unchanged without such a combination, also behind a root that is a `$ref`.

    Raises:
        SchemaTooLarge: it would take too long.
    """
    if not _has_combination(root, root, 0):
        return root
    parts = [part for _, part in all_schemas(root)]
    budget.spend(len(parts))
    merging = _Merging(root, budget)
    shape = merging.shape(root, 0)
    if shape is None:
        return {word: value for word, value in root.items() if word not in _COMBINATIONS}
    text = ([root["description"]] if isinstance(root.get("description"), str) else []) + shape.texts
    result = {word: value for word, value in root.items() if word in ANNOTATIONS} | shape.schema()
    if shape.texts:
        result["description"] = "\n".join(text)[: _MAX_TEXT + len(text[0])]
    return _with_targets(root, result, merging.inlined, budget)


def _has_combination(root: Schema, schema: Any, depth: int) -> bool:
    if not is_object(schema) or depth > _MAX_REFS:
        return False
    if any(is_array(schema.get(word)) for word in _COMBINATIONS):
        return True
    pointer = pointer_of(schema.get("$ref"))
    return bool(pointer) and _has_combination(root, at_pointer(root, pointer), depth + 1)


@dataclass
class _Shape:
    """Object schema without combinations, taken apart. Values of the fields belong to the shape, their parts do not."""

    properties: dict[str, Any] = field(default_factory=dict[str, Any])
    required: dict[str, None] = field(default_factory=dict[str, None])
    additional: Any = True
    """Schema of properties without a name of their own."""
    other: Schema = field(default_factory=dict[str, Any])
    """Keywords besides, annotations excepted."""
    label: str = ""
    """Title and description."""
    texts: list[str] = field(default_factory=list[str])
    """Sentences on what belongs together."""

    @property
    def closed(self) -> bool:
        return self.additional is False and "patternProperties" not in self.other

    def schema(self) -> Schema:
        result: Schema = {"type": "object", "properties": self.properties}
        if self.required:
            result["required"] = list(self.required)
        result |= self.other
        return result if self.additional is True else {**result, "additionalProperties": self.additional}


class _Merging:
    """Shapes of the sub-schemas of one root."""

    def __init__(self, root: Schema, budget: Budget) -> None:
        self._root = root
        self._spend = budget.spend
        self.inlined: set[Pointer] = set()
        """Places of definitions that became part of the root."""

    def shape(self, schema: Any, refs: int) -> _Shape | None:
        """Return the shape of a schema of the root's own value; None if it accepts no object."""
        self._spend(2)
        if not is_object(schema):
            return None if schema is False else _Shape()
        declared = schema.get("type", "object")
        if declared != "object" and not (is_array(declared) and "object" in declared):
            return None
        shape = self._own(schema)
        parts: list[_Shape | None] = []
        if "$ref" in schema:
            pointer = pointer_of(schema["$ref"])
            if pointer and refs < _MAX_REFS:
                self.inlined.add(pointer)
                parts.append(self.shape(at_pointer(self._root, pointer) or {}, refs + 1))
        if is_array(every := schema.get("allOf")):
            parts += [self.shape(sub, refs + 1) for sub in every]
        for word in ("anyOf", "oneOf"):
            if is_array(some := schema.get(word)):
                parts.append(self._alternatives([self.shape(sub, refs + 1) for sub in some]))
        for part in parts:
            if part is None:
                return None
            self._narrow(shape, part)
        return shape

    def _own(self, schema: Schema) -> _Shape:
        properties, required = schema.get("properties"), schema.get("required")
        apart = {"type", "properties", "required", "additionalProperties", "$ref", "enum", "const", *_COMBINATIONS}
        other = {word: value for word, value in schema.items() if word not in apart | ANNOTATIONS}
        if schema.keys() & {"$ref", *_COMBINATIONS}:
            # They may have counted properties that branches evaluate.
            other.pop("unevaluatedProperties", None)
        shape = _Shape(
            dict(properties) if is_object(properties) else {},
            {name: None for name in required if isinstance(name, str)} if is_array(required) else {},
            schema.get("additionalProperties", True),
            other,
        )
        self._spend(len(shape.properties) + len(shape.required) + len(other))
        if schema is not self._root:
            words = [text for word in ("title", "description") if isinstance(text := schema.get(word), str)]
            shape.label = ": ".join(words)
        return shape

    def _narrow(self, shape: _Shape, part: _Shape) -> None:
        """Change `shape` so that it also requires what `part` requires, as far as one object schema can."""
        self._spend(len(part.properties) + len(part.required) + len(part.other) + 1)
        for name, sub in part.properties.items():
            shape.properties[name] = _both(shape.properties[name], sub) if name in shape.properties else sub
        shape.required |= part.required
        if shape.additional is True or part.additional is False:
            shape.additional = part.additional
        for word, value in part.other.items():
            mine = shape.other.get(word)
            if word == "patternProperties" and is_object(mine) and is_object(value):
                both = {key: _both(mine[key], sub) if key in mine else sub for key, sub in value.items()}
                shape.other[word] = {**mine, **both}
            elif word in ("minProperties", "maxProperties") and isinstance(mine, int) and isinstance(value, int):
                shape.other[word] = max(mine, value) if word == "minProperties" else min(mine, value)
            elif word not in shape.other and not (word in _CONDITION and "if" in shape.other):
                shape.other[word] = value
        shape.texts += [part.label] if part.label else []
        shape.texts += part.texts

    def _alternatives(self, shapes: list[_Shape | None]) -> _Shape | None:
        """Return the shape of values that fit at least one of the shapes."""
        some = [shape for shape in shapes if shape is not None]
        if len(some) < 2:
            return some[0] if some else None
        found: dict[str, list[Any]] = {}
        open_without = dict.fromkeys((name for shape in some for name in shape.properties), 0)
        wide = [shape for shape in some if not shape.closed]
        for shape in some:
            self._spend(len(shape.properties) + len(shape.other) + 1)
            for name, sub in shape.properties.items():
                found.setdefault(name, []).append(sub)
                open_without[name] += not shape.closed
        result = _Shape(
            properties={
                name: self._either([*subs, *self._left_open(name, wide, open_without[name])])
                for name, subs in found.items()
            },
            required={name: None for name in some[0].required if all(name in shape.required for shape in some)},
            additional=False if not wide else True,
        )
        for word, value in some[0].other.items():
            values = [shape.other.get(word) for shape in some]
            numbers = [each for each in values if isinstance(each, int)]
            self._spend(len(values))
            if word in ("minProperties", "maxProperties") and len(numbers) == len(values):
                result.other[word] = min(numbers) if word == "minProperties" else max(numbers)
            elif all(each == value for each in values):
                result.other[word] = value
        labels = [_label(shape, result.required) for shape in some]
        if any(labels):
            result.texts = ["One of: " + "; or ".join(label or "any other" for label in labels)[:_MAX_TEXT]]
        return result

    def _left_open(self, name: str, wide: list[_Shape], declaring: int) -> list[Any]:
        """Return the alternatives for a property in the shapes that do not declare it and are not closed."""
        if declaring == len(wide):
            return []
        self._spend(len(wide))
        rest = [shape for shape in wide if name not in shape.properties]
        if any("patternProperties" in shape.other or not is_object(shape.additional) for shape in rest):
            return list(_ANYTHING)
        return [shape.additional for shape in rest]

    def _either(self, subs: list[Any]) -> Any:
        """Return a schema of values that fit at least one of these."""
        if len(subs) > 1:
            texts = [compact(sub) for sub in subs]
            self._spend(sum(map(len, texts)) // 100)
            subs = list(dict(zip(texts, subs, strict=True)).values())
        if len(subs) == 1 or any(sub is True or sub == {} for sub in subs):
            return subs[0] if len(subs) == 1 else {}
        return _as_choice(subs) or {"anyOf": subs}


def _both(first: Any, second: Any) -> Any:
    """Return a schema of values that fit both, in as few parts as possible."""
    if second is True or first == second:
        return first
    if first is True:
        return second
    if not is_object(first) or not is_object(second):
        return False
    same = all(first[word] == second[word] for word in first.keys() & second.keys())
    # Keywords for parts depend on each other: `additionalProperties` on `properties`.
    if same and not (first.keys() & VALUE_KEYWORDS and second.keys() & VALUE_KEYWORDS):
        return {**first, **second}
    return {"allOf": [first, second]}


def _as_choice(subs: list[Any]) -> Schema | None:
    """Return alternatives that are constants as one `enum`: the discriminator of a union."""
    values: list[Any] = []
    rest: Schema | None = None
    for sub in subs:
        if not is_object(sub) or not sub.keys() <= {"type", "const", "enum", *ANNOTATIONS}:
            return None
        own = sub.get("enum", [sub["const"]] if "const" in sub else None)
        others = {word: value for word, value in sub.items() if word not in ("const", "enum")}
        if not is_array(own) or (rest is not None and others != rest):
            return None
        rest = others
        values += own
    return {**(rest or {}), "enum": list({compact(value): value for value in values}.values())}


def _label(shape: _Shape, required: Iterable[str]) -> str:
    """Return an alternative in words: its title and description, and what it requires beyond the others."""
    names: list[str] = []
    for name in shape.required:
        sub = shape.properties.get(name)
        values = sub.get("enum", [sub["const"]] if "const" in sub else None) if is_object(sub) else None
        if is_array(values) and len(values) == 1:
            names.append(f"{name}={compact(values[0])}")
        elif name not in required:
            names.append(name)
    text = " ".join([*([shape.label] if shape.label else []), *shape.texts])
    if not names:
        return text
    return f"{text} ({', '.join(names)})" if text else ", ".join(names)


def _with_targets(root: Schema, result: Schema, inlined: set[Pointer], budget: Budget) -> Schema:
    """Return the merged root without definitions that only the root used, and with a definition for each target of a
    `$ref` that merging has moved or changed."""
    moved: dict[Pointer, str] = {}
    used: set[Pointer] = set()
    rest = [result]
    while rest:
        for at, part in all_schemas(rest.pop()):
            budget.spend(1 + len(at) // 8)
            if not (pointer := pointer_of(part.get("$ref"))) or len(pointer) < 2:
                continue
            if at[:2] not in inlined:
                used.add(pointer[:2])
            if pointer[:2] not in moved and _is_moved(root, result, pointer):
                moved[pointer[:2]] = ".".join(pointer[:2])
                rest.append({"allOf": [at_pointer(root, pointer[:2])]})
    for group in ("$defs", "definitions"):
        if is_object(definitions := result.get(group)):
            kept = {key: sub for key, sub in definitions.items() if (group, key) not in inlined - used}
            result = {word: value for word, value in result.items() if word != group} | ({group: kept} if kept else {})
    if not moved:
        return result
    more = {name: at_pointer(root, pointer) for pointer, name in moved.items()}
    result = json.loads(json.dumps({**result, "$defs": {**result.get("$defs", {}), **more}}))
    for _, part in all_schemas(result):
        if (pointer := pointer_of(part.get("$ref"))) and pointer[:2] in moved:
            part["$ref"] = ref_to(("$defs", moved[pointer[:2]], *pointer[2:]))
    return result


def _is_moved(root: Schema, result: Schema, pointer: Pointer) -> bool:
    if pointer[0] in _COMBINATIONS:
        return True
    return pointer[0] == "properties" and at_pointer(root, pointer[:2]) is not at_pointer(result, pointer[:2])
