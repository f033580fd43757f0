"""References: what counts as one, what takes its place, and what is left alone."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core.reference_values import substituting
from asyncfc_mcp.core.references import MAX_REFERENCES, Found, find, is_reference
from asyncfc_mcp.errors import (
    ArgumentsTooLarge,
    NestedTooDeeply,
    PathMissing,
    PathUnreadable,
    ReferenceFailed,
    TooManyReferences,
    ValueUnfit,
)
from asyncfc_mcp.slices import at_once

MIB = 1 << 20


def text(*parts: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": part} for part in parts], **more}


def structured(value: Any, *parts: str) -> dict[str, Any]:
    return text(*parts, structuredContent=value)


def image(data: str = "aW1n") -> dict[str, Any]:
    return {"type": "image", "data": data, "mimeType": "image/png"}


PAGE = structured({"items": [{"id": 7, "tags": ["x", "y"]}, {"id": 8}], "odd key": {"x": 1}, "title": "T"}, "page")
RESULTS: dict[str, dict[str, Any]] = {"f3": PAGE, "my-name": text("hello"), "n": structured({"result": 5}, "5")}


def put(
    arguments: Any,
    results: dict[str, dict[str, Any]] | None = None,
    schema: dict[str, Any] | None = None,
    max_bytes: int = MIB,
) -> Any:
    """Substitute, with keys that are not the names."""
    known = RESULTS if results is None else results
    return at_once(
        substituting(
            arguments,
            lambda name: f"local/{name}" if name in known else None,
            lambda key: known[key.removeprefix("local/")],
            schema,
            max_bytes,
            lambda key: key.removeprefix("local/"),
        )
    )


def takes(sub: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": sub}}


def put_a(value: Any, result: dict[str, Any], sub: Any, **more: Any) -> Any:
    """The value of an argument `a` whose schema is `sub`; the future is f1."""
    return put({"a": value}, {"f1": result}, takes(sub), **more)["a"]


def known_of(*names: str) -> Any:
    return {name: name.upper() for name in names}.get


def outcome(*arguments: Any) -> tuple[Any, str]:
    """The value, or the text of our own error."""
    try:
        return put(*arguments), ""
    except ReferenceFailed as failed:
        return None, str(failed)


# --- what is a reference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("$f3.title", "T"),
        ("$f3.items[0].id", 7),
        ("$f3.items[-1].id", 8),
        ("$f3.items.1.id", 8),
        ("$f3.items.-1.id", 8),
        ('$f3["odd key"].x', 1),
        ("$f3['odd key'].x", 1),
        ("$f3['items'][0]['tags'][1]", "y"),
        ("${f:f3.title}", "T"),
        ("${f:f3.items[0]}", {"id": 7, "tags": ["x", "y"]}),
        ("$my-name", "hello"),
        ("${f:my-name}", "hello"),
        ("<${f:f3.title}|${f:f3.items[0].id}|${f:my-name}>", "<T|7|hello>"),
        ("${f:f3.items[0].tags} ", '["x","y"] '),
        ("${f:my-name}${f:my-name}", "hellohello"),
        ({"$future": "f3", "path": "items[0].id"}, 7),
        ({"$future": "f3", "path": ".items[0].id"}, 7),
        ({"$future": "f3", "path": "['odd key'].x"}, 1),
        ({"$future": "$f3", "path": "title"}, "T"),
        ({"$future": "my-name"}, "hello"),
        ({"$future": "my-name", "path": None}, "hello"),
        ({"$future": "my-name", "path": ""}, "hello"),
    ],
)
def test_every_written_form_gives_the_value(written: Any, value: Any) -> None:
    """Bare, braced, interpolated and object forms, with every kind of path, at any depth."""
    assert put(written) == value
    assert put({"x": [{"y": written}], "z": 1}) == {"x": [{"y": value}], "z": 1}
    assert is_reference([written], known_of("f3", "my-name"))


@pytest.mark.parametrize(
    "literal",
    [
        "$HOME", "$5", "$.store.book[0]", "$unknown", "$unknown.title", "${unknown}", "$", "$$", "echo $$", "cost $$5",
        "$$HOME", "$${HOME}", "$f3 and more", " $f3", "$f3\n", "$f3.", "$f3..title", "$f3[", "$f3[x]", "$f3[title]",
        "f3", "$F3", "$f33", "$f3-", "$my", "$my-names", "x$f3", "x$$f3", "${ f3 }", "${f:f3", "$ {f3}", "$(f3)",
        "${f:f3.items[}", "%{f3}", "$f3[1234567890123456789]", "$f3['x\"]", "\\$f33",
        {"$future": "nobody"}, {"$future": "f3", "path": "title", "more": 1}, {"$future": 3}, {"$future": None},
        {"$future": "not a name"}, {"$future": ""}, {"$f3": 1}, {"${f:f3.title}": "x"},
        None, True, 0, 1.5, [], {}, ["$", {"a": "$x"}],
    ],
)  # fmt: skip
def test_everything_else_arrives_as_it_is(literal: Any) -> None:
    """Anything but a reference to a known future reaches the tool unchanged, as the same object."""
    arguments = {"a": [literal]}
    assert put(arguments) is arguments
    assert not is_reference(arguments, known_of("f3", "my-name", "n"))


@pytest.mark.parametrize(
    ("written", "literal"),
    [
        ("$$f3", "$f3"),
        ("$$f3.items[0]", "$f3.items[0]"),
        ("$$$f3", "$$f3"),
        ("$${f:f3}", "${f:f3}"),
        ("$${f:f3.title}", "${f:f3.title}"),
        ("a $${f:f3} b", "a ${f:f3} b"),
        ("a $$${f:f3.title} b", "a $T b"),
        ("a $$$${f:f3.title} b", "a $${f:f3.title} b"),
        ("$$ $${f:f3.title} $$", "$$ ${f:f3.title} $$"),
        ("$$${f:f3.title}", "$T"),
        ("${f:f3.title}$$", "T$$"),
        ("$${HOME} ${f:f3.title} $$x", "$${HOME} T $$x"),
    ],
)
def test_dollars_are_an_escape_only_before_a_live_reference(written: str, literal: str) -> None:
    """`$$` gives `$` where a reference to a known future would follow, and is two dollars everywhere else."""
    assert put({"a": written}) == {"a": literal}


def test_an_escaped_reference_needs_no_future() -> None:
    """`$$f3` creates no dependency, though it must still be unescaped."""
    assert find({"a": "$$f3", "b": "$${f:f3}"}, known_of("f3")) == Found()
    assert not is_reference("$$f3", known_of("f3"))


def test_a_live_reference_inside_what_only_looks_like_a_path_is_found() -> None:
    """Quotes after an unknown name hide nothing."""
    assert put('${f:x["${f:f3.title}"]}') == '${f:x["T"]}'
    assert put('$x["${f:f3.title}"]') == '$x["T"]'


def test_keys_in_order_of_appearance_without_duplicates() -> None:
    """Dependencies are canonical keys, in reading order; a name and an ID of one future are one key."""
    known = {"f1": "K1", "one": "K1", "f2": "K2"}.get
    found = find({"a": ["$f2", {"b": "x${f:one}y${f:f2}"}], "c": {"$future": "f1"}, "$f1": 0}, known)
    assert found.keys == ("K2", "K1")
    assert found.names == {"f2": "K2", "one": "K1", "f1": "K1"}


def test_unknown_names_are_reported_where_a_forward_reference_may_be_meant() -> None:
    """Any form may be ahead of the call that takes the name, escaped or not; IDs and `${name}` never are."""
    arguments = [
        "$p.title",
        "$q",
        "$q",
        {"$future": "r"},
        "x ${f:s}",
        "${f:t}",
        "${n} in ${f:0:3}",
        "$$u",
        "$f9",
        "$5",
        "$v and",
        "$" + "w" * 65,
    ]
    assert find(arguments, known_of()).unknown == ("p", "q", "r", "s", "t", "u")


def test_an_object_that_is_no_reference_is_searched() -> None:
    """Only an object of exactly the two keys is a reference; any other is an object with arguments in it."""
    assert put({"$future": "f3", "other": "$f3.title"}) == {"$future": "f3", "other": "T"}
    assert put({"$future": "nobody", "path": "$f3.title"}) == {"$future": "nobody", "path": "T"}


def test_a_name_in_a_key_is_not_looked_at() -> None:
    """Keys of objects are the caller's own."""
    assert put({"$f3": "$f3.title", "${f:f3}": 1}) == {"$f3": "T", "${f:f3}": 1}


