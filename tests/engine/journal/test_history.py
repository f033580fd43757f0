"""Searches in a journal's file find what a plain filter finds, a page at a time, also in files of older versions."""

import json
import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.app import recorded_calls, recorded_scopes
from asyncfc_mcp.cli.calls.table import Table
from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.records import CallRecord, Change, FutureRecord
from asyncfc_mcp.core.waits import Wait, WaitKind
from asyncfc_mcp.engine.journal.history import History
from asyncfc_mcp.errors import JournalUnreadable
from asyncfc_mcp.monitor.trace_events import TraceEvents
from asyncfc_mcp.slices import at_once
from asyncfc_mcp.values.text import encode
from tests.engine.journal.bench import NOW, committed, opened, run

WORDS = ["", "git", "fs", "naïve", 'say "x"', "%_"]


@st.composite
def records(draw: st.DrawFn) -> list[tuple[FutureRecord, dict[str, Any] | None]]:
    """Futures that have ended, with their results, and some that have not."""
    made: list[tuple[FutureRecord, dict[str, Any] | None]] = []
    number = 0
    for _ in range(draw(st.integers(0, 25))):
        number += draw(st.sampled_from([1, 1, 2, 5000]))
        word = draw(st.sampled_from(WORDS))
        ended = draw(st.booleans())
        record = FutureRecord(
            draw(st.sampled_from(["local", "person:a"])),
            True,
            f"f{number}",
            draw(st.sampled_from(["git", "fs"])),
            draw(st.sampled_from(["git__log", "fs__read"])),
            state=draw(st.sampled_from([State.COMPLETED, State.FAILED] if ended else [State.WAITING])),
            submitted_at=NOW + number % 7,
            ended_at=NOW + 10 if ended else None,
            call=CallRecord("t", {"word": word}),
            has_result=ended,
            private=draw(st.booleans()),
        )
        made.append((record, {"content": [], "said": draw(st.sampled_from(WORDS))} if ended else None))
    return made


QUERIES = st.builds(
    CallQuery,
    servers=st.sampled_from([(), ("git",), ("git", "other")]),
    tools=st.sampled_from([(), ("fs__read",)]),
    states=st.sampled_from([(), (State.FAILED,), (State.COMPLETED, State.WAITING)]),
    text=st.sampled_from([*WORDS, "GIT", "f1", "word", "NAÏVE"]),
    since=st.sampled_from([None, NOW + 3]),
    until=st.sampled_from([None, NOW + 5]),
    limit=st.integers(1, 7),
)


def plainly(record: FutureRecord, result: dict[str, Any] | None, query: CallQuery) -> bool:
    texts = [record.id, record.tool, record.server]
    if record.state is State.FAILED:
        texts.append("the tool reported an error")
    if not record.private:
        assert record.call is not None
        assert record.call.arguments is not None
        texts += [record.call.arguments["word"].replace('"', '\\"'), "word", (result or {}).get("said", "")]
        texts.append("content" if result else "")
        texts.append("said" if result else "")
        texts = [text.replace('\\"', '"') for text in texts]
    return (
        (not query.servers or record.server in query.servers)
        and (not query.tools or record.tool in query.tools)
        and (not query.states or record.state in query.states)
        and (query.since is None or record.submitted_at >= query.since)
        and (query.until is None or record.submitted_at < query.until)
        and any(query.text.casefold() in text.casefold() for text in texts)
    )


@settings(max_examples=40, deadline=None)
@given(records(), QUERIES, st.sampled_from(["", "git", "fs"]))
def test_pages_have_what_a_plain_filter_finds(
    made: list[tuple[FutureRecord, dict[str, Any] | None]], query: CallQuery, hidden: str
):
    """Each future once, newest first, whatever the size of a page, and of the servers that the reader may use."""

    async def test(path: Path) -> None:
        async with opened(path, threaded=False) as journal:
            for record, result in made:
                state, record.state = record.state, State.WAITING
                ended_at, record.ended_at = record.ended_at, None
                journal.add(record)
                record.state, record.ended_at = state, ended_at
                if result is not None:
                    columns = {"state": state, "ended_at": ended_at, "has_result": True}
                    journal.update(f"{record.scope}/{record.id}", Change(columns, result))  # type: ignore[arg-type]
            await committed(journal)
            for unfinished in (False, True):
                history = History(path, unfinished=unfinished)
                found: list[str] = []
                asked = query
                while True:
                    page = history.page("local", asked, lambda server: server != hidden)
                    ids = [record.id for record in page.records]
                    found += ids[: query.limit]
                    if len(ids) > query.limit:
                        asked = query.after(ids[query.limit - 1])
                    elif page.until is not None:
                        asked = query.after(f"f{page.until}")
                    else:
                        break
                expected = [
                    record.id
                    for record, result in reversed(made)
                    if record.scope == "local"
                    and record.server != hidden
                    and (unfinished or result is not None)
                    and plainly(record, result, query)
                ]
                assert found == expected

    with TemporaryDirectory(prefix="run-") as folder:
        run(False, test, Path(folder) / "journal")


WAITS = (Wait(WaitKind.VALUE, "f1"), Wait(WaitKind.STATE, "f2", "/repo"), Wait(WaitKind.CAPACITY, "f3"))


