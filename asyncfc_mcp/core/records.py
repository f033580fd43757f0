"""Durable records of futures: what a journal or a database keeps of a future and its call.

Pure values, in types that JSON can express. Times are seconds of the wall clock, since they are compared with those of
other runs. Storing records is an engine's job, and so is turning them into futures again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.state_paths import Path
from asyncfc_mcp.core.waits import Wait

UNFINISHED: Final = (State.WAITING, State.RUNNING, State.INPUT_REQUIRED)


@dataclass(slots=True)
class CallRecord:
    """Everything that is needed to make a call in another run of the program."""

    tool: str
    """The tool's name downstream."""
    arguments: dict[str, Any] | None = None
    """As its caller sent them: references are not replaced, and values from the configuration are not put in."""
    meta: dict[str, Any] | None = None
    capabilities: dict[str, Any] = field(default_factory=dict[str, Any])
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    effect_source: str = "nothing said"
    read_only: bool = False
    repeatable: bool = False
    needs_task: bool = False
    bindings: dict[str, str] = field(default_factory=dict[str, str])
    """Reference as written → ID of the future."""
    values: dict[str, str] = field(default_factory=dict[str, str])
    """The part of `bindings` whose values the arguments take."""
    after: dict[str, str] = field(default_factory=dict[str, str])
    """ID or name in `_after` → ID of the future."""
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    """`inputResponses` and `requestState` of a call that is sent again, if its questions are forwarded."""
    forward_questions: bool = False
    """See `engine.call.Call`."""
    session: str | None = None
    """See `engine.call.Call`."""


@dataclass(slots=True)
class FailureRecord:
    """Why a future has no result, as it was shown."""

    text: str
    detail: str
    code: int | None = None
    """Of a JSON-RPC error of the server; `message` and `data` belong to it."""
    message: str = ""
    data: Any = None


@dataclass(slots=True)
class FutureRecord:
    """A future without its result."""

    scope: str
    """Key of the scope."""
    listed: bool
    """See `identity.Scope`."""
    id: str
    server: str
    tool: str
    """The tool's name for clients."""
    state: State = State.WAITING
    name: str | None = None
    namer: str | None = None
    """The caller that owns the name: equal for two futures of one caller in one run, never across runs, unless it is a
    conversation with a key."""
    host: str | None = None
    """`clientInfo.name` of the caller."""
    conversation: str | None = None
    submitted_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    read_at: float | None = None
    ttl_s: float | None = None
    cause: str | None = None
    substituted: dict[str, str] = field(default_factory=dict[str, str])
    after: dict[str, str] = field(default_factory=dict[str, str])
    failure: FailureRecord | None = None
    call: CallRecord | None = None
    """None where arguments must not be written (setting `journal: false` of the tool)."""
    round: dict[str, Any] | None = None
    """Questions that are open, as a server of 2026-07-28 sent them (`InputRequiredResult`): they can be asked again in
    another run. None for others, whose questions end with the connection."""
    private: bool = False
    """Arguments and result are not written."""
    has_result: bool = False
    size: int = 0
    """Bytes of the result as JSON, approximately."""
    waits: tuple[Wait, ...] = ()
    """See `futures.Future`; of a private one without paths, which its arguments may give."""
    queued_at: float | None = None
    attempts: int = 1


@dataclass(slots=True, frozen=True)
class Change:
    """Columns of a record that changed; absent ones keep their values.

    `result` is written with `state`; it is encoded by the journal, and must not be changed by the caller afterwards.
    """

    columns: Mapping[str, Any]
    """Field of `FutureRecord` → value; for `round` and `failure` their objects."""
    result: dict[str, Any] | None = None
