"""Runs calls: each as soon as its dependencies, its turn and capacity allow, and every one to an end.

Owns starting, cancelling, timing out and settling, and what an end means for the calls behind it. Refuses to know
servers and wires: `execute` is injected. Deciding is synchronous, so what arrives first is decided first; only
the calls themselves take time.
"""

import json
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any, Final, Protocol

import anyio
import anyio.abc
import anyio.lowlevel

from asyncfc_mcp import references
from asyncfc_mcp.answers import without_our_keys
from asyncfc_mcp.codec import approximate_size, held_size
from asyncfc_mcp.config import Policy
from asyncfc_mcp.errors import (
    ArgumentsRejected,
    CallFailed,
    CallTimedOut,
    Cancelled,
    DependencyFailed,
    NotSent,
    ServerDied,
    ServerRefused,
    ServerUnavailable,
    Stopped,
)
from asyncfc_mcp.futures import RECORD_BYTES, CallerIdentity, Event, Future, FutureStore, Result, Scope, State
from asyncfc_mcp.ordering import NOTHING, Effect, StateTree
from asyncfc_mcp.protocol import OnProgress, OnSent, content_blocks
from asyncfc_mcp.validate import Validator

logger = logging.getLogger(__name__)

RETRY_BACKOFF_S: Final = 0.2
"""Pause before the first retry; it doubles with each."""
MAX_RETRY_AFTER_S: Final = 60.0
"""Longest pause that a server may ask for before a retry (`Retry-After`)."""
FOREIGN: Final = "another client's call"
"""How a call is called that the reader may not know. Where nobody is authenticated that is every call but its own:
there the ID is the right to a future."""
PROGRESS_TEXT: Final = 300
"""How much of a progress message is kept: every line about the future carries it."""
DURATIONS: Final = 9
"""How many of a tool's last calls its median is taken over."""


@dataclass(slots=True, eq=False)
class Call:
    """A call and all that decides when and how it runs."""

    future: Future
    tool: str
    """Its name downstream."""
    arguments: dict[str, Any] | None
    policy: Policy
    effect: Effect = NOTHING
    read_only: bool = False
    repeatable: bool = False
    validator: Validator | None = None
    """Of the tool's own input schema; needed only where references are resolved."""
    schema: Mapping[str, Any] | None = None
    bindings: Mapping[str, str] = field(default_factory=dict[str, str])
    """Reference as written (ID or name) → key of the future that it meant when the call was submitted."""
    takes: Sequence[str] | None = None
    """Keys of the futures whose values the arguments take; None: all in `bindings`. An escaped reference (`$$f3`) is
    bound, so that it can be told from other text, and takes nothing."""
    meta: Mapping[str, Any] | None = None
    """`_meta` of the request, as far as it concerns the downstream."""
    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the client that made the call can answer."""
    client: CallerIdentity | None = None
    """Which of the clients in the future's scope that is, as far as it can be told."""
    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`inputResponses` and `requestState` of a call that is sent again."""
    needs_task: bool = False
    """The tool can only be called as a task (2025-11-25)."""
    asks_through: bool = False
    """Whether questions go up in the result, as the server put them, instead of waiting on the future."""
    verdict: CallFailed | None = None
    """Why we ended a running call ourselves; None if somebody cancelled it."""
    needs: set[str] = field(default_factory=set[str])
    sources: dict[str, Future] = field(default_factory=dict[str, Future])
    """Key → future, of `bindings`; held here, so that a value outlives its retention while somebody waits to use it."""
    number: int = 0
    """Its place in the order of submission."""
    resolved: dict[str, Any] | None = None
    """The arguments with values in place, while their check is not made."""
    checked: bool = True
    """Whether there is no check left to be made before it is sent."""
    sent: bool = False
    """Whether the downstream may have seen it."""
    ordered: bool = False
    cancel_scope: anyio.CancelScope | None = None
    """Of the task in which it runs, if it runs in one."""
    abandon: "Abandon | None" = None
    """Tells the downstream that nobody waits any more, while it runs without a task."""
    answered_first: bool = False
    """Whether its caller has its answer, a handle, before it goes out: that is what a model waits for."""
    deadline: float = math.inf
    """When its time is over, on the event loop's clock."""
    dropped: bool = False
    """Settled before it started; if it stands in a line for capacity, whoever comes to it there drops it."""

    def on_sent(self, sent: bool = True) -> None:
        """Note that the downstream may have seen it, or has certainly not seen it after all."""
        self.sent = sent

    def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Keep the downstream's last progress on the future."""
        if not self.future.done and is_number(progress) and (total is None or is_number(total)):
            self.future.progress = (progress, total, message[:PROGRESS_TEXT] if message else message)
            self.future.changed()


