"""Recorder: writes the life of futures to a journal, and decides what has to be committed before what else.

Owns at-most-once and the memory of results that the journal has. A call that is not repeatable is sent only after its
claim is committed, and a future ends, for everything that looks at it, only after its end is committed: no crash takes
back what a client was shown. Leaves storage to the journal, looking up futures to `archive`, resuming calls to
`recovery`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import anyio

from asyncfc_mcp.core.failure_reasons import QUOTING_NOTHING
from asyncfc_mcp.core.futures import Future, Result, State
from asyncfc_mcp.core.identity import CallerIdentity, FutureKey, id_of
from asyncfc_mcp.core.meta_keys import OUR_KEYS
from asyncfc_mcp.core.records import CallRecord, Change, FailureRecord, FutureRecord
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.journal.api import Journal
from asyncfc_mcp.errors import CallFailed, ProtocolFailure

READ_BYTES: Final = 256 << 10
"""Memory of results that were read and are in the journal as well. A model often fetches a result twice."""


class Recorder:
    """Records the futures of one engine.

    Args:
        journal: where they are written.
        clock: the event loop's, in seconds.
        run: identifies this run of the program in tokens of callers.
        unload: frees the memory of a result that the journal has.
    """

    def __init__(
        self, journal: Journal, clock: Callable[[], float], run: str, unload: Callable[[Future], None]
    ) -> None:
        self._journal = journal
        self._run = run
        self._unload = unload
        self.offset_s = time.time() - clock()
        """Added to a time of the clock, gives that of the wall clock."""
        self._new: tuple[Call, FutureRecord] | None = None
        self._read: OrderedDict[Future, int] = OrderedDict()
        self._read_bytes = 0
        self._unwritten: set[FutureKey] = set()
        """Futures that have ended, and whose results are not in the journal yet."""

    # --- submission ----------------------------------------------------------------------------------------------

    def submitting(self, call: Call) -> None:
        """Begin the record of a call that is about to be scheduled, which may start or end it at once."""
        self._new = call, record_of(call, self.offset_s, self.token)

    def submitted(self) -> None:
        """Write the record, if the scheduler has not led to that already."""
        if self._new is not None:
            call, record = self._new
            record.waits, record.queued_at = call.future.waits, self._wall(call.future.queued_at)
            self._journal.add(record)
            self._new = None

    def token(self, namer: CallerIdentity | None) -> str:
        """Return what tells the owner of a name from others in a record: equal in all runs for a lasting caller, else
        equal in this run only."""
        if namer is not None and namer.lasting:
            return namer.token
        return f"{self._run}/{'' if namer is None else namer.token}"

    # --- start ---------------------------------------------------------------------------------------------------

    def claim(self, call: Call, committed: Callable[[], None]) -> bool:
        """Record that a call is going to be sent; return true if it has to wait until `committed` is called.

        A read-only call that starts at its submission does not wait: it has no record yet from which another run could
        send it, and without a record it is said to have had no effect. One that has waited does, since a record of a
        waiting call is resumed.
        """
        if call.round is not None:
            return False  # it is sent again only after `round_answered`
        future = call.future
        if self._new is not None and self._new[0] is call:
            record, self._new = self._new[1], None
            record.state, record.started_at = State.RUNNING, self._wall(future.started_at)
            # A call that only reads has time: if it is not in the journal, it had no effect.
            self._journal.add(record, soon=not call.read_only)
            if call.read_only:
                return False
            self._journal.after_commit(committed)
            return True
        columns: dict[str, Any] = {"state": State.RUNNING, "started_at": self._wall(future.started_at)}
        if future.queued_at is not None:
            # What has freed its place is known since it has one; all else was written at its submission.
            columns |= {"waits": future.waits, "queued_at": self._wall(future.queued_at)}
        self._journal.update(future.key, Change(columns), committed)
        return True

    def may_send(self, call: Call) -> bool:
        """Return false for a call that another run would send again, since its claim could not be written."""
        return self._journal.usable or self._journal.trusts(call.future.key)

    def asked(self, call: Call, result: Result) -> None:
        """Record questions that a server of 2026-07-28 has returned: they can be asked in another run."""
        if not call.future.private:
            call.asks_again = True
            self._journal.update(call.future.key, Change({"state": State.INPUT_REQUIRED, "round": result}))

    def resumes(self, call: Call) -> bool:
        """Return true for a call that the next run resumes if this one ends now: it waits, or its questions can be
        asked again."""
        if call.future.private or not self._journal.usable or call.ending:
            return False
        return call.future.state is State.WAITING or call.asks_again

    async def round_answered(self, call: Call) -> None:
        """Record that the answers are going to be sent; return once that is committed."""
        call.asks_again = False
        committed = anyio.Event()
        self._journal.update(call.future.key, Change({"state": State.RUNNING, "round": None}), committed.set)
        await committed.wait()

    # --- end -----------------------------------------------------------------------------------------------------

    def end(
        self,
        call: Call,
        state: State,
        result: Result | None,
        failure: CallFailed | None,
        cause: str | None,
        committed: Callable[[], None] | None,
    ) -> None:
        """Record the end of a call; `committed` is called once no crash takes it back. Without it nothing waits for the
        commit, and the end is written with what follows."""
        if self._new is not None and self._new[0] is call:
            self.submitted()
        future = call.future
        columns: dict[str, Any] = {
            "state": state,
            "ended_at": time.time(),
            "cause": cause,
            "has_result": result is not None,
            "round": None,
        }
        if future.read_at is not None:
            columns["read_at"] = columns["ended_at"]
        if failure is not None:
            columns["failure"] = call_failure_record(call, failure)
        if future.attempts > 1:
            columns["attempts"] = future.attempts
        if future.queued_at is not None and future.started_at is None:
            columns["queued_at"] = self._wall(future.queued_at)
        soon = committed is not None
        if committed is None and result is not None:
            self._unwritten.add(future.key)
            committed = partial(self._written, future)
        self._journal.update(future.key, Change(columns, None if future.private else result), committed, soon=soon)

    def _written(self, future: Future) -> None:
        """Free the memory of a result that was read before it was in the journal."""
        self._unwritten.discard(future.key)
        if future.read_at is not None:
            self.keep(future)

    # --- read ----------------------------------------------------------------------------------------------------

    def read(self, future: Future) -> None:
        """Record that a result was received. Its memory is freed once others were read after it."""
        if future.done:
            self._journal.update(future.key, Change({"read_at": time.time()}), soon=False)
            self.keep(future)

    def keep(self, future: Future) -> None:
        """Keep a result that was read in memory until `READ_BYTES` of later ones are."""
        if future.private or not self._journal.usable or future.key in self._unwritten:
            return
        if not future.loaded or future.result is None:
            return
        self.loaded(future)
        while self._read_bytes > READ_BYTES:
            oldest, size = self._read.popitem(last=False)
            self._read_bytes -= size
            self._unload(oldest)

    def loaded(self, future: Future) -> None:
        """Count a result among those in memory that the journal has as well, as the last one that was used."""
        size = max(future.size, 1)
        self._read_bytes += size - self._read.pop(future, 0)
        self._read[future] = size

    def _wall(self, at: float | None) -> float | None:
        return None if at is None else at + self.offset_s


def record_of(call: Call, offset_s: float, token: Callable[[CallerIdentity | None], str]) -> FutureRecord:
    """Return the record of a call that has just been submitted.

    Args:
        offset_s: added to a time of the clock, gives that of the wall clock.
        token: returns what tells the owner of a name from others.
    """
    future = call.future
    private = future.private = not call.policy.journal
    bindings = {ref: id_of(key) for ref, key in call.bindings.items()}
    effect = call.effect if call.recorded_effect is None else call.recorded_effect
    made = CallRecord(
        call.tool,
        call.arguments,
        _passed_on(call.meta) if call.meta else None,
        dict(call.capabilities),
        effect.reads,
        effect.writes,
        effect.source,
        read_only=call.read_only,
        repeatable=call.repeatable,
        needs_task=call.needs_task,
        bindings=bindings,
        values=dict(future.substituted),
        after=dict(future.after),
        answers=dict(call.answers),
        forward_questions=call.forward_questions,
        session=call.session,
    )
    return FutureRecord(
        future.scope.key,
        future.scope.listed,
        future.id,
        future.server,
        future.tool,
        name=future.name,
        namer=token(future.namer),
        host=call.client.host if call.client is not None else None,
        conversation=future.conversation,
        submitted_at=future.submitted_at + offset_s,
        ttl_s=future.ttl_s,
        substituted=dict(future.substituted),
        after=dict(future.after),
        call=None if private else made,
        private=private,
    )


def _passed_on(meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the `_meta` of a request without what concerns the bridge only: a key may have any size, and its hash is
    recorded already."""
    return {
        key: value for key, value in meta.items() if not key.startswith(OUR_KEYS) and key != "progressToken"
    } or None


def call_failure_record(call: Call, failure: CallFailed) -> FailureRecord:
    """Return the record of the failure of a call, and mark a failure that must not be written: its text may quote the
    arguments, and the values that were put into them."""
    failure.unwritten = call.future.private or failure.unwritten or any(each.private for each in call.sources.values())
    return failure_record(failure)


def failure_record(failure: CallFailed) -> FailureRecord:
    """Return the record of a failure; of an unwritten one without what it quotes."""
    if failure.unwritten and not isinstance(failure, QUOTING_NOTHING):
        if isinstance(failure, ProtocolFailure):
            detail = f"JSON-RPC error {failure.code}; its text was not written to the journal"
            return FailureRecord(f"{failure.tool} failed: {detail}", detail)
        was_sent = not str(failure).startswith("not sent")
        what = "it may or may not have taken effect" if was_sent else "not sent"
        text = f"{what}; the reason was not written to the journal (setting journal: false)"
        return FailureRecord(text, text)
    if isinstance(failure, ProtocolFailure):
        return FailureRecord(str(failure), failure.detail, failure.code, failure.message, failure.data)
    return FailureRecord(str(failure), failure.detail)