# --- values ----------------------------------------------------------------------------------------------------------

STRING = {"type": "string"}
ARRAY = {"type": "array"}
OBJECT = {"type": "object"}
INTEGER = {"type": "integer"}


@pytest.mark.parametrize(
    ("result", "sub", "value"),
    [
        # text, where text is wanted
        (text("a", "b"), STRING, "a\nb"),
        (text(), STRING, ""),
        (text(""), STRING, ""),
        (structured({"x": 1}, "shown"), STRING, "shown"),
        (structured({"x": 1}), STRING, '{"x":1}'),
        (structured({"x": "é"}), STRING, '{"x":"é"}'),
        (structured({"result": "plain"}, "shown otherwise"), STRING, "plain"),
        (structured({"result": ["a", "b"]}, "a", "b"), STRING, "a\nb"),
        (structured({"result": 5}), STRING, "5"),
        ({"content": [{"type": "resource", "resource": {"uri": "x:", "text": "body"}}]}, STRING, "body"),
        # structured content, else the text as JSON, where it is not
        (structured({"x": 1}, "shown"), OBJECT, {"x": 1}),
        (structured({"result": [1]}, "1"), ARRAY, [1]),
        (structured({"result": 5}, "5"), INTEGER, 5),
        (structured({"result": None}), {"type": "null"}, None),
        (structured([1, 2]), ARRAY, [1, 2]),
        (text("[1, 2]"), ARRAY, [1, 2]),
        (text(" 5 "), INTEGER, 5),
        (text("5.0"), INTEGER, 5.0),
        (text("5"), {"type": "number"}, 5),
        (text("true"), {"type": "boolean"}, True),
        (text('{"x":', "1}"), OBJECT, {"x": 1}),
        (structured({"result": '{"x": 1}'}, '{"x": 1}'), OBJECT, {"x": 1}),
        (structured({"count": 5}, "5"), INTEGER, 5),
        # a real {"result": …}
        (structured({"result": [1]}), OBJECT, {"result": [1]}),
        (structured({"result": {"x": 1}}), OBJECT, {"x": 1}),
        # of a wrong type: the schema of the target says so later, in its own words
        (structured({"x": 1}), INTEGER, {"x": 1}),
        (text("[]"), INTEGER, []),
        # several types
        (structured({"result": 5}, "5"), {"type": ["integer", "string"]}, 5),
        (structured({"x": 1}, "shown"), {"anyOf": [STRING, {"type": "null"}]}, "shown"),
        (structured({"x": 1}, "shown"), {"oneOf": [STRING, OBJECT]}, {"x": 1}),
        (structured({"result": [1]}, "1"), {"type": ["string", "object"]}, "1"),
        (text("5"), {"anyOf": [INTEGER, {"type": "null"}]}, 5),
        (text("5"), {"type": ["string", "integer"]}, "5"),
        # nothing known
        (structured({"x": 1}, "shown"), {}, {"x": 1}),
        (structured({"result": 5}, "5"), True, 5),
        (text("[1]"), {}, "[1]"),
        # binary
        ({"content": [image()]}, STRING, "aW1n"),
        ({"content": [image()]}, {}, "aW1n"),
        ({"content": [{"type": "audio", "data": "YQ==", "mimeType": "audio/wav"}]}, STRING, "YQ=="),
        ({"content": [{"type": "resource", "resource": {"uri": "x:", "blob": "YmxvYg=="}}]}, STRING, "YmxvYg=="),
        ({"content": [image(), *text("caption")["content"]]}, STRING, "caption"),
        ({"content": [image(), *text("c")["content"]]}, {**STRING, "contentEncoding": "base64"}, "aW1n"),
        ({"content": [image(), *text("c")["content"]]}, {**STRING, "format": "byte"}, "aW1n"),
        ({"content": [image(), *text("c")["content"]]}, {"anyOf": [{**STRING, "format": "binary"}]}, "aW1n"),
        (text("aGk="), {**STRING, "contentEncoding": "base64"}, "aGk="),
    ],
)  # fmt: skip
def test_the_value_has_the_type_that_the_target_asks_for(result: dict[str, Any], sub: Any, value: Any) -> None:
    """Text for strings, structured content or JSON text for the rest, base64 for binary content, wrappers taken off."""
    before = copy.deepcopy(result)
    for written in ("$f1", "${f:f1}", {"$future": "f1"}):
        given = put_a(written, result, sub)
        assert given == value
        assert type(given) is type(value)
    assert result == before


