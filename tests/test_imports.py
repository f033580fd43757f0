"""Where the SDK may be used, which import-linter cannot say of parts of a package that is not ours."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "asyncfc_mcp"
ALLOWED = {
    "mcp.client": {"remote"},
    "mcp.server": {"server", "transports"},
}


def imported(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names.add(node.module)
    return names


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_each_side_of_the_sdk_is_used_in_one_place(part: str):
    """`mcp.client` is downstream's, `mcp.server` is the server's and the transports'."""
    users = {
        module.stem
        for module in PACKAGE.glob("*.py")
        if any(name == part or name.startswith(part + ".") for name in imported(module))
    }
    assert users <= ALLOWED[part]


def test_nobody_imports_asyncio():
    """anyio throughout, so that tests can run on a virtual clock."""
    assert not [module.name for module in PACKAGE.glob("*.py") if "asyncio" in imported(module)]


def test_the_architecture_page_names_every_module():
    """Who looks for a module finds it there, and nothing that is not there any more."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    table = page.split("## A call's way")[0]
    named = set(re.findall(r"`([a-z]+)`", "\n".join(line.split("|")[2] for line in table.splitlines() if "|" in line)))
    assert named == {module.stem for module in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
