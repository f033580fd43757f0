"""The program of a daemon: which versions are newer, and when its files count as replaced."""

import sys
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import InvalidVersion, Version

import asyncfc_mcp
from asyncfc_mcp.transports.local.program import ProgramFiles, is_newer, version_of

ORDERED = [
    "",
    "0.0.0",
    "0.0.1.dev537+ga18958f",
    "0.9",
    "0.10.0rc1.dev2",
    "0.10.0rc1",
    "0.10.0rc2",
    "0.10",
    "0.10.1",
    "1.0.dev9+g1a2b3c4.d20261128",
    "1.0a1.dev1",
    "1.0a1",
    "1",
    "1.0.post1.dev4",
    "1.0.post1",
    "1.0.1.dev3+gffffff",
    "1.0.1.dev10+g000000",
    "1.0.1",
    "2.0",
    "1!0.1",
]


@given(st.tuples(st.integers(0, len(ORDERED) - 1), st.integers(0, len(ORDERED) - 1)))
def test_versions_are_in_order(places: tuple[int, int]):
    """A development version is older than its pre-releases, and these than the release; no commit counts."""
    one, other = places
    assert is_newer(ORDERED[one], ORDERED[other]) == (one > other)


@given(st.text(max_size=40))
def test_any_text_is_a_version(text: str):
    """None is newer than itself."""
    assert not is_newer(text, text)


@given(st.text(max_size=40))
def test_text_that_is_no_version_replaces_none(text: str):
    """Every version replaces it."""
    try:
        Version(text)
    except InvalidVersion:
        assert not is_newer(text, "0.0.0")
        assert is_newer("0.0.0", text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.0", "1"),
        ("1.0.0", "1"),
        ("1.0+local", "1"),
        ("0.1.1.dev3+g1a2b3c4", "0.1.1.dev3+gfffffff"),
        ("0.1.1.dev3+g1a2b3c4", "0.1.1.dev3+g1a2b3c4.d20261128"),
        ("v1.0", "1"),
    ],
)
def test_equal_versions_are_not_newer(one: str, other: str):
    """Nor are builds that differ in their commit only: two programs that replaced each other would never end."""
    assert not is_newer(one, other)
    assert not is_newer(other, one)


def test_a_program_names_its_own_version():
    """Also one of a development version, with its commit."""
    script = "print('asyncfc-mcp, version 0.1.1.dev3+g1a2b3c4.d20261128')"
    assert anyio.run(version_of, [sys.executable, "-m", "asyncfc_mcp"]) == asyncfc_mcp.__version__
    assert anyio.run(version_of, [sys.executable, "-c", script]) == "0.1.1.dev3+g1a2b3c4.d20261128"
    assert anyio.run(version_of, [sys.executable, "-c", "raise SystemExit(3)"]) is None


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
