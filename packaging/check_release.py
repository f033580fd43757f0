"""Checks before a release is published: `python packaging/check_release.py v0.1.0 --notes notes.md`.

Owns what must agree with the tag: the version, the section of `CHANGELOG.md`, the account that publishes, and the names
of the files in `dist`. Writes that section, as the text of the release. Leaves their contents to `tests/packaging/`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from wheels import REPO

TAG = re.compile(r"v(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)")
HEADING = re.compile(r"^## \[([^\]]+)\](?: - (\S+))?$", re.MULTILINE)
PLACEHOLDER = re.compile(r"\bOWNER\b(?=/asyncfc-mcp|\.github\.io)")
PUBLISHED = (
    "README.md",
    "docs/start/index.md",
    "pyproject.toml",
    "Dockerfile",
    "packaging/server.json",
    "CHANGELOG.md",
)


def sections(changelog: str) -> dict[str, tuple[str | None, str]]:
    """Return the date and the text of each section, by version, newest first. Raises ValueError for one given twice."""
    found: dict[str, tuple[str | None, str]] = {}
    headings = list(HEADING.finditer(changelog))
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        if heading[1] in found:
            raise ValueError(f"CHANGELOG.md has two sections [{heading[1]}]")
        text = changelog[heading.end() : following.start() if following else None]
        text = re.sub(r"^\[[^\]]+\]: \S+\n?", "", text, flags=re.MULTILINE)  # the links at the end of the file
        found[heading[1]] = heading[2], text.strip()
    return found


def notes(tag: str, changelog: str) -> str:
    """Return the section of a tag, with links to the repository: a release's page has no files beside it."""
    version = tag.removeprefix("v")
    home = re.search(rf"^\[{re.escape(version)}\]: (https://\S+)/releases/", changelog, re.MULTILINE)
    text = sections(changelog)[version][1]
    return re.sub(r"(\]\()(?![a-z]+:|#|/)", rf"\g<1>{home[1]}/blob/{tag}/", text) if home else text


def problems(tag: str, changelog: str, texts: dict[str, str], names: Iterable[str]) -> list[str]:
    """Return what keeps a tag from being released, one line each.

    Args:
        tag: of the commit.
        changelog: the text of CHANGELOG.md.
        texts: files that are published and name the account, by path.
        names: of the files in `dist`; none if they are not built yet.
    """
    matched = TAG.fullmatch(tag)
    if matched is None:
        return [f"the tag {tag} is no version: v1.2.3 or v1.2.3rc1"]
    version = matched[1]
    found: list[str] = []
    changes = sections(changelog)
    day, text = changes.get(version, (None, ""))
    if not text:
        found.append(f"CHANGELOG.md has no section [{version}] with changes")
    try:
        date.fromisoformat(day or "")
    except ValueError:
        found.append(f"the section [{version}] of CHANGELOG.md has no date: `## [{version}] - YYYY-MM-DD`")
    if [each for each in changes if each != "Unreleased"][:1] != [version]:
        found.append(f"[{version}] is not the newest version in CHANGELOG.md")
    if changes.get("Unreleased", (None, ""))[1]:
        found.append(f"CHANGELOG.md has changes in [Unreleased], which belong to [{version}]")
    found += [
        f"{path} names no account yet, but OWNER (docs/releasing.md)"
        for path in texts
        if PLACEHOLDER.search(texts[path])
    ]
    found += [f"{path} says that the package is not on PyPI yet" for path in texts if "not on PyPI yet" in texts[path]]
    for name in names:
        if f"-{version}." not in name and f"-{version}-" not in name and name != "server.json":
            found.append(f"dist/{name} is not of version {version}")
    return found


def main() -> None:
    """Print what is wrong, or write the notes."""
    parser = argparse.ArgumentParser(description="Check a release.")
    parser.add_argument("tag", help="tag of the release, v1.2.3")
    parser.add_argument("--dist", type=Path, help="folder with what is published")
    parser.add_argument("--notes", type=Path, help="file for the changes of this version")
    given = parser.parse_args()
    changelog = (REPO / "CHANGELOG.md").read_text()
    texts = {path: (REPO / path).read_text() for path in PUBLISHED}
    names = sorted(path.name for path in given.dist.iterdir()) if given.dist else []
    found = problems(given.tag, changelog, texts, names)
    if found:
        sys.exit("\n".join([f"{given.tag} cannot be released:", *(f"  {line}" for line in found)]))
    if given.notes:
        given.notes.write_text(notes(given.tag, changelog) + "\n")
    print(f"{given.tag} can be released")


if __name__ == "__main__":
    main()
