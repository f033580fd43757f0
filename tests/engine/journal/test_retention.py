"""Retention: time to live, the cap on size, numbers that were dropped, and clocks that are wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core.records import Change
from asyncfc_mcp.engine.journal import retention
from asyncfc_mcp.engine.journal.sqlite_journal import SqliteJournal
from tests.engine.journal.bench import NOW, committed, ended, key, opened, record, result_of, run, text

Test = Callable[[SqliteJournal], Awaitable[None]]


class Clocks:
    """A wall clock that can be set, and one that cannot."""

    def __init__(self) -> None:
        self.wall = NOW
        self.elapsed = 0.0

    def sleep(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds

    def open(self, path: Path, test: Test, **options: object) -> None:
        async def opening() -> None:
            async with opened(
                path, threaded=False, clock=lambda: self.wall, elapsed=lambda: self.elapsed, **options
            ) as journal:
                await test(journal)

        run(False, opening)


async def pruned(journal: SqliteJournal, clocks: Clocks) -> None:
    """Let the writer look at what is kept."""
    clocks.sleep(retention.INTERVAL_S)
    await committed(journal)
    await committed(journal)


def present(journal: SqliteJournal) -> list[int]:
    return sorted(int(each.id[1:]) for each in journal.newest("local"))


def total(folder: Path) -> int:
    """Return the bytes of a journal with everything beside it."""
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file() and each.suffix != "-shm")


def test_futures_are_dropped_some_time_after_their_end_and_known_to_be_forgotten(tmp_path: Path):
    """Read or not; what has not ended stays."""
    clocks = Clocks()

    async def test(journal: SqliteJournal) -> None:
        for number in range(1, 7):
            journal.add(record(number))
        journal.add(record(1, scope="other"))
        for number in (1, 2, 4):
            journal.update(key(number), ended(text("x" * 100_000 + str(number))))
        journal.update(key(2), Change({"read_at": NOW + 3}))
        await committed(journal)
        path = journal.result_path(key(4))
        assert path is not None
        clocks.sleep(3000)
        journal.update(key(5), ended(text("x")))
        await pruned(journal, clocks)
        assert present(journal) == [1, 2, 4, 5]
        clocks.sleep(601)
        await pruned(journal, clocks)
        assert present(journal) == [5]
        assert not path.exists()
        assert not list((tmp_path / "j.results").rglob("*.json"))
        assert [number for number in range(10) if journal.forgotten("local", number)] == [1, 2, 4]
        assert not journal.forgotten("other", 1)
        journal.update(key(3), ended(text("x")))
        journal.update(key(6), ended(text("x")))
        await committed(journal)
        clocks.sleep(4000)
        await pruned(journal, clocks)
        assert present(journal) == []
        assert [number for number in range(10) if journal.forgotten("local", number)] == [1, 2, 3, 4, 5, 6]

    clocks.open(tmp_path / "j", test)
    with closing(sqlite3.connect(tmp_path / "j")) as connection:
        assert connection.execute("SELECT * FROM dropped").fetchall() == [("local", 1, 6)]


def test_above_the_cap_read_futures_are_dropped_first_then_the_oldest(tmp_path: Path):
    """Unfinished ones never."""
    clocks = Clocks()

    async def test(journal: SqliteJournal) -> None:
        for number in range(1, 41):
            clocks.sleep(1)
            journal.add(record(number))
            if number != 3:
                journal.update(key(number), ended(text(f"{number}" + "x" * 50_000)))
            if number in (10, 11, 12):
                journal.update(key(number), Change({"read_at": NOW}))
            await committed(journal)
        await pruned(journal, clocks)
        kept = present(journal)
        assert not {10, 11, 12} & set(kept)
        assert kept == list(range(kept[0], 41))
        assert 5 < len(kept) < 20

    clocks.open(tmp_path / "j", test, max_bytes=1 << 20)

    async def after(journal: SqliteJournal) -> None:
        assert [each.id for each in journal.adopted()] == ["f3"]

    clocks.open(tmp_path / "j", after, max_bytes=1 << 20)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "end", "end", "end", "read", "sleep", "burst", "reopen"]),
        st.integers(0, 30),
        st.sampled_from([10, 3_000, 60_000, 70_000, 200_000]),
    ),
    max_size=60,
)


@settings(max_examples=15, deadline=None)
@given(STEPS)
def test_no_history_grows_above_the_cap_or_loses_what_has_not_ended(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
):
    """The file, its log and large results together; what is dropped is known to be forgotten."""
    folder = tmp_path_factory.mktemp("cap")
    cap = 2 << 20
    clocks = Clocks()
    unfinished: list[int] = []
    finished: list[int] = []
    last = 0

    async def until_reopened(journal: SqliteJournal) -> None:
        nonlocal last
        assert sorted(int(each.id[1:]) for each in journal.adopted()) == sorted(unfinished)
        while steps:
            what, which, size = steps.pop(0)
            match what:
                case "add":
                    last += 1
                    journal.add(record(last))
                    unfinished.append(last)
                case "end" if unfinished:
                    number = unfinished.pop(which % len(unfinished))
                    journal.update(key(number), ended(text(f"{which}" + "x" * size)))
                    finished.append(number)
                case "burst":
                    for _ in range(which):
                        last += 1
                        journal.add(record(last))
                        journal.update(key(last), ended(text(f"{last}" + "x" * size)))
                        finished.append(last)
                case "read" if finished:
                    journal.update(key(finished[which % len(finished)]), Change({"read_at": NOW}))
                case "sleep":
                    clocks.sleep(which * 60)
                case "reopen":
                    return
                case _:
                    pass
            await committed(journal)
            await committed(journal)
            assert total(folder) <= cap
        await pruned(journal, clocks)
        kept = set(present(journal))
        for number in finished:
            assert (number in kept) != journal.forgotten("local", number)
        assert not any(journal.forgotten("local", number) for number in unfinished)
        assert journal.usable
        named = {journal.result_path(key(number)) for number in kept} - {None}
        assert set((folder / "j.results").rglob("*.json")) == named

    while True:
        clocks.open(folder / "j", until_reopened, max_bytes=cap, ttl_s=3000)
        if not steps:
            break
    clocks.open(folder / "j", until_reopened, max_bytes=cap, ttl_s=3000)


# --- clocks ----------------------------------------------------------------------------------------------------------


async def one(journal: SqliteJournal) -> None:
    journal.add(record(1))
    journal.update(key(1), ended(text("x")))
    await committed(journal)


@pytest.mark.parametrize("jump", [-1e9, -86_400.0, 86_400.0, 1e8])
def test_a_clock_that_is_set_while_the_bridge_runs_drops_nothing_early_and_keeps_nothing_for_ever(
    tmp_path: Path, jump: float
):
    """Forwards or backwards, with what was written before and after."""
    clocks = Clocks()

    async def test(journal: SqliteJournal) -> None:
        await one(journal)
        clocks.wall += jump
        journal.add(record(2))
        journal.update(key(2), ended(text("x")))
        await pruned(journal, clocks)
        assert present(journal) == [1, 2]
        clocks.sleep(3700)
        await pruned(journal, clocks)
        assert present(journal) == ([1, 2] if clocks.wall < 1e9 else [])  # a clock that is not set says nothing

    clocks.open(tmp_path / "j", test)
    clocks.wall = NOW + 1e8 + 10_000

    async def later(journal: SqliteJournal) -> None:
        await pruned(journal, clocks)
        await pruned(journal, clocks)
        assert present(journal) == []

    clocks.open(tmp_path / "j", later)


def test_rows_from_the_future_count_from_now(tmp_path: Path):
    """The clock was ahead in an earlier run."""
    clocks = Clocks()
    clocks.wall = NOW + 1e8
    clocks.open(tmp_path / "j", one)
    clocks.wall = NOW

    async def test(journal: SqliteJournal) -> None:
        await pruned(journal, clocks)
        clocks.sleep(3000)
        await pruned(journal, clocks)
        assert present(journal) == [1]
        found = journal.find("local", "f1")
        assert found is not None
        assert found.ended_at == NOW + 2  # as it was shown
        clocks.sleep(3000)
        await pruned(journal, clocks)
        assert present(journal) == []

    clocks.open(tmp_path / "j", test)


def test_nothing_expires_before_the_clock_is_set(tmp_path: Path):
    """Small computers start in 1970, and rows of that run are not old either."""
    clocks = Clocks()
    clocks.open(tmp_path / "j", one)
    clocks.wall = 5.0

    async def test(journal: SqliteJournal) -> None:
        journal.add(record(2))
        journal.update(key(2), ended(text("x")))
        await pruned(journal, clocks)
        clocks.sleep(1e6)
        await pruned(journal, clocks)
        assert present(journal) == [1, 2]

    clocks.open(tmp_path / "j", test)


def test_files_that_crashes_left_are_removed(tmp_path: Path):
    """Unfinished ones, and those that no future names; not those of a bridge that runs."""
    clocks = Clocks()
    folder = tmp_path / "j.results" / "ab"

    async def test(journal: SqliteJournal) -> None:
        folder.mkdir(parents=True)
        boot = journal._file.boot.boot
        for name in ("ab12.json", "ab12.0123.part", f"ab12.{boot}.part"):
            (folder / name).write_text("{}")
        journal.add(record(1))
        journal.update(key(1), ended(text("x" * 100_000)))
        await committed(journal)
        clocks.sleep(retention.FIRST_S)
        await pruned(journal, clocks)
        assert [each.name for each in folder.iterdir()] == [f"ab12.{boot}.part"]
        assert result_of(journal, 1) == text("x" * 100_000)

    clocks.open(tmp_path / "j", test)


def test_ranges_of_dropped_numbers_stay_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The lowest are joined: what was never sent between them counts as forgotten."""
    monkeypatch.setattr(retention, "_MAX_RANGES", 10)
    clocks = Clocks()

    async def test(journal: SqliteJournal) -> None:
        for number in range(1, 101, 2):
            journal.add(record(number))
            journal.update(key(number), ended(None))
        await committed(journal)
        clocks.sleep(4000)
        await pruned(journal, clocks)
        forgotten = [number for number in range(1, 101) if journal.forgotten("local", number)]
        assert forgotten == [*range(1, forgotten[-6] + 1), *forgotten[-5:]]
        assert forgotten[-1] == 99

    clocks.open(tmp_path / "j", test)
