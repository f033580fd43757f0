"""The journal that keeps nothing (`journal: "off"`).

Owns nothing but the promise that callbacks are called. Every look-up finds nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.history import RecordedRun, RecordPage, Serves
from asyncfc_mcp.core.identity import FutureKey
from asyncfc_mcp.core.records import CallRecord, Change, FutureRecord
from asyncfc_mcp.engine.journal.api import OnCommitted
from asyncfc_mcp.signals import WakeUp
from asyncfc_mcp.slices import Slices


class NoJournal:
    """Implements `api.Journal` without a file."""

    usable = False

    def __init__(self) -> None:
        self._callbacks: list[OnCommitted] = []
        self._filled = WakeUp()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        try:
            while True:
                await self._filled.wait()
                self._call_back()
        finally:
            self._call_back()

    def _call_back(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def add(self, record: FutureRecord, *, soon: bool = True) -> None:
        pass

    def update(
        self, key: FutureKey, change: Change, on_committed: OnCommitted | None = None, *, soon: bool = True
    ) -> None:
        if on_committed is not None:
            self.after_commit(on_committed)

    def after_commit(self, on_committed: OnCommitted) -> None:
        self._callbacks.append(on_committed)
        self._filled.set()

    def reserved(self, scope: str, first: int, last: int) -> None:
        pass

    def trusts(self, key: FutureKey) -> bool:
        return True

    def adopted(self) -> list[FutureRecord]:
        return []

    def find(self, scope: str, future_id: str) -> FutureRecord | None:
        return None

    def owner(self, scope: str, future_id: str) -> tuple[int, float] | None:
        return None

    def named(self, scope: str, name: str) -> list[FutureRecord]:
        return []

    def newest(self, scope: str, before: int | None = None) -> Iterator[FutureRecord]:
        return iter(())

    async def page(self, scope: str, query: CallQuery, serves: Serves) -> RecordPage:
        return RecordPage([], None)

    async def call(self, scope: str, future_id: str) -> CallRecord | None:
        return None

    async def runs(self, scope: str, since: float) -> list[RecordedRun]:
        return []

    def place(self) -> tuple[Path, int] | None:
        return None

    def unread(self, scope: str, conversation: str) -> list[FutureRecord]:
        return []

    def forgotten(self, scope: str, number: int) -> bool:
        return False

    def never_sent(self, scope: str, number: int) -> bool:
        return False

    def parsing(self, key: FutureKey) -> Slices[Result | None]:
        return None
        yield

    def result_path(self, key: FutureKey) -> Path | None:
        return None

    def status(self) -> dict[str, Any]:
        return {}
