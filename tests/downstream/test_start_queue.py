"""Servers start a few at a time, in the order in which they are needed."""

from collections.abc import Mapping
from unittest.mock import patch

import anyio
import anyio.lowlevel
import pytest

from asyncfc_mcp.downstream import start_queue
from asyncfc_mcp.downstream.start_queue import CLIENT_WAIT_S, MAX_UNQUEUED, SLOT_S, StartQueue
from asyncfc_mcp.downstream.supervisor import Status
from tests.support.inprocess_server import Toy, bridge_over
from tests.support.virtual_time import on_virtual_time, settle


class Starts:
    """Servers that ask to be started, and those that were."""

    def __init__(self, servers: int) -> None:
        self.began: list[str] = []
        self.at: dict[str, float] = {}
        self.queue = StartQueue(servers)

    @classmethod
    async def of(cls, tg: anyio.abc.TaskGroup, servers: Mapping[str, bool], *, light: bool = False) -> "Starts":
        starts = cls(len(servers))
        for name, known in servers.items():
            tg.start_soon(starts._start, name, known, light)
            await settle()  # tasks of trio begin in any order
        return starts

    async def _start(self, name: str, known: bool, light: bool) -> None:
        await self.queue.enter(name, known=known, light=light)
        self.began.append(name)
        self.at[name] = anyio.current_time()


def named(count: int, known: bool) -> dict[str, bool]:
    return {f"s{number}": known for number in range(count)}


@on_virtual_time
async def test_a_few_servers_start_start_slots():
    """Known or not, and nothing is waited for."""
    async with anyio.create_task_group() as tg:
        starts = await Starts.of(tg, named(MAX_UNQUEUED, known=True))
        await anyio.lowlevel.checkpoint()
        assert len(starts.began) == MAX_UNQUEUED


@on_virtual_time
async def test_many_start_a_few_at_a_time():
    """The next when one is up or has failed; one that does neither keeps its place for a bounded time."""
    with patch.object(start_queue, "start_slots", lambda: 2):
        async with anyio.create_task_group() as tg:
            starts = await Starts.of(tg, named(5, known=False))
            began = anyio.current_time()
            await anyio.sleep(0.1)
            assert starts.began == ["s0", "s1"]
            starts.queue.leave("s1")
            await anyio.sleep(0.1)
            assert starts.began == ["s0", "s1", "s2"]
            starts.queue.leave("s1")  # it restarts, and that is no place
            await anyio.sleep(0.1)
            assert len(starts.began) == 3
            await anyio.sleep(10)
            assert starts.at["s3"] - began == SLOT_S
            assert starts.began == ["s0", "s1", "s2", "s3", "s4"]


@on_virtual_time
async def test_known_servers_start_after_the_client_was_answered():
    """Those of which nothing is known start before; where no client asks, all start after a moment."""
    with patch.object(start_queue, "start_slots", lambda: 2):
        async with anyio.create_task_group() as tg:
            starts = await Starts.of(tg, {**named(4, known=True), "new": False})
            await anyio.sleep(0.5)
            assert starts.began == ["new"]
            starts.queue.on_client_answered()
            await anyio.sleep(0.1)
            assert starts.began == ["new", "s0"]
            tg.cancel_scope.cancel()
        async with anyio.create_task_group() as tg:
            starts = await Starts.of(tg, named(4, known=True))
            began = anyio.current_time()
            await anyio.sleep(CLIENT_WAIT_S + 0.1)
            assert starts.began == ["s0", "s1"]
            assert starts.at["s0"] - began == CLIENT_WAIT_S
            tg.cancel_scope.cancel()


@on_virtual_time
async def test_a_call_moves_the_server_that_it_waits_for_to_the_front():
    """Even before the client was answered, and before those of which nothing is known."""
    with patch.object(start_queue, "start_slots", lambda: 2):
        async with anyio.create_task_group() as tg:
            starts = await Starts.of(tg, {**named(4, known=True), "new": False, "newer": False, "newest": False})
            await anyio.sleep(0.1)
            assert starts.began == ["new", "newer"]
            starts.queue.prioritize("s3")
            await anyio.sleep(0.1)
            assert starts.began[2:] == ["s3"], "it waited for what others start"
            for name in ("s0", "s1"):
                starts.queue.prioritize(name)
            await anyio.sleep(0.1)
            assert starts.began[3:] == ["s0"], "so many calls start no more than twice as many servers at a time"
            starts.queue.leave("new")
            await anyio.sleep(0.1)
            assert starts.began[4:] == ["s1"]
            for name in ("newer", "s3", "s0"):
                starts.queue.leave(name)
            await anyio.sleep(0.1)
            assert starts.began[5:] == ["newest"]
            tg.cancel_scope.cancel()


@on_virtual_time
async def test_servers_that_run_elsewhere_take_no_place():
    """But wait for the client's answer, too, if they are known."""
    async with anyio.create_task_group() as tg:
        starts = await Starts.of(tg, named(20, known=False), light=True)
        await anyio.lowlevel.checkpoint()
        assert len(starts.began) == 20
    async with anyio.create_task_group() as tg:
        starts = await Starts.of(tg, named(20, known=True), light=True)
        await anyio.sleep(0.1)
        assert starts.began == []
        starts.queue.on_client_answered()
        await anyio.sleep(0.1)
        assert len(starts.began) == 20


@pytest.mark.parametrize("broken", [0, 1])
@on_virtual_time
async def test_a_server_that_is_up_or_has_failed_leaves_its_place_to_the_next(broken: int):
    """So many servers are all up as soon as each can be, and not slot after slot."""
    toys = [Toy(f"s{number}") for number in range(4 * start_queue.start_slots())]
    for toy in toys[:broken]:
        toy.refuses = True
    began = anyio.current_time()
    async with bridge_over(*toys) as bridge:
        for toy in toys:
            await bridge.downstreams[toy.name].wait_settled()
        assert [toy.name for toy in toys[broken:]] == [
            name for name, each in bridge.downstreams.items() if each.status is Status.READY
        ]
        assert anyio.current_time() - began < SLOT_S
