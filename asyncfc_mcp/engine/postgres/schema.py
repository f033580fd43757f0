"""Tables and functions of the database, and migrations from older versions.

Owns SQL that defines things, procrastinate's included. A program migrates older databases forward, in one transaction
that one replica at a time runs, and refuses those of a newer program. Statements over futures are `futures_table`'s;
the functions here do what needs several statements under a lock, so that it takes one round trip.

Rows are found by indexes only, most of which cover the few rows that are in one state, so that the cost of a call does
not depend on the number of futures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
import psycopg.sql
from procrastinate.schema import SchemaManager

from asyncfc_mcp.engine.postgres.database import Connection, Database, reason
from asyncfc_mcp.engine.postgres.functions import FUNCTIONS, HISTORY
from asyncfc_mcp.errors import DatabaseUnusable

MIN_SERVER: Final = 130_000
"""PostgreSQL 13."""

_TABLES: Final = """
-- `seq` is the order of submission, which is that of commits: see `submit_futures`. `placed`: the call has a place at
-- its server and tool, and a job. The tokens tell a repetition of a change (after a lost connection) from another
-- replica's.
CREATE TABLE futures (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    token uuid NOT NULL,
    scope text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    listed boolean NOT NULL,
    server text COLLATE "C" NOT NULL,
    tool text NOT NULL,
    state text NOT NULL,
    name text COLLATE "C",
    namer text COLLATE "C",
    host text,
    conversation text COLLATE "C",
    submitted_at double precision NOT NULL,
    started_at double precision,
    ended_at double precision,
    read_at double precision,
    ttl_s double precision,
    cause text,
    substituted text NOT NULL,
    after text NOT NULL,
    failure text,
    round text,
    private boolean NOT NULL,
    has_result boolean NOT NULL DEFAULT false,
    size bigint NOT NULL DEFAULT 0,
    effect text NOT NULL,
    owner text,
    worker text,
    cancelled boolean NOT NULL DEFAULT false,
    call_tool text COLLATE "C",
    placed boolean NOT NULL DEFAULT false,
    kept_until double precision,
    start_token uuid,
    end_token uuid,
    owner_token uuid
) WITH (
    fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.05
);
CREATE UNIQUE INDEX futures_token ON futures (token);
CREATE UNIQUE INDEX futures_id ON futures (scope, id);
-- By the negative number: no other index has that order, which the planner might take instead, with a filter, where it
-- expects to find enough rows soon.
CREATE INDEX futures_scope ON futures (scope, (-seq));
CREATE INDEX futures_unfinished ON futures (seq) WHERE ended_at IS NULL;
CREATE INDEX futures_named ON futures (scope, name, (-seq)) WHERE name IS NOT NULL;
CREATE INDEX futures_names_in_use ON futures (scope, name) WHERE name IS NOT NULL AND ended_at IS NULL;
CREATE INDEX futures_unread ON futures (scope, conversation, (-seq))
    WHERE conversation IS NOT NULL AND ended_at IS NOT NULL AND read_at IS NULL;
CREATE INDEX futures_read ON futures (ended_at) INCLUDE (size) WHERE ended_at IS NOT NULL AND read_at IS NOT NULL;
CREATE INDEX futures_not_read ON futures (ended_at) INCLUDE (size) WHERE ended_at IS NOT NULL AND read_at IS NULL;
CREATE INDEX futures_kept_until ON futures (kept_until) WHERE kept_until IS NOT NULL;