@pytest.mark.parametrize(
    ("result", "path", "sub", "value"),
    [
        (structured({"x": {"y": "s"}}), ".x.y", STRING, "s"),
        (structured({"x": {"y": 1}}), ".x", STRING, '{"y":1}'),
        (structured({"x": 5}), ".x", STRING, "5"),
        (structured({"x": "5"}), ".x", INTEGER, 5),
        (structured({"x": "five"}), ".x", INTEGER, "five"),
        (structured({"x": "5"}), ".x", {}, "5"),
        (structured({"x": None}), ".x", {}, None),
        (structured({"result": [{"id": 1}]}), "[0].id", INTEGER, 1),
        (structured({"result": [{"id": 1}]}), ".result[0].id", INTEGER, 1),
        (structured({"result": {"x": 2}}), ".x", INTEGER, 2),
        (structured({"result": '{"x": 2}'}), ".x", INTEGER, 2),
        (structured({"result": 1, "more": 2}), ".more", INTEGER, 2),
        (text('{"x": [1, 2]}'), ".x[1]", INTEGER, 2),
        (text('{"result": 3}'), ".result", INTEGER, 3),
        (text('"{\\"x\\": 4}"'), ".x", INTEGER, 4),
        (structured({"0": "zero"}), ".0", STRING, "zero"),
        (structured({'a"b': 1, "c\\d": 2, "e'f": 3}), '["a\\"b"]', INTEGER, 1),
        (structured({'a"b': 1, "c\\d": 2, "e'f": 3}), '["c\\\\d"]', INTEGER, 2),
        (structured({'a"b': 1, "c\\d": 2, "e'f": 3}), "['e\\'f']", INTEGER, 3),
        (structured({"größe": 1, "a-b": 2}), ".größe", INTEGER, 1),
        (structured({"größe": 1, "a-b": 2}), ".a-b", INTEGER, 2),
        (structured({"": 1}), "['']", INTEGER, 1),
        (text('{"id": 1}', '{"id": 2}'), "[1].id", INTEGER, 2),
        (text('{"x":', "[1, 2]}"), ".x[1]", INTEGER, 2),
    ],
)  # fmt: skip
def test_a_path_selects_from_structured_content_or_json_text(
    result: dict[str, Any], path: str, sub: Any, value: Any
) -> None:
    """A path starts at the tool's return value, also where the server's framework wrapped it."""
    assert put_a(f"$f1{path}", result, sub) == value
    assert put_a({"$future": "f1", "path": path}, result, sub) == value
    as_text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if sub != INTEGER:
        assert put_a(f"<${{f:f1{path}}}>", result, STRING) == f"<{as_text}>"


