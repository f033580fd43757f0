"""Bounds on what the program leaves on a machine: each is kept, and what is in use or could be wanted stays."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.from_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.cli import upkeep
from asyncfc_mcp.cli.upkeep import Bounds, Folders, keep_up, sweep
from asyncfc_mcp.downstream.oauth.file_store import FileStore
from asyncfc_mcp.downstream.oauth.records import Grant
from asyncfc_mcp.engine.future_ids import FutureIds
from asyncfc_mcp.engine.journal import unused
from asyncfc_mcp.engine.journal.sqlite_journal import SqliteJournal
from asyncfc_mcp.housekeeping import rotating_file, small_files
from asyncfc_mcp.housekeeping.log_folder import bound_logs, configuration_folder, daemon_log, log_path
from asyncfc_mcp.housekeeping.rotating_file import RotatingFile
from asyncfc_mcp.housekeeping.upkeep_record import SECOND_LOOK_S
from asyncfc_mcp.private_files import open_private, try_lock
from tests.engine.journal.bench import committed, ended, key, opened, record, run, text

DAY = 86_400.0
T0 = time.time()

pytestmark = pytest.mark.skipif(os.name != "posix", reason="an open file cannot be removed on Windows")


def put(path: Path, size: int = 10, age: float = 0.0) -> Path:
    """Write a private file that was last used some time ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(open_private(path, os.O_WRONLY | os.O_CREAT))
    path.write_bytes(b"x" * size)
    os.utime(path, (T0 - age, T0 - age))
    return path


def folders_in(root: Path) -> Folders:
    return Folders(root / "state", root / "cache", root / "logs", root / "run")


class Sweeps:
    """Sweeps of one user at times of the test."""

    def __init__(self, root: Path, ttl_s: float = DAY) -> None:
        self.folders = folders_in(root)
        self.bounds = Bounds(log_bytes=1 << 20, ttl_s=ttl_s)

    def at(self, seconds: float) -> None:
        sweep(self.folders, self.bounds, lambda: T0 + seconds)


# --- logs ------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    logs=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 10_000), st.booleans()), max_size=12),
    max_bytes=st.integers(0, 1500),
    max_files=st.integers(1, 12),
)
def test_logs_keep_to_the_bounds_and_those_in_use_stay(
    tmp_path_factory: pytest.TempPathFactory, logs: list[tuple[int, int, bool]], max_bytes: int, max_files: int
):
    """What is removed was used before all that stays and is not in use; folders that are empty are removed."""
    root = tmp_path_factory.mktemp("logs")
    held: list[int] = []
    ages: dict[Path, int] = {}
    used: set[Path] = set()
    for number, (size, age, in_use) in enumerate(logs):
        path = put(log_path(configuration_folder(root, f"c{number % 3}", f"c{number % 3}"), f"s{number}"), size, age)
        ages[path] = age
        if in_use:
            used.add(path)
            held.append(os.open(path, os.O_RDWR))
            assert try_lock(held[-1], exclusive=False)
    try:
        bound_logs(root, max_bytes, max_files)
        left = {path for path in ages if path.exists()}
        assert used <= left
        idle = left - used
        assert not idle or (sum(path.stat().st_size for path in left) <= max_bytes and len(left) <= max_files)
        gone = ages.keys() - left
        assert not gone or all(ages[path] <= min(ages[each] for each in gone) for path in idle)
        assert {path.parent for path in left} == set(root.iterdir())
    finally:
        for descriptor in held:
            os.close(descriptor)


def test_files_of_others_in_the_folder_of_logs_stay(tmp_path: Path):
    """It may be set to one of the system: names and modes must be this program's."""
    folder = configuration_folder(tmp_path, "c", "c")
    kept = [put(tmp_path / "syslog.log"), put(tmp_path / "nginx" / "access.log"), put(folder / "notes.txt")]
    readable = put(folder / "other.log")
    readable.chmod(0o644)
    link = folder / "link.log"
    link.symlink_to(kept[0])
    mine = [put(log_path(folder, "s")), put(folder / "s.log.2"), put(daemon_log(tmp_path, "0123456789abcdef"))]
    bound_logs(tmp_path, 0)
    assert all(path.exists() for path in (*kept, readable, link))
    assert not any(path.exists() for path in mine)


