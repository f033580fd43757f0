"""Recovery: calls that an earlier run of the program left unfinished are resumed, or end as interrupted.

Owns which calls may go out (again). A call that was claimed may have been sent, so it fails as interrupted and is never
sent by itself; one that was waiting is scheduled again, in the order of submission and before any new call; questions
of a server that keeps no connection for them are asked again. Leaves reading records to `archive`.
"""

import time
from collections.abc import Sequence
from typing import Final

import anyio

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.identity import FutureKey
from asyncfc_mcp.core.records import Change, FutureRecord
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.engine.archive import Archive
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.executor_api import Executor
from asyncfc_mcp.engine.journal.api import Journal
from asyncfc_mcp.engine.recorder import failure_record
from asyncfc_mcp.engine.restoration import restored_call
from asyncfc_mcp.engine.scheduler import Scheduler
from asyncfc_mcp.errors import CallFailed, Interrupted, NotResumed, OwnConnectionGone

RULES: Final = "the listing of its server"
"""Stands among the unmet dependencies of a call until the rules of its tool are known."""


class Recovery:
    """Recovers the calls of ended runs.

    Args:
        journal: where they are.
        archive: turns records into futures.
        store: where unfinished futures are added.
        scheduler: runs resumed calls.
        executor: has the present rules of tools.
    """

    def __init__(
        self, journal: Journal, archive: Archive, store: FutureStore, scheduler: Scheduler, executor: Executor
    ) -> None:
        self._journal = journal
        self._archive = archive
        self._store = store
        self._scheduler = scheduler
        self._executor = executor

    async def adopt(self) -> list[Call]:
        """Take over the unfinished futures of ended runs; return the calls that can be resumed, in their places in the
        order. None of them starts before `resume`."""
        records = self._journal.adopted()
        resumable: list[FutureRecord] = []
        for record in records:
            why = _why_not(record)
            if why is None:
                resumable.append(record)
            else:
                self._fail(record, why)
        if len(resumable) < len(records):
            # Calls that need those are going to look them up.
            committed = anyio.Event()
            self._journal.after_commit(committed.set)
            await committed.wait()
        return [self._schedule(record) for record in resumable]

    async def resume(self, calls: Sequence[Call]) -> None:
        """Have the calls made as soon as the rules of their tools are known."""
        async with anyio.create_task_group() as tg:
            for key in dict.fromkeys(map(_tool_of, calls)):
                tg.start_soon(self._resume, *key, [call for call in calls if _tool_of(call) == key])

    async def _resume(self, server: str, tool: str, session: str | None, calls: Sequence[Call]) -> None:
        rules, gone = None, None
        try:
            rules = await self._executor.rules_of(server, tool, session)
        except OwnConnectionGone as exc:
            gone = exc
        for call in calls:
            if call.future.done or call.ending:
                continue
            if call.was_sent and (rules is None or not rules.policy.rerun_interrupted):
                self._scheduler.abort(call, Interrupted(repeatable=call.repeatable))
            elif rules is None:
                why = NotResumed(f"server {server!r} has no tool {tool!r} or is not available")
                self._scheduler.abort(call, gone or why)
            else:
                call.policy, call.validator, call.schema = rules.policy, rules.validator, rules.schema
                call.preset, call.credentials = rules.preset, rules.credentials
                self._scheduler.meet(call, RULES)

    def _schedule(self, record: FutureRecord) -> Call:
        made = record.call
        assert made is not None
        was_sent = record.state is State.RUNNING
        round_ = record.round if record.state is State.INPUT_REQUIRED else None
        record.state, record.started_at = State.WAITING, None
        future = self._archive.future(record)
        self._store.restore(future)
        call = restored_call(future, made)
        call.round, call.was_sent = round_, was_sent
        call.unmet_dependencies.add(RULES)
        self._scheduler.submit(call)
        return call

    def _fail(self, record: FutureRecord, why: CallFailed) -> None:
        columns = {
            "state": State.FAILED,
            "ended_at": time.time(),
            "failure": failure_record(why),
            "cause": None,
            "round": None,
        }
        self._journal.update(FutureKey(f"{record.scope}/{record.id}"), Change(columns))


def _tool_of(call: Call) -> tuple[str, str, str | None]:
    """Return the server and the tool of a call, and its session where it needs that."""
    return call.future.server, call.tool, call.session


def _why_not(record: FutureRecord) -> CallFailed | None:
    """Return why a call cannot be resumed; None where it can, or may if its tool's settings allow it."""
    repeatable = record.call is not None and record.call.repeatable
    if record.state is State.RUNNING or (record.state is State.INPUT_REQUIRED and record.round is None):
        return None if repeatable and record.state is State.RUNNING else Interrupted(repeatable=repeatable)
    if record.call is None:
        if record.state is State.INPUT_REQUIRED:
            return Interrupted()
        return NotResumed("its arguments are not known: they were not written to the journal (setting journal: false)")
    return None
