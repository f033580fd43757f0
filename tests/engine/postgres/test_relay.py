"""The relay: requests for servers of other replicas are answered once, unchanged, or fail in words, within bounds."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from asyncfc_mcp.core.identity import Scope
from asyncfc_mcp.engine.hosting import Announcement, RelayedRequest
from asyncfc_mcp.engine.postgres import relay as relays
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.listener import Listener
from asyncfc_mcp.engine.postgres.relay import PostgresRelay
from asyncfc_mcp.engine.postgres.schema import migrate
from asyncfc_mcp.errors import CallFailed, NotRelayed, ProtocolFailure, RunsElsewhere
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.anyio

ALICE = Scope("alice")
ODD: Mapping[str, Any] = {
    "text": "NUL \x00, a lone surrogate \ud800, U+2028 \u2028, 世界",
    "numbers": [0, -1, 2**64, 1.5, 1e300],
    "unknown": {"": [None, True, {}, []]},
}


class Peer:
    """One replica, and what its server is asked."""

    def __init__(self, database: Database, name: str, *owned: str) -> None:
        self.name, self.owned, self.database = name, frozenset(owned), database
        self.listener = Listener(database)
        self.relay = PostgresRelay(
            database,
            name,
            servers=frozenset({"s", "other"}),
            owned=lambda: self.owned,
            living=lambda: (),
            dead_after_s=0.2,
        )
        self.relay.attach(self.listener)
        self.asked: list[RelayedRequest] = []
        self.cancelled = 0
        self.gate: anyio.Event | None = None
        self.outcome: Any = {}
        self._changed = anyio.Event()
        self.scope = anyio.CancelScope()

    async def answer(self, request: RelayedRequest) -> Any:
        self.asked.append(request)
        self.change()
        try:
            if self.gate is not None:
                await self.gate.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            self.change()
            raise
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def change(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def until(self, check: Callable[[], bool]) -> None:
        with anyio.fail_after(20):
            while not check():
                await self._changed.wait()

    async def run(self, *, task_status: Any) -> None:
        with self.scope:
            async with anyio.create_task_group() as tg:
                await tg.start(self.relay.run)
                await tg.start(self.listener.run)
                tg.start_soon(self.relay.serve, self.answer)
                await self.database.fetch(
                    "INSERT INTO replicas (id, name, started_at, seen_at, steady_since) VALUES (%s, '', 0, 0, 0)",
                    (self.name,),
                )
                task_status.started()
                await anyio.sleep_forever()

    async def ask(self, method: str = "resources/read", server: str = "s", params: Any = None) -> Any:
        with anyio.fail_after(20):
            return await self.relay.request(RelayedRequest(server, method, params or {}, ALICE))

    async def die(self) -> None:
        """Be gone, and be found dead by the others."""
        self.scope.cancel()
        await self.database.fetch("UPDATE replicas SET dead_at = 1 WHERE id = %s", (self.name,))


Peers = Callable[..., Any]


@pytest.fixture
async def peers(postgres: PostgresServer) -> AsyncGenerator[Peers]:
    """Starts replicas over one database."""
    url = postgres.url(postgres.fresh_schema())
    await migrate(Database(url))

    @asynccontextmanager
    async def running(name: str, *owned: str) -> AsyncGenerator[Peer]:
        database = Database(url)
        async with database.open(), anyio.create_task_group() as tg:
            peer = Peer(database, name, *owned)
            await tg.start(peer.run)
            yield peer
            tg.cancel_scope.cancel()

    async with AsyncExitStack() as stack:

        async def start(name: str, *owned: str) -> Peer:
            return await stack.enter_async_context(running(name, *owned))

        yield start


async def test_an_answer_passes_unchanged(peers: Peers):
    """So do the parameters; the principal and the replica that asks are known where the request is made."""
    owner, other = await peers("a", "s"), await peers("b")
    owner.outcome = {**ODD, "big": "x" * 2_000_000}
    assert await other.ask(params=ODD) == owner.outcome
    assert owner.asked == [RelayedRequest("s", "resources/read", ODD, ALICE, "b")]
    assert not other.asked


async def test_an_error_passes_as_it_is(peers: Peers):
    """That of a server with code, message and data; any other with its text."""
    owner, other = await peers("a", "s"), await peers("b")
    owner.outcome = ProtocolFailure("resources/read", -32002, "Resource not found \x00", dict(ODD))
    with pytest.raises(ProtocolFailure) as found:
        await other.ask()
    assert (found.value.code, found.value.message, found.value.data) == (-32002, "Resource not found \x00", ODD)
    owner.outcome = CallFailed("the server is on fire")
    with pytest.raises(CallFailed, match="the server is on fire"):
        await other.ask()
    owner.outcome = RuntimeError("a mistake")
    with pytest.raises(CallFailed, match="the request failed"):
        await other.ask()


async def test_a_request_that_is_given_up_is_cancelled_there(peers: Peers):
    """And nothing of it stays in the database."""
    owner, other = await peers("a", "s"), await peers("b")
    owner.gate = anyio.Event()
    async with anyio.create_task_group() as tg:
        tg.start_soon(other.ask)
        await owner.until(lambda: bool(owner.asked))
        tg.cancel_scope.cancel()
    await owner.until(lambda: owner.cancelled == 1)
    with anyio.fail_after(20):
        while True:
            if not await other.database.fetch("SELECT 1 FROM requests"):
                break
            await anyio.sleep(0.01)


async def test_losses_of_notifications_are_made_up_for(peers: Peers):
    """All connections break while requests are on their way, and while they are being made."""
    owner, other = await peers("a", "s"), await peers("b")
    owner.gate = anyio.Event()
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await other.ask())

    async with anyio.create_task_group() as tg:
        for _ in range(3):
            for _ in range(3):
                tg.start_soon(ask)
            await other.database.fetch(
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name = 'asyncfc-mcp' AND pid <> pg_backend_pid()"""
            )
        await owner.until(lambda: len(owner.asked) == 9)
        owner.gate.set()
    assert answers == [{}] * 9


