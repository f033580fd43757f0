"""Pauses between streams that end: never less than is bearable, and short again where a stream served well."""

import pytest

from asyncfc_mcp.core.backoff import Backoff, ReconnectBackoff


def test_a_backoff_doubles_up_to_its_limit_and_begins_anew_after_a_reset():
    """The limit need not be a multiple of the first delay."""
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert [backoff.next() for _ in range(2)] == [0.5, 1.0]


def reopening() -> ReconnectBackoff:
    return ReconnectBackoff(least=0.05, first=1.0, longest=60.0, longest_least=60.0, served=30.0)


@pytest.mark.parametrize(
    ("named", "news", "pauses"),
    [
        (None, False, [1, 2, 4, 8, 16, 32, 60, 60]),
        (None, True, [1, 1, 1, 1, 1, 1]),
        (0.0, False, [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60]),
        (0.0, True, [0.05, 0.1, 0.2, 0.4, 0.8, 1, 1, 1]),
        (0.3, True, [0.3, 0.3, 0.3, 0.4, 0.8, 1, 1]),
        (5.0, True, [5, 5, 5]),
        (5.0, False, [5, 5, 5, 5, 5, 5, 5, 6.4]),
    ],
)
def test_pauses_after_short_streams_grow(named: float | None, news: bool, pauses: list[float]):
    """Beyond one second only while they bring nothing."""
    spaced = reopening()
    assert [spaced.pause(0.0, news=news, named=named) for _ in pauses] == pytest.approx(pauses)


@pytest.mark.parametrize(("lasted", "news", "first"), [(31.0, False, True), (3.0, True, True), (3.0, False, False)])
def test_a_stream_that_served_well_is_opened_again_at_once(lasted: float, news: bool, first: bool):
    """It lasted long, or longer than the pause and brought something."""
    spaced = reopening()
    for _ in range(20):
        spaced.pause(0.0, news=False, named=0.0)
    if not first:
        assert spaced.pause(lasted, news=news, named=0.0) == 60
        return
    if lasted < 30:
        spaced.pause(0.0, news=True, named=0.0)
    assert spaced.pause(lasted, news=news, named=0.0) == 0.05
    assert spaced.pause(lasted, news=news, named=None) == 1
