"""Rates of requests: how many each party may make in a second, and all parties together.

Pure: the time is an argument. Owns both bounds and the seconds after which a refused request may be repeated. Leaves
refusing to the transports.
"""

import math
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from asyncfc_mcp.core.identity import Party
from asyncfc_mcp.core.retention import allowance

BURST_S: Final = 10.0
"""A burst is as many requests as the rate allows in this time. Models and their hosts make calls in batches."""
LEAST_BURST: Final = 10.0
_NEGLIGIBLE: Final = 1e-6
"""A debt that is left by rounding."""
SWEEP_AT: Final = 1024
"""Parties whose rates are known above which those that have a whole burst again are forgotten."""


def burst_of(rate: float) -> float:
    """Return the largest number of requests at once."""
    return max(LEAST_BURST, BURST_S * rate)


class PartyRates:
    """The rate of each party by itself: a token bucket for each. One never affects another.

    Args:
        rate: requests in a second.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._burst = rate, burst_of(rate)
        self._buckets: dict[Party, tuple[float, float]] = {}
        """Party → tokens, at a time."""
        self._sweep_at = SWEEP_AT

    def wait_s(self, party: Party, now: float) -> float:
        """Return the seconds until this party may make a request; 0 if it may now."""
        tokens = self._tokens(party, now)
        return 0.0 if tokens >= 1 else (1 - tokens) / self._rate

    def take(self, party: Party, now: float) -> None:
        """Record a request."""
        self._buckets[party] = self._tokens(party, now) - 1, now
        if len(self._buckets) > self._sweep_at:
            self._buckets = {
                each: known for each, known in self._buckets.items() if self._tokens(each, now) < self._burst
            }
            self._sweep_at = max(SWEEP_AT, 2 * len(self._buckets))

    def _tokens(self, party: Party, now: float) -> float:
        tokens, at = self._buckets.get(party, (self._burst, now))
        return min(self._burst, tokens + (now - at) * self._rate)


class CommonRate:
    """The rate of all parties together, of which each that uses it gets an equal part.

    Requests are a debt that is worked off at the rate: of all parties with a debt at once, in equal parts. A party may
    add to its debt as long as that is less than what is free (see `retention.allowance`), so that one party alone can
    never have used up what another one needs.

    Args:
        rate: requests in a second.
        share: the most of the burst that one party alone may use.
    """

    def __init__(self, rate: float, share: float) -> None:
        self._rate, self._burst, self._share = rate, burst_of(rate), share
        self._at = -math.inf
        self._debt = 0.0
        """Of all parties."""
        self._worked = 0.0
        """Debt that a party has worked off which had one all the time. Working off in equal parts is then adding to one
        number, as in fair queueing."""
        self._until: dict[Party, float] = {}
        """Party with a debt → `_worked` at which it will have none."""
        self._order: list[tuple[float, int, Party]] = []
        """Heap of these, one entry for each party; an entry may be too early."""
        self._count = 0

    def wait_s(self, party: Party, now: float) -> float:
        """Return the seconds after which it makes sense for this party to try again; 0 if it may make a request now."""
        self._work(now)
        free, own = self._burst - self._debt, self._own(party)
        # Who has a debt leaves room for one request of somebody who has none.
        if free >= 1 and (party is None or own < _NEGLIGIBLE or own < allowance(self._share, free - 1)):
            return 0.0
        return max(1 - free, min(own, 1.0) * max(1, len(self._until)), 1e-3) / self._rate

    def take(self, party: Party, now: float) -> None:
        """Record a request."""
        self._work(now)
        known = party in self._until
        self._until[party] = self._worked + self._own(party) + 1
        self._debt += 1
        if not known:
            self._count += 1
            heappush(self._order, (self._until[party], self._count, party))

    def _own(self, party: Party) -> float:
        return max(0.0, self._until.get(party, self._worked) - self._worked)

    def _work(self, now: float) -> None:
        """Work off what is due since the last time."""
        due, self._at = (now - self._at) * self._rate, now
        while self._until and due > 0:
            until, number, party = self._order[0]
            if self._until[party] != until:
                heappop(self._order)
                heappush(self._order, (self._until[party], number, party))
                continue
            needed = (until - self._worked) * len(self._until)
            if needed > due:
                self._worked += due / len(self._until)
                self._debt -= due
                return
            self._worked, due = until, due - needed
            self._debt -= needed
            heappop(self._order)
            del self._until[party]
        if not self._until:
            self._debt = self._worked = 0.0  # nothing is left of rounding


@dataclass(slots=True)
class Rates:
    """Both bounds; None where there is none."""

    of_party: PartyRates | None = None
    common: CommonRate | None = None

    def admit(self, party: Party, now: float) -> float:
        """Record a request and return 0; or return the seconds after which it may be repeated."""
        wait_s = 0.0 if self.of_party is None else self.of_party.wait_s(party, now)
        if wait_s <= 0 and self.common is not None:
            wait_s = self.common.wait_s(party, now)
        if wait_s <= 0:
            for each in (self.of_party, self.common):
                if each is not None:
                    each.take(party, now)
        return wait_s
