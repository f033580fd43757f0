"""Interface of the engine, which executes calls and keeps their futures, for the packages above it.

Pure interface; `memory_engine` is the first implementation, and one contract suite runs over all of them
(`tests/engine/test_contract*.py`). A method that may need another process or a disk is a coroutine; its `_nowait` form,
if there is one, uses the memory of this process. Where futures are in a database, `look_up` brings those that a call
names into memory first. Notes and figures of this process (`mark_read`, `waiting_for`, `running`, …) have one form
only. Leaves the route of a call to `bridge`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, Final, Protocol

from asyncfc_mcp.config.model import ServerConfig
from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.futures import Future, Question, Result
from asyncfc_mcp.core.history import FuturePage, RecordedRun, Serves
from asyncfc_mcp.core.identity import CallerIdentity, Scope
from asyncfc_mcp.core.records import CallRecord
from asyncfc_mcp.core.session_archive import SessionArchive
from asyncfc_mcp.core.state_tree import NEAREST
from asyncfc_mcp.engine.call import Call, PendingCall, Submission
from asyncfc_mcp.engine.executor_api import Executor
from asyncfc_mcp.engine.hosting import Hosting
from asyncfc_mcp.engine.observer import Observer
from asyncfc_mcp.errors import CallFailed

Claim = Callable[[Iterable[Future]], list[tuple[Future, Question]]]
"""Claims the open questions of futures; returns those that must be put to the client in an answer."""

NEEDS_RESULT: Final = "needs the result"
"""Reason for which a call waits for those whose values its arguments take."""
FOLLOWS: Final = "_after"
"""The same for those that must only have completed."""


class Engine(Protocol):
    """Executes calls and keeps their futures.

    A future's record (`core.futures.Future`) is shared: it changes while its call progresses, and `watching` reports
    changes. IDs and names are looked up within a scope: a future of another scope does not exist for the caller.
    """

    def open(self, executor: Executor) -> AbstractAsyncContextManager[None]:
        """Run the engine until the block ends. Unfinished calls are then abandoned: cancellations are sent for those
        that the downstream has, no other call is sent, and their futures keep their state."""
        ...

    @property
    def sessions(self) -> SessionArchive | None:
        """Sessions of clients, which other replicas can continue; None without others."""
        ...

    @property
    def hosting(self) -> Hosting | None:
        """Servers that one replica at a time runs; None where this process runs every server."""
        ...

    def configure(self, settings: Settings, servers: Sequence[ServerConfig]) -> None:
        """Use other settings and limits from now on. Limits of tools apply to calls that are not queued yet; all other
        bounds to the next call, wait or question."""
        ...

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Report what happens to calls to an observer from now on; return what ends that."""
        ...

    async def problem(self) -> str | None:
        """Return why calls cannot be taken at the moment, in words that hold no secret; None if they can."""
        ...

    # --- submit --------------------------------------------------------------------------------------------------

    @property
    def submits_nowait(self) -> bool:
        """False where futures are in a database: every submission waits for its commit, a call starts some time after
        that, and `look_up` must precede the `_nowait` lookups."""
        ...

    async def submit(self, submission: Submission) -> Future:
        """Create a future for a call, and fix its place behind conflicting calls. The call starts now or later.

        Calls have their places in the order in which this was called, however long each waits. Meanwhile the name of a
        call counts as announced (see `announcing`). If this is cancelled, the call may have been submitted all the
        same; one that `ends_with_request` is then cancelled.

        Raises:
            TooManyFutures: a bound is reached; nothing was created.
            InvalidName: the name could not be referred to.
            NameInUse: the name belongs to a future of this caller that has not ended.
        """
        ...

    def submit_nowait(self, submission: Submission) -> Future | None:
        """Submit without waiting; None, without any effect, if `submit` would have to wait."""
        ...

    @property
    def has_pending(self) -> bool:
        """True while calls are received and not submitted: a later call may have to wait for its turn."""
        ...

    async def wait_for_turn(self, pending: PendingCall) -> None:
        """Return when a call may be submitted, which then has to happen without another wait: the names that it needs
        exist and are in memory or have been waited for, and earlier calls on the same state are submitted.

        Raises:
            Cycle: this call and others wait for each other.
        """
        ...

    def is_announced(self, scope: Scope, ref: str, namer: CallerIdentity | None) -> bool:
        """Return whether a call of this caller that is received and not submitted takes this name."""
        ...

    def announcing(self, scope: Scope, name: str | None, namer: CallerIdentity | None) -> AbstractContextManager[None]:
        """Have names wait for a call that is received and cannot be submitted yet, while the block lasts: calls
        that name it wait until it is submitted or refused."""
        ...

    # --- get and list --------------------------------------------------------------------------------------------

    async def look_up(self, scope: Scope, refs: Sequence[str], namer: CallerIdentity | None) -> None:
        """Bring the futures that these IDs and names may mean, of this caller and of others, into memory: then the
        `_nowait` forms find them, or know that and why there are none. Nothing to do for an engine that
        `submits_nowait`.

        Args:
            refs: as written: a leading `$` and spaces around are ignored, and so is the case of IDs.
        """
        ...

    async def get(
        self,
        scope: Scope,
        refs: Sequence[str],
        namer: CallerIdentity | None = None,
        *,
        timeout_s: float = math.inf,
    ) -> list[Future]:
        """Return the futures with these IDs or names. A name that does not exist yet gets the time that `_after` gives
        it (`forward_wait_ms`); one that a received call is going to take is waited for until that is submitted.

        Args:
            timeout_s: bound of the wait for a received call, in seconds.

        Raises:
            UnknownFuture: one of them is not visible in this scope.
            AmbiguousName: several callers gave one of the names.
        """
        ...

    def get_nowait(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future:
        """Return the future that `find_nowait` finds.

        Raises:
            UnknownFuture: there is none; with the nearest IDs and names that exist.
            AmbiguousName: see `find_nowait`.
        """
        ...

    async def find(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        """Return the future with this ID or name, as `find_nowait` does.

        Raises:
            AmbiguousName: several others have the name.
        """
        ...

    def find_nowait(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        """Return the future with this ID or name: the caller's own, else the only one to which another caller gave the
        name, since clients reconnect; None if there is none.

        Raises:
            AmbiguousName: several others have the name.
        """
        ...

    def find_own_nowait(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        """Return the future with this ID, or to which this caller gave this name; None if there is none.

        Raises:
            AmbiguousName: callers that cannot be told apart gave it to several.
        """
        ...

    def find_referred_nowait(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        """Return the future that a reference in arguments means; None if there is none.

        Raises:
            AmbiguousName: several have the name.
            ForeignName: only another active session has it.
        """
        ...

    async def fate(self, scope: Scope, ref: str) -> str | None:
        """Return why an ID that was given in this scope has no future; see `fate_nowait`."""
        ...

    def fate_nowait(self, scope: Scope, ref: str) -> str | None:
        """Return why an ID that was given in this scope has no future; None if there is no such reason. For IDs
        that `find_nowait` does not find."""
        ...

    def check_name_nowait(self, scope: Scope, name: object, namer: CallerIdentity | None = None) -> None:
        """Refuse a name that a new call cannot take.

        Raises:
            InvalidName: the name could not be referred to.
            NameInUse: it belongs to a future of this caller that has not ended.
        """
        ...

    async def list_futures(self, scope: Scope) -> Iterator[Future]:
        """Return the futures of a scope, newest first; none where the scope is not listed."""
        ...

    def in_memory(self, scope: Scope) -> list[Future]:
        """Return the futures of a scope that are in the memory of this process, newest first: all unfinished ones, and
        of those that have ended as many as memory keeps; none where the scope is not listed."""
        ...

    async def history(self, scope: Scope, query: CallQuery, serves: Serves) -> FuturePage:
        """Return futures of a scope that have ended and that a query means, of what outlives memory; a search takes
        a few seconds at most and does not keep the event loop from other work. Nothing where nothing outlives memory,
        and where the scope is not listed.

        Args:
            serves: only futures of these servers.
        """
        ...

    async def recorded_call(self, future: Future) -> CallRecord | None:
        """Return a call as it was made, as far as that is recorded and not in memory only."""
        ...

    async def recorded_runs(self, scope: Scope, since: float) -> list[RecordedRun] | None:
        """Return the runs of a scope's calls that have ended since a time of the wall clock; None where nothing
        outlives memory."""
        ...

    def recorded_in(self) -> tuple[Path, int] | None:
        """Return the file in which futures outlive memory, and its bytes; None without one."""
        ...

    async def unread(self, scope: Scope, conversation: str) -> list[Future]:
        """Return the futures of a conversation that earlier runs of the program left, or that any replica has: unread
        and unfinished ones, oldest first. Only for conversations with a key, or of a session that replicas share."""
        ...

    def unread_nowait(self, scope: Scope, conversation: str) -> list[Future] | None:
        """Do as `unread` does; None if that would have to wait. Otherwise it is enough to do so once in a run."""
        ...

    def mark_read(self, future: Future) -> None:
        """Record that a result was delivered, or will be as soon as it exists. The first call that is submitted
        `keep_s` later drops it from memory, and one that needs its memory drops it earlier."""
        ...

    async def load(self, future: Future) -> None:
        """Read a result into memory that is not there. Every result can be used without that; the event loop then
        stands still while a large one is read."""
        ...

    def result_path(self, future: Future) -> Path | None:
        """Return the file that has the result of a future as JSON; None for those without a file of their own."""
        ...

    # --- wait and cancel -----------------------------------------------------------------------------------------

    async def wait(self, futures: Iterable[Future], *, any_: bool = False, timeout_s: float | None = None) -> bool:
        """Wait until all (or any) of the futures are terminal, and return whether they are. Cancelling the wait cancels
        no future.

        Args:
            timeout_s: seconds after which to give up; None waits without a limit.
        """
        ...

    async def cancel(self, future: Future) -> None:
        """Have a call cancelled; return when the cancellation is on its way."""
        ...

    def cancel_nowait(self, future: Future) -> None:
        """Cancel a call: as soon as that is recorded if it has not started, else after its cancellation was sent to the
        downstream. A call that has ended is unchanged."""
        ...

    def waiting_for(self, future: Future, limit: int = NEAREST) -> tuple[tuple[str, ...], str]:
        """Return the IDs of the unfinished calls that a waiting call waits for, without those that others of them wait
        for, and the reason in a few words; nothing for a call that is about to start. The cost is bounded by `limit`.

        Args:
            limit: bound on the IDs; if there are more, one more is returned.
        """
        ...

    # --- answer --------------------------------------------------------------------------------------------------

    def claiming(
        self,
        put: Callable[[Question], bool] | None,
        capabilities: Mapping[str, Any],
        caller: CallerIdentity | None = None,
    ) -> AbstractContextManager[Claim]:
        """Claim questions for a client while one of its requests waits: the open ones that no other client has claimed,
        of calls that this client may have made, and that it can answer.

        Args:
            put: puts a question to the client at once, and returns False if that is impossible: then the question is
                free for the next client. A question that was put stays claimed while the block lasts, and a while
                after it. None: the claimed questions are returned, to travel in an answer, and stay claimed a while.
            capabilities: requests that the client can answer, as it declared them.
            caller: the client within its scope.
        """
        ...

    async def question(self, question_id: str) -> Question | None:
        """Return the open question with this ID. It is unique in the engine, over all its replicas, not in a scope: a
        client gets it sealed, with its scope, and cannot make one up."""
        ...

    async def answer(
        self, question: Question, answer: Result | None, refusal: tuple[int, str, Any] | None = None
    ) -> None:
        """Answer a question, or refuse it with a JSON-RPC error (code, message, data). The first answer counts."""
        ...

    def answer_nowait(
        self, question: Question, answer: Result | None, refusal: tuple[int, str, Any] | None = None
    ) -> None:
        """Answer a question, or refuse it with a JSON-RPC error (code, message, data). The first answer counts."""
        ...

    async def release(self, question: Question) -> None:
        """Release a claimed question that its client cannot answer, so that another client may claim it."""
        ...

    async def question_over(self, question: Question) -> None:
        """Return when the answer to a question is no longer needed."""
        ...

    # --- for the executor ----------------------------------------------------------------------------------------

    async def ask(self, calls: Sequence[Call], method: str, params: Mapping[str, Any]) -> Result:
        """Put a server's question on the futures of the calls that it may belong to, and return the client's answer.

        Raises:
            RpcError: the client refused, or cannot be asked; or there was no answer, and the call fails.
        """
        ...

    async def calls_asking(self, server: str, credentials: str | None = None) -> list[Call]:
        """Return the running calls that a question of a server may belong to, oldest first: all its calls, once all are
        of one client.

        Args:
            credentials: see `Call.credentials`; only calls that are made with these.

        Raises:
            RpcError: the client that the question belongs to cannot be determined.
        """
        ...

    async def answer_round(self, call: Call, result: Result) -> dict[str, Any]:
        """Put the questions of an `InputRequiredResult` to a client; return the parameters with which the call is sent
        again (2026-07-28).

        Raises:
            CallFailed: a question was refused, or has no answer.
        """
        ...

    # --- figures and the end -------------------------------------------------------------------------------------

    def running(self, server: str, tool: str) -> int:
        """Return how many calls of a tool are running; `tool` is its name downstream."""
        ...

    def median_s(self, tool: str) -> float | None:
        """Return the median duration of a tool's last calls in seconds; None before the first."""
        ...

    @property
    def unfinished(self) -> Sequence[Call]:
        """Calls that have not ended, oldest first."""
        ...

    def unfinished_call(self, future: Future) -> Call | None:
        """Return the call of a future among `unfinished`; None if it is none of those."""
        ...

    def abort_nowait(self, call: Call, verdict: CallFailed) -> None:
        """End a call with a failure of the bridge; a cancellation is sent if the downstream has the call."""
        ...

    def is_resumed_nowait(self, call: Call) -> bool:
        """Return true for a call that the next run of the program resumes if this one ends now: one that waits, or
        whose questions can be asked again."""
        ...

    def hold_nowait(self) -> None:
        """Start no further calls: those that wait keep their state, for the next run of the program."""
        ...

    def stop_asking(self) -> None:
        """Refuse all open and later questions, and fail their calls, except those that can be asked in the next run: no
        client is left to answer them."""
        ...
