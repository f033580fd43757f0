"""A server that keeps failing is started ever more rarely, and one that a request needs at once."""

import pytest

from asyncfc_mcp.downstream.restart_policy import (
    BACKOFF_S,
    HEALTHY_S,
    HTTP_RETRY_S,
    PROCESS_RETRY_S,
    RestartPolicy,
)


def test_pauses_double_up_to_the_longest():
    """And the failures are counted."""
    policy = RestartPolicy(remote=False)
    pauses = [policy.on_failure(0.0, ready_since=None) for _ in range(10)]
    assert pauses[:4] == [BACKOFF_S[0] * 2**n for n in range(4)]
    assert pauses[-1] == BACKOFF_S[1]
    assert policy.failures == 10


@pytest.mark.parametrize(("uptime", "failures"), [(HEALTHY_S - 1, 4), (HEALTHY_S + 1, 1)])
def test_only_a_server_that_was_up_for_long_begins_anew(uptime: float, failures: int):
    """One that fails right after each start keeps failing."""
    policy = RestartPolicy(remote=False)
    for _ in range(3):
        policy.on_failure(0.0, ready_since=None)
    policy.on_ready()
    pause = policy.on_failure(100.0, ready_since=100.0 - uptime)
    assert policy.failures == failures
    assert pause == BACKOFF_S[0] * 2 ** (failures - 1)


@pytest.mark.parametrize(("remote", "retry_s"), [(False, PROCESS_RETRY_S), (True, HTTP_RETRY_S)])
def test_a_request_starts_a_server_that_ran_before_at_once(remote: bool, retry_s: float):
    """One that did not come up only after a while, which is short where a start is only a connection."""
    policy = RestartPolicy(remote=remote)
    assert policy.request_delay(0.0) == 0
    policy.on_failure(10.0, ready_since=None)
    assert policy.request_delay(10.0) == retry_s
    assert policy.request_delay(10.0 + retry_s) == 0
    policy.on_failure(20.0, ready_since=19.0)
    assert policy.request_delay(20.0) == 0
