"""`asyncfc-mcp engine` over a real PostgreSQL: migration, status, retention, and errors that say what to do."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from asyncfc_mcp.engine.postgres.schema import MIGRATIONS
from tests.support.postgres import PostgresServer
from tests.support.stage import Ran, Stage, free_port

VERSION = len(MIGRATIONS)
FUTURES: LiteralString = """INSERT INTO futures (token, scope, id, listed, server, tool, state, submitted_at, ended_at,
        substituted, after, private, effect, size)
    SELECT gen_random_uuid(), 's', 'f' || number, true, 's', 't', %s, now_s() - %s,
        CASE WHEN %s THEN now_s() - %s END, '{}', '{}', false, '{}', 10
    FROM generate_series(%s::int, %s::int) AS number"""


class Engine:
    """The command line with the configuration of one database."""

    def __init__(self, stage: Stage, url: str, **settings: Any) -> None:
        self._stage = stage
        self._config = stage.config({"toy": {"command": "toy"}}, engine=url, secret="x" * 32, **settings)
        self.url = url

    def run(self, command: str, *args: str, **options: Any) -> Ran:
        return self._stage.run("engine", command, "--config", str(self._config), *args, **options)

    def migrated(self) -> Engine:
        assert self.run("migrate").code == 0
        return self

    def status(self) -> dict[str, Any]:
        ran = self.run("status", "--json")
        assert ran.code == 0, ran
        return json.loads(ran.stdout)

    def sql(self, statement: LiteralString, *parameters: Any) -> None:
        base, _, schema = self.url.partition("?schema=")
        with psycopg.connect(base, options=f"-c search_path={schema}") as connection:
            connection.execute(statement, parameters)


@pytest.fixture
def engine(stage: Stage, postgres_url: str) -> Engine:
    return Engine(stage, postgres_url)


def assert_error(ran: Ran, *words: str) -> None:
    """Exit code 2 and one line that has these words; no traceback, and nothing of the password."""
    assert ran.code == 2, ran
    assert not ran.stdout
    assert len(ran.stderr.strip().splitlines()) == 1, ran.stderr
    for word in words:
        assert word in ran.stderr


def password_of(url: str) -> str:
    return url.partition("@")[0].rpartition(":")[2]


def test_migrate_creates_the_tables_once(engine: Engine):
    """It says from which version to which, and a second time that nothing is to be done."""
    first, second = engine.run("migrate"), engine.run("migrate")
    assert (first.code, second.code) == (0, 0), first
    assert f"migrated from version 0 to {VERSION}" in first.stdout
    assert f"version {VERSION}, up to date" in second.stdout
    assert password_of(engine.url) not in first.stdout + first.stderr


def test_migrations_at_the_same_time_wait_for_each_other(engine: Engine):
    """Several replicas start at once."""
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(engine.run, ["migrate"] * 4))
    assert [ran.code for ran in runs] == [0] * 4, runs
    assert engine.status()["version"] == VERSION


def test_status_without_tables_names_the_command_that_creates_them(engine: Engine):
    """And fails, for scripts; as JSON as well."""
    ran = engine.run("status")
    assert ran.code == 1
    assert "asyncfc-mcp engine migrate" in ran.stdout
    ran = engine.run("status", "--json")
    assert ran.code == 1
    assert json.loads(ran.stdout)["version"] == 0


def test_status_shows_replicas_futures_jobs_and_space(engine: Engine):
    """For people and for machines."""
    engine.migrated()
    empty = engine.run("status").stdout
    assert "No replicas" in empty
    assert "Futures: none" in empty
    engine.sql(
        """INSERT INTO replicas (id, name, started_at, seen_at, steady_since)
            VALUES ('id-east', 'east', now_s() - 7300, now_s() - 3, 0),
                ('id-west', 'west', now_s(), now_s() - 300, 0)"""
    )
    engine.sql("INSERT INTO pins VALUES ('files', 'id-east', 0)")
    engine.sql(FUTURES, "waiting", 4000, False, 0, 1, 2)
    engine.sql(FUTURES, "completed", 4000, True, 10, 3, 5)
    engine.sql(
        """INSERT INTO procrastinate_jobs (queue_name, task_name, status) VALUES
            ('any', 't', 'todo'), ('any', 't', 'todo'), ('any', 't', 'doing'), ('server:files', 't', 'todo')"""
    )
    found = engine.status()
    assert [(each["name"], each["state"], each["owns"]) for each in found["replicas"]] == [
        ("east", "living", ["files"]),
        ("west", "silent", []),
    ]
    assert found["futures"] == {"waiting": 2, "completed": 3}
    assert found["queues"] == [
        {"queue": "any", "waiting": 2, "running": 1},
        {"queue": "server:files", "waiting": 1, "running": 0},
    ]
    assert 4000 <= found["oldest_waiting_s"] < 5000
    assert found["bytes"]["total"] >= found["bytes"]["futures"] + found["bytes"]["jobs"] > 0
    text = engine.run("status").stdout
    for words in ("east", "silent", "files", "3 completed, 2 waiting", "67 min ago", "server:files", "Space: "):
        assert words in text
    assert password_of(engine.url) not in text + json.dumps(found)


def test_prune_drops_what_has_expired_and_what_is_too_much(stage: Stage, postgres_url: str):
    """By `ttl_s` and the size limit, now; unfinished calls stay."""
    engine = Engine(stage, postgres_url, ttl_s=3600).migrated()
    engine.sql(FUTURES, "waiting", 9000, False, 0, 1, 2)
    engine.sql(FUTURES, "completed", 9000, True, 8000, 3, 5)
    engine.sql(FUTURES, "completed", 9000, True, 60, 6, 7)
    assert engine.run("prune").stdout == "dropped 3 futures\n"
    assert engine.status()["futures"] == {"waiting": 2, "completed": 2}
    small = Engine(stage, postgres_url, journal_max_bytes=1 << 20)
    small.sql("UPDATE futures SET size = 1000000 WHERE id = 'f6'")
    small.sql("UPDATE futures SET size = 200000 WHERE id = 'f7'")
    assert small.run("prune").stdout == "dropped 1 future\n"
    assert engine.status()["futures"] == {"waiting": 2, "completed": 1}


def test_prune_needs_the_tables(engine: Engine):
    """Of this version."""
    assert_error(engine.run("prune"), "run `asyncfc-mcp engine migrate` first")


@pytest.mark.parametrize("command", ["migrate", "status", "prune"])
def test_a_database_that_cannot_be_used_is_one_line(stage: Stage, postgres: PostgresServer, command: str):
    """With the reason, and without the password: not there, not allowed, not existing, not a URL of ours."""
    password = "correct-horse-battery"
    wrong = f"postgresql://postgres:{password}@127.0.0.1"
    for url, word in (
        (f"{wrong}:{free_port()}/postgres", "refused"),
        (f"{wrong}:{postgres.port}/postgres", "authentication failed"),
        (postgres.url(database="nowhere"), "does not exist"),
        (f"{wrong}:{postgres.port}/postgres?schema=No", "schema"),
        (f"{wrong}:{postgres.port}/postgres?sslmodes=on", "sslmodes"),
    ):
        ran = Engine(stage, url).run(command)
        assert_error(ran, word, "127.0.0.1")
        assert password not in ran.stderr
        assert password_of(url) not in ran.stderr


def test_an_embedded_engine_has_no_database(stage: Stage):
    """The setting that is missing is named."""
    ran = stage.run("engine", "status", "--config", str(stage.config({"toy": {"command": "toy"}})))
    assert_error(ran, "asyncfc.engine", "embedded", "postgresql://")


def test_a_user_without_rights_is_one_line(stage: Stage, own_postgres: PostgresServer):
    """To create the schema, and to read another user's tables."""
    with psycopg.connect(own_postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'guests-password'")
    other = Engine(stage, own_postgres.url("theirs"))
    guest = f"postgresql://guest:guests-password@127.0.0.1:{own_postgres.port}/postgres?schema="
    assert_error(Engine(stage, f"{guest}mine").run("migrate"), "permission denied")
    other.migrated()
    for command in ("migrate", "status", "prune"):
        ran = Engine(stage, f"{guest}theirs").run(command)
        assert_error(ran, "permission denied")
        assert "guests-password" not in ran.stderr


def test_tables_of_a_newer_program_are_refused(engine: Engine):
    """With both versions, whatever is asked for."""
    engine.migrated().sql("UPDATE version SET number = 99")
    for command in ("migrate", "status", "prune"):
        assert_error(engine.run(command), "newer", "99")


@pytest.mark.parametrize("missing", ["procrastinate", "psycopg", "psycopg_pool"])
def test_a_missing_extra_is_named_with_the_command_that_installs_it(engine: Engine, tmp_path: Path, missing: str):
    """Only where the engine is chosen."""
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError(\"No module named '{missing}'\")")
    env = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    ran = engine.run("status", env=env)
    assert_error(ran, f"No module named '{missing}'", "pip install 'asyncfc-mcp[postgres]'")
