"""One daemon for all sessions, beside a bridge for each: memory, processes, the first list of tools, a call."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.harness import (
    REPO,
    Contender,
    Json,
    Options,
    RawClient,
    Workshop,
    race,
    ratio,
    server_command,
    workshop,
)
from benchmarks.overhead import against
from benchmarks.report import Figure, Section, Spread, Table, at_most
from tests.support.real_servers import RealServer, real_servers

SESSIONS: Final = 5
PATIENCE_S: Final = 60.0
SETTLED_MB: Final = 2.0
"""Growth between two looks, below which memory is taken as settled."""


async def run(options: Options) -> Section:
    """All rows."""
    section = Section("daemon", "One daemon for all sessions")
    with workshop() as shop:
        section.figures += await small(shop, options)
        if not options.smoke:
            sessions(shop, options, section)
    return section


# --- sessions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A way to have sessions.

    Args:
        shared: they join one daemon.
    """

    name: str
    shared: bool

    def command(self, config: Path) -> list[str]:
        """The command of the host's entry."""
        shared = ["--shared"] if self.shared else []
        return [sys.executable, "-m", "asyncfc_mcp", "serve", *shared, "--config", str(config)]


OWN: Final = Way("a bridge for each session", shared=False)
SHARED: Final = Way("one daemon", shared=True)


def environment(shop: Workshop) -> dict[str, str]:
    """The environment of a session; its folders hold no other bridge's files."""
    return shop.env() | {
        "ASYNCFC_STATE_DIR": str(shop.path("state")),
        "ASYNCFC_RUNTIME_DIR": str(shop.path("run")),
    }


def asyncfc(env: dict[str, str], *arguments: str) -> str:
    """The output of a command of the program."""
    command = [sys.executable, "-m", "asyncfc_mcp", *arguments]
    done = subprocess.run(command, env={**env, "PATH": "/usr/bin:/bin"}, cwd=REPO, capture_output=True, text=True)
    return done.stdout


@contextmanager
def stopped_at_the_end(env: dict[str, str]) -> Generator[None]:
    """Stop the daemon of an environment in any case."""
    try:
        yield
    finally:
        asyncfc(env, "daemon", "stop")


def daemon_pid(env: dict[str, str]) -> int:
    """The process of the only daemon of an environment."""
    (daemon,) = json.loads(asyncfc(env, "daemon", "status", "--json"))
    return daemon["pid"]


@dataclass(frozen=True)
class Footprint:
    """Processes of all sessions together, and their memory: each page counted once (proportional set size)."""

    processes: int
    mb: float


def footprint(roots: Sequence[int]) -> Footprint:
    """Wait until the memory of these processes and their descendants has settled, and return it."""
    deadline = time.monotonic() + PATIENCE_S
    last = Footprint(0, 0.0)
    while True:
        try:
            found = _footprint(roots)
        except psutil.NoSuchProcess:  # one of them has just ended
            found = Footprint(0, float("inf"))
        if abs(found.mb - last.mb) < SETTLED_MB or time.monotonic() > deadline:
            return found
        last = found
        time.sleep(2)


def _footprint(roots: Sequence[int]) -> Footprint:
    processes = {
        each.pid: each
        for root in roots
        for each in (psutil.Process(root), *psutil.Process(root).children(recursive=True))
    }
    return Footprint(len(processes), sum(each.memory_full_info().pss for each in processes.values()) / 2**20)


def use_all(client: RawClient, servers: dict[str, RealServer]) -> None:
    """Make one call to each server and wait for all."""
    for name, server in servers.items():
        result = client.call(f"{name}__{server.tool}", {**server.arguments, "_wait": "this"})
        if bool(result.get("isError")) is not server.fails:
            raise RuntimeError(f"{name} failed: {result}")


