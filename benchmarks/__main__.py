"""`python -m benchmarks NAME`: measure, print a table, keep it on request."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from rich.console import Console

from benchmarks import report
from benchmarks.harness import REPO, Options

NAMES: Final = (
    "overhead",
    "sign_in",
    "daemon",
    "engines",
    "telemetry",
    "replicas",
    "replay",
    "scale",
    "tokens",
    "scheduling",
)
AGAIN: Final = 2
"""Repetitions of a smoke run for grossly worse figures: noise disappears, a regression stays."""
BUSY: Final = 1.25
"""Maximum load per core for a smoke run to judge figures; its own load is below one."""


def machine() -> str:
    """Describe the machine and the versions in one paragraph."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    cores = 0
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
        cores = sum(line.startswith("processor") for line in lines)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPO, capture_output=True, text=True, check=False
    ).stdout.strip()
    names = ("mcp", "anyio", "pydantic", "uvicorn", "uvloop")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return (
        f"{time.strftime('%Y-%m-%d')}, commit `{commit or 'unknown'}`; {cpu}, {cores or '?'} cores, "
        f"{platform.system()} {platform.release()}; {python}; {packages}."
    )


def version(package: str) -> str:
    """Return the installed version of a package, or a note that it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _run(name: str, options: Options, console: Console) -> report.Section:
    began = time.perf_counter()
    run = importlib.import_module(f"benchmarks.{name}").run
    section: report.Section = run(options) if name in ("tokens", "scheduling") else anyio.run(partial(run, options))
    section.seconds = time.perf_counter() - began
    section.show(console)
    console.print(f"[dim]{section.seconds:.0f} s[/dim]")
    return section


def main() -> int:
    """Run the requested benchmarks; return 1 if a smoke run finds a gross regression."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=[*NAMES, "all"])
    parser.add_argument("--smoke", action="store_true", help="short; fails on gross regressions of ratios only")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each measurement (default 9, smoke 3)")
    parser.add_argument("--write", action="store_true", help="keep the results in RESULTS.md and committed.json")
    parser.add_argument("--no-peers", action="store_true", help="leave other proxies out (a smoke run always does)")
    arguments = parser.parse_args()
    if arguments.write and arguments.smoke:
        parser.error("--write keeps full runs; leave --smoke out")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    console = Console(width=None if sys.stdout.isatty() else 160)
    options = Options(
        rounds=arguments.rounds or (3 if arguments.smoke else 9),
        smoke=arguments.smoke,
        peers=not (arguments.no_peers or arguments.smoke),
        say=lambda text: console.print(f"[dim]… {text}[/dim]"),
    )
    worse: list[str] = []
    for name in NAMES if arguments.name == "all" else (arguments.name,):
        section = _run(name, options, console)
        if arguments.smoke:
            found = report.regressions(section)
            for _ in range(AGAIN):
                if not found:
                    break
                once_more = report.regressions(_run(name, options, console))
                found = {key: text for key, text in once_more.items() if key in found}
            worse += found.values()
        if arguments.write:
            report.write_results(section, machine())
            report.write_committed(section)
    for line in worse:
        console.print(f"[bold red]gross regression[/bold red] {line}")
    if worse and os.name == "posix" and (load := os.getloadavg()[0]) > BUSY * (os.cpu_count() or 1):
        console.print(f"A load of {load:.1f} on {os.cpu_count()} cores: too busy to tell; not counted as a failure.")
        return 0
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
