"""Sizes of JSON values are found level by level, and nothing is left out."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core.references import may_refer
from asyncfc_mcp.slices import at_once
from asyncfc_mcp.values.large import small_weight, weighing
from asyncfc_mcp.values.sizes import approximate_size, held_size, levels
from tests.support.cpu_time import least_cpu_s

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("a$", max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text("k$", max_size=3), inner, max_size=5),
    max_leaves=30,
)


def each(value: Any) -> Iterator[Any]:
    """A value and all its parts."""
    yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from each(part)


@settings(deadline=None)
@given(values)
def test_every_part_is_in_one_group_of_its_type(value: Any):
    """At any depth, and as often as it occurs."""
    groups = list(levels(value))
    assert all(type(item) is kind for kind, items in groups for item in items)
    assert Counter(id(item) for _, items in groups for item in items) == Counter(map(id, each(value)))


@settings(deadline=None)
@given(values)
def test_arguments_without_a_dollar_are_looked_at_no_further(value: Any):
    """A text with one anywhere, or the key of a reference, is seen."""
    texts = any("$" in part for part in each(value) if isinstance(part, str))
    assert may_refer(value) is texts
    assert may_refer([value, {"$future": "f1"}])
    assert may_refer([value] * 300) is texts
    assert may_refer([*[value] * 300, {"$future": "f1"}])


@settings(deadline=None)
@given(st.recursive(values, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner | st.text())))
def test_small_values_weigh_what_they_weigh_in_slices(value: Any):
    """Also texts and keys beyond ASCII, numbers beyond those that exist once, and keys that recur."""
    for weighed in (value, [value, True, -1e300, 10**20, -5, "é" * 3, "\ud800", {"ключ": [{"ключ": 0}]}]):
        weight = small_weight(weighed)
        assert weight == (None if sum(1 for _ in each(weighed)) > 250 else at_once(weighing(weighed)))


MANY = {
    "numbers": [number / 7 for number in range(250_000)],
    "texts": [f"text {number}" for number in range(250_000)],
    "rows": [{"id": number, "name": "n", "on": True, "x": 1.5} for number in range(50_000)],
    "lists": [[] for _ in range(125_000)],
}


@pytest.mark.parametrize("many", MANY.values(), ids=MANY)
def test_measuring_takes_no_longer_than_a_few_parses(many: Any):
    """Walks of one value after another took many times as long as the parser, all in one step of the event loop."""
    text = json.dumps(many)
    bound_s = max(4 * least_cpu_s(lambda: json.loads(text)), 0.1)
    parsed = json.loads(text)
    for measure in (held_size, approximate_size, may_refer):
        assert least_cpu_s(partial(measure, parsed), bound_s) < bound_s, measure
