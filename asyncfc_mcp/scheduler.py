"""Runs calls: each as soon as its dependencies, its turn and capacity allow, and every one to an end.

Owns starting, cancelling, timing out and settling, and what an end means for the calls behind it. Refuses to know
servers and wires: `execute` is injected. Deciding is synchronous, so what arrives first is decided first; only
the calls themselves take time.
"""

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from statistics import median
from typing import Any, Final, Protocol, cast

import anyio
import anyio.abc
import anyio.lowlevel

from asyncfc_mcp import references
from asyncfc_mcp.config import Policy
from asyncfc_mcp.errors import (
    ArgumentsRejected,
    CallFailed,
    CallTimedOut,
    Cancelled,
    DependencyFailed,
    ServerDied,
    ServerUnavailable,
    Stopped,
)
from asyncfc_mcp.futures import Event, Future, FutureStore, Result, Scope, State
from asyncfc_mcp.ordering import NOTHING, Effect, StateTree
from asyncfc_mcp.schemas import Validator
from asyncfc_mcp.wire import approximate_size

logger = logging.getLogger(__name__)

RETRY_BACKOFF_S: Final = 0.2
"""Pause before the first retry; it doubles with each."""
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
    client: Hashable = None
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
    sent: bool = False
    """Whether the downstream may have seen it."""
    ordered: bool = False
    cancel_scope: anyio.CancelScope | None = None
    abandoned: bool = False
    """Settled before it started; if it stands in a line for capacity, whoever comes to it there drops it."""

    def on_sent(self) -> None:
        """The downstream may have seen it from now on."""
        self.sent = True

    async def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
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
        self, call: Call, arguments: dict[str, Any] | None, on_progress: "OnProgress", on_sent: Callable[[], None]
    ) -> Result: ...


