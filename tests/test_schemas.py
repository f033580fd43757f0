"""Schemas: what is listed takes all that the original takes, and references; the original checks what is sent."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mcp.shared.inbound import find_invalid_x_mcp_header

from asyncfc_mcp.expect import Expected, expected
from asyncfc_mcp.loosen import SchemaTooLarge, admit_references
from asyncfc_mcp.reserved import add_reserved
from asyncfc_mcp.trim import without_dialect, without_echo
from asyncfc_mcp.validate import Validator

Schema = dict[str, Any]

REFERENCES = ("$f3", "$my-name.items[0]['odd key']", "${f:f3.title}", "see ${f:f3} and ${f:a-b.x}")


def is_valid(instance: Any, schema: Any) -> bool:
    """As a strict host judges it: formats are enforced."""
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    return kind(schema, format_checker=jsonschema.FormatChecker()).is_valid(instance)


def tokens(schema: Any) -> float:
    """Roughly: four characters of JSON make a token."""
    return len(json.dumps(schema, separators=(",", ":"))) / 4


def takes(sub: Any, **more: Any) -> Schema:
    return {"type": "object", "properties": {"a": sub}, **more}


def admitted(sub: Any, **more: Any) -> Any:
    """What becomes of the schema of one argument."""
    return admit_references(takes(sub, **more))["properties"]["a"]


def with_reference(value: Any, reference: str) -> Iterator[Any]:
    """The value with a reference in place of each value inside of it, one at a time."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        for other in (reference, *with_reference(child, reference)):
            changed = copy.copy(value)
            changed[key] = other
            yield changed


# --- admitting references --------------------------------------------------------------------------------------------

PATTERN = {"pattern": "\\$"}
REFERENCE = {"type": "string", **PATTERN}


@pytest.mark.parametrize(
    ("sub", "listed"),
    [
        ({"type": "string", "description": "d"}, {"type": "string", "description": "d"}),
        ({}, {}),
        (True, True),
        ({"title": "anything"}, {"title": "anything"}),
        ({"type": "integer", "minimum": 1}, {"type": ["integer", "string"], "minimum": 1}),
        ({"type": ["integer", "null"]}, {"type": ["integer", "null", "string"]}),
        ({"type": ["integer", "string"]}, {"type": ["integer", "string"]}),
        ({"type": "array"}, {"type": ["array", "string"]}),
        ({"type": "string", "pattern": "^a|b$"}, {"type": "string", "pattern": "^a|b$|\\$"}),
        ({"type": "string", "minLength": 1}, {"type": "string", "minLength": 1}),
        ({"type": "string", "maxLength": 4000}, {"type": "string", "maxLength": 4000}),
        ({"type": "string", "format": "password"}, {"type": "string", "format": "password"}),
        (
            {"type": "string", "enum": ["a", "b"], "description": "d"},
            {"type": "string", "description": "d", "anyOf": [{"enum": ["a", "b"]}, PATTERN]},
        ),
        ({"const": "a"}, {"anyOf": [{"const": "a"}, REFERENCE]}),
        ({"enum": [1, 2]}, {"anyOf": [{"enum": [1, 2]}, {"type": "string"}]}),
        ({"type": "string", "format": "uri"}, {"type": "string", "anyOf": [{"format": "uri"}, PATTERN]}),
        (
            {"type": "string", "pattern": "x", "maxLength": 9},
            {"type": "string", "anyOf": [{"pattern": "x", "maxLength": 9}, PATTERN]},
        ),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        (
            {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            {"anyOf": [{"type": ["integer", "string"]}, {"type": "null"}], "default": None},
        ),
        (
            {"anyOf": [{"enum": ["a"], "type": "string"}, {"type": "null"}]},
            {"anyOf": [{"enum": ["a"], "type": "string"}, {"type": "null"}, REFERENCE]},
        ),
        (
            {"oneOf": [{"type": "string", "pattern": "x"}, {"type": "null"}]},
            {"anyOf": [{"type": "string", "pattern": "x|\\$"}, {"type": "null"}]},
        ),
        ({"allOf": [{"type": "integer"}]}, {"allOf": [{"type": ["integer", "string"]}]}),
        ({"const": {"k": [1]}}, {"examples": [{"k": [1]}]}),
        ({"$ref": "#"}, {"anyOf": [{"$ref": "#"}, {"type": "string"}]}),
        ({"$ref": "https://example.org/x.json"}, {"$ref": "https://example.org/x.json"}),
    ],
)
def test_each_kind_of_argument_gets_the_shortest_form(sub: Any, listed: Any) -> None:
    """Nothing is added where nothing is needed, and choices and limits stay readable for the model."""
    before = copy.deepcopy(sub)
    assert admitted(sub) == listed
    assert sub == before


def test_nested_values_take_references_too() -> None:
    """Items, properties of objects in arrays, maps and definitions; closed objects stay closed."""
    schema = {
        "type": "object",
        "properties": {
            "edits": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"line": {"type": "integer"}, "text": {"type": "string"}},
                    "required": ["line"],
                    "additionalProperties": False,
                },
            },
            "map": {"type": "object", "additionalProperties": {"type": "number"}},
            "node": {"$ref": "#/$defs/node"},
        },
        "required": ["edits"],
        "additionalProperties": False,
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
    }
    assert admit_references(schema) == {
        "type": "object",
        "properties": {
            "edits": {
                "type": ["array", "string"],
                "items": {
                    "type": ["object", "string"],
                    "properties": {"line": {"type": ["integer", "string"]}, "text": {"type": "string"}},
                    "required": ["line"],
                    "additionalProperties": False,
                },
            },
            "map": {"type": ["object", "string"], "additionalProperties": {"type": ["number", "string"]}},
            "node": {"$ref": "#/$defs/node"},
        },
        "required": ["edits"],
        "additionalProperties": False,
        "$defs": {"node": {"type": ["object", "string"], "properties": {"next": {"$ref": "#/$defs/node"}}}},
    }