def test_a_log_that_is_written_is_in_use_and_a_rotated_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server that has just started can write even if its folder is removed at that moment."""
    monkeypatch.setattr(rotating_file, "LOG_BYTES", 100)
    path = log_path(configuration_folder(tmp_path, "c", "c"), "s")
    log = RotatingFile(path)
    for number in range(20):
        log.write(f"line {number}\n" * 3)
    bound_logs(tmp_path, 0)
    assert [each.name for each in path.parent.iterdir()] == ["s.log"]
    log.close()
    bound_logs(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
    stop = threading.Event()

    def remove() -> None:
        while not stop.is_set():
            bound_logs(tmp_path, 0)

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for number in range(200):
            log = RotatingFile(path)
            log.write(f"{number}\n")
            assert f"{number}\n" in path.read_text()
            log.close()
    finally:
        stop.set()
        remover.join()


def test_a_daemon_writes_its_own_output_to_a_log_that_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also what others print to its standard streams."""
    monkeypatch.setattr(rotating_file, "LOG_BYTES", 50)
    streams = os.dup(1), os.dup(1)
    log = RotatingFile(tmp_path / "d.log", onto=streams)
    os.write(streams[0], b"a" * 60)
    log.rotate_if_full()
    os.write(streams[1], b"b" * 60)
    log.close()
    os.write(streams[0], b"c")
    for stream in streams:
        os.close(stream)
    assert (tmp_path / "d.log.1").read_text() == "a" * 60
    assert (tmp_path / "d.log").read_text() == "b" * 60 + "c"


# --- small files -----------------------------------------------------------------------------------------------------


def test_small_files_are_removed_after_their_time_and_what_is_needed_stays(tmp_path: Path):
    """Listings that nobody reads, paths of configurations, locks of nothing, files that were cut off; credentials
    stay."""
    sweeps = Sweeps(tmp_path)
    state, cache = sweeps.folders.state, sweeps.folders.cache
    store = FileStore(state / "oauth")
    store.save_grant("s", "https://example.com", Grant("https://i", "https://i/token", "r", "c", "t", 1.0))
    with store.lock_nowait("s", "https://example.com"):
        pass
    grants = sorted((state / "oauth").iterdir())
    for path in grants:
        os.utime(path, (0, 0))
    h = "0123456789abcdef" * 2
    kept = [put(cache / f"{h}.json", age=59 * DAY), put(cache / "readme.json", age=1e9), *grants]
    kept += [put(state / "configurations" / f"{h}.json", age=89 * DAY), put(state / "ids" / f"{h}.json", age=10 * DAY)]
    kept += [put(state / "ids" / f"{h}.lock", age=1e8)]
    gone = [put(cache / f"{h[::-1]}.shapes.json", age=61 * DAY), put(cache / f"{h}.77.part", age=2 * DAY)]
    gone += [put(state / "configurations" / f"{h[::-1]}.json", age=91 * DAY)]
    gone += [put(state / "oauth" / f"grant-{h}.lock", age=31 * DAY)]
    gone += [put(state / "oauth" / f"grant-{h}.77.part", age=2 * DAY)]
    run_files = [put(sweeps.folders.runtime / f"{h[:16]}.{each}", age=2 * DAY) for each in ("lock", "json", "sock")]
    daemon = [put(sweeps.folders.runtime / f"{h[::-1][:16]}.{each}", age=2 * DAY) for each in ("lock", "json")]
    held = os.open(daemon[0], os.O_RDWR)
    assert try_lock(held)
    sweeps.at(0)
    os.close(held)
    assert [path for path in (*kept, *daemon) if not path.exists()] == []
    assert [path for path in (*gone, *run_files) if path.exists()] == []
    assert (state / "upkeep.json").stat().st_mode & 0o777 == 0o600


