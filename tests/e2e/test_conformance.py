"""The official conformance suite gives the same verdicts through the bridge as without it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.stage import REPO

PROGRAM = REPO / "tests" / "conformance" / "run.py"
LIMIT_S = 270


@pytest.fixture(scope="module")
def comparison() -> ModuleType:
    """The program as a module."""
    spec = importlib.util.spec_from_file_location("conformance_run", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.node
@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 30)
@pytest.mark.usefixtures("conformance")
def test_verdicts_are_the_same_through_the_bridge_but_for_the_list() -> None:
    """Every check of every server scenario, both versions of the suite, stdio and HTTP behind; tasks against us."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=REPO
    )
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@pytest.mark.node
@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 30)
@pytest.mark.usefixtures("conformance")
def test_every_scenario_of_sign_in_passes_but_for_the_list() -> None:
    """Every check of the authorization scenarios for clients: a bridge, and `asyncfc-mcp login` beside it."""
    program = PROGRAM.with_name("sign_in.py")
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=REPO
    )
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}"


def test_a_difference_that_is_not_listed_fails(comparison: ModuleType) -> None:
    """Whichever way it differs: a check that passes only through the bridge is no verdict of the server either."""
    listed = comparison.Known("run", "scenario", "check/*", "SUCCESS", "WARNING", "because")
    as_listed = comparison.Difference("stdio", "run", "scenario", "check/Name", "SUCCESS", "WARNING")
    worse = comparison.Difference("stdio", "run", "scenario", "check/Other", "SUCCESS", "FAILURE")
    better = comparison.Difference("stdio", "run", "another", "check/Name", "FAILURE", "SUCCESS")
    done = [("run", "stdio")]
    assert comparison.judge([as_listed], [listed], done) == []
    problems = comparison.judge([as_listed, worse, better], [listed], done)
    assert problems == [f"NEW: {worse}", f"NEW: {better}"]


def test_a_listed_difference_that_is_gone_fails(comparison: ModuleType) -> None:
    """By one route is enough; runs that were not made say nothing."""
    listed = comparison.Known("run*", "scenario", "check", "SUCCESS", "FAILURE", "because")
    left = comparison.Difference("stdio", "run 1", "scenario", "check", "SUCCESS", "FAILURE")
    assert comparison.judge([left], [listed], [("run 1", "stdio"), ("other", "stdio")]) == []
    (problem,) = comparison.judge([left], [listed], [("run 1", "stdio"), ("run 1", "http")])
    assert problem.startswith("STALE")
    assert "http" in problem


def test_the_worst_end_of_a_check_is_its_verdict(comparison: ModuleType, tmp_path: Path) -> None:
    """A check is made for several cases; one that fails is not hidden by one that passes, and remarks are none."""
    folder = tmp_path / "server-tools-list-2026-01-01T00-00-00-000Z"
    folder.mkdir()
    (folder / "checks.json").write_text(
        '[{"id": "a", "name": "A", "status": "FAILURE"}, {"id": "a", "name": "A", "status": "SUCCESS"},'
        '{"id": "a", "name": "B", "status": "SKIPPED"}, {"id": "b", "name": "B", "status": "INFO"}]'
    )
    assert dict(comparison._verdicts(tmp_path)) == {"tools-list": {"a/A": "FAILURE", "a/B": "SKIPPED"}}


def test_a_listed_difference_may_need_two_tries_to_show(comparison: ModuleType) -> None:
    """The reference server is not always sure of its own answer; that is no cure of what is listed."""

    class Unsure:
        def run(self, run: object, url: str) -> dict[str, dict[str, str]]:
            return {"server-sse-polling": {"server-sse-priming-event/X": "WARNING"}}

        def again(self, run: object, url: str, scenario: str) -> dict[str, dict[str, str]]:
            return {scenario: {"server-sse-priming-event/X": "SUCCESS" if url == "direct" else "WARNING"}}

    found = comparison.compare(Unsure(), {"direct": "direct", "stdio": "stdio"}, comparison.RUNS[:1])
    assert [(each.check, each.direct, each.bridge) for each in found] == [
        ("server-sse-priming-event/X", "SUCCESS", "WARNING")
    ]
