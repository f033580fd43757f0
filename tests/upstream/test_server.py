"""The server that clients see, over a whole bridge: introduction, envelopes, scopes, errors, both protocol eras.

In one process and on virtual time: the client is the SDK's, the downstream a toy of the test. What is said goes through
the real server, bridge, scheduler and downstream; only processes and sockets are missing.
"""

import json
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp_types import Implementation

from asyncfc_mcp.config.hosts import PROFILES, profile_for
from asyncfc_mcp.config.hosts import UNKNOWN as HOST_UNKNOWN
from asyncfc_mcp.core.identity import LOCAL_PRINCIPAL, PUBLIC, Scope
from asyncfc_mcp.engine.clock import loop_clock
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY
from asyncfc_mcp.transports.sdk_adapter import sdk_server
from asyncfc_mcp.upstream.envelope import EnvelopeReader
from asyncfc_mcp.upstream.server import Upstream
from tests.support.inprocess_client import (
    ERAS,
    KNOWN,
    SERVER_INFO,
    UNKNOWN,
    Answer,
    Host,
    Took,
    connected,
    records,
    stage,
    words,
)
from tests.support.inprocess_server import Toy, bridge_over, text_result
from tests.support.virtual_time import on_virtual_time

# --- introduction ----------------------------------------------------------------------------------------------------


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
        for word in (
            "_wait",
            "_as",
            "_after",
            "$x",
            "$f1",
            "${f:",
            "JMESPath",
            "gather",
            "await_future",
            "list_futures",
        ):
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
        types = {str(schema) for schema in listed["tools"][4]["inputSchema"]["properties"].values()}
        assert types == {"{}" if profile_for(KNOWN, {}).untyped_arguments else "{'type': 'string'}"}
        ours = {tool["name"]: tool for tool in listed["tools"][:4]}
        for name in ("await_future", "gather", "list_futures"):
            assert ours[name]["annotations"]["readOnlyHint"] is True
        assert ours["cancel_future"]["annotations"]["readOnlyHint"] is False
        assert len(json.dumps(listed["tools"][:4], separators=(",", ":"))) / 4 < 450
        echo = listed["tools"][4]
        assert echo["annotations"] == {"readOnlyHint": True}
        assert set(echo["inputSchema"]["properties"]) == {"_as", "_after", "_wait"}


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


# --- who sees what ---------------------------------------------------------------------------------------------------


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
            assert "There are no futures yet" in words(answer)
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


# --- errors and changes ----------------------------------------------------------------------------------------------


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
        upstream = Upstream(bridge)
        async with anyio.create_task_group() as tg:
            await tg.start(upstream.run)
            async with Client(
                sdk_server(upstream, LOCAL_PRINCIPAL), mode="legacy", message_handler=hear, cache=None
            ) as client:
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
        upstream = Upstream(bridge)
        async with anyio.create_task_group() as tg:
            await tg.start(upstream.run)
            for _ in range(2):
                async with Client(
                    sdk_server(upstream, LOCAL_PRINCIPAL), mode=era, cache=None, client_info=info
                ) as client:
                    await Host(client).call("sleep", {"s": 20})
            async with Client(sdk_server(upstream, LOCAL_PRINCIPAL), mode=era, cache=None, client_info=info) as client:
                assert words(await Host(client).outcome("f1")) == "slept 20"
                assert toy.cancelled == []
            tg.cancel_scope.cancel()


# --- what is found once ----------------------------------------------------------------------------------------------


def test_an_envelope_is_compared_with_the_last_one_alone():
    """Clients that take turns are told apart, and one that is malformed is refused between two that are not."""

    def saying(name: object, **capabilities: Any) -> dict[str, Any]:
        meta = {PROTOCOL_VERSION_META_KEY: "2026-07-28", CLIENT_CAPABILITIES_META_KEY: capabilities}
        return {"_meta": {**meta, CLIENT_INFO_META_KEY: {"name": name}, "progressToken": str(name)}}

    envelopes = EnvelopeReader()
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
        assert bridge.directory.routes["echo"].fixed_effect is None
        fixed = bridge.directory.routes["sleep"].fixed_effect
        assert fixed is not None
        assert fixed.writes == (("toy", "a"),)
        assert bridge.directory.routes["gate"].fixed_effect is not None
        toy.listing[2] = {**toy.listing[2], "annotations": {"readOnlyHint": True}}
        before = bridge.directory.routes["fail"].fixed_effect
        await toy.changed()
        await anyio.sleep(5)
        assert bridge.directory.routes["sleep"].fixed_effect == fixed
        assert bridge.directory.routes["fail"].fixed_effect != before
