"""Questions over time: who is asked, how often, and what becomes of a question that nobody answers.

On virtual time, over a bridge whose servers are toys of the test's own process. What travels on the wire, in all
combinations of protocol eras, is `e2e/test_questions.py`'s.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.futures import Future, Question, State
from asyncfc_mcp.core.identity import LOCAL, LOCAL_PRINCIPAL, PUBLIC, CallerIdentity, Scope
from asyncfc_mcp.engine.call import CallContext
from asyncfc_mcp.engine.question_routing import HOLD_S
from asyncfc_mcp.engine.question_rules import MAX_OPEN, can_answer, input_requests
from asyncfc_mcp.engine.questions import CLAIM_S, MAX_ASKED
from asyncfc_mcp.errors import ConnectionEnded, MalformedQuestion, RpcError, Unanswered
from asyncfc_mcp.upstream.client_requests import ClientRequests
from asyncfc_mcp.upstream.clients import Caller, Client
from asyncfc_mcp.upstream.input_required import InputRequired
from asyncfc_mcp.upstream.long_poll import wait
from tests.support.inprocess_server import Got, Toy, bridge_over, text_result
from tests.support.virtual_time import on_virtual_time, settle

FORMS: Mapping[str, Any] = {"elicitation": {"form": {}}}
ACCEPT = {"action": "accept"}
METHOD = "elicitation/create"


class Asker(Toy):
    """A toy that asks, and keeps what came of it."""

    def __init__(self, name: str = "toy") -> None:
        super().__init__(name)
        self.answers: list[dict[str, Any]] = []
        self.refusals: list[RpcError] = []
        self.add("ask", self._ask)

    async def _ask(self, got: Got) -> dict[str, Any]:
        assert self.peer is not None
        params = {"message": got.arguments.get("text", "?"), "requestedSchema": {}}
        try:
            self.answers.append(await self.peer.send_raw_request(METHOD, params))
        except RpcError as exc:
            self.refusals.append(exc)
            return text_result("refused", isError=True)
        return text_result(f"answered {self.answers[-1]['action']}")


class User:
    """A client that waits: asked live, or in answers."""

    def __init__(
        self,
        bridge: Bridge,
        *,
        live: bool = True,
        capabilities: Mapping[str, Any] = FORMS,
        identity: CallerIdentity | None = None,
    ) -> None:
        self.bridge = bridge
        self.asked: list[Question] = []
        self.caller = Caller(Client(LOCAL), LOCAL_PRINCIPAL, None, self._put if live else None, capabilities, identity)

    def _put(self, question: Question) -> bool:
        self.asked.append(question)
        return True

    async def wait(self, *futures: Future, timeout_s: float | None = None) -> None:
        """One wait; what has to be asked in its answer counts as asked."""
        try:
            await wait(self.bridge, self.caller, futures, timeout_s=timeout_s)
        except InputRequired as needed:
            self.asked += [question for _, question in needed.questions]


@asynccontextmanager
async def asking(*toys: Toy, **settings: Any) -> AsyncGenerator[tuple[Bridge, Any]]:
    """A bridge, and what makes calls of it."""

    async def call(
        tool: str = "ask",
        *,
        scope: Scope = LOCAL,
        client: CallerIdentity | None = None,
        able: Mapping[str, Any] = FORMS,
        **arguments: Any,
    ) -> Future:
        future = await bridge.submitter.submit(
            bridge.directory.route(tool),
            arguments,
            CallContext(scope, capabilities=able, client=client),
        )
        await settle()
        return future

    async with bridge_over(*toys, max_wait_s=45, **settings) as bridge:
        yield bridge, call


class Line:
    """A connection to a live client, as a request carries it: what was put on it, and what was taken back."""

    def __init__(self) -> None:
        self.session = self.channel = self
        self.put: list[str] = []
        self.withdrawn: list[str] = []
        self.error: RpcError | None = None
        self.answer = anyio.Event()

    async def send_raw_request(self, method: str, params: Mapping[str, Any], opts: Any = None) -> dict[str, Any]:
        self.put.append(params["message"])
        if self.error is not None:
            raise self.error
        try:
            await self.answer.wait()
        except anyio.get_cancelled_exc_class():
            self.withdrawn.append(params["message"])
            raise
        return ACCEPT


@asynccontextmanager
async def user_on(bridge: Bridge, line: Line) -> AsyncGenerator[User]:
    """A user at the end of a line."""
    asking = ClientRequests()
    user = User(bridge)

    def put(question: Question) -> bool:
        return asking.start(bridge.engine, cast("Any", line), question)

    user.caller = Caller(Client(LOCAL), LOCAL_PRINCIPAL, None, put, FORMS)
    async with anyio.create_task_group() as tg:
        await tg.start(asking.run)
        yield user
        tg.cancel_scope.cancel()


@on_virtual_time
async def test_a_user_who_takes_their_time_is_asked_once() -> None:
    """Ten minutes are no reason to ask again, as long as the same client waits on and on."""
    toy, line = Asker(), Line()
    async with asking(toy, question_timeout_s=3600) as (bridge, call), user_on(bridge, line) as user:
        future = await call(text="Who?")
        for _ in range(14):
            await user.wait(future)
        assert anyio.current_time() > 600
        assert line.put == ["Who?"]
        line.answer.set()
        await user.wait(future)
        assert future.state is State.COMPLETED
        assert toy.answers == [ACCEPT]
        assert not line.withdrawn


@on_virtual_time
async def test_a_question_that_is_over_is_withdrawn() -> None:
    """On every line on which it was put, whatever ended it: another's answer, its call's end, the time-out."""
    toy, lines = Asker(), [Line(), Line()]
    async with (
        asking(toy, question_timeout_s=100) as (bridge, call),
        user_on(bridge, lines[0]) as first,
        user_on(bridge, lines[1]) as second,
    ):
        answered, ended, given_up = "answered", "ended", "given up"
        future = await call(text=answered)
        await first.wait(future, timeout_s=1)
        await second.wait(future, timeout_s=CLAIM_S + 1)
        assert lines[0].put == lines[1].put == [answered]
        lines[1].answer.set()
        await second.wait(future)
        assert future.state is State.COMPLETED
        future = await call(text=ended)
        await first.wait(future, timeout_s=1)
        bridge.engine.cancel_nowait(future)
        await anyio.sleep(1)
        future = await call(text=given_up)
        await first.wait(future, timeout_s=1)
        await anyio.sleep(100)
        assert future.state is State.FAILED
        assert lines[0].withdrawn == [answered, ended, given_up]
        assert not lines[1].withdrawn


@on_virtual_time
async def test_a_line_that_is_cut_refuses_nothing_for_its_user() -> None:
    """The question is for the next to wait; on the line that was cut it is not put again."""
    toy, cut, line = Asker(), Line(), Line()
    cut.error = ConnectionEnded()
    line.answer.set()
    async with asking(toy) as (bridge, call), user_on(bridge, cut) as gone, user_on(bridge, line) as user:
        future = await call(text="Who?")
        await gone.wait(future, timeout_s=40)
        assert cut.put == ["Who?"]
        assert future.state is State.INPUT_REQUIRED
        await user.wait(future)
        assert future.state is State.COMPLETED


@on_virtual_time
async def test_a_refusal_is_the_servers_to_hear() -> None:
    """With its code and its words."""
    toy, line = Asker(), Line()
    line.error = RpcError(-1, "rejected by the user")
    async with asking(toy) as (bridge, call), user_on(bridge, line) as user:
        await user.wait(await call())
        assert [(exc.code, exc.message) for exc in toy.refusals] == [(-1, "rejected by the user")]


@on_virtual_time
async def test_who_took_a_question_away_is_waited_for_a_while() -> None:
    """A client of 2026-07-28 that does not come back: the next to wait is asked after `CLAIM_S`, and not before."""
    async with asking(Asker()) as (bridge, call):
        future = await call()
        gone, other = User(bridge, live=False), User(bridge, live=False)
        await gone.wait(future)
        began = anyio.current_time()
        await other.wait(future)
        assert anyio.current_time() - began == pytest.approx(CLAIM_S)
        assert gone.asked == other.asked
        other.asked[0].settle(ACCEPT)
        gone.asked[0].settle({"action": "decline"})  # too late: the first answer counts
        await other.wait(future)
        assert future.state is State.COMPLETED


@on_virtual_time
async def test_who_was_asked_live_and_waits_no_more_is_left_alone_for_a_while() -> None:
    """The user of the first may still be typing; then the next client is asked, too."""
    async with asking(Asker()) as (bridge, call):
        future = await call()
        first, second = User(bridge), User(bridge)
        await first.wait(future, timeout_s=1)
        began = anyio.current_time()
        async with anyio.create_task_group() as tg:
            tg.start_soon(second.wait, future)
            await anyio.sleep(CLAIM_S - 1)
            assert not second.asked
            await anyio.sleep(2)
            assert second.asked == first.asked
            second.asked[0].settle(ACCEPT)
        assert anyio.current_time() - began == pytest.approx(CLAIM_S + 1)


@on_virtual_time
async def test_two_who_wait_are_asked_once() -> None:
    """Whichever is first; the other gets the result."""
    async with asking(Asker()) as (bridge, call):
        future = await call()
        first, second = User(bridge), User(bridge, live=False)
        async with anyio.create_task_group() as tg:
            tg.start_soon(first.wait, future)
            await anyio.sleep(1)
            tg.start_soon(second.wait, future)
            await anyio.sleep(CLAIM_S + 5)
            assert (len(first.asked), len(second.asked)) == (1, 0)
            first.asked[0].settle(ACCEPT)
        assert future.done


@on_virtual_time
async def test_who_cannot_answer_is_not_asked() -> None:
    """Another client of the same principal may wait for the future, too; the question is for who can answer it."""
    async with asking(Asker()) as (bridge, call):
        future = await call()
        mute, able = User(bridge, capabilities={}), User(bridge)
        await mute.wait(future, timeout_s=5)
        assert not mute.asked
        began = anyio.current_time()
        await able.wait(future, timeout_s=1)
        assert anyio.current_time() - began == pytest.approx(1)
        assert len(able.asked) == 1


@on_virtual_time
async def test_a_client_that_is_gone_gives_its_question_up() -> None:
    """The next to wait is asked at once."""
    async with asking(Asker()) as (bridge, call):
        future = await call()
        gone, other = User(bridge), User(bridge)
        await gone.wait(future, timeout_s=1)
        async with anyio.create_task_group() as tg:
            tg.start_soon(other.wait, future)
            await anyio.sleep(1)
            assert not other.asked
            await bridge.engine.release(gone.asked[0])
            await anyio.sleep(0.1)
            assert other.asked == gone.asked
            other.asked[0].settle(ACCEPT)


@on_virtual_time
async def test_a_question_that_nobody_takes_fails_its_call() -> None:
    """After `question_timeout_s`; the server is told twice: its question is refused and its call cancelled."""
    toy = Asker()
    async with asking(toy, question_timeout_s=100) as (bridge, call):
        future = await call(text="Who?")
        assert future.question == "Who?"
        await User(bridge, capabilities={}).wait(future)
        assert future.state is State.INPUT_REQUIRED
        await anyio.sleep(60)
        assert isinstance(future.failure, Unanswered)
        assert "Who?" in str(future.failure)
        assert not future.questions
        assert toy.refusals or toy.cancelled == ["ask"]
        again = await call()
        user = User(bridge)
        await user.wait(again, timeout_s=0)
        user.asked[0].settle(ACCEPT)
        await user.wait(again)
        assert again.state is State.COMPLETED


@on_virtual_time
async def test_a_question_ends_with_its_call() -> None:
    """Whoever is being asked for it is told; the server's request is answered, whether it listens or not."""
    toy = Asker()
    async with asking(toy) as (bridge, call):
        future = await call()
        user = User(bridge)
        await user.wait(future, timeout_s=1)
        withdrawn: list[float] = []

        async def watch() -> None:
            await bridge.engine.question_over(user.asked[0])
            withdrawn.append(anyio.current_time())

        async with anyio.create_task_group() as tg:
            tg.start_soon(watch)
            await anyio.sleep(1)
            assert not withdrawn
            bridge.engine.cancel_nowait(future)
            await anyio.sleep(0.1)
        assert future.state is State.CANCELLED
        assert withdrawn
        assert await bridge.engine.question(user.asked[0].id) is None
        await bridge.engine.question_over(user.asked[0])  # long over


