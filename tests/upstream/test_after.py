"""`_after`, and names that no call has taken, over a whole bridge on virtual time: calls sent, and answers."""

import random
from typing import Any

import anyio
import pytest

from tests.support.inprocess_client import ERAS, KNOWN, UNKNOWN, Answer, Host, Took, records, stage, words
from tests.support.inprocess_server import Got, Toy, text_result
from tests.support.virtual_time import on_virtual_time

LOCKED = {"why": "all doors must be locked"}


def results(answer: Answer) -> list[tuple[str, str]]:
    """Name or tool, and status, of each result of an answer in the shape of `gather`."""
    return [(each.get("name") or each["tool"], each["status"]) for each in answer["structuredContent"]["results"]]


async def together(host: Host, *calls: tuple[str, Answer], pause_s: float = 0.001) -> list[Answer]:
    """Send calls at the same time, one shortly after the other, and return their answers in this order."""
    answers: dict[int, Answer] = {}

    async def call(number: int, tool: str, arguments: Answer) -> None:
        answers[number] = await host.call(tool, arguments)

    async with anyio.create_task_group() as tg:
        for number, (tool, arguments) in enumerate(calls):
            tg.start_soon(call, number, tool, arguments)
            await anyio.sleep(pause_s)
    return [answers[number] for number in range(len(calls))]


# --- order and failure ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("after", ["a, f2", ["a", "f2"], '["$a", "f2"]', "$a $f2", ["a, f2"], "a.result, f2"])
@on_virtual_time
async def test_a_call_starts_when_those_that_it_names_have_completed(era: str, after: Any):
    """IDs and names, as text or as a list; the handle says what it waits for."""
    async with stage(era) as it:
        await it.host.call("sleep", {"s": 1, "_as": "a"})
        await it.host.call("sleep", {"s": 2})
        answer = await it.host.call("echo", {"v": 1, "_after": after})
        assert words(answer) == "f3 waiting, waits for f1, f2 (_after). Result: await_future f3"
        assert answer["structuredContent"]["waiting_for"] == ["f1", "f2"]
        assert answer["_meta"]["asyncfc/futures"][0]["after"] == ["f1", "f2"]
        listed = await it.host.call("list_futures")
        assert "f3 echo waiting, waits for f1, f2 (_after)" in words(listed)
        assert listed["structuredContent"]["futures"][0]["after"] == ["f1", "f2"]
        with Took() as took:
            assert words(await it.host.outcome("f3")) == '{"v": 1}'
        assert took.seconds == pytest.approx(2, abs=0.1)


@on_virtual_time
async def test_a_call_is_not_sent_after_a_failure_down_the_chain():
    """The reason names the call, its ID, and what it said; a failure before the call is made counts as well."""
    async with stage() as it:
        gate = await together(
            it.host,
            ("fail", {**LOCKED, "_as": "engine"}),
            ("echo", {"_as": "tweet", "_after": "engine"}),
            ("echo", {"_after": ["tweet"]}),
        )
        assert "not sent: engine (f1) failed: all doors must be locked" in words(gate[1])
        assert "not sent: tweet (f2) failed (because of f1): all doors must be locked" in words(gate[2])
        assert gate[1]["isError"] is True
        assert [got.tool for got in it.toy.got] == ["fail"]


@pytest.mark.parametrize("mode", ["future", "sync"])
@on_virtual_time
async def test_sync_calls_follow_as_well(mode: str):
    """Their answer is the result, later, or the reason."""
    async with stage(policy={"grace_ms": 0}, server={"tools": {"echo": {"mode": mode}}}) as it:
        await it.host.call("sleep", {"s": 3, "_as": "a"})
        with Took() as took:
            answer = await it.host.call(
                "echo", {"v": 1, "_after": "a", **({} if mode == "sync" else {"_wait": "this"})}
            )
        assert took.seconds == pytest.approx(3)
        assert '{"v": 1}' in words(answer)
        assert it.toy.got[-1].arguments == {"v": 1}
        await it.host.call("fail", {"_as": "bad", **LOCKED})
        answer = await it.host.call("echo", {"_after": "bad", **({} if mode == "sync" else {"_wait": "this"})})
        assert answer["isError"] is True
        assert "not sent: bad (f3) failed: all doors must be locked" in words(answer)
        answer = await it.host.call("echo", {"_after": "nothing"})
        assert "Nothing was sent" in words(answer)


