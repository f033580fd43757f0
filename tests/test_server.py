"""The server that clients see, over a whole bridge: handles, waiting, delivery, names, both protocol eras.

In one process and on virtual time: the client is the SDK's, the downstream a toy of the test. What is said goes through
the real server, bridge, scheduler and downstream; only processes and sockets are missing.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from posixpath import normpath
from typing import Any

import anyio
import pytest
from lab import Got, Pipe, Toy, bridge_over, on_virtual_time, settle, text_result, uncollected, until
from mcp import Client, MCPError
from mcp_types import Implementation

from asyncfc_mcp.answers import META_KEY
from asyncfc_mcp.bridge import Bridge, loop_clock
from asyncfc_mcp.callers import CONVERSATION_KEY
from asyncfc_mcp.codec import MalformedMessage, format_message
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.futures import LOCAL, PUBLIC, Scope
from asyncfc_mcp.hosts import PROFILES
from asyncfc_mcp.hosts import UNKNOWN as HOST_UNKNOWN
from asyncfc_mcp.peer import Peer
from asyncfc_mcp.protocol import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY
from asyncfc_mcp.requests import Request
from asyncfc_mcp.scheduler import Call
from asyncfc_mcp.sdk import sdk_server
from asyncfc_mcp.server import Upstream, _Envelopes
from asyncfc_mcp.transports import _LineServer
from asyncfc_mcp.wire import LineReader, LineWriter

ERAS = ["legacy", "2026-07-28"]
SERVER_INFO = "io.modelcontextprotocol/serverInfo"
KNOWN, UNKNOWN = "codex-mcp-client", "somebody"
"""A host whose connection is one conversation, and one of which nothing is known."""

Answer = dict[str, Any]


def words(answer: Answer) -> str:
    return "\n".join(block["text"] for block in answer["content"] if block["type"] == "text")


def records(answer: Answer) -> list[tuple[str, str]]:
    """ID and status of every future that an answer speaks of."""
    return [(record["future_id"], record["status"]) for record in answer["_meta"][META_KEY]]


@dataclass
class Host:
    """A client: the SDK's connection, spoken to in raw dictionaries, so that nothing is sieved on the way."""

    client: Client

    async def request(self, method: str, params: Mapping[str, Any] | None = None, *, progress: Any = None) -> Answer:
        session: Any = self.client.session
        data: dict[str, Any] = {"method": method, "params": dict(params or {})}
        options: dict[str, Any] = {}
        session._stamp(data, options)
        if progress is not None:
            options["on_progress"] = progress
            # In one process nobody makes a token of the callback.
            data["params"]["_meta"] = {**data["params"].get("_meta", {}), "progressToken": "token"}
        return await session._dispatcher.send_raw_request(method, data["params"], options)

    async def call(self, tool: str, arguments: Any = None, *, meta: Any = None, progress: Any = None) -> Answer:
        params = {"name": tool} if arguments is None else {"name": tool, "arguments": arguments}
        if meta is not None:
            params["_meta"] = meta
        return await self.request("tools/call", params, progress=progress)

    async def outcome(self, future: str) -> Answer:
        return await self.call("await_future", {"future_id": future})


@asynccontextmanager
async def connected(
    bridge: Bridge, era: str, name: str = KNOWN, *, scope: Scope = LOCAL, pipe: bool = True
) -> AsyncGenerator[Host]:
    """A client with a server of its own around a bridge."""
    upstream = Upstream(bridge, scope, pipe=pipe)
    async with anyio.create_task_group() as tg:
        await tg.start(upstream.run)
        info = Implementation(name=name, version="1")
        async with Client(sdk_server(upstream), mode=era, client_info=info, cache=None) as client:
            yield Host(client)
        tg.cancel_scope.cancel()


@dataclass
class Stage:
    bridge: Bridge
    host: Host
    toy: Toy


@asynccontextmanager
async def stage(
    era: str = "legacy", name: str = KNOWN, *, toy: Toy | None = None, scope: Scope = LOCAL, **more: Any
) -> AsyncGenerator[Stage]:
    """One client, a bridge, one toy."""
    toy = toy or Toy()
    async with bridge_over(toy, **more) as bridge, connected(bridge, era, name, scope=scope) as host:
        yield Stage(bridge, host, toy)


class Took:
    """How long a block took, in seconds of the clock."""

    def __enter__(self) -> "Took":
        self._began = anyio.current_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = anyio.current_time() - self._began


# --- introduction --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [KNOWN, UNKNOWN])
@pytest.mark.parametrize("era", ["legacy", "auto"])
@on_virtual_time
async def test_the_instructions_teach_the_protocol_in_512_characters(era: str, name: str):
    """Codex reads no more. The cheapest pattern first, `_wait: "all"` only where the conversation is known; then the
    server's own words."""
    toy = Toy(instructions="Toys are for playing.")
    async with stage(era, name, toy=toy) as it:
        said = it.host.client.instructions
        assert said is not None
        ours, _, theirs = said.partition("\n\n")
        assert theirs == "[server toy says:]\n  Toys are for playing."
        assert len(ours) <= 512
        for word in ("_wait", "_as", "$x", "$f1", "${f:", "gather", "await_future", "list_futures"):
            assert word in ours
        assert ours.index("_wait") < ours.index("await_future")
        assert ('_wait:"all"' in ours) == (name == KNOWN)


@pytest.mark.parametrize("name", ["mcp", "fastmcp", UNKNOWN, "", KNOWN, "claude-code", "claude-ai"])
@on_virtual_time
async def test_a_model_that_may_get_no_instructions_finds_their_gist_in_a_description(name: str):
    """Three lines on `await_future`, where the host is not known to hand instructions on; nothing elsewhere."""
    async with stage(name=name) as it:
        [await_future, *others] = (await it.host.request("tools/list"))["tools"]
        assert await_future["name"] == "await_future"
        first, *gist = await_future["description"].splitlines()
        assert first.startswith("Wait for a future")
        if PROFILES.get(name, HOST_UNKNOWN).reads_instructions:
            assert not gist
        else:
            assert len(gist) == 3
            for word in ("_as", "_wait", '"$x"', '"$f1"', "${f:x.title}"):
                assert word in "\n".join(gist)
        assert not any("_as" in other.get("description", "") for other in others)


@on_virtual_time
async def test_a_client_called_mcp_is_answered_before_five_seconds_until_it_has_waited_longer():
    """The OpenAI Agents SDK gives up then; a sync call that took longer shows that this client does not."""
    async with stage(name="mcp", server={"tools": {"gate": {"mode": "sync"}}}) as it:
        await it.host.call("sleep", {"s": 100})
        for tool, arguments in (
            ("await_future", {"future_id": "f1", "timeout_s": 60}),
            ("gather", {"future_ids": ["f1"]}),
            ("sleep", {"s": 100, "_wait": "this"}),
        ):
            with Took() as took:
                assert "running" in words(await it.host.call(tool, arguments))
            assert 3 < took.seconds < 4.5
        async with anyio.create_task_group() as tg:
            tg.start_soon(it.host.call, "gate", {"name": "g"})
            await anyio.sleep(20)
            it.toy.open("g")
        with Took() as took:
            await it.host.call("await_future", {"future_id": "f2"})
        assert took.seconds == pytest.approx(20)


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_the_list_of_tools_is_ours_and_then_the_servers(era: str):
    """Ours say that they only read, so that hosts run them in parallel and unasked; together they cost little."""
    async with stage(era) as it:
        listed = await it.host.request("tools/list")
        names = [tool["name"] for tool in listed["tools"]]
        assert names == ["await_future", "gather", "cancel_future", "list_futures", "echo", "sleep", "fail", "gate"]
        ours = {tool["name"]: tool for tool in listed["tools"][:4]}
        for name in ("await_future", "gather", "list_futures"):
            assert ours[name]["annotations"]["readOnlyHint"] is True
        assert ours["cancel_future"]["annotations"]["readOnlyHint"] is False
        assert len(json.dumps(listed["tools"][:4], separators=(",", ":"))) / 4 < 450
        echo = listed["tools"][4]
        assert echo["annotations"] == {"readOnlyHint": True}
        assert set(echo["inputSchema"]["properties"]) == {"_as", "_wait"}


@on_virtual_time
async def test_every_protocol_era_gets_its_own_envelope():
    """`resultType`, cache hints and who we are on 2026-07-28; nothing of it on a handshake connection."""
    async with stage("2026-07-28") as it:
        listed = await it.host.request("tools/list")
        assert (listed["resultType"], listed["ttlMs"], listed["cacheScope"]) == ("complete", 0, "private")
        assert listed["_meta"][SERVER_INFO]["name"] == "asyncfc-mcp"
        handle = await it.host.call("sleep", {"s": 1})
        assert handle["resultType"] == "complete"
        assert handle["_meta"][SERVER_INFO]["name"] == "asyncfc-mcp"
        assert "ttlMs" not in handle
        assert records(handle) == [("f1", "running")]
        result = await it.host.outcome("f1")
        assert (result["resultType"], list(result["_meta"])) == ("complete", [SERVER_INFO])
    async with stage("legacy") as it:
        assert set(await it.host.request("tools/list")) == {"tools"}
        assert set(await it.host.call("sleep", {"s": 1})) == {"content", "structuredContent", "_meta"}
        assert await it.host.outcome("f1") == text_result("slept 1")