@on_virtual_time
async def test_a_server_that_gives_up_its_question_goes_on() -> None:
    """It cancels its own request: the future runs again, and nobody is asked any more."""
    toy = Asker()

    async def impatient(got: Got) -> dict[str, Any]:
        assert toy.peer is not None
        with anyio.move_on_after(10):
            await toy.peer.send_raw_request(METHOD, {"message": "Quick?"})
        await anyio.sleep(10)
        return text_result("without")

    toy.add("impatient", impatient)
    async with asking(toy) as (bridge, call):
        future = await call("impatient")
        assert future.state is State.INPUT_REQUIRED
        await anyio.sleep(11)
        assert future.state is State.RUNNING
        user = User(bridge)
        await user.wait(future)
        assert future.state is State.COMPLETED
        assert not user.asked


@on_virtual_time
async def test_a_question_that_may_be_one_of_several_calls_stands_on_each() -> None:
    """JSON-RPC does not say whose it is. What ends takes its part away, and the answer sets the others going."""
    toy = Asker()
    async with asking(toy) as (bridge, call):
        other = await call("gate", name="g")
        future = await call()
        assert other.state is future.state is State.INPUT_REQUIRED
        toy.open("g")
        await settle()
        assert other.state is State.COMPLETED
        user = User(bridge)
        await user.wait(future, timeout_s=0)
        user.asked[0].settle(ACCEPT)
        await user.wait(future)
        assert future.state is State.COMPLETED


