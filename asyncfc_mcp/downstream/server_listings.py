"""The current snapshot of one server, over all of its connections.

Owns merging new listings into the snapshot, their problems, and the question whether listings are known. Fetching them
is left to `listing`, the copy on disk to `listing_cache`.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from asyncfc_mcp.downstream.connection import Connection
from asyncfc_mcp.downstream.listing import ListingFetcher, reusing
from asyncfc_mcp.downstream.snapshot import LISTINGS, ServerSnapshot
from asyncfc_mcp.protocol import CallOptions
from asyncfc_mcp.turns import in_slices

logger = logging.getLogger(__name__)

PAGE_TIMEOUT_S: Final = 60.0
"""Timeout for each page of a listing."""


class ServerListings:
    """The snapshot of one server and the listings of its current connection.

    Args:
        server: name of the server.
        cached: the last snapshot of an earlier run.
        on_change: called with the kind of a listing that changed; returns when clients can see the change.
    """

    def __init__(self, server: str, cached: ServerSnapshot | None, on_change: Callable[[str], Awaitable[None]]) -> None:
        self._server, self._on_change = server, on_change
        self.snapshot = cached or ServerSnapshot()
        self.known = cached is not None
        """True if the tools were listed, in this run or an earlier one."""
        self.cached = self.known
        """True if the tools were listed in an earlier run, or by another replica."""
        self.problems: dict[str, str] = {}
        """Kind of a listing → its fault, for users; empty if there is none."""
        self._fetcher: ListingFetcher | None = None
        self._renamed = False

    def begin(self, connection: Connection, introduced: ServerSnapshot) -> ListingFetcher:
        """Take over a server's description of itself, and prepare the listings of its connection.

        Args:
            introduced: the snapshot of the negotiation, without listings.
        """
        # Tools are listed even if the capability is not declared: some servers omit it.
        kinds = {
            kind: introduced.capabilities.get(capability) is not None
            for kind, (_, capability) in LISTINGS.items()
            if kind == "tools" or introduced.capabilities.get(capability) is not None
        }
        # Its effect profile depends on its name: the catalog is built again, whatever is listed.
        self._renamed = self._renamed or introduced.info.get("name") != self.snapshot.info.get("name")
        self.snapshot = replace(introduced, listings={kind: self.snapshot.listing(kind) for kind in kinds})
        self.problems.clear()
        options: CallOptions = {"timeout": PAGE_TIMEOUT_S}
        send_request = partial(connection.request, options=options)
        self._fetcher = ListingFetcher(send_request, partial(self._on_listing, connection), kinds)
        return self._fetcher

    async def adopt(self, read: ServerSnapshot) -> None:
        """Take over what another replica has read, which runs the server; nothing while there is a connection here."""
        before, known = self.snapshot, self.known
        listings = {
            kind: await in_slices(reusing(kind, before.listing(kind), read.listing(kind)))
            for kind in LISTINGS
            if kind in read.listings
        }
        if self._fetcher is not None:
            return
        renamed = read.info.get("name") != before.info.get("name")
        self.snapshot = replace(read, listings=listings)
        self.problems.clear()
        for kind in LISTINGS:
            first = kind == "tools" and (not known or renamed)
            if first or self.snapshot.listing(kind) != before.listing(kind):
                await self._on_change(kind)
        self.known = self.cached = True

    def succeed(self, before: "ServerListings") -> None:
        """Take over the snapshot of another connection to the same server, as that of an earlier run."""
        self.snapshot = before.snapshot
        self.known = self.cached = True

    def end(self) -> None:
        """Forget the listings of a connection that has ended; the snapshot stays."""
        self._fetcher = None

    async def _on_listing(
        self, connection: Connection, kind: str, entries: list[dict[str, Any]], *, complete: bool, problem: str
    ) -> None:
        """Merge one listing into the snapshot. An incomplete one replaces only a shorter one."""
        if problem and problem != self.problems.get(kind):
            logger.warning("server %r: %s", self._server, problem)
        self.problems[kind] = problem
        if kind == "tools" and connection.modern and connection.transport is not None:
            entries = await in_slices(connection.transport.request_headers.read_tools(self._server, entries))
        old = self.snapshot.listing(kind)
        if complete or len(entries) > len(old):
            entries = await in_slices(reusing(kind, old, entries))
            changed = entries != old or not self.known or (kind == "tools" and self._renamed)
            if kind == "tools":
                self._renamed = False
            self.snapshot = replace(self.snapshot, listings={**self.snapshot.listings, kind: entries})
            if changed:
                await self._on_change(kind)
            # Only now, because the catalog of a known server is expected to have its listings.
            self.known = self.known or kind == "tools"

    def are_known(self, kinds: Iterable[str], *, starting: bool) -> bool:
        """Return whether these listings are known, from this run or an earlier one, or have failed.

        Args:
            starting: the server is starting, here or at another replica.
        """
        if self.cached or starting:
            return self.known
        return self._fetcher is None or all(map(self._fetcher.is_available, kinds))

    @property
    def are_settled(self) -> bool:
        """True if the listings of the current connection are complete, as far as the server has announced changes."""
        return self._fetcher is None or self._fetcher.is_settled

    async def wait_available(self, kinds: Iterable[str]) -> None:
        """Wait until these listings of the current connection are known or have failed."""
        if self._fetcher is not None:
            for kind in kinds:
                await self._fetcher.wait_available(kind)

    def refresh(self, *kinds: str) -> None:
        """Schedule a refresh of these listings of the current connection."""
        if self._fetcher is not None:
            for kind in kinds:
                self._fetcher.refresh(kind)

    async def refresh_after_losses(self, connection: Connection) -> None:
        """Refresh all listings whenever notifications of changes may have been lost."""
        while True:
            await connection.notifications_lost.wait()
            self.refresh(*LISTINGS)
