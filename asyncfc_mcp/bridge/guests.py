"""Guests: other replicas, and what they want of servers that run here for longer than one request.

Pure. Owns who wants which notifications. Asking the servers for them is left to `forwarding` and `relaying`.
"""

from collections.abc import Callable, Collection

from asyncfc_mcp.protocol import LOG_LEVELS


class Guests:
    """Subscriptions and log levels of other replicas.

    Args:
        living: returns the IDs of the living replicas; what others wanted counts no more.

    Attributes:
        own_level: least level of log messages that clients of this replica want; None where none has said.
    """

    def __init__(self, living: Callable[[], Collection[str]] = lambda: ()) -> None:
        self._living = living
        self._subscribed: dict[tuple[str, str], set[str]] = {}
        """Server and URI → replicas."""
        self._levels: dict[str, str] = {}
        """Replica → level."""
        self.own_level: str | None = None

    def subscribe(self, replica: str, server: str, uri: str) -> None:
        self._subscribed.setdefault((server, uri), set()).add(replica)

    def unsubscribe(self, replica: str, server: str, uri: str) -> None:
        replicas = self._subscribed.get((server, uri), set())
        replicas.discard(replica)
        if not replicas:
            self._subscribed.pop((server, uri), None)

    def wants(self, server: str, uri: str) -> bool:
        """Return whether another replica is subscribed to a resource."""
        replicas = self._subscribed.get((server, uri))
        return replicas is not None and not replicas.isdisjoint(self._living())

    def has_subscriptions(self, server: str) -> bool:
        """Return whether another replica is subscribed to a resource of a server."""
        return any(self.wants(*key) for key in self._subscribed if key[0] == server)

    def forget(self, server: str) -> None:
        """Forget what was wanted of a server that no longer runs here."""
        for key in [key for key in self._subscribed if key[0] == server]:
            del self._subscribed[key]

    def set_level(self, replica: str, level: str) -> None:
        """Have messages of this level and above sent to a replica."""
        self._levels[replica] = level

    def least_level(self) -> str | None:
        """Return the least level that this replica or another one wants; None if none has said."""
        living = self._living()
        wanted = [self.own_level, *(level for replica, level in self._levels.items() if replica in living)]
        return min((each for each in wanted if each in LOG_LEVELS), key=LOG_LEVELS.index, default=None)
