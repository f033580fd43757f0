"""Kinds and IDs of messages, of which the thin process parses no more than it has to."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.jsonrpc.codec import format_message
from asyncfc_mcp.thin.messages import EDGE_BYTES, WHOLE_BYTES, Edges, Lines, Message, of_daemon, of_host

IDS = st.integers(-(2**53), 2**53) | st.text(max_size=50)
METHODS = st.sampled_from(["tools/call", "ping", "notifications/progress", "elicitation/create"])
PARAMS = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(), max_size=3)


@st.composite
def messages(draw: st.DrawFn) -> tuple[dict[str, Any], Message]:
    """A message, and what is to be found in it."""
    message_id, method, params = draw(IDS), draw(METHODS), draw(PARAMS)
    match draw(st.sampled_from(["request", "notification", "result", "error"])):
        case "request":
            return {"jsonrpc": "2.0", "id": message_id, "method": method, "params": params}, Message(
                "request", message_id, method
            )
        case "notification":
            return {"jsonrpc": "2.0", "method": method, "params": params}, Message("notification", None, method)
        case "result":
            return {"jsonrpc": "2.0", "id": message_id, "result": params}, Message("result", message_id)
        case _:
            error = {"code": -1, "message": "x", "data": params}
            return {"jsonrpc": "2.0", "id": message_id, "error": error}, Message("error", message_id)


@given(messages())
def test_what_the_bridge_writes_is_known_by_its_beginning(given_: tuple[dict[str, Any], Message]):
    """Of both eras, whatever the message holds."""
    message, expected = given_
    assert of_daemon(format_message(message)) == expected
    assert of_daemon(format_message(message)[: 200 + len(json.dumps(message.get("id")))]) == expected


@given(messages(), st.permutations(["jsonrpc", "id", "method", "params", "result", "error"]), st.booleans())
def test_what_a_host_writes_is_known_in_any_order_of_keys(
    given_: tuple[dict[str, Any], Message], order: list[str], spaced: bool
):
    """Python's SDK begins with the method, TypeScript's ends with the ID."""
    message, expected = given_
    written = {key: message[key] for key in order if key in message}
    line = json.dumps(written, separators=None if spaced else (",", ":")).encode()
    found = of_host(line)
    assert (found.kind, found.id, found.method) == (expected.kind, expected.id, expected.method)


@settings(max_examples=60, deadline=None)
@given(messages(), st.sampled_from([("jsonrpc", "id", "method"), ("method",), ("jsonrpc", "method"), ()]))
def test_a_long_line_is_known_by_its_ends(given_: tuple[dict[str, Any], Message], first: tuple[str, ...]):
    """Where serializers put what is short."""
    message, expected = given_
    body = next(key for key in ("params", "result", "error") if key in message)
    if body == "params" and "method" not in first:
        first = (*first, "method")  # no serializer is known that writes the method after the parameters
    before = {key: message[key] for key in first if key in message}
    after = {key: message[key] for key in ("jsonrpc", "id") if key in message and key not in first}
    long = {**message[body], "data": "x" * (3 * EDGE_BYTES), "id": 5}
    line = json.dumps({**before, body: long, **after}).encode() + b"\n"
    edges = Edges(line[:WHOLE_BYTES])
    for start in range(WHOLE_BYTES, len(line), 1000):
        edges.add(line[start : start + 1000])
    found = edges.message()
    if isinstance(expected.id, str) and len(json.dumps(expected.id)) > 200:
        return
    assert (found.kind, found.id, found.method) == (expected.kind, expected.id, expected.method)


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"[{}]", b"{}", b"x", b"1", b'{"id":true,"method":"x"}', b'{"id":1}', b"[" * 100_000, b"\xff"]
)
def test_what_is_no_message_is_none(line: bytes):
    """It passes, and the daemon says what is wrong with it."""
    assert of_host(line).kind == "other"
    assert of_daemon(line).kind == "other"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, WHOLE_BYTES * 2), max_size=4), st.integers(4096, 2 * WHOLE_BYTES), st.booleans())
def test_no_byte_is_lost_between_lines(sizes: list[int], chunk: int, ended: bool):
    """However they arrive; short lines come whole, and long ones in marked pieces."""
    data = b"\n".join(b"x" * size for size in sizes) + (b"\n" if ended else b"")
    lines = Lines()
    pieces = [piece for start in range(0, len(data), chunk) for piece in lines.feed(data[start : start + chunk])]
    assert b"".join(piece.data for piece in pieces) + lines.rest() == data
    for piece, after in pairwise(pieces):
        assert piece.last is piece.data.endswith(b"\n") is after.first
    assert all(len(piece.data) <= WHOLE_BYTES + chunk for piece in pieces)
