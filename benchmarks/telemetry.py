"""Cost of telemetry: a bridge that sends traces and metrics to a collector, beside one that does not.

With `ASYNCFC_BENCH_BEFORE`, the path of another checkout, that one is measured in the same rounds, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final

import anyio

from benchmarks.harness import REPO, Contender, Options, Peer, cpu_seconds, race, ratio, server_command, stdio, workshop
from benchmarks.overhead import APART_S, SLOW_S, against, calling, drain, submit_and_await
from benchmarks.report import Figure, Goal, Section, Spread, at_most

BEFORE: Final = "ASYNCFC_BENCH_BEFORE"
COLLECTOR: Final = [sys.executable, "-m", "tests.support.otlp_receiver"]


@contextmanager
def collector() -> Iterator[str]:
    """A collector that drops what it receives, in a process of its own; gives its URL."""
    with subprocess.Popen(COLLECTOR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPO, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


async def run(options: Options) -> Section:
    """All rows."""
    section = Section("telemetry", "Telemetry")
    with workshop() as shop, collector() as url:
        sending = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_METRIC_EXPORT_INTERVAL": "10000"}
        environments: dict[str, Mapping[str, str]] = {
            "off": {},
            "same": {},
            "on": sending,
            "traces": sending | {"OTEL_METRICS_EXPORTER": "none"},
        }
        if BEFORE in os.environ:
            environments["before"] = {"PYTHONPATH": os.environ[BEFORE]}
        section.figures += await latency(shop, environments, options)
    section.notes.append(
        "Against the same bridge without telemetry, same run, round by round. *On* sends traces and metrics with the "
        "SDK's batch processor to a collector on this machine, which shares its processors."
    )
    return section


async def latency(shop: Any, environments: Mapping[str, Mapping[str, str]], options: Options) -> list[Figure]:
    """One call at a time over stdio, and the CPU that it costs."""
    echo = server_command("echo")
    calls = options.scaled(60, 30)
    contenders: dict[str, Contender] = {}
    spent: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        opened: dict[str, tuple[Peer, Any]] = {}
        for name, variables in environments.items():

            async def peer(variables: Mapping[str, str] = variables, **asyncfc: Any) -> Peer:
                command = shop.bridge({"s": shop.entry(echo, env_inherit="safe", **asyncfc)})
                return await stack.enter_async_context(stdio(command, shop.env() | dict(variables)))

            futures, sync, no_grace = await peer(), await peer(mode="sync"), await peer(grace_ms=0)
            slowly = calling(futures, "slow", {"seconds": SLOW_S})
            contenders[f"handle {name}"] = Contender(slowly, calls, drain, APART_S)
            contenders[f"sync {name}"] = Contender(calling(sync), calls)
            contenders[f"await {name}"] = Contender(submit_and_await(no_grace), calls)
            opened[name] = sync, calling(sync)
        await race(contenders, options.rounds)
        for _ in range(max(3, options.rounds // 2)):
            for name, (each, action) in opened.items():
                before = cpu_seconds(each.pid)
                for _ in range(options.scaled(200, 100)):
                    await action()
                await anyio.sleep(0.1)  # what the last calls left to do counts
                spent.setdefault(name, []).append(cpu_seconds(each.pid) - before)
    found: list[Figure] = []
    ways = {
        "sync": "`mode: sync` call, p50",
        "handle": "handle for a slow call, calls 3 ms apart, p50",
        "await": "submit + `await_future`, grace 0, p50",
    }

    def row(name: str, way: str, what: str, goal: Goal | None, base: str) -> None:
        one, baseline = contenders[f"{way} {name}"], contenders[f"{way} {base}"]
        key = f"{way}_{name}" if goal is not None else ""
        found.append(Figure(key, what, ratio(one.medians, baseline.medians), goal, against(one, baseline)))

    for way, what in ways.items():
        row("on", way, f"{what}: on against off", at_most(1.1), "off")
        row("traces", way, "… traces only", None, "off")
        row("same", way, "… off against off, which shows the noise", None, "off")
        if "before" in environments:
            row("off", way, "… off against the checkout before", at_most(1.05), "before")
    count = options.scaled(200, 100)
    for name in ("on", "traces"):
        here, base = (Spread.of(spent[which]).median / count * 1e3 for which in (name, "off"))
        what = "bridge's own CPU per sync call, all threads" + (": on against off" if name == "on" else ", traces only")
        found.append(Figure("", what, ratio(spent[name], spent["off"]), None, f"{here:.2f} ms / {base:.2f} ms of CPU"))
    return found