def test_positions_are_looked_up_through_refs_combinations_and_patterns() -> None:
    """The type asked for is found at any depth, however the schema spells it."""
    schema = {
        "$defs": {"node": {"type": "object", "properties": {"n": INTEGER, "next": {"$ref": "#/$defs/node"}}}},
        "allOf": [{"properties": {"tree": {"$ref": "#/$defs/node"}}}],
        "properties": {
            "tree": {},
            "list": {"type": "array", "prefixItems": [STRING], "items": INTEGER},
            "any": {"anyOf": [{"type": "array", "items": INTEGER}, {"type": "null"}]},
            "map": {"type": "object", "additionalProperties": {"type": "array"}},
        },
        "patternProperties": {"^n_": INTEGER},
        "additionalProperties": INTEGER,
    }
    arguments = {
        "tree": {"next": {"next": {"n": "$n"}}},
        "list": ["$n", "$n"],
        "any": ["$n"],
        "map": {"k": "$l"},
        "n_x": "$n",
        "else": "$n",
    }
    assert put(arguments, {"n": text("5"), "l": text("[1]")}, schema) == {
        "tree": {"next": {"next": {"n": 5}}},
        "list": ["5", 5],
        "any": [5],
        "map": {"k": [1]},
        "n_x": 5,
        "else": 5,
    }


