"""Execution: the calls whose jobs this replica has taken.

Owns that a call is claimed before it is made, and that everything is at hand by then that it needs. Leaves which call
is ready to the scheduler of the replica that submitted it, and jobs to `jobs`.
"""

from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import id_of
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.executor_api import Executor
from asyncfc_mcp.engine.postgres.futures_table import FuturesTable, Row
from asyncfc_mcp.engine.postgres.jobs import GiveBack
from asyncfc_mcp.engine.postgres.mirror import Mirror, unknown
from asyncfc_mcp.engine.postgres.reader import LookUp
from asyncfc_mcp.engine.restoration import restored_call
from asyncfc_mcp.engine.scheduler import Scheduler
from asyncfc_mcp.engine.wait import wait_for
from asyncfc_mcp.errors import CallFailed, NotHere, NotResumed


class Held(GiveBack):
    """This replica starts no call any more, or none at this server; the job goes to another one."""


@dataclass(slots=True, eq=False)
class _Run:
    """A call of a job, until it has ended."""

    call: Call
    cancelled: bool = False
    """A client does not want it any more."""
    since: int = 0
    """The mirror's `reads` when it was claimed: what they had found by then may be older."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: anyio.Event = field(default_factory=anyio.Event)


class Execution:
    """Makes calls on one replica.

    Args:
        look_up: brings futures of a scope into memory, by ID.
        load: reads the result of a future into memory.
        lives, confirm: see `Replicas`.
        on_made: called with the future of each call that is made here.
        runs_elsewhere: returns whether another replica owns a server that is pinned.
        has_moved: returns whether a server that is pinned does not run here (any more), as far as is known here.
    """

    def __init__(
        self,
        table: FuturesTable,
        replica: str,
        mirror: Mirror,
        store: FutureStore,
        scheduler: Scheduler,
        executor: Executor,
        *,
        look_up: LookUp,
        load: Callable[[Future], Coroutine[Any, Any, None]],
        on_made: Callable[[Future], None],
        lives: Callable[[], bool],
        confirm: Callable[[], Coroutine[Any, Any, None]],
        runs_elsewhere: Callable[[str], Coroutine[Any, Any, bool]],
        has_moved: Callable[[str], bool],
    ) -> None:
        self._has_moved = has_moved
        self._runs_elsewhere = runs_elsewhere
        self._on_made = on_made
        self._lives = lives
        self._confirm = confirm
        self._table = table
        self._replica = replica
        self._mirror = mirror
        self._store = store
        self._scheduler = scheduler
        self._executor = executor
        self._look_up = look_up
        self._load = load
        self._runs: dict[int, _Run] = {}
        """Calls that were claimed here, or are about to be."""

    @property
    def calls(self) -> Sequence[Call]:
        """Calls that run here."""
        return tuple(run.call for run in self._runs.values())

    def has(self, future: Future) -> bool:
        """Return whether the call of a future runs here."""
        call = self._scheduler.call_of(future)
        return call is not None and any(run.call is call for run in self._runs.values())

    async def run(self, seq: int) -> None:
        """Make the call of a job, and return when it has ended; nothing if it must not be made (any more).

        Raises:
            Held: another replica has to make it.
        """
        call = None
        while call is None or seq in self._runs:
            if (earlier := self._runs.get(seq)) is not None:
                await earlier.over.wait()  # of another job: this one was taken for dead meanwhile
            if self._scheduler.held:
                raise Held
            call = await self._call(seq)
            if call is None:
                return
        run = self._runs[seq] = _Run(call)
        with run.scope:
            try:
                if await self._claim(seq, run):
                    await wait_for([call.future])
            except CallFailed as exc:
                self._scheduler.withdraw(call, exc)
                await wait_for([call.future])  # the job is what has the end written, should this replica die now
            finally:
                run.over.set()
                if self._runs.get(seq) is run:
                    del self._runs[seq]

    async def _claim(self, seq: int, run: "_Run") -> bool:
        """Claim a call, and have it made; false where it must not be made.

        Raises:
            CallFailed: it cannot be made.
        """
        call = run.call
        await self._prepare(call)
        row = await self._table.claim(seq)
        while row is not None and not self._lives():
            # Suspended since: others may have said already that the call was interrupted, and have gone on behind it.
            await self._confirm()
            row = (await self._table.calls([seq])).get(seq)
            if row is not None and (row.worker != self._replica or row.record.state is State.WAITING):
                row = None
        if row is None:
            self._mirror.mark_dirty([seq])
            return False
        call.claimed, call.round = True, row.record.round
        # What is ended from now on ends a call that runs; an end of one that waits is refused.
        call.ending = False
        run.since = self._mirror.reads
        if self._scheduler.call_of(call.future) not in (call, None):
            self._scheduler.replace(call)  # it was adopted meanwhile
        self._mirror.claimed(row)
        if row.cancelled or run.cancelled or call.dropped:
            self._scheduler.cancel(call.future)
        if not (call.future.done or call.ending):
            self._on_made(call.future)
            self._scheduler.make(call)
        return True

    def cancel(self, seqs: Collection[int]) -> None:
        """Cancel calls that run here, at the request of a client of any replica."""
        for seq in seqs:
            if (run := self._runs.get(seq)) is not None:
                run.cancelled = True
                if run.call.claimed:  # else it is cancelled once it is, if it is
                    self._scheduler.cancel(run.call.future)

    def take_in(self, row: Row) -> None:
        """Take in what others have done with a call that runs here."""
        run = self._runs.get(row.seq)
        if run is None or not run.call.claimed or run.since >= self._mirror.reads:
            return
        if row.worker != self._replica or row.record.state is State.WAITING:
            # This replica was taken for dead, and another one has the call made again.
            del self._runs[row.seq]
            run.scope.cancel()
            self._scheduler.lose(run.call, unknown(run.call))
        elif row.cancelled and not run.cancelled:  # its notification was lost
            self.cancel([row.seq])

    async def _call(self, seq: int) -> Call | None:
        """Return the call of a future that waits; with what is necessary to make it, whichever replica submitted it."""
        if self._mirror.future(seq) is None:
            await self._mirror.catch_up()
        future = self._mirror.future(seq)
        call = None if future is None else self._scheduler.call_of(future)
        if future is None or call is None:
            return None
        if call.ending:
            await wait_for([future])
            return None
        if not call.elsewhere:
            return call
        row = (await self._table.calls([seq])).get(seq)
        if row is None or row.record.call is None or future.done:
            return None
        call = restored_call(future, row.record.call)
        call.elsewhere = True
        self._scheduler.replace(call)
        return call

    async def _prepare(self, call: Call) -> None:
        """Bring together what a call needs.

        Raises:
            CallFailed: it cannot be made.
            Held: another replica has to make it.
        """
        if not call.future.private and self._has_moved(call.future.server):
            raise Held
        if call.future.private and await self._runs_elsewhere(call.future.server):
            raise NotHere(call.future.server)
        if call.restored:
            server = call.future.server
            rules = await self._executor.rules_of(server, call.tool)
            if rules is None:
                raise NotResumed(f"server {server!r} has no tool {call.tool!r} or is not available")
            call.policy, call.validator, call.schema = rules.policy, rules.validator, rules.schema
            call.preset = rules.preset
            keys = call.value_dependencies or ()
            if keys:
                await self._look_up(call.future.scope, [id_of(key) for key in keys])
            for key in keys:
                if (source := self._store.with_key(key)) is None:
                    raise NotResumed(f"the result of {id_of(key)} is no longer kept")
                call.sources[key] = source
            # Their ends may have been announced to the replica that made the job earlier than to this one.
            late = [seq for each in call.sources.values() if not each.done and (seq := self._mirror.seq(each))]
            if late:
                await self._mirror.refresh_now(late)
        async with anyio.create_task_group() as tg:
            for source in call.sources.values():
                tg.start_soon(self._load, source)
