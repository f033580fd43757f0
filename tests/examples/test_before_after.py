"""The before-and-after example, with the servers that it names."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.examples.stand import EXAMPLES, Stand
from tests.support.peers import npm_bin
from tests.support.stage import Stage


@pytest.mark.node
@pytest.mark.peers
@pytest.mark.examples_long
@pytest.mark.timeout(240)
def test_the_task_needs_fewer_turns_and_gives_the_same_report(stage: Stage, npm: Path, before_after: Path) -> None:
    """Through the bridge the task takes two turns; the checks run at the same time, and the report follows them all."""
    stand = Stand(stage)
    # `uvx` and `npx` would ask a registry on each run; here they run what the peers contain.
    stand.program("uvx", f'program=$1; shift; exec {before_after}/venv/bin/"$program" "$@"')
    stand.program("npx", f'shift 2; exec {npm_bin(npm, "mcp-server-filesystem")} "$@"')
    written = stage.folder / "time_line.jsonl"
    trace = stage.folder / "trace.json"
    script = str(EXAMPLES / "before_after" / "before_after.py")
    output = stand.run(
        [sys.executable, script, "--think", "0.3", "--write", str(written), "--trace", str(trace)],
        timeout_s=200,
        PYTHONPATH=str(EXAMPLES.parent),
    )
    assert re.findall(r"(\d) model turns", output) == ["4", "4", "2"]
    assert "40 tests passed, 0 failed\n1 problems of style\n" in output
    assert output.endswith("faster, same report\n")
    bars = [json.loads(line) for line in written.read_text().splitlines()]
    assert {bar["run"] for bar in bars} == {"One call at a time", "Calls of a turn together", "Through the bridge"}
    bridge = {bar["call"]: bar for bar in bars if bar["run"] == "Through the bridge"}
    assert len(bridge) == 7
    tests, page, report = (bridge[name] for name in ("project__run_tests", "web__fetch", "files__write_file"))
    assert tests["started"] < page["ended"]
    assert page["started"] < tests["ended"]
    traced = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"project__run_tests", "web__fetch", "files__write_file"} <= {str(name).split(" ")[-1] for name in traced}
    assert report["ended"] >= max(tests["ended"], page["ended"])
