"""Sessions that another replica continues: what goes on there, for whom, and for how long."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import anyio
import pytest

from asyncfc_mcp.bridge.server_requests import ALL_CLIENT_CAPABILITIES
from asyncfc_mcp.core.identity import Scope
from asyncfc_mcp.transports.http import routes
from asyncfc_mcp.transports.http.auth.bearer_token import Principals
from asyncfc_mcp.transports.http.session import HttpSession
from asyncfc_mcp.transports.http.session_table import IDLE_S, SWEEP_S
from asyncfc_mcp.upstream.server import Upstream
from tests.support.asgi_client import Exchange, Http, Json, alive
from tests.support.distant_engine import DistantEngine, distant
from tests.support.inprocess_server import Toy, bridge_over
from tests.support.session_archives import MemorySessions
from tests.support.virtual_time import on_virtual_time, settle
from tests.transports.http.test_sessions import INITIALIZE, Client, ask, call, last, tell

ALICE, BOB = Scope("alice"), Scope("bob")
TOKENS = {"alice": ALICE, "bob": BOB}
AS_ALICE = {"authorization": "Bearer alice"}


@dataclass
class Replica:
    """A bridge with an app of its own; its engine knows nothing of the futures of others."""

    app: Any
    upstream: Upstream
    toy: Toy

    @property
    def sessions(self) -> dict[str, HttpSession]:
        return self.app._sessions._table._sessions

    def listener(self, session_id: str) -> Any:
        return self.upstream._subscriptions.listener(self.sessions[session_id].session)


@dataclass
class Cluster:
    """Two replicas and what they share."""

    archive: MemorySessions
    left: Replica
    right: Replica

    async def open(self, name: str = "test", at: Replica | None = None) -> Client:
        """Shake hands with one of them as alice."""
        params = {**INITIALIZE, "clientInfo": {"name": name, "version": "1"}}
        app = (at or self.left).app
        opened = await Exchange(app, Http(ask("initialize", params, id=0), AS_ALICE)).run()
        assert opened.status == 200
        client = Client(app, opened.headers["mcp-session-id"])
        assert (await client.send(tell("notifications/initialized"), **AS_ALICE)).status == 202
        return client

    def elsewhere(self, client: Client) -> Client:
        """The same client, whose requests reach the other replica."""
        return Client((self.right if client.app is self.left.app else self.left).app, client.session)


@asynccontextmanager
async def cluster(**settings: Any) -> AsyncGenerator[Cluster]:
    archive = MemorySessions()
    async with AsyncExitStack() as stack:
        replicas: list[Replica] = []
        for _ in range(2):
            toy = Toy()
            with distant():
                bridge = await stack.enter_async_context(
                    bridge_over(toy, policy={"mode": "sync", "grace_ms": 0}, **settings)
                )
            cast("DistantEngine", bridge.engine).archive = archive
            bridge.server_requests.set_client_capabilities(ALL_CLIENT_CAPABILITIES)
            upstream = Upstream(bridge)
            tg = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(tg.cancel_scope.cancel)
            await tg.start(upstream.run)
            app, _ = routes.http_app(
                upstream, host="127.0.0.1", principals=Principals(TOKENS), streamable=True, sse=False
            )
            await stack.enter_async_context(alive(app))
            replicas.append(Replica(app, upstream, toy))
        yield Cluster(archive, *replicas)


@on_virtual_time
async def test_another_replica_continues_a_session():
    """With what was agreed in the handshake; the client notices nothing."""
    async with cluster() as it:
        client = await it.open("codex-mcp-client")
        there = it.elsewhere(client)
        answer = last(await there.send(call("echo", {"text": "hi"}, id=1), **AS_ALICE))
        assert answer["result"]["structuredContent"] == {"arguments": {"text": "hi"}}
        assert [got.tool for got in it.right.toy.got] == ["echo"]
        mine, theirs = (each.sessions[client.session].session for each in (it.left, it.right))
        assert mine is not theirs
        assert mine.record == theirs.record
        assert (theirs.host, theirs.version) == ("codex-mcp-client", Http.version)
        assert theirs.capabilities == INITIALIZE["capabilities"]
        assert it.archive.asked == [client.session]


@on_virtual_time
async def test_its_caller_is_the_same_one_there():
    """So names and questions are the same caller's; another session's are not."""
    async with cluster() as it:
        one, two = await it.open(), await it.open()
        for client in (one, two):
            await it.elsewhere(client).send(ask("ping"), **AS_ALICE)
        here, there = (
            [replica.sessions[client.session].session.identity for client in (one, two)]
            for replica in (it.left, it.right)
        )
        assert [each.token for each in here] == [each.token for each in there]
        assert here[0].may_be(there[0])
        assert not here[0].may_be(there[1])
        assert not here[1].may_be(here[0])
        assert one.session not in here[0].token, "the token is stored, and the ID opens the session"


@on_virtual_time
async def test_what_the_client_has_asked_for_goes_on():
    """Its log level and its subscriptions, as they are when the other replica continues the session."""
    async with cluster() as it:
        client = await it.open()
        await client.send(ask("logging/setLevel", {"level": "error"}), **AS_ALICE)
        for uri in ("future://f1", "future://f2"):
            await client.send(ask("resources/subscribe", {"uri": uri}), **AS_ALICE)
        await client.send(ask("resources/unsubscribe", {"uri": "future://f1"}), **AS_ALICE)
        await it.elsewhere(client).send(ask("ping"), **AS_ALICE)
        listener = it.right.listener(client.session)
        assert listener.level == "error"
        assert list(listener.uris) == ["future://f2"]
        await settle()
        queued = [message["method"] for message in it.right.sessions[client.session]._queue]
        kinds = ("prompts", "resources", "tools")
        assert queued == [f"notifications/{kind}/list_changed" for kind in kinds], "a change may have been missed"


@on_virtual_time
async def test_a_session_of_another_principal_is_never_continued():
    """It is as unknown as one that never was, and stays its owner's."""
    async with cluster() as it:
        client = await it.open()
        as_bob = {"authorization": "Bearer bob"}
        refused = await it.elsewhere(client).send(ask("ping"), **as_bob)
        never = await Client(it.right.app, "0" * 32).send(ask("ping"), **as_bob)
        assert (refused.status, refused.json) == (never.status, never.json)
        assert refused.status == 404
        assert not it.right.sessions
        assert (await it.elsewhere(client).send(ask("ping"), authorization=None)).status == 401
        assert (await it.elsewhere(client).send(ask("ping"), **AS_ALICE)).status == 200