@on_virtual_time
async def test_a_tools_own_argument_of_that_name_is_its_own():
    """As with `_as` and `_wait`."""
    toy = Toy()
    toy.add("mine", toy._echo, schema={"type": "object", "properties": {"_after": {"type": "string"}}})
    async with stage(toy=toy) as it:
        await it.host.call("mine", {"_after": "nothing that exists", "_wait": "this"})
        assert it.toy.got[-1].arguments == {"_after": "nothing that exists"}


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ("all", "_after must be IDs and names of calls"),
        (["This"], "_after must be IDs and names of calls"),
        (7, "_after must be IDs and names of calls"),
        ({"x": 1}, "_after must be IDs and names of calls"),
        ("f9", "no call has the name 'f9', which _after needs"),
        ("nothing", "no call has the name 'nothing', which _after needs"),
    ],
)
@on_virtual_time
async def test_what_no_call_is_named_refuses_the_call(after: Any, said: str):
    """With words, and nothing was sent."""
    async with stage() as it:
        answer = await it.host.call("echo", {"_after": after})
        assert answer["isError"] is True
        assert said in words(answer)
        assert "Nothing was sent" in words(answer)
        assert it.toy.got == []


@pytest.mark.parametrize("after", ["", None, [], "null", "none", False])
@on_virtual_time
async def test_an_empty_value_follows_nothing(after: Any):
    async with stage() as it:
        answer = await it.host.call("echo", {"v": 1, "_after": after})
        assert records(answer) == [("f1", "completed")]
        assert it.toy.got[-1].arguments == {"v": 1}


@pytest.mark.parametrize(
    "calls",
    [
        {"a": {"_after": "b"}, "b": {"_after": "a"}},
        {"a": {"_after": "b"}, "b": {"v": "$c"}, "c": {"_after": "x, a"}, "x": {}},
        {"a": {"_after": "a"}},
    ],
)
@on_virtual_time
async def test_a_cycle_is_refused_with_the_cycle(calls: dict[str, Answer]):
    """Mixed with references; nothing of it is sent."""
    async with stage() as it:
        answers = await together(it.host, *(("echo", {**more, "_as": name}) for name, more in calls.items()))
        refused = [answer for answer, name in zip(answers, calls, strict=True) if name != "x"]
        for answer in refused:
            assert answer["isError"] is True
            assert "these calls wait for each other: " in words(answer)
            assert "Nothing was sent" in words(answer)
        assert len(it.toy.got) == len(calls) - len(refused)


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_the_calls_of_a_turn_may_arrive_in_any_order(era: str, seed: int):
    """Names are waited for, by calls and by the bridge's own tools."""
    calls: list[tuple[str, Answer]] = [
        ("sleep", {"s": 1, "_as": "a"}),
        ("echo", {"v": "b", "_as": "b", "_after": "a"}),
        ("fail", {**LOCKED, "_as": "c", "_after": ["b"]}),
        ("echo", {"v": "d", "_as": "d", "_after": "c"}),
        ("echo", {"v": "$b.arguments.v", "_as": "e", "_after": "a, b"}),
        ("gather", {"future_ids": "a, b, c, d, e"}),
        ("await_future", {"future_id": "e"}),
    ]
    shuffled = random.Random(seed).sample(calls, len(calls))
    async with stage(era) as it:
        answers = await together(it.host, *shuffled, pause_s=0.06)
        gathered = answers[shuffled.index(calls[5])]
        assert results(gathered) == [
            ("a", "completed"), ("b", "completed"), ("c", "failed"), ("d", "failed"), ("e", "completed"),
        ]  # fmt: skip
        assert "not sent: c (f" in words(gathered)
        assert words(answers[shuffled.index(calls[6])]) == '{"v": "b"}'
        assert sorted(got.tool for got in it.toy.got) == ["echo", "echo", "fail", "sleep"]
        sent = [got.arguments.get("v") or got.tool for got in it.toy.got]
        assert sent[:2] == ["sleep", "b"]


