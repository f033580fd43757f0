"""Errors name what is nearest to what was meant, in a time that does not grow with what there is."""

import pytest

from asyncfc_mcp.errors import CallTimedOut, Interrupted, NotResumed, RestoredFailure, nearest
from tests.support.cpu_time import least_cpu_s


@pytest.mark.parametrize(
    ("name", "count"),
    [("result_of_step_{:05}", 20_000), ("{0:05}" * 12, 20_000), ("x" * 5_000 + "{}", 20_000), ("{}", 1_000_000)],
    ids=["alike", "long", "very long", "a million"],
)
def test_the_nearest_of_thousands_are_found_in_a_moment(name: str, count: int):
    """Comparing with each took 6.6 s for 20,000."""
    names = [name.format(number) for number in range(count)]
    assert least_cpu_s(lambda: nearest("result_of_step_00012x", names), 0.25) < 0.25
    assert least_cpu_s(lambda: nearest("x" * 100_000, names), 0.25) < 0.25


def test_the_likeliest_of_many_are_compared():
    """A name with a letter too many among thousands of others."""
    names = [f"tool_{number:05}" for number in range(19_000)]
    assert nearest("serach_documents", [*names, "search_documents"]) == ["search_documents"]
    assert len(nearest("tool_0001x", names)) == 3
    assert nearest("search", ["fetch", "search_all", "reach", "Search"])[0] in ("search_all", "Search", "reach")
    assert nearest("completely different", ["a", "b"]) == []


def test_an_interrupted_call_says_that_its_effect_is_unknown():
    """The advice depends on whether a second call could do harm."""
    assert str(Interrupted()) == Interrupted().detail
    assert str(Interrupted()) == (
        "interrupted: the bridge stopped while this call was running; it may or may not have taken effect; "
        "check that before calling again"
    )
    assert str(Interrupted(repeatable=True)).endswith("may or may not have taken effect; it can be called again")


def test_a_call_that_was_not_resumed_says_that_it_was_never_sent():
    """And why, and what to do."""
    assert NotResumed("server 'files' is not configured any more").detail == (
        "not sent: the bridge stopped while this call was waiting, and now server 'files' is not configured any more; "
        "call again if it is still needed"
    )


def test_a_restored_failure_reads_as_it_did():
    """Whole, and after a line with the tool and the state."""
    failure = CallTimedOut("search", 5)
    restored = RestoredFailure(str(failure), failure.detail)
    assert (str(restored), restored.detail) == (str(failure), failure.detail)
    assert str(restored) != restored.detail
    assert restored.holds == [str(failure), failure.detail]