def test_nothing_given_is_changed_and_only_what_must_be_is_copied() -> None:
    """Arguments and results are shared with others; what holds no reference is not even copied."""
    shared = {"k": "$f3.title"}
    arguments = {"same": {"big": [1, 2]}, "twice": [shared, shared], "v": "$f3"}
    before, result_before = copy.deepcopy(arguments), copy.deepcopy(PAGE)
    given = put(arguments)
    assert given == {"same": {"big": [1, 2]}, "twice": [{"k": "T"}, {"k": "T"}], "v": PAGE["structuredContent"]}
    assert given["same"] is arguments["same"]
    assert list(given) == list(arguments)
    assert (arguments, PAGE) == (before, result_before)


def test_a_result_is_asked_for_once() -> None:
    """A value is fetched and parsed once, for any number of references."""
    asked: list[str] = []

    def value_of(key: str) -> dict[str, Any]:
        asked.append(key)
        return text('{"x": 1}')

    at_once(substituting(["$f1.x", "$f1", "a${f:f1}"], known_of("f1"), value_of, None, MIB, str))
    assert asked == ["F1"]


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "missing", "there"),
    [
        (".nope", "nope", 'the top level has the keys "items", "odd key", "title"'),
        (".items[5].id", "items[5]", "items is an array of length 2"),
        (".items[-3]", "items[-3]", "items is an array of length 2"),
        (".items.first", "items.first", "items is an array of length 2"),
        (".items[1].tags[0]", "items[1].tags", 'items[1] has the keys "id"'),
        (".title.x", "title.x", "title is a string"),
        (".items[0].id.x", "items[0].id.x", "items[0].id is an integer"),
        ("['odd key']['no key']", '["odd key"]["no key"]', '["odd key"] has the keys "x"'),
    ],
)
def test_a_missing_path_names_what_is_there(path: str, missing: str, there: str) -> None:
    """The error says which future, how far the path led, and which keys or how many elements there are."""
    with pytest.raises(PathMissing) as failed:
        put({"a": f"$f3{path}"})
    message = str(failed.value)
    assert f"f3 has no {missing}; {there}; " in message
    assert f"write $$f3{path}" in message
    assert isinstance(failed.value, ReferenceFailed)


def test_a_long_list_of_keys_is_cut() -> None:
    """A message is read by a model and paid for in tokens."""
    with pytest.raises(PathMissing, match=r'"k19" and 980 more') as failed:
        put("$f1.x", {"f1": structured({f"k{i}": 0 for i in range(1000)})})
    assert len(str(failed.value)) < 1500


