"""Calls answered with a handle: grace, `_wait`, and inline delivery, over a whole bridge on virtual time."""

from typing import Any

import anyio
import pytest

from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.upstream.callers import CONVERSATION_KEY
from tests.support.inprocess_client import ERAS, KNOWN, UNKNOWN, Answer, Took, records, stage, words
from tests.support.inprocess_server import Got, Toy, text_result
from tests.support.virtual_time import on_virtual_time

# --- handles and grace -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_slow_call_is_answered_with_a_handle_after_the_grace(era: str):
    """25 ms, to the millisecond; the call goes on by itself."""
    async with stage(era) as it:
        with Took() as took:
            answer = await it.host.call("sleep", {"s": 10})
        assert took.seconds == pytest.approx(0.025)
        assert words(answer) == "f1 running. Result: await_future f1"
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
        assert words(answer) == "f2 waiting (put in: f1), waits for f1. Result: await_future f2"
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


# --- waiting in the call ---------------------------------------------------------------------------------------------


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
@pytest.mark.memory_engine
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


# --- inline delivery -------------------------------------------------------------------------------------------------


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
        it.bridge.engine.cancel_nowait(it.bridge.engine.get_nowait(LOCAL, "f2"))
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
