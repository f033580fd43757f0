"""Reserved arguments: `_as` and `_wait` are added to any schema, and yield to a tool's own."""

from __future__ import annotations

import copy
import json

import pytest

from asyncfc_mcp.schema.reserved import add_reserved
from tests.support.schemas import REAL, Schema, is_valid

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
    """A tool's own argument keeps its meaning; the bridge's is reported as not added."""
    listed, skipped = add_reserved(schema, as_=True, wait=True)
    assert skipped == ("_as",)
    assert listed.get("properties", {}).get("_as") == schema.get("properties", {}).get("_as")
    assert listed["properties"]["_wait"] == {"type": "string"}


def test_what_is_off_is_not_added() -> None:
    """Each of the two can be turned off."""
    assert add_reserved(CLOSED_A, as_=False, wait=False) == (CLOSED_A, ())
    assert add_reserved({"properties": {"_as": {}}}, as_=False, wait=True)[1] == ()
    assert add_reserved({"properties": 5}, as_=True, wait=True) == ({"properties": 5}, ("_as", "_wait"))