@pytest.mark.parametrize(
    "root",
    [
        {},
        {"type": "object"},
        {"properties": {"a": {"type": "integer"}}},
        {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"type": "object", "not": {"required": ["a", "b"]}},
        {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}},
        {"type": "object", "$ref": "#/$defs/x", "$defs": {"x": {"type": "object", "properties": {"a": {"const": 1}}}}},
    ],
)
def test_the_root_stays_an_object_that_hosts_take(root: Schema) -> None:
    """The root is of type `object`, admits no reference itself, and gains no combination that hosts refuse."""
    listed = admit_references(root)
    assert listed["type"] == "object"
    added = listed.keys() - root.keys()
    assert added <= {"type"}
    for word in ("anyOf", "oneOf", "not", "if", "then"):
        assert listed.get(word) == root.get(word)


def test_refs_by_path_follow_what_moves() -> None:
    """zod writes `$ref`s to where a schema was first used, inside of unions and all."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"oneOf": [{"type": "object", "properties": {"k": {"const": 1}}}, {"type": "null"}]},
            "b": {"$ref": "#/properties/a/oneOf/0"},
            "c": {"type": "array", "items": {"$ref": "#/properties/a/oneOf/0/properties/k"}},
            "d": {"enum": [[1], 2], "items": {"type": "integer"}},
            "e": {"maxLength": 3, "items": {"type": "integer"}},
            "f": {"$ref": "#/properties/e/items"},
            "g": {"$ref": "#/properties/a"},
            "h": {"maxLength": 3, "items": {"enum": ["k"]}},
            "i": {"type": "object", "propertyNames": {"$ref": "#/properties/h/items"}},
        },
    }
    listed = admit_references(schema)
    assert listed["properties"]["b"] == {"$ref": "#/properties/a/anyOf/0"}
    assert listed["properties"]["f"] == {"$ref": "#/properties/e/anyOf/0/items"}
    instance = {"a": None, "b": {"k": 1}, "c": [1], "d": 2, "e": [5], "f": 5, "g": {"k": 1}, "h": ["k"], "i": {"k": 1}}
    assert is_valid(instance, schema)
    assert is_valid(instance, listed)
    for changed in with_reference(instance, "$f3"):
        assert is_valid(changed, listed), changed


def test_what_counted_on_something_left_out_goes_with_it() -> None:
    """Without the `then` that evaluates a property, `unevaluatedProperties` would refuse it."""
    sub = {
        "properties": {"k": {"type": "integer"}},
        "if": {"properties": {"k": {"const": 1}}},
        "then": {"properties": {"v": {"type": "integer"}}},
        "unevaluatedProperties": False,
    }
    assert is_valid({"a": {"k": 1, "v": 2}}, takes(sub))
    for value in ({"k": 1, "v": 2}, {"k": "$f3", "v": 2}, {"k": 1, "v": "$f3"}, "$f3"):
        assert is_valid({"a": value}, admit_references(takes(sub)))


def test_anchors_are_followed() -> None:
    """A `$ref` to a name inside the document is as local as one by path."""
    schema = takes({"$ref": "#thing"}, **{"$defs": {"x": {"$anchor": "thing", "type": "integer"}}})
    listed = admit_references(schema)
    assert is_valid({"a": "$f3"}, listed)
    assert not is_valid({"a": "$f3"}, schema)


def test_drafts_before_2019_are_rewritten_too() -> None:
    """Tuples as a list of `items`, `definitions` and `dependencies`, as zod and older servers write them."""
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"t": {"type": "array", "items": [{"type": "integer"}], "additionalItems": {"type": "null"}}},
        "definitions": {"d": {"type": "integer"}},
        "dependencies": {"t": ["u"], "v": {"properties": {"u": {"$ref": "#/definitions/d"}}}},
    }
    instance = {"t": [1, None], "u": 1, "v": 2}
    listed = admit_references(schema)
    assert is_valid(instance, schema)
    for changed in (instance, *with_reference(instance, "$f3")):
        assert is_valid(changed, listed), changed


def nested(depth: int) -> Schema:
    schema: Schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "strange",
    [
        takes({"$dynamicRef": "#x"}),
        takes({"$id": "https://example.org/sub", "$ref": "#/$defs/x", "$defs": {"x": {"type": "integer"}}}),
        takes(nested(100_000)),
    ],
)
def test_what_is_too_strange_is_listed_as_it_is(strange: Schema) -> None:
    """References into other documents, and schemas without end, are not ours to rewrite."""
    assert admit_references(strange)["properties"] is strange["properties"]


@pytest.mark.timeout(5)
def test_large_schemas_take_little_time() -> None:
    """A server with a huge or hostile schema delays nobody: the work grows with its size, not with the square of it."""
    union: Schema = {"anyOf": [{"type": "object", "properties": {f"p{i}": {"const": i}}} for i in range(700)]}
    for schema in (takes(union), takes({"anyOf": [union, {"type": "null"}]}), takes(nested(150))):
        assert is_valid({"a": "$f3"}, admit_references(schema))


@pytest.mark.parametrize(
    "broken",
    [
        {"properties": 5},
        {"properties": {"a": 5, "b": None, "c": []}},
        {"type": 5},
        takes({"type": 5}),
        takes({"type": []}),
        takes({"anyOf": 5}),
        takes({"anyOf": []}),
        takes({"anyOf": [5]}),
        takes({"enum": 5}),
        takes({"pattern": 5}),
        takes({"pattern": "("}),
        takes({"$ref": 5}),
        takes({"$ref": "#/nowhere"}),
        takes({"$ref": "#/properties/a"}),
        takes({"minLength": "x", "maxLength": None, "format": []}),
        {"required": 5, "allOf": {}, "patternProperties": []},
        {"allOf": [{"$ref": "#"}], "maxProperties": "x", "propertyNames": 5},
    ],
)
def test_broken_schemas_break_nothing(broken: Schema) -> None:
    """They are listed in some form and accept everything here; the downstream judges."""
    before = copy.deepcopy(broken)
    listed, _ = add_reserved(admit_references(broken), as_=True, wait=True)
    assert isinstance(listed, dict)
    assert isinstance(expected(broken, ("a", 0, "b")), Expected)
    Validator(broken).first_error({"a": 1})
    assert broken == before


# --- generated schemas -----------------------------------------------------------------------------------------------

Pair = tuple[Any, Any]
"""A schema and a value that it (most likely) takes."""
WORDS = ("a", "b", "c", "n_x")


def simple_pairs() -> st.SearchStrategy[Pair]:
    fixed: list[Pair] = [
        ({}, {"free": [1]}),
        (True, "x"),
        ({"type": "integer", "minimum": 0, "multipleOf": 5}, 10),
        ({"type": "number", "exclusiveMaximum": 3}, 2.5),
        ({"type": "boolean", "default": False}, True),
        ({"type": "null"}, None),
        ({"type": ["integer", "null"]}, None),
        ({"type": "string"}, "plain"),
        ({"type": "string", "enum": ["x", "y"]}, "y"),
        ({"enum": ["x", 1, None]}, 1),
        ({"enum": [{"k": 1}, 2]}, {"k": 1}),
        ({"const": "x", "title": "X"}, "x"),
        ({"const": [1, [2]]}, [1, [2]]),
        ({"type": "string", "pattern": "^[a-z]+$"}, "abc"),
        ({"type": "string", "pattern": "^a$|^b$", "minLength": 1}, "b"),
        ({"type": "string", "format": "date"}, "2026-01-02"),
        ({"type": "string", "format": "ipv4", "maxLength": 20}, "10.0.0.1"),
        ({"type": ["string", "integer"], "format": "email"}, "a@example.org"),
        ({"type": "string", "minLength": 4, "maxLength": 8}, "12345"),
        ({"not": {"type": "string"}}, 5),
        ({"type": "object", "if": {"required": ["k"]}, "then": {"properties": {"k": {"const": 1}}}}, {"k": 1}),
        ({"$ref": "#/$defs/node"}, {"value": 1, "next": {"value": 2, "next": None}}),
        ({"$ref": "#/$defs/choice"}, "red"),
        ({"$ref": "#/$defs/choice", "description": "d"}, 7),
        ({"anyOf": [{"$ref": "#/$defs/choice"}, {"type": "null"}]}, None),
        ({"type": "array", "items": {"$ref": "#/$defs/node"}}, [{"value": 1}]),
        ({"type": "array", "contains": {"type": "integer"}, "maxContains": 1}, ["x", 1]),
        ({"type": "object", "minProperties": 1, "propertyNames": {"pattern": "^k"}}, {"k1": [1]}),
        ({"dependentSchemas": {"k": {"properties": {"v": {"type": "integer"}}}}}, {"k": 1, "v": 2}),
    ]
    return st.sampled_from(fixed)


DEFS: Schema = {
    "node": {
        "type": "object",
        "properties": {
            "value": {"type": "integer"},
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        },
        "required": ["value"],
        "additionalProperties": False,
    },
    "choice": {"oneOf": [{"type": "string", "enum": ["red", "blue"]}, {"type": "integer"}]},
}


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Pair]) -> Pair:
    schema, value = draw(inner)
    other, second = draw(inner)
    return draw(
        st.sampled_from(
            [
                ({"type": "array", "items": schema, "minItems": 1}, [value]),
                ({"type": "array", "items": schema, "maxItems": 2}, [value, value]),
                ({"type": "array", "prefixItems": [schema, other], "items": False}, [value, second]),
                ({"type": "array", "prefixItems": [schema], "unevaluatedItems": other}, [value, second]),
                ({"prefixItems": [schema], "items": other, "uniqueItems": True}, [value, second]),
                ({"anyOf": [{"type": "array", "items": schema}, {"type": "null"}]}, [value]),
            ]
        )
    )


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Pair]) -> Pair:
    pairs = draw(st.dictionaries(st.sampled_from(WORDS), inner, min_size=1, max_size=3))
    properties = {name: pair[0] for name, pair in pairs.items()}
    value = {name: pair[1] for name, pair in pairs.items()}
    extra, more = draw(inner)
    closed = {"properties": properties, "additionalProperties": False}
    return draw(
        st.sampled_from(
            [
                ({"type": "object", "properties": properties, "required": list(value)}, value),
                ({"type": "object", **closed}, value),
                ({"type": "object", **closed, "description": "d"}, {}),
                ({"type": "object", "properties": properties, "additionalProperties": extra}, {**value, "z": more}),
                (
                    {"type": "object", "patternProperties": {"^z": extra}, "properties": properties},
                    {**value, "z": more},
                ),
                ({"allOf": [{"properties": properties}, {"type": "object"}], "unevaluatedProperties": False}, value),
                ({"type": "object", "properties": properties, "unevaluatedProperties": extra}, {**value, "z": more}),
                ({"type": "object", **closed, "enum": [value, {}]}, value),
            ]
        )
    )


@st.composite
def combinations(draw: st.DrawFn, inner: st.SearchStrategy[Pair]) -> Pair:
    (first, value), (second, _) = draw(inner), draw(inner)
    return draw(
        st.sampled_from(
            [
                ({"anyOf": [first, second]}, value),
                ({"oneOf": [second, first], "title": "T"}, value),
                ({"allOf": [first, {}]}, value),
                ({"allOf": [{"anyOf": [second, first]}], "description": "d"}, value),
                ({"anyOf": [first, {"type": "null"}], "oneOf": [first, {"type": "null"}]}, value),
                ({"anyOf": [{"oneOf": [first, {"type": "string", "maxLength": 2}]}, {"type": "null"}]}, value),
            ]
        )
    )


PAIRS = st.recursive(simple_pairs(), lambda inner: arrays(inner) | objects(inner) | combinations(inner), max_leaves=6)


@st.composite
def tools(draw: st.DrawFn) -> tuple[Schema, dict[str, Any]]:
    """An input schema and arguments that fit it."""
    pairs = draw(st.dictionaries(st.sampled_from(WORDS), PAIRS, max_size=3))
    properties: Schema = {name: pair[0] for name, pair in pairs.items()}
    arguments = {name: pair[1] for name, pair in pairs.items()}
    for name in list(properties):
        properties[f"same_{name}"] = {"$ref": f"#/properties/{name}"}
        arguments[f"same_{name}"] = arguments[name]
    closed = {"properties": properties, "additionalProperties": False}
    root = draw(
        st.sampled_from(
            [
                {"type": "object", "properties": properties, "required": list(arguments)},
                {"type": "object", **closed},
                {"type": "object", **closed, "maxProperties": len(arguments), "propertyNames": {"maxLength": 8}},
                {"allOf": [{"type": "object"}], "properties": properties, "unevaluatedProperties": False},
                {"type": "object", "properties": properties, "oneOf": [closed, {"type": "object", "required": ["no"]}]},
                {"type": "object", "properties": properties, "anyOf": [{"required": ["nope"]}, {"required": []}]},
                {"type": "object", "properties": properties, "allOf": [closed, {"maxProperties": len(arguments)}]},
            ]
        )
    )  # fmt: skip
    schema = {**root, "$defs": DEFS}
    assume(is_valid(arguments, schema))
    return schema, arguments


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(tools(), st.sampled_from(REFERENCES))
def test_all_that_was_valid_stays_valid_and_so_it_does_with_references(
    tool: tuple[Schema, dict[str, Any]], reference: str
) -> None:
    """For any schema, any arguments that fit it, and a reference in place of any value: a strict host lets it pass."""
    schema, arguments = tool
    before = copy.deepcopy(schema)
    listed, skipped = add_reserved(admit_references(schema), as_=True, wait=True)
    assert schema == before
    assert skipped == ()
    assert listed["type"] == "object"
    assert not (listed.keys() - schema.keys()) & {"oneOf", "allOf"}
    assert ("anyOf" in listed) <= ("anyOf" in schema or "oneOf" in schema)
    jsonschema.Draft202012Validator.check_schema(listed)
    assert is_valid(arguments, listed)
    ours = {"_as": "name", "_wait": "all"}
    assert is_valid({**arguments, **ours}, listed)
    for changed in with_reference(arguments, reference):
        assert is_valid(changed, listed), changed
        assert is_valid({**changed, **ours}, listed), changed


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(tools())
def test_the_validator_judges_as_the_original_does(tool: tuple[Schema, dict[str, Any]]) -> None:
    """It refuses no more and no less than the schema as JSON Schema 2020-12 reads it, where formats assert nothing."""
    schema, arguments = tool
    validator = Validator(schema)
    for given_ in (arguments, *with_reference(arguments, "$f3")):
        assert (validator.first_error(given_) is None) == jsonschema.Draft202012Validator(schema).is_valid(given_)


# --- tokens ----------------------------------------------------------------------------------------------------------

REAL: dict[str, Schema] = {
    "filesystem read_file": {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "tail": {"type": "number", "description": "If provided, returns only the last N lines of the file"},
            "head": {"type": "number", "description": "If provided, returns only the first N lines of the file"},
        },
        "required": ["path"],
        "additionalProperties": False,
        "$schema": "http://json-schema.org/draft-07/schema#",
    },
    "filesystem write_file": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
        "required": ["path", "content"],
    },
    "filesystem list_directory_with_sizes": {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "sortBy": {"type": "string", "enum": ["name", "size"], "default": "name", "description": "Sort by"},
        },
    },
    "memory create_entities": {
        "type": "object",
        "properties": {
            "entities": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "description": "The name of the entity"},
                        "observations": {"type": "array", "items": {"type": "string"}},
                    },
                    "required": ["name", "observations"],
                },
            }
        },
    },
    "everything get-sum": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    "fetch": {
        "type": "object",
        "properties": {
            "url": {"type": "string", "format": "uri", "minLength": 1, "title": "Url"},
            "max_length": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 1000000, "default": 5000},
            "raw": {"type": "boolean", "default": False, "title": "Raw"},
        },
    },
    "pydantic": {
        "type": "object",
        "properties": {
            "query": {"type": "string", "title": "Query"},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "title": "Limit"},
            "tags": {"anyOf": [{"items": {"type": "string"}, "type": "array"}, {"type": "null"}], "default": None},
        },
    },
    "none": {"type": "object", "properties": {}},
}


def test_tokens_added_are_few() -> None:
    """References cost about six tokens a tool, and no real tool more than fifteen."""
    added = [tokens(admit_references(schema)) - tokens(schema) for schema in REAL.values()]
    assert max(added) < 15
    assert sum(added) / len(added) < 6


def test_reserved_arguments_cost_at_most_sixteen_tokens() -> None:
    """`_as` and `_wait` together, whatever the tool."""
    for schema in (*REAL.values(), {"type": "object", "properties": {}, "additionalProperties": False}):
        listed, _ = add_reserved(schema, as_=True, wait=True)
        assert tokens(listed) - tokens(schema) <= 16


# --- reserved arguments ----------------------------------------------------------------------------------------------

OURS = {"_as": {"type": "string"}, "_wait": {"type": "string"}}
CLOSED_A: Schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
CLOSED_B: Schema = {"type": "object", "properties": {"b": {"type": "integer"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        CLOSED_A,
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "integer"}},
        {"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False},
        {"$ref": "#/$defs/args", "$defs": {"args": CLOSED_A}},
        {"$ref": "#/$defs/args", "$defs": {"args": {**CLOSED_A, "description": "d"}}, "required": ["a"]},
        {"$ref": "#/$defs/args", "$defs": {"args": {"$ref": "#/$defs/more"}, "more": CLOSED_A}},
        {"type": "object", "allOf": [CLOSED_A, {"type": "object", "maxProperties": 1}]},
        {"type": "object", "anyOf": [CLOSED_B, CLOSED_A]},
        {"type": "object", "oneOf": [CLOSED_B, CLOSED_A]},
        {"type": "object", "oneOf": [{"$ref": "#/$defs/a"}, CLOSED_B], "$defs": {"a": CLOSED_A}},
        {"type": "object", "propertyNames": {"enum": ["a"]}, "maxProperties": 1},
        {"type": "object", "if": {"required": ["a"]}, "then": CLOSED_A, "else": CLOSED_B},
        {"type": "object", "dependentSchemas": {"a": CLOSED_A}},
    ],
)  # fmt: skip
def test_reserved_arguments_pass_any_root(schema: Schema) -> None:
    """Closed objects, references, combinations: with and without ours, calls are as valid as before."""
    before = copy.deepcopy(schema)
    listed, skipped = add_reserved(schema, as_=True, wait=True)
    assert schema == before
    assert skipped == ()
    assert listed["properties"].items() >= OURS.items()
    for arguments in ({"a": 1}, {"a": 1, "zzz": 1}, {"a": 1, "b": 1}):
        valid = is_valid(arguments, schema)
        assert is_valid(arguments, listed) == valid or "maxProperties" in json.dumps(schema)
        for ours in ({"_as": "x"}, {"_wait": "all"}, {"_as": "x", "_wait": "this"}):
            assert is_valid({**arguments, **ours}, listed) == valid or "maxProperties" in json.dumps(schema)
        assert not is_valid({**arguments, "_as": 5}, listed)
    assert is_valid({"a": 1, "_as": "x", "_wait": "this"}, listed)


def test_reserved_arguments_come_last_and_have_a_type() -> None:
    """Some clients give arguments by position, and some leave out tools with an argument that has no type."""
    for schema in REAL.values():
        listed, _ = add_reserved(schema, as_=True, wait=True)
        assert list(listed["properties"].items()) == [*schema["properties"].items(), *OURS.items()]


def test_a_root_that_only_refers_shows_its_properties() -> None:
    """Hosts render the root's `properties`, so the reference is resolved, and the definition dropped if that is all."""
    schema = {"$ref": "#/$defs/args", "$defs": {"args": CLOSED_A, "b": CLOSED_B}, "type": "object"}
    listed, _ = add_reserved(schema, as_=True, wait=False)
    assert listed == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "_as": {"type": "string"}},
        "additionalProperties": False,
        "$defs": {"b": CLOSED_B},
    }
    tree: Schema = {"type": "object", "properties": {"child": {"$ref": "#/$defs/tree"}}}
    listed, _ = add_reserved({"$ref": "#/$defs/tree", "$defs": {"tree": tree}}, as_=False, wait=True)
    assert listed["properties"] == {"child": {"$ref": "#/$defs/tree"}, "_wait": {"type": "string"}}
    assert listed["$defs"] == {"tree": tree}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"_as": {"type": "integer"}}},
        {"type": "object", "required": ["_as"]},
        {"type": "object", "allOf": [{"properties": {"_as": {}}}]},
        {"type": "object", "anyOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"properties": {"_as": {}}}}},
        {"type": "object", "patternProperties": {"^_a": {"type": "integer"}}},
    ],
)
def test_ours_yield_to_the_tools_own(schema: Schema) -> None:
    """An argument of the tool's own keeps its meaning; the caller is told that ours is off."""
    listed, skipped = add_reserved(schema, as_=True, wait=True)
    assert skipped == ("_as",)
    assert listed.get("properties", {}).get("_as") == schema.get("properties", {}).get("_as")
    assert listed["properties"]["_wait"] == {"type": "string"}


