"""Tasks with grace: a quick tool's result is the answer itself, else a task; how long a task is kept, and its times."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from asyncfc_mcp.core.identity import LOCAL_PRINCIPAL
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    TASKS_EXTENSION,
)
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.request import Session
from asyncfc_mcp.upstream.server import Upstream
from tests.support.inprocess_client import KNOWN, Answer
from tests.support.inprocess_server import Toy, bridge_over, text_result
from tests.support.virtual_time import on_virtual_time

TASKS = {"extensions": {TASKS_EXTENSION: {}}}


@dataclass
class Tasker:
    """A client of 2026-07-28 that declares what it can take, or one of 2025-11-25."""

    upstream: Upstream
    connection: Connection
    session: Session | None
    capabilities: dict[str, Any]
    requests: int = 0

    async def request(self, method: str, **params: Any) -> Answer:
        self.requests += 1
        channel: Any = SimpleNamespace(request_id=f"r{self.requests}", reachable=False, notify=None)
        if self.session is not None:
            answer = self.upstream.handshake(self.session, channel, method, params)
        else:
            envelope = {
                PROTOCOL_VERSION_META_KEY: "2026-07-28",
                CLIENT_INFO_META_KEY: {"name": KNOWN, "version": "1"},
                CLIENT_CAPABILITIES_META_KEY: self.capabilities,
            }
            params["_meta"] = {**envelope, **params.get("_meta", {})}
            answer = self.upstream.modern(LOCAL_PRINCIPAL, channel, method, params, self.connection)
        return answer if isinstance(answer, dict) else await answer()

    async def call(self, tool: str, *, choice: str | None = None, ttl: Any = None, **arguments: Any) -> Answer:
        more: dict[str, Any] = {} if choice is None else {"_meta": {"asyncfc/tasks": choice}}
        if self.session is not None:
            more["task"] = {} if ttl is None else {"ttl": ttl}
        answer = await self.request("tools/call", name=tool, arguments=arguments, **more)
        return answer["task"] if "task" in answer else answer

    async def task(self, task: Answer) -> Answer:
        return await self.request("tasks/get", taskId=task["taskId"])


@asynccontextmanager
async def tasker(
    toy: Toy | None = None, *, old: bool = False, capabilities: dict[str, Any] = TASKS, **settings: Any
) -> AsyncGenerator[Tasker]:
    async with bridge_over(toy or Toy(), **settings) as bridge:
        upstream = Upstream(bridge)

        async def notify(method: str, params: Any) -> None: ...

        connection = Connection()
        session = None
        if old:
            session = Session(LOCAL_PRINCIPAL, notify, connection=connection)
            session.accepted = True
        async with anyio.create_task_group() as tg:
            await tg.start(upstream.run)
            yield Tasker(upstream, connection, session, capabilities)
            tg.cancel_scope.cancel()


def after_s(task: Answer) -> float:
    """How long after its creation a task was updated last."""
    created, updated = (datetime.fromisoformat(task[key]) for key in ("createdAt", "lastUpdatedAt"))
    return (updated - created).total_seconds()


@on_virtual_time
async def test_a_quick_tool_is_answered_with_its_result_and_a_slow_one_with_a_task():
    """By default, where the client has declared the extension. The result is the tool's own, `isError` as well."""
    async with tasker() as it:
        answer = await it.call("echo", t="T")
        assert answer["resultType"] == "complete"
        assert answer["structuredContent"] == {"arguments": {"t": "T"}}
        assert len(answer["content"]) == 1
        assert "asyncfc/futures" not in answer["_meta"]
        failed = await it.call("fail", why="no luck")
        assert (failed["isError"], failed["content"]) == (True, [{"type": "text", "text": "no luck"}])
        created = await it.call("sleep", s=10)
        assert (created["resultType"], created["status"]) == ("task", "working")
        await anyio.sleep(10)
        done = await it.task(created)
        assert done["result"]["content"] == [{"type": "text", "text": "slept 10"}]


@on_virtual_time
async def test_a_tool_known_to_be_slow_is_not_waited_for_and_a_waiting_call_is_a_task():
    """The grace is that of handles."""
    async with tasker() as it:
        began = anyio.current_time()
        await it.call("sleep", s=1, _as="x")
        assert anyio.current_time() - began == pytest.approx(0.025)
        behind = await it.call("echo", t="$x")
        assert behind["resultType"] == "task"
        await anyio.sleep(1)
        assert (await it.task(behind))["status"] == "completed"
        began = anyio.current_time()
        assert (await it.call("sleep", s=1))["resultType"] == "task"
        assert anyio.current_time() == began


@on_virtual_time
async def test_a_result_says_which_values_went_into_its_call():
    """As in a sync call: after the result, which is otherwise untouched."""
    async with tasker() as it:
        await it.call("echo", t="T", _as="x")
        answer = await it.call("echo", t="$x.arguments.t")
        assert answer["content"][1]["text"] == "f2 echo completed (put in: x = f1)"


