"""Tables are created and migrated by one replica at a time; a newer database is refused."""

import shutil
from pathlib import Path
from typing import LiteralString

import anyio
import psycopg
import pytest
from procrastinate.schema import SchemaManager

from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.futures_table import FuturesTable
from asyncfc_mcp.engine.postgres.schema import MIGRATIONS, migrate
from asyncfc_mcp.errors import DatabaseUnusable
from tests.support.postgres import PostgresServer
from tests.support.postgres_futures import submit

pytestmark = pytest.mark.anyio

NEXT: LiteralString = "ALTER TABLE futures ADD COLUMN later int DEFAULT 7"


async def test_a_migrated_database_is_left_as_it_is(database: Database):
    """Nothing is done at the next start."""
    assert await migrate(database) == 0


async def test_replicas_that_start_at_once_create_the_tables_once(postgres_url: str, anyio_backend: str):
    """Each of them can use them then."""
    steps: list[int] = []

    async def starting() -> None:
        database = Database(postgres_url)
        steps.append(await migrate(database))
        async with database.open():
            await submit(FuturesTable(database, "A"))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tg:
            for _ in range(6):
                tg.start_soon(starting)
    assert sorted(steps)[:5] == [0] * 5
    assert steps != [0] * 6


async def test_an_older_database_is_migrated_with_its_content(database: Database, table: FuturesTable):
    """In one transaction: a step that fails leaves it as it was."""
    (row,) = await submit(table)
    failing: LiteralString = "CREATE TABLE futures (seq int)"
    with pytest.raises(DatabaseUnusable, match="already exists"):
        await migrate(database, [*MIGRATIONS, [NEXT], [failing]])
    assert await migrate(database) == 0
    assert await migrate(database, [*MIGRATIONS, [NEXT]]) == 1
    assert await database.fetch("SELECT later FROM futures WHERE seq = %s", (row.seq,)) == [(7,)]
    assert await database.fetch("SELECT number FROM version") == [(len(MIGRATIONS) + 1,)]


async def test_a_newer_database_is_refused(database: Database):
    """With both versions, and what to do."""
    await migrate(database, [*MIGRATIONS, [NEXT]])
    with pytest.raises(DatabaseUnusable) as refused:
        await migrate(database)
    assert f"of a newer version of asyncfc-mcp ({len(MIGRATIONS) + 1}, known here: up to {len(MIGRATIONS)})" in str(
        refused.value
    )


async def test_migrations_of_a_newer_procrastinate_are_applied(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each once, in their order."""
    shutil.copytree(SchemaManager.get_migrations_path(), tmp_path, dirs_exist_ok=True)
    (tmp_path / "99.00.00_01_pre_first.sql").write_text("CREATE TABLE procrastinate_new (percent text DEFAULT '%s')")
    (tmp_path / "99.00.00_50_post_second.sql").write_text("INSERT INTO procrastinate_new DEFAULT VALUES")
    monkeypatch.setattr(SchemaManager, "get_migrations_path", staticmethod(lambda: str(tmp_path)))
    assert await migrate(database) == 2
    assert await migrate(database) == 0
    assert await database.fetch("SELECT percent FROM procrastinate_new") == [("%s",)]


async def test_tables_of_another_program_are_left_alone(postgres: PostgresServer, anyio_backend: str):
    """A schema that has some of the same names is refused."""
    database = Database(postgres.url(postgres.fresh_schema()))
    async with await database.connect() as connection:
        await connection.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(psycopg.sql.Identifier(database.schema)))
        await connection.execute("CREATE TABLE futures (mine int)")
    with pytest.raises(DatabaseUnusable, match="already exists"):
        await migrate(database)
    async with await database.connect() as connection:
        found = await connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", (database.schema,))
        assert await found.fetchall() == [("futures",)]


async def test_a_user_without_rights_is_told_so(postgres: PostgresServer, anyio_backend: str):
    """One that may not create a schema, unless it is there."""
    name = postgres.fresh_schema()
    admin = Database(postgres.url(name))
    url = postgres.url(name).partition("@")[2]
    limited = Database(f"postgresql://{name}:pass@{url}")
    async with await admin.connect() as connection:
        await connection.execute(
            psycopg.sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'pass'").format(psycopg.sql.Identifier(name))
        )
    with pytest.raises(DatabaseUnusable, match="permission denied"):
        await migrate(limited)
    async with await admin.connect() as connection:
        await connection.execute(
            psycopg.sql.SQL("CREATE SCHEMA {0} AUTHORIZATION {0}").format(psycopg.sql.Identifier(name))
        )
    assert await migrate(limited) > 0
    async with limited.open():
        await submit(FuturesTable(limited, "A"))


async def test_a_database_of_another_encoding_is_refused(postgres: PostgresServer, anyio_backend: str):
    """It could not hold all text."""
    async with await Database(postgres.url()).connect() as connection:
        await connection.execute(
            "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
    with pytest.raises(DatabaseUnusable, match="its encoding must be UTF8; it is LATIN1"):
        await migrate(Database(postgres.url(database="latin")))


async def test_replicas_of_the_first_version_go_on_after_a_migration(postgres_url: str):
    """Their functions are as they were, and what they do not write has its default."""
    database = Database(postgres_url)
    await migrate(database, MIGRATIONS[:1])
    async with database.open():
        table = FuturesTable(database, "A")
        before, after = await submit(table), await submit(table)
        assert await migrate(database) == len(MIGRATIONS) - 1
        [row] = (await table.rows([before[0].seq])).values()
        assert (row.record.waits, row.record.queued_at, row.record.attempts) == ((), None, 1)
        ready = f'[{{"seq": {after[0].seq}, "server": "s", "tool": "t", "queue": "q", "share": 1}}]'
        await database.fetch("SELECT ready_futures(%s::json)", (ready,))
        end = f'[{{"seq": {before[0].seq}, "ran": false, "state": "cancelled", "private": false, "has_result": false}}]'
        end = end.replace('"has_result"', '"size": 0, "read": false, "has_result"')
        assert await database.fetch(
            "SELECT place FROM end_futures(%s::json, %b::bytea[], %s, %s, %s)",
            (end, [None], "A", "00000000-0000-0000-0000-000000000001", "A"),
        ) == [(1,)]
