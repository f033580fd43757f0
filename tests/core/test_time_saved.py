"""Time saved: the sum of run times less their union, added one by one or all at once."""

from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.core.time_saved import Run, TimeSaved, time_saved

# Whole seconds, which floats add exactly.
RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(-2, 20)).map(lambda at: (float(at[0]), float(sum(at)))))


def second_by_second(runs: list[Run]) -> float:
    """In each second, all calls but one that run in it save a second."""
    return float(sum(max(0, sum(start <= at < end for start, end in runs) - 1) for at in range(-5, 100)))


@given(RUNS)
def test_a_second_in_which_n_calls_run_saves_n_minus_one(runs: list[Run]):
    assert time_saved(runs) == second_by_second(runs)


@given(RUNS)
def test_calls_that_are_added_one_by_one_save_the_same(runs: list[Run]):
    saved = TimeSaved()
    for run in runs:
        saved.add(*run)
    assert (saved.saved_s, saved.calls) == (time_saved(runs), len(runs))


@given(RUNS, st.integers(1, 5))
def test_bounded_memory_never_reports_too_much(runs: list[Run], periods: int):
    saved = TimeSaved(periods)
    before = 0.0
    for number, run in enumerate(runs, 1):
        saved.add(*run)
        assert before <= saved.saved_s <= time_saved(runs[:number])
        before = saved.saved_s


def test_calls_one_after_another_save_nothing():
    assert time_saved([(0, 1), (1, 2), (5, 6)]) == 0
    assert time_saved([]) == 0
