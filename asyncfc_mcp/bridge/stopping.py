"""Announced end of the bridge: waits of clients end before it, so that their answers still reach them.

Owns that time. Leaves the end itself to the transports.
"""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager


class Stopping:
    """The time at which waits of clients end at the latest."""

    def __init__(self) -> None:
        self.waits_until = math.inf
        """In seconds of the event loop's clock."""
        self.begun = False
        """True once the bridge ends, which may take as long as its calls do."""
        self._wake_ups: dict[Callable[[], None], None] = {}

    def announce(self, waits_until: float) -> None:
        """Set the time, also for waits that have begun."""
        self.waits_until = waits_until
        for wake_up in tuple(self._wake_ups):
            wake_up()

    @contextmanager
    def waking(self, wake_up: Callable[[], None]) -> Generator[None]:
        """Call a function when the time is set, as long as the block lasts."""
        self._wake_ups[wake_up] = None
        try:
            yield
        finally:
            del self._wake_ups[wake_up]
