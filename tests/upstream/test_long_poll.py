"""Progress, heartbeats and learned time-outs of clients that wait, over a whole bridge on virtual time."""

from itertools import pairwise
from typing import Any

import anyio
import pytest

from asyncfc_mcp.core.futures import Event, Future
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.upstream import long_poll
from tests.support.inprocess_client import ERAS, SYNC, Answer, Progress, Took, stage, words
from tests.support.inprocess_server import Got, Toy, text_result
from tests.support.virtual_time import on_virtual_time

# --- progress and patience -------------------------------------------------------------------------------------------


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
        assert words(answer) == 'f1 running, 1/3 "one". Result: await_future f1'
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


@pytest.mark.parametrize("several", [False, True])
def test_futures_that_keep_saying_something_do_not_silence_the_heartbeat(several: bool) -> None:
    """The interval counts from the last report, not from the last change; and the numbers grow."""

    @on_virtual_time
    async def check() -> None:
        store = FutureStore(anyio.current_time)
        futures: list[Future] = []
        for _ in range(2 if several else 1):
            futures.append(store.create(LOCAL, tool="t", server="s"))
            futures[-1].apply(Event.START)
        reports: list[tuple[float, float]] = []

        async def report(progress: float, total: float | None = None, message: str | None = None) -> None:
            reports.append((anyio.current_time(), progress))

        async def chatter() -> None:
            while True:
                for future in futures:
                    future.progress = (1.0, None, "the same")
                    future.changed()
                await anyio.sleep(0.7)

        began = anyio.current_time()
        async with anyio.create_task_group() as tg:
            tg.start_soon(chatter)
            tg.start_soon(long_poll.send_progress, futures, report, 5.0)
            await anyio.sleep(60)
            tg.cancel_scope.cancel()
        times = [began, *(at for at, _ in reports)]
        assert max(later - earlier for earlier, later in pairwise(times)) < 7
        assert len(reports) < 20
        numbers = [progress for _, progress in reports]
        assert numbers == sorted(set(numbers))

    check()
