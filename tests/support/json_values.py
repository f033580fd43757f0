"""JSON values and messages of any content, for property tests."""

from typing import Any

from hypothesis import strategies as st

from asyncfc_mcp.jsonrpc.codec import Message

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
"""Everything that a Python string can hold, lone surrogates included."""


NUMBERS = st.integers() | st.integers(2**63, 2**200) | st.floats(allow_nan=False, allow_infinity=False)


JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


IDS = st.integers() | TEXT


OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)


MESSAGES = st.one_of(
    st.builds(lambda i, m, p: {"jsonrpc": "2.0", "id": i, "method": m, "params": p}, IDS, TEXT, OBJECTS),
    st.builds(lambda m, p: {"jsonrpc": "2.0", "method": m, "params": p}, TEXT, OBJECTS),
    st.builds(lambda m: {"jsonrpc": "2.0", "method": m}, TEXT),
    st.builds(lambda i, r: {"jsonrpc": "2.0", "id": i, "result": r}, IDS, OBJECTS),
    st.builds(
        lambda i, c, d: {"jsonrpc": "2.0", "id": i, "error": {"code": c, "message": "no", "data": d}},
        st.none() | IDS,
        st.integers(),
        JSON,
    ),
)


def nested(depth: int) -> Message:
    """A result nested this many arrays deep."""
    value: Any = "core"
    for _ in range(depth):
        value = [value]
    return {"jsonrpc": "2.0", "id": 1, "result": {"value": value}}
