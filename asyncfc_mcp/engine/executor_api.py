"""Interface between an engine and the executor that makes its calls.

Pure. Owns no state.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Future, Result
from asyncfc_mcp.core.outcome import CancelRequest, CompletionCallback
from asyncfc_mcp.core.overridden_tools import Preset
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.protocol import OnProgress, OnSent
from asyncfc_mcp.schema.validate import Validator


class Execute(Protocol):
    """Sends a call downstream and returns its result.

    Raises:
        CallFailed: there is none.
    """

    async def __call__(
        self, call: Call, arguments: dict[str, Any] | None, on_progress: OnProgress, on_sent: OnSent
    ) -> Result: ...


class ExecuteNowait(Protocol):
    """Sends a call downstream without waiting for anything; `completed` is called later, never from within.

    Returns:
        None if that is not possible at this moment, and then nothing was sent.
    """

    def __call__(
        self, call: Call, arguments: dict[str, Any] | None, completed: CompletionCallback
    ) -> CancelRequest | None: ...


ComingUp = Callable[[Call], Callable[[], Awaitable[None]] | None]
"""Returns what waits until the server of a call has come up, or has failed to; a server that sleeps is started for it.
None if the call can be made at once, or fails at once."""
Check = Callable[[Validator, dict[str, Any], str], Awaitable[tuple[str, str] | None]]
"""Returns where and how arguments break a schema, if they do, for the tool of that name."""


@dataclass(frozen=True, slots=True)
class ToolRules:
    """Rules of a tool as it is listed and configured now, for a call of another run."""

    policy: Policy
    validator: Validator | None
    schema: Mapping[str, Any] | None
    preset: Preset | None
    credentials: str | None = None
    """See `Call.credentials`."""


class Executor(Protocol):
    """Makes calls for an engine."""

    @property
    def execute(self) -> Execute: ...

    @property
    def execute_nowait(self) -> ExecuteNowait: ...

    @property
    def coming_up(self) -> ComingUp: ...

    @property
    def check(self) -> Check: ...

    async def resume(self, call: Call, arguments: dict[str, Any] | None, result: Result) -> Result:
        """Finish a call that has got this far in an earlier run: `result` has questions (`InputRequiredResult`).

        Raises:
            CallFailed: it has no result.
        """
        ...

    async def rules_of(self, server: str, tool: str, session: str | None = None) -> ToolRules | None:
        """Return the rules of a tool, by its name downstream, as soon as the listing of its server is known; None if
        the server or the tool does not exist (any more), or the server cannot be started.

        Args:
            session: see `Call.session`; where the server has an instance for each, its own is waited for.

        Raises:
            OwnConnectionGone: calls of the tool need credentials of their callers, which other runs do not have, or
                their session, which has not come back.
        """
        ...

    def path_missing(self, source: Future) -> None:
        """Take note that a reference names a part that the result of this future does not have."""
        ...
