"""An executor whose calls are parked until the test ends them, and the results and effects that such tests use.

Owns no assertions beyond "no call is made twice at the same time".
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.effects import Effect
from asyncfc_mcp.core.futures import Future, Result
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.core.outcome import CancelRequest, CompletionCallback
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.engine.executor_api import ToolRules
from asyncfc_mcp.errors import ProtocolFailure
from asyncfc_mcp.protocol import Deferred, OnProgress, OnSent
from asyncfc_mcp.schema.validate import Validator
from asyncfc_mcp.signals import Signal

OK: Result = {"content": [{"type": "text", "text": "ok"}]}


def text(words: str, **more: Any) -> Result:
    return {"content": [{"type": "text", "text": words}], **more}


def failing(words: str) -> Result:
    return text(words, isError=True)


def effect(reads: str = "", writes: str = "", source: str = "config") -> Effect:
    """Return the effect on paths such as `a/x b`, all below the server `s`."""
    return Effect(
        tuple(("s", *path.split("/")) for path in reads.split()),
        tuple(("s", *path.split("/")) for path in writes.split()),
        source,
    )


def states(*futures: Future) -> list[str]:
    return [future.state.value for future in futures]


def label(future: Future) -> str:
    """Return the ID of a future, with its scope where that is not `local`."""
    return future.id if future.scope == LOCAL else future.key


@dataclass
class Parked:
    """A call that the executor has; it ends when and how the test says."""

    call: Call
    arguments: Any
    progress: Any
    ended: anyio.Event = field(default_factory=anyio.Event)
    outcome: Result | Exception = field(default_factory=lambda: OK)
    at_once: Callable[[Result | Exception], None] | None = None
    """Ends a call that has no task."""

    def end(self, outcome: Result | Exception = OK) -> None:
        self.outcome = outcome
        self.ended.set()
        if self.at_once is not None:
            self.at_once(outcome)


class ParkedCalls:
    """Implements `execution.Executor`. Calls are known by their `label`.

    Attributes:
        at_once: True for calls without a task (`execute_nowait`), as far as `sends`.
        sends: False for a server that is still starting: its calls are parked and not sent.
        arrival: set when the server of calls that come later has come up; None if it is up.
        rules: server and tool → its rules; None for a tool that does not exist any more.
    """

    at_once = False

    def __init__(self) -> None:
        self.running: dict[str, Parked] = {}
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.sends = True
        self.arrival: anyio.Event | None = None
        self.changed = Signal()
        self.rules: dict[tuple[str, str], ToolRules | None] = {}

    async def execute(
        self, call: Call, arguments: Mapping[str, Any] | None, on_progress: OnProgress, on_sent: OnSent
    ) -> Result:
        if self.sends:
            on_sent()
        name, parked = self._park(Parked(call, arguments, on_progress))
        try:
            await parked.ended.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(name)
            raise
        finally:
            del self.running[name]
        if isinstance(parked.outcome, Exception):
            raise parked.outcome
        return parked.outcome

    def execute_nowait(
        self, call: Call, arguments: Mapping[str, Any] | None, completed: CompletionCallback
    ) -> CancelRequest | None:
        if not (self.at_once and self.sends):
            return None
        name, parked = self._park(Parked(call, arguments, call.on_progress))

        def end(outcome: Result | Exception) -> None:
            async def die() -> Result:
                assert isinstance(outcome, Exception)
                raise outcome

            del self.running[name]
            # As it is in life: that a connection ended takes a while to explain.
            died = isinstance(outcome, Exception) and not isinstance(outcome, ProtocolFailure)
            completed(Deferred(die) if died else outcome)  # type: ignore[arg-type]

        def cancel_request(reason: str) -> None:
            del self.running[name]
            self.cancelled.append(name)

        parked.at_once = end
        return cancel_request

    def coming_up(self, call: Call) -> Callable[[], Awaitable[None]] | None:
        return None if self.arrival is None or self.arrival.is_set() else self.arrival.wait

    def path_missing(self, source: Future) -> None:
        """Nothing is learned here."""

    async def resume(self, call: Call, arguments: dict[str, Any] | None, result: Result) -> Result:
        """Have the questions answered, and then send the call."""
        await self.engine.answer_round(call, result)
        return await self.execute(call, arguments, call.on_progress, call.on_sent)

    async def rules_of(self, server: str, tool: str, session: str | None = None) -> ToolRules | None:
        """Return what the test has put in `rules`, else those of any tool, after a turn of the event loop."""
        await anyio.lowlevel.checkpoint()
        return self.rules.get((server, tool), ToolRules(Policy(), None, None, None))

    async def check(self, validator: Validator, arguments: dict[str, Any], tool: str) -> tuple[str, str] | None:
        """Check arguments as the bridge's executor does, after a turn of the event loop."""
        await anyio.lowlevel.checkpoint()
        return validator.first_error(arguments)

    def _park(self, parked: Parked) -> tuple[str, Parked]:
        name = label(parked.call.future)
        assert name not in self.running
        self.running[name] = parked
        self.started.append(name)
        self.changed.notify_all()
        return name, parked
