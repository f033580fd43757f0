"""Futures: the record of one call, the table of its states, and the store that finds it again.

Owns identity (IDs, names, scopes), life-cycle and retention. Refuses everything that takes time: nothing here
waits, runs a call or touches a wire; whoever wants to know of a change leaves a callback in `Future.watchers`.
"""

import logging
import re
import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Protocol

from asyncfc_mcp.errors import (
    AmbiguousName,
    CallFailed,
    ForeignName,
    InvalidName,
    InvalidTransition,
    NameInUse,
    TooManyFutures,
    UnknownFuture,
    nearest,
)
from asyncfc_mcp.quotation import said

logger = logging.getLogger(__name__)

Result = dict[str, Any]
"""A `CallToolResult` as it came off the wire, unknown fields included."""


RECORD_BYTES: Final = 1000
"""Memory of a future beside its arguments and result, nearly."""


class _Word(Enum):
    """Hashed as the one object that each member is: Enum's own way is written in Python, and asked several times a
    call."""

    __hash__ = object.__hash__


class State(_Word):
    """Where a future is in its life. The value is what users read."""

    WAITING = "waiting"
    """Submitted; a dependency, its turn or capacity is missing."""
    RUNNING = "running"
    """The downstream has the call."""
    INPUT_REQUIRED = "input_required"
    """The downstream asked a question and waits for its answer."""
    COMPLETED = "completed"
    """The tool returned a result that is not an error."""
    FAILED = "failed"
    """The tool returned `isError`, or there is no result and `Future.failure` says why."""
    CANCELLED = "cancelled"
    """It was cancelled by a client, or by `on_failure: "stop"`."""

    @property
    def terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL: Final = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Event(_Word):
    """What can happen to a future."""

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
    # A downstream may stop waiting for the answer and end the call by itself.
    (State.INPUT_REQUIRED, Event.COMPLETE): State.COMPLETED,
    (State.INPUT_REQUIRED, Event.FAIL): State.FAILED,
    (State.INPUT_REQUIRED, Event.CANCEL): State.CANCELLED,
}
"""The whole life of a future. What is not in the table cannot happen; terminal states have no row."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Who may see a future.

    Args:
        key: the authenticated principal, or `local`.
        listed: whether futures can be listed and guessed at. Off where nobody was authenticated on a
            reachable address: IDs are then 128 random bits and knowing one is the only right to it.
    """

    key: str
    listed: bool = True


LOCAL: Final = Scope("local")
"""stdio, and HTTP on loopback without authentication."""

PUBLIC: Final = Scope("public", listed=False)
"""A reachable address without authentication (`--insecure-no-auth`)."""


@dataclass(slots=True, eq=False)
class CallerIdentity:
    """A caller, as far as it can be told from others in its scope: a session, a conversation, or all clients of one
    name that have neither. Compared by identity.

    Attributes:
        host: `clientInfo.name`.
        shared: several callers may be behind it, which cannot be told apart.
        ended: its session is over.
    """

    host: str | None = None
    shared: bool = False
    ended: bool = False

    def may_be(self, other: "CallerIdentity") -> bool:
        """Return true for the same caller, and for one that reconnected after its session ended."""
        return self is other or (self.ended and self.host == other.host)


@dataclass(slots=True, eq=False)
class Question:
    """What a downstream asked its client while a call was running, as the request that it would have been."""

    id: str
    method: str
    params: Mapping[str, Any]
    claimed_until: float = 0.0
    """Until then somebody else has taken it on to get the answer; in seconds of the clock."""
    answer: Result | None = None
    refusal: tuple[int, str, Any] | None = None
    """Instead of an answer: the JSON-RPC error (code, message, data) with which the client refused."""
    on_settled: Callable[[], None] = lambda: None

    @property
    def settled(self) -> bool:
        return self.answer is not None or self.refusal is not None

    def settle(self, answer: Result | None, refusal: tuple[int, str, Any] | None = None) -> None:
        """Record the answer; the first one counts."""
        if not self.settled:
            self.answer, self.refusal = answer, refusal
            self.on_settled()

    @property
    def text(self) -> str:
        """What is asked, in a few words."""
        message = self.params.get("message")
        return said(message if isinstance(message, str) else self.method, 120)