def test_what_is_off_is_not_added() -> None:
    """Each of the two can be turned off."""
    assert add_reserved(CLOSED_A, as_=False, wait=False) == (CLOSED_A, ())
    assert add_reserved({"properties": {"_as": {}}}, as_=False, wait=True)[1] == ()
    assert add_reserved({"properties": 5}, as_=True, wait=True) == ({"properties": 5}, ("_as", "_wait"))


# --- what a position asks for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sub", "types"),
    [
        ({"type": "string"}, "string"),
        ({"type": "number"}, "number"),
        ({"type": ["integer", "null"]}, "integer or null"),
        ({"allOf": [{"type": "number"}, {"type": "integer"}]}, "integer"),
        ({"anyOf": [{"type": "string"}, {}]}, "any value"),
        ({"$ref": "#/$defs/x"}, "array"),
        ({"$ref": "#/properties/a"}, "any value"),
        ({"$ref": "#/$defs/a~1b%25"}, "boolean"),
        ({"const": 5}, "integer"),
        ({"enum": ["a", None]}, "null or string"),
        ({"properties": {}}, "object"),
        ({"items": {}}, "array"),
        ({"minLength": 3}, "string"),
        ({"anyOf": [{"type": "string"}], "type": "integer"}, "nothing"),
        (False, "any value"),
    ],
)
def test_the_types_that_are_asked_for(sub: Any, types: str) -> None:
    """Combinations are combined, references followed, circles left, and a missing type is guessed."""
    schema = takes(sub, **{"$defs": {"x": {"type": "array"}, "a/b%": {"type": "boolean"}}})
    assert str(expected(schema, ("a",))) == types


