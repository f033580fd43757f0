"""Progress of running calls, told to the other replicas.

Owns how often: the last progress of each call is announced at most twice a second, all calls of a replica together. It
is never written to a table: a notification that is lost is made up for by the next one.
"""

import json
from collections.abc import Callable
from typing import Any, Final, cast

import anyio
import anyio.abc

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.listener import Listener, Notification, notify
from asyncfc_mcp.signals import WakeUp

PAUSE_S: Final = 0.5
GROUP_BYTES: Final = 5_000
"""Size from which a notification is sent: its payload is limited, and one message has up to 1,800 bytes in it."""

_Progress = tuple[float, float | None, str | None]


class Progress:
    """Announces the progress of the calls of one replica, and takes in that of others.

    Args:
        seq_of: returns the place of a future in the order of submission.
        future_at: returns the unfinished future with a place.
        clock: the event loop's, in seconds.
    """

    def __init__(
        self,
        database: Database,
        replica: str,
        seq_of: Callable[[Future], int | None],
        future_at: Callable[[int], Future | None],
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._replica = replica
        self._seq_of = seq_of
        self._future_at = future_at
        self._clock = clock
        self._told: dict[Future, _Progress | None] = {}
        """Futures whose calls run here, with their progress as of the last announcement."""
        self._changed: dict[Future, None] = {}
        self._woken = WakeUp()

    def attach(self, listener: Listener) -> None:
        """Take in what other replicas announce."""
        listener.handle("progress", self._received)

    def follow(self, future: Future) -> None:
        """Announce the progress of a future whose call runs here, until it has ended."""
        self._told[future] = None
        future.watchers.append(self._watch)

    def _watch(self, future: Future) -> None:
        if future.done:
            self._told.pop(future, None)
            self._changed.pop(future, None)
            if self._watch in future.watchers:
                future.watchers.remove(self._watch)
        elif future.progress is not None and future.progress != self._told.get(future):
            self._changed[future] = None
            self._woken.set()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Announce until cancelled."""
        task_status.started()
        while True:
            await self._woken.wait()
            while items := self._next():
                await notify(self._database, "progress", self._replica, items=items)
            await anyio.sleep(PAUSE_S)

    def _next(self) -> list[tuple[int, _Progress]]:
        """Return what the next notification says."""
        items: list[tuple[int, _Progress]] = []
        size = 0
        while self._changed and size < GROUP_BYTES:
            future = next(iter(self._changed))
            del self._changed[future]
            seq, told = self._seq_of(future), future.progress
            if seq is not None and told is not None:
                self._told[future] = told
                items.append((seq, told))
                size += len(json.dumps(told)) + len(str(seq)) + 4
        return items

    def _received(self, notification: Notification) -> None:
        items = notification.data.get("items")
        if notification.by == self._replica or not isinstance(items, list):
            return
        for seq, told in cast("list[tuple[int, Any]]", items):
            future = self._future_at(seq)
            if future is None or future in self._told:
                continue
            future.progress = tuple(told)
            future.reported_at = self._clock()
            future.changed()
