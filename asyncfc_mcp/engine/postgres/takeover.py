"""Takeover: what a dead replica leaves behind.

Owns which of its calls go out (again). A call that waited is scheduled here, in its place in the order. One that was
claimed may have been sent, so it ends as interrupted and is never sent by itself, unless its tool's settings say so or
its server has asked a question in between, which can be asked again. Finding dead replicas is `replicas`' job.
"""

import logging
from collections.abc import Collection

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.identity import id_of
from asyncfc_mcp.engine.executor_api import Executor
from asyncfc_mcp.engine.postgres.futures_table import FuturesTable, Row
from asyncfc_mcp.engine.postgres.mirror import Mirror
from asyncfc_mcp.engine.postgres.reader import LookUp
from asyncfc_mcp.engine.recorder import failure_record
from asyncfc_mcp.engine.restoration import call_of
from asyncfc_mcp.engine.scheduler import Scheduler
from asyncfc_mcp.errors import Interrupted, NotResumed

logger = logging.getLogger(__name__)


class Takeover:
    """Takes over calls of dead replicas.

    Args:
        look_up: brings futures of a scope into memory, by ID.
    """

    def __init__(
        self, table: FuturesTable, mirror: Mirror, scheduler: Scheduler, executor: Executor, look_up: LookUp
    ) -> None:
        self._table = table
        self._mirror = mirror
        self._scheduler = scheduler
        self._executor = executor
        self._look_up = look_up

    async def of(self, dead: Collection[str]) -> None:
        """Take over what these replicas have left, as far as no other replica has done it, and calls without an owner.
        May be repeated."""
        await self._mirror.catch_up()
        for row in await self._table.orphans(dead):
            await self._end_or_repeat(row)
        rows = await self._table.adopt(dead)
        for row in rows:
            if row.record.state is State.WAITING:
                await self._schedule(row)
        if rows:
            logger.info("took over %d calls of replicas that have ended", len(rows))

    async def _end_or_repeat(self, row: Row) -> None:
        record = row.record
        repeatable = record.call is not None and record.call.repeatable
        asks_again = record.state is State.INPUT_REQUIRED and record.round is not None
        if record.call is not None and repeatable and not asks_again:
            rules = await self._executor.rules_of(record.server, record.call.tool)
            asks_again = rules is not None and rules.policy.rerun_interrupted
        if record.call is not None and asks_again:
            await self._table.requeue(row)
        elif await self._table.interrupt(row, failure_record(Interrupted(repeatable=repeatable))):
            logger.warning("%s of %s was interrupted: its replica has ended", record.id, record.tool)
        self._mirror.mark_dirty([row.seq])

    async def _schedule(self, row: Row) -> None:
        """Schedule a call that waits, as if it had been submitted here."""
        future = self._mirror.future(row.seq)
        before = None if future is None else self._scheduler.call_of(future)
        if future is None or before is None or before.ending or not before.elsewhere:
            return  # it has ended, or is scheduled here already
        if row.record.call is None:
            why = NotResumed("its arguments are not known: they were not written (setting journal: false)")
            return self._scheduler.withdraw(before, why)
        call = call_of(future, row.record.call)
        call.round = row.record.round
        needed = [*(call.value_dependencies or ()), *call.after]
        if needed:
            await self._look_up(future.scope, [id_of(key) for key in needed])
        if future.done or before.ending:
            return
        rules = await self._executor.rules_of(future.server, call.tool)
        if rules is not None:  # else its job may be taken by a replica that has the server
            call.policy, call.validator, call.schema = rules.policy, rules.validator, rules.schema
            call.preset = rules.preset
        self._scheduler.adopt(call)
