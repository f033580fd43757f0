"""Records of a call: its context, the submission handed to an engine, and the state of its execution.

Pure records. Running a call is the scheduler's job.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

import anyio

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.effects import NOTHING, Effect
from asyncfc_mcp.core.futures import Event, Future, Result
from asyncfc_mcp.core.identity import Asker, CallerIdentity, Party, Scope, asker_of, id_of, party_of
from asyncfc_mcp.core.outcome import CancelRequest
from asyncfc_mcp.core.overridden_tools import Preset
from asyncfc_mcp.errors import CallFailed
from asyncfc_mcp.schema.validate import Validator

PROGRESS_TEXT: Final = 300
"""Characters of a progress message that are kept: every line about the future repeats it."""
LARGE_BYTES: Final = 200_000
"""Values up to this size are put into arguments in one step."""
NO_KEYS: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(slots=True)  # not frozen: one is made for every call, and that would cost twice as much
class CallContext:
    """The caller of a call, and the form of its answer."""

    scope: Scope
    conversation: str | None = None
    name: str | None = None
    """Name by which the caller wants to refer to the future (`_as`)."""
    meta: Mapping[str, Any] | None = None
    """`_meta` of the request."""
    capabilities: Mapping[str, Any] = field(default_factory=lambda: NO_KEYS)
    """Requests that the client can answer, as it declared them."""
    client: CallerIdentity | None = None
    """The client within its scope."""
    namer: CallerIdentity | None = None
    """The caller among whose names `name` and those in the arguments are."""
    after: tuple[str, ...] = ()
    """IDs and names of the calls that must have completed before this one starts (`_after`)."""
    answers: Mapping[str, Any] = field(default_factory=lambda: NO_KEYS)
    """`inputResponses` and `requestState` of a call that is sent again, if its questions are forwarded."""
    forward_questions: bool = False
    """Put questions into the result, as the server sent them, instead of waiting on the future."""
    reply_before_send: bool = False
    """Answer the caller with a handle before the call is sent."""
    ttl_s: float | None = None
    """For a task: seconds for which it is kept after its submission (see `Future.kept_s`)."""
    ends_with_request: bool = False
    """The call is cancelled with its request, since nothing else can bring its result."""
    credentials: str | None = None
    """Key of the caller's own connections, for servers that have one for each caller or session."""


@dataclass(slots=True, eq=False)
class PendingCall:
    """A call received but not yet submitted: it waits a moment for names that do not exist, or for its place behind a
    call that does."""

    scope: Scope
    namer: CallerIdentity | None
    """The caller among whose names `name` and `missing` are."""
    name: str | None
    effect: Effect
    missing: tuple[str, ...]
    """Names in its arguments that may be text."""
    also_wait_for: tuple[str, ...]
    """IDs and names of futures that its client waits for beside it; it is enough that their calls are received."""
    after_pending: bool
    required: tuple[str, ...] = ()
    """Names without which the call is refused: those in `_after`, and those that cannot be meant as text."""
    number: int = 0
    """Position in the order of receipt."""
    cycle: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Names whose calls must be submitted before this one."""
        return self.required + self.missing


@dataclass(slots=True)
class Submission:
    """A call as it is handed to an engine: which tool, with which arguments and rules, for whom."""

    context: CallContext
    server: str
    name: str
    """The tool's name for clients."""
    tool: str
    """The tool's name downstream."""
    arguments: dict[str, Any] | None
    policy: Policy
    effect: Effect = NOTHING
    read_only: bool = False
    repeatable: bool = False
    validator: Validator | None = None
    """Of the tool's own input schema; needed only where references are resolved."""
    schema: Mapping[str, Any] | None = None
    bindings: Mapping[str, str] = field(default_factory=lambda: NO_KEYS)
    """Reference as written (ID or name) → key of the future that it means."""
    value_dependencies: Mapping[str, str] = field(default_factory=lambda: NO_KEYS)
    """The part of `bindings` whose values the arguments take. An escaped reference (`$$f3`) is bound, so that it can be
    told from other text, and takes nothing."""
    after: Mapping[str, str] = field(default_factory=lambda: NO_KEYS)
    """ID or name in `_after` → key of the future that must have completed first."""
    needs_task: bool = False
    """The tool can only be called as a task (2025-11-25)."""
    preset: Preset | None = None
    """Arguments from the configuration, which are put in when the call is sent."""
    recorded_effect: Effect | None = None
    """The effect for records, where the configuration has put secrets into its paths; None: `effect`."""
    credentials: str | None = None
    """Key of the caller's own connections, if the server has one for each caller or session; None for a shared one."""
    session: str | None = None
    """Conversation of the session whose instance of the server makes the call; None for a server without instances."""