@pytest.mark.parametrize(
    ("result", "written", "sub", "found"),
    [
        (text("no json " * 40), "$f1", ARRAY, "must be array, but f1 has text that is not JSON: \"no json no"),
        (text("no json"), "$f1.x", STRING, "must be a part of structured content or of JSON text, but f1 has text"),
        (text("NaN"), "$f1", {"type": "number"}, "must be number, but f1 has text that is not JSON"),
        (text(), "$f1", {"type": ["integer", "null"]}, "must be integer or null, but f1 is empty"),
        ({}, "$f1.x", {}, "but f1 is empty"),
        ({"content": [image(), image()]}, "$f1", STRING, "must be text, but f1 has no text or structured"),
        ({"content": [image()]}, "$f1", OBJECT, "must be object, but f1 has no text or structured"),
        ({"content": [image()]}, "$f1", ARRAY, "content, only image"),
        ({"content": [{"type": "resource_link", "uri": "x:"}]}, "$f1", STRING, "only resource_link"),
        ({"content": [image()] * 2}, "$f1", {**STRING, "contentEncoding": "base64"}, "has 2 of them, and one"),
        ({"content": [{"type": 5}, 7, None]}, "$f1", STRING, "only unknown"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_take_the_type_is_refused(
    result: dict[str, Any], written: str, sub: Any, found: str
) -> None:
    """The error says what was expected and what the future has instead, shortly."""
    with pytest.raises(ValueUnfit) as failed:
        put_a(written, result, sub)
    assert found in str(failed.value)
    assert len(str(failed.value)) < 300


@pytest.mark.parametrize("path", ["items[", "a..b", "[x]", " items", 5, ["items"], {}, "items[0]x"])
def test_an_unreadable_path_of_the_object_form_is_refused(path: Any) -> None:
    """The object form is never written by accident, so a path that is none is an error and not a literal."""
    arguments = {"a": {"$future": "f3", "path": path}}
    assert find(arguments, known_of("f3")).keys == ("F3",)
    with pytest.raises(PathUnreadable, match="path of"):
        put(arguments)


def test_arguments_are_bounded_to_the_byte() -> None:
    """`max_bytes` counts the canonical JSON of the arguments in UTF-8, after substitution."""
    arguments = {"a": "$f1", "b": ["<${f:f1}>", "x\n"], "c": {"$future": "f1"}, "d": "$$f1"}
    results = {"f1": text('é"' * 100)}
    given = put(arguments, results)
    size = len(json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode())
    assert put(arguments, results, max_bytes=size) == given
    with pytest.raises(ArgumentsTooLarge, match="max_argument_bytes"):
        put(arguments, results, max_bytes=size - 1)


def test_arguments_without_references_have_no_bound() -> None:
    """Arguments of the caller are unbounded, with or without escapes."""
    assert put({"a": "x" * 100, "b": "$$f3"}, max_bytes=10) == {"a": "x" * 100, "b": "$f3"}


@pytest.mark.parametrize("arguments", [{"a": "${f:f1}" * 1000}, ["$f1"] * 1000, ["x${f:f1}"] * 1000])
def test_a_large_value_used_a_thousand_times_is_never_built(arguments: Any) -> None:
    """The bound is checked before anything is put together: 5 MB times 1000 would be 5 GB."""
    with pytest.raises(ArgumentsTooLarge):
        put(arguments, {"f1": text("x" * (5 * MIB))}, max_bytes=8 * MIB)


def nested(depth: int, leaf: Any) -> Any:
    for _ in range(depth):
        leaf = [leaf]
    return leaf


@pytest.mark.parametrize("leaf", ["x", "$HOME", "$f3.title"])
def test_deep_nesting_never_overflows_the_stack(leaf: str) -> None:
    """100,000 levels pass where there is nothing to replace, and are refused in words where there is."""
    arguments = nested(100_000, leaf)
    if leaf == "$f3.title":
        assert find(arguments, known_of("f3")).keys == ("F3",)
        with pytest.raises(NestedTooDeeply):
            put(arguments)
    else:
        assert put(arguments) is arguments


@pytest.mark.parametrize("schema", [None, takes(ARRAY), takes(STRING)])
def test_a_deep_value_never_overflows_the_stack(schema: Any) -> None:
    """Results of tools do not either, structured or as text."""
    for result in (
        structured(nested(100_000, 1)),
        text("[" * 100_000 + "]" * 100_000),
        structured({"result": "[" * 99_999}),
    ):
        for written in ("$f1", "${f:f1}!", "$f1[0]", {"$future": "f1", "path": "[0]"}):
            assert len(outcome({"a": written}, {"f1": result}, schema)[1]) < 1000


def test_a_deep_path_in_the_object_form_is_refused() -> None:
    """A path that is a tree is no path."""
    with pytest.raises(ReferenceFailed):
        put({"$future": "f3", "path": nested(100_000, 1)})


def test_messages_can_always_be_sent() -> None:
    """Lone surrogates, which JSON allows and UTF-8 does not, never get into an error's text raw."""
    for written in ("$f1['\ud800']", {"$future": "f1", "path": "['\ud800']"}):
        with pytest.raises(PathMissing) as failed:
            put(written, {"f1": structured({"\udfff": 1, "x": 2})})
        assert str(failed.value).encode()
    with pytest.raises(ValueUnfit) as unfit:
        put_a("$f1", text("\ud800"), ARRAY)
    assert str(unfit.value).encode()


@pytest.mark.parametrize(
    "hostile",
    [
        "$" * 200_000,
        "$" * 100_000 + "{f:f3",
        "${" * 100_000,
        "${f:" * 100_000,
        "${f:" + "a" * 200_000,
        "$f3" + "[0" * 100_000,
        "$f3" + ".a" * 100_000 + "!",
        '$f3["' + "\\" * 200_000,
        '${f:f3["' * 50_000,
        "${f:f3['${f:f3[\"" * 30_000,
        '${f:x["\\"' * 40_000,
    ],
    ids=range(11),
)
@pytest.mark.timeout(10)
def test_no_text_is_slow_to_read(hostile: str) -> None:
    """Reading is linear in the length of the text."""
    assert put([hostile]) == [hostile]


# --- properties ------------------------------------------------------------------------------------------------------

NAMES = ("f1", "a-b", "x")
LIKELY = ("$f1", "${f:f1}", "${f1}", "$$", "${f:a-b.x}", "$x[0]", '["k"]', ".k", "[-1]", "$nope", "${f:f1['a']}", "é")
PIECES = st.sampled_from((*"$ {}[]().\"'\\f123ab-x\n", *LIKELY))
TEXTS = st.lists(PIECES, max_size=12).map("".join)
JSON = st.recursive(
    st.one_of(TEXTS, st.integers(-5, 5), st.none(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(TEXTS, inner, max_size=3),
        st.fixed_dictionaries({"$future": st.one_of(st.sampled_from(NAMES), inner)}, optional={"path": inner}),
    ),
    max_leaves=10,
)
BLOCKS = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}),
    st.just(image()),
    st.fixed_dictionaries(
        {"type": st.just("resource"), "resource": st.dictionaries(st.sampled_from(["text", "blob"]), TEXTS)}
    ),
    JSON,
)
RESULT = st.fixed_dictionaries(
    {}, optional={"content": st.lists(BLOCKS, max_size=3), "structuredContent": JSON, "isError": st.booleans()}
)
SCHEMAS = st.sampled_from(
    [
        None,
        {},
        takes(STRING),
        takes(ARRAY),
        takes({"type": ["integer", "string"]}),
        takes({"$ref": "#"}),
        {"additionalProperties": {"anyOf": [{"type": "number"}, {"$ref": "#/nowhere"}]}},
        {"properties": 5, "type": "object"},
        {"allOf": [{"$ref": "#"}], "anyOf": [{"$ref": "#/allOf/0"}]},
        {"patternProperties": {"(": {}, "a": {"type": "integer"}}},
    ]
)


@settings(max_examples=400, deadline=None)
@given(JSON, st.dictionaries(st.sampled_from(NAMES), RESULT), SCHEMAS, st.sampled_from([0, 30, 10_000]))
def test_no_arguments_and_no_results_raise_anything_but_our_own_errors(
    arguments: Any, results: dict[str, Any], schema: Any, max_bytes: int
) -> None:
    """Any arguments and results give a value or a worded error, and inputs are never changed."""
    before = copy.deepcopy((arguments, results))
    known = known_of(*results)
    found = find(arguments, known)
    assert set(found.keys) <= {name.upper() for name in results}
    assert not set(found.unknown) & results.keys()
    given, error = outcome({"a": arguments}, results, schema, max_bytes)
    if error:
        assert found.keys
        assert error.encode()
    elif found.keys:
        assert len(json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()) <= max_bytes
    elif "$$" not in repr(arguments):
        assert given == {"a": arguments}
    assert (arguments, results) == before


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS)
def test_what_a_future_gave_is_never_looked_at_again(written: str, value: str) -> None:
    """Text in a value that looks like a reference stays text: it makes no difference when the value is put in."""
    mark = "\x00"

    def given(value: str) -> Any:
        result = structured({"k": value, "a": value, "x": [value]}, f"-{value}")
        return outcome({"a": written}, dict.fromkeys(NAMES, result), takes(STRING))[0]

    marked = given(mark)
    if marked is not None:
        as_json = json.dumps(value, ensure_ascii=False)[1:-1]
        assert given(value) == {"a": marked["a"].replace("\\u0000", as_json).replace(mark, value)}


