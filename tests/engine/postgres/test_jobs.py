"""Jobs: none is lost, whatever happens to connections, the database and the replica; queues, sweeps, stops."""

import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.functions import RUN_TASK
from asyncfc_mcp.engine.postgres.jobs import ANY, GiveBack, Jobs, queue_of
from asyncfc_mcp.engine.postgres.listener import Listener
from asyncfc_mcp.engine.postgres.schema import migrate
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.anyio

NEVER = 1e6


@dataclass
class Replica:
    """A worker, and the calls that it was given."""

    jobs: Jobs
    tasks: TaskGroup
    ran: list[int] = field(default_factory=list[int])
    cancelled: list[int] = field(default_factory=list[int])
    held: dict[int, anyio.Event] = field(default_factory=dict[int, anyio.Event])
    failing: dict[int, Exception] = field(default_factory=dict[int, Exception])
    changed: anyio.Event = field(default_factory=anyio.Event)

    async def run(self, seq: int) -> None:
        self.ran.append(seq)
        self._change()
        if seq in self.failing:
            raise self.failing[seq]
        if seq in self.held:
            try:
                await self.held[seq].wait()
            except anyio.get_cancelled_exc_class():
                self.cancelled.append(seq)
                raise

    def _change(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    def hold(self, *seqs: int) -> None:
        self.held.update({seq: anyio.Event() for seq in seqs})

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(30):
            while not condition():
                await self.changed.wait()

    async def took(self, *seqs: int) -> None:
        await self.until(lambda: set(seqs) <= set(self.ran))


async def replica_that_took(seq: int, *replicas: Replica) -> Replica:
    with anyio.fail_after(30):
        while True:
            for replica in replicas:
                if seq in replica.ran:
                    return replica
            await anyio.sleep(0.01)


def insertion(queue: str, seqs: Iterable[int]) -> sql.Composed:
    """Return the statement that makes jobs."""
    return sql.SQL(
        """INSERT INTO procrastinate_jobs (queue_name, task_name, args)
            SELECT {}, {}, jsonb_build_object('seq', seq) FROM unnest({}::bigint[]) seq"""
    ).format(queue, RUN_TASK, list(seqs))


@dataclass
class Lab:
    """A database with procrastinate's schema, and replicas over it."""

    database: Database

    async def sql(self, query: str | sql.Composed, *arguments: Any) -> list[tuple[Any, ...]]:
        async with await self.database.connect() as connection:
            cursor = await connection.execute(query, arguments or None)  # pyright: ignore[reportArgumentType]
            return await cursor.fetchall() if cursor.description else []

    async def defer(self, *seqs: int, queue: str = ANY) -> None:
        await self.sql(insertion(queue, seqs))

    async def jobs(self) -> list[tuple[Any, ...]]:
        return await self.sql("SELECT (args->>'seq')::int, status::text FROM procrastinate_jobs ORDER BY 1")

    async def emptied(self, *but: int) -> None:
        """Return once there are no jobs, except these."""
        await self.until(
            "SELECT coalesce(array_agg((args->>'seq')::bigint), '{}') = %s::bigint[] FROM procrastinate_jobs", list(but)
        )

    async def until(self, query: str, *arguments: Any) -> None:
        """Return once a query returns true."""
        with anyio.fail_after(30):
            while True:
                if await self.sql(query, *arguments) == [(True,)]:
                    return
                await anyio.sleep(0.01)

    @asynccontextmanager
    async def replica(self, **settings: Any) -> AsyncGenerator[Replica]:
        async with anyio.create_task_group() as tasks:

            async def run(seq: int) -> None:
                await replica.run(seq)

            listener = Listener(self.database)
            replica = Replica(Jobs(self.database, listener, run, **settings), tasks)
            await tasks.start(listener.run)
            await tasks.start(replica.jobs.run)
            yield replica
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def lab_over(url: str) -> AsyncGenerator[Lab]:
    database = Database(url)
    await migrate(database)
    async with database.open():
        yield Lab(database)


async def test_a_job_runs_once_and_is_gone(postgres_url: str):
    """Its row too: nothing grows with the number of calls."""
    async with lab_over(postgres_url) as lab, lab.replica() as replica:
        await lab.defer(*range(50))
        await replica.took(*range(50))
        await lab.emptied()
        assert sorted(replica.ran) == list(range(50))
        assert await lab.sql("SELECT count(*) FROM procrastinate_events") == [(0,)]


async def test_jobs_run_at_the_same_time_up_to_the_limit(postgres_url: str):
    """One of these waits until another has ended."""
    async with lab_over(postgres_url) as lab, lab.replica(concurrency=20, poll_s=NEVER) as replica:
        replica.hold(*range(21))
        await lab.defer(*range(21))
        await replica.took(*range(20))
        assert await lab.jobs() == [*((seq, "doing") for seq in range(20)), (20, "todo")]
        replica.held[3].set()
        await replica.took(20)
        for event in replica.held.values():
            event.set()
        await lab.emptied()


async def test_jobs_of_a_pinned_server_wait_for_the_replica_that_serves_it(postgres_url: str):
    """From the moment at which it serves it, without a notification, and no longer than that."""
    queue = queue_of("files")
    async with (
        lab_over(postgres_url) as lab,
        lab.replica(poll_s=NEVER) as first,
        lab.replica(poll_s=NEVER) as second,
    ):
        await lab.defer(1, queue=queue)
        await lab.defer(2)
        await lab.emptied(1)
        second.jobs.serve(queue)
        await second.took(1)
        second.hold(3)
        await lab.defer(3, queue=queue)
        await second.took(3)
        second.jobs.withdraw(queue)
        await lab.defer(4, queue=queue)
        first.jobs.serve(queue)
        await first.took(4)
        assert 4 not in second.ran
        second.held[3].set()
        await lab.emptied()


async def test_no_notification_is_lost(postgres_url: str):
    """Also one that arrives while the worker asks for jobs: here it never asks without one."""
    async with lab_over(postgres_url) as lab, lab.replica(poll_s=NEVER) as replica:
        async with await lab.database.connect() as connection:
            for seq in range(300):
                await connection.execute(insertion(ANY, [seq]))
                if seq % 3:
                    await replica.took(seq)
        await replica.took(*range(300))


async def test_a_call_goes_on_while_the_database_restarts(own_postgres: PostgresServer):
    """Its job ends with it, though the connection is another one, and further jobs run."""
    async with lab_over(own_postgres.url()) as lab, lab.replica() as replica:
        replica.hold(1, 2)
        await lab.defer(1, 2)
        await replica.took(1, 2)
        await anyio.to_thread.run_sync(own_postgres.stop)
        replica.held[1].set()
        await anyio.lowlevel.checkpoint()
        await anyio.to_thread.run_sync(own_postgres.start)
        await lab.defer(3)
        await replica.took(3)
        replica.held[2].set()
        await lab.emptied()
        assert sorted(replica.ran) == [1, 2, 3]
        assert not replica.cancelled


async def test_a_crash_of_the_database_loses_no_job(own_postgres: PostgresServer):
    """Commits of the worker are not flushed: what it has done may be undone, and is then done again."""
    async with lab_over(own_postgres.url()) as lab, lab.replica() as replica:
        replica.hold(*range(10))
        await lab.defer(*range(20))
        await replica.took(*range(20))
        await anyio.to_thread.run_sync(lambda: own_postgres.restart(immediate=True))
        for event in replica.held.values():
            event.set()
        await lab.emptied()
        assert not replica.cancelled


async def test_no_job_is_lost_while_connections_break(postgres_url: str):
    """All connections of two replicas are ended again and again, at any moment: while jobs are fetched, finished, and
    given back."""
    async with lab_over(postgres_url) as lab, lab.replica() as first, lab.replica() as second:
        for replica in (first, second):
            replica.failing.update(dict.fromkeys(range(0, 100, 7), GiveBack()))
        async with await lab.database.connect() as connection:
            for start in range(0, 100, 5):
                await connection.execute(insertion(ANY, range(start, start + 5)))
                await anyio.sleep(0.02)
                await connection.execute(
                    """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                        WHERE pid <> pg_backend_pid() AND application_name = 'asyncfc-mcp'"""
                )
        for replica in (first, second):
            replica.failing.clear()
        await lab.emptied()
        assert set(first.ran) | set(second.ran) == set(range(100))


async def test_a_job_that_was_lost_with_its_connection_is_delivered(postgres_url: str):
    """The database counts it as this worker's, which has never received it."""
    async with lab_over(postgres_url) as lab, lab.replica(poll_s=NEVER) as replica:
        replica.hold(1)
        await lab.defer(1)
        await replica.took(1)
        await lab.sql(
            f"""INSERT INTO procrastinate_jobs (queue_name, task_name, args, status, worker_id)
                SELECT '{ANY}', '{RUN_TASK}', '{{"seq": 2}}', 'doing', id FROM procrastinate_workers"""
        )
        await lab.sql(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE query LIKE 'LISTEN%%' AND datname = current_database()"""
        )
        await replica.took(2)
        assert replica.ran == [1, 2]
        replica.held[1].set()
        await lab.emptied()


async def test_a_job_that_fails_before_its_claim_comes_again(postgres_url: str, caplog: pytest.LogCaptureFixture):
    """Later, so that nothing spins; the failure is in the log."""
    async with lab_over(postgres_url) as lab, lab.replica() as replica:
        replica.failing[1] = RuntimeError("no claim")
        await lab.defer(1)
        await replica.took(1)
        await lab.until("SELECT status = 'todo' AND scheduled_at > now() FROM procrastinate_jobs")
        replica.failing.clear()
        replica.ran.clear()
        await lab.sql("UPDATE procrastinate_jobs SET scheduled_at = now()")
        await replica.took(1)
        await lab.emptied()
    assert "the job of future 1 failed" in caplog.text


async def test_a_job_that_is_given_back_goes_to_another_replica(postgres_url: str, caplog: pytest.LogCaptureFixture):
    """At once, and without a word in the log."""
    async with lab_over(postgres_url) as lab, lab.replica(poll_s=NEVER) as first:
        first.failing[1] = GiveBack()
        await lab.defer(1)
        await first.took(1)
        first.jobs.withdraw(ANY)
        async with lab.replica(poll_s=NEVER) as second:
            await second.took(1)
            await lab.emptied()
    assert not caplog.records


async def test_a_replica_that_stops_gives_its_jobs_back(postgres_url: str):
    """At once: its calls are cancelled, nobody waits for them, and another replica takes the jobs."""
    async with lab_over(postgres_url) as lab, lab.replica(poll_s=NEVER) as other:
        async with lab.replica(poll_s=NEVER) as replica:
            replica.jobs.serve("mine")
            replica.hold(1, 2)
            await lab.defer(1, 2, queue="mine")
            await replica.took(1, 2)
        assert sorted(replica.cancelled) == [1, 2]
        assert await lab.jobs() == [(1, "todo"), (2, "todo")]
        other.jobs.serve("mine")
        await other.took(1, 2)
        await lab.emptied()


async def test_a_replica_stops_without_a_database(own_postgres: PostgresServer):
    """It does not wait for one, and its calls end."""
    async with lab_over(own_postgres.url()) as lab:
        with anyio.fail_after(30):
            async with lab.replica() as replica:
                replica.hold(1)
                await lab.defer(1)
                await replica.took(1)
                await anyio.to_thread.run_sync(own_postgres.stop)
        assert replica.cancelled == [1]


async def test_a_worker_that_was_taken_for_dead_continues(postgres_url: str):
    """Its next heartbeat, or its next fetch, finds that; jobs that nobody has taken stay with it."""
    async with lab_over(postgres_url) as lab:
        for heartbeat_s in (0.01, NEVER):
            async with lab.replica(poll_s=NEVER, heartbeat_s=heartbeat_s) as replica:
                replica.hold(1)
                await lab.defer(1)
                await replica.took(1)
                await lab.sql("DELETE FROM procrastinate_workers")
                if heartbeat_s == NEVER:
                    await lab.defer(2)
                    await replica.took(2)
                await lab.until("SELECT bool_and(worker_id IS NOT NULL) FROM procrastinate_jobs")
                assert len(await lab.sql("SELECT 1 FROM procrastinate_workers")) == 1
                replica.held[1].set()
                await lab.emptied()


DEAD_WORKERS = f"""WITH dead AS (
        INSERT INTO procrastinate_workers (last_heartbeat) SELECT now() - interval '1 hour' FROM generate_series(1, 4)
        RETURNING id)
    INSERT INTO procrastinate_jobs (queue_name, task_name, args, status, worker_id)
        SELECT 'mine', '{RUN_TASK}', jsonb_build_object('seq', 100 * dead.id + number), 'doing', dead.id
        FROM dead, generate_series(1, 10) number"""


async def test_jobs_of_dead_workers_are_taken_over(postgres_url: str):
    """Each is reported by one of the replicas that sweep, and by one only; jobs of the living stay where they are."""
    async with (
        lab_over(postgres_url) as lab,
        lab.replica(heartbeat_s=NEVER) as first,
        lab.replica(heartbeat_s=NEVER) as second,
    ):
        for replica in (first, second):
            replica.jobs.manager.up_since = "'epoch'::timestamptz"
            replica.hold(1)
        await lab.defer(1)
        await replica_that_took(1, first, second)
        await lab.sql(DEAD_WORKERS)
        orphans = [seq for seq, _ in await lab.jobs() if seq != 1]
        swept: list[int] = []

        async def sweep(replica: Replica) -> None:
            swept.extend(await replica.jobs.sweep())

        async with anyio.create_task_group() as tasks:
            for replica in (first, second, first, second):
                tasks.start_soon(sweep, replica)
        await sweep(first)  # two that sweep at once leave to each other what the other has locked
        assert sorted(swept) == orphans
        assert len(await lab.sql("SELECT 1 FROM procrastinate_workers")) == 2
        second.jobs.serve("mine")
        await second.took(*orphans)
        first.held[1].set()
        second.held[1].set()
        await lab.emptied()
        assert len(first.ran + second.ran) == len(orphans) + 1


async def test_jobs_of_dead_workers_are_found_with_each_heartbeat(postgres_url: str):
    """Whoever notices the death of a replica may be too early for its worker."""
    async with lab_over(postgres_url) as lab, lab.replica(poll_s=NEVER, heartbeat_s=0.01) as replica:
        replica.jobs.manager.up_since = "'epoch'::timestamptz"
        replica.jobs.serve("mine")
        await lab.sql(DEAD_WORKERS)
        await lab.emptied()
        assert len(replica.ran) == 40


async def test_nobody_is_dead_because_the_database_was_away(own_postgres: PostgresServer):
    """After its restart all heartbeats are old. They count from its start, and after a longer pause of the network,
    from the end of the pause."""
    async with lab_over(own_postgres.url()) as lab, lab.replica(heartbeat_s=NEVER, dead_after_s=3600) as replica:
        manager = replica.jobs.manager
        await lab.sql("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '29 minutes'")
        await manager.update_heartbeat(0)
        assert manager.steady_since is None
        await lab.sql("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 day'")
        await lab.sql(DEAD_WORKERS)
        assert await replica.jobs.sweep() == []
        await manager.update_heartbeat(0)
        [(since,)] = await lab.sql("SELECT last_heartbeat FROM procrastinate_workers ORDER BY 1 DESC LIMIT 1")
        assert manager.steady_since == since


@given(st.text(max_size=60))
def test_queues_have_names_that_the_database_takes(server: str):
    """Short ASCII: procrastinate makes names of channels of them."""
    queue = queue_of(server)
    assert queue.isascii()
    assert queue.isprintable()
    assert len(f"procrastinate_queue_v1#{queue}") <= 63


@given(st.sets(st.text(max_size=60), min_size=2))
def test_no_two_servers_share_a_queue(servers: set[str]):
    """Also those with long or unprintable names."""
    assert len({queue_of(server) for server in servers}) == len(servers)


async def test_servers_of_any_name_have_queues(postgres_url: str):
    """Their jobs run."""
    names = ["x" * 33, "x" * 34, "x" * 200, "with spaces", "übung", "", "a\0b", "\ud800", "%s", "'\"#"]
    async with lab_over(postgres_url) as lab, lab.replica() as replica:
        for seq, name in enumerate(names):
            replica.jobs.serve(queue_of(name))
            await lab.defer(seq, queue=queue_of(name))
        await replica.took(*range(len(names)))
        await lab.emptied()


async def test_the_log_has_no_line_for_each_job(postgres_url: str, caplog: pytest.LogCaptureFixture):
    """Whoever logs at INFO does not want procrastinate's records of every job."""
    caplog.set_level(logging.INFO)
    async with lab_over(postgres_url) as lab, lab.replica() as replica:
        await lab.defer(*range(10))
        await replica.took(*range(10))
        await lab.emptied()
    assert not [record for record in caplog.records if "procrastinate" in record.name]
