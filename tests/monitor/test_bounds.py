"""Many calls, slow readers and restricted ones: the record of calls stays bounded, and shows each its own only."""

from itertools import pairwise
from typing import Any

import anyio
import pytest

from asyncfc_mcp import turns
from asyncfc_mcp.config.settings import AccessEntry, Policy, Settings
from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.identity import LOCAL, LOCAL_PRINCIPAL, Principal, Scope
from asyncfc_mcp.engine.call import CallContext, Submission
from asyncfc_mcp.errors import UnknownFuture
from asyncfc_mcp.monitor import feed as feeds
from asyncfc_mcp.monitor.monitor import Monitor
from asyncfc_mcp.monitor.overview import settings_of
from asyncfc_mcp.monitor.recent_arguments import RecentArguments
from asyncfc_mcp.monitor.shortening import ALL, shortened
from tests.monitor.test_monitor import monitored
from tests.support.inprocess_server import Toy, bridge_over
from tests.support.virtual_time import on_virtual_time, settle

MANY = 10_000


def submission(number: int, scope: Scope = LOCAL) -> Submission:
    return Submission(CallContext(scope), "toy", "echo", "echo", {"n": number}, Policy())


@pytest.mark.anyio
async def test_ten_thousand_calls_do_not_keep_the_event_loop(monkeypatch: pytest.MonkeyPatch):
    """The first event has the newest ones; a search and an export go through all in slices."""
    monkeypatch.setattr(turns, "SLICE_S", 0.0)  # each pause of the work is a turn of the event loop
    async with bridge_over(Toy()) as bridge, anyio.create_task_group() as tg:
        monitor = Monitor(bridge, transport="http")
        await tg.start(monitor.run)
        for number in range(MANY):
            bridge.engine.submit_nowait(submission(number))
        with anyio.fail_after(60):
            await bridge.engine.wait(list(await bridge.engine.list_futures(LOCAL)))
        turns_taken = 0

        async def count() -> None:
            nonlocal turns_taken
            while True:
                turns_taken += 1
                await anyio.lowlevel.checkpoint()

        tg.start_soon(count)
        async with monitor.feed(LOCAL_PRINCIPAL) as feed:
            first = await anext(feed)
        assert [len(first["data"]["entries"]), first["data"]["older"]] == [feeds.FIRST, True]
        assert turns_taken > feeds.FIRST / 2
        before = turns_taken
        page = await monitor.calls(LOCAL_PRINCIPAL, CallQuery(text="nothing has this"))
        assert page.entries == []
        assert turns_taken - before > MANY / 2
        lines = 0
        async for chunk in monitor.export(LOCAL_PRINCIPAL, CallQuery(), "jsonl"):
            lines += chunk.count(b"\n")
        assert lines == MANY
        tg.cancel_scope.cancel()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@on_virtual_time
async def test_a_reader_that_does_not_read_gets_the_newest_state():
    """What has changed meanwhile is kept once for each call, up to a bound; beyond it, all is sent again."""
    async with monitored() as (it, monitor), monitor.feed(LOCAL_PRINCIPAL) as feed:
        await anext(feed)
        await anext(feed)
        for number in range(feeds.FIRST + 10):
            it.bridge.engine.submit_nowait(submission(number))
            if number == 3:
                await settle()
                marked: Any = feed
                assert len(marked._marked) == 4
        await settle()
        assert len(marked._marked) == 0
        event = await anext(feed)
        while event["event"] != "calls":
            event = await anext(feed)
        assert event["data"]["reset"]
        assert len(event["data"]["entries"]) == feeds.FIRST
        assert {entry["state"] for entry in event["data"]["entries"]} == {"completed"}


@on_virtual_time
async def test_events_of_calls_are_at_most_ten_in_a_second():
    async with monitored() as (it, monitor), monitor.feed(LOCAL_PRINCIPAL) as feed:
        await anext(feed)
        await anext(feed)
        times: list[float] = []
        for number in range(5):
            it.bridge.engine.submit_nowait(submission(number))
            event = await anext(feed)
            while event["event"] != "calls":
                event = await anext(feed)
            times.append(anyio.current_time())
        assert all(after - before >= 0.099 for before, after in pairwise(times))


@on_virtual_time
async def test_a_principal_sees_what_is_its_own_only():
    """Calls of its scope and of servers that it may use; no settings, files and stderr beside other principals."""
    access = {"ann": AccessEntry(allow=("other",))}
    async with monitored(access=access) as (it, monitor):
        ann = Principal(Scope("person:ann"), "ann")
        it.bridge.engine.submit_nowait(submission(1, ann.scope))
        it.bridge.engine.submit_nowait(submission(2))
        await settle()
        assert (await monitor.calls(ann, CallQuery())).entries == []
        with pytest.raises(UnknownFuture):
            await monitor.call(ann, "f1")
        overview = await monitor.overview(ann)
        assert overview["servers"] == []
        assert not {"settings", "configuration", "problem"} & overview.keys()
        assert overview["journal"] is None
        async with monitor.feed(ann) as feed:
            assert (await anext(feed))["data"]["entries"] == []


@on_virtual_time
async def test_the_overview_has_settings_without_secrets():
    async with monitored(secret="hunter2-hunter2-hunter2", max_wait_s=7.0) as (_, monitor):
        overview = await monitor.overview(LOCAL_PRINCIPAL)
        assert "hunter2" not in str(overview)
        changed = {each["name"]: each["value"] for each in overview["settings"] if each["changed"]}
        assert changed == {"secret": "…", "max_wait_s": 7.0}
        assert overview["saved"]["calls"] == {"session": 0, "day": 0, "all": 0}


def test_a_database_is_shown_without_its_password():
    shown = settings_of(Settings(engine="postgresql://user:hunter2hunter2@host/db"))
    assert "hunter2" not in str(shown)


@on_virtual_time
async def test_time_saved_is_what_calls_beside_each_other_have_spared():
    async with monitored() as (it, monitor):
        for seconds in (3, 2, 4):
            await it.host.call("sleep", {"s": seconds})
        for number in (1, 2, 3):
            await it.host.outcome(f"f{number}")
        saved = (await monitor.overview(LOCAL_PRINCIPAL))["saved"]
        assert saved["session"] == pytest.approx(5, abs=0.5)
        assert saved["calls"]["session"] == 3


def test_arguments_are_kept_up_to_a_bound():
    recent = RecentArguments(limit=10_000)
    futures = [Future(f"f{number}", LOCAL, "t", "s") for number in range(100)]
    for future in futures:
        recent.add(future, {"text": "x" * 68})
    kept = [future.id for future in futures if future.key in recent]
    assert kept == [future.id for future in futures[-len(kept) :]]
    assert 10 < len(kept) < 40
    private = Future("f200", LOCAL, "t", "s", private=True)
    recent.add(private, {"n": 1})
    assert private.key not in recent


def test_a_large_value_is_shortened_without_a_look_at_all_of_it():
    deep: Any = "end"
    for _ in range(5000):
        deep = [deep]
    for value in ({"text": "x" * 5_000_000}, [{"n": n} for n in range(300_000)], deep, {"k" * 300_000: 1}):
        short, cut = shortened(value)
        assert cut
        assert len(str(short)) < 3 * ALL
    assert shortened({"a": [1, None, True, "é"]}) == ({"a": [1, None, True, "é"]}, False)
