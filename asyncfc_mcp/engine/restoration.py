"""Restoration: futures and calls made from their records, which another run or another process wrote.

Owns the conversion only. Finding records is an archive's job, and which calls may be made (again) recovery's.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.effects import Effect
from asyncfc_mcp.core.futures import Future, Result
from asyncfc_mcp.core.identity import CallerIdentity, Scope, future_key
from asyncfc_mcp.core.records import CallRecord, FailureRecord, FutureRecord
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import CallFailed, ProtocolFailure, RestoredFailure

CALLERS: Final = 1_000
"""Bound on the callers whose identities are kept."""


class Restoration:
    """Makes futures of records.

    Args:
        offset_s: returns what gives the time of the wall clock when added to a time of the engine's clock.
        load: reads the result of a future at once.
    """

    def __init__(self, offset_s: Callable[[], float], load: Callable[[Future], Result]) -> None:
        self._offset_s = offset_s
        self.load = load
        self._callers: OrderedDict[tuple[str | None, str | None], CallerIdentity] = OrderedDict()

    def time(self, at: float | None) -> float | None:
        """Return a time of a record on the engine's clock."""
        return None if at is None else at - self._offset_s()

    def future(self, record: FutureRecord) -> Future:
        """Return the future of a record; one that has ended reads its result when it is needed."""
        offset_s = self._offset_s()
        caller = self._caller(record.host, record.namer)
        future = Future(
            record.id,
            Scope(record.scope, record.listed),
            record.tool,
            record.server,
            name=record.name,
            conversation=record.conversation,
            caller=caller,
            namer=caller if record.name is not None else None,
            submitted_at=record.submitted_at - offset_s,
            started_at=None if record.started_at is None else record.started_at - offset_s,
            ended_at=None if record.ended_at is None else record.ended_at - offset_s,
            read_at=None if record.read_at is None else record.read_at - offset_s,
            ttl_s=record.ttl_s,
            state=record.state,
            cause=record.cause,
            waits=record.waits,
            queued_at=self.time(record.queued_at),
            attempts=record.attempts,
            size=record.size,
            private=record.private,
        )
        if record.substituted:
            future.substituted = record.substituted
        if record.after:
            future.after = record.after
        if record.failure is not None:
            future.failure = failure_of(record.failure, record.tool, record.cause)
        if record.has_result or (record.private and future.done and record.failure is None):
            future.unload(self.load)
        return future

    def _caller(self, host: str | None, namer: str | None) -> CallerIdentity:
        """Return the caller of another run or process, the same object for its futures."""
        known = host, namer
        caller = self._callers.get(known)
        if caller is None:
            caller = self._callers[known] = CallerIdentity(host, ended=True)
            if namer is not None:
                caller.token = namer
            if len(self._callers) > CALLERS:
                self._callers.popitem(last=False)
        return caller


def failure_of(failure: FailureRecord, tool: str, cause: str | None = None) -> CallFailed:
    """Return a failure as it was shown."""
    if failure.code is not None:
        return ProtocolFailure(tool, failure.code, failure.message, failure.data)
    return RestoredFailure(failure.text, failure.detail, cause)


def restored_call(future: Future, made: CallRecord) -> Call:
    """Return the call of a future that has not ended, without the rules of its tool."""
    return Call(
        future,
        made.tool,
        made.arguments,
        Policy(),
        Effect(made.reads, made.writes, made.effect_source),
        read_only=made.read_only,
        repeatable=made.repeatable,
        bindings={ref: future_key(future.scope, of) for ref, of in made.bindings.items()},
        value_dependencies=[future_key(future.scope, of) for of in dict.fromkeys(made.values.values())],
        after=[future_key(future.scope, of) for of in dict.fromkeys(made.after.values())],
        meta=made.meta,
        capabilities=made.capabilities,
        client=future.caller,
        needs_task=made.needs_task,
        answers=made.answers,
        forward_questions=made.forward_questions,
        session=made.session,
        restored=True,
    )


def missing_result(future: Future) -> Result:
    """Return what stands for a result that cannot be read."""
    if future.private:
        text = f"{future.id} {future.tool} has completed; its result was not written to the journal (journal: false)"
    else:
        text = f"{future.id} {future.tool} has completed; its result is no longer in the journal, or damaged there"
    return {"content": [{"type": "text", "text": text}], "isError": True}
