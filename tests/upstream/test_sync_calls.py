"""Sync calls, over a whole bridge: real results, order, cancellation, and answers without a task."""

import json
from typing import Any

import anyio
import pytest
from mcp import MCPError

from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.jsonrpc.codec import format_message
from asyncfc_mcp.upstream.answers import META_KEY
from asyncfc_mcp.upstream.request import Request
from tests.support.inprocess_client import (
    ERAS,
    SYNC,
    Answer,
    Took,
    over_lines,
    stage,
    words,
)
from tests.support.inprocess_server import Got, Pipe, Toy, bridge_over, text_result
from tests.support.virtual_time import on_virtual_time, uncollected, until

# --- sync tools ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_sync_tool_answers_with_its_result(era: str):
    """However long it takes; `isError` results too; nothing of ours in it."""
    async with stage(era, policy=SYNC) as it:
        with Took() as took:
            result = await it.host.call("sleep", {"s": 500})
        assert took.seconds == pytest.approx(500)
        assert words(result) == "slept 500"
        assert META_KEY not in result.get("_meta", {})
        failure = await it.host.call("fail", {"why": "no"})
        assert (words(failure), failure["isError"]) == ("no", True)


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_protocol_error_of_a_sync_tool_is_one_upstream(era: str):
    """Code, message and data, nulls included."""
    toy = Toy()

    async def refuse(got: Got) -> Answer:
        raise RpcError(-32055, "the toy refuses", {"why": ["because", None], "retry": None})

    toy.add("refuse", refuse)
    async with stage(era, toy=toy, policy=SYNC) as it:
        with pytest.raises(MCPError) as caught:
            await it.host.call("refuse")
        assert (caught.value.error.code, caught.value.error.message) == (-32055, "the toy refuses")
        assert caught.value.error.data == {"why": ["because", None], "retry": None}


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_cancelling_a_sync_call_cancels_it_downstream(era: str):
    """Its request is the call."""
    async with stage(era, policy=SYNC) as it:
        with anyio.move_on_after(2):
            await it.host.call("gate", {"name": "g"})
        await anyio.sleep(1)
        assert it.toy.cancelled == ["gate"]


@on_virtual_time
async def test_sync_calls_keep_the_order_with_all_others():
    """A sync write waits for the write before it."""
    toy = Toy()
    log: list[str] = []

    async def write(got: Got) -> Answer:
        log.append(f"begin {got.arguments['n']}")
        await anyio.sleep(got.arguments["s"])
        log.append(f"end {got.arguments['n']}")
        return text_result("written")

    toy.add("write", write, annotations={"readOnlyHint": False})
    toy.add("write_sync", write, annotations={"readOnlyHint": False})
    async with stage(toy=toy, server={"tools": {"write_sync": SYNC}}) as it:
        await it.host.call("write", {"n": 1, "s": 5})
        await it.host.call("write_sync", {"n": 2, "s": 1})
        assert log == ["begin 1", "end 1", "begin 2", "end 2"]


# --- sync calls, which wait without a task ---------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio starts tasks in any order
@pytest.mark.parametrize("token", [None, "p"])
@pytest.mark.memory_engine
async def test_what_a_server_says_before_a_result_comes_before_it(token: str | None):
    """Log messages and progress, even where all of it is read at once."""
    toy = Toy()
    into, out = Pipe(), Pipe()

    async def chatty(got: Got) -> Answer:
        say = [{"method": "notifications/message", "params": {"level": "info", "data": n}} for n in (1, 2)]
        if token is not None:
            progress = {"progressToken": got.meta["progressToken"], "progress": 1}
            say.append({"method": "notifications/progress", "params": progress})
        answer = {"id": got.inbound.request_id, "result": text_result("done")}
        writer: Any = got.inbound._connection._writer
        writer._sink.send_nowait(b"".join(format_message({"jsonrpc": "2.0", **each}) for each in [*say, answer]))
        await anyio.sleep_forever()
        raise AssertionError

    toy.add("chatty", chatty)
    async with bridge_over(toy, policy={"mode": "sync"}) as bridge, over_lines(bridge, into, out):
        meta = {} if token is None else {"_meta": {"progressToken": token}}
        params = {"name": "chatty", "arguments": {}, **meta}
        into.send_nowait(format_message({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}))
        lines: list[Any] = []
        with anyio.fail_after(5):
            while not lines or lines[-1].get("id") != 2:
                lines += map(json.loads, (await out.receive()).splitlines())
        said = [line["params"].get("data", line["params"].get("progress")) for line in lines if "params" in line]
        assert said == ([1, 2] if token is None else [1, 2, 1])


@pytest.mark.anyio
@pytest.mark.memory_engine
async def test_a_sync_call_is_answered_in_the_step_that_brings_its_result():
    """Its result, or the server's error; no task has waited for either, and nothing is left of the request."""
    toy = Toy()
    into, out = Pipe(), Pipe()

    async def refuse(got: Got) -> Answer:
        raise RpcError(-32050, "no", {"why": 1})

    toy.add("refuse", refuse)
    async with bridge_over(toy, policy={"mode": "sync"}) as bridge, over_lines(bridge, into, out) as server:
        with uncollected(Request, Call) as left:
            for number, tool in ((2, "echo"), (3, "refuse"), (4, "fail")):
                params = {"name": tool, "arguments": {}}
                into.send_nowait(
                    format_message({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
                )
            with anyio.fail_after(5):
                answers = {answer["id"]: answer for answer in [json.loads(await out.receive()) for _ in range(4)]}
            assert answers[2]["result"]["structuredContent"] == {"arguments": {}}
            assert answers[3]["error"] == {"code": -32050, "message": "no", "data": {"why": 1}}
            assert answers[4]["result"]["isError"] is True
            assert not server._inbound
            assert not server._inbound._without_task
            await until(lambda: not left())


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["cancelled", "closed", "closed and not drained in time"])
async def test_a_sync_call_ends_with_its_request_or_its_connection(how: str):
    """The server is told; a request that was cancelled is not answered."""
    drain_s = 0 if how == "closed" else 0.01
    toy = Toy()
    into, out = Pipe(), Pipe()
    async with (
        bridge_over(toy, policy={"mode": "sync"}, drain_s=drain_s) as bridge,
        over_lines(bridge, into, out),
    ):
        params = {"name": "gate", "arguments": {"name": "never"}}
        into.send_nowait(format_message({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}))
        await until(lambda: toy.got)
        if how == "cancelled":
            params = {"requestId": 2}
            into.send_nowait(format_message({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}))
        else:
            into.close()
        await until(lambda: toy.cancelled)
        if how == "cancelled":
            into.send_nowait(format_message({"jsonrpc": "2.0", "id": 3, "method": "ping"}))
            with anyio.fail_after(5):
                answers = [json.loads(await out.receive())["id"] for _ in range(2)]
            assert answers == [1, 3]


@on_virtual_time
async def test_waiting_beside_a_result_that_is_forgotten_meanwhile_loses_no_call():
    """Room is made when a call comes; the call that was made must not be answered as if it had not been."""
    async with stage(keep_s=10) as it:
        await it.host.call("echo", {"_as": "old", "_wait": "this"})
        await anyio.sleep(20)
        answer = await it.host.call("echo", {"_as": "new", "_wait": "old"})
        assert "isError" not in answer or not answer["isError"]
        assert "new" in words(answer)
