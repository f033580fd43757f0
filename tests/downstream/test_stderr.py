"""Logs of wrapped servers: one file per configuration and server, with times, bounded, readable by their owner only."""

import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from asyncfc_mcp.downstream.stderr import QUOTED_LINES, Stderr
from asyncfc_mcp.housekeeping import rotating_file
from asyncfc_mcp.housekeeping.log_folder import configuration_folder, log_path

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"


def test_every_line_has_its_time_and_every_start_a_line(tmp_path: Path) -> None:
    """A start says the version, the process of the bridge, and the command."""
    log = Stderr("s", tmp_path / "a" / "b" / "s.log", None)
    for _ in range(2):
        log.open("npx server --token …")
        log.line("one")
    log.note("not available: it exited")
    log.close()
    lines = (tmp_path / "a" / "b" / "s.log").read_text().splitlines()
    assert [re.sub(STAMP, "T", line) for line in lines[1:3]] == ["T one", re.sub(STAMP, "T", lines[0])]
    assert re.fullmatch(rf"{STAMP} --- asyncfc-mcp \S+ \(process \d+\) starts npx server --token …", lines[0])
    assert lines[-1].endswith(" --- not available: it exited")


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_logs_are_for_their_owner_only(tmp_path: Path) -> None:
    """Also one that an earlier version left open to all."""
    path = tmp_path / "logs" / "x" / "s.log"
    log = Stderr("s", path, None)
    log.open("x")
    log.close()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    path.chmod(0o644)
    log.open("x")
    log.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_log_is_renamed_and_older_ones_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written last is never lost; what is kept is bounded."""
    monkeypatch.setattr(rotating_file, "LOG_BYTES", 1000)
    log = Stderr("s", tmp_path / "s.log", None)
    log.open("x")
    for number in range(200):
        log.line(f"line {number:03}")
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["s.log", "s.log.1", "s.log.2"]
    kept = [(tmp_path / name).read_text() for name in ("s.log.2", "s.log.1", "s.log")]
    numbers = [int(number) for number in re.findall(r"line (\d+)", "".join(kept))]
    assert numbers == list(range(numbers[0], 200))
    assert all(len(text) < 1100 for text in kept)
    assert all((tmp_path / name).stat().st_mode & 0o077 == 0 for name in files if os.name == "posix")


def test_a_log_that_cannot_be_opened_again_writes_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of its descriptor may be another file's by then; it is opened once more with the next line."""
    monkeypatch.setattr(rotating_file, "LOG_BYTES", 100)
    folder = tmp_path / "logs"
    log = Stderr("s", folder / "s.log", None)
    log.open("x" * 100)
    shutil.rmtree(folder)
    folder.touch()
    log.line("the rotation fails")
    receiver, sender = os.pipe()  # takes the number that became free
    log.line("lost")
    folder.unlink()
    folder.mkdir()
    log.line("written")
    log.close()
    os.close(sender)
    with open(receiver, "rb") as pipe:
        assert pipe.read() == b""
    assert "written" in (folder / "s.log").read_text()


def test_two_bridges_share_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One renames the file, the other goes on in the new one: no line is lost while its file is kept."""
    monkeypatch.setattr(rotating_file, "LOG_BYTES", 2000)
    monkeypatch.setattr(rotating_file, "OLDER_LOGS", 50)
    logs = [Stderr("s", tmp_path / "s.log", None) for _ in range(2)]
    for log in logs:
        log.open("x")
    for number in range(100):
        for which, log in enumerate(logs):
            log.line(f"{which}:{number:03}")
    for log in logs:
        log.close()
    found = re.findall(r"\d:\d{3}$", "".join(p.read_text() for p in tmp_path.iterdir()), re.MULTILINE)
    assert sorted(found) == sorted(f"{which}:{number:03}" for which in range(2) for number in range(100))


def test_configurations_and_servers_do_not_share_a_file(tmp_path: Path) -> None:
    """Two projects with a server of the same name, and names that would be written alike."""
    one, other = (
        configuration_folder(tmp_path, f"/home/me/{p}/.mcp.json", f"file:/home/me/{p}/.mcp.json") for p in "ab"
    )
    assert one != other
    assert re.fullmatch(r"[\w-]+-[0-9a-f]{8}", one.name)
    names = ["files", "a b", "a_b", "a/b", "../x", "..", "", "x" * 300, "x" * 301, "日本"]
    paths = {log_path(one, name) for name in names}
    assert len(paths) == len(names)
    assert all(path.parent == one and len(path.name) < 100 for path in paths)
    assert log_path(one, "files") == one / "files.log"


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The tail is kept all the same."""
    (tmp_path / "file").write_text("")
    log = Stderr("s", tmp_path / "file" / "s.log", None)
    log.open("x")
    log.line("a")
    assert log.tail == ["a"]
    assert "the stderr of server 's' is not logged" in caplog.text
    log.close()


def test_an_error_quotes_few_clean_lines_without_secrets(tmp_path: Path) -> None:
    """Bounded, without terminal sequences, with the name of the file that has everything."""
    log = Stderr("s", tmp_path / "s.log", None, ["S3CRET-99"])
    log.open("x")
    for number in range(100):
        log.line(f"\x1b[31m{number}\x1b[0m\tS3CRET-99 {'x' * 100_000}")
    *quoted, where = log.tail
    assert len(quoted) == QUOTED_LINES
    assert quoted[-1].startswith("99    … xxx")
    assert all(len(line) <= 500 and line.isprintable() for line in quoted)
    assert where == f"(log: {tmp_path / 's.log'})"
    assert log.with_cause("exited with code 1") == "exited with code 1"
    log.line("ValueError: no S3CRET-99 at https://h/?key=1")
    assert log.with_cause("exited with code 1") == "exited with code 1 (ValueError: no … at https://h/?…)"
    assert log.explain("it exited") == f"ValueError: no … at https://h/?…; it exited (log: {tmp_path / 's.log'})"
    log.close()


def test_a_log_of_many_threads_has_whole_lines(tmp_path: Path) -> None:
    """Each line is one write at the end of the file, so bridges that share it do not mix theirs."""

    def write(log: Stderr, mark: str) -> None:
        for _ in range(200):
            log.line(mark * 50)

    logs: list[Any] = [Stderr("s", tmp_path / "s.log", None) for _ in range(4)]
    for log in logs:
        log.open("x")
    threads = [threading.Thread(target=write, args=(log, mark)) for log, mark in zip(logs, "abcd", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    words = [line.split(" ", 1)[1] for line in (tmp_path / "s.log").read_text().splitlines() if "---" not in line]
    assert sorted(words) == sorted(mark * 50 for mark in "abcd" for _ in range(200))
