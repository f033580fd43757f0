"""Runs of one program after another over the same journal, each with a bench; a run ends as the test says.

Owns what a crash is: the next run gets a copy of the files as they are at that moment, since the lock of a run in this
process lasts as long as the process.
"""

import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.engine.future_ids import FutureIds
from asyncfc_mcp.engine.journal.sqlite_journal import SqliteJournal
from asyncfc_mcp.engine.memory_engine import MemoryEngine
from tests.support.engines import Bench
from tests.support.parked_calls import ParkedCalls


@dataclass
class Runs:
    """The folder of one configuration, in its state after the last crash."""

    folder: Path
    number: int = 0

    @property
    def current(self) -> Path:
        return self.folder / str(self.number)

    def crash(self) -> None:
        """Continue with what is on the disk now; the run that is open goes on with files that do not count."""
        before = self.current
        self.number += 1
        shutil.copytree(before, self.current)

    @asynccontextmanager
    async def run(
        self, calls: ParkedCalls | None = None, before: Callable[[Bench], object] | None = None, **settings: Any
    ) -> AsyncGenerator[Bench]:
        """Open an engine on the files.

        Args:
            before: called with the bench before the engine is opened.
        """
        folder = self.current
        folder.mkdir(exist_ok=True)
        journal = SqliteJournal(folder / "journal.sqlite3", ttl_s=86_400, max_bytes=1 << 30, threaded=False)
        engine = MemoryEngine(Settings(**settings), {}, ids=FutureIds(folder / "ids", "tests"), journal=journal)
        calls = calls or ParkedCalls()
        bench = Bench(engine, calls, outlives_memory=True)
        if before is not None:
            before(bench)
        async with engine.open(calls):
            yield bench
