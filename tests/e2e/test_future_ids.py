"""IDs over restarts of real bridges: none is given twice, and an old one is never another call's result."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.client import HANDSHAKE, MODERN, RpcError, text_of
from tests.support.stage import Stage
from tests.support.stdio_client import Wire


def start(stage: Stage, config: Path, era: str = HANDSHAKE) -> Wire:
    bridge = stage.serve("--config", str(config), era=era)
    bridge.wait_for_tools("toy__echo")
    return bridge


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_an_id_from_before_a_restart_is_no_other_calls(stage: Stage, era: str) -> None:
    """After a clean stop IDs go on; without a journal the old one says that it is old, wherever it is asked for."""
    config = stage.config({"toy": stage.toy()}, journal="off")
    bridge = start(stage, config, era)
    assert [bridge.submit("toy__echo", {"text": "old"}).id for _ in range(2)] == ["f1", "f2"]
    bridge.close()
    bridge = start(stage, config, era)
    assert "f1 is from before the restart at " in text_of(bridge.call("await_future", {"future_id": "f1"}))
    assert bridge.submit("toy__echo", {"text": "new"}).id == "f3"
    for tool, arguments in (
        ("await_future", {"future_id": "f1"}),
        ("gather", {"future_ids": ["f3", "f1"]}),
        ("cancel_future", {"future_id": "f1"}),
        ("toy__echo", {"text": "x", "_wait": "f1"}),
    ):
        answer = bridge.call(tool, arguments)
        assert answer["isError"] is True
        assert "f1 is from before the restart at " in text_of(answer)
        assert "call the tool again" in text_of(answer)
    with pytest.raises(RpcError, match=r"f1 is from before the restart at"):
        bridge.request("resources/read", {"uri": "future://f1"})


def test_a_reference_to_an_id_from_before_a_restart_is_refused(stage: Stage) -> None:
    """The tool would take `$f1` for the result. What was never an ID is refused as well; what is escaped is text."""
    config = stage.config({"toy": stage.toy()}, journal="off")
    bridge = start(stage, config)
    bridge.submit("toy__echo", {"text": "old"})
    bridge.close()
    bridge = start(stage, config)
    for text in ("$f1", "$f1.items", "see ${f:f1}"):
        answer = bridge.call("toy__echo", {"text": text})
        assert answer["isError"] is True
        assert "not sent: f1 is from before the restart at " in text_of(answer)
    for text in ("$f999", "${f:f999}"):
        answer = bridge.call("toy__echo", {"text": text})
        assert answer["isError"] is True
        assert "not sent: no call has the name 'f999'" in text_of(answer)
    for text, meant in (("$$f1", "$f1"), ("$$f999", "$f999"), ("see ${f:f999}", "see ${f:f999}"), ("$F1", "$F1")):
        assert meant in text_of(bridge.outcome(bridge.submit("toy__echo", {"text": text}).id))


def test_after_a_kill_ids_are_new(stage: Stage) -> None:
    """A crash leaves a gap."""
    config = stage.config({"toy": stage.toy()}, journal="off")
    bridge = start(stage, config)
    bridge.submit("toy__echo", {"text": "old"})
    bridge.process.kill()
    bridge.process.wait()
    bridge = start(stage, config)
    fresh = bridge.submit("toy__echo", {"text": "new"}).id
    assert fresh == "f65"
    assert "f1 is from before the restart" in text_of(bridge.call("await_future", {"future_id": "f1"}))
    assert "Unknown future 'f66'" in text_of(bridge.call("await_future", {"future_id": "f66"}))


def test_two_hosts_with_one_configuration_share_no_id(stage: Stage) -> None:
    """Without a journal each bridge of the two says whose an ID is that it does not have."""
    config = stage.config({"toy": stage.toy()}, journal="off")
    one, two = start(stage, config), start(stage, config)
    first, second = (bridge.submit("toy__echo", {"text": "x"}).id for bridge in (one, two))
    assert first != second
    said = text_of(two.call("await_future", {"future_id": first}))
    assert f"{first} is from another bridge with this configuration" in said
    assert f"(process {one.pid})" in said


def test_a_folder_that_cannot_be_written_is_no_obstacle(stage: Stage) -> None:
    """IDs are long then, stderr says why, and they are never the same."""
    (stage.folder / "state").write_text("a file")
    env = {"ASYNCFC_STATE_DIR": str(stage.folder / "state")}
    config = stage.config({"toy": stage.toy()})
    taken: list[str] = []
    for _ in range(2):
        bridge = stage.serve("--config", str(config), env=env)
        bridge.wait_for_tools("toy__echo")
        taken += [bridge.submit("toy__echo", {"text": "x"}).id for _ in range(3)]
        assert "the counter of future IDs in" in bridge.stderr()
        bridge.close()
    assert len(set(taken)) == 6
    assert min(map(len, taken)) > 10
