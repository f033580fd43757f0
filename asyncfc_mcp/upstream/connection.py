"""A connection that is one client of its own: standard streams, or the session of a host that has joined a daemon.

Owns what all requests on it share, in both protocol eras: the caller's identity, the numbering of its requests, and the
conversation that it is. Connections over HTTP are none of these: several of them may be one client's, and one may carry
requests of several.
"""

from collections.abc import Callable
from typing import Final

from asyncfc_mcp.core.identity import CallerIdentity, ClientProcess
from asyncfc_mcp.upstream.request_order import RequestOrder

STDIO: Final = "stdio"
"""The conversation of the only connection of a process."""


class Connection:
    """The requests of one client, until it closes its input.

    Args:
        process: the session of a host behind it; None for the only connection of this process. A session with the same
            conversation, and the same name of the client, is the same caller, also in other runs.
    """

    __slots__ = ("_at_end", "host", "identity", "order", "process")

    def __init__(self, process: ClientProcess | None = None) -> None:
        self.process = process
        self.order = RequestOrder()
        self.host: str | None = None
        """`clientInfo.name`, once a request has said it."""
        self.identity: CallerIdentity | None = CallerIdentity() if process is None else None
        """The caller behind all its requests. That of a session depends on the client's name, which the first request
        has: `CallerIdentities` sets it."""
        self._at_end: list[Callable[[], None]] = []

    @property
    def is_apart(self) -> bool:
        """True for a session beside others of the same user."""
        return self.process is not None

    @property
    def conversation(self) -> str:
        """Key of the conversation, once the identity is known."""
        return STDIO if self.process is None or self.identity is None else self.identity.token

    def at_end(self, callback: Callable[[], None]) -> None:
        """Register a callback for the end of the connection."""
        self._at_end.append(callback)

    def close(self) -> None:
        """Record the end of the connection."""
        while self._at_end:
            self._at_end.pop()()
