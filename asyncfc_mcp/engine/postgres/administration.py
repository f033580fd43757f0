"""Administration of the database, without taking part in the work: migration, figures, retention.

Owns what `asyncfc-mcp engine` does. Its presentation is the command line's.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from asyncfc_mcp.engine.postgres import schema
from asyncfc_mcp.engine.postgres.database import Connection, Database, reason
from asyncfc_mcp.engine.postgres.futures_table import FuturesTable
from asyncfc_mcp.engine.postgres.rows import unescaped
from asyncfc_mcp.errors import DatabaseUnusable

_REPLICAS: LiteralString = """SELECT id, name,
        now_s() - started_at AS started_s_ago, now_s() - seen_at AS heartbeat_s_ago,
        CASE WHEN dead_at IS NOT NULL THEN 'dead' WHEN now_s() - seen_at > %(limit)s THEN 'silent' ELSE 'living' END
            AS state,
        ARRAY(SELECT server FROM pins WHERE replica = replicas.id ORDER BY 1) AS owns
    FROM replicas ORDER BY started_at, id"""
_FUTURES: LiteralString = "SELECT state, count(*) FROM futures GROUP BY state ORDER BY state"
_OLDEST: LiteralString = """SELECT now_s() - min(submitted_at) FROM futures
    WHERE ended_at IS NULL AND state = 'waiting'"""
_QUEUES: LiteralString = """SELECT queue_name AS queue, count(*) FILTER (WHERE status = 'todo') AS waiting,
        count(*) FILTER (WHERE status = 'doing') AS running
    FROM procrastinate_jobs WHERE status IN ('todo', 'doing') GROUP BY queue_name ORDER BY queue_name"""
_BYTES: LiteralString = """SELECT relname, pg_total_relation_size(oid) FROM pg_class
    WHERE relnamespace = to_regnamespace(%(schema)s) AND relkind = 'r' ORDER BY 2 DESC, 1"""


@dataclass(frozen=True, slots=True)
class Migrated:
    """Outcome of a migration."""

    database: str
    schema: str
    before: int
    """Version before it; 0 without tables."""
    after: int
    changed: bool
    """Something was done: tables of procrastinate have versions of their own."""


class Administration:
    """Administration of one database.

    Args:
        url: the setting `engine`.
        ttl_s, max_bytes: retention.
        dead_after_s: age of the last heartbeat from which a replica is shown as silent.

    Raises:
        DatabaseUnusable: the URL is malformed. Each method raises it where the database cannot be reached, denies
            something, or is of a newer program.
    """

    def __init__(self, url: str, *, ttl_s: float, max_bytes: int, dead_after_s: float) -> None:
        self._database = Database(url)
        self._ttl_s, self._max_bytes, self._dead_after_s = ttl_s, max_bytes, dead_after_s

    async def migrate(self) -> Migrated:
        """Bring the database to the version of this program, and create what is missing."""
        async with self._open():
            before = await self._version()
            steps = await schema.migrate(self._database)
            after = await self._version()
        return Migrated(self._database.shown, self._database.schema, before, after, steps > 0)

    async def status(self) -> dict[str, Any]:
        """Return figures of replicas, futures, jobs and space; only versions if the tables are of another version."""
        async with self._open():
            version = await self._version()
            found: dict[str, Any] = {
                "database": self._database.shown,
                "schema": self._database.schema,
                "version": version,
                "known_version": len(schema.MIGRATIONS),
            }
            if version == len(schema.MIGRATIONS):
                async with self._database.transaction() as connection:
                    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                    found |= await self._figures(connection)
        return found

    async def prune(self) -> int:
        """Drop futures whose time has come, and those beyond the size limit; return how many.

        Raises:
            DatabaseUnusable: also if the tables are of another version.
        """
        async with self._open():
            version = await self._version()
            if version != len(schema.MIGRATIONS):
                why = f"schema {self._database.schema} has version {version}; run `asyncfc-mcp engine migrate` first"
                raise DatabaseUnusable(self._database.shown, why)
            return await FuturesTable(self._database, "").prune(self._ttl_s, self._max_bytes)

    async def _version(self) -> int:
        connection = await self._database.connect()
        try:
            return await schema.current_version(connection, self._database)
        finally:
            await connection.close()

    async def _figures(self, connection: Connection) -> dict[str, Any]:
        server = connection.info.parameter_status("server_version")
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_REPLICAS, {"limit": self._dead_after_s})
            replicas = [
                row | {"name": unescaped(row["name"]), "owns": list(map(unescaped, row["owns"]))}
                for row in await cursor.fetchall()
            ]
            await cursor.execute(_QUEUES)
            queues = await cursor.fetchall()
        futures = await (await connection.execute(_FUTURES)).fetchall()
        [(oldest,)] = await (await connection.execute(_OLDEST)).fetchall()
        sizes = await (await connection.execute(_BYTES, {"schema": self._database.schema})).fetchall()
        return {
            "server_version": server,
            "replicas": replicas,
            "futures": dict(futures),
            "oldest_waiting_s": oldest,
            "queues": queues,
            "bytes": _sizes(dict(sizes)),
        }

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[None]:
        try:
            async with self._database.open(wait_s=0):
                yield
        except psycopg.Error as exc:
            raise DatabaseUnusable(self._database.shown, reason(exc)) from exc


def _sizes(tables: Mapping[str, int]) -> dict[str, int]:
    """Return bytes with indexes: of tables that grow, and of all."""
    jobs = sum(size for name, size in tables.items() if name.startswith("procrastinate_"))
    return {
        "total": sum(tables.values()),
        **{name: tables.get(name, 0) for name in ("futures", "calls", "results")},
        "jobs": jobs,
    }
