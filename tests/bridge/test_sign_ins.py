"""Sign-ins that calls ask for: one for all that wait, and an end for each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import anyio
import pytest

from asyncfc_mcp.bridge.sign_ins import PAUSE_S, SHARE_OF_TIMEOUT, SignIns
from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Future, Question
from asyncfc_mcp.core.identity import LOCAL, Scope
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.downstream.oauth.store import StoreUnusable
from asyncfc_mcp.downstream.supervisor import Status
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import NotSignedIn, RpcError, SignInFailed, SignInNeeded
from tests.support.virtual_time import on_virtual_time, settle

NEEDED = SignInNeeded("s", ("read",))
URLS: Mapping[str, Any] = {"elicitation": {"url": {}}}
_numbers = iter(range(10_000))


def call(scope: Scope = LOCAL, capabilities: Mapping[str, Any] = URLS, server: str = "s") -> Call:
    future = Future(f"f{next(_numbers)}", scope, "t", server)
    return Call(future, "t", {}, Policy(), capabilities=capabilities)


class Users:
    """In place of an engine: keeps what is asked, and answers as the test says.

    Attributes:
        answer: of the user; None: none comes.
        asked: calls of each question.
    """

    def __init__(self, answer: Mapping[str, Any] | RpcError | None) -> None:
        self.answer = answer
        self.asked: list[list[Call]] = []
        self.params: Mapping[str, Any] = {}
        self.open = 0
        self.claims = False

    async def ask(self, calls: Sequence[Call], method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        assert method == "elicitation/create"
        self.asked.append(list(calls))
        self.params = params
        self.open += 1
        question = Question("q", method, params, claimed_until=1.0 if self.claims else 0.0)
        for each in calls:
            each.future.questions["q"] = question
        try:
            while self.answer is None:  # noqa: ASYNC110 - set by the test
                await anyio.sleep(0.1)
        finally:
            self.open -= 1
            for each in calls:
                each.future.questions.clear()
        if isinstance(self.answer, RpcError):
            raise self.answer
        return self.answer


class Server:
    """In place of a `Downstream`."""

    def __init__(self) -> None:
        self.status = Status.SIGN_IN
        self.ready = anyio.Event()
        self.signed = 0

    async def wait_until_ready(self) -> None:
        await self.ready.wait()

    def signed_in(self) -> None:
        self.signed += 1


class World:
    """Sign-ins with one server and one user."""

    def __init__(self, answer: Mapping[str, Any] | RpcError | None = None) -> None:
        self.users, self.server = Users(answer), Server()
        self.failure: Exception | None = None
        self.scopes: list[Sequence[str]] = []
        self.results: list[str] = []
        self.sign_ins = SignIns(
            cast("Engine", self.users),
            {"s": cast("Downstream", self.server)},
            ["s"],
            self.sign_in,
            timeout_s=100.0,
        )

    async def sign_in(self, server: str, scopes: Sequence[str], show: Callable[[str], Awaitable[None]]) -> None:
        self.scopes.append(scopes)
        await show("https://as.example/authorize?state=1")
        if self.failure is not None:
            raise self.failure

    async def wait(self, each: Call) -> None:
        try:
            await self.sign_ins.wait(each, NEEDED)
            self.results.append("")
        except NotSignedIn as exc:
            self.results.append(str(exc))

    async def run(self, test: Callable[[anyio.abc.TaskGroup], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as tg:
            await tg.start(self.sign_ins.run)
            async with anyio.create_task_group() as calls:
                await test(calls)
            tg.cancel_scope.cancel()


ACCEPTED, DECLINED = {"action": "accept"}, {"action": "decline"}


@on_virtual_time
async def test_only_users_of_this_machine_are_asked():
    """By clients that open URLs, for servers with a sign-in, while the bridge runs."""
    world = World()
    assert not world.sign_ins.may_ask(call(), NEEDED), "it does not run yet"

    async def test(calls: anyio.abc.TaskGroup) -> None:
        assert world.sign_ins.may_ask(call(), NEEDED)
        for other in (
            call(Scope("person:alice")),
            call(Scope("public", listed=False)),
            call(capabilities={}),
            call(capabilities={"elicitation": {}}),
            call(capabilities={"elicitation": {"form": {}}}),
            call(server="other"),
        ):
            assert not world.sign_ins.may_ask(other, NEEDED)

    await world.run(test)


@on_virtual_time
async def test_all_calls_go_on_after_one_sign_in():
    """Those that come later wait for the same one."""
    world = World()

    async def test(calls: anyio.abc.TaskGroup) -> None:
        for _ in range(5):
            calls.start_soon(world.wait, call())
            await settle()
        world.users.answer = ACCEPTED

    await world.run(test)
    assert world.results == [""] * 5
    assert world.scopes == [("read",)]
    assert world.server.signed == 1
    assert world.users.params["mode"] == "url"


@on_virtual_time
async def test_a_question_that_nobody_answers_yet_stands_on_every_call():
    """The client may wait for any of them; there is one question at a time."""
    world = World()
    waiting = [call() for _ in range(3)]

    async def test(calls: anyio.abc.TaskGroup) -> None:
        for each in waiting:
            calls.start_soon(world.wait, each)
            await settle()
        assert world.users.asked[-1] == waiting
        assert world.users.open == 1
        world.users.answer = ACCEPTED

    await world.run(test)


@on_virtual_time
async def test_a_user_who_is_being_asked_is_not_asked_again():
    """A call that comes then only waits."""
    world = World()
    world.users.claims = True

    async def test(calls: anyio.abc.TaskGroup) -> None:
        for _ in range(3):
            calls.start_soon(world.wait, call())
            await settle()
        assert len(world.users.asked) == 1
        world.users.answer = ACCEPTED

    await world.run(test)
    assert world.results == [""] * 3


@pytest.mark.parametrize(
    ("answer", "failure", "words"),
    [
        (DECLINED, None, "it was declined"),
        ({"action": "cancel"}, None, "it was declined"),
        (RpcError(-32600, "no"), None, "did not ask the user"),
        (ACCEPTED, SignInFailed("s", "access was denied"), "access was denied"),
        (ACCEPTED, StoreUnusable("the disk is full"), "the disk is full"),
        (ACCEPTED, KeyError("secret-token"), "internal error"),
    ],
    ids=["declined", "cancelled", "refused", "failed", "not stored", "unexpected"],
)
@on_virtual_time
async def test_a_sign_in_that_fails_is_the_failure_of_all_calls(answer: Any, failure: Exception | None, words: str):
    """Which say why, and what to do; there is no other question for a while."""
    world = World(answer)
    world.failure = failure

    async def test(calls: anyio.abc.TaskGroup) -> None:
        for _ in range(3):
            calls.start_soon(world.wait, call())

    async def later(calls: anyio.abc.TaskGroup) -> None:
        await settle()
        assert not world.sign_ins.may_ask(call(), NEEDED)
        assert world.sign_ins.may_ask(call(), SignInNeeded("s", ("read", "write"))), "that is another question"
        await anyio.sleep(PAUSE_S + 0.1)
        assert world.sign_ins.may_ask(call(), NEEDED)

    async def both(calls: anyio.abc.TaskGroup) -> None:
        await test(calls)
        while len(world.results) < 3:  # noqa: ASYNC110 - on the virtual clock
            await anyio.sleep(0.1)
        await later(calls)

    await world.run(both)
    assert len(world.results) == 3
    assert all(words in text and "asyncfc-mcp login s" in text for text in world.results)
    assert not any("secret-token" in text for text in world.results)
    assert world.server.signed == 0


@on_virtual_time
async def test_a_question_without_an_answer_ends_before_its_call_fails():
    """The text of the sign-in is more help than that of a question."""
    world = World()
    began = anyio.current_time()

    async def test(calls: anyio.abc.TaskGroup) -> None:
        calls.start_soon(world.wait, call())

    await world.run(test)
    assert anyio.current_time() - began == pytest.approx(100 * SHARE_OF_TIMEOUT)
    assert "nobody agreed" in world.results[0]


@on_virtual_time
async def test_a_sign_in_elsewhere_ends_the_question():
    """The calls go on."""
    world = World()

    async def test(calls: anyio.abc.TaskGroup) -> None:
        calls.start_soon(world.wait, call())
        await settle()
        assert world.users.open == 1
        world.server.ready.set()

    await world.run(test)
    assert world.results == [""]
    assert world.users.open == 0


@on_virtual_time
async def test_a_cancelled_call_does_not_end_the_sign_in_of_others():
    """Also if it was the first."""
    world = World()

    async def test(calls: anyio.abc.TaskGroup) -> None:
        first = anyio.CancelScope()

        async def cancelled() -> None:
            with first:
                await world.wait(call())

        calls.start_soon(cancelled)
        await settle()
        calls.start_soon(world.wait, call())
        await settle()
        first.cancel()
        await settle()
        world.users.answer = ACCEPTED

    await world.run(test)
    assert world.results == [""]
