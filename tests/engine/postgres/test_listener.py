"""Notifications reach all replicas, in order, and a reconnect is reported, since those before it may be lost."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.futures_table import Ending, FuturesTable
from asyncfc_mcp.engine.postgres.listener import MAX_PAYLOAD, Listener, Notification, notify, payloads, read
from asyncfc_mcp.engine.postgres.schema import migrate
from tests.support.postgres import PostgresServer
from tests.support.postgres_futures import ALL, make_ready, new, submit

pytestmark = pytest.mark.anyio

KINDS = ("submitted", "changed", "cancel", "released", "test")


class Heard:
    """Notifications of one replica."""

    def __init__(self, database: Database) -> None:
        self.all: list[Notification] = []
        self.connects = 0
        self._changed = anyio.Event()
        self.listener = Listener(database)
        self.listener.on_connected.append(self._connected)
        for kind in KINDS:
            self.listener.handle(kind, self._take)

    def _connected(self) -> None:
        self.connects += 1
        self._change()

    def _take(self, notification: Notification) -> None:
        self.all.append(notification)
        self._change()

    def _change(self) -> None:
        event, self._changed = self._changed, anyio.Event()
        event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what notifications bring about."""
        with anyio.fail_after(30):
            while not condition():
                await self._changed.wait()


@asynccontextmanager
async def listening(database: Database) -> AsyncGenerator[Heard]:
    """Listen until the block ends."""
    heard = Heard(database)
    async with anyio.create_task_group() as tg:
        await tg.start(heard.listener.run)
        yield heard
        tg.cancel_scope.cancel()


@pytest.fixture
async def heard(database: Database) -> AsyncGenerator[Heard]:
    """Listens to the database of this test."""
    async with listening(database) as heard:
        yield heard


async def test_changes_of_futures_are_notified(heard: Heard, table: FuturesTable, other: FuturesTable):
    """Each with its kind, its replica and its futures, in the order of commits."""
    rows = await submit(table, new(), new())
    seqs = [row.seq for row in rows]
    await make_ready(table, rows)
    assert await other.claim(seqs[0]) is not None
    await table.request_cancel(seqs[0])
    await table.release()
    await heard.until(lambda: len(heard.all) >= 4)
    assert heard.all == [
        Notification("submitted", "A", (seqs[-1],)),
        Notification("changed", "B", (seqs[0],)),
        Notification("cancel", "A", (seqs[0],)),
        Notification("released", "A"),
    ]
    assert (await table.submit([], ALL)).rows == []
    assert not await table.update_running(seqs[1], {"round": {}})
    await notify(table._database, "test", "A")
    await heard.until(lambda: len(heard.all) >= 5)
    assert heard.all[-1] == Notification("test", "A"), "nothing is notified where nothing changed"


async def test_a_notification_carries_further_fields(heard: Heard, database: Database):
    """And any number of futures, in several notifications if they do not fit into one."""
    seqs = list(range(10**12, 10**12 + 2_000))
    await notify(database, "test", "B", seqs, progress=[1, None, "ü\0\ud800"])
    await heard.until(lambda: sum(len(each.seqs) for each in heard.all) == len(seqs))
    assert [seq for each in heard.all for seq in each.seqs] == seqs
    assert all(each.data == {"progress": [1, None, "ü\0\ud800"]} for each in heard.all)
    assert len(heard.all) > 1


async def test_many_ends_are_notified_in_several_notifications(heard: Heard, table: FuturesTable):
    """None of them exceeds PostgreSQL's limit."""
    rows = await submit(table, *(new() for _ in range(1_000)))
    await table.end([Ending(row.seq, State.CANCELLED, ran=False) for row in rows])
    await heard.until(lambda: sum(len(each.seqs) for each in heard.all if each.kind == "changed") == 1_000)
    assert sorted(seq for each in heard.all if each.kind == "changed" for seq in each.seqs) == [r.seq for r in rows]


async def test_schemas_do_not_hear_each_other(heard: Heard, postgres: PostgresServer, database: Database):
    """Clusters that share a database."""
    other = Database(postgres.url(postgres.fresh_schema()))
    await migrate(other)
    async with other.open():
        await notify(other, "test", "X")
    await notify(database, "test", "A")
    await heard.until(lambda: bool(heard.all))
    assert heard.all == [Notification("test", "A")]


async def test_a_reconnect_is_reported_after_it_listens(heard: Heard, database: Database):
    """So that what is read then, and what is notified after it, is everything."""
    assert heard.connects == 1
    connected: list[bool] = []
    heard.listener.on_connected.append(lambda: connected.append(heard.listener.connected))
    for count in range(2, 5):
        await database.fetch(
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE query LIKE 'LISTEN%%' AND query LIKE '%%' || %s || '%%' AND pid <> pg_backend_pid()""",
            (database.channel,),
        )
        await heard.until(lambda count=count: heard.connects >= count)
        await notify(database, "test", "A", [count])
        await heard.until(lambda count=count: bool(heard.all) and heard.all[-1].seqs == (count,))
    assert connected == [True] * 3


async def test_a_restart_of_the_database_is_outlasted(own_postgres: PostgresServer, anyio_backend: str):
    """The connection is made again as soon as there is a server."""
    database = Database(own_postgres.url())
    await migrate(database)
    async with database.open(), listening(database) as heard:
        await anyio.to_thread.run_sync(lambda: own_postgres.restart(immediate=True))
        await heard.until(lambda: heard.connects >= 2)
        await notify(database, "test", "A")
        await heard.until(lambda: heard.all == [Notification("test", "A")])


async def test_neither_foreign_payloads_nor_failing_handlers_end_the_listener(
    heard: Heard, database: Database, caplog: pytest.LogCaptureFixture
):
    """They are logged."""

    def failing(notification: Notification) -> None:
        raise RuntimeError("handler")

    heard.listener.handle("test", failing)
    heard.listener.on_connected.append(lambda: failing(Notification("", "")))
    for payload in ("", "[", "1", "[]", "{}", '{"kind": 1, "by": "x"}', '{"kind": "test", "by": "x", "seqs": ["y"]}'):
        await database.fetch("SELECT pg_notify(%s, %s)", (database.channel, payload))
    await notify(database, "unknown kind", "A")
    await notify(database, "test", "A")
    await notify(database, "test", "B")
    await heard.until(lambda: len(heard.all) == 2)
    assert caplog.text.count("is not one of this program") == 7
    assert caplog.text.count("was not handled") == 2


@given(st.lists(st.integers(0, 1 << 63)), st.text(max_size=30), st.dictionaries(st.just("more"), st.text(max_size=900)))
def test_payloads_are_read_as_they_were_written(seqs: list[int], by: str, data: dict[str, str]):
    """Within PostgreSQL's limit, which is one of bytes."""
    written = payloads("kind", by, seqs, **data)
    assert all(len(payload.encode()) <= MAX_PAYLOAD for payload in written)
    found = [read(payload) for payload in written]
    assert all(each is not None and (each.kind, each.by, each.data) == ("kind", by, data) for each in found)
    assert [seq for each in found if each is not None for seq in each.seqs] == seqs


def test_a_payload_that_is_too_long_is_refused():
    """Futures are distributed, further fields are not."""
    with pytest.raises(ValueError, match="too long"):
        payloads("kind", "by", [], data="x" * 8_000)