-- Calls that lack nothing but a place, and those that have one: see `give_places`. Each table has one index, so that no
-- plan that was made while it was empty takes another.
CREATE TABLE queued (
    server text COLLATE "C",
    party text COLLATE "C",
    call_tool text COLLATE "C",
    seq bigint,
    queue text NOT NULL,
    server_limit integer,
    tool_limit integer,
    share double precision NOT NULL,
    PRIMARY KEY (server, party, call_tool, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.01);
CREATE TABLE places (
    server text COLLATE "C", call_tool text COLLATE "C", seq bigint, limited boolean NOT NULL,
    party text COLLATE "C" NOT NULL,
    PRIMARY KEY (server, call_tool, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.01);
-- When each party was last given a place, where several wait.
CREATE TABLE turns (
    server text COLLATE "C", party text COLLATE "C", given_at double precision NOT NULL, PRIMARY KEY (server, party)
) WITH (fillfactor = 50);

-- Apart from the futures, so that a change of a future does not write arguments and results again. Both are JSON, as
-- bytes: `json` and `jsonb` hold neither NUL nor lone surrogates, and `jsonb` changes numbers.
CREATE TABLE calls (seq bigint PRIMARY KEY, json bytea NOT NULL) WITH (autovacuum_vacuum_scale_factor = 0.01);
CREATE TABLE results (seq bigint PRIMARY KEY, json bytea NOT NULL);
ALTER TABLE results ALTER COLUMN json SET STORAGE EXTERNAL;

-- The last number that was given to a future of a scope (`f1`, `f2`, …).
CREATE TABLE scopes (scope text COLLATE "C" PRIMARY KEY, last bigint NOT NULL) WITH (fillfactor = 50);

-- Open questions of servers; `refusal` is a JSON-RPC error, `answer` a result.
CREATE TABLE questions (
    seq bigint NOT NULL,
    id text NOT NULL,
    method text NOT NULL,
    params bytea NOT NULL,
    server text,
    claimed_until double precision NOT NULL DEFAULT 0,
    answer bytea,
    refusal bytea,
    PRIMARY KEY (seq, id)
);
CREATE TABLE sessions (
    id text PRIMARY KEY, scope text NOT NULL, data bytea NOT NULL, seen_at double precision NOT NULL
);
CREATE INDEX sessions_seen ON sessions (seen_at);
-- What servers have listed that one replica at a time runs, as JSON.
CREATE TABLE listings (server text PRIMARY KEY, version bigint NOT NULL, data bytea NOT NULL);

-- Requests for servers that another replica runs, while somebody waits for the answer. `asker` and `worker` are
-- replicas.
CREATE UNLOGGED TABLE requests (
    id uuid PRIMARY KEY,
    server text COLLATE "C" NOT NULL,
    asker text NOT NULL,
    request bytea NOT NULL,
    made_at double precision NOT NULL,
    worker text,
    answer bytea,
    failure bytea
);

-- `steady_since`: since when the heartbeats of a replica have come without a gap. `handler`: the replica that takes
-- care of what a dead one leaves.
CREATE TABLE replicas (
    id text PRIMARY KEY,
    name text NOT NULL,
    started_at double precision NOT NULL,
    seen_at double precision NOT NULL,
    steady_since double precision NOT NULL,
    dead_at double precision,
    handler text
) WITH (fillfactor = 50);
-- Replicas that run the servers which one replica at a time runs.
CREATE TABLE pins (server text PRIMARY KEY, replica text NOT NULL, since double precision NOT NULL);
"""

_HISTORY: Final = """
-- What a call has waited for, as JSON; since when it lacked nothing but a place; how often it was sent.
ALTER TABLE futures
    ADD COLUMN waits text,
    ADD COLUMN queued_at double precision,
    ADD COLUMN attempts integer NOT NULL DEFAULT 1;
"""

Migration = Sequence[LiteralString]
MIGRATIONS: Final[Sequence[Migration]] = ((_TABLES, *FUNCTIONS), (_HISTORY, *HISTORY))
"""Step from version n to n + 1, at index n; version 0 has only the tables of `_VERSIONS`, and procrastinate's. A step
is never changed after a release. Replicas of the version before go on during a rolling upgrade: a step keeps what they
use, and a function that changes its meaning gets a new name."""

_VERSIONS: Final = """
CREATE TABLE IF NOT EXISTS version (number integer NOT NULL);
CREATE TABLE IF NOT EXISTS procrastinate_migrations (file text PRIMARY KEY);
"""


async def migrate(database: Database, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Bring the database to the version of this program, which creates a new one; return the number of steps.

    Raises:
        DatabaseUnusable: it is of a newer program, or it cannot be migrated, with the reason.
        psycopg.Error: the connection broke; the database has its former content.
    """
    connection = await database.connect()
    try:
        if connection.info.server_version < MIN_SERVER:
            raise DatabaseUnusable(database.shown, "PostgreSQL 13 or later is needed")
        encoding = await _value(connection, "SHOW server_encoding")
        if encoding != "UTF8":
            raise DatabaseUnusable(database.shown, f"its encoding must be UTF8; it is {encoding}")
        version = await current_version(connection, database)
        if version == len(migrations) and not await _missing_of_procrastinate(connection):
            return 0
        async with connection.transaction():
            return await _migrate(connection, database, migrations)
    except (psycopg.ProgrammingError, psycopg.NotSupportedError) as exc:
        # No right to create something, or objects of another program in the schema.
        why = f"schema {database.schema} cannot be created or migrated: {reason(exc)}"
        raise DatabaseUnusable(database.shown, why) from exc
    finally:
        await connection.close()


async def current_version(connection: Connection, database: Database, known: int = len(MIGRATIONS)) -> int:
    """Return the version of the database; 0 for one without tables of this program.

    Raises:
        DatabaseUnusable: it is newer than this program.
    """
    if await _value(connection, "SELECT to_regclass(%s)::text", f"{database.schema}.version") is None:
        return 0
    version: int = await _value(connection, "SELECT coalesce(max(number), 0) FROM version")
    if version > known:
        raise DatabaseUnusable(
            database.shown,
            f"schema {database.schema} is of a newer version of asyncfc-mcp ({version}, known here: up to {known}); "
            f"update this one, or choose another schema",
        )
    return version


async def _migrate(connection: Connection, database: Database, migrations: Sequence[Migration]) -> int:
    await connection.execute("SET LOCAL statement_timeout = 0")
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"migrate {database.schema}",))
    if await _value(connection, "SELECT to_regnamespace(%s)::text", database.schema) is None:
        # Not IF NOT EXISTS alone, which needs the right to create schemas even where there is one.
        await connection.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(psycopg.sql.Identifier(database.schema)))
    await connection.execute(_VERSIONS)
    version = await current_version(connection, database, len(migrations))
    done = await _migrate_procrastinate(connection)
    for step in migrations[version:]:
        for statement in step:
            await connection.execute(statement)
        done += 1
    await connection.execute("DELETE FROM version")
    await connection.execute("INSERT INTO version VALUES (%s)", (len(migrations),))
    return done


