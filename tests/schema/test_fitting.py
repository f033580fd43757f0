"""Proofs that a value fits a schema: never against the library, and never long."""

from itertools import islice
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from referencing.exceptions import Unresolvable

from asyncfc_mcp.schema.equality import all_different
from asyncfc_mcp.schema.fitting import fits
from asyncfc_mcp.schema.validate import Validator
from tests.support.cpu_time import least_cpu_s

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.sampled_from([0.0, 1.0, 1.5, -0.5]), st.text("ab1", max_size=3)
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(["a", "b", "c", "ab"]), inner, max_size=3)
    ),
    max_leaves=6,
)

TYPES = ["string", "integer", "number", "boolean", "array", "object", "null"]
names = st.sampled_from(["a", "b", "c"])
small = st.integers(0, 3)


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    listed = st.lists(inner, min_size=1, max_size=3)
    keywords = {
        "type": st.one_of(
            st.sampled_from(TYPES), st.lists(st.sampled_from(TYPES), min_size=1, max_size=2, unique=True)
        ),
        "enum": st.lists(values, min_size=1, max_size=3),
        "const": values,
        "properties": st.dictionaries(names, inner, max_size=2),
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$", "."]), inner, max_size=2),
        "additionalProperties": inner,
        "propertyNames": inner,
        "required": st.lists(names, max_size=2, unique=True),
        "dependentRequired": st.dictionaries(names, st.lists(names, max_size=2, unique=True), max_size=1),
        "dependentSchemas": st.dictionaries(names, inner, max_size=1),
        "dependencies": st.dictionaries(names, inner, max_size=1),
        "items": inner,
        "prefixItems": listed,
        "contains": inner,
        "minContains": small,
        "uniqueItems": st.booleans(),
        "allOf": listed,
        "anyOf": listed,
        "oneOf": listed,
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
        "unevaluatedProperties": inner,
        "unevaluatedItems": inner,
        "pattern": st.sampled_from(["^a", "b$", "^[ab]{1,2}$", "1"]),
        "minLength": small,
        "maxLength": small,
        "minItems": small,
        "maxItems": small,
        "minProperties": small,
        "maxProperties": small,
        "minimum": st.sampled_from([0, 1, 1.5]),
        "exclusiveMaximum": st.sampled_from([0, 1, 1.5]),
        "multipleOf": st.sampled_from([1, 2, 0.5]),
        "$ref": st.sampled_from(["#", "#/$defs/x", "#/$defs/y", "#/nowhere"]),
        "format": st.just("date"),
        "title": st.just("t"),
        "x-hint": st.just(1),
        "strange": st.just(1),
    }
    return st.lists(st.sampled_from(sorted(keywords)), max_size=3, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({word: keywords[word] for word in chosen})
    )


subschemas = st.recursive(st.booleans(), schemas, max_leaves=8)
DRAFTS = [
    None,
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-04/schema#",
    "urn:unknown",
]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(subschemas, subschemas, subschemas, st.sampled_from(DRAFTS), values)
def test_a_verdict_is_that_of_the_library(root: Any, x: Any, y: Any, draft: str | None, value: Any):
    """True: the library has no error, or cannot say. False: it has one, unless it finds the schema broken."""
    schema = {**(root if isinstance(root, dict) else {"allOf": [root]}), "$defs": {"x": x, "y": y}}
    if draft is not None:
        schema["$schema"] = draft
    verdict = fits(schema, value)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
        expected = not list(islice(kind(schema).iter_errors(value), 20))
    except (jsonschema.SchemaError, RecursionError, Unresolvable, TypeError):  # TypeError: a fault of the library's
        assert Validator(schema).first_error(value) is None
        return
    assert verdict in (expected, None)
    if "pattern" not in str(schema):
        assert (Validator(schema).first_error(value) is None) == expected


def chained(levels: int) -> dict[str, Any]:
    """Definitions that refer twice to the next: 2 to the power of `levels` ways to the last."""
    defs: dict[str, Any] = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{levels}": {"type": "integer"}}}


def test_definitions_that_double_are_judged_once():
    """Each with each value, however many ways lead there."""
    assert fits(chained(40), 1) is True
    assert fits(chained(40), "x") is False


@pytest.mark.parametrize("turns", ["allOf", "anyOf", "oneOf"])
def test_going_round_in_circles_proves_nothing(turns: str):
    """The library overflows its stack there, and accepts."""
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {turns: [{"$ref": "#/$defs/a"}]}}}
    assert fits(schema, 1) is None
    assert Validator(schema).first_error(1) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (0, False, False),
        (1, True, False),
        ([1], [True], False),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, 2], [2, 1], False),
        ("1", 1, False),
        (None, False, False),
        ("", None, False),
        ([], {}, False),
        (["bool", True], True, False),
        (2**53, 2.0**53, True),
        (2**53 + 1, 2.0**53, False),
    ],
)
def test_equal_means_equal_as_json(one: Any, other: Any, same: bool):
    """1 is 1.0, and neither is true."""
    assert all_different([one, other]) is not same
    assert fits({"enum": [one]}, other) is same
    assert fits({"const": one}, other) is same
    assert fits({"uniqueItems": True}, [one, other]) is not same


ROWS = [{"id": number, "tags": [number, str(number)]} for number in range(20_000)]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"uniqueItems": True}, ROWS),
        ({"anyOf": [{"const": number} for number in range(100_000)]}, "x"),
        ({"enum": [[number] for number in range(100_000)]}, [0.5]),
        ({"items": {"type": "integer"}}, [1] * 200_000),
        ({"properties": {str(n): {} for n in range(100_000)}, "additionalProperties": False}, dict.fromkeys("ab", 1)),
        ({"patternProperties": {f"^{'a' * 20}{n}": {} for n in range(2000)}}, {"x" * 100: 1}),
        ({"pattern": "a[ab]{100}c"}, "ab" * 100_000),
        (chained(50), "x"),
    ],
    ids=["unique", "anyOf", "enum", "items", "properties", "patterns", "pattern", "chain"],
)
def test_no_proof_takes_long(schema: dict[str, Any], value: Any):
    """Bounded in steps: some 10 ms, and 500 with head room for a machine that is busy."""
    assert least_cpu_s(lambda: fits(schema, value), 0.5) < 0.5


def test_rows_that_repeat_are_found_in_linear_time():
    """By the library, each with each, this took minutes."""
    validator = Validator({"uniqueItems": True})

    def find() -> None:
        assert validator.first_error(ROWS) is None
        assert validator.first_error([*ROWS, ROWS[0]]) is not None

    assert least_cpu_s(find, 10) < 10
