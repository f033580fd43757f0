"""Fixtures of the journal's tests."""

import pytest


@pytest.fixture(params=[True, False], ids=["in a thread", "on virtual time"])
def threaded(request: pytest.FixtureRequest) -> bool:
    """Both ways of writing."""
    return request.param
