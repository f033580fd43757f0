"""Questions of servers to clients while a call runs: elicitation, sampling, roots.

Owns a question's life: it is put on the future of the call that raised it, claimed by a request that awaits the future,
and answered, refused, withdrawn or given up. Refuses to know how a client is asked; that depends on its protocol era.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Protocol

import anyio

from asyncfc_mcp.core.futures import Event, Future, Question, Result, State
from asyncfc_mcp.core.identity import CallerIdentity
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.question_rules import MAX_OPEN, can_answer, input_requests, refuse_unless_able
from asyncfc_mcp.engine.scheduler import Scheduler
from asyncfc_mcp.errors import (
    AskedTooOften,
    CallFailed,
    CannotAsk,
    NoClientToAsk,
    ProtocolFailure,
    RpcError,
    TooManyQuestions,
    Unanswered,
)
from asyncfc_mcp.protocol import INVALID_REQUEST

CLAIM_S: Final = 30.0
"""Validity of a claim after its request has stopped waiting. Then the next waiting request may claim the question."""
STATE_ONLY_S: Final = 0.25
"""Pause before a call is sent again to a server that asks for that without a question."""
MAX_ASKED: Final = 1000
"""Questions of one call that are put to a client in all; then the call is given up. Far more than a sampling agent in a
server needs, and an end for one that asks without end."""


class _NoAnswer(RpcError):
    """No answer is coming: the call must fail with `verdict`."""

    def __init__(self, verdict: CallFailed, reason: str = "there was no answer") -> None:
        super().__init__(INVALID_REQUEST, reason)
        self.verdict = verdict


@dataclass(slots=True, eq=False)
class _Open:
    """An open question."""

    question: Question
    futures: Sequence[Future]
    """Those on which it stands."""
    over: anyio.Event = field(default_factory=anyio.Event)


class Board(Protocol):
    """Shows questions to other processes."""

    async def opened(self, question: Question, futures: Sequence[Future]) -> None:
        """Show a question that is about to be put on these futures; return when every process can find it."""
        ...

    def closed(self, question: Question, futures: Sequence[Future]) -> None:
        """Remove one that is over."""
        ...


class Rounds(Protocol):
    """Keeps the questions that a server of 2026-07-28 has returned, so that they outlive the process."""

    def asked(self, call: Call, result: Result) -> None:
        """Record questions that can be asked again."""
        ...

    def resumes(self, call: Call) -> bool:
        """Return true for a call whose questions are asked again if this process ends now."""
        ...

    async def round_answered(self, call: Call) -> None:
        """Record that the answers are going to be sent; return once that is committed."""
        ...


class Questions:
    """Open questions of one engine.

    Args:
        clock: monotonic, in seconds.
        timeout_s: seconds until an unanswered question makes its call fail.
        several: there are several servers, so a question must say which one asks.
        recorder: keeps questions that can be asked in another run; None keeps none.
        board: shows questions to other processes; None where there are none.
        suffix: of the IDs of questions, where they must differ from those of other processes.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        clock: Callable[[], float],
        timeout_s: float,
        *,
        several: bool = False,
        recorder: Rounds | None = None,
        board: Board | None = None,
        suffix: str = "",
    ) -> None:
        self._board = board
        self._suffix = suffix
        self._recorder = recorder
        self._scheduler = scheduler
        self._clock = clock
        self.configure(timeout_s, several=several)
        self._count = 0
        self._open: dict[str, _Open] = {}
        self._closed = False

    def configure(self, timeout_s: float, *, several: bool) -> None:
        """Ask later questions with this timeout, and name the server that asks where there are several."""
        self._timeout_s, self._several = timeout_s, several

    def close(self) -> None:
        """Give up all open questions and all later ones: no client is left to answer them."""
        self._closed = True
        for opened in self._open.values():
            opened.over.set()

    async def ask(self, calls: Sequence[Call], method: str, params: Mapping[str, Any]) -> Result:
        """Put a question of a server on the futures of the calls that it may belong to (see `question_routing`), and
        return the client's answer.

        Raises:
            RpcError: the client refused with this error, or cannot be asked; or there was no answer and the call fails.
        """
        for call in calls:
            refuse_unless_able(call.capabilities, method, params)
            if self._open_of(call.future) >= MAX_OPEN:
                raise RpcError(INVALID_REQUEST, f"{MAX_OPEN} questions of this call are open; wait for their answers")
        try:
            return await self._ask([call.future for call in calls], method, params)
        except _NoAnswer as none:
            # Only the server knows which of several calls asked; it gets the error.
            if len(calls) == 1:
                self._scheduler.abort(calls[0], none.verdict)
            raise

    def _open_of(self, future: Future) -> int:
        """Return the number of open questions of a call, those included that are not on its future yet."""
        if self._board is None:
            return len(future.questions)
        return sum(future in opened.futures for opened in self._open.values())

    async def _ask(self, futures: Sequence[Future], method: str, params: Mapping[str, Any]) -> Result:
        """Put a question on futures and return the client's answer.

        Raises:
            RpcError: the client refused with this error; `_NoAnswer`: there is no answer.
        """
        if all(future.done for future in futures):
            raise RpcError(INVALID_REQUEST, "the call that asked has ended")
        self._count += 1
        question = Question(
            f"q{self._count}{self._suffix}", method, params, futures[0].server if self._several else None
        )
        for future in futures:
            future.asked += 1
        # Any of the calls may have asked: the one with the fewest questions counts.
        if min(future.asked for future in futures) > MAX_ASKED:
            reason = f"more than {MAX_ASKED} questions of one call"
            raise _NoAnswer(AskedTooOften(futures[0].tool, MAX_ASKED), reason)
        if self._closed:
            raise _NoAnswer(NoClientToAsk(futures[0].tool, question.text))
        opened = self._open[question.id] = _Open(question, futures)
        question.on_settled = opened.over.set

        def watch(_: Future) -> None:
            if all(future.done for future in futures):
                opened.over.set()

        for future in futures:
            future.watchers.append(watch)
        try:
            with anyio.move_on_after(self._timeout_s):
                if self._board is not None:
                    # First: a client that has the question may answer it at another process.
                    await self._board.opened(question, futures)
                self._put_on(futures, question)
                await opened.over.wait()
        finally:
            opened.over.set()  # on every path: a client that is being asked at this moment need not answer
            del self._open[question.id]
            for future in futures:
                future.watchers.remove(watch)
                future.questions.pop(question.id, None)
                future.reported_at = self._clock()
                if future.state is State.INPUT_REQUIRED and not future.questions:
                    future.apply(Event.ANSWER)
            if self._board is not None:
                self._board.closed(question, futures)
        if question.refusal is not None:
            raise RpcError(*question.refusal)
        if question.answer is not None:
            return question.answer
        if all(future.done for future in futures):
            raise RpcError(INVALID_REQUEST, "the call that asked has ended")
        if self._closed:
            raise _NoAnswer(NoClientToAsk(futures[0].tool, question.text))
        raise _NoAnswer(Unanswered(futures[0].tool, question.text, self._timeout_s))

    def _put_on(self, futures: Sequence[Future], question: Question) -> None:
        for future in futures:
            if future.done:
                continue
            future.reported_at = self._clock()
            future.questions[question.id] = question
            if future.state is State.RUNNING:
                future.apply(Event.ASK)
            else:
                future.changed()

    def find(self, question_id: str) -> Question | None:
        """Return the open question with this ID."""
        opened = self._open.get(question_id)
        return opened.question if opened is not None else None

    async def over(self, question: Question) -> None:
        """Return when the answer is no longer needed: it is there, or was given up, or the call has ended."""
        if (opened := self._open.get(question.id)) is not None:
            await opened.over.wait()

    def release(self, question: Question) -> None:
        """Give a claimed question back, so that the next request may claim it."""
        question.claimed_until = 0.0
        if (opened := self._open.get(question.id)) is not None:
            for future in opened.futures:
                future.changed()

    async def answer_round(self, call: Call, result: Result) -> dict[str, Any]:
        """Answer an `InputRequiredResult`; return the parameters with which to send the call again (2026-07-28).

        Raises:
            CannotAsk: the client has not declared that it can answer one of the questions.
            ProtocolFailure: the client refused one.
            Unanswered: one had no answer in time.
        """
        if self._recorder is not None:
            self._recorder.asked(call, result)
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
            if isinstance(exc, _NoAnswer):
                if self._closed and self._recorder is not None and self._recorder.resumes(call):
                    await anyio.sleep_forever()  # the next run asks it
                raise exc.verdict from None
            raise ProtocolFailure(call.future.tool, exc.code, exc.message, exc.data) from None
        if not asked:
            await anyio.sleep(STATE_ONLY_S)
        if self._recorder is not None:
            await self._recorder.round_answered(call)
        again: dict[str, Any] = {}
        if responses:
            again["inputResponses"] = responses
        if result.get("requestState") is not None:
            again["requestState"] = result["requestState"]
        return again

    @contextmanager
    def claiming(
        self,
        put: Callable[[Question], bool] | None,
        capabilities: Mapping[str, Any],
        caller: CallerIdentity | None = None,
    ) -> Generator[Callable[[Iterable[Future]], list[tuple[Future, Question]]]]:
        """Claim questions for a client while one of its requests waits.

        Yields a function that claims the open questions of futures: those that are not claimed, whose calls the client
        may have made, and which it can answer. It puts them to the client; where questions travel in answers, it
        returns them.

        Args:
            put: puts a question to the client at once, or returns false; None where questions travel in answers.
            capabilities: requests that the client can answer, as it declared them.
            caller: the client.
        """
        held: list[Question] = []

        def take(futures: Iterable[Future]) -> list[tuple[Future, Question]]:
            claimed = self._claim(futures, capabilities, caller)
            if put is None:
                return claimed
            for _, question in claimed:
                if not put(question):
                    question.claimed_until = 0.0  # a disconnected client cannot be asked; its request still waits
                    continue
                # For as long as the request waits: a slow user must not be asked twice.
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
