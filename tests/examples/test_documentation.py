"""The page about frameworks shows parts of the examples that run, and the examples' README names every file."""

from __future__ import annotations

import re
from textwrap import dedent

from tests.examples.stand import EXAMPLES
from tests.support.stage import REPO

SHOWN = re.compile(r"<!-- not run: part of (\S+) -->\n\n```\w+\n(.*?)```\n", re.DOTALL)


def lines_of(text: str) -> list[str]:
    return dedent(text).strip("\n").splitlines()


def test_snippets_are_parts_of_examples_that_run() -> None:
    """Each is a run of whole lines of its file, but for the indentation; there is no other block on the page."""
    page = (REPO / "docs" / "frameworks.md").read_text()
    shown = SHOWN.findall(page)
    assert len(shown) == page.count("```") / 2
    for path, snippet in shown:
        wanted, lines = lines_of(snippet), (REPO / path).read_text().splitlines()
        places = (lines[start : start + len(wanted)] for start in range(len(lines)))
        assert any(lines_of("\n".join(place)) == wanted for place in places), f"{path} has no lines\n{snippet}"
    framework_files = {path.relative_to(REPO).as_posix() for path in (EXAMPLES / "agents").glob("*.py")}
    assert framework_files <= {path for path, _ in shown}


def test_the_readme_names_every_example() -> None:
    """A file of agents, clients and workflows is listed, and the tests run each of them."""
    readme = (EXAMPLES / "README.md").read_text()
    tests = "".join(path.read_text() for path in (REPO / "tests" / "examples").glob("test_*.py"))
    folders = ("agents", "clients", "ci_job", "n8n", "before_after")
    files = [
        path for folder in folders for path in (EXAMPLES / folder).glob("**/*.*") if "node_modules" not in path.parts
    ]
    examples = [path for path in files if path.suffix in (".py", ".ts", ".yml") or path.name == "workflow.json"]
    assert len(examples) >= 9
    for folder in EXAMPLES.iterdir():
        assert folder.is_file() or folder.name == "__pycache__" or f"{folder.name}/" in readme, f"lacks {folder.name}/"
    for path in examples:
        if path.name == "project_server.py":  # a server of before_after.py
            continue
        assert path.name in tests, f"no test names {path.name}"
        assert path.name in readme or f"[`{path.parent.name}/`]" in readme, f"examples/README.md lacks {path.name}"