def sessions(shop: Workshop, options: Options, section: Section) -> None:
    """Five sessions with ten real servers, at two moments, in both ways."""
    servers = real_servers(shop.path("data"))
    found: dict[str, list[Footprint]] = {}
    for way in (OWN, SHARED):
        options.say(f"{SESSIONS} sessions, {len(servers)} servers: {way.name}")
        env = environment(shop)
        config = shop.config({name: server.entry for name, server in servers.items()}, grace_ms=0)
        with ExitStack() as stack:
            stack.enter_context(stopped_at_the_end(env))
            warm = RawClient(way.command(config), env)  # lists of servers are known from an earlier day
            use_all(warm, servers)
            warm.close()
            if way.shared:
                asyncfc(env, "daemon", "stop")
            clients = [stack.enter_context(RawClient(way.command(config), env)) for _ in range(SESSIONS)]
            roots = [client.pid for client in clients] + ([daemon_pid(env)] if way.shared else [])
            found[way.name] = [footprint(roots)]
            use_all(clients[0], servers)
            found[way.name].append(footprint(roots))
            for client in clients[1:]:
                use_all(client, servers)
            found[way.name].append(footprint(roots))
    own, shared = found[OWN.name], found[SHARED.name]
    moments = ("all sessions have listed tools", "one session has used every server", "every session has")
    section.tables.append(
        Table(
            f"{SESSIONS} sessions of a client, {len(servers)} servers ({', '.join(servers)})",
            ("moment", "", "processes", "memory, MB"),
            [
                [moment if way is OWN else "", way.name, str(each[n].processes), f"{each[n].mb:.0f}"]
                for n, moment in enumerate(moments)
                for way, each in ((OWN, own), (SHARED, shared))
            ],
        )
    )
    for key, n in (("memory_listed", 0), ("memory_used_once", 1), ("memory_used", 2)):
        value = shared[n].mb / own[n].mb
        section.figures.append(
            Figure(
                key,
                f"memory with one daemon, against a bridge for each: {moments[n]}",
                Spread(value, value, value, 1),
                None,
                f"{shared[n].mb:.0f} MB / {own[n].mb:.0f} MB",
            )
        )
    section.notes.append(
        "Memory is the proportional set size of all processes: a page that several share counts once. In the daemon, "
        "servers with state of a session have a process for each session that uses them, and the others start at their "
        "first call."
    )


# --- the thin process ----------------------------------------------------------------------------------------------


async def small(shop: Workshop, options: Options) -> list[Figure]:
    """The first list of tools, the memory of a session's own process, and a call."""
    options.say("the first list of tools")
    servers: dict[str, Json] = {
        f"s{n}": {"command": c[0], "args": c[1:]} for n in range(3) for c in (server_command("echo"),)
    }
    config = shop.config(servers, mode="sync")
    env = environment(shop)
    times: dict[str, list[float]] = {OWN.name: [], SHARED.name: []}
    with stopped_at_the_end(env), ExitStack() as stack:
        kept = {way.name: stack.enter_context(RawClient(way.command(config), env)) for way in (SHARED, OWN)}
        for client in kept.values():
            client.call("s0__echo", {"text": "warm"})
        for _ in range(options.rounds * 2):
            for way in (OWN, SHARED):
                began = time.perf_counter()
                client = RawClient(way.command(config), env)  # opens, and lists tools
                times[way.name].append(time.perf_counter() - began)
                client.close()
        thin_mb = psutil.Process(kept[SHARED.name].pid).memory_info().rss / 2**20
        options.say("a call")
        contenders = {name: Contender(_calling(client), options.scaled(300, 60)) for name, client in kept.items()}
        await race(contenders, options.rounds)
    own, shared = times[OWN.name], times[SHARED.name]
    first = {name: Spread.of(each).median * 1e3 for name, each in times.items()}
    return [
        Figure(
            "first_list",
            "from the start to the first list of tools, against a bridge of one's own",
            ratio(shared, own),
            at_most(0.5),
            f"{first[SHARED.name]:.0f} ms / {first[OWN.name]:.0f} ms",
        ),
        Figure(
            "thin_memory",
            "memory of a session's own process (resident)",
            Spread(thin_mb, thin_mb, thin_mb, 1),
            at_most(15.0),
            unit="MB",
            digits=1,
        ),
        Figure(
            "call",
            "call through the daemon, against a bridge of one's own, p50",
            ratio(contenders[SHARED.name].medians, contenders[OWN.name].medians),
            None,
            against(contenders[SHARED.name], contenders[OWN.name]),
        ),
    ]


def _calling(client: RawClient) -> Any:
    async def call() -> object:
        return client.call("s0__echo", {"text": "hello"})

    return call
