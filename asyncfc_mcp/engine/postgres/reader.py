"""Reader: brings futures and results of the database into memory, where the store's synchronous look-ups find them.

Owns what has to be asked for. Unfinished futures are in memory already (`mirror`), ended ones are kept in `lookups`.
"""

import logging
from collections.abc import Callable, Collection, Coroutine, Iterator
from typing import Any, Final

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import Scope, future_key, is_id
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.engine.postgres.futures_table import FuturesTable, Row
from asyncfc_mcp.engine.postgres.lookups import LookedUp
from asyncfc_mcp.engine.postgres.mirror import Mirror
from asyncfc_mcp.engine.postgres.results import parsed_in_slices
from asyncfc_mcp.engine.restoration import missing_result

logger = logging.getLogger(__name__)

LISTED: Final = 1_000
"""Bound on the futures of one list."""
SHARED: Final = "host:"
"""Begins the tokens of callers that stand for several, which cannot be told apart."""

LookUp = Callable[[Scope, Collection[str]], Coroutine[Any, Any, None]]
"""Brings the futures of a scope with these IDs into memory."""


class Reader:
    """Reads futures for one replica."""

    def __init__(
        self,
        table: FuturesTable,
        mirror: Mirror,
        store: FutureStore,
        looked_up: LookedUp,
    ) -> None:
        self._table = table
        self._mirror = mirror
        self._store = store
        self._looked_up = looked_up

    async def look_up(self, scope: Scope, refs: Collection[str], *, current: bool = False) -> None:
        """Bring the futures that these IDs and names may mean into memory. Names are always asked for: another replica
        may have given them to another future.

        Args:
            current: unfinished ones are brought to their state of now, which a client may have seen elsewhere.
        """
        words = {ref.strip().removeprefix("$") for ref in refs}
        ids = {word.lower() for word in words if is_id(word.lower())}
        ids = {each for each in ids if not self._is_in_memory(scope, each, current)}
        names = {word for word in words if not is_id(word)} if scope.listed else set[str]()
        if not (ids or names):
            return
        with self._mirror.reading():
            rows = await self._table.find(scope.key, ids, names)
            futures = await self._mirror.futures(rows)
        for name in names:
            found = [row for row in rows if row.record.name == name and row.seq in futures]
            named = [(row.record.namer or "", futures[row.seq]) for row in _latest(found)]
            self._looked_up.set_named(scope, name, named)
        found_keys = {future.key for future in futures.values()}
        if scope.listed and any(future_key(scope, each) not in found_keys for each in ids):
            self._looked_up.set_last_number(scope.key, await self._table.last_number(scope.key))

    def _is_in_memory(self, scope: Scope, future_id: str, current: bool) -> bool:
        future = self._store.with_key(future_key(scope, future_id))
        return future is not None and (future.done or not current)

    async def newest(self, scope: Scope) -> Iterator[Future]:
        """Return the newest futures of a scope, newest first, a bounded number of them."""
        if not scope.listed:
            return iter(())
        with self._mirror.reading():
            rows = await self._table.newest(scope.key, LISTED)
            futures = await self._mirror.futures(rows)
        self._looked_up.set_newest(scope, list(futures.values()))
        return iter(futures.values())

    async def unread(self, scope: Scope, conversation: str) -> list[Future]:
        """Return the futures of a conversation that were not read: those that have ended, then the others, oldest
        first."""
        with self._mirror.reading():
            rows = await self._table.unread(scope.key, conversation)
            ended = list((await self._mirror.futures(rows)).values())
        return [*ended, *self._mirror.unread(scope, conversation)]

    async def load(self, future: Future) -> None:
        """Read a result into memory that is not there."""
        if future.loaded or future.private:
            return
        seq = self._mirror.seq(future)
        if seq is None:
            rows = await self._table.find(future.scope.key, [future.id], [])
            if not rows:
                return
            seq = rows[0].seq
        data = (await self._table.results([seq])).get(seq)
        result = missing_result(future) if data is None else await parsed_in_slices(data)
        if not future.loaded:
            future.result, future.loaded = result, True
            self._looked_up.loaded(future)


def _latest(rows: Collection[Row]) -> list[Row]:
    """Return the rows that have a name, of each owner the last one; of an owner that stands for several callers also
    the last one that has ended."""
    latest: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda each: each.seq):
        owner = row.record.namer or ""
        before = latest.get(owner, []) if owner.startswith(SHARED) else []
        latest[owner] = [*before[-1:], row]
    return sorted((row for rows in latest.values() for row in rows), key=lambda each: each.seq)
