"""The contract of `engine.api.Engine`, over every implementation: questions of servers, from `ask` to their end.

The test is executor and client in one: it asks for a call that it has, and claims and answers for the client.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from asyncfc_mcp.core.futures import Future, Question, Result, State
from asyncfc_mcp.core.identity import LOCAL, PUBLIC, CallerIdentity, Scope
from asyncfc_mcp.engine.question_routing import HOLD_S
from asyncfc_mcp.engine.question_rules import MAX_OPEN
from asyncfc_mcp.engine.questions import CLAIM_S
from asyncfc_mcp.errors import (
    AskedTooOften,
    CannotAsk,
    MalformedQuestion,
    NoClientToAsk,
    ProtocolFailure,
    RpcError,
    TooManyQuestions,
    Unanswered,
)
from tests.support.engines import Bench, OpenBench
from tests.support.virtual_time import on_virtual_time

pytestmark = pytest.mark.anyio

METHOD = "elicitation/create"
FORMS: Mapping[str, Any] = {"elicitation": {"form": {}}}
ACCEPT: Result = {"action": "accept"}
A, B = CallerIdentity("a"), CallerIdentity("b")


class Asked:
    """A question that is being asked by the executor, and what came of it."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.error: Exception | None = None
        self.scope = anyio.CancelScope()
        self.over = False

    async def run(self, ask: Callable[[], Any]) -> None:
        with self.scope:
            try:
                self.answer = await ask()
            except (RpcError, CannotAsk, ProtocolFailure, Unanswered) as exc:
                self.error = exc
        self.over = True


@asynccontextmanager
async def asking(it: Bench) -> AsyncGenerator[Callable[..., Any]]:
    """Give a function that asks for the calls of futures, and returns once the question stands."""

    async def ask(*futures: Future, message: str = "Who?", method: str = METHOD) -> Asked:
        calls = [await it.running_call(future) for future in futures]
        asked = Asked()
        tg.start_soon(asked.run, lambda: it.engine.ask(calls, method, {"message": message}))
        await it.settle()
        return asked

    async with anyio.create_task_group() as tg:
        yield ask
        tg.cancel_scope.cancel()


async def able(it: Bench, **more: Any) -> Future:
    """Submit a call of a client that can be asked, and have it run."""
    future = await it.submit(**{"capabilities": FORMS, **more})
    await it.parked(future)
    return future


def claim(it: Bench, *futures: Future, by: CallerIdentity | None = None, capabilities: Any = None) -> list[Question]:
    """Return the questions that a client without a live connection gets in an answer."""
    with it.engine.claiming(None, FORMS if capabilities is None else capabilities, by) as take:
        return [question for _, question in take(futures)]


# --- asking and answering ------------------------------------------------------------------------------------------


async def test_a_question_is_put_answered_and_gone(bench: OpenBench):
    """Its future says so as long as it is open; then the call runs on."""
    async with bench() as it, asking(it) as ask:
        future = await able(it)
        asked = await ask(future)
        assert (future.state, future.question) == (State.INPUT_REQUIRED, "Who?")
        (question,) = claim(it, future)
        assert (question.method, question.params) == (METHOD, {"message": "Who?"})
        assert await it.engine.question(question.id) is question
        assert not asked.over
        it.engine.answer_nowait(question, ACCEPT)
        it.engine.answer_nowait(question, {"action": "decline"})
        it.engine.answer_nowait(question, None, (-1, "too late", None))
        await it.settle()
        assert asked.answer == ACCEPT
        assert future.state is State.RUNNING
        assert await it.engine.question(question.id) is None
        assert not claim(it, future)
        await it.end(future)
        it.assert_nothing_is_left()


async def test_a_refusal_is_the_askers_error(bench: OpenBench):
    """Code, message and data; the call goes on, and how it ends is the server's decision."""
    async with bench() as it, asking(it) as ask:
        future = await able(it)
        asked = await ask(future)
        (question,) = claim(it, future)
        it.engine.answer_nowait(question, None, (-32042, "no", [1]))
        await it.settle()
        assert isinstance(asked.error, RpcError)
        assert (asked.error.code, asked.error.message, asked.error.data) == (-32042, "no", [1])
        assert future.state is State.RUNNING
        await it.end(future)