@on_virtual_time
async def test_a_model_that_waits_in_the_call_gets_what_it_asked_for():
    """`_wait` brings results in this answer; a task would bring its own only."""
    async with tasker() as it:
        created = await it.call("sleep", s=5, _as="a")
        assert created["resultType"] == "task"
        answer = await it.call("echo", t="T", _wait="a")
        assert [each["result"] for each in answer["structuredContent"]["results"]] == [
            "slept 5", {"arguments": {"t": "T"}},
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("tasks", "choice", "kinds"),
    [
        ("auto", None, ("result", "task")),
        ("auto", "task", ("task", "task")),
        ("auto", "handle", ("grace", "handle")),
        ("auto", "nonsense", ("result", "task")),
        ("task", None, ("task", "task")),
        ("task", "auto", ("result", "task")),
        ("handle", None, ("grace", "handle")),
        ("handle", "auto", ("result", "task")),
    ],
)
@on_virtual_time
async def test_the_setting_and_the_request_choose(tasks: str, choice: str | None, kinds: tuple[str, str]):
    """The request decides for itself; without the extension both are ignored."""
    for capabilities in (TASKS, {}):
        async with tasker(capabilities=capabilities, tasks=tasks) as it:
            quick, slow = await it.call("echo", choice=choice), await it.call("sleep", s=5, choice=choice)
            found = tuple("task" if each["resultType"] == "task" else kind_of(each) for each in (quick, slow))
            assert found == (kinds if capabilities else ("grace", "handle"))


def kind_of(answer: Answer) -> str:
    records = answer["_meta"].get("asyncfc/futures")
    return "result" if records is None else "handle" if records[0]["status"] == "running" else "grace"


@on_virtual_time
async def test_instructions_say_what_calls_return():
    """A task where the client takes them, by the setting."""
    for tasks, capabilities, said in (
        ("auto", TASKS, "Calls return the result if quick, else a task (f1)."),
        ("task", TASKS, "Calls return a task (f1)."),
        ("handle", TASKS, "Calls return a future ID (f1), or the result if quick."),
        ("auto", {}, "Calls return a future ID (f1), or the result if quick."),
    ):
        async with tasker(capabilities=capabilities, tasks=tasks) as it:
            discovered = await it.request("server/discover")
            assert discovered["instructions"].startswith(said)


@pytest.mark.parametrize("old", [False, True])
@on_virtual_time
async def test_a_task_is_updated_by_progress_questions_and_its_end(old: bool):
    """`lastUpdatedAt` moves with each, and the message with it."""
    toy = Toy()

    async def work(got: Any) -> Answer:
        for step in (1, 2):
            await anyio.sleep(10)
            await got.inbound.progress(step, 3, f"step {step}")
        await anyio.sleep(10)
        return text_result("done")

    toy.add("work", work)
    async with tasker(toy, old=old) as it:
        task = await it.call("work")
        assert after_s(task) == 0
        await anyio.sleep(5)
        assert after_s(await it.task(task)) == 0
        await anyio.sleep(7)
        found = await it.task(task)
        assert (after_s(found), found["statusMessage"]) == (10, "1 of 3: step 1")
        await anyio.sleep(10)
        assert after_s(await it.task(task)) == 20
        await anyio.sleep(20)
        assert after_s(await it.task(task)) == 30


@pytest.mark.parametrize("old", [False, True])
@on_virtual_time
async def test_a_task_is_kept_as_long_as_it_says_and_not_longer(old: bool):
    """From its creation, whether or not it is read, and whether or not other calls are made."""
    async with tasker(old=old, task_keep_s=100.0, keep_s=1.0) as it:
        task = await it.call("sleep", s=10)
        assert task["ttl" if old else "ttlMs"] == 100_000
        for seconds in (20, 30, 49):
            await anyio.sleep(seconds)
            await it.call("echo")
            assert (await it.task(task))["status"] == "completed"
        await anyio.sleep(1)
        with pytest.raises(RpcError, match="Task not found: f1"):
            await it.task(task)


@pytest.mark.parametrize("old", [False, True])
@on_virtual_time
async def test_a_long_call_can_be_fetched_after_its_end(old: bool):
    """It is kept for half the time from then, which the task says when it has ended."""
    key = "ttl" if old else "ttlMs"
    async with tasker(old=old, task_keep_s=100.0) as it:
        task = await it.call("sleep", s=200)
        await anyio.sleep(150)
        assert (await it.task(task))["status"] == "working"
        await anyio.sleep(90)
        assert (await it.task(task))[key] == 250_000
        await anyio.sleep(11)
        with pytest.raises(RpcError, match="Task not found"):
            await it.task(task)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (5000, 5000),
        (100_000, 100_000),
        (10**12, 100_000),
        (None, 100_000),
        (-1, 100_000),
        ("5", 100_000),
        (True, 100_000),
    ],
)
@on_virtual_time
async def test_an_older_client_asks_for_less(asked: Any, given: int):
    """2025-11-25: `ttl` in the request, within `task_keep_s`."""
    async with tasker(old=True, task_keep_s=100.0) as it:
        assert (await it.call("sleep", s=1, ttl=asked))["ttl"] == given


@on_virtual_time
async def test_a_handle_is_a_task_without_an_end():
    """Its result is kept until it is read, so that no time is promised."""
    async with tasker() as it:
        await it.call("sleep", s=1, choice="handle")
        assert (await it.request("tasks/get", taskId="f1"))["ttlMs"] is None