# --- procrastinate -------------------------------------------------------------------------------------------------


async def _missing_of_procrastinate(connection: Connection) -> list[str]:
    """Return the names of procrastinate's own migrations that the database does not have, in their order."""
    cursor = await connection.execute("SELECT file FROM procrastinate_migrations")
    applied = {row[0] for row in await cursor.fetchall()}
    return [name for name in _migrations_of_procrastinate() if name not in applied]


async def _migrate_procrastinate(connection: Connection) -> int:
    """Create procrastinate's tables, or apply those of its migrations that are missing."""
    missing = await _missing_of_procrastinate(connection)
    if await _value(connection, "SELECT to_regclass('procrastinate_jobs')::text") is None:
        await connection.execute(SchemaManager.get_schema())
    else:
        for name in missing:
            await connection.execute(_migrations_of_procrastinate()[name])
    for name in missing:
        await connection.execute("INSERT INTO procrastinate_migrations VALUES (%s)", (name,))
    return len(missing)


def _migrations_of_procrastinate() -> dict[str, bytes]:
    folder = SchemaManager.get_migrations_path()
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.sql"))}


async def _value(connection: Connection, statement: LiteralString, *parameters: Any) -> Any:
    row = await (await connection.execute(statement, parameters or None)).fetchone()
    return None if row is None else row[0]