@on_virtual_time
async def test_of_several_calls_none_is_failed_in_anothers_place() -> None:
    """Nobody answers, and which call asked is not known: the server is told, and ends the one that it was."""
    toy = Asker()
    async with asking(toy, question_timeout_s=5) as (_, call):
        other = await call("gate", name="g")
        future = await call()
        await anyio.sleep(6)
        assert other.state is State.RUNNING
        assert future.state is State.FAILED
        assert future.result == text_result("refused", isError=True)
        assert len(toy.refusals) == 1
        toy.open("g")
        await settle()
        assert other.state is State.COMPLETED


A, B, SHARED = CallerIdentity("a"), CallerIdentity("b"), CallerIdentity("a", shared=True)
OTHERS: list[dict[str, Any]] = [
    {"client": B},
    {"client": SHARED},
    {"scope": Scope("b")},
    {"scope": PUBLIC, "client": A},
]
"""Clients of one scope, two that cannot be told apart, clients of two scopes, and one client where an ID is the only
right to a future."""


def mine(other: Mapping[str, Any]) -> dict[str, Any]:
    """Whose a call is that is not `other`'s."""
    client = SHARED if other.get("client") is SHARED else A
    return {"client": client, **({"scope": PUBLIC} if other.get("scope") is PUBLIC else {})}