async def test_a_request_goes_to_the_next_replica_that_runs_the_server(peers: Peers):
    """If the one that makes it dies, and what it asks for changes nothing; or if the server has moved before."""
    owner, next_, other = await peers("a", "s"), await peers("b"), await peers("c")
    owner.gate = anyio.Event()
    next_.outcome = {"from": "b"}
    answers: list[Any] = []

    async def ask(method: str) -> None:
        try:
            answers.append(await other.ask(method))
        except CallFailed as exc:
            answers.append(str(exc))

    async with anyio.create_task_group() as tg:
        tg.start_soon(ask, "prompts/get")
        tg.start_soon(ask, "tools/call")
        await owner.until(lambda: len(owner.asked) == 2)
        await owner.die()
        next_.owned = frozenset({"s"})
        await next_.relay.hosted(["s"])
    assert {"from": "b"} in answers
    assert [each.method for each in next_.asked] == ["prompts/get"]
    [failed] = [each for each in answers if isinstance(each, str)]
    assert "may or may not have taken effect" in failed
    next_.outcome = RunsElsewhere("s")
    async with anyio.create_task_group() as tg:
        tg.start_soon(ask, "prompts/get")
        await next_.until(lambda: len(next_.asked) == 2)
        next_.owned = frozenset()
        other.owned = frozenset({"s"})
        other.outcome = {"from": "c"}
        await other.relay.hosted(["s"])
    assert answers[-1] == {"from": "c"}


async def test_a_request_fails_if_no_replica_runs_the_server(peers: Peers, monkeypatch: pytest.MonkeyPatch):
    """In words, once one could have taken the server over; further ones do not wait for that, until one runs it."""
    monkeypatch.setattr(relays, "TAKE_S", 0.0)
    monkeypatch.setattr(relays, "POLL_S", 0.05)
    other = await peers("b")
    with pytest.raises(NotRelayed, match="no replica runs it at the moment"):
        await other.ask()
    monkeypatch.setattr(relays, "TAKE_S", 1e5)
    with pytest.raises(NotRelayed, match="no replica runs it at the moment"):
        await other.ask()
    owner = await peers("a", "s")
    other.relay.on_hosted.append(lambda _: other.change())
    await owner.relay.hosted(["s"])
    await other.until(lambda: "s" not in other.relay._absent)
    assert await other.ask() == {}


async def test_bounds(peers: Peers, monkeypatch: pytest.MonkeyPatch):
    """On the size of requests and answers, their number, and the time until an answer."""
    owner, other = await peers("a", "s"), await peers("b")
    monkeypatch.setattr(relays, "MAX_REQUEST_BYTES", 1_000)
    monkeypatch.setattr(relays, "MAX_ANSWER_BYTES", 1_000)
    with pytest.raises(NotRelayed, match="the request has"):
        await other.ask(params={"text": "x" * 1_000})
    assert not owner.asked
    owner.outcome = {"text": "x" * 1_000}
    with pytest.raises(CallFailed, match="its answer has"):
        await other.ask()
    owner.gate = anyio.Event()
    monkeypatch.setattr(relays, "ANSWER_S", 0.05)
    with pytest.raises(NotRelayed, match="has not answered"):
        await other.ask()
    monkeypatch.setattr(relays, "MAX_PENDING", 0)
    with pytest.raises(NotRelayed, match="wait for other replicas"):
        await other.ask()


async def test_announcements_reach_the_other_replicas(peers: Peers):
    """All but the one that announces; one that is too long is left out."""
    heard: list[tuple[str, Announcement]] = []
    all_peers = [await peers(name, *owned) for name, owned in (("a", ("s",)), ("b", ()), ("c", ()))]
    for peer in all_peers:

        def hear(announcement: Announcement, peer: Peer = peer) -> None:
            heard.append((peer.name, announcement))
            peer.change()

        peer.relay.on_announced.append(hear)
    said = Announcement("s", "notifications/message", dict(ODD), ALICE)
    all_peers[0].relay.announce(Announcement("s", "notifications/message", {"data": "x" * 8_000}))
    all_peers[0].relay.announce(said)
    for peer in all_peers[1:]:
        await peer.until(lambda peer=peer: any(name == peer.name for name, _ in heard))
    assert sorted(heard, key=lambda each: each[0]) == [("b", said), ("c", said)]


async def test_all_replicas_hear_where_a_server_runs(peers: Peers):
    """The one that runs it included; and after a reconnect, that it may have moved."""
    owner, other = await peers("a", "s"), await peers("b")
    hosted: list[tuple[str, str]] = []
    for peer in (owner, other):

        def hear(server: str, peer: Peer = peer) -> None:
            hosted.append((peer.name, server))
            peer.change()

        peer.relay.on_hosted.append(hear)
    await owner.relay.hosted(["s"])
    for peer in (owner, other):
        await peer.until(lambda peer=peer: (peer.name, "s") in hosted)
    hosted.clear()
    other.relay._connected()
    assert sorted(hosted) == [("b", "other"), ("b", "s")]
