"""Takeover: what a dead replica leaves behind.

Owns which of its calls go out (again). A call that waited is scheduled here, in its place in the order. One that was
claimed may have been sent, so it ends as interrupted and is never sent by itself, unless its tool's settings say so or
its server has asked a question in between, which can be asked again. Finding dead replicas is `replicas`' job.
"""

import logging
from collections.abc import Callable, Collection, Sequence

import anyio

from asyncfc_mcp.core.backoff import Backoff
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.identity import id_of
from asyncfc_mcp.engine.executor_api import Executor
from asyncfc_mcp.engine.postgres.futures_table import FuturesTable, Row
from asyncfc_mcp.engine.postgres.mirror import Mirror
from asyncfc_mcp.engine.postgres.reader import LookUp
from asyncfc_mcp.engine.recorder import failure_record
from asyncfc_mcp.engine.restoration import restored_call
from asyncfc_mcp.engine.scheduler import Scheduler
from asyncfc_mcp.errors import Interrupted, NotResumed

logger = logging.getLogger(__name__)


class Takeover:
    """Takes over calls of dead replicas.

    Args:
        replica: ID of this replica.
        look_up: brings futures of a scope into memory, by ID.
        soon: does something in a task of its own.
    """

    def __init__(
        self,
        table: FuturesTable,
        replica: str,
        mirror: Mirror,
        scheduler: Scheduler,
        executor: Executor,
        look_up: LookUp,
        soon: Callable[..., None],
    ) -> None:
        self._table = table
        self._replica = replica
        self._mirror = mirror
        self._scheduler = scheduler
        self._executor = executor
        self._look_up = look_up
        self._soon = soon
        self._scheduling: set[int] = set()

    async def of(self, dead: Collection[str]) -> None:
        """Take over what these replicas have left, as far as no other replica has done it, and calls without an owner.
        May be repeated."""
        await self._mirror.catch_up()
        orphans = await self._table.orphans(dead) if dead else []
        # Each tool apart: the rules of one whose server does not start are long in coming.
        async with anyio.create_task_group() as tg:
            for of_tool in _by_tool(orphans):
                tg.start_soon(self._end_or_repeat, of_tool)
        rows = await self._table.adopt(dead)
        for row in rows:
            self.schedule_soon(row.seq)
        if rows:
            logger.info("took over %d calls of replicas that have ended", len(rows))

    async def _end_or_repeat(self, rows: Sequence[Row]) -> None:
        for row in rows:
            record = row.record
            repeatable = record.call is not None and record.call.repeatable
            # Until its answers are about to be sent.
            asks_again = record.round is not None
            if record.call is not None and repeatable and not asks_again:
                rules = await self._executor.rules_of(record.server, record.call.tool)
                asks_again = rules is not None and rules.policy.rerun_interrupted
            if record.call is not None and asks_again:
                if await self._table.requeue(row):
                    self.schedule_soon(row.seq)
            elif await self._table.interrupt(row, failure_record(Interrupted(repeatable=repeatable))):
                logger.warning("%s of %s was interrupted: its replica has ended", record.id, record.tool)
            self._mirror.mark_dirty([row.seq])

    def schedule_soon(self, seq: int) -> None:
        """Schedule a call that waits and is this replica's, as if it had been submitted here."""
        if seq not in self._scheduling:
            self._scheduling.add(seq)
            self._soon(self._schedule, seq)

    async def _schedule(self, seq: int) -> None:
        try:
            backoff = Backoff(1.0, 30.0)
            while True:
                try:
                    return await self._try_to_schedule(seq)
                except Exception:
                    logger.exception("future %d could not be taken over, and is tried again", seq)
                await anyio.sleep(backoff.next())
        finally:
            self._scheduling.discard(seq)
            self._mirror.mark_dirty([seq])  # what was read before may have changed meanwhile

    async def _try_to_schedule(self, seq: int) -> None:
        future = self._mirror.future(seq)
        before = None if future is None else self._scheduler.call_of(future)
        row = (await self._table.calls([seq])).get(seq)
        if future is None or before is None or before.ending or before.claimed or row is None:
            return
        if row.owner != self._replica or row.record.state is not State.WAITING:
            return
        if not before.elsewhere:
            return self._scheduler.launch_again(before)
        if row.record.call is None:
            why = NotResumed("its arguments are not known: they were not written (setting journal: false)")
            return self._scheduler.withdraw(before, why)
        call = restored_call(future, row.record.call)
        call.round = row.record.round
        needed = [*(call.value_dependencies or ()), *call.after]
        if needed:
            await self._look_up(future.scope, [id_of(key) for key in needed])
        rules = await self._executor.rules_of(future.server, call.tool)
        call.policy = before.policy
        if rules is not None:  # else its job may be taken by a replica that has the server
            call.policy, call.validator, call.schema = rules.policy, rules.validator, rules.schema
            call.preset = rules.preset
        if self._scheduler.call_of(future) is before and not (before.ending or before.claimed):
            self._scheduler.adopt(call)


def _by_tool(rows: Sequence[Row]) -> list[list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.record.server, row.record.tool), []).append(row)
    return list(found.values())
