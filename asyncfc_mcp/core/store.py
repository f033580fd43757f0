"""Store of futures: creates them, finds them by ID or name within a scope, and drops them.

Owns IDs, names and the owners of names. `retention` decides which results are dropped and when new calls are refused;
`futures` owns the life-cycle of one future.
"""

import re
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Final, Protocol

from asyncfc_mcp.core.archive import Archive
from asyncfc_mcp.core.futures import RECORD_BYTES, Future, Result
from asyncfc_mcp.core.identity import CallerIdentity, Scope, is_id, party_of
from asyncfc_mcp.core.retention import Retention
from asyncfc_mcp.errors import AmbiguousName, ForeignName, InvalidName, NameInUse, UnknownFuture, nearest

_RESERVED_NAMES: Final = ("all", "this")
"""Values of `_wait`."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


class Numbers(Protocol):
    """Numbers for the future IDs of one scope, each used once."""

    def take(self) -> int:
        """Return the next number."""
        ...

    def fate(self, number: int, earlier: str | None = None) -> str | None:
        """Return the reason why the future of a used number no longer exists; None for an unused number.

        Args:
            earlier: the reason for a number that an earlier run of the program used, where it is known.
        """
        ...


class InMemoryNumbers:
    """Numbers from 1 for each run of the program; none are stored."""

    def __init__(self, scope: str = "") -> None:
        self._last = 0

    def take(self) -> int:
        self._last += 1
        return self._last

    def fate(self, number: int, earlier: str | None = None) -> str | None:
        return "was read long ago and is forgotten" if 0 < number <= self._last else None


@dataclass(slots=True)
class _Shelf:
    """Futures of one scope by ID, in order of submission, and by name."""

    scope: Scope
    numbers: Numbers
    futures: dict[str, Future] = field(default_factory=dict[str, Future])
    names: dict[str, dict[CallerIdentity | None, list[Future]]] = field(
        default_factory=dict[str, dict[CallerIdentity | None, list[Future]]]
    )
    """Name → caller → the last future with the name; all of them where the identity is shared."""


class FutureStore:
    """Creates futures and finds them by ID or name within a scope.

    Args:
        clock: monotonic clock, in seconds.
        max_pending: maximum futures that have not ended, over all scopes.
        max_bytes: maximum memory of results, errors and arguments in bytes, over all scopes; while it is exceeded, new
            calls are refused.
        keep_s: seconds for which a result is kept after it was last read, unless memory is needed. Unread results of a
            listed scope have no such limit; they are dropped only if their values were used and memory is needed.
        unread_keep_s: seconds for which an unread result is kept where the scope is not listed: its ID may be lost.
        caller_share: share of both bounds that one party may fill, so that it cannot block the others (see
            `identity.party_of` and `retention.allowance`).
        numbers: returns the numbers for a scope's IDs, by its key.
        archive: futures that are not in memory; None without one.
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
        numbers: Callable[[str], Numbers] = InMemoryNumbers,
        archive: Archive | None = None,
    ) -> None:
        self._clock = clock
        self._numbers = numbers
        self._archive = archive
        self._shelves: dict[str, _Shelf] = {}
        self._retention = Retention[Future](
            self._drop,
            max_pending=max_pending,
            max_bytes=max_bytes,
            keep_s=keep_s,
            unread_keep_s=unread_keep_s,
            share=caller_share,
        )

    def configure(self, *, max_pending: int, max_bytes: int, keep_s: float, unread_keep_s: float) -> None:
        """Use other bounds from now on."""
        self._retention.configure(
            max_pending=max_pending, max_bytes=max_bytes, keep_s=keep_s, unread_keep_s=unread_keep_s
        )

    @property
    def pending(self) -> int:
        """Number of futures that have not ended."""
        return self._retention.pending

    @property
    def bytes(self) -> int:
        """Bytes that are accounted for all futures."""
        return self._retention.bytes

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
        ttl_s: float | None = None,
    ) -> Future:
        """Create a future in state `waiting`. Where memory is needed, results that were read are dropped, the least
        recently read first.

        Args:
            keep: keys of futures whose results are needed and must not be dropped.
            caller: caller that makes the call.
            namer: caller that owns `name`.
            ttl_s: see `Future.ttl_s`.

        Raises:
            TooManyFutures: a bound is reached; nothing was created.
            InvalidName: `name` could not be referred to.
            NameInUse: `name` belongs to a future of this caller that has not ended.
        """
        now = self._clock()
        self.admit(scope, caller, keep)
        shelf = self._shelf(scope)
        if name is not None:
            self.check_name(scope, name, namer)
        future_id = f"f{shelf.numbers.take()}" if scope.listed else f"f{secrets.token_hex(16)}"
        future = Future(future_id, scope, tool, server, name=name, conversation=conversation, submitted_at=now)
        future.caller, future.namer, future.ttl_s = caller, namer, ttl_s
        self._put(shelf, future)
        self._retention.begin(party_of(scope, caller))
        return future

    def admit(self, scope: Scope, caller: CallerIdentity | None, keep: Collection[str] = ()) -> None:
        """Make room for one more future, without creating it.

        Args:
            keep: see `create`.

        Raises:
            TooManyFutures: a bound is reached.
        """
        self._retention.admit(party_of(scope, caller), self._clock(), lambda future: future.key in keep)

    def restore(self, future: Future, *, named: bool = True) -> None:
        """Add an unfinished future of another run or process, under its ID and name.

        Args:
            named: false where the archive finds it by name.
        """
        self._put(self._shelf(future.scope), future, named=named)
        self._retention.begin(party_of(future.scope, future.caller))

    def forget(self, future: Future) -> None:
        """Drop a future that has ended, and that the archive has."""
        if self._keeps(future):
            self._drop(future)

    def _shelf(self, scope: Scope) -> _Shelf:
        shelf = self._shelves.get(scope.key)
        if shelf is None:
            shelf = self._shelves[scope.key] = _Shelf(scope, self._numbers(scope.key))
        return shelf

    def _put(self, shelf: _Shelf, future: Future, *, named: bool = True) -> None:
        shelf.futures[future.id] = future
        if future.name is not None and named:
            holders = shelf.names.setdefault(future.name, {})
            if future.namer is not None and future.namer.shared:
                # Reused by the same caller or by another one: they cannot be distinguished.
                holders.setdefault(future.namer, []).append(future)
            else:
                holders[future.namer] = [future]

    def check_name(self, scope: Scope, name: object, namer: CallerIdentity | None = None) -> str:
        """Return the name if it can be given to a new future of this caller.

        Raises:
            InvalidName: a reference to it is impossible. Scopes that are not listed have no names: they are guessable.
            NameInUse: it belongs to a future that has not ended.
        """
        if (
            not isinstance(name, str)
            or not _NAME.fullmatch(name)
            or is_id(name)
            or not scope.listed
            or name.lower() in _RESERVED_NAMES
        ):
            raise InvalidName(name)
        shelf = self._shelves.get(scope.key)
        if shelf is not None:
            for holder in shelf.names.get(name, {}).get(namer, ()):
                if not holder.done:
                    raise NameInUse(name, holder.id)
        return name

    def find_own(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        """Return the future with this ID, or with this name of this caller; None without one. A leading `$` is ignored.

        Raises:
            AmbiguousName: callers that cannot be distinguished used the name for several.
        """
        shelf = self._shelves.get(scope.key)
        ref = ref.strip().removeprefix("$")
        if shelf is not None:
            if (future := shelf.futures.get(ref)) is not None:
                return future
            if holders := shelf.names.get(ref, {}).get(namer, ()):
                earlier = self._named(scope, ref, namer) if namer is not None and namer.shared else ()
                return _only(ref, [*(each for each in earlier if each not in holders), *holders])
        if self._archive is None:
            return None
        if is_id(ref):
            return self._archive.find(scope, ref)
        return _only(ref, self._named(scope, ref, namer)) if self._archive.has_names_of(namer) else None

    def with_key(self, key: str) -> Future | None:
        """Return the future with this key (see `identity.FutureKey`); None without one."""
        scope_key, _, future_id = key.rpartition("/")
        shelf = self._shelves.get(scope_key)
        future = None if shelf is None else shelf.futures.get(future_id)
        if future is None and self._archive is not None:
            return self._archive.find(Scope(scope_key) if shelf is None else shelf.scope, future_id)
        return future

    def _named(self, scope: Scope, name: str, namer: CallerIdentity | None = None) -> list[Future]:
        if self._archive is None or not scope.listed or _NAME.fullmatch(name) is None:
            return []
        return self._archive.named(scope, name, namer)

    def find(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        """Like `find_own`; else return the only future with this name of another caller, since clients reconnect; else
        the future with this ID in lower case.

        Raises:
            AmbiguousName: several others have the name.
        """
        self._retention.expire_timed(self._clock())
        future = self.find_own(scope, ref, namer)
        if future is not None:
            return future
        word = ref.strip().removeprefix("$")
        future = _only(word, [each for _, each in self._others(scope, ref, namer)])
        return future or (self.find_own(scope, word.lower()) if is_id(word.lower()) else None)

    def find_referenced(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future | None:
        """Like `find`, for a reference in arguments. Names of other sessions that have not ended are excluded, since
        this session's call with the name may be still in transit; so are IDs in upper case: `F1` may be a spreadsheet
        cell.

        Raises:
            AmbiguousName: several have the name.
            ForeignName: only a session that has not ended has the name.
        """
        future = self.find_own(scope, ref, namer)
        if future is not None:
            return future
        others = self._others(scope, ref, namer)
        if any(namer is not None and not (other is None or other.ended) for other, _ in others):
            raise ForeignName(ref.strip().removeprefix("$"), [each.id for _, each in others])
        return _only(ref.strip().removeprefix("$"), [each for _, each in others])

    def _others(
        self, scope: Scope, ref: str, namer: CallerIdentity | None
    ) -> list[tuple[CallerIdentity | None, Future]]:
        """Return the futures with this name of other callers, in order of submission."""
        shelf = self._shelves.get(scope.key)
        holders = shelf.names.get(ref.strip().removeprefix("$"), {}) if shelf is not None else {}
        found = [(other, each) for other, futures in holders.items() if other is not namer for each in futures]
        if not found:
            found = [(each.namer, each) for each in self._named(scope, ref.strip().removeprefix("$"))]
        return sorted(found, key=lambda pair: int(pair[1].id[1:])) if len(found) > 1 else found

    def get(self, scope: Scope, ref: str, namer: CallerIdentity | None = None) -> Future:
        """Like `find`.

        Raises:
            AmbiguousName: see `find`.
            UnknownFuture: there is none; lists the nearest IDs and names (none in a scope that is not listed).
        """
        future = self.find(scope, ref, namer)
        if future is None:
            raise UnknownFuture(ref, self._nearest(scope, ref), self.fate(scope, ref))
        return future

    def fate(self, scope: Scope, ref: str) -> str | None:
        """Return the reason why a used ID of this scope has no future; None for other texts."""
        word = ref.strip().removeprefix("$").lower()
        number = word[1:]
        # `f01` is never an ID, though `f1` is.
        if not scope.listed or not is_id(word) or len(number) > 18 or not number.isdigit() or number[0] == "0":
            return None
        earlier = None if self._archive is None else self._archive.fate(scope, int(number))
        return self._shelf(scope).numbers.fate(int(number), earlier)

    def _nearest(self, scope: Scope, ref: str) -> list[str]:
        if not scope.listed:
            return []
        recent = [future.id for future, _ in zip(self.newest(scope), range(200), strict=False)]
        shelf = self._shelves.get(scope.key)
        return nearest(ref.removeprefix("$"), [*(shelf.names if shelf is not None else ()), *recent]) or recent[:3]

    def newest(self, scope: Scope) -> Iterator[Future]:
        """Return the futures of a scope, newest first; none where the scope is not listed."""
        self._retention.expire_timed(self._clock())
        if not scope.listed:
            return iter(())
        shelf = self._shelves.get(scope.key)
        known = shelf.futures if shelf is not None else {}
        if self._archive is None:
            return reversed(known.values())
        others = (future for future in self._archive.newest(scope) if future.id not in known)
        return merge(reversed(known.values()), others, key=_number, reverse=True)

    def in_memory(self, scope: Scope) -> list[Future]:
        """Return the futures of a scope without those of the archive, newest first; none where it is not listed."""
        self._retention.expire_timed(self._clock())
        shelf = self._shelves.get(scope.key)
        return [] if shelf is None or not scope.listed else list(reversed(shelf.futures.values()))

    def all(self) -> Iterator[Future]:
        """Yield the futures of all scopes, oldest first within a scope."""
        for shelf in self._shelves.values():
            yield from shelf.futures.values()

    def mark_ended(self, future: Future) -> None:
        """Record the end of a future that is about to become terminal."""
        future.ended_at = self._clock()
        read = future.read_at is not None  # its caller waits for it
        if read:
            future.read_at = future.ended_at
        party, expires = party_of(future.scope, future.caller), not future.scope.listed
        kept_s = future.kept_s(future.ended_at)
        until = None if kept_s is None else future.submitted_at + kept_s
        self._retention.end(future, party, future.ended_at, read=read, expires=expires, until=until)

    def charge(self, future: Future, held: int) -> None:
        """Set the bytes that are accounted for a future."""
        more, future.held = held - future.held, held
        self._retention.charge(party_of(future.scope, future.caller), more)

    def weigh(self, future: Future, size: int, held: int | None = None) -> None:
        """Record the size of a result: `size` bytes as JSON and `held` in memory. Must be called directly after the
        future became terminal, before another is created, which may drop this one; watchers see a size of 0."""
        future.size = size
        self.charge(future, size if held is None else held)

    def mark_read(self, future: Future) -> None:
        """Record that the result was received, or will be as soon as it exists; it may be dropped `keep_s` later."""
        future.read_at = self._clock()
        if future.done and self._keeps(future):
            self._retention.read(future, party_of(future.scope, future.caller), future.read_at)

    def unload(self, future: Future, load: Callable[[Future], Result]) -> None:
        """Free the memory of a result that `load` can read again."""
        future.unload(load)
        if self._keeps(future):
            self.charge(future, RECORD_BYTES)

    def mark_used(self, future: Future) -> None:
        """Record that a call used the value: even if unread, it is dropped before new calls are refused."""
        if self._keeps(future):
            self._retention.use(future)

    def _keeps(self, future: Future) -> bool:
        shelf = self._shelves.get(future.scope.key)
        return shelf is not None and shelf.futures.get(future.id) is future

    def _drop(self, future: Future) -> None:
        self._retention.remove(future, party_of(future.scope, future.caller))
        shelf = self._shelves[future.scope.key]
        del shelf.futures[future.id]
        if future.name is not None and (holders := shelf.names.get(future.name)) is not None:
            left = [each for each in holders.get(future.namer, ()) if each is not future]
            if left:
                holders[future.namer] = left
            elif holders.pop(future.namer, None) is not None and not holders:
                del shelf.names[future.name]
        self.charge(future, 0)


def _number(future: Future) -> int:
    """Return the number in an ID of a scope that is listed."""
    return int(future.id[1:])


def _only(name: str, futures: Sequence[Future]) -> Future | None:
    """Return the only one of the futures; None without one.

    Raises:
        AmbiguousName: there are several.
    """
    if len(futures) > 1:
        raise AmbiguousName(name, [future.id for future in futures])
    return futures[0] if futures else None
