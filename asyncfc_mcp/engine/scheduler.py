"""Scheduler: decides when a call starts, and which other calls start or end when it ends.

Owns dependencies, the order of calls on the same state, and settling. Leaves execution to the runner; does not depend
on servers or wire formats. Decisions are synchronous, so calls are decided in the order in which they are submitted.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import anyio
import anyio.abc

from asyncfc_mcp.core.futures import TRANSITIONS, Event, Future, Result, State
from asyncfc_mcp.core.identity import future_key, id_of
from asyncfc_mcp.core.meta_keys import without_our_keys
from asyncfc_mcp.core.state_tree import NEAREST, StateTree
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.engine.attempts import Attempts
from asyncfc_mcp.engine.blockers import blockers, wait_for_place, waits
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.capacity import Capacity, Tool
from asyncfc_mcp.engine.deadlines import Deadlines
from asyncfc_mcp.engine.durations import Durations
from asyncfc_mcp.engine.executor_api import Check, ComingUp, Execute, ExecuteNowait
from asyncfc_mcp.engine.observer import Observers
from asyncfc_mcp.engine.reasons import needed_failed, stopped
from asyncfc_mcp.engine.recorder import Recorder
from asyncfc_mcp.engine.runner import End, Runner
from asyncfc_mcp.engine.scales import Scales
from asyncfc_mcp.errors import CallFailed, DependencyFailed, PredecessorFailed, RestoredFailure, Stopped

SHOWN_WAITS: Final = 20
"""Calls of each kind that a future names among those that its call has waited for."""


class EndRecorder(Protocol):
    """Makes ends durable."""

    def end(
        self,
        call: Call,
        state: State,
        result: Result | None,
        failure: CallFailed | None,
        cause: str | None,
        committed: Callable[[], None] | None,
    ) -> None:
        """Record the end of a call; `committed` is called once no crash takes it back, and never from within."""
        ...

    def keep(self, future: Future) -> None:
        """Take note of a result that was read and is in memory."""
        ...


class Scheduler:
    """Schedules the calls of one process.

    Args:
        store: where futures are.
        execute: makes a call, in a task.
        execute_nowait: makes a call, where that needs no waiting; None makes every call in a task.
        coming_up: waits for servers before calls are claimed; None claims them before.
        check: checks arguments that do not plainly fit their schema; None does so at once, for as long as it takes.
        path_missing: called with a future whose result lacks a part that a reference names.
        clock: the event loop's, in seconds.
        server_limits: `max_concurrency` of each server; absent or None means no limit.
        order_s: seconds for which a call keeps its place in the order where its scope is not listed.
        caller_share: share of a server's or a tool's places that one caller may have there (see `retention.allowance`).
        recorder: records ends before they are shown; None keeps nothing.
        claims: claims calls before they are sent; None sends them without.
        launch: has a call started that lacks nothing, in this process or another one: `begin` and `make` follow, or
            `end_elsewhere`. It has to keep the limits of servers itself. None starts calls here and at once.
        resume, load: see `Attempts`.
        observers: have what happens to calls reported; None reports it to nobody.
    """

    def __init__(
        self,
        store: FutureStore,
        execute: Execute,
        *,
        clock: Callable[[], float],
        server_limits: Mapping[str, int | None] | None = None,
        execute_nowait: ExecuteNowait | None = None,
        coming_up: ComingUp | None = None,
        check: Check | None = None,
        path_missing: Callable[[Future], None] | None = None,
        order_s: float = math.inf,
        caller_share: float = 1.0,
        recorder: EndRecorder | None = None,
        claims: Recorder | None = None,
        launch: Callable[[Call], None] | None = None,
        resume: Callable[[Call, dict[str, Any] | None, Result], Awaitable[Result]] | None = None,
        load: Callable[[Future], Awaitable[None]] | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.store = store
        self._observers = observers = Observers() if observers is None else observers
        self._recorder = recorder
        self._launch = launch
        self.scales = Scales(store)
        self.durations = Durations()
        self.held = False
        """True while no call may start."""
        self._clock = clock
        self._tree = StateTree()
        self._calls: dict[str, Call] = {}
        """Unfinished calls by key of their future."""
        self._dependents: dict[str, list[Call]] = {}
        self._submitted = 0
        self._capacity = Capacity[Call](server_limits or {}, caller_share)
        self._deadlines = Deadlines(clock, self._calls)
        self._order_s = order_s
        self._runner = Runner(
            Attempts(
                execute,
                self._deadlines,
                check,
                store.mark_used,
                path_missing,
                resume=resume,
                load=load,
                retrying=observers.retrying,
            ),
            execute_nowait,
            self._deadlines,
            self._calls,
            settle=self._withdraw,
            finish=self._finish,
            weigh=self._weigh,
            recorder=claims,
            coming_up=coming_up,
        )
        self.cancel = self._runner.cancel
        self.abort = self._runner.abort

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run calls until cancelled."""
        async with anyio.create_task_group() as tg:
            await tg.start(self._runner.run)
            tg.start_soon(self.scales.run)
            task_status.started()
            await self._deadlines.run()

    def configure(
        self, order_s: float, server_limits: Mapping[str, int | None], tool_limit: Callable[[str, str], int | None]
    ) -> None:
        """Use other bounds from now on.

        Args:
            tool_limit: returns `max_concurrency` of a server's tool.
        """
        self._order_s = order_s
        if self._launch is None:
            for tool in self._capacity.configure(server_limits, tool_limit):
                self._admit(tool)

    # --- submitting ----------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> Future:
        """Accept a call and fix its place behind conflicting calls. It starts now or later, without its caller."""
        future = call.future
        self._calls[future.key] = call
        self._submitted += 1
        call.number = self._submitted
        if self._observers:
            self._observers.submitted(call)
        self._order(call)
        if call.bindings:  # the size of its arguments decides how values are put into them
            self._weigh(call)
        self._depend(call)
        if future.state is State.WAITING:
            self._weigh(call)
            self._note_waits(call)
        return future

    def _note_waits(self, call: Call) -> None:
        """Keep what a call waits for on its future, and report it."""
        future, found = call.future, waits(call, self._calls, self._tree, SHOWN_WAITS)
        # One of another run or replica has waited before.
        future.waits = (*future.waits, *(each for each in found if each not in future.waits)) if future.waits else found
        if self._observers and found:
            self._observers.waiting(call)

    def _depend(self, call: Call) -> None:
        """Find what a call needs, and start it if that is there."""
        needs = dict.fromkeys(call.bindings.values() if call.value_dependencies is None else call.value_dependencies)
        failed: list[Future] = []
        for key in (*needs, *call.after) if call.after else needs:
            needed = self._future(key)
            if needed is None:  # dropped for lack of memory when this call was submitted
                gone = DependencyFailed(id_of(key), id_of(key), "its result is no longer kept (setting keep_s)")
                return self._end_without_start((call, Event.FAIL, gone, "failed"))
            if key in needs:
                call.sources[key] = needed
            if not needed.done:
                if key not in call.unmet_dependencies:
                    call.unmet_dependencies.add(key)
                    self._dependents.setdefault(key, []).append(call)
            elif needed.state is not State.COMPLETED:
                failed.append(needed)
        if failed:
            needed = failed[0] if len(failed) == 1 else min(failed, key=self._failing_since)
            return self._end_without_start((call, Event.FAIL, needed_failed(call, needed), "failed"))
        self._consider(call)

    def _failing_since(self, future: Future) -> float:
        """Return the end of the call whose failure has led to that of this future. A call that needs several fails with
        the first of them, also in the next run, where the end of this future may not have been recorded."""
        root = None if future.cause is None else self._future(future_key(future.scope, future.cause))
        ended_at = future.ended_at if root is None or root.ended_at is None else root.ended_at
        return math.inf if ended_at is None else ended_at

    def _end_without_start(self, end: End) -> None:
        """End a call because of another one's end: at once where that is recorded together with the other, and
        otherwise once it is recorded."""
        call, event, failure, outcome = end
        if self._launch is None:
            self._settle(end)
        elif not call.elsewhere:
            self._withdraw(end)
        elif failure is not None:
            # The replica that owns it comes to the same. If that dies before, the one that adopts the call ends it.
            call.consequence = event, failure, outcome

    def _weigh(self, call: Call) -> None:
        """Count the memory that a call holds until it ends, once. A call that is sent at once is weighed after that,
        since its caller and its server wait for it."""
        if not call.weighed:
            call.weighed = True
            more = call.meta or call.answers
            self.scales.arguments(call.future, [call.arguments, call.meta, call.answers] if more else call.arguments)

    def _order(self, call: Call) -> None:
        if call.effect.reads or call.effect.writes:
            call.ordered = True
            on_failure = call.policy.on_failure if call.effect.declared else "continue"
            self._tree.submit(call.future.key, call.effect, on_failure=on_failure)
            if not call.future.scope.listed and self._order_s < math.inf:
                self._deadlines.add(self._clock() + self._order_s, call.future.key, self._leave_order)

    def _leave_order(self, key: str) -> None:
        """Remove an unfinished call from the order: it waits for no earlier call, and no later call waits for it.

        In a scope that is not listed, callers are strangers to each other: an endless call of one must not block the
        calls of the others.
        """
        call = self._calls.get(key)
        if call is None or not call.ordered:
            return
        held_back = not self._tree.ready(key)  # else it has started, or is queued for capacity
        call.ordered = False
        freed = [ready for each in self._tree.settle(key, outcome="void").ready if (ready := self._calls.get(each))]
        for each in [call, *freed] if held_back else freed:
            if each.future.state is State.WAITING and not each.dropped:
                self._consider(each)

    def meet(self, call: Call, dependency: str) -> None:
        """Start a call for which nothing else is missing."""
        call.unmet_dependencies.discard(dependency)
        if call.future.state is State.WAITING and not call.dropped:
            self._consider(call)

    def _consider(self, call: Call) -> None:
        """Start a call if nothing is missing, or queue it for capacity."""
        if (
            self.held
            or self._runner.over
            or call.elsewhere
            or call.unmet_dependencies
            or (call.ordered and not self._tree.ready(call.future.key))
        ):
            return
        if self._launch is not None:
            return self._launch(call)
        tool = self._tool_of(call)
        if self._capacity.enter(tool, call.party, call):
            self._start(call)
        else:
            call.future.queued_at = self._clock()
            if self._observers:
                self._observers.queued(call)
            self._admit(tool)

    def _admit(self, tool: Tool[Call], freed_by: Call | None = None) -> None:
        """Start calls that are queued at a tool's server while there is capacity.

        Args:
            freed_by: the call whose end has freed a place.
        """
        while not (self.held or self._runner.over) and (call := self._capacity.next(tool)) is not None:
            if freed_by is not None:
                call.future.waits = (*call.future.waits, wait_for_place(call, freed_by))
            self._start(call)

    def _tool_of(self, call: Call) -> Tool[Call]:
        """Return the tool at whose server a call needs a place."""
        limit = call.policy.max_concurrency if self._launch is None else None
        return self._capacity.tool(call.future.server, call.tool, limit, instance=call.session)

    def _start(self, call: Call) -> None:
        if call.ordered:
            self._tree.start(call.future.key)
        self.make(call)
        call.future.apply(Event.START)

    # --- calls of several processes ----------------------------------------------------------------------------------

    def begin(self, call: Call) -> None:
        """Record that a call has started, here or elsewhere."""
        future = call.future
        self._capacity.enter(self._tool_of(call), call.party, call)
        # The end of the one before it may not be known here yet, though it was where the call started.
        if call.ordered and self._tree.ready(future.key) and not self._tree.is_started(future.key):
            self._tree.start(future.key)
        if future.started_at is None:
            future.started_at = self._clock()
        if self._observers and call.elsewhere and not call.claimed:  # else `make` reports it
            self._observers.starting(call)
        future.apply(Event.START)

    def make(self, call: Call) -> None:
        """Make a call in this process, within its time limit."""
        call.future.started_at = now = self._clock()
        if call.policy.timeout_s is not None:
            call.deadline = now + call.policy.timeout_s
        if self._observers:
            self._observers.starting(call)
        self._runner.start(call)

    def end_elsewhere(self, call: Call, event: Event, failure: CallFailed | None, outcome: str) -> None:
        """End a call whose end is recorded already, and start calls that waited for it. Its future has the result."""
        if not call.future.done:
            call.ending = True
            self._leave((call, event, failure, outcome), None)
            self._runner.drop(call)

    def lose(self, call: Call, instead: Call) -> None:
        """Give a call up that is another replica's now, and keep its place in the order for `instead`. If it runs here,
        its server is told to stop; its end does not count."""
        call.ending = True
        if call.future.key in self._calls:
            self.replace(instead)
        self._runner.drop(call)

    def withdraw(self, call: Call, failure: CallFailed) -> None:
        """End a call that has not started: it was never sent."""
        self._withdraw((call, Event.FAIL, failure, "void"))

    def call_of(self, future: Future) -> Call | None:
        """Return the call of a future that has not ended."""
        return self._calls.get(future.key)

    def replace(self, call: Call) -> None:
        """Put a call in the place of one of which less is known, without a change to the order."""
        before = self._calls[call.future.key]
        call.number, call.ordered = before.number, before.ordered
        self._calls[call.future.key] = call

    def adopt(self, call: Call) -> None:
        """Schedule a call of another process, in its place in the order, like one that was submitted here."""
        before = self._calls[call.future.key]
        call.elsewhere = False
        self.replace(call)
        if before.consequence is not None:
            return self._end_without_start((call, *before.consequence))
        self._depend(call)

    def launch_again(self, call: Call) -> None:
        """Start a call again that had started elsewhere, where that start does not count any more; one that has not
        started only if nothing is missing."""
        if call.future.state is State.WAITING and not call.dropped:
            self._consider(call)
        elif not (call.ending or self.held) and self._launch is not None:
            self._launch(call)

    # --- settling ------------------------------------------------------------------------------------------------

    def _withdraw(self, end: End) -> None:
        """End a call that has not started, once its end is recorded."""
        self._record(end, None, partial(self._settle, end))

    def _finish(self, end: End, result: Result | None) -> None:
        """End a call that has started, once its end is recorded."""
        result = None if result is None else without_our_keys(result)
        self._record(end, result, partial(self._leave, end, result))

    def _record(self, end: End, result: Result | None, committed: Callable[[], None]) -> None:
        """Call `committed` once no crash takes back the end of a call; the first end of a call counts."""
        call, event, failure, _ = end
        if self._recorder is None:
            if failure is not None and any(each.private for each in call.sources.values()):
                failure.unwritten = True  # its text may quote their values
            return committed()
        if call.future.done or call.ending:
            return
        call.ending = True
        if call.future.state is State.WAITING:
            self._drop(call)
        state = TRANSITIONS[call.future.state, event]
        if call.future.answered and self._launch is None:
            # The answer itself brings the result, and a client of `sync` tools waits for every commit (measured: a
            # tenth of a call). A crash at this moment leaves an interrupted future that no client has to fetch.
            self._recorder.end(call, state, result, failure, _cause(failure), None)
            committed()
        else:
            self._recorder.end(call, state, result, failure, _cause(failure), committed)

    def _leave(self, end: End, result: Result | None) -> None:
        """End a call that has started, and start calls that waited for its capacity."""
        call = end[0]
        if result is not None:
            call.future.result = result
        has_place = call.future.state is not State.WAITING
        try:
            self._settle(end)
        finally:
            if has_place:
                # After settling: a call that this end made ready may have been submitted before those that are queued.
                tool = self._tool_of(call)
                self._capacity.leave(tool, call.party)
                self._admit(tool, call)

    def _settle(self, end: End) -> None:
        """End a call, and the calls that end with it: those that need it, and those that fail-stop cancels.

        A worklist, not recursion: a chain may be as long as there are futures.
        """
        work = deque([end])
        freed: dict[str, Call] = {}
        while work:
            call, event, failure, outcome = work.popleft()
            future = call.future
            if future.done:
                continue
            if future.state is State.WAITING:
                self._drop(call)
            ran = future.state is not State.WAITING and (call.sent or call.cancel_scope is not None)
            if failure is not None:
                # The failure is kept as long as the future; the frames that it passed, with arguments in them, are not.
                failure.__traceback__ = failure.__context__ = None
            future.failure = failure
            future.cause = _cause(failure)
            if self._recorder is not None and not call.ending:
                # It follows from an end that is recorded before it, so another run would come to the same.
                call.ending = True
                state = TRANSITIONS[future.state, event]
                self._recorder.end(call, state, future.result, failure, future.cause, None)
            self._calls.pop(future.key, None)
            self.store.mark_ended(future)
            future.apply(event)  # waiters are woken before the result is measured
            self.scales.result(future)
            if self._observers:
                self._observers.ended(call)
            if self._recorder is not None and future.read_at is not None:
                self._recorder.keep(future)
            if ran:  # not if it was cancelled before it was sent
                assert future.started_at is not None
                assert future.ended_at is not None
                self.durations.add(future.tool, future.ended_at - future.started_at)
            if call.ordered:
                if outcome == "failed" and not call.effect.declared:
                    outcome = "void"  # it stops no call behind it
                if outcome == "completed" and not self._tree.is_started(future.key):
                    outcome = "void"  # it started elsewhere, before its turn was known here
                settled = self._tree.settle(future.key, outcome=outcome)  # pyright: ignore[reportArgumentType]
                for key in settled.ready:
                    if (ready := self._calls.get(key)) is not None:
                        freed[key] = ready
                for key, before_key in settled.stopped:
                    if (behind := self._calls.get(key)) is not None:
                        behind.ordered = False  # the tree has settled it already
                        why = stopped(behind.future, self._future(before_key) or future, future)
                        self._follow(work, (behind, Event.CANCEL, why, "failed"))
            for dependent in self._dependents.pop(future.key, ()):
                dependent.unmet_dependencies.discard(future.key)
                if future.state is State.COMPLETED:
                    freed[dependent.future.key] = dependent
                else:
                    self._follow(work, (dependent, Event.FAIL, needed_failed(dependent, future), "failed"))
        for call in freed.values():
            if call.future.state is State.WAITING and not call.dropped:
                self._consider(call)

    def _follow(self, work: deque[End], end: End) -> None:
        """Have a call end as a consequence of the end of another one."""
        if self._launch is None:
            work.append(end)
        else:
            self._end_without_start(end)

    def _drop(self, call: Call) -> None:
        """Take a call that has not started out of the way of others."""
        if call.dropped:
            return
        call.dropped = True
        # It may stay in a queue for a while, where nothing of it is counted.
        call.arguments = call.meta = None
        call.answers = {}
        call.sources.clear()
        if not call.unmet_dependencies:  # else it is in no queue
            self._capacity.lose(self._tool_of(call), call.party)

    def _future(self, key: str) -> Future | None:
        return self.store.with_key(key)

    # --- queries of the engine --------------------------------------------------------------------------------------

    def running_of(self, server: str, tool: str) -> int:
        """Return how many calls of a tool are running; `tool` is its name downstream."""
        return self._capacity.running(server, tool)

    def waiting_for(self, future: Future, limit: int = NEAREST) -> tuple[tuple[str, ...], str]:
        """Return the IDs of the nearest calls that a waiting call waits for, and the reason in a few words."""
        call = self._calls.get(future.key)
        if call is None or future.state is not State.WAITING:
            return (), ""
        return blockers(call, self._calls, self._tree, limit)

    def running_on(self, server: str) -> list[Call]:
        """Return the calls that a downstream has, oldest first."""
        return [call for call in self._calls.values() if call.sent and call.future.server == server]

    @property
    def unfinished(self) -> Sequence[Call]:
        """Calls that have not ended, oldest first."""
        return tuple(self._calls.values())


def _cause(failure: CallFailed | None) -> str | None:
    """Return the ID of the future whose failure began the chain that a failure belongs to."""
    if isinstance(failure, DependencyFailed | PredecessorFailed | Stopped | RestoredFailure):
        return failure.cause
    return None
