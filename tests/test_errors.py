"""Errors name what is nearest to what was meant, in a time that does not grow with what there is."""

import pytest

from asyncfc_mcp.errors import nearest
from tests.support.cpu_time import least_cpu_s


@pytest.mark.parametrize(
    "names",
    [
        [f"result_of_step_{number:05}" for number in range(20_000)],
        [f"{number:05}" * 12 for number in range(20_000)],
        ["x" * 5_000 + str(number) for number in range(20_000)],
        [str(number) for number in range(1_000_000)],
    ],
    ids=["alike", "long", "very long", "a million"],
)
def test_the_nearest_of_thousands_are_found_in_a_moment(names: list[str]):
    """Comparing with each took 6.6 s for 20,000."""
    assert least_cpu_s(lambda: nearest("result_of_step_00012x", names), 0.25) < 0.25
    assert least_cpu_s(lambda: nearest("x" * 100_000, names), 0.25) < 0.25


def test_the_likeliest_of_many_are_compared():
    """A name with a letter too many among thousands of others."""
    names = [f"tool_{number:05}" for number in range(19_000)]
    assert nearest("serach_documents", [*names, "search_documents"]) == ["search_documents"]
    assert len(nearest("tool_0001x", names)) == 3
    assert nearest("search", ["fetch", "search_all", "reach", "Search"])[0] in ("search_all", "Search", "reach")
    assert nearest("completely different", ["a", "b"]) == []
