"""Replicas: deaths are found once, and not where there are none; owners of pinned servers."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.engine.postgres import schema
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.listener import Listener
from asyncfc_mcp.engine.postgres.replicas import UP_SINCE, Replicas
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.anyio

LIMIT_S = 1e5
LONG_AGO_S = 1e6


@dataclass
class Seen:
    """A replica, and what it was told."""

    replicas: Replicas
    dead: list[str] = field(default_factory=list[str])
    revived: int = 0
    owned: list[set[str]] = field(default_factory=list[set[str]])
    failing: bool = False
    changed: anyio.Event = field(default_factory=anyio.Event)
    during_death: Callable[[], Awaitable[None]] | None = None

    async def on_dead(self, ids: Collection[str]) -> None:
        self.dead += sorted(ids)
        if self.during_death is not None:
            await self.during_death()
        self._fail()

    async def on_revived(self) -> None:
        self.revived += 1
        self._fail()

    async def on_owned(self, servers: Collection[str]) -> None:
        self.owned.append(set(servers))
        changed, self.changed = self.changed, anyio.Event()
        changed.set()
        self._fail()

    def _fail(self) -> None:
        if self.failing:
            raise RuntimeError("not yet")

    async def owns(self, server: str) -> None:
        with anyio.fail_after(30):
            while not self.owned or server not in self.owned[-1]:
                await self.changed.wait()

    async def turn(self) -> None:
        await self.replicas.beat()
        await self.replicas.look()


@dataclass
class Cluster:
    database: Database
    made: int = 0

    def make(self, name: str = "", **settings: Any) -> Seen:
        number, self.made = self.made, self.made + 1
        settings = {"dead_after_s": LIMIT_S, **settings}

        async def on_dead(ids: Collection[str]) -> None:
            await seen.on_dead(ids)

        async def on_revived() -> None:
            await seen.on_revived()

        async def on_owned(servers: frozenset[str]) -> None:
            await seen.on_owned(servers)

        replicas = Replicas(
            self.database,
            f"r{number}",
            name or f"n{number}",
            on_dead=on_dead,
            on_revived=on_revived,
            on_owned=on_owned,
            **settings,
        )
        replicas.up_since = "0"
        seen = Seen(replicas)
        return seen

    async def join(self, name: str = "", **settings: Any) -> Seen:
        seen = self.make(name, **settings)
        await seen.replicas.register()
        return seen

    async def age(self, *seen: Seen) -> None:
        """Let the last heartbeat be long ago."""
        ids = [each.replicas.replica for each in seen]
        await self.sql("UPDATE replicas SET seen_at = seen_at - %s WHERE id = ANY(%s)", LONG_AGO_S, ids)

    async def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return await self.database.fetch(query, parameters)  # pyright: ignore[reportArgumentType]

    async def ids(self) -> list[str]:
        return [row[0] for row in await self.sql("SELECT id FROM replicas ORDER BY id")]


@asynccontextmanager
async def cluster_over(url: str) -> AsyncGenerator[Cluster]:
    database = Database(url)
    await schema.migrate(database)
    async with database.open():
        yield Cluster(database)


@pytest.fixture
def cluster(database: Database) -> Cluster:
    return Cluster(database)


async def at_once(*functions: Callable[[], Awaitable[Any]]) -> None:
    async with anyio.create_task_group() as tasks:
        for function in functions:
            tasks.start_soon(function)


# --- deaths --------------------------------------------------------------------------------------------------------


async def test_a_death_is_handled_by_one_replica_and_then_forgotten(cluster: Cluster):
    """However many look at the same time. The living know who is left."""
    dead, *living = [await cluster.join() for _ in range(4)]
    for each in living:
        await each.replicas.beat()
    assert living[0].replicas.names == {"r0": "n0", "r1": "n1", "r2": "n2", "r3": "n3"}
    await cluster.age(dead)
    await at_once(*(each.turn for each in living))
    await living[0].turn()
    assert [dead for each in living for dead in each.dead] == ["r0"]
    assert await cluster.ids() == ["r1", "r2", "r3"]
    assert living[0].replicas.names == {"r1": "n1", "r2": "n2", "r3": "n3"}


async def test_a_death_is_handled_until_that_succeeds(cluster: Cluster):
    """By the same replica as long as it lives, and then by another."""
    dead, first, second = [await cluster.join() for _ in range(3)]
    await cluster.age(dead)
    first.failing = True
    await first.turn()
    await second.turn()
    await first.turn()
    assert (first.dead, second.dead) == (["r0", "r0"], [])
    await cluster.age(first)
    await second.turn()
    await second.turn()
    assert second.dead in (["r0", "r1"], ["r1", "r0"])
    assert await cluster.ids() == ["r2"]


async def test_a_replica_that_was_taken_for_dead_returns_after_its_funeral(cluster: Cluster):
    """Not before the others are done: what they take over must not be what it has begun since."""
    suspended, other = [await cluster.join() for _ in range(2)]
    await cluster.age(suspended)

    async def during() -> None:
        await suspended.turn()
        assert "r0" not in suspended.replicas.names

    other.during_death = during
    await other.turn()
    assert other.dead == ["r0"]
    assert suspended.revived == 0
    suspended.failing = True
    await suspended.turn()
    suspended.failing = False
    await suspended.turn()
    await suspended.turn()
    assert suspended.revived == 2  # the first time it failed
    assert await cluster.ids() == ["r0", "r1"]
    assert set(suspended.replicas.names) == {"r0", "r1"}


async def test_a_replica_whose_death_nobody_can_handle_returns(cluster: Cluster):
    """The one that noticed it has died as well."""
    suspended, other = [await cluster.join() for _ in range(2)]
    await cluster.age(suspended)
    other.failing = True
    await other.turn()
    await cluster.age(other)
    await suspended.turn()
    assert suspended.dead == []  # it has just come back, and the other may do so as well
    await cluster.sql("UPDATE replicas SET steady_since = 0")
    await suspended.turn()  # finds the other's death
    await suspended.turn()
    assert suspended.revived == 1
    assert suspended.dead == ["r1"]
    assert await cluster.ids() == ["r0"]


async def test_after_an_interruption_for_all_nobody_is_dead(cluster: Cluster):
    """Whoever comes first: all heartbeats are old then, its own too."""
    first, second = [await cluster.join() for _ in range(2)]
    await cluster.age(first, second)
    await first.replicas.look()
    await first.turn()
    assert await cluster.ids() == ["r0", "r1"]
    assert (first.dead, first.revived) == ([], 0)
    await cluster.sql("UPDATE replicas SET steady_since = 0")  # the others had enough time since then
    await first.turn()
    assert first.dead == ["r1"]


async def test_a_restart_of_the_database_is_nobodys_death(own_postgres: PostgresServer):
    """Heartbeats count from its start."""
    async with cluster_over(own_postgres.url()) as cluster:
        first, second = await cluster.join(), await cluster.join()
        first.replicas.up_since = UP_SINCE
        await cluster.age(second)
        await first.turn()
        assert first.dead == []


async def test_replicas_that_were_forgotten_are_found_by_their_futures(cluster: Cluster):
    """One that did not know of its death may have submitted something after it."""
    await cluster.sql(
        """INSERT INTO futures (token, scope, id, listed, server, tool, state, submitted_at, substituted, after,
                private, effect, owner, worker)
            SELECT gen_random_uuid(), 's', 'f' || number, true, 's', 't', 'running', 0, '{}', '{}', false, '{}',
                'lost owner', 'lost worker' FROM generate_series(1, 3) AS number"""
    )
    replica = await cluster.join()
    await replica.turn()
    assert replica.dead == ["lost owner", "lost worker"]
    assert await cluster.ids() == ["r0"]


async def test_a_crash_is_noticed_by_those_that_run(cluster: Cluster):
    """Heartbeats go on while a death is handled, and at the end a replica signs off."""
    crashed = await cluster.join()
    handled = anyio.Event()
    running = cluster.make(interval_s=0.01, dead_after_s=0.2)

    async def during() -> None:
        [(before,)] = await cluster.sql("SELECT seen_at FROM replicas WHERE id = 'r1'")
        while True:
            [(now,)] = await cluster.sql("SELECT seen_at FROM replicas WHERE id = 'r1'")
            if now > before:
                break
            await anyio.sleep(0.01)
        handled.set()

    running.during_death = during
    async with anyio.create_task_group() as tasks:
        await tasks.start(running.replicas.run)
        with anyio.fail_after(30):
            await handled.wait()
        tasks.cancel_scope.cancel()
    assert running.dead == [crashed.replicas.replica]
    assert set(await cluster.ids()) <= {"r0"}


STEPS = st.lists(
    st.tuples(st.sampled_from(["beat", "look", "turn", "age", "leave", "fail", "succeed", "later"]), st.integers(0, 3)),
    max_size=25,
)


def test_whatever_happens_the_living_agree_in_the_end(postgres: PostgresServer):
    """On who lives and who owns what: each death is handled, nobody handles its own, and each server has one owner."""
    url = postgres.url(postgres.fresh_schema())

    async def check(steps: list[tuple[str, int]]) -> None:
        database = Database(url)
        async with database.open():
            await database.fetch("DELETE FROM replicas")
            await database.fetch("DELETE FROM pins")
            cluster = Cluster(database)
            pinned = {"files": "auto", "git": "auto", "named": "n2"}
            present = dict(enumerate([await cluster.join(pinned=pinned) for _ in range(4)]))
            for step, number in steps:
                if (each := present.get(number)) is None:
                    continue
                match step:
                    case "beat":
                        await each.replicas.beat()
                    case "look":
                        await each.replicas.look()
                    case "turn":
                        await each.turn()
                    case "age":
                        await cluster.age(each)
                    case "leave" if len(present) > 1:
                        await each.replicas.leave()
                        del present[number]
                    case "fail" | "succeed":
                        each.failing = step == "fail"
                    case _:
                        await cluster.sql("UPDATE replicas SET steady_since = 0")
            for each in present.values():
                each.failing = False
            for _ in range(4):
                await cluster.sql("UPDATE replicas SET steady_since = 0")
                for each in present.values():
                    await each.turn()
            ids = sorted(each.replicas.replica for each in present.values())
            assert await cluster.ids() == ids
            for each in present.values():
                assert sorted(each.replicas.names) == ids
                assert each.replicas.replica not in each.dead
            owned = sorted(server for each in present.values() for server in each.replicas.owned)
            assert owned == sorted(server for server in pinned if server != "named" or 2 in present)

    @given(STEPS)
    @settings(max_examples=25, deadline=None)
    def run(steps: list[tuple[str, int]]) -> None:
        anyio.run(check, steps)

    anyio.run(schema.migrate, Database(url))
    run()


# --- pinned servers ------------------------------------------------------------------------------------------------


async def test_one_replica_at_a_time_owns_a_pinned_server(cluster: Cluster):
    """All agree which one, and after its death another one takes it."""
    pinned = {"files": "auto", "git": "auto", "\0\ud800": "auto"}
    seen = [await cluster.join(pinned=pinned) for _ in range(3)]
    await at_once(*(each.turn for each in seen for _ in range(3)))
    for server in pinned:
        owners = {await each.replicas.owner_of(server) for each in seen}
        assert len(owners) == 1
        assert [each.replicas.replica for each in seen if server in each.replicas.owned] == list(owners)
    owner = next(each for each in seen if "files" in each.replicas.owned)
    others = [each for each in seen if each is not owner]
    await cluster.age(owner)
    for _ in range(2):
        await at_once(*(each.turn for each in others))
    assert sorted(server for each in others for server in each.replicas.owned) == sorted(pinned)
    await owner.turn()
    await owner.turn()
    assert owner.owned[-1] == set()
    assert owner.revived == 1


async def test_a_server_with_a_named_owner_runs_there_only(cluster: Cluster):
    """Nowhere while no replica of that name lives, and in one of them if there are two."""
    pinned = {"files": "west"}
    east = await cluster.join("east", pinned=pinned)
    assert await east.replicas.owner_of("files") is None
    west, again = await cluster.join("west", pinned=pinned), await cluster.join("west", pinned=pinned)
    await west.turn()
    await again.turn()
    await east.turn()
    assert {await each.replicas.owner_of("files") for each in (east, west, again)} == {west.replicas.replica}
    assert (east.owned, west.owned, again.owned) == ([], [{"files"}], [])
    assert east.replicas.owned == set()
    await cluster.age(west)
    await again.turn()
    await again.turn()
    assert await east.replicas.owner_of("files") == again.replicas.replica


async def test_a_named_owner_replaces_any(cluster: Cluster):
    """After a change of the configuration."""
    east = await cluster.join("east", pinned={"files": "auto"})
    await east.turn()
    west = await cluster.join("west", pinned={"files": "west"})
    await west.turn()
    await east.turn()
    assert east.owned == [{"files"}, set()]
    assert west.owned == [{"files"}]


async def test_an_owner_is_told_until_it_can_be(cluster: Cluster):
    """A server that could not be started is not owned by anyone who does not know it."""
    replica = await cluster.join(pinned={"files": "auto"})
    replica.failing = True
    await replica.turn()
    assert replica.replicas.owned == set()
    replica.failing = False
    await replica.turn()
    assert replica.owned == [{"files"}, {"files"}]
    assert replica.replicas.owned == {"files"}


async def test_a_replica_that_leaves_hands_its_servers_over(cluster: Cluster):
    """At once: the others do not wait for their next look."""
    listener = Listener(cluster.database)
    first = cluster.make(pinned={"files": "auto"}, interval_s=1e6)
    second = cluster.make(pinned={"files": "auto"}, interval_s=1e6)
    second.replicas.attach(listener)
    async with anyio.create_task_group() as tasks:
        await tasks.start(listener.run)
        async with anyio.create_task_group() as firsts:
            await firsts.start(first.replicas.run)
            await first.owns("files")
            await tasks.start(second.replicas.run)
            firsts.cancel_scope.cancel()
        await second.owns("files")
        tasks.cancel_scope.cancel()
    assert await cluster.ids() == []
    assert await cluster.sql("SELECT 1 FROM pins") == []


async def test_a_replica_leaves_without_a_database(own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch):
    """It does not wait for one."""
    monkeypatch.setattr("asyncfc_mcp.engine.postgres.replicas.LEAVE_S", 0.1)
    async with cluster_over(own_postgres.url()) as cluster:
        replica = cluster.make()
        async with anyio.create_task_group() as tasks:
            await tasks.start(replica.replicas.run)
            await anyio.to_thread.run_sync(own_postgres.stop)
            tasks.cancel_scope.cancel()
