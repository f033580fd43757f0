"""Calls over a whole bridge on virtual time: results unchanged, names and references, the order of submission."""

import json
from posixpath import normpath
from typing import Any

import anyio
import pytest

from asyncfc_mcp.jsonrpc.codec import format_message
from asyncfc_mcp.upstream.answers import META_KEY
from asyncfc_mcp.upstream.callers import CONVERSATION_KEY
from tests.support.inprocess_client import (
    ERAS,
    SERVER_INFO,
    Answer,
    Stage,
    Took,
    over_lines,
    records,
    stage,
    words,
)
from tests.support.inprocess_server import Got, Pipe, Toy, bridge_over, text_result
from tests.support.virtual_time import on_virtual_time, until

# --- results unchanged -----------------------------------------------------------------------------------------------

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


# --- names and references --------------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_call_can_be_named_and_its_value_passed_on():
    """By name and by ID, with a path, inside text, before the value is there."""
    async with stage() as it:
        answer = await it.host.call("sleep", {"s": 5, "_as": "nap"})
        assert words(answer) == "f1 (nap) running. Result: await_future f1"
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
        assert words(handle) == "f3 (slow) running (put in: page = f1). Result: await_future f3"
        behind = await it.host.call("echo", {"x": "$slow"})
        assert "f4 waiting (put in: slow = f3), waits for f3. " in words(behind)
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
        assert "The name 'n' belongs to f1, which is unfinished" in words(answer)
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
        assert "is not a valid name for a future: use a letter, then letters, digits" in words(answer)
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
async def test_a_name_that_nobody_takes_stays_literal_where_it_may_be_text():
    """After `forward_wait_ms`, as a variable and inside text; without braces text is no reference."""
    async with stage(forward_wait_ms=80) as it:
        with Took() as took:
            await it.host.call("echo", {"a": "$LATER"})
        assert took.seconds == pytest.approx(0.08)
        assert it.toy.got[0].arguments == {"a": "$LATER"}
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


# --- ordering, end to end --------------------------------------------------------------------------------------------


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
        assert "f2 write cancelled: not sent: f1 failed before it: refused; call again if it is still needed" in (
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
        into.send_nowait(call(2, v="${f:late}r") + call(3, v="next", _wait="this") + call(4, v="last"))
        await until(lambda: len(toy.got) == 3)
        assert [got.arguments["v"] for got in toy.got] == ["${f:late}r", "next", "last"]
