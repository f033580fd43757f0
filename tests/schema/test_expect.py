"""Expected types at a position of a tool's arguments."""

from __future__ import annotations

from typing import Any

import pytest

from asyncfc_mcp.schema.expect import Expected, expected
from tests.support.schemas import nested, takes


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
