"""The PostgreSQL server of the tests can be stopped, restarted and crashed without losing what was committed."""

import socket

import psycopg
import pytest

from tests.support.postgres import PostgresServer


def plain(url: str) -> str:
    """Return a URL without the parameter that is ours."""
    return url.partition("?schema=")[0]


@pytest.mark.parametrize("immediate", [False, True])
def test_what_was_committed_survives_a_restart(own_postgres: PostgresServer, immediate: bool):
    """Also one in which the server writes nothing before its end."""
    with psycopg.connect(own_postgres.url(tcp=False), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (number int)")
        connection.execute("INSERT INTO kept VALUES (7)")
    own_postgres.restart(immediate=immediate)
    with psycopg.connect(own_postgres.url()) as connection:
        assert connection.execute("SELECT number FROM kept").fetchall() == [(7,)]


@pytest.mark.usefixtures("postgres")
def test_a_port_that_was_taken_in_the_meantime_is_no_failure():
    """Another one is used, as long as no test knows it."""
    server = PostgresServer()
    try:
        with socket.create_server(("127.0.0.1", server.port)) as taken:
            server.start()
            assert server.port != taken.getsockname()[1]
        with psycopg.connect(server.url()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        server.remove()


def test_nothing_is_left_of_a_server(own_postgres: PostgresServer):
    """Neither its data nor a port that accepts connections."""
    own_postgres.remove()
    assert not own_postgres.folder.exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(own_postgres.url(), connect_timeout=5)


def test_each_test_has_a_schema_of_its_own(postgres: PostgresServer, postgres_url: str):
    """On the server of all tests, over loopback with a password."""
    assert postgres_url.startswith("postgresql://postgres:")
    assert postgres_url != postgres.url(postgres.fresh_schema())
    with psycopg.connect(plain(postgres_url)) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
