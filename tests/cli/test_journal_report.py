"""The journal in the output of `inspect`: where it is, what is in it, and why it cannot be used."""

from typing import Any

from asyncfc_mcp.cli.journal_report import line

FIGURES: dict[str, Any] = {
    "path": "/state/journal.db",
    "futures": 12,
    "unfinished": 2,
    "bytes": 1_300_000,
    "large_result_bytes": 200_000,
    "max_bytes": 1 << 30,
    "ttl_s": 86_400.0,
    "problem": None,
}


def test_the_figures_are_one_line():
    """Results in files of their own count as well."""
    assert line(FIGURES, 0) == (
        "/state/journal.db: 12 futures, 2 of them unfinished, 1.43 MB (at most 1 GB, each for 24 h)"
    )
    empty = {**FIGURES, "futures": 1, "unfinished": 0, "bytes": 900, "large_result_bytes": 0, "ttl_s": 1800.0}
    assert line(empty, 0) == "/state/journal.db: 1 future, 900 bytes (at most 1 GB, each for 0.5 h)"


def test_tools_that_are_left_out_are_counted():
    """Their calls are in it, their arguments and results are not."""
    assert line(FIGURES, 1).endswith("; without arguments and results of 1 tool")
    assert line(FIGURES, 3).endswith("; without arguments and results of 3 tools")


def test_without_a_journal_the_line_says_why():
    """Off, or the problem of the file."""
    assert line(None, 0) == 'off ("journal": "off"): futures end with the bridge'
    assert line({"path": "/x", "problem": "it is a folder"}, 0) == "/x cannot be used: it is a folder"