@pytest.mark.parametrize("other", OTHERS)
def test_a_question_that_may_be_several_clients_is_held(other: dict[str, Any]) -> None:
    """Until it can be told whose it is; it never gets to the wrong one."""

    @on_virtual_time
    async def run() -> None:
        toy = Asker()
        async with asking(toy) as (_, call):
            theirs = await call("gate", name="g", **other)
            future = await call(**mine(other))
            await anyio.sleep(HOLD_S - 1)
            assert theirs.state is future.state is State.RUNNING
            assert not theirs.questions
            toy.open("g")
            await settle()
            assert future.state is State.INPUT_REQUIRED
            assert not toy.refusals

    run()


@pytest.mark.parametrize("other", OTHERS)
def test_a_question_is_not_held_for_ever(other: dict[str, Any]) -> None:
    """The server is told why there is no answer."""

    @on_virtual_time
    async def run() -> None:
        toy = Asker()
        async with asking(toy) as (_, call):
            theirs = await call("gate", name="g", **other)
            future = await call(**mine(other))
            await anyio.sleep(HOLD_S + 1)
            assert future.state is State.FAILED
            assert theirs.state is State.RUNNING
            (refusal,) = toy.refusals
            assert "several clients" in refusal.message

    run()


@on_virtual_time
async def test_a_question_is_held_while_another_clients_is_open() -> None:
    """One after the other, each its own."""
    toy = Asker()
    async with asking(toy) as (bridge, call):
        first = await call(client=A, text="for a")
        second = await call(client=B, text="for b")
        assert (first.question, second.question) == ("for a", None)
        user = User(bridge, identity=A)
        await user.wait(first, timeout_s=0)
        user.asked[0].settle(ACCEPT)
        await user.wait(first)
        await settle()
        assert second.question == "for b"