@dataclass(slots=True, eq=False)
class Future:
    """Our record of one `tools/call`. Times are seconds of the caller's monotonic clock."""

    id: str
    scope: Scope
    tool: str
    """The name under which the client called it."""
    server: str
    name: str | None = None
    conversation: str | None = None
    """Whose unread results these are; None where that is unknown."""
    namer: CallerIdentity | None = None
    """The caller among whose names `name` is; None where callers are not told apart."""
    caller: CallerIdentity | None = None
    """The caller that made the call; None where callers are not told apart."""
    submitted_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    state: State = State.WAITING
    result: Result | None = None
    failure: CallFailed | None = None
    """Why there is no result; None when there is one, `isError` results included."""
    cause: str | None = None
    """The ID of the future whose failure began the chain that ended this one; None if it is its own cause."""
    progress: tuple[float, float | None, str | None] | None = None
    """The downstream's last progress: done, total, message."""
    put_in: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """ID or name as the caller wrote it → ID of the future whose value takes its place in the arguments."""
    answered: bool = False
    """Its request was answered with the result itself (`sync`), so nobody has to look for it here."""
    questions: dict[str, Question] = field(default_factory=dict[str, Question])
    """What the downstream asked and nobody has answered, by ID; while `input_required`."""
    read_at: float | None = None
    """When somebody last received the result."""
    size: int = 0
    """Bytes of the result as JSON, approximately."""
    held: int = 0
    """Bytes that are counted for it: of its arguments until it ends, then of its result or failure."""
    watchers: list[Callable[["Future"], None]] = field(default_factory=list[Callable[["Future"], None]])
    """Called after every change; a watcher removes itself."""
    key: str = field(init=False)
    """Identifies the future across scopes."""

    def __post_init__(self) -> None:
        self.key = f"{self.scope.key}/{self.id}"

    @property
    def done(self) -> bool:
        return self.state in _TERMINAL

    def may_be_of(self, caller: CallerIdentity | None) -> bool:
        """Return true where this caller may have made the call, so that its questions may be put to it."""
        return self.caller is None or (caller is not None and self.caller.may_be(caller))

    @property
    def unread(self) -> bool:
        return self.read_at is None and self.state in _TERMINAL

    @property
    def question(self) -> str | None:
        """The first open question, in a few words."""
        if not self.questions:
            return None
        return next((question.text for question in self.questions.values() if not question.settled), None)

    def apply(self, event: Event) -> None:
        """Move along the table and tell the watchers.

        Raises:
            InvalidTransition: the table has no such row.
        """
        state = TRANSITIONS.get((self.state, event))
        if state is None:
            raise InvalidTransition(self.id, self.state.value, event.value)
        self.state = state
        if state in _TERMINAL:
            self.questions.clear()
        self.changed()

    def changed(self) -> None:
        """Tell the watchers that something visible changed."""
        for watcher in tuple(self.watchers):
            try:
                watcher(self)
            except Exception:
                # Whoever watches must not keep a call from ending, nor others from hearing of it.
                logger.exception("a watcher of %s failed", self.id)


_ID: Final = re.compile(r"f(?:[0-9]+|[0-9a-f]{32})")
_WORDS: Final = ("all", "this")
"""Words of `_wait`, which are no names."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


def is_id(ref: str) -> bool:
    """Whether this looks like the ID of a future."""
    return _ID.fullmatch(ref) is not None


class Numbers(Protocol):
    """Numbers of a scope's future IDs, each given once."""

    def take(self) -> int: ...

    def fate(self, number: int) -> str | None:
        """The reason why no future has this number any more; None if it was never given."""
        ...


class NumbersOfRun:
    """Numbers of one run, from 1: nothing is kept beyond it."""

    def __init__(self, scope: str = "") -> None:
        self._last = 0

    def take(self) -> int:
        self._last += 1
        return self._last

    def fate(self, number: int) -> str | None:
        return "was read long ago and is forgotten" if 0 < number <= self._last else None


@dataclass(slots=True)
class _Shelf:
    """Content of one scope: futures by ID in order of submission, and the futures of each name."""

    numbers: Numbers
    futures: dict[str, Future] = field(default_factory=dict[str, Future])
    names: dict[str, dict[CallerIdentity | None, list[Future]]] = field(
        default_factory=dict[str, dict[CallerIdentity | None, list[Future]]]
    )
    """Name → caller → the last future to which it gave the name; all of them where the identity is shared."""


