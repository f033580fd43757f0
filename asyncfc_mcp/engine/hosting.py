"""Interface between the bridge and an engine of several replicas, for servers of which one replica at a time runs each.

Pure interface. Owns no decision which replica that is. An engine whose process runs every server has no hosting.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import Scope
from asyncfc_mcp.signals import Signal


@dataclass(frozen=True, slots=True)
class RelayedRequest:
    """A request to a server of a client of some replica."""

    server: str
    method: str
    params: Mapping[str, Any]
    scope: Scope | None = None
    """Principal of the client; None for what the replica itself asks for."""
    replica: str = ""
    """ID of the replica that asks; given by the relay."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """A notification of a server, for clients of other replicas."""

    server: str
    method: str
    params: Mapping[str, Any]
    scope: Scope | None = None
    """The only principal that has used the server; None if nobody has."""


class Hosting(Protocol):
    """Servers of which one replica at a time runs each (setting `owner`), as one replica sees them."""

    @property
    def servers(self) -> frozenset[str]:
        """Their names. Every other server is run, or called, by each replica."""
        ...

    @property
    def moved(self) -> Signal:
        """Notified when `runs` answers differently for a server."""
        ...

    def runs(self, server: str) -> bool:
        """Return whether this replica runs a server."""
        ...

    @property
    def relay(self) -> "Relay":
        """Connects this replica with those that run the other servers."""
        ...

    # --- listings ------------------------------------------------------------------------------------------------

    async def publish(self, server: str, listing: bytes) -> None:
        """Give the other replicas what a server has listed, in place of what they know; nothing if another replica
        runs the server by now."""
        ...

    async def published(self) -> Mapping[str, bytes]:
        """Return what servers have listed at other replicas or in earlier runs, by server, as soon as there is any that
        an earlier return did not have. Returned again once a server has moved away from here. For one consumer."""
        ...


class Relay(Protocol):
    """Carries requests to the replica that runs a server, and that server's notifications to the other replicas.

    Attributes:
        on_announced: called with what servers at other replicas announce.
        on_hosted: called with a server that a replica (this one or another) has begun to run, or may have: what
            replicas have asked of it for longer than one request is asked again.
    """

    on_announced: list[Callable[[Announcement], None]]
    on_hosted: list[Callable[[str], None]]

    @property
    def replicas(self) -> frozenset[str]:
        """IDs of the living replicas, this one included, as far as is known."""
        ...

    async def request(self, request: RelayedRequest) -> Result:
        """Have the replica that runs a server make a request; return the result as the server gave it. Cancelling the
        caller cancels the request there.

        Raises:
            CallFailed: there is none: the server's error, or no replica runs the server, or it has ended.
        """
        ...

    async def serve(self, answer: Callable[[RelayedRequest], Awaitable[Result]]) -> None:
        """Answer requests of other replicas for servers that this replica runs, until cancelled.

        Args:
            answer: returns the result of a request, or raises `CallFailed`; cancelled if nobody waits for it any more.
        """
        ...

    def announce(self, announcement: Announcement) -> None:
        """Have other replicas called with a notification (`on_announced`). Best effort: one that is too long, or one of
        too many, is left out."""
        ...