def test_the_number_and_the_size_of_listings_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Those that were used first are removed."""
    monkeypatch.setattr(small_files, "MOST_LISTINGS", 5)
    paths = [put(tmp_path / "cache" / f"{number:032x}.json", age=100 - number) for number in range(9)]
    Sweeps(tmp_path).at(0)
    assert [path.exists() for path in paths] == [False] * 4 + [True] * 5
    monkeypatch.setattr(small_files, "LISTINGS_BYTES", 20)
    Sweeps(tmp_path).at(DAY)
    assert [path.exists() for path in paths[4:]] == [False] * 3 + [True] * 2


def test_a_counter_goes_long_after_its_last_number_and_at_the_second_look(tmp_path: Path):
    """A clock that is wrong for a while removes nothing; a longer time to live keeps the counter longer."""
    sweeps = Sweeps(tmp_path)
    ids = FutureIds(sweeps.folders.state / "ids", "file:/x")
    assert ids.count("local").take() == 1
    ids.close()

    def counters() -> int:
        return len(list((sweeps.folders.state / "ids").glob("*.json")))

    for at in (0, 399 * DAY, 9_000 * DAY, DAY, 401 * DAY, 400.9 * DAY + SECOND_LOOK_S):
        sweeps.at(at)
        assert counters() == 1
    sweeps.at(401 * DAY + SECOND_LOOK_S)
    assert counters() == 0
    sweeps.at(500 * DAY)
    assert not list((sweeps.folders.state / "ids").iterdir())
    assert ids.count("local").take() > 0  # a bridge that runs goes on


# --- journals --------------------------------------------------------------------------------------------------------


def journal_in(sweeps: Sweeps, name: str, *, unfinished: bool = False) -> Path:
    """Make a journal with a large result, as a bridge leaves it."""
    folder = configuration_folder(sweeps.folders.state / "journal", name, name)

    async def use() -> None:
        async with opened(folder / "journal.db", threaded=False) as journal:
            journal.add(record(1))
            journal.update(key(1), ended(text("x" * 100_000)))
            if unfinished:
                journal.add(record(2))
            await committed(journal)

    run(False, use)
    assert list((folder / "journal.db.results").rglob("*.json"))
    return folder


def aged(folder: Path, seconds: float) -> Path:
    for path in folder.rglob("*"):
        os.utime(path, (T0 - seconds, T0 - seconds))
    return folder


def test_a_journal_goes_when_nothing_in_it_can_be_wanted(tmp_path: Path):
    """Long after the time to live of its results, and at the second look; not one with calls that have not ended, nor
    one whose configuration keeps results for longer, or has not said for how long."""
    sweeps = Sweeps(tmp_path)
    names = ("idle", "waiting", "lasting", "silent")
    folders = {name: journal_in(sweeps, name, unfinished=name == "waiting") for name in names}
    for name, ttl_s in (("idle", DAY), ("waiting", DAY), ("lasting", 365 * DAY)):
        sweep(sweeps.folders, Bounds(1 << 20, ttl_s, folders[name]), lambda: T0)
    for folder in folders.values():
        aged(folder, 0)
    foreign = put(sweeps.folders.state / "journal" / "x-01234567" / "journal.db", age=1e9)

    def left() -> set[str]:
        return {name for name, folder in folders.items() if (folder / "journal.db").exists()}

    for at in (29 * DAY, 31 * DAY, 30.9 * DAY + SECOND_LOOK_S):
        sweeps.at(at)
        assert left() == set(names)
    sweeps.at(31 * DAY + SECOND_LOOK_S)
    assert left() == {"waiting", "lasting", "silent"}
    assert not folders["idle"].exists()
    for at in (401 * DAY, 401 * DAY + SECOND_LOOK_S):
        sweeps.at(at)
    assert left() == {"waiting", "lasting"}
    assert foreign.exists()
    for at in (731 * DAY, 731 * DAY + SECOND_LOOK_S):
        sweeps.at(at)
    assert left() == {"waiting"}


def test_a_journal_that_a_bridge_uses_stays_and_one_that_is_removed_is_begun_anew(tmp_path: Path):
    """Whatever its times are."""
    sweeps = Sweeps(tmp_path)
    folder = journal_in(sweeps, "c")
    late = (1000 * DAY, 1000 * DAY + SECOND_LOOK_S)

    async def use(test: Callable[[SqliteJournal], None]) -> None:
        async with opened(folder / "journal.db", threaded=False) as journal:
            test(journal)

    def removed_now(journal: SqliteJournal) -> None:
        aged(folder, 0)
        for at in late:
            sweeps.at(at)
        assert (folder / "journal.db").exists()

    run(False, lambda: use(removed_now))
    aged(folder, 0)
    for at in (1100 * DAY, 1200 * DAY):
        sweeps.at(at)
    assert not folder.exists()
    journal_in(sweeps, "c")


def test_damaged_journals_are_kept_for_a_while_and_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With what belongs to them; the newest stay."""
    sweeps = Sweeps(tmp_path)
    folder = sweeps.folders.state / "journal" / "c-01234567"
    stamps = [time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(T0 - days * DAY)) for days in (100, 80, 1)]
    for stamp in stamps:
        put(folder / f"journal.db.corrupt-{stamp}")
        put(folder / f"journal.db.corrupt-{stamp}-wal")
        put(folder / f"journal.db.corrupt-{stamp}.results" / "ab" / "x.json")

    def left() -> list[bool]:
        return [any(folder.glob(f"journal.db.corrupt-{stamp}*")) for stamp in stamps]

    sweeps.at(0)
    assert left() == [True, True, True]
    sweeps.at(SECOND_LOOK_S)
    assert left() == [False, True, True]
    monkeypatch.setattr(unused, "MOST_DAMAGED", 1)
    sweeps.at(SECOND_LOOK_S + DAY)
    assert left() == [False, False, True]


