"""Reader: brings futures and results of the database into memory, where the store's synchronous look-ups find them.

Owns what has to be asked for. Unfinished futures are in memory already (`mirror`), ended ones are kept in `lookups`.
"""

import logging
from collections.abc import Callable, Collection, Coroutine, Iterator
from time import monotonic
from typing import Any, Final

import anyio.lowlevel

from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.history import MOST_RUNS, SEARCH_S, SEARCHED_BYTES, FuturePage, RecordedRun, Serves
from asyncfc_mcp.core.identity import Scope, future_key, is_id
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.engine.postgres.futures_table import CHUNK, FuturesTable, Row
from asyncfc_mcp.engine.postgres.lookups import LookedUp
from asyncfc_mcp.engine.postgres.mirror import Mirror
from asyncfc_mcp.engine.postgres.results import parsed_in_slices
from asyncfc_mcp.engine.restoration import Restoration, missing_result

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
        restoration: Restoration,
    ) -> None:
        self._restoration = restoration
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

    async def history(self, scope: Scope, query: CallQuery, serves: Serves) -> FuturePage:
        """Return the futures of a scope that have ended and that a query means, newest first."""
        deadline, below = monotonic() + SEARCH_S, None
        found: list[Future] = []
        while scope.listed:
            rows = await self._table.ended(scope.key, query, below)
            made = [(row, self._restoration.future(row.record)) for row in rows if serves(row.record.server)]
            found += await self._with_text(query, made) if query.text else [future for _, future in made]
            if len(found) > query.limit:
                found = found[: query.limit + 1]
                return FuturePage(found, int(found[-1].id[1:]))
            if len(rows) < CHUNK:
                break
            below = rows[-1].seq
            if monotonic() > deadline:
                return FuturePage(found, int(rows[-1].record.id[1:]))
        return FuturePage(found, None)

    async def _with_text(self, query: CallQuery, made: Collection[tuple[Row, Future]]) -> list[Future]:
        """Return the futures that have the text of a query, in their results as well; calls are not kept after their
        end."""
        sought = [row.seq for row, _ in made if row.record.has_result and row.record.size <= SEARCHED_BYTES]
        results = await self._table.results(sought)
        found: list[Future] = []
        for row, future in made:
            text = results.get(row.seq)
            if query.finds_in(future) or (text is not None and query.finds_in_json(text.decode("utf-8", "replace"))):
                found.append(future)
            await anyio.lowlevel.checkpoint()
        return found

    async def runs(self, scope: Scope, since: float) -> list[RecordedRun]:
        """Return the runs of a scope's calls that have ended since a time of the wall clock."""
        return [RecordedRun(*run) for run in await self._table.runs(scope.key, since, MOST_RUNS)]

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
