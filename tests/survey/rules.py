"""Rules by which model APIs and hosts refuse a tool, as their documentation and error messages state them.

Each takes a schema as it is sent (after the conversion of a host) and yields the reasons of a refusal. Sources:

- Anthropic Messages: `input_schema does not support oneOf, allOf, or anyOf at the top level`; JSON Schema 2020-12;
  names of properties match `^[a-zA-Z0-9_.-]{1,64}$`.
- OpenAI functions: `schema must be a JSON Schema of 'type: "object"'`, without combinations, `enum` and `not` at the
  top level; `array schema missing items`.
- Gemini: `google.ai.generativelanguage.Schema` is a closed message (`Unknown name … Cannot find field`); `type` is one
  value and `must be specified`; `enum` consists of strings; `items: missing field`; no structure beside `any_of`.
- VS Code: `tool parameters array type must have items`; draft 7.
- Zed for Google models: conditions are refused; unions of types become `anyOf`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema

Json = dict[str, Any]
Rule = Callable[[Json], Iterator[str]]

TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
COMBINATIONS = ("oneOf", "anyOf", "allOf")
_DRAFT_2020 = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA)
_DRAFT_7 = jsonschema.Draft7Validator(jsonschema.Draft7Validator.META_SCHEMA)
_NAME = re.compile(r"^[a-zA-Z0-9_.-]{1,64}$")
_GEMINI = frozenset(
    "type format title description nullable enum default example items minItems maxItems properties required "
    "minProperties maxProperties propertyOrdering minimum maximum minLength maxLength pattern anyOf "
    "additionalProperties".split()
)
_STRUCTURE = ("type", "properties", "items", "enum", "format", "required")


def parts(schema: Any, at: str = "") -> Iterator[tuple[str, Json]]:
    """Every sub-schema that describes a value, with its place."""
    if not isinstance(schema, dict):
        return
    yield at or "the root", schema
    for word in ("properties", "patternProperties", "$defs", "definitions"):
        for name, sub in (schema.get(word) or {}).items():
            yield from parts(sub, f"{at}.{name}")
    for word in (*COMBINATIONS, "prefixItems"):
        for index, sub in enumerate(schema.get(word) or []):
            yield from parts(sub, f"{at}.{word}[{index}]")
    for word in ("items", "additionalProperties", "contains"):
        yield from parts(schema.get(word), f"{at}.{word}")


def messages(schema: Json) -> Iterator[str]:
    """Anthropic's Messages API: `input_schema`."""
    if schema.get("type") != "object":
        yield "the root is no object"
    yield from (f"{word} at the root" for word in COMBINATIONS if word in schema)
    yield from (f"name {name!r}" for name in schema.get("properties", {}) if not _NAME.match(name))
    yield from (f"no JSON Schema 2020-12: {error.message[:80]}" for error in _DRAFT_2020.iter_errors(schema))


def functions(schema: Json) -> Iterator[str]:
    """OpenAI's Chat Completions and Responses APIs: `parameters` of a function that is not strict."""
    if schema.get("type") != "object":
        yield "the root is no object"
    yield from (f"{word} at the root" for word in (*COMBINATIONS, "enum", "not") if word in schema)
    for at, part in parts(schema):
        if _is(part, "array") and not {"items", "prefixItems"} & part.keys():
            yield f"array without items at {at}"


def gemini(schema: Json) -> Iterator[str]:
    """Gemini's `parameters`."""
    if str(schema.get("type", "")).lower() != "object":
        yield "the root is no object"
    for at, part in parts(schema):
        yield from (f"unknown {word} at {at}" for word in sorted(part.keys() - _GEMINI))
        kind = part.get("type")
        if kind is None and "anyOf" not in part:
            yield f"no type at {at}"
        elif kind is not None and (not isinstance(kind, str) or kind.lower() not in TYPES):
            yield f"type {kind!r} at {at}"
        if "anyOf" in part:
            yield from (f"{word} beside anyOf at {at}" for word in _STRUCTURE if word in part)
        if _is(part, "array") and not part.get("items"):
            yield f"array without items at {at}"
        if "enum" in part and not all(isinstance(value, str) and value for value in part["enum"]):
            yield f"enum of other values than text at {at}"


def gemini_json_schema(schema: Json) -> Iterator[str]:
    """Gemini's `parametersJsonSchema`: JSON Schema, whose unknown keywords are ignored."""
    if schema.get("type") != "object":
        yield "the root is no object"
    for at, part in parts(schema):
        if "$ref" in part and any(not word.startswith("$") for word in part):
            yield f"keywords beside $ref at {at}"


def vertex(schema: Json) -> Iterator[str]:
    """Vertex AI in the strictest reading of `When using any_of, it must be the only field set`. Reports differ on
    annotations, so this is counted and not asserted."""
    for at, part in parts(schema):
        if "anyOf" in part and len(part) > 1:
            yield f"{sorted(part.keys() - {'anyOf'})} beside anyOf at {at}"


def vs_code(schema: Json) -> Iterator[str]:
    """VS Code's check of a tool before any model sees it."""
    if schema.get("type", "object") != "object":
        yield "the root is no object"
    for at, part in parts(schema):
        if _is(part, "array") and "items" not in part:
            yield f"array without items at {at}"
    yield from (f"no JSON Schema draft 7: {error.message[:80]}" for error in _DRAFT_7.iter_errors(schema))


def zed(schema: Json) -> Iterator[str]:
    """Zed's adaptation for models of Google, then Gemini's rules for what it leaves."""
    for at, part in parts(schema):
        yield from (f"{word} at {at}" for word in ("if", "then", "else") if word in part)
        if isinstance(kinds := part.get("type"), list) and len(kinds) - ("null" in kinds) > 1:
            if "anyOf" in part:
                yield f"two unions at {at}"
            # The union of types becomes an `anyOf` beside what described one of them.
            yield from (f"{word} beside anyOf at {at}" for word in ("properties", "items", "enum") if word in part)
        if "type" not in part and not part.keys() & {*COMBINATIONS, "$ref", "description"} and at != "the root":
            yield f"no type at {at}"


_TERMINALS = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]')
_ESCAPES = frozenset('xuUtrn\\"[]')


def grammar(body: Json) -> Iterator[str]:
    """Escapes of a pattern that llama.cpp's converter copies and its grammar parser refuses."""
    for terminal in _TERMINALS.findall(body["grammar"]):
        for escape in re.findall(r"\\(.)", terminal):
            if escape not in _ESCAPES:
                yield f"\\{escape} in the grammar"


def _is(part: Json, kind: str) -> bool:
    declared = part.get("type")
    return (isinstance(declared, str) and declared.lower() == kind) or (isinstance(declared, list) and kind in declared)
