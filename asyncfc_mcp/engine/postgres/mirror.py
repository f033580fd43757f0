"""Mirror: the unfinished futures of all replicas, in the memory of this one.

Owns that each has a future in the store and a place in the order, in the order in which all were submitted, and that
changes which other replicas made are applied to it. The table is the truth: a notification only says which rows to read
again. Leaves starting calls to the scheduler and running them to `execution`.
"""

import logging
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import anyio
import anyio.abc

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Event, Future, Question, State
from asyncfc_mcp.core.identity import FutureKey, Scope
from asyncfc_mcp.core.records import UNFINISHED, FutureRecord
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.postgres.futures_table import FuturesTable, NewFuture, Row
from asyncfc_mcp.engine.postgres.grouped import Grouped
from asyncfc_mcp.engine.postgres.lookups import LookedUp
from asyncfc_mcp.engine.postgres.question_board import QuestionBoard
from asyncfc_mcp.engine.postgres.results import parsed
from asyncfc_mcp.engine.restoration import Restoration, failure_of
from asyncfc_mcp.engine.scheduler import Scheduler
from asyncfc_mcp.errors import Cancelled, NotResumed, RestoredFailure
from asyncfc_mcp.signals import WakeUp

logger = logging.getLogger(__name__)

EAGER_BYTES: Final = 1 << 20
"""Results up to this size are read together with the end of a future that is used here."""
_WITHDRAWN: Final = (str(Cancelled(sent=False)), str(NotResumed("")).partition(";")[0].rstrip())
"""Begin the failures of calls that were taken out of the order without having been tried."""
_EVENTS: Final = {State.COMPLETED: Event.COMPLETE, State.FAILED: Event.FAIL, State.CANCELLED: Event.CANCEL}

New = tuple[NewFuture, Call]


