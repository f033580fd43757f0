"""Futures: the record of one call, and the table of its states.

Owns the life-cycle. `store` creates futures and finds them again. Nothing here waits, runs a call or does I/O: changes
are reported to the callbacks in `Future.watchers`.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from asyncfc_mcp.core.identity import CallerIdentity, FutureKey, Scope, future_key
from asyncfc_mcp.core.waits import Wait
from asyncfc_mcp.errors import CallFailed, InvalidTransition
from asyncfc_mcp.quotation import asked, said

logger = logging.getLogger(__name__)

Result = dict[str, Any]
"""A `CallToolResult` as it was received, unknown fields included."""


RECORD_BYTES: Final = 1000
"""Approximate memory of a future, without its arguments and result."""


class _Word(Enum):
    """Enum with members that are hashed by identity: Enum's own hash is written in Python, and used several times per
    call."""

    __hash__ = object.__hash__


class State(_Word):
    """State of a future. The values appear in what users read."""

    WAITING = "waiting"
    """Submitted; waits for a dependency, its turn or capacity."""
    RUNNING = "running"
    """The call was sent to the downstream server."""
    INPUT_REQUIRED = "input_required"
    """The downstream server asked a question and waits for its answer."""
    COMPLETED = "completed"
    """The tool returned a result that is not an error."""
    FAILED = "failed"
    """The tool returned `isError`, or there is no result and `Future.failure` has the reason."""
    CANCELLED = "cancelled"
    """Cancelled by a client, or by `on_failure: "stop"`."""


_TERMINAL: Final = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
_EMPTY: Final[Mapping[str, str]] = MappingProxyType({})


class Event(_Word):
    """Event that changes the state of a future."""

    START = "start"
    ASK = "ask"
    ANSWER = "answer"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.WAITING, Event.START): State.RUNNING,
    (State.WAITING, Event.FAIL): State.FAILED,
    (State.WAITING, Event.CANCEL): State.CANCELLED,
    (State.RUNNING, Event.ASK): State.INPUT_REQUIRED,
    (State.RUNNING, Event.COMPLETE): State.COMPLETED,
    (State.RUNNING, Event.FAIL): State.FAILED,
    (State.RUNNING, Event.CANCEL): State.CANCELLED,
    (State.INPUT_REQUIRED, Event.ANSWER): State.RUNNING,
    # A downstream server may end the call without waiting for the answer.
    (State.INPUT_REQUIRED, Event.COMPLETE): State.COMPLETED,
    (State.INPUT_REQUIRED, Event.FAIL): State.FAILED,
    (State.INPUT_REQUIRED, Event.CANCEL): State.CANCELLED,
}
"""Complete life-cycle of a future. Transitions without a row are impossible; terminal states have no row."""


@dataclass(slots=True, eq=False)
class Question:
    """Request of a downstream server to its client during a call, such as an elicitation."""

    id: str
    method: str
    params: Mapping[str, Any]
    server: str | None = None
    """Name of the server where the client needs it, since several servers may ask; else None."""
    claimed_until: float = 0.0
    """Another request is obtaining the answer until then; in seconds of the clock."""
    answer: Result | None = None
    refusal: tuple[int, str, Any] | None = None
    """JSON-RPC error (code, message, data) of a client that refused to answer."""
    on_settled: Callable[[], None] = lambda: None

    @property
    def settled(self) -> bool:
        return self.answer is not None or self.refusal is not None

    def settle(self, answer: Result | None, refusal: tuple[int, str, Any] | None = None) -> None:
        """Record the answer or the refusal; the first one is kept."""
        if not self.settled:
            self.answer, self.refusal = answer, refusal
            self.on_settled()

    @property
    def params_for_client(self) -> dict[str, Any]:
        """Parameters for the client, with the name of the server before the message."""
        params, message = dict(self.params), self.params.get("message")
        if self.server is not None and isinstance(message, str):
            params["message"] = asked(self.server, message)
        return params

    @property
    def text(self) -> str:
        """Question in at most 120 characters."""
        message = self.params.get("message")
        return said(message if isinstance(message, str) else self.method, 120)


@dataclass(slots=True, eq=False)
class Future:
    """Record of one `tools/call`. Times are seconds of the engine's monotonic clock."""

    id: str
    scope: Scope
    tool: str
    """Name by which the client called the tool."""
    server: str
    name: str | None = None
    conversation: str | None = None
    """Conversation to whose unread results this one belongs; None where that is unknown."""
    namer: CallerIdentity | None = None
    """Caller that owns `name`; None where callers are not distinguished."""
    caller: CallerIdentity | None = None
    """Caller that made the call; None where callers are not distinguished."""
    submitted_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    reported_at: float | None = None
    """Time of the last progress, question or answer."""
    ttl_s: float | None = None
    """For a task: seconds for which its result is to be kept after submission; None for other futures."""
    state: State = State.WAITING
    result: Result | None = None
    """Read from the journal (`load`) when it is accessed and not in memory."""
    failure: CallFailed | None = None
    """Reason for a missing result; None where there is one, `isError` results included."""
    cause: str | None = None
    """ID of the future whose failure began the chain that ended this one; None without such a future."""
    progress: tuple[float, float | None, str | None] | None = None
    """Last progress notification of the downstream server: done, total, message."""
    substituted: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """ID or name in the arguments, as the caller wrote it → ID of the future whose value replaces it."""
    after: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """ID or name in `_after`, as the caller wrote it → ID of the future that had to complete first."""
    waits: tuple[Wait, ...] = ()
    """What the call waited for when it was submitted, and the call whose end gave it its place. Bounded."""
    queued_at: float | None = None
    """Time from which the call lacked nothing but a place at its server or its tool; None if it has one at once."""
    attempts: int = 1
    """How often the call was sent; 1 before it was."""
    private: bool = False
    """Its arguments and result are not written to the journal."""
    answered: bool = False
    """The request was answered with the result itself (`sync`), so that clients need not fetch it."""
    questions: dict[str, Question] = field(default_factory=dict[str, Question])
    """Unanswered questions of the downstream server by ID; only in `input_required`."""
    asked: int = 0
    """Number of questions that the downstream server has asked."""
    read_at: float | None = None
    """Time at which the result was last received."""
    size: int = 0
    """Bytes of the result as JSON, approximately."""
    held: int = 0
    """Bytes of memory that are accounted: of its arguments until it ends, then of its result or failure."""
    load: Callable[["Future"], Result] | None = None
    """Reads the result from the journal; None while memory has the only copy, and where there is no result."""
    loaded: bool = True
    """False while the result is in the journal only."""
    watchers: list[Callable[["Future"], None]] = field(default_factory=list[Callable[["Future"], None]])
    """Called after every change; each watcher has to remove itself."""
    key: FutureKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = future_key(self.scope, self.id)

    if not TYPE_CHECKING:  # else every misspelt attribute would pass the type checker

        def __getattr__(self, name: str) -> Result:
            """Load the result, whose slot is empty while it is not in memory."""
            if name != "result" or self.load is None:
                raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
            self.result, self.loaded = self.load(self), True
            return self.result

    def identify(self, future_id: str) -> None:
        """Give a new future its ID, where that is known only after the future was written."""
        self.id = future_id
        self.key = future_key(self.scope, future_id)

    def unload(self, load: Callable[["Future"], Result]) -> None:
        """Free the memory of the result, which `load` reads when it is needed again."""
        self.load, self.loaded = load, False
        del self.result

    @property
    def has_result(self) -> bool:
        """True where there is a result, in memory or in the journal."""
        return self.load is not None or self.result is not None

    @property
    def done(self) -> bool:
        return self.state in _TERMINAL

    def may_be_of(self, caller: CallerIdentity | None) -> bool:
        """Return true where this caller may have made the call, and so may be asked its questions."""
        return self.caller is None or (caller is not None and self.caller.may_be(caller))

    def kept_s(self, now: float) -> float | None:
        """Return for how many seconds after its submission a task is kept, if it ends now or has ended: `ttl_s`, but at
        least half of that after its end, so that the result of a long call can be fetched."""
        if self.ttl_s is None:
            return None
        ended = now if self.ended_at is None else self.ended_at
        return max(self.ttl_s, ended - self.submitted_at + self.ttl_s / 2)

    @property
    def unread(self) -> bool:
        return self.read_at is None and self.state in _TERMINAL

    @property
    def question(self) -> str | None:
        """First open question, in at most 120 characters."""
        if not self.questions:
            return None
        return next((question.text for question in self.questions.values() if not question.settled), None)

    def apply(self, event: Event) -> None:
        """Change the state according to `TRANSITIONS` and call the watchers.

        Raises:
            InvalidTransition: the event is impossible in this state.
        """
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            raise InvalidTransition(self.id, self.state.value, event.value)
        self.state = state
        if state in _TERMINAL:
            self.questions.clear()
        self.changed()

    def changed(self) -> None:
        """Call the watchers after a visible change."""
        for watcher in tuple(self.watchers):
            try:
                watcher(self)
            except Exception:
                # A watcher that fails must not prevent the end of the call, nor the calls of other watchers.
                logger.exception("watcher of %s failed", self.id)


@contextmanager
def watching(futures: Iterable[Future], watcher: Callable[[Future], None]) -> Generator[None]:
    """Call `watcher` after every change of these futures until the block ends."""
    watched = list(futures)
    for future in watched:
        future.watchers.append(watcher)
    try:
        yield
    finally:
        for future in watched:
            if watcher in future.watchers:  # it may have removed itself
                future.watchers.remove(watcher)
