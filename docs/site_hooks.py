"""Hooks of the documentation site: pages and files that lie outside `docs/`, and a check of what is loaded.

Owns the mapping between paths in the repository and in the site, so that a link of a page is written as it holds in the
repository. Leaves the check of links and anchors to MkDocs (`validation` in mkdocs.yml), which sees the mapped ones.
"""

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPO = Path(__file__).resolve().parents[1]
DOCS = "docs/"
logger = logging.getLogger("mkdocs.hooks.site_hooks")

_CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)#\s]+)(#[^)\s]*)?(?=[)\s])")
_LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\b(?:src|srcset)=[\"']?((?:https?:)?//[^\s\"'>]+)"
)
_LINKED = re.compile(r"<link\b[^>]*?\bhref=[\"']?((?:https?:)?//[^\s\"'>]+)")
_FROM_CSS = re.compile(r"(?:url\(|@import\s)\s*[\"']?((?:https?:)?//[^\s\"')]+)")

# The README is the home page of a forge; the site has its own.
_INSTEAD = {"README.md": "docs/index.md"}


def _site(path: str) -> str:
    """Return the source URI in the site of a path in the repository."""
    return _INSTEAD.get(path, path).removeprefix(DOCS)


def _repository(file: File) -> str:
    """Return the path in the repository of a file of the site."""
    assert file.abs_src_path is not None
    return Path(file.abs_src_path).relative_to(REPO).as_posix()


def _prose(text: str) -> Iterator[tuple[bool, str]]:
    """Yield the parts of a page, and of each if it is prose, in order."""
    for index, part in enumerate(_CODE.split(text)):
        yield index % 2 == 0, part


def _targets(page: str, text: str) -> Iterator[str]:
    """Yield the repository's files that a page links to."""
    for prose, part in _prose(text):
        for match in _LINK.finditer(part) if prose else ():
            yield posixpath.normpath(posixpath.join(posixpath.dirname(page), match[2]))


def _leaves(nav: object) -> Iterator[str]:
    """Yield the pages of a navigation."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for below in nav.values():
            yield from _leaves(below)
    elif isinstance(nav, list):
        for below in nav:
            yield from _leaves(below)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages of the navigation that lie outside `docs/`, and the files that pages link to."""

    def add(path: str) -> File:
        file = File(path, str(REPO), config.site_dir, config.use_directory_urls)
        files.append(file)
        return file

    for path in _leaves(config.nav):
        if files.get_file_from_path(path) is None and (REPO / path).is_file():
            add(path)
    pages = list(files.documentation_pages())
    for page in pages:
        for target in _targets(_repository(page), page.content_string):
            outside = not target.startswith((DOCS, "../")) and target not in _INSTEAD
            if outside and (REPO / target).is_file() and files.get_file_from_path(target) is None:
                file = add(target)
                if file.is_documentation_page():
                    pages.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links of the repository links of the site."""
    source = _repository(page.file)
    here = posixpath.dirname(page.file.src_uri)

    def mapped(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        return f"{match[1]}{posixpath.relpath(_site(target), here or '.')}{match[3] or ''}"

    return "".join(_LINK.sub(mapped, part) if prose else part for prose, part in _prose(markdown))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn of everything that a browser would load from another host."""
    for pattern in (_LOADED, _LINKED):
        for url in pattern.findall(output):
            logger.warning("%s loads %s: nothing may be loaded from another host", page.file.src_uri, url)
    return output


def on_post_build(config: MkDocsConfig) -> None:
    """Warn of style sheets that load from another host."""
    for sheet in Path(config.site_dir).rglob("*.css"):
        for url in _FROM_CSS.findall(sheet.read_text(encoding="utf-8")):
            logger.warning("%s loads %s: nothing may be loaded from another host", sheet.name, url)
