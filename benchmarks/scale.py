"""Growth of costs with live futures, downstreams, clients and result sizes. Charts are written to docs/img/."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import mcp_types as types
from mcp import Client

from benchmarks import overhead
from benchmarks.harness import (
    REPO,
    Options,
    Peer,
    RawClient,
    Workshop,
    at_once,
    free_port,
    http_process,
    rss_mb,
    server_command,
    stdio,
    workshop,
)
from benchmarks.report import Figure, Section, Spread, Table, at_least, at_most
from benchmarks.svg import Line, line_chart

IMAGES: Final = REPO / "docs" / "img"
KB: Final = 1 << 10
MB: Final = 1 << 20


async def run(options: Options) -> Section:
    """All four curves."""
    section = Section("scale", "Scale")
    with workshop() as shop:
        options.say("live futures")
        live_futures(shop, options, section)
        options.say("downstreams")
        downstreams(shop, options, section)
        options.say("clients over HTTP")
        await clients(shop, options, section)
        options.say("result size")
        await result_size(shop, options, section)
    return section


def ends(points: Sequence[int], few: Sequence[int]) -> list[int]:
    """The points that become figures: the last, and the last of a smoke run, so that the two can be compared."""
    return sorted({few[-1], points[-1]})


def keep(section: Section, options: Options, name: str, alt: str, chart: str) -> None:
    """Write a chart, unless this is a smoke run: its few points are no curve."""
    if options.smoke:
        return
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"scale-{name}.svg"
    path.write_text(chart, encoding="utf-8")
    section.images.append((alt, path))


def add_table(section: Section, title: str, head: Sequence[str], rows: Mapping[int, Sequence[str]]) -> None:
    """One row for each point."""
    section.tables.append(Table(title, head, [[f"{x:,}", *row] for x, row in rows.items()]))


# --- live futures --------------------------------------------------------------------------------------------------


def live_futures(shop: Workshop, options: Options, section: Section) -> None:
    """Cost of a call while that many others are in flight, against ten."""
    few, full = (10, 1_000), (10, 100, 1_000, 10_000, 100_000)
    sizes = few if options.smoke else full
    times = overhead.live_futures_at(shop, sizes, options.scaled(7, 3))
    spreads = {size: overhead.ratio(times[size], times[10]) for size in sizes}
    for size in ends(sizes, few):
        what = f"cost per call with {size:,} live futures, against 10"
        section.figures.append(Figure(f"live_{size}", what, spreads[size], at_most(1.2)))
    rows = {s: [f"{Spread.of(times[s]).median * 1e3:.2f} ms", f"{spreads[s].median:.2f} ×"] for s in sizes}
    add_table(section, "Live futures", ("in flight", "submit + await", "against 10"), rows)
    line = Line("submit + await", [(size, spreads[size].median) for size in sizes])
    title = "Cost of a call while others are in flight"
    chart = line_chart(title, "live futures", "against 10 live futures", [line], goal=1.2, unit="×")
    keep(section, options, "live-futures", title, chart)


# --- downstreams ---------------------------------------------------------------------------------------------------


def downstreams(shop: Workshop, options: Options, section: Section) -> None:
    """A call through bridges with that many servers, each call to another one, against a bridge with one."""
    few, full = (1, 5), (1, 2, 5, 10, 25, 50)
    counts = few if options.smoke else full
    raw = server_command("raw")
    times: dict[int, list[float]] = {count: [] for count in counts}
    memory: dict[int, float] = {}
    ready: dict[int, float] = {}
    for _ in range(options.scaled(5, 2)):
        # One bridge at a time, next to the bridge with one server: fifty servers must not weigh on the others' turn.
        for count in counts:
            servers = {f"s{n}": shop.entry(raw, mode="sync") for n in range(count)}
            for name, entry in servers.items():
                entry["asyncfc"]["prefix"] = f"{name}_"
            began = time.perf_counter()
            with RawClient(shop.bridge(servers), shop.env()) as client:
                for n in range(count):
                    client.call(f"s{n}_echo", overhead.TEXT)
                ready[count] = time.perf_counter() - began
                samples: list[float] = []
                for n in range(300):
                    before = time.perf_counter()
                    client.call(f"s{n % count}_echo", overhead.TEXT)
                    samples.append(time.perf_counter() - before)
                times[count].append(statistics.median(samples))
                memory[count] = rss_mb(client.pid)
    spreads = {count: overhead.ratio(times[count], times[1]) for count in counts}
    for count in ends(counts, few):
        what = f"cost per call with {count} downstreams, against 1"
        section.figures.append(Figure(f"downstreams_{count}", what, spreads[count], at_most(1.5)))
    rows = {
        count: [
            f"{Spread.of(times[count]).median * 1e3:.2f} ms",
            f"{spreads[count].median:.2f} ×",
            f"{memory[count]:.0f} MB",
            f"{ready[count]:.2f} s",
        ]
        for count in counts
    }
    head = ("downstreams", "sync call", "against 1", "RSS of the bridge", "start until all have answered")
    add_table(section, "Downstreams", head, rows)
    line = Line("sync call", [(count, spreads[count].median) for count in counts])
    title = "Cost of a call by number of downstreams"
    chart = line_chart(title, "downstreams", "against one downstream", [line], goal=1.5, unit="×")
    keep(section, options, "downstreams", title, chart)


# --- clients -------------------------------------------------------------------------------------------------------


async def clients(shop: Workshop, options: Options, section: Section) -> None:
    """Throughput of that many clients calling at once over Streamable HTTP, against the SDK's own server over HTTP."""
    few, full = (1, 10), (1, 10, 20, 50, 100, 200)
    counts = few if options.smoke else full
    echo = server_command("echo")
    direct_port, bridge_port = free_port(), free_port()
    config = shop.bridge({"s": shop.entry(echo, mode="sync")})
    bridge = [*config, "--transport", "http", "--port", str(bridge_port)]
    direct = server_command("echo", "--http", str(direct_port))
    rates: dict[str, dict[int, list[float]]] = {name: {count: [] for count in counts} for name in ("direct", "bridge")}
    with http_process(direct, direct_port), http_process(bridge, bridge_port, shop.env()):
        for count in counts:
            for _ in range(options.scaled(3, 2)):
                for name, port in (("direct", direct_port), ("bridge", bridge_port)):
                    rates[name][count].append(await rate(f"http://127.0.0.1:{port}/mcp", count))
    spreads = {count: overhead.ratio(rates["bridge"][count], rates["direct"][count]) for count in counts}
    for count in ends(counts, few):
        what = f"throughput of {count} clients over HTTP, sync calls, against direct HTTP"
        section.figures.append(Figure(f"clients_{count}", what, spreads[count], at_least(0.7)))
    rows = {
        count: [
            f"{Spread.of(rates['direct'][count]).median:.0f}/s",
            f"{Spread.of(rates['bridge'][count]).median:.0f}/s",
            f"{spreads[count].median:.2f} ×",
        ]
        for count in counts
    }
    head = ("clients", "direct", "bridge, sync", "against direct")
    add_table(section, "Clients at once over Streamable HTTP", head, rows)
    line = Line("calls per second", [(count, spreads[count].median) for count in counts])
    title = "Throughput by number of HTTP clients"
    chart = line_chart(title, "clients", "against the server over HTTP", [line], unit="×")
    keep(section, options, "clients", title, chart)


