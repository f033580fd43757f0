"""Failures of the file: one warning that says what to do, and calls go on in memory."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.engine.journal import schema
from asyncfc_mcp.engine.journal.sqlite_journal import SqliteJournal
from tests.engine.journal.bench import committed, ended, key, opened, record, result_of, run, running, text

POSIX = pytest.mark.skipif(os.name != "posix", reason="uses what only POSIX systems have")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings, and clear them."""
    found = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    caplog.clear()
    return found


async def goes_on(journal: SqliteJournal) -> None:
    """Callbacks are called in order, and look-ups find nothing."""
    assert not journal.usable
    called: list[int] = []
    journal.add(record(900))
    journal.reserved("local", 900, 999)
    journal.update(key(900), running(), lambda: called.append(1))
    journal.update(key(1), ended(text("x")), lambda: called.append(2))
    assert called == []
    await committed(journal)
    assert called == [1, 2]
    assert journal.adopted() == []
    assert journal.find("local", "f1") is journal.owner("local", "f1") is None
    assert journal.named("local", "n") == journal.unread("local", "c") == list(journal.newest("local")) == []
    assert not journal.forgotten("local", 1)
    assert not journal.never_sent("local", 901)
    assert result_of(journal, 1) is journal.result_path(key(1)) is None
    assert journal.status()["usable"] is False


def fails_at_start(threaded: bool, path: Path, caplog: pytest.LogCaptureFixture, words: str) -> None:
    async def test() -> None:
        async with opened(path, threaded, busy_s=0.1) as journal:
            await goes_on(journal)
            assert journal.trusts(key(900))

    run(threaded, test)
    [warning] = warnings(caplog)
    assert str(path) in warning
    assert re.search(words, warning), warning
    assert "setting `journal`" in warning


# --- at the start ----------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made(tmp_path: Path, threaded: bool, caplog: pytest.LogCaptureFixture):
    """A file is in its place."""
    (tmp_path / "file").write_text("")
    fails_at_start(threaded, tmp_path / "file" / "j", caplog, "(?i)exists|not a directory")


@POSIX
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder", "link of the log"])
def test_what_is_no_private_file_is_not_written(
    tmp_path: Path, threaded: bool, kind: str, caplog: pytest.LogCaptureFixture
):
    """Nor what a link leads to."""
    path, other = tmp_path / "j", tmp_path / "other"
    other.write_text("mine")
    match kind:
        case "link":
            path.symlink_to(other)
        case "hard link":
            path.hardlink_to(other)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            (tmp_path / "j-wal").symlink_to(other)
    fails_at_start(threaded, path, caplog, "not a regular file|not a private file")
    assert other.read_text() == "mine"


