"""Files for the forge: valid, with few permissions, and they run what a maintainer runs."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.peers import script_of
from tests.support.stage import REPO

FORGE = REPO / ".github"
WORKFLOWS = sorted((FORGE / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (FORGE / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
WRITES = {
    "docs.yml": {"publish": {"pages", "id-token"}},
    "release.yml": {
        "build": {"id-token", "attestations"},
        "pypi": {"id-token"},
        "image": {"packages", "id-token", "attestations"},
        "github": {"contents"},
    },
}
"""What the jobs of each workflow may write."""

pytestmark = pytest.mark.skipif(not FORGE.is_dir(), reason="a source distribution has no files for the forge")


def read(path: Path) -> Any:
    """Parse a file by YAML 1.2, in which `on` is no boolean."""
    return YAML(typ="safe").load(path)


@pytest.mark.peers
def test_the_files_are_valid(workflow_checkers: Path):
    """By the schemas of workflows, forms and dependabot."""
    kinds = {"github-workflows": WORKFLOWS, "github-issue-forms": FORMS}
    kinds |= {
        "dependabot": [FORGE / "dependabot.yml"],
        "github-issue-config": [FORGE / "ISSUE_TEMPLATE" / "config.yml"],
    }
    for kind, paths in kinds.items():
        command = [script_of(workflow_checkers, "check-jsonschema"), "--builtin-schema", f"vendor.{kind}"]
        done = subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.peers
def test_workflows_have_no_known_weakness(workflow_checkers: Path):
    """Injection by expressions, credentials that stay, actions that are not pinned, poisoned caches, …"""
    command = [script_of(workflow_checkers, "zizmor"), "--offline", "--no-progress", str(FORGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_may_write_only_what_it_must(path: Path):
    """Everything else is read only, and every job has a time limit."""
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    written = {
        name: {scope for scope, right in job.get("permissions", {}).items() if right == "write"}
        for name, job in workflow["jobs"].items()
    }
    assert {name: scopes for name, scopes in written.items() if scopes} == WRITES.get(path.name, {})
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_commands_name_files_that_exist(path: Path):
    """The scripts of a release, `.ci/run`, requirements."""
    lines = [step["run"] for job in read(path)["jobs"].values() for step in job["steps"] if "run" in step]
    named = {name for line in lines for name in re.findall(r"(?<![\w/.])(?:packaging|\.ci)/[\w./]+", line)}
    assert named or path.name == "docs.yml"
    assert [name for name in named if not (REPO / name).is_file()] == []


def test_every_check_runs_before_a_release():
    """`.ci/run`, on which both uploads wait; what is uploaded is what was tried and attested."""
    jobs = read(FORGE / "workflows" / "release.yml")["jobs"]
    assert "bash .ci/run" in [step.get("run") for step in jobs["checks"]["steps"]]
    for name in ("pypi", "image"):
        assert {"checks", "build"} <= set(jobs[name]["needs"])
    uploads = [step for step in jobs["pypi"]["steps"] if step.get("uses", "").startswith("pypa/")]
    assert [step["with"]["packages-dir"] for step in uploads] == ["upload"]


def test_local_hooks_run_what_the_documentation_names():
    """Without another repository, so that they need no network."""
    (repository,) = read(REPO / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    commands = [hook["entry"] for hook in repository["hooks"]]
    assert all(command.startswith(".venv/bin/") for command in commands)
    programs = {command.split()[0].removeprefix(".venv/bin/") for command in commands}
    assert {"ruff", "pyright", "lint-imports"} <= programs
    contributing = (REPO / "CONTRIBUTING.md").read_text()
    assert all(f".venv/bin/{program}" in contributing for program in programs)
