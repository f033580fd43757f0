"""A day of a journal in short: results expire after seconds and fill the size cap, over and over."""

from __future__ import annotations

import os
import random
import time
from collections import deque

import psutil
import pytest

from tests.support.client import Json, records, text_of
from tests.support.restarting import Restarting, kill
from tests.support.stage import Stage
from tests.support.users import User

SOAK_S = float(os.environ.get("ASYNCFC_SOAK_S", "300"))
"""Seconds that it lasts."""
TTL_S = 6.0
MAX_BYTES = 8 << 20
ROOM = 16 << 20
"""More than after the first tenth the bridge may not hold at the end: heaps do not shrink to the byte."""
SLACK = 8 << 20
"""Beside the cap: the write-ahead log, and what was written since the last pruning."""
BURST = 50


class Soak:
    """One client that makes calls in bursts, reads most results at once, and some again later."""

    def __init__(self, house: Restarting) -> None:
        self.house, self.dice = house, random.Random(3)
        self.bridge = house.start()
        self.calls = self.again = self.restarts = 0
        self.unread: list[str] = []
        self.recent: deque[tuple[float, str, str, int]] = deque()
        """When it ended, ID, label, and bytes of the result."""

    def burst(self) -> None:
        """Make calls at the same time, and read what they bring."""
        if self.unread:
            self.bridge.gather(self.unread)
            self.unread.clear()
        sent: list[tuple[str, int, object]] = []
        for _ in range(BURST):
            self.calls += 1
            label = f"n{self.calls}"
            size = self.dice.choice([0, 0, 0, 0, 0, 0, 0, 0, 2_000, 100_000])
            tool = "big" if size else self.dice.choice(["write", "read", "append"])
            arguments: Json = {"label": label, "_wait": "this", **({"n_bytes": size} if size else {})}
            if self.dice.random() < 0.1:
                del arguments["_wait"]  # read with the next burst
            sent.append((label, size, self.bridge.start_call(tool, arguments)))
        for label, size, pending in sent:
            (record,) = records(pending.result())
            self.recent.append((time.monotonic(), record["future_id"], label, size + 1_000))
            if record["status"] != "completed":
                self.unread.append(record["future_id"])

    def look_back(self) -> None:
        """Read a result again that is within its time, and within the cap even if every byte counted four times."""
        now, total = time.monotonic(), 0
        bound = [each for each in self.recent if now - each[0] < TTL_S / 2]
        self.recent = deque(bound)
        within: list[tuple[str, str]] = []
        for _, future, label, size in reversed(bound):
            total += size
            if total > MAX_BYTES // 4:
                break
            within.append((future, label))
        if within:
            self.again += 1
            future, label = self.dice.choice(within)
            answer = self.bridge.outcome(future)
            assert not answer.get("isError"), text_of(answer)
            assert answer["structuredContent"]["label"] == label

    def restart(self) -> None:
        """Kill the bridge and start another."""
        self.restarts += 1
        self.unread.clear()
        kill(self.bridge)
        self.bridge = self.house.start()


def bytes_of(house: Restarting) -> int:
    """Size of everything in the folder of state."""
    total = 0
    for path in house.state.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def rss(bridge: User) -> int:
    return psutil.Process(bridge.pid).memory_info().rss


@pytest.mark.attacks_long
@pytest.mark.timeout(SOAK_S + 300)
def test_memory_and_file_stay_within_their_bounds(stage: Stage) -> None:
    """Flat memory, a file within the cap, and nothing forgotten that is within its bounds; then with restarts."""
    house = Restarting(stage, ttl_s=TTL_S, journal_max_bytes=MAX_BYTES, keep_s=TTL_S, unread_keep_s=TTL_S)
    soak = Soak(house)
    largest = 0

    def run(seconds: float, *, restarts: bool = False) -> int:
        nonlocal largest
        over = time.monotonic() + seconds
        next_kill = time.monotonic() + 10
        while time.monotonic() < over:
            soak.burst()
            soak.look_back()
            largest = max(largest, bytes_of(house))
            if restarts and time.monotonic() > next_kill:
                soak.restart()
                soak.look_back()
                next_kill = time.monotonic() + 10
        return rss(soak.bridge)

    early = run(SOAK_S / 10)
    late = run(SOAK_S * 0.6)
    last = run(SOAK_S * 0.3, restarts=True)
    print(
        f"{soak.calls} calls, {soak.again} read again, {soak.restarts} restarts: {early >> 20} MB, {late >> 20} MB, "
        f"{last >> 20} MB at the end; files at most {largest >> 20} MB"
    )
    runs = house.runs()
    assert max(runs.values()) == 1
    assert late < early + ROOM
    assert last < early + ROOM
    assert largest < MAX_BYTES + SLACK
