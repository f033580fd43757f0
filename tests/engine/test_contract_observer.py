"""The contract of `engine.api.Engine`, over every implementation: what is reported to observers, and in which order."""

from pathlib import Path

import pytest

from asyncfc_mcp.config.settings import Policy
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import CallFailed, ServerDied
from tests.support.engines import Bench, OpenBench
from tests.support.parked_calls import failing
from tests.support.runs import Runs
from tests.support.virtual_time import on_virtual_time

pytestmark = pytest.mark.anyio
DIED = ServerDied("s", "exited with status 1")


class Seen:
    """An observer that writes down what it is told."""

    def __init__(self, it: Bench) -> None:
        self.reports: list[tuple[Future, str]] = []
        self.remove = it.engine.observe(self)

    def submitted(self, call: Call) -> None:
        assert call.future.state is State.WAITING
        self.reports.append((call.future, "submitted"))

    def waiting(self, call: Call) -> None:
        assert call.future.waits
        self.reports.append((call.future, "waiting"))

    def queued(self, call: Call) -> None:
        assert call.future.queued_at is not None
        self.reports.append((call.future, "queued"))

    def starting(self, call: Call) -> None:
        assert call.future.started_at is not None
        self.reports.append((call.future, "starting"))

    def retrying(self, call: Call, failure: CallFailed, pause_s: float) -> None:
        self.reports.append((call.future, "retrying"))

    def ended(self, call: Call) -> None:
        assert call.future.done
        self.reports.append((call.future, "ended"))

    def read(self, future: Future) -> None:
        self.reports.append((future, "read"))

    def of(self, future: Future) -> list[str]:
        return [report for each, report in self.reports if each is future]


def waits_of(future: Future) -> list[tuple[str, str]]:
    return [(wait.kind.value, wait.on) for wait in future.waits]


async def test_a_call_that_starts_at_once_is_reported_without_a_wait(bench: OpenBench):
    async with bench() as it:
        seen = Seen(it)
        call = await it.submit()
        await it.end(call)
        it.engine.mark_read(call)
        await it.settle()
        assert seen.of(call) == ["submitted", "starting", "ended", "read"]
        assert waits_of(call) == []
        seen.remove()
        await it.end(await it.submit())
        assert len(seen.reports) == 4


async def test_a_call_that_waits_is_reported_with_what_it_waits_for(bench: OpenBench):
    """For a value, for the end of another, and for its turn on the same state; it keeps that afterwards."""
    async with bench() as it:
        seen = Seen(it)
        value, before, state = await it.submit(), await it.submit(), await it.submit(writes="a")
        behind = await it.submit(writes="a", needs=[value], predecessors=[before])
        assert seen.of(behind) == ["submitted", "waiting"]
        expected = [("value", value.id), ("after", before.id), ("state", state.id)]
        assert waits_of(behind) == expected
        for each in (state, value, before):
            await it.end(each)
        await it.end(behind)
        assert seen.of(behind) == ["submitted", "waiting", "starting", "ended"]
        assert waits_of(behind) == expected


async def test_a_call_that_never_starts_is_reported_to_end(bench: OpenBench):
    """One that is cancelled while it waits, and those that its end, or a failure, ends."""
    async with bench() as it:
        seen = Seen(it)
        first = await it.submit()
        cancelled = await it.submit(needs=[first])
        follower = await it.submit(predecessors=[cancelled])
        failed = await it.submit(needs=[first])
        await it.engine.cancel(cancelled)
        await it.ended(cancelled, follower)
        await it.end(first, failing("no"))
        await it.ended(failed)
        for each in (cancelled, follower, failed):
            assert seen.of(each) == ["submitted", "waiting", "ended"]
            assert waits_of(each) != []
        late = await it.submit(needs=[first])
        assert seen.of(late) == ["submitted", "ended"]


async def test_an_observer_that_fails_changes_nothing(bench: OpenBench, caplog: pytest.LogCaptureFixture):
    async with bench() as it:
        seen = Seen(it)

        def fail(call: Call) -> None:
            raise RuntimeError("broken")

        seen.starting = fail  # type: ignore[method-assign]
        call = await it.submit()
        await it.end(call)
        assert call.state is State.COMPLETED
        assert seen.of(call) == ["submitted", "ended"]
        assert "an observer of calls has failed" in caplog.text


@on_virtual_time
async def test_each_further_attempt_is_reported_before_its_pause(bench: OpenBench):
    """With the reason; the call still has one start and one end."""
    async with bench() as it:
        seen = Seen(it)
        call = await it.submit(repeatable=True, policy=Policy(retries=2))
        for _ in range(2):
            (await it.parked(call)).end(DIED)
            await it.settle()
        assert call.state is State.RUNNING
        await it.end(call)
        assert seen.of(call) == ["submitted", "starting", "retrying", "retrying", "ended"]
        assert call.attempts == 3


@pytest.mark.memory_engine
async def test_a_call_without_a_place_is_reported_as_queued(bench: OpenBench):
    """And keeps which call's end has given it one."""
    async with bench(limits={"s": 1}) as it:
        if not it.engine.submits_nowait:
            pytest.skip("the database gives places")
        seen = Seen(it)
        first, second = await it.submit(), await it.submit()
        assert seen.of(second) == ["submitted", "queued"]
        await it.end(first)
        await it.end(second)
        assert seen.of(second) == ["submitted", "queued", "starting", "ended"]
        assert waits_of(second) == [("capacity", first.id)]


async def test_a_call_of_an_earlier_run_is_reported_as_one_of_this(tmp_path: Path):
    """With what it had waited for before. One that may have been sent has ended before anything is reported."""
    runs, reports = Runs(tmp_path), list[Seen]()
    async with runs.run() as it:
        running = await it.submit(writes="a")
        waiting = await it.submit(writes="a")
        runs.crash()
    async with runs.run(before=lambda it: reports.append(Seen(it))) as it:
        [seen] = reports
        found = [it.engine.get_nowait(LOCAL, future.id) for future in (running, waiting)]
        assert found[0].state is State.FAILED
        await it.end(found[1])
        assert seen.of(found[0]) == []
        assert [each for each in seen.of(found[1]) if each != "waiting"] == ["submitted", "starting", "ended"]
        assert waits_of(found[1])[0] == ("state", running.id)
