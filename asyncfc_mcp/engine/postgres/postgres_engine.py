"""The engine of many processes: futures in PostgreSQL, calls in tasks of whichever replica takes their jobs.

Implements `api.Engine`. Owns what is asked of it: a future is written before its caller is answered. Its replica
decides when it starts. The job that this makes is taken by any replica that can make the call, which claims it first. A
request that waits for it, on whichever replica, reads its end from the table when a notification says that it has
changed. How the parts of a replica work together is `replica`'s.
"""

import math
import secrets
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import anyio

from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.futures import Future, Question, Result, State
from asyncfc_mcp.core.history import FuturePage, RecordedRun, Serves
from asyncfc_mcp.core.identity import CallerIdentity, Scope
from asyncfc_mcp.core.session_archive import SessionArchive
from asyncfc_mcp.core.state_tree import NEAREST
from asyncfc_mcp.core.waits import without_paths
from asyncfc_mcp.engine.api import Claim
from asyncfc_mcp.engine.blockers import CAPACITY
from asyncfc_mcp.engine.call import Call, Submission, call_of
from asyncfc_mcp.engine.postgres.futures_table import Ending, NewFuture
from asyncfc_mcp.engine.postgres.replica import Replica
from asyncfc_mcp.engine.recorder import failure_record, record_of
from asyncfc_mcp.errors import Cancelled, TooManyFutures


