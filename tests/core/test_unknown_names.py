"""Unknown names: which arguments are meant as references although no future has their name, and which are text."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.core import references
from asyncfc_mcp.core.unknown_names import MAX_DEPTH, required, unescaped

TEXTS = st.sampled_from(["$a", "$a.b", "$$a.b", "${f:a}", "$A", "x $a"]) | st.text(max_size=8)
VALUES = st.recursive(
    TEXTS | st.none() | st.integers(),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(TEXTS, parts, max_size=4),
    max_leaves=12,
)


def unknown(arguments: Mapping[str, Any]) -> set[str]:
    """Return the names in arguments of a caller without futures, as the bridge asks for them."""
    names: set[str] = set()

    def known(name: str) -> None:
        names.add(name)

    references.find(arguments, known)
    return names


def meant(arguments: Mapping[str, Any]) -> dict[str, str]:
    return required(arguments, unknown(arguments))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("$tweet", "tweet"),
        ("$tweet.id", "tweet"),
        ("$rows[0]", "rows"),
        ("$bookFlight", "bookFlight"),
        ("$Tweet.id", "Tweet"),
        ("$f7", "f7"),
        ("$f7.id", "f7"),
        ("$shop.items[?stock > 0] | [0].sku", "shop"),
        ("$rows | min_by(@, &price).id", "rows"),
        ("$Rows | min_by(@, &price", "Rows"),
        ("length($list.files)", "list"),
        ("$a.price * 2", "a"),
        ("${f:length($list.files)}", "list"),
        ({"$future": "list", "path": "length(files)"}, "list"),
        ("${f:tweet}", "tweet"),
        ("${f:Tweet.id}", "Tweet"),
        ({"$future": "tweet"}, "tweet"),
        ({"$future": "TWEET", "path": "id"}, "TWEET"),
        (["a", "$tweet.id"], "tweet"),
        ([["$tweet"]], "tweet"),
        ({"to": {"id": "$tweet.id"}}, "tweet"),
        ({"to": [{"$future": "tweet"}]}, "tweet"),
    ],
)
def test_a_whole_argument_that_looks_like_a_reference_is_meant_as_one(value: Any, name: str):
    """With a path, or in lower case; in lists as well."""
    assert list(meant({"x": value})) == [name]


@pytest.mark.parametrize(
    "value",
    [
        "$HOME",
        "$HOME.cache",
        "$A[0]",
        "$Tweet",
        "$_",
        "$_.Name",
        "$5",
        "$(date)",
        "$.store.book",
        "$",
        "$$",
        "$ tweet",
        "${tweet}",
        "${HOME}",
        "$tweet and more",
        "costs $tweet",
        "$HOME | grep x",
        "$HOME | sort",
        "$files | sort",
        "$x || $y",
        "length($x)",
        "round($total, 2)",
        "join(',', $items)",
        "length($HOME.x)",
        "see ${f:tweet.title}.",
        "$env:PATH",
        "$HOME/bin",
        {"_id": "$category"},
        [{"$group": {"_id": "$user.name", "total": {"$sum": "$price"}}}],
        {"$expr": {"$gt": ["$spent.total", "$budget"]}},
        7,
        None,
    ],
)
def test_what_may_be_text_stays_text(value: Any):
    """Variables, templates, queries, and longer text."""
    arguments = {"x": value}
    assert meant(arguments) == {}
    assert unescaped(arguments, unknown(arguments)) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("$$tweet", "$tweet"),
        ("$$tweet.id", "$tweet.id"),
        ("$$$tweet", "$$tweet"),
        ("$$f7", "$f7"),
        ("$$rows | min_by(@, &price).id", "$rows | min_by(@, &price).id"),
        ("length($$list.files)", "length($list.files)"),
        ("length($$$list.files)", "length($$list.files)"),
        (["$$tweet", "$HOME", ["$$rows[0]"]], ["$tweet", "$HOME", ["$rows[0]"]]),
        ({"to": {"id": "$$tweet.id", "of": ["$$this"]}}, {"to": {"id": "$tweet.id", "of": ["$$this"]}}),
    ],
)
def test_an_escape_makes_text_of_what_would_be_refused(value: Any, text: Any):
    """Of several dollar signs, one is removed, as before a name that exists; the arguments are not changed in place."""
    arguments = {"x": value, "y": {"z": 1}}
    before = copy.deepcopy(arguments)
    assert meant(arguments) == {}
    assert unescaped(arguments, unknown(arguments)) == {"x": text, "y": {"z": 1}}
    assert arguments == before


@pytest.mark.parametrize("value", ["$$HOME", "cost $$5", "echo $$", "$$(x)", {"in": "$$ROOT"}, [{"$let": "$$now.x"}]])
def test_dollar_signs_that_escape_nothing_stay(value: Any):
    arguments = {"x": value}
    assert unescaped(arguments, unknown(arguments)) is None


def test_each_name_of_an_expression_is_meant():
    """Also beside names that exist."""
    written = "add($a.price, $b.price)"
    assert required({"x": written}, {"b"}) == {"b": written}
    assert meant({"x": written}) == {"a": written, "b": written}


def test_a_name_is_named_once_with_what_was_written():
    assert meant({"a": "$tweet.id", "b": ["$tweet", "$other"]}) == {"tweet": "$tweet.id", "other": "$other"}


def test_very_deep_and_very_many_arguments_are_text_beyond_a_bound():
    """A position costs its depth, and a search its references."""
    deep: Any = "$tweet"
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert meant({"x": deep}) == {}
    assert list(meant({"x": deep[0]})) == ["tweet"]
    many = {"x": ["$tweet"] * 3 * references.MAX_REFERENCES}
    assert list(required(many, {"tweet"})) == ["tweet"]


@given(VALUES)
def test_any_arguments_are_judged_without_an_error_and_an_escape_is_enough(value: Any):
    """What is refused is not, once it is escaped; what is not refused and not escaped is not changed."""
    arguments = {"x": value, "y": "$tweet.id", "z": "$$tweet.id"}
    names = unknown(arguments)
    found = required(arguments, names)
    assert found["tweet"] == "$tweet.id"
    changed = unescaped(arguments, names)
    assert changed is not None
    assert changed["z"] == "$tweet.id"
    assert changed["y"] == "$tweet.id"


@given(st.from_regex(r"\$[a-z][a-z0-9_-]{0,10}(\.[a-z]+)?", fullmatch=True))
def test_the_escape_that_an_error_names_gives_the_text_as_it_was(text: str):
    arguments = {"x": "$" + text}
    assert meant({"x": text}) != {}
    assert unescaped(arguments, unknown(arguments)) == {"x": text}
