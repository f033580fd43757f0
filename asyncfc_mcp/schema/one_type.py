"""Schemas with a list of types, taken apart into schemas with one type each.

Several model APIs and converters take no list of types within an alternative. Pure: no I/O, and arguments are never
changed in place.
"""

from typing import Any, Final

from asyncfc_mcp.schema.json_types import Schema, is_array, json_type

_OF_NUMBERS: Final = frozenset("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split())
_KEYWORDS_OF: Final = {
    "string": frozenset("minLength maxLength pattern contentEncoding contentMediaType".split()),
    "integer": _OF_NUMBERS,
    "number": _OF_NUMBERS,
    "array": frozenset("items prefixItems additionalItems minItems maxItems uniqueItems contains minContains".split()),
    "object": frozenset(
        "properties patternProperties additionalProperties required minProperties maxProperties propertyNames "
        "dependentRequired dependentSchemas dependencies".split()
    ),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
"""Type → keywords that concern no other type."""
_WHOLE: Final = frozenset({"$ref", "$anchor", "unevaluatedItems", "unevaluatedProperties"})
"""Keywords that tie a schema together."""


def by_type(schema: Schema) -> list[Schema]:
    """Return schemas with one type each that together accept what `schema` accepts; itself without a list of types.

    Each keyword is in the branch of its type, and in the first one if its type is not in the list; `enum` and `const`
    are divided by the types of their values, and all other keywords are in every branch but that of null.
    """
    kinds = schema.get("type")
    if not is_array(kinds) or not kinds or schema.keys() & _WHOLE or not all(kind in _KEYWORDS_OF for kind in kinds):
        return [schema]
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    specific: set[str] = {word for kind in kinds for word in _KEYWORDS_OF[kind]}
    foreign: set[str] = {word for words in _KEYWORDS_OF.values() for word in words} - specific
    branches: list[Schema] = []
    for kind in dict.fromkeys(sorted(kinds, key="null".__eq__)):
        branch: Schema = {"type": kind}
        if is_array(values):
            own = [value for value in values if _is_of(kind, value)]
            if not own:
                continue
            branch |= {} if kind == "null" else {"enum": own} if "enum" in schema else {"const": own[0]}
        if kind != "null":
            others = {word: value for word, value in schema.items() if word not in ("type", "enum", "const")}
            left_out = specific - _KEYWORDS_OF[kind]
            left_out |= foreign if branches else set()
            branch |= {word: value for word, value in others.items() if word not in left_out}
        branches.append(branch)
    return branches or [schema]


def _is_of(kind: str, value: Any) -> bool:
    found = json_type(value)
    return found == kind or (found == "integer" and kind == "number")