@dataclass(slots=True, eq=False)
class Call:
    """A submitted call, until it has ended."""

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
    value_dependencies: Sequence[str] | None = None
    """Keys of the futures whose values the arguments take; None: all in `bindings`."""
    after: Sequence[str] = ()
    """Keys of the futures that must have completed first, without their values."""
    meta: Mapping[str, Any] | None = None
    """`_meta` of the request, as far as it concerns the downstream."""
    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Requests that the client which made the call can answer."""
    client: CallerIdentity | None = None
    """The client within the future's scope, as far as it can be told from others."""
    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`inputResponses` and `requestState` of a call that is sent again."""
    needs_task: bool = False
    """The tool can only be called as a task (2025-11-25)."""
    preset: Preset | None = None
    """Arguments from the configuration, which are put in when the call is sent."""
    recorded_effect: Effect | None = None
    """The effect for records, where the configuration has put secrets into its paths; None: `effect`."""
    credentials: str | None = None
    """Key of the caller's own connections, if the server has one for each, in this run of the program only."""
    session: str | None = None
    """See `Submission.session`; the same in other runs."""
    forward_questions: bool = False
    """Put questions into the result, as the server sent them, instead of waiting on the future."""
    round: Result | None = None
    """Questions of a server of 2026-07-28 that an earlier run of the program did not have answered: they are asked, and
    then the call is sent again with the answers."""
    asks_again: bool = False
    """Its open questions are in the journal, and can be asked in another run."""
    was_sent: bool = False
    """An earlier run may have sent it; it is sent again only if its tool's settings say so."""
    ending: bool = False
    """Its end is being written to the journal; no other event counts any more."""
    verdict: CallFailed | None = None
    """Failure with which the engine ended a running call; None if a client cancelled it."""
    unmet_dependencies: set[str] = field(default_factory=set[str])
    """Keys of futures whose values are missing, or that have not completed (`after`)."""
    sources: dict[str, Future] = field(default_factory=dict[str, Future])
    """Key → future, of `bindings`; held here, so that a value outlives its retention until it is used."""
    number: int = 0
    """Position in the order of submission."""
    resolved: dict[str, Any] | None = None
    """Arguments with values in place, until they are checked."""
    checked: bool = True
    """False while the arguments must be checked before the call is sent."""
    sent: bool = False
    """The downstream may have seen the call."""
    ordered: bool = False
    """The call has a place in the order of calls on the same state."""
    cancel_scope: anyio.CancelScope | None = None
    """Of the task in which the call runs, if it runs in one."""
    cancel_request: CancelRequest | None = None
    """Cancels the request downstream, while the call runs without a task."""
    reply_before_send: bool = False
    """The caller gets its answer, a handle, before the call is sent: a model waits for that."""
    deadline: float = math.inf
    """End of its time limit, on the event loop's clock."""
    weighed: bool = False
    """The memory that it holds is counted."""
    restored: bool = False
    """Made of a record, so that the rules of its tool are not those of its submission."""
    elsewhere: bool = False
    """Another replica decides when it starts; here it only has its place in the order."""
    claimed: bool = False
    """It is recorded that this process makes the call; several could have."""
    consequence: tuple[Event, CallFailed, str] | None = None
    """End that follows from another call's, while it is another replica's part to write it."""
    dropped: bool = False
    """Settled before it started; it is removed from its queue for capacity when it is next met there."""

    @property
    def party(self) -> Party:
        """The party that has a share of capacity of its own; None where all callers are one principal."""
        return party_of(self.future.scope, self.client)

    @property
    def asker(self) -> Asker:
        """The one whose call it is, when a server sends something without saying for which call."""
        return asker_of(self.future.scope, self.client)

    @property
    def is_large(self) -> bool:
        """True if putting values into the arguments may take so long that it must be done in slices."""
        if not self.bindings:
            return False
        return self.future.held > LARGE_BYTES or any(each.size > LARGE_BYTES for each in self.sources.values())

    @property
    def shares(self) -> bool:
        """True if the result of an identical call may answer this one (single-flight)."""
        own = self.forward_questions or self.answers or self.credentials is not None
        return self.policy.single_flight and self.read_only and not own

    def on_sent(self, sent: bool = True) -> None:
        """Record that the downstream may have seen the call, or certainly has not after all."""
        self.sent = sent

    def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Keep the downstream's last progress on the future."""
        if not self.future.done and _is_number(progress) and (total is None or _is_number(total)):
            self.future.progress = (progress, total, message[:PROGRESS_TEXT] if message else message)
            self.future.reported_at = anyio.current_time()
            self.future.changed()


def call_of(submission: Submission, future: Future, follows: Sequence[str]) -> Call:
    """Return the call of a submission, and put on its future what it refers to.

    Args:
        follows: keys of the futures in `_after` that have not completed.
    """
    context, policy, taken = submission.context, submission.policy, submission.value_dependencies
    future.private = not policy.journal
    if submission.after:
        future.after = {ref: id_of(key) for ref, key in submission.after.items()}
    if taken:
        future.substituted = {name: id_of(key) for name, key in taken.items()}
    if not context.scope.listed and policy.on_failure == "stop":
        # Without authentication one client's failure must not stop what another client has asked for.
        policy = replace(policy, on_failure="continue")
    return Call(
        future,
        submission.tool,
        submission.arguments,
        policy,
        submission.effect,
        read_only=submission.read_only,
        repeatable=submission.repeatable,
        validator=submission.validator,
        schema=submission.schema,
        bindings=submission.bindings,
        value_dependencies=tuple(dict.fromkeys(taken.values())),
        after=follows,
        needs_task=submission.needs_task,
        preset=submission.preset,
        recorded_effect=submission.recorded_effect,
        credentials=submission.credentials,
        session=submission.session,
        meta=context.meta,
        capabilities=context.capabilities,
        client=context.client,
        forward_questions=context.forward_questions,
        answers=context.answers,
        reply_before_send=context.reply_before_send,
    )


def _is_number(value: float) -> bool:
    """Return false for a number that no float can hold: JSON has such numbers."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
