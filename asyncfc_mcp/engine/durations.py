"""Durations of the last calls of each tool.

Owns the medians by which the bridge tells quick tools from slow ones.
"""

from collections import deque
from typing import Final

KEPT: Final = 9
"""Calls of a tool over which the median is taken."""


class Durations:
    """Durations of calls, in seconds, by the tool's name for clients."""

    def __init__(self) -> None:
        self._last: dict[str, deque[float]] = {}
        self._medians: dict[str, float] = {}

    def add(self, tool: str, seconds: float) -> None:
        """Record the duration of a call that has ended."""
        durations = self._last.get(tool)
        if durations is None:
            durations = self._last[tool] = deque(maxlen=KEPT)
        durations.append(seconds)
        self._medians[tool] = sorted(durations)[len(durations) // 2]

    def median_s(self, tool: str) -> float | None:
        """Return the median in seconds, of two in the middle the longer one; None before the first call."""
        return self._medians.get(tool)
