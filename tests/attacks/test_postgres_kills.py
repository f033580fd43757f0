"""Replicas that are killed at every step of many calls' lives, beside one that lives, over one real PostgreSQL.

What clients of all of them were shown is held against the log of a server that records its executions
(`tests/support/ledger.py`): each call ran at most once, nothing that was shown is lost, conflicting writes kept their
order, nothing stays unfinished, and all replicas say the same in the end.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.support import kill_points
from tests.support.client import HANDSHAKE, MODERN, Json
from tests.support.ledger import Ledger, tolerate
from tests.support.postgres import PostgresServer
from tests.support.restarting import Restarting, entries, kill
from tests.support.stage import Stage
from tests.support.users import User

SEED = int(os.environ.get("ASYNCFC_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
"""Printed by the tests that use chance; set the variable to repeat a run."""
LONG_CALLS = 500
TIMEOUT_S = 2
long = [pytest.mark.attacks_long, pytest.mark.timeout(1800)]
QUICK = ["after-submit", "after-ready", "after-take", "claim", "after-claim", "end", "after-end"]
STEPS = [
    f"{after}{point}" for point in kill_points.POSTGRES for after in ("", "after-") if (after, point) != ("", "take")
]


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    return postgres.url(postgres.fresh_schema())


class Replicas(Restarting):
    """Replicas over stdio with one configuration and one database."""

    def __init__(self, stage: Stage, url: str, owner: str = "any", **settings: object) -> None:
        settings |= {"engine": url, "secret": "one secret for all of them", "replica_timeout_s": TIMEOUT_S}
        super().__init__(stage, owner=owner, grace_ms=0, **settings)

    def open_gates(self) -> None:
        """Let everything go on that a dead client has left waiting."""
        for number in range(1, next(self._gates)):
            (self.stage.folder / f"gate{number}").touch()

    def killing(self, point: str = "", era: str = MODERN, **more: str) -> User:
        """A replica that dies at this point; it may be dead before it has answered."""
        stage = self.stage
        stderr = stage.folder / f"{len(stage.wires):02d}-killed.stderr"
        command = [sys.executable, kill_points.__file__, "serve", "--config", str(self.config)]
        env = stage.env | {kill_points.KILL: point, kill_points.ON_POSTGRES: "1"} | more
        replica = User(command, env=env, cwd=stage.folder, stderr=stderr, era=era)
        stage.wires.append(replica)
        return replica

    def lasting(self) -> User:
        """A replica that lives, and leaves jobs to others that have time: they are to die while they run them."""
        replica = self.killing(**{kill_points.SLOW_TAKE: "1"})
        assert opened(replica)
        return replica


def opened(replica: User) -> bool:
    def everything() -> None:
        replica.open()
        replica.wait_for_tools("write", "append")

    return tolerate(everything)


def bury(replica: User) -> None:
    """Wait for the end of a replica that dies."""
    replica.process.wait(20)
    replica._reader.join(20)
    replica.garbage.clear()


def shown(client: User) -> dict[str, Json]:
    """What a replica lists, without what depends on the moment."""
    return {name: {"status": each["status"], "tool": each["tool"]} for name, each in entries(client).items()}


def judged(house: Replicas, ledger: Ledger, *clients: User) -> None:
    """Wait until all has ended, and judge it at each replica."""
    ledger.settled(clients[0])
    outcomes = [ledger.judge(client) for client in clients]
    print(dict(outcomes[0]))
    assert all(each == outcomes[0] for each in outcomes)
    assert all(shown(client) == shown(clients[0]) for client in clients)


def work(ledger: Ledger, dying: User, living: User) -> bool:
    """Use both replicas until one has died; false if it has not."""

    def everything() -> None:
        for _ in range(3):
            ledger.few(dying)
            ledger.act(living)

    alive = tolerate(everything)
    ledger.house.open_gates()
    return not alive


@pytest.mark.parametrize("steps", [QUICK, pytest.param(STEPS * 5, marks=long)], ids=["quick", "all"])
def test_replicas_that_die_at_named_points(stage: Stage, url: str, steps: list[str]) -> None:
    """Before and after the commit of each step of a call, one replica after another, beside one that lives."""
    print(f"ASYNCFC_SEED={SEED}")
    house, dice = Replicas(stage, url), random.Random(SEED)
    ledger = Ledger(house, dice)
    living = house.lasting()
    for step in steps:
        for _ in range(5):
            dying = house.killing(f"{step}:{dice.choice([1, 2, 4])}", dice.choice([MODERN, HANDSHAKE]))
            if opened(dying):
                if not work(ledger, dying, living):
                    dying.close()
                    continue
            bury(dying)
            break
        else:
            raise AssertionError(f"{step} was not hit")
    judged(house, ledger, living, house.start(HANDSHAKE))


@pytest.mark.parametrize("calls", [pytest.param(LONG_CALLS, marks=long)])
@pytest.mark.parametrize("owner", ["any", "auto"])
def test_replicas_that_die_at_random_moments(stage: Stage, url: str, owner: str, calls: int) -> None:
    """Two clients use two replicas each, of which one is killed after some time, again and again."""
    print(f"ASYNCFC_SEED={SEED}")
    house, dice = Replicas(stage, url, owner), random.Random(SEED)
    ledger = Ledger(house, dice)
    living = house.start(MODERN)
    while len(ledger.made) < calls:
        dying = house.killing("", dice.choice([MODERN, HANDSHAKE]))
        reaper = threading.Timer(dice.uniform(0.5, 3), dying.process.kill)
        reaper.start()
        if opened(dying):

            def use(dying: User, living: User) -> None:
                while True:
                    ledger.act(dying if dice.random() < 0.7 else living)

            assert not tolerate(lambda dying=dying, living=living: use(dying, living))
        reaper.join()
        bury(dying)
        house.open_gates()
        if dice.random() < 0.5:
            before, living = living, house.start(MODERN)
            before.close()
    judged(house, ledger, living, house.start(HANDSHAKE))


AGAIN = "recorded twice"
"""Label of the one call that may run twice: the ledger's rule leaves it out."""


