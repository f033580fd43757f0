"""Calls in a journal, also while bridges write to it.

Owns the polling for changes, which costs a look at the file's time where there are none, and the order of calls of
several principals, whose IDs count apart. Leaves reading to the engine, in a thread.
"""

import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from asyncfc_mcp import app
from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.calls.source import Page, Seen, collect, key_of, number_of
from asyncfc_mcp.cli.calls.words import Entry
from asyncfc_mcp.core.call_query import MOST, CallQuery

POLL_S: Final = 0.3
"""Seconds between two looks."""
_KEPT: Final = 4 * MOST
"""Calls whose states are compared."""

States = dict[tuple[str, str], str]


class JournalSource:
    """Finds calls in a file. The user can read all of it, and so calls of all principals are shown.

    Args:
        path: of the journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def title(self) -> str:
        return str(self._path)

    async def newest(self, query: CallQuery, most: int) -> tuple[list[Entry], bool]:
        found: list[Entry] = []
        more = False
        for scope in await self._scopes():
            entries, following = await collect(partial(self._page, scope), query, most)
            found += entries
            more = more or following is not None
        found.sort(key=lambda entry: (words.moment(entry, "submitted_at") or 0.0, number_of(entry)))
        return found[-most:], more or len(found) > most

    async def looks(self, query: CallQuery) -> AsyncIterator[Seen]:
        query = replace(query, limit=MOST)
        written = self._written()
        entries = await self._recent(query, {})
        states = _states(entries)
        yield Seen(entries, changed=False)
        while True:
            await anyio.sleep(POLL_S)
            now = self._written()
            if now == written:
                continue
            written = now
            recent = await self._recent(query, states)
            changed = [entry for entry in recent if states.get(key_of(entry)) != words.state(entry)]
            states |= _states(changed)
            for key in list(states)[: max(0, len(states) - _KEPT)]:
                del states[key]
            if changed:
                yield Seen(changed, changed=True)

    async def _recent(self, query: CallQuery, states: States) -> list[Entry]:
        """Return the newest calls, and those that were unfinished when they were seen last."""
        found: list[Entry] = []
        for scope in await self._scopes():
            entries, _ = await self._page(scope, query)
            found += entries
            least = min(map(number_of, entries), default=0)
            for (of, future_id), state in states.items():
                number = number_of({"id": future_id})
                if of == scope and state not in words.ENDED and number < least:
                    one, _ = await self._page(scope, replace(query, before=f"f{number + 1}", limit=1))
                    found += [entry for entry in one if number_of(entry) == number]
        return found

    async def _scopes(self) -> list[str]:
        return await anyio.to_thread.run_sync(app.recorded_scopes, self._path)

    async def _page(self, scope: str, query: CallQuery) -> Page:
        return await anyio.to_thread.run_sync(app.recorded_calls, self._path, query, scope)

    def _written(self) -> tuple[int, ...]:
        found: list[int] = []
        for path in (self._path, self._path.with_name(self._path.name + "-wal")):
            with suppress(OSError):
                status = os.stat(path)
                found += [status.st_mtime_ns, status.st_size, status.st_ino]
        return tuple(found)


def _states(entries: list[Entry]) -> States:
    return {key_of(entry): words.state(entry) for entry in entries}
