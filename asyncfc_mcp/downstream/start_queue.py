"""The order in which wrapped servers start: a few at a time, so that many starts do not starve the bridge itself.

Owns the decision which server may start next: first those that a call waits for, then those without known listings,
last those with known listings, and these only after the client has been answered. Starting is left to the supervisor.
"""

import os
from dataclasses import dataclass
from typing import Final

import anyio

from asyncfc_mcp.signals import Signal

MAX_UNQUEUED: Final = 3
"""Up to this number of servers, all start at once and nothing is queued."""
SLOT_S: Final = 3.0
"""Time after which a start no longer occupies its slot: a server that does not come up must not block all others."""
CLIENT_WAIT_S: Final = 2.0
"""Longest wait of servers with known listings for the client to be answered first."""


def start_slots() -> int:
    """Return the number of servers that may start at a time."""
    return max(2, os.cpu_count() or 1)


@dataclass(slots=True)
class _Entry:
    """A server that waits for its start."""

    known: bool
    light: bool
    order: int
    urgent: bool = False


class StartQueue:
    """Admits servers to their start.

    Args:
        servers: the number of servers.
    """

    def __init__(self, servers: int) -> None:
        self.resize(servers)
        self._slots = start_slots()
        self._waiting: dict[str, _Entry] = {}
        self._starting: dict[str, float] = {}
        """Server → time at which its start no longer occupies a slot."""
        self._client_answered = False
        self._client_deadline = float("inf")
        self._changed = Signal()
        self._count = 0

    def resize(self, servers: int) -> None:
        """Take note of another number of servers."""
        self._unqueued = servers <= MAX_UNQUEUED

    async def enter(self, name: str, *, known: bool, light: bool = False, urgent: bool = False) -> None:
        """Wait until a server may start. To be followed by `leave` when it is up or has failed.

        Args:
            known: its listings are known from the cache or an earlier connection, so that clients need not wait for its
                start.
            light: its start costs this machine little (it runs elsewhere); such starts take no slot.
            urgent: a call waits for it.
        """
        if self._unqueued:
            return
        self._count += 1
        self._client_deadline = min(self._client_deadline, anyio.current_time() + CLIENT_WAIT_S)
        entry = self._waiting[name] = _Entry(known, light, self._count, urgent)
        try:
            while not self._may_start(entry):
                # Checked again after a change, when a slot expires, and at the end of the wait for the client.
                now = anyio.current_time()
                times = [time for time in (*self._starting.values(), self._client_deadline) if time > now]
                with anyio.CancelScope(deadline=min(times, default=float("inf"))):
                    await self._changed.wait()
            if not light:
                self._starting[name] = anyio.current_time() + SLOT_S
        finally:
            del self._waiting[name]
            self._changed.notify_all()

    def leave(self, name: str) -> None:
        """Free a server's slot: it is up, or its start has failed."""
        if self._starting.pop(name, None) is not None:
            self._changed.notify_all()

    def prioritize(self, name: str) -> None:
        """Start a server before all others, because a call waits for it."""
        entry = self._waiting.get(name)
        if entry is not None and not entry.urgent:
            entry.urgent = True
            self._changed.notify_all()

    def on_client_answered(self) -> None:
        """Admit servers with known listings: the client has been answered without them."""
        if not self._client_answered:
            self._client_answered = True
            self._changed.notify_all()

    async def wait_for_client_answered(self) -> None:
        """Wait until a client has been answered."""
        while not self._client_answered:
            await self._changed.wait()

    def _may_start(self, entry: _Entry) -> bool:
        now = anyio.current_time()
        all_admitted = self._client_answered or now >= self._client_deadline
        if entry.light:
            return all_admitted or entry.urgent or not entry.known
        self._starting = {name: until for name, until in self._starting.items() if until > now}
        # Urgent starts have as many slots again, so that a waiting call does not wait for the starts of others.
        if len(self._starting) >= self._slots * (2 if entry.urgent else 1):
            return False
        admitted = [
            each
            for each in self._waiting.values()
            if not each.light and (all_admitted or each.urgent or not each.known)
        ]
        return min(admitted, key=lambda each: (not each.urgent, each.known, each.order), default=None) is entry
