"""Words of servers beside ours: one line, bounded, no control characters, and recognisable as theirs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.quotation import block, quoted, said

NASTY = st.text(st.sampled_from("a \"'\n\r\t\x1b[31m\x07\x9b\x85\u2028\u2029\u202e\u200b\x00]\\PX^_;")) | st.text()


@given(NASTY)
def test_what_a_server_says_is_one_bounded_line(text: str):
    """For any content; and a text cannot close its own quotation."""
    line = said(text, 50)
    assert len(line) <= 50
    assert line.isprintable()
    assert quoted(text)[1:-1].count('"') == 0


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("half\nway  there\r\n", "half way there"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        ("a\u202eb", "a\\u202eb"),
        ("line\u2028end", "line end"),
    ],
)
def test_lines_and_escapes_are_taken_out(text: str, line: str):
    """The remaining text is readable."""
    assert said(text) == line


def test_a_long_text_is_cut_before_it_is_looked_at():
    """The end is marked as cut."""
    assert said("x" * 10_000_000, 20) == "x" * 19 + "…"
    assert len(said("\x1b[31m" * 1_000_000 + "x", 20)) <= 20


@given(NASTY)
def test_no_line_of_a_servers_block_looks_like_another_block(text: str):
    """Each is indented, so only its first line stands at the margin."""
    first, *lines = block("files", text, 100).split("\n")
    assert first == "[server files says:]"
    assert all(not line or line.startswith("  ") or line == "…" for line in lines)
    assert sum(map(len, lines)) <= 101
