"""Time saved by the calls of this process, for each conversation and scope.

Owns which calls are counted: those that have run here and ended. Of a scope, the conversations are added up, since
calls of two conversations would have run beside each other without the bridge as well. The measure is that of
`core.time_saved`.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any, Final

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.history import RecordedRun
from asyncfc_mcp.core.time_saved import TimeSaved, conversation_of
from asyncfc_mcp.slices import Slices

DAY_S: Final = 86_400.0
MOST_OF_DAY: Final = 20_000
"""Bound on the calls of the last day that are kept for each scope; if there were more, the newest count."""
FEW: Final = 1_000
AGAIN_S: Final = 10.0
"""Seconds between two looks at the calls of the last day, if they are more than `FEW`."""
MOST_CONVERSATIONS: Final = 1_000
"""Bound on the conversations of a scope whose runs are kept; of the others, the outcome counts."""
MOST_SCOPES: Final = 200


class Savings:
    """Time saved by the calls of each scope."""

    def __init__(self) -> None:
        self._scopes: OrderedDict[str, _ScopeSavings] = OrderedDict()

    def add(self, future: Future) -> None:
        """Count a call that has ended."""
        if future.started_at is None or future.ended_at is None:
            return
        scope = self._scopes.get(future.scope.key)
        if scope is None:
            scope = self._scopes[future.scope.key] = _ScopeSavings()
            if len(self._scopes) > MOST_SCOPES:
                self._scopes.popitem(last=False)
        scope.add(conversation_of(future), future.started_at, future.ended_at)

    def of(self, scope: str, now: float) -> Slices[dict[str, Any]]:
        """Return seconds saved and calls: of this run (`session`), of the last day, and of all that are known.

        Args:
            now: in seconds of the engine's clock.
        """
        found = self._scopes.get(scope) or _ScopeSavings()
        day_s, day_calls = yield from found.of_day(now)
        return {
            "session": round(found.saved_s, 3),
            "day": round(day_s, 3),
            "all": round(found.saved_s, 3),
            "calls": {"session": found.calls, "day": day_calls, "all": found.calls},
        }


def saving(runs: Sequence[RecordedRun], now: float) -> Slices[dict[str, Any]]:
    """Return seconds saved by recorded calls and their number: of the last day, and of all.

    Args:
        runs: in the order of their submission.
        now: in seconds of the wall clock.
    """
    found: dict[str, Any] = {"calls": {}}
    for word, since in (("day", now - DAY_S), ("all", 0.0)):
        conversations: dict[str, TimeSaved] = {}
        calls = 0
        for number, run in enumerate(runs):
            if number % 256 == 0:
                yield
            if run.ended_at >= since:
                calls += 1
                conversations.setdefault(run.conversation, TimeSaved()).add(run.started_at, run.ended_at)
        found[word] = round(sum(each.saved_s for each in conversations.values()), 3)
        found["calls"][word] = calls
    return found


class _ScopeSavings:
    def __init__(self) -> None:
        self._conversations: OrderedDict[str, TimeSaved] = OrderedDict()
        self._before_s, self.calls = 0.0, 0
        """Saved by conversations whose runs are no longer kept; calls of all of them."""
        self._day: deque[tuple[str, float, float]] = deque(maxlen=MOST_OF_DAY)
        self._of_day: tuple[float, tuple[float, int]] | None = None
        """Saved by the calls of the last day, and the time until which it counts."""

    def add(self, conversation: str, started: float, ended: float) -> None:
        self.calls += 1
        self._day.append((conversation, started, ended))
        known = self._conversations.get(conversation)
        if known is None:
            known = self._conversations[conversation] = TimeSaved()
            if len(self._conversations) > MOST_CONVERSATIONS:
                self._before_s += self._conversations.popitem(last=False)[1].saved_s
        known.add(started, ended)

    @property
    def saved_s(self) -> float:
        return self._before_s + sum(each.saved_s for each in self._conversations.values())

    def of_day(self, now: float) -> Slices[tuple[float, int]]:
        """Return seconds saved by the calls of the last day, and their number; of many calls, as they were a few
        seconds ago."""
        if self._of_day is not None and now < self._of_day[0]:
            return self._of_day[1]
        while self._day and self._day[0][2] < now - DAY_S:
            self._day.popleft()
        conversations: dict[str, TimeSaved] = {}
        day = list(self._day)
        for number, (conversation, started, ended) in enumerate(day):
            if number % 256 == 0:
                yield
            conversations.setdefault(conversation, TimeSaved()).add(started, ended)
        found = sum(each.saved_s for each in conversations.values()), len(day)
        self._of_day = (now + AGAIN_S, found) if len(day) > FEW else None
        return found
