"""A journal belongs to one configuration, and can be reported on without being used."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from asyncfc_mcp.engine.journal.sqlite_journal import SqliteJournal
from tests.engine.journal.bench import committed, ended, key, opened, record, run, running, text


def fill(path: Path, configuration: str) -> None:
    """Run a bridge that leaves a finished and a running future."""

    async def test() -> None:
        async with opened(path, threaded=False, configuration=configuration) as journal:
            for number in (1, 2):
                journal.add(record(number))
                journal.update(key(number), running())
            journal.update(key(1), ended(text("x" * 100_000)))
            await committed(journal)

    run(False, test)


def test_a_bridge_with_another_configuration_does_not_use_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """It would make the calls at other servers. The file, and what is unfinished in it, stays as it is."""
    path = tmp_path / "j"
    fill(path, "one")

    async def other() -> None:
        async with opened(path, threaded=False, configuration="two") as journal:
            assert not journal.usable
            assert journal.adopted() == []
            assert journal.find("local", "f1") is None

    run(False, other)
    [warning] = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert str(path) in warning
    assert "it belongs to another configuration, and is left as it is" in warning

    async def same() -> None:
        async with opened(path, threaded=False, configuration="one") as journal:
            assert [each.id for each in journal.adopted()] == ["f2"]
            assert journal.find("local", "f1") is not None

    run(False, same)


def inspected(path: Path, configuration: str = "") -> dict[str, object]:
    return SqliteJournal(path, configuration=configuration, ttl_s=60, max_bytes=1 << 20).inspected()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_a_report_changes_nothing(tmp_path: Path):
    """It has the figures of the file, and takes over none of its futures; a file that is not there is not created."""
    path = tmp_path / "new" / "j"
    assert inspected(path).items() >= {"path": str(path), "futures": 0, "bytes": 0, "problem": None}.items()
    assert list(tmp_path.iterdir()) == []
    fill(path, "one")
    before = contents(tmp_path)
    facts = inspected(path, "one")
    assert facts.items() >= {"futures": 2, "unfinished": 1, "large_results": 1, "problem": None}.items()
    assert (facts["ttl_s"], facts["max_bytes"]) == (60, 1 << 20)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before

    async def next_run() -> None:
        async with opened(path, threaded=False, configuration="one") as journal:
            assert [each.id for each in journal.adopted()] == ["f2"]

    run(False, next_run)


def test_a_report_says_why_a_file_cannot_be_used(tmp_path: Path):
    """In the words of the warning that a bridge would log."""
    path = tmp_path / "j"
    fill(path, "one")
    assert inspected(path, "two")["problem"] == "it belongs to another configuration, and is left as it is"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1000")
    assert inspected(path, "one")["problem"] == "it was written by a newer asyncfc-mcp, and is left as it is"
    foreign = tmp_path / "foreign"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.commit()
    assert inspected(foreign)["problem"] == "it is a database of another program, and is left as it is"
    broken = tmp_path / "broken"
    broken.write_bytes(b"no database, but long enough to be one" * 100)
    assert "not a database" in str(inspected(broken)["problem"])
    (tmp_path / "file").touch()
    assert inspected(tmp_path / "file" / "j")["problem"] == "Not a directory"
    if os.name == "posix":
        os.symlink(path, tmp_path / "link")
        assert "is not a regular file" in str(inspected(tmp_path / "link")["problem"])
