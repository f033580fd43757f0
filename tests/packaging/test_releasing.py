"""A release agrees with its tag: version, changelog, account, names of files."""

import re
import runpy
import subprocess
import sys
from datetime import date
from typing import Any

import pytest

from tests.support.stage import REPO

sys.path.insert(0, str(REPO / "packaging"))
try:
    CHECK: dict[str, Any] = runpy.run_path(str(REPO / "packaging" / "check_release.py"))
finally:
    sys.path.remove(str(REPO / "packaging"))

CHANGELOG = (REPO / "CHANGELOG.md").read_text()
GOOD = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-01

### Added

- A thing.

## [0.1.0] - 2026-11-28

- All.
"""
FILES = ["asyncfc_mcp-0.2.0-py3-none-any.whl", "asyncfc_mcp-0.2.0.tar.gz", "asyncfc-mcp-0.2.0.mcpb", "server.json"]


def tags() -> list[str]:
    """Tags of the checkout's commit; none in a source distribution."""
    command = ["git", "tag", "--points-at", "HEAD", "--list", "v*"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def test_the_changelog_is_in_order():
    """Newest first, each version once with a date and changes of known kinds; `[Unreleased]` above all."""
    found = CHECK["sections"](CHANGELOG)
    versions = list(found)
    assert versions[0] == "Unreleased"
    assert versions[1:], "a first release"
    numbers = [tuple(map(int, version.split("."))) for version in versions[1:]]
    assert numbers == sorted(numbers, reverse=True)
    for version in versions[1:]:
        day, text = found[version]
        assert date.fromisoformat(day) <= date.today()
        assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= {
            "Added",
            "Changed",
            "Deprecated",
            "Removed",
            "Fixed",
            "Security",
        }
        assert f"\n[{version}]: https://" in CHANGELOG


@pytest.mark.parametrize("tag", tags())
def test_a_tagged_commit_can_be_released(tag: str):
    """By everything that its files say, apart from the account."""
    assert CHECK["problems"](tag, CHANGELOG, {}, []) == []


def test_a_good_release_has_no_problem():
    """Its notes are its section."""
    assert CHECK["problems"]("v0.2.0", GOOD, {"README.md": "github.com/us/asyncfc-mcp"}, FILES) == []
    assert CHECK["sections"](GOOD)["0.2.0"][1] == "### Added\n\n- A thing."
    assert CHECK["notes"]("v0.2.0", GOOD) == "### Added\n\n- A thing."


def test_links_of_the_notes_hold_outside_the_repository():
    """Those of a release's page lead to the files of its tag; others stay."""
    text = (
        GOOD.replace("A thing.", "[A](docs/a.md#b), [c](https://c).")
        + "\n[0.2.0]: https://h/us/x/releases/tag/v0.2.0\n"
    )
    assert CHECK["notes"]("v0.2.0", text).endswith("- [A](https://h/us/x/blob/v0.2.0/docs/a.md#b), [c](https://c).")


@pytest.mark.parametrize(
    ("tag", "changelog", "text", "names", "problem"),
    [
        ("0.2.0", GOOD, "", FILES, "is no version"),
        ("v0.2", GOOD, "", FILES, "is no version"),
        ("v0.3.0", GOOD, "", [], "no section [0.3.0]"),
        ("v0.1.0", GOOD, "", [], "not the newest"),
        ("v0.2.0", GOOD.replace(" - 2026-12-01", ""), "", FILES, "has no date"),
        ("v0.2.0", GOOD.replace("[Unreleased]\n", "[Unreleased]\n\n- More.\n"), "", FILES, "changes in [Unreleased]"),
        ("v0.2.0", GOOD, "https://github.com/OWNER/asyncfc-mcp", FILES, "names no account"),
        ("v0.2.0", GOOD, "https://OWNER.github.io/asyncfc-mcp/", FILES, "names no account"),
        ("v0.2.0", GOOD, "The package is not on PyPI yet.", FILES, "not on PyPI yet"),
        ("v0.2.0", GOOD, "", ["asyncfc_mcp-0.2.1.dev1-py3-none-any.whl"], "is not of version 0.2.0"),
    ],
)
def test_what_keeps_a_release_back(tag: str, changelog: str, text: str, names: list[str], problem: str):
    """Each with a line that says where."""
    assert problem in "\n".join(CHECK["problems"](tag, changelog, {"README.md": text}, names))


def test_slow_markers_are_deselected_by_default():
    """Every one whose name says that it takes long."""
    text = (REPO / "pyproject.toml").read_text()
    for name in re.findall(r'^  "(\w+_long):', text, re.MULTILINE):
        assert re.search(rf"^addopts = .*not {name}\b", text, re.MULTILINE), name
