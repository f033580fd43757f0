"""Several replicas in one process, over one real database: each a `Bench` of its own.

Owns no assertions. A call is parked at whichever replica has taken its job.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.core.futures import Future, Result
from asyncfc_mcp.core.identity import LOCAL, CallerIdentity
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.postgres_engine import PostgresEngine
from tests.support.engines import Bench
from tests.support.parked_calls import OK, Parked, ParkedCalls, label
from tests.support.postgres_engines import quiet

PATIENCE_S = 30
"""Limit for what happens within tens of milliseconds on an idle machine. Beside other tests on two cores, a takeover
has taken 5 s: the limit only ends a test that hangs."""


@dataclass
class Cluster:
    """Open replicas."""

    replicas: Sequence[Bench]

    async def settle(self) -> None:
        """Let everything happen that can happen now, on all replicas."""
        for _ in range(2):
            for bench in self.replicas:
                await quiet(bench.engine, bench.calls, all_replicas=[each.engine for each in self.replicas])

    async def submit(self, at: int, *args: Any, **more: Any) -> Future:
        """Submit a call at a replica."""
        bench = self.replicas[at]
        names: list[str] = [*more.get("refs", ())]
        more.pop("refs", None)
        if names:
            await bench.engine.look_up(LOCAL, names, None)
        return bench._watch(await bench.engine.submit(bench.submission(*args, **more)))

    async def seen(self, at: int, ref: str, namer: CallerIdentity | None = None) -> Future:
        """Return the future that a replica finds."""
        found = await self.replicas[at].engine.find(LOCAL, ref, namer)
        assert found is not None, f"replica {at} does not find {ref}"
        return found

    async def parked(self, future: Future) -> tuple[int, Parked]:
        """Return a call as soon as the executor of some replica has it, and which one that is."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                for number, bench in enumerate(self.replicas):
                    if label(future) in bench.calls.running:
                        return number, bench.calls.running[label(future)]
                await anyio.sleep(0.002)

    async def end(self, future: Future, outcome: Result | Exception = OK) -> None:
        """End a call, wherever it runs."""
        (await self.parked(future))[1].end(outcome)

    @property
    def running(self) -> list[str]:
        """Labels of the calls that some executor has."""
        return sorted(each for bench in self.replicas for each in bench.calls.running)


@asynccontextmanager
async def replica(url: str, settings: Settings, limits: Mapping[str, int | None]) -> AsyncGenerator[Bench]:
    """Run one replica until the block ends."""
    calls = ParkedCalls()
    engine = PostgresEngine(settings, limits, Database(url))
    bench = Bench(engine, calls, outlives_memory=True)
    bench.settle = partial(quiet, engine, calls)
    async with engine.open(calls):
        yield bench


@asynccontextmanager
async def cluster(
    url: str, *, size: int = 2, limits: Mapping[str, int | None] | None = None, **settings: Any
) -> AsyncGenerator[Cluster]:
    """Run replicas until the block ends."""
    async with AsyncExitStack() as stack:
        benches = [
            await stack.enter_async_context(replica(url, Settings(**settings), limits or {})) for _ in range(size)
        ]
        yield Cluster(benches)
