"""Hours of mixed use in short: what is asked, answered, broken off and abandoned leaves no memory behind."""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from collections import Counter

import psutil
import pytest

from tests.support import hostile
from tests.support.client import MODERN, RpcError, eventually, text_of
from tests.support.http_client import HttpWire
from tests.support.stage import Stage

SOAK_S = float(os.environ.get("ASYNCFC_SOAK_S", "900"))
"""Seconds that it lasts."""
KEEP_S = 5
ROOM = 16 << 20
"""More than after the first tenth the bridge may not hold at the end: heaps do not shrink to the byte."""


class Visitor:
    """One client that does what clients do, and what they should not."""

    def __init__(self, base: str, seed: int) -> None:
        self.base, self.dice, self.done = base, random.Random(seed), Counter[str]()
        self.wire = self.arrive()

    def arrive(self) -> HttpWire:
        return HttpWire(f"{self.base}/mcp", era=self.dice.choice([MODERN, "2025-11-25"])).open()

    def act(self) -> None:
        """Do one thing."""
        what = self.dice.choice(
            [
                "quick",
                "big",
                "fails",
                "refused",
                "broken",
                "cancel",
                "gather",
                "chain",
                "leave",
                "half",
                "list",
                "unknown",
            ]
        )
        self.done[what] += 1
        wire = self.wire
        match what:
            case "quick":
                assert "x" in text_of(wire.outcome(wire.submit("toy__echo", {"text": "x"}).id))
            case "big":
                wire.outcome(wire.submit("toy__big", {"n_bytes": self.dice.choice([10_000, 1_000_000])}).id)
            case "fails":
                assert wire.outcome(wire.submit("toy__fail", {"message": "no"}).id)["isError"]
            case "refused":
                wire.outcome(wire.submit("toy__protocol_error").id)
            case "broken":
                wire.outcome(wire.submit("bad__raw", {"data": '{"jsonrpc":"2.0","id":%ID%}'}).id)
            case "cancel":
                sleeping = wire.submit("toy__sleep", {"seconds": 60}).id
                wire.call("cancel_future", {"future_id": sleeping})
                wire.gather([sleeping])
            case "gather":
                wire.gather([wire.submit("toy__echo", {"text": str(n)}).id for n in range(10)])
            case "chain":
                first = wire.submit("toy__echo", {"text": "x"})
                wire.gather([first.id, wire.submit("toy__echo", {"text": f"${{f:{first.id}}}"}).id])
            case "leave":
                # One that leaves without a word is kept for half an hour, which is longer than this lasts.
                self.wire.close()
                self.wire = self.arrive()
            case "half":
                host, _, port = self.base.removeprefix("http://").partition(":")
                with socket.create_connection((host, int(port))) as connection:
                    connection.sendall(b"POST /mcp HTTP/1.1\r\nHost: " + host.encode())
            case "list":
                wire.tools()
            case "unknown":
                with pytest.raises(RpcError):
                    wire.call("no_such_tool")


@pytest.mark.attacks_long
@pytest.mark.timeout(SOAK_S + 300)
def test_memory_returns_after_a_soak(stage: Stage) -> None:
    """What the bridge holds after a tenth of the time is about what it holds at the end."""
    path = hostile.listing(stage.folder, [hostile.tool("raw")])
    servers = {"toy": stage.toy(), "bad": stage.entry(sys.executable, hostile.__file__, path, stage.mark)}
    bridge = stage.http_bridge(servers, keep_s=KEEP_S)
    process = psutil.Process(bridge.process.pid)
    visitors = [Visitor(bridge.base, seed) for seed in range(4)]
    visitors[0].wire.wait_for_tools("toy__echo", "bad__raw")

    def soak(seconds: float) -> int:
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            for visitor in visitors:
                visitor.act()
        time.sleep(2 * KEEP_S)
        visitors[0].wire.outcome(
            visitors[0].wire.submit("toy__echo", {"text": "x"}).id
        )  # what was read is dropped then
        return process.memory_info().rss

    early = soak(SOAK_S / 10)
    late = soak(SOAK_S * 0.9)
    done = sum((visitor.done for visitor in visitors), Counter[str]())
    print(f"{early >> 20} MB, then {late >> 20} MB after {sum(done.values())} steps: {dict(done)}")
    assert late < early + ROOM
    assert eventually(lambda: process.num_fds() < 64, "connections and pipes are closed")