def test_alternatives_that_cannot_hold_the_position_are_left_out() -> None:
    """A closed branch without the key, or of another type, says nothing about what stands there."""
    schema = {
        "oneOf": [
            {"properties": {"x": {"type": "integer"}}, "additionalProperties": False},
            {"properties": {"y": {"type": "string"}}, "additionalProperties": False},
            {"type": "array", "items": {"type": "null"}},
        ]
    }
    assert str(expected(schema, ("x",))) == "integer"
    assert str(expected(schema, (0,))) == "any value"
    assert str(expected(schema, ("z",))) == "any value"


@pytest.mark.timeout(5)
def test_recursive_schemas_end() -> None:
    """Branches that meet again at every level do not multiply, and circles are walked once."""
    node = {"anyOf": [{"properties": {"n": {"$ref": f"#/$defs/{name}"}}} for name in "xyz"]}
    schema = {"$ref": "#/$defs/x", "$defs": {"x": node, "y": node, "z": {"$ref": "#/$defs/x"}}}
    assert expected(schema, ("n",) * 500) == Expected(None)
    loop = {"$ref": "#/$defs/x", "$defs": {"x": {"allOf": [{"$ref": "#/$defs/x"}, {"$ref": "#"}]}}}
    assert expected(loop, ("a", 0)) == Expected(None)
    assert expected(nested(100_000), (0,) * 3) == Expected(frozenset({"array"}))


