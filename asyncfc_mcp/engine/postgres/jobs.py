"""Jobs: procrastinate's worker, which takes calls that are ready and has this replica run them.

Owns the worker's life and which queues it serves. A call that lacks nothing gets a job, with the place of its future in
the table, in the transaction that makes it ready (`futures_table`); a worker of one replica takes it and awaits
`run_job`, which claims the call first. `job_manager` owns the statements.

Each job may be delivered again: after the end of a replica, and after losses of the database. None is lost: one that
ends without `run_job` having returned goes back to its queue.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskGroup, TaskStatus
from procrastinate import App, BaseRetryStrategy, PsycopgConnector, RetryDecision
from procrastinate.jobs import Job
from procrastinate.worker import Worker

from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.functions import RUN_TASK
from asyncfc_mcp.engine.postgres.job_manager import CHANNEL, RETRY_S, SteadyJobManager, Stopped
from asyncfc_mcp.engine.postgres.listener import Listener

logger = logging.getLogger(__name__)

ANY: Final = "any"
"""Queue of calls that every replica can make."""
_QUEUE_BYTES: Final = 40
"""procrastinate names channels after queues, and PostgreSQL refuses longer names of channels than 63 bytes: a job in
such a queue could not be inserted."""

POLL_S: Final = 0.25
"""Seconds after which the database is asked for jobs without a notification: it announces neither a job whose retry
is due nor one that another replica gave back without a connection."""
HEARTBEAT_S: Final = 5.0
DEAD_AFTER_S: Final = 30.0
CONCURRENCY: Final = 10_000
STOP_S: Final = 5.0
"""Maximum seconds for giving jobs back at the end. What remains then is found by `sweep` of another replica."""
ANSWER_S: Final = 1.0
"""Seconds of these after which a fetch is cancelled."""
_RESTART_S: Final = 1.0


def queue_of(server: str) -> str:
    """Return the queue of a server that is pinned to one replica."""
    queue = f"server:{server}"
    if queue.isascii() and queue.isprintable() and len(queue) <= _QUEUE_BYTES:
        return queue
    digest = hashlib.sha256(server.encode("utf-8", "surrogatepass")).hexdigest()
    return f"server:#{digest}"[:_QUEUE_BYTES]


class GiveBack(Exception):
    """Another worker is to have the job, at once. `run_job` may raise it, in a replica that starts nothing more."""


class _Failed(Exception):
    """The job could not be run, and is delivered again."""


class _Redelivery(BaseRetryStrategy):
    """Gives every job back that has not ended, again and again: its future would wait for ever without it."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision:
        return RetryDecision(retry_in={"seconds": RETRY_S} if isinstance(exception, _Failed) else None)