LIVE = re.compile(
    r"""(\$+)(\{f:(?:f1|a-b|x)(?:\.[\w-]+|\[-?[0-9]{1,18}\]|\["(?:[^"\\]|\\.)*"\]|\['(?:[^'\\]|\\.)*'\])*\})""",
    re.DOTALL,
)
BARE = re.compile(
    r"""\$+(?:f1|a-b|x)(?:\.[\w-]+|\[-?[0-9]{1,18}\]|\["(?:[^"\\]|\\.)*"\]|\['(?:[^'\\]|\\.)*'\])*""", re.DOTALL
)


def escaped(literal: str) -> str:
    """Return a text with escapes so that it is passed unchanged."""
    if BARE.fullmatch(literal):
        return "$" + literal
    return LIVE.sub(lambda match: match[1] * 2 + match[2], literal)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_every_text_can_be_written_so_that_it_arrives(literal: str) -> None:
    """Escaping is complete: every text can be expressed, with any names in use."""
    results = dict.fromkeys(NAMES, text("VALUE"))
    assert put([escaped(literal)], results) == [literal]
    assert not is_reference(escaped(literal), known_of(*NAMES))


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_without_futures_nothing_changes(arguments: Any) -> None:
    """A scope without futures is a bridge that is not there."""
    assert put(arguments, {}) is arguments


