"""The table of futures, one method after the other, over a real server."""

import pytest

from asyncfc_mcp.core.effects import Effect
from asyncfc_mcp.core.futures import State
from asyncfc_mcp.core.records import CallRecord, FailureRecord
from asyncfc_mcp.engine.postgres.database import Database
from asyncfc_mcp.engine.postgres.futures_table import Ending, FuturesTable
from asyncfc_mcp.engine.postgres.rows import Row
from asyncfc_mcp.errors import NameInUse
from tests.support.postgres_futures import ALL, ended, jobs, make_ready, new, started, submit

pytestmark = pytest.mark.anyio

OK = b'{"content":[]}'


async def test_a_future_is_submitted_and_run_and_read(table: FuturesTable, other: FuturesTable, database: Database):
    """By two replicas: one submits it and one runs it, and both see all of it."""
    reads = (("x", "y"),)
    call = CallRecord("t", {"a": [1, None]}, meta={"m": 1}, reads=reads, effect_source="config", repeatable=True)
    future = new(call=call, substituted={"$f1": "f1"}, after={"a": "f2"}, host="h", conversation="c", ttl_s=7.5)
    future.effect = Effect(reads, (), "config")
    (row,) = await submit(table, future)
    assert (row.record.id, row.owner, row.worker, row.record.call) == ("f1", "A", None, None)
    (seen,), last = await other.newer(0)
    assert (seen, last) == (row, row.seq)

    assert await other.claim(row.seq) is None, "it has no place"
    await make_ready(table, [row])
    assert await jobs(database) == [row.seq]
    claimed = await other.claim(row.seq)
    assert claimed is not None
    assert (claimed.record.call, claimed.worker, claimed.record.state) == (call, "B", State.RUNNING)
    assert await table.claim(row.seq) is None, "another replica has it"

    ending = Ending(row.seq, State.COMPLETED, ran=True, result=OK, size=len(OK))
    assert await table.end([ending]) == [False], "this replica does not run it"
    assert await other.end([ending]) == [True]
    assert await other.end([ending]) == [False], "it has ended"
    found = (await table.rows([row.seq]))[row.seq].record
    assert (found.state, found.has_result, found.size, found.round) == (State.COMPLETED, True, len(OK), None)
    assert (found.substituted, found.after, found.host) == ({"$f1": "f1"}, {"a": "f2"}, "h")
    assert found.submitted_at <= (found.started_at or 0) <= (found.ended_at or 0)
    assert await table.results([row.seq, 99]) == {row.seq: OK}
    assert await table.calls([row.seq]) == {}
    assert await other.newer(0) == ([], row.seq)


async def test_ids_are_counted_in_each_scope(table: FuturesTable):
    """From f1 on, unless they are given."""
    given = new(scope="b")
    given.record.id = "f" + "0" * 32
    rows = await submit(table, new(scope="a"), new(scope="b"), new(scope="a"), given)
    rows += await submit(table, new(scope="b"))
    assert [row.record.id for row in rows] == ["f1", "f1", "f2", given.record.id, "f2"]
    assert [await table.last_number(scope) for scope in ("a", "b", "c")] == [2, 2, 0]


async def test_a_repeated_submission_creates_nothing_twice(table: FuturesTable):
    """It returns what the first one created, also what has changed since."""
    first, second = new(), new(name="n")
    rows = await submit(table, first)
    (claimed,) = await started(table, second)
    again = await table.submit([first, second, new()], 0)
    assert again.rows[0] == rows[0]
    assert isinstance(again.rows[1], Row)
    assert (again.rows[1].seq, again.rows[1].record.state) == (claimed.seq, State.RUNNING)
    assert again.others == []
    assert again.last == claimed.seq + 1
    assert await table.last_number("local") == 3


async def test_others_are_returned_with_a_submission(table: FuturesTable, other: FuturesTable):
    """The unfinished ones that this replica does not know yet, in order."""
    known, first, done, last = await submit(other, *(new() for _ in range(4)))
    await other.end([Ending(done.seq, State.CANCELLED, ran=False)])
    submitted = await table.submit([new()], known.seq)
    assert [row.seq for row in submitted.others] == [first.seq, last.seq]
    assert submitted.last == last.seq + 1


