"""Cost of a call through the bridge, beside a direct connection and other proxies."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Final

import anyio

from benchmarks import peers
from benchmarks.harness import (
    Contender,
    Options,
    Peer,
    RawClient,
    Workshop,
    at_once,
    cpu_seconds,
    free_port,
    http,
    race,
    ratio,
    rss_mb,
    server_command,
    stdio,
    workshop,
)
from benchmarks.report import Figure, Goal, Section, Spread, at_least, at_most

TEXT: Final = {"text": "x" * 16}
SLOW_S: Final = 1.0
"""Duration of a slow call, in seconds: longer than a block of calls, so that none ends while handles are measured."""
CONCURRENT: Final = 32
APART_S: Final = 0.003
"""Pause between calls, in seconds. A model does not call back to back, so the work that a handle leaves behind finishes
before the next call. After a much longer pause, waking up the idle machine would dominate the measurement."""
KNOWN_HOST: Final = "claude-code"
"""Client name of a host with one conversation per connection: its bookkeeping must not cost per call."""
PLAIN: Final = "import sys; sys.modules['uvloop'] = None; "
"""Start of a Python program in which uvloop cannot be imported."""
PLAIN_BRIDGE: Final = PLAIN + "from asyncfc_mcp.cli.main import main; main()"
PLAIN_SCRIPT: Final = PLAIN + "import runpy; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
SYNC: Final = {"mode": "sync"}


async def run(options: Options) -> Section:
    """All rows."""
    section = Section("overhead", "Overhead per call")
    with workshop() as shop:
        stdio_peers: list[peers.Proxy] = []
        http_peers: list[peers.Proxy] = []
        if options.peers:
            options.say("providing peers")
            stdio_peers = peers.provide_all(["FastMCP proxy", "longrun-mcp-proxy"], section.notes)
            http_peers = peers.provide_all(["mcp-proxy"], section.notes)
            http_peers += [peer for peer in stdio_peers if peer.name == "FastMCP proxy"]
        for group in (latency, throughput, in_flight, over_http, start_up):
            options.say(group.__name__.replace("_", " "))
            chosen = http_peers if group is over_http else stdio_peers
            section.figures += await group(shop, options, chosen)
        options.say("memory and live futures")
        section.figures += memory(shop, options)
        section.figures += live_futures(shop, options)
    section.notes.append(
        "Direct: the SDK's client and its low-level server over its own transport, same run, same machine load. "
        "Ratios are taken round by round, each block against the direct block of its round."
    )
    return section


def ms(contender: Contender) -> str:
    """Format the median of the rounds' medians."""
    return f"{Spread.of(contender.medians).median * 1e3:.2f} ms"


def against(contender: Contender, baseline: Contender) -> str:
    """Both absolute times."""
    return f"{ms(contender)} / {ms(baseline)}"


# --- stdio ---------------------------------------------------------------------------------------------------------


def calling(peer: Peer, tool: str = "echo", arguments: Mapping[str, Any] = TEXT) -> Any:
    """An action: one call."""

    async def action() -> None:
        await peer.call(tool, dict(arguments))

    return action


def submit_and_await(peer: Peer) -> Any:
    """An action: a handle, then `await_future` on it."""

    async def action() -> None:
        handle = await peer.call("echo", dict(TEXT))
        assert handle.structured_content is not None
        await peer.call("await_future", {"future_id": handle.structured_content["future_id"]})

    return action


async def drain() -> None:
    """Let the slow calls of a block of handles end, so that their ends do not fall into another's block."""
    await anyio.sleep(SLOW_S * 1.3)


