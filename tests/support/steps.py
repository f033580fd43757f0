"""The longest steps of a bridge's event loop, in processor time: whatever else the machine does, they stay the same.

As a program: a bridge on asyncio's own loop that writes down its long steps. Owns nothing of the bridge's code.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.stage import Stage

LOG = "ASYNCFC_TEST_STEPS"
WRITTEN_S = 0.02
"""Shorter steps are not written down."""
BOUND_S = 0.3
"""The goal is 0.1 s of a machine that does nothing else; on one that is shared the same work takes up to three times as
much processor time."""


@dataclass
class Steps:
    """Steps of a while: how long each took, and what it was."""

    long: list[tuple[float, str]] = field(default_factory=list)

    def assert_short(self, bound_s: float = BOUND_S) -> None:
        """Hold all of them to the bound."""
        beyond = [f"{seconds:.3f} s: {what}" for seconds, what in self.long if seconds > bound_s]
        assert not beyond, "\n".join(beyond)


def measured(stage: Stage) -> None:
    """Have the bridges that a stage starts from now on write down their steps."""
    stage.env[LOG] = str(stage.folder / "steps.log")
    Path(stage.env[LOG]).touch()
    stage.command = lambda *args: [sys.executable, __file__, *args]  # type: ignore[method-assign]


@contextmanager
def steps(stage: Stage) -> Iterator[Steps]:
    """The long steps of all bridges of the stage while the block runs."""
    log = Path(stage.env[LOG])
    before = len(log.read_text())
    found = Steps()
    yield found
    for line in log.read_text()[before:].splitlines():
        seconds, _, what = line.partition(" ")
        found.long.append((float(seconds), what))


def main() -> None:
    """Run `asyncfc-mcp` with every step of its event loop timed."""
    sys.modules["uvloop"] = None  # type: ignore[assignment]
    from asyncio.events import Handle  # noqa: TID251

    from asyncfc_mcp.cli.main import main as run

    log = Path(os.environ[LOG]).open("a", buffering=1)
    step = Handle._run

    def timed(handle: Handle) -> None:
        started = time.thread_time()
        try:
            step(handle)
        finally:
            seconds = time.thread_time() - started
            if seconds > WRITTEN_S:
                log.write(f"{seconds:.3f} {handle!r:.300}".replace("\n", " ") + "\n")

    Handle._run = timed  # type: ignore[method-assign]
    sys.argv[0] = "asyncfc-mcp"
    run()


if __name__ == "__main__":
    main()
