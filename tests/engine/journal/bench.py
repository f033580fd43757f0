"""Journals of tests: open ones, in a thread or on virtual time, and records to write.

Owns no assertions.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.identity import FutureKey
from asyncfc_mcp.core.records import CallRecord, Change, FutureRecord
from asyncfc_mcp.engine.journal.sqlite_journal import SqliteJournal
from asyncfc_mcp.slices import at_once
from tests.support.virtual_time import run_on_virtual_time

NOW = 1_795_000_000.0
"""The wall clock of tests."""


def run(threaded: bool, test: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run an asynchronous test: with the writer's thread on the real clock, without it on the virtual one."""
    if not threaded:
        return run_on_virtual_time(test, *args)

    async def bounded() -> Any:
        with anyio.fail_after(60):
            return await test(*args)

    return anyio.run(bounded)


@asynccontextmanager
async def opened(path: Path, threaded: bool = True, **settings: Any) -> AsyncGenerator[SqliteJournal]:
    """Open a journal for the duration of the block."""
    settings = {"ttl_s": 3600.0, "max_bytes": 64 << 20, **settings}
    journal = SqliteJournal(path, threaded=threaded, **settings)
    async with anyio.create_task_group() as tg:
        await tg.start(journal.run)
        try:
            yield journal
        finally:
            tg.cancel_scope.cancel()


async def committed(journal: SqliteJournal) -> None:
    """Wait until everything is committed, or cannot be."""
    done = anyio.Event()
    journal.after_commit(done.set)
    await done.wait()


def record(number: int, **fields: Any) -> FutureRecord:
    """A new future in the state `waiting`."""
    fields = {"scope": "local", "submitted_at": NOW, "call": CallRecord("tool", {"n": number}), **fields}
    return FutureRecord(listed=True, id=f"f{number}", server="server", tool="server__tool", **fields)


def key(number: int, scope: str = "local") -> FutureKey:
    return FutureKey(f"{scope}/f{number}")


def running() -> Change:
    return Change({"state": State.RUNNING, "started_at": NOW + 1})


def ended(result: dict[str, Any] | None = None, **columns: Any) -> Change:
    """The end of a future, with a result unless it is None."""
    columns = {"state": State.COMPLETED, "ended_at": NOW + 2, "has_result": result is not None, **columns}
    return Change(columns, result)


def text(value: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value}]}


def result_of(journal: SqliteJournal, number: int) -> dict[str, Any] | None:
    return at_once(journal.parsing(key(number)))