async def latency(shop: Workshop, options: Options, proxies: Sequence[peers.Proxy]) -> list[Figure]:
    """One call at a time over stdio, in both protocol eras, and the CPU that it costs."""
    echo = server_command("echo")
    future = shop.bridge({"s": shop.entry(echo)})
    sync = shop.bridge({"s": shop.entry(echo, mode="sync")})
    no_grace = shop.bridge({"s": shop.entry(echo, grace_ms=0)})
    calls = options.scaled(60, 30)
    found: list[Figure] = []
    async with AsyncExitStack() as stack:

        async def peer(command: Sequence[str], mode: str = "auto") -> Peer:
            return await stack.enter_async_context(stdio(command, shop.env() | peers.QUIET, mode=mode))

        direct, direct_old = await peer(echo), await peer(echo, "legacy")
        synchronous, synchronous_old = await peer(sync), await peer(sync, "legacy")
        bridge, bridge_old = await peer(future), await peer(future, "legacy")
        plain_loop = await peer([sys.executable, "-c", PLAIN_BRIDGE, *sync[3:]])
        without_grace = await peer(no_grace)
        raw = await peer(server_command("raw"), "legacy")
        slow = {"seconds": SLOW_S}
        contenders = {
            "direct": Contender(calling(direct), calls),
            "direct, apart": Contender(calling(direct), calls, apart_s=APART_S),
            "handle": Contender(calling(bridge, "slow", slow), calls, drain, APART_S),
            "handles": Contender(calling(bridge, "slow", slow), calls, drain),
            "sync": Contender(calling(synchronous), calls),
            "await": Contender(submit_and_await(without_grace), calls),
            "grace": Contender(calling(bridge), calls),
            "plain": Contender(calling(plain_loop), calls),
            "floor": Contender(calling(raw), calls),
            "floor, apart": Contender(calling(raw), calls, apart_s=APART_S),
            "direct, old": Contender(calling(direct_old), calls),
            "direct, old, apart": Contender(calling(direct_old), calls, apart_s=APART_S),
            "handle, old": Contender(calling(bridge_old, "slow", slow), calls, drain, APART_S),
            "sync, old": Contender(calling(synchronous_old), calls),
        }
        opened = {proxy.title: await peer(proxy.stdio(echo)) for proxy in proxies}
        contenders |= {title: Contender(calling(each), calls) for title, each in opened.items()}
        await race(contenders, options.rounds)

        def row(key: str, what: str, which: str, goal: Goal | None = None, base: str = "direct") -> None:
            one, baseline = contenders[which], contenders[base]
            spread = ratio(one.medians, baseline.medians)
            found.append(Figure(key, what, spread, goal, against(one, baseline)))

        row("handle", "handle for a slow call, calls 3 ms apart, p50", "handle", at_most(0.5), "direct, apart")
        row("handle_handshake", "… handshake era", "handle, old", at_most(0.5), "direct, old, apart")
        row("", "… floor: the SDK's client on a server that costs nothing", "floor, apart", None, "direct, old, apart")
        row("handle_burst", "… back to back: the last call is being sent on meanwhile", "handles", at_most(0.5))
        row("", "… floor, back to back", "floor", None, "direct, old")
        row("sync", "`mode: sync` call, stdio → stdio, p50", "sync", at_most(1.6))
        row("sync_handshake", "… handshake era", "sync, old", at_most(1.6), "direct, old")
        row("sync_plain_loop", "… without uvloop", "plain")
        for title in opened:
            row("", f"… {title}", title)
        row("submit_await", "submit + `await_future` of an echo, grace 0, p50", "await", at_most(2.6))
        row("grace", "… with grace, one round trip", "grace", at_most(1.9))

        found += await cpu(options, direct, {"sync": synchronous, "handle": bridge} | opened)
    return found


