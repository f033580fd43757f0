"""The page on sign-in: its entries can be pasted, its commands exist, and what it rules out is not in the code."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from asyncfc_mcp.cli.main import cli
from asyncfc_mcp.config.model import HttpSpec
from tests.support.configurations import parse

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs" / "sign-in.md").read_text(encoding="utf-8")
PAGES = [REPO / "README.md", REPO / "SECURITY.md", *(REPO / "docs").rglob("*.md")]


@pytest.mark.parametrize("text", re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
def test_the_entries_can_be_pasted(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a warning; each of their servers is signed in to."""
    monkeypatch.setattr("asyncfc_mcp.config.variables.read_source", lambda *_: "secret")
    config = parse(text)
    assert config.warnings == ()
    assert config.unusable == ()
    assert all(isinstance(server.spec, HttpSpec) and server.spec.oauth is not None for server in config.servers)


def commands() -> list[str]:
    """Return the commands of the pages that sign in or out."""
    found = (re.findall(r"asyncfc-mcp (log(?:in|out)[^`\n]*)", page.read_text(encoding="utf-8")) for page in PAGES)
    return sorted({re.split(r"[,;]? opens|, and| does|\. ", command)[0].strip() for each in found for command in each})


def test_the_commands_exist() -> None:
    """With the options that the pages give them."""
    found = [command for command in commands() if not re.search(r"[()]", command)]
    assert len(found) > 6
    for command in found:
        name, *args = shlex.split(command)
        known = cli.commands[name]
        context = click.Context(known, info_name=name)
        known.make_parser(context).parse_args(list(args))


def test_only_login_and_open_open_a_browser() -> None:
    """No other module can."""
    importing = [
        module.stem
        for module in (REPO / "asyncfc_mcp").rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(name.name == "webbrowser" for name in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "webbrowser")
    ]
    assert sorted(importing) == ["login", "open_page"]