# --- handles and grace ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_slow_call_is_answered_with_a_handle_after_the_grace(era: str):
    """25 ms, to the millisecond; the call goes on by itself."""
    async with stage(era) as it:
        with Took() as took:
            answer = await it.host.call("sleep", {"s": 10})
        assert took.seconds == pytest.approx(0.025)
        assert words(answer) == "f1 sleep running. Result: await_future f1"
        assert records(answer) == [("f1", "running")]
        with Took() as took:
            assert words(await it.host.outcome("f1")) == "slept 10"
        assert took.seconds == pytest.approx(9.975)


@on_virtual_time
async def test_a_quick_call_is_answered_with_its_result():
    """The handle line, then what the tool said: no second turn."""
    async with stage() as it:
        with Took() as took:
            answer = await it.host.call("echo", {"a": 1})
        assert took.seconds == 0
        assert words(answer) == 'f1 echo completed\n{"a": 1}'
        assert answer["structuredContent"]["result"] == {"arguments": {"a": 1}}
        assert records(answer) == [("f1", "completed")]


@on_virtual_time
async def test_a_quick_failure_is_an_error():
    """`isError`, so that hosts show it as one, and the ID all the same."""
    async with stage() as it:
        answer = await it.host.call("fail", {"why": "no such file"})
        assert answer["isError"] is True
        assert words(answer) == "f1 fail failed\nno such file"
        assert records(answer) == [("f1", "failed")]


@on_virtual_time
async def test_grace_adapts_to_the_tool():
    """A tool whose median is above it is answered without any wait; one that became quick again gets it again."""
    async with stage() as it:
        for seconds in [0.5] * 2:
            await it.host.call("sleep", {"s": seconds, "_wait": "this"})
        with Took() as took:
            answer = await it.host.call("sleep", {"s": 0.01})
        assert took.seconds == 0
        assert records(answer) == [("f3", "running")]
        for _ in range(4):
            await it.host.call("sleep", {"s": 0.01, "_wait": "this"})
        assert records(await it.host.call("sleep", {"s": 0.01})) == [("f8", "completed")]


@on_virtual_time
async def test_grace_can_be_turned_off():
    """`grace_ms: 0` answers every call at once."""
    async with stage(policy={"grace_ms": 0}) as it:
        with Took() as took:
            answer = await it.host.call("echo", {"a": 1})
        assert took.seconds == 0
        assert records(answer) == [("f1", "running")]


@on_virtual_time
async def test_a_call_that_waits_gets_no_grace_and_says_for_what():
    """It cannot be quick, and the model reads on what it depends."""
    async with stage() as it:
        await it.host.call("sleep", {"s": 5})
        with Took() as took:
            answer = await it.host.call("echo", {"text": "$f1"})
        assert took.seconds == 0
        assert words(answer) == "f2 echo waiting (put in: f1), waits for f1 (needs the result). Result: await_future f2"
        assert answer["structuredContent"]["waiting_for"] == ["f1"]
        assert words(await it.host.outcome("f2")) == '{"text": "slept 5"}'


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_cancelling_a_request_that_was_answered_changes_nothing(era: str):
    """And giving up on one during its grace leaves the call running, its result unread and not lost."""
    async with stage(era, policy={"grace_ms": 1000}) as it:
        with anyio.move_on_after(0.5):
            await it.host.call("sleep", {"s": 3})
        await anyio.sleep(5)
        assert it.toy.cancelled == []
        answer = await it.host.call("list_futures")
        assert records(answer) == [("f1", "completed"), ("f1", "completed")]
        assert "f1 sleep completed, 3.0 s, unread" in words(answer)
        assert words(answer).endswith("f1 sleep completed\nslept 3")


# --- results unchanged ---------------------------------------------------------------------------------------------

RICH: Answer = {
    "content": [
        {"type": "text", "text": "Grüße 🌍", "annotations": {"x": None}, "x-block": 1},
        {"type": "image", "data": "aGk=", "mimeType": "image/png"},
        {"type": "resource_link", "uri": "a://b", "name": "b", "size": 2**70},
        {"type": "hologram", "layers": [None]},
    ],
    "structuredContent": {"null": None, "float": 1.0, "empty": [{}, []]},
    "isError": False,
    "_meta": {"vendor/trace": {"a": None}},
    "x-vendor": {"nested": [None]},
}


@pytest.mark.parametrize("policy", [{}, {"mode": "sync"}], ids=["await", "sync"])
@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_result_goes_up_as_it_came(era: str, policy: dict[str, Any]):
    """All blocks, unknown ones too, unknown fields, nulls and big numbers; any number of times."""
    toy = Toy()

    async def rich(got: Got) -> Answer:
        await anyio.sleep(1)
        return RICH

    toy.add("rich", rich)
    async with stage(era, toy=toy, policy=policy) as it:
        if policy:
            results = [await it.host.call("rich"), await it.host.call("rich")]
        else:
            await it.host.call("rich")
            results = [await it.host.outcome("f1"), await it.host.outcome("f1")]
        for result in results:
            if era != "legacy":
                assert result.pop("resultType") == "complete"
                assert result["_meta"].pop(SERVER_INFO)
            assert json.dumps(result, sort_keys=True) == json.dumps(RICH, sort_keys=True)


@on_virtual_time
async def test_what_is_ours_never_reaches_the_server():
    """Neither `_as` and `_wait`, nor our keys and the envelope in `_meta`; the rest of `_meta` does."""
    async with stage("2026-07-28") as it:
        meta = {CONVERSATION_KEY: "c", "vendor/x": {"a": None}, "asyncfc/other": 1}
        await it.host.call("echo", {"a": 1, "_as": "e", "_wait": "this"}, meta=meta)
        (got,) = it.toy.got
        assert got.arguments == {"a": 1}
        assert {key: value for key, value in got.meta.items() if key != "progressToken"} == {"vendor/x": {"a": None}}


@on_virtual_time
async def test_a_tool_keeps_arguments_of_its_own_with_our_names():
    """They go through untouched, and ours is off for that tool."""
    toy = Toy()
    schema = {"type": "object", "properties": {"_wait": {"type": "integer"}, "_as": {"type": "string"}}}
    toy.add("own", toy._echo, schema=schema)
    async with stage(toy=toy) as it:
        await it.host.call("own", {"_wait": 7, "_as": "x"})
        assert it.toy.got[-1].arguments == {"_wait": 7, "_as": "x"}
        assert (await it.host.outcome("x"))["isError"] is True


@on_virtual_time
async def test_calls_without_arguments_stay_without():
    """Absent is not the same as empty."""
    toy = Toy()
    seen: list[bool] = []
    original = toy._on_request

    async def watch(inbound: Any, method: str, params: Any) -> Answer:
        if method == "tools/call":
            seen.append("arguments" in params)
        return await original(inbound, method, params)

    toy._on_request = watch  # type: ignore[method-assign]
    async with stage(toy=toy) as it:
        await it.host.call("echo")
        await it.host.call("echo", {})
        await it.host.call("echo", {"_wait": "this"})
        assert seen == [False, True, True]


# --- names and references ------------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_call_can_be_named_and_its_value_passed_on():
    """By name and by ID, with a path, inside text, before the value is there."""
    async with stage() as it:
        answer = await it.host.call("sleep", {"s": 5, "_as": "nap"})
        assert words(answer) == "f1 (nap) sleep running. Result: await_future f1"
        assert answer["structuredContent"]["name"] == "nap"
        await it.host.call("echo", {"list": [1, {"deep": "x"}], "_as": "e"})
        await it.host.call("echo", {"a": "$nap", "b": "$f1", "c": "so: ${f:nap}!", "d": "$e.arguments.list[1].deep"})
        await it.host.outcome("f3")
        assert it.toy.got[-1].arguments == {"a": "slept 5", "b": "slept 5", "c": "so: slept 5!", "d": "x"}
        assert words(await it.host.outcome("$nap")) == "slept 5"


@on_virtual_time
async def test_what_is_no_reference_is_left_alone():
    """Shell variables, prices and unknown names reach the tool as they were written."""
    arguments = {"a": "$HOME/bin", "b": "$5", "c": "echo $$", "d": "${1}", "e": "$.store"}
    async with stage() as it:
        with Took() as took:
            await it.host.call("echo", arguments)
        assert it.toy.got[-1].arguments == arguments
        assert took.seconds == 0


@on_virtual_time
async def test_text_with_variables_of_its_own_is_not_touched():
    """Scripts, templates and CI files hold `${name}`, and a future may have that name: it stays, and costs no wait."""
    script = 'echo "building ${version}"; ${f1}; `${version.a}`; ${version:-1}; ${nobody}; ${f:0:3}; $version'
    async with stage() as it:
        await it.host.call("echo", {"_as": "version"})
        for content in (script, "${version}", "${f1}", "${nobody}", "$${version}"):
            with Took() as took:
                answer = await it.host.call("echo", {"content": content})
            assert took.seconds == 0
            assert it.toy.got[-1].arguments == {"content": content}
            assert "put in" not in words(answer)
            assert "put_in" not in answer["structuredContent"]


