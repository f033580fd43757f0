"""Execution of one call: substitution of values, checks of arguments, retries, sharing among identical calls.

Owns which failures are retried, and after which pause. Leaves settling calls to the scheduler.
"""

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.lowlevel

from asyncfc_mcp.core import reference_values
from asyncfc_mcp.core.futures import Future, Result, State
from asyncfc_mcp.core.identity import Party, id_of
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.deadlines import Deadlines
from asyncfc_mcp.engine.executor_api import Check, Execute
from asyncfc_mcp.engine.wait import until_done_or_asking, wait_for
from asyncfc_mcp.errors import (
    ArgumentsRejected,
    CallFailed,
    CallTimedOut,
    NotSignedIn,
    PathMissing,
    ServerDied,
    ServerRefused,
    ServerUnavailable,
)
from asyncfc_mcp.protocol import Deferred
from asyncfc_mcp.slices import Slices
from asyncfc_mcp.turns import in_slices

RETRY_BACKOFF_S: Final = 0.2
"""Pause before the first retry; it doubles with each."""
MAX_RETRY_AFTER_S: Final = 60.0
"""Longest pause before a retry that a server may ask for (`Retry-After`)."""


class Attempts:
    """Executes calls that run in tasks.

    Args:
        execute: sends a call once, in the current task.
        deadlines: end the scopes of calls at their time limit.
        check: checks arguments that do not plainly fit their schema; None checks at once, for as long as it takes.
        mark_used: records that a call has taken a future's value.
        path_missing: called with a future whose result lacks a part that a reference names.
        resume: finishes a call that has got as far as questions in an earlier run.
        load: reads a large result into memory, in slices.
        retrying: called with a call whose attempt has failed, the failure, and the seconds until the next attempt.
    """

    def __init__(
        self,
        execute: Execute,
        deadlines: Deadlines,
        check: Check | None,
        mark_used: Callable[[Future], None],
        path_missing: Callable[[Future], None] | None = None,
        *,
        resume: Callable[[Call, dict[str, Any] | None, Result], Awaitable[Result]] | None = None,
        load: Callable[[Future], Awaitable[None]] | None = None,
        retrying: Callable[[Call, CallFailed, float], None] | None = None,
    ) -> None:
        self._execute = execute
        self._deadlines = deadlines
        self._resume = resume
        self._load = load
        self._retrying = retrying
        self._check = check
        self._mark_used = mark_used
        self._path_missing = path_missing
        self._flights: dict[tuple[Party, str], Call] = {}
        """Running calls whose results identical ones may share."""

    def resolving(self, call: Call) -> Slices[dict[str, Any] | None]:
        """Put the values of futures in place of references, and check the arguments against the tool's own schema if
        that takes no time; else `checked` is False.

        A call without references is sent as it was received: judging it is the server's part.
        """
        if not call.bindings:
            return call.arguments
        if call.resolved is not None:
            return call.resolved

        def value_of(key: str) -> Result:
            source = call.sources[key]
            assert source.result is not None
            self._mark_used(source)
            return source.result

        try:
            arguments = yield from reference_values.substituting(
                call.arguments,
                call.bindings.get,
                value_of,
                call.schema,
                call.policy.max_argument_bytes,
                id_of,
            )
        except PathMissing as exc:
            for source in call.sources.values():
                # Inside an expression the text names a part of it in place of the future.
                if self._path_missing is not None and (source.id == exc.future or len(call.sources) == 1):
                    self._path_missing(source)
            raise
        if call.validator is None or call.validator.fits(arguments):
            return arguments
        if self._check is not None:
            call.resolved, call.checked = arguments, False
        elif (problem := call.validator.first_error(arguments)) is not None:
            raise ArgumentsRejected(call.future.tool, *problem)
        return arguments

    async def make(self, call: Call, continuation: Deferred | None) -> Result:
        """Resolve a call's arguments, set its time limit, and make it.

        Args:
            continuation: of a call that was sent before.

        Raises:
            CallFailed: it has no result.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()  # without a continuation it was never sent
        if self._load is not None:
            for source in call.sources.values():
                await self._load(source)
        arguments = await in_slices(self.resolving(call))
        if call.deadline < math.inf:
            # The limit is the call's own scope's, whose end tells the downstream to cancel.
            assert call.cancel_scope is not None
            call.verdict = timed_out(call)
            self._deadlines.end_scope(call.deadline, call.future.key, call.cancel_scope)
        if not call.checked:
            assert self._check is not None
            assert call.validator is not None
            assert arguments is not None
            if (problem := await self._check(call.validator, arguments, call.future.tool)) is not None:
                raise ArgumentsRejected(call.future.tool, *problem)
        if call.round is not None:
            assert self._resume is not None
            return await self._resume(call, arguments, call.round)
        if call.shares:
            return await self._shared(call, arguments)
        return await self._with_retries(call, arguments, continuation)

    async def _with_retries(
        self, call: Call, arguments: dict[str, Any] | None, continuation: Deferred | None = None
    ) -> Result:
        """Make a call and its retries.

        Args:
            continuation: of the first try, if that was sent already.

        Raises:
            CallFailed: what `execute` raises; transport failures of repeatable calls, and of others that the server
                says it has not processed, only after the last retry. If any try may have taken effect, the failure
                says so.
        """
        attempt, uncertain = 0, None
        while True:
            try:
                if continuation is not None:
                    return await continuation()
                return await self._execute(call, arguments, call.on_progress, call.on_sent)
            except (ServerDied, ServerUnavailable, ServerRefused) as exc:
                pause_s = _pause_before_retry(call, exc, attempt)
                if not isinstance(exc, ServerUnavailable):
                    uncertain = exc
                if pause_s is None:
                    raise uncertain or exc from None
                call.future.attempts += 1
                if self._retrying is not None:
                    self._retrying(call, exc, pause_s)
            await anyio.sleep(pause_s)
            attempt, continuation = attempt + 1, None

    async def _shared(self, call: Call, arguments: dict[str, Any] | None) -> Result:
        """Return the result of an identical running call, if there is one (single-flight).

        Results are not shared between parties, and not if the running call asks another client a question: the answer
        applies to that client's call only.
        """
        key = call.party, json.dumps([call.future.server, call.tool, arguments], sort_keys=True)
        while (leader := self._flights.get(key)) is not None:
            await until_done_or_asking(leader.future)
            if not leader.future.done and leader.client is not call.client:
                return await self._with_retries(call, arguments)
            await wait_for([leader.future])
            if leader.future.result is not None:
                return leader.future.result
            if leader.future.state is State.FAILED and leader.future.failure is not None:
                raise leader.future.failure
            # Cancelled by its own caller, which does not affect this call.
        self._flights[key] = call
        try:
            return await self._with_retries(call, arguments)
        finally:
            # Removed before the leader settles: a later call is sent itself; those that wait hold the leader already.
            self._flights.pop(key, None)


def timed_out(call: Call) -> CallTimedOut:
    """Return the failure of a call whose time limit has passed."""
    assert call.policy.timeout_s is not None
    return CallTimedOut(call.future.tool, call.policy.timeout_s)


def _pause_before_retry(call: Call, failure: CallFailed, attempt: int) -> float | None:
    """Return the seconds until a call is made again after a transport failure; None if it is not.

    There is no retry where a server asks for a longer pause than `MAX_RETRY_AFTER_S`: a model can use that time better;
    nor where it has to be signed in to first.
    """
    if isinstance(failure, NotSignedIn):
        return None
    pause_s = RETRY_BACKOFF_S * 2**attempt
    repeatable = call.repeatable
    if isinstance(failure, ServerRefused):
        if not failure.may_pass or (failure.retry_after_s or 0) > MAX_RETRY_AFTER_S:
            return None
        repeatable = repeatable or failure.unprocessed
        pause_s = max(pause_s, failure.retry_after_s or 0)
    return pause_s if repeatable and attempt < call.policy.retries else None
