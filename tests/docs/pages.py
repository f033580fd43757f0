"""Pages of the documentation: where they are, their code blocks, and their links. Pure but for reading the pages."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^( *)(`{3,})([\w+-]*)[^\n]*\n(.*?)^\1\2[ ]*$", re.MULTILINE | re.DOTALL)
_BEFORE = re.compile(r"<!-- not run: (.*?) -->\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        excuse: the reason of a comment `<!-- not run: … -->` right before the block.
    """

    page: str
    line: int
    language: str
    text: str
    excuse: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return all pages for readers: the README, `docs/`, and those of other folders that they lead to."""
    found = [REPO / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
    for folder in ("docs", "examples", "packaging", "benchmarks"):
        found += sorted((REPO / folder).rglob("*.md"))
    return [page for page in found if "node_modules" not in page.parts]


def name_of(page: Path) -> str:
    """Return the path in the repository."""
    return page.relative_to(REPO).as_posix()


def blocks() -> Iterator[Block]:
    """Yield the blocks of the README and `docs/`, in order."""
    for page in (REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            excuse = _BEFORE.search(text, 0, match.start())
            indent = match[1]
            body = "".join(line.removeprefix(indent) for line in match[4].splitlines(keepends=True))
            line = text.count("\n", 0, match.start()) + 1
            yield Block(name_of(page), line, match[3], body, excuse and " ".join(excuse[1].split()))


def prose(page: Path) -> str:
    """Return a page without its code."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.sub(r"`[^`\n]*`", "`", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges make them."""
    found: dict[str, int] = {}
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        count = found.get(slug)
        found[slug] = 0 if count is None else count + 1
        if count is not None:
            found[f"{slug}-{count + 1}"] = 0
    return set(found)
