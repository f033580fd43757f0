"""Runs what depends on the engine over one whose lookups and submissions wait as well."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from tests.support.distant_engine import distant

MODULES = frozenset(
    f"test_{name}"
    for name in (
        "after", "future_resources", "handle_calls", "long_poll", "metatools", "principals", "sync_calls", "task_grace",
        "tasks", "tools",
    )
)  # fmt: skip
"""Their tests run over both, but those marked `memory_engine`, which count steps of the event loop."""


@pytest.fixture(autouse=True)
def over_distant(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have bridges use a distant engine where the test is run over one."""
    with distant() if getattr(request, "param", False) else nullcontext():
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module.__name__.rpartition(".")[2]
    if module in MODULES and metafunc.definition.get_closest_marker("memory_engine") is None:
        metafunc.parametrize("over_distant", [False, True], ids=["memory", "distant"], indirect=True)
