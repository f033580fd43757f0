"""The lock of a daemon: there is one daemon of a name, whatever is removed from its folder meanwhile."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.housekeeping.runtime_folder import STALE_S, clean_runtime_folder
from asyncfc_mcp.thin import launch
from asyncfc_mcp.thin.place import Place
from asyncfc_mcp.transports.local.listening import Listening, Replaced, take
from tests.support.virtual_time import run_on_virtual_time

NAME = "0123456789abcdef"
STEPS = st.sampled_from(["start", "sweep", "look", "remove lock", "remove sock", "remove json"])


class House:
    """The daemons of one folder, as far as their files go."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, Place(str(folder), NAME)
        self.daemons: list[Listening] = []

    async def start(self) -> bool:
        found = await take(self.place)
        if found is not None:
            found.open({})
            self.daemons.append(found)
        return found is not None

    async def look(self) -> None:
        """Have each daemon look at its files, as it does every few seconds."""
        for each in list(self.daemons):
            try:
                await each.renew()
            except Replaced:
                self.end(each)

    def end(self, daemon: Listening) -> None:
        self.daemons.remove(daemon)
        daemon.close()
        os.close(daemon._lock)

    async def do(self, step: str) -> None:
        match step.split():
            case ["start"]:
                await self.start()
            case ["look"]:
                await self.look()
            case ["sweep"]:
                newest = max((path.lstat().st_mtime for path in self.folder.iterdir()), default=0.0)
                clean_runtime_folder(self.folder, newest + 2 * STALE_S)
            case _:
                (self.folder / f"{NAME}.{step.split()[1]}").unlink(missing_ok=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, max_size=12))
def test_one_daemon_is_left_whatever_was_removed(steps: Sequence[str]):
    """As soon as those that run have looked at their files; it has the lock, so that no further one starts."""

    async def play(house: House) -> None:
        try:
            for step in ("start", *steps):
                await house.do(step)
            await house.look()
            assert len(house.daemons) == 1
            assert not await house.start()
            house.end(house.daemons[0])
            assert await house.start()
        finally:
            for each in list(house.daemons):
                house.end(each)

    with tempfile.TemporaryDirectory(prefix="asyncfc-") as folder, patch.object(anyio, "notify_closing"):
        run_on_virtual_time(play, House(Path(folder)))


def test_a_session_starts_no_daemon_with_a_lock_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another session may have the file of that name that is there now."""
    environ = {"ASYNCFC_RUNTIME_DIR": str(tmp_path), "ASYNCFC_LOG_DIR": str(tmp_path), "HOME": str(tmp_path)}
    launcher = launch.Launcher(launch.Source(None, None, ["true"]), environ)
    started: list[float] = []
    monkeypatch.setattr(launcher, "_started", lambda deadline: started.append(deadline) or True)
    real = launch.fcntl.flock

    def flock(descriptor: int, how: int) -> Any:
        os.unlink(launcher.place.starting)  # as a sweep does, between the opening and the locking
        return real(descriptor, how)

    with monkeypatch.context() as patched:
        patched.setattr(launch.fcntl, "flock", flock)
        assert (launcher._start(0.0), started) == (False, [])
    assert (launcher._start(0.0), started) == (True, [0.0])
