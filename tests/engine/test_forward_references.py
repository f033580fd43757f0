"""Calls that are received and not submitted yet, in memory: their order, the store that they look in, and their cost.

What every engine promises of them is `test_contract_names.py`'s.
"""

from time import perf_counter
from typing import Any

import anyio
import pytest

from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.core.store import FutureStore
from asyncfc_mcp.engine.call import PendingCall
from asyncfc_mcp.engine.forward_references import ForwardReferences
from asyncfc_mcp.errors import Cycle
from tests.support.parked_calls import effect
from tests.support.virtual_time import on_virtual_time, settle

pytestmark = pytest.mark.anyio


class Line:
    """Forward references over a store, and the order in which their calls had their turn."""

    def __init__(self, wait_s: float = 0.05) -> None:
        self.store = FutureStore(anyio.current_time)
        self.references = ForwardReferences(self.store, wait_s)
        self.order: list[str] = []

    async def receive(self, label: str, writes: str = "", **pending: Any) -> None:
        received = PendingCall(LOCAL, None, None, effect(writes=writes), (), (), False)
        for key, value in pending.items():
            setattr(received, key, value)
        await self.references.wait_for_turn(received)
        self.store.create(LOCAL, tool=label, server="s", name=received.name)
        self.references.notify_all()
        self.order.append(label)


@on_virtual_time
async def test_what_is_behind_a_call_that_waits_for_a_name_does_not_hold_the_call_of_that_name():
    """However long the chain between them, and whatever state each touches."""
    line = Line()
    async with anyio.create_task_group() as tg:
        for label, writes, missing in (("uses", "a", ("n",)), ("behind", "a b", ()), ("last", "b c", ())):
            tg.start_soon(
                lambda label=label, writes=writes, missing=missing: line.receive(label, writes, missing=missing)
            )
            await settle()
        began = anyio.current_time()
        await line.receive("n", "c", name="n")
    assert line.order == ["n", "uses", "behind", "last"]
    assert anyio.current_time() == began


@on_virtual_time
async def test_a_name_may_be_waited_for_through_another():
    """The call of the second name is not behind the one that waits for the first."""
    line = Line()
    async with anyio.create_task_group() as tg:
        tg.start_soon(lambda: line.receive("uses", "a", missing=("n",)))
        await settle()
        tg.start_soon(lambda: line.receive("n", "b", name="n", missing=("m",)))
        await settle()
        await line.receive("m", "a b", name="m")
    assert line.order == ["m", "n", "uses"]


@on_virtual_time
async def test_given_up_names_free_the_place_in_the_order():
    """A call that waited in vain is submitted before those behind it, at the same time."""
    line = Line()
    began = anyio.current_time()
    async with anyio.create_task_group() as tg:
        for label, missing in (("in vain", ("HOME",)), ("behind", ())):
            tg.start_soon(lambda label=label, missing=missing: line.receive(label, "a", missing=missing))
            await settle()
    assert line.order == ["in vain", "behind"]
    assert anyio.current_time() - began == pytest.approx(0.05)
    assert not line.references


async def test_a_cycle_is_refused_for_all_its_calls_and_no_other():
    """A call that waits for a name in the cycle is not part of it: the name may still be taken."""
    line = Line(wait_s=0.3)
    refused: list[str] = []

    async def receive(label: str, **pending: Any) -> None:
        try:
            await line.receive(label, **pending)
        except Cycle:
            refused.append(label)

    async with anyio.create_task_group() as tg:
        for label, name, missing in (("user", "u", "a"), ("a", "a", "b"), ("b", "b", "a")):
            tg.start_soon(lambda label=label, name=name, missing=missing: receive(label, name=name, missing=(missing,)))
            await settle()
        assert sorted(refused) == ["a", "b"]
        await line.receive("a again", name="a")
    assert line.order == ["a again", "user"]


async def test_a_long_chain_of_names_is_followed_without_recursion():
    """Hundreds of calls that wait for each other's names, received in the worst order."""
    line = Line(wait_s=60)
    began = perf_counter()
    async with anyio.create_task_group() as tg:
        for number in range(300):
            tg.start_soon(lambda n=number: line.receive(f"c{n}", name=f"c{n}", missing=(f"c{n + 1}",)))
        await settle()
        await line.receive("c300", name="c300")
    assert line.order == [f"c{number}" for number in range(300, -1, -1)]
    assert perf_counter() - began < 30
