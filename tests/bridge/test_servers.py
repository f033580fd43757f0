"""Servers that are added, replaced and removed while the bridge runs."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import anyio
import anyio.lowlevel
import pytest

from asyncfc_mcp.app import compose
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec, UnusableServer
from asyncfc_mcp.config.settings import AccessEntry, Policy, Settings
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import LOCAL, LOCAL_PRINCIPAL
from asyncfc_mcp.downstream.supervisor import Status
from asyncfc_mcp.engine.call import CallContext
from asyncfc_mcp.errors import EntryBroken, UnknownTool
from tests.support.inprocess_server import Toy, spawning
from tests.support.virtual_time import on_virtual_time, settle


def config_of(*servers: ServerConfig, **settings: Any) -> BridgeConfig:
    return BridgeConfig(servers, Settings(**settings), source="test")


def server(name: str, version: str = "1", command: str | None = None, **more: Any) -> ServerConfig:
    """A server whose command is the toy of that name. Another version is another environment of it."""
    return ServerConfig(name, StdioSpec(command or name, env={"VERSION": version}), **more)


class Processes:
    """What takes the place of processes, and which of them ran."""

    def __init__(self, *toys: Toy) -> None:
        self._spawn = spawning({toy.name: toy for toy in toys})
        self.started: list[str] = []
        """Name and version of each start."""
        self.running: set[str] = set()

    @asynccontextmanager
    async def spawn(self, name: str, spec: StdioSpec, *args: Any, **more: Any) -> AsyncGenerator[Any]:
        assert name not in self.running, "two processes of one server at once"
        self.running.add(name)
        self.started.append(f"{name}{spec.env['VERSION']}")
        try:
            async with self._spawn(name, spec, *args, **more) as process:
                yield process
        finally:
            self.running.discard(name)


@asynccontextmanager
async def opened(config: BridgeConfig, *toys: Toy) -> AsyncGenerator[tuple[Bridge, Processes]]:
    """A bridge, once all of its servers are up."""
    processes = Processes(*toys)
    with patch("asyncfc_mcp.downstream.connection.spawn", processes.spawn):
        async with compose(config).open() as bridge:
            await bridge.started()
            await bridge.directory.wait_for_catalog()
            yield bridge, processes


async def call(bridge: Bridge, tool: str, after: tuple[str, ...] = (), **arguments: Any) -> Future:
    context = CallContext(LOCAL, after=after)
    future = await bridge.submitter.submit(await bridge.directory.wait_for_tool(tool), arguments, context)
    await settle()
    return future


def failure(future: Future) -> str:
    assert future.state is State.FAILED, future.state
    return str(future.failure)


@on_virtual_time
async def test_an_unchanged_server_keeps_its_connection_and_its_calls():
    """Nothing of it is touched by the changes of others."""
    toys = Toy("a"), Toy("b")
    async with opened(config_of(server("a")), *toys) as (bridge, _):
        before = bridge.downstreams["a"]
        future = await call(bridge, "a__gate", name="x")
        await bridge.reload(config_of(server("b"), server("a")))
        assert list(bridge.downstreams) == ["b", "a"]
        await bridge.directory.wait_for_tool("b__echo")
        assert bridge.downstreams["a"] is before
        toys[0].open("x")
        await bridge.engine.wait([future])
        assert future.state is State.COMPLETED


@on_virtual_time
async def test_a_changed_server_is_replaced_once_its_calls_have_ended():
    """The new process starts after the end of the old one; calls wait for it, and none is lost."""
    toy = Toy("a")
    async with opened(config_of(server("a")), toy) as (bridge, processes):
        running = await call(bridge, "a__gate", name="x")
        found = await bridge.reload(config_of(server("a", "2")))
        assert found.lines() == ["restarted: a"]
        waiting = await call(bridge, "a__gate", name="y")
        await anyio.sleep(5)
        assert (running.state, waiting.state) == (State.RUNNING, State.RUNNING)
        assert (processes.started, len(toy.got)) == (["a1"], 1)
        toy.open("x")
        toy.open("y")
        await bridge.engine.wait([running, waiting])
        assert (running.state, waiting.state) == (State.COMPLETED, State.COMPLETED)
        assert [got.arguments["name"] for got in toy.got] == ["x", "y"]
        assert processes.started == ["a1", "a2"]


@on_virtual_time
async def test_a_call_that_outlasts_the_drain_fails_unless_it_can_be_made_again():
    """It is said that it may have taken effect; a read-only one is made by the new process."""
    toy = Toy("a")
    toy.add("peek", toy._gate, annotations={"readOnlyHint": True})
    async with opened(config_of(server("a")), toy) as (bridge, processes):
        writing, reading = await call(bridge, "a__gate", name="x"), await call(bridge, "a__peek", name="y")
        await bridge.reload(config_of(server("a", "2")))
        await bridge.engine.wait([writing])
        assert "restarted with a changed configuration" in failure(writing)
        assert "may or may not have taken effect" in failure(writing)
        toy.open("y")
        await bridge.engine.wait([reading])
        assert reading.state is State.COMPLETED
        assert ([got.tool for got in toy.got], processes.started) == (["gate", "peek", "peek"], ["a1", "a2"])


@on_virtual_time
async def test_calls_of_a_removed_server_end():
    """What it has gets the drain, what waits fails at once, and its tools are gone."""
    toys = Toy("a"), Toy("b")
    config = config_of(server("a"), server("b"))
    async with opened(config, *toys) as (bridge, _):
        quick, slow = await call(bridge, "a__gate", name="q"), await call(bridge, "a__gate", name="s")
        behind = await call(bridge, "a__echo", after=(slow.id,))
        other = await call(bridge, "b__echo", after=(quick.id,))
        found = await bridge.reload(config_of(server("b")))
        assert found.lines() == ["removed: a"]
        assert "server 'a' was removed from the configuration before this call started" in failure(behind)
        with pytest.raises(UnknownTool):
            bridge.directory.route("a__echo")
        toys[0].open("q")
        await bridge.engine.wait([quick, slow, other])
        assert (quick.state, other.state) == (State.COMPLETED, State.COMPLETED)
        assert "removed from the configuration" in failure(slow)
        assert list(bridge.downstreams) == ["b"]


@on_virtual_time
async def test_a_server_that_is_removed_and_comes_back_never_runs_twice():
    """The new process waits for the end of the old one, also over several changes in between."""
    toy, other = Toy("a"), Toy("b")
    async with opened(config_of(server("a"), server("b")), toy, other) as (bridge, processes):
        running = await call(bridge, "a__gate", name="x")
        await bridge.reload(config_of(server("b")))
        await bridge.reload(config_of(server("a", "2"), server("b")))
        ended: list[State] = []

        async def ask() -> None:
            future = await call(bridge, "a__gate", name="y")
            await bridge.engine.wait([future])
            ended.append(future.state)

        async with anyio.create_task_group() as tg:
            tg.start_soon(ask)
            await anyio.sleep(1)
            await bridge.reload(config_of(server("a", "3"), server("b")))
            tg.start_soon(ask)
            await anyio.sleep(1)
            toy.open("x")
            toy.open("y")
        assert (running.state, ended) == (State.COMPLETED, [State.COMPLETED] * 2)
        assert [each for each in processes.started if each.startswith("a")] == ["a1", "a3"]


@on_virtual_time
async def test_a_policy_applies_to_new_calls_without_a_restart():
    """Limits, time limits and what is listed change; the process stays."""
    toy = Toy("a")
    async with opened(config_of(server("a", max_concurrency=1)), toy) as (bridge, _):
        before, first = bridge.downstreams["a"], await call(bridge, "a__gate", name="x")
        queued = await call(bridge, "a__gate", name="x")
        left_out = await call(bridge, "a__fail")
        assert [each.state for each in (first, queued, left_out)] == [State.RUNNING, State.WAITING, State.WAITING]
        changed = server("a", max_concurrency=2, exclude=("fail",), base=Policy(timeout_s=3), prefix="p_")
        found = await bridge.reload(config_of(changed))
        assert found.lines() == ["updated: a"]
        assert bridge.downstreams["a"] is before
        assert queued.state is State.RUNNING
        assert "a__fail was left out by a change of the configuration" in failure(left_out)
        assert not [name for name in bridge.directory.routes if name.endswith("fail")]
        limited = await call(bridge, next(name for name in bridge.directory.routes if name.endswith("gate")), name="z")
        toy.open("x")
        await bridge.engine.wait([first, queued])
        assert (first.state, queued.state) == (State.COMPLETED, State.COMPLETED), "they have no time limit"
        await bridge.engine.wait([limited])
        assert "did not finish within 3 s" in failure(limited)
        await bridge.reload(config_of(server("a")))
        assert "a__fail" in bridge.directory.routes


@on_virtual_time
async def test_a_wrong_configuration_changes_nothing():
    """A slip in the entry of a running server, or a state path that is wrong, leaves all as it was."""
    toy = Toy("a")
    async with opened(config_of(server("a")), toy) as (bridge, _):
        config = bridge.config
        broken = replace(config, servers=(server("b"),), unusable=(UnusableServer("a", "env.T: no such variable"),))
        with pytest.raises(EntryBroken, match=r"server 'a': env\.T"):
            await bridge.reload(broken)
        assert bridge.config is config
        assert bridge.downstreams["a"].status is Status.READY


@on_virtual_time
async def test_names_that_clients_know_lead_nowhere_else():
    """The name of a removed server's tool is not given to another one's."""
    a, b = Toy("a"), Toy("b")
    async with opened(config_of(server("a", prefix="")), a, b) as (bridge, _):
        bridge.directory.hand_out()
        await bridge.reload(config_of(server("b", prefix="")))
        await bridge.downstreams["b"].wait_until_listed()
        await settle()
        assert "echo" not in bridge.directory.routes
        assert len(bridge.directory.routes) == 4
        await bridge.reload(config_of(server("b", prefix=""), server("a", prefix="")))
        assert (await bridge.directory.wait_for_tool("echo")).entry.server == "a"


@on_virtual_time
async def test_access_applies_at_once_to_those_who_are_there():
    """From the moment of the change a principal sees and may use only what is left."""
    toys = Toy("a"), Toy("b")
    config = config_of(server("a"), server("b"), access={"*": AccessEntry()})
    async with opened(config, *toys) as (bridge, _):
        assert "a__echo" in bridge.views.of(LOCAL_PRINCIPAL).routes
        config = replace(config, settings=replace(config.settings, access={"*": AccessEntry(allow=("b",))}))
        assert (await bridge.reload(config)).lines() == ["settings: access"]
        view = bridge.views.of(LOCAL_PRINCIPAL)
        assert not view.touches("a")
        assert {route.entry.server for route in view.routes.values()} == {"b"}


@on_virtual_time
async def test_reloads_follow_each_other_and_the_last_one_counts():
    """However many come at once."""
    toys = [Toy(name) for name in "abcd"]
    async with opened(config_of(server("a")), *toys) as (bridge, _):
        async with anyio.create_task_group() as tg:
            for name in "bcda":
                tg.start_soon(bridge.reload, config_of(server(name), max_wait_s=ord(name)))
                await anyio.lowlevel.checkpoint()
        assert list(bridge.downstreams) == ["a"]
        assert bridge.settings.max_wait_s == ord("a")
        await bridge.downstreams["a"].wait_until_listed()