@on_virtual_time
async def test_every_answer_says_which_values_went_into_its_call():
    """Handle, grace, `_wait`, `gather`, list and inline delivery, in text and in the record."""
    async with stage() as it:
        await it.host.call("echo", {"t": "T", "_as": "page"})
        grace = await it.host.call("echo", {"a": "$page.arguments.t", "b": "<${f:page}> ${f:f1}", "c": "$$page"})
        assert words(grace).startswith("f2 echo completed (put in: page = f1, f1)\n")
        put_in = {"page": "f1", "f1": "f1"}
        assert grace["structuredContent"]["put_in"] == put_in
        assert grace["_meta"][META_KEY][0]["put_in"] == put_in
        handle = await it.host.call("sleep", {"s": 5, "x": "$page", "_as": "slow"})
        assert words(handle) == "f3 (slow) sleep running (put in: page = f1). Result: await_future f3"
        behind = await it.host.call("echo", {"x": "$slow"})
        assert "f4 echo waiting (put in: slow = f3), waits for f3" in words(behind)
        gathered = await it.host.call("gather", {"future_ids": ["f2", "f4"]})
        assert [entry["put_in"] for entry in gathered["structuredContent"]["results"]] == [put_in, {"slow": "f3"}]
        assert "f4 echo completed (put in: slow = f3)" in words(gathered)
        waited = await it.host.call("echo", {"x": "$slow", "_wait": "f2"})
        assert "f5 echo completed (put in: slow = f3)" in words(waited)
        listed = await it.host.call("list_futures", {})
        assert "f3 (slow) sleep completed (put in: page = f1)" in words(listed)
        assert listed["structuredContent"]["futures"][0]["put_in"] == {"slow": "f3"}


@on_virtual_time
async def test_a_call_that_was_not_sent_does_not_claim_that_values_went_into_it():
    """What it needed has failed, or its path leads nowhere: the reason says so."""
    async with stage() as it:
        await it.host.call("fail", {"_as": "bad"})
        await it.host.call("echo", {"_as": "good"})
        for arguments in ({"x": "$bad"}, {"x": "$good.nowhere"}):
            answer = await it.host.call("echo", {**arguments, "_wait": "this"})
            assert "not sent" in words(answer)
            assert "put in" not in words(answer)
            assert "put_in" not in answer["structuredContent"]


@on_virtual_time
async def test_a_sync_tool_says_which_values_went_into_its_call():
    """After its own content; without references its answer is its own, to the byte."""
    async with stage(policy={"mode": "sync"}) as it:
        await it.host.call("echo", {"a": 1})
        plain = await it.host.call("echo", {"a": "${f:f1} ${f1}", "b": "text"})
        assert plain["content"][-1]["text"] == "f2 echo completed (put in: f1)"
        assert plain["_meta"][META_KEY][0]["put_in"] == {"f1": "f1"}
        assert META_KEY not in (await it.host.call("echo", {"a": "${f1}"})).get("_meta", {})


@on_virtual_time
async def test_values_of_calls_that_were_overtaken_are_named_too():
    """The reference was sent first, and its name was taken later."""
    async with stage() as it:
        answers: list[Answer] = []

        async def use() -> None:
            answers.append(await it.host.call("echo", {"text": "see ${f:late.arguments.t}", "_wait": "this"}))

        async with anyio.create_task_group() as tg:
            tg.start_soon(use)
            await anyio.sleep(0.01)
            await it.host.call("echo", {"t": "T", "_as": "late"})
        assert "(put in: late = f1)" in words(answers[0])
        assert it.toy.got[-1].arguments == {"text": "see T"}


@on_virtual_time
async def test_a_name_in_use_is_refused_and_nothing_is_started():
    """The text says whose it is and what to do."""
    async with stage() as it:
        await it.host.call("sleep", {"s": 5, "_as": "n"})
        answer = await it.host.call("sleep", {"s": 5, "_as": "n"})
        assert answer["isError"] is True
        assert "The name 'n' belongs to f1, which has not ended yet" in words(answer)
        assert len(it.toy.got) == 1
        await it.host.outcome("f1")
        assert records(await it.host.call("sleep", {"s": 5, "_as": "n"})) == [("f2", "running")]


@pytest.mark.parametrize("name", ["f7", "a b", 7, ["x", "y"], "$f7", "x.y", "all", "This"])
@on_virtual_time
async def test_a_name_that_could_not_be_referred_to_is_refused(name: object):
    """With what a name may be."""
    async with stage() as it:
        answer = await it.host.call("echo", {"_as": name})
        assert answer["isError"] is True
        assert "cannot name a future: use a letter, then letters, digits" in words(answer)
        assert it.toy.got == []


@on_virtual_time
async def test_a_reference_may_overtake_the_call_that_it_means():
    """Hosts send the calls of one turn at the same time, in any order: a name is waited for a moment."""
    async with stage() as it:
        answers: dict[str, Answer] = {}

        async def call(key: str, arguments: Answer) -> None:
            answers[key] = await it.host.call("echo", arguments)

        with Took() as took:
            async with anyio.create_task_group() as tg:
                tg.start_soon(call, "last", {"text": "$b", "_wait": "a, b"})
                await anyio.sleep(0.01)
                tg.start_soon(call, "second", {"text": "$a.arguments.text", "_as": "b"})
                await anyio.sleep(0.01)
                tg.start_soon(call, "first", {"text": "begin", "_as": "a"})
        assert took.seconds < 0.1
        assert [got.arguments["text"] for got in it.toy.got[:2]] == ["begin", "begin"]
        assert it.toy.got[2].arguments == {"text": {"arguments": {"text": "begin"}}}
        assert [status for _, status in records(answers["last"])] == ["completed"] * 3


@on_virtual_time
async def test_a_name_that_nobody_takes_stays_literal():
    """After `forward_wait_ms`, as a whole string and inside text; without braces text is no reference."""
    async with stage(forward_wait_ms=80) as it:
        with Took() as took:
            await it.host.call("echo", {"a": "$later"})
        assert took.seconds == pytest.approx(0.08)
        assert it.toy.got[0].arguments == {"a": "$later"}
        with Took() as took:
            await it.host.call("echo", {"a": "see ${f:later}"})
        assert took.seconds == pytest.approx(0.08)
        assert it.toy.got[1].arguments == {"a": "see ${f:later}"}
        with Took() as took:
            await it.host.call("echo", {"a": "see $later"})
        assert took.seconds == 0


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c"]])
@on_virtual_time
async def test_a_circle_of_references_is_refused_and_spelled_out(names: list[str]):
    """All its calls are told, and none is started."""
    async with stage() as it:
        answers: list[Answer] = []

        async def call(name: str, needs: str) -> None:
            answers.append(await it.host.call("echo", {"text": f"${needs}", "_as": name}))

        async with anyio.create_task_group() as tg:
            for name, needs in zip(names, [*names[1:], names[0]], strict=True):
                tg.start_soon(call, name, needs)
                await anyio.sleep(0.001)
        assert len(answers) == len(names)
        for answer in answers:
            assert answer["isError"] is True
            said = words(answer)
            assert "these calls wait for each other" in said
            circle = said.partition(": ")[2].partition(": ")[2].partition(".")[0].split(" → ")
            assert circle[0] == circle[-1]
            assert sorted(circle[1:]) == names
        assert it.toy.got == []


@on_virtual_time
async def test_a_failed_dependency_fails_the_call_and_says_so_down_the_chain():
    """Without calling the server."""
    async with stage() as it:
        await it.host.call("fail", {"why": "disk full", "_as": "a"})
        await it.host.call("echo", {"text": "$a", "_as": "b"})
        answer = await it.host.call("echo", {"text": "$b", "_as": "c"})
        assert answer["isError"] is True
        assert words(answer) == (
            "f3 (c) echo failed: not sent: it needs f2, which has no result (because of f1): disk full"
        )
        assert [got.tool for got in it.toy.got] == ["fail"]


# --- waiting in the call -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_wait_this_answers_with_the_result(era: str):
    """One call, one turn, in the shape of grace."""
    async with stage(era) as it:
        with Took() as took:
            answer = await it.host.call("sleep", {"s": 7, "_wait": "this"})
        assert took.seconds == pytest.approx(7)
        assert words(answer) == "f1 sleep completed\nslept 7"
        assert records(answer) == [("f1", "completed")]


