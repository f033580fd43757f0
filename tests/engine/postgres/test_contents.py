"""What goes into the database comes out of it unchanged: any text, any JSON value, large results."""

import itertools
import time
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncfc_mcp.core.effects import Effect
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.records import CallRecord, FailureRecord
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.futures_table import Ending, FuturesTable, Ready
from asyncfc_mcp.engine.postgres.rows import escaped, key, unescaped
from asyncfc_mcp.engine.record_json import parse
from asyncfc_mcp.values.text import encode
from tests.support.postgres_futures import ended, jobs, make_ready, new, started, submit

pytestmark = pytest.mark.anyio

# No low surrogates: behind a high one they are a character in JSON.
TEXT = st.text(st.sampled_from("a\\0u'\"%\0\n\ud800\U0001f600é{}[]\x1b\x7f\u2028"), max_size=12) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=8
)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.just(10**400)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)
NAMES = st.dictionaries(TEXT, TEXT, max_size=2)


@given(TEXT | st.text(st.characters()), TEXT | st.text(st.sampled_from("\ud800\udfff\\u")))
def test_escaped_text_is_unescaped_and_equal_only_for_equal_text(a: str, b: str):
    """It has neither NUL nor lone surrogates."""
    assert unescaped(escaped(a)) == a
    assert (escaped(a) == escaped(b)) == (a == b)
    assert "\0" not in escaped(a)
    escaped(a).encode()
    assert len(key(a * 100).encode()) <= 500


examples = itertools.count()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(TEXT, min_size=10, max_size=10),
    call=st.builds(
        CallRecord,
        TEXT,
        st.none() | OBJECTS,
        st.none() | OBJECTS,
        OBJECTS,
        reads=st.lists(st.lists(TEXT, max_size=2).map(tuple), max_size=2).map(tuple),
        bindings=NAMES,
        values=NAMES,
        after=NAMES,
        repeatable=st.booleans(),
    ),
    names=NAMES,
    round_=OBJECTS,
    failure=st.builds(FailureRecord, TEXT, TEXT, st.none() | st.integers(-(1 << 40), 1 << 40), TEXT, JSON),
    result=OBJECTS,
)
async def test_any_future_is_read_as_it_was_written(
    table: FuturesTable,
    texts: list[str],
    call: CallRecord,
    names: dict[str, str],
    round_: dict[str, object],
    failure: FailureRecord,
    result: dict[str, object],
):
    """Names, arguments, questions, failures and results."""
    scope, _, tool, namer, host, conversation, cause, queue, source, path = texts
    server = f"{texts[1]} {next(examples)}"
    future = new(scope=scope, server=server, tool=tool, namer=namer, host=host, conversation=conversation, call=call)
    future.record.substituted, future.record.after = names, names
    future.effect = Effect(((path, queue),), ((),), source)
    (row,) = await submit(table, future)
    await table.make_ready([Ready(row.seq, server, call.tool, queue, server_limit=1)])
    claimed = await table.claim(row.seq)
    assert claimed is not None
    assert claimed.record.call == call
    assert claimed.effect == future.effect
    for name in ("scope", "server", "tool", "namer", "host", "conversation", "substituted", "after"):
        assert getattr(claimed.record, name) == getattr(future.record, name)
    assert await table.update_running(row.seq, {"state": State.INPUT_REQUIRED, "round": round_})
    assert (await table.rows([row.seq]))[row.seq].record.round == round_
    ending = Ending(row.seq, State.FAILED, ran=True, failure=failure, cause=cause, result=encode(result))
    assert await table.end([ending]) == [True]
    found = await table.find(scope, [row.record.id], [])
    assert [(each.seq, each.record.failure, each.record.cause) for each in found] == [(row.seq, failure, cause)]
    assert parse((await table.results([row.seq]))[row.seq]) == result
    assert row.seq in [each.seq for each in await table.unread(scope, conversation)]
    assert (await table.newest(scope, 1))[0].seq == row.seq


async def test_results_of_several_megabytes(table: FuturesTable):
    """Many at once, of bytes that do not compress and that look like escapes."""
    rows = await started(table, *(new(arguments={"a": "\\x00" * 300_000}) for _ in range(4)))
    results = [bytes([92, 120, 0, 255, number]) * 1_000_000 for number in range(4)]
    endings = [
        Ending(row.seq, State.COMPLETED, ran=True, result=result, size=len(result))
        for row, result in zip(rows, results, strict=True)
    ]
    assert await table.end(endings) == [True] * 4
    found = await table.results([row.seq for row in rows])
    assert [found[row.seq] == result for row, result in zip(rows, results, strict=True)] == [True] * 4


async def test_long_names_of_servers_and_tools(table: FuturesTable, database: Database):
    """Limits of a tool are counted by its whole name, however long it is."""
    rows = await submit(table, *(new(tool=letter + "ü" * 5_000 + end) for letter in "ab" for end in "xyx"))
    await make_ready(table, rows, tool_limit=1)
    assert await jobs(database) == [rows[number].seq for number in (0, 1, 3, 4)]


async def test_a_private_future_has_neither_arguments_nor_result(table: FuturesTable):
    """What is written is that there was a call, and how it ended."""
    (row,) = await started(table, new(call=None, private=True))
    assert row.record.call is None
    assert await table.end([Ending(row.seq, State.COMPLETED, ran=True, private=True)]) == [True]
    record = (await table.rows([row.seq]))[row.seq].record
    assert (record.private, record.has_result, record.state) == (True, False, State.COMPLETED)
    assert await table.results([row.seq]) == {}


async def test_the_clocks_of_replicas_do_not_matter(table: FuturesTable):
    """All times are the database's."""
    with mock.patch.object(time, "time", return_value=1e12):
        (row,) = await ended(table)
        await table.mark_read([row.seq])
    record = (await table.rows([row.seq]))[row.seq].record
    now = time.time()
    for at in (record.submitted_at, record.started_at, record.ended_at, record.read_at):
        assert at is not None
        assert abs(at - now) < 3600
    assert await table.prune(3600, 1 << 40) == 0


async def test_a_damaged_row_is_left_out(table: FuturesTable, database: Database, caplog: pytest.LogCaptureFixture):
    """The others are found."""
    rows = await submit(table, new(), new())
    await database.fetch("UPDATE futures SET effect = '[' WHERE seq = %s", (rows[0].seq,))
    assert list(await table.rows([row.seq for row in rows])) == [rows[1].seq]
    assert "cannot be read" in caplog.text