@on_virtual_time
async def test_a_session_that_its_client_has_ended_is_unknown_everywhere():
    async with cluster() as it:
        client = await it.open()
        assert (await client.send(method="DELETE", **AS_ALICE)).status == 200
        assert not it.archive.records
        assert (await it.elsewhere(client).send(ask("ping"), **AS_ALICE)).status == 404
        other = await it.open()
        assert (await it.elsewhere(other).send(method="DELETE", **AS_ALICE)).status == 200
        assert other.session not in it.archive.records


@on_virtual_time
async def test_the_handshake_is_answered_once_it_is_saved():
    """The next request may reach another replica."""
    async with cluster() as it:
        it.archive.writable = anyio.Event()
        exchange = Exchange(it.left.app, Http(ask("initialize", INITIALIZE), AS_ALICE))
        async with anyio.create_task_group() as tg:
            tg.start_soon(exchange.run)
            await settle()
            assert exchange.status is None
            it.archive.writable.set()
        assert exchange.status == 200
        assert exchange.headers["mcp-session-id"] in it.archive.records


@on_virtual_time
async def test_a_session_lives_as_long_as_one_replica_uses_it():
    """And is forgotten half an hour after its last request, wherever that was."""
    async with cluster() as it:
        client = await it.open()
        there = it.elsewhere(client)
        for _ in range(4):
            await anyio.sleep(IDLE_S / 2)
            assert (await there.send(ask("ping"), **AS_ALICE)).status == 200
        assert client.session not in it.left.sessions, "it has expired here"
        assert (await client.send(ask("ping"), **AS_ALICE)).status == 200
        await anyio.sleep(IDLE_S + 4 * SWEEP_S)
        assert not it.archive.records
        for each in (client, there):
            assert (await each.send(ask("ping"), **AS_ALICE)).status == 404


@on_virtual_time
async def test_a_session_that_had_to_make_room_can_come_back():
    """It is evicted here only."""
    async with cluster(max_sessions=1) as it:
        client = await it.open()
        await client.send(ask("ping"), **AS_ALICE)
        await anyio.sleep(SWEEP_S + 1)
        await it.open()
        assert client.session not in it.left.sessions
        await anyio.sleep(SWEEP_S + 1)
        assert (await client.send(ask("ping"), **AS_ALICE)).status == 200
        assert list(it.left.sessions) == [client.session]


@on_virtual_time
async def test_requests_that_arrive_together_continue_one_session():
    """Each of them finds it unknown."""
    async with cluster() as it:
        client = await it.open()
        exchanges = [it.elsewhere(client).exchange(ask("ping", id=n), **AS_ALICE) for n in range(1, 6)]
        async with anyio.create_task_group() as tg:
            for exchange in exchanges:
                tg.start_soon(exchange.run)
        assert {exchange.status for exchange in exchanges} == {200}
        assert len(it.right.sessions) == 1


@on_virtual_time
async def test_the_first_requests_are_not_missing_there():
    """The other replica had them, so no call waits for them."""
    async with cluster() as it:
        client = await it.open()
        began = anyio.current_time()
        answer = last(await it.elsewhere(client).send(call("echo", {"_after": "f1"}, id=5), **AS_ALICE))
        assert "f1" in answer["result"]["content"][0]["text"]
        assert anyio.current_time() - began < 0.05


@on_virtual_time
@pytest.mark.parametrize("session_id", ["nobody", "x" * 32, "0" * 31, "0" * 33, "A" * 32, "0" * 31 + "\n"])
async def test_an_id_that_was_never_given_is_not_looked_up(session_id: str):
    async with cluster() as it:
        assert (await Client(it.right.app, session_id).send(ask("ping"), **AS_ALICE)).status == 404
        assert not it.archive.asked


@on_virtual_time
async def test_a_stream_is_opened_at_the_replica_that_gets_the_request():
    """It continues the session as a call does."""
    async with cluster() as it:
        client = await it.open()
        stream = it.elsewhere(client).exchange(method="GET", **AS_ALICE)
        async with anyio.create_task_group() as tg:
            tg.start_soon(stream.run)
            await settle()
            assert stream.status == 200
            methods: list[Json] = stream.events()
            assert {each["method"].split("/")[-1] for each in methods} == {"list_changed"}
            stream.hang_up()
