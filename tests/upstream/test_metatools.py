"""The bridge's own tools, over a whole bridge on virtual time."""

from itertools import pairwise
from typing import Any

import anyio
import pytest

from asyncfc_mcp.core.identity import LOCAL
from tests.support.inprocess_client import ERAS, Answer, Progress, Took, records, stage, words
from tests.support.inprocess_server import Toy, text_result
from tests.support.virtual_time import on_virtual_time, settle

# --- our own tools ---------------------------------------------------------------------------------------------------


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
        assert not it.bridge.engine.get_nowait(LOCAL, "f1").watchers, "a wait that ended is remembered"


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
        scheduler = it.bridge.engine._scheduler
        scheduler._runner._attempts._execute, scheduler._runner._execute_nowait = stubborn, None
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


@pytest.mark.parametrize(
    ("sizes", "largest"),
    [((), None), ((1000, 300_000, 20), 300_000), ((0, -5, True, "900000", None, 2.5), None), ((0, 7), 7)],
)
@pytest.mark.parametrize("era", ERAS)
@on_virtual_time
async def test_hosts_find_our_tools_and_give_their_results_as_much_room_as_the_servers_ask_for(
    era: str, sizes: tuple[Any, ...], largest: int | None
):
    """Never behind a tool search; those that bring results have the largest size of the wrapped tools, which keep their
    own, with what they ask for in vain."""
    toy = Toy()
    for number, size in enumerate(sizes):
        toy.add(f"t{number}", toy.tools["echo"], _meta={"anthropic/maxResultSizeChars": size, "vendor/x": number})
    async with stage(era, toy=toy) as it:
        tools = {tool["name"]: tool.get("_meta") for tool in (await it.host.request("tools/list"))["tools"]}
    results = {} if largest is None else {"anthropic/maxResultSizeChars": largest}
    assert tools["await_future"] == tools["gather"] == {"anthropic/alwaysLoad": True} | results
    assert tools["cancel_future"] == tools["list_futures"] == {"anthropic/alwaysLoad": True}
    for number, size in enumerate(sizes):
        assert tools[f"t{number}"] == {"anthropic/maxResultSizeChars": size, "vendor/x": number}
    assert tools["echo"] is None
