"""A scheduler on its own, with a store and an executor whose calls the test ends.

For tests of how the memory engine decides; what every engine promises is tested on `engines.Bench`.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Future, Result
from asyncfc_mcp.core.identity import LOCAL, Scope
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.scheduler import Scheduler
from tests.support.parked_calls import OK, ParkedCalls, effect, label
from tests.support.virtual_time import settle


@dataclass
class Lab:
    """A scheduler and the means to put calls into it."""

    store: FutureStore
    scheduler: Scheduler
    downstream: ParkedCalls

    def submit(
        self,
        reads: str = "",
        writes: str = "",
        *,
        needs: Sequence[Future] = (),
        tool: str = "tool",
        server: str = "s",
        scope: Scope = LOCAL,
        policy: Policy | None = None,
        arguments: dict[str, Any] | None = None,
        source: str = "config",
        **more: Any,
    ) -> Future:
        future = self.store.create(scope, tool=tool, server=server)
        bindings = {needed.id: needed.key for needed in needs}
        if arguments is None:
            arguments = {needed.id: f"${needed.id}" for needed in needs}
        touched = effect(reads, writes, source)
        self.scheduler.submit(Call(future, tool, arguments, policy or Policy(), touched, bindings=bindings, **more))
        return future

    @property
    def running(self) -> list[str]:
        return sorted(self.downstream.running)

    async def end(self, future: Future, outcome: Result | Exception = OK) -> None:
        """Let a call end, and everything happen that follows from it."""
        await settle()
        self.downstream.running[label(future)].end(outcome)
        await settle()

    async def only_running(self) -> Future:
        """Return the one call that the downstream has. Of calls submitted together any may be the first there."""
        await settle()
        (parked,) = self.downstream.running.values()
        return parked.call.future

    def assert_nothing_is_left(self) -> None:
        """All futures have ended, and the scheduler remembers none of them."""
        assert [future.id for future in self.store.all() if not future.done] == []
        assert self.store.pending == 0
        scheduler: Any = self.scheduler
        assert not scheduler.unfinished
        assert len(scheduler._tree) == 0
        assert scheduler._tree.size == 0
        assert not scheduler._dependents
        assert not scheduler._runner._attempts._flights


@asynccontextmanager
async def lab(execute: Any = None, limits: Mapping[str, int | None] | None = None, **more: Any) -> AsyncGenerator[Lab]:
    """Run a scheduler; `execute` takes the place of parked calls."""
    downstream = ParkedCalls()
    clock: Callable[[], float] = anyio.current_time
    store = FutureStore(clock)
    scheduler = Scheduler(
        store,
        execute or downstream.execute,
        clock=clock,
        server_limits=limits,
        execute_nowait=None if execute else downstream.execute_nowait,
        **more,
    )
    async with anyio.create_task_group() as tg:
        await tg.start(scheduler.run)
        yield Lab(store, scheduler, downstream)
        tg.cancel_scope.cancel()
