"""A thousand calls at once: nothing lost, nothing mixed up, little memory."""

from __future__ import annotations

import time

import psutil
import pytest

from tests.support.client import Handle, canonical, text_of
from tests.support.stage import Stage

CALLS = 1000
MB = 1 << 20


@pytest.mark.slow
def test_a_thousand_slow_calls_at_once(stage: Stage) -> None:
    """1,000 calls of a 2-second tool: all answered at once, all correct, nothing lost, memory grows by < 20 MB."""
    toy = stage.toy()
    bridge = stage.serve("--", toy["command"], *toy["args"])
    bridge.wait_for_tools("sleep")
    # Warmed up with another tool: a median of 0 s would earn each of the slow calls a wait in vain, and a second task.
    for number in range(20):
        bridge.outcome(bridge.submit("echo", {"text": str(number)}).id)
    process = psutil.Process(bridge.pid)
    before = process.memory_info().rss

    began = time.monotonic()
    pending = [bridge.start_call("sleep", {"seconds": 2, "tag": f"call-{n}"}) for n in range(CALLS)]
    handles = [Handle.of(each.result()) for each in pending]
    assert len({handle.id for handle in handles}) == CALLS
    ids = [handle.id for handle in handles]
    gathered = bridge.gather(ids)["structuredContent"]["results"]
    ended = time.monotonic() - began
    peak = process.memory_info().rss

    assert [each["future_id"] for each in gathered] == ids
    assert {each["status"] for each in gathered} == {"completed"}
    assert [each["result"] for each in gathered] == [f"slept 2 call-{n}" for n in range(CALLS)]
    assert ended < CALLS * 2 / 20, "the calls ran (nearly) one after another"
    for n in (0, CALLS // 2, CALLS - 1):
        own = {"content": [{"type": "text", "text": f"slept 2 call-{n}"}]}
        assert canonical(bridge.await_future(ids[n])) == canonical(own)
    assert peak - before < 20 * MB, f"the bridge grew by {(peak - before) / MB:.1f} MB"


@pytest.mark.slow
def test_a_thousand_results_can_be_awaited_one_by_one_at_once(stage: Stage) -> None:
    """1,000 waits at the same time, each answered with its own result, however the calls finish."""
    bridge = stage.bridge({"toy": {**stage.toy(), "asyncfc": {"prefix": ""}}}, grace_ms=0)
    bridge.wait_for_tools("sleep")
    calls = [bridge.start_call("sleep", {"seconds": 0.2 + (n * 7 % 10) / 10, "tag": f"call-{n}"}) for n in range(CALLS)]
    waits = [bridge.start_call("await_future", {"future_id": Handle.of(call.result()).id}) for call in calls]
    for n, wait in enumerate(waits):
        assert text_of(wait.result()).endswith(f" call-{n}")
