"""Calls over HTTP that are given up, at a server in a process of its own: it is told, and gets its connections back."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import recording_server
from tests.support.client import eventually, text_of
from tests.support.stage import Stage

AT_ONCE, CALLS, TIMEOUT_S = 100, 150, 8


class Server:
    """The process, and what it has recorded."""

    def __init__(self, stage: Stage, way: str) -> None:
        self._log = stage.folder / "received"
        command = [sys.executable, str(Path(recording_server.__file__)), way, str(self._log), stage.mark]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=stage.env)
        stage.processes.append(self.process)
        assert self.process.stdout is not None
        with self.process.stdout as said:
            self.url = f"http://127.0.0.1:{int(said.readline())}/mcp"

    @property
    def noted(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    @property
    def hanging(self) -> list[Any]:
        """The IDs of the calls of `hang` that it has received."""
        return [each["id"] for each in self.noted if each.get("got") == "tools/call" and "hang" in str(each["params"])]

    @property
    def cancelled(self) -> list[Any]:
        """The IDs that it was told are cancelled."""
        return [each["params"]["requestId"] for each in self.noted if each.get("got") == "notifications/cancelled"]

    @property
    def closed(self) -> list[Any]:
        """The IDs of calls whose connection has ended."""
        return [each["closed"] for each in self.noted if "closed" in each]

    @property
    def sockets(self) -> int:
        """Connections that are open on its side, closed by the other or not."""
        return sum(
            each.status != psutil.CONN_LISTEN for each in psutil.Process(self.process.pid).net_connections("tcp")
        )


@pytest.mark.parametrize(
    "way", ["handshake", *(pytest.param(way, marks=pytest.mark.attacks_long) for way in ("modern", "sse"))]
)
def test_calls_that_are_given_up_are_told_and_give_back_their_connections(stage: Stage, way: str):
    """Of 150 calls at once 100 are sent and the others wait; one is cancelled, the rest reach their limit, and the
    server serves as before."""
    server = Server(stage, way)
    own = {"max_concurrency": AT_ONCE, "tools": {"hang": {"timeout_s": TIMEOUT_S}}}
    kind = {"type": "sse"} if way == "sse" else {}
    bridge = stage.bridge({"s": {"url": server.url, **kind, "asyncfc": own}}, max_pending=1000)
    bridge.wait_for_tools("s__hang", "s__give")
    held = [bridge.submit("s__hang", {"n": n}) for n in range(CALLS)]
    assert [each.status for each in held] == ["running"] * AT_ONCE + ["waiting"] * (CALLS - AT_ONCE)
    eventually(lambda: len(server.hanging) >= AT_ONCE, "as many as may run arrived")

    told = server.closed if way == "modern" else server.cancelled
    assert told == []
    bridge.call("cancel_future", {"future_id": held[0].id})
    eventually(lambda: server.closed if way == "modern" else server.cancelled, "the server is told of one")
    eventually(lambda: len(server.hanging) > AT_ONCE, "one that waited took its place")

    outcomes = [text_of(bridge.outcome(each.id)) for each in held]
    assert "cancelled" in outcomes[0]
    assert all(f"did not finish within {TIMEOUT_S} s" in each for each in outcomes[1:])
    ids = Counter(server.hanging)
    assert len(ids) == CALLS
    assert max(ids.values()) == 1
    if way == "modern":
        assert server.cancelled == []
    else:
        eventually(lambda: Counter(server.cancelled) == ids, "the server is told of every one")
    if way != "sse":
        eventually(lambda: Counter(server.closed) == ids, "every call's connection is closed")
    assert bridge.outcome(bridge.submit("s__give", {"n": 1}).id)["structuredContent"] == {"n": 1}
    # Some are kept for the next requests, and one for what the server says unasked.
    eventually(lambda: server.sockets <= 21, "connections are closed")