class Mirror:
    """Futures of all replicas that have not ended.

    Args:
        table: the truth.
        replica: ID of this replica.
        store, scheduler: where futures and their calls are added.
        looked_up: where futures are kept that have ended.
        restoration: makes futures of rows.
        board: has the questions of calls that run elsewhere.
    """

    def __init__(
        self,
        table: FuturesTable,
        replica: str,
        store: FutureStore,
        scheduler: Scheduler,
        looked_up: LookedUp,
        restoration: Restoration,
        board: QuestionBoard,
    ) -> None:
        self._table = table
        self._replica = replica
        self._store = store
        self._scheduler = scheduler
        self._looked_up = looked_up
        self._restoration = restoration
        self._board = board
        self._known = 0
        """All submissions up to this `seq` were taken in."""
        self._seqs: dict[FutureKey, int] = {}
        self._futures: dict[int, Future] = {}
        self._reading = 0
        self._missed: set[int] = set()
        """Futures that are not known here and changed while rows were being read, which may be older than that."""
        self.on_row: Callable[[Row], None] = lambda row: None
        """Called with the row of each unfinished future that was read again."""
        self.on_owned: Callable[[int], None] = lambda seq: None
        """Called with each future that waits, is this replica's, and is not scheduled here."""
        self.reads = 0
        """Number of the last look at rows that changed. What it has found may be older than what happened since it
        began."""
        self._dirty: set[int] = set()
        self._dirtied = WakeUp()
        self._refreshing = anyio.Lock()
        self.on_read: Callable[[int], None] = lambda seq: None
        """Called with the place of a future that has ended elsewhere, and whose result a request waits for here."""
        # One at a time: a row that another transaction committed later must not be taken in before an earlier one.
        self._intake = Grouped[New | None, Future | None](self._take_in)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Take in what other replicas submitted so far, and then keep it up to date until cancelled."""
        async with anyio.create_task_group() as tg:
            await tg.start(self._intake.run)
            await self.catch_up()
            task_status.started()
            while True:
                await self._dirtied.wait()
                while self._dirty:
                    await self._refresh()

    # --- submissions ---------------------------------------------------------------------------------------------

    async def submit(self, new: NewFuture, call: Call) -> Future:
        """Write a call, take in those that were submitted before it elsewhere, and schedule it behind them.

        Raises:
            NameInUse: another call of its caller has its name.
        """
        future = await self._intake.do((new, call))
        assert future is not None
        return future

    async def catch_up(self) -> None:
        """Take in what was submitted anywhere before now."""
        await self._intake.do(None)

    async def _take_in(self, group: Sequence[New | None]) -> Sequence[Future | Exception | None]:
        """Submit some calls in one transaction, and take in all rows up to theirs in the order of submission."""
        new = [each for each in group if each is not None]
        with self.reading():
            own: dict[int, Call] = {}
            refused: dict[int, Exception] = {}
            if new:
                written = await self._table.submit([each for each, _ in new], self._known)
                rows, last = list(written.others), written.last
                for (each, call), row in zip(new, written.rows, strict=True):
                    if isinstance(row, Exception):
                        refused[id(each)] = row
                    else:
                        own[row.seq] = call
                        rows.append(row)
            else:
                rows, last = await self._table.newer(self._known)
            for row in sorted(rows, key=lambda each: each.seq):
                if (call := own.get(row.seq)) is not None:
                    self._add_own(row, call)
                elif row.seq > self._known:
                    self._add(row)
            self._known = max(self._known, last)
        return [None if each is None else refused.get(id(each[0]), each[1].future) for each in group]

    def _add_own(self, row: Row, call: Call) -> None:
        future = call.future
        future.identify(row.record.id)
        self._store.restore(future)
        self._register(row.seq, future)
        self._scheduler.submit(call)

    def _add(self, row: Row) -> None:
        """Add a future of another replica."""
        waiting = replace(row.record, state=State.WAITING, started_at=None, has_result=False, failure=None)
        future = self._restoration.future(waiting)
        self._store.restore(future, named=False)
        self._register(row.seq, future)
        self._scheduler.submit(_unknown_call(future, row))
        self._apply(row)
        if row.record.state is State.INPUT_REQUIRED:
            self.mark_dirty([row.seq])  # its questions are not in the row

    def _register(self, seq: int, future: Future) -> None:
        self._seqs[future.key] = seq
        self._futures[seq] = future
        if seq in self._missed:
            self.mark_dirty([seq])

    # --- changes -------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Generator[None]:
        """Remember which futures change while rows are being read that may be added afterwards."""
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1
            if not self._reading:
                self._missed.clear()

    @property
    def is_stale(self) -> bool:
        """True while rows are known to have changed that were not read again."""
        return bool(self._dirty or self._reading)

    def changed(self, seqs: Iterable[int]) -> None:
        """Have rows read again, as far as they are mirrored."""
        known: list[int] = []
        for seq in seqs:
            if seq in self._futures:
                known.append(seq)
            elif self._reading:
                self._missed.add(seq)
        self.mark_dirty(known)

    def all_changed(self) -> None:
        """Have all rows read again: notifications may have been lost."""
        self.mark_dirty(self._futures)

    def mark_dirty(self, seqs: Iterable[int]) -> None:
        """Have rows read again soon."""
        self._dirty.update(seqs)
        if self._dirty:
            self._dirtied.set()

    async def _refresh(self) -> None:
        async with self._refreshing:  # so that no row is followed by an older one
            dirty, self._dirty = self._dirty, set()
            with self.reading():
                await self._read(dirty)

    async def _read(self, dirty: Collection[int]) -> None:
        self.reads += 1
        rows = await self._table.rows(dirty)
        used = [
            seq
            for seq, row in rows.items()
            if row.record.has_result and row.record.size <= EAGER_BYTES and self._is_used(seq)
        ]
        results = await self._table.results(used) if used else {}
        asking = [seq for seq, row in rows.items() if self._asks_elsewhere(row)]
        questions = await self._board.of(asking) if asking else {}
        for seq in sorted(dirty):
            if (row := rows.get(seq)) is not None:
                self._apply(row, results.get(seq), questions.get(seq))
                if row.record.ended_at is None:
                    self.on_row(row)
            elif (future := self._futures.get(seq)) is not None:
                logger.warning("%s is no longer in the database", future.id)
                gone = "its record is no longer in the database"
                self._scheduler.end_elsewhere(self._call(future), Event.FAIL, RestoredFailure(gone, gone), "failed")
                self.ended(future)

    def _asks_elsewhere(self, row: Row) -> bool:
        return row.record.state is State.INPUT_REQUIRED and row.worker != self._replica

    async def refresh_now(self, seqs: Collection[int]) -> None:
        """Read rows again, and take in those that are not known."""
        await self.catch_up()
        self.mark_dirty([seq for seq in seqs if seq in self._futures])
        await self._refresh()

    def _call(self, future: Future) -> Call:
        call = self._scheduler.call_of(future)
        assert call is not None
        return call

    def _is_used(self, seq: int) -> bool:
        """Return whether the result of a future is going to be needed here."""
        future = self._futures.get(seq)
        call = None if future is None else self._scheduler.call_of(future)
        return future is not None and (bool(future.watchers) or (call is not None and not call.elsewhere))

    def _apply(self, row: Row, result: bytes | None = None, questions: Sequence[Question] | None = None) -> None:
        """Bring a future to the state of its row."""
        future = self._futures.get(row.seq)
        call = None if future is None else self._scheduler.call_of(future)
        if future is None or call is None:
            return
        record, state = row.record, row.record.state
        if state is State.WAITING:
            if future.state is State.INPUT_REQUIRED and not call.claimed:
                self._end_questions(row.seq, future)  # the replica that had asked has died
                future.apply(Event.ANSWER)
            if row.owner != self._replica:
                call.elsewhere = True  # this replica was declared dead, and another one has adopted the call
            elif call.elsewhere and not call.ending:
                self.on_owned(row.seq)
            return
        if future.state is State.WAITING and record.started_at is not None:
            self._scheduler.begin(call)
        if row.worker != self._replica:
            self._apply_questions(row, future, questions)
        if (event := _EVENTS.get(state)) is None:
            return
        future.size, future.private = record.size, record.private
        future.waits, future.attempts = record.waits or future.waits, record.attempts
        future.queued_at = self._restoration.time(record.queued_at)
        if record.has_result or (record.private and record.failure is None):
            if result is None:
                future.unload(self._restoration.load)
            else:
                future.result, future.load = parsed(result), self._restoration.load
        failure = None if record.failure is None else failure_of(record.failure, record.tool, record.cause)
        waited_for = future.read_at is not None
        self._scheduler.end_elsewhere(call, event, failure, _outcome(record))
        self.ended(future)
        if waited_for and record.read_at is None:
            self.on_read(row.seq)

    def _apply_questions(self, row: Row, future: Future, questions: Sequence[Question] | None) -> None:
        """Put the questions of a call that runs elsewhere on its future, or remove them."""
        state = row.record.state
        if state is State.INPUT_REQUIRED and questions:
            before, future.questions = future.questions, {question.id: question for question in questions}
            if future.state is State.RUNNING:
                future.apply(Event.ASK)
            elif future.questions.keys() != before.keys():
                future.changed()
        elif future.state is State.INPUT_REQUIRED:
            self._end_questions(row.seq, future)
            if state is State.RUNNING or (state is State.INPUT_REQUIRED and questions is not None):
                future.apply(Event.ANSWER)

    def _end_questions(self, seq: int, future: Future) -> None:
        self._board.gone(seq)
        future.questions = {}

    def claimed(self, row: Row) -> None:
        """Take in that a call was claimed here."""
        future = self._futures.get(row.seq)
        if future is not None and future.state is State.INPUT_REQUIRED:
            self._end_questions(row.seq, future)
            future.apply(Event.ANSWER)
        self._apply(row)

    def claimed_elsewhere(self, call: Call) -> None:
        """Take in that a call cannot end without having started, since another replica has claimed it."""
        future = call.future
        if not future.done and self._scheduler.call_of(future) is call and not call.claimed:
            self._scheduler.lose(call, unknown(call))

    def ended(self, future: Future) -> None:
        """Keep a future that has ended where looked-up ones are: the database has it."""
        seq = self._seqs.pop(future.key, None)
        if seq is None:
            return
        self._futures.pop(seq, None)
        self._looked_up.ended(future, seq)
        if not future.private or not future.has_result:
            self._store.forget(future)

    # --- look-ups ------------------------------------------------------------------------------------------------

    def seq(self, future: Future) -> int | None:
        """Return the place of a future in the order of submission; None where it is not in memory any more."""
        return self._seqs.get(future.key) or self._looked_up.seq(future.key)

    def future(self, seq: int) -> Future | None:
        """Return an unfinished future."""
        return self._futures.get(seq)

    def unread(self, scope: Scope, conversation: str) -> list[Future]:
        """Return the unfinished futures of a conversation whose results no request waits for, oldest first."""
        found = {
            seq: future
            for seq, future in self._futures.items()
            if future.conversation == conversation and future.scope == scope and future.read_at is None
        }
        return [found[seq] for seq in sorted(found)]

    async def futures(self, rows: Sequence[Row]) -> dict[int, Future]:
        """Return the futures of rows that were just read, the same objects that are in memory already, by `seq`. One
        that was dropped meanwhile is missing."""
        if any(row.seq > self._known for row in rows):
            await self.catch_up()
        found: dict[int, Future] = {}
        for row in rows:
            future = self._futures.get(row.seq)
            if future is None:
                future = self._looked_up.find(Scope(row.record.scope, row.record.listed), row.record.id)
            if future is None:
                if row.record.state in UNFINISHED:  # it ended and was dropped since the row was read
                    again = await self._table.rows([row.seq])
                    if row.seq not in again or again[row.seq].record.state in UNFINISHED:
                        continue
                    row = again[row.seq]
                future = self._restoration.future(row.record)
                self._looked_up.add(future, row.seq)
            found[row.seq] = future
        # A client may have seen the end at another replica before its notification arrives here.
        behind = [
            row.seq
            for row in rows
            if row.record.state not in UNFINISHED and row.seq in self._futures and not self._futures[row.seq].done
        ]
        if behind:
            self.mark_dirty(behind)
            await self._refresh()
        return found


def unknown(call: Call) -> Call:
    """Return what stands for a call that is another replica's."""
    policy = Policy(on_failure=call.policy.on_failure)
    return Call(call.future, call.tool, None, policy, call.effect, client=call.client, elsewhere=True)


def _unknown_call(future: Future, row: Row) -> Call:
    policy = Policy(on_failure="stop" if row.stops else "continue")
    return Call(future, row.record.tool, None, policy, row.effect, client=future.caller, elsewhere=True)


def _outcome(record: FutureRecord) -> str:
    """Return the outcome of a call for those behind it (see `StateTree.settle`), the same on all replicas. One that
    was taken out of the order before it was sent stops nothing."""
    if record.state is State.COMPLETED:
        return "completed"
    if record.cause is not None or record.failure is None:
        return "failed"
    return "void" if record.failure.text.startswith(_WITHDRAWN) else "failed"
