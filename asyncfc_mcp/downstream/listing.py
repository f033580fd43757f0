"""The listings of one connection to a server: each is fetched page by page, and again when it changes.

Owns the limits (pages, entries, bytes, time), cursors, and the rate of refreshes. The listings are independent: one
that fails or is slow affects neither the server nor its other listings. Merging them into the snapshot is left to
`server_listings`.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, cast

import anyio
from pydantic_core import to_json

from asyncfc_mcp.core.backoff import Backoff, Throttle
from asyncfc_mcp.downstream.snapshot import LISTINGS
from asyncfc_mcp.errors import ConnectionEnded, RpcError, TransportFailure
from asyncfc_mcp.protocol import METHOD_NOT_FOUND
from asyncfc_mcp.quotation import said
from asyncfc_mcp.slices import Slices, each
from asyncfc_mcp.turns import in_slices
from asyncfc_mcp.values.text import without_surrogates

MAX_PAGES: Final = 5000
MAX_ENTRIES: Final = 20_000
MAX_LISTING_BYTES: Final = 64 << 20
LISTING_TIMEOUT_S: Final = 120.0
"""Limits of one listing; the entries received until then are kept."""
PARTIAL_AFTER_S: Final = 2.0
"""A listing whose pages take longer is published in part, and completed later."""
MAX_EMPTY_PAGES: Final = 10
"""A listing ends after this number of consecutive pages without an entry."""
REFRESH_S: Final = (0.1, 10.0)
"""First and longest pause between refreshes of a listing whose server keeps announcing changes."""
RETRY_S: Final = (5.0, 300.0)
"""First and longest delay before a failed listing is fetched again without an announcement."""

Json = dict[str, Any]
SendRequest = Callable[[str, Mapping[str, Any]], Awaitable[Json]]
"""Sends a request and returns its result. Raises RpcError."""


class OnListing(Protocol):
    """Publishes a listing, and returns when clients can see it.

    Args:
        kind: the key of the entries in a page.
        entries: the entries received.
        complete: False if entries are missing, because the listing failed or is still in progress.
        problem: the fault of the listing, for users; empty if there is none.
    """

    async def __call__(self, kind: str, entries: list[Json], *, complete: bool, problem: str) -> None: ...


IDENTITY_FIELDS: Final[Mapping[str, str]] = {
    "tools": "name",
    "prompts": "name",
    "resources": "uri",
    "resourceTemplates": "uriTemplate",
}
"""Kind of a listing → field that identifies an entry."""


def reusing(kind: str, old: list[Json], new: list[Json]) -> Slices[list[Json]]:
    """Return the new entries, with the old objects for unchanged ones, so that data derived from them stays valid."""
    field = IDENTITY_FIELDS[kind]
    known = {entry[field]: entry for entry in old if isinstance(entry.get(field), str)}

    def same(entry: Json) -> Json:
        before = known.get(entry[field]) if isinstance(entry.get(field), str) else None
        return before if before is not None and (before is entry or before == entry) else entry

    return each(map(same, new), 50)


class _Pages:
    """Collects the pages of one listing."""

    def __init__(self, kind: str) -> None:
        self._kind, self._field = kind, IDENTITY_FIELDS[kind]
        self.entries: list[Json] = []
        self.cursor: str | None = None
        self.problem = ""
        """The reason for which entries may be missing; empty if there is none."""
        self._seen: set[str] = set()
        self._cursors: set[str] = set()
        self._bytes = 0
        self._pages = self._empty = 0

    def add(self, page: Json) -> Slices[bool]:
        """Add one page; return whether there is another page to fetch."""
        self._pages += 1
        entries = page.get(self._kind)
        # All received bytes count: fields beside the entries here, invalid and repeated entries below.
        self._bytes += _measured({key: value for key, value in page.items() if key != self._kind})[1]
        if not isinstance(entries, list):
            self.problem = f"its result has no list of {self._kind}"
            return False
        before = len(self.entries)
        for number, entry in enumerate(cast("list[Any]", entries)):
            if not self._add_entry(entry):
                return False
            if number % 50 == 0:
                yield
        self._empty = 0 if entries else self._empty + 1
        cursor = page.get("nextCursor")
        if cursor is None or cursor == "":
            return False
        if not isinstance(cursor, str):
            self.problem = "its nextCursor is not text"
        elif cursor in self._cursors:
            self.problem = "its pages repeat"
        elif (entries and len(self.entries) == before) or self._empty >= MAX_EMPTY_PAGES:
            self.problem = "its pages have no new entries"
        elif self._pages >= MAX_PAGES:
            self.problem = f"it has more than {MAX_PAGES} pages"
        else:
            self._cursors.add(cursor)
            self.cursor = cursor
            return True
        return False

    def _add_entry(self, entry: Any) -> bool:
        """Count an entry and keep it if it is valid and new; return False if the listing exceeds its limits."""
        entry, size = _measured(entry)
        self._bytes += size
        new = isinstance(entry, dict) and self._is_new(cast("Json", entry))
        if self._bytes > MAX_LISTING_BYTES or (new and len(self.entries) >= MAX_ENTRIES):
            self.problem = f"it has more than {MAX_ENTRIES} entries or {MAX_LISTING_BYTES >> 20} MB"
            return False
        if new:
            self.entries.append(cast("Json", entry))
        return True

    def _is_new(self, entry: Json) -> bool:
        identity = entry.get(self._field)
        if isinstance(identity, str):
            if identity in self._seen:
                return False
            self._seen.add(identity)
        return True


def _measured(value: Any) -> tuple[Any, int]:
    """Return a value in a form that JSON can carry, and its size in bytes."""
    try:
        return value, len(to_json(value))
    except ValueError:  # text that UTF-8 cannot encode
        value = without_surrogates(value)
        return value, len(str(value))


class ListingFetcher:
    """Fetches all listings of one connection.

    Args:
        send_request: sends a request to the server.
        on_listing: called with each listing, in part or complete.
        kinds: kinds to fetch → whether the server has declared the capability.
    """

    def __init__(self, send_request: SendRequest, on_listing: OnListing, kinds: Mapping[str, bool]) -> None:
        self._send_request, self._on_listing = send_request, on_listing
        self._kinds = kinds
        self._stale = {kind: anyio.Event() for kind in kinds}
        """Kind → set when the listing has to be fetched again."""
        self._available = {kind: anyio.Event() for kind in kinds}
        """Kind → set when the first listing is published or has failed."""
        self._running: set[str] = set()
        """Kinds that are being fetched."""
        self.connection_ended: ConnectionEnded | None = None
        """Set when the connection has ended during a listing."""

    async def run(self) -> None:
        """Fetch all listings, and again those that change or fail, until cancelled."""
        async with anyio.create_task_group() as tg:
            for kind in self._kinds:
                tg.start_soon(self._keep_fresh, kind)

    def refresh(self, kind: str) -> None:
        """Schedule a refresh of one kind; at most one runs and one is pending."""
        if kind in self._stale:
            self._stale[kind].set()

    def is_available(self, kind: str) -> bool:
        """Return whether `wait_available` returns at once."""
        return kind not in self._available or self._available[kind].is_set()

    @property
    def is_settled(self) -> bool:
        """True if every listing was fetched or has failed, and none is to be fetched again because it has changed."""
        return not self._running and all(
            self.is_available(kind) and not self._stale[kind].is_set() for kind in self._kinds
        )

    async def wait_available(self, kind: str) -> None:
        """Wait until one kind is listed, at least in part, or has failed, or the connection has ended."""
        if kind in self._available:
            await self._available[kind].wait()

    async def _keep_fresh(self, kind: str) -> None:
        throttle, retry = Throttle(*REFRESH_S), Backoff(*RETRY_S)
        while True:
            self._stale[kind] = anyio.Event()
            self._running.add(kind)
            failed = await self._fetch(kind)
            self._running.discard(kind)
            if self.connection_ended is not None:
                return
            throttle.record_run(anyio.current_time())
            if not failed:
                retry.reset()
            with anyio.move_on_after(retry.next() if failed else None):
                await self._stale[kind].wait()
            await anyio.sleep(throttle.remaining(anyio.current_time()))

    async def _fetch(self, kind: str) -> bool:
        """Fetch and publish one listing; return whether it failed and should be retried."""
        method, _ = LISTINGS[kind]
        available, pages, began = self._available[kind], _Pages(kind), anyio.current_time()
        failed = False
        while True:
            try:
                page = await self._send_request(method, {} if pages.cursor is None else {"cursor": pages.cursor})
            except ConnectionEnded as exc:
                self.connection_ended = exc
                available.set()
                return False
            except RpcError as exc:
                failed = exc.code != METHOD_NOT_FOUND
                if failed or (kind == "tools" and self._kinds[kind]):
                    pages.problem = _describe(exc)
                break
            if not await in_slices(pages.add(page)):
                break
            taken = anyio.current_time() - began
            if taken > LISTING_TIMEOUT_S:
                pages.problem = f"its pages take longer than {LISTING_TIMEOUT_S:g} s"
                break
            if taken > PARTIAL_AFTER_S and not available.is_set():
                problem = f"{method}: more pages are being fetched"
                await self._on_listing(kind, list(pages.entries), complete=False, problem=problem)
                available.set()
        problem = f"{method}: {pages.problem}" if pages.problem else ""
        await self._on_listing(kind, pages.entries, complete=not failed, problem=problem)
        available.set()
        return failed


def _describe(exc: RpcError) -> str:
    return exc.message if isinstance(exc, TransportFailure) else f"{said(exc.message)} (JSON-RPC error {exc.code})"
