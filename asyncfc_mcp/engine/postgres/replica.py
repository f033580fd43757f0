"""One replica: its parts, how they work together, and their start and end.

Owns composition, the handling of notifications of other replicas, the job of a call that lacks nothing, and what is
handed over at the end. What the packages above the engine ask is `postgres_engine`'s.
"""

import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio
import anyio.abc

from asyncfc_mcp.config.replicas import replica_name
from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import CallerIdentity
from asyncfc_mcp.core.waits import without_paths
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.executor_api import Executor
from asyncfc_mcp.engine.hosting import Hosting
from asyncfc_mcp.engine.memory_engine import MemoryEngine
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.ends import Ends
from asyncfc_mcp.engine.postgres.execution import Execution
from asyncfc_mcp.engine.postgres.futures_table import FuturesTable, Ready
from asyncfc_mcp.engine.postgres.grouped import Grouped
from asyncfc_mcp.engine.postgres.jobs import ANY, Jobs, queue_of
from asyncfc_mcp.engine.postgres.listener import Listener, Notification
from asyncfc_mcp.engine.postgres.lookups import LookedUp, SharedNumbers
from asyncfc_mcp.engine.postgres.mirror import Mirror
from asyncfc_mcp.engine.postgres.progress import Progress
from asyncfc_mcp.engine.postgres.question_board import QuestionBoard
from asyncfc_mcp.engine.postgres.reader import Reader
from asyncfc_mcp.engine.postgres.replicas import Replicas
from asyncfc_mcp.engine.postgres.results import parsed
from asyncfc_mcp.engine.postgres.rounds import Rounds
from asyncfc_mcp.engine.postgres.rows import Row, escaped
from asyncfc_mcp.engine.postgres.schema import migrate
from asyncfc_mcp.engine.postgres.session_table import SessionTable
from asyncfc_mcp.engine.postgres.shared_servers import SharedServers
from asyncfc_mcp.engine.postgres.takeover import Takeover
from asyncfc_mcp.engine.postgres.upkeep import HEARTBEATS, Upkeep
from asyncfc_mcp.engine.question_routing import QuestionRouting
from asyncfc_mcp.engine.questions import Questions
from asyncfc_mcp.engine.restoration import Restoration, missing_result
from asyncfc_mcp.engine.scheduler import Scheduler
from asyncfc_mcp.engine.wait import wait_for
from asyncfc_mcp.errors import Interrupted
from asyncfc_mcp.signals import WakeUp

logger = logging.getLogger(__name__)

LEAVE_S: Final = 5.0
"""Maximum seconds for handing over calls at the end. What remains then is found by other replicas."""


