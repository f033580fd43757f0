"""Rates of requests: no window has more than its bound, and one party costs no other anything."""

from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.core.rates import BURST_S, LEAST_BURST, SWEEP_AT, CommonRate, PartyRates, Rates, burst_of

RATES = st.floats(0.05, 50)
STEPS = st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.001, 0.1, 1.0, 30.0]), st.sampled_from("abc")), max_size=200)
Wait = Callable[[str, float], float]


def admitted(steps: Iterable[tuple[float, str]], wait_s: Wait, take: Callable[[str, float], None]):
    """Return the times of the requests that were admitted, with their parties."""
    now, times = 0.0, list[tuple[float, str]]()
    for pause, party in steps:
        now += pause
        if wait_s(party, now) <= 0:
            take(party, now)
            times.append((now, party))
    return times


def within(times: list[float], rate: float) -> bool:
    """Whether no window has more requests than the rate allows in it, and one burst."""
    return all(
        last - first + 1 <= rate * (times[last] - times[first]) + burst_of(rate) + 1e-6
        for first in range(len(times))
        for last in range(first, len(times))
    )


@given(STEPS, RATES)
def test_no_window_of_a_party_has_more_than_its_rate(steps: list[tuple[float, str]], rate: float):
    """And a burst."""
    rates = PartyRates(rate)
    times = admitted(steps, rates.wait_s, rates.take)
    for party in "abc":
        assert within([at for at, whose in times if whose == party], rate)


@given(STEPS, RATES)
def test_a_party_by_itself_is_never_refused_because_of_another(steps: list[tuple[float, str]], rate: float):
    """It is admitted exactly when it would be alone."""
    together, alone = PartyRates(rate), PartyRates(rate)
    times = [at for at, whose in admitted(steps, together.wait_s, together.take) if whose == "a"]
    now, own = 0.0, list[tuple[float, str]]()
    before = 0.0
    for pause, party in steps:
        now += pause
        if party == "a":
            own.append((now - before, party))
            before = now
    assert [round(at, 6) for at, _ in admitted(own, alone.wait_s, alone.take)] == [round(at, 6) for at in times]


@given(STEPS, RATES, st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_no_window_of_all_has_more_than_the_common_rate(steps: list[tuple[float, str]], rate: float, share: float):
    """Whatever the share of a party."""
    rates = CommonRate(rate, share)
    assert within([at for at, _ in admitted(steps, rates.wait_s, rates.take)], rate)


@given(RATES, st.integers(1, 3), st.integers(1, 30))
def test_a_party_that_keeps_to_its_part_is_never_refused(rate: float, greedy: int, rounds: int):
    """Beside parties that send as much as they can get."""
    rates = CommonRate(rate, 0.5)
    now, pause = 0.0, (greedy + 1) / rate * 1.001
    for _ in range(rounds):
        now += pause
        for party in range(greedy):
            while rates.wait_s(party, now) <= 0:
                rates.take(party, now)
        assert rates.wait_s("polite", now) == 0
        rates.take("polite", now)


@pytest.mark.parametrize("greedy", [1, 3])
def test_parties_that_send_more_get_equal_parts(greedy: int):
    """Of the rate, once the burst is over."""
    rates, counts = CommonRate(100, 0.5), [0] * greedy
    for step in range(60_000):
        now = step / 1000
        for party in range(greedy):
            if rates.wait_s(party, now) <= 0:
                rates.take(party, now)
                counts[party] += now >= 20
    assert sum(counts) == pytest.approx(40 * 100, rel=0.05)
    assert max(counts) - min(counts) < 0.1 * max(counts)


def test_the_only_principal_has_all_of_the_common_rate():
    """It shares with nobody."""
    rates = CommonRate(1, 0.5)
    for _ in range(int(burst_of(1))):
        assert rates.wait_s(None, 0.0) == 0
        rates.take(None, 0.0)
    assert rates.wait_s(None, 0.0) == pytest.approx(1)
    assert rates.wait_s(None, 1.0) == 0


def test_a_refused_request_takes_nothing():
    """And may be repeated after the time that is returned."""
    rates = Rates(PartyRates(2), CommonRate(1000, 0.5))
    burst = int(burst_of(2))
    assert [rates.admit("a", 0.0) for _ in range(burst)] == [0.0] * burst
    waits = [rates.admit("a", 0.0) for _ in range(5)]
    assert waits == [0.5] * 5
    assert rates.admit("a", 0.5) == 0
    assert rates.admit("b", 0.0) == 0


def test_a_burst_is_of_some_seconds():
    """At least some requests."""
    assert burst_of(100) == 100 * BURST_S
    assert burst_of(0.1) == LEAST_BURST


def test_parties_that_have_left_are_forgotten():
    """However many there were."""
    rates = PartyRates(1)
    for number in range(20 * SWEEP_AT):
        rates.take(number, float(number))
    assert len(rates._buckets) <= 2 * SWEEP_AT  # pyright: ignore[reportPrivateUsage]
    common = CommonRate(1000, 0.5)
    for number in range(20 * SWEEP_AT):
        common.take(number, float(number))
    assert len(common._until) == len(common._order) == 1  # pyright: ignore[reportPrivateUsage]
