"""Which servers start when they are needed, and what keeps one running that nothing uses at the moment."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import pytest

from asyncfc_mcp.app import compose
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.idleness import STATELESS_IDLE_S, idle_limit_s, runs_on_demand
from asyncfc_mcp.config.model import BridgeConfig, HttpSpec, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Policy, Settings
from asyncfc_mcp.core.effect_profiles import EffectProfile, ProcessState
from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.downstream.listing_cache import ListingCache
from asyncfc_mcp.downstream.supervisor import Status
from asyncfc_mcp.engine.call import CallContext
from tests.support.configurations import parse
from tests.support.inprocess_server import Toy, spawning
from tests.support.virtual_time import on_virtual_time

PLAIN = ServerConfig("s", StdioSpec("s"))
IDLE_S = 10.0


def profile(state: ProcessState | None) -> EffectProfile:
    return EffectProfile("known", {}, process_state=state)


@pytest.mark.parametrize(
    ("settings", "known", "limit"),
    [
        ({}, None, None),
        ({}, profile(None), None),
        ({}, profile("shared"), None),
        ({}, profile("none"), STATELESS_IDLE_S),
        ({}, profile("folder"), STATELESS_IDLE_S),
        ({}, profile("session"), None),
        ({"idle_s": 5.0}, None, 5.0),
        ({"idle_s": 5.0}, profile("none"), 5.0),
        ({"idle_s": 5.0}, profile("shared"), 5.0),
        ({"idle_s": 5.0}, profile("session"), None),
        ({"idle_s": 5.0, "share": "user"}, profile("session"), None),
        ({"idle_s": 5.0, "share": "session"}, None, None),
        ({"share": "session"}, profile("folder"), STATELESS_IDLE_S),
    ],
)
def test_the_idle_limit_of_a_server(settings: dict[str, Any], known: EffectProfile | None, limit: float | None):
    """State of a session is never lost; of an unknown server, only the configuration says that nothing is."""
    assert idle_limit_s(replace(PLAIN, **settings), known) == limit


@pytest.mark.parametrize(
    ("start", "owner", "spec", "of_replicas", "expected"),
    [
        ("auto", None, StdioSpec("s"), False, (False, True)),
        ("lazy", None, StdioSpec("s"), False, (True, True)),
        ("eager", None, StdioSpec("s"), False, (False, False)),
        ("lazy", None, StdioSpec("s"), True, (False, False)),
        ("lazy", "r1", StdioSpec("s"), True, (False, False)),
        ("lazy", "any", StdioSpec("s"), True, (True, True)),
        ("lazy", None, HttpSpec("http://s", {}, "http"), True, (True, True)),
    ],
)
def test_which_servers_start_when_needed(start: Any, owner: Any, spec: Any, of_replicas: bool, expected: Any):
    """Without a daemon, and in one. A server that one replica at a time runs is there for the others, too."""
    server = ServerConfig("s", spec, start=start, owner=owner)
    config = BridgeConfig((server,), Settings(engine="postgresql://x" if of_replicas else "embedded"), "test")
    assert tuple(runs_on_demand(server, config, daemon=daemon) for daemon in (False, True)) == expected


def test_settings_without_effect_are_named():
    """An idle time of a server that is not ended, and a lazy start where replicas need the server."""
    file = {"mcpServers": {"s": {"command": "x", "asyncfc": {"start": "eager", "idle_s": 5}}}}
    assert any("idle_s" in warning and "no effect" in warning for warning in parse(file).warnings)
    file = {
        "mcpServers": {"s": {"command": "x", "asyncfc": {"start": "lazy"}}},
        "asyncfc": {"engine": "postgresql://x", "secret": "0123456789abcdef"},
    }
    assert any("asyncfc.start" in warning and "no effect" in warning for warning in parse(file).warnings)
    own = {"start": "lazy", "idle_s": 5}
    file = {"mcpServers": {"s": {"url": "https://s.test", "headers": {"X": "${caller:x}"}, "asyncfc": own}}}
    for key in own:
        assert any(f"asyncfc.{key}: no effect" in warning for warning in parse(file).warnings)


@asynccontextmanager
async def lazy_bridge(folder: Path, toy: Toy, **policy: Any) -> AsyncGenerator[Bridge]:
    """A bridge over a server with known listings, which sleeps."""
    server = ServerConfig(
        toy.name, StdioSpec(toy.name), prefix="", base=Policy(**policy), max_concurrency=1, start="lazy", idle_s=IDLE_S
    )
    with patch("asyncfc_mcp.downstream.connection.spawn", spawning({toy.name: toy})):
        for connect_all in (True, False):
            bridge = compose(
                BridgeConfig((server,), Settings(), "test"), cache=ListingCache(folder), connect_all=connect_all
            )
            bridge.server_requests.set_client_capabilities({})
            async with bridge.open():
                if connect_all:
                    await bridge.downstreams[toy.name].wait_until_listed()
                else:
                    await bridge.directory.wait_for_restored()
                    yield bridge


@on_virtual_time
async def test_calls_that_have_not_ended_keep_their_server(tmp_path: Path):
    """Those that run, and those that wait for a place; then it sleeps. A call says what it waits for."""
    toy = Toy()
    async with lazy_bridge(tmp_path, toy) as bridge:
        server, route = bridge.downstreams["toy"], bridge.directory.route("gate")
        calls = [await bridge.submitter.submit(route, {"name": name}, CallContext(LOCAL)) for name in ("a", "b")]
        assert bridge.waiting_for(calls[0]) == ((), "server 'toy' is starting")
        for name in ("a", "b"):
            await anyio.sleep(10 * IDLE_S)
            assert server.status is Status.READY
            toy.open(name)
        await bridge.engine.wait(calls)
        assert bridge.waiting_for(calls[0]) == ((), "")
        await anyio.sleep(IDLE_S / 2)
        assert server.status is Status.READY
        await anyio.sleep(IDLE_S)
        assert server.status is Status.SLEEPING
        assert [got.arguments["name"] for got in toy.got] == ["a", "b"]


@on_virtual_time
async def test_a_question_of_a_server_keeps_it(tmp_path: Path):
    """Although it belongs to no call of a client, and is no use of the server by one."""
    toy = Toy()
    async with lazy_bridge(tmp_path, toy) as bridge:
        server, answered = bridge.downstreams["toy"], anyio.Event()

        async def answer(*args: Any) -> dict[str, Any]:
            await answered.wait()
            return {}

        with patch.object(bridge, "on_server_request", answer):
            server.wake()
            await server.wait_until_ready()
            async with anyio.create_task_group() as tg:
                assert toy.peer is not None
                tg.start_soon(toy.peer.send_raw_request, "sampling/createMessage", {})
                await anyio.sleep(100 * IDLE_S)
                assert server.status is Status.READY
                answered.set()
                await anyio.sleep(IDLE_S + 1)
                assert server.status is Status.SLEEPING
