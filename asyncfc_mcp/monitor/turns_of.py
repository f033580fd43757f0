"""Turns: work of which each party does a bounded part at once, while its further work waits.

Owns the queue of each party. Without it, one that asks for a thousand searches would make all others wait for them.
"""

from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import anyio

P = TypeVar("P", bound=Hashable)


class TurnsOf(Generic[P]):
    """The turns of all parties.

    Args:
        most: of one party at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._parties: dict[P, tuple[anyio.Semaphore, int]] = {}
        """Those with work, and how much of it there is, with what waits."""

    def __len__(self) -> int:
        return len(self._parties)

    @asynccontextmanager
    async def turn(self, party: P) -> AsyncGenerator[None]:
        """Work for a party while the block lasts, once it has a turn."""
        turns, number = self._parties.get(party) or (anyio.Semaphore(self._most), 0)
        self._parties[party] = turns, number + 1
        try:
            async with turns:
                yield
        finally:
            turns, number = self._parties[party]
            if number > 1:
                self._parties[party] = turns, number - 1
            else:
                del self._parties[party]
