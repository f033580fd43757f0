"""Time saved: how much longer a set of calls would have taken one after another.

Pure. It is the sum of the run times of the calls, from start to end, without that of calls that ran beside them: the
sum less the length of the union of all runs. Calls of one conversation belong together: those of two would have run
beside each other without the bridge as well.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Final

from asyncfc_mcp.core.futures import Future

Run = tuple[float, float]
"""Start and end of a call, in seconds of one clock."""

MOST_PERIODS: Final = 1_000
"""Bound on the separate periods that are kept, in which any call ran."""


class TimeSaved:
    """Time saved by calls that are added one by one, in any order; cheap if they are added in the order of their ends.

    Only the last `periods` periods without a pause are kept. Of a call that began before all of them, the time before
    them counts as if nothing had run beside it: what is reported is never too much.
    """

    def __init__(self, periods: int = MOST_PERIODS) -> None:
        self._periods = periods
        self._starts: list[float] = []
        self._ends: list[float] = []
        self._busy_s = 0.0
        """Length of the union of all runs."""
        self._sum_s = 0.0
        self.calls = 0

    @property
    def saved_s(self) -> float:
        """Seconds saved."""
        return max(0.0, self._sum_s - self._busy_s)

    def add(self, started: float, ended: float) -> None:
        """Add a call that has run. One that ended before it started, since a clock was set, has no length."""
        self.calls += 1
        if not ended > started:
            return
        self._sum_s += ended - started
        starts, ends = self._starts, self._ends
        if not ends or started > ends[-1]:
            self._busy_s += ended - started
            starts.append(started)
            ends.append(ended)
            if len(starts) > self._periods:
                del starts[0], ends[0]
            return
        if started >= starts[-1]:
            if ended > ends[-1]:
                self._busy_s += ended - ends[-1]
                ends[-1] = ended
            return
        first, last = bisect_left(ends, started), bisect_right(starts, ended)
        covered = sum(ends[at] - starts[at] for at in range(first, last))
        if first < last:
            started, ended = min(started, starts[first]), max(ended, ends[last - 1])
        self._busy_s += ended - started - covered
        starts[first:last], ends[first:last] = [started], [ended]
        if len(starts) > self._periods:
            del starts[0], ends[0]


def conversation_of(future: Future) -> str:
    """Return what tells the conversation of a call from others of its scope: without a known one, its caller. Records
    have the same (`RecordedRun.conversation`)."""
    if future.conversation is not None:
        return future.conversation
    return "" if future.caller is None else f"caller:{future.caller.token}"


def time_saved(runs: Iterable[Run]) -> float:
    """Return the seconds saved by calls that ran at these times."""
    total = busy = 0.0
    until = float("-inf")
    for started, ended in sorted(run for run in runs if run[1] > run[0]):
        total += ended - started
        busy += max(0.0, ended - max(started, until))
        until = max(until, ended)
    return max(0.0, total - busy)