@on_virtual_time
async def test_a_wait_in_the_call_is_bounded():
    """By `max_wait_s`; what is not ready then is a handle, and no error."""
    async with stage(max_wait_s=20) as it:
        with Took() as took:
            answer = await it.host.call("sleep", {"s": 30, "_wait": "this"})
        assert took.seconds == pytest.approx(20)
        assert records(answer) == [("f1", "running")]
        assert words(await it.host.outcome("f1")) == "slept 30"


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_wait_all_brings_every_unread_result_of_the_conversation(era: str):
    """In order of submission, this one last, in the shape of gather; a whole turn costs one answer."""
    async with stage(era) as it:
        await it.host.call("sleep", {"s": 5})
        await it.host.call("fail", {"why": "was read already"})
        await it.host.call("sleep", {"s": 3, "_as": "quick"})
        with Took() as took:
            answer = await it.host.call("sleep", {"s": 1, "_wait": "all"})
        assert took.seconds == pytest.approx(4.95, abs=0.06)
        assert records(answer) == [("f1", "completed"), ("f3", "completed"), ("f4", "completed")]
        assert words(answer).splitlines() == [
            "f1 sleep completed", "slept 5", "f3 (quick) sleep completed", "slept 3", "f4 sleep completed", "slept 1",
        ]  # fmt: skip
        results = answer["structuredContent"]["results"]
        assert [entry["result"] for entry in results] == ["slept 5", "slept 3", "slept 1"]
        again = await it.host.call("sleep", {"s": 1, "_wait": "all"})
        assert records(again) == [("f5", "completed")]


@on_virtual_time
async def test_wait_all_means_calls_that_came_before_and_wait_for_a_name_too():
    """Though the call that brings the name comes last of all."""
    async with stage() as it:
        answers: list[Answer] = []

        async def call(arguments: Answer) -> None:
            answers.append(await it.host.call("echo", arguments))

        async with anyio.create_task_group() as tg:
            for arguments in ({"text": "$s"}, {"_wait": "all"}, {"_as": "s"}):
                tg.start_soon(call, arguments)
                await anyio.sleep(0.001)
        assert max(len(records(answer)) for answer in answers) == 3


@on_virtual_time
async def test_wait_takes_ids_and_names():
    """Besides its own result; its own name, `this`, `$` and doubles do no harm."""
    async with stage() as it:
        await it.host.call("sleep", {"s": 5})
        await it.host.call("sleep", {"s": 3, "_as": "b"})
        await it.host.call("sleep", {"s": 100})
        answer = await it.host.call("echo", {"_as": "c", "_wait": "$f1, b f1,this,c,$c"})
        assert records(answer) == [("f1", "completed"), ("f2", "completed"), ("f4", "completed")]


@on_virtual_time
async def test_wait_for_what_is_unknown_starts_nothing():
    """Else the model would have to guess whether the call was made."""
    async with stage() as it:
        answer = await it.host.call("echo", {"_wait": "f9"})
        assert answer["isError"] is True
        assert "Unknown future 'f9'" in words(answer)
        assert it.toy.got == []


@on_virtual_time
async def test_calls_of_one_turn_may_all_wait_for_each_other():
    """Models write the same `_wait` on each of them; to wait for a result is not to need it."""
    async with stage() as it:
        answers: list[Answer] = []

        async def call(name: str) -> None:
            answers.append(await it.host.call("sleep", {"s": 3, "_as": name, "_wait": "a, b, c"}))

        async with anyio.create_task_group() as tg:
            for name in "abc":
                tg.start_soon(call, name)
                await anyio.sleep(0.001)
        assert [sorted(records(answer)) for answer in answers] == [
            [("f1", "completed"), ("f2", "completed"), ("f3", "completed")]
        ] * 3


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (7, '_wait must be "this", "all", or IDs and names separated by commas; found 7'),
        ({"s": 1}, "_wait must be"),
        ([7], "found [7]"),
        ("f1 and f2", "Unknown future"),
    ],
)
@on_virtual_time
async def test_a_wait_that_makes_no_sense_is_explained(wanted: object, said: str):
    """And starts nothing."""
    async with stage() as it:
        answer = await it.host.call("echo", {"_wait": wanted})
        assert answer["isError"] is True
        assert said in words(answer)
        assert it.toy.got == []


@pytest.mark.parametrize("nothing", ["", None, " ", "null", [], "[]", "None"])
@on_virtual_time
async def test_an_empty_wait_is_no_wait(nothing: object):
    """Models fill optional arguments with nothing."""
    async with stage() as it:
        answer = await it.host.call("sleep", {"s": 5, "_wait": nothing, "_as": nothing})
        assert records(answer) == [("f1", "running")]
        assert it.toy.got[0].arguments == {"s": 5}


@pytest.mark.parametrize(
    "wanted",
    [
        "f1, two", "f1,two,", "$f1 $two", ["f1", "two"], ["$f1", "two", "this"], '["f1", "two"]', "['f1', 'two']",
        "`f1`; `two`", "(f1, two)", "This, f1, two", [["f1"], "two"], "${f:f1}, ${f:two}", ["f1, two"],
        ["f1", "two", None], [{"future_id": "f1", "status": "running"}, {"$future": "two"}], '"f1, two"',
    ],
)  # fmt: skip
@on_virtual_time
async def test_a_wait_for_futures_is_read_as_models_write_it(wanted: object):
    """Lists, JSON in a string, `$`, quotes, other separators, records of handles."""
    async with stage() as it:
        await it.host.call("sleep", {"s": 3})
        await it.host.call("sleep", {"s": 4, "_as": "two"})
        answer = await it.host.call("echo", {"a": 1, "_wait": wanted})
        assert sorted(records(answer)) == [("f1", "completed"), ("f2", "completed"), ("f3", "completed")]
        assert it.toy.got[-1].arguments == {"a": 1}


@pytest.mark.parametrize("wanted", ["all", "ALL", " all ", "all,", ["all"], '"all"', "all, f1", '["All"]', "this, all"])
@on_virtual_time
async def test_a_wait_for_all_is_read_as_models_write_it(wanted: object):
    """With others, `all` has them, too."""
    async with stage() as it:
        await it.host.call("sleep", {"s": 3})
        answer = await it.host.call("echo", {"_wait": wanted})
        assert records(answer) == [("f1", "completed"), ("f2", "completed")]


@pytest.mark.parametrize("wanted", ["this", "THIS", "This.", ["this"], True, "true", '"this"'])
@on_virtual_time
async def test_a_wait_for_this_is_read_as_models_write_it(wanted: object):
    """`true` means that the call waits."""
    async with stage() as it:
        assert records(await it.host.call("sleep", {"s": 3, "_wait": wanted})) == [("f1", "completed")]


@pytest.mark.parametrize(
    "name", ["page", " page ", "$page", '"page"', "'page'", "page,", ["page"], '["page"]', "${f:page}"]
)
@on_virtual_time
async def test_a_name_is_read_as_models_write_it(name: object):
    """It is the same name in every spelling."""
    async with stage() as it:
        assert (await it.host.call("sleep", {"s": 1, "_as": name}))["structuredContent"]["name"] == "page"


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("gather", {"future_ids": '["f1", "f2"]'}),
        ("gather", {"future_ids": "['f1', 'f2']"}),
        ("gather", {"future_ids": "f1, f2,", "return_when": None, "timeout_s": None}),
        ("gather", {"future_ids": ["$f1", " f2 "], "return_when": "", "timeout_s": ""}),
        ("gather", {"ids": ["F1", "f2"], "return_when": "ALL_COMPLETED"}),
        ("gather", {"futures": ["F1", "f2"], "future_ids": None}),
        ("gather", {"future_ids": ['"f1"', "f2"], "return_when": "ALL", "timeout_s": "30"}),
        ("gather", {"future_ids": ["f1", "f2"], "return_when": ' "all" ', "timeout_s": "30 s"}),
        ("gather", {"future_ids": ["f1", "f2"], "return_when": ["all"], "timeout_s": "inf"}),
        ("gather", {"future_ids": [{"future_id": "f1"}, {"future_id": "f2"}], "timeout_s": "1e400"}),
        ("gather", {"future_id": ["f1", "f2"], "timeout_s": 10**400}),
        ("await_future", {"future_id": ["f2"], "timeout_s": "Infinity"}),
        ("await_future", {"future_id": '["f2"]', "timeout_s": " 20 "}),
        ("await_future", {"future_id": "$f2,", "timeout_s": [30]}),
        ("await_future", {"future_id": '"f2"', "timeout_s": "null"}),
        ("await_future", {"future_ids": ["f2"], "timeout_s": "30.5 seconds"}),
        ("await_future", {"future_id": {"future_id": "f2", "status": "running"}}),
        ("await_future", {"future_id": "'$two'"}),
        ("await_future", {"future_id": "${f:two}"}),
        ("cancel_future", {"future_id": "[two]"}),
        ("list_futures", {"status": ""}),
        ("list_futures", {"status": None}),
        ("list_futures", {"status": "ALL"}),
        ("list_futures", {"status": "Running"}),
        ("list_futures", {"status": ["running"]}),
    ],
)
@on_virtual_time
async def test_arguments_of_our_own_tools_are_read_as_models_write_them(tool: str, arguments: Answer):
    """What has one possible meaning has that."""
    async with stage() as it:
        await it.host.call("sleep", {"s": 3})
        await it.host.call("sleep", {"s": 4, "_as": "two"})
        answer = await it.host.call(tool, arguments)
        assert "isError" not in answer
        if tool == "await_future":
            assert words(answer) == "slept 4"
        elif tool == "gather":
            assert records(answer) == [("f1", "completed"), ("f2", "completed")]
        elif tool == "list_futures":
            assert len(records(answer)) == 2
        else:
            assert records(answer) == [("f2", "cancelled")]


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "[NaN]", '{"a": 1e999}', "1" * 5000]
)
@on_virtual_time
async def test_text_that_is_no_number_of_json_goes_to_the_server_as_it_is(text: str):
    """For an argument that is a number, a list or an object; the server judges it, and the bridge has no error of its
    own. The same for a value of a future."""
    kinds = {"n": {"type": "number"}, "l": {"type": "array"}, "o": {"type": "object"}}
    toy = Toy()

    async def take(got: Got) -> Answer:
        return {"content": [{"type": "text", "text": "taken"}]}

    toy.add("take", take, schema={"type": "object", "properties": kinds})
    async with stage(toy=toy) as it:
        for kind in kinds:
            assert words(await it.host.call("take", {kind: text, "_wait": "this"})).endswith("take completed\ntaken")
            assert it.toy.got[-1].arguments == {kind: text}
        assert words(await it.host.call("take", {"n": "1" * 400, "_wait": "this"})).endswith("taken")
        assert it.toy.got[-1].arguments == {"n": int("1" * 400)}


