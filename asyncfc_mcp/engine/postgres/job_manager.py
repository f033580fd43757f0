"""Statements over jobs: procrastinate's, in a form that outlasts interruptions of the database.

Owns what a worker does with the database: fetching, finishing and giving back jobs, its registration and heartbeats.
procrastinate's own manager raises when a connection breaks, and its worker then ends. Here a statement is repeated
until the database is back. Every job carries only the place of a future in the table, and a claim precedes each call,
so that a job which is delivered twice is harmless; one that is lost is not.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, LiteralString, TypeVar

import anyio
import psycopg
from procrastinate import PsycopgConnector, sql
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager, NotificationCallback

from asyncfc_mcp.core.backoff import Backoff
from asyncfc_mcp.engine.postgres.database import Database, is_interruption, reason

T = TypeVar("T")

logger = logging.getLogger(__name__)

# A job that a crash of the database makes undone is delivered again, so nothing is to wait for the disk.
_LAZILY: LiteralString = "set_config('synchronous_commit', 'off', true)"
_FETCH: LiteralString = sql.queries["fetch_job"].replace("SELECT id", f"SELECT {_LAZILY}, id", 1)

FIRST_RETRY_S: Final = 0.1
LONGEST_RETRY_S: Final = 5.0
"""Pauses between attempts at a statement that the database refuses."""
RETRY_S: Final = 5
"""Seconds after which a job is delivered again whose call could not be claimed."""
CHANNEL: Final = "procrastinate_any_queue_v1"
"""Channel on which procrastinate's trigger announces new jobs of all queues."""

_TO_DO: LiteralString = """UPDATE procrastinate_jobs SET status = 'todo', worker_id = NULL, attempts = attempts + 1
    WHERE id IN (SELECT id FROM procrastinate_jobs WHERE status = 'doing' AND {which} FOR UPDATE SKIP LOCKED)
    RETURNING (args->>'seq')::bigint AS seq"""
# procrastinate announces jobs that are inserted, not those that are given back.
_ANNOUNCE: LiteralString = """SELECT pg_notify('procrastinate_any_queue_v1', '{"type": "job_inserted", "job_id": 0}')"""


class Stopped(Exception):
    """The worker is being stopped, so a statement is not repeated any more."""