@dataclass(slots=True)
class _Usage:
    """What one caller fills of the bounds."""

    pending: int = 0
    bytes: int = 0


class FutureStore:
    """Creates futures and finds them again, by ID or name, within a scope.

    Args:
        clock: the monotonic clock, in seconds.
        max_pending: futures that have not ended, over all scopes; more are refused.
        max_bytes: bytes of results kept, over all scopes; while they are exceeded new calls are refused.
        keep_s: seconds for which a result is kept after it was last read, if there is room. Unread results are kept
            for good where the scope is listed.
        unread_keep_s: seconds for which an unread result is kept where the scope is not listed: nobody may know its ID
            any more.
        caller_share: share of both bounds that one caller may fill where the scope is not listed, so that it cannot
            keep the others out. Elsewhere all callers of a scope are one principal.
        numbers: gives the numbers of a scope's IDs, by its key.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        max_pending: int = 10_000,
        max_bytes: int = 512 << 20,
        keep_s: float = 3600,
        unread_keep_s: float = 3600,
        caller_share: float = 1.0,
        numbers: Callable[[str], Numbers] = NumbersOfRun,
    ) -> None:
        self._clock = clock
        self._numbers = numbers
        self._max_pending, self._max_bytes, self._keep_s = max_pending, max_bytes, keep_s
        self._shelves: dict[str, _Shelf] = {}
        self._unread_keep_s, self._caller_share = unread_keep_s, caller_share
        self._read: deque[tuple[float, Future]] = deque()
        """Results that were read, the one read longest ago first, with the time; entries of others are out of date."""
        self._unread: deque[tuple[float, str, str]] = deque()
        """Results of scopes that are not listed, by the time of their end."""
        self._usage: dict[CallerIdentity | None, _Usage] = {}
        """By caller, where the scope is not listed."""
        self.pending = 0
        self.bytes = 0

    def create(
        self,
        scope: Scope,
        *,
        tool: str,
        server: str,
        name: str | None = None,
        conversation: str | None = None,
        caller: CallerIdentity | None = None,
        namer: CallerIdentity | None = None,
        keep: Collection[str] = (),
    ) -> Future:
        """A new future in state `waiting`. Where there is no room, results that were read are dropped, the one read
        longest ago first.

        Args:
            keep: keys of futures whose results are needed, so that no room can be made with them.
            caller: the one that makes the call.
            namer: the caller among whose names `name` is to be.

        Raises:
            TooManyFutures: a bound is reached; nothing was created.
            InvalidName: `name` could not be referred to.
            NameInUse: `name` belongs to a future of this caller that has not ended.
        """
        now = self._clock()
        self._forget_read(now)
        if self.pending >= self._max_pending:
            raise TooManyFutures(f"{self.pending} calls have not ended yet", str(self._max_pending), "max_pending")
        if self.bytes > self._max_bytes:
            self._make_room(keep)
        if self.bytes > self._max_bytes:
            raise TooManyFutures(
                f"{self.bytes} bytes of unread results and of arguments are stored",
                str(self._max_bytes),
                "max_result_bytes_total",
            )
        if not scope.listed:
            self._check_share(caller)
        shelf = self._shelves.get(scope.key)
        if shelf is None:
            shelf = self._shelves[scope.key] = _Shelf(self._numbers(scope.key))
        if name is not None:
            self.check_name(scope, name, namer)
        future_id = f"f{shelf.numbers.take()}" if scope.listed else f"f{secrets.token_hex(16)}"
        future = Future(future_id, scope, tool, server, name=name, conversation=conversation, submitted_at=now)
        future.caller, future.namer = caller, namer
        if not scope.listed:
            self._usage.setdefault(caller, _Usage()).pending += 1
        shelf.futures[future_id] = future
        if name is not None:
            holders = shelf.names.setdefault(name, {})
            if namer is not None and namer.shared:
                # Taken again by the same caller, or taken over by another one: nobody can tell.
                holders.setdefault(namer, []).append(future)
            else:
                holders[namer] = [future]
        self.pending += 1
        return future

    def check_name(self, scope: Scope, name: object, namer: CallerIdentity | None = None) -> str:
        """The name, if a new future of this caller may take it.

        Raises:
            InvalidName: it could not be referred to. In a scope that is not listed no name can: it would be guessable.
            NameInUse: it belongs to a future that has not ended.
        """
        if (
            not isinstance(name, str)
            or not _NAME.fullmatch(name)
            or _ID.fullmatch(name)
            or not scope.listed
            or name.lower() in _WORDS
        ):
            raise InvalidName(name)
        shelf = self._shelves.get(scope.key)
        if shelf is not None:
            for holder in shelf.names.get(name, {}).get(namer, ()):
                if not holder.done:
                    raise NameInUse(name, holder.id)
        return name

    def own(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        """The future with this ID, or to which this caller gave this name; a leading `$` is tolerated. None if there is
        none.

        Raises:
            AmbiguousName: callers that cannot be told apart gave it to several.
        """
        shelf = self._shelves.get(scope.key)
        if shelf is None:
            return None
        ref = ref.strip().removeprefix("$")
        if (future := shelf.futures.get(ref)) is not None:
            return future
        return _the_one(ref, shelf.names.get(ref, {}).get(namer, ()))

    def find(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        """Like `own`, else the only future to which another caller gave this name, since clients reconnect, else that
        with this ID in small letters.

        Raises:
            AmbiguousName: several others have it.
        """
        future = self.own(scope, ref, namer)
        if future is not None:
            return future
        word = ref.strip().removeprefix("$")
        future = _the_one(word, [each for _, each in self._others(scope, ref, namer)])
        return future or (self.own(scope, word.lower()) if is_id(word.lower()) else None)

    def referred(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        """Like `find`, for a reference in arguments: no name of another session that goes on is taken there, since
        the call that gives it here may still be on its way, and `F1` may be a cell of a spreadsheet.

        Raises:
            AmbiguousName: several have it.
            ForeignName: only such a session has it.
        """
        future = self.own(scope, ref, namer)
        if future is not None:
            return future
        others = self._others(scope, ref, namer)
        if any(namer is not None and not (other is None or other.ended) for other, _ in others):
            raise ForeignName(ref.strip().removeprefix("$"), [each.id for _, each in others])
        return _the_one(ref.strip().removeprefix("$"), [each for _, each in others])

    def _others(
        self, scope: Scope, ref: str, namer: CallerIdentity | None
    ) -> list[tuple[CallerIdentity | None, Future]]:
        """The futures to which other callers gave this name, in order of submission."""
        shelf = self._shelves.get(scope.key)
        holders = shelf.names.get(ref.strip().removeprefix("$"), {}) if shelf is not None else {}
        found = [(other, each) for other, futures in holders.items() if other is not namer for each in futures]
        return sorted(found, key=lambda pair: int(pair[1].id[1:])) if len(found) > 1 else found

    def get(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future:
        """Like `find`.

        Raises:
            AmbiguousName: see `find`.
            UnknownFuture: with the nearest IDs and names there are (none in a scope that is not listed).
        """
        future = self.find(scope, ref, namer)
        if future is None:
            raise UnknownFuture(ref, self._nearest(scope, ref), self.fate(scope, ref))
        return future

    def fate(self, scope: Scope, ref: str) -> str | None:
        """The reason why an ID that was given in this scope has no future here; None if there is no such reason."""
        number = ref.strip().removeprefix("$").lower().removeprefix("f")
        if not scope.listed or not is_id(f"f{number}") or len(number) > 18 or not number.isdigit():
            return None
        shelf = self._shelves.get(scope.key)
        if shelf is None:
            shelf = self._shelves[scope.key] = _Shelf(self._numbers(scope.key))
        return shelf.numbers.fate(int(number))

    def _nearest(self, scope: Scope, ref: str) -> list[str]:
        shelf = self._shelves.get(scope.key)
        if shelf is None or not scope.listed:
            return []
        recent = [future.id for future, _ in zip(self.newest(scope), range(200), strict=False)]
        return nearest(ref.removeprefix("$"), [*shelf.names, *recent]) or recent[:3]

    def newest(self, scope: Scope) -> Iterator[Future]:
        """All futures of a scope, newest first; nothing where the scope is not listed."""
        shelf = self._shelves.get(scope.key)
        if shelf is None or not scope.listed:
            return iter(())
        return reversed(shelf.futures.values())

    def everything(self) -> Iterator[Future]:
        """All futures of all scopes, oldest first within a scope."""
        for shelf in self._shelves.values():
            yield from shelf.futures.values()

    def ended(self, future: Future) -> None:
        """Account for a future that is about to become terminal."""
        future.ended_at = self._clock()
        if future.read_at is not None:  # its caller has waited for it
            future.read_at = future.ended_at
            self._read.append((future.read_at, future))
        self.pending -= 1
        if not future.scope.listed:
            self._unread.append((future.ended_at, future.scope.key, future.id))
            self._usage[future.caller].pending -= 1

    def charge(self, future: Future, held: int) -> None:
        """Count bytes for a future, in place of those that were counted for it before."""
        more, future.held = held - future.held, held
        self.bytes += more
        if not future.scope.listed and (usage := self._usage.get(future.caller)) is not None:
            usage.bytes += more
            if not (usage.bytes or usage.pending):
                del self._usage[future.caller]

    def weigh(self, future: Future, size: int, held: int | None = None) -> None:
        """Account for the result of a future, of `size` bytes as JSON and `held` in memory. Right after it has become
        terminal, before any other is created, which may forget this one: whoever was told of its end has seen a size
        of 0."""
        future.size = size
        self.charge(future, size if held is None else held)

    def mark_read(self, future: Future) -> None:
        """Somebody received the result, or will as soon as it is there; `keep_s` later it may be forgotten."""
        now = self._clock()
        if future.done and future.read_at != now:
            self._read.append((now, future))
        future.read_at = now

    def _forget_read(self, now: float) -> None:
        """Drop results read long ago, and unread ones that nobody may ask for any more. One pass over the front of each
        queue, so the cost is spread over the reads."""
        horizon = now - self._keep_s
        while self._read and self._read[0][0] <= horizon:
            read_at, future = self._read.popleft()
            if future.read_at == read_at:  # else it was read again since, which stands further back
                self._drop(future)
        horizon = now - self._unread_keep_s
        while self._unread and self._unread[0][0] <= horizon:
            _, scope, future_id = self._unread.popleft()
            future = self._shelves[scope].futures.get(future_id) if scope in self._shelves else None
            if future is not None and future.unread:
                self._drop(future)

    def _make_room(self, keep: Collection[str]) -> None:
        """Drop results that were read until the others fit."""
        kept: list[tuple[float, Future]] = []
        while self._read and self.bytes > self._max_bytes:
            entry = self._read.popleft()
            read_at, future = entry
            if future.read_at != read_at:
                continue
            if future.key in keep:
                kept.append(entry)
            else:
                self._drop(future)
        self._read.extendleft(reversed(kept))

    def _check_share(self, caller: CallerIdentity | None) -> None:
        """
        Raises:
            TooManyFutures: this caller fills its share.
        """
        usage = self._usage.get(caller)
        if usage is None:
            return
        share = self._caller_share
        if usage.pending >= max(1, share * self._max_pending):
            what = f"{usage.pending} of your calls have not ended yet"
            raise TooManyFutures(what, f"{share:g} of all", "max_caller_share")
        if usage.bytes > share * self._max_bytes:
            what = f"{usage.bytes} bytes of your results and arguments are stored"
            raise TooManyFutures(what, f"{share:g} of all", "max_caller_share")

    def _drop(self, future: Future) -> None:
        shelf = self._shelves[future.scope.key]
        if shelf.futures.pop(future.id, None) is None:
            return  # read once more by somebody who held it while it was forgotten
        if future.name is not None and (holders := shelf.names.get(future.name)) is not None:
            left = [each for each in holders.get(future.namer, ()) if each is not future]
            if left:
                holders[future.namer] = left
            elif holders.pop(future.namer, None) is not None and not holders:
                del shelf.names[future.name]
        self.charge(future, 0)


def _the_one(name: str, futures: Sequence[Future]) -> Future | None:
    """
    Raises:
        AmbiguousName: there are several.
    """
    if len(futures) > 1:
        raise AmbiguousName(name, [future.id for future in futures])
    return futures[0] if futures else None
