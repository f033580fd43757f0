"""What clients and servers choose, at readers of the record: texts of any length, arguments that must not be shown, and
readers beside each other."""

from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.core.futures import Event, Future
from asyncfc_mcp.core.identity import LOCAL, PUBLIC, CallerIdentity, Principal
from asyncfc_mcp.core.waits import Wait, WaitKind
from asyncfc_mcp.engine.blockers import PATH_LENGTH
from asyncfc_mcp.monitor.entries import entry_of
from asyncfc_mcp.monitor.shared import Shared
from asyncfc_mcp.monitor.turns_of import TurnsOf
from asyncfc_mcp.values.text import encode
from tests.monitor.test_monitor import monitored
from tests.support.virtual_time import on_virtual_time, settle


def a_future(text: str, **more: Any) -> Future:
    waits = (Wait(WaitKind.STATE, "f1", text),)
    return Future("f2", LOCAL, text, "s", name=text, caller=CallerIdentity(text), waits=waits, **more)


@given(st.text(st.characters(), min_size=1), st.sampled_from([None, Event.START, Event.CANCEL]))
def test_an_entry_is_small_and_can_be_written(text: str, event: Event | None):
    """However long its texts are: a reader gets thousands of entries at once."""
    text *= 100_000 // len(text)
    future = a_future(text)
    future.progress = (1, None, text)
    if event is not None:
        future.apply(event)
    assert len(encode(entry_of(future, 0.0, (("f1",), f"same state {text}")))) < 60_000


@given(st.text("; s/\n", max_size=5))
def test_the_entry_of_a_private_call_has_nothing_of_its_arguments(between: str):
    """Neither in the state that it waits for, whatever the path is, nor in what the server says about it."""
    path = f"{between}hunter2{between}hunter2"
    future = a_future("t", private=True)
    future.waits = (Wait(WaitKind.STATE, "f1", path),)
    future.progress = (1, 2, "doing hunter2")
    entry = entry_of(future, 0.0, (("f1",), f"needs the result; same state {path}"))
    assert "hunter2" not in str(entry)
    assert entry["waiting_for"] == {"ids": ["f1"], "why": "needs the result; same state"}
    assert entry["progress"] == {"done": 1, "total": 2, "message": None}


@on_virtual_time
async def test_a_long_state_path_is_kept_once():
    """In the arguments of the call, and not in each of the calls behind it."""
    path = "y" * 100_000
    async with monitored(policy={"writes": ["{text}"]}) as (it, monitor):
        for _ in range(2):
            await it.host.call("gate", {"name": "g", "text": path})
        entry = await monitor.call(Principal(LOCAL), "f2")
        assert entry["arguments"]["text"].startswith("yyy")
        assert 0 < len(entry["waits"][0]["path"]) <= PATH_LENGTH
        assert len(entry["waiting_for"]["why"]) <= PATH_LENGTH + 20


@on_virtual_time
async def test_where_nobody_is_authenticated_nothing_is_counted():
    """Not even how much others do."""
    async with monitored() as (_, monitor):
        done = Future("f" + "1" * 32, PUBLIC, "t", "s", started_at=1.0, ended_at=2.0)
        monitor._savings.add(done)  # pyright: ignore[reportPrivateUsage]
        overview = await monitor.overview(Principal(PUBLIC))
        assert overview["saved"]["calls"] == {"session": 0, "day": 0, "all": 0}
        assert overview["counts"] == {"waiting": 0, "running": 0, "input_required": 0}


@on_virtual_time
async def test_readers_beside_each_other_have_one_value():
    """It is computed once for all of them, and again when it is old; one that fails or leaves holds up nobody."""
    computed: list[str] = []
    fails = True

    async def compute(key: str) -> int:
        computed.append(key)
        await anyio.sleep(1)
        if fails:
            raise RuntimeError
        return len(computed)

    shared = Shared(compute, 10, most=4)
    with pytest.raises(RuntimeError):
        await shared.get("a")
    fails = False
    with anyio.move_on_after(0.5):
        await shared.get("a")
    computed.clear()
    async with anyio.create_task_group() as tg:
        for _ in range(20):
            tg.start_soon(shared.get, "a")
        for key in "bcd":
            tg.start_soon(shared.get, key)
    assert sorted(computed) == ["a", "b", "c", "d"]
    await anyio.sleep(10)
    await shared.get("a")
    assert computed.count("a") == 2
    for key in "efgh":
        await shared.get(key)
    await shared.get("a")
    assert computed.count("a") == 3, "the number of values is bounded"


@on_virtual_time
async def test_one_principal_does_not_make_others_wait_for_its_searches():
    """However many it asks for: its own wait for each other. One that leaves makes room."""
    turns, began = TurnsOf[str](2), list[str]()

    async def search(who: str) -> None:
        async with turns.turn(who):
            began.append(who)
            await anyio.sleep(1)

    async with anyio.create_task_group() as tg:
        for _ in range(100):
            tg.start_soon(search, "eve")
        await settle()
        tg.start_soon(search, "ann")
        await settle()
        assert began == ["eve", "eve", "ann"]
        await anyio.sleep(1.5)
        assert began.count("eve") == 4
        tg.cancel_scope.cancel()
    assert len(turns) == 0
