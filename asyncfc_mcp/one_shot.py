"""Servers whose process ends after each call: each call gets a process of its own.

Learns that from how processes end, and forgets it when one survives. Refuses to know connections and their restarts.
Without this, calls would be written to a process that is about to end, and of those nobody can tell whether it read
them before.
"""

from typing import Final

import anyio

LINGER_S: Final = 0.25
"""How long a process that has served its call may take to end, until it is taken for one that stays."""


class ProcessCalls:
    """The tool calls of one process."""

    def __init__(self) -> None:
        self.sent = 0
        self.answered = 0
        self.ended = anyio.Event()
        """Set when the first call has ended."""

    def end(self, *, answered: bool) -> None:
        """Count a call that has ended."""
        self.answered += answered
        self.ended.set()


class OneShot:
    """What is known of one server."""

    def __init__(self) -> None:
        self.known = False

    def learn(self, calls: ProcessCalls) -> bool:
        """Learn from a process that has ended by itself; whether it ended after its call as such a server does."""
        if calls.sent:
            self.known = calls.answered == 1
        return self.known and calls.sent > 0

    def occupied(self, calls: ProcessCalls) -> bool:
        """Whether a process has had its call, and another one must wait."""
        if self.known and calls.answered > 1:
            self.known = False
        return self.known and calls.sent > 0

    async def outlive(self, calls: ProcessCalls, closed: anyio.Event) -> None:
        """Wait until a process that is occupied has ended, or turns out to stay."""
        await calls.ended.wait()
        with anyio.move_on_after(LINGER_S):
            await closed.wait()
        if not closed.is_set():
            self.known = False
