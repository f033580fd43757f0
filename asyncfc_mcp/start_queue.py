"""The order in which wrapped servers are started: a few at a time, so that many do not starve the bridge itself.

Owns the decision which may start now: first those that a call waits for, then those of which nothing is known, last
those that can be listed from the cache, and these only after the client was answered. Starting is left to `downstream`.
"""

import os
from dataclasses import dataclass
from typing import Final

import anyio

FEW: Final = 3
"""So many servers are simply started, ahead of everything else."""
SLOT_S: Final = 3.0
"""How long a start keeps others waiting at most: a server that does not come up must not hold up all others."""
ANSWER_S: Final = 2.0
"""How long servers that can be listed from the cache wait for the client to be answered first."""


def at_once() -> int:
    """How many servers are started at a time."""
    return max(2, os.cpu_count() or 1)


@dataclass(slots=True)
class _Waiting:
    known: bool
    """It can be listed, and wait."""
    light: bool
    order: int
    hurried: bool = False


class StartQueue:
    """Admits servers to their start.

    Args:
        servers: how many there are.
    """

    def __init__(self, servers: int) -> None:
        self._open = servers <= FEW
        self._slots = at_once()
        self._waiting: dict[str, _Waiting] = {}
        self._starting: dict[str, float] = {}
        """Server → when its start no longer counts."""
        self._answered = False
        self._until = float("inf")
        self._changed = anyio.Event()
        self._count = 0

    async def enter(self, name: str, *, known: bool, light: bool = False) -> None:
        """Return when this server may start; `leave` when it has.

        Args:
            known: it can be listed from the cache meanwhile.
            light: its start costs this machine little (it runs elsewhere), so that any number may go on.
        """
        if self._open:
            return
        self._count += 1
        self._until = min(self._until, anyio.current_time() + ANSWER_S)
        entry = self._waiting[name] = _Waiting(known, light, self._count)
        try:
            while not self._may_start(entry):
                # Woken by a change, by the end of a slot, or by that of waiting for the client.
                moments = [
                    moment for moment in (*self._starting.values(), self._until) if moment > anyio.current_time()
                ]
                with anyio.CancelScope(deadline=min(moments, default=float("inf"))):
                    await self._changed.wait()
            if not light:
                self._starting[name] = anyio.current_time() + SLOT_S
        finally:
            del self._waiting[name]
            self._stir()

    def leave(self, name: str) -> None:
        """This server is up, or is not going to be."""
        if self._starting.pop(name, None) is not None:
            self._stir()

    def hurry(self, name: str) -> None:
        """Start this server before all others: a call waits for it."""
        entry = self._waiting.get(name)
        if entry is not None and not entry.hurried:
            entry.hurried = True
            self._stir()

    def answered(self) -> None:
        """The client has been answered, so that there is time for the servers that it did not need for that."""
        if not self._answered:
            self._answered = True
            self._stir()

    def _may_start(self, entry: _Waiting) -> bool:
        now = anyio.current_time()
        free = self._answered or now >= self._until
        if entry.light:
            return free or entry.hurried or not entry.known
        self._starting = {name: until for name, until in self._starting.items() if until > now}
        # A call that waits need not wait for what others start: there is room beside them for as many again.
        if len(self._starting) >= self._slots * (2 if entry.hurried else 1):
            return False
        ready = [each for each in self._waiting.values() if not each.light and (free or each.hurried or not each.known)]
        return min(ready, key=lambda each: (not each.hurried, each.known, each.order), default=None) is entry

    def _stir(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
