"""Requests of principals over HTTP: too many of one are refused, and cost no other principal anything."""

import json
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.core.identity import LOCAL, PUBLIC, TOKEN, Principal, Scope
from asyncfc_mcp.transports.http import routes
from asyncfc_mcp.transports.http.asgi import JsonRpcRefusal, Refusal
from asyncfc_mcp.transports.http.auth.bearer_token import Principals
from asyncfc_mcp.transports.http.traffic import ALWAYS_BYTES, MOST_BODY_BYTES, RATE_OF_SEVERAL, SMALL_BYTES, Traffic
from asyncfc_mcp.upstream.server import Upstream
from tests.support.asgi_client import App, Exchange, Http, alive
from tests.support.inprocess_server import Toy, bridge_over
from tests.support.virtual_time import on_virtual_time, settle
from tests.upstream.test_principals import ERAS, Person

TOKEN_HOLDER = Principal(TOKEN)
ALICE, BOB = Principal(Scope("person:alice")), Principal(Scope("person:bob"))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def count(traffic: Traffic, principal: Principal, most: int) -> int:
    """Return how many requests are admitted at once, one after the other."""
    for number in range(most):
        try:
            with traffic.request(principal):
                pass
        except Refusal:
            return number
    return most


def received(traffic: Traffic, principal: Principal, stack: ExitStack, size: int, most: int) -> int:
    """Return how many bodies of this size can be received at once."""
    for number in range(most):
        body = stack.enter_context(traffic.body(principal))
        try:
            for _ in range(16):
                body.grow(size // 16)
        except Refusal:
            return number
    return most


def test_bodies_of_one_principal_leave_memory_to_the_others():
    """Together they have a bound, of which each principal has a share; small ones are always received."""
    traffic, large = Traffic(Settings()), ALWAYS_BYTES
    with ExitStack() as stack:
        assert 0 < received(traffic, ALICE, stack, large, 100) <= MOST_BODY_BYTES // large // 2
        assert received(traffic, BOB, stack, large, 1) == 1
        for principal in (ALICE, BOB):
            assert received(traffic, principal, stack, SMALL_BYTES, 100) == 100
    with ExitStack() as stack:
        assert received(traffic, TOKEN_HOLDER, stack, large, 100) == MOST_BODY_BYTES // large, "nobody to share with"
        assert received(traffic, TOKEN_HOLDER, stack, SMALL_BYTES, 100) == 100
    with ExitStack() as stack:
        assert received(traffic, ALICE, stack, large, 1) == 1, "all of it is given back"


def test_each_principal_has_a_rate_of_its_own():
    """By default a generous one where there are several; the refusal says when to come again."""
    clock = Clock()
    traffic = Traffic(Settings(max_requests_per_s=2), clock)
    assert count(traffic, ALICE, 100) == 20
    with pytest.raises(JsonRpcRefusal) as caught:
        traffic.request(ALICE)
    assert caught.value.status == 429
    assert (b"retry-after", b"1") in caught.value.headers
    assert "max_requests_per_s" in json.loads(caught.value.body)["error"]["message"]
    assert count(traffic, BOB, 100) == 20
    clock.now = 1.0
    assert count(traffic, ALICE, 100) == 2
    default = Traffic(Settings(), clock)
    assert count(default, ALICE, 20_000) == 10 * RATE_OF_SEVERAL


@pytest.mark.parametrize("scope", [LOCAL, TOKEN, PUBLIC])
def test_the_only_principal_has_no_rate_unless_it_is_given_one(scope: Scope):
    """Of its own, or in all."""
    assert count(Traffic(Settings(), Clock()), Principal(scope), 20_000) == 20_000
    assert count(Traffic(Settings(max_requests_per_s=3), Clock()), Principal(scope), 100) == 30
    assert count(Traffic(Settings(max_requests_per_s_total=3), Clock()), Principal(scope), 100) == 30


def test_the_rate_in_all_leaves_something_for_another_principal():
    """As the share says."""
    traffic = Traffic(Settings(max_requests_per_s_total=10), Clock())
    first = count(traffic, ALICE, 1000)
    assert 45 <= first <= 55
    assert count(traffic, BOB, 1000) >= 20


def test_one_principal_cannot_have_all_requests_that_are_answered_at_once():
    """Half of the connections at most, and less if others use some."""
    traffic = Traffic(Settings(max_connections=8), Clock())
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(traffic.request(ALICE))
        with pytest.raises(JsonRpcRefusal) as caught:
            traffic.request(ALICE)
        assert caught.value.status == 429
        assert "4 of yours are being answered" in json.loads(caught.value.body)["error"]["message"]
        for _ in range(2):
            stack.enter_context(traffic.request(BOB))
        with pytest.raises(JsonRpcRefusal):
            traffic.request(BOB)
        for _ in range(100):
            stack.enter_context(traffic.request(Principal(TOKEN)))
    assert count(traffic, ALICE, 5) == 5


@given(st.integers(1, 30), st.sampled_from([0.1, 0.5, 0.9]), st.lists(st.tuples(st.booleans(), st.sampled_from("abc"))))
def test_somebody_without_a_request_can_always_make_one(most: int, share: float, steps: list[tuple[bool, str]]):
    """Whatever the others do: no count is lost, and none is negative."""
    traffic = Traffic(Settings(max_connections=most, max_caller_share=share), Clock())
    open_: dict[str, list[Any]] = {"a": [], "b": [], "c": []}
    for begins, party in steps:
        if begins:
            try:
                block = traffic.request(Principal(Scope(party)))
            except Refusal:
                assert open_[party], "who has none is not refused"
                continue
            block.__enter__()
            open_[party].append(block)
        elif open_[party]:
            open_[party].pop().__exit__(None, None, None)
    for blocks in open_.values():
        for block in blocks:
            block.__exit__(None, None, None)
    assert not traffic._answering  # pyright: ignore[reportPrivateUsage]
    assert traffic._count == 0  # pyright: ignore[reportPrivateUsage]


# --- the endpoint --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(*, sse: bool = False, **settings: Any) -> AsyncGenerator[tuple[App, anyio.abc.TaskGroup]]:
    async with bridge_over(Toy(), policy={"grace_ms": 0}, **settings) as bridge, anyio.create_task_group() as tg:
        upstream = Upstream(bridge)
        await tg.start(upstream.run)
        principals = Principals({"alice": ALICE.scope, "bob": BOB.scope})
        app, _ = routes.http_app(upstream, host="127.0.0.1", principals=principals, streamable=True, sse=sse)
        async with alive(app):
            yield app, tg
            tg.cancel_scope.cancel()


@pytest.mark.parametrize("version", ERAS)
@on_virtual_time
async def test_too_many_requests_of_one_are_answered_429(version: str):
    """In both eras, before the body is read; the other principal is served meanwhile, and the first one again later."""
    async with served(max_requests_per_s=1) as (app, tg):
        alice, bob = Person(app, "alice", version, tg), Person(app, "bob", version, tg)
        for person in (alice, bob):
            await person.come()
        answers = [await alice.post("tools/list").run() for _ in range(20)]
        refused = [each for each in answers if each.status == 429]
        assert refused
        for each in refused:
            assert each.headers["retry-after"] == "1"
            assert each.headers["content-type"] == "application/json"
            assert each.json["id"] is None
            assert "Too many requests" in each.json["error"]["message"]
        assert "result" in await bob.ask("tools/list")
        await anyio.sleep(2)
        assert "result" in await alice.ask("tools/list")


@pytest.mark.parametrize("version", ERAS)
@on_virtual_time
async def test_streams_and_waits_of_one_leave_connections_to_the_other(version: str):
    """A stream counts as long as it is open."""
    async with served(max_connections=8) as (app, tg):
        alice, bob = Person(app, "alice", version, tg), Person(app, "bob", version, tg)
        await alice.come()
        waits = [
            alice.post("tools/call", {"name": "gate", "arguments": {"name": "g", "_wait": "this"}}) for _ in range(5)
        ]
        for each in waits:
            tg.start_soon(each.run)
        await settle()
        assert [each.status for each in waits].count(429) == 2
        await bob.come()
        assert "result" in await bob.ask("tools/list")
        assert alice.listening is not None
        alice.listening.hang_up()
        await anyio.sleep(1)
        assert "result" in await alice.ask("tools/list")
        for each in waits:
            each.hang_up()


@on_virtual_time
async def test_paths_beside_mcp_count_as_well():
    """Those of HTTP+SSE; health checks do not."""
    async with served(max_requests_per_s=0.1) as (app, _):

        async def status(path: str) -> int | None:
            exchange = Exchange(app, Http(b"", headers={"authorization": "Bearer alice"}, method="GET"))
            await exchange.run(path)
            return exchange.status

        assert [await status("/nothing") for _ in range(11)] == [404] * 10 + [429]
        assert [await status("/healthz") for _ in range(20)] == [200] * 20


@on_virtual_time
async def test_sessions_of_one_principal_leave_room_for_those_of_the_other():
    """Over its share it loses its own unused ones, and is refused while all of them are in use."""
    initialize = {"protocolVersion": ERAS[0], "capabilities": {}, "clientInfo": {"name": "c"}}
    async with served(max_sessions=8) as (app, tg):

        async def shake_hands(token: str) -> Exchange:
            exchange = await Person(app, token, ERAS[0], tg).post("initialize", initialize).run()
            await anyio.sleep(0.01)
            return exchange

        async def status(token: str, session: Exchange) -> int | None:
            person = Person(app, token, ERAS[0], tg, session=session.headers["mcp-session-id"])
            return (await person.post("ping").run()).status

        bob = await shake_hands("bob")
        unused = [await shake_hands("alice") for _ in range(12)]
        assert [await status("alice", each) for each in unused] == [404] * 8 + [200] * 4
        assert await status("bob", bob) == 200
        refused = await shake_hands("alice")  # those that are left have been used by now
        assert refused.status == 503
        assert "4 sessions of yours are in use" in refused.json["error"]["message"]
        assert (await shake_hands("bob")).status == 200
        assert await status("bob", bob) == 200
