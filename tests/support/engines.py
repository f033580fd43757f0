"""The engines that the contract suite runs over, and a bench on which one of them is used through `api.Engine` only.

A further engine is one line in `ENGINES`. Owns one assertion for all tests: futures move along their table.
"""

import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from asyncfc_mcp.config.settings import Policy, Settings
from asyncfc_mcp.core.futures import TRANSITIONS, Future, Result, State
from asyncfc_mcp.core.identity import LOCAL, CallerIdentity, Scope
from asyncfc_mcp.engine.api import Engine
from asyncfc_mcp.engine.call import Call, CallContext, PendingCall, Submission
from asyncfc_mcp.engine.future_ids import FutureIds
from asyncfc_mcp.engine.journal.sqlite_journal import SqliteJournal
from asyncfc_mcp.engine.memory_engine import MemoryEngine
from tests.support.parked_calls import OK, Parked, ParkedCalls, effect, label
from tests.support.virtual_time import settle

Limits = Mapping[str, int | None]
"""`max_concurrency` of each server."""
MakeEngine = Callable[[Settings, Limits], AbstractAsyncContextManager[Engine]]
"""Makes an engine that is not open yet, and whatever it needs."""


@asynccontextmanager
async def memory(settings: Settings, limits: Limits) -> AsyncGenerator[Engine]:
    yield MemoryEngine(settings, limits)


@asynccontextmanager
async def embedded(settings: Settings, limits: Limits) -> AsyncGenerator[Engine]:
    """The engine with a journal, which is written in the event loop, so that it follows a virtual clock."""
    with TemporaryDirectory(prefix="asyncfc-journal-") as folder:
        path = Path(folder)
        journal = SqliteJournal(path / "journal.sqlite3", ttl_s=86_400, max_bytes=1 << 30, threaded=False)
        yield MemoryEngine(settings, limits, ids=FutureIds(path / "ids", "tests"), journal=journal)


ENGINES: Mapping[str, MakeEngine] = {"embedded": embedded, "memory": memory}
STEPS = {(state, after) for (state, _), after in TRANSITIONS.items()}
"""State and next state, as the table has them."""