@on_virtual_time
async def test_where_the_conversation_is_unknown_all_means_this_one_and_a_remark():
    """The other results might be another chat's."""
    async with stage(name=UNKNOWN) as it:
        await it.host.call("sleep", {"s": 1})
        answer = await it.host.call("sleep", {"s": 3, "_wait": "all"})
        assert records(answer) == [("f2", "completed")]
        assert words(answer).startswith("f2 sleep completed\nslept 3\n")
        assert "name the futures" in words(answer)
        assert "name the futures" in answer["structuredContent"]["note"]
        named = await it.host.call("sleep", {"s": 1, "_wait": "f1"})
        assert records(named) == [("f1", "completed"), ("f3", "completed")]


# --- inline delivery -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_finished_results_ride_on_the_next_answer_once_in_the_order_of_their_ends(era: str):
    """Nobody spends a turn on them; awaiting one afterwards still gives it, as it came."""
    async with stage(era) as it:
        for seconds in (5, 3, 60):
            await it.host.call("sleep", {"s": seconds})
        await anyio.sleep(10)
        answer = await it.host.call("echo", {"a": 1})
        assert records(answer) == [("f4", "completed"), ("f2", "completed"), ("f1", "completed")]
        assert words(answer).splitlines() == [
            "f4 echo completed", '{"a": 1}', "f2 sleep completed", "slept 3", "f1 sleep completed", "slept 5",
        ]  # fmt: skip
        assert [entry["result"] for entry in answer["structuredContent"]["also"]] == ["slept 3", "slept 5"]
        assert records(await it.host.call("echo", {})) == [("f5", "completed")]
        result = await it.host.outcome("f2")
        assert result["content"] == text_result("slept 3")["content"]
        assert "structuredContent" not in result


@on_virtual_time
async def test_failures_are_delivered_as_well():
    """With their reason: the model would go on as if all were well."""
    async with stage() as it:
        await it.host.call("sleep", {"s": 5, "_as": "n"})
        await it.host.call("cancel_future", {"future_id": "n"})
        await it.host.call("gate", {"name": "g"})
        await it.host.call("echo", {"text": "$f2"})
        it.bridge.scheduler.cancel(it.bridge.store.get(LOCAL, "f2"))
        await anyio.sleep(1)
        answer = await it.host.call("list_futures")
        assert "f3 echo failed: not sent: it needs f2" in words(answer)


@pytest.mark.parametrize("tool", ["list_futures", "gather", "await_future", "cancel_future"])
@on_virtual_time
async def test_results_ride_on_the_answers_of_our_own_tools_too(tool: str):
    """On every one but a ready await, which is the downstream's; on one that is an error as well."""
    async with stage() as it:
        await it.host.call("sleep", {"s": 1})
        await it.host.call("gate", {"name": "g"})
        await anyio.sleep(5)
        arguments: dict[str, Answer] = {
            "list_futures": {},
            "gather": {"future_ids": ["f2"], "timeout_s": 0},
            "await_future": {"future_id": "f2", "timeout_s": 0},
            "cancel_future": {"future_id": "f99"},
        }
        answer = await it.host.call(tool, arguments[tool])
        assert words(answer).endswith("f1 sleep completed\nslept 1")
        assert records(answer)[-1] == ("f1", "completed")


@on_virtual_time
async def test_a_ready_await_carries_nothing_else():
    """It is the downstream's own result; the others ride on the next answer."""
    async with stage() as it:
        await it.host.call("sleep", {"s": 1})
        await it.host.call("sleep", {"s": 2})
        await anyio.sleep(5)
        assert await it.host.outcome("f2") == text_result("slept 2")
        assert records(await it.host.call("list_futures"))[-1] == ("f1", "completed")


@pytest.mark.parametrize(
    ("name", "settings"),
    [(UNKNOWN, {}), (KNOWN, {"deliver": "off"}), (KNOWN, {"inline_bytes": 20})],
    ids=["unknown conversation", "off", "too large"],
)
@on_virtual_time
async def test_a_result_that_may_not_ride_waits_to_be_asked_for(name: str, settings: dict[str, Any]):
    """Unread it stays, and `list_futures` says so."""
    async with stage(name=name, **settings) as it:
        await it.host.call("sleep", {"s": 1})
        await anyio.sleep(5)
        answer = await it.host.call("list_futures")
        assert "f1 sleep completed, 1.0 s, unread" in words(answer)
        assert records(answer) == [("f1", "completed")]
        assert await it.host.outcome("f1") == text_result("slept 1")
        assert "unread" not in words(await it.host.call("list_futures")).partition("f1 sleep")[2]


@on_virtual_time
async def test_a_host_may_say_whose_conversation_a_request_is():
    """By a key in `_meta`: then results of one chat never ride into another, whatever the connection."""
    async with stage(name=UNKNOWN) as it:
        mine, other = {CONVERSATION_KEY: "mine"}, {CONVERSATION_KEY: "other"}
        await it.host.call("sleep", {"s": 1}, meta=mine)
        await anyio.sleep(5)
        assert records(await it.host.call("echo", {}, meta=other)) == [("f2", "completed")]
        assert records(await it.host.call("echo", {})) == [("f3", "completed")]
        assert records(await it.host.call("echo", {}, meta=mine)) == [("f4", "completed"), ("f1", "completed")]
        await it.host.call("sleep", {"s": 1}, meta=mine)
        answer = await it.host.call("echo", {"_wait": "all"}, meta=mine)
        assert records(answer) == [("f5", "completed"), ("f6", "completed")]


# --- our own tools -------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_awaiting_is_bounded_and_can_be_repeated():
    """By the client's `timeout_s` and by `max_wait_s`: the handle comes again, with the state of things."""
    async with stage() as it:
        await it.host.call("sleep", {"s": 100})
        for arguments, seconds in (
            ({"timeout_s": 3}, 3),
            ({"timeout_s": "4"}, 4),
            ({"timeout_s": 0}, 0),
            ({"timeout_s": 1000}, 45),
            ({}, 45),
        ):
            with Took() as took:
                answer = await it.host.call("await_future", {"future_id": "f1", **arguments})
            if words(answer) != "slept 100":
                assert took.seconds == pytest.approx(seconds)
                assert records(answer) == [("f1", "running")]
        assert await it.host.outcome("f1") == text_result("slept 100")
        assert await it.host.outcome("f1") == text_result("slept 100")
        assert not it.bridge.store.get(LOCAL, "f1").watchers, "a wait that ended is remembered"


@on_virtual_time
async def test_a_host_that_gives_up_early_is_answered_in_time():
    """`openai-agents` waits 5 s: three quarters of that."""
    async with stage(name="openai-agents") as it:
        await it.host.call("sleep", {"s": 100})
        with Took() as took:
            await it.host.outcome("f1")
        assert took.seconds == pytest.approx(3.75)


@on_virtual_time
async def test_a_host_whose_patience_progress_renews_is_kept_waiting():
    """As long as it hears of us in time; one that gave no token is not."""
    profile = {"impatient": {"timeout_s": 4.0, "progress_resets_timeout": True}}
    async with stage(name="impatient", host_profiles=profile) as it:
        await it.host.call("sleep", {"s": 100})
        progress = Progress()
        with Took() as took:
            await it.host.call("await_future", {"future_id": "f1"}, progress=progress)
        assert took.seconds == pytest.approx(45)
        assert max(later - earlier for earlier, later in pairwise(progress.at)) <= 3
        with Took() as took:
            await it.host.outcome("f1")
        assert took.seconds == pytest.approx(3)


@on_virtual_time
async def test_gather_waits_for_all_or_for_the_first():
    """In the order asked, doubles included; one that failed or is not ready hides no other."""
    async with stage(deliver="off") as it:
        await it.host.call("sleep", {"s": 10, "_as": "slow"})
        await it.host.call("sleep", {"s": 4})
        await it.host.call("fail", {})
        with Took() as took:
            answer = await it.host.call("gather", {"future_ids": ["slow", "$f2", "f1"], "return_when": "any"})
        assert took.seconds == pytest.approx(4, abs=0.1)
        assert records(answer) == [("f1", "running"), ("f2", "completed"), ("f1", "running")]
        with Took() as took:
            answer = await it.host.call("gather", {"future_ids": ["f3", "f1", "f2"]})
        assert took.seconds == pytest.approx(6, abs=0.1)
        assert records(answer) == [("f3", "failed"), ("f1", "completed"), ("f2", "completed")]
        assert [entry["result"] for entry in answer["structuredContent"]["results"]] == [
            "it failed", "slept 10", "slept 4",
        ]  # fmt: skip
        assert "isError" not in answer
        with Took() as took:
            assert records(await it.host.call("gather", {"future_ids": "f2, f3", "return_when": "any"})) == [
                ("f2", "completed"), ("f3", "failed"),
            ]  # fmt: skip
        assert took.seconds == 0