class Execute(Protocol):
    """Sends a call downstream and returns its result.

    Raises:
        CallFailed: there is none.
    """

    async def __call__(
        self, call: Call, arguments: dict[str, Any] | None, on_progress: OnProgress, on_sent: OnSent
    ) -> Result: ...


Rest = Callable[[], Awaitable[Result]]
"""What brings a result that takes more than one answer. Raises `CallFailed`."""
Ended = Callable[[Result | CallFailed | Rest], None]
"""Told once how a call ended that was sent, or what is left to be done."""
Abandon = Callable[[str], None]
"""Tells the downstream, with a reason, that nobody waits for its answer. Then `Ended` is not called any more."""


class Send(Protocol):
    """Sends a call downstream without waiting for anything; `ended` is called later, never from in here.

    Returns:
        None if that is not possible at this moment, and then nothing was sent.
    """

    def __call__(self, call: Call, arguments: dict[str, Any] | None, ended: Ended) -> Abandon | None: ...


Check = Callable[[Validator, dict[str, Any], str], Awaitable[tuple[str, str] | None]]
"""Returns where and how arguments break a schema, if they do, for the tool of that name."""


@dataclass(slots=True, eq=False)
class _Capacity:
    """Places for calls that run at the same time; None means no limit."""

    limit: int | None
    running: int = 0

    @property
    def full(self) -> bool:
        return self.limit is not None and self.running >= self.limit


@dataclass(slots=True, eq=False)
class _Lane(_Capacity):
    """A tool's places, and the calls of that tool that lack nothing else, as a heap by their number."""

    line: list[tuple[int, Call]] = field(default_factory=list[tuple[int, Call]])


@dataclass(slots=True, eq=False)
class _Server(_Capacity):
    """A server's places, and those of its tools for which calls stand in line."""

    lanes: dict[_Lane, None] = field(default_factory=dict[_Lane, None])