# --- checking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sub", "value", "path", "problem"),
    [
        ({"type": "integer"}, "x", "a", "'x' is not of type 'integer'"),
        ({"items": {"properties": {"odd key": {"minimum": 3}}}}, [{"odd key": 1}], 'a[0]["odd key"]', "minimum of 3"),
        ({"anyOf": [{"type": "null"}, {"properties": {"x": {"type": "null"}}}]}, {"x": 1}, "a.x", "'null'"),
        ({"type": "integer"}, "y" * 10_000, "a", 'it does not satisfy type: "integer"'),
        ({"pattern": "^a"}, "b", "a", "'b' does not match '^a'"),
    ],
)
def test_an_error_says_where_and_what(sub: Any, value: Any, path: str, problem: str) -> None:
    """The path and the problem, short even where the value is not."""
    error = Validator(takes(sub)).first_error({"a": value})
    assert error is not None
    assert error[0] == path
    assert problem in error[1]
    assert len(error[1]) < 300


def test_an_error_of_the_arguments_as_a_whole_has_a_path_too() -> None:
    """A missing argument is missing at the top level."""
    assert Validator({"required": ["b"]}).first_error({}) == ("the top level", "'b' is a required property")


def test_the_draft_that_a_schema_names_decides() -> None:
    """`items` as a list is a tuple in draft 7, and broken, thus accepted, in 2020-12."""
    tuples = takes({"items": [{"type": "integer"}]})
    draft7 = {"$schema": "http://json-schema.org/draft-07/schema#", **tuples}
    assert Validator(draft7).first_error({"a": ["x"]}) is not None
    assert Validator(tuples).first_error({"a": ["x"]}) is None
    assert Validator(takes({"prefixItems": [{"type": "integer"}]})).first_error({"a": ["x"]}) is not None