@pytest.mark.parametrize("value", ["$tweet", "$tweet.id", "$rows[0]", "${f:tweet.id}", ["$tweet.id"], "$f9"])
@on_virtual_time
async def test_an_argument_that_can_only_be_a_reference_is_not_sent_as_text(value: Any):
    """After half a second; the refusal names it, and how to send the text."""
    async with stage() as it:
        with Took() as took:
            answer = await it.host.call("echo", {"text": value})
        assert took.seconds == pytest.approx(0 if "f9" in value else 0.5)
        assert answer["isError"] is True
        written = value[0] if isinstance(value, list) else value
        assert f"which {written} needs" in words(answer)
        assert f"For the text itself, write ${written}. Nothing was sent" in words(answer)
        assert it.toy.got == []
        if not written.startswith("${"):
            escaped = ["$" + written] if isinstance(value, list) else "$" + written
            await it.host.call("echo", {"text": escaped})
            assert it.toy.got[-1].arguments == {"text": value}


@on_virtual_time
async def test_a_name_that_exists_is_taken_while_it_is_about_to_be_taken_again():
    """The call that was received before means the new one, not the finished one of an earlier turn."""
    async with stage() as it:
        await it.host.call("echo", {"v": "old", "_as": "n"})
        answers = await together(
            it.host,
            ("echo", {"v": "${f:late} new", "_as": "n"}),  # waits a moment for `late`
            ("echo", {"v": "$n.arguments.v", "_wait": "this"}),
        )
        assert '"${f:late} new"' in words(answers[1])


# --- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_a_call_that_is_not_sent_brings_all_results_that_it_was_asked_for(era: str):
    """Its own is the reason; whether it has a future, or was refused."""
    async with stage(era) as it:
        await it.host.call("sleep", {"s": 1, "_as": "a"})
        await it.host.call("fail", {**LOCKED, "_as": "engine"})
        await it.host.call("sleep", {"s": 2, "_as": "b"})
        answer = await it.host.call("echo", {"_as": "tweet", "_after": "engine", "_wait": "a, b"})
        assert results(answer) == [("a", "completed"), ("b", "completed"), ("tweet", "failed")]
        reason = "not sent: engine (f2) failed: all doors must be locked"
        assert answer["structuredContent"]["results"][-1]["error"] == reason
        assert reason in words(answer)
        assert "slept 2" in words(answer)
        for more in ({"_after": "nothing"}, {"text": "$nothing.id"}, {"_as": "all"}, {"_after": "all"}):
            refused = await it.host.call("echo", {**more, "_wait": "a, b"})
            assert results(refused) == [("a", "completed"), ("b", "completed"), ("echo", "failed")]
            assert "not sent: " in refused["structuredContent"]["results"][-1]["error"]
            assert "slept 2" in words(refused)
        unknown = await it.host.call("echo", {"_wait": "a, nothing"})
        assert results(unknown) == [("a", "completed"), ("echo", "failed")]
        assert words(unknown).count("Unknown future 'nothing'") == 1
        assert not [got for got in it.toy.got if got.tool == "echo"]


@on_virtual_time
async def test_a_refused_call_that_waits_for_all_brings_all():
    """As the last call of a turn whose order matters."""
    async with stage() as it:
        await it.host.call("sleep", {"s": 1, "_as": "a"})
        answer = await it.host.call("echo", {"_after": "nothing", "_wait": "all"})
        assert results(answer) == [("a", "completed"), ("echo", "failed")]
        assert answer["structuredContent"]["open"] == 0
        alone = await it.host.call("echo", {"_after": "nothing", "_wait": "all"})
        assert alone["isError"] is True
        assert "Nothing was sent" in words(alone)