async def _written(path: Path, threaded: bool) -> None:
    async with opened(path, threaded) as journal:
        for number, private in ((4, False), (5, True)):
            record = FutureRecord("local", True, f"f{number}", "s", "t", submitted_at=NOW, private=private)
            record.call, record.waits, record.queued_at = CallRecord("t", {"n": number}), WAITS, NOW + 1
            journal.add(record)
            columns: dict[str, Any] = {"state": State.FAILED, "attempts": 3, "ended_at": NOW + 9}
            journal.update(f"local/f{number}", Change(columns))  # type: ignore[arg-type]
        await committed(journal)


def test_what_a_call_waited_for_is_kept(tmp_path: Path, threaded: bool):
    """Of a private one without the paths, which its arguments may have given."""
    path = tmp_path / "j"
    run(threaded, _written, path, threaded)
    private, open_ = History(path).page("local", CallQuery(), lambda _: True).records
    assert (open_.waits, open_.queued_at, open_.attempts) == (WAITS, NOW + 1, 3)
    assert [wait.path for wait in private.waits] == ["", "", ""]
    call = History(path).call("local", "f4")
    assert call is not None
    assert call.arguments == {"n": 4}
    assert History(path).call("local", "f5") is None


def _first_version(path: Path) -> None:
    """Take from a file what the second version has added."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for column in ("waits", "queued_at", "attempts"):
            connection.execute(f"ALTER TABLE futures DROP COLUMN {column}")
        connection.execute("PRAGMA user_version = 1")


def test_a_file_of_the_first_version_is_read_as_it_is_and_migrated_with_its_content(tmp_path: Path, threaded: bool):
    path = tmp_path / "j"
    run(threaded, _written, path, threaded)
    _first_version(path)
    entries, following = recorded_calls(path, CallQuery(limit=1))
    assert (entries[0]["id"], entries[0]["state"], following) == ("f5", "failed", "f5")
    assert "waits" not in entries[0]

    async def migrated() -> None:
        async with opened(path, threaded) as journal:
            assert journal.usable
            found = journal.find("local", "f4")
            assert found is not None
            assert (found.state, found.waits, found.queued_at, found.attempts) == (State.FAILED, (), None, 1)
            record = FutureRecord("local", True, "f6", "s", "t", submitted_at=NOW, waits=WAITS)
            journal.add(record)
            await committed(journal)

    run(threaded, migrated)
    assert [entry["id"] for entry in recorded_calls(path, CallQuery())[0]] == ["f6", "f5", "f4"]
    assert recorded_calls(path, CallQuery())[0][0]["waits"] == [
        {"kind": "value", "on": "f1"},
        {"kind": "state", "on": "f2", "path": "/repo"},
        {"kind": "capacity", "on": "f3"},
    ]
    assert recorded_scopes(path) == ["local"]


CONTENT = [None, 0, -1, 1 << 62, 1.5, -1e308, float("inf"), "", "text", "[]", "{}", "[[1]]", '[["value", 1]]', "1e999"]
CONTENT += ['{"a": 1}', '{"type": 1, "message": 2}', "[" * 9000, b"", b"\xff\xfe", b"\xed\xa0\x80", "\x1b[2J\u202e"]


def _damaged(path: Path) -> None:
    """Add rows to a file of which each has something else in one of its columns."""
    with closing(sqlite3.connect(path)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(futures)") if row[1] != "seq"]
        copied = ", ".join(f'"{name}"' for name in columns if name != "id")
        number = 100
        for column in columns:
            for content in [*CONTENT, "no UTF-8"]:
                number += 1
                given = "CAST(x'ff00fe' AS TEXT)" if content == "no UTF-8" else "?"
                connection.execute(
                    f"INSERT INTO futures (id, {copied}) SELECT ?, {copied} FROM futures WHERE id = 4", (number,)
                )
                with suppress(sqlite3.IntegrityError):
                    statement = f'UPDATE futures SET "{column}" = {given} WHERE id = {number}'
                    connection.execute(statement, (content,) if given == "?" else ())


def test_a_damaged_row_hides_no_other_and_fails_nothing(tmp_path: Path):
    """Whatever is in one of its columns, the other calls are found, and what is shown of it can be written as JSON, as
    a trace and as a line."""
    path = tmp_path / "j"
    run(False, _written, path, False)
    _damaged(path)
    found: list[str] = []
    query: CallQuery | None = CallQuery(limit=100)
    while query is not None:
        recorded_calls(path, replace(query, text="nothing has this"))
        entries, following = recorded_calls(path, query)
        query = None if following is None else query.after(following)
        found += [entry["id"] for entry in entries]
        assert all(json.loads(encode(entry)) for entry in entries)
        assert bool(at_once(TraceEvents(NOW).writing(entries))) is bool(entries)
        table = Table(80, with_date=True)
        table.measure(entries, NOW)
        assert all("\x1b" not in line.plain for entry in entries for line in table.lines(entry, NOW))
    assert {"f4", "f5"} <= set(found)
    assert len(found) == len(set(found)) > 200


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path):
    with pytest.raises(JournalUnreadable, match="there is no such file"):
        recorded_calls(tmp_path / "none", CallQuery())
    assert not (tmp_path / "none").exists()
    (tmp_path / "text").write_text("no database " * 1000)
    with pytest.raises(JournalUnreadable, match="not a database"):
        recorded_calls(tmp_path / "text", CallQuery())
