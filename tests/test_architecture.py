"""Layers and documentation match the code, every module states its responsibility, and nothing prints on the wire."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "asyncfc_mcp"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.stem not in ("__init__", "__main__", "_version"))
TALKATIVE = {"bridge.check_process", "cli.main", "cli.demo"}
"""They run before or instead of a server on stdio, or in a process of their own."""


def name_of(module: Path) -> str:
    """Return the dotted name of a module below the package."""
    return ".".join(module.relative_to(PACKAGE).with_suffix("").parts)


def test_imports_keep_the_contracts():
    """Downward only, without cycles, no I/O in pure packages; the table in pyproject.toml names every package."""
    pytest.importorskip("importlinter", reason="import-linter comes with the extra `dev`")
    # A process of its own: import-linter configures logging for the whole process that it runs in.
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    linter = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=False)
    assert linter.returncode == 0, linter.stdout + linter.stderr


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_says_in_its_first_lines_what_it_owns(module: Path):
    """A summary in one line, then what is its and what is not."""
    docstring = ast.get_docstring(ast.parse(module.read_text()))
    assert docstring is not None
    summary, _, rest = docstring.partition("\n")
    assert summary.endswith((".", ":"))
    said = ("Owns", "Refuses", "Pure", "only place", "'s job")
    assert any(word in docstring for word in said), f"none of {said}"
    assert rest.startswith("\n"), "the summary stands alone"


def prints(module: Path) -> list[str]:
    """Where a module writes to the process's own stdout."""
    found: list[str] = []
    screens: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                found.append(f"line {node.lineno}: print")
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "__stdout__"):
                found.append(f"line {node.lineno}: sys.stdout")
            case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="write"), args=[ast.Constant(value=1), *_]):
                found.append(f"line {node.lineno}: os.write(1)")
            case ast.Assign(
                targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id="Console"), keywords=keywords)
            ):
                # Asking a terminal how wide it is writes nothing.
                if not {"file", "stderr"} & {keyword.arg for keyword in keywords}:
                    screens.add(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="print")) if name in screens:
                found.append(f"line {node.lineno}: {name}.print")
            case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="Console")), attr="print")):
                found.append(f"line {node.lineno}: Console().print")
            case _:
                pass
    return found


@pytest.mark.parametrize("module", [path for path in MODULES if name_of(path) not in TALKATIVE], ids=name_of)
def test_nothing_prints_on_the_wire(module: Path):
    """stdout belongs to the protocol."""
    assert prints(module) == []


def test_packages_have_no_code_of_their_own():
    """Every `__init__.py` below the top is empty, or each start would pay for all that it names."""
    assert [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE and path.read_text()] == []


def test_the_package_is_typed_and_exports_little():
    """At most five names, and `py.typed` beside them."""
    assert (PACKAGE / "py.typed").exists()
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    exported = [
        element.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
        for element in ast.walk(node.value)
        if isinstance(element, ast.Constant)
    ]
    assert len(exported) <= 5


def listed_modules() -> set[str]:
    """Return the modules of the tree in `docs/architecture.md`, by their dotted names below the package."""
    tree = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    found: set[str] = set()
    folders: list[str] = []
    for line in tree.splitlines()[2:]:
        if match := re.match(r"( +)(\w+)/ +", line):
            folders[len(match[1]) // 2 - 1 :] = [match[2]]
            line = line[match.end() :]
        if line.startswith("  ") and ".py" in line:
            found.update(word.removesuffix(".py") for word in line.split())
        else:
            found.update(".".join((*folders, word)) for word in re.findall(r"\w+", line))
    return found


def test_the_architecture_page_lists_every_module():
    """And no module that does not exist: add a new one to the tree in `docs/architecture.md`."""
    assert listed_modules() == {name_of(module) for module in MODULES}
