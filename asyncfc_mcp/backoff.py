"""Pauses that grow while something is wanted again and again.

Owns the arithmetic and its state; waiting is left to the caller.
"""

import anyio


class Brake:
    """Spaces runs of what may be wanted at any time, any number of times.

    The first run is not delayed. While runs follow each other without rest, the pause between them doubles up to its
    longest; after a calm of more than twice the pause, and a second, the next run is not delayed again.

    Args:
        first: the pause after the first run, in seconds.
        longest: what it grows to.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._pause = 0.0
        self._ended = float("-inf")

    def left(self) -> float:
        """Seconds until the next run may begin."""
        return max(0.0, self._ended + self._pause - anyio.current_time())

    def ran(self) -> None:
        """A run has ended."""
        now = anyio.current_time()
        calm = now - self._ended > 2 * self._pause + 1
        self._pause = self._first if calm or not self._pause else min(2 * self._pause, self._longest)
        self._ended = now