class PostgresEngine(Replica):
    """The engine of one replica; see `Replica` for its arguments."""

    # --- submit --------------------------------------------------------------------------------------------------

    @property
    def submits_nowait(self) -> bool:
        return False

    def submit_nowait(self, submission: Submission) -> Future | None:
        return None

    async def submit(self, submission: Submission) -> Future:
        context, bindings, after = submission.context, submission.bindings, submission.after
        scope = context.scope
        follows = [key for key in dict.fromkeys(after.values()) if not self._has_completed(key)] if after else ()
        self._store.admit(scope, context.client, [*bindings.values(), *follows])
        if (unfinished := self._store.pending + self._submitting) >= self._settings.max_pending:
            raise TooManyFutures(
                f"{unfinished} calls have not ended yet", str(self._settings.max_pending), "max_pending"
            )
        if context.name is not None:
            self._store.check_name(scope, context.name, context.namer)
        future = Future(
            "",  # given by the table
            scope,
            submission.name,
            submission.server,
            name=context.name,
            conversation=context.conversation,
            caller=context.client,
            namer=context.namer,
            submitted_at=self._clock(),
            ttl_s=context.ttl_s,
        )
        call = call_of(submission, future, follows)
        record = record_of(call, self._offset_s(), self._token)
        if not scope.listed:
            record.id = f"f{secrets.token_hex(16)}"
        effect = call.effect if call.recorded_effect is None else call.recorded_effect
        new = NewFuture(uuid.uuid4().hex, record, effect, stops=call.policy.on_failure == "stop")
        self._submitting += 1
        try:
            if context.name is None:
                return await self._mirror.submit(new, call)
            with self.announcing(scope, context.name, context.namer):
                await self._mirror.submit(new, call)
        except anyio.get_cancelled_exc_class():
            if context.ends_with_request:
                self._soon(self._cancel_submitted, future)
            raise
        finally:
            self._submitting -= 1
        self._forward_references.notify_all()
        return future

    async def _cancel_submitted(self, future: Future) -> None:
        """Cancel a call whose request ended during its submission, as soon as it is known whether that took place."""
        await self._mirror.catch_up()  # behind the submission, which goes on
        if future.id:
            await self.cancel(future)

    # --- get and list --------------------------------------------------------------------------------------------

    async def look_up(self, scope: Scope, refs: Sequence[str], namer: CallerIdentity | None) -> None:
        await self._reader.look_up(scope, refs)

    async def get(
        self,
        scope: Scope,
        refs: Sequence[str],
        namer: CallerIdentity | None = None,
        *,
        timeout_s: float = math.inf,
    ) -> list[Future]:
        await self._reader.look_up(scope, refs)
        return await super().get(scope, refs, namer, timeout_s=timeout_s)

    async def find(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        await self._reader.look_up(scope, [ref], current=True)
        return await super().find(scope, ref, namer)

    async def fate(self, scope: Scope, ref: str) -> str | None:
        await self._reader.look_up(scope, [ref])
        return self.fate_nowait(scope, ref)

    async def list_futures(self, scope: Scope) -> Iterator[Future]:
        return await self._reader.newest(scope)

    async def history(self, scope: Scope, query: CallQuery, serves: Serves) -> FuturePage:
        return await self._reader.history(scope, query, serves)

    async def recorded_runs(self, scope: Scope, since: float) -> list[RecordedRun] | None:
        return await self._reader.runs(scope, since)

    async def unread(self, scope: Scope, conversation: str) -> list[Future]:
        return await self._reader.unread(scope, conversation)

    def unread_nowait(self, scope: Scope, conversation: str) -> list[Future] | None:
        return None

    def mark_read(self, future: Future) -> None:
        self._store.mark_read(future)
        if future.read_at is None:
            future.read_at = self._clock()
        if future.done and (seq := self._mirror.seq(future)) is not None:
            self._write_read(seq)
        if self._observers and future.done:
            self._observers.read(future)

    # --- wait and cancel -----------------------------------------------------------------------------------------

    @property
    def sessions(self) -> SessionArchive | None:
        return self._sessions

    async def problem(self) -> str | None:
        return None if self._database.available else "the database does not respond"

    async def wait(self, futures: Iterable[Future], *, any_: bool = False, timeout_s: float | None = None) -> bool:
        futures = list(futures)
        ended = await super().wait(futures, any_=any_, timeout_s=timeout_s)
        for future in futures:
            if future.done:
                await self.load(future)
        return ended

    async def cancel(self, future: Future) -> None:
        seq = self._mirror.seq(future)
        if future.done or seq is None:
            return
        if self._execution.has(future) and future.state is not State.WAITING:
            return self._scheduler.cancel(future)
        if future.state is State.WAITING:
            why = Cancelled(sent=False)
            ending = Ending(seq, State.CANCELLED, ran=False, failure=failure_record(why))
            ending.waits = without_paths(future.waits) if future.private else future.waits
            if (await self._table.end([ending]))[0]:
                return self._mirror.mark_dirty([seq])
        if self._execution.has(future):
            self._execution.cancel([seq])
        else:
            await self._table.request_cancel(seq)
        self._mirror.mark_dirty([seq])

    def cancel_nowait(self, future: Future) -> None:
        self._soon(self.cancel, future)

    def waiting_for(self, future: Future, limit: int = NEAREST) -> tuple[tuple[str, ...], str]:
        names, reason = super().waiting_for(future, limit)
        call = self._scheduler.call_of(future)
        if names == CAPACITY and (
            call is None or (call.policy.max_concurrency or self._server_limits.get(future.server)) is None
        ):
            return (), ""  # its job is on its way
        return names, reason

    # --- answer --------------------------------------------------------------------------------------------------

    def claiming(
        self,
        put: Callable[[Question], bool] | None,
        capabilities: Mapping[str, Any],
        caller: CallerIdentity | None = None,
    ) -> AbstractContextManager[Claim]:
        return self._board.claiming(put, capabilities, caller, self._announce)

    def _announce(self, question: Question) -> None:
        self._soon(self._board.announce_claim, question)

    async def question(self, question_id: str) -> Question | None:
        return self._questions.find(question_id) or await self._board.find(question_id)

    async def answer(
        self, question: Question, answer: Result | None, refusal: tuple[int, str, Any] | None = None
    ) -> None:
        if self._board.is_remote(question):
            await self._board.answer(question, answer, refusal)
        else:
            question.settle(answer, refusal)

    def answer_nowait(
        self, question: Question, answer: Result | None, refusal: tuple[int, str, Any] | None = None
    ) -> None:
        self._soon(self.answer, question, answer, refusal)

    async def release(self, question: Question) -> None:
        await super().release(question)
        await self._board.announce_claim(question, 0.0)

    async def question_over(self, question: Question) -> None:
        if self._board.is_remote(question):
            await self._board.over(question)
        else:
            await self._questions.over(question)

    # --- figures and the end -------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> Sequence[Call]:
        return tuple(filter(self._is_here, self._scheduler.unfinished))

    def unfinished_call(self, future: Future) -> Call | None:
        call = self._scheduler.call_of(future)
        return call if call is not None and self._is_here(call) else None

    def _is_here(self, call: Call) -> bool:
        """Return true for a call that this replica has accepted, or makes."""
        return not call.elsewhere or call in self._execution.calls

    def is_resumed_nowait(self, call: Call) -> bool:
        if call.future.private or call.ending:
            return False
        if call in self._execution.calls and call.future.state is not State.WAITING:
            return call.asks_again or (call.repeatable and call.policy.rerun_interrupted)
        return True

    def hold_nowait(self) -> None:
        super().hold_nowait()
        self._replicas.hold()
        for queue in self._queues():
            self._jobs.withdraw(queue)

    def result_path(self, future: Future) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None
