"""The wheel where users install it: empty environments outside the checkout, uvx, uv tool, pipx, several Pythons."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.packaging.conftest import VERSION, Distributions
from tests.support.peers import cache_folder, script_of
from tests.support.stage import REPO

TRIAL = REPO / "packaging" / "try_wheel.py"
RELEASES = ("3.11", "3.12", "3.13", "3.14")
ANSWER = f"asyncfc-mcp, version {VERSION}"

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]  # dependencies come from PyPI


def interpreter(release: str) -> str | None:
    """Return a Python of a release that is on the PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    places = [shutil.which(f"python{release}"), *map(str, pyenv.glob(f"{release}.*/bin/python{release}"))]
    for program in filter(None, places):
        # One on the PATH may stand for an interpreter that is not selected.
        if subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0:
            return program
    return None


@pytest.fixture
def home() -> Iterator[dict[str, str]]:
    """An environment of a user who has nothing yet, whose packages are in the cache of the tests."""
    with user() as env:
        yield env


@contextmanager
def user() -> Iterator[dict[str, str]]:
    """Give a home of its own, and a short path for sockets."""
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        own = {
            "HOME": folder,
            "PATH": f"{folder}/.local/bin{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "UV_CACHE_DIR": str(cache_folder() / "uv_cache"),
            "UV_PYTHON_DOWNLOADS": "never",
        }
        yield kept | own


def run(command: list[str], env: dict[str, str]) -> str:
    """Run a command in the home of the user, and return its output with its messages."""
    done = subprocess.run(command, cwd=env["HOME"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def trial(python: str, wheel: Path, uv: Path, env: dict[str, str]) -> None:
    """Try the wheel on an interpreter."""
    report = run([python, str(TRIAL), str(wheel), "--uv", script_of(uv, "uv")], env)
    assert json.loads(report.splitlines()[-1])["version"] == VERSION


def test_the_shell_completes_commands(home: dict[str, str]):
    """By what the documented line evaluates in bash."""
    program = str(Path(sys.executable).with_name("asyncfc-mcp"))
    variable = "_ASYNCFC_MCP_COMPLETE"
    page = (REPO / "docs" / "start" / "index.md").read_text()
    assert f'eval "$({variable}=bash_source asyncfc-mcp)"' in page
    assert "complete" in run([program], home | {variable: "bash_source"})
    typed = {variable: "bash_complete", "COMP_WORDS": "asyncfc-mcp ins", "COMP_CWORD": "1"}
    assert {"plain,inspect", "plain,install"} <= set(run([program], home | typed).splitlines())


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_environment(distributions: Distributions, uv: Path, home: dict[str, str]):
    """The version, the demo, and a session of the SDK's client."""
    trial(sys.executable, distributions.wheel, uv, home)


@pytest.mark.release_long
@pytest.mark.parametrize("release", RELEASES)
def test_the_wheel_runs_on_other_pythons(release: str, distributions: Distributions, uv: Path, home: dict[str, str]):
    """The same, on each that is here."""
    python = interpreter(release)
    if python is None:
        pytest.skip(f"there is no Python {release}")
    trial(python, distributions.wheel, uv, home)


def test_uvx_runs_the_wheel(distributions: Distributions, uv: Path, home: dict[str, str]):
    """As the documentation gives it, with the file in place of the name on PyPI; `uv tool` installs and removes it."""
    command = [script_of(uv, "uvx"), "--python", sys.executable, "--from", str(distributions.wheel)]
    assert ANSWER in run([*command, "asyncfc-mcp", "--version"], home)
    assert "serve" in run([*command, "asyncfc-mcp", "--help"], home)
    tool = [script_of(uv, "uv"), "tool"]
    run([*tool, "install", "--python", sys.executable, str(distributions.wheel)], home)
    assert ANSWER in run(["asyncfc-mcp", "--version"], home)
    run([*tool, "uninstall", "asyncfc-mcp"], home)
    assert shutil.which("asyncfc-mcp", path=f"{home['HOME']}/.local/bin") is None


@pytest.mark.release_long
def test_uv_installs_a_checkout(distributions: Distributions, uv: Path, home: dict[str, str]):
    """As `uv tool install .` in a clone, with the extra `fast`; without Git and its tags the version is unknown."""
    checkout = f"{distributions.source}[fast]"
    run([script_of(uv, "uv"), "tool", "install", "--python", sys.executable, checkout], home)
    assert "asyncfc-mcp, version 0.0.0" in run(["asyncfc-mcp", "--version"], home)


@pytest.mark.release_long
def test_pipx_installs_and_runs_the_wheel(distributions: Distributions, pipx: Path, home: dict[str, str]):
    """As the documentation gives it, with the file in place of the name on PyPI."""
    program = [script_of(pipx, "pipx")]
    wheel = str(distributions.wheel)
    assert ANSWER in run([*program, "run", "--spec", wheel, "asyncfc-mcp", "--version"], home)
    run([*program, "install", wheel], home)
    assert ANSWER in run(["asyncfc-mcp", "--version"], home)
    run([*program, "uninstall", "asyncfc-mcp"], home)


@pytest.mark.release_long
def test_the_bill_of_materials_lists_what_is_installed(
    distributions: Distributions, release_tools: Path, home: dict[str, str], tmp_path: Path
):
    """Valid by CycloneDX's schema (`cyclonedx-py` ends with an error otherwise), and the same each time."""
    shutil.copy(distributions.wheel, tmp_path)
    command = [script_of(release_tools, "python"), str(REPO / "packaging" / "build_sbom.py"), "--out", str(tmp_path)]
    run(command, home)
    path = tmp_path / f"asyncfc-mcp-{VERSION}.cdx.json"
    first = path.read_bytes()
    document = json.loads(first)
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["version"] == VERSION
    found = {component["name"].lower(): component for component in document["components"]}
    constrained = (REPO / "constraints.txt").read_text().lower()
    for name in ("mcp", "anyio", "pydantic", "uvicorn", "uvloop", "procrastinate"):
        assert f"{name}=={found[name]['version']}" in constrained
        assert found[name]["purl"].startswith(f"pkg:pypi/{name}@")
    root = document["metadata"]["component"]["bom-ref"]
    (edges,) = [each["dependsOn"] for each in document["dependencies"] if each["ref"] == root]
    assert any(edge.startswith("anyio==") for edge in edges)
    run(command, home)
    assert path.read_bytes() == first


@pytest.mark.release_long
def test_distributions_pass_the_checks_of_the_index(distributions: Distributions, release_tools: Path):
    """`twine check --strict`, as before each upload."""
    twine = [script_of(release_tools, "twine"), "check", "--strict"]
    subprocess.run([*twine, str(distributions.wheel), str(distributions.sdist)], check=True)


@pytest.mark.release_long
def test_the_same_sources_give_the_same_distributions(distributions: Distributions, tmp_path: Path):
    """Byte for byte, so that anyone can check what is published."""
    program = str(distributions.source / "packaging" / "wheels.py")
    env = os.environ | {"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_ASYNCFC_MCP": VERSION}
    subprocess.run([sys.executable, program, "--no-isolation", "--out", str(tmp_path)], env=env, check=True)
    for path in (distributions.wheel, distributions.sdist):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
