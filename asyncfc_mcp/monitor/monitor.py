"""Monitor: the record of calls for those that show it, live and past.

Owns who sees which calls: those of the principal's own scope, where that is listed, and of servers that it may use; and
what of a call is hidden. Leaves the shape of an entry to `entries`, the pace of events to `feed`, and the record itself
to the engine. With no reader, a call costs it a few microseconds.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio
import anyio.abc

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.call_query import MOST, CallQuery
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.history import SEARCHED_BYTES, FuturePage, Serves
from asyncfc_mcp.core.identity import Principal, Scope, is_id, is_only_principal
from asyncfc_mcp.core.records import UNFINISHED
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import CallFailed, UnknownFuture
from asyncfc_mcp.monitor.entries import Entry, entry_of
from asyncfc_mcp.monitor.feed import FIRST, OVERVIEW_S, Feed
from asyncfc_mcp.monitor.overview import overview_of
from asyncfc_mcp.monitor.recent_arguments import RecentArguments
from asyncfc_mcp.monitor.savings import Savings, saving
from asyncfc_mcp.monitor.shared import Shared
from asyncfc_mcp.monitor.shortening import shortened
from asyncfc_mcp.monitor.trace_events import TraceEvents
from asyncfc_mcp.monitor.turns_of import TurnsOf
from asyncfc_mcp.slices import Slices
from asyncfc_mcp.turns import in_slices
from asyncfc_mcp.values.large import small_weight
from asyncfc_mcp.values.text import encode

CANCEL_WAIT_S: Final = 2.0
"""Time for a cancelled call to end before its entry is returned."""
RECORDED_S: Final = 60.0
"""Seconds between two looks at the time that recorded calls have saved."""
SEARCHES: Final = 2
"""Pages of calls that are sought at once for one principal."""
SHOWN_IDS: Final = 5
"""Calls that an entry names among those that a call waits for."""
MAX_DRIFT_S: Final = 1.0
"""Difference between both clocks from which the wall clock was set, or the machine has slept."""
PRIVATE: Final = "the tool's setting journal is false"
NOT_KEPT: Final = "they are no longer kept"


@dataclass(frozen=True, slots=True)
class CallPage:
    """Some calls, newest first.

    Args:
        next: what `CallQuery.before` has to be for the calls that follow; None after the last.
    """

    entries: list[Entry]
    next: str | None


class Monitor:
    """The record of calls of one process.

    Args:
        bridge: whose calls; open while `run` runs.
        transport: how clients reach it: `daemon` or `http`.
    """

    def __init__(self, bridge: Bridge, *, transport: str) -> None:
        self._bridge, self._transport = bridge, transport
        self._since = time.time()
        self._offset: float | None = None
        self._savings = Savings()
        self._recorded = Shared(self._saved_by_recorded, RECORDED_S)
        """Scope → time saved by what is recorded."""
        self._searches = TurnsOf[Scope](SEARCHES)
        self._overviews = Shared(self.overview, OVERVIEW_S)
        """Principal → the overview of its feeds."""
        self._arguments = RecentArguments()
        self._feeds: list[Feed] = []
        self._watched: set[Future] = set()
        """Futures whose changes are reported to the feeds."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Take note of calls until cancelled."""
        stop = self._bridge.engine.observe(_Note(self))
        try:
            task_status.started()
            await anyio.sleep_forever()
        finally:
            stop()

    # --- what is asked ---------------------------------------------------------------------------------------------

    async def overview(self, principal: Principal) -> dict[str, Any]:
        """Return the state of the bridge as a principal may see it (see `overview`), with its calls counted."""
        overview = await overview_of(
            self._bridge, principal, transport=self._transport, since=self._since, now=time.time()
        )
        counts = await in_slices(self._counting(principal))
        saved = await self._saved(principal)
        place = self._bridge.engine.recorded_in() if is_only_principal(principal.scope) else None
        journal = None if place is None else {"path": str(place[0]), "bytes": place[1]}
        return {**overview, "saved": saved, "counts": counts, "journal": journal}

    def _counting(self, principal: Principal) -> Slices[dict[str, int]]:
        """Count the calls that have not ended, by their states."""
        scope, touches = principal.scope, self._bridge.views.of(principal).touches
        counts = {state.value: 0 for state in UNFINISHED}
        for number, call in enumerate(self._bridge.engine.unfinished):
            future = call.future
            if scope.listed and not future.done and future.scope == scope and touches(future.server):
                counts[future.state.value] += 1
            if number % 256 == 0:
                yield
        return counts

    async def _saved_by_recorded(self, scope: Scope) -> dict[str, Any] | None:
        runs = await self._bridge.engine.recorded_runs(scope, 0.0)
        return None if runs is None else await in_slices(saving(runs, time.time()))

    async def _saved(self, principal: Principal) -> dict[str, Any]:
        """Return the time saved: of this run, and of all that is recorded, which is looked at now and then."""
        scope = principal.scope
        if not scope.listed:
            return await in_slices(Savings().of(scope.key, 0.0))  # of clients that must not learn of each other
        saved = await in_slices(self._savings.of(scope.key, anyio.current_time()))
        if (recorded := await self._recorded.get(scope)) is not None:
            saved |= {word: max(recorded[word], saved[word]) for word in ("day", "all")}
            for word, calls in recorded["calls"].items():
                saved["calls"][word] = max(calls, saved["calls"][word])
        return saved

    async def calls(self, principal: Principal, query: CallQuery) -> CallPage:
        """Return a page of calls, newest first: of memory, and of what outlives it. A page may have fewer calls than
        the query's limit and still a `next`, since a search in the past ends after some seconds."""
        scope, engine = principal.scope, self._bridge.engine
        if not scope.listed:
            return CallPage([], None)
        serves = self._bridge.views.of(principal).touches
        async with self._searches.turn(scope):
            past = await engine.history(scope, query, serves)
            return await in_slices(self._paging(query, engine.in_memory(scope), past, serves))

    async def call(self, principal: Principal, future_id: str) -> Entry:
        """Return the entry of a call with its `arguments` and its `result`, or the reason for which they are `hidden`;
        shortened if they are large (`truncated`).

        Raises:
            UnknownFuture: there is no such call, or the principal may not see it.
        """
        future = await self._future(principal, future_id)
        if future.private:
            return {**self._entry(future), "hidden": PRIVATE}
        result = None
        if future.done and future.has_result:
            await self._bridge.engine.load(future)
            result = future.result  # read before the entry: one that is an error has the text of its failure
        entry = self._entry(future)
        unfinished = self._bridge.engine.unfinished_call(future)
        if unfinished is not None and not unfinished.elsewhere:
            made, arguments = True, unfinished.arguments
        elif future.key in self._arguments:
            made, arguments = True, self._arguments.get(future.key)
        else:
            call = await self._bridge.engine.recorded_call(future)
            made, arguments = call is not None, None if call is None else call.arguments
        if made:
            entry["arguments"], cut = shortened(arguments)
            entry |= {"truncated": True} if cut else {}
        else:
            entry["hidden"] = NOT_KEPT
        if result is not None:
            entry["result"], cut = shortened(result)
            entry |= {"truncated": True} if cut else {}
        return entry

    async def cancel(self, principal: Principal, future_id: str) -> Entry:
        """Cancel a call; return its entry once it has ended, or after `CANCEL_WAIT_S`.

        Raises:
            UnknownFuture: see `call`.
        """
        future = await self._future(principal, future_id)
        if not future.done:
            await self._bridge.engine.cancel(future)
            await self._bridge.engine.wait([future], timeout_s=CANCEL_WAIT_S)
        return self._entry(future)

    async def export(self, principal: Principal, query: CallQuery, form: str) -> AsyncGenerator[bytes]:
        """Yield all calls that a query means as a file, newest first: `jsonl`, an entry for each line; or `trace`, a
        Chrome trace, which Perfetto shows as well."""
        pages = self._pages(principal, query)
        if form == "trace":
            trace = TraceEvents(time.time())
            async for page in pages:
                yield await in_slices(trace.writing(page.entries))
            yield trace.end()
        else:
            async for page in pages:
                if page.entries:
                    yield b"".join(encode(entry) + b"\n" for entry in page.entries)

    async def _pages(self, principal: Principal, query: CallQuery) -> AsyncGenerator[CallPage]:
        query = replace(query, limit=MOST)
        while True:
            page = await self.calls(principal, query)
            yield page
            if page.next is None:
                return
            query = query.after(page.next)

    @asynccontextmanager
    async def _feeding(self, principal: Principal) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
        async def present() -> dict[str, Any]:
            page = await self.calls(principal, CallQuery(limit=FIRST))
            return {"entries": page.entries, "older": page.next is not None}

        async def changed(futures: list[Future]) -> dict[str, Any]:
            return {"entries": await in_slices(self._entries(principal, futures))}

        async def overview() -> dict[str, Any]:
            return {**await self._overviews.get(principal), "now": time.time()}

        feed = Feed(principal.scope, present, changed, overview)
        if not self._feeds:
            for call in self._bridge.engine.unfinished:
                self._watch(call.future)
        self._feeds.append(feed)
        try:
            yield feed
        finally:
            self._feeds.remove(feed)
            if not self._feeds:
                for future in list(self._watched):
                    self._unwatch(future)

    def feed(self, principal: Principal) -> AbstractAsyncContextManager[AsyncIterator[dict[str, Any]]]:
        """Return the events of one reader: the present calls, the overview, then what changes (see `feed`)."""
        return self._feeding(principal)

    # --- who sees what ---------------------------------------------------------------------------------------------

    def _shows(self, principal: Principal, future: Future) -> bool:
        scope = principal.scope
        return scope.listed and future.scope == scope and self._bridge.views.of(principal).touches(future.server)

    async def _future(self, principal: Principal, future_id: str) -> Future:
        if principal.scope.listed and is_id(future_id):
            future = await self._bridge.engine.find(principal.scope, future_id)
            if future is not None and self._shows(principal, future):
                return future
        raise UnknownFuture(future_id, [])

    # --- entries ---------------------------------------------------------------------------------------------------

    @property
    def _offset_s(self) -> float:
        """Added to a time of the engine's clock, gives that of the wall clock; the same until one of them was set."""
        offset = time.time() - anyio.current_time()
        if self._offset is None or abs(offset - self._offset) > MAX_DRIFT_S:
            self._offset = offset
        return self._offset

    def _entry(self, future: Future) -> Entry:
        if future.done:
            return entry_of(future, self._offset_s)
        call = self._bridge.engine.unfinished_call(future)
        waiting_for = self._bridge.waiting_for(future, SHOWN_IDS)
        return entry_of(future, self._offset_s, waiting_for, elsewhere=call is not None and call.elsewhere)

    def _entries(self, principal: Principal, futures: list[Future]) -> Slices[list[Entry]]:
        entries: list[Entry] = []
        for future in futures:
            if self._shows(principal, future):
                entries.append(self._entry(future))
            yield
        return entries

    def _paging(self, query: CallQuery, present: list[Future], past: FuturePage, serves: Serves) -> Slices[CallPage]:
        """Return the page of futures in memory that a query means and of those that were found outside of it; of a
        future that is both, the one in memory counts."""
        offset_s = self._offset_s
        elsewhere = {future.id: future for future in past.futures}
        found: list[Future] = []
        for number, future in enumerate(present):
            if number % 64 == 0:
                yield
            recorded = elsewhere.pop(future.id, None) is not None
            if not serves(future.server):
                continue
            if len(found) > query.limit or (past.until is not None and int(future.id[1:]) < past.until):
                continue  # only takes out of the others what is in memory
            if not query.accepts(
                future_id=future.id,
                server=future.server,
                tool=future.tool,
                state=future.state,
                submitted_at=future.submitted_at + offset_s,
            ):
                continue
            if query.text and not recorded:
                yield
                if not query.finds_in(future) and not query.finds_in_json(*self._values(future)):
                    continue
            found.append(future)
        found = sorted([*found, *elsewhere.values()], key=lambda future: -int(future.id[1:]))
        entries: list[Entry] = []
        for future in found[: query.limit]:
            entries.append(self._entry(future))
            yield
        if len(found) > query.limit:
            return CallPage(entries, entries[-1]["id"])
        return CallPage(entries, None if past.until is None else f"f{past.until}")

    def _values(self, future: Future) -> list[str]:
        """Return arguments and result of a call as text, as far as they are in memory and may be shown."""
        if future.private:
            return []
        call = self._bridge.engine.unfinished_call(future)
        arguments = self._arguments.get(future.key) if call is None else call.arguments
        values: list[Any] = [arguments] if arguments and small_weight(arguments) is not None else []
        if future.done and future.loaded and future.size <= SEARCHED_BYTES and future.result is not None:
            values.append(future.result)
        return [encode(value).decode() for value in values]

    # --- what is reported ------------------------------------------------------------------------------------------

    def on_change(self, future: Future) -> None:
        """Take note that a call has changed."""
        for feed in self._feeds:
            feed.mark(future)

    def on_accepted(self, future: Future) -> None:
        """Take note of a new call."""
        if self._feeds:
            self._watch(future)
            self.on_change(future)

    def on_end(self, call: Call) -> None:
        """Take note of a call that has ended."""
        future = call.future
        self._savings.add(future)
        self._arguments.add(future, call.arguments)
        if self._feeds:
            self._unwatch(future)
            self.on_change(future)

    def _watch(self, future: Future) -> None:
        if future not in self._watched:
            self._watched.add(future)
            future.watchers.append(self.on_change)

    def _unwatch(self, future: Future) -> None:
        if future in self._watched:
            self._watched.discard(future)
            if self.on_change in future.watchers:
                future.watchers.remove(self.on_change)


class _Note:
    """Passes an engine's reports on (`engine.observer.Observer`)."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def submitted(self, call: Call) -> None:
        self._monitor.on_accepted(call.future)

    def waiting(self, call: Call) -> None:
        self._monitor.on_change(call.future)

    def queued(self, call: Call) -> None:
        self._monitor.on_change(call.future)

    def starting(self, call: Call) -> None:
        self._monitor.on_change(call.future)

    def retrying(self, call: Call, failure: CallFailed, pause_s: float) -> None:
        self._monitor.on_change(call.future)

    def ended(self, call: Call) -> None:
        self._monitor.on_end(call)

    def read(self, future: Future) -> None:
        self._monitor.on_change(future)
