"""Combinations at the root of an input schema: merged into one object, without losing anything that was valid."""

from __future__ import annotations

import copy
import json
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.schema.budget import Budget, SchemaTooLarge
from asyncfc_mcp.schema.loosen import admit_references
from asyncfc_mcp.schema.reserved import add_reserved
from asyncfc_mcp.schema.root_combinations import without_root_combinations
from asyncfc_mcp.schema.walk import all_schemas, at_pointer, pointer_of
from tests.support.cpu_time import least_cpu_s
from tests.support.schemas import Schema, is_valid

COMBINATIONS = ("allOf", "anyOf", "oneOf")
NAMES = ("a", "b", "kind")


def merged(schema: Schema) -> Schema:
    """The schema without combinations at its root."""
    before = copy.deepcopy(schema)
    result = without_root_combinations(schema, Budget())
    assert schema == before
    return result


def test_alternatives_by_what_they_require_are_said_in_words() -> None:
    """The commonest form of real servers: one of several sets of arguments."""
    properties = {"id": {"type": "integer"}, "name": {"type": "string"}, "owner": {"type": "string"}}
    schema = {
        "type": "object",
        "description": "Find it.",
        "properties": properties,
        "oneOf": [{"required": ["id"]}, {"required": ["name", "owner"]}],
    }
    assert merged(schema) == {
        "description": "Find it.\nOne of: id; or name, owner",
        "type": "object",
        "properties": properties,
    }


def test_a_union_of_objects_is_one_object_with_all_their_properties() -> None:
    """zod's discriminated union: a discriminator with all constants, and the rest of all branches."""
    schema = {
        "type": "object",
        "anyOf": [
            {
                "title": "Circle",
                "type": "object",
                "properties": {"kind": {"type": "string", "const": "circle"}, "r": {"type": "number", "minimum": 0}},
                "required": ["kind", "r"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "description": "A label.",
                "properties": {"kind": {"type": "string", "const": "text"}, "r": {"type": "string"}},
                "required": ["kind"],
                "additionalProperties": False,
            },
        ],
    }
    assert merged(schema) == {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": ["circle", "text"]},
            "r": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]},
        },
        "required": ["kind"],
        "additionalProperties": False,
        "description": 'One of: Circle (kind="circle", r); or A label. (kind="text")',
    }


def test_an_intersection_is_one_object() -> None:
    """Properties, required ones and bounds of all parts; definitions that only the root used are gone."""
    schema = {
        "type": "object",
        "allOf": [{"$ref": "#/$defs/Page"}, {"properties": {"q": {"minLength": 3}}, "maxProperties": 5}],
        "properties": {"q": {"type": "string", "description": "Query"}},
        "required": ["q"],
        "$defs": {
            "Page": {"type": "object", "properties": {"page": {"$ref": "#/$defs/Number"}}, "required": ["page"]},
            "Number": {"type": "integer"},
        },
    }
    assert merged(schema) == {
        "type": "object",
        "properties": {
            "q": {"type": "string", "description": "Query", "minLength": 3},
            "page": {"$ref": "#/$defs/Number"},
        },
        "required": ["q", "page"],
        "maxProperties": 5,
        "$defs": {"Number": {"type": "integer"}},
    }


def test_a_property_that_another_branch_leaves_open_may_be_anything() -> None:
    """`a` is an integer in the first branch only; the second allows any `a`."""
    branches = [
        {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"properties": {"b": {"type": "integer"}}, "required": ["b"]},
    ]
    listed = merged({"type": "object", "anyOf": branches})
    for value in ("x", 1.5, True, None, [[]], {"k": 1}):
        assert is_valid({"a": value, "b": 1}, listed)
    assert all("type" in branch for branch in listed["properties"]["a"]["anyOf"])


