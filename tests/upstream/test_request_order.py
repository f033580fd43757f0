"""Calls that overtook each other on their way are submitted in the order of their IDs, and nobody pays for guesses."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.app import compose
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Policy, Settings
from asyncfc_mcp.jsonrpc.codec import MalformedMessage, format_message
from asyncfc_mcp.jsonrpc.line_reader import LineReader
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.peer import Peer
from asyncfc_mcp.upstream.request_order import MAX_GAP, PATIENCE, RequestOrder
from asyncfc_mcp.upstream.server import Upstream
from tests.support.inprocess_client import serve_only
from tests.support.inprocess_server import Pipe, Toy, bridge_over, spawning
from tests.support.virtual_time import on_virtual_time, run_on_virtual_time, settle, until

WINDOW_S = 0.05
WRITES = {"writes": ("x",)}


class Client:
    """A client on one pipe that has shaken hands (or speaks 2026-07-28) with ID 1, and numbers as it likes."""

    def __init__(self, into: Pipe, out: Pipe, toy: Toy, *, modern: bool) -> None:
        self._into, self._out, self._toy, self._modern = into, out, toy, modern
        self._answers = LineReader(out, never)

    def say(self, **message: Any) -> None:
        if self._modern and "id" in message:
            meta = {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            }
            message["params"] = {**message.get("params", {}), "_meta": meta}
        self._into.send_nowait(format_message({"jsonrpc": "2.0", **message}))

    def call(self, number: Any, tool: str = "echo", **arguments: Any) -> None:
        self.say(id=number, method="tools/call", params={"name": tool, "arguments": {"n": number, **arguments}})

    async def answer(self) -> dict[str, Any]:
        while True:
            message = await self._answers.receive()
            if "id" in message:
                return message

    @property
    def got(self) -> list[Any]:
        """The numbers of the calls, in the order in which they reached the server."""
        return [got.arguments["n"] for got in self._toy.got]


@asynccontextmanager
async def client(*, policy: Any = WRITES, modern: bool = False, toy: Toy | None = None) -> AsyncGenerator[Client]:
    into, out = Pipe(), Pipe()
    toy = toy or Toy()
    toy.add("look", toy._echo, annotations={})
    try:
        async with bridge_over(toy, policy={"grace_ms": 0, **policy}) as bridge, anyio.create_task_group() as tg:
            upstream = Upstream(bridge)
            await tg.start(upstream.run)
            tg.start_soon(serve_only, upstream, Peer(LineReader(into, never), LineWriter(out)))
            it = Client(into, out, toy, modern=modern)
            info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            it.say(id=1, method="server/discover" if modern else "initialize", params={} if modern else info)
            await it.answer()
            yield it
            tg.cancel_scope.cancel()
    finally:
        into.close()
        out.close()


async def never(exc: MalformedMessage, line: bytes) -> None:
    raise AssertionError(line)


# --- the promise ---------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Client, int], None]] = {
    "handle": lambda client, n: client.call(n),
    "wait": lambda client, n: client.call(n, _wait="this"),
    "all": lambda client, n: client.call(n, _wait="all"),
    "name": lambda client, n: client.call(n, _as=f"name{n}"),
    "forward": lambda client, n: client.call(n, text="${f:nothing_of} this name"),
    "ping": lambda client, n: client.say(id=n, method="ping"),
    "list": lambda client, n: client.say(id=n, method="tools/list"),
}


@st.composite
def bursts(draw: st.DrawFn) -> list[tuple[float, int, str]]:
    """A burst of requests with consecutive IDs: when each arrives within the window, its ID, its kind."""
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=9))
    ids = draw(st.permutations(range(2, 2 + len(kinds))))
    times = sorted(draw(st.lists(st.integers(0, 45), min_size=len(kinds), max_size=len(kinds))))
    return [(at / 1000, number, kinds[number - 2]) for at, number in zip(times, ids, strict=True)]


@settings(max_examples=150, deadline=None)
@given(burst=bursts(), modern=st.booleans(), sync=st.booleans())
def test_any_permutation_of_a_burst_is_submitted_in_the_order_of_its_ids(
    burst: list[tuple[float, int, str]], modern: bool, sync: bool
):
    """Of calls that conflict, whatever else was asked between them, and however they are answered."""

    async def run() -> None:
        policy = {**WRITES, "mode": "sync"} if sync else WRITES
        async with client(policy=policy, modern=modern) as it:
            now = 0.0
            for at, number, kind in burst:
                await anyio.sleep(at - now)
                now = at
                KINDS[kind](it, number)
            for _ in burst:
                await it.answer()
            await anyio.sleep(1)
            assert it.got == [n for n in sorted(n for _, n, _ in burst) if kind_of(burst, n) not in ("ping", "list")]

    run_on_virtual_time(run)


def kind_of(burst: list[tuple[float, int, str]], number: int) -> str:
    return next(kind for _, n, kind in burst if n == number)


@on_virtual_time
async def test_what_has_no_effect_waits_for_nothing():
    async with client(policy={}) as it:
        it.call(5, "look")
        await settle()
        assert it.got == [5]


@on_virtual_time
async def test_a_request_that_never_comes_is_waited_for_once():
    async with client() as it:
        it.call(3)
        await anyio.sleep(WINDOW_S - 0.001)
        assert it.got == []
        await anyio.sleep(0.002)
        assert it.got == [3]
        it.call(4)
        await settle()
        assert it.got == [3, 4]


@on_virtual_time
async def test_a_call_that_is_cancelled_while_it_waits_is_never_made():
    """And what stands behind it goes on."""
    async with client() as it:
        it.call(3)
        it.call(4)
        it.say(method="notifications/cancelled", params={"requestId": 3})
        await settle()
        it.call(2)
        await anyio.sleep(1)
        assert it.got == [2, 4]


@on_virtual_time
async def test_calls_behind_one_that_waits_stand_in_order():
    """The one with the last of the missing IDs may itself have to wait, here for a name; then they stay behind it."""
    async with client() as it:
        it.call(4)
        it.call(3)
        it.call(2, text="$later")
        await anyio.sleep(0.01)
        assert it.got == []
        it.call(5, "look", _as="later")
        await anyio.sleep(1)
        assert it.got.index(2) < it.got.index(3) < it.got.index(4)


@on_virtual_time
async def test_the_end_of_input_loses_no_call_that_waits():
    async with client() as it:
        it.call(3)
        it._into._into.close()
        await anyio.sleep(1)
        assert it.got == [3]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio starts tasks in any order
async def test_a_call_that_waited_for_its_tool_is_not_overtaken_when_that_is_listed():
    """Not even while another server is still starting: its listing is not waited for any longer."""
    toy, slow = Toy(), Toy("slow")
    hold = anyio.Event()

    async def held(inbound: Any, method: str, params: Any) -> dict[str, Any]:
        await hold.wait()
        return await Toy._on_request(slow, inbound, method, params)

    slow._on_request = held  # type: ignore[method-assign]
    listing, toy.listing = toy.listing, []
    slow.listing = []
    into, out = Pipe(), Pipe()
    configs = [
        ServerConfig(each.name, StdioSpec(each.name), prefix="", base=Policy(writes=("x",), grace_ms=0))
        for each in (toy, slow)
    ]
    with patch("asyncfc_mcp.downstream.connection.spawn", spawning({"toy": toy, "slow": slow})):
        async with compose(BridgeConfig(tuple(configs), Settings(), source="test")).open() as bridge:
            async with anyio.create_task_group() as tg:
                upstream = Upstream(bridge)
                await tg.start(upstream.run)
                tg.start_soon(serve_only, upstream, Peer(LineReader(into, never), LineWriter(out)))
                it = Client(into, out, toy, modern=True)
                it.say(id=1, method="server/discover")
                await until(lambda: bridge.downstreams["toy"].known)
                it.call(2)
                await settle()
                toy.listing = listing
                await toy.changed()
                while "echo" not in bridge.directory.routes:
                    await anyio.lowlevel.checkpoint()
                it.call(3)
                await until(lambda: len(it.got) == 2)
                assert it.got == [2, 3]
                tg.cancel_scope.cancel()
    into.close()
    out.close()


# --- what it costs others ------------------------------------------------------------------------------------------

NUMBERINGS: dict[str, list[Any]] = {
    "strings": [f"r{n}" for n in range(20)],
    "always one": [1] * 20,
    "always zero": [0] * 20,
    "random": [(n * 7919 * 104729) % 1_000_003 for n in range(2, 22)],
    "microseconds": [1_700_000_000_000_000 + n * 1500 for n in range(20)],
    "in order": list(range(2, 22)),
    "downwards": list(range(1000, 980, -1)),
    "steps of two": list(range(3, 43, 2)),
    "steps of a hundred": list(range(101, 2101, 100)),
}


@pytest.mark.parametrize("numbering", NUMBERINGS)
@on_virtual_time
async def test_clients_that_number_otherwise_wait_for_a_moment_at_most(numbering: str):
    """Not once for each call: gaps that do not fill are learnt."""
    async with client() as it:
        began = anyio.current_time()
        for number in NUMBERINGS[numbering]:
            it.call(number)
            await it.answer()
        assert anyio.current_time() - began <= PATIENCE * WINDOW_S + 0.001
        await anyio.sleep(1)
        assert it.got == NUMBERINGS[numbering]


def test_a_gap_that_fills_late_is_waited_for_again():
    order = RequestOrder()
    order.restart(0)
    for number in range(2, 2 + 2 * PATIENCE, 2):
        order.see(number)
        turn = order.turn(number)
        assert turn is not None
        order.give_up(number)
        turn.leave()
    order.see(100)
    assert order.turn(100) is None
    order.see(99)  # it came, after all
    order.see(102)
    assert order.turn(102) is not None


def test_what_is_kept_of_a_session_is_bounded():
    order = RequestOrder()
    for number in range(0, 100_000, 3):
        order.see(number)
        if (turn := order.turn(number)) is not None:
            order.give_up(number)
            turn.leave()
    assert len(order._missing) + len(order._late) <= 4 * MAX_GAP
    assert not order._waiting


@pytest.mark.parametrize("number", [None, "7", 7.5, -3])
def test_what_is_no_number_is_no_gap(number: Any):
    order = RequestOrder()
    order.restart(0)
    order.see(number)
    assert order.turn(number) is None
    order.see(2)
    assert order.turn(2) is not None
