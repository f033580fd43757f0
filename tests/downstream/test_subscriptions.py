"""What a server is asked to tell of is asked again whenever it starts, and no change falls between two streams."""

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from asyncfc_mcp.downstream.subscriptions import ACKNOWLEDGE_TIMEOUT_S, LIST_CHANGES, REOPEN_S, ServerSubscriptions
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import SUBSCRIPTION_ID_META_KEY, CallOptions
from tests.support.virtual_time import on_virtual_time, settle

LISTEN = "subscriptions/listen"


class Server:
    """One connection of a server; it acknowledges streams, and answers everything else at once."""

    def __init__(self, subscriptions: ServerSubscriptions, *, modern: bool) -> None:
        self.subscriptions = subscriptions
        self.modern = modern
        self.closed = anyio.Event()
        self.asked: list[tuple[str, Any]] = []
        self.open: dict[str, Mapping[str, Any]] = {}
        self.ends = anyio.Event()
        self.acknowledges = True
        self.denied: set[str] = set()
        self.error: int | None = None
        self.most_open = 0

    async def request(
        self, method: str, params: Mapping[str, Any], options: CallOptions | None = None
    ) -> dict[str, Any]:
        self.asked.append((method, dict(params)))
        if self.error is not None or params.get("uri") in self.denied:
            raise RpcError(self.error or -32055, "no")
        if method != LISTEN:
            return {}
        assert options is not None
        assert options.get("lasting"), "no response is owed"
        request_id = str(options.get("request_id"))
        assert request_id not in self.open, "an ID is used once at a time"
        wanted = params["notifications"]
        self.open[request_id] = wanted
        self.most_open = max(self.most_open, len(self.open))
        try:
            if self.acknowledges:
                honored = {**wanted}
                if "resourceSubscriptions" in wanted:
                    honored["resourceSubscriptions"] = [
                        uri for uri in wanted["resourceSubscriptions"] if uri not in self.denied
                    ]
                meta = {SUBSCRIPTION_ID_META_KEY: request_id}
                self.subscriptions.on_acknowledged({"notifications": honored, "_meta": meta})
            await self.ends.wait()
            return {}
        finally:
            del self.open[request_id]

    def watched(self) -> list[list[str]]:
        """The resources of each open stream that has any."""
        return [each["resourceSubscriptions"] for each in self.open.values() if "resourceSubscriptions" in each]


async def connect(tg: anyio.abc.TaskGroup, server: Server, *, logs: bool = True) -> None:
    """Run a connection until it has been asked for everything."""
    ready = anyio.Event()

    async def run() -> None:
        await server.subscriptions.run(server, ready, logs=logs)

    tg.start_soon(run)
    await ready.wait()


# --- before 2026-07-28 ---------------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_handshake_server_is_asked_once_and_again_after_a_restart():
    """For the level, and for every resource that is still wanted."""
    subscriptions = ServerSubscriptions()
    first, second = (Server(subscriptions, modern=False) for _ in range(2))
    async with anyio.create_task_group() as tg:
        await connect(tg, first)
        assert first.asked == []
        for uri in ("a://1", "a://2", "a://3"):
            await subscriptions.subscribe(first, uri)
        await subscriptions.unsubscribe(first, "a://2")
        subscriptions.log_level = "error"
        await connect(tg, second)
    assert first.asked[-1] == ("resources/unsubscribe", {"uri": "a://2"})
    assert sorted(map(str, second.asked)) == sorted(
        map(
            str,
            [
                ("logging/setLevel", {"level": "error"}),
                ("resources/subscribe", {"uri": "a://1"}),
                ("resources/subscribe", {"uri": "a://3"}),
            ],
        )
    )


@on_virtual_time
async def test_a_server_without_log_messages_is_told_no_level():
    """It would not know the method."""
    subscriptions = ServerSubscriptions()
    subscriptions.log_level = "error"
    server = Server(subscriptions, modern=False)
    async with anyio.create_task_group() as tg:
        await connect(tg, server, logs=False)
    assert server.asked == []


@pytest.mark.parametrize("modern", [False, True])
def test_what_is_refused_is_not_asked_for_again(modern: bool):
    """Neither at once nor after a restart; what else was wanted goes on."""

    @on_virtual_time
    async def check() -> None:
        subscriptions = ServerSubscriptions()
        server, again = (Server(subscriptions, modern=modern) for _ in range(2))
        server.denied = {"a://2"}
        async with anyio.create_task_group() as tg:
            await connect(tg, server)
            await subscriptions.subscribe(server, "a://1")
            with pytest.raises(RpcError):
                await subscriptions.subscribe(server, "a://2")
            tg.cancel_scope.cancel()
        async with anyio.create_task_group() as tg:
            await connect(tg, again)
            asked = str(again.asked)
            assert "a://1" in asked
            assert "a://2" not in asked
            tg.cancel_scope.cancel()

    check()


@on_virtual_time
async def test_a_server_that_refuses_after_a_restart_is_used_all_the_same():
    """There is nobody to tell."""
    subscriptions = ServerSubscriptions()
    async with anyio.create_task_group() as tg:
        await subscriptions.subscribe(Server(subscriptions, modern=False), "a://1")
        again = Server(subscriptions, modern=False)
        again.error = -32601
        await connect(tg, again)
    assert len(again.asked) == 1


