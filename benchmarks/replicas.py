"""Cost of the PostgreSQL engine: one bridge and two over a real database, beside one with the default engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final

import psycopg

from benchmarks.harness import Options, RawClient, Workshop, server_command, workshop
from benchmarks.report import Figure, Goal, Section, Spread, at_least, at_most
from tests.support.postgres import PostgresServer, postgres_server

SECRET: Final = "a secret of all replicas of this benchmark"
ROWS: Final = 100_000
CONCURRENT: Final = 32
Samples = dict[str, list[float]]


async def run(options: Options) -> Section:
    """All rows."""
    section = Section("replicas", "PostgreSQL engine")
    with workshop() as shop, postgres_server() as server:
        options.say("latency and throughput")
        section.figures += latency(shop, server, options)
        options.say("two replicas")
        section.figures += two(shop, server, options)
        options.say("many rows")
        section.figures += rows(shop, server, options)
    section.notes.append(
        "PostgreSQL with its defaults (every commit is on disk), on the same machine as bridges, servers and client. "
        "A handle is answered once the call is committed; a result is shown once it is."
    )
    return section


def command(shop: Workshop, engine: str | None, **asyncfc: Any) -> list[str]:
    """The command line of a bridge; None: with the default engine."""
    settings: dict[str, Any] = {} if engine is None else {"engine": engine, "secret": SECRET}
    return shop.bridge({"s": shop.entry(server_command("echo"), owner="any", grace_ms=0, **asyncfc)}, **settings)


def client(shop: Workshop, engine: str | None) -> RawClient:
    """A bridge and its client, after some calls."""
    opened = RawClient(command(shop, engine), shop.env() | {"ASYNCFC_STATE_DIR": str(shop.path("state"))})
    for _ in range(20):
        submit_and_await(opened)
    return opened


def submit_and_await(client: RawClient) -> tuple[float, float]:
    """Make a call and await it; return the milliseconds to its handle and to its result."""
    began = time.perf_counter()
    handle = client.call("echo", {"text": "hi"})
    handled = time.perf_counter()
    client.call("await_future", {"future_id": handle["structuredContent"]["future_id"]})
    return (handled - began) * 1e3, (time.perf_counter() - began) * 1e3


def rate(client: RawClient, count: int) -> float:
    """Calls a second, each of which waits for its result, so many at a time."""
    began = time.perf_counter()
    client.many([("tools/call", {"name": "echo", "arguments": {"text": "x", "_wait": "this"}})] * count, CONCURRENT)
    return count / (time.perf_counter() - began)


def in_flight(client: RawClient, count: int, seconds: float) -> float:
    """Seconds from the first of so many calls of a slow tool until one `gather` has all results."""
    began = time.perf_counter()
    slow = ("tools/call", {"name": "slow", "arguments": {"seconds": seconds}})
    handles = client.many([slow] * count, count)
    ids = [each["structuredContent"]["future_id"] for each in handles]
    while True:
        found = client.call("gather", {"future_ids": ids})["structuredContent"]["results"]
        if all(each["status"] == "completed" for each in found):
            return time.perf_counter() - began


def latency(shop: Workshop, server: PostgresServer, options: Options) -> list[Figure]:
    """One bridge of each kind in turn: a call at a time, 32 at a time, a thousand at once."""
    url = server.url(server.fresh_schema())
    handles: Samples = {"postgres": [], "embedded": []}
    results: Samples = {"postgres": [], "embedded": []}
    rates: Samples = {"postgres": [], "embedded": []}
    flights: Samples = {"postgres": [], "embedded": []}
    count, seconds = options.scaled(1000, 100), options.scaled(20, 5) / 10
    with ExitStack() as stack:
        clients = {
            "postgres": stack.enter_context(client(shop, url)),
            "embedded": stack.enter_context(client(shop, None)),
        }
        for _ in range(options.rounds):
            for name, each in clients.items():
                samples = [submit_and_await(each) for _ in range(options.scaled(60, 20))]
                handles[name].append(Spread.of([handle for handle, _ in samples]).median)
                results[name].append(Spread.of([result for _, result in samples]).median)
                rates[name].append(rate(each, options.scaled(400, 100)))
        for _ in range(max(1, options.rounds // 3)):
            for name, each in clients.items():
                flights[name].append(in_flight(each, count, seconds))

    def row(key: str, what: str, found: Samples, goal: Goal | None, unit: str) -> Figure:
        other = Spread.of(found["embedded"]).median
        return Figure(key, what, Spread.of(found["postgres"]), goal, f"embedded {other:.3g} {unit}", unit=unit)

    return [
        row("", "handle, p50", handles, None, "ms"),
        row("pg_await", "submit + `await_future`, p50", results, at_most(30), "ms"),
        row("pg_rate", f"calls a second, {CONCURRENT} concurrent, one replica", rates, at_least(150), "/s"),
        row("", f"{count:,} calls of a {seconds:g} s tool at once, then one `gather`", flights, None, "s"),
    ]


def two(shop: Workshop, server: PostgresServer, options: Options) -> list[Figure]:
    """Submit at one replica and await at the other."""
    url = server.url(server.fresh_schema())
    samples: list[float] = []
    with ExitStack() as stack:
        one, other = (stack.enter_context(client(shop, url)) for _ in range(2))
        for _ in range(options.scaled(60, 20) * max(1, options.rounds // 2)):
            began = time.perf_counter()
            handle = one.call("echo", {"text": "hi"})
            other.call("await_future", {"future_id": handle["structuredContent"]["future_id"]})
            samples.append((time.perf_counter() - began) * 1e3)
    return [
        Figure("pg_two", "submit at one replica, await at the other", Spread.of(samples), at_most(30), "", unit="ms")
    ]


def rows(shop: Workshop, server: PostgresServer, options: Options) -> list[Figure]:
    """The same with many futures in the database as with few, round by round."""
    count = options.scaled(ROWS, 5_000)
    urls = {"few": server.url(server.fresh_schema()), "many": server.url(server.fresh_schema())}
    measured: Mapping[str, tuple[Samples, Callable[[RawClient], float]]] = {
        "await": ({name: [] for name in urls}, lambda each: submit_and_await(each)[1]),
        "rate": ({name: [] for name in urls}, lambda each: rate(each, options.scaled(300, 100))),
    }
    with ExitStack() as stack:
        clients = {name: stack.enter_context(client(shop, url)) for name, url in urls.items()}
        fill(urls["many"], count)
        for _ in range(max(3, options.rounds)):
            for name, each in clients.items():
                samples, action = measured["await"]
                samples[name].append(Spread.of([action(each) for _ in range(options.scaled(60, 20))]).median)
                samples, action = measured["rate"]
                samples[name].append(action(each))
    waits, rates = measured["await"][0], measured["rate"][0]
    words = f"{count:,} finished futures in the database / none"
    return [
        Figure(
            "pg_flat_await",
            f"submit + `await_future`, {words}",
            Spread.of([many / few for many, few in zip(waits["many"], waits["few"], strict=True)]),
            at_most(1.2),
            f"{Spread.of(waits['many']).median:.1f} ms / {Spread.of(waits['few']).median:.1f} ms",
        ),
        Figure(
            "pg_flat_rate",
            f"calls a second, {words}",
            Spread.of([many / few for many, few in zip(rates["many"], rates["few"], strict=True)]),
            at_least(0.8),
            f"{Spread.of(rates['many']).median:.0f}/s / {Spread.of(rates['few']).median:.0f}/s",
        ),
    ]


def fill(url: str, count: int) -> None:
    """Add finished futures with small results, read a minute ago, below those that there are."""
    base, _, schema = url.partition("?schema=")
    with psycopg.connect(base, options=f"-c search_path={schema}") as connection:
        connection.execute(
            """INSERT INTO futures (token, scope, id, listed, server, tool, state, submitted_at, started_at, ended_at,
                    read_at, substituted, after, private, has_result, size, effect)
                SELECT gen_random_uuid(), 'local', 'f' || (1000000 + n), true, 's', 's__echo', 'completed',
                    now_s() - 60, now_s() - 60, now_s() - 60, now_s() - 60, '{}', '{}', false, true, 60, '{}'
                FROM generate_series(1, %s) AS n""",
            (count,),
        )
        connection.execute(
            """INSERT INTO results SELECT seq, convert_to('{"content":[{"type":"text","text":"hi"}]}', 'UTF8')
                FROM futures WHERE has_result ON CONFLICT DO NOTHING"""
        )
        connection.execute("UPDATE scopes SET last = 1000000 + %s WHERE scope = 'local'", (count,))