@on_virtual_time
async def test_an_answer_has_one_shape_for_one_result_and_for_several():
    """That of what was asked for."""
    async with stage() as it:
        alone = await it.host.call("echo", {"_as": "a", "_wait": "all"})
        assert results(alone) == [("a", "completed")]
        assert results(await it.host.call("gather", {"future_ids": "a"})) == [("a", "completed")]
        again = await it.host.call("echo", {"_as": "b", "_wait": "a"})
        assert results(again) == [("a", "completed"), ("b", "completed")]
        assert (await it.host.call("echo", {"_wait": "this"}))["structuredContent"]["status"] == "completed"


@on_virtual_time
async def test_waiting_for_all_says_how_many_are_open():
    """Where the wait's bound comes first."""
    async with stage(max_wait_s=5) as it:
        await it.host.call("sleep", {"s": 100})
        answer = await it.host.call("sleep", {"s": 1, "_wait": "all"})
        assert answer["structuredContent"]["open"] == 1
        assert words(answer).endswith("1 of 2 calls are still open; gather brings them.")
        answer = await it.host.call("sleep", {"s": 1, "_wait": "all"})
        assert answer["structuredContent"]["open"] == 1


@on_virtual_time
async def test_waiting_for_all_brings_calls_that_could_not_be_submitted_yet():
    """Received before, and waiting for names, or for the list of their server's tools."""
    async with stage() as it:
        it.bridge.directory.routes = {
            name: route for name, route in it.bridge.directory.routes.items() if name != "gate"
        }
        waited = it.bridge.directory.wait_for_tool

        async def wait_for_tool(name: str) -> Any:
            if name == "gate":
                await anyio.sleep(2)
                name = "sleep"
            return await waited(name)

        it.bridge.directory.wait_for_tool = wait_for_tool
        answers = await together(
            it.host,
            ("sleep", {"s": 3, "v": "${f:late} text", "_as": "a"}),
            ("gate", {"s": 3, "_as": "starting"}),
            ("sleep", {"s": 1, "_after": "starting", "_as": "behind"}),
            ("sleep", {"s": 1, "_as": "last", "_wait": "all"}),
        )
        assert sorted(results(answers[3])) == [
            ("a", "completed"), ("behind", "completed"), ("last", "completed"), ("starting", "completed"),
        ]  # fmt: skip
        assert results(answers[3])[-1] == ("last", "completed")
        assert answers[3]["structuredContent"]["open"] == 0


@pytest.mark.parametrize("name", [KNOWN, UNKNOWN])
@pytest.mark.parametrize("taken", ["all", "All", "THIS", "this", ["all"], '"all"', "$all"])
@on_virtual_time
async def test_words_of_wait_are_no_names(taken: Any, name: str):
    """They could not be waited for."""
    async with stage(name=name) as it:
        answer = await it.host.call("echo", {"_as": taken})
        assert answer["isError"] is True
        assert "not 'all' or 'this'" in words(answer)
        assert words(answer).endswith("Nothing was sent.")
        assert it.toy.got == []


@on_virtual_time
async def test_every_refusal_says_that_nothing_was_sent():
    """Whatever is wrong."""

    async def forever(got: Got) -> Answer:
        await anyio.sleep_forever()
        return text_result("")

    toy = Toy()
    toy.add("forever", forever)
    async with stage(toy=toy, max_pending=2) as it:
        await it.host.call("forever", {"_as": "n"})
        for arguments in (
            {"_as": "n"},
            {"_as": "a b"},
            {"_wait": 7},
            {"_wait": "nothing"},
            {"_after": "nothing"},
            {"text": "$nothing.x"},
        ):
            answer = await it.host.call("echo", arguments)
            assert answer["isError"] is True
            assert "othing was sent" in words(answer), words(answer)
        await it.host.call("forever")
        assert "Nothing was sent" in words(await it.host.call("echo"))
        assert [got.tool for got in it.toy.got] == ["forever", "forever"]
