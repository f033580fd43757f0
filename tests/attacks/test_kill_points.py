"""Bridges that are killed at every point of a call's life: nothing runs twice, nothing that was shown is lost.

What clients were shown is held against the log of a server that records its executions (`tests/support/ledger.py`).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import kill_points
from tests.support.client import HANDSHAKE, MODERN
from tests.support.ledger import Ledger, tolerate
from tests.support.restarting import Restarting, events_in, kill, recorded
from tests.support.stage import Stage
from tests.support.users import User

SEED = int(os.environ.get("ASYNCFC_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
"""Printed by the tests that use chance; set the variable to repeat a run."""
CALLS = 500
LONG_CALLS = 10_000
long = [pytest.mark.attacks_long, pytest.mark.timeout(1800)]


def killing(house: Restarting, point: str, era: str = HANDSHAKE, **env: str) -> User:
    """A bridge that dies at this point; it may be dead before it has answered."""
    command = [sys.executable, kill_points.__file__, "serve", "--config", str(house.config)]
    stage = house.stage
    stderr = stage.folder / f"{len(stage.wires):02d}-killed.stderr"
    environment = stage.env | {kill_points.KILL: point} | env
    bridge = User(command, env=environment, cwd=stage.folder, stderr=stderr, era=era)
    stage.wires.append(bridge)
    return bridge


def use(bridge: User, act: Callable[[User], object]) -> bool:
    """Open a bridge and use it; false if it died meanwhile, which it may."""

    def everything() -> None:
        bridge.open()
        bridge.wait_for_tools("write")
        act(bridge)

    alive = tolerate(everything)
    if not alive:
        bridge.process.wait()
        bridge._reader.join()
        bridge.garbage.clear()
    return alive


def judged(house: Restarting, ledger: Ledger, era: str = HANDSHAKE) -> Counter[str]:
    """Start a bridge that lives, let everything end, and judge it; once more after another restart."""
    for _ in range(2):
        bridge = house.start(era)
        ledger.settled(bridge)
        outcomes = ledger.judge(bridge)
        bridge.close()
    return outcomes


# --- at named points -------------------------------------------------------------------------------------------------

NAMED = [
    f"{after}{point}:{n}"
    for point in kill_points.POINTS
    for after in ("", "after-")
    for n in (1, 3)
    if n == 3 or not after
]
TORN = ["torn-call:1", "torn-call:4", "torn-answer:2", "torn-answer:6"]


@pytest.mark.parametrize("point", [*NAMED, *TORN])
def test_a_bridge_that_dies_at_a_named_point(stage: Stage, point: str) -> None:
    """Before and after the commit of new futures, claims and results, the write of a call, and that of an answer."""
    # Handles are answered before anything else happens to a call.
    house = Restarting(stage, grace_ms=0)
    ledger = Ledger(house, random.Random(0))
    bridge = killing(house, point, MODERN if len(point) % 2 else HANDSHAKE)
    alive = use(bridge, lambda bridge: [ledger.few(bridge) for _ in range(3)])
    print(point, "was not hit" if alive else "was hit", dict(judged(house, ledger)))
    assert not alive, f"{point} was not hit"


@pytest.mark.parametrize("point", ["claim:3", "after-claim:3", "claim:4", "after-claim:4"])
def test_a_bridge_that_dies_when_calls_that_waited_are_claimed(stage: Stage, point: str) -> None:
    """They are in the file as waiting until then, and the server is ready to take them."""
    house = Restarting(stage, grace_ms=0)
    ledger = Ledger(house, random.Random(0))
    gate = house.gate()

    def wait_and_run(bridge: User) -> None:
        held = ledger.call(bridge, "append", until=str(gate))
        house.ran(held.label)
        waiting = [ledger.call(bridge, "append") for _ in range(3)]
        recorded(bridge)
        gate.touch()
        for each in waiting:
            ledger.read(bridge, each)

    assert not use(killing(house, point), wait_and_run), f"{point} was not hit"
    outcomes = judged(house, ledger)
    assert outcomes["completed"] + outcomes["interrupted"] == 4


@pytest.mark.parametrize("number", [1, 5, *(pytest.param(n, marks=long) for n in range(2, 60) if n != 5)])
@pytest.mark.parametrize("when", ["statement", "after-statement"])
def test_a_bridge_that_dies_while_it_starts(stage: Stage, when: str, number: int) -> None:
    """At any statement of opening the file and of taking over what a dead bridge has left; in the next start too."""
    house = Restarting(stage)
    ledger = Ledger(house, random.Random(0))
    bridge = house.start()
    for _ in range(3):
        ledger.call(bridge, "write")
    ledger.call(bridge, "append", until=str(house.gate()))
    for _ in range(5):
        ledger.call(bridge, "append")
    ledger.call(bridge, "append", text=f"${ledger.made[0].future}")
    recorded(bridge)
    kill(bridge)
    died = [not use(killing(house, f"{when}:{number + extra}"), ledger.settled) for extra in (0, 1)]
    assert died == [True, True] or number > 10, f"{when}:{number} was not hit"
    outcomes = judged(house, ledger)
    assert outcomes["interrupted"] == 1
    assert outcomes["completed"] >= 3
    assert sum(outcomes.values()) == 10


@pytest.mark.parametrize("point", ["adopt:1", "after-adopt:1", "claim:1", "after-claim:1", "end:1", "after-end:1"])
def test_a_bridge_that_dies_while_it_recovers(stage: Stage, point: str) -> None:
    """Before and after the commits of what it has taken over; the next one goes on from there."""
    house = Restarting(stage)
    ledger = Ledger(house, random.Random(0))
    bridge = house.start()
    ledger.call(bridge, "append", until=str(house.gate()))
    for _ in range(5):
        ledger.call(bridge, "append")
    recorded(bridge)
    kill(bridge)
    died = [not use(killing(house, point), ledger.settled) for _ in range(2)]
    assert died[0], f"{point} was not hit"
    outcomes = judged(house, ledger)
    assert outcomes["completed"] + outcomes["interrupted"] == 6


@pytest.mark.parametrize("point", ["drop:1", "after-drop:1", "file:3"])
def test_a_bridge_that_dies_while_it_drops_old_results(stage: Stage, point: str) -> None:
    """At the size cap: the file is whole, the newest results are there, dropped ones do not claim to be unsent."""
    house = Restarting(stage, journal_max_bytes=1 << 20)
    ledger = Ledger(house, random.Random(0))

    def fill(bridge: User) -> None:
        for _ in range(60):
            ledger.read(bridge, ledger.call(bridge, "big", n_bytes=50_000))

    assert not use(killing(house, point), fill), f"{point} was not hit"
    bridge = house.start()
    fill(bridge)
    kill(bridge)
    bridge = house.start()
    for made in ledger.made[-3:]:
        ledger.read(bridge, made)
    answers = [bridge.await_future(made.future) for made in ledger.made if made.future]
    texts = [str(answer["content"][0]["text"]) for answer in answers if answer.get("isError")]
    assert all("never sent" not in text for text in texts), texts[:3]
    assert set(house.runs().values()) == {1}
    size = sum(path.stat().st_size for path in house.state.rglob("*") if path.is_file())
    assert size < 2_000_000, size


# --- at random moments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [CALLS, pytest.param(LONG_CALLS, marks=long)])
def test_a_bridge_that_dies_at_random_moments(stage: Stage, calls: int) -> None:
    """From its first instruction on, again and again, until so many calls have been sent."""
    print(f"ASYNCFC_SEED={SEED}")
    dice = random.Random(SEED)
    house = Restarting(stage, grace_ms=dice.choice([0, 25]))
    ledger = Ledger(house, dice)
    while len(ledger.made) < calls:
        bridge = killing(house, "", dice.choice([HANDSHAKE, MODERN]))
        reaper = threading.Timer(dice.choice([dice.uniform(0.1, 0.6), dice.uniform(0.5, 1.5)]), bridge.process.kill)
        reaper.start()

        def work(bridge: User) -> None:
            while True:
                ledger.act(bridge)

        use(bridge, work)
        reaper.join()
    outcomes = judged(house, ledger)
    print(dict(outcomes))
    assert outcomes["completed"] > calls // 4


@pytest.mark.parametrize("lives", [12, pytest.param(300, marks=long)])
def test_several_bridges_of_which_some_die(stage: Stage, lives: int) -> None:
    """Two hosts with one configuration: each bridge takes only what dead ones have left."""
    print(f"ASYNCFC_SEED={SEED}")
    dice = random.Random(SEED)
    house = Restarting(stage)
    ledgers = [Ledger(house, random.Random(SEED + n), prefix=f"h{n}-") for n in range(2)]
    problems: list[BaseException] = []

    def host(ledger: Ledger, seed: int) -> None:
        own = random.Random(seed)
        try:
            for _ in range(lives // 2):
                bridge = killing(house, "")
                reaper = threading.Timer(own.uniform(0.2, 1.5), bridge.process.kill)
                reaper.start()

                def work(bridge: User) -> None:
                    while True:
                        ledger.act(bridge)

                use(bridge, work)
                reaper.join()
        except BaseException as problem:  # noqa: BLE001 - raised by the test
            problems.append(problem)

    hosts = [threading.Thread(target=host, args=(ledger, dice.random())) for ledger in ledgers]
    for each in hosts:
        each.start()
    for each in hosts:
        each.join()
    if problems:
        raise problems[0]
    bridge = house.start()
    for ledger in ledgers:
        ledger.settled(bridge)
        print(dict(ledger.judge(bridge)))
    given = [made.future for ledger in ledgers for made in ledger.made if made.future]
    assert len(set(given)) == len(given)


# --- power loss ------------------------------------------------------------------------------------------------------


def snapshot(bridge: User, house: Restarting, folder: Path) -> set[str]:
    """Copy the files of a running bridge at one instant; the labels that the server had run before."""
    bridge.process.send_signal(signal.SIGSTOP)
    try:
        ran = {event["label"] for event in events_in(house.log) if event["what"] == "run"}
        shutil.copytree(house.state, folder)
    finally:
        bridge.process.send_signal(signal.SIGCONT)
    return ran


def started_on(house: Restarting, folder: Path, **env: str) -> tuple[set[str], User]:
    """The labels that a bridge runs which finds these files, once all has ended."""
    before = len(house.events("run"))
    command = [sys.executable, kill_points.__file__, "serve", "--config", str(house.config)]
    bridge = house.start(command=command, env={"ASYNCFC_STATE_DIR": str(folder), **env})
    Ledger(house, random.Random(0)).settled(bridge)
    return {event["label"] for event in house.events("run")[before:]}, bridge


@pytest.mark.parametrize("copies", [5, pytest.param(100, marks=long)])
@pytest.mark.parametrize("loss", ["nothing", "commits of the last seconds"])
def test_a_machine_that_loses_power(stage: Stage, loss: str, copies: int) -> None:
    """A bridge that starts on a copy of the files, made at a random moment, runs nothing that had run before; after the
    loss of commits that were not synchronised, as a restarted machine may show them, too."""
    print(f"ASYNCFC_SEED={SEED}")
    dice = random.Random(SEED)
    house = Restarting(stage)
    ledger, holder = Ledger(house, random.Random(SEED)), Ledger(house, dice, prefix="held")
    taken: list[tuple[Path, set[str]]] = []
    bridge = house.start()
    gates = [house.gate() for _ in range(copies)]
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            ledger.act(bridge)

    worker = threading.Thread(target=lambda: tolerate(work))
    worker.start()
    for number in range(copies):
        holder.call(bridge, "append", until=str(gates[number]))  # others wait behind it
        time.sleep(dice.uniform(0, 0.2))
        if number:
            gates[number - 1].touch()
        time.sleep(dice.uniform(0, 0.2))
        folder = stage.folder / f"copy{number}"
        taken.append((folder, snapshot(bridge, house, folder)))
    over.set()
    gates[-1].touch()
    worker.join()
    kill(bridge)
    for folder, ran in taken:
        env = {}
        if loss != "nothing":
            env[kill_points.OS_BOOT] = "another"
            for log in folder.rglob("*-wal"):
                os.truncate(log, dice.randrange(log.stat().st_size + 1))
            for log in folder.rglob("*-shm"):
                log.unlink()
        again, copied = started_on(house, folder, **env)
        assert not again & ran, f"executed before the copy and again after it: {again & ran}"
        copied.close()


def test_files_that_are_copied_one_after_another(stage: Stage) -> None:
    """A backup program that copies while calls are made: a bridge on the copy starts and works, and repeats nothing."""
    print(f"ASYNCFC_SEED={SEED}")
    house = Restarting(stage)
    ledger = Ledger(house, random.Random(SEED))
    bridge = house.start()
    copies: list[tuple[Path, set[str]]] = []
    for number in range(4):
        for _ in range(30):
            ledger.act(bridge)
        ran = set(house.runs())
        folder = stage.folder / f"copy{number}"
        shutil.copytree(house.state, folder)
        copies.append((folder, ran))
    kill(bridge)
    for folder, ran in copies:
        again, copied = started_on(house, folder)
        assert not again & ran
        new = copied.submit("write", {"label": f"new in {folder.name}"})
        assert not copied.outcome(new.id).get("isError")
        copied.close()