@pytest.mark.parametrize(
    "schema",
    [
        takes({"$ref": "http://127.0.0.1:9/schema.json"}),
        takes({"$ref": "https://json-schema.org/draft/2020-12/schema"}),
        takes({"$ref": "#/nowhere"}),
        takes({"$ref": "#/properties/a"}),
        takes({"type": "nonsense"}),
        takes({"patternProperties": {"(": {}}}),
        takes({"minimum": "x"}),
        {"$schema": 5, "type": "string"},
        {"$schema": ["x"], "type": "string"},
        {"type": "object", "properties": []},
    ],
)
@pytest.mark.timeout(5)
def test_what_cannot_be_checked_is_accepted(schema: Schema) -> None:
    """Nothing is fetched, nothing is raised: the downstream judges."""
    validator = Validator(schema)
    assert validator.first_error({"a": {"(": 1}}) is None
    assert validator.first_error({"a": {"x": [1]}}) is None


def test_a_pattern_that_only_ecma_knows_hides_no_other_error() -> None:
    """One unreadable pattern is skipped, and the rest is checked."""
    schema = {"properties": {"a": {"pattern": r"\p{L}"}, "b": {"type": "integer"}}}
    assert Validator(schema).first_error({"a": "x", "b": 1}) is None
    assert Validator(schema).first_error({"a": "x", "b": "y"}) == ("b", "'y' is not of type 'integer'")


