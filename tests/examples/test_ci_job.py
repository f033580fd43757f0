"""The CI job, with the steps of its workflow file run in their order, as a runner would."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator

import psutil
from ruamel.yaml import YAML

from tests.examples.stand import EXAMPLES, Stand
from tests.support.stage import REPO, Stage, free_port


@contextlib.contextmanager
def ends_what_it_leaves(stage: Stage) -> Iterator[None]:
    """A runner ends the processes that a step has left in the background."""
    try:
        yield
    finally:
        for process in stage.alive():
            if "serve" in process.cmdline():
                with contextlib.suppress(psutil.NoSuchProcess):
                    os.kill(process.pid, signal.SIGTERM)


def test_checks_overlap_and_the_publication_follows_them(stage: Stage) -> None:
    """Every step but the installation runs; three jobs at the same time, then the one that follows."""
    stand = Stand(stage)
    [job] = YAML(typ="safe").load((EXAMPLES / "ci_job" / "workflow.yml").read_text())["jobs"].values()
    steps = {step["name"]: step for step in job["steps"] if "run" in step}
    assert list(steps) == ["Install", "Start the bridge", "Check", "Show the bridge's log"]
    # Run where a job runs, but files that a step writes do not belong into the clone.
    work = stage.folder / "checkout"
    work.mkdir()
    for name in ("examples", "asyncfc_mcp"):
        (work / name).symlink_to(REPO / name)
    env = {"PORT": str(free_port()), "ASYNCFC_DEMO_SCALE": "1"}
    outputs: dict[str, str] = {}
    with ends_what_it_leaves(stage):
        for name in ("Start the bridge", "Check", "Show the bridge's log"):
            outputs[name] = stand.run(["bash", "-eo", "pipefail", "-c", steps[name]["run"]], cwd=work, **env)
    assert "listening on" in outputs["Show the bridge's log"]
    runs = stand.runs()
    jobs = tests, lint, build = [runs[f"ci__{tool}"] for tool in ("run_tests", "lint", "build")]
    assert tests.overlaps(lint)  # each call is several processes, so that shorter jobs may end before the next begins
    assert tests.overlaps(build)
    assert runs["ci__publish"].started >= max(each.ended for each in jobs)
    assert re.findall(r"(f\d) .*ci__\w+ completed$", outputs["Check"], re.M) == ["f1", "f2", "f3", "f4"]