class SteadyJobManager(JobManager):
    """Jobs of one worker.

    Args:
        database: open while the manager is used.
        connector: of its pool.
        dead_after_s: age of a worker's last heartbeat, in seconds, from which its jobs are given to others.

    Attributes:
        held: jobs that the worker has, until their end is written.
        registered: set once the worker is registered.
        up_since: SQL for the time since when the database has been there.
        steady_since: time of the database since when this worker's heartbeats have come without a gap; None: all its
            life.
    """

    def __init__(self, database: Database, connector: PsycopgConnector, *, dead_after_s: float) -> None:
        super().__init__(connector)
        self._database = database
        self._statements = connector
        self._dead_after_s = dead_after_s
        self.held: set[int] = set()
        self.registered = anyio.Event()
        self._worker: int | None = None
        self.steady_since: datetime | None = None
        self.up_since: LiteralString = "pg_postmaster_start_time()"
        self._wakes = 0
        self._woken = anyio.Event()
        self._uncertain = False
        """The database may count jobs as this worker's that it has never received, or has forgotten that they ended."""
        self._fetching = anyio.Lock()
        self._finishing = anyio.Lock()
        self._finished: set[int] = set()
        """Jobs whose end is to be written with the next statement."""
        self._scopes: set[anyio.CancelScope] = set()
        """Statements on their way."""
        self._cancelled = self._stopping = False

    # --- the worker's life ---------------------------------------------------------------------------------------

    async def prune_stalled_workers(self, seconds_since_heartbeat: float) -> list[int]:
        """Do nothing: `sweep` does it, which also takes care of the jobs."""
        return []

    async def register_worker(self) -> int:
        """Register a worker; return its ID."""
        self._worker = await self._repeat(super().register_worker)
        self.registered.set()
        return self._worker

    async def update_heartbeat(self, worker_id: int) -> None:
        """Record that the worker lives, and give the jobs of dead ones to the living. A worker that was taken for dead
        is registered again."""
        try:
            rows = await self._rows(
                """WITH before AS (SELECT id, last_heartbeat FROM procrastinate_workers
                        WHERE id = %(worker)s FOR UPDATE)
                    UPDATE procrastinate_workers w SET last_heartbeat = clock_timestamp() FROM before
                    WHERE w.id = before.id RETURNING w.last_heartbeat AS now,
                        w.last_heartbeat - before.last_heartbeat > make_interval(secs => %(limit)s / 2.0) AS gap""",
                worker=self._worker,
                limit=self._dead_after_s,
            )
            if not rows:
                lost = self._worker
                async with self._fetching:
                    if self._worker == lost:
                        await self._register_again()
            elif rows[0]["gap"]:
                self.steady_since = rows[0]["now"]
            await self._sweep()
        except ConnectorException as exc:
            logger.info("heartbeat of worker %s failed: %s", self._worker, reason_of(exc))

    async def unregister_worker(self, worker_id: int) -> None:
        """Remove the worker, and give the jobs that it still has to others. Without a database this is not repeated:
        other replicas find the jobs when the heartbeats have ended."""
        if self._cancelled:
            return
        try:
            rows = await self._rows(_TO_DO.format(which="worker_id = %(worker)s"), worker=self._worker)
            await super().unregister_worker(self._worker or worker_id)
            if rows:
                await self._rows(_ANNOUNCE)
        except ConnectorException as exc:
            logger.info("worker %s could not be unregistered: %s", self._worker, reason_of(exc))

    async def _register_again(self) -> None:
        """Register a worker whose row was removed, and keep the jobs that no other worker has taken."""
        lost, self._worker = self._worker, (await super().register_worker())
        logger.warning("worker %s was taken for dead and continues as worker %s", lost, self._worker)
        self.steady_since = (await self._rows("SELECT clock_timestamp() AS now"))[0]["now"]
        await self._rows(
            """UPDATE procrastinate_jobs SET worker_id = %(worker)s
                WHERE status = 'doing' AND worker_id IS NULL AND id = ANY(%(held)s) RETURNING id""",
            worker=self._worker,
            held=list(self.held),
        )

    @property
    def stopping(self) -> bool:
        return self._stopping

    def stop(self) -> None:
        """Fetch nothing more, and repeat no statement."""
        self._stopping = True

    def cancel(self) -> None:
        """Wait for the database no longer."""
        self._cancelled = True
        for scope in self._scopes:
            scope.cancel()

    # --- statements ----------------------------------------------------------------------------------------------

    async def _repeat(self, statement: Callable[[], Awaitable[T]]) -> T:
        """Run a statement until the database has executed it.

        Raises:
            Stopped: it has not, and the worker is being stopped.
        """
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        repeated = False
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                while not self._cancelled and not (repeated and self._stopping):
                    try:
                        return await statement()
                    except ConnectorException as exc:
                        repeated = True
                        if not is_interruption(exc.__cause__ or exc):
                            logger.exception("a statement of jobs failed, and is repeated")
                            await anyio.sleep(backoff.next())
                    # Returns once the database is there, and has the pool replace its dead connections.
                    await self._database.fetch("SELECT 1")
            finally:
                self._scopes.discard(scope)
        raise Stopped

    async def _rows(self, query: LiteralString, **arguments: Any) -> list[dict[str, Any]]:
        return await self._statements.execute_query_all_async(query, **arguments)

    # --- notifications -------------------------------------------------------------------------------------------

    async def listen_for_jobs(
        self, *, on_notification: NotificationCallback, queues: Iterable[str] | None = None
    ) -> None:
        """Pass `wake` on to the worker, until it ends. Notifications are received elsewhere (`listener`)."""
        while True:
            await self._woken.wait()
            self._woken = anyio.Event()
            await on_notification(channel=CHANNEL, notification={"type": "job_inserted", "job_id": 0})

    def wake(self) -> None:
        """Make the worker look for jobs now."""
        self._wakes += 1
        self._woken.set()

    def reconnected(self) -> None:
        """Notice that there was no connection for some time: notifications may have been lost, and jobs."""
        self._uncertain = True
        self.wake()

    # --- jobs ----------------------------------------------------------------------------------------------------

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """Return the next job; None if there is none, or the worker is being stopped.

        The worker forgets a notification that arrives while it fetches. Where the database may have been asked before
        the job was there, it is asked again.
        """
        with suppress(Stopped):
            while not self._stopping:
                seen = self._wakes
                async with self._fetching:
                    job = await self._repeat(lambda: self._fetch(queues))
                    if job is not None and job.id is not None:
                        self.held.add(job.id)
                        return job
                if seen == self._wakes:
                    break
        return None

    async def _fetch(self, queues: Iterable[str] | None) -> Job | None:
        arguments = {"queues": None if queues is None else list(queues), "worker_id": self._worker}
        uncertain, self._uncertain = self._uncertain, False
        try:
            if uncertain:
                await self._return_lost()
            rows = await self._rows(_FETCH, **arguments)
        except BaseException as exc:
            self._uncertain = True
            if not isinstance(exc.__cause__, psycopg.errors.ForeignKeyViolation):
                raise
            await self._register_again()
            rows = await self._rows(_FETCH, **{**arguments, "worker_id": self._worker})
        # The function always returns a row; without a job, of nulls.
        return Job.from_row(rows[0]) if rows and rows[0]["id"] is not None else None

    async def finish_job_by_id_async(self, job_id: int, status: Status, delete_job: bool) -> None:
        """Remove a job. It may be gone already: another replica took this one for dead, or an earlier attempt was
        committed. Jobs that end while a statement is on its way are removed together by the next one."""
        self._finished.add(job_id)
        async with self._finishing:
            if job_id not in self._finished:
                return
            finished, self._finished = self._finished, set()
            try:
                await self._repeat(
                    lambda: self._rows(
                        f"DELETE FROM procrastinate_jobs WHERE id = ANY(%(ids)s) RETURNING {_LAZILY}",
                        ids=list(finished),
                    )
                )
            except Stopped:
                logger.info("%d jobs that have ended are delivered again", len(finished))
            finally:
                self.held.difference_update(finished)

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Give a job back, to be delivered at once, or with `retry_at` after `RETRY_S`, by the database's clock. While
        the worker is being stopped, `unregister_worker` does it for all jobs together."""
        assert job.id is not None
        try:
            if not self._stopping:
                await self._repeat(
                    lambda: self._rows(
                        """WITH given AS (UPDATE procrastinate_jobs SET status = 'todo', worker_id = NULL,
                                attempts = attempts + 1,
                                scheduled_at = clock_timestamp() + make_interval(secs => %(delay)s)
                            WHERE id = %(id)s AND status = 'doing' RETURNING id)
                        """
                        + _ANNOUNCE
                        + " FROM given",
                        id=job.id,
                        delay=None if retry_at is None else RETRY_S,
                    )
                )
        except Stopped:
            logger.info("job %s is delivered again once its worker counts as dead", job.id)
        finally:
            self.held.discard(job.id)

    async def _return_lost(self) -> None:
        """Give jobs back that the database counts as this worker's and that it does not have: the connection broke
        while one was fetched, or the database has lost the end of one. Called while nothing is being fetched."""
        rows = await self._rows(
            _TO_DO.format(which="worker_id = %(worker)s AND NOT (id = ANY(%(held)s))"),
            worker=self._worker,
            held=list(self.held),
        )
        if rows:
            logger.info("%d jobs that were lost with a connection are delivered again", len(rows))
            self.wake()

    async def sweep(self) -> list[int]:
        """Give the jobs of dead workers to the living, in one transaction; return which futures they are of. None while
        the worker is being stopped.

        A worker is dead if its last heartbeat is too old. Neither a time without a database counts, nor one in which
        this worker had no connection: then all heartbeats are old, and say nothing.
        """
        with suppress(Stopped):
            return await self._repeat(self._sweep)
        return []

    async def _sweep(self) -> list[int]:
        async with self._fetching:
            await self._return_lost()
        rows = await self._rows(
            """WITH dead AS (SELECT id FROM procrastinate_workers
                    WHERE greatest(last_heartbeat, %(steady)s::timestamptz, """
            + self.up_since
            + """) < clock_timestamp() - make_interval(secs => %(limit)s)
                    FOR UPDATE SKIP LOCKED),
                given AS ("""
            + _TO_DO.format(which="(worker_id IS NULL OR worker_id IN (SELECT id FROM dead))")
            + """),
                removed AS (DELETE FROM procrastinate_workers WHERE id IN (SELECT id FROM dead) RETURNING id)
                SELECT seq FROM given""",
            steady=self.steady_since,
            limit=self._dead_after_s,
        )
        if rows:
            await self._rows(_ANNOUNCE)
        return sorted(row["seq"] for row in rows)


def reason_of(exc: psycopg.Error | ConnectorException) -> str:
    """Return the database's reason in one line."""
    cause = exc if isinstance(exc, psycopg.Error) else exc.__cause__
    return reason(cause) if isinstance(cause, psycopg.Error) else str(exc)