class Scheduler:
    """Engine of one process: futures in memory. A call that can be sent at once costs no task: there may be thousands.

    Args:
        store: where futures are.
        execute: makes a call, in a task.
        send: sends a call, where that needs no waiting; None makes every call in a task.
        check: checks arguments that do not plainly fit their schema; None does so at once, for as long as it takes.
        clock: the event loop's, in seconds.
        server_limits: `max_concurrency` of each server; absent or None means no limit.
    """

    def __init__(
        self,
        store: FutureStore,
        execute: Execute,
        *,
        clock: Callable[[], float],
        server_limits: Mapping[str, int | None] | None = None,
        send: Send | None = None,
        check: "Check | None" = None,
        order_s: float = math.inf,
    ) -> None:
        self.store = store
        self._execute = execute
        self._send = send
        self._check = check
        self._clock = clock
        self._tree = StateTree()
        self._calls: dict[str, Call] = {}
        """Unfinished calls by key of their future."""
        self._dependents: dict[str, list[Call]] = {}
        self._submitted = 0
        self._servers = {name: _Server(limit) for name, limit in (server_limits or {}).items()}
        self._tools: dict[tuple[str, str], _Lane] = {}
        self._durations: dict[str, deque[float]] = {}
        self._medians: dict[str, float] = {}
        self._flights: dict[str, Call] = {}
        self._outbox: deque[Call] = deque()
        """Calls that have started and go out as soon as their callers have been answered."""
        self._filled = anyio.Event()
        self._deadlines: list[tuple[float, str]] = []
        """When the time of calls without a task is over, as a heap; some have ended before."""
        self._order_s = order_s
        self._order_ends: deque[tuple[float, str]] = deque()
        """When calls of scopes that are not listed lose their places in the order."""
        self._earlier = anyio.Event()
        self._tg: anyio.abc.TaskGroup | None = None
        self._over = False
        """Nothing starts any more."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all calls until cancelled."""
        async with anyio.create_task_group() as self._tg:
            self._tg.start_soon(self._empty_outbox)
            task_status.started()
            try:
                await self._keep_time()
            finally:
                self._over = True
                for call in self._calls.values():
                    if call.abandon is not None:
                        call.abandon("the bridge is stopping")

    # --- submitting ----------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> Future:
        """Take a call on. It runs in its own time; its place behind conflicting calls is fixed now."""
        future = call.future
        self._calls[future.key] = call
        self._submitted += 1
        call.number = self._submitted
        self._order(call)
        for key in dict.fromkeys(call.bindings.values() if call.takes is None else call.takes):
            scope, _, future_id = key.rpartition("/")
            needed = self.store.find(Scope(scope), future_id)
            if needed is None:  # making room for this call took it, between two steps of submitting
                gone = DependencyFailed(future_id, future_id, "its result is not kept any more (setting keep_s)")
                self._settle_all([(call, Event.FAIL, gone, "failed")])
                return future
            call.sources[key] = needed
            if not needed.done:
                call.needs.add(key)
                self._dependents.setdefault(key, []).append(call)
            elif needed.state is not State.COMPLETED:
                self._settle_all([(call, Event.FAIL, _dependency_failed(needed), "failed")])
                return future
        self._consider(call)
        return future

    def _order(self, call: Call) -> None:
        if call.effect.reads or call.effect.writes:
            call.ordered = True
            on_failure = call.policy.on_failure if call.effect.declared else "continue"
            self._tree.submit(call.future.key, call.effect, on_failure=on_failure)
            if not call.future.scope.listed and self._order_s < math.inf:
                if not self._order_ends:
                    self._earlier.set()
                self._order_ends.append((self._clock() + self._order_s, call.future.key))

    def _leave_order(self, key: str) -> None:
        """Let a call that has not ended give up its place: it waits for no call before it, and none waits for it.

        Callers of a scope that is not listed do not know each other, and one's endless call must not keep the others'
        from running.
        """
        call = self._calls.get(key)
        if call is None or not call.ordered:
            return
        held_back = not self._tree.ready(key)  # else it has started, or stands in line for capacity
        call.ordered = False
        freed = [ready for each in self._tree.settle(key, outcome="void").ready if (ready := self._calls.get(each))]
        for each in [call, *freed] if held_back else freed:
            if each.future.state is State.WAITING and not each.dropped:
                self._consider(each)

    def _consider(self, call: Call) -> None:
        """Start the call if nothing is missing, or let it stand in line for capacity."""
        if self._over or call.needs or (call.ordered and not self._tree.ready(call.future.key)):
            return
        server, tool = self._lanes(call)
        if server.full or tool.full or server.lanes:
            heappush(tool.line, (call.number, call))
            server.lanes[tool] = None
            self._admit(server)
        else:
            self._start(call, server, tool)

    def _admit(self, server: _Server) -> None:
        """Start calls that stand in line while there is room: in order of submission, but for their tools' limits.

        One line for each tool, and none for the server: a call that moved from line to line would take a place of the
        first with it when it leaves the second, and who stands behind it in the first would never be called.
        """
        while not (server.full or self._over):
            first: _Lane | None = None
            for lane in tuple(server.lanes):
                while lane.line and lane.line[0][1].dropped:
                    heappop(lane.line)
                if not lane.line:
                    del server.lanes[lane]
                elif not lane.full and (first is None or lane.line[0] < first.line[0]):
                    first = lane
            if first is None:
                return
            self._start(heappop(first.line)[1], server, first)

    def _lanes(self, call: Call) -> tuple[_Server, _Lane]:
        name = call.future.server
        server = self._servers.get(name)
        if server is None:
            server = self._servers[name] = _Server(None)
        tool = self._tools.get((name, call.tool))
        if tool is None:
            tool = self._tools[name, call.tool] = _Lane(call.policy.max_concurrency)
        return server, tool

    def _start(self, call: Call, server: _Server, tool: _Lane) -> None:
        assert self._tg is not None, "submit() before run()"
        server.running += 1
        tool.running += 1
        if call.ordered:
            self._tree.start(call.future.key)
        call.future.started_at = now = self._clock()
        if call.policy.timeout_s is not None:
            call.deadline = now + call.policy.timeout_s
        # What comes after a call that waits there goes out after it, whatever its own answer is.
        if call.answered_first or self._outbox:
            self._outbox.append(call)
            self._filled.set()
        else:
            self._dispatch(call)
        call.future.apply(Event.START)

    async def _empty_outbox(self) -> None:
        while True:
            self._filled = anyio.Event()
            while self._outbox:
                call = self._outbox.popleft()
                if not call.future.done:
                    self._dispatch(call)
            await self._filled.wait()

    def _dispatch(self, call: Call) -> None:
        assert self._tg is not None
        # Identical calls are brought together in a task, since one waits for the other.
        if self._send is not None and not _shares(call):
            try:
                arguments = self._resolve(call)
                if call.checked:
                    call.abandon = self._send(call, arguments, partial(self._ended, call))
            except CallFailed:
                pass  # a failure here ends other calls, and we may be in the midst of that: its task comes to the same
            except Exception:  # it must cost nobody else anything; in its task it is this call's failure
                logger.exception("call %s of %s could not be sent at once", call.future.id, call.future.tool)
        if call.abandon is None:
            call.cancel_scope = anyio.CancelScope()
            self._tg.start_soon(self._run, call, None)
        else:
            call.sent = True
            if call.deadline < math.inf:
                self._end_in_time(call)

    # --- running without a task ----------------------------------------------------------------------------------

    def _ended(self, call: Call, how: Result | CallFailed | Rest) -> None:
        """A call that was sent has an answer."""
        call.abandon = None
        if unsent := isinstance(how, NotSent):
            call.on_sent(False)  # it is made anew in a task, which can wait for the server
        if unsent or callable(how):
            if self._tg is not None and not self._over:
                call.cancel_scope = anyio.CancelScope()
                self._tg.start_soon(self._run, call, how if callable(how) else None)
            return
        try:
            if isinstance(how, CallFailed):
                self._settle_all([(call, Event.FAIL, how, "failed")])
            else:
                self._settle_with(call, how)
        finally:
            self._release(call)

    def _give_up(self, call: Call, event: Event, failure: CallFailed, reason: str) -> None:
        """End a call that runs without a task, or has not gone out yet, or has not started.

        Args:
            reason: told to the server. What it made of the call is unknown, so for those behind it this is a failure.
        """
        started = call.future.state is not State.WAITING
        outcome = "void"
        if call.abandon is not None:
            abandon, call.abandon = call.abandon, None
            abandon(reason)
            outcome = "failed"
        try:
            self._settle_all([(call, event, failure, outcome)])
        finally:
            if started:
                self._release(call)

    def _end_in_time(self, call: Call) -> None:
        if len(self._deadlines) > 2 * len(self._calls) + 64:  # mostly of calls that have ended
            self._deadlines = [(at, key) for at, key in self._deadlines if key in self._calls]
            heapify(self._deadlines)
        heappush(self._deadlines, (call.deadline, call.future.key))
        if self._deadlines[0][1] == call.future.key:
            self._earlier.set()

    async def _keep_time(self) -> None:
        """End calls without a task whose time is over."""
        while True:
            self._earlier = anyio.Event()
            ends = [queue[0][0] for queue in (self._deadlines, self._order_ends) if queue]
            with anyio.CancelScope(deadline=min(ends, default=math.inf)):
                await self._earlier.wait()
            while self._order_ends and self._order_ends[0][0] <= self._clock():
                self._leave_order(self._order_ends.popleft()[1])
            while self._deadlines and self._deadlines[0][0] <= self._clock():
                call = self._calls.get(heappop(self._deadlines)[1])
                if call is not None and call.abandon is not None:
                    self._give_up(call, Event.FAIL, _timed_out(call), f"timed out after {call.policy.timeout_s:g} s")

    # --- running in a task ---------------------------------------------------------------------------------------

    async def _run(self, call: Call, rest: Rest | None) -> None:
        """Make a call, or do what is left of one that was sent without a task."""
        future = call.future
        assert call.cancel_scope is not None
        result: Result | None = None
        failure: CallFailed | None = None
        with call.cancel_scope as scope:
            try:
                result = await self._attempt(call, rest)
            except CallFailed as exc:
                failure = exc
            except Exception as exc:  # the last line: whatever escapes must end this call and no other
                logger.exception("call %s of %s failed unexpectedly", future.id, future.tool)
                failure = CallFailed(f"internal error in the bridge: {type(exc).__name__}: {exc}")
        if result is not None:
            self._settle_with(call, result)
        elif failure is not None:
            self._settle_all([(call, Event.FAIL, failure, "failed")])
        elif scope.cancelled_caught and call.verdict is not None:
            self._settle_all([(call, Event.FAIL, call.verdict, "failed")])
        elif scope.cancelled_caught:
            # Once it was sent its effect is unknown, so for those behind it this is a failure.
            outcome = "failed" if call.sent else "void"
            self._settle_all([(call, Event.CANCEL, Cancelled(sent=call.sent), outcome)])
        # After settling: what this end made ready may have been submitted before those that stand in line.
        self._release(call)

    async def _attempt(self, call: Call, rest: Rest | None) -> Result:
        """A call's arguments resolved, its time limit set, and the call made.

        Raises:
            CallFailed: it has no result.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()  # before its first step: without `rest` it was never sent
        arguments = self._resolve(call)
        if call.deadline < math.inf:
            # The limit is the call's own scope's, whose end tells the downstream to cancel.
            assert call.cancel_scope is not None
            call.cancel_scope.deadline = call.deadline
            call.verdict = _timed_out(call)
        if not call.checked:
            assert self._check is not None
            assert call.validator is not None
            assert arguments is not None
            if (problem := await self._check(call.validator, arguments, call.future.tool)) is not None:
                raise ArgumentsRejected(call.future.tool, *problem)
        if _shares(call):
            return await self._shared(call, arguments)
        return await self._tried(call, arguments, rest)

    async def _tried(self, call: Call, arguments: dict[str, Any] | None, rest: Rest | None = None) -> Result:
        """One call and its retries.

        Args:
            rest: of the first try, if that was sent already.

        Raises:
            CallFailed: what `execute` raises; transport failures of repeatable calls, and of others that the server
                says it has not processed, only after the last retry. If any try may have taken effect, the failure
                says so.
        """
        attempt, uncertain = 0, None
        while True:
            try:
                if rest is not None:
                    return await rest()
                return await self._execute(call, arguments, call.on_progress, call.on_sent)
            except (ServerDied, ServerUnavailable, ServerRefused) as exc:
                pause_s = _pause_before_retry(call, exc, attempt)
                if not isinstance(exc, ServerUnavailable):
                    uncertain = exc
                if pause_s is None:
                    raise uncertain or exc from None
            await anyio.sleep(pause_s)
            attempt, rest = attempt + 1, None

    async def _shared(self, call: Call, arguments: dict[str, Any] | None) -> Result:
        """Single-flight: the result of an identical call that is running, if there is one."""
        key = json.dumps([call.future.server, call.tool, arguments], sort_keys=True)
        while (leader := self._flights.get(key)) is not None:
            await wait_for([leader.future])
            if leader.future.result is not None:
                return leader.future.result
            if leader.future.state is State.FAILED and leader.future.failure is not None:
                raise leader.future.failure
            # Cancelled by its own caller, who does not speak for us.
        self._flights[key] = call
        try:
            return await self._tried(call, arguments)
        finally:
            # Popped before the leader settles, so who comes later asks anew; who waits already holds the leader.
            self._flights.pop(key, None)

    def _resolve(self, call: Call) -> dict[str, Any] | None:
        """The arguments with the values of futures in place of references, checked against the tool's own schema if
        that takes no time; else `checked` is False.

        A call without references is sent as it came: judging it is the server's part.
        """
        if not call.bindings:
            return call.arguments
        if call.resolved is not None:
            return call.resolved

        def value_of(key: str) -> Result:
            result = call.sources[key].result
            assert result is not None
            return result

        arguments = references.substitute(
            call.arguments,
            call.bindings.get,
            value_of,
            call.schema,
            call.policy.max_argument_bytes,
            lambda key: key.rpartition("/")[2],
        )
        if call.validator is None or call.validator.fits(arguments):
            return arguments
        if self._check is not None:
            call.resolved, call.checked = arguments, False
        elif (problem := call.validator.first_error(arguments)) is not None:
            raise ArgumentsRejected(call.future.tool, *problem)
        return arguments

    def _release(self, call: Call) -> None:
        """Give capacity back and pass it on."""
        server, tool = self._lanes(call)
        server.running -= 1
        tool.running -= 1
        self._admit(server)

    # --- settling ------------------------------------------------------------------------------------------------

    def _settle_with(self, call: Call, result: Result) -> None:
        call.future.result = without_our_keys(result)
        failed = result.get("isError") is True
        event, outcome = (Event.FAIL, "failed") if failed else (Event.COMPLETE, "completed")
        self._settle_all([(call, event, None, outcome)])

    def _settle_all(self, ends: list[tuple[Call, Event, CallFailed | None, str]]) -> None:
        """End calls, and every call that their ends end: along references and orderings, never further.

        A worklist, not recursion: a chain may be as long as there are futures.
        """
        work = deque(ends)
        freed: dict[str, Call] = {}
        while work:
            call, event, failure, outcome = work.popleft()
            future = call.future
            if future.done:
                continue
            if future.state is State.WAITING:
                call.dropped = True
                # It may stand in a line for a while yet, and nothing of it is counted there.
                call.arguments = None
                call.sources.clear()
            ran = future.state is not State.WAITING and (call.sent or call.cancel_scope is not None)
            if failure is not None:
                # It is kept for as long as the future is, and what it passed on its way, arguments included, is not.
                failure.__traceback__ = failure.__context__ = None
            future.failure = failure
            if isinstance(failure, DependencyFailed | Stopped):
                future.cause = failure.cause
            self._calls.pop(future.key, None)
            self.store.ended(future)
            future.apply(event)  # whoever waits for it gets it now; what it leaves to be counted can wait
            self._weigh(future)
            if ran:  # and not what was cancelled before it went out
                self._remember_duration(future)
            if call.ordered:
                if outcome == "failed" and not call.effect.declared:
                    outcome = "void"  # for the calls behind it: it stops none of them
                settled = self._tree.settle(future.key, outcome=outcome)  # pyright: ignore[reportArgumentType]
                for key in settled.ready:
                    if (ready := self._calls.get(key)) is not None:
                        freed[key] = ready
                for key, before in settled.stopped:
                    if (stopped := self._calls.get(key)) is not None:
                        stopped.ordered = False  # the tree has settled it already
                        work.append((stopped, Event.CANCEL, self._stopped(stopped, before, future), "failed"))
            for dependent in self._dependents.pop(future.key, ()):
                dependent.needs.discard(future.key)
                if future.state is State.COMPLETED:
                    freed[dependent.future.key] = dependent
                else:
                    work.append((dependent, Event.FAIL, _dependency_failed(future), "failed"))
        for call in freed.values():
            if call.future.state is State.WAITING and not call.dropped:
                self._consider(call)

    def _weigh(self, future: Future) -> None:
        if future.result is not None:
            self.store.weigh(future, approximate_size(future.result), RECORD_BYTES + held_size(future.result))
        else:
            self.store.weigh(future, 0, RECORD_BYTES + len(str(future.failure or "")))

    def _stopped(self, call: Call, before_key: str, failed: Future) -> Stopped:
        """Why fail-stop cancelled a call: who failed before it, and who failed first of all."""
        scope, _, before_id = before_key.rpartition("/")
        before = self.store.find(Scope(scope), before_id) or failed
        # Calls that were stopped together end one after another: one that has not yet has its reason from `failed`.
        root = before if before.done else failed
        if not (_visible(before, call.future) and _visible(root, call.future)):
            name = before.id if _visible(before, call.future) else FOREIGN
            return Stopped(name, FOREIGN, "its client knows why")
        return Stopped(before.id, root.cause or root.id, reason_of(root))

    def _remember_duration(self, future: Future) -> None:
        assert future.started_at is not None
        durations = self._durations.setdefault(future.tool, deque(maxlen=DURATIONS))
        assert future.ended_at is not None
        durations.append(future.ended_at - future.started_at)
        self._medians[future.tool] = sorted(durations)[len(durations) // 2]

    # --- asked from above ----------------------------------------------------------------------------------------

    def running_of(self, server: str, tool: str) -> int:
        """How many calls of a tool are running; `tool` is its name downstream."""
        lane = self._tools.get((server, tool))
        return lane.running if lane is not None else 0

    def median_s(self, tool: str) -> float | None:
        """The median of a tool's last calls in seconds, of two in the middle the longer; None before the first."""
        return self._medians.get(tool)

    def waiting_for(self, future: Future) -> tuple[tuple[str, ...], str]:
        """What a waiting call waits for, as IDs of its scope, and why in a few words."""
        call = self._calls.get(future.key)
        if call is None or future.state is not State.WAITING:
            return (), ""
        if call.needs:
            ids = tuple(sorted((key.rpartition("/")[2] for key in call.needs), key=lambda i: (len(i), i)))
            return ids, "needs the result"
        if call.ordered and not self._tree.ready(future.key):
            blockers = [(self._calls[key].future, path) for key, path in self._tree.blockers(future.key)]
            ids = dict.fromkeys(other.id if _visible(other, future) else FOREIGN for other, _ in blockers)
            return tuple(ids), f"same state {'/'.join(blockers[0][1])}"
        return ("capacity",), "max_concurrency"

    def abort(self, call: Call, verdict: CallFailed) -> None:
        """End a running call with a failure of ours; the downstream is told to cancel it."""
        if call.cancel_scope is None:
            self._give_up(call, Event.FAIL, verdict, "given up")
        else:
            call.verdict = verdict
            call.cancel_scope.cancel()

    def running_on(self, server: str) -> list[Call]:
        """The calls that the downstream has, oldest first."""
        return [call for call in self._calls.values() if call.sent and call.future.server == server]

    def cancel(self, future: Future) -> None:
        """Cancel a call: at once if it has not started, else as soon as the downstream has been told."""
        call = self._calls.get(future.key)
        if call is None:
            return
        if call.cancel_scope is not None:
            call.verdict = None  # whoever cancels is quicker than the time limit
            call.cancel_scope.cancel()
        else:
            # If it was not sent it never happened: writes behind it go on, and what needs its value cannot.
            self._give_up(call, Event.CANCEL, Cancelled(sent=call.abandon is not None), "caller cancelled")

    @property
    def unfinished(self) -> Sequence[Call]:
        return tuple(self._calls.values())


