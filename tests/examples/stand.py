"""Runs example files as their reader would: from the clone, with `asyncfc-mcp` on the PATH, each in the environment of
its framework.

Owns that environment and the journal that the run leaves behind; a test asks the journal for the times of calls.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.support.stage import REPO, Stage

EXAMPLES = REPO / "examples"
TIMEOUT_S = 60


@dataclass(frozen=True)
class Run:
    """A call of a run, in seconds of the wall clock."""

    started: float
    ended: float

    def overlaps(self, other: Run) -> bool:
        """Tell whether both ran at some instant."""
        return self.started < other.ended and other.started < self.ended


class Stand:
    """The environment of one run."""

    def __init__(self, stage: Stage, *, stand_in: Path | None = None) -> None:
        """
        Args:
            stand_in: a server that takes the place of the bridge.
        """
        self.stage = stage
        self._programs = stage.folder / ("bin" if stand_in is None else "stand-in")
        self._programs.mkdir()
        ran = '-m asyncfc_mcp "$@"' if stand_in is None else str(stand_in)
        # What the bridge finds by PYTHONPATH must not be found by a framework.
        self.program("asyncfc-mcp", f"PYTHONPATH={REPO} exec {sys.executable} {ran}")
        self.env = {
            **{name: value for name, value in stage.env.items() if name != "PYTHONPATH"},
            "PATH": f"{self._programs}:{stage.env['PATH']}",
            "ASYNCFC_PYTHON": sys.executable,
            "ASYNCFC_NOTES": str(stage.folder / "notes"),
            "ASYNCFC_DEMO_SCALE": "0.5",
            "COUNTED": str(stage.folder / "counted"),
        }

    def program(self, name: str, script: str) -> None:
        """Put a program on the PATH."""
        path = self._programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, command: Sequence[str], *, cwd: Path = REPO, timeout_s: float = TIMEOUT_S, **env: str) -> str:
        """Run an example to its end; what it printed."""
        done = subprocess.run(
            command,
            cwd=cwd,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def counted(self) -> int:
        """The most calls that were open at a stand-in at the same time."""
        return int(Path(self.env["COUNTED"]).read_text())

    def runs(self) -> dict[str, Run]:
        """The calls in the journal, by tool."""
        (journal,) = (self.stage.folder / "state" / "journal").glob("*/journal.db")
        with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT tool, state, started_at, ended_at FROM futures").fetchall()
        assert all(state == "completed" for _, state, _, _ in rows), rows
        return {tool: Run(started, ended) for tool, _, started, ended in rows}
