"""Journals that cannot be used: stderr says so once, calls go on in memory, and nothing written is destroyed."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.client import PATIENCE, eventually, text_of
from tests.support.counting_server import big_text
from tests.support.restarting import Restarting, entries, kill, leave, until_ended
from tests.support.stage import REPO, Stage
from tests.support.users import User

LAUNCHER = REPO / "tests" / "support" / "clocks.py"
READ_ONLY = 'mkdir -p "$DIR" && mount --bind "$DIR" "$DIR" && mount -o remount,ro,bind "$DIR" && exec "$0" "$@"'
SMALL = 'mkdir -p "$DIR" && mount -t tmpfs -o size=600k tmpfs "$DIR" && exec "$0" "$@"'
LIMITED = 'ulimit -f 400; exec "$0" "$@"'
"""In blocks of 512 bytes or 1 KB, depending on the shell."""


def _namespaces() -> bool:
    """Whether this user may mount in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    mounts = ["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return subprocess.run(mounts, capture_output=True, check=False).returncode == 0


NAMESPACES = _namespaces()


def mounting(house: Restarting, script: str) -> User:
    """A bridge whose folder of state is mounted by a script first."""
    if not NAMESPACES:
        pytest.skip("needs mounts in a namespace of its own (root, or user namespaces)")
    return house.start(command=["unshare", "-m", "sh", "-c", script, *house.command()], env={"DIR": str(house.state)})


def file_of(house: Restarting) -> Path:
    """The journal."""
    found = [p for p in house.state.rglob("*") if p.is_file() and p.read_bytes()[:15] == b"SQLite format 3"]
    assert len(found) == 1, found
    return found[0]


def assert_usable(bridge: User, label: str, count: int = 3) -> list[str]:
    """Calls are made, awaited and ordered."""
    futures = [bridge.submit("append", {"label": f"{label} {n}"}).id for n in range(count)]
    for number, future in enumerate(futures):
        assert text_of(bridge.outcome(future)) == f"{label} {number}"
    assert set(futures) <= set(entries(bridge))
    return futures


def warnings(bridge: User) -> list[str]:
    """The lines on stderr about the journal."""
    lines = bridge.stderr_path.read_text(errors="replace").splitlines()
    return [line for line in lines if "journal" in line]


def warned(bridge: User, *words: str) -> None:
    """One line says what is wrong."""
    eventually(lambda: warnings(bridge), "a warning about the journal")
    (line,) = warnings(bridge)
    for word in words:
        assert word in line, line


def filled(stage: Stage) -> tuple[Restarting, str]:
    """A configuration whose journal has a result."""
    house = Restarting(stage)
    bridge = house.start()
    future = bridge.submit("write", {"label": "before"}).id
    bridge.outcome(future)
    leave(bridge)
    return house, future


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made(stage: Stage) -> None:
    """A file is in its place."""
    house = Restarting(stage)
    house.state.write_text("a file")
    bridge = house.start()
    assert_usable(bridge, "calls")
    warned(bridge, str(house.state))
    kill(bridge)
    assert house.state.read_text() == "a file"


def test_a_read_only_folder(stage: Stage) -> None:
    """Empty, and with the journal of an earlier run in it, which is left as it was."""
    house = Restarting(stage)
    bridge = mounting(house, READ_ONLY)
    assert_usable(bridge, "empty")
    warned(bridge, str(house.state))
    leave(bridge)
    bridge = house.start()
    future = bridge.submit("write", {"label": "before"}).id
    bridge.outcome(future)
    leave(bridge)
    content = file_of(house).read_bytes()
    bridge = mounting(house, READ_ONLY)
    assert_usable(bridge, "filled")
    warned(bridge, str(house.state))
    leave(bridge)
    assert file_of(house).read_bytes() == content
    bridge = house.start()
    assert text_of(bridge.outcome(future)) == "before"
    assert set(house.runs().values()) == {1}


# --- space -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["tmpfs", "limit"])
def test_a_full_disk(stage: Stage, script: str) -> None:
    """Calls go on, with results of any size, and what is answered is right; the warning stands there once."""
    house = Restarting(stage)
    if script == "tmpfs":
        bridge = mounting(house, SMALL)
    else:
        bridge = house.start(command=["sh", "-c", LIMITED, *house.command()])
    futures = [bridge.submit("big", {"label": f"n{n}", "n_bytes": 100_000}).id for n in range(20)]
    assert_usable(bridge, "between")
    for future in futures:
        assert text_of(bridge.outcome(future)) == big_text(100_000)
    warned(bridge)
    assert_usable(bridge, "after", 20)
    for future in futures[::-1]:
        assert text_of(bridge.outcome(future)) == big_text(100_000)
    assert len(warnings(bridge)) == 1
    leave(bridge)
    assert set(house.runs().values()) == {1}


def test_a_disk_that_fills_while_calls_wait(stage: Stage) -> None:
    """A call that stands in the file as waiting, and cannot be marked as sent there, is not sent: another run would
    send it once more. Its reason says so, or it is made and the next run knows that."""
    house = Restarting(stage)
    bridge = house.start(command=["sh", "-c", LIMITED, *house.command()])
    gate = house.gate()
    house.hold(bridge, until=gate)
    waiting = [bridge.submit("append", {"label": f"n{n}"}).id for n in range(5)]
    eventually(lambda: b"n4" in house.bytes_of_state(), "the calls that wait are written")
    for n in range(20):
        bridge.outcome(bridge.submit("big", {"label": f"big {n}", "n_bytes": 100_000}).id)
    warned(bridge)
    gate.touch()
    until_ended(bridge, *waiting)
    kill(bridge)
    bridge = house.start()
    bridge.outcome(bridge.submit("append", {"label": "last"}).id)
    assert set(house.runs().values()) == {1}


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["garbage", "cut", "middle"])
def test_a_corrupt_file_is_moved_aside(stage: Stage, damage: str) -> None:
    """Not deleted; a new one takes its place, and the next restart finds what was written into that."""
    house, _ = filled(stage)
    bridge = house.start()
    for n in range(200):
        bridge.submit("write", {"label": f"n{n}", "text": "x" * 500})
    until_ended(bridge, next(iter(entries(bridge))))
    leave(bridge)
    path = file_of(house)
    content = path.read_bytes()
    match damage:
        case "garbage":
            broken = b"this is no database" * 1000
        case "cut":
            broken = content[: len(content) // 3]
        case _:
            third = len(content) // 3
            broken = content[:third] + b"\xde\xad" * (third // 2) + content[2 * third :]
    for each in path.parent.glob(f"{path.name}-*"):
        each.unlink()
    path.write_bytes(broken)

    bridge = house.start()
    assert_usable(bridge, "meanwhile")
    entries(bridge)
    warned(bridge)
    futures = assert_usable(bridge, "after")
    kill(bridge)
    aside = [
        p for p in path.parent.glob(f"{path.name}.corrupt*") if p.is_file() and not p.name.endswith(("-wal", "-shm"))
    ]
    assert len(aside) == 1, f"one file is moved aside: {list(path.parent.rglob('*'))}"
    # Damage in the middle is found when that part is read, so the rest may have been written to before.
    assert aside[0].read_bytes() == broken or b"\xde\xad" * 1000 in aside[0].read_bytes()
    bridge = house.start()
    for number, future in enumerate(futures):
        assert text_of(bridge.outcome(future)) == f"after {number}"
    assert not warnings(bridge)
    assert set(house.runs().values()) == {1}


def test_a_newer_file_is_refused_with_words(stage: Stage) -> None:
    """An older program leaves it as it is; it can be used again later."""
    house, future = filled(stage)
    path = file_of(house)

    def version(number: int | None = None) -> int:
        with sqlite3.connect(path) as database:
            (found,) = database.execute("PRAGMA user_version").fetchone()
            if number is not None:
                database.execute(f"PRAGMA user_version = {number}")
        database.close()
        return found

    known = version(1_000_000)
    content = path.read_bytes()
    bridge = house.start()
    assert_usable(bridge, "calls")
    warned(bridge, "newer")
    leave(bridge)
    assert path.read_bytes() == content
    version(known)
    bridge = house.start()
    assert text_of(bridge.outcome(future)) == "before"


@contextmanager
def locked(path: Path, mode: str) -> Iterator[None]:
    """Another program holds the file's lock while the block runs: `EXCLUSIVE` also keeps readers out."""
    program = (
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "d.execute(f'PRAGMA locking_mode = {sys.argv[2]}'); d.execute('BEGIN EXCLUSIVE'); "
        "print('locked', flush=True); sys.stdin.read(); d.execute('ROLLBACK')"
    )
    command = [sys.executable, "-c", program, str(path), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as locker:
        assert locker.stdout
        assert locker.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            locker.communicate(timeout=PATIENCE)


def test_a_locked_file(stage: Stage) -> None:
    """Held by another program when the bridge starts: a warning, and calls in memory. The file is whole afterwards."""
    house, future = filled(stage)
    with locked(file_of(house), "EXCLUSIVE"):
        bridge = house.start()
        assert_usable(bridge, "locked")
        warned(bridge, "locked")
        leave(bridge)
    bridge = house.start()
    assert text_of(bridge.outcome(future)) == "before"
    assert not warnings(bridge)
    assert set(house.runs().values()) == {1}


def test_a_file_that_is_locked_while_the_bridge_runs(stage: Stage) -> None:
    """Calls go on: those that are read-only at once, all others when the lock is released or given up. Nothing runs
    twice after a restart."""
    house, _ = filled(stage)
    bridge = house.start()
    assert_usable(bridge, "first")
    with locked(file_of(house), "NORMAL"):
        assert text_of(bridge.outcome(bridge.submit("read", {"label": "meanwhile"}).id)) == "meanwhile"
        futures = [bridge.submit("append", {"label": f"n{n}"}).id for n in range(3)]
        until_ended(bridge, *futures)
    assert_usable(bridge, "last")
    kill(bridge)
    bridge = house.start()
    bridge.outcome(bridge.submit("append", {"label": "next"}).id)
    assert set(house.runs().values()) == {1}


def test_a_file_that_vanishes_while_the_bridge_runs(stage: Stage) -> None:
    """Somebody cleans up the folder of state: calls go on, and what is answered is right."""
    house = Restarting(stage)
    bridge = house.start()
    futures = assert_usable(bridge, "first")
    shutil.rmtree(house.state)
    assert_usable(bridge, "second")
    large = bridge.submit("big", {"label": "big", "n_bytes": 2_000_000}).id
    assert text_of(bridge.outcome(large)) == big_text(2_000_000)
    for number, future in enumerate(futures):
        answer = bridge.await_future(future)
        assert text_of(answer) == f"first {number}" or answer.get("isError")
    leave(bridge)
    bridge = house.start()
    assert_usable(bridge, "third")
    assert set(house.runs().values()) == {1}


# --- the clock -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-1000, -1, 20])
def test_a_clock_that_was_set(stage: Stage, hours: int) -> None:
    """Backwards by any time, or forwards within `ttl_s`: results stay, what waited is made once, numbers go on."""
    house, before = filled(stage)
    bridge = house.start()
    house.hold(bridge)
    waiting = bridge.submit("append", {"label": "waiting"}).id
    eventually(lambda: b"waiting" in house.bytes_of_state(), "the call that waits is written")
    kill(bridge)
    clocked = [sys.executable, str(LAUNCHER), str(hours * 3600), "serve", "--config", str(house.config)]
    bridge = house.start(command=clocked)
    assert text_of(bridge.outcome(before)) == "before"
    assert text_of(bridge.outcome(waiting)) == "waiting"
    futures = assert_usable(bridge, "set")
    assert before not in futures
    kill(bridge)
    bridge = house.start()
    for ref in (before, waiting, *futures):
        assert not bridge.await_future(ref).get("isError")
    assert set(house.runs().values()) == {1}


def test_results_are_forgotten_after_their_time(stage: Stage) -> None:
    """`ttl_s` of the wall clock, over restarts; an old ID says that its result is no longer kept."""
    house, before = filled(stage)
    clocked = [sys.executable, str(LAUNCHER), str(25 * 3600), "serve", "--config", str(house.config)]
    bridge = house.start(command=clocked)
    bridge.outcome(bridge.submit("write", {"label": "new"}).id)
    eventually(lambda: before not in entries(bridge), "the old result is forgotten")
    answer = bridge.await_future(before)
    assert answer["isError"] is True
    assert "never sent" not in text_of(answer)
    assert house.runs() == {"before": 1, "new": 1}
