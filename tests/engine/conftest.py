"""Fixtures of the engine's tests: both ways of making calls, and each engine on a bench."""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.engines import ENGINES, OpenBench, bench_over
from tests.support.parked_calls import ParkedCalls
from tests.support.postgres import PostgresServer


@pytest.fixture(params=["each call in a task", "calls sent at once"], scope="module")
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every promise is kept by both ways of making calls."""
    ParkedCalls.at_once = request.param == "calls sent at once"
    yield
    ParkedCalls.at_once = False


@pytest.fixture(params=[*sorted(ENGINES), "postgres"], scope="module")
def bench(request: pytest.FixtureRequest, both_ways: None) -> OpenBench:
    """Opens each engine in turn."""
    if request.param in ENGINES:
        return partial(bench_over, ENGINES[request.param])
    server: PostgresServer = request.getfixturevalue("postgres")
    from tests.support.postgres_engines import over

    return partial(bench_over, over(server))