async def cpu(options: Options, direct: Peer, others: Mapping[str, Peer]) -> list[Figure]:
    """CPU time of a proxy's own process for one call, against what the SDK's server spends on it."""
    calls = options.scaled(300, 100)
    rounds = max(3, options.rounds // 2)
    spent: dict[str, list[float]] = {"direct": [], **{name: [] for name in others}}
    for _ in range(rounds):
        for name, peer in {"direct": direct, **others}.items():
            action = calling(peer, "slow", {"seconds": SLOW_S}) if name == "handle" else calling(peer)
            await action()
            before = cpu_seconds(peer.pid)
            for _ in range(calls):
                await action()
            spent[name].append((cpu_seconds(peer.pid) - before) / calls)
            if name == "handle":
                await drain()
    words = {
        "sync": ("cpu_sync", "bridge's own CPU per sync call", at_most(0.8)),
        "handle": ("cpu_handle", "bridge's own CPU per handle", None),
    }
    found: list[Figure] = []
    for name in others:
        key, what, goal = words.get(name, ("", f"… {name}, own CPU per call", None))
        here, base = (Spread.of(spent[which]).median * 1e3 for which in (name, "direct"))
        spread = ratio(spent[name], spent["direct"])
        found.append(Figure(key, what, spread, goal, f"{here:.2f} ms / {base:.2f} ms of CPU"))
    return found


async def throughput(shop: Workshop, options: Options, proxies: Sequence[peers.Proxy]) -> list[Figure]:
    """Calls per second with 32 callers at once."""
    echo = server_command("echo")
    count = options.scaled(480, 160)
    commands = {
        "direct": echo,
        "bridge": shop.bridge({"s": shop.entry(echo, mode="sync")}),
        **{proxy.title: proxy.stdio(echo) for proxy in proxies},
    }
    rates: dict[str, list[float]] = {name: [] for name in commands}
    async with AsyncExitStack() as stack:
        opened = {
            name: await stack.enter_async_context(stdio(command, shop.env() | peers.QUIET))
            for name, command in commands.items()
        }
        for each in range(options.rounds + 1):
            for name, peer in opened.items():
                action = calling(peer)
                seconds = await at_once(lambda _, action=action: action(), count, CONCURRENT)
                if each:  # the first is to warm up
                    rates[name].append(count / seconds)
    found: list[Figure] = []
    for name in commands:
        if name == "direct":
            continue
        key, what, goal = ("throughput", "throughput, 32 concurrent calls, stdio → stdio", at_least(0.7))
        if name != "bridge":
            key, what, goal = "", f"… {name}", None
        here, base = (Spread.of(rates[which]).median for which in (name, "direct"))
        spread = ratio(rates[name], rates["direct"])
        found.append(Figure(key, what, spread, goal, f"{here:.0f}/s / {base:.0f}/s"))
    return found


async def in_flight(shop: Workshop, options: Options, proxies: Sequence[peers.Proxy]) -> list[Figure]:
    """A thousand concurrent calls of a slow tool, until all have returned their results."""
    echo = server_command("echo")
    count, seconds = options.scaled(1000, 250), options.scaled(20, 5) / 10
    commands = {
        "direct": echo,
        "sync": shop.bridge({"s": shop.entry(echo, mode="sync")}),
        "futures": shop.bridge({"s": shop.entry(echo)}),
        **{proxy.title: proxy.stdio(echo) for proxy in proxies},
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    async with AsyncExitStack() as stack:
        opened = {
            name: await stack.enter_async_context(stdio(command, shop.env() | peers.QUIET))
            for name, command in commands.items()
        }
        for peer in opened.values():
            for _ in range(3):
                await peer.call("slow", {"seconds": 0.05})
        for _ in range(max(1, options.rounds // 3)):
            for name, peer in opened.items():
                ids: list[str] = []

                async def one(_: int, peer: Peer = peer, ids: list[str] = ids) -> None:
                    answer = await peer.call("slow", {"seconds": seconds})
                    if peer is opened["futures"]:
                        assert answer.structured_content is not None
                        ids.append(answer.structured_content["future_id"])

                began = time.perf_counter()
                await at_once(one, count, count)
                if ids:
                    gathered = await peer.call("gather", {"future_ids": ids})
                    assert gathered.structured_content is not None
                    results = gathered.structured_content["results"]
                    assert [each["status"] for each in results] == ["completed"] * count
                took[name].append(time.perf_counter() - began)
    words = {
        "sync": ("in_flight_sync", f"{count:,} calls of a {seconds:g} s tool at once, `mode: sync`", at_most(1.3)),
        "futures": ("in_flight", "… as futures, then one `gather`", at_most(1.3)),
    }
    found: list[Figure] = []
    for name in commands:
        if name != "direct":
            key, what, goal = words.get(name, ("", f"… {name}", None))
            here, base = (Spread.of(took[which]).median for which in (name, "direct"))
            found.append(Figure(key, what, ratio(took[name], took["direct"]), goal, f"{here:.2f} s / {base:.2f} s"))
    return found


# --- HTTP ----------------------------------------------------------------------------------------------------------


async def over_http(shop: Workshop, options: Options, proxies: Sequence[peers.Proxy]) -> list[Figure]:
    """One call at a time over Streamable HTTP on loopback, to a stdio downstream, in both protocol eras."""
    echo = server_command("echo")
    calls = options.scaled(40, 20)
    found: list[Figure] = []
    async with AsyncExitStack() as stack:

        async def peer(command: Sequence[str], port: int, mode: str = "auto") -> Peer:
            return await stack.enter_async_context(http(command, port, shop.env() | peers.QUIET, mode=mode))

        async def direct(era: str = "auto", *, plain: bool = False) -> Peer:
            port = free_port()
            command = server_command("echo", "--http", str(port))
            return await peer([command[0], "-c", PLAIN_SCRIPT, *command[1:]] if plain else command, port, era)

        async def bridge(era: str = "auto", *, plain: bool = False, **asyncfc: Any) -> Peer:
            port = free_port()
            command = [*shop.bridge({"s": shop.entry(echo, **asyncfc)}), "--transport", "http", "--port", str(port)]
            return await peer([command[0], "-c", PLAIN_BRIDGE, *command[3:]] if plain else command, port, era)

        async def relay() -> Peer:
            port = free_port()
            return await peer(server_command("relay", "--http", str(port)), port)

        slow = {"seconds": SLOW_S}
        contenders = {
            "direct": Contender(calling(await direct()), calls),
            "direct, old": Contender(calling(await direct("legacy")), calls),
            "direct, plain": Contender(calling(await direct(plain=True)), calls),
            "sync": Contender(calling(await bridge(**SYNC)), calls),
            "sync, old": Contender(calling(await bridge("legacy", **SYNC)), calls),
            "sync, plain": Contender(calling(await bridge(plain=True, **SYNC)), calls),
            "handle": Contender(calling(await bridge(), "slow", slow), calls, drain),
            "handle, old": Contender(calling(await bridge("legacy"), "slow", slow), calls, drain),
            "floor": Contender(calling(await relay()), calls),
        }
        for proxy in proxies:
            port = free_port()
            contenders[proxy.title] = Contender(calling(await peer(proxy.http(echo, port), port)), calls)
        await race(contenders, options.rounds)

        def row(key: str, what: str, which: str, goal: Goal | None = None, base: str = "direct") -> None:
            one, baseline = contenders[which], contenders[base]
            found.append(Figure(key, what, ratio(one.medians, baseline.medians), goal, against(one, baseline)))

        row("http_sync", "Streamable HTTP → stdio, sync call, p50", "sync", at_most(1.2))
        row("http_sync_handshake", "… handshake era", "sync, old", at_most(1.2), "direct, old")
        row("http_sync_plain", "… without uvloop, both", "sync, plain", at_most(1.2), "direct, plain")
        row("", "… floor: bytes relayed to that stdio server by nothing that knows MCP", "floor")
        for proxy in proxies:
            row("", f"… {proxy.title}", proxy.title)
        row("http_handle", "… handle for a slow call", "handle", at_most(0.9))
        row("http_handle_handshake", "… handshake era", "handle, old", at_most(0.9), "direct, old")
    return found


# --- start-up ------------------------------------------------------------------------------------------------------


async def start_up(shop: Workshop, options: Options, proxies: Sequence[peers.Proxy]) -> list[Figure]:
    """From starting a process to its answer to the first `tools/list`."""
    echo = server_command("echo")
    bridge = shop.bridge({"s": shop.entry(echo)})
    took: dict[str, list[float]] = {name: [] for name in ("direct", "known", "new", *(p.title for p in proxies))}

    async def start(name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        began = time.perf_counter()
        async with stdio(command, env):  # lists the tools
            took[name].append(time.perf_counter() - began)

    async with stdio(bridge, shop.env()):
        await anyio.sleep(0.5)  # the listing is cached from here on
    for _ in range(max(3, options.rounds // 2)):
        await start("direct", echo, {})
        await start("known", bridge, shop.env())
        await start("new", bridge, shop.env() | {"ASYNCFC_CACHE_DIR": str(shop.path("cache"))})
        for proxy in proxies:
            await start(proxy.title, proxy.stdio(echo), peers.QUIET)
    words = {
        "known": ("start", "start to first `tools/list`, a server seen before", at_most(1.25)),
        "new": ("start_new", "… the very first time", at_most(1.25)),
    }
    found: list[Figure] = []
    for name, values in took.items():
        if name != "direct":
            key, what, goal = words.get(name, ("", f"… {name}", None))
            here, base = (Spread.of(each).median for each in (values, took["direct"]))
            found.append(Figure(key, what, ratio(values, took["direct"]), goal, f"{here:.2f} s / {base:.2f} s"))
    return found


# --- memory, live futures ------------------------------------------------------------------------------------------


def memory(shop: Workshop, options: Options) -> list[Figure]:
    """Resident memory of the bridge's own process."""
    raw = server_command("raw")
    count = options.scaled(5_000, 2_000)
    limits = {"max_pending": 2 * count}
    with RawClient(server_command("echo"), {}) as client:
        sdk = rss_mb(client.pid)
    idle: list[float] = []
    grown: dict[str, list[float]] = {"pending": [], "stored": []}
    for _ in range(options.scaled(3, 1)):
        with RawClient(shop.bridge({"s": shop.entry(server_command("echo"))}), shop.env()) as client:
            time.sleep(1)
            idle.append(rss_mb(client.pid))
        # Stored results are waited for, a few at a time: calls that pile up would be counted with them.
        stored = {"text": "x" * 1024, "_wait": "this"}
        for name, tool, arguments, window in (("pending", "hold", {}, 256), ("stored", "echo", stored, 8)):
            with RawClient(shop.bridge({"s": shop.entry(raw, grace_ms=0)}, **limits), shop.env()) as client:
                call = ("tools/call", {"name": tool, "arguments": dict(arguments)})
                client.many([call] * 500, window)  # what grows once is no part of what a future costs
                before = rss_mb(client.pid)
                client.many([call] * count, window)
                time.sleep(0.3)
                grown[name].append((rss_mb(client.pid) - before) / count * 1000)
    return [
        Figure(
            "rss_idle",
            "RSS idle, one downstream",
            Spread.of(idle),
            at_most(60),
            f"the SDK's echo server: {sdk:.1f} MB",
            unit="MB",
            digits=1,
        ),
        Figure("rss_pending", "RSS per 1,000 pending futures", Spread.of(grown["pending"]), at_most(5), unit="MB"),
        Figure("rss_stored", "RSS per 1,000 stored results of 1 KB", Spread.of(grown["stored"]), at_most(6), unit="MB"),
    ]


def live_futures(shop: Workshop, options: Options) -> list[Figure]:
    """Cost of a call while others are in flight: bridges with few and with many of them, in turn."""
    sizes = (10, 1_000) if options.smoke else (10, 1_000, 100_000)
    times = live_futures_at(shop, sizes, options.scaled(7, 4))
    return [
        Figure(
            f"live_{size}",
            f"cost per call with {size:,} live futures, against 10",
            ratio(times[size], times[10]),
            at_most(1.2),
            f"{Spread.of(times[size]).median * 1e3:.2f} ms / {Spread.of(times[10]).median * 1e3:.2f} ms",
        )
        for size in sizes[1:]
    ]


def submit_and_await_raw(client: RawClient) -> None:
    """A handle, then `await_future` on it."""
    handle = client.call("echo", TEXT)
    client.call("await_future", {"future_id": handle["structuredContent"]["future_id"]})


def live_futures_at(shop: Workshop, sizes: Sequence[int], rounds: int, calls: int = 100) -> dict[int, list[float]]:
    """Seconds for a handle and its `await_future`, a median for each round, by the number of live futures."""
    command = shop.bridge({"s": shop.entry(server_command("raw"), grace_ms=0)}, max_pending=max(sizes) * 2)
    times: dict[int, list[float]] = {size: [] for size in sizes}
    with ExitStack() as stack:
        clients = {size: stack.enter_context(RawClient(command, shop.env(), name=KNOWN_HOST)) for size in sizes}
        for size, client in clients.items():
            client.many([("tools/call", {"name": "hold", "arguments": {}})] * size)
            for _ in range(20):
                submit_and_await_raw(client)
        for _ in range(rounds):
            for size, client in clients.items():
                samples: list[float] = []
                for _ in range(calls):
                    began = time.perf_counter()
                    submit_and_await_raw(client)
                    samples.append(time.perf_counter() - began)
                times[size].append(Spread.of(samples).median)
    return times