def test_a_root_that_refers_to_a_combination_is_merged_too() -> None:
    """Listings replace such a root by its target, which must have none then."""
    schema = {
        "type": "object",
        "$ref": "#/$defs/Input",
        "$defs": {
            "Input": {"type": "object", "oneOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}]}
        },
    }
    listed, _ = add_reserved(admit_references(schema), as_=True, wait=True)
    assert not listed.keys() & {*COMBINATIONS, "$ref", "$defs"}
    assert is_valid({"a": "$f3", "_as": "x"}, listed)


def test_refs_into_what_was_merged_find_it() -> None:
    """A `$ref` by path to a property of a branch, and one to a property that a branch has narrowed."""
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": "integer"},
            "same": {"$ref": "#/anyOf/0/properties/x"},
            "other": {"$ref": "#/properties/n"},
        },
        "anyOf": [
            {"properties": {"x": {"type": "boolean"}, "n": {"minimum": 10}}, "required": ["x"]},
            {"properties": {"x": {"type": "boolean"}, "n": {"minimum": 10}}, "required": ["n"]},
        ],
    }
    listed = admit_references(schema)
    arguments = {"n": 12, "x": True, "same": False, "other": 1}
    assert is_valid(arguments, schema)
    for name in arguments:
        assert is_valid({**arguments, name: "$f3"}, listed)
        assert not is_valid({**arguments, name: []}, listed)


def test_large_and_endless_roots_are_bounded() -> None:
    """Doubling definitions, cycles and thousands of branches: merged, or refused as too large, in little time."""
    doubling: Schema = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    roots: list[Schema] = [
        {"allOf": [{"$ref": "#/$defs/d0"}], "$defs": {**doubling, "d40": {"type": "object"}}},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"oneOf": [{"$ref": "#/$defs/a"}]}}},
        {"anyOf": [{"properties": {f"p{i}": {"const": i}}, "required": [f"p{i}"]} for i in range(20_000)]},
        {"allOf": [{"properties": {"a": {"properties": {f"p{i}": {}}}}} for i in range(20_000)]},
        {"oneOf": [{"properties": {f"p{i}": {} for i in range(200)}, "title": "t" * 1000} for _ in range(200)]},
    ]

    def admit(root: Schema) -> None:
        with suppress(SchemaTooLarge):
            listed = admit_references(root)
            assert not listed.keys() & {*COMBINATIONS}
            assert len(listed.get("description", "")) < 10_000

    for root in roots:
        assert least_cpu_s(partial(admit, root), 0.6) < 0.6


@pytest.mark.parametrize(
    "root",
    [
        {"anyOf": 5},
        {"anyOf": []},
        {"anyOf": [5, None]},
        {"allOf": [False]},
        {"oneOf": [{"type": "string"}]},
        {"allOf": [{"properties": 5, "required": 5, "additionalProperties": 5}]},
        {"allOf": [{"$ref": "#/gone"}, {"$ref": 5}]},
        {"anyOf": [{"properties": {"a": False}}, {"properties": {"a": 5}}], "description": 5},
    ],
)
def test_broken_roots_break_nothing(root: Schema) -> None:
    """They are listed in some form."""
    listed, _ = add_reserved(admit_references(root), as_=True, wait=True)
    assert isinstance(listed, dict)


# --- generated roots -------------------------------------------------------------------------------------------------

SUBS: list[tuple[Any, Any]] = [
    ({"type": "integer", "minimum": 1, "description": "count", "default": 2}, 3),
    ({"type": "string", "enum": ["x", "y"], "title": "Choice"}, "x"),
    ({"const": "k"}, "k"),
    ({"type": "string", "maxLength": 9, "description": "short"}, "text"),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 3}, [1]),
    ({"$ref": "#/$defs/point"}, {"x": 1}),
    ({"type": "object", "properties": {"k": {"type": "boolean"}}, "additionalProperties": False}, {"k": True}),
    ({}, None),
]
DEFS: Schema = {
    "point": {"type": "object", "properties": {"x": {"type": "number", "description": "abscissa"}}, "required": ["x"]},
    "both": {"anyOf": [{"required": ["a"]}, {"properties": {"b": {"type": "integer"}}, "required": ["b"]}]},
}
PARTS = st.deferred(
    lambda: (
        OBJECTS
        | st.tuples(st.sampled_from(COMBINATIONS), st.lists(OBJECTS, min_size=1, max_size=3)).map(
            lambda pair: {pair[0]: pair[1]}
        )
    )
)