class OnProgress(Protocol):
    async def __call__(self, progress: float, total: float | None, message: str | None) -> None: ...


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
    """Engine of one process: futures in memory, calls in tasks.

    Args:
        store: where futures are.
        execute: sends a call.
        clock: monotonic, in seconds.
        server_limits: `max_concurrency` of each server; absent or None means no limit.
    """

    def __init__(
        self,
        store: FutureStore,
        execute: Execute,
        *,
        clock: Callable[[], float],
        server_limits: Mapping[str, int | None] | None = None,
    ) -> None:
        self.store = store
        self._execute = execute
        self._clock = clock
        self._tree = StateTree()
        self._calls: dict[str, Call] = {}
        """Unfinished calls by key of their future."""
        self._dependents: dict[str, list[Call]] = {}
        self._submitted = 0
        self._servers = {name: _Server(limit) for name, limit in (server_limits or {}).items()}
        self._tools: dict[tuple[str, str], _Lane] = {}
        self._durations: dict[str, deque[float]] = {}
        self._flights: dict[str, Call] = {}
        self._tg: anyio.abc.TaskGroup | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all calls until cancelled."""
        async with anyio.create_task_group() as self._tg:
            task_status.started()
            await anyio.sleep_forever()

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
            self._tree.submit(call.future.key, call.effect, on_failure=call.policy.on_failure)

    def _consider(self, call: Call) -> None:
        """Start the call if nothing is missing, or let it stand in line for capacity."""
        if call.needs or (call.ordered and not self._tree.ready(call.future.key)):
            return
        server, tool = self._lanes(call)
        if server.full or tool.full or server.lanes:
            heappush(tool.line, (call.number, call))
            server.lanes[tool] = None
            self._admit(server)
        else:
            self._start(call)

    def _admit(self, server: _Server) -> None:
        """Start calls that stand in line while there is room: in order of submission, but for their tools' limits.

        One line for each tool, and none for the server: a call that moved from line to line would take a place of the
        first with it when it leaves the second, and who stands behind it in the first would never be called.
        """
        while not server.full:
            first: _Lane | None = None
            for lane in tuple(server.lanes):
                while lane.line and lane.line[0][1].abandoned:
                    heappop(lane.line)
                if not lane.line:
                    del server.lanes[lane]
                elif not lane.full and (first is None or lane.line[0] < first.line[0]):
                    first = lane
            if first is None:
                return
            self._start(heappop(first.line)[1])

    def _lanes(self, call: Call) -> tuple[_Server, _Lane]:
        server = self._servers.setdefault(call.future.server, _Server(None))
        tool = self._tools.setdefault((call.future.server, call.tool), _Lane(call.policy.max_concurrency))
        return server, tool

    def _start(self, call: Call) -> None:
        assert self._tg is not None, "submit() before run()"
        server, tool = self._lanes(call)
        server.running += 1
        tool.running += 1
        if call.ordered:
            self._tree.start(call.future.key)
        call.future.started_at = self._clock()
        call.cancel_scope = anyio.CancelScope()
        call.future.apply(Event.START)
        self._tg.start_soon(self._run, call)

    # --- running -------------------------------------------------------------------------------------------------

    async def _run(self, call: Call) -> None:
        future = call.future
        assert call.cancel_scope is not None
        result: Result | None = None
        failure: CallFailed | None = None
        with call.cancel_scope as scope:
            try:
                result = await self._attempt(call)
            except CallFailed as exc:
                failure = exc
            except Exception as exc:  # the last line: whatever escapes must end this call and no other
                logger.exception("call %s of %s failed unexpectedly", future.id, future.tool)
                failure = CallFailed(f"internal error in the bridge: {type(exc).__name__}: {exc}")
        if result is not None:
            failed = result.get("isError") is True
            future.result = result
            event, outcome = (Event.FAIL, "failed") if failed else (Event.COMPLETE, "completed")
            self._settle_all([(call, event, None, outcome)])
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

    async def _attempt(self, call: Call) -> Result:
        """A call's arguments resolved, its time limit set, and the call made.

        Raises:
            CallFailed: it has no result.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()  # cancelled before its first step: it was never sent
        arguments = self._resolve(call)
        if call.policy.timeout_s is not None:
            # The limit is the call's own scope's, whose end tells the downstream to cancel: a running call is kept
            # small, since there may be thousands.
            assert call.cancel_scope is not None
            call.cancel_scope.deadline = anyio.current_time() + call.policy.timeout_s
            call.verdict = CallTimedOut(call.future.tool, call.policy.timeout_s)
        if call.policy.single_flight and call.read_only and not (call.asks_through or call.answers):
            return await self._shared(call, arguments)
        return await self._tried(call, arguments)

    async def _tried(self, call: Call, arguments: dict[str, Any] | None) -> Result:
        """One call and its retries.

        Raises:
            CallFailed: what `execute` raises; transport failures of repeatable calls only after the last retry.
        """
        retries = call.policy.retries if call.repeatable else 0
        attempt = 0
        while True:
            try:
                return await self._execute(call, arguments, call.on_progress, call.on_sent)
            except (ServerDied, ServerUnavailable):
                if attempt == retries:
                    raise
            await anyio.sleep(RETRY_BACKOFF_S * 2**attempt)
            attempt += 1

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
        """The arguments with the values of futures in place of references, checked against the tool's own schema.

        A call without references is sent as it came: judging it is the server's part.
        """
        if not call.bindings:
            return call.arguments

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
        if call.validator is not None and (error := call.validator.first_error(arguments)) is not None:
            raise ArgumentsRejected(call.future.tool, *error)
        return arguments

    def _release(self, call: Call) -> None:
        """Give capacity back and pass it on."""
        server, tool = self._lanes(call)
        server.running -= 1
        tool.running -= 1
        self._admit(server)

    # --- settling ------------------------------------------------------------------------------------------------

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
                call.abandoned = True
            else:
                self._remember_duration(future)
            future.failure = failure
            if isinstance(failure, DependencyFailed | Stopped):
                future.cause = failure.cause
            self._calls.pop(future.key, None)
            self.store.ended(future, approximate_size(future.result) if future.result is not None else 0)
            future.apply(event)
            if call.ordered:
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
            if call.future.state is State.WAITING and not call.abandoned:
                self._consider(call)

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
        durations.append(self._clock() - future.started_at)

    # --- asked from above ----------------------------------------------------------------------------------------

    def running_of(self, future: Future) -> int:
        """How many calls of this future's tool are running."""
        call = self._calls.get(future.key)
        return self._lanes(call)[1].running if call is not None else 0

    def median_s(self, tool: str) -> float | None:
        """The median of a tool's last calls in seconds; None before the first."""
        durations = self._durations.get(tool)
        return median(durations) if durations else None

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
        if call.cancel_scope is not None:
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
            # It never happened, so writes behind it go on; what needs its value cannot.
            self._settle_all([(call, Event.CANCEL, Cancelled(sent=False), "void")])

    @property
    def unfinished(self) -> Sequence[Call]:
        return tuple(self._calls.values())


def _visible(other: Future, future: Future) -> bool:
    """Whether the client of `future` may learn of `other`, which it did not name itself."""
    return other is future or (other.scope == future.scope and other.scope.listed)


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
    content = (future.result or {}).get("content")
    blocks = cast("list[Any]", content) if isinstance(content, list) else []
    text = " ".join(str(cast("dict[str, Any]", block).get("text", "")) for block in blocks if isinstance(block, dict))
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
