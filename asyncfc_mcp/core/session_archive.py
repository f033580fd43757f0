"""Interface of the archive of sessions, with which another replica continues the session of a client.

Pure. Of a session only what was agreed is kept. Requests that are in flight, open questions and streams end with the
replica that has them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from asyncfc_mcp.core.identity import Scope


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """Agreement of a client and the bridge."""

    scope: Scope
    """The principal that opened the session. No other may continue it."""
    version: str
    host: str | None = None
    """`clientInfo.name`."""
    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Capabilities that the client declared."""
    log_level: str | None = None
    """The least severe log messages that it wants; None if it has set none."""
    uris: tuple[str, ...] = ()
    """Resources whose changes it wants to know of."""


class SessionArchive(Protocol):
    """Sessions of all replicas. A session that has been idle for longer than `idle_s` seconds is forgotten."""

    async def save(self, session_id: str, record: SessionRecord) -> None:
        """Keep a session, in place of an earlier record of it. It counts as used now."""
        ...

    async def load(self, session_id: str, idle_s: float) -> SessionRecord | None:
        """Return the record of a session, which counts as used now; None without one."""
        ...

    async def touch(self, session_ids: Collection[str], idle_s: float) -> None:
        """Record that sessions are in use, and forget those that no replica uses."""
        ...

    async def drop(self, session_id: str) -> None:
        """Forget a session that its client has ended."""
        ...