async def test_a_client_that_cannot_be_asked_is_not(bench: OpenBench):
    """The error is immediate, and the future is not touched; another client's wait does not help."""
    async with bench() as it, asking(it) as ask:
        future = await able(it, capabilities={})
        asked = await ask(future)
        assert isinstance(asked.error, RpcError)
        assert asked.error.code == -32601
        assert (future.state, future.asked) == (State.RUNNING, 0)


@on_virtual_time
async def test_a_question_without_an_answer_fails_its_call(bench: OpenBench):
    """After `question_timeout_s`; the asker gets an error, and the downstream is told to cancel."""
    async with bench(question_timeout_s=100) as it, asking(it) as ask:
        future = await able(it)
        began = anyio.current_time()
        asked = await ask(future)
        assert await it.engine.wait([future])
        await it.settle()
        assert anyio.current_time() - began == pytest.approx(100)
        assert isinstance(asked.error, RpcError)
        assert isinstance(future.failure, Unanswered)
        assert "Who?" in str(future.failure)
        assert it.calls.cancelled == [future.id]
        it.assert_nothing_is_left()


async def test_a_question_ends_with_its_call(bench: OpenBench):
    """The asker gets an error, and whoever waits for its end returns; at once for one that is over."""
    async with bench() as it, asking(it) as ask:
        future = await able(it)
        asked = await ask(future)
        (question,) = claim(it, future)
        over: list[bool] = []

        async def watch() -> None:
            await it.engine.question_over(question)
            over.append(True)

        async with anyio.create_task_group() as tg:
            tg.start_soon(watch)
            await it.settle()
            assert not over
            it.engine.cancel_nowait(future)
        await it.ended(future)
        assert isinstance(asked.error, RpcError)
        assert await it.engine.question(question.id) is None
        await it.engine.question_over(question)
        it.engine.answer_nowait(question, ACCEPT)
        assert future.state is State.CANCELLED
        it.assert_nothing_is_left()


async def test_a_server_may_withdraw_its_question(bench: OpenBench):
    """Cancelling `ask` takes it off the future, which runs on."""
    async with bench() as it, asking(it) as ask:
        future = await able(it)
        asked, other = await ask(future), await ask(future, message="What?")
        (question, _) = claim(it, future)
        asked.scope.cancel()
        await it.engine.question_over(question)
        await it.settle()
        assert (future.state, future.question) == (State.INPUT_REQUIRED, "What?")
        other.scope.cancel()
        await it.settle()
        assert future.state is State.RUNNING
        await it.end(future)
        it.assert_nothing_is_left()


@on_virtual_time
async def test_a_question_of_several_calls_stands_on_each(bench: OpenBench):
    """What ends takes its part away. Without an answer none is failed in another's place."""
    async with bench(question_timeout_s=5) as it, asking(it) as ask:
        one, two, three = [await able(it) for _ in range(3)]
        asked = await ask(one, two, three)
        assert {future.state for future in (one, two, three)} == {State.INPUT_REQUIRED}
        await it.end(one)
        (question,) = claim(it, two)
        it.engine.answer_nowait(question, ACCEPT)
        await it.settle()
        assert asked.answer == ACCEPT
        assert (one.state, two.state, three.state) == (State.COMPLETED, State.RUNNING, State.RUNNING)
        asked = await ask(two, three)
        await anyio.sleep(6)
        assert isinstance(asked.error, RpcError)
        assert (two.state, three.state) == (State.RUNNING, State.RUNNING)


# --- claiming ------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_question_is_claimed_by_one_client_at_a_time(bench: OpenBench):
    """One that took it away in an answer has a while for it; then the next may."""
    async with bench() as it, asking(it) as ask:
        future, other = await able(it), await able(it)
        await ask(future)
        assert len(claim(it, future, other)) == 1
        await anyio.sleep(CLAIM_S - 1)
        assert not claim(it, future)
        await anyio.sleep(2)
        assert len(claim(it, future)) == 1