def test_deep_arguments_never_overflow_the_stack() -> None:
    """A recursive schema over 100,000 levels cannot be checked, and is not."""
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    assert (
        Validator(takes({"$ref": "#/$defs/x"}, **{"$defs": {"x": {"items": {"$ref": "#/$defs/x"}}}})).first_error(
            {"a": value}
        )
        is None
    )


def test_the_library_is_imported_when_it_is_needed() -> None:
    """Start-up time matters, and most tools are never given a reference."""
    code = (
        "import sys; from asyncfc_mcp.loosen import admit_references; from asyncfc_mcp.validate import Validator; "
        "Validator({}); admit_references({}); assert not {'jsonschema', 'referencing'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


EVERYDAY: dict[str, Any] = {
    "type": "object",
    "title": "T",
    "properties": {
        "text": {"type": "string", "default": "x"},
        "count": {"type": "integer"},
        "some": {"type": ["number", "null"]},
        "maybe": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "list": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "string"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "when": {"type": "string", "format": "date"},
    },
    "required": ["text"],
    "additionalProperties": False,
}


def test_what_plainly_fits_never_waits_for_the_library() -> None:
    """The first reference of a bridge must not hold everything up for the time that an import takes."""
    arguments = {"text": "t", "count": 1, "some": 0.5, "maybe": None, "kind": "b", "list": [{"id": "i"}], "map": {}}
    code = (
        f"import sys; from asyncfc_mcp.validate import Validator; "
        f"assert Validator({EVERYDAY!r}).first_error({arguments!r}) is None; assert 'jsonschema' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, 1.0]) | st.sampled_from(["a", "b", ""]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["id", "text", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*EVERYDAY["properties"], "other"]), VALUES, max_size=4))
def test_everyday_schemas_are_judged_as_the_library_does(arguments: dict[str, Any]) -> None:
    """Whether arguments plainly fit or not, the verdict is the library's, closed schema or open."""
    for schema in (EVERYDAY, {**EVERYDAY, "additionalProperties": {"type": "string"}, "required": []}):
        valid = jsonschema.Draft202012Validator(schema).is_valid(arguments)
        assert (Validator(schema).first_error(arguments) is None) == valid


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 5},
        {"type": "array", "items": [{"type": "string"}], "$schema": "http://json-schema.org/draft-07/schema#"},
        {"properties": {"a": False}},
        {"properties": {"a": {"type": "string"}}, "patternProperties": {"^b": False}, "additionalProperties": False},
        {"$ref": "#/$defs/x", "$defs": {"x": {"type": "string"}}},
        {"type": "boolean", "const": False},
    ],
)
def test_whatever_is_not_everyday_is_left_to_the_library(schema: dict[str, Any]) -> None:
    """A keyword that plain looking does not know is never passed over."""
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    for value in (1, 7, [1], ["x"], {"a": "x"}, {"a": 1, "b": 1}, "x", True, False, None):
        assert (Validator(schema).first_error(value) is None) == kind(schema).is_valid(value)