def test_references_are_bounded_and_text_that_has_many_names_is_not():
    """10,000 references of a call are looked up, each name once; so many words with a dollar sign are just data."""
    asked: list[str] = []

    def known(name: str) -> str | None:
        asked.append(name)
        return f"local/{name}" if name == "f1" else None

    text = "${f:f1}" * MAX_REFERENCES
    assert find({"a": text}, known).names == {"f1": "local/f1"}
    assert asked == ["f1"]
    with pytest.raises(TooManyReferences, match="10000"):
        find({"a": text, "b": "$f1"}, known)
    with pytest.raises(TooManyReferences):
        find({"a": "${f:zz}" * (MAX_REFERENCES + 1)}, known)
    words = [f"$T{n}" for n in range(2 * MAX_REFERENCES)]
    assert find({"a": words}, known) == Found()
    assert find({"a": words[:3]}, known).unknown == ("T0", "T1", "T2")


def test_a_reference_has_a_bounded_path():
    """A longer string is text."""
    for written in ("$f1" + ".a" * 5000, "${f:f1" + ".a" * 257 + "}"):
        assert not find({"a": written}, lambda name: name).names
    for written in ("$f1" + ".a" * 1000, "${f:f1" + ".a" * 256 + "}"):
        assert find({"a": written}, lambda name: name).names
