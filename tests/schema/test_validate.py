"""Validation: an error has a position and a reason, and what cannot be checked is accepted."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.schema.validate import Validator
from tests.support.schemas import Schema, takes


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
        "import sys; from asyncfc_mcp.schema.loosen import admit_references; "
        "from asyncfc_mcp.schema.validate import Validator; "
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
        f"import sys; from asyncfc_mcp.schema.validate import Validator; "
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
    """For closed and open schemas, the verdict on arguments is the same as the library's."""
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
