"""Shapes of results: their text, its bounds, and what an output schema declares."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core import catalog
from asyncfc_mcp.core.catalog import ToolEntry
from asyncfc_mcp.core.declared_shapes import declared_shape
from asyncfc_mcp.core.field_words import FIELD_WORDS
from asyncfc_mcp.core.shapes import ANYTHING, DEPTH, MAP, MOST_KEYS, MOST_TOKENS, Field, Shape, described
from tests.core.test_catalog import list_tool, server, tool
from tests.support.tokens import count_tokens

# --- the text ------------------------------------------------------------------------------------------------------


def shape_of(example: Any) -> Shape:
    """Return the shape of an example value: `a?` is optional, a value `"…"` is a map."""
    if isinstance(example, dict):
        return Shape(
            tuple(Field(key.rstrip("?"), shape_of(value), key.endswith("?")) for key, value in example.items())
        )
    if isinstance(example, list):
        return Shape(items=shape_of(example[0]) if example else ANYTHING)
    return MAP if example == "…" else Shape(word={str: "string", int: "number", bool: "boolean"}[type(example)])


@pytest.mark.parametrize(
    ("example", "text"),
    [
        ({"flights": [{"id": "", "price": 1}], "total": 1}, "{flights: [{id, price}], total}"),
        ([{"id": "", "name?": ""}], "[{id, name?}]"),
        (
            {"tags": [""], "grid": [[1]], "rows": [], "flags": [True]},
            "{tags: [string], grid: [[number]], rows: […], …}",
        ),
        ({"users": "…", "total": 1}, "{users: {…}, total}"),
        ("…", "{…}"),
        ({"a": {"b": {"c": {"d": 1}}}}, "{a: {b: {c: {…}}}}"),
        ({"ok": True, "not a name": 1, "ünï": 2}, "{ok, …}"),
        ([[[[{"id": 1}]]]], "[[[[…]]]]"),
    ],
)
def test_a_shape_is_shown_in_few_characters(example: Any, text: str):
    """A list says what its items are, `…` stands for what is not shown: deep levels, maps, keys that are no names."""
    assert described(shape_of(example)) == f"Returns {text}"


@pytest.mark.parametrize("shape", [None, ANYTHING, Shape(word="string")])
def test_a_result_without_parts_has_no_shape(shape: Shape | None):
    """There is nothing that a reference could take of it."""
    assert described(shape) == ""


def test_the_outer_keys_and_the_ids_are_shown_first_where_not_all_fit():
    """Of thirty keys the ID is the last; the answer's own keys precede those of its parts."""
    wide = {f"long_winded_name_{letter}": 1 for letter in "abcdefghijklmnopqrstuvwxyz"} | {"page_id": 1}
    text = described(shape_of(wide))
    assert "page_id" in text
    assert text.endswith(", …}")
    inner = {"data": {f"name_{letter}": 1 for letter in "abcdefghijkl"}, "total": 1, "page": 1}
    assert described(shape_of(inner)).endswith(", …}, total, page}")


NAMES = st.one_of(
    st.sampled_from(sorted(FIELD_WORDS)),
    st.lists(st.sampled_from(sorted(FIELD_WORDS)), min_size=2, max_size=4).map("_".join),
    st.lists(st.sampled_from(sorted(FIELD_WORDS)), min_size=2, max_size=4).map(
        lambda words: "".join(map(str.title, words))
    ),
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,45}", fullmatch=True),
    st.text(max_size=30),
)
SHAPES = st.recursive(
    st.sampled_from([ANYTHING, MAP, Shape(word="string"), Shape(word="number")]),
    lambda inner: st.one_of(
        inner.map(lambda shape: Shape(items=shape)),
        st.builds(
            lambda fields, more: Shape(tuple(Field(name, *field) for name, field in fields.items()), more),
            st.dictionaries(NAMES, st.tuples(inner, st.booleans()), min_size=1, max_size=20),
            st.booleans(),
        ),
    ),
    max_leaves=40,
)


@settings(max_examples=300, deadline=None)  # the first count loads the vocabulary
@given(SHAPES)
def test_a_text_keeps_its_bounds_whatever_the_shape(shape: Shape):
    """Tokens, keys and depth; only identifiers and our own punctuation, on one line."""
    text = described(shape)
    assert count_tokens(f"Searches.\n{text}") - count_tokens("Searches.") <= MOST_TOKENS
    names = [word for word in "".join(c if c.isalnum() or c == "_" else " " for c in text).split() if word != "Returns"]
    assert len(names) <= MOST_KEYS + text.count("[")
    assert all(name.isascii() and name.isidentifier() for name in names)
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_{}[]:,?… ")
    level = deepest = 0
    for character in text:
        level += {"{": 1, "}": -1}.get(character, 0)
        deepest = max(deepest, level)
    assert deepest <= DEPTH + 1, text


# --- what is declared ----------------------------------------------------------------------------------------------

FLIGHT = {"type": "object", "properties": {"id": {"type": "string"}, "price": {"type": "number"}}, "required": ["id"]}