async def rate(url: str, count: int) -> float:
    """Calls per second of `count` clients that each have a connection of their own."""
    calls = max(2, 240 // count)
    info = types.Implementation(name="benchmark", version="1")
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(Client(url, client_info=info)) for _ in range(count)]
        for client in opened:
            await client.call_tool("echo", dict(overhead.TEXT))

        async def work(number: int) -> None:
            for _ in range(calls):
                await opened[number].call_tool("echo", dict(overhead.TEXT))

        return count * calls / await at_once(work, count, count)


# --- result size ---------------------------------------------------------------------------------------------------


async def result_size(shop: Workshop, options: Options, section: Section) -> None:
    """A call with a large result, as the answer of the call and of an `await_future`, against direct."""
    few, full = (KB, 128 * KB, MB), (KB, 16 * KB, 128 * KB, MB, 4 * MB, 16 * MB)
    sizes = few if options.smoke else full
    echo = server_command("echo")
    async with AsyncExitStack() as stack:

        async def peer(command: Sequence[str]) -> Peer:
            return await stack.enter_async_context(stdio(command, shop.env()))

        peers = {
            "direct": await peer(echo),
            "sync": await peer(shop.bridge({"s": shop.entry(echo, mode="sync")})),
            "await": await peer(shop.bridge({"s": shop.entry(echo, grace_ms=0)})),
        }
        times: dict[str, dict[int, list[float]]] = {name: {size: [] for size in sizes} for name in peers}
        for _ in range(options.scaled(5, 2)):
            for size in sizes:
                for name, each in peers.items():
                    times[name][size].append(await timed(each, size, await_=name == "await"))
    spreads = {
        name: {size: overhead.ratio(times[name][size], times["direct"][size]) for size in sizes}
        for name in ("sync", "await")
    }
    for size in ends(sizes, few):
        for name, what in (("sync", "`mode: sync`"), ("await", "handle + `await_future`")):
            text = f"{size_text(size)} result, {what}, against direct"
            section.figures.append(Figure(f"size_{name}_{size}", text, spreads[name][size], at_most(2.6)))
    rows = {
        size: [
            f"{Spread.of(times['direct'][size]).median * 1e3:.1f} ms",
            f"{spreads['sync'][size].median:.2f} ×",
            f"{spreads['await'][size].median:.2f} ×",
        ]
        for size in sizes
    }
    add_table(section, "Size of the result", ("bytes", "direct", "`mode: sync`", "handle + `await_future`"), rows)
    lines = [
        Line(what, [(size / KB, spreads[name][size].median) for size in sizes])
        for name, what in (("sync", "mode: sync"), ("await", "handle + await"))
    ]
    title = "Cost of a call by size of its result"
    keep(section, options, "result-size", title, line_chart(title, "KB", "against direct", lines, unit="×"))


async def timed(peer: Peer, size: int, *, await_: bool) -> float:
    """Seconds of a call: the median of a few where they are quick."""
    samples: list[float] = []
    for _ in range(max(1, min(20, 2 * MB // size))):
        began = time.perf_counter()
        answer: Any = await peer.call("blob", {"n_bytes": size})
        if await_:
            answer = await peer.call("await_future", {"future_id": answer.structured_content["future_id"]})
        samples.append(time.perf_counter() - began)
        assert len(answer.content[0].text) == size
    return statistics.median(samples)


def size_text(size: int) -> str:
    """Format for display."""
    return f"{size // MB} MB" if size >= MB else f"{size // KB} KB"