class Jobs:
    """The worker of one replica.

    Args:
        database: open as long as `run` runs.
        listener: receives procrastinate's notifications, too.
        run_job: claims and makes the call of a future; awaited to the end of the call. If it raises an exception
            (`GiveBack`, or another, which is logged) or is cancelled, the job is delivered again, to any replica.
        concurrency: maximum jobs at once.
        poll_s: see `POLL_S`.
        heartbeat_s: interval between heartbeats.
        dead_after_s: age of the last heartbeat from which another worker's jobs are taken over by `sweep`; must be
            several times `heartbeat_s`, and the same in all replicas.
    """

    def __init__(
        self,
        database: Database,
        listener: Listener,
        run_job: Callable[[int], Awaitable[None]],
        *,
        concurrency: int = CONCURRENCY,
        poll_s: float = POLL_S,
        heartbeat_s: float = HEARTBEAT_S,
        dead_after_s: float = DEAD_AFTER_S,
    ) -> None:
        self._database = database
        self._run_job = run_job
        self._concurrency, self._poll_s = concurrency, poll_s
        self._heartbeat_s, self._dead_after_s = heartbeat_s, dead_after_s
        self._queues = [ANY]
        self._calls: TaskGroup | None = None
        self._connector = PsycopgConnector()
        self.manager = SteadyJobManager(database, self._connector, dead_after_s=dead_after_s)
        listener.channels[CHANNEL] = self.manager.wake
        listener.on_connected.append(self.manager.reconnected)

    # --- queues --------------------------------------------------------------------------------------------------

    def serve(self, queue: str) -> None:
        """Take jobs of a queue from now on."""
        if queue not in self._queues:
            self._queues.append(queue)
            self.manager.wake()

    def withdraw(self, queue: str) -> None:
        """Take no further jobs of a queue; running ones go on."""
        if queue in self._queues:
            self._queues.remove(queue)

    async def sweep(self) -> list[int]:
        """Give jobs of dead workers back to their queues; return the `seq` of their futures, in that order. The worker
        does this by itself with each heartbeat.

        Where a call had been claimed, the delivery of its job finds that and ends it; `replicas` finds the death of the
        replica. Where it had not, another replica makes the call. Any number of replicas may do this at any time.
        """
        return await self.manager.sweep()

    # --- the worker ----------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        """Run the worker until this is cancelled. Started as soon as it takes jobs.

        It outlasts interruptions of the database, during which running jobs go on. After a cancellation, running jobs
        are cancelled and given back; that takes `STOP_S` seconds at most, with a database that does not respond.
        """
        # A record of each job is logged at INFO, and what it costs to make is nothing that anyone reads.
        if (log := logging.getLogger("procrastinate")).level == logging.NOTSET:
            log.setLevel(logging.WARNING)
        await self._connector.open_async(self._database.pool)
        manager = self.manager
        app = App(connector=self._connector)
        app.job_manager = manager
        app.task(name=RUN_TASK, queue=ANY, retry=_Redelivery())(self._job)
        worker = Worker(
            app,
            # The same list as here, which is read at every fetch.
            queues=self._queues,
            name=None,
            concurrency=self._concurrency,
            fetch_job_polling_interval=self._poll_s,
            # Calls are cancelled by `cancel` of the engine, not by procrastinate.
            abort_job_polling_interval=1e9,
            delete_jobs="always",
            install_signal_handlers=False,
            update_heartbeat_interval=self._heartbeat_s,
            stalled_worker_timeout=self._dead_after_s,
        )
        stopped = anyio.Event()
        shield = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as outer:
            outer.start_soon(self._work, worker, shield, stopped)
            try:
                async with anyio.create_task_group() as calls:
                    self._calls = calls
                    try:
                        await manager.registered.wait()
                        task_status.started()
                        await anyio.sleep_forever()
                    finally:
                        self._calls = None
                        manager.stop()
                        worker.stop()
            finally:
                with anyio.CancelScope(shield=True):
                    with anyio.move_on_after(ANSWER_S):
                        await stopped.wait()
                    manager.cancel()
                    with anyio.move_on_after(STOP_S - ANSWER_S):
                        await stopped.wait()
                shield.cancel()

    async def _work(self, worker: Worker, shield: anyio.CancelScope, stopped: anyio.Event) -> None:
        """Run procrastinate's worker until it is stopped by its own means, with which all jobs end. It is cancelled
        only if that does not help."""
        with shield:
            while not self.manager.stopping:
                try:
                    await worker.run()
                except Stopped:  # it has not begun
                    break
                except Exception:
                    logger.exception("the worker failed")
                if not self.manager.stopping:
                    logger.error("the worker has ended; it is started again")
                    await anyio.sleep(_RESTART_S)
        stopped.set()

    async def _job(self, seq: int) -> None:
        """Run a job: procrastinate's function. The call runs in a task of this class, where it is cancelled as anyio
        does, and not in the one that procrastinate cancels."""
        calls = self._calls
        if calls is None:
            raise GiveBack
        ended = anyio.Event()
        problems: list[Exception] = [GiveBack()]  # until it has ended, and if it is cancelled

        async def call() -> None:
            try:
                await self._run_job(seq)
                problems.clear()
            except GiveBack:
                pass
            except Exception:
                logger.exception("the job of future %d failed; it is delivered again", seq)
                problems[:] = [_Failed()]
            finally:
                ended.set()

        calls.start_soon(call)
        await ended.wait()
        if problems:
            raise problems[0]
