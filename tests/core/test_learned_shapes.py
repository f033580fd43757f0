"""Shapes are learned from results: keys that are fields, never a value and never a key that is data."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core import learned_shapes
from asyncfc_mcp.core.field_names import Key, judge
from asyncfc_mcp.core.learned_shapes import FORGET_AFTER, MOST_NODES, MOST_VALUES, LearnedShape, Lesson
from asyncfc_mcp.core.shapes import described


def learned(*values: Any, **lesson: Any) -> LearnedShape:
    shape = LearnedShape()
    for value in values:
        shape.learn(value, Lesson(**lesson))
    return shape


def text(*values: Any, **lesson: Any) -> str:
    return described(learned(*values, **lesson).shape).removeprefix("Returns ")


def stored(*values: Any, **lesson: Any) -> str:
    """What is on disk."""
    return json.dumps(learned(*values, **lesson).to_json())


FLIGHTS = {"flights": [{"id": "F1", "price": 100}], "total": 1}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([FLIGHTS], "{flights: [{id, price}], total}"),
        ([[FLIGHTS]], "[{flights: [{id, price}], total}]"),
        ([{"id": 1, "name": "a"}, {"id": 2}], "{id, name?}"),
        ([{"id": 1}, {"id": 2, "name": "a"}], "{id, name?}"),
        ([{"id": 1, "name": None}], "{id, name?}"),
        ([{"user": {"id": 1}}, {"user": "u1"}], "{user?: {id}}"),
        ([{"items": [{"id": 1}, {"id": 2, "size": 3}]}], "{items: [{id, size?}]}"),
        ([{"items": []}, {"items": [{"id": 1}]}], "{items: [{id}]}"),
        ([{"tags": ["a"], "sizes": [1, 2.5], "rows": [[1]]}], "{tags: [string], sizes: [number], rows: [[number]]}"),
        ([{"values": [1, "a"], "results": []}], "{values: […], results: […]}"),
        ([[]], "[…]"),
        ([{}], ""),
        (["text"], ""),
        ([{"user": {"address": {"city": {"name": 1}}}}], "{user: {address: {city: {…}}}}"),
    ],
)
def test_the_keys_of_earlier_results_are_merged(values: list[Any], expected: str):
    """Optional and differing keys are marked; a list says what its items are."""
    assert text(*values) == expected


# --- keys that are data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keyed",
    [
        {"alice": {"age": 1}, "bob": {"age": 2}},
        {"jdoe": 12, "mkowalski": 15},
        {"jdoe": {"id": 1, "role": "a"}, "mkowalski": {"id": 2, "role": "b"}},
        {"a@example.com": 1, "jdoe": 2},
        {"/home/jdoe/notes": {"size": 1}},
        {"2024-01-01": 3, "2024-01-02": 4},
        {"ghp_16C7e42F292c6912E7710c838347Ae178B4a": {"scope": "repo"}},
        {"0f8fad5b-d9cb-469f-a165-70867728950e": 1},
        {"q1": 1, "q2": 2},
        {"user_17": 1, "id": 2},
        {"monday": 1, "open": True},
        {"München": 1},
        {str(number): number for number in range(5)},
        {f"k{chr(97 + number // 26)}{chr(97 + number % 26)}": 1 for number in range(600)},
    ],
)
@pytest.mark.parametrize("times", [1, 5])
def test_a_map_keyed_by_data_is_a_map_however_often_it_comes(keyed: dict[str, Any], times: int):
    """Also if its keys are the same in every result; nothing of them is kept."""
    assert text(*[keyed] * times) == "{…}"
    assert text(*[{"users": keyed, "total": 1}] * times) == "{users: {…}, total}"
    kept = stored(*[{"users": keyed, "total": 1}] * times)
    assert not [key for key in keyed if f'"{key}"' in kept]


def test_keys_that_differ_between_results_are_data():
    """Though each of them could be a name."""
    results = [
        {"scores": {name: {"wins": 1}, "total": 1}} for name in ("jdoe", "mkow", "rsmith", "xyzzy", "plugh", "quux")
    ]
    assert text(*results) == "{scores: {…}}"
    assert text({"book": 1, "phone": 2}, {"bed": 1, "door": 1}, {"key": 1}) == "{…}"


def test_a_key_that_the_arguments_contain_is_data():
    """The record of the user who was asked for, under that name."""
    records = [{"id": number, "name": "x", "jdoe": {"role": "a"}} for number in range(5)]
    assert "jdoe" not in text(*records, echoed={"jdoe"})
    assert "jdoe" not in stored(*records, echoed={"jdoe"})


def test_an_unknown_key_is_shown_once_it_has_recurred_in_records():
    """One result may have it by chance; until then it is on no disk."""
    record = {"id": 1, "name": "a", "zorp": 3}
    assert text(record) == "{id, name, …}"
    assert "zorp" not in stored(record)
    assert text(record, {**record, "zorp": 4}) == "{id, name, zorp}"
    assert text(record, {"id": 1, "name": "a"}, record) == "{id, name, zorp?}"
    assert text([record, record]) == "[{id, name, zorp}]"


def test_a_record_of_unknown_keys_must_recur_more_often_and_have_several_types():
    """A map of names has values of one type."""
    record = {"zorp": 1, "quux": "a"}
    assert [text(*[record] * times) for times in (1, 2, 3)] == ["{…}", "{…}", "{zorp, quux}"]
    assert text(*[{"zorp": 1, "quux": 2}] * 9) == "{…}"
    assert text(*[{"zorp": 1}] * 9) == "{…}"


def test_unknown_keys_of_one_principal_are_not_shown_to_another():
    """Only what has occurred for two."""
    record = {"id": 1, "name": "a", "zorp": 3}
    shape = LearnedShape()
    for party in ("x", "x", "x", "y"):
        assert "zorp" not in described(shape.shape)
        shape.learn(record, Lesson(party=party))
    assert "zorp" in described(shape.shape)


def test_a_result_that_was_learned_before_is_no_further_evidence():
    """It is looked at again when a reference has missed a part of it."""
    record = {"id": 1, "name": "a", "zorp": 3}
    shape = learned(record)
    shape.learn(record, Lesson(counts=False))
    assert described(shape.shape) == "Returns {id, name, …}"


FIELDS = ["id", "name", "total", "items", "user", "price", "status"]
KEYS = st.one_of(st.sampled_from([*FIELDS, "zorp", "quux", "jdoe", "alice", "a@b.de", "x y"]), st.text(max_size=12))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(KEYS, inner, max_size=6)),
    max_leaves=30,
)


def objects_in(value: Any) -> list[dict[str, Any]]:
    found = [value] if isinstance(value, dict) else []
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return found + [each for item in inner for each in objects_in(item)]


def names_in(kept: Any) -> set[str]:
    names = set(kept.get("k", {}))
    for inner in [*kept.get("k", {}).values(), *([kept["i"]] if "i" in kept else [])]:
        names |= names_in(inner)
    return names


@settings(max_examples=300)
@given(st.lists(VALUES, max_size=8))
def test_only_keys_are_kept_that_are_public_or_recur(values: list[Any]):
    """Whatever the results: no value, no key that looks like data, no unknown key that came once; the form on disk is
    read as it was written."""
    shape = learned(*values)
    kept = shape.to_json()
    for name in names_in(kept):
        assert judge(name) in (Key.FIELD, Key.UNKNOWN)
        if judge(name) is Key.UNKNOWN:
            assert sum(name in each for value in values for each in objects_in(value)) > 1
    assert LearnedShape.of_json(json.loads(json.dumps(kept))).shape == shape.shape


# --- bounds --------------------------------------------------------------------------------------------------------


def wide(levels: int) -> Any:
    names = ["id", "name", "items", "user", "price", "status", "size", "total", "kind", "owner", "label", "count"]
    return {name: [wide(levels - 1)] * 20 for name in names} if levels else 1


@pytest.mark.parametrize(
    "value",
    [
        [[number] * 1000 for number in range(1000)],
        {f"name_{number}": 1 for number in range(100_000)},
        wide(4),
        [{"id": 1}] * 1_000_000,
    ],
)
def test_a_large_result_costs_what_a_small_one_does(value: Any, monkeypatch: pytest.MonkeyPatch):
    """In values that are looked at, and in what is kept."""
    looked = 0
    learn = LearnedShape._learn

    def counted(*args: Any, **more: Any) -> None:
        nonlocal looked
        looked += 1
        learn(*args, **more)

    monkeypatch.setattr(LearnedShape, "_learn", counted)
    shape = learned(value, value)
    assert looked <= 2 * MOST_VALUES + 100
    assert json.dumps(shape.to_json()).count("{") <= 3 * MOST_NODES


def test_what_a_server_no_longer_sends_is_forgotten():
    """Its new version has other keys; a key that is always there stays so."""
    shape = learned(*[{"id": 1, "price": 2}] * 10)
    for _ in range(6 * FORGET_AFTER):
        shape.learn({"id": 1, "cost": 2}, Lesson())
    assert described(shape.shape) in ("Returns {id, cost}", "Returns {id, cost?}")


def test_a_text_that_was_cut_off_says_nothing_of_what_is_missing():
    """Its last object has not lost a key."""
    rows = [{"id": 1, "price": 2}, {"id": 2}]
    shape = LearnedShape()
    shape.learn(rows, Lesson(unfinished={id(rows), id(rows[1])}))
    assert described(shape.shape) == "Returns [{id, price}]"


@pytest.mark.parametrize(
    "value",
    [
        None, [], "x", {"o": -1}, {"o": 10**9}, {"o": True}, {"w": {"evil text": 1}}, {"w": []}, {"k": []},
        {"k": {"a b": {}}}, {"k": {"a": 1}}, {"i": {"k": {"no name": {}}}}, {"k": {f"a{n}": {} for n in range(99)}},
        json.loads('{"i":' * 50 + "{}" + "}" * 50),
        {"k": {f"a{n}": {"k": {f"b{m}": {} for m in range(30)}} for n in range(30)}},
    ],
)  # fmt: skip
def test_a_file_of_another_program_is_not_read(value: Any):
    """Its keys would stand in descriptions."""
    with pytest.raises(ValueError, match=r"not a|too large"):
        LearnedShape.of_json(value)


def test_levels_and_samples_are_bounded_as_documented():
    """The numbers that docs/security.md gives."""
    assert (learned_shapes.MOST_VALUES, learned_shapes.MOST_KEYS, learned_shapes.MOST_SAMPLES) == (1_500, 200, 8)
