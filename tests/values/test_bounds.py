"""Messages of more values than can be parsed in a moment are refused before they are parsed."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.jsonrpc.codec import MalformedMessage, parse_from_server, parse_message
from asyncfc_mcp.values.bounds import has_more_values
from tests.support.cpu_time import least_cpu_s

values = st.recursive(
    st.none() | st.integers() | st.text('a",[{\\', max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text('k"\\[', max_size=3), inner, max_size=6),
    max_leaves=40,
)


def count(value: Any) -> int:
    """Values in a JSON text, as its marks count them: one for each opening, one for each further element."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return 1 + max(len(value) - 1, 0) + sum(map(count, parts))
    return 0


@settings(deadline=None)
@given(values, st.integers(0, 30))
def test_values_are_counted_and_texts_are_not(value: Any, most: int):
    """Brackets, commas, quotes and backslashes within strings have no effect."""
    data = json.dumps(value).encode()
    assert has_more_values(data, most) == (len(data) > 2 * most and count(value) > most)


def test_a_slice_may_end_anywhere(monkeypatch: pytest.MonkeyPatch):
    """Also within an escape."""
    data = json.dumps(['\\"', "[,{", '\\\\",', {"a\\": [1, 2]}] * 5).encode()
    for size in range(1, 40):
        monkeypatch.setattr("asyncfc_mcp.values.bounds._SLICE", size)
        assert not has_more_values(data, 35)
        assert has_more_values(data, 34)


MANY = {
    "arrays": b"[],",
    "objects": b"{},",
    "numbers": b"1,",
    "texts": b'"",',
    "texts with backslashes": rb'"\\",',
    "nested": b"[",
}


@pytest.mark.parametrize("many", MANY.values(), ids=MANY)
@pytest.mark.parametrize("parse", [parse_message, parse_from_server], ids=["client", "server"])
def test_too_many_are_refused_at_once(many: bytes, parse: Any):
    """Parsing these took 5 to 20 s."""
    data = b'{"jsonrpc":"2.0","id":7,"result":{"a":[' + many * 10_000_000 + b"1]}}"
    answers: list[object] = []

    def parse_once() -> None:
        try:
            answers[:] = parse(data)
        except MalformedMessage as exc:
            answers[:] = [exc]

    assert least_cpu_s(parse_once, 1) < 1
    [answer] = answers
    assert isinstance(answer, MalformedMessage)
    assert "values" in str(answer)
    if parse is parse_from_server:  # the call ends, and all others go on
        assert answer.ends is not None
        assert answer.ends["id"] == 7


def test_large_texts_are_no_many_values():
    """A table in CSV, a file of source code, JSON within JSON."""
    for text in ("1,2,3\n" * 2_000_000, "f(a, [b], {c})\n" * 1_000_000, json.dumps([{"a": "b"}] * 500_000)):
        message = {"jsonrpc": "2.0", "id": 7, "result": {"content": [{"type": "text", "text": text}]}}
        data = json.dumps(message).encode()
        assert parse_message(data) == message
        assert parse_from_server(data) == [message]
