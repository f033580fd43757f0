"""Cost of the journal: a bridge that keeps its futures on disk (the default), beside one that does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import anyio

from benchmarks.harness import (
    Contender,
    Options,
    Peer,
    RawClient,
    Workshop,
    at_once,
    cpu_seconds,
    race,
    ratio,
    rss_mb,
    server_command,
    stdio,
    workshop,
)
from benchmarks.overhead import APART_S, CONCURRENT, SLOW_S, TEXT, against, calling, drain
from benchmarks.report import Figure, Goal, Section, Spread, at_least, at_most

WITHOUT: Final[Mapping[str, Any]] = {"journal": "off"}
WITH: Final[Mapping[str, Any]] = {}
ENGINES: Final = {"off": WITHOUT, "journal": WITH}
KINDS: Final = {"echo": "read-only", "note": "not annotated"}
"""Tool → what it says of its effects. A call of the second kind is sent once its claim is on disk."""
READ_RESULTS: Final = 2_000
ROWS: Final = 100_000


async def run(options: Options) -> Section:
    """All rows."""
    section = Section("engines", "Engines")
    with workshop() as shop:
        for group in (latency, throughput, in_flight):
            options.say(group.__name__.replace("_", " "))
            section.figures += await group(shop, options)
        options.say("memory")
        section.figures += memory(shop, options)
        options.say("start-up")
        section.figures += start_up(shop, options)
    section.notes.append(
        'Against the same bridge with `journal: "off"`, same run, round by round. A tool that is *not annotated* is '
        "called once the claim of the call is committed; the result of any call is shown once it is committed."
    )
    return section


def env(shop: Workshop, state: Path) -> dict[str, str]:
    """The environment of a bridge with a folder of state."""
    return shop.env() | {"ASYNCFC_STATE_DIR": str(state)}


def submit_and_await(peer: Peer, tool: str) -> Any:
    """An action: a handle, then `await_future` on it."""

    async def action() -> None:
        handle = await peer.call(tool, dict(TEXT))
        assert handle.structured_content is not None
        await peer.call("await_future", {"future_id": handle.structured_content["future_id"]})

    return action


async def latency(shop: Workshop, options: Options) -> list[Figure]:
    """One call at a time over stdio, and the CPU that it costs."""
    echo = server_command("echo")
    calls = options.scaled(60, 30)
    contenders: dict[str, Contender] = {}
    spent: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        measured: dict[str, tuple[Peer, Any]] = {}
        for engine, settings in ENGINES.items():

            async def peer(settings: Mapping[str, Any] = settings, **asyncfc: Any) -> Peer:
                command = shop.bridge({"s": shop.entry(echo, **asyncfc)}, **settings)
                return await stack.enter_async_context(stdio(command, env(shop, shop.path("state"))))

            futures, sync, no_grace = await peer(), await peer(mode="sync"), await peer(grace_ms=0)
            for tool in KINDS:
                slow = {"seconds": SLOW_S}
                slowly = calling(futures, "slow" if tool == "echo" else tool, slow)
                contenders[f"handle {tool} {engine}"] = Contender(slowly, calls, drain, APART_S)
                contenders[f"sync {tool} {engine}"] = Contender(calling(sync, tool), calls)
                contenders[f"await {tool} {engine}"] = Contender(submit_and_await(no_grace, tool), calls)
                measured[f"{tool} {engine}"] = sync, calling(sync, tool)
        await race(contenders, options.rounds)
        for _ in range(max(3, options.rounds // 2)):
            for name, (each, action) in measured.items():
                before = cpu_seconds(each.pid)
                for _ in range(options.scaled(200, 100)):
                    await action()
                await anyio.sleep(0.1)  # what the last calls left to do counts
                spent.setdefault(name, []).append(cpu_seconds(each.pid) - before)
    found: list[Figure] = []
    words: list[tuple[str, str, Goal]] = [
        ("handle", "handle for a slow call, calls 3 ms apart, p50", at_most(1.1)),
        ("sync", "`mode: sync` call, p50", at_most(1.1)),
        ("await", "submit + `await_future`, grace 0, p50", at_most(1.3)),
    ]
    for way, what, goal in words:
        for tool, kind in KINDS.items():
            one, base = contenders[f"{way} {tool} journal"], contenders[f"{way} {tool} off"]
            spread = ratio(one.medians, base.medians)
            found.append(Figure(f"{way}_{tool}", f"{what}, {kind}", spread, goal, against(one, base)))
    for tool, kind in KINDS.items():
        spread = ratio(spent[f"{tool} journal"], spent[f"{tool} off"])
        count = options.scaled(200, 100)
        here, base_ms = (Spread.of(spent[f"{tool} {which}"]).median / count * 1e3 for which in ("journal", "off"))
        text = f"{here:.2f} ms / {base_ms:.2f} ms of CPU"
        found.append(Figure(f"cpu_{tool}", f"bridge's own CPU per sync call, {kind}", spread, None, text))
    return found


async def throughput(shop: Workshop, options: Options) -> list[Figure]:
    """Calls per second with 32 callers at once."""
    echo = server_command("echo")
    count = options.scaled(480, 160)
    rates: dict[tuple[str, str], list[float]] = {(tool, engine): [] for tool in KINDS for engine in ENGINES}
    async with AsyncExitStack() as stack:
        opened: dict[str, Peer] = {}
        for engine, settings in ENGINES.items():
            command = shop.bridge({"s": shop.entry(echo, mode="sync")}, **settings)
            opened[engine] = await stack.enter_async_context(stdio(command, env(shop, shop.path("state"))))
        for each in range(options.rounds + 1):
            for tool, engine in rates:
                action = calling(opened[engine], tool)
                seconds = await at_once(lambda _, action=action: action(), count, CONCURRENT)
                if each:  # the first is to warm up
                    rates[tool, engine].append(count / seconds)
    found: list[Figure] = []
    for tool, kind in KINDS.items():
        here, base = (Spread.of(rates[tool, engine]).median for engine in ("journal", "off"))
        spread = ratio(rates[tool, "journal"], rates[tool, "off"])
        what = f"throughput, 32 concurrent sync calls, {kind}"
        found.append(Figure(f"throughput_{tool}", what, spread, at_least(0.8), f"{here:.0f}/s / {base:.0f}/s"))
    return found


async def in_flight(shop: Workshop, options: Options) -> list[Figure]:
    """A thousand concurrent calls of a slow tool as futures, until one `gather` has returned all results."""
    echo = server_command("echo")
    count, seconds = options.scaled(1000, 250), options.scaled(20, 5) / 10
    took: dict[tuple[str, str], list[float]] = {(tool, engine): [] for tool in ("slow", "note") for engine in ENGINES}
    async with AsyncExitStack() as stack:
        opened: dict[str, Peer] = {}
        for engine, settings in ENGINES.items():
            command = shop.bridge({"s": shop.entry(echo)}, **settings)
            opened[engine] = await stack.enter_async_context(stdio(command, env(shop, shop.path("state"))))
            for _ in range(3):
                await opened[engine].call("slow", {"seconds": 0.05})
        for _ in range(max(1, options.rounds // 3)):
            for tool, engine in took:
                peer = opened[engine]
                ids: list[str] = []

                async def one(_: int, peer: Peer = peer, tool: str = tool, ids: list[str] = ids) -> None:
                    answer = await peer.call(tool, {"seconds": seconds})
                    assert answer.structured_content is not None
                    ids.append(answer.structured_content["future_id"])

                began = time.perf_counter()
                await at_once(one, count, count)
                gathered = await peer.call("gather", {"future_ids": ids})
                assert gathered.structured_content is not None
                results = gathered.structured_content["results"]
                assert [each["status"] for each in results] == ["completed"] * count
                took[tool, engine].append(time.perf_counter() - began)
    found: list[Figure] = []
    for tool, kind in (("slow", "read-only"), ("note", "not annotated")):
        here, base = (Spread.of(took[tool, engine]).median for engine in ("journal", "off"))
        what = f"{count:,} calls of a {seconds:g} s tool at once, then one `gather`, {kind}"
        spread = ratio(took[tool, "journal"], took[tool, "off"])
        found.append(Figure(f"in_flight_{tool}", what, spread, at_most(1.3), f"{here:.2f} s / {base:.2f} s"))
    return found


# --- memory and start-up -------------------------------------------------------------------------------------------


def memory(shop: Workshop, options: Options) -> list[Figure]:
    """Resident memory of the bridge's own process: idle, and after results of 1 KB that were read."""
    raw = server_command("raw")
    count = options.scaled(READ_RESULTS, 500)
    idle: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    after: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for _ in range(options.scaled(5, 2)):
        for engine, settings in ENGINES.items():
            command = shop.bridge({"s": shop.entry(raw, grace_ms=0)}, **settings)
            with RawClient(command, env(shop, shop.path("state"))) as client:
                client.many([("tools/call", {"name": "echo", "arguments": {"_wait": "this"}})])
                time.sleep(1)
                idle[engine].append(rss_mb(client.pid))
                arguments = {"text": "x" * 1024, "_wait": "this"}
                client.many([("tools/call", {"name": "echo", "arguments": arguments})] * count, 8)
                time.sleep(1)
                after[engine].append(rss_mb(client.pid))

    def row(key: str, what: str, values: Mapping[str, Sequence[float]]) -> Figure:
        here, base = (Spread.of(values[engine]).median for engine in ("journal", "off"))
        spread = ratio(values["journal"], values["off"])
        return Figure(key, what, spread, at_most(1.0) if key == "rss_read" else None, f"{here:.1f} MB / {base:.1f} MB")

    return [
        row("rss_read", f"RSS after {count:,} results of 1 KB that were read", after),
        row("rss_idle", "RSS after one call", idle),
    ]


