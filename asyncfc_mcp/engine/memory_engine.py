"""The engine of one process: futures in memory and in a journal, calls in tasks of this process.

Owns how store, scheduler, questions, forward references and the journal's parts work together. Without a journal
nothing outlives the process.
"""

import math
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from asyncfc_mcp.config.model import ServerConfig
from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.core.archive import Archive as FuturesArchive
from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.futures import Future, Question, Result, State
from asyncfc_mcp.core.history import FuturePage, RecordedRun, Serves
from asyncfc_mcp.core.identity import CallerIdentity, Scope
from asyncfc_mcp.core.records import CallRecord
from asyncfc_mcp.core.session_archive import SessionArchive
from asyncfc_mcp.core.state_tree import NEAREST
from asyncfc_mcp.core.store import FutureStore, InMemoryNumbers, Numbers
from asyncfc_mcp.engine.api import Claim
from asyncfc_mcp.engine.archive import Archive
from asyncfc_mcp.engine.call import Call, PendingCall, Submission, call_of
from asyncfc_mcp.engine.clock import loop_clock
from asyncfc_mcp.engine.executor_api import Executor
from asyncfc_mcp.engine.forward_references import ForwardReferences
from asyncfc_mcp.engine.future_ids import FutureIds
from asyncfc_mcp.engine.hosting import Hosting
from asyncfc_mcp.engine.journal.api import Journal
from asyncfc_mcp.engine.observer import Observer, Observers
from asyncfc_mcp.engine.question_routing import QuestionRouting
from asyncfc_mcp.engine.questions import Questions
from asyncfc_mcp.engine.recorder import Recorder
from asyncfc_mcp.engine.recovery import Recovery
from asyncfc_mcp.engine.scheduler import Scheduler
from asyncfc_mcp.engine.wait import wait_for
from asyncfc_mcp.errors import CallFailed
from asyncfc_mcp.turns import in_slices
from asyncfc_mcp.values.large import LARGE_BYTES