@on_virtual_time
async def test_gather_is_bounded_too():
    """What is ready comes, the rest says how it stands."""
    async with stage() as it:
        await it.host.call("sleep", {"s": 100})
        await it.host.call("sleep", {"s": 2})
        with Took() as took:
            answer = await it.host.call("gather", {"future_ids": ["f1", "f2"], "timeout_s": 5})
        assert took.seconds == pytest.approx(5)
        assert records(answer) == [("f1", "running"), ("f2", "completed")]
        assert answer["structuredContent"]["results"][0] == {"future_id": "f1", "status": "running", "tool": "sleep"}


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_cancelling_reaches_the_server(era: str):
    """As its own protocol has it, and the answer says what became of the call."""
    async with stage(era) as it:
        await it.host.call("gate", {"name": "g", "_as": "stuck"})
        answer = await it.host.call("cancel_future", {"future_id": "stuck"})
        assert words(answer) == "f1 (stuck) gate cancelled: it may or may not have taken effect"
        assert records(answer) == [("f1", "cancelled")]
        await anyio.sleep(1)
        assert it.toy.cancelled == ["gate"]
        again = await it.host.call("cancel_future", {"future_id": "f1"})
        assert "it had ended before, nothing was cancelled" in words(again)
        awaited = await it.host.outcome("f1")
        assert awaited["isError"] is True
        assert "f1 (stuck) gate cancelled: it may" in words(awaited)


@on_virtual_time
async def test_a_result_that_beats_its_cancellation_is_not_lost():
    """It is still unread, so it is delivered with the very answer to the cancellation."""
    toy = Toy()

    async def stubborn(call: Any, arguments: Any, on_progress: Any, on_sent: Any) -> Answer:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            return text_result("done all the same")

    async with stage(toy=toy) as it:
        it.bridge.scheduler._execute, it.bridge.scheduler._send = stubborn, None
        await it.host.call("gate", {"name": "g"})
        await settle()
        answer = await it.host.call("cancel_future", {"future_id": "f1"})
        assert words(answer) == "f1 gate completed\nf1 gate completed\ndone all the same"


@on_virtual_time
async def test_the_list_shows_newest_first_and_can_be_narrowed():
    """Compact, bounded, with what is unread."""
    async with stage(deliver="off") as it:
        for number in range(55):
            await it.host.call("sleep", {"s": 5, "_as": f"n{number}"})
        await it.host.call("fail", {})
        answer = await it.host.call("list_futures")
        lines = words(answer).splitlines()
        assert lines[0].startswith("f56 fail failed")
        assert lines[1].startswith("f55 (n54) sleep running")
        assert len(lines) == 51
        assert lines[-1] == "… and 6 older ones; narrow with status."
        assert answer["structuredContent"]["more"] == 6
        failed = await it.host.call("list_futures", {"status": "failed"})
        assert records(failed) == [("f56", "failed")]
        assert words(await it.host.call("list_futures", {"status": "waiting"})) == "No futures."


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("await_future", {}, 'future_id must be the ID or name of a future, such as "f1"; found nothing'),
        ("await_future", {"future_id": 3}, "found 3"),
        ("await_future", {"future_id": " "}, "found ' '"),
        ("await_future", {"future_id": None}, "found nothing"),
        ("await_future", {"future_id": "f1, f2"}, "found 'f1, f2'; gather waits for several"),
        ("await_future", {"future_id": "f1", "timeout_s": -1}, "timeout_s must be a number of seconds, 0 or more"),
        ("await_future", {"future_id": "f1", "timeout_s": "soon"}, "found 'soon'"),
        ("await_future", {"future_id": "f1", "timeout_s": True}, "found True"),
        ("await_future", {"future_id": "f1", "timeout_s": "nan"}, "timeout_s must be a number"),
        ("await_future", {"future_id": "f77"}, "Unknown future 'f77'. Nearest: f1. list_futures shows all."),
        ("gather", {}, 'future_ids must be a list such as ["f1", "f2"]; found None'),
        ("gather", {"future_ids": []}, "future_ids is empty"),
        ("gather", {"future_ids": " , "}, "future_ids is empty"),
        ("gather", {"future_ids": [1]}, "found [1]"),
        ("gather", {"future_ids": {"f1": 1}}, "must be a list"),
        (
            "gather",
            {"future_ids": ["f1"], "return_when": "first"},
            'return_when must be "all" or "any"; found \'first\'',
        ),
        ("gather", {"future_ids": ["f1", "f78"]}, "Unknown future 'f78'"),
        ("cancel_future", {}, "found nothing"),
        ("cancel_future", {"future_id": "f79"}, "Unknown future 'f79'"),
        ("list_futures", {"status": "done"}, "status must be one of waiting, running"),
        ("list_futures", {"status": ["running", "failed"]}, "status must be one of"),
    ],
)
@on_virtual_time
async def test_wrong_arguments_of_our_own_tools_are_explained(tool: str, arguments: Answer, said: str):
    """An error that the model can act on, and no JSON-RPC error that hosts hide; it costs no wait."""
    async with stage() as it:
        await it.host.call("gate", {"name": "g"})
        with Took() as took:
            answer = await it.host.call(tool, arguments)
        assert took.seconds < 0.1
        assert answer["isError"] is True
        assert said in words(answer)


# --- sync tools ----------------------------------------------------------------------------------------------------

SYNC = {"mode": "sync"}


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


# --- progress and patience -----------------------------------------------------------------------------------------


class Progress:
    """What a client is told while it waits."""

    def __init__(self) -> None:
        self.told: list[tuple[float, float | None, str | None]] = []
        self.at: list[float] = []

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.told.append((progress, total, message))
        self.at.append(anyio.current_time())

    def assert_grows(self) -> None:
        numbers = [progress for progress, _, _ in self.told]
        assert numbers == sorted(set(numbers)), "progress must increase with each notification"


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_client_that_waits_hears_that_the_bridge_lives(era: str):
    """At least every five seconds, with numbers that only grow, if it gave a token."""
    async with stage(era) as it:
        await it.host.call("sleep", {"s": 100})
        progress = Progress()
        began = anyio.current_time()
        await it.host.call("await_future", {"future_id": "f1"}, progress=progress)
        assert len(progress.told) in (8, 9)
        progress.assert_grows()
        assert [round(at - began) for at in progress.at[:3]] == [5, 10, 15]
        assert progress.told[0][2] == "f1 running, 5 s"


@pytest.mark.parametrize("arguments", [{"future_ids": ["f1", "f2", "f3"]}, {"_wait": "f1, f2"}])
@on_virtual_time
async def test_a_wait_for_several_tells_how_many_have_ended(arguments: Answer):
    """And beats on where none does."""
    async with stage() as it:
        for seconds in (7, 8, 30):
            await it.host.call("sleep", {"s": seconds})
        progress = Progress()
        tool = "gather" if "future_ids" in arguments else "sleep"
        await it.host.call(tool, {**arguments, "s": 30} if tool == "sleep" else arguments, progress=progress)
        progress.assert_grows()
        assert [message.partition(",")[0] for _, _, message in progress.told if message][:3] == [
            "0 of 3 ended", "1 of 3 ended", "2 of 3 ended",
        ]  # fmt: skip
        assert all(total == 3 for _, total, _ in progress.told)


def reporting(steps: list[tuple[float, float, float | None, str | None]]) -> Any:
    async def tool(got: Got) -> Answer:
        for after, progress, total, message in steps:
            await anyio.sleep(after)
            await got.inbound.progress(progress, total, message)
        await anyio.sleep(1)
        return text_result("done")

    return tool


@pytest.mark.parametrize("how", ["await", "wait in the call", "sync"])
@on_virtual_time
async def test_the_servers_own_progress_goes_up(how: str):
    """With total and message, and growing even where heartbeats stood between, or the server repeats itself."""
    toy = Toy()
    toy.add("work", reporting([(1, 1, 3, "one"), (12, 2, 3, "two"), (1, 2, 3, "again"), (1, 3, 3, None)]))
    async with stage(toy=toy, server={"tools": {"work": SYNC}} if how == "sync" else {}) as it:
        progress = Progress()
        if how == "await":
            await it.host.call("work", {})
            await it.host.call("await_future", {"future_id": "f1"}, progress=progress)
        else:
            await it.host.call("work", {"_wait": "this"} if how != "sync" else {}, progress=progress)
        own = [told for told in progress.told if told[1] == 3 and told[2] != "again"]
        assert own == [(1, 3, "one"), (2, 3, "two"), (3, 3, None)]
        if how != "sync":
            progress.assert_grows()
            assert len(progress.told) == 3 + 1 + 2


