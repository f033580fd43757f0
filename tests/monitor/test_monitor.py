"""The monitor over a whole bridge on virtual time: pages, details, cancelling and the live feed."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.identity import LOCAL_PRINCIPAL, PUBLIC, Principal, Scope
from asyncfc_mcp.errors import UnknownFuture
from asyncfc_mcp.monitor.monitor import Monitor
from tests.support.inprocess_client import Stage, stage
from tests.support.virtual_time import on_virtual_time, settle


@asynccontextmanager
async def monitored(**more: Any) -> AsyncGenerator[tuple[Stage, Monitor]]:
    """A bridge with one client, and its monitor."""
    async with stage(**more) as it, anyio.create_task_group() as tg:
        monitor = Monitor(it.bridge, transport="http")
        await tg.start(monitor.run)
        yield it, monitor
        tg.cancel_scope.cancel()


async def ids(monitor: Monitor, **words: Any) -> list[str]:
    return [entry["id"] for entry in (await monitor.calls(LOCAL_PRINCIPAL, CallQuery.of(words))).entries]


@on_virtual_time
async def test_an_entry_says_what_a_call_waited_for_and_how_it_ended():
    async with monitored() as (it, monitor):
        await it.host.call("gate", {"name": "g", "_as": "first"})
        await it.host.call("echo", {"text": "$first"})
        [second, first] = (await monitor.calls(LOCAL_PRINCIPAL, CallQuery())).entries
        assert (first["id"], first["name"], first["state"], first["server"]) == ("f1", "first", "running", "toy")
        assert second["state"] == "waiting"
        assert second["waiting_for"] == {"ids": ["f1"], "why": "needs the result"}
        assert second["waits"] == [{"kind": "value", "on": "f1"}]
        assert "started_at" not in second
        it.toy.open("g")
        await it.host.outcome("f2")
        [second, first] = (await monitor.calls(LOCAL_PRINCIPAL, CallQuery())).entries
        assert (first["state"], second["state"]) == ("completed", "completed")
        assert first["ended_at"] <= second["started_at"] <= second["ended_at"]
        assert "waiting_for" not in second
        assert second["waits"] == [{"kind": "value", "on": "f1"}]


@on_virtual_time
async def test_details_have_arguments_and_result_as_they_were():
    async with monitored() as (it, monitor):
        await it.host.call("echo", {"text": "hello", "_as": "x"})
        await it.host.call("echo", {"text": "$x"})
        await it.host.outcome("f2")
        details = await monitor.call(LOCAL_PRINCIPAL, "f2")
        assert details["arguments"] == {"text": "$x"}
        assert details["result"]["structuredContent"] == {"arguments": {"text": {"arguments": {"text": "hello"}}}}
        assert not {"truncated", "hidden"} & details.keys()
        assert await ids(monitor, text="HELLO") == ["f2", "f1"]


@on_virtual_time
async def test_what_a_tool_keeps_from_the_journal_is_hidden():
    async with monitored(policy={"journal": False}) as (it, monitor):
        await it.host.call("fail", {"why": "secret word"})
        await it.host.outcome("f1")
        details = await monitor.call(LOCAL_PRINCIPAL, "f1")
        assert details["private"]
        assert "journal" in details["hidden"]
        assert "secret" not in str(details)
        assert await ids(monitor, text="secret") == []


@on_virtual_time
async def test_pages_follow_each_other_without_gap_or_repetition():
    async with monitored() as (it, monitor):
        for _ in range(7):
            await it.host.call("echo", {})
        seen: list[str] = []
        query = CallQuery(limit=3)
        while True:
            page = await monitor.calls(LOCAL_PRINCIPAL, query)
            seen += [entry["id"] for entry in page.entries]
            if page.next is None:
                break
            query = query.after(page.next)
        assert seen == [f"f{number}" for number in range(7, 0, -1)]


@on_virtual_time
async def test_a_call_is_cancelled_and_others_cannot_be_seen():
    async with monitored() as (it, monitor):
        await it.host.call("gate", {"name": "g"})
        stranger, public = Principal(Scope("person:eve")), Principal(PUBLIC)
        for principal in (stranger, public):
            assert (await monitor.calls(principal, CallQuery())).entries == []
            with pytest.raises(UnknownFuture):
                await monitor.cancel(principal, "f1")
        entry = await monitor.cancel(LOCAL_PRINCIPAL, "f1")
        assert entry["state"] == "cancelled"
        await settle()
        assert it.toy.cancelled == ["gate"]


@on_virtual_time
async def test_the_feed_begins_with_the_present_and_reports_changes():
    async with monitored() as (it, monitor):
        await it.host.call("gate", {"name": "g"})
        async with monitor.feed(LOCAL_PRINCIPAL) as feed:
            first = await anext(feed)
            assert first["event"] == "calls"
            assert first["data"]["reset"]
            assert [entry["id"] for entry in first["data"]["entries"]] == ["f1"]
            second = await anext(feed)
            assert second["event"] == "overview"
            assert second["data"]["counts"]["running"] == 1
            assert [server["name"] for server in second["data"]["servers"]] == ["toy"]
            it.toy.open("g")
            changed = await anext(feed)
            assert not changed["data"]["reset"]
            assert [(entry["id"], entry["state"]) for entry in changed["data"]["entries"]] == [("f1", "completed")]
        assert it.bridge.engine.get_nowait(LOCAL_PRINCIPAL.scope, "f1").watchers == []
