"""Loosening of schemas: the listed one accepts all that the original does, and references in place of values."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mcp.shared.inbound import find_invalid_x_mcp_header

from asyncfc_mcp.schema.expect import Expected, expected
from asyncfc_mcp.schema.loosen import SchemaTooLarge, admit_references
from asyncfc_mcp.schema.reserved import add_reserved
from asyncfc_mcp.schema.trim import without_dialect
from asyncfc_mcp.schema.validate import Validator
from tests.support.cpu_time import least_cpu_s
from tests.support.schemas import REAL, Schema, is_valid, nested, takes

REFERENCES = ("$f3", "$my-name.items[0]['odd key']", "${f:f3.title}", "see ${f:f3} and ${f:a-b.x}")


def tokens(schema: Any) -> float:
    """Roughly: four characters of JSON make a token."""
    return len(json.dumps(schema, separators=(",", ":"))) / 4


def admitted(sub: Any, **more: Any) -> Any:
    """Return the listed schema of one argument."""
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

TEXT = {"type": "string"}
REFERENCE = {"type": "string", "pattern": "^.*[$].*$"}


@pytest.mark.parametrize(
    ("sub", "listed"),
    [
        ({"type": "string", "description": "d"}, {"type": "string", "description": "d"}),
        ({}, {}),
        (True, True),
        ({"title": "anything"}, {"title": "anything"}),
        (
            {"type": "integer", "minimum": 1, "description": "d", "default": 5, "title": "T", "examples": [3]},
            {
                "description": "d",
                "default": 5,
                "title": "T",
                "examples": [3],
                "anyOf": [{"type": "integer", "minimum": 1}, TEXT],
            },
        ),
        ({"type": ["integer", "null"]}, {"anyOf": [{"anyOf": [{"type": "integer"}, {"type": "null"}]}, TEXT]}),
        (
            {"type": ["null", "string"], "enum": ["a", None], "description": "d"},
            {
                "description": "d",
                "anyOf": [{"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]}, REFERENCE],
            },
        ),
        (
            {"type": ["array", "number"], "items": {"type": "string"}, "maximum": 5},
            {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "number", "maximum": 5}, TEXT]},
        ),
        ({"type": ["integer", "string"]}, {"type": ["integer", "string"]}),
        ({"type": "array"}, {"anyOf": [{"type": "array"}, TEXT]}),
        ({"type": "string", "pattern": "^a|b$"}, {"anyOf": [{"type": "string", "pattern": "^a|b$"}, REFERENCE]}),
        ({"type": "string", "minLength": 1}, {"type": "string", "minLength": 1}),
        ({"type": "string", "maxLength": 4000}, {"type": "string", "maxLength": 4000}),
        ({"type": "string", "format": "password"}, {"type": "string", "format": "password"}),
        (
            {"type": "string", "enum": ["a", "b"], "description": "d"},
            {"description": "d", "anyOf": [{"type": "string", "enum": ["a", "b"]}, REFERENCE]},
        ),
        ({"const": "a"}, {"anyOf": [{"const": "a"}, REFERENCE]}),
        ({"enum": [1, 2]}, {"anyOf": [{"enum": [1, 2]}, TEXT]}),
        ({"type": "string", "format": "uri"}, {"anyOf": [{"type": "string", "format": "uri"}, REFERENCE]}),
        (
            {"type": "string", "pattern": "x", "maxLength": 9},
            {"anyOf": [{"type": "string", "pattern": "x", "maxLength": 9}, REFERENCE]},
        ),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        (
            {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            {"anyOf": [{"anyOf": [{"type": "integer"}, {"type": "null"}]}, TEXT], "default": None},
        ),
        (
            {"anyOf": [{"enum": ["a"], "type": "string"}, {"type": "null"}]},
            {"anyOf": [{"anyOf": [{"enum": ["a"], "type": "string"}, {"type": "null"}]}, REFERENCE]},
        ),
        (
            {"oneOf": [{"type": "string", "pattern": "x"}, {"type": "null"}]},
            {"anyOf": [{"anyOf": [{"type": "string", "pattern": "x"}, {"type": "null"}]}, REFERENCE]},
        ),
        (
            {"oneOf": [{"type": "integer"}, {"type": "boolean"}]},
            {"anyOf": [{"type": "integer"}, {"type": "boolean"}, TEXT]},
        ),
        (
            {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "description": "d"},
            {
                "description": "d",
                "anyOf": [{"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, TEXT],
            },
        ),
        (
            {"anyOf": [{"type": "integer"}], "oneOf": [{"minimum": 1}, {"maximum": -1}]},
            {
                "anyOf": [
                    {"anyOf": [{"type": "integer"}], "allOf": [{"anyOf": [{"minimum": 1}, {"maximum": -1}]}]},
                    TEXT,
                ]
            },
        ),
        ({"allOf": [{"type": "integer"}]}, {"anyOf": [{"allOf": [{"type": "integer"}]}, TEXT]}),
        ({"type": "integer", "not": {"const": 0}}, {"anyOf": [{"type": "integer", "not": {"const": 0}}, TEXT]}),
        ({"const": {"k": [1]}}, {"examples": [{"k": [1]}]}),
        ({"enum": [[1], 2], "examples": [2]}, {"examples": [2, [1], 2]}),
        ({"$ref": "#"}, {"anyOf": [{"$ref": "#"}, TEXT]}),
        ({"$ref": "https://example.org/x.json"}, {"anyOf": [{"$ref": "https://example.org/x.json"}, REFERENCE]}),
    ],
)
def test_each_kind_of_argument_keeps_its_type_in_a_branch(sub: Any, listed: Any) -> None:
    """Nothing is added where nothing is needed; no list of types, no branch without its type, annotations outside."""
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
    number = {"anyOf": [{"type": "number"}, TEXT]}
    line = {"anyOf": [{"type": "integer"}, TEXT]}
    edit = {
        "type": "object",
        "properties": {"line": line, "text": {"type": "string"}},
        "required": ["line"],
        "additionalProperties": False,
    }
    node = {"anyOf": [{"$ref": "#/$defs/node"}, TEXT]}
    assert admit_references(schema) == {
        "type": "object",
        "properties": {
            "edits": {"anyOf": [{"type": "array", "items": {"anyOf": [edit, TEXT]}}, TEXT]},
            "map": {"anyOf": [{"type": "object", "additionalProperties": number}, TEXT]},
            "node": node,
        },
        "required": ["edits"],
        "additionalProperties": False,
        "$defs": {"node": {"type": "object", "properties": {"next": node}}},
    }


@pytest.mark.parametrize(
    "root",
    [
        {},
        {"type": "object"},
        {"properties": {"a": {"type": "integer"}}},
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
    for word in ("not", "if", "then"):
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
    assert listed["properties"]["b"] == {"anyOf": [{"$ref": "#/properties/a/anyOf/0/anyOf/0"}, TEXT]}
    assert listed["properties"]["f"] == {"anyOf": [{"$ref": "#/properties/e/anyOf/0/items"}, TEXT]}
    assert listed["properties"]["g"] == {"anyOf": [{"$ref": "#/properties/a"}, TEXT]}
    instance = {"a": None, "b": {"k": 1}, "c": [1], "d": 2, "e": [5], "f": 5, "g": {"k": 1}, "h": ["k"], "i": {"k": 1}}
    assert is_valid(instance, schema)
    assert is_valid(instance, listed)
    for changed in with_reference(instance, "$f3"):
        assert is_valid(changed, listed), changed


def test_refs_into_a_list_of_types_find_the_branch() -> None:
    """A keyword moves to the branch of its type."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": ["number", "array", "null"], "items": {"type": "integer"}},
            "b": {"$ref": "#/properties/a/items"},
        },
    }
    listed = admit_references(schema)
    assert listed["properties"]["b"] == {"anyOf": [{"$ref": "#/properties/a/anyOf/0/anyOf/1/items"}, TEXT]}
    for value in (1.5, [1], None, ["$f3"], "$f3"):
        assert is_valid({"a": value, "b": 1}, listed)


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
    """A huge or hostile schema blocks no other work: the cost grows linearly with its size."""
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
    assert not listed.keys() & {"anyOf", "oneOf", "allOf"}
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


def test_tokens_added_are_few() -> None:
    """References cost about twelve tokens a tool, and no real tool more than thirty."""
    added = [tokens(admit_references(schema)) - tokens(schema) for schema in REAL.values()]
    assert max(added) < 30
    assert sum(added) / len(added) < 14


def test_reserved_arguments_cost_at_most_sixteen_tokens() -> None:
    """`_as` and `_wait` together, for every tool."""
    for schema in (*REAL.values(), {"type": "object", "properties": {}, "additionalProperties": False}):
        listed, _ = add_reserved(schema, as_=True, wait=True)
        assert tokens(listed) - tokens(schema) <= 16


def test_an_argument_that_clients_repeat_in_a_header_is_listed_as_it_is() -> None:
    """Its type must be a single one of three: clients drop any tool whose annotation violates that."""
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
    assert listed["properties"]["other"] == {"anyOf": [{"type": "integer"}, TEXT]}


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
        assert least_cpu_s(partial(step, schema), 0.6) < 0.6
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
