"""The program of a daemon: which versions are newer, and when its files count as replaced."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.transports.local.program import ProgramFiles, is_newer

ORDERED = [
    "",
    "0.9",
    "0.10.0rc1",
    "0.10.0rc2",
    "0.10",
    "0.10.1",
    "1.0a1",
    "1",
    "1.0.post1",
    "1.0.1.dev3",
    "1.0.1",
    "2.0",
]


@given(st.tuples(st.integers(0, len(ORDERED) - 1), st.integers(0, len(ORDERED) - 1)))
def test_versions_are_in_order(places: tuple[int, int]):
    """A pre-release is older than its release."""
    one, other = places
    assert is_newer(ORDERED[one], ORDERED[other]) == (one > other)


@given(st.text(max_size=40))
def test_any_text_is_a_version(text: str):
    """None is newer than itself."""
    assert not is_newer(text, text)


@pytest.mark.parametrize("same", ["1.0", "1.0.0", "1.0+local"])
def test_equal_versions_are_not_newer(same: str):
    assert not is_newer(same, "1")
    assert not is_newer("1", same)


def test_files_count_as_replaced_once_they_stay_the_same(tmp_path: Path):
    """Neither while an installation writes them, nor while some are missing; caches do not count."""
    (tmp_path / "__init__.py").write_text("")
    files = ProgramFiles(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").write_text("")
    assert not files.have_changed()
    (tmp_path / "__init__.py").unlink()
    assert not files.have_changed()
    assert not files.have_changed()
    (tmp_path / "__init__.py").write_text("new")
    assert not files.have_changed()
    (tmp_path / "more.py").write_text("")
    assert not files.have_changed()
    assert files.have_changed()