@POSIX
def test_a_folder_that_everybody_can_write_to(tmp_path: Path, threaded: bool, caplog: pytest.LogCaptureFixture):
    """Others could put links there."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    fails_at_start(threaded, tmp_path / "open" / "j", caplog, "every user can write")


def test_a_file_of_a_newer_program_is_left_as_it_is(tmp_path: Path, threaded: bool, caplog: pytest.LogCaptureFixture):
    """With words."""
    path = tmp_path / "j"
    run(threaded, written, path, threaded)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    fails_at_start(threaded, path, caplog, "written by a newer asyncfc-mcp, and is left as it is.*Update asyncfc-mcp")
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_left_as_it_is(
    tmp_path: Path, threaded: bool, caplog: pytest.LogCaptureFixture
):
    """The setting may name any file."""
    path = tmp_path / "j"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE photos (id)")
    before = path.read_bytes()
    fails_at_start(threaded, path, caplog, "a database of another program")
    assert path.read_bytes() == before


def test_a_file_that_another_process_keeps_locked(tmp_path: Path, threaded: bool, caplog: pytest.LogCaptureFixture):
    """The start does not wait for it for long."""
    path = tmp_path / "j"
    run(threaded, written, path, threaded)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        fails_at_start(threaded, path, caplog, "another process keeps it locked. .*fuser")


# --- later -----------------------------------------------------------------------------------------------------------


async def written(path: Path, threaded: bool) -> None:
    async with opened(path, threaded) as journal:
        journal.add(record(1, name="n", conversation="c"))
        journal.update(key(1), ended(text("hello")))


def breaks(path: Path, threaded: bool, caplog: pytest.LogCaptureFixture, harm: Callable[[], object]) -> str:
    """Write, do harm, write again; return the warning."""

    async def test() -> None:
        async with opened(path, threaded, busy_s=0.1) as journal:
            journal.add(record(1, name="n", conversation="c"))
            await committed(journal)
            harm()
            journal.update(key(1), running())
            await committed(journal)
            await goes_on(journal)
            assert journal.trusts(key(1))

    run(threaded, test)
    [warning] = warnings(caplog)
    assert str(path) in warning
    return warning


@pytest.mark.parametrize("name", ["j", "j-wal"])
def test_a_file_that_is_deleted(tmp_path: Path, threaded: bool, name: str, caplog: pytest.LogCaptureFixture):
    """SQLite itself would go on writing to it."""
    assert "deleted or replaced" in breaks(tmp_path / "j", threaded, caplog, (tmp_path / name).unlink)


def test_a_file_that_is_replaced(tmp_path: Path, threaded: bool, caplog: pytest.LogCaptureFixture):
    """By an older copy, for example."""
    path = tmp_path / "j"

    def harm() -> None:
        path.with_name("copy").write_bytes(path.read_bytes())
        path.with_name("copy").replace(path)

    assert "deleted or replaced" in breaks(path, threaded, caplog, harm)


def test_a_lock_that_lasts(tmp_path: Path, threaded: bool, caplog: pytest.LogCaptureFixture):
    """Of any process that opened the file."""
    path = tmp_path / "j"
    other: list[sqlite3.Connection] = []

    def harm() -> None:
        other.append(sqlite3.connect(path, check_same_thread=False))
        other[0].execute("BEGIN IMMEDIATE")

    try:
        assert "another process keeps it locked" in breaks(path, threaded, caplog, harm)
    finally:
        other[0].close()


def test_what_waits_in_a_file_that_cannot_be_written_is_not_resumed_by_the_next_run(
    tmp_path: Path, threaded: bool, caplog: pytest.LogCaptureFixture
):
    """It is adopted as running, since it may have been sent from memory."""
    path = tmp_path / "j"
    test_a_lock_that_lasts(tmp_path, threaded, caplog)

    async def next_run() -> None:
        async with opened(path, threaded) as journal:
            assert [(each.id, each.state) for each in journal.adopted()] == [("f1", State.RUNNING)]
            assert not journal.never_sent("local", 901)

    run(threaded, next_run)


def test_a_call_that_the_next_run_would_send_is_not_trusted(
    tmp_path: Path, threaded: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """Where not even the statement of a complete record can be withdrawn."""
    path = tmp_path / "j"

    async def test() -> None:
        async with opened(path, threaded, busy_s=0.1) as journal:
            for number in (1, 2):
                journal.add(record(number))
            await committed(journal)
            journal.update(key(2), running())
            await committed(journal)
            assert journal.trusts(key(1))
            monkeypatch.setattr(journal._file.boot, "withdraw", lambda: False)
            path.unlink()
            journal.add(record(3))
            await committed(journal)
            assert not journal.usable
            assert [journal.trusts(key(number)) for number in (1, 2, 3, 4)] == [False, True, False, True]

    run(threaded, test)


def test_one_value_that_is_no_json_does_not_end_the_journal(
    tmp_path: Path, threaded: bool, caplog: pytest.LogCaptureFixture
):
    """It is left out, and logged."""

    async def test() -> None:
        async with opened(tmp_path / "j", threaded) as journal:
            journal.add(record(1))
            journal.update(key(1), ended({"content": object()}))
            await committed(journal)
            found = journal.find("local", "f1")
            assert found is not None
            assert not found.has_result
            assert journal.usable

    run(threaded, test)
    [warning] = warnings(caplog)
    assert "the result of f1 cannot be written" in warning


def test_a_callback_that_fails_does_not_keep_others_from_being_called(
    tmp_path: Path, threaded: bool, caplog: pytest.LogCaptureFixture
):
    """Calls wait for them."""

    async def test() -> None:
        async with opened(tmp_path / "j", threaded) as journal:
            journal.after_commit(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
            await committed(journal)

    run(threaded, test)
    assert warnings(caplog) == ["a callback of the journal failed"]


# --- damage ----------------------------------------------------------------------------------------------------------


def moved(path: Path) -> Path:
    """Return the file that was moved aside."""
    [aside] = [
        each for each in path.parent.iterdir() if re.fullmatch(r"j\.corrupt-\d{8}T\d{6}Z", each.name) and each.is_file()
    ]
    return aside


@pytest.mark.parametrize("content", [b"not a database" * 1000, b"SQLite format 3\0" + b"\xff" * 8192, b"pages"])
def test_a_damaged_file_is_moved_aside_at_the_start(
    tmp_path: Path, threaded: bool, content: bytes, caplog: pytest.LogCaptureFixture
):
    """With what belongs to it; a new one is begun."""
    path = tmp_path / "j"
    run(threaded, written, path, threaded)
    if content == b"pages":  # what the tables are is intact, their content is not
        content = path.read_bytes()[:8192] + b"\xa5" * (path.stat().st_size - 8192)
    path.write_bytes(content)
    (tmp_path / "j.results" / "ab").mkdir(parents=True)

    async def test() -> None:
        async with opened(path, threaded) as journal:
            assert journal.usable
            assert journal.find("local", "f1") is None
            journal.add(record(1))
            await committed(journal)

    run(threaded, test)
    run(threaded, written, path, threaded)
    [warning] = warnings(caplog)
    assert f"{path} is damaged" in warning
    assert moved(path).name in warning
    assert moved(path).read_bytes()[8192:] == content[8192:]
    assert (tmp_path / f"{moved(path).name}.results" / "ab").is_dir()


def damage(path: Path) -> None:
    """Overwrite all pages but the first, in the file and its log."""
    for each in (path, path.with_name("j-wal")):
        if each.exists():
            with each.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                if size > 4096:
                    file.seek(4096)
                    file.write(b"\xa5" * (size - 4096))


@pytest.mark.parametrize("found_by", ["a write", "a look-up"])
def test_a_file_that_is_damaged_later_is_moved_aside(
    tmp_path: Path, threaded: bool, found_by: str, caplog: pytest.LogCaptureFixture
):
    """What is written meanwhile is in the new one."""
    path = tmp_path / "j"

    async def test() -> None:
        async with opened(path, threaded) as journal:
            for number in range(1, 200):
                journal.add(record(number, name=f"n{number}"))
                journal.update(key(number), ended(text("x" * 500)))
            await committed(journal)
            journal._file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            journal._file.connection.execute("PRAGMA cache_size = 0")
            damage(path)
            if found_by == "a look-up":
                assert journal.find("local", "f1") is None
            else:
                journal.add(record(1000))
            await committed(journal)
            assert journal.usable
            journal.add(record(1001))
            journal.update(key(1001), ended(text("new")))
            await committed(journal)
            assert result_of(journal, 1001) == text("new")
            assert journal.find("local", "f1") is None

    run(threaded, test)
    [warning] = warnings(caplog)
    assert "is damaged" in warning
    assert moved(path).stat().st_size > 4096

    async def next_run() -> None:
        async with opened(path, threaded) as journal:
            assert [each.id for each in journal.adopted()] == ["f1000"] * (found_by == "a write")

    run(threaded, next_run)


# --- versions --------------------------------------------------------------------------------------------------------


def test_an_older_file_is_migrated_in_one_transaction(tmp_path: Path, threaded: bool, caplog: pytest.LogCaptureFixture):
    """A step that fails leaves the older version."""
    path = tmp_path / "j"
    run(threaded, written, path, threaded)

    def versions() -> tuple[int, list[str]]:
        with closing(sqlite3.connect(path)) as connection:
            [version] = connection.execute("PRAGMA user_version").fetchone()
            return version, [row[1] for row in connection.execute("PRAGMA table_info(futures)")]

    def filled(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE futures SET colour = 'blue'")

    async def with_steps(*steps: schema.Migration) -> bool:
        async with opened(path, threaded, migrations=(*schema.MIGRATIONS, *steps)) as journal:
            usable = journal.usable
            if usable:
                assert result_of(journal, 1) == text("hello")
                assert journal._reader._rows("SELECT colour FROM futures") == [("blue",)]
            return usable

    added = ("ALTER TABLE futures ADD COLUMN colour TEXT",)
    assert not run(threaded, with_steps, added, ("nonsense",))
    assert "setting `journal`" in warnings(caplog)[0]
    assert versions()[0] == len(schema.MIGRATIONS)
    assert "colour" not in versions()[1]
    assert run(threaded, with_steps, added, filled)
    assert versions()[0] == len(schema.MIGRATIONS) + 2
    assert run(threaded, with_steps, added, filled)
    assert warnings(caplog) == []


# --- the disk --------------------------------------------------------------------------------------------------------

WRITES = """
import logging, sys
from pathlib import Path
import anyio
from tests.engine.journal.bench import committed, ended, key, opened, record, text
logging.basicConfig(format="%(levelname)s %(message)s")
async def main(path, size):
    async with opened(path) as journal:
        was_usable = journal.usable
        for number in range(1, 200):
            journal.add(record(number))
            await committed(journal)
            if not journal.usable:
                break
            journal.update(key(number), ended(text("x" * size)))
            await committed(journal)
        print(was_usable, journal.usable, journal.trusts(key(number)))
