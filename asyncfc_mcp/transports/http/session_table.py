"""All sessions over Streamable HTTP: their number, and when one is expired, evicted or ended.

Owns the session IDs. Leaves the traffic of a session to `session`, and HTTP requests to `sessions`.
"""

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import anyio.abc

from asyncfc_mcp.core.identity import Party, Principal, party_of
from asyncfc_mcp.core.retention import allowance
from asyncfc_mcp.core.session_archive import SessionArchive
from asyncfc_mcp.errors import BridgeError, RpcError
from asyncfc_mcp.protocol import CONNECTION_CLOSED
from asyncfc_mcp.transports.http.auth.authenticator import Access
from asyncfc_mcp.transports.http.session import HttpSession

logger = logging.getLogger(__name__)

IDLE_S: Final = 1800.0
"""Idle sessions expire after this: most clients never send DELETE."""
SWEEP_S: Final = 60.0
"""Interval between two searches for idle sessions."""
MIN_IDLE_TO_EVICT_S: Final = 60.0
"""At the limit, the oldest session without a request since its handshake is evicted; else the least recently used one,
if it has been idle at least this long."""


class TooManySessions(BridgeError):
    """All sessions that the limit allows are in use.

    Args:
        own: sessions of the principal, if only these are too many.
    """

    def __init__(self, limit: int, own: int | None = None) -> None:
        which = f"{limit} sessions" if own is None else f"{own} sessions of yours"
        super().__init__(f"{which} are in use; end one (DELETE), or try again later")


class SessionTable:
    """Sessions of one server, by ID.

    Args:
        archive: sessions of all replicas; None without others. Sessions that end here for lack of use, or with this
            process, stay there.
    """

    def __init__(self, archive: SessionArchive | None = None) -> None:
        self._archive = archive
        self._sessions: dict[str, HttpSession] = {}
        self._count_of: Counter[Party] = Counter()
        """Party → its sessions."""
        self.closed = False
        """True once no session may be opened."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """End idle sessions until cancelled; then all."""
        task_status.started()
        try:
            while True:
                await anyio.sleep(SWEEP_S)
                await self._end_all([key for key, session in self._sessions.items() if session.idle_s() > IDLE_S])
                if self._archive is not None:
                    await self._touch(self._archive)
        finally:
            with anyio.CancelScope(shield=True):  # each takes a bounded time
                await self._end_all(tuple(self._sessions))

    async def _touch(self, archive: SessionArchive) -> None:
        """Have sessions that are used here stay in the archive."""
        used = [key for key, session in self._sessions.items() if session.idle_s() <= 2 * SWEEP_S]
        try:
            await archive.touch(used, IDLE_S)
        except Exception:
            logger.exception("sessions could not be marked as used")

    async def _end_all(self, session_ids: Sequence[str]) -> None:
        async with anyio.create_task_group() as tg:
            for session_id in session_ids:
                tg.start_soon(self.end, session_id)

    def get(self, session_id: str, principal: Principal) -> HttpSession | None:
        """Return an open session of this principal; another principal's session is as unknown as one that never was."""
        session = self._sessions.get(session_id)
        return (
            session if session is not None and not session.closed and session.session.scope == principal.scope else None
        )

    def add(self, session: HttpSession) -> None:
        """Add a session whose handshake succeeded; one that is there may shake hands again."""
        session_id = str(session.session.id)
        if session_id not in self._sessions:
            self._count_of[party_of(session.session.scope, None)] += 1
        self._sessions[session_id] = session

    async def end(self, session_id: str) -> None:
        """End a session, if there is one with this ID."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            party = party_of(session.session.scope, None)
            self._count_of[party] -= 1
            if not self._count_of[party]:
                del self._count_of[party]
            session.close(RpcError(CONNECTION_CLOSED, "The session has ended"))
            await session.session.close()

    async def end_lapsed(self, is_over: Callable[[Access], bool]) -> None:
        """End the sessions whose access was taken away, and streams whose access has ended. A session outlives a token
        that expired: its client continues it with the next one."""
        revoked: list[str] = []
        for key, session in self._sessions.items():
            session.end_lapsed_stream(is_over)
            if session.access is not None and session.access.revoked:
                revoked.append(key)
        await self._end_all(revoked)

    def close(self, error: RpcError) -> None:
        """Close all sessions and open no more; those that are open end with `run`."""
        self.closed = True
        for session in self._sessions.values():
            session.close(error)

    async def make_room(self, limit: int, party: Party = None, share: float = 1.0) -> None:
        """End a session if there are as many as the limit, or as the share of a party in it allows.

        Args:
            party: the party that opens a session (see `identity.party_of`). One over its share loses its own ones.
            share: see `retention.allowance`.

        Raises:
            TooManySessions: all are in use.
        """
        free = limit - len(self._sessions)
        own = self._count_of[party]
        if party is not None and own >= max(1, allowance(share, free)):
            await self._evict(party, TooManySessions(limit, own))
        elif free <= 0:
            await self._evict(max(self._count_of, key=self._count_of.__getitem__), TooManySessions(limit))

    async def _evict(self, party: Party, refusal: TooManySessions) -> None:
        """End one of the sessions of a party.

        Raises:
            TooManySessions: all of them are in use.
        """
        among = {key: each for key, each in self._sessions.items() if party_of(each.session.scope, None) == party}
        evicted = next((key for key, each in among.items() if each.request_count <= 1 and each.idle_s() > 0), None)
        if evicted is None:
            evicted = max(among, key=lambda session_id: among[session_id].idle_s())
            if among[evicted].idle_s() < MIN_IDLE_TO_EVICT_S:
                raise refusal
        await self.end(evicted)


def new_session(principal: Principal) -> HttpSession:
    """Return a session with an ID that cannot be guessed, which is not in any table yet."""
    return HttpSession(principal, secrets.token_hex(16))