@on_virtual_time
async def test_a_handle_tells_of_the_servers_progress():
    """A client that gave no token, or polls, learns of it as well."""
    toy = Toy()
    toy.add("work", reporting([(1, 1, 3, "one"), (50, 2, 3, "two")]))
    async with stage(toy=toy) as it:
        await it.host.call("work")
        answer = await it.host.call("await_future", {"future_id": "f1", "timeout_s": 5})
        assert words(answer) == 'f1 work running, 1/3 "one". Result: await_future f1'
        assert answer["structuredContent"]["progress"] == {"progress": 1, "total": 3, "message": "one"}


@pytest.mark.parametrize("how", ["await_future", "gather", "_wait"])
@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_client_that_gave_up_is_answered_sooner_from_then_on(era: str, how: str):
    """After 0.8 of the time it waited; a shorter patience lowers it again. Who presses a key has no other patience."""
    async with stage(era) as it:
        await it.host.call("sleep", {"s": 1000})

        async def wait() -> None:
            if how == "_wait":
                await it.host.call("gate", {"name": "never", "_wait": "this"})
            elif how == "gather":
                await it.host.call("gather", {"future_ids": ["f1"]})
            else:
                await it.host.outcome("f1")

        for give_up, expected in ((2.5, 45), (10, 8), (5, 4), (2.9, 4)):
            with anyio.move_on_after(give_up) as scope:
                await wait()
            assert scope.cancelled_caught
            await anyio.sleep(1)
            with Took() as took:
                await wait()
            assert took.seconds == pytest.approx(expected)
        assert it.toy.cancelled == [], "giving up on a wait is not cancelling the call"


# --- who sees what -------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_scopes_share_the_servers_and_nothing_else():
    """Each counts its own IDs; nobody sees, awaits, cancels or refers to another's futures."""
    toy = Toy()
    async with (
        bridge_over(toy) as bridge,
        connected(bridge, "legacy", scope=Scope("alice"), pipe=False) as alice,
        connected(bridge, "legacy", scope=Scope("bob"), pipe=False) as bob,
    ):
        await alice.call("sleep", {"s": 5, "_as": "mine"})
        assert words(await bob.call("list_futures")) == "No futures."
        for tool in ("await_future", "cancel_future"):
            answer = await bob.call(tool, {"future_id": "mine"})
            assert answer["isError"] is True
            assert "You have no futures yet" in words(answer)
        assert records(await bob.call("sleep", {"s": 1, "_as": "mine"})) == [("f1", "running")]
        assert words(await alice.outcome("f1")) == "slept 5"
        assert words(await bob.outcome("f1")) == "slept 1"


@on_virtual_time
async def test_where_nobody_is_authenticated_an_id_is_the_only_right_to_a_future():
    """128 random bits, no list, no hints, no names; whoever has the ID can use it."""
    async with stage(name=UNKNOWN, scope=PUBLIC) as it:
        answer = await it.host.call("sleep", {"s": 5})
        ((future_id, _),) = records(answer)
        assert len(future_id) == 33
        listed = await it.host.call("list_futures")
        assert "not listed here" in words(listed)
        assert future_id not in json.dumps(listed)
        unknown = await it.host.outcome(future_id[:-1])
        assert future_id not in json.dumps(unknown)
        assert (await it.host.call("echo", {"_as": "guessable"}))["isError"] is True
        answer = await it.host.call("echo", {"text": f"${future_id}", "_wait": "this"})
        assert it.toy.got[-1].arguments == {"text": "slept 5"}


@on_virtual_time
async def test_two_connections_of_one_principal_see_the_same_futures():
    """Some frameworks open a new one for every call; whose conversation a result belongs to stays apart."""
    toy = Toy()
    async with bridge_over(toy) as bridge:
        async with connected(bridge, "legacy", UNKNOWN) as first:
            await first.call("sleep", {"s": 5})
        async with connected(bridge, "2026-07-28", UNKNOWN) as second:
            assert words(await second.outcome("f1")) == "slept 5"


# --- errors and changes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params", "said"),
    [
        ("tools/call", {"name": "ecko", "arguments": {}}, "Unknown tool: ecko; did you mean echo?"),
        ("tools/call", {"name": "zzz"}, "Unknown tool: zzz; call tools/list"),
        ("tools/call", {"name": 7}, "name must be a string; found 7"),
        ("tools/call", {}, "name must be a string; found None"),
        ("tools/call", {"name": "echo", "arguments": [1]}, "arguments must be an object; found [1]"),
        ("tools/list", {"cursor": "x"}, "Invalid cursor"),
        ("prompts/get", {"name": "nothing"}, "Unknown prompt: nothing"),
        ("resources/read", {"uri": 7}, "uri must be a string"),
        ("completion/complete", {"ref": "x"}, "ref must be an object"),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}}, "Unknown prompt: p"),
    ],
)
@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_request_that_cannot_be_is_an_error_that_says_why(era: str, method: str, params: Answer, said: str):
    """-32602, and what to do."""
    async with stage(era) as it:
        with pytest.raises(MCPError) as caught:
            await it.host.request(method, params)
        assert caught.value.error.code == -32602
        assert said in caught.value.error.message


@on_virtual_time
async def test_past_the_bound_a_call_is_refused_and_nothing_is_dropped():
    """With the setting's name; the futures there are go on."""
    async with stage(max_pending=1) as it:
        await it.host.call("sleep", {"s": 5})
        answer = await it.host.call("sleep", {"s": 5})
        assert answer["isError"] is True
        assert "limit 1, setting max_pending" in words(answer)
        assert words(await it.host.outcome("f1")) == "slept 5"


@on_virtual_time
async def test_a_new_tool_of_a_server_is_announced_and_can_be_called():
    """A client that shook hands is told."""
    told: list[str] = []

    async def hear(message: Any) -> None:
        told.append(getattr(message, "method", type(message).__name__))

    toy = Toy()
    async with bridge_over(toy) as bridge:
        upstream = Upstream(bridge, LOCAL, pipe=True)
        async with anyio.create_task_group() as tg:
            await tg.start(upstream.run)
            async with Client(sdk_server(upstream), mode="legacy", message_handler=hear, cache=None) as client:
                await anyio.sleep(1)
                told.clear()
                toy.add("late", toy._echo)
                await toy.changed()
                await anyio.sleep(1)
                assert told == ["notifications/tools/list_changed"]
                assert "late" in [tool.name for tool in (await client.list_tools()).tools]
                assert not (await client.call_tool("late", {})).is_error
            tg.cancel_scope.cancel()


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_client_that_leaves_takes_nothing_with_it(era: str):
    """Its calls go on, and others are served."""
    toy = Toy()
    info = Implementation(name=UNKNOWN, version="1")
    async with bridge_over(toy) as bridge:
        upstream = Upstream(bridge, LOCAL, pipe=False)
        async with anyio.create_task_group() as tg:
            await tg.start(upstream.run)
            for _ in range(2):
                async with Client(sdk_server(upstream), mode=era, cache=None, client_info=info) as client:
                    await Host(client).call("sleep", {"s": 20})
            async with Client(sdk_server(upstream), mode=era, cache=None, client_info=info) as client:
                assert words(await Host(client).outcome("f1")) == "slept 20"
                assert toy.cancelled == []
            tg.cancel_scope.cancel()


# --- ordering, end to end ------------------------------------------------------------------------------------------


def files() -> tuple[Toy, dict[str, str]]:
    """A toy that writes and reads files, slowly."""
    toy = Toy()
    state: dict[str, str] = {}

    async def write(got: Got) -> Answer:
        await anyio.sleep(got.arguments.get("s", 1))
        if got.arguments["text"] == "bad":
            return text_result("refused", isError=True)
        state[normpath(got.arguments["path"])] = got.arguments["text"]
        return text_result("written")

    async def read(got: Got) -> Answer:
        await anyio.sleep(1)
        return text_result(state.get(normpath(got.arguments["path"]), "nothing"))

    toy.add("write", write)
    toy.add("read", read)
    return toy, state


EFFECTS = {"tools": {"write": {"writes": ("fs/{path}",)}, "read": {"reads": ("fs/{path}",)}}}


@on_virtual_time
async def test_declared_effects_order_what_touches_the_same_state_only():
    """Two writes of one file keep their order, however it is spelled; another file does not wait."""
    toy, state = files()
    async with stage(toy=toy, server=EFFECTS) as it:
        with Took() as took:
            await it.host.call("write", {"path": "a", "text": "first", "s": 5})
            answer = await it.host.call("write", {"path": "./a", "text": "second", "s": 1})
            assert "waits for f1 (same state toy/fs/a)" in words(answer)
            await it.host.call("write", {"path": "b", "text": "other", "s": 5})
            result = await it.host.call("read", {"path": "x/../a", "_wait": "all"})
        assert words(result).endswith("second")
        assert state == {"a": "second", "b": "other"}
        assert took.seconds == pytest.approx(7, abs=0.1)