@pytest.mark.parametrize("live", [True, False])
@on_virtual_time
async def test_a_question_is_put_to_nobody_who_cannot_have_made_the_call(live: bool) -> None:
    """Another session that awaits the very future reads its result, and is not asked; nor is one of another name after
    the session ended. One that reconnects is; else the call fails in time."""
    toy = Asker()
    session = CallerIdentity("a")
    async with asking(toy, question_timeout_s=300) as (bridge, call):
        for ended, asked in ((False, False), (True, True)):
            session.ended = False
            future = await call(client=session, text="Who?")
            session.ended = ended
            others = [User(bridge, live=live, identity=identity) for identity in (B, SHARED, None, A)]
            for other in others:
                await other.wait(future, timeout_s=1)
            assert [bool(other.asked) for other in others] == [False, asked, False, False]
            await anyio.sleep(301)
            assert future.state is State.FAILED
            assert "Who?" in str(future.failure)


@on_virtual_time
async def test_questions_that_would_hold_each_other_are_not() -> None:
    """Two clients' calls, and both ask before either can be told from the other: one is refused, the other asked."""
    toy = Asker()
    started = anyio.Event()

    async def ask_later(got: Got) -> dict[str, Any]:
        await started.wait()
        return await toy._ask(got)

    toy.add("ask_later", ask_later)
    async with asking(toy) as (_, call):
        futures = [await call("ask_later", client=client, text=client.host) for client in (A, B)]
        started.set()
        await settle()
        assert sorted(future.state.value for future in futures) == ["failed", "input_required"]
        (open_one,) = [future for future in futures if not future.done]
        assert open_one.question == ("a" if open_one is futures[0] else "b")
        assert len(toy.refusals) == 1


