"""What servers ask their client while a call runs: elicitation, sampling, roots.

Owns a question's life: it is put on the future of the call that raised it, taken on by whoever awaits that future,
and answered, refused, withdrawn or given up. Refuses to know how a client is asked; that depends on its protocol era.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from math import inf
from typing import Any, Final, cast

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_REQUEST, METHOD_NOT_FOUND

from asyncfc_mcp.errors import CannotAsk, ProtocolFailure, Unanswered
from asyncfc_mcp.futures import Event, Future, Question, Result, State
from asyncfc_mcp.scheduler import Call, Scheduler

CAPABILITY: Final[Mapping[str, str]] = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""Method of a question → the client capability that it needs."""
CLAIM_S: Final = 30.0
"""Who took a question on and waits no more is left alone with it this long; then the next to wait is asked, too."""
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


class _Nobody(MCPError):
    """Nobody answered in time; the call is to fail with `verdict`."""

    def __init__(self, verdict: Unanswered) -> None:
        super().__init__(INVALID_REQUEST, "nobody answered")
        self.verdict = verdict


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
        self._open: dict[str, tuple[Future, anyio.Event]] = {}
        """ID of a question → whose it is, and what is set when it is over."""

    async def ask(self, call: Call, method: str, params: Mapping[str, Any]) -> Result:
        """Put a question of a server on the future of its call and return the client's answer.

        Raises:
            MCPError: the client refused with this error, or cannot be asked; or nobody answered, and the call fails.
        """
        try:
            return await self._ask(call, method, params)
        except _Nobody as nobody:
            self._scheduler.abort(call, nobody.verdict)
            raise

    async def _ask(self, call: Call, method: str, params: Mapping[str, Any]) -> Result:
        """Put a question on the call's future and return the client's answer.

        Raises:
            MCPError: the client refused with this error, or cannot be asked; `_Nobody`: there is no answer.
        """
        if not can_answer(call.capabilities, method, params):
            raise MCPError(METHOD_NOT_FOUND, f"the client has not declared that it can answer {method}")
        future = call.future
        self._count += 1
        question = Question(f"q{self._count}", method, params)
        over = anyio.Event()
        self._open[question.id] = future, over
        question.on_settled = over.set

        def watch(future: Future) -> None:
            if future.done:
                over.set()

        future.watchers.append(watch)
        future.questions[question.id] = question
        if future.state is State.RUNNING:
            future.apply(Event.ASK)
        else:
            future.changed()
        try:
            with anyio.move_on_after(self._timeout_s):
                await over.wait()
        finally:
            over.set()  # whatever the reason: who is being asked at this moment need not answer any more
            del self._open[question.id]
            future.watchers.remove(watch)
            future.questions.pop(question.id, None)
            if future.state is State.INPUT_REQUIRED and not future.questions:
                future.apply(Event.ANSWER)
        if question.refusal is not None:
            raise MCPError(*question.refusal)
        if question.answer is not None:
            return question.answer
        if future.done:
            raise MCPError(INVALID_REQUEST, "the call that asked has ended")
        raise _Nobody(Unanswered(future.tool, question.text, self._timeout_s))

    async def over(self, question: Question) -> None:
        """Return when nobody needs the answer any more: it is there, or was given up, or the call has ended."""
        if question.id in self._open:
            await self._open[question.id][1].wait()

    def release(self, question: Question) -> None:
        """Who took the question on cannot have it answered: let the next one."""
        question.claimed_until = 0.0
        if question.id in self._open:
            self._open[question.id][0].changed()

    async def answer_round(self, call: Call, result: Result) -> dict[str, Any]:
        """Answer an `InputRequiredResult`: the parameters with which to send the call again (2026-07-28).

        Raises:
            CannotAsk: the client has not declared that it can answer one of the questions.
            ProtocolFailure: the client refused one.
            Unanswered: nobody answered one.
        """
        asked = cast("dict[str, dict[str, Any]]", result.get("inputRequests") or {})
        responses: dict[str, Any] = {}

        async def ask(key: str, method: str, params: Mapping[str, Any]) -> None:
            responses[key] = await self._ask(call, method, params)

        for request in asked.values():
            if not can_answer(call.capabilities, str(request.get("method")), request.get("params") or {}):
                raise CannotAsk(call.future.tool, str(request.get("method")))
        try:
            async with anyio.create_task_group() as tg:
                for key, request in asked.items():
                    params: dict[str, Any] = request.get("params") or {}
                    tg.start_soon(ask, key, str(request.get("method")), params)
        except* MCPError as group:
            exc = group.exceptions[0]
            assert isinstance(exc, MCPError)
            if isinstance(exc, _Nobody):
                raise exc.verdict from None
            raise ProtocolFailure(call.future.tool, exc.code, exc.error.message, exc.error.data) from None
        again: dict[str, Any] = {}
        if responses:
            again["inputResponses"] = responses
        if result.get("requestState") is not None:
            again["requestState"] = result["requestState"]
        return again

    def asker_of(self, server: str) -> Call | None:
        """The call that a server's question belongs to: JSON-RPC does not say, so the one running, if it can be only
        one caller's. Of several calls of one caller the oldest that has asked nothing yet."""
        calls = self._scheduler.running_on(server)
        if not calls:
            return None
        if len({call.future.scope for call in calls}) > 1 or (len(calls) > 1 and not calls[0].future.scope.listed):
            return None
        return next((call for call in calls if not call.future.questions), calls[0])

    @contextmanager
    def taking(
        self, put: Callable[[Question], None] | None, capabilities: Mapping[str, Any]
    ) -> Generator[Callable[[Iterable[Future]], list[tuple[Future, Question]]]]:
        """Take questions on for a client, as long as one of its requests waits.

        Gives a function that takes on the open questions of futures which nobody else is getting answered and which
        the client can answer. It puts them to the client; where that cannot be done, it returns them.

        Args:
            put: puts a question to the client at once; None where questions travel in answers.
            capabilities: what the client can be asked.
        """
        held: list[Question] = []

        def take(futures: Iterable[Future]) -> list[tuple[Future, Question]]:
            claimed = self._claim(futures, capabilities)
            if put is None:
                return claimed
            for _, question in claimed:
                # For as long as the request waits: a user who takes their time is not asked twice.
                question.claimed_until = inf
                held.append(question)
                put(question)
            return []

        try:
            yield take
        finally:
            until = self._clock() + CLAIM_S
            for question in held:
                question.claimed_until = min(question.claimed_until, until)

    def _claim(self, futures: Iterable[Future], capabilities: Mapping[str, Any]) -> list[tuple[Future, Question]]:
        now = self._clock()
        claimed: list[tuple[Future, Question]] = []
        for future in futures:
            for question in future.questions.values():
                free = not question.settled and question.claimed_until <= now
                if free and can_answer(capabilities, question.method, question.params):
                    question.claimed_until = now + CLAIM_S
                    claimed.append((future, question))
        return claimed
