"""Servers whose process exits after each tool call: each call gets a process of its own.

Owns the detection, from the way in which processes end; it is revoked when a process stays. Connections and restarts
are left to the supervisor. Without the detection, calls would be written to a process that is about to exit, and it
would be unknown whether the process has read them.
"""

from typing import Final

import anyio

EXIT_WAIT_S: Final = 0.25
"""Time for a process to exit after its call, before it is considered to stay."""


class ProcessCalls:
    """Counts the tool calls of one process."""

    def __init__(self) -> None:
        self.sent = 0
        self.answered = 0
        self.ended = anyio.Event()
        """Set when the first call has ended."""

    def end(self, *, answered: bool) -> None:
        """Record that a call has ended."""
        self.answered += answered
        self.ended.set()


class OneShotDetector:
    """Detects whether the processes of one server exit after each call."""

    def __init__(self) -> None:
        self.detected = False

    def on_exit(self, calls: ProcessCalls) -> bool:
        """Evaluate a process that has exited by itself; return whether it exited after its call, as expected of such a
        server."""
        if calls.sent:
            self.detected = calls.answered == 1
        return self.detected and calls.sent > 0

    def is_used(self, calls: ProcessCalls) -> bool:
        """Return whether a process has had its one call, so that the next call must wait for another process."""
        if self.detected and calls.answered > 1:
            self.detected = False
        return self.detected and calls.sent > 0

    async def wait_for_exit(self, calls: ProcessCalls, closed: anyio.Event) -> None:
        """Wait until a used process has exited, or has proved to stay."""
        await calls.ended.wait()
        with anyio.move_on_after(EXIT_WAIT_S):
            await closed.wait()
        if not closed.is_set():
            self.detected = False