@st.composite
def objects(draw: st.DrawFn) -> Schema:
    """An object schema as a branch."""
    properties = draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from([sub for sub, _ in SUBS]), max_size=3))
    schema: Schema = {"properties": properties} if properties else {}
    if draw(st.booleans()):
        schema["type"] = "object"
    if draw(st.booleans()) and properties:
        schema["required"] = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    more = draw(st.sampled_from([None, None, False, True, {"type": "integer"}]))
    if more is not None:
        schema["additionalProperties"] = more
    if draw(st.booleans()):
        schema["title"] = draw(st.sampled_from(["First", "Second"]))
    extra = draw(
        st.sampled_from(
            [
                {},
                {},
                {"minProperties": 1},
                {"maxProperties": 2},
                {"patternProperties": {"^b": {"type": "integer"}}},
                {"unevaluatedProperties": False},
                {"propertyNames": {"maxLength": 4}},
                {"if": {"properties": {"kind": {"const": "k"}}, "required": ["kind"]}, "then": {"required": ["a"]}},
                {"not": {"required": ["b"]}},
            ]
        )
    )
    return {**schema, **extra}


OBJECTS = objects()


@st.composite
def roots(draw: st.DrawFn) -> tuple[Schema, dict[str, Any]]:
    """A root with combinations and arguments that fit it."""
    root: Schema = {**draw(OBJECTS), "type": "object", "$defs": DEFS}
    for word in draw(st.lists(st.sampled_from(COMBINATIONS), min_size=1, max_size=2, unique=True)):
        parts = draw(st.lists(PARTS, min_size=1, max_size=3))
        root[word] = [*parts, {"$ref": "#/$defs/both"}] if draw(st.booleans()) else parts
    values = st.sampled_from([value for _, value in SUBS] + ["other", 0])
    for _ in range(12):
        arguments = draw(st.dictionaries(st.sampled_from((*NAMES, "z")), values, max_size=3))
        if is_valid(arguments, root):
            return root, arguments
    assume(False)
    raise AssertionError


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(roots())
def test_nothing_valid_is_lost_and_no_combination_is_left(tool: tuple[Schema, dict[str, Any]]) -> None:
    """For any root and arguments that fit it, also with references in place of them."""
    schema, arguments = tool
    assert is_valid(arguments, merged(schema))
    listed, _ = add_reserved(admit_references(schema), as_=True, wait=True)
    assert listed["type"] == "object"
    assert not listed.keys() & {*COMBINATIONS}
    assert is_valid({**arguments, "_as": "x", "_wait": "all"}, listed)
    for name in arguments:
        assert is_valid({**arguments, name: "$f3.items[0] | length(@)"}, listed), name
    assert admit_references(schema) == admit_references(schema)
    assert admit_references(admit_references(schema)) == admit_references(schema)


ANNOTATIONS = ("description", "default", "title", "examples")
BOUNDS = ("enum", "const", "minimum", "maximum", "minLength", "maxLength", "maxItems", "pattern", "format", "type")


def said(schema: Schema) -> Counter[str]:
    """What a schema says below its root: every annotation and every bound of every value."""
    words = [
        json.dumps([word, sub[word]])
        for at, sub in all_schemas(schema)
        for word in (*ANNOTATIONS, *BOUNDS)
        if at and word in sub and sub[word] not in ("string", "object")
    ]
    return Counter(words)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from([sub for sub, _ in SUBS]), min_size=1))
def test_nothing_said_is_lost(properties: Schema) -> None:
    """Descriptions, defaults, titles, choices and bounds stay, each as often; every `$ref` has its target."""
    union = {"anyOf": [sub for sub in properties.values() if sub != {}] or [{"type": "null"}], "title": "U"}
    schema: Schema = {
        "type": "object",
        "properties": {**properties, "u": union, "l": {"type": "array", "items": union}},
        "$defs": DEFS,
    }
    listed = admit_references(schema)
    assert not said(schema) - said(listed)
    for _, sub in all_schemas(listed):
        if "$ref" in sub:
            assert at_pointer(listed, pointer_of(sub["$ref"]) or ()) is not None
