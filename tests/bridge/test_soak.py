"""A daemon's bridge that runs for a month, mostly idle: nothing grows, and nothing runs more often than it has to."""

import gc
import os
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from random import Random
from unittest.mock import patch

import anyio
import trio

from asyncfc_mcp.cli.upkeep import Bounds, Folders, sweep
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.downstream.supervisor import Status
from tests.support.host_sessions import Daemon, daemon
from tests.support.inprocess_server import Toy, spawning
from tests.support.virtual_time import on_virtual_time

DAY_S = 86_400.0
DAYS = 30
SETTLED_DAYS = 8
"""After these, all that is kept for some days is in balance."""
SLACK = 3
"""More or fewer objects of a kind at two moments mean nothing; one for each session, or each day, would be more."""
WAKE_UPS_PER_DAY = 100
"""Of an idle bridge with these servers. What follows a file, or watches processes and sockets, is not among them."""


class WakeUps(trio.abc.Instrument):
    """Counts the times at which the event loop has had something to do."""

    def __init__(self) -> None:
        self.count, self._last = 0, 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        now = trio.current_time()
        self.count += now != self._last
        self._last = now


@dataclass(frozen=True)
class Size:
    """What a process has at a moment."""

    objects: Counter[str]
    tasks: int
    descriptors: int
    files: dict[str, int]

    @classmethod
    def now(cls, folder: Path) -> "Size":
        gc.collect()
        types = (type(each) for each in gc.get_objects())
        names = (f"{each.__module__}.{each.__qualname__}" for each in types)
        objects = Counter(name for name in names if name.startswith("asyncfc_mcp."))
        files = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        return cls(objects, trio.lowlevel.current_statistics().tasks_living, descriptors, files)


class Month:
    """The bridge, its servers, and what happens on each day."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("called", "unused", "eager", "own")
        self.toys = {name: Toy(name) for name in names}
        self.starts: Counter[str] = Counter()
        self._spawn = spawning(self.toys)
        self._began = time.time() - anyio.current_time()

    def spawn(self, name: str, spec: StdioSpec, *more: object) -> object:
        self.starts[spec.command] += 1
        return self._spawn(name, spec, *more)

    def config(self) -> BridgeConfig:
        own = {"called": {"idle_s": 900.0}, "eager": {"start": "eager"}, "own": {"share": "session"}}
        servers = [ServerConfig(name, StdioSpec(name), **own.get(name, {})) for name in self.toys]
        return BridgeConfig(tuple(servers), Settings(), "test")

    async def pass_day(self, running: Daemon, visits: Collection[int] = (9, 15)) -> None:
        """A day with upkeep each hour, and a session with calls from each of these hours on."""
        folders = Folders(*(self.folder / each for each in ("state", "cache", "logs", "run")))
        for hour in range(24):
            began = anyio.current_time()
            sweep(folders, Bounds(1 << 20, DAY_S), lambda: self._began + anyio.current_time())
            if hour in visits:
                async with running.session("visitor", self.folder, {}) as session:
                    assert len(await session.tools()) > len(self.toys)
                    for name in ("called__echo", "own__echo", "eager__echo"):
                        assert str(hour) in await session.call(name, text=str(hour), _wait="all")
                    await session.call("called__sleep", s=20, _as="rest")
                    assert "slept" in await session.call("await_future", future_id="rest")
            for toy in self.toys.values():
                toy.got.clear()
            await anyio.sleep(began + 3600 - anyio.current_time())


@on_virtual_time
async def test_a_month_leaves_nothing_behind(tmp_path: Path):
    """A session that stays and sends nothing, and others that come and go."""
    month, wake_ups = Month(tmp_path), WakeUps()
    with (
        patch("asyncfc_mcp.downstream.connection.spawn", month.spawn),
        patch("asyncfc_mcp.downstream.on_demand.random", Random(7)),
    ):
        async with (
            daemon(month.config(), cache=tmp_path / "cache", logs=tmp_path / "logs") as running,
            running.session("stays", tmp_path, {}) as session,
        ):
            await session.tools()
            for _ in range(SETTLED_DAYS):
                await month.pass_day(running)
            before, starts = Size.now(tmp_path), month.starts.copy()
            for _ in range(DAYS - SETTLED_DAYS):
                await month.pass_day(running)
            after, starts = Size.now(tmp_path), month.starts - starts
            trio.lowlevel.add_instrument(wake_ups)
            await month.pass_day(running, visits=())
            trio.lowlevel.remove_instrument(wake_ups)
            assert running.bridge.downstreams["unused"].status is Status.SLEEPING
    grown = after.objects - before.objects
    assert {name: count for name, count in grown.items() if count > SLACK} == {}
    assert (after.tasks, after.descriptors) == (before.tasks, before.descriptors)
    assert after.files.keys() == before.files.keys()
    logs = {name for name in after.files if name.startswith("logs/")}
    assert {name for name, size in after.files.items() if size > before.files[name] + 1} <= logs
    days = DAYS - SETTLED_DAYS
    assert (starts["eager"], starts["called"], starts["own"]) == (0, 2 * days, 2 * days)
    assert days - 3 <= starts["unused"] <= days
    assert wake_ups.count < WAKE_UPS_PER_DAY
