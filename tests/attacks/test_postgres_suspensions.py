"""Replicas that are suspended for longer than the others wait, and come back: they were taken for dead while they ran
calls, and go on as if nothing had happened. In between others die, calls are cancelled, and clocks are wrong.

The promises are those of `test_postgres_kills`.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator

import pytest

from tests.attacks.test_postgres_kills import SEED, TIMEOUT_S, Replicas, judged, long, opened
from tests.support import kill_points
from tests.support.client import MODERN
from tests.support.ledger import ACTS, Ledger, tolerate
from tests.support.postgres import PostgresServer
from tests.support.restarting import INTERRUPTED, entries, kill
from tests.support.stage import Stage
from tests.support.users import User


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    return postgres.url(postgres.fresh_schema())


AGAIN = "recorded again"
"""Begins the labels of calls that may run twice: the ledger's rule leaves them out."""


WITHOUT_WAITING = [each for each in ACTS if each not in ("see", "burst")]
"""Some calls wait for their gates, or for a replica that is suspended."""


class Life:
    """Some replicas and what happens to them."""

    def __init__(self, house: Replicas, dice: random.Random, size: int, skew_s: float = 0.0) -> None:
        self.house, self.dice, self.skew_s = house, dice, skew_s
        self.ledger = Ledger(house, dice)
        self.cancelled: list[tuple[str, str]] = []
        self.repeatable: list[str] = []
        self.suspended: dict[User, float] = {}
        self.replicas = [self.new() for _ in range(size)]

    def new(self) -> User:
        """Start a replica; its clock may be wrong."""
        moved_s = self.dice.uniform(-self.skew_s, self.skew_s)
        replica = self.house.killing(**({kill_points.CLOCK: f"{moved_s:.0f}"} if self.skew_s else {}))
        assert opened(replica)
        return replica

    def awake(self) -> list[User]:
        return [each for each in self.replicas if each not in self.suspended]

    def load(self, at: User) -> None:
        """Have calls that run, wait, and may be repeated or are cancelled."""
        number = len(self.ledger.made)
        gate = str(self.house.gate())
        self.ledger.call(at, "append", until=gate)
        self.ledger.call(self.dice.choice(self.awake()), "write", until=gate)
        for _ in range(3):
            self.ledger.call(self.dice.choice(self.awake()), "append")
        self.repeatable.append(at.submit("idempotent", {"label": f"{AGAIN} {number}", "until": gate}).id)
        for until in ({}, {"until": gate}):
            label = f"cancelled {number} {len(until)}"
            future = at.submit("write", {"label": label, **until}).id
            self.dice.choice(self.awake()).call("cancel_future", {"future_id": future})
            self.cancelled.append((label, future))

    def step(self) -> None:
        dice = self.dice
        if dice.random() < 0.5:  # others are close together
            time.sleep(dice.uniform(0, 0.2))
        now = time.monotonic()
        for each, until in list(self.suspended.items()):
            if now > until:
                self.wake(each)
        event = dice.random()
        if event < 0.25 and len(self.awake()) > 1:
            victim = dice.choice(self.awake())
            self.load(victim)
            victim.process.send_signal(signal.SIGSTOP)
            self.suspended[victim] = now + dice.uniform(0.2, 2.5 * TIMEOUT_S)
        elif event < 0.3 and len(self.awake()) > 1:
            victim = dice.choice(self.awake())
            self.load(victim)
            kill(victim)
            self.replicas[self.replicas.index(victim)] = self.new()
        elif event < 0.4:
            self.house.open_gates()
        else:
            self.ledger.act(dice.choice(self.awake()), WITHOUT_WAITING)

    def wake(self, replica: User) -> None:
        del self.suspended[replica]
        replica.process.send_signal(signal.SIGCONT)

    def judge(self) -> None:
        for each in list(self.suspended):
            self.wake(each)
        self.house.open_gates()
        judged(self.house, self.ledger, *self.replicas)
        found = entries(self.replicas[0])
        runs = self.house.runs()
        for label, future in self.cancelled:
            if future in found:
                never = "never sent" in str(self.replicas[0].await_future(future))
                assert runs[label] <= (0 if never else 1), f"{label}: {found[future]}, {runs[label]} runs"
        for future in self.repeatable:
            if future in found:
                assert found[future]["status"] == "completed", found[future]


@pytest.mark.parametrize("steps", [80, pytest.param(1_500, marks=long)])
@pytest.mark.parametrize("skew_s", [0.0, 90_000.0], ids=["", "wrong clocks"])
def test_replicas_that_are_suspended_come_back(stage: Stage, url: str, steps: int, skew_s: float) -> None:
    """Whatever they had is interrupted, made again or kept; nothing runs twice, and all agree in the end."""
    print(f"ASYNCFC_SEED={SEED}")
    house = Replicas(stage, url, tools={"idempotent": {"rerun_interrupted": True}})
    life = Life(house, random.Random(SEED), 3, skew_s)
    for _ in range(steps):
        life.step()
    life.judge()


def test_an_end_that_comes_too_late_changes_nothing(stage: Stage, url: str) -> None:
    """A replica is suspended while it runs calls, which end meanwhile. Another one says that they were interrupted, and
    they stay so; the one that may be repeated has run again."""
    house = Replicas(stage, url, tools={"idempotent": {"rerun_interrupted": True}})
    suspended = house.killing()
    assert opened(suspended)
    gate = str(house.gate())
    lost = suspended.submit("append", {"label": "lost", "until": gate}).id
    again = suspended.submit("idempotent", {"label": AGAIN, "until": gate}).id
    waiting = suspended.submit("append", {"label": "waiting"}).id
    house.ran("lost")
    house.ran(AGAIN)
    suspended.process.send_signal(signal.SIGSTOP)
    house.open_gates()
    other = house.start(MODERN)
    Ledger(house, random.Random(0)).settled(other)
    before = entries(other)
    assert INTERRUPTED in str(other.await_future(lost))
    assert [before[each]["status"] for each in (lost, again, waiting)] == ["failed", "completed", "completed"]
    suspended.process.send_signal(signal.SIGCONT)
    assert tolerate(lambda: suspended.call("list_futures"))
    Ledger(house, random.Random(0)).settled(suspended)
    for client in (suspended, other):
        assert {name: each["status"] for name, each in entries(client).items()} == {
            name: each["status"] for name, each in before.items()
        }
        assert INTERRUPTED in str(client.await_future(lost))
    after = suspended.submit("append", {"label": "after"}).id
    assert not other.outcome(after).get("isError")
    assert house.runs() == {"lost": 1, "waiting": 1, "after": 1}
    assert len(house.events("run", AGAIN)) == 2
