"""Interface between the bridge and an engine of several replicas, for servers of which one replica at a time runs each.

Pure interface. Owns no decision which replica that is. An engine whose process runs every server has no hosting.
"""

from collections.abc import Mapping
from typing import Protocol

from asyncfc_mcp.signals import Signal


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

    async def publish(self, server: str, listing: bytes) -> None:
        """Give the other replicas what a server has listed, in place of what they know; nothing if another replica
        runs the server by now."""
        ...

    async def published(self) -> Mapping[str, bytes]:
        """Return what servers have listed at other replicas or in earlier runs, by server, as soon as there is any that
        an earlier return did not have. Returned again once a server has moved away from here. For one consumer."""
        ...