@on_virtual_time
async def test_a_question_without_a_call_goes_to_the_only_client() -> None:
    """Roots, above all: servers ask for them before any call. Nobody is asked what they did not declare."""
    toy = Asker()
    asked: list[str] = []

    async def direct(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        asked.append(method)
        return {"roots": []}

    async with asking(toy) as (bridge, _):
        assert toy.peer is not None
        with pytest.raises(RpcError, match="no client can answer"):
            await toy.peer.send_raw_request("roots/list", None)
        bridge.server_requests.set_client_capabilities({"roots": {}}, direct)
        assert await toy.peer.send_raw_request("roots/list", None) == {"roots": []}
        for method in (METHOD, "sampling/createMessage", "nonsense/method"):
            with pytest.raises(RpcError) as caught:
                await toy.peer.send_raw_request(method, {"message": "x"})
            assert caught.value.code == -32601
    assert asked == ["roots/list"]


@on_virtual_time
async def test_a_client_that_cannot_be_asked_is_refused_at_once() -> None:
    """The server learns it in no time, and the call does not hang."""
    toy = Asker()
    async with asking(toy) as (_, call):
        future = await call(able={})
        assert future.done
        (refusal,) = toy.refusals
        assert refusal.code == -32601
        assert METHOD in refusal.message


@pytest.mark.parametrize(
    ("declared", "mode", "able"),
    [
        ({}, "form", False),
        ({"elicitation": {}}, "form", True),
        ({"elicitation": {}}, None, True),
        ({"elicitation": {}}, "url", False),
        ({"elicitation": {"form": {}}}, "url", False),
        ({"elicitation": {"url": {}}}, "url", True),
        ({"elicitation": {"url": {}}}, "form", False),
        ({"elicitation": {"form": {}, "url": {}}}, "url", True),
        ({"elicitation": None}, "form", False),
        ({"sampling": {}}, "form", False),
    ],
)
def test_what_a_client_can_be_asked_is_what_it_declared(declared: dict[str, Any], mode: str | None, able: bool) -> None:
    """An empty object meant forms before there were modes."""
    assert can_answer(declared, METHOD, {} if mode is None else {"mode": mode}) is able


@on_virtual_time
async def test_a_server_that_only_wants_its_call_again_is_not_run_after() -> None:
    """`InputRequiredResult` without questions, and one without a state."""
    async with asking(Asker()) as (bridge, call):
        await call("gate", name="g")
        (running,) = bridge.engine._scheduler.running_on("toy")
        began = anyio.current_time()
        assert await bridge.engine.answer_round(running, {"requestState": "s"}) == {"requestState": "s"}
        assert anyio.current_time() > began
        assert await bridge.engine.answer_round(running, {}) == {}


@pytest.mark.parametrize(
    "asked",
    [7, ["x"], {"k": 1}, {"k": {}}, {"k": {"method": 1}}, {"k": {"method": "sampling/createMessage", "params": [1]}}],
)
def test_a_question_that_is_none_fails_its_call_and_nothing_else(asked: Any) -> None:
    with pytest.raises(MalformedQuestion, match="t sent an invalid request for input"):
        input_requests("t", {"inputRequests": asked})


@on_virtual_time
async def test_a_call_has_a_bounded_number_of_open_questions():
    """The server is refused the others, and may ask again when some are answered."""
    toy = Asker()

    async def flood(got: Got) -> dict[str, Any]:
        async with anyio.create_task_group() as tg:
            for _ in range(5_000):
                tg.start_soon(toy._ask, got)
        return text_result("asked")

    toy.add("flood", flood)
    async with asking(toy) as (bridge, call):
        future = await call("flood")
        with anyio.fail_after(60):
            while len(toy.refusals) < 5_000 - MAX_OPEN:  # noqa: ASYNC110 - nobody tells us
                await anyio.sleep(0.1)
        assert len(future.questions) == MAX_OPEN
        assert f"{MAX_OPEN} questions of this call are open" in str(toy.refusals[0])
        bridge.engine.cancel_nowait(future)
        await settle()
        assert not future.questions


@on_virtual_time
async def test_a_call_that_asks_for_ever_is_given_up():
    """One question after another, all answered: after so many the call fails, and others ask as before."""
    toy = Asker()

    async def insist(got: Got) -> dict[str, Any]:
        while not toy.refusals:
            await toy._ask(got)
        return text_result("refused")

    toy.add("insist", insist)
    async with asking(toy) as (_, call):
        future = await call("insist")
        while not future.done:
            await anyio.sleep(0.01)
            for question in tuple(future.questions.values()):
                question.settle(ACCEPT)
        assert future.state is State.FAILED
        assert f"asked more than {MAX_ASKED} times" in str(future.failure)
        assert len(toy.answers) == MAX_ASKED
        other = await call()
        (question,) = other.questions.values()
        question.settle(ACCEPT)
        await settle()
        assert other.state is State.COMPLETED
