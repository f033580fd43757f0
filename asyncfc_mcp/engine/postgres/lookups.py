"""Looked-up futures: those of the database that this replica has in memory although they have ended.

Implements `core.archive.Archive` over what was looked up before: `PostgresEngine.look_up` asks the database, and the
synchronous look-ups of the store find its answers here. Owns how many are kept. Unfinished futures are the mirror's.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import CallerIdentity, FutureKey, Scope, future_key

K = TypeVar("K")
V = TypeVar("V")

FUTURES: Final = 2_000
"""Bound on the futures that are kept."""
NAMES: Final = 2_000
"""Bound on the names, and on the scopes, of which the last answer is kept."""
RESULT_BYTES: Final = 8 << 20
"""Bound on the results in memory. A model often fetches a result twice, and the database has all of them."""

_FORGOTTEN: Final = "is no longer in the database (settings ttl_s and journal_max_bytes)"


class LookedUp:
    """The last answers of the database.

    Args:
        token: returns what tells a caller from others in records.
        unload: frees the memory of a result.
    """

    def __init__(self, token: Callable[[CallerIdentity | None], str], unload: Callable[[Future], None]) -> None:
        self._token = token
        self._unload = unload
        self._futures: OrderedDict[FutureKey, tuple[Future, int]] = OrderedDict()
        self._named: OrderedDict[tuple[str, str], dict[str, list[Future]]] = OrderedDict()
        self._newest: OrderedDict[str, list[Future]] = OrderedDict()
        self._last_numbers: OrderedDict[str, int] = OrderedDict()
        self._results: OrderedDict[FutureKey, tuple[Future, int]] = OrderedDict()
        """Futures whose results are in memory, each with the bytes that are counted for it."""
        self._result_bytes = 0

    # --- filled by the engine ------------------------------------------------------------------------------------

    def add(self, future: Future, seq: int) -> None:
        """Keep a future that has ended."""
        self._futures[future.key] = future, seq
        self._futures.move_to_end(future.key)
        if future.loaded and future.result is not None and not future.private:
            self.loaded(future)
        while len(self._futures) > FUTURES:
            key, _ = self._futures.popitem(last=False)
            self._uncount(key)

    def loaded(self, future: Future) -> None:
        """Count a result that is in memory as the last one that was used."""
        size = max(future.size, 1)
        self._uncount(future.key)
        self._results[future.key] = future, size
        self._result_bytes += size
        while self._result_bytes > RESULT_BYTES and len(self._results) > 1:
            _, (oldest, size) = self._results.popitem(last=False)
            self._result_bytes -= size
            self._unload(oldest)

    def _uncount(self, key: FutureKey) -> None:
        # By what was counted: a large result is measured only after it was added.
        _, size = self._results.pop(key, (None, 0))
        self._result_bytes -= size

    def set_named(self, scope: Scope, name: str, futures: Iterable[tuple[str, Future]]) -> None:
        """Keep which futures have a name, each with the token of its owner, oldest first."""
        by_owner: dict[str, list[Future]] = {}
        for token, future in futures:
            by_owner.setdefault(token, []).append(future)
        _keep(self._named, (scope.key, name), by_owner)

    def ended(self, future: Future, seq: int) -> None:
        """Keep a future of this replica that has just ended, under its ID and name."""
        self.add(future, seq)
        if future.name is not None:
            named = self._named.get((future.scope.key, future.name), {})
            _keep(self._named, (future.scope.key, future.name), {**named, self._token(future.namer): [future]})

    def set_newest(self, scope: Scope, futures: list[Future]) -> None:
        """Keep the last list of a scope, newest first."""
        _keep(self._newest, scope.key, futures)

    def set_last_number(self, scope: str, number: int) -> None:
        """Keep the last number that was given in a scope."""
        _keep(self._last_numbers, scope, max(number, self._last_numbers.get(scope, 0)))

    def seq(self, key: str) -> int | None:
        """Return the place of a future in the order of submission; None where it is not kept."""
        found = self._futures.get(FutureKey(key))
        return None if found is None else found[1]

    # --- `core.archive.Archive` ----------------------------------------------------------------------------------

    def find(self, scope: Scope, future_id: str) -> Future | None:
        found = self._futures.get(future_key(scope, future_id))
        return None if found is None else found[0]

    def named(self, scope: Scope, name: str, namer: CallerIdentity | None = None) -> list[Future]:
        owners = self._named.get((scope.key, name), {})
        if namer is not None:
            return owners.get(self._token(namer), [])
        # Once, though its owner may have another token in the database than on this replica.
        each_once = {future.key: (token, future) for token, futures in owners.items() for future in futures}
        found = list(each_once.values())
        unfinished = [future for _, future in found if not future.done]
        if unfinished or not found:
            return unfinished
        # Of callers that have ended, those that were there together: a name is often used again later.
        last = _run(max(found, key=lambda each: each[1].ended_at or 0.0)[0])
        return [future for token, future in found if _run(token) == last]

    def has_names_of(self, namer: CallerIdentity | None) -> bool:
        return namer is not None

    def newest(self, scope: Scope) -> Iterator[Future]:
        return iter(self._newest.get(scope.key, ()))

    def fate(self, scope: Scope, number: int) -> str | None:
        return _FORGOTTEN if 0 < number <= self._last_numbers.get(scope.key, 0) else None


class SharedNumbers:
    """Implements `core.store.Numbers` where the database gives the numbers."""

    def __init__(self, scope: str = "") -> None:
        pass

    def take(self) -> int:
        """Never called: a future gets its number when it is written."""
        raise NotImplementedError

    def fate(self, number: int, earlier: str | None = None) -> str | None:
        return earlier


def _run(token: str) -> str:
    """Return the run of a replica in a token; for a caller that is one on all replicas, the caller."""
    return token if ":" in token else token.partition("/")[0]


def _keep(entries: OrderedDict[K, V], key: K, value: V) -> None:
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > NAMES:
        entries.popitem(last=False)
