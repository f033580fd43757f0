"""The database's URL, its connections, and transactions that are repeated until they are committed."""

import logging

import anyio
import psycopg
import pytest

from asyncfc_mcp.engine.postgres.database import POOL_MAX, Connection, Database, is_database_url, is_interruption
from asyncfc_mcp.errors import DatabaseUnusable
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("url", "schema", "parameters"),
    [
        ("postgresql:///db", "asyncfc", {"dbname": "db"}),
        ("postgres://h/db?schema=x_1", "x_1", {"host": "h", "dbname": "db"}),
        (
            "postgresql://u:p%40%2F@h:7/db?sslmode=require&schema=y&application_name=me",
            "y",
            {"user": "u", "password": "p@/", "port": "7", "sslmode": "require", "application_name": "me"},
        ),
        ("postgresql://u@/db?host=/var/run/x&port=5433", "asyncfc", {"host": "/var/run/x", "port": "5433"}),
        ("postgresql://a:1,b:2/db?target_session_attrs=read-write", "asyncfc", {"host": "a,b", "port": "1,2"}),
        ("postgresql://[::1]/db?schema=one&schema=two", "two", {"host": "::1"}),
    ],
)
def test_a_url_has_libpqs_parameters_and_a_schema(url: str, schema: str, parameters: dict[str, str]):
    """`schema` is this program's, and does not reach libpq."""
    database = Database(url)
    found = psycopg.conninfo.conninfo_to_dict(database.conninfo)
    assert (database.schema, database.channel) == (schema, f"asyncfc_{schema}")
    assert parameters.items() <= found.items()
    assert f"-c search_path={schema} " in str(found["options"])
    assert "schema" not in found


async def test_options_of_the_url_are_kept(postgres: PostgresServer, anyio_backend: str):
    """Beside those of this program."""
    database = Database(f"{postgres.url('x')}&options=-c%20geqo%3Doff")
    async with database.open():
        assert await database.fetch("SHOW geqo") == [("off",)]
        assert await database.fetch("SHOW search_path") == [("x",)]
        assert await database.fetch("SHOW default_transaction_isolation") == [("read committed",)]


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hidden@h/db",
        "postgresql://u:hidden@h/db?schema=",
        "postgresql://u:hidden@h/db?schema=Upper",
        "postgresql://u:hidden@h/db?schema=pg_x",
        "postgresql://u:hidden@h/db?schema=a;b",
        f"postgresql://u:hidden@h/db?schema={'a' * 51}",
        "postgresql://u:hidden@h/db?unknown=1",
        "postgresql://u:hidden@h/db?=1&&",
        "postgresql://u:hidden@[h/db",
        "postgresql://u:hidden%zz@h/db",
    ],
)
def test_a_malformed_url_is_refused_without_its_password(url: str):
    """The text says what is wrong."""
    with pytest.raises(DatabaseUnusable) as refused:
        Database(url)
    assert "hidden" not in str(refused.value)
    assert "cannot be used: " in str(refused.value)


def test_urls_of_databases_are_told_from_other_settings():
    """`engine` may be a word as well."""
    assert is_database_url("postgresql://h/db")
    assert is_database_url("postgres://h/db")
    assert not any(map(is_database_url, ("memory", "postgresql", "http://h", "postgresql:h", "")))


async def test_a_database_that_refuses_is_reported_at_once(postgres: PostgresServer, anyio_backend: str):
    """Wrong password, unknown database: waiting does not help. The password is not shown."""
    right = postgres.url()
    password = right.split(":")[2].partition("@")[0]
    for url in (right.replace(password, "wrong-" + password), postgres.url(database="nothing")):
        with anyio.fail_after(30), pytest.raises(DatabaseUnusable) as refused:
            async with Database(url).open(wait_s=3_000):
                pass
        assert password not in str(refused.value)


async def test_a_database_that_is_not_there_yet_is_waited_for(own_postgres: PostgresServer, anyio_backend: str):
    """As long as the caller wants."""
    own_postgres.stop()
    database = Database(own_postgres.url())
    with pytest.raises(DatabaseUnusable, match="refused"):
        async with database.open(wait_s=0):
            pass
    database = Database(own_postgres.url())
    async with anyio.create_task_group() as tg:
        tg.start_soon(anyio.to_thread.run_sync, own_postgres.start)
        async with database.open(wait_s=60):
            assert await database.fetch("SELECT 1") == [(1,)]


async def test_a_transaction_is_repeated_after_its_connection_broke(database: Database):
    """Wherever it breaks; what was done before is undone."""
    await database.fetch("CREATE TABLE counted (number int)")
    runs = 0

    async def work(connection: Connection) -> int:
        nonlocal runs
        runs += 1
        await connection.execute("INSERT INTO counted VALUES (%s)", (runs,))
        if runs <= 3:
            pid = connection.info.backend_pid
            await database.fetch("SELECT pg_terminate_backend(%s)", (pid,))
        await connection.execute("INSERT INTO counted VALUES (%s)", (runs,))
        return runs

    assert await database.repeating(work) == 4
    assert await database.fetch("SELECT number FROM counted") == [(4,), (4,)]


async def test_a_mistake_is_not_repeated(database: Database):
    """A statement that cannot succeed is raised."""
    runs = 0

    async def work(connection: Connection) -> None:
        nonlocal runs
        runs += 1
        await connection.execute("SELECT 1/0")

    with pytest.raises(psycopg.errors.DivisionByZero):
        await database.repeating(work)
    assert runs == 1
    with pytest.raises(psycopg.errors.UndefinedTable):
        await database.fetch("SELECT * FROM nothing")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        await database.fetch("SELECT repeat('x', 1 << 30)")
    assert await database.fetch("SELECT 1") == [(1,)]


