"""Links between pages lead somewhere: to a file of the repository, and to a heading of the page that they name."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import REPO, anchors, name_of, pages, prose

_LINK = re.compile(r"\]\(([^)\s]+)\)|\b(?:src|srcset|href)=\"([^\"]+)\"")
_ELSEWHERE = re.compile(r"[a-z]+:")


def links(page: Path) -> list[str]:
    """Return the links of a page to the repository."""
    found = (one or other for one, other in _LINK.findall(prose(page)))
    return [link for link in found if not _ELSEWHERE.match(link)]


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Every target exists, and so does every anchor in it."""
    broken: list[str] = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or not target.is_relative_to(REPO):
            broken.append(f"{link}: no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            broken.append(f"{link}: no such heading")
    assert not broken


def test_every_page_is_in_the_navigation() -> None:
    """The site has all pages of `docs/`, each at one place."""
    listed = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", (REPO / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    mine = {page.relative_to(REPO / "docs").as_posix() for page in (REPO / "docs").rglob("*.md")}
    assert mine - set(listed) == set()
    assert all((REPO / "docs" / name).is_file() or (REPO / name).is_file() for name in listed)
