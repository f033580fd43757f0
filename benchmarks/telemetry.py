"""Cost of telemetry: a bridge that sends traces and metrics to a collector, beside one that does not.

With `ASYNCFC_BENCH_BEFORE`, the path of another checkout, that one is measured without telemetry, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Final

import anyio

from benchmarks.harness import REPO, Action, Options, Peer, Workshop, cpu_seconds, server_command, stdio, workshop
from benchmarks.overhead import APART_S, SLOW_S, calling, drain, submit_and_await
from benchmarks.report import Figure, Section, Spread, at_most

BEFORE: Final = "ASYNCFC_BENCH_BEFORE"
COLLECTOR: Final = [sys.executable, "-m", "tests.support.otlp_receiver"]
PROCESSES: Final = 3
"""Sets of processes that share the rounds: two processes of one program differ by some percent as long as they live."""
SETTLE_S: Final = 0.3
"""Pause after a block, in which a bridge does what telemetry has left to do; its CPU counts."""


@contextmanager
def collector() -> Generator[str]:
    """A collector that drops what it receives, in a process of its own; gives its URL."""
    with subprocess.Popen(COLLECTOR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPO, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


@dataclass(frozen=True)
class Block:
    """One block of calls: seconds for the call that 90 % take longer than, for the median and the mean one, and of CPU
    for each."""

    p10_s: float
    p50_s: float
    mean_s: float
    cpu_s: float


@dataclass(eq=False)
class Bridge:
    """One bridge in one way of use."""

    peer: Peer
    action: Action
    calls: int
    apart_s: float = 0.0
    after: Action | None = None
    blocks: list[Block] = field(default_factory=list[Block])

    async def measure(self) -> None:
        """Make a block of calls."""
        times: list[float] = []
        await self.action()  # a process that slept through the others' blocks wakes up
        before = cpu_seconds(self.peer.pid)
        for _ in range(self.calls):
            if self.apart_s:
                await anyio.sleep(self.apart_s)
            began = time.perf_counter()
            await self.action()
            times.append(time.perf_counter() - began)
        await anyio.sleep(SETTLE_S)
        if self.after is not None:
            await self.after()
        spent = cpu_seconds(self.peer.pid) - before
        self.blocks.append(Block(sorted(times)[len(times) // 10], median(times), fmean(times), spent / self.calls))


async def alternate(base: Bridge, others: Sequence[Bridge], rounds: int) -> None:
    """Measure blocks in turn: a block of each of the others has one of `base` before it and one after it."""
    for each in (base, *others):
        for _ in range(30):
            await each.action()
        if each.after is not None:
            await each.after()
    await base.measure()
    for _ in range(rounds):
        for each in others:
            await each.measure()
            await base.measure()


def ratios(base: Bridge, others: Sequence[Bridge], one: Bridge, quantity: str) -> list[float]:
    """Return the ratio of each block of one of the others to the mean of its two neighbours."""
    found: list[float] = []
    for number, block in enumerate(one.blocks):
        at = number * len(others) + others.index(one)
        neighbours = [getattr(each, quantity) for each in base.blocks[at : at + 2]]
        found.append(getattr(block, quantity) / fmean(neighbours))
    return found


async def run(options: Options) -> Section:
    """All rows."""
    section = Section("telemetry", "Telemetry")
    load = f"{os.getloadavg()[0]:.1f}"
    with workshop() as shop, collector() as url:
        sending = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_METRIC_EXPORT_INTERVAL": "10000"}
        environments: dict[str, Mapping[str, str]] = {
            "off": {},
            "on": sending,
            "same": {},
            "traces": sending | {"OTEL_METRICS_EXPORTER": "none"},
        }
        if BEFORE in os.environ:
            environments["before"] = {"PYTHONPATH": os.environ[BEFORE]}
        for way in WAYS:
            options.say(WAYS[way])
            section.figures += await compare(shop, environments, way, options)
    section.notes.append(
        "Each block of calls is compared with the mean of the two blocks before and after it, of the same bridge "
        "without telemetry; all rows of a way of use are from one run. *On* sends traces and metrics to a collector on "
        "this machine, which shares its processors. The p50 is that of a block, the mean is over all its calls, also "
        f"those during which spans were encoded and sent. CPU is that of the bridge's process, until {SETTLE_S:g} s "
        f"after a block. {PROCESSES} sets of processes share the rounds. Load of the machine: {load} before the "
        f"run, {os.getloadavg()[0]:.1f} at its end; its processes had the nice value {os.nice(0)}."
    )
    return section


QUANTITIES: Final = ("p10_s", "p50_s", "mean_s", "cpu_s")
WAYS: Final = {
    "sync": "`mode: sync` call",
    "handle": "handle for a slow call, calls 3 ms apart",
    "await": "submit + `await_future`, grace 0",
}


async def compare(
    shop: Workshop, environments: Mapping[str, Mapping[str, str]], way: str, options: Options
) -> list[Figure]:
    """All rows of a way to use the bridge."""
    settings: dict[str, dict[str, Any]] = {"sync": {"mode": "sync"}, "handle": {}, "await": {"grace_ms": 0}}
    calls = options.scaled(300, 60)
    chosen = {name: variables for name, variables in environments.items() if way == "sync" or name != "traces"}
    times: dict[str, dict[str, list[float]]] = {name: {} for name in chosen}
    shares: dict[str, dict[str, list[float]]] = {name: {} for name in chosen}
    for _ in range(PROCESSES):
        async with AsyncExitStack() as stack:
            bridges: dict[str, Bridge] = {}
            for name, variables in chosen.items():
                entry = shop.entry(server_command("echo"), env_inherit="safe", **settings[way])
                env = {**shop.env(), "PYTHONHASHSEED": "0", **variables}
                peer = await stack.enter_async_context(stdio(shop.bridge({"s": entry}), env))
                if way == "handle":
                    action = calling(peer, "slow", {"seconds": SLOW_S})
                    bridges[name] = Bridge(peer, action, calls // 3, APART_S, drain)
                else:
                    bridges[name] = Bridge(peer, calling(peer) if way == "sync" else submit_and_await(peer), calls)
            base, others = bridges["off"], [bridges[name] for name in chosen if name != "off"]
            await alternate(base, others, max(1, options.scaled(2, 1) * options.rounds // PROCESSES))
        for name, bridge in bridges.items():
            for quantity in QUANTITIES:
                times[name].setdefault(quantity, []).extend(getattr(block, quantity) for block in bridge.blocks)
                if bridge is not base:
                    shares[name].setdefault(quantity, []).extend(ratios(base, others, bridge, quantity))
    found: list[Figure] = []

    def row(name: str, quantity: str, what: str, key: str = "", goal: float | None = None) -> None:
        if name in chosen:
            here, beside = (Spread.of(times[each][quantity]).median * 1e3 for each in (name, "off"))
            bound = None if goal is None else at_most(goal)
            spread = Spread.of(shares[name][quantity])
            found.append(Figure(key, what, spread, bound, f"{here:.2f} ms / {beside:.2f} ms"))

    row("on", "p50_s", f"{WAYS[way]}, p50: on against off", f"{way}_on", 1.1)
    row("on", "p10_s", "… p10, which other programs disturb least")
    row("on", "mean_s", "… mean")
    row("on", "cpu_s", "… bridge's own CPU, all threads", f"{way}_cpu")
    row("traces", "p50_s", "… p50, traces only")
    row("traces", "cpu_s", "… CPU, traces only")
    row("same", "p50_s", "… p50, off against off, which shows the noise")
    row("same", "p10_s", "… p10, off against off")
    row("same", "mean_s", "… mean, off against off")
    row("same", "cpu_s", "… CPU, off against off")
    row("before", "p50_s", "… p50, the other checkout against this one, both off")
    return found
