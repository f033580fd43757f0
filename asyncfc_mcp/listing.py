"""The listings of one connection to a server: each fetched page by page, for itself, and again when it changes.

Owns the bounds (pages, entries, bytes, time), cursors, and the pace at which a server is asked again. One listing that
fails or is slow costs neither the server nor its other listings anything. Leaves to others what a listing means.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, cast

import anyio
from pydantic_core import to_json

from asyncfc_mcp.backoff import Brake
from asyncfc_mcp.codec import carried
from asyncfc_mcp.errors import ConnectionEnded, RpcError, TransportFailure
from asyncfc_mcp.offers import LISTINGS
from asyncfc_mcp.protocol import METHOD_NOT_FOUND

PAGE_CAP: Final = 5000
ENTRY_CAP: Final = 20_000
BYTES_CAP: Final = 64 << 20
LISTING_S: Final = 120.0
"""Bounds of one listing; what came until then is kept."""
SHOWN_AFTER_S: Final = 2.0
"""A listing whose pages take longer is used as far as it has come, and completed later."""
EMPTY_PAGES: Final = 10
"""A listing ends after so many pages in a row without an entry."""
REFRESH_S: Final = (0.1, 10.0)
"""First and longest pause between two refreshes of a listing whose server keeps announcing changes."""
RETRY_S: Final = (5.0, 300.0)
"""First and longest pause before a listing that failed is asked for again without an announcement."""

Json = dict[str, Any]
Ask = Callable[[str, Mapping[str, Any]], Awaitable[Json]]
"""Sends a request and returns its result. Raises RpcError."""


Prepare = Callable[[str, list[Json]], Awaitable[list[Json]]]
"""Takes the kind and the entries of a listing, and returns the entries that are to be passed on."""


class Came(Protocol):
    """Takes a listing.

    Args:
        kind: the key of its result.
        entries: those that came.
        complete: False if more would have come, had it not failed or were it not still going on.
        problem: what is wrong with it, in words; empty if nothing is.
    """

    def __call__(self, kind: str, entries: list[Json], *, complete: bool, problem: str) -> None: ...


IDENTITY: Final[Mapping[str, str]] = {
    "tools": "name",
    "prompts": "name",
    "resources": "uri",
    "resourceTemplates": "uriTemplate",
}
"""Kind of a listing → the field by which its entries differ."""


def kept(kind: str, old: list[Json], new: list[Json]) -> list[Json]:
    """The new entries, but those that did not change are the old objects, so that what is derived from them stays."""
    field = IDENTITY[kind]
    known = {entry[field]: entry for entry in old if isinstance(entry.get(field), str)}

    def same(entry: Json) -> Json:
        before = known.get(entry[field]) if isinstance(entry.get(field), str) else None
        return before if before is not None and (before is entry or before == entry) else entry

    return [same(entry) for entry in new]


class _Pages:
    """The pages of one listing, as far as they have come."""

    def __init__(self, kind: str) -> None:
        self._kind, self._field = kind, IDENTITY[kind]
        self.entries: list[Json] = []
        self.cursor: str | None = None
        self.problem = ""
        """Why there may be more than what came."""
        self._seen: set[str] = set()
        self._cursors: set[str] = set()
        self._bytes = 0
        self._pages = self._empty = 0

    def add(self, page: Json) -> bool:
        """Take one page; True if there is a next one to ask for."""
        self._pages += 1
        entries = page.get(self._kind)
        if not isinstance(entries, list):
            self.problem = f"its result has no list of {self._kind}"
            return False
        before = len(self.entries)
        for entry in cast("list[Any]", entries):
            if isinstance(entry, dict) and not self._add(cast("Json", entry)):
                return False
        self._empty = 0 if entries else self._empty + 1
        cursor = page.get("nextCursor")
        if cursor is None or cursor == "":
            return False
        if not isinstance(cursor, str):
            self.problem = "its nextCursor is not text"
        elif cursor in self._cursors:
            self.problem = "its pages repeat"
        elif (entries and len(self.entries) == before) or self._empty >= EMPTY_PAGES:
            self.problem = "its pages bring nothing new"
        elif self._pages >= PAGE_CAP:
            self.problem = f"it has more than {PAGE_CAP} pages"
        else:
            self._cursors.add(cursor)
            self.cursor = cursor
            return True
        return False

    def _add(self, entry: Json) -> bool:
        identity = entry.get(self._field)
        if isinstance(identity, str):
            if identity in self._seen:
                return True
            self._seen.add(identity)
        try:
            size = len(to_json(entry))
        except ValueError:  # text that UTF-8 cannot carry
            entry = carried(entry)
            size = len(str(entry))
        self._bytes += size
        if len(self.entries) >= ENTRY_CAP or self._bytes > BYTES_CAP:
            self.problem = f"it has more than {ENTRY_CAP} entries or {BYTES_CAP >> 20} MB"
            return False
        self.entries.append(entry)
        return True


class Listings:
    """All listings of one connection.

    Args:
        ask: sends a request to the server.
        came: takes what was listed, each time.
        kinds: those that the server has; the keys of their results.
        prepare: does what takes long with the entries, before they are passed on, and returns those to be passed on.
    """

    def __init__(self, ask: Ask, came: Came, kinds: Mapping[str, bool], prepare: Prepare | None = None) -> None:
        self._ask, self._came, self._prepare = ask, came, prepare
        self._kinds = kinds
        """Kind → whether the server says that it has it."""
        self._wanted = {kind: anyio.Event() for kind in kinds}
        self._first = {kind: anyio.Event() for kind in kinds}
        self.ended: ConnectionEnded | None = None
        """The connection ended while something was listed."""

    async def run(self) -> None:
        """List everything, and again what changes or failed, until cancelled."""
        async with anyio.create_task_group() as tg:
            for kind in self._kinds:
                tg.start_soon(self._keep, kind)

    def refresh(self, kind: str) -> None:
        """List this kind again, soon; one refresh runs and at most one waits."""
        if kind in self._wanted:
            self._wanted[kind].set()

    def has(self, kind: str) -> bool:
        """Whether `first` would return at once."""
        return kind not in self._first or self._first[kind].is_set()

    async def first(self, kind: str) -> None:
        """Return when this kind was listed, in part at least, or failed, or the connection ended."""
        if kind in self._first:
            await self._first[kind].wait()

    async def _keep(self, kind: str) -> None:
        brake, retry = Brake(*REFRESH_S), RETRY_S[0]
        while True:
            self._wanted[kind] = anyio.Event()
            again = await self._list(kind)
            if self.ended is not None:
                return
            brake.ran()
            with anyio.move_on_after(retry if again else None):
                await self._wanted[kind].wait()
            retry = min(2 * retry, RETRY_S[1]) if again else RETRY_S[0]
            await anyio.sleep(brake.left())

    async def _list(self, kind: str) -> bool:
        """Fetch one listing and pass it on; True if it failed and is to be tried again."""
        method, _ = LISTINGS[kind]
        first, pages, began = self._first[kind], _Pages(kind), anyio.current_time()
        failed = False
        while True:
            try:
                page = await self._ask(method, {} if pages.cursor is None else {"cursor": pages.cursor})
            except ConnectionEnded as exc:
                self.ended = exc
                first.set()
                return False
            except RpcError as exc:
                failed = exc.code != METHOD_NOT_FOUND
                if failed or (kind == "tools" and self._kinds[kind]):
                    pages.problem = _words(exc)
                break
            if not pages.add(page):
                break
            taken = anyio.current_time() - began
            if taken > LISTING_S:
                pages.problem = f"its pages take longer than {LISTING_S:g} s"
                break
            if taken > SHOWN_AFTER_S and not first.is_set():
                entries = await self._prepared(kind, list(pages.entries))
                self._came(kind, entries, complete=False, problem=f"{method}: more pages are to come")
                first.set()
        problem = f"{method}: {pages.problem}" if pages.problem else ""
        self._came(kind, await self._prepared(kind, pages.entries), complete=not failed, problem=problem)
        first.set()
        return failed

    async def _prepared(self, kind: str, entries: list[Json]) -> list[Json]:
        return entries if self._prepare is None else await self._prepare(kind, entries)


def _words(exc: RpcError) -> str:
    return exc.message if isinstance(exc, TransportFailure) else f"{exc.message} (JSON-RPC error {exc.code})"