class MemoryEngine:
    """Implements `api.Engine`.

    Args:
        settings: bounds and times.
        server_limits: `max_concurrency` of each server; None means no limit.
        ids: numbers of future IDs; closed with the engine. None counts from 1 in this run only.
        several_servers: questions must say which server asks.
        journal: record of all futures, with which they outlive the process; it needs `ids`. None keeps none.
    """

    _scheduler: Scheduler
    _questions: Questions
    _question_routing: QuestionRouting

    def __init__(
        self,
        settings: Settings,
        server_limits: Mapping[str, int | None],
        *,
        ids: FutureIds | None = None,
        several_servers: bool = False,
        journal: Journal | None = None,
    ) -> None:
        self._settings = settings
        self._ids = ids
        self._server_limits = server_limits
        self._several_servers = several_servers
        self._clock = loop_clock()
        self._observers = Observers()
        self._journal = journal
        self._recorder: Recorder | None = None
        self._archive = None if journal is None else Archive(journal, self._offset_s, self._loaded)
        if journal is not None and ids is not None:
            ids.on_reserved = journal.reserved
        self._keep_in(InMemoryNumbers if ids is None else ids.count, self._archive)

    def _keep_in(self, numbers: Callable[[str], Numbers], archive: FuturesArchive | None) -> None:
        settings = self._settings
        self._store = FutureStore(
            self._clock,
            max_pending=settings.max_pending,
            max_bytes=settings.max_result_bytes_total,
            keep_s=settings.keep_s,
            unread_keep_s=settings.unread_keep_s,
            caller_share=settings.max_caller_share,
            numbers=numbers,
            archive=archive,
        )
        self._forward_references = ForwardReferences(
            self._store,
            settings.gap_wait_s,
            settings.name_wait_s,
            look_up=None if self.submits_nowait else self.look_up,
        )

    @asynccontextmanager
    async def open(self, executor: Executor) -> AsyncGenerator[None]:
        settings, journal, archive = self._settings, self._journal, self._archive
        if journal is not None:
            self._recorder = Recorder(journal, self._clock, secrets.token_hex(4), self._unload)
        self._scheduler = Scheduler(
            self._store,
            executor.execute,
            clock=self._clock,
            server_limits=self._server_limits,
            execute_nowait=executor.execute_nowait,
            coming_up=executor.coming_up,
            check=executor.check,
            path_missing=executor.path_missing,
            order_s=settings.public_order_s,
            caller_share=settings.max_caller_share,
            recorder=self._recorder,
            claims=self._recorder,
            resume=executor.resume,
            load=None if archive is None else self.load,
            observers=self._observers,
        )
        self._question_routing = QuestionRouting(self._scheduler)
        self._questions = Questions(
            self._scheduler,
            self._clock,
            settings.question_timeout_s,
            several=self._several_servers,
            recorder=self._recorder,
        )
        try:
            async with anyio.create_task_group() as tg:
                await tg.start(self._scheduler.run)
                if journal is not None and archive is not None:
                    await tg.start(journal.run)
                    recovery = Recovery(journal, archive, self._store, self._scheduler, executor)
                    if calls := await recovery.adopt():
                        tg.start_soon(recovery.resume, calls)
                yield
                tg.cancel_scope.cancel()
        finally:
            if self._ids is not None:
                self._ids.close()

    @property
    def sessions(self) -> SessionArchive | None:
        return None

    @property
    def hosting(self) -> Hosting | None:
        return None

    def configure(self, settings: Settings, servers: Sequence[ServerConfig]) -> None:
        self._settings = settings
        self._server_limits = {server.name: server.limit for server in servers}
        self._several_servers = len(servers) > 1
        self._store.configure(
            max_pending=settings.max_pending,
            max_bytes=settings.max_result_bytes_total,
            keep_s=settings.keep_s,
            unread_keep_s=settings.unread_keep_s,
        )
        self._forward_references.configure(settings.gap_wait_s, settings.name_wait_s)
        self._questions.configure(settings.question_timeout_s, several=self._several_servers)
        by_name = {server.name: server for server in servers}

        def limit_of(server: str, tool: str) -> int | None:
            known = by_name.get(server)
            return None if known is None else known.policy(tool).max_concurrency

        self._scheduler.configure(settings.public_order_s, self._server_limits, limit_of)

    def observe(self, observer: Observer) -> Callable[[], None]:
        return self._observers.add(observer)

    async def problem(self) -> str | None:
        return None  # without its journal it goes on in memory

    # --- submit --------------------------------------------------------------------------------------------------

    @property
    def submits_nowait(self) -> bool:
        return True

    async def submit(self, submission: Submission) -> Future:
        return self._submit(submission)

    def submit_nowait(self, submission: Submission) -> Future | None:
        return self._submit(submission)

    def _submit(self, submission: Submission) -> Future:
        context, bindings = submission.context, submission.bindings
        after = submission.after
        # Read before the future is created, which may drop one that has completed.
        follows = [key for key in dict.fromkeys(after.values()) if not self._has_completed(key)] if after else ()
        scope = context.scope
        future = self._store.create(
            scope,
            tool=submission.name,
            server=submission.server,
            name=context.name,
            conversation=context.conversation,
            caller=context.client,
            namer=context.namer,
            keep=[*bindings.values(), *follows] if follows else bindings.values(),
            ttl_s=context.ttl_s,
        )
        call = call_of(submission, future, follows)
        if self._recorder is None:
            self._scheduler.submit(call)
        else:
            self._recorder.submitting(call)
            self._scheduler.submit(call)
            self._recorder.submitted()
        if context.name is not None:
            self._forward_references.notify_all()
        return future

    def _has_completed(self, key: str) -> bool:
        future = self._store.with_key(key)
        return future is not None and future.state is State.COMPLETED

    @property
    def has_pending(self) -> bool:
        return bool(self._forward_references)

    async def wait_for_turn(self, pending: PendingCall) -> None:
        await self._forward_references.wait_for_turn(pending)

    def is_announced(self, scope: Scope, ref: str, namer: CallerIdentity | None) -> bool:
        return self._forward_references.is_announced(scope, ref, namer)

    def announcing(self, scope: Scope, name: str | None, namer: CallerIdentity | None) -> AbstractContextManager[None]:
        return self._forward_references.announcing(scope, name, namer)

    # --- get and list --------------------------------------------------------------------------------------------

    async def look_up(self, scope: Scope, refs: Sequence[str], namer: CallerIdentity | None) -> None:
        pass  # memory and journal are read by the lookups themselves

    async def get(
        self,
        scope: Scope,
        refs: Sequence[str],
        namer: CallerIdentity | None = None,
        *,
        timeout_s: float = math.inf,
    ) -> list[Future]:
        futures = await self._forward_references.futures(scope, refs, namer, timeout_s)
        for future in futures:
            await self.load(future)
        return futures

    def get_nowait(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future:
        return self._store.get(scope, ref, namer)

    async def find(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        future = self.find_nowait(scope, ref, namer)
        if future is not None:
            await self.load(future)
        return future

    def find_nowait(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        return self._store.find(scope, ref, namer)

    def find_own_nowait(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        return self._store.find_own(scope, ref, namer)

    def find_referred_nowait(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        return self._store.find_referenced(scope, ref, namer)

    async def fate(self, scope: Scope, ref: str) -> str | None:
        return self.fate_nowait(scope, ref)

    def fate_nowait(self, scope: Scope, ref: str) -> str | None:
        return self._store.fate(scope, ref)

    def check_name_nowait(self, scope: Scope, name: object, namer: CallerIdentity | None = None) -> None:
        self._store.check_name(scope, name, namer)

    async def list_futures(self, scope: Scope) -> Iterator[Future]:
        return self._store.newest(scope)

    def in_memory(self, scope: Scope) -> list[Future]:
        return self._store.in_memory(scope)

    async def history(self, scope: Scope, query: CallQuery, serves: Serves) -> FuturePage:
        if self._journal is None or self._archive is None or not scope.listed:
            return FuturePage([], None)
        page = await self._journal.page(scope.key, query, serves)
        return FuturePage([self._archive.future(record) for record in page.records], page.until)

    async def recorded_call(self, future: Future) -> CallRecord | None:
        return None if self._journal is None else await self._journal.call(future.scope.key, future.id)

    async def recorded_runs(self, scope: Scope, since: float) -> list[RecordedRun] | None:
        return None if self._journal is None else await self._journal.runs(scope.key, since)

    def recorded_in(self) -> tuple[Path, int] | None:
        return None if self._journal is None else self._journal.place()

    async def unread(self, scope: Scope, conversation: str) -> list[Future]:
        return self.unread_nowait(scope, conversation) or []

    def unread_nowait(self, scope: Scope, conversation: str) -> list[Future] | None:
        if self._archive is None:
            return []
        unfinished = [call.future for call in self._scheduler.unfinished if call.future.scope == scope]
        resumed = [future for future in unfinished if future.conversation == conversation]
        return [*self._archive.unread(scope, conversation), *resumed]

    def mark_read(self, future: Future) -> None:
        self._store.mark_read(future)
        if self._recorder is not None:
            self._recorder.read(future)
        if self._observers and future.done:
            self._observers.read(future)

    async def load(self, future: Future) -> None:
        if not future.loaded and future.size > LARGE_BYTES and self._archive is not None:
            result = await in_slices(self._archive.loading(future))
            if not future.loaded:
                future.result, future.loaded = result, True

    def result_path(self, future: Future) -> Path | None:
        return None if self._journal is None else self._journal.result_path(future.key)

    def _offset_s(self) -> float:
        return 0.0 if self._recorder is None else self._recorder.offset_s

    def _loaded(self, future: Future) -> None:
        if self._recorder is not None:
            self._recorder.loaded(future)

    def _unload(self, future: Future) -> None:
        assert self._archive is not None
        self._store.unload(future, self._archive.load)

    # --- wait and cancel -----------------------------------------------------------------------------------------

    async def wait(self, futures: Iterable[Future], *, any_: bool = False, timeout_s: float | None = None) -> bool:
        return await wait_for(futures, any_=any_, timeout_s=timeout_s)

    async def cancel(self, future: Future) -> None:
        self.cancel_nowait(future)

    def cancel_nowait(self, future: Future) -> None:
        self._scheduler.cancel(future)

    def waiting_for(self, future: Future, limit: int = NEAREST) -> tuple[tuple[str, ...], str]:
        return self._scheduler.waiting_for(future, limit)

    # --- answer --------------------------------------------------------------------------------------------------

    def claiming(
        self,
        put: Callable[[Question], bool] | None,
        capabilities: Mapping[str, Any],
        caller: CallerIdentity | None = None,
    ) -> AbstractContextManager[Claim]:
        return self._questions.claiming(put, capabilities, caller)

    async def question(self, question_id: str) -> Question | None:
        return self._questions.find(question_id)

    async def answer(
        self, question: Question, answer: Result | None, refusal: tuple[int, str, Any] | None = None
    ) -> None:
        self.answer_nowait(question, answer, refusal)

    def answer_nowait(
        self, question: Question, answer: Result | None, refusal: tuple[int, str, Any] | None = None
    ) -> None:
        question.settle(answer, refusal)

    async def release(self, question: Question) -> None:
        self._questions.release(question)

    async def question_over(self, question: Question) -> None:
        await self._questions.over(question)

    # --- for the executor ----------------------------------------------------------------------------------------

    async def ask(self, calls: Sequence[Call], method: str, params: Mapping[str, Any]) -> Result:
        return await self._questions.ask(calls, method, params)

    async def calls_asking(self, server: str, credentials: str | None = None) -> list[Call]:
        return await self._question_routing.calls_asking(server, credentials)

    async def answer_round(self, call: Call, result: Result) -> dict[str, Any]:
        return await self._questions.answer_round(call, result)

    # --- figures and the end -------------------------------------------------------------------------------------

    def running(self, server: str, tool: str) -> int:
        return self._scheduler.running_of(server, tool)

    def median_s(self, tool: str) -> float | None:
        return self._scheduler.durations.median_s(tool)

    @property
    def unfinished(self) -> Sequence[Call]:
        return self._scheduler.unfinished

    def unfinished_call(self, future: Future) -> Call | None:
        return self._scheduler.call_of(future)

    def abort_nowait(self, call: Call, verdict: CallFailed) -> None:
        self._scheduler.abort(call, verdict)

    def is_resumed_nowait(self, call: Call) -> bool:
        return self._recorder is not None and self._recorder.resumes(call)

    def hold_nowait(self) -> None:
        self._scheduler.held = True

    def stop_asking(self) -> None:
        self._questions.close()
