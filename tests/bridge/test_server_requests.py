"""Requests and notifications of servers: which client is asked, and who is told.

Over an engine and a client that keep what they are asked. How questions live is `engine/test_questions.py`'s.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import anyio
import pytest

from asyncfc_mcp.bridge.offered_capabilities import offered_capabilities
from asyncfc_mcp.bridge.server_requests import CAPABILITIES_WAIT_S, ServerRequests
from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import LOCAL, CallerIdentity, Scope
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import RpcError
from tests.support.server_states import own_state
from tests.support.virtual_time import on_virtual_time

pytestmark = pytest.mark.anyio

METHOD = "elicitation/create"


class Engine:
    """In place of an engine: answers for the calls that are running."""

    def __init__(self, *running: Call) -> None:
        self.running = list(running)
        self.asked: list[tuple[list[Call], str, Mapping[str, Any]]] = []

    async def calls_asking(self, server: str, credentials: str | None = None) -> list[Call]:
        return self.running

    async def ask(self, calls: Sequence[Call], method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append((list(calls), method, params))
        return {"of": "a call"}


def a_call() -> Call:
    return Call(Future("f1", LOCAL, "t", "s"), "t", None, Policy())


def requests_of(engine: Engine) -> ServerRequests:
    return ServerRequests(cast("Any", engine), {"s": own_state("s")})


async def direct(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"of": "the client"}


async def test_a_question_is_put_on_the_calls_that_it_belongs_to():
    """Those that the connection names, else all that are running there."""
    one, other = a_call(), a_call()
    engine = Engine(one, other)
    requests = requests_of(engine)
    assert await requests.ask("s", METHOD, None, None) == {"of": "a call"}
    assert await requests.ask("s", METHOD, {"message": "x"}, [other, object()]) == {"of": "a call"}
    assert engine.asked == [([one, other], METHOD, {}), ([other], METHOD, {"message": "x"})]


async def test_a_question_without_a_call_is_for_the_only_client_or_for_nobody():
    """Where that can be asked at any time, and has declared it."""
    requests = requests_of(Engine())
    for causes in (None, [], [object()]):
        with pytest.raises(RpcError, match="no client can answer"):
            await requests.ask("s", METHOD, {}, causes)
    requests.set_client_capabilities({"elicitation": {}}, direct)
    assert await requests.ask("s", METHOD, {}, None) == {"of": "the client"}
    with pytest.raises(RpcError) as caught:
        await requests.ask("s", "sampling/createMessage", {}, None)
    assert caught.value.code == -32601


async def test_roots_are_the_clients_even_while_a_call_is_running():
    """No user is needed for them; other questions then belong to the call. Later capabilities keep the way."""
    engine = Engine(a_call())
    requests = requests_of(engine)
    requests.set_client_capabilities({"roots": {}}, direct)
    requests.set_client_capabilities({"roots": {}, "elicitation": {}})
    assert await requests.ask("s", "roots/list", {}, None) == {"of": "the client"}
    assert not engine.asked
    assert await requests.ask("s", METHOD, {}, None) == {"of": "a call"}


@on_virtual_time
async def test_servers_that_start_wait_a_moment_for_a_clients_capabilities():
    """Once for all; then they are offered what there is."""
    requests = requests_of(Engine())
    began = anyio.current_time()
    async with anyio.create_task_group() as tg:
        for _ in range(3):
            tg.start_soon(requests.wait_for_capabilities)
    assert anyio.current_time() - began == pytest.approx(CAPABILITIES_WAIT_S)
    await requests.wait_for_capabilities()
    assert anyio.current_time() - began == pytest.approx(CAPABILITIES_WAIT_S)
    assert requests.capabilities == {}
    requests = requests_of(Engine())
    requests.set_client_capabilities({"sampling": {}, "vendor": {}})
    began = anyio.current_time()
    await requests.wait_for_capabilities()
    assert anyio.current_time() == began
    assert requests.capabilities == offered_capabilities({"sampling": {}})


@pytest.mark.parametrize("left", [0, 1, 2])
async def test_every_observer_has_a_notification_before_the_next_message_is_read(left: int):
    """What they leave to be done about it is one thing to do, in their order."""
    requests, seen, done = requests_of(Engine()), list[Any](), list[int]()

    def observer(number: int) -> Callable[..., Callable[[], Awaitable[None]] | None]:
        async def rest() -> None:
            done.append(number)

        def observe(
            server: str, method: str, params: Mapping[str, Any], credentials: str | None
        ) -> Callable[[], Awaitable[None]] | None:
            assert credentials is None
            seen.append((number, server, method, params))
            return rest if number < left else None

        return observe

    for number in range(3):
        requests.observe(observer(number))
    rest = requests.notified("s", "notifications/x", None)
    assert seen == [(number, "s", "notifications/x", {}) for number in range(3)]
    assert not done
    assert (rest is None) is (left == 0)
    if rest is not None:
        await rest()
    assert done == list(range(left))


@on_virtual_time
async def test_a_question_that_may_be_of_another_principal_is_held():
    """Of its cancelled call, which the server may still work on, or of its request that is no call: the client whose
    call is running must not see it."""
    alice, bob = Scope("person:alice"), Scope("person:bob")
    running = Call(Future("f1", bob, "t", "s"), "t", None, Policy())
    engine = Engine(running)
    requests = requests_of(engine)
    at_work: list[object] = [running, bob, bob.key]
    assert await requests.ask("s", METHOD, {}, None, at_work=lambda: at_work) == {"of": "a call"}
    gone = Call(Future("f1", alice, "t", "s"), "t", None, Policy())
    for other in (gone, gone.party, alice):
        engine.asked.clear()
        with pytest.raises(RpcError, match="whose question"):
            await requests.ask("s", METHOD, {}, None, at_work=lambda other=other: [running, other])
        assert not engine.asked
    began = anyio.current_time()

    def until_later() -> list[object]:
        return [running, alice] if anyio.current_time() < began + 5 else [running]

    assert await requests.ask("s", METHOD, {}, None, at_work=until_later) == {"of": "a call"}
    assert 5 <= anyio.current_time() - began < 6


@on_virtual_time
async def test_a_question_waits_while_another_session_of_the_same_user_may_have_caused_it():
    """Its call that was given up, or its request that is no call; sessions at a daemon are one principal."""
    ours, theirs = (CallerIdentity("h", apart=True, token=f"key:{name}") for name in ("ours", "theirs"))
    running = Call(Future("f1", LOCAL, "t", "s"), "t", None, Policy(), client=ours)
    given_up = Call(Future("f2", LOCAL, "t", "s"), "t", None, Policy(), client=theirs)
    requests = requests_of(Engine(running))
    assert await requests.ask("s", METHOD, {}, None, at_work=lambda: [running, ours]) == {"of": "a call"}
    for other in (given_up, given_up.asker, theirs):
        with pytest.raises(RpcError, match="whose question"):
            await requests.ask("s", METHOD, {}, None, at_work=lambda other=other: [running, other])
