"""The journal in a SQLite file: what is written is found again, in order, by this run and the next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.identity import FutureKey
from asyncfc_mcp.core.records import UNFINISHED, CallRecord, Change, FailureRecord, FutureRecord
from asyncfc_mcp.engine.journal.blobs import INLINE_BYTES
from asyncfc_mcp.slices import at_once
from tests.engine.journal.bench import NOW, committed, ended, key, opened, record, result_of, run, running, text
from tests.support.json_values import JSON, OBJECTS, TEXT


def test_a_finished_future_is_found_by_this_run_and_the_next(tmp_path: Path, threaded: bool):
    """With its result, by ID."""

    async def first() -> None:
        async with opened(tmp_path / "j", threaded) as journal:
            assert journal.usable
            journal.add(record(1))
            journal.update(key(1), running())
            journal.update(key(1), ended(text("hello"), size=40))
            await committed(journal)
            check(journal.find("local", "f1"))
            assert result_of(journal, 1) == text("hello")

    async def second() -> None:
        async with opened(tmp_path / "j", threaded) as journal:
            assert journal.adopted() == []
            check(journal.find("local", "f1"))
            assert result_of(journal, 1) == text("hello")
            assert journal.find("other", "f1") is None
            assert journal.find("local", "f01") is None

    def check(found: FutureRecord | None) -> None:
        expected = record(
            1, call=None, state=State.COMPLETED, started_at=NOW + 1, ended_at=NOW + 2, has_result=True, size=40
        )
        assert found == expected

    run(threaded, first)
    run(threaded, second)


TEXTS = TEXT | st.none()
NAMES = st.dictionaries(TEXT, TEXT, max_size=3)
PATHS = st.lists(st.lists(TEXT, max_size=3).map(tuple), max_size=3).map(tuple)
TIMES = st.floats(0, 1e12) | st.none()
CALLS = st.builds(
    CallRecord,
    tool=TEXT,
    arguments=OBJECTS | st.none(),
    meta=OBJECTS | st.none(),
    capabilities=OBJECTS,
    reads=PATHS,
    writes=PATHS,
    effect_source=TEXT,
    read_only=st.booleans(),
    repeatable=st.booleans(),
    needs_task=st.booleans(),
    bindings=NAMES,
    values=NAMES,
    after=NAMES,
)
FAILURES = st.builds(
    FailureRecord, text=TEXT, detail=TEXT, code=st.integers(-(2**40), 2**40) | st.none(), message=TEXT, data=JSON
)
RECORDS = st.builds(
    FutureRecord,
    scope=TEXT,
    listed=st.booleans(),
    id=st.integers(0, 2**70).map("f{}".format)
    | st.text("0123456789abcdef", min_size=32, max_size=32).map("f{}".format),
    server=TEXT,
    tool=TEXT,
    state=st.sampled_from([State.COMPLETED, State.FAILED, State.CANCELLED]),
    name=TEXTS,
    namer=TEXTS,
    host=TEXTS,
    conversation=TEXTS,
    submitted_at=st.floats(0, 1e12),
    started_at=TIMES,
    ended_at=st.floats(0, 1e12),
    read_at=TIMES,
    ttl_s=TIMES,
    cause=TEXTS,
    substituted=NAMES,
    after=NAMES,
    failure=FAILURES | st.none(),
    call=CALLS | st.none(),
    round=OBJECTS | st.none(),
    has_result=st.booleans(),
    size=st.integers(1, 2**40),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(RECORDS, OBJECTS), max_size=5, unique_by=lambda each: (each[0].scope, each[0].id)))
def test_every_record_and_result_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, futures: list[tuple[FutureRecord, dict[str, Any]]]
):
    """Text with NUL and lone surrogates, numbers of any size, infinities of JSON."""

    async def test() -> None:
        async with opened(tmp_path_factory.mktemp("round") / "j", threaded=False) as journal:
            for each, result in futures:
                result["infinite"] = [float("inf"), -float("inf"), 10**300]
                journal.add(each)
                journal.update(FutureKey(f"{each.scope}/{each.id}"), Change({"has_result": True}, result))
                each.has_result, each.call = True, None
            await committed(journal)
            for each, result in futures:
                assert journal.find(each.scope, each.id) == each
                assert at_once(journal.parsing(FutureKey(f"{each.scope}/{each.id}"))) == result
                if each.name is not None:
                    named = [one for one, _ in futures if (one.scope, one.name) == (each.scope, each.name)]
                    last = {one.namer: one for one in named}
                    assert journal.named(each.scope, each.name) == [
                        one for one in reversed(named) if one in last.values()
                    ]
                if each.conversation is not None and each.read_at is None:
                    assert each in journal.unread(each.scope, each.conversation)

    run(False, test)


@settings(max_examples=40, deadline=None)
@given(st.lists(RECORDS, max_size=5, unique_by=lambda each: (each.scope, each.id)), st.data())
def test_every_unfinished_record_is_adopted_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, futures: list[FutureRecord], data: st.DataObject
):
    """With everything that its call needs."""
    path = tmp_path_factory.mktemp("adopted") / "j"
    for each in futures:
        each.state = data.draw(st.sampled_from(UNFINISHED))
        each.ended_at = None

    async def first() -> None:
        async with opened(path, threaded=False) as journal:
            for each in futures:
                journal.add(each)

    async def second() -> None:
        async with opened(path, threaded=False) as journal:
            assert journal.adopted() == futures

    run(False, first)
    run(False, second)


def test_unfinished_futures_are_adopted_by_the_next_run_in_the_order_of_submission(tmp_path: Path, threaded: bool):
    """Whatever the order of their later changes; once, and not what ended."""

    async def first() -> None:
        async with opened(tmp_path / "j", threaded) as journal:
            for number in (3, 1, 2, 4):
                journal.add(record(number))
            journal.update(key(2), running())
            journal.update(key(4), ended(text("x")))
            await committed(journal)
            journal.update(key(3), running())
            journal.update(key(9), running())

    async def second() -> list[FutureRecord]:
        async with opened(tmp_path / "j", threaded) as journal:
            adopted = journal.adopted()
            assert journal.adopted() == []
            return adopted

    run(threaded, first)
    for _ in range(2):
        adopted = run(threaded, second)
        assert [(each.id, each.state) for each in adopted] == [
            ("f3", State.RUNNING),
            ("f1", State.WAITING),
            ("f2", State.RUNNING),
        ]


def test_callbacks_come_in_order_after_the_commit_and_never_at_once(tmp_path: Path, threaded: bool):
    """Also those of nothing."""

    async def test() -> None:
        async with opened(tmp_path / "j", threaded) as journal:
            order: list[int] = []
            journal.after_commit(lambda: order.append(0))
            for number in range(1, 50):
                journal.add(record(number))

                def check(number: int = number) -> None:
                    order.append(number)
                    assert journal.find("local", f"f{number}") is not None

                journal.update(key(number), ended(text("x")), check)
                if number % 10 == 5:
                    await anyio.lowlevel.checkpoint()
            assert order != list(range(50))
            await committed(journal)
            assert order == list(range(50))

    run(threaded, test)


def test_a_large_result_lies_in_a_file_that_only_the_user_can_read(tmp_path: Path, threaded: bool):
    """Equal ones share a file."""

    async def test() -> None:
        async with opened(tmp_path / "j", threaded) as journal:
            for number, size in ((1, INLINE_BYTES * 2), (2, INLINE_BYTES * 2), (3, 100)):
                journal.add(record(number))
                journal.update(key(number), ended(text("é\ud800" * (size // 4))))
            await committed(journal)
            path = journal.result_path(key(1))
            assert path is not None
            assert path == journal.result_path(key(2))
            assert path.stat().st_mode & 0o777 == 0o600
            assert journal.result_path(key(3)) is None
            assert result_of(journal, 1) == result_of(journal, 2) == text("é\ud800" * (INLINE_BYTES // 2))
            path.write_bytes(path.read_bytes()[:-3] + b"x}]")
            assert result_of(journal, 1) is None

    run(threaded, test)


def test_private_futures_leave_neither_arguments_nor_results(tmp_path: Path, threaded: bool):
    """In no file."""

    async def test() -> None:
        async with opened(tmp_path / "j", threaded) as journal:
            for number in (1, 2):
                call = CallRecord("tool", {"password": "secret"}, {"token": "secret"})
                journal.add(record(number, private=True, call=call, round={"ask": "secret"}))
            await committed(journal)
            journal.update(key(1), Change({"state": State.INPUT_REQUIRED, "round": {"ask": "secret"}}))
            journal.update(key(1), ended(text("secret" * 50_000)))
            journal.update(
                key(2), Change({"state": State.FAILED, "failure": FailureRecord("no", "no", 1, "no", {"s": "secret"})})
            )
            await committed(journal)
            found = journal.find("local", "f1")
            assert found is not None
            assert (found.call, found.round, found.has_result, found.private) == (None, None, False, True)
            assert result_of(journal, 1) is None
            failed = journal.find("local", "f2")
            assert failed is not None
            assert failed.failure == FailureRecord("no", "no", 1, "no", None)

    run(threaded, test)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes()


def test_newest_futures_are_listed_by_number_page_by_page(tmp_path: Path):
    """Unfinished ones, and those of other scopes, are not in it."""

    async def test() -> None:
        async with opened(tmp_path / "j", threaded=False) as journal:
            for number in range(1, 301):
                journal.add(record(number))
                if number % 3:
                    journal.update(key(number), ended(text("x")))
            journal.add(record(1000, scope="other", state=State.FAILED))
            await committed(journal)
            expected = [f"f{number}" for number in range(300, 0, -1) if number % 3]
            assert [each.id for each in journal.newest("local")] == expected
            assert [each.id for each in journal.newest("local", 100)] == [f"f{n}" for n in range(99, 0, -1) if n % 3]

    run(False, test)


def test_of_each_caller_the_last_future_with_a_name_is_found(tmp_path: Path):
    """Newest first."""

    async def test() -> None:
        async with opened(tmp_path / "j", threaded=False) as journal:
            for number, namer in enumerate(["a", "b", "a", None, "b", None, "c"], 1):
                journal.add(record(number, name="x", namer=namer))
                if namer != "c":
                    journal.update(key(number), ended(text("x")))
            await committed(journal)
            assert [each.id for each in journal.named("local", "x")] == ["f6", "f5", "f3"]
            assert journal.named("local", "y") == []

    run(False, test)


def test_look_ups_are_searches_in_an_index(tmp_path: Path):
    """None reads the table, however many rows it has."""
    statements: list[tuple[str, Any]] = []

    async def test() -> None:
        async with opened(tmp_path / "j", threaded=False) as journal:
            journal.add(record(1, name="n", conversation="c"))
            journal.update(key(1), ended(text("x")))
            journal.add(record(2))
            await committed(journal)
            reader = journal._reader
            rows = reader._rows

            def noted(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
                statements.append((statement, parameters))
                return rows(statement, *parameters)

            reader._rows = noted
            assert journal.find("local", "f1")
            assert journal.owner("local", "f2")
            assert journal.named("local", "n")
            assert journal.unread("local", "c")
            assert list(journal.newest("local"))
            assert result_of(journal, 1)
            journal.forgotten("local", 1)
            journal.never_sent("local", 1)
            for statement, parameters in statements:
                for *_, plan in rows(f"EXPLAIN QUERY PLAN {statement}", *parameters):
                    assert plan.startswith(("SEARCH ", "SCALAR SUBQUERY ")), (plan, statement)

    run(False, test)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_nobody_else_can_read_any_file(tmp_path: Path, threaded: bool):
    """Whatever the umask, and also those that an older program left readable."""
    path = tmp_path / "new" / "folder" / "j"

    async def test() -> None:
        async with opened(path, threaded) as journal:
            journal.add(record(1))
            journal.update(key(1), ended(text("x" * 100_000)))
            await committed(journal)
            assert journal.find("local", "f1")
            found = list((tmp_path / "new").rglob("*"))
            assert {"j", "j-wal", "j-shm", "j.bridges", "j.results"} <= {each.name for each in found}
            for each in found:
                assert each.stat().st_mode & 0o777 == (0o700 if each.is_dir() else 0o600), each

    before = os.umask(0)
    try:
        run(threaded, test)
        path.chmod(0o644)
        run(threaded, test)
    finally:
        os.umask(before)
