"""Sessions that share a daemon, which they start themselves: real processes on both sides.

Owns the folder of the daemon, finding its process, and its end after a test.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.support.client import HANDSHAKE, Json, eventually
from tests.support.restarting import Restarting
from tests.support.stage import Ran, Stage
from tests.support.users import User


class SharedSessions(Restarting):
    """A configuration of one counting server, whose bridges are sessions of one daemon."""

    def __init__(self, stage: Stage, folder: Path, **options: Any) -> None:
        stage.env["ASYNCFC_RUNTIME_DIR"] = str(folder)
        self.folder = folder
        super().__init__(stage, **options)

    def command(self, *args: str) -> list[str]:
        return self.stage.command("serve", "--shared", "--config", str(self.config), *args)

    def session(self, *, era: str = HANDSHAKE, opened: bool = True) -> User:
        """A session; not waited for if it is not `opened`."""
        stage = self.stage
        stderr = stage.folder / f"{len(stage.wires):02d}-session.stderr"
        user = User(self.command(), env=stage.env, cwd=stage.folder, stderr=stderr, era=era)
        stage.wires.append(user)
        return user.open() if opened else user

    # -- the daemon

    def pids(self) -> list[int]:
        """The daemons that run, by what they say of themselves."""
        found: list[int] = []
        for file in self.folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                about: Json = json.loads(file.read_text())
                if psutil.pid_exists(about["pid"]):
                    found.append(about["pid"])
        return found

    def daemon(self) -> psutil.Process:
        """The daemon, once it runs."""

        def found() -> psutil.Process | None:
            pids = self.pids()
            assert len(pids) < 2, pids
            with contextlib.suppress(psutil.NoSuchProcess):
                return psutil.Process(pids[0]) if pids else None
            return None

        return eventually(found, "a daemon runs")

    def kill(self) -> None:
        """End the daemon by SIGKILL."""
        process = self.daemon()
        process.send_signal(signal.SIGKILL)
        with contextlib.suppress(psutil.NoSuchProcess):
            eventually(lambda: process.status() == psutil.STATUS_ZOMBIE, "the daemon has ended")

    def run(self, *words: str) -> Ran:
        """`asyncfc-mcp daemon WORDS`."""
        return self.stage.run("daemon", *words)


@contextlib.contextmanager
def shared_sessions(stage: Stage, **options: Any) -> Iterator[SharedSessions]:
    """Sessions whose daemon has ended afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fc", dir="/tmp"))  # the path of a socket is short
    try:
        house = SharedSessions(stage, folder, **options)
        try:
            yield house
        finally:
            for wire in stage.wires:
                wire.hang_up()
            house.run("stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def starts(house: SharedSessions, count: int) -> Sequence[User]:
    """That many sessions, started at the same instant, all of them open."""
    users = [house.session(opened=False) for _ in range(count)]
    return [user.open() for user in users]