async def test_of_two_transactions_that_wait_for_each_other_one_is_repeated(database: Database):
    """Both are committed."""
    await database.fetch("CREATE TABLE counted (id int PRIMARY KEY, number int)")
    await database.fetch("INSERT INTO counted VALUES (1, 0), (2, 0)")
    first = {1: anyio.Event(), 2: anyio.Event()}

    async def crossing(mine: int, other: int) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute("UPDATE counted SET number = number + 1 WHERE id = %s", (mine,))
            first[mine].set()
            await first[other].wait()
            await connection.execute("UPDATE counted SET number = number + 1 WHERE id = %s", (other,))

        await database.repeating(work)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tg:
            tg.start_soon(crossing, 1, 2)
            tg.start_soon(crossing, 2, 1)
    assert await database.fetch("SELECT number FROM counted") == [(2,), (2,)]


async def test_more_transactions_than_connections_wait_for_their_turn(database: Database):
    """All of them are committed."""
    await database.fetch("CREATE TABLE counted (number int)")

    async def one(number: int) -> None:
        await database.fetch("INSERT INTO counted VALUES (%s)", (number,))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tg:
            for number in range(100):
                tg.start_soon(one, number)
    assert await database.fetch("SELECT count(*) FROM counted") == [(100,)]


async def test_a_cancelled_transaction_leaves_nothing_behind(database: Database):
    """Neither a lock nor a connection that is in use: what has begun is completed, and not repeated."""
    await database.fetch("CREATE TABLE counted (number int)")
    ((pid,),) = await database.fetch("SELECT pg_backend_pid()")
    for number in range(12):  # more than there are connections
        inside = anyio.Event()

        async def work(connection: Connection, number: int = number, inside: anyio.Event = inside) -> None:
            await connection.execute("LOCK TABLE counted")
            inside.set()
            await connection.execute("SELECT pg_sleep(0.01)")
            await connection.execute("INSERT INTO counted VALUES (%s)", (number,))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tg:
                tg.start_soon(database.repeating, work)
                await inside.wait()
                tg.cancel_scope.cancel()
    assert await database.fetch("SELECT count(*) FROM counted") == [(12,)]
    alive = await database.fetch("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", (pid,))
    assert alive == [(1,)], "the connection was kept"


async def test_a_wait_for_a_connection_can_be_cancelled(database: Database):
    """The statement is not executed."""
    release, all_held = anyio.Event(), anyio.Event()
    holding = 0

    async def hold(connection: Connection) -> None:
        nonlocal holding
        holding += 1
        if holding == POOL_MAX:
            all_held.set()
        await release.wait()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tg:
            for _ in range(POOL_MAX):
                tg.start_soon(database.repeating, hold)
            await all_held.wait()
            with anyio.move_on_after(0.05) as waiting:
                await database.fetch("SELECT 1")
            assert waiting.cancelled_caught
            release.set()
        assert await database.fetch("SELECT 1") == [(1,)]


async def test_a_repetition_can_be_cancelled(own_postgres: PostgresServer, anyio_backend: str):
    """While the database is away; it is used again afterwards."""
    database = Database(own_postgres.url())
    async with database.open():
        await database.fetch("SELECT 1")
        await anyio.to_thread.run_sync(own_postgres.stop)
        with anyio.fail_after(30):
            with anyio.move_on_after(0.05) as waiting:
                await database.fetch("SELECT 1")
            assert waiting.cancelled_caught
        await anyio.to_thread.run_sync(own_postgres.start)
        assert await database.fetch("SELECT 1") == [(1,)]


async def test_an_outage_is_a_warning_with_its_end(
    own_postgres: PostgresServer, anyio_backend: str, caplog: pytest.LogCaptureFixture
):
    """One of each, without the password, and nothing of the library's own; a broken connection alone is none."""
    database = Database(own_postgres.url())
    password = own_postgres.url().split(":")[2].partition("@")[0]
    warned = anyio.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "does not respond" in record.getMessage():
                warned.set()

    watch = Watch()
    logging.getLogger("asyncfc_mcp").addHandler(watch)
    caplog.set_level(logging.WARNING)
    try:
        async with database.open():
            await database.fetch("SELECT 1")
            await anyio.to_thread.run_sync(own_postgres.restart)
            await database.fetch("SELECT 1")
            assert caplog.records == []
            await anyio.to_thread.run_sync(own_postgres.stop)
            with anyio.fail_after(60):
                async with anyio.create_task_group() as tg:
                    tg.start_soon(database.fetch, "SELECT 1")
                    tg.start_soon(database.fetch, "SELECT 1")
                    await warned.wait()
                    await anyio.to_thread.run_sync(own_postgres.start)
    finally:
        logging.getLogger("asyncfc_mcp").removeHandler(watch)
    assert ["does not respond" in caplog.messages[0], "available again" in caplog.messages[1]] == [True, True]
    assert len(caplog.messages) == 2
    assert password not in caplog.text


def test_which_errors_are_interruptions():
    """Those after which the same transaction may succeed."""
    errors = psycopg.errors
    for error in (errors.DeadlockDetected, errors.AdminShutdown, errors.DiskFull, errors.ReadOnlySqlTransaction):
        assert is_interruption(error())
    assert is_interruption(psycopg.OperationalError("the connection is closed"))
    for error in (errors.UniqueViolation, errors.ProgramLimitExceeded, errors.SyntaxError, psycopg.InterfaceError):
        assert not is_interruption(error())
    assert not is_interruption(ValueError())