LIMIT
anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
"""
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"


def in_a_process(path: Path, size: int, *, limit: str = "", before: str = "") -> tuple[list[str], str]:
    """Write in a process of its own; return the words that it prints, and what it logs.

    Args:
        limit: Python code that sets its limits.
        before: shell commands in a mount namespace of its own.
    """
    command = [sys.executable, "-c", WRITES.replace("LIMIT", limit), str(path), str(size)]
    if before:
        command = ["unshare", "-m", "sh", "-ec", f'{before}; exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


@POSIX
@pytest.mark.parametrize("size", [30_000, 2_000_000])
def test_a_disk_that_becomes_full(tmp_path: Path, size: int):
    """Both for rows and for files of large results; what waited there is not resumed."""
    (usable_before, usable, trusted), logged = in_a_process(tmp_path / "j", size, limit=LIMITED)
    assert (usable_before, usable, trusted) == ("True", "False", "True")
    assert logged.count("WARNING") == 1
    assert "no space is left" in logged or "cannot be read or written: disk I/O error" in logged
    assert re.search("Free space|Check the disk", logged)


def can_mount() -> bool:
    try:
        tried = subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True, timeout=10)
    except OSError:
        return False
    return tried.returncode == 0


MOUNTS = pytest.mark.skipif(not (os.name == "posix" and can_mount()), reason="mounts need rights")


@MOUNTS
@pytest.mark.parametrize("size", [30_000, 200_000])
def test_a_file_system_without_space(tmp_path: Path, size: int):
    """A small one, in memory."""
    before = f"mount -t tmpfs -o size=1m,mode=700 none {tmp_path}"
    words, logged = in_a_process(tmp_path / "j", size, before=before)
    assert words == ["True", "False", "True"]
    assert logged.count("WARNING") == 1
    assert "no space is left" in logged


@MOUNTS
def test_a_folder_that_cannot_be_written(tmp_path: Path):
    """On a file system that is mounted read-only, with a journal or without one."""
    before = f"mount --bind {tmp_path} {tmp_path}; mount -o remount,ro,bind {tmp_path}"
    for _ in range(2):
        words, logged = in_a_process(tmp_path / "j", 100, before=before)
        assert words == ["False", "False", "True"]
        assert logged.count("WARNING") == 1
        assert "Read-only file system" in logged
        run(False, written, tmp_path / "j", False)


def test_virtual_time_needs_no_thread(tmp_path: Path):
    """Deadlines of tests hold."""

    async def test() -> None:
        async with opened(tmp_path / "j", threaded=False) as journal:
            with anyio.fail_after(1):
                for number in range(100):
                    journal.add(record(number))
                    await committed(journal)

    run(False, test)