@dataclass
class Bench:
    """An open engine, an executor that parks its calls, and means to submit and end them."""

    engine: Engine
    calls: ParkedCalls
    settle: Callable[[], Awaitable[None]] = settle
    """Lets everything happen that can happen now."""
    outlives_memory: bool = False
    """Futures that memory has dropped are found elsewhere."""
    seen: list[tuple[Future, list[State]]] = field(default_factory=list[tuple[Future, list[State]]])
    """Futures, and the states in which they were seen."""

    def submission(
        self,
        reads: str = "",
        writes: str = "",
        *,
        needs: Sequence[Future] = (),
        after: Sequence[Future] = (),
        predecessors: Sequence[Future] = (),
        arguments: dict[str, Any] | None = None,
        tool: str = "tool",
        server: str = "s",
        policy: Policy | None = None,
        source: str = "config",
        scope: Scope = LOCAL,
        name: str | None = None,
        client: CallerIdentity | None = None,
        namer: CallerIdentity | None = None,
        capabilities: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Submission:
        """Return a submission.

        Args:
            needs: futures whose values the arguments take.
            after: futures whose values are taken, though no argument names them.
            predecessors: futures that must have completed first (`_after`).
            tool: name downstream; that for clients is the same in capitals.
            context: further fields of the call's context.
        """
        if arguments is None:
            arguments = {needed.id: f"${needed.id}" for needed in needs}
        made = CallContext(scope, name=name, client=client, namer=namer, **(context or {}))
        if capabilities is not None:
            made.capabilities = capabilities
        values = {needed.id: needed.key for needed in needs}
        return Submission(
            made,
            server,
            tool.upper(),
            tool,
            arguments,
            policy or Policy(),
            replace(effect(reads, writes), source=source),
            bindings=values,
            value_dependencies={**values, **{each.id: each.key for each in after}},
            after={each.id: each.key for each in predecessors},
            **more,
        )

    def _watch(self, future: Future) -> Future:
        states = [future.state]

        def note(each: Future) -> None:
            if each.state is not states[-1]:
                states.append(each.state)

        future.watchers.append(note)
        self.seen.append((future, states))
        return future

    async def submit(self, *args: Any, **more: Any) -> Future:
        """Submit a call, and let it start if it can."""
        future = self._watch(await self.engine.submit(self.submission(*args, **more)))
        await self.settle()
        return future

    async def submit_at_once(self, *args: Any, **more: Any) -> Future:
        """Submit a call as the bridge does: without waiting where the engine can."""
        submission = self.submission(*args, **more)
        return self._watch(self.engine.submit_nowait(submission) or await self.engine.submit(submission))

    async def receive(self, order: list[str], label: str, writes: str = "", **pending: Any) -> None:
        """Take a call through `wait_for_turn`, and submit it as soon as that returns; note its label then."""
        received = PendingCall(LOCAL, None, None, effect(writes=writes), (), (), False)
        for field_name, value in pending.items():
            setattr(received, field_name, value)
        await self.engine.wait_for_turn(received)
        submission = self.submission(
            writes=writes, name=received.name, namer=received.namer, scope=received.scope, tool=label
        )
        future = self.engine.submit_nowait(submission) or await self.engine.submit(submission)
        self._watch(future)
        order.append(label)

    async def parked(self, future: Future) -> Parked:
        """Return a call as soon as the executor has it."""
        with anyio.fail_after(5):
            while label(future) not in self.calls.running:
                await self.calls.changed.wait()
        return self.calls.running[label(future)]

    async def running_call(self, future: Future) -> Call:
        return (await self.parked(future)).call

    async def end(self, future: Future, outcome: Result | Exception = OK) -> None:
        """End a call that the executor has, or is about to have, and let everything happen that follows from it."""
        (await self.parked(future)).end(outcome)
        await self.ended(future)

    async def ended(self, *futures: Future) -> None:
        with anyio.fail_after(5):
            assert await self.engine.wait(futures)
        await self.settle()

    def assert_dropped(self, future: Future) -> None:
        """Memory has dropped a future: it is gone, or read again from what outlives memory."""
        found = self.engine.find_nowait(future.scope, future.id)
        assert found is not future
        if self.outlives_memory:
            assert found is not None
            assert (found.state, found.result, found.key) == (future.state, future.result, future.key)
        else:
            assert found is None

    @property
    def running(self) -> list[str]:
        return sorted(self.calls.running)

    def assert_nothing_is_left(self) -> None:
        """All calls have ended, and their futures say since when."""
        assert not self.engine.unfinished
        assert not self.engine.has_pending
        assert not self.calls.running
        for future, _ in self.seen:
            assert future.done
            assert not future.questions
            assert future.ended_at is not None
            assert future.ended_at >= (future.started_at or future.submitted_at) >= future.submitted_at

    def assert_that_states_followed_the_table(self) -> None:
        for future, states in self.seen:
            for before, after in itertools.pairwise(states):
                assert (before, after) in STEPS, f"{future.id}: {before} → {after}"


@asynccontextmanager
async def bench_over(make: MakeEngine, limits: Limits | None = None, **settings: Any) -> AsyncGenerator[Bench]:
    """Open an engine with these settings on a bench."""
    calls = ParkedCalls()
    async with make(Settings(**settings), limits or {}) as engine:
        bench = Bench(engine, calls, outlives_memory=make is not memory)
        if not engine.submits_nowait:
            from tests.support.postgres_engines import quiet

            bench.settle = partial(quiet, engine, calls)
        async with engine.open(calls):
            yield bench
        bench.assert_that_states_followed_the_table()


OpenBench = Callable[..., AbstractAsyncContextManager[Bench]]
"""Opens a bench: `limits` by server, and settings by name."""
