"""Servers that start when they are needed: no process before the first call, and none after a time without calls.

Each process of a server writes its ID beside each execution (`tests/support/counting_server.py`), so that a test can
tell processes apart, and count the executions.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from tests.support.client import eventually, text_of
from tests.support.restarting import Restarting, kill, leave, recorded
from tests.support.stage import REPO, Stage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups")
IDLE_S = 0.3
LISTING = REPO / "tests" / "support" / "listing_server.py"
DAY_S = 86_400


def known(stage: Stage, **settings: object) -> Restarting:
    """A configuration whose server is lazy, and has listed its tools in an earlier run."""
    house = Restarting(stage, start="lazy", **settings)
    bridge = house.start()
    eventually(lambda: list(cache(stage).glob("*.json")), "the listings are kept")
    leave(bridge)
    return house


def has_ended(stage: Stage) -> None:
    """Wait until no process of a server is left."""
    eventually(lambda: not stage.downstreams(), "the server has ended")


def cache(stage: Stage) -> Path:
    """The folder of the listings that bridges keep."""
    return Path(stage.env["ASYNCFC_CACHE_DIR"])


def age(stage: Stage) -> None:
    """Have all cached listings be older than a day."""
    for path in cache(stage).glob("*.json"):
        os.utime(path, (time.time(), time.time() - 2 * DAY_S))


def test_a_process_runs_from_a_call_until_there_has_been_none_for_a_while(stage: Stage) -> None:
    """Each time another one, while tools are listed all along."""
    house = known(stage, idle_s=IDLE_S)
    bridge = house.start()
    assert not stage.downstreams()
    assert "Sleeping, started by a call: c" in text_of(bridge.call("list_futures"))
    for number in range(2):
        call = bridge.submit("write", {"label": f"call {number}"})
        assert text_of(bridge.outcome(call.id)) == f"call {number}"
        has_ended(stage)
        servers = bridge.call("list_futures")["structuredContent"]["servers"]
        assert servers[0]["condition"].startswith("sleeping since ")
        bridge.wait_for_tools("write")
    assert len({event["pid"] for event in house.events("run")}) == 2
    assert set(house.runs().values()) == {1}


def test_a_call_that_runs_keeps_its_server(stage: Stage) -> None:
    """As long as it likes; an idle server beside it is ended meanwhile."""
    house = Restarting(stage, start="lazy", idle_s=IDLE_S)
    house.servers["other"] = stage.toy()
    house.config = stage.config(house.servers, start="lazy", idle_s=IDLE_S)
    bridge = house.start()
    gate = house.gate()
    held = house.hold(bridge, label="held", until=str(gate))
    for _ in range(2):
        bridge.outcome(bridge.submit("other__echo", {}).id)
        eventually(lambda: len(stage.downstreams()) == 1, "the idle server has ended")
    gate.touch()
    bridge.outcome(held)
    has_ended(stage)
    assert house.runs() == {"held": 1}


def test_a_call_while_the_process_ends_is_made_by_the_next_process(stage: Stage) -> None:
    """Once, and after the end of the one before."""
    stage_entry = stage.toy("raw", "--ignore-stdin-eof")
    config = stage.config({"toy": stage_entry}, start="lazy", idle_s=IDLE_S, grace_ms=0)
    wire = stage.serve("--config", str(config))
    wire.wait_for_tools("toy__counter")
    first = wire.outcome(wire.submit("toy__counter", {}).id)

    def is_ending() -> bool:
        said = wire.call("list_futures")["structuredContent"].get("servers", [])
        return bool(said) and said[0]["condition"].startswith("sleeping since ")

    eventually(is_ending, "the server is being ended")
    assert len(stage.downstreams()) == 1, "the process does not end when its input does"
    call = wire.submit("toy__counter", {})
    assert "server 'toy' is starting" in text_of(call.result)
    second = wire.outcome(call.id)
    counted = [json.loads(text_of(result)) for result in (first, second)]
    assert [each["count"] for each in counted] == [1, 1]
    assert counted[0]["pid"] != counted[1]["pid"]
    assert len(stage.downstreams()) == 1


def test_changed_tools_of_a_sleeping_server_are_found(stage: Stage, tmp_path: Path) -> None:
    """When its listings are old, it is started for them once; clients are told of the change, and it sleeps again."""
    plan = tmp_path / "plan.json"

    def offer(*names: str) -> None:
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
        plan.write_text(json.dumps({"listings": {"tools": tools}}))

    offer("old")
    entry = stage.entry(sys.executable, str(LISTING), str(plan), stage.mark)
    config = stage.config({"s": entry}, start="lazy", idle_s=IDLE_S)
    wire = stage.serve("--config", str(config))
    wire.wait_for_tools("s__old")
    eventually(lambda: list(cache(stage).glob("*.json")), "the listings are kept")
    wire.close()
    offer("new")
    age(stage)
    wire = stage.serve("--config", str(config))
    wire.request("tools/list")
    wire.notified("notifications/tools/list_changed")
    wire.wait_for_tools("s__new")
    has_ended(stage)


def test_a_call_that_waited_in_the_last_run_wakes_its_server(stage: Stage) -> None:
    """Without a request of any client for it."""
    house = known(stage)
    bridge = house.start()
    house.hold(bridge, label="held")
    bridge.submit("append", {"label": "waiting"})
    recorded(bridge)
    kill(bridge)
    house.start()
    house.ran("waiting")
    assert house.runs()["waiting"] == 1


def test_inspect_connects_to_all_servers(stage: Stage) -> None:
    """What it shows is not from the cache."""
    house = known(stage)
    done = stage.run("inspect", "--config", str(house.config), "--json")
    (server,) = json.loads(done.stdout)["servers"]
    assert (server["status"], server["start"]) == ("ready", "lazy")
