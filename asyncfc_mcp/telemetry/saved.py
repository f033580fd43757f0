"""Time that calls have saved by running at the same time: the sum of their run times less the length of their union.

Pure. Counts while calls start and end, in constant time for each, by conversation: what one conversation runs beside
another is no merit of the bridge.
"""


class SavedTime:
    """The running calls of all conversations."""

    def __init__(self) -> None:
        self._running: dict[object, tuple[int, float]] = {}
        """Conversation → number of its running calls, and the time since which it is that number."""

    def started(self, conversation: object, now: float) -> float:
        """Count a call that starts; return the seconds saved since the last change, on the clock of `now`."""
        return self._change(conversation, now, 1)

    def ended(self, conversation: object, now: float) -> float:
        """Count a call that ends; return the seconds saved since the last change."""
        return self._change(conversation, now, -1)

    def _change(self, conversation: object, now: float, by: int) -> float:
        number, since = self._running.get(conversation, (0, now))
        if number + by > 0:
            self._running[conversation] = number + by, now
        else:
            self._running.pop(conversation, None)
        return max(0, number - 1) * max(0.0, now - since)
