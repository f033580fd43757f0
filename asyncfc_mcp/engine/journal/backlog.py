"""Changes that are not written yet, merged for each future while the writer is busy.

Owns what the event loop and the writer share, under one lock: a batch has each future once, in the order in which the
futures were added. Leaves SQL to `journal_file`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from asyncfc_mcp.core.identity import FutureKey
from asyncfc_mcp.engine.journal.api import OnCommitted


@dataclass(slots=True)
class Entry:
    """What is to be written of one future."""

    values: dict[str, Any]
    """Fields of `FutureRecord`; all of them where it is new."""
    new: bool = False
    result: dict[str, Any] | None = None


@dataclass(slots=True)
class Batch:
    """What was collected while the writer was busy."""

    entries: dict[FutureKey, Entry] = field(default_factory=dict[FutureKey, Entry])
    blocks: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])
    """Scope, first and last number of blocks that were reserved for IDs."""
    callbacks: list[tuple[FutureKey | None, OnCommitted]] = field(
        default_factory=list[tuple[FutureKey | None, OnCommitted]]
    )
    """In order; with the future whose change they were given with."""


class Backlog:
    """Collects changes.

    Args:
        wake: wakes the writer. Called once for each batch, under the lock.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = Lock()
        self._batch = Batch()
        self._woken = False

    def add(self, key: FutureKey, values: dict[str, Any], *, soon: bool = True) -> None:
        with self._lock:
            self._batch.entries[key] = Entry(values, new=True)
            if soon:
                self._notify()

    def update(
        self,
        key: FutureKey,
        values: Mapping[str, Any],
        result: dict[str, Any] | None,
        on_committed: OnCommitted | None,
        *,
        soon: bool = True,
    ) -> None:
        with self._lock:
            entry = self._batch.entries.get(key)
            if entry is None:
                self._batch.entries[key] = Entry(dict(values), result=result)
            else:
                entry.values.update(values)
                if result is not None:
                    entry.result = result
            if on_committed is not None:
                self._batch.callbacks.append((key, on_committed))
            if soon:
                self._notify()

    def reserve(self, scope: str, first: int, last: int) -> None:
        with self._lock:
            self._batch.blocks.append((scope, first, last))
            self._notify()

    def call_back(self, on_committed: OnCommitted) -> None:
        with self._lock:
            self._batch.callbacks.append((None, on_committed))
            self._notify()

    def _notify(self) -> None:
        if not self._woken:
            self._woken = True
            self._wake()

    @property
    def filled(self) -> bool:
        """True if `take` would return something."""
        return self._woken

    def notify(self) -> None:
        """Wake the writer for what was added without that."""
        with self._lock:
            if self._batch.entries:
                self._notify()

    def take(self) -> Batch:
        """Return everything that was collected since the last call."""
        with self._lock:
            batch, self._batch = self._batch, Batch()
            self._woken = False
            return batch