@pytest.mark.parametrize(
    "point",
    [
        *("after-requeue", "after-adopt"),
        *(pytest.param(each, marks=long) for each in ("adopt", "interrupt", "after-interrupt", "requeue")),
    ],
)
def test_a_replica_that_dies_while_it_takes_over(stage: Stage, url: str, point: str) -> None:
    """Before and after the commits of what it has taken over; a third one goes on from there."""
    house = Replicas(stage, url, tools={"idempotent": {"rerun_interrupted": True}})
    ledger = Ledger(house, random.Random(0))
    first = house.start(MODERN)
    gate = str(house.gate())
    held = ledger.call(first, "append", until=gate)
    again = first.submit("idempotent", {"label": AGAIN, "until": gate}).id
    house.ran(held.label)
    house.ran(AGAIN)
    for number in range(3):
        ledger.call(first, "append", text=f"${again}" if number == 2 else f"{number}")
    second = house.killing(f"{point}:1")
    assert opened(second)
    kill(first)
    bury(second)
    third = house.start(MODERN)
    house.open_gates()
    judged(house, ledger, third, house.start(HANDSHAKE))
    assert outcomes_of(third, again) == "completed"
    # Twice at the first and at a later one, or also at the second.
    assert 2 <= len(house.events("run", AGAIN)) <= 3


@pytest.mark.parametrize("point", [pytest.param("release", marks=long), "after-release"])
def test_a_replica_that_dies_while_it_leaves(stage: Stage, url: str, point: str) -> None:
    """What it has not handed over is taken over."""
    house = Replicas(stage, url, drain_s=1)
    ledger = Ledger(house, random.Random(0))
    leaving = house.killing(f"{point}:1")
    assert opened(leaving)
    gate = str(house.gate())
    house.ran(ledger.call(leaving, "append", until=gate).label)
    for _ in range(3):
        ledger.call(leaving, "append")
    staying = house.start(MODERN)
    leaving.process.terminate()
    bury(leaving)
    assert leaving.process.returncode == -signal.SIGKILL
    house.open_gates()
    judged(house, ledger, staying, house.start(HANDSHAKE))


def outcomes_of(client: User, future: str) -> str:
    return str(entries(client)[future]["status"])