def start_up(shop: Workshop, options: Options) -> list[Figure]:
    """From starting the bridge to its answer to the first `tools/list`, by the number of futures in the journal."""
    raw = server_command("raw")
    rows = options.scaled(ROWS, 2_000)
    entry = {"s": shop.entry(raw, grace_ms=0)}
    settings = {"journal_max_bytes": 1 << 30, "max_pending": 100_000}
    off, kept = shop.bridge(entry, **WITHOUT, **settings), shop.bridge(entry, **WITH, **settings)
    states = {name: shop.path("state") for name in ("off", "empty", "filled")}
    commands = {"off": off, "empty": kept, "filled": kept}
    for name, command in commands.items():
        with RawClient(command, env(shop, states[name])) as client:  # the listing is cached from here on
            if name == "filled":
                fill(client, rows)
    took: dict[str, list[float]] = {name: [] for name in commands}
    order = list(commands.items())
    for _ in range(max(3, options.rounds)):
        for name, command in order:
            began = time.perf_counter()
            with RawClient(command, env(shop, states[name])):  # lists the tools
                took[name].append(time.perf_counter() - began)
        order.append(order.pop(0))
    listed = [*after_start(kept, env(shop, states["filled"]), options)]
    size = sum(path.stat().st_size for path in states["filled"].rglob("*") if path.is_file())

    def row(key: str, name: str, what: str) -> Figure:
        here, base = (Spread.of(took[each]).median for each in (name, "off"))
        return Figure(key, what, ratio(took[name], took["off"]), at_most(1.2), f"{here:.3f} s / {base:.3f} s")

    return [
        row("start_empty", "empty", "start to first `tools/list`, nothing in the journal"),
        row("start_filled", "filled", f"… {rows:,} futures in it ({size / 2**20:.0f} MB)"),
        *listed,
    ]


def fill(client: RawClient, rows: int) -> None:
    """Make so many calls, and read their results."""
    arguments = {"text": "x" * 100, "_wait": "this"}
    block = [("tools/call", {"name": "echo", "arguments": arguments})] * 1000
    for _ in range(rows // len(block)):
        client.many(block, 64)


def after_start(command: Sequence[str], environment: Mapping[str, str], options: Options) -> list[Figure]:
    """Requests that read the journal, of a bridge that has just started over many futures."""
    with RawClient(command, environment) as client:

        def timed(action: Callable[[], object]) -> list[float]:
            samples: list[float] = []
            for _ in range(options.scaled(50, 10)):
                began = time.perf_counter()
                action()
                samples.append((time.perf_counter() - began) * 1e3)
            return samples

        found = timed(lambda: client.call("await_future", {"future_id": "f500"}))
        listed = timed(lambda: client.call("list_futures", {}))
    return [
        Figure("", "`await_future` of an earlier run", Spread.of(found), None, unit="ms"),
        Figure("", "`list_futures`", Spread.of(listed), None, unit="ms"),
    ]