def _visible(other: Future, future: Future) -> bool:
    """Whether the client of `future` may learn of `other`, which it did not name itself."""
    return other is future or (other.scope == future.scope and other.scope.listed)


def _shares(call: Call) -> bool:
    """Whether it may be answered with the result of an identical call."""
    return call.policy.single_flight and call.read_only and not (call.asks_through or call.answers)


def _pause_before_retry(call: Call, failure: CallFailed, attempt: int) -> float | None:
    """Seconds until a call is made again after a transport failure; None if it is not.

    A server that asks for a longer pause than `MAX_RETRY_AFTER_S` is not waited for: a model can use that time better.
    """
    pause_s = RETRY_BACKOFF_S * 2**attempt
    repeatable = call.repeatable
    if isinstance(failure, ServerRefused):
        if not failure.may_pass or (failure.retry_after_s or 0) > MAX_RETRY_AFTER_S:
            return None
        repeatable = repeatable or failure.unprocessed
        pause_s = max(pause_s, failure.retry_after_s or 0)
    return pause_s if repeatable and attempt < call.policy.retries else None


def _timed_out(call: Call) -> CallTimedOut:
    assert call.policy.timeout_s is not None
    return CallTimedOut(call.future.tool, call.policy.timeout_s)


def is_number(value: float) -> bool:
    """Whether a server's number can be worked with: JSON has numbers that no float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def reason_of(future: Future) -> str:
    """Why a future has no good result, in one line."""
    if future.failure is not None:
        if isinstance(future.failure, DependencyFailed | Stopped):
            return future.failure.reason
        return str(future.failure).partition("\n")[0]
    text = " ".join(str(block.get("text", "")) for block in content_blocks(future.result or {}))
    return (text[:200] + "…" if len(text) > 200 else text) or "the tool reported an error"


def _dependency_failed(needed: Future) -> DependencyFailed:
    return DependencyFailed(needed.id, needed.cause or needed.id, reason_of(needed))


async def wait_for(futures: Iterable[Future], *, any_: bool = False, timeout_s: float | None = None) -> bool:
    """Wait until all (or any) of the futures are terminal; whether they are. Cancelling the wait cancels no future.

    Args:
        timeout_s: seconds after which to give up; None waits for as long as it takes.
    """
    wanted = list(futures)
    pending = {id(future): future for future in wanted if not future.done}
    if not pending or (any_ and any(future.done for future in wanted)):
        return True
    enough = anyio.Event()

    def watch(future: Future) -> None:
        if future.done:
            future.watchers.remove(watch)
            pending.pop(id(future), None)
            if any_ or not pending:
                enough.set()

    for future in pending.values():
        future.watchers.append(watch)
    try:
        with anyio.move_on_after(timeout_s):
            await enough.wait()
    finally:
        for future in pending.values():
            if watch in future.watchers:
                future.watchers.remove(watch)
    return enough.is_set()