@pytest.mark.parametrize(
    ("schema", "kept"),
    [
        ({"type": "object", "properties": {"id": {"type": "string"}}}, False),
        ({"type": "object", "properties": {"pair": {"items": [{"type": "string"}]}}}, True),
        ({"type": "object", "dependencies": {"a": ["b"]}}, True),
        ({"type": "object", "properties": {"deep": {"anyOf": [{"$id": "x"}]}}}, True),
    ],
)
def test_the_dialect_is_left_out_where_it_makes_no_difference(schema: dict[str, Any], kept: bool):
    """`$schema` costs as many tokens as both of our own arguments, and is listed only where it means something."""
    said = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
    assert without_dialect(said) == (said if kept else schema)
    unknown = {"$schema": "https://example.com/dialect", **schema}
    assert without_dialect(unknown) == unknown


@pytest.mark.parametrize(
    ("title", "name", "kept"),
    [
        ("statusArguments", "git_status", False),
        ("create_branchArguments", "git__git_create_branch", False),
        ("GitStatus", "git_status", False),
        ("SearchInput", "search", False),
        ("search_args", "web-search", False),
        ("search_v2Arguments", "search", True),
        ("create_branchArguments", "git_create_bra_0a1b2c3d", True),
        ("Web search", "web_search", True),
        ("Query", "search", True),
        ("Input", "search", True),
        ("", "search", True),
        (["search"], "search", True),
    ],
)
def test_a_title_that_says_the_tools_name_again_is_left_out(title: Any, name: str, kept: bool):
    """Generated from the name, it tells a model nothing; whatever else a title says stays, and so do all others."""
    inside = {"title": {"type": "string", "title": "search"}, "search": {"type": "object", "title": "search"}}
    schema = {"type": "object", "title": title, "properties": inside}
    before = copy.deepcopy(schema)
    listed = without_echo(schema, name)
    assert listed == (before if kept else {"type": "object", "properties": inside})
    assert schema == before
    assert without_echo({"properties": inside}, "search") == {"properties": inside}


def test_an_argument_that_clients_repeat_in_a_header_is_listed_as_it_is() -> None:
    """Its type must be one of three, alone: clients drop a tool whose annotation breaks that, whatever else it has."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "x-mcp-header": "Num"},
            "yes": {"type": "boolean", "x-mcp-header": "Yes"},
            "other": {"type": "integer"},
        },
    }
    listed = admit_references(schema)
    assert find_invalid_x_mcp_header(listed) is None
    assert listed["properties"]["n"] == schema["properties"]["n"]
    assert listed["properties"]["other"] == {"type": ["integer", "string"]}


# --- bounds ----------------------------------------------------------------------------------------------------------


def chain(word: str, levels: int, leaf: Any) -> Any:
    """A schema in a schema in a schema."""
    for _ in range(levels):
        leaf = {word: [leaf, {"type": "integer"}]} if word != "items" else {"type": "array", "items": leaf}
    return leaf


def tree(width: int, depth: int, leaf: Any) -> Any:
    """Alternatives of alternatives."""
    return {"anyOf": [tree(width, depth - 1, leaf) for _ in range(width)]} if depth else leaf


LARGE = {
    "chain of anyOf": takes(chain("anyOf", 90, {"type": "integer"})),
    "chain of oneOf": takes(chain("oneOf", 90, {"enum": ["a"]})),
    "chain of allOf": takes(chain("allOf", 90, {"type": "integer"})),
    "chain of items": takes(chain("items", 90, {"type": "integer"})),
    "tree of types": takes(tree(3, 9, {"type": "integer"})),
    "tree of choices": takes(tree(2, 13, {"enum": ["a"]})),
    "arguments": {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(50_000)}},
    "alternatives": takes({"anyOf": [{"const": number} for number in range(50_000)]}),
    "choices": takes({"enum": list(range(200_000))}),
    "definitions": takes(
        {"$ref": "#/$defs/d0"},
        **{"$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"type": "integer"}]} for n in range(20_000)}},
    ),
    "long references": takes({"items": [{"$ref": "#/" + "properties/a/" * 30 + str(n)} for n in range(5_000)]}),
    "closed parts": {
        "allOf": [{"$ref": f"#/$defs/d{n}"} for n in range(5_000)],
        "$defs": {f"d{n}": {"properties": {f"x{n}": {}}, "additionalProperties": False} for n in range(5_000)},
    },
    "patterns": {"patternProperties": {f"^{'a?' * 50}{n}": {"type": "integer"} for n in range(5_000)}},
}


@pytest.mark.parametrize("schema", LARGE.values(), ids=LARGE)
def test_no_schema_takes_long_to_rewrite(schema: Schema) -> None:
    """Each is one step of the event loop's: 0.1 s, and 0.6 with head room for a machine that is busy."""
    before = json.dumps(schema)
    for step in (
        rewritten,
        lambda schema: add_reserved(schema, as_=True, wait=True),
        without_dialect,
        lambda schema: expected(schema, ["a", 0, "b"]),
    ):
        started = time.process_time()
        step(schema)
        assert time.process_time() - started < 0.6
    assert json.dumps(schema) == before


def rewritten(schema: Schema) -> Schema | None:
    try:
        return admit_references(schema)
    except SchemaTooLarge:
        return None


def test_large_schemas_of_real_apis_are_rewritten() -> None:
    """A thousand arguments, each with alternatives."""
    optional = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    schema: Schema = {"type": "object", "properties": {f"p{number}": optional for number in range(1000)}}
    assert rewritten(schema) is not None
    assert rewritten(LARGE["arguments"]) is None