@on_virtual_time
async def test_a_client_that_is_asked_live_keeps_the_question_while_its_request_waits(bench: OpenBench):
    """However long; it is put once. After the request it has a while for it."""
    async with bench(question_timeout_s=10_000) as it, asking(it) as ask:
        future = await able(it)
        await ask(future)
        put: list[Question] = []

        def on_line(question: Question) -> bool:
            put.append(question)
            return True

        with it.engine.claiming(on_line, FORMS) as take:
            for _ in range(3):
                assert take([future]) == []
                await anyio.sleep(CLAIM_S * 3)
                assert not claim(it, future)
        assert len(put) == 1
        await anyio.sleep(CLAIM_S - 1)
        assert not claim(it, future)
        await anyio.sleep(2)
        assert claim(it, future) == put


async def test_a_question_that_cannot_be_put_is_free_for_the_next(bench: OpenBench):
    """At once; it is not in the answer of the client that could not be asked."""
    async with bench() as it, asking(it) as ask:
        future = await able(it)
        await ask(future)
        with it.engine.claiming(lambda question: False, FORMS) as take:
            assert take([future]) == []
            assert len(claim(it, future)) == 1


async def test_a_question_that_is_given_back_is_free_for_the_next(bench: OpenBench):
    """Who waits for the future is woken for it."""
    async with bench() as it, asking(it) as ask:
        future = await able(it)
        await ask(future)
        (question,) = claim(it, future)
        changes: list[Future] = []
        future.watchers.append(changes.append)
        assert not claim(it, future)
        await it.engine.release(question)
        assert changes == [future]
        assert claim(it, future) == [question]


async def test_a_question_is_for_clients_that_can_answer_and_may_have_made_the_call(bench: OpenBench):
    """Declared capabilities; the same caller, or one that reconnects after it."""
    gone = CallerIdentity("a")
    async with bench() as it, asking(it) as ask:
        future = await able(it, client=gone)
        await ask(future)
        assert not claim(it, future, by=gone, capabilities={"sampling": {}})
        assert not claim(it, future, by=A)
        assert not claim(it, future)
        gone.ended = True
        assert not claim(it, future, by=B)
        assert len(claim(it, future, by=A)) == 1


# --- whose question it is ------------------------------------------------------------------------------------------


async def test_a_question_may_belong_to_each_running_call_of_its_server(bench: OpenBench):
    """Oldest first; not to those that wait or have ended, nor to another server's."""
    async with bench() as it:
        first, behind, ended = await able(it, writes="a"), await it.submit(writes="a"), await able(it)
        await able(it, server="t")
        last = await able(it)
        await it.end(ended)
        assert [call.future for call in await it.engine.calls_asking("s")] == [first, last]
        assert await it.engine.calls_asking("nobody") == []
        await it.end(first)
        await it.parked(behind)
        assert [call.future for call in await it.engine.calls_asking("s")] == [behind, last]


OTHERS: Sequence[dict[str, Any]] = [
    {"client": B},
    {"scope": Scope("b"), "client": A},
    {"scope": PUBLIC, "client": A},
]
"""Two clients of a scope, clients of two scopes, and one client where an ID is the only right to a future."""


@pytest.mark.parametrize("other", OTHERS)
@on_virtual_time
async def test_a_question_that_may_be_several_clients_is_held(bench: OpenBench, other: dict[str, Any]):
    """Until calls of one are left, or for `HOLD_S`; then it is refused."""
    scope = PUBLIC if other.get("scope") is PUBLIC else LOCAL
    async with bench() as it, anyio.create_task_group() as tg:
        mine, theirs = await able(it, client=A, scope=scope), await able(it, **other)
        for ends in (True, False):
            asked = Asked()
            tg.start_soon(asked.run, lambda: it.engine.calls_asking("s"))
            await anyio.sleep(HOLD_S - 1)
            assert not asked.over
            if ends:
                await it.end(theirs)
                assert [call.future for call in asked.answer] == [mine]
                theirs = await able(it, **other)
            else:
                await anyio.sleep(2)
                assert isinstance(asked.error, RpcError)
                assert "several clients" in asked.error.message


# --- rounds of 2026-07-28 ------------------------------------------------------------------------------------------


def needed(*messages: str, **more: Any) -> Result:
    requests = {
        f"k{number}": {"method": METHOD, "params": {"message": message}} for number, message in enumerate(messages)
    }
    return {"inputRequests": requests, **more}


