"""The PostgreSQL engine for the contract suite, and waiting until nothing moves in it any more."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import sniffio

from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.postgres_engine import PostgresEngine
from tests.support.engines import Limits, MakeEngine
from tests.support.parked_calls import ParkedCalls, label
from tests.support.postgres import PostgresServer


def over(server: PostgresServer) -> MakeEngine:
    """Return what makes an engine over a fresh database of a server."""

    @asynccontextmanager
    async def postgres(settings: Settings, limits: Limits) -> AsyncGenerator[Engine]:
        if sniffio.current_async_library() != "asyncio":
            pytest.skip("a database has no virtual clock")
        yield PostgresEngine(settings, limits, Database(server.url(server.fresh_schema())))

    return postgres


async def quiet(engine: Any, calls: ParkedCalls, all_replicas: Sequence[Any] = ()) -> None:
    """Return when a replica has done everything that can be done: jobs are taken, and their calls parked or ended.

    Args:
        all_replicas: those of the cluster, where there are several: any of them may take the jobs.
    """
    with anyio.fail_after(30):
        still = 0
        while still < 2:
            still = still + 1 if await _is_quiet(engine, calls, all_replicas or [engine]) else 0
            await anyio.sleep(0.001)


async def _is_quiet(engine: PostgresEngine, calls: ParkedCalls, replicas: Sequence[PostgresEngine]) -> bool:
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    groups = (
        engine._mirror._intake,
        engine._ends._grouped,
        engine._ready,
        engine._reads,
        engine._board._writes,
        engine._rounds._writes,
    )
    for grouped in groups:
        await grouped.drained()
    [(todo, doing)] = await engine._database.fetch(
        """SELECT count(*) FILTER (WHERE status = 'todo'), count(*) FILTER (WHERE status = 'doing')
            FROM procrastinate_jobs"""
    )
    waiting = [
        each
        for each in engine._execution.calls
        if label(each.future) not in calls.running and not (each.shares and each.future.state is State.RUNNING)
    ]
    running = sum(len(each._execution.calls) for each in replicas)
    untaken = todo and not engine._scheduler.held
    return not (untaken or waiting or engine._mirror.is_stale) and doing == running