@on_virtual_time
async def test_with_fail_stop_a_failed_write_stops_the_one_behind_it_and_says_so():
    """A model that had seen the failure might not have made it."""
    toy, state = files()
    async with stage(toy=toy, policy={"on_failure": "stop"}, server=EFFECTS) as it:
        await it.host.call("write", {"path": "a", "text": "bad", "s": 5})
        answer = await it.host.call("write", {"path": "a", "text": "next", "_wait": "all"})
        assert records(answer) == [("f1", "failed"), ("f2", "cancelled")]
        assert "f2 write cancelled: not sent: f1 failed before it: refused; submit again if you still want it" in (
            words(answer)
        )
        assert state == {}


async def writes_at_once(it: Stage, *calls: Answer) -> None:
    """Send calls of `write` one after another without waiting for an answer."""

    async def write(arguments: Answer) -> None:
        await it.host.call("write", {"s": 1, **arguments, "_wait": "this"})

    async with anyio.create_task_group() as tg:
        for arguments in calls:
            tg.start_soon(write, arguments)
            await anyio.sleep(0.001)


@on_virtual_time
async def test_a_call_that_waits_for_a_name_keeps_its_place_in_the_order():
    """Text that looks like a name costs a moment, never the order of two writes to one file."""
    toy, state = files()
    async with stage(toy=toy, server=EFFECTS) as it:
        await writes_at_once(it, *({"path": "a", "text": text} for text in ("$HOME", "second", "third", "last")))
        assert state == {"a": "last"}


@on_virtual_time
async def test_who_is_behind_a_call_that_waits_for_a_name_keeps_its_place_too():
    """Also from those that do not touch what the first one touches."""
    toy, state = files()
    both = {"reads": (), "writes": ("fs/{path}", "fs/{other}")}
    async with stage(toy=toy, server={"tools": {"write": both}}) as it:
        await writes_at_once(
            it,
            {"path": "a", "other": "a", "text": "$HOME"},
            {"path": "b", "other": "a", "text": "second"},
            {"path": "b", "other": "c", "text": "third"},
        )
        assert state == {"a": "$HOME", "b": "third"}


@on_virtual_time
async def test_a_call_that_looks_for_the_names_to_wait_for_keeps_its_place():
    """`_wait` is no reason to be made later than a call that came later."""
    toy, state = files()
    async with stage(toy=toy, server=EFFECTS) as it:

        async def write(**arguments: Any) -> None:
            await it.host.call("write", {"path": "a", **arguments})

        async with anyio.create_task_group() as tg:
            tg.start_soon(lambda: write(text="first", _wait="other"))
            await anyio.sleep(0.001)
            tg.start_soon(lambda: write(text="second"))
            await anyio.sleep(0.001)
            tg.start_soon(lambda: it.host.call("echo", {"_as": "other"}))
        await it.host.call("read", {"path": "a", "_wait": "all"})
        assert state == {"a": "second"}


@on_virtual_time
async def test_a_call_whose_name_is_waited_for_passes_the_one_that_waits():
    """Directly, and where the one that it waits for waits for a third: else none of them would find its name."""
    toy, state = files()
    async with stage(toy=toy, server=EFFECTS) as it:
        await writes_at_once(
            it,
            {"path": "a", "text": "$s"},
            {"path": "b", "text": "$t", "_as": "s"},
            {"path": "a", "text": "first", "_as": "t"},
        )
        assert state == {"a": "written", "b": "written"}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio starts tasks in any order
async def test_a_call_that_waits_for_a_name_is_not_overtaken_by_the_next_line():
    """Calls that come in one piece are made in order where they touch the same state, however each is answered."""
    toy = Toy()
    into, out = Pipe(), Pipe()

    def line(number: int, method: str, params: Any) -> bytes:
        return format_message({"jsonrpc": "2.0", "id": number, "method": method, "params": params})

    def call(number: int, **arguments: Any) -> bytes:
        return line(number, "tools/call", {"name": "echo", "arguments": arguments})

    async with bridge_over(toy, policy={"writes": ("x",)}) as bridge, over_lines(bridge, into, out):
        into.send_now(call(2, v="$later") + call(3, v="next", _wait="this") + call(4, v="last"))
        await until(lambda: len(toy.got) == 3)
        assert [got.arguments["v"] for got in toy.got] == ["$later", "next", "last"]


@asynccontextmanager
async def over_lines(bridge: Bridge, into: Pipe, out: Pipe) -> AsyncGenerator[Peer]:
    """A client that has shaken hands over pipes, as over stdio; what it gets is in `out`, the answer to that first."""
    async with anyio.create_task_group() as tg:
        upstream = Upstream(bridge, LOCAL, pipe=True)
        await tg.start(upstream.run)
        peer = Peer(LineReader(into, never), LineWriter(out))
        tg.start_soon(_LineServer(upstream, peer).run)
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        into.send_now(format_message({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}))
        into.send_now(format_message({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        yield peer
        tg.cancel_scope.cancel()
    into.close()
    out.close()


# --- sync calls, which wait without a task -------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio starts tasks in any order
@pytest.mark.parametrize("token", [None, "p"])
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
        writer: Any = got.inbound._peer._writer
        writer._sink.send_now(b"".join(format_message({"jsonrpc": "2.0", **each}) for each in [*say, answer]))
        await anyio.sleep_forever()
        raise AssertionError

    toy.add("chatty", chatty)
    async with bridge_over(toy, policy={"mode": "sync"}) as bridge, over_lines(bridge, into, out):
        meta = {} if token is None else {"_meta": {"progressToken": token}}
        params = {"name": "chatty", "arguments": {}, **meta}
        into.send_now(format_message({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}))
        lines: list[Any] = []
        with anyio.fail_after(5):
            while not lines or lines[-1].get("id") != 2:
                lines += map(json.loads, (await out.receive()).splitlines())
        said = [line["params"].get("data", line["params"].get("progress")) for line in lines if "params" in line]
        assert said == ([1, 2] if token is None else [1, 2, 1])


@pytest.mark.anyio
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
                into.send_now(
                    format_message({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
                )
            with anyio.fail_after(5):
                answers = {answer["id"]: answer for answer in [json.loads(await out.receive()) for _ in range(4)]}
            assert answers[2]["result"]["structuredContent"] == {"arguments": {}}
            assert answers[3]["error"] == {"code": -32050, "message": "no", "data": {"why": 1}}
            assert answers[4]["result"]["isError"] is True
            assert not server._inbound
            assert not server._taskless
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
        into.send_now(format_message({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}))
        await until(lambda: toy.got)
        if how == "cancelled":
            params = {"requestId": 2}
            into.send_now(format_message({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}))
        else:
            into.close()
        await until(lambda: toy.cancelled)
        if how == "cancelled":
            into.send_now(format_message({"jsonrpc": "2.0", "id": 3, "method": "ping"}))
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


async def never(exc: MalformedMessage, line: bytes) -> None:
    raise AssertionError(f"{exc}: {line!r}")


# --- what is found once --------------------------------------------------------------------------------------------


def test_an_envelope_is_compared_with_the_last_one_alone():
    """Clients that take turns are told apart, and one that is malformed is refused between two that are not."""

    def saying(name: object, **capabilities: Any) -> dict[str, Any]:
        meta = {PROTOCOL_VERSION_META_KEY: "2026-07-28", CLIENT_CAPABILITIES_META_KEY: capabilities}
        return {"_meta": {**meta, CLIENT_INFO_META_KEY: {"name": name}, "progressToken": str(name)}}

    envelopes = _Envelopes()
    for _ in range(2):
        assert envelopes.read(saying("one", sampling={})) == ("2026-07-28", "one", {"sampling": {}})
        assert envelopes.read(saying("two")) == ("2026-07-28", "two", {})
        assert envelopes.read(saying("two")) == ("2026-07-28", "two", {})
        for wrong in (saying(2), {}, {"_meta": {}}, {"_meta": None}):
            with pytest.raises(RpcError):
                envelopes.read(wrong)
        assert envelopes.read(saying("two")) == ("2026-07-28", "two", {})


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_clock_of_a_loop_is_that_of_anyio(backend: str):
    """Which finds out which loop it is in, each time."""

    async def compare() -> None:
        clock = loop_clock()
        for _ in range(2):
            before = anyio.current_time()
            assert before <= clock() <= anyio.current_time()

    anyio.run(compare, backend=backend)


@on_virtual_time
async def test_an_effect_is_fixed_only_where_arguments_do_not_matter():
    """And a tool that is listed anew has its effect found anew."""
    toy = Toy()
    tools = {"echo": {"reads": ["a/{path}"], "writes": []}, "sleep": {"reads": [], "writes": ["a"]}}
    async with bridge_over(toy, server={"tools": tools}) as bridge:
        assert bridge.wirings["echo"].fixed_effect is None
        fixed = bridge.wirings["sleep"].fixed_effect
        assert fixed is not None
        assert fixed.writes == (("toy", "a"),)
        assert bridge.wirings["gate"].fixed_effect is not None
        toy.listing[2] = {**toy.listing[2], "annotations": {"readOnlyHint": True}}
        before = bridge.wirings["fail"].fixed_effect
        await toy.changed()
        await anyio.sleep(5)
        assert bridge.wirings["sleep"].fixed_effect == fixed
        assert bridge.wirings["fail"].fixed_effect != before
