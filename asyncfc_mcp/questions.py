"""What servers ask their client while a call runs: elicitation, sampling, roots.

Owns a question's life: it is put on the future of the call that raised it, taken on by whoever awaits that future,
and answered, refused, withdrawn or given up. Refuses to know how a client is asked; that depends on its protocol era.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, cast

import anyio

from asyncfc_mcp.errors import (
    CallFailed,
    CannotAsk,
    MalformedQuestion,
    NobodyToAnswer,
    ProtocolFailure,
    RpcError,
    TooManyQuestions,
    Unanswered,
)
from asyncfc_mcp.futures import CallerIdentity, Event, Future, Question, Result, State
from asyncfc_mcp.protocol import INVALID_REQUEST, METHOD_NOT_FOUND
from asyncfc_mcp.scheduler import Call, Scheduler, wait_for

CAPABILITY: Final[Mapping[str, str]] = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""Method of a question → the client capability that it needs."""
CLAIM_S: Final = 30.0
"""Who took a question on and waits no more is left alone with it this long; then the next to wait is asked, too."""
HOLD_S: Final = 60.0
"""How long a question is held that may be one of several clients'."""
STATE_ONLY_S: Final = 0.25
"""A server that asks nothing, but for the call to be sent again, gets it after this pause."""
MAX_OPEN: Final = 32
"""How many questions of one call may be open at the same time; more are refused."""
MAX_ROUNDS: Final = 32
"""How often one call may ask again before it is given up."""


def can_answer(capabilities: Mapping[str, Any], method: str, params: Mapping[str, Any]) -> bool:
    """Whether a client with these capabilities may be asked this."""
    offered = capabilities.get(CAPABILITY.get(method, ""))
    if offered is None:
        return False
    if method == "elicitation/create" and isinstance(offered, dict):
        # An empty object is how clients before 2025-11-25 declared forms.
        return params.get("mode", "form") in (offered or ("form",))
    return True


def refuse_unless_able(capabilities: Mapping[str, Any], method: str, params: Mapping[str, Any]) -> None:
    """
    Raises:
        RpcError: a client with these capabilities may not be asked this.
    """
    if not can_answer(capabilities, method, params):
        raise RpcError(METHOD_NOT_FOUND, f"the client has not declared that it can answer {method}")