async def test_a_name_belongs_to_one_unfinished_future(table: FuturesTable, other: FuturesTable):
    """Of each scope and namer; also within one batch."""
    (row,) = await submit(table, new(name="n", namer="x"))
    batch = [new(name="n", namer="x"), new(name="n", namer="y"), new(name="n", namer="x", scope="b"), new(name="n")]
    refused, *others = (await other.submit([*batch, new(name="n")], ALL)).rows
    assert isinstance(refused, NameInUse)
    assert refused.future_id == row.record.id
    assert isinstance(others.pop(), NameInUse)
    assert all(isinstance(each, Row) for each in others)
    await table.end([Ending(row.seq, State.CANCELLED, ran=False)])
    (again,) = await submit(table, new(name="n", namer="x"))
    found = await table.find("local", [row.record.id], ["n"])
    namers = [(each.seq, each.record.namer) for each in found]
    assert namers[0] == (row.seq, "x")
    assert namers[-1] == (again.seq, "x")
    assert {namer for _, namer in namers} == {"x", "y", None}
    assert await table.find("local", [], ["m"]) == await table.find("c", ["f1"], ["n"]) == []


async def test_of_a_name_the_last_future_is_found_and_every_unfinished_one(table: FuturesTable):
    """Earlier ones that have ended are found by their IDs only."""
    await ended(table, new(name="n", namer="x"))
    (last,) = await ended(table, new(name="n", namer="x"))
    (unfinished,) = await submit(table, new(name="n", namer="y"))
    assert [row.seq for row in await table.find("local", [], ["n"])] == [last.seq, unfinished.seq]


async def test_an_end_before_the_start_is_written_while_the_call_waits(table: FuturesTable):
    """Whether it has a place or not; a running one is left to the replica that runs it."""
    waiting, placed, running = await submit(table, new(), new(), new())
    await make_ready(table, [placed, running])
    await table.claim(running.seq)
    failure = FailureRecord("text", "detail", -1, "m", {"deep": [1 << 70]})
    endings = [
        Ending(row.seq, State.FAILED, ran=False, failure=failure, cause="f7") for row in (waiting, placed, running)
    ]
    assert await table.end(endings) == [True, True, False]
    assert await table.claim(placed.seq) is None
    record = (await table.rows([waiting.seq]))[waiting.seq].record
    assert (record.failure, record.cause, record.has_result) == (failure, "f7", False)


async def test_questions_change_a_running_future(table: FuturesTable, other: FuturesTable):
    """Only the replica that runs it writes them."""
    (row,) = await started(table, new())
    asked = {"state": State.INPUT_REQUIRED, "round": {"q": 1}}
    assert not await other.update_running(row.seq, asked)
    assert await table.update_running(row.seq, asked)
    record = (await other.rows([row.seq]))[row.seq].record
    assert (record.state, record.round) == (State.INPUT_REQUIRED, {"q": 1})
    assert await table.update_running(row.seq, {"state": State.RUNNING, "round": None})
    assert (await other.calls([row.seq]))[row.seq].record.round is None
    with pytest.raises(ValueError, match="server"):
        await table.update_running(row.seq, {"server": "x"})


async def test_a_cancellation_is_requested_of_the_replica_that_runs_it(table: FuturesTable, other: FuturesTable):
    """It stands in the table, in case that the notification is lost."""
    (row,) = await started(table, new())
    await other.request_cancel(row.seq)
    assert (await table.rows([row.seq]))[row.seq].cancelled


async def test_unread_results_of_a_conversation(table: FuturesTable):
    """Those that have ended and were not received, oldest first."""
    first, second = await ended(table, new(conversation="c"), new(conversation="c"))
    await ended(table, new(conversation="c"), read=True)
    await ended(table, new(conversation="d"), new(conversation="c", scope="x"))
    (unfinished,) = await submit(table, new(conversation="c"))
    await table.mark_read([unfinished.seq])
    assert [row.seq for row in await table.unread("local", "c")] == [first.seq, second.seq]
    assert [row.seq for row in await table.unread("local", "c", 1)] == [first.seq]
    await table.mark_read([first.seq])
    assert [row.seq for row in await table.unread("local", "c")] == [second.seq]
    assert (await table.rows([unfinished.seq]))[unfinished.seq].record.read_at is None


async def test_the_newest_futures_of_a_scope_are_read_in_pages(table: FuturesTable):
    """Newest first, of this scope only."""
    rows = await submit(table, *(new() for _ in range(5)))
    await submit(table, new(scope="x"))
    first = await table.newest("local", 3)
    second = await table.newest("local", 3, first[-1].seq)
    assert [row.seq for row in [*first, *second]] == [row.seq for row in reversed(rows)]


async def test_nothing_is_asked_of_the_database_for_no_futures(table: FuturesTable):
    """Empty batches are allowed everywhere."""
    await table.make_ready([])
    await table.mark_read([])
    assert await table.end([]) == []
    assert await table.rows([]) == await table.calls([]) == await table.results([]) == {}
    assert (await table.submit([], 0)).rows == []
