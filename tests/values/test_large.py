"""Large values: measured without writing them, and read and written in slices with the same outcome."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.jsonrpc.codec import format_message, parse_message
from asyncfc_mcp.slices import at_once
from asyncfc_mcp.values.large import Weight, parsing, weighing, writing
from asyncfc_mcp.values.text import without_surrogates
from tests.support.json_values import JSON, nested


def weight(value: Any) -> Weight:
    return at_once(weighing(value))


@given(st.recursive(st.text(max_size=50), lambda inner: st.lists(inner, max_size=5), max_leaves=20))
@settings(deadline=None)
def test_the_size_of_text_is_known_without_writing_it(value: Any):
    """In bytes, for any alphabet: the bound on stored results is one of memory, not of characters."""
    escaped = sum(json.dumps(value, ensure_ascii=False).count(mark) for mark in ("\\", "\\u"))
    real = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    assert real - 6 * escaped <= weight(value).size <= real * 1.25 + 8


@given(JSON)
@settings(deadline=None)
def test_a_size_can_be_estimated_for_every_value(value: Any):
    """Never an exception, and never nothing."""
    assert weight(value).size > 0
    assert weight([value, value]).size > weight(value).size


MANY: dict[str, str] = {
    "empty lists": "[" + "[]," * 50_000 + "1]",
    "empty objects": "[" + "{}," * 50_000 + "1]",
    "rows": json.dumps([{"id": number, "name": f"n{number}", "on": True, "x": 1.5} for number in range(5_000)]),
    "numbers": json.dumps(list(range(50_000))),
    "short texts": json.dumps([f"t{number}" for number in range(50_000)]),
    "one text": json.dumps("x" * 1_000_000),
    "one wide text": json.dumps("\u20ac" * 500_000, ensure_ascii=False),
    "keys": json.dumps({f"key{number}": None for number in range(20_000)}),
}


@pytest.mark.parametrize("kind", MANY)
def test_what_a_value_holds_is_near_the_memory_that_it_takes(kind: str):
    """Once 24 times as much was held as was counted."""
    parse_message(b'{"jsonrpc":"2.0","id":1,"result":{}}')
    line = b'{"jsonrpc":"2.0","id":1,"result":{"a":' + MANY[kind].encode() + b"}}"
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        message = parse_message(line)
        format_message(message)  # wide texts then keep their UTF-8
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held / 2 <= weight(message).held <= held * 2


def test_the_size_of_a_deeply_nested_value_is_estimated_without_recursion():
    """Deeper than Python recurses."""
    assert weight(nested(50_000)).size > 50_000


def test_text_that_cannot_be_carried_costs_a_list_no_other_entry():
    """One server's lone surrogate becomes a replacement character; what is in order stays the very same."""
    good = {"name": "a", "title": "\U0001f600 \u00e9", "n": [1, None]}
    assert without_surrogates(good) is good
    assert without_surrogates({"name": "a\ud800b", "\udfff": ["\U0001f600"]}) == {
        "name": "a\ufffdb",
        "\ufffd": ["\U0001f600"],
    }


@settings(deadline=None)
@given(JSON, st.sampled_from([None, 1]), st.integers(1, 300))
def test_what_is_read_and_written_in_slices_is_the_same(value: Any, indent: int | None, times: int):
    """For any nesting, spacing and repetition; other texts are left to the ordinary parser."""
    whole = {"v": [value] * times, "w": value}
    text = json.dumps(whole, indent=indent).encode()
    try:
        assert at_once(parsing(text)) == whole
    except ValueError:
        assert b"\\ud" in text
    assert json.loads(b"".join(at_once(writing(whole)))) == whole


LONG = ["x" * 500_000, "\u00e9\U0001f600" * 200_000, '\\"\n' * 200_000, "\x01" * 200_000]


@pytest.mark.parametrize("text", LONG, ids=["plain", "wide", "escaped", "control"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_long_text_is_read_and_written_in_pieces(text: str, ascii_only: bool):
    """Cut neither within a character nor within an escape."""
    data = json.dumps([text, {text[:1000]: 1}], ensure_ascii=ascii_only).encode()
    assert at_once(parsing(data)) == [text, {text[:1000]: 1}]
    pieces = at_once(writing([text]))
    assert max(map(len, pieces)) < 1_000_000
    assert json.loads(b"".join(pieces)) == [text]


@pytest.mark.parametrize(
    "text",
    [b"", b"[", b"[1", b"[1,", b"[1,]", b"{", b'{"a"', b'{"a":}', b'{"a":1,}', b"[1 2]", b'["a', b'["a\\"', b"1 2",
     b"[]]", b'{"a":1 "b":2}', b"[1],", b"{1:2}", b"[nul]", b'["a\nb"]', b"{,}", b"[,]", b'["\\x"]', b"[}", b"{]",
     b'["\\u12', b"[" * 5000 + b"]" * 5000, b'["' + b"x" * 200_000],
)  # fmt: skip
def test_what_is_no_json_is_refused_in_slices_too(text: bytes):
    """Also what breaks off, and what is nested without end."""
    with pytest.raises(ValueError):  # noqa: PT011
        at_once(parsing(text))


@given(JSON, st.integers(1, 40))
@settings(deadline=None)
def test_lone_surrogates_are_parsed_in_slices(value: Any, times: int):
    """Parsing the whole text with the slower parser would block."""
    value = [value, {"half \ud800": "\udfff" * 5_000}] * times
    text = b"".join(at_once(writing(value)))
    assert at_once(parsing(text)) == value


@pytest.mark.parametrize(
    "text", [b"[NaN]", b"[-Infinity]", b'["\x01"]', b'["\\ud80"]', b"[01]", b"[" + b"1" * 4400 + b"]"]
)
def test_what_is_no_json_is_still_refused(text: bytes):
    """By both parsers."""
    with pytest.raises(ValueError, match=r"."):
        at_once(parsing(text))