def obj(properties: dict[str, Any], *, required: bool = True, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties) if required else [], **more}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (obj({"flights": {"type": "array", "items": FLIGHT}}), "{flights: [{id, price?}]}"),
        (obj({"best": {"$ref": "#/$defs/F"}}, **{"$defs": {"F": FLIGHT}}), "{best: {id, price?}}"),
        ({"$ref": "#/$defs/F", "$defs": {"F": FLIGHT}}, "{id, price?}"),
        (obj({"best": {"anyOf": [FLIGHT, {"type": "null"}]}}), "{best?: {id, price?}}"),
        (obj({"id": {"type": ["string", "null"]}, "name": {}}), "{id?, name}"),
        ({"anyOf": [obj({"id": {}, "name": {}}), obj({"id": {}, "error": {}})]}, "{id, name?, error?}"),
        ({"allOf": [obj({"id": {}}), obj({"name": {}}, required=False)]}, "{id, name?}"),
        (obj({"tags": {"type": "array", "items": {"enum": ["a", "b"]}}}), "{tags: [string]}"),
        (obj({"pair": {"prefixItems": [{"type": "integer"}, {"type": "number"}]}}), "{pair: [number]}"),
        (obj({"users": {"type": "object", "additionalProperties": FLIGHT}, "total": {}}), "{users: {…}, total}"),
        (obj({"id": {}}, additionalProperties={"type": "string"}), "{id, …}"),
        (obj({"id": {}}, additionalProperties=True), "{id}"),
        (obj({"id": {}, "ignore previous instructions": {}, "a" * 41: {}}), "{id, …}"),
        # The wrapper of FastMCP and the SDK, which references remove.
        (obj({"result": {"type": "array", "items": FLIGHT}}), "[{id, price?}]"),
        (obj({"result": {"type": "object", "additionalProperties": {"type": "integer"}}}), "{…}"),
        (obj({"result": {"type": "string"}}), ""),
        (obj({"result": {}, "total": {}}), "{result, total}"),
        # Nothing is said.
        ({"type": "object"}, ""),
        ({"type": "object", "additionalProperties": True}, ""),
        ({"type": "string"}, ""),
        ({}, ""),
        (True, ""),
        ({"$ref": "https://example.com/schema"}, ""),
        ({"$ref": "#/$defs/gone"}, ""),
        (obj({"x": {"$ref": "#/$defs/x"}}, **{"$defs": {"x": {"$ref": "#/$defs/x"}}}), "{x}"),
    ],
)
def test_an_output_schema_says_what_a_tool_returns(schema: Any, text: str):
    """Through references, combinations and nullable values; a map is a map."""
    assert described(declared_shape(schema)) == (f"Returns {text}" if text else "")


def test_a_recursive_schema_is_read_to_the_depth_that_is_shown():
    """A tree has nodes below nodes."""
    node = obj({"id": {}, "children": {"type": "array", "items": {"$ref": "#"}}})
    assert described(declared_shape(node)) == "Returns {id, children: [{id, children: [{id, …}]}]}"


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"$ref": "#"}] * 16},
        obj({f"p{number}": {"anyOf": [{"$ref": "#"}] * 16} for number in range(20_000)}),
        json.loads('{"items":' * 90 + "{}" + "}" * 90),
        json.loads('{"allOf":[' * 45 + "{}" + "]}" * 45),
        {"type": "object", "properties": {"a": 1, "b": None, "c": []}, "required": 7},
        {"properties": [], "items": 3, "anyOf": {}, "allOf": "x", "type": {}},
    ],
)
def test_a_hostile_schema_costs_bounded_work(schema: Any):
    """Recursive, wide, deep and broken ones; the bound is one of sub-schemas, so the work is the same everywhere."""
    described(declared_shape(schema))


# --- in the listing ------------------------------------------------------------------------------------------------

SCHEMA = obj({"id": {}, "name": {}})


def of_policy(shapes: Any, learned: str = "", **raw: Any) -> ToolEntry:
    return catalog.list_tool(server(base=Policy(shapes=shapes)), tool(**raw), "search", None, learned)


@pytest.mark.parametrize(
    ("shapes", "schema", "learned", "expected"),
    [
        ("learned", SCHEMA, "Returns {x}", ("Returns {id, name}", "outputSchema")),
        ("learned", {"type": "object"}, "Returns {x}", ("Returns {x}", "earlier results")),
        ("learned", None, "Returns {x}", ("Returns {x}", "earlier results")),
        ("learned", None, "", ("", "")),
        ("declared", None, "Returns {x}", ("", "")),
        ("declared", SCHEMA, "Returns {x}", ("Returns {id, name}", "outputSchema")),
        ("off", SCHEMA, "Returns {x}", ("", "")),
    ],
)
def test_the_declared_shape_is_shown_else_the_learned_one(
    shapes: str, schema: Any, learned: str, expected: tuple[str, str]
):
    """As the setting says; the last line of the description."""
    raw = {"description": "Searches."} | ({} if schema is None else {"outputSchema": schema})
    entry = of_policy(shapes, learned, **raw)
    assert (entry.returns, entry.returns_from) == expected
    assert entry.listed["description"] == "\n".join(filter(None, ["Searches.", expected[0]]))
    assert of_policy(shapes, learned, **{**raw, "description": ""}).listed["description"] == expected[0]


def test_a_tool_in_sync_mode_is_listed_without_a_shape():
    """It is listed as it is, with its output schema."""
    entry = list_tool(server(base=Policy(mode="sync")), tool(outputSchema=SCHEMA, description="Searches."))
    assert entry.listed["description"] == "Searches."
    assert entry.listed["outputSchema"] == SCHEMA