# --- streams -------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_lists_are_listened_to_from_the_start_and_never_interrupted():
    """On a stream of their own, whatever resources come and go."""
    subscriptions = ServerSubscriptions()
    server = Server(subscriptions, modern=True)
    async with anyio.create_task_group() as tg:
        await connect(tg, server)
        await settle()
        assert list(server.open.values()) == [LIST_CHANGES]
        for uri in ("a://1", "a://2"):
            await subscriptions.subscribe(server, uri)
        await subscriptions.unsubscribe(server, "a://1")
        await settle()
        assert [wanted for _, wanted in server.asked].count({"notifications": LIST_CHANGES}) == 1
        assert server.open["listen-1"] == LIST_CHANGES
        tg.cancel_scope.cancel()


@on_virtual_time
async def test_a_subscription_holds_when_it_returns_and_no_stream_ends_before_the_next_holds():
    """Old and new overlap, so no change falls between them; afterwards one is left."""
    subscriptions = ServerSubscriptions()
    server = Server(subscriptions, modern=True)
    async with anyio.create_task_group() as tg:
        await connect(tg, server)
        await subscriptions.subscribe(server, "a://1")
        assert server.watched() == [["a://1"]]
        await subscriptions.subscribe(server, "a://2")
        assert ["a://1", "a://2"] in server.watched()
        await settle()
        assert server.watched() == [["a://1", "a://2"]]
        assert server.most_open == 3
        for uri in ("a://1", "a://2"):
            await subscriptions.unsubscribe(server, uri)
        await settle()
        assert server.watched() == []
        tg.cancel_scope.cancel()


@on_virtual_time
async def test_subscriptions_at_the_same_time_all_hold():
    """None is lost between the others' streams."""
    subscriptions = ServerSubscriptions()
    server = Server(subscriptions, modern=True)
    uris = [f"a://{n}" for n in range(20)]
    async with anyio.create_task_group() as tg:
        await connect(tg, server)
        async with anyio.create_task_group() as clients:
            for uri in uris:
                clients.start_soon(subscriptions.subscribe, server, uri)
        await settle()
        (watched,) = server.watched()
        assert sorted(watched) == sorted(uris)
        tg.cancel_scope.cancel()


@on_virtual_time
async def test_a_restarted_server_listens_before_it_is_ready():
    """What waited for it must not cause changes that nobody is told of."""
    subscriptions = ServerSubscriptions()
    first, second = (Server(subscriptions, modern=True) for _ in range(2))
    async with anyio.create_task_group() as tg:
        async with anyio.create_task_group() as connection:
            await connect(connection, first)
            await subscriptions.subscribe(first, "a://1")
            first.closed.set()
            connection.cancel_scope.cancel()
        await connect(tg, second)
        assert second.watched() == [["a://1"]]
        tg.cancel_scope.cancel()


@on_virtual_time
async def test_a_server_that_acknowledges_nothing_is_believed():
    """After a while: it costs the subscriber a moment, and later ones the same."""
    subscriptions = ServerSubscriptions()
    server = Server(subscriptions, modern=True)
    server.acknowledges = False
    async with anyio.create_task_group() as tg:
        await connect(tg, server)
        began = anyio.current_time()
        await subscriptions.subscribe(server, "a://1")
        assert anyio.current_time() - began == pytest.approx(ACKNOWLEDGE_TIMEOUT_S)
        await settle()
        assert server.watched() == [["a://1"]]
        tg.cancel_scope.cancel()


@on_virtual_time
async def test_a_server_without_streams_is_asked_once_and_refuses_subscriptions():
    """-32601 will not change as long as the connection lasts."""
    subscriptions = ServerSubscriptions()
    server = Server(subscriptions, modern=True)
    server.error = -32601
    async with anyio.create_task_group() as tg:
        await connect(tg, server)
        with pytest.raises(RpcError):
            await subscriptions.subscribe(server, "a://1")
        await anyio.sleep(3600)
        assert len(server.asked) == 2
        tg.cancel_scope.cancel()


@on_virtual_time
async def test_a_stream_that_breaks_is_opened_again_with_growing_pauses():
    """For as long as the connection is there, under a new ID each time."""
    subscriptions = ServerSubscriptions()
    server = Server(subscriptions, modern=True)
    server.ends.set()
    async with anyio.create_task_group() as tg:
        await connect(tg, server)
        await anyio.sleep(REOPEN_S[0] * 2 + 0.1)
        assert len(server.asked) == 2
        await anyio.sleep(1000)
        assert 10 < len(server.asked) < 40
        server.closed.set()
        await anyio.sleep(REOPEN_S[1] + 1)
        count = len(server.asked)
        await anyio.sleep(1000)
        assert len(server.asked) == count
        tg.cancel_scope.cancel()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"_meta": None},
        {"_meta": {SUBSCRIPTION_ID_META_KEY: "no such"}},
        {"_meta": {SUBSCRIPTION_ID_META_KEY: "listen-1"}},
    ],
)
def test_an_acknowledgement_of_nothing_harms_nobody(params: dict[str, Any]):
    """Whatever a server sends; one that names no resources honors none."""

    @on_virtual_time
    async def check() -> None:
        subscriptions = ServerSubscriptions()
        server = Server(subscriptions, modern=True)
        async with anyio.create_task_group() as tg:
            await connect(tg, server)
            await settle()
            for notifications in (None, 7, {"resourceSubscriptions": 7}, {"resourceSubscriptions": [7, None]}):
                subscriptions.on_acknowledged({**params, "notifications": notifications})
            await subscriptions.subscribe(server, "a://1")
            tg.cancel_scope.cancel()

    check()