async def test_the_questions_of_a_round_are_asked_together(bench: OpenBench):
    """The answers by key, and the server's state as it was."""
    async with bench() as it, anyio.create_task_group() as tg:
        future = await able(it)
        call, asked = await it.running_call(future), Asked()
        tg.start_soon(asked.run, lambda: it.engine.answer_round(call, needed("Who?", "What?", requestState="s")))
        await it.settle()
        for question in claim(it, future):
            assert not asked.over
            it.engine.answer_nowait(question, {"content": question.params["message"]})
        await it.settle()
        assert asked.answer == {
            "inputResponses": {"k0": {"content": "Who?"}, "k1": {"content": "What?"}},
            "requestState": "s",
        }
        assert future.state is State.RUNNING


@on_virtual_time
async def test_a_round_without_questions_is_answered_after_a_pause(bench: OpenBench):
    """A server must not have its call sent again and again without any."""
    async with bench() as it:
        call = await it.running_call(await able(it))
        began = anyio.current_time()
        assert await it.engine.answer_round(call, {"requestState": "s"}) == {"requestState": "s"}
        assert anyio.current_time() > began
        assert await it.engine.answer_round(call, {}) == {}


@on_virtual_time
async def test_a_round_that_has_no_answers_fails_its_call(bench: OpenBench):
    """Refused, unanswered, not to be asked, too many, or malformed: each has its own reason."""
    async with bench(question_timeout_s=9) as it, anyio.create_task_group() as tg:
        future = await able(it)
        call = await it.running_call(future)
        refused = Asked()
        tg.start_soon(refused.run, lambda: it.engine.answer_round(call, needed("Who?", "What?")))
        await it.settle()
        it.engine.answer_nowait(claim(it, future)[0], None, (-5, "no", None))
        await it.settle()
        assert isinstance(refused.error, ProtocolFailure)
        assert (refused.error.code, refused.error.data) == (-5, None)
        assert not future.questions
        for result, error in (
            (needed("Who?"), Unanswered),
            (needed(*"x" * (MAX_OPEN + 1)), TooManyQuestions),
            ({"inputRequests": {"k": {"method": "sampling/createMessage"}}}, CannotAsk),
            ({"inputRequests": {"k": 7}}, MalformedQuestion),
        ):
            with pytest.raises(error):
                await it.engine.answer_round(call, result)
        assert not future.questions


# --- bounds and the end --------------------------------------------------------------------------------------------


async def test_a_call_has_a_bounded_number_of_open_questions(bench: OpenBench):
    """The others are refused at once, and may be asked when some are answered."""
    async with bench() as it, asking(it) as ask:
        future = await able(it)
        for _ in range(MAX_OPEN):
            assert not (await ask(future)).over
        refused = await ask(future)
        assert isinstance(refused.error, RpcError)
        it.engine.answer_nowait(claim(it, future)[0], ACCEPT)
        await it.settle()
        assert not (await ask(future)).over
        assert len(future.questions) == MAX_OPEN


async def test_a_call_that_asks_for_ever_fails(bench: OpenBench, monkeypatch: pytest.MonkeyPatch):
    """After so many questions; another call asks as before. `test_questions` has the real number."""
    monkeypatch.setattr("asyncfc_mcp.engine.questions.MAX_ASKED", 50)
    async with bench() as it, asking(it) as ask:
        future = await able(it)
        call = await it.running_call(future)

        def answer(each: Future) -> None:
            for question in tuple(each.questions.values()):
                it.engine.answer_nowait(question, ACCEPT)

        future.watchers.append(answer)
        for _ in range(50):
            assert await it.engine.ask([call], METHOD, {"message": "Again?"}) == ACCEPT
        with pytest.raises(RpcError):
            await it.engine.ask([call], METHOD, {"message": "Again?"})
        await it.ended(future)
        assert isinstance(future.failure, AskedTooOften)
        assert not (await ask(await able(it))).over


async def test_when_no_client_is_left_questions_are_given_up(bench: OpenBench):
    """Open ones and later ones: their calls fail, others go on."""
    async with bench() as it, asking(it) as ask:
        open_, later, quiet = [await able(it) for _ in range(3)]
        asked = await ask(open_)
        it.engine.stop_asking()
        await it.ended(open_)
        refused = await ask(later)
        await it.ended(later)
        for each, future in ((asked, open_), (refused, later)):
            assert isinstance(each.error, RpcError)
            assert isinstance(future.failure, NoClientToAsk)
        await it.end(quiet)
        it.assert_nothing_is_left()
