"""The bridge's own arguments: read as models write them, refused only where they mean nothing."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.errors import InvalidArguments
from asyncfc_mcp.upstream import own_arguments
from asyncfc_mcp.upstream.metatools import METATOOLS

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("f12ab,;$ {}[]\"':.\\N\ud800", max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["future_id", "id", "x"]), inner),
    max_leaves=8,
)


@settings(max_examples=500, deadline=None)
@given(VALUES)
def test_no_value_raises_anything_but_an_error_for_the_model(value: Any) -> None:
    """Each reader gives what it promises, or says what is wrong."""
    names = own_arguments.refs(value)
    assert names is None or all(isinstance(each, str) and each for each in names)
    own_arguments.name(value)
    for read in (
        lambda: own_arguments.one_ref("t", value),
        lambda: own_arguments.several_refs("t", value),
        lambda: own_arguments.choice("t", "k", value, ("all", "any"), "x"),
        lambda: own_arguments.seconds("t", value),
        lambda: own_arguments.wanted("t", value),
    ):
        with contextlib.suppress(InvalidArguments):
            given = read()
            assert not (isinstance(given, float) and (math.isnan(given) or given < 0))


@pytest.mark.parametrize(
    "written", ["NaN", "nan", "-inf", "-1", -1, math.nan, -math.inf, "soon", True, [1, 2], {}, "1 h"]
)
def test_what_is_no_time_is_refused(written: object) -> None:
    """`NaN` above all: nothing is shorter or longer than it."""
    with pytest.raises(InvalidArguments, match="timeout_s must be a number of seconds, 0 or more"):
        own_arguments.seconds("await_future", written)


@pytest.mark.parametrize("written", ["inf", "Infinity", "1e400", 10**400, math.inf, "+inf"])
def test_a_time_beyond_every_wait_is_no_limit(written: object) -> None:
    """The bridge's own limits hold all the same."""
    assert own_arguments.seconds("await_future", written) == math.inf


@pytest.mark.parametrize(
    ("tool", "key", "written"),
    [
        ("gather", "future_ids", '["f1"]'),
        ("gather", "future_ids", ["f1"]),
        ("gather", "return_when", None),
        ("gather", "return_when", ""),
        ("gather", "return_when", "ALL"),
        ("gather", "timeout_s", "30"),
        ("gather", "timeout_s", None),
        ("await_future", "future_id", ["f1"]),
        ("await_future", "future_id", "$f1"),
        ("await_future", "timeout_s", ""),
        ("cancel_future", "future_id", ["f1"]),
        ("list_futures", "status", ""),
        ("list_futures", "status", None),
        ("list_futures", "status", "Running"),
    ],
)
def test_the_listed_schema_lets_pass_what_is_understood(tool: str, key: str, written: object) -> None:
    """Hosts that validate would refuse it before it is sent."""
    schema = METATOOLS[tool].listed(tool)["inputSchema"]
    assert jsonschema.Draft202012Validator(schema["properties"][key]).is_valid(written)


def test_futures_without_number_are_refused():
    """`gather`, `_wait` and `await_future` name at most 5,000, however they are written; more is not read at all."""
    many = [f"f{n}" for n in range(own_arguments.MOST_REFS + 1)]
    for value in (many, ", ".join(many), many * 100, [many], "x " * 10**6):
        with pytest.raises(InvalidArguments, match="more than 5000"):
            own_arguments.several_refs("gather", value)
        with pytest.raises(InvalidArguments, match="more than 5000"):
            own_arguments.wanted("t", value)
        assert len(own_arguments.refs(value) or ()) <= 3 * own_arguments.MOST_REFS * 10
    assert own_arguments.several_refs("gather", many[:-1]) == many[:-1]
