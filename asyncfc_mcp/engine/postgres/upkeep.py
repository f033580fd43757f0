"""Upkeep: what every replica does from time to time, though one of them would be enough.

Owns the pauses. Futures that are no longer kept are dropped; calls that no replica owns are taken over; calls whose
jobs are lost get new ones. Each of these is announced or prevented where it arises, but announcements are lost with a
connection, and at the end of the last replica.
"""

import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.engine.postgres.futures_table import FuturesTable, Row

logger = logging.getLogger(__name__)

PRUNE_S: Final = 60.0
"""Seconds between two looks for futures that are no longer kept."""
HEARTBEATS: Final = 6
"""Heartbeats within the time after which a replica without any counts as dead."""


class Upkeep:
    """Upkeep by one replica.

    Args:
        take_over: takes over calls without an owner.
        queue_of: returns the queue of a call's job.
        on_prune: called together with the look for futures that are no longer kept.
    """

    def __init__(
        self,
        table: FuturesTable,
        settings: Settings,
        *,
        take_over: Callable[[], Awaitable[None]],
        queue_of: Callable[[Row], str],
        on_prune: Callable[[], Awaitable[None]],
    ) -> None:
        self._table = table
        self._settings = settings
        self._take_over = take_over
        self._queue_of = queue_of
        self._on_prune = on_prune

    async def run(self) -> None:
        """Do everything from time to time, until cancelled."""
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._prune)
            tg.start_soon(self._tend)

    async def _prune(self) -> None:
        while True:
            await _pause(PRUNE_S)
            try:
                if dropped := await self._table.prune(self._settings.ttl_s, self._settings.journal_max_bytes):
                    logger.debug("dropped %d futures from the database", dropped)
                await self._on_prune()
            except Exception:
                logger.exception("futures could not be dropped from the database")

    async def _tend(self) -> None:
        for turn in itertools.count():
            try:
                if await self._table.has_unowned():
                    await self._take_over()
                if turn % HEARTBEATS == 0 and (rows := await self._table.without_job()):
                    logger.warning("%d calls had lost their jobs", len(rows))
                    await self._table.defer({row.seq: self._queue_of(row) for row in rows})
            except Exception:
                logger.exception("calls that no replica takes care of could not be found")
            await _pause(self._settings.replica_timeout_s / HEARTBEATS)


async def _pause(seconds: float) -> None:
    """Sleep about so long: replicas that were started together do not work at the same moments."""
    await anyio.sleep(seconds * (0.5 + secrets.randbelow(1000) / 1000))