def input_requests(tool: str, asking: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The questions of an `InputRequiredResult`, or of a task that needs input.

    Raises:
        MalformedQuestion: they are not what the protocol says.
    """
    found: object = asking.get("inputRequests") or {}
    if not isinstance(found, dict):
        raise MalformedQuestion(tool, found)
    requests = cast("dict[str, Any]", found)
    for request in requests.values():
        if not isinstance(request, dict):
            raise MalformedQuestion(tool, request)
        asked = cast("dict[str, Any]", request)
        if not isinstance(asked.get("method"), str) or not isinstance(asked.get("params") or {}, dict):
            raise MalformedQuestion(tool, asked)
    return requests


class _Nobody(RpcError):
    """Nobody answered in time; the call is to fail with `verdict`."""

    def __init__(self, verdict: CallFailed) -> None:
        super().__init__(INVALID_REQUEST, "nobody answered")
        self.verdict = verdict


@dataclass(slots=True, eq=False)
class _Open:
    """A question that is open."""

    question: Question
    futures: Sequence[Future]
    """It stands on each of them."""
    over: anyio.Event = field(default_factory=anyio.Event)


class Questions:
    """All open questions of one bridge.

    Args:
        clock: monotonic, in seconds.
        timeout_s: how long a question may stay unanswered; then its call fails.
    """

    def __init__(self, scheduler: Scheduler, clock: Callable[[], float], timeout_s: float) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._timeout_s = timeout_s
        self._count = 0
        self._open: dict[str, _Open] = {}
        self._held: dict[str, int] = {}
        """Server → how many of its questions nobody can be found for yet."""
        self._closed = False

    def close(self) -> None:
        """Give up the questions that are open, and all that come: no client is left that could answer."""
        self._closed = True
        for opened in self._open.values():
            opened.over.set()

    async def ask(self, calls: Sequence[Call], method: str, params: Mapping[str, Any]) -> Result:
        """Put a question of a server on the futures of the calls that it may belong to (see `askers`), and return the
        client's answer.

        Raises:
            RpcError: the client refused with this error, or cannot be asked; or nobody answered, and the call fails.
        """
        for call in calls:
            refuse_unless_able(call.capabilities, method, params)
            if len(call.future.questions) >= MAX_OPEN:
                raise RpcError(INVALID_REQUEST, f"{MAX_OPEN} questions of this call are open; wait for their answers")
        try:
            return await self._ask([call.future for call in calls], method, params)
        except _Nobody as nobody:
            # Which of several it was only the server knows, and it is told that there is no answer.
            if len(calls) == 1:
                self._scheduler.abort(calls[0], nobody.verdict)
            raise

    async def _ask(self, futures: Sequence[Future], method: str, params: Mapping[str, Any]) -> Result:
        """Put a question on futures and return the client's answer.

        Raises:
            RpcError: the client refused with this error; `_Nobody`: there is no answer.
        """
        self._count += 1
        question = Question(f"q{self._count}", method, params)
        if self._closed:
            raise _Nobody(NobodyToAnswer(futures[0].tool, question.text))
        opened = self._open[question.id] = _Open(question, futures)
        question.on_settled = opened.over.set

        def watch(_: Future) -> None:
            if all(future.done for future in futures):
                opened.over.set()

        for future in futures:
            future.watchers.append(watch)
            future.questions[question.id] = question
            if future.state is State.RUNNING:
                future.apply(Event.ASK)
            else:
                future.changed()
        try:
            with anyio.move_on_after(self._timeout_s):
                await opened.over.wait()
        finally:
            opened.over.set()  # whatever the reason: who is being asked at this moment need not answer any more
            del self._open[question.id]
            for future in futures:
                future.watchers.remove(watch)
                future.questions.pop(question.id, None)
                if future.state is State.INPUT_REQUIRED and not future.questions:
                    future.apply(Event.ANSWER)
        if question.refusal is not None:
            raise RpcError(*question.refusal)
        if question.answer is not None:
            return question.answer
        if all(future.done for future in futures):
            raise RpcError(INVALID_REQUEST, "the call that asked has ended")
        if self._closed:
            raise _Nobody(NobodyToAnswer(futures[0].tool, question.text))
        raise _Nobody(Unanswered(futures[0].tool, question.text, self._timeout_s))

    def find(self, question_id: str) -> Question | None:
        """The open question with this ID."""
        opened = self._open.get(question_id)
        return opened.question if opened is not None else None

    async def over(self, question: Question) -> None:
        """Return when nobody needs the answer any more: it is there, or was given up, or the call has ended."""
        if (opened := self._open.get(question.id)) is not None:
            await opened.over.wait()

    def release(self, question: Question) -> None:
        """Who took the question on cannot have it answered: let the next one."""
        question.claimed_until = 0.0
        if (opened := self._open.get(question.id)) is not None:
            for future in opened.futures:
                future.changed()

    async def answer_round(self, call: Call, result: Result) -> dict[str, Any]:
        """Answer an `InputRequiredResult`: the parameters with which to send the call again (2026-07-28).

        Raises:
            CannotAsk: the client has not declared that it can answer one of the questions.
            ProtocolFailure: the client refused one.
            Unanswered: nobody answered one.
        """
        asked = input_requests(call.future.tool, result)
        if len(asked) > MAX_OPEN:
            raise TooManyQuestions(call.future.tool, len(asked), MAX_OPEN)
        responses: dict[str, Any] = {}

        async def ask(key: str, method: str, params: Mapping[str, Any]) -> None:
            responses[key] = await self._ask([call.future], method, params)

        for request in asked.values():
            if not can_answer(call.capabilities, str(request.get("method")), request.get("params") or {}):
                raise CannotAsk(call.future.tool, str(request.get("method")))
        try:
            async with anyio.create_task_group() as tg:
                for key, request in asked.items():
                    params: dict[str, Any] = request.get("params") or {}
                    tg.start_soon(ask, key, str(request.get("method")), params)
        except* RpcError as group:
            exc = group.exceptions[0]
            assert isinstance(exc, RpcError)
            if isinstance(exc, _Nobody):
                raise exc.verdict from None
            raise ProtocolFailure(call.future.tool, exc.code, exc.message, exc.data) from None
        if not asked:
            await anyio.sleep(STATE_ONLY_S)
        again: dict[str, Any] = {}
        if responses:
            again["inputResponses"] = responses
        if result.get("requestState") is not None:
            again["requestState"] = result["requestState"]
        return again

    async def askers(self, server: str) -> list[Call]:
        """The calls that a question of a server may belong to.

        JSON-RPC does not say which it is. So it is all that run there, as long as they are one client's, and whoever
        awaits any of them is asked. (Rejected: the oldest that has asked nothing yet. A client that awaited another
        one would never be asked, and wait in vain.) A question that is one client's must not reach another, so where
        several have calls there it is held until those of one are left. Callers that cannot be told apart are several:
        a client of 2026-07-28 over HTTP without a conversation's key is asked when its call is alone there.

        Raises:
            RpcError: that takes longer than `HOLD_S`, or cannot happen, since all of them wait to ask.
        """
        self._held[server] = self._held.get(server, 0) + 1
        try:
            with anyio.move_on_after(HOLD_S):
                while True:
                    calls = self._scheduler.running_on(server)
                    whose = {(call.future.scope, _apart(call)) for call in calls}
                    if len(whose) <= 1 and (len(calls) <= 1 or calls[0].future.scope.listed):
                        return calls
                    if self._held[server] >= len(calls) and not any(call.future.questions for call in calls):
                        break
                    await wait_for([call.future for call in calls], any_=True)
        finally:
            self._held[server] -= 1
        raise RpcError(
            INVALID_REQUEST,
            f"calls of several clients are running on {server!r}, and it cannot be told whose question this is; "
            "try again when it is alone",
        )

    @contextmanager
    def taking(
        self,
        put: Callable[[Question], bool] | None,
        capabilities: Mapping[str, Any],
        caller: CallerIdentity | None = None,
    ) -> Generator[Callable[[Iterable[Future]], list[tuple[Future, Question]]]]:
        """Take questions on for a client, as long as one of its requests waits.

        Gives a function that takes on the open questions of futures which nobody else is getting answered, whose
        calls the client may have made, and which it can answer. It puts them to the client; where that cannot be done,
        it returns them.

        Args:
            put: puts a question to the client at once, or cannot; None where questions travel in answers.
            capabilities: what the client can be asked.
            caller: which client it is.
        """
        held: list[Question] = []

        def take(futures: Iterable[Future]) -> list[tuple[Future, Question]]:
            claimed = self._claim(futures, capabilities, caller)
            if put is None:
                return claimed
            for _, question in claimed:
                if not put(question):
                    question.claimed_until = 0.0  # who hung up waits on, but cannot be asked
                    continue
                # For as long as the request waits: a user who takes their time is not asked twice.
                question.claimed_until = inf
                held.append(question)
            return []

        try:
            yield take
        finally:
            until = self._clock() + CLAIM_S
            for question in held:
                question.claimed_until = min(question.claimed_until, until)

    def _claim(
        self, futures: Iterable[Future], capabilities: Mapping[str, Any], caller: CallerIdentity | None
    ) -> list[tuple[Future, Question]]:
        now = self._clock()
        claimed: list[tuple[Future, Question]] = []
        for future in futures:
            if future.questions and not future.may_be_of(caller):
                continue
            for question in future.questions.values():
                free = not question.settled and question.claimed_until <= now
                if free and can_answer(capabilities, question.method, question.params):
                    question.claimed_until = now + CLAIM_S
                    claimed.append((future, question))
        return claimed


def _apart(call: Call) -> object:
    """The caller of a call, or the call itself where its identity may stand for several callers."""
    return call if call.client is not None and call.client.shared else call.client
