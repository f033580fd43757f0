"""Runner: executes calls that the scheduler has started, without a task if they can be sent at once, else each in one.

Owns the tasks of calls, their time limits, and the order in which handles and calls are sent. Leaves to the
scheduler which call may start, and the effect of its end on others.
"""

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.abc

from asyncfc_mcp.core.futures import Event, Future, Result, State
from asyncfc_mcp.core.outcome import Outcome
from asyncfc_mcp.engine.attempts import Attempts, timed_out
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.deadlines import Deadlines
from asyncfc_mcp.engine.executor_api import ComingUp, ExecuteNowait
from asyncfc_mcp.engine.recorder import Recorder
from asyncfc_mcp.errors import CallFailed, Cancelled, NotClaimed, NotSent
from asyncfc_mcp.protocol import Deferred
from asyncfc_mcp.signals import WakeUp
from asyncfc_mcp.slices import at_once

logger = logging.getLogger(__name__)

End = tuple[Call, Event, CallFailed | None, str]
"""A call that ends: its event, why it has no result, and its outcome for the calls behind it in the order of a state
(see `StateTree.settle`)."""


@dataclass(slots=True, eq=False)
class _Claimed:
    """A call that has started; `waits` while its claim is not committed."""

    call: Call
    waits: bool = False


class Runner:
    """Runs the calls of one scheduler. A call that can be sent at once costs no task: there may be thousands.

    Args:
        attempts: makes calls in tasks.
        execute_nowait: makes a call where that needs no waiting; None makes every call in a task.
        deadlines: end calls without a task at their time limit.
        calls: those that have not ended, by key.
        settle: ends a call that has not started, and the calls that end as a consequence.
        finish: does the same for a call that has started, with its result if it has one, and gives its place to others.
        weigh: counts a call's memory.
        recorder: claims calls before they are sent; None sends them without.
        coming_up: waits for the server of a call before it is claimed; None claims it before.
    """

    def __init__(
        self,
        attempts: Attempts,
        execute_nowait: ExecuteNowait | None,
        deadlines: Deadlines,
        calls: Mapping[str, Call],
        *,
        settle: Callable[[End], None],
        finish: Callable[[End, Result | None], None],
        weigh: Callable[[Call], None],
        recorder: Recorder | None = None,
        coming_up: ComingUp | None = None,
    ) -> None:
        self._attempts = attempts
        self._execute_nowait = execute_nowait
        self._deadlines = deadlines
        self._calls = calls
        self._settle = settle
        self._finish = finish
        self._weigh = weigh
        self._recorder = recorder
        self._coming_up = coming_up
        self._early: set[str] = set()
        """Keys of calls that have started and wait for their server: they are not claimed."""
        self._claimed: deque[_Claimed] = deque()
        """Calls that have started and are not sent before the claims of all of them up to theirs are committed."""
        self._outbox: deque[Call] = deque()
        """Calls that have started and are sent as soon as their callers have been answered."""
        self._outbox_filled = WakeUp()
        self._tg: anyio.abc.TaskGroup | None = None
        self.over = False
        """True after `run` was cancelled: no call starts after that."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all calls until cancelled."""
        async with anyio.create_task_group() as self._tg:
            task_status.started()
            try:
                while True:
                    await self._outbox_filled.wait()
                    while self._outbox:
                        call = self._outbox.popleft()
                        if not (call.future.done or call.ending):
                            self._dispatch(call)
            finally:
                self.over = True
                for call in self._calls.values():
                    if call.cancel_request is not None:
                        call.cancel_request("the bridge is stopping")

    def start(self, call: Call) -> None:
        """Make a call, after its claim is committed where that is needed, and after its caller is answered if that
        comes first. One whose server is not up yet is claimed only when it is: the next run can make it until then."""
        if self._recorder is None:
            return self._launch(call)
        come_up = None if self._coming_up is None or call.round is not None else self._coming_up(call)
        if come_up is None or self._tg is None:
            return self._claim(call, self._recorder)
        self._early.add(call.future.key)
        if call.deadline < math.inf:
            self._deadlines.add(call.deadline, call.future.key, self._time_out)
        self._tg.start_soon(self._claim_later, call, self._recorder, come_up)

    async def _claim_later(self, call: Call, recorder: Recorder, come_up: Callable[[], Awaitable[None]]) -> None:
        """Claim a call once its server is up, or has failed."""
        try:
            await come_up()
        except Exception:  # the last resort: what is wrong with its server is the failure of the call when it is made
            logger.exception("call %s of %s could not wait for its server", call.future.id, call.future.tool)
        finally:
            self._early.discard(call.future.key)
        if not (call.future.done or call.ending or self.over):
            self._claim(call, recorder)

    def _claim(self, call: Call, recorder: Recorder) -> None:
        claimed = _Claimed(call)
        claimed.waits = recorder.claim(call, partial(self._commit, claimed))
        # Calls are sent in the order in which they start, whichever of them have to wait.
        if claimed.waits or self._claimed:
            self._claimed.append(claimed)
        else:
            self._launch(call)

    def _commit(self, claimed: "_Claimed") -> None:
        """Send the calls whose claims are committed."""
        assert self._recorder is not None
        claimed.waits = False
        while self._claimed and not self._claimed[0].waits and not self.over:
            call = self._claimed.popleft().call
            if call.future.done or call.ending:
                continue
            if self._recorder.may_send(call):
                self._launch(call)
            else:
                self._finish((call, Event.FAIL, NotClaimed(), "void"), None)

    def _launch(self, call: Call) -> None:
        # A call that follows one in the outbox is sent after it, whatever its own answer is.
        if call.reply_before_send or self._outbox:
            self._outbox.append(call)
            self._outbox_filled.set()
        else:
            self._dispatch(call)

    def _dispatch(self, call: Call) -> None:
        assert self._tg is not None, "submit() before run()"
        # Identical calls share a result (single-flight) in a task, since one waits for the other.
        if self._execute_nowait is not None and not (call.shares or call.is_large or call.round is not None):
            try:
                arguments = at_once(self._attempts.resolving(call))
                if call.checked:
                    call.cancel_request = self._execute_nowait(call, arguments, partial(self._completed, call))
            except CallFailed:
                pass  # settling here could recurse into another settlement; the call fails in the same way in its task
            except Exception:  # it must not affect other calls; in its task it is this call's failure
                logger.exception("call %s of %s could not be sent at once", call.future.id, call.future.tool)
        if call.cancel_request is None:
            call.cancel_scope = anyio.CancelScope()
            self._tg.start_soon(self._run, call, None)
        else:
            call.sent = True
            if call.deadline < math.inf:
                self._deadlines.add(call.deadline, call.future.key, self._time_out)
        self._weigh(call)

    # --- without a task ------------------------------------------------------------------------------------------

    def _completed(self, call: Call, outcome: Outcome) -> None:
        """Take the outcome of a call that was sent."""
        call.cancel_request = None
        if unsent := isinstance(outcome, NotSent):
            call.on_sent(False)  # sent again from a task, which can wait for the server
        if unsent or isinstance(outcome, Deferred):
            if self._tg is not None and not self.over:
                call.cancel_scope = anyio.CancelScope()
                self._tg.start_soon(self._run, call, outcome if isinstance(outcome, Deferred) else None)
        elif isinstance(outcome, CallFailed):
            self._finish((call, Event.FAIL, outcome, "failed"), None)
        else:
            self._finish(_ended_with(call, outcome), outcome)

    def _give_up(self, call: Call, event: Event, failure: CallFailed, reason: str) -> None:
        """End a call that runs without a task, is not sent yet, or has not started.

        Args:
            reason: sent to the server. Its effect there is unknown, so for the calls behind it this is a failure.
        """
        outcome = "void"
        if call.cancel_request is not None:
            cancel_request, call.cancel_request = call.cancel_request, None
            cancel_request(reason)
            outcome = "failed"
        end = (call, event, failure, outcome)
        if call.future.state is State.WAITING:
            self._settle(end)
        else:
            self._finish(end, None)

    def _time_out(self, key: str) -> None:
        """End a call without a task, or one that waits for its server, whose time limit has passed."""
        call = self._calls[key]
        if key in self._early:
            self._finish((call, Event.FAIL, timed_out(call), "failed"), None)
        elif call.cancel_request is not None:
            self._give_up(call, Event.FAIL, timed_out(call), f"timed out after {call.policy.timeout_s:g} s")

    # --- in a task -----------------------------------------------------------------------------------------------

    async def _run(self, call: Call, continuation: Deferred | None) -> None:
        """Execute a call, or complete one that was sent without a task."""
        future = call.future
        assert call.cancel_scope is not None
        result: Result | None = None
        failure: CallFailed | None = None
        with call.cancel_scope as scope:
            try:
                result = await self._attempts.make(call, continuation)
            except CallFailed as exc:
                failure = exc
            except Exception as exc:  # the last resort: an unexpected exception must end this call and no other
                logger.exception("call %s of %s failed unexpectedly", future.id, future.tool)
                failure = CallFailed(f"internal error in the bridge: {type(exc).__name__}: {exc}")
        if result is not None:
            self._finish(_ended_with(call, result), result)
        elif failure is not None:
            self._finish((call, Event.FAIL, failure, "failed"), None)
        elif scope.cancelled_caught and call.verdict is not None:
            self._finish((call, Event.FAIL, call.verdict, "failed"), None)
        elif scope.cancelled_caught:
            # Once it was sent its effect is unknown, so for the calls behind it this is a failure.
            outcome = "failed" if call.sent else "void"
            self._finish((call, Event.CANCEL, Cancelled(sent=call.sent), outcome), None)

    # --- ended from outside --------------------------------------------------------------------------------------

    def abort(self, call: Call, verdict: CallFailed) -> None:
        """End a call with a failure of the bridge, and send its cancellation to the downstream."""
        if call.ending:
            return
        if call.cancel_scope is None:
            self._give_up(call, Event.FAIL, verdict, "given up")
        else:
            call.verdict = verdict
            call.cancel_scope.cancel()

    def drop(self, call: Call) -> None:
        """Stop making a call whose end is not this process's part any more."""
        if call.cancel_scope is not None:
            call.cancel_scope.cancel()
        elif call.cancel_request is not None:
            cancel_request, call.cancel_request = call.cancel_request, None
            cancel_request("it was given up")

    def cancel(self, future: Future) -> None:
        """Cancel a call: at once if it has not started, else after its cancellation was sent to the downstream."""
        call = self._calls.get(future.key)
        if call is None or call.ending:
            return
        if call.cancel_scope is not None:
            call.verdict = None  # the client's cancellation precedes the time limit
            call.cancel_scope.cancel()
        else:
            # A call that was not sent has no effect: writes behind it continue, and calls that need its value fail.
            self._give_up(call, Event.CANCEL, Cancelled(sent=call.cancel_request is not None), "caller cancelled")


def _ended_with(call: Call, result: Result) -> End:
    if result.get("isError") is True:
        return call, Event.FAIL, None, "failed"
    return call, Event.COMPLETE, None, "completed"