class Replica(MemoryEngine):
    """The engine of one replica, without what the packages above ask of it (`PostgresEngine`).

    Args:
        settings: bounds and times.
        server_limits: `max_concurrency` of each server, over all replicas; None means no limit.
        database: shared by all replicas.
        owners: server → name of the replica that has it (setting `owner`); absent for servers that every replica has.
        several_servers: questions must say which server asks.
    """

    def __init__(
        self,
        settings: Settings,
        server_limits: Mapping[str, int | None],
        database: Database,
        *,
        owners: Mapping[str, str] | None = None,
        several_servers: bool = False,
    ) -> None:
        self._replica = uuid.uuid4().hex
        self._database = database
        self._owners = owners or {}
        self._table = FuturesTable(database, self._replica)
        self._sessions = SessionTable(database)
        self._database_offset_s = 0.0
        super().__init__(settings, server_limits, several_servers=several_servers)
        self._restoration = Restoration(self._offset_s, self._load_blocking)
        self._looked_up = LookedUp(self._token, self._unload)
        self._keep_in(SharedNumbers, self._looked_up)
        self._ends = Ends(self._table)
        self._ready = Grouped[Ready, None](self._make_ready)
        self._reads = Grouped[int, None](self._mark_read)
        self._names_wanted = WakeUp()
        self._ending = anyio.Event()
        self._submitting = 0
        """Calls that are being written."""
        self._servers: SharedServers | None = None
        if self._owners:
            self._servers = SharedServers(
                database,
                self._replica,
                self._owners,
                living=lambda: self._replicas.names,
                dead_after_s=settings.replica_timeout_s,
            )

    @property
    def hosting(self) -> Hosting | None:
        return self._servers

    @asynccontextmanager
    async def open(self, executor: Executor) -> AsyncGenerator[None]:
        async with self._database.open():
            await migrate(self._database)
            await self._measure_offset()
            listener = self._listener()
            self._put_together(executor, listener)
            self._board.attach(self._questions, listener)
            self._progress.attach(listener)
            async with anyio.create_task_group() as tg:
                await tg.start(self._serve_until_end, listener)
                await tg.start(self._watch_end)
                try:
                    yield
                finally:
                    tg.cancel_scope.cancel()

    async def _serve_until_end(
        self, listener: Listener, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Run all parts of this replica; at the end, hand over first what is not finished."""
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tg:
                self._tg = tg
                await tg.start(self._ends.run, self._mirror)
                for run in (self._ready.run, self._reads.run, self._board.run, self._rounds.run, self._progress.run):
                    await tg.start(run)
                await tg.start(self._scheduler.run)
                if self._servers is not None:
                    await tg.start(self._servers.run)
                await tg.start(listener.run)
                await tg.start(self._mirror.run)
                await tg.start(self._replicas.run)
                self._jobs.serve(self._own_queue)
                await tg.start(self._jobs.run)
                self._soon(self._take_over, ())  # what replicas have left that ended before this one began
                tg.start_soon(self._upkeep.run)
                tg.start_soon(self._watch_names)
                # From here on a cancellation from outside is `_watch_end`'s.
                scope.shield = True
                task_status.started()
                await self._ending.wait()
                with anyio.move_on_after(LEAVE_S):
                    await self._leave()
                tg.cancel_scope.cancel()

    async def _watch_end(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Wait until this replica is to end, and start no call from that moment on: servers are ending, too."""
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            self.hold_nowait()
            for call in self._execution.calls:
                if not self.is_resumed_nowait(call):
                    self._scheduler.abort(call, Interrupted(repeatable=call.repeatable))
            self._ending.set()

    def _put_together(self, executor: Executor, listener: Listener) -> None:
        settings = self._settings
        self._scheduler = Scheduler(
            self._store,
            executor.execute,
            clock=self._clock,
            execute_nowait=executor.execute_nowait,
            check=executor.check,
            path_missing=executor.path_missing,
            order_s=settings.public_order_s,
            recorder=self._ends,
            launch=self._launch,
            resume=executor.resume,
            load=self.load,
            observers=self._observers,
        )
        self._board = QuestionBoard(self._database, self._replica, self._seq, self._reread, self._clock)
        self._mirror = Mirror(
            self._table, self._replica, self._store, self._scheduler, self._looked_up, self._restoration, self._board
        )
        self._mirror.on_read = self._write_read
        self._reader = Reader(self._table, self._mirror, self._store, self._looked_up, self._restoration)
        self._progress = Progress(self._database, self._replica, self._seq, self._mirror.future, self._clock)
        self._execution = Execution(
            self._table,
            self._replica,
            self._mirror,
            self._store,
            self._scheduler,
            executor,
            look_up=self._reader.look_up,
            load=self.load,
            on_made=self._progress.follow,
            lives=lambda: self._replicas.lives,
            confirm=lambda: self._replicas.confirm(),
            runs_elsewhere=self._runs_elsewhere,
            has_moved=self._has_moved,
        )
        self._takeover = Takeover(
            self._table, self._replica, self._mirror, self._scheduler, executor, self._reader.look_up, self._soon
        )
        self._mirror.on_row, self._mirror.on_owned = self._execution.take_in, self._takeover.schedule_soon
        self._upkeep = Upkeep(
            self._table,
            settings,
            take_over=partial(self._take_over, ()),
            queue_of=self._queue_of,
            on_prune=self._on_prune,
        )
        dead_after_s = settings.replica_timeout_s
        interval_s = dead_after_s / HEARTBEATS
        self._jobs = Jobs(
            self._database,
            listener,
            self._execution.run,
            heartbeat_s=interval_s,
            dead_after_s=dead_after_s,
        )
        self._replicas = Replicas(
            self._database,
            self._replica,
            replica_name(settings),
            on_dead=self._take_over,
            on_revived=self._reread_all,
            pinned=self._owners,
            on_owned=self._serve,
            interval_s=interval_s,
            dead_after_s=dead_after_s,
        )
        self._replicas.attach(listener)
        self._rounds = Rounds(self._table, self._seq)
        self._question_routing = QuestionRouting(self._scheduler)
        self._questions = Questions(
            self._scheduler,
            self._clock,
            settings.question_timeout_s,
            several=self._several_servers,
            recorder=self._rounds,
            board=self._board,
            suffix=f"-{self._replica[:8]}",
        )

    # --- the life of a replica -----------------------------------------------------------------------------------

    async def _measure_offset(self) -> None:
        """Compare the clock with the database's, so that times of all replicas can be compared."""
        before = self._clock()
        [(at,)] = await self._database.fetch("SELECT extract(epoch FROM clock_timestamp())::float8")
        self._database_offset_s = at - (before + self._clock()) / 2

    def _offset_s(self) -> float:
        return self._database_offset_s

    def _listener(self) -> Listener:
        listener = Listener(self._database)

        def handle(kind: str, handler: Callable[[Notification], None]) -> None:
            """Handle what other replicas announce."""
            listener.handle(
                kind, lambda notification: None if notification.by == self._replica else handler(notification)
            )

        handle("changed", lambda notification: self._mirror.changed(notification.seqs))
        handle("cancel", lambda notification: self._execution.cancel(notification.seqs))
        handle("answered", lambda notification: self._soon(self._board.take_answers, notification.seqs))
        handle("submitted", lambda _: self._look_for_names())
        handle("released", lambda _: self._soon(self._take_over, ()))
        listener.on_connected.append(self._connected)
        if self._servers is not None:
            self._servers.attach(listener)
        return listener

    def _soon(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Have something done in a task of its own; a failure ends nothing else."""

        async def run() -> None:
            try:
                await work(*args)
            except Exception:
                logger.exception("%s failed", work.__name__)

        self._tg.start_soon(run)

    @property
    def _own_queue(self) -> str:
        """Queue of calls that only this replica can make."""
        return _own_queue(self._replica)

    def _queues(self) -> list[str]:
        return [ANY, self._own_queue, *map(queue_of, self._owners)]

    async def _serve(self, owned: frozenset[str]) -> None:
        """Run the servers that this replica owns and take their jobs, and those of no other pinned server."""
        if self._servers is not None:
            await self._servers.own(owned)
        for server in self._owners:
            if server in owned:
                self._jobs.serve(queue_of(server))
            else:
                self._jobs.withdraw(queue_of(server))

    def _has_moved(self, server: str) -> bool:
        servers = self._servers
        return servers is not None and server in servers.servers and not servers.runs(server)

    async def _runs_elsewhere(self, server: str) -> bool:
        """Return whether another replica owns a server."""
        if server not in self._owners:
            return False
        return (await self._replicas.owner_of(server)) not in (self._replica, None)

    async def _reread_all(self) -> None:
        """Take in what others did with the calls of this replica while they took it for dead."""
        self._mirror.all_changed()
        await self._mirror.catch_up()

    def _seq(self, future: Future) -> int | None:
        return self._mirror.seq(future)

    def _connected(self) -> None:
        """Make up for notifications that may have been lost while there was no connection."""
        self._mirror.all_changed()
        self._look_for_names()

    async def _reread(self, seqs: Collection[int]) -> None:
        await self._mirror.refresh_now(seqs)

    def _look_for_names(self) -> None:
        if self._forward_references.wanted():
            self._names_wanted.set()

    async def _take_over(self, dead: Collection[str]) -> None:
        await self._takeover.of(dead)
        if dead:
            await self._table.drop_jobs([_own_queue(each) for each in dead])

    def _queue_of(self, row: Row) -> str:
        if row.record.private:
            return _own_queue(row.owner or "")
        return queue_of(row.record.server) if row.record.server in self._owners else ANY

    async def _watch_names(self) -> None:
        """Look names up again that received calls wait for, when another replica has submitted calls."""
        while True:
            await self._names_wanted.wait()
            for scope, names in self._forward_references.wanted():
                await self._reader.look_up(scope, names)
            self._forward_references.notify_all()

    async def _on_prune(self) -> None:
        if self._servers is not None:
            await self._servers.relay.prune()
        await self._measure_offset()

    # --- starting calls and reading results -----------------------------------------------------------------------

    def _launch(self, call: Call) -> None:
        """Have a job made for a call that lacks nothing but a place."""
        future = call.future
        seq = self._mirror.seq(future)
        assert seq is not None
        if future.private:
            queue = self._own_queue  # its arguments are nowhere else
        else:
            queue = queue_of(future.server) if future.server in self._owners else ANY
        limits = self._server_limits.get(future.server), call.policy.max_concurrency
        ready = Ready(seq, future.server, call.tool, queue, *limits, share=self._settings.max_caller_share)
        ready.waits = without_paths(future.waits) if future.private else future.waits
        self._ready.add(ready, partial(self._made_ready, seq))

    async def _make_ready(self, batch: Sequence[Ready]) -> Sequence[None]:
        await self._table.make_ready(batch)
        return [None] * len(batch)

    def _made_ready(self, seq: int, outcome: Exception | None) -> None:
        if outcome is not None:
            logger.error("the job of a call could not be made: %s", outcome)

    def _token(self, namer: CallerIdentity | None) -> str:
        """Return what tells the owner of a name from others in a record: equal on all replicas for a caller that is one
        there, else on this replica only."""
        token = "" if namer is None else namer.token
        return token if ":" in token else f"{self._replica}/{token}"

    def _write_read(self, seq: int) -> None:
        self._reads.add(seq, lambda outcome: None)

    async def _mark_read(self, batch: Sequence[int]) -> Sequence[None]:
        await self._table.mark_read(batch)
        return [None] * len(batch)

    async def load(self, future: Future) -> None:
        await self._reader.load(future)

    def _load_blocking(self, future: Future) -> dict[str, Any]:
        """Return a result at once, while everything else stands still: the last resort for one that was not loaded."""
        logger.debug("the result of %s is read while the event loop waits", future.id)
        rows = self._database.fetch_blocking(
            "SELECT r.json FROM results r JOIN futures f USING (seq) WHERE f.scope = %s AND f.id = %s",
            (escaped(future.scope.key), escaped(future.id)),
        )
        return parsed(rows[0][0]) if rows else missing_result(future)

    def _unload(self, future: Future) -> None:
        future.unload(self._load_blocking)

    async def _leave(self) -> None:
        """Hand over what this replica has not finished."""
        left = [call for call in self._execution.calls if self.is_resumed_nowait(call)]
        await wait_for([call.future for call in self._execution.calls if call not in left])
        await self._ends.drained()
        seqs = [seq for call in left if (seq := self._mirror.seq(call.future)) is not None]
        for row in (await self._table.calls(seqs)).values():
            await self._table.requeue(row)
        await self._table.release()
        await self._table.drop_jobs([self._own_queue])


def _own_queue(replica: str) -> str:
    """Return the queue of the calls that only one replica can make: their arguments are nowhere else."""
    return f"replica:{replica}"