# --- when it is done -------------------------------------------------------------------------------------------------


def test_one_of_many_bridges_sweeps(tmp_path: Path):
    """Not while another does, nor just after it; and each notes how long its results are kept."""
    sweeps = Sweeps(tmp_path)
    listing = put(tmp_path / "cache" / f"{1:032x}.json", age=1e8)
    (tmp_path / "state").mkdir()
    lock = open_private(tmp_path / "state" / "upkeep.lock", os.O_RDWR | os.O_CREAT)
    assert try_lock(lock)
    sweeps.at(0)
    assert listing.exists()
    os.close(lock)
    sweeps.at(0)
    assert not listing.exists()
    put(listing, age=1e8)
    folder = tmp_path / "state" / "journal" / "c"
    folder.mkdir(parents=True)
    sweep(sweeps.folders, Bounds(1, 5.0, folder), lambda: T0 + upkeep.RECENT_S - 1)
    assert listing.exists()
    assert json.loads((tmp_path / "state" / "upkeep.json").read_text())["kept_s"] == {str(folder): 5.0}
    (tmp_path / "state" / "upkeep.json").write_text('{"swept": [], "unused"')  # damaged: begun anew
    sweeps.at(2 * upkeep.RECENT_S)
    assert not listing.exists()


def test_a_fault_of_the_upkeep_ends_no_bridge(monkeypatch: pytest.MonkeyPatch):
    """It is tried again."""
    monkeypatch.setattr(upkeep, "FIRST_S", 0)
    monkeypatch.setattr(upkeep, "PAUSE_S", 0)
    tried = 0

    async def three_times() -> None:
        with anyio.fail_after(5), anyio.CancelScope() as scope:

            def fail() -> None:
                nonlocal tried
                tried += 1
                if tried == 3:
                    anyio.from_thread.run_sync(scope.cancel)
                raise OSError("full")

            await keep_up(fail)

    anyio.run(three_times)
    assert tried == 3
