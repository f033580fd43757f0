"""Several bridges on one file: each recovers what belongs to an ended one, and none harms another."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.engine.journal import owners
from tests.engine.journal.bench import committed, ended, key, opened, record, result_of, run, running, text

ABSENT = "0" * 32


def adopted(path: Path) -> list[tuple[str, str]]:
    """Start a bridge that ends at once; return IDs and states of what it adopts."""

    async def test() -> list[tuple[str, str]]:
        async with opened(path, threaded=False) as journal:
            return [(each.id, each.state.value) for each in journal.adopted()]

    return run(False, test)


def test_a_running_bridge_keeps_its_futures_and_answers_for_them(tmp_path: Path, threaded: bool):
    """A third one gets those of the first once that has ended."""
    path = tmp_path / "j"

    async def test() -> None:
        async with opened(path, threaded) as second:
            async with opened(path, threaded, clock=lambda: 1_795_000_000.5) as first:
                first.add(record(1))
                await committed(first)
                second.add(record(2))
                await committed(second)
                assert second.owner("local", "f1") == (os.getpid(), 1_795_000_000.5)
                assert second.find("local", "f1") is None
                assert second.owner("local", "f3") is None
                async with opened(path, threaded) as third:
                    assert third.adopted() == []
            assert second.owner("local", "f1") is None
            async with opened(path, threaded) as fourth:
                assert [each.id for each in fourth.adopted()] == ["f1"]

    run(threaded, test)
    assert adopted(path) == [("f1", "waiting"), ("f2", "waiting")]


def test_files_of_ended_bridges_are_removed(tmp_path: Path):
    """By the next start, once nothing belongs to them."""
    path = tmp_path / "j"
    for _ in range(5):
        adopted(path)
    assert len(owners.boots(tmp_path / "j.bridges")) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path):
    """It may live longer than its bridge."""
    path = tmp_path / "j"
    read, write = os.pipe()

    async def test() -> int:
        async with opened(path, threaded=False) as journal:
            journal.add(record(1))
            await committed(journal)
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    os.read(read, 1)
                os._exit(0)
            return child

    child = run(False, test)
    try:
        assert adopted(path) == [("f1", "waiting")]
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


def test_numbers_of_an_ended_bridge_that_are_not_in_its_complete_journal_were_never_sent(tmp_path: Path):
    """Not those that are in it, are not reserved, or belong to a bridge that closed, runs, or lost its record."""
    path = tmp_path / "j"

    async def crashing() -> None:
        async with opened(path, threaded=False) as journal:
            journal.reserved("local", 1, 64)
            journal.reserved("local", 65, 128)
            journal.add(record(3))
            await committed(journal)
            assert not journal.never_sent("local", 4)
            journal._file.close = lambda: None  # type: ignore[method-assign]

    async def after() -> list[int]:
        async with opened(path, threaded=False) as journal:
            journal.adopted()
            journal.reserved("local", 129, 200)
            journal.reserved("other", 1, 64)
            await committed(journal)
            never = [number for number in range(300) if journal.never_sent("local", number)]
            assert not journal.never_sent("other", 5)
            return never

    run(False, crashing)
    expected = [number for number in range(1, 129) if number != 3]
    assert run(False, after) == expected
    assert run(False, after) == expected
    run(False, crashing)
    [boot] = owners.boots(tmp_path / "j.bridges")
    owners.path_of(tmp_path / "j.bridges", boot).write_text("")
    assert run(False, after) == []


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "waiting"),
        ({"os_boot": "another"}, "running"),
        ({"os_boot": "another", "closed": True}, "waiting"),
        ({"end": False}, "running"),
        (None, "running"),
    ],
)
def test_waiting_futures_are_resumed_only_where_the_record_is_complete(
    tmp_path: Path, change: dict[str, object] | None, state: str
):
    """Not after the machine went down, nor where the statement is missing."""
    path = tmp_path / "j"

    async def test() -> None:
        async with opened(path, threaded=False) as journal:
            for number in (1, 2, 3):
                journal.add(record(number))
            journal.update(key(2), running())
            journal.update(key(3), ended(text("x")))

    run(False, test)
    [boot] = owners.boots(tmp_path / "j.bridges")
    file = owners.path_of(tmp_path / "j.bridges", boot)
    content = json.loads(file.read_text())
    assert content["closed"] is True
    if change is None:
        file.unlink()
    else:
        file.write_text(json.dumps({**content, "closed": False, **change}))
    assert adopted(path) == [("f1", state), ("f2", "running")]
    assert adopted(path) == [("f1", state), ("f2", "running")]


# --- processes -------------------------------------------------------------------------------------------------------

WORKS = """
import sys
from pathlib import Path
import anyio
from tests.engine.journal.bench import committed, ended, key, opened, record, running, text
async def main(path, first, count):
    async with opened(path) as journal:
        print(*[each.id for each in journal.adopted()], flush=True)
        sys.stdin.readline()
        for number in range(first, first + count):
            journal.add(record(number))
            journal.update(key(number), running())
            journal.update(key(number), ended(text(f"{number % 10} " * (50_000 if number % 25 == 0 else 5))))
            await committed(journal)
        print(journal.usable, flush=True)
anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
"""


def start(program: str, path: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, str(path), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_that_write_to_one_file_lose_nothing(tmp_path: Path):
    """And processes that start at once share what they adopt, without overlap."""
    path = tmp_path / "j"

    async def waiting() -> None:
        async with opened(path) as journal:
            for number in range(1, 51):
                journal.add(record(number))

    run(True, waiting)
    processes = [start(WORKS, path, 1000 * number, 200) for number in range(1, 4)]
    shared: list[str] = []
    for process in processes:
        assert process.stdout is not None
        shared += process.stdout.readline().split()
    assert sorted(shared) == sorted(f"f{number}" for number in range(1, 51))
    for process in processes:
        assert process.communicate("\n")[0] == "True\n"
        assert process.returncode == 0

    async def check() -> None:
        async with opened(path) as journal:
            assert len(list(journal.newest("local"))) == 600
            for number in (1000, 1025, 2001, 3199):
                expected = text(f"{number % 10} " * (50_000 if number % 25 == 0 else 5))
                assert result_of(journal, number) == expected

    run(True, check)


SPEAKS = """
import sys
from pathlib import Path
import anyio
from asyncfc_mcp.core.records import Change
from asyncfc_mcp.core.futures import State
from tests.engine.journal.bench import ended, key, opened, record, running, text
async def main(path, first):
    async with opened(path) as journal:
        journal.adopted()
        journal.reserved("local", first, first + 9999)
        number = first
        while True:
            for _ in range(3):
                def said(what, number=number):
                    print(what, number, flush=True)
                journal.add(record(number))
                journal.after_commit(lambda said=said: said("added"))
                if number % 4:
                    journal.update(key(number), running(), lambda said=said: said("claimed"))
                if number % 4 > 1:
                    size = 100_000 if number % 10 == 0 else 10
                    journal.update(key(number), ended(text("x" * size)), lambda said=said: said("ended"))
                number += 1
            await anyio.sleep(0)
anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9")
def test_kill_9_takes_back_nothing_that_was_committed(tmp_path: Path):
    """At any moment: what was called back is in the file, and what is not in the file is known to be unsent."""
    path = tmp_path / "j"
    chance = random.Random(1)
    for attempt in range(4):
        first = 1 + 10_000 * attempt
        process = start(SPEAKS, path, first)
        assert process.stdout is not None
        said = [process.stdout.readline().split() for _ in range(chance.randrange(5, 400))]
        process.kill()
        said += [line.split() for line in process.stdout.read().splitlines()]
        process.wait()
        process.stdout.close()
        assert process.stdin is not None
        process.stdin.close()
        last: dict[int, str] = {}
        for words in said:
            if len(words) == 2:
                last[int(words[1])] = words[0]

        async def check(first: int = first, last: dict[int, str] = last) -> None:
            async with opened(path) as journal:
                assert journal.usable
                found = {int(each.id[1:]): each.state for each in journal.adopted()}
                for number in found:
                    journal.update(key(number), ended(None))
                ends = {int(each.id[1:]): each for each in journal.newest("local") if int(each.id[1:]) >= first}
                assert last
                for number, what in last.items():
                    if what == "ended":
                        assert result_of(journal, number) == text("x" * (100_000 if number % 10 == 0 else 10))
                    else:
                        assert number in found or number in ends
                        assert what == "added" or found.get(number) is not State.WAITING
                    assert not journal.never_sent("local", number)
                known = {*found, *ends}
                assert known == set(range(first, first + len(known)))
                assert journal.never_sent("local", first + len(known))

        run(True, check)


def test_a_copy_that_was_made_at_any_moment_opens(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Consistent, or moved aside: a backup, or what is left after the machine went down."""
    path = tmp_path / "j"
    chance = random.Random(2)
    outcomes: Counter[str] = Counter()

    def copy(target: Path) -> None:
        target.mkdir()
        names = ["j", "j-wal", "j-shm", "j.results", "j.bridges"]
        chance.shuffle(names)
        for name in names[: chance.choice([5, 5, 5, 4])]:
            source = tmp_path / name
            with contextlib.suppress(OSError, shutil.Error):
                if source.is_dir():
                    shutil.copytree(source, target / name)
                else:
                    shutil.copyfile(source, target / name)

    async def check(target: Path) -> None:
        async with opened(target / "j") as journal:
            assert journal.usable
            caplog.clear()
            for each in journal.adopted():
                assert each.state is not State.WAITING or (target / "j.bridges").exists()
            for each in list(journal.newest("local")):
                result = result_of(journal, int(each.id[1:]))
                assert result is None or result["content"][0]["text"].strip("x") == ""
            journal.add(record(1_000_000))
            journal.update(key(1_000_000), ended(text("new")))
            await committed(journal)
            await committed(journal)
            assert journal.usable
            outcomes["opened"] += 1

    process = start(SPEAKS, path, 1)
    try:
        assert process.stdout is not None
        for number in range(12):
            for _ in range(60):
                process.stdout.readline()
            copy(tmp_path / f"copy {number}")
    finally:
        process.kill()
        process.communicate()
    for number in range(12):
        run(True, check, tmp_path / f"copy {number}")
    assert outcomes["opened"] == 12
