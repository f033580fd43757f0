"""A server that needs a sign-in is not restarted in a loop: calls fail at once, new credentials start it at once."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import anyio
import pytest

from asyncfc_mcp.app import compose
from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.downstream.downstream import Downstream
from asyncfc_mcp.downstream.reaper import Reaper
from asyncfc_mcp.downstream.supervisor import SIGN_IN_POLL_S, Status
from asyncfc_mcp.errors import NotSignedIn, SignInNeeded
from tests.support.inprocess_server import Process, Toy, spawning
from tests.support.virtual_time import on_virtual_time

CALL = {"name": "echo", "arguments": {}}


class Credentials:
    """An authorizer that needs a sign-in until the test says otherwise."""

    secrets: Sequence[str] = ()

    def __init__(self) -> None:
        self.there = self.looked = 0

    def renewed(self) -> bool:
        self.looked += 1
        return bool(self.there)

    async def headers(self) -> Mapping[str, str]:
        raise NotImplementedError

    async def refused(self, status: int, challenges: Sequence[str], sent: Mapping[str, str]) -> bool:
        raise NotImplementedError


class Bench:
    """One server that starts only with credentials."""

    def __init__(self) -> None:
        self.credentials = Credentials()
        self.starts = 0
        self._spawn = spawning({"toy": Toy()})

    @asynccontextmanager
    async def spawn(self, name: str, *args: Any) -> AsyncGenerator[Process]:
        self.starts += 1
        if not self.credentials.there:
            raise SignInNeeded(name, ("read",), "its token was revoked")
        async with self._spawn(name, *args) as process:
            yield process

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[tuple[Bridge, Downstream]]:
        config = BridgeConfig((ServerConfig("toy", StdioSpec("toy"), prefix=""),), Settings(), "test")

        def connected(server: ServerConfig, handler: Any, **options: Any) -> Downstream:
            return Downstream(server, handler, **{**options, "authorizer": self.credentials})

        with (
            patch("asyncfc_mcp.downstream.connection.spawn", self.spawn),
            patch("asyncfc_mcp.app.Downstream", connected),
        ):
            bridge = compose(config, reaper=Reaper())
            bridge.server_requests.set_client_capabilities({})
            async with bridge.open():
                server = bridge.downstreams["toy"]
                await server.wait_settled()
                yield bridge, server


@on_virtual_time
async def test_a_server_that_needs_a_sign_in_is_not_started_again():
    """However long it takes, and its condition says what to do."""
    bench = Bench()
    async with bench.open() as (bridge, server):
        await anyio.sleep(10_000)
        assert bench.starts == 1
        assert server.status is Status.SIGN_IN
        assert bridge.directory.unavailable_servers() == [
            ("toy", "needs sign-in: its token was revoked; asyncfc-mcp login toy")
        ]
        assert bench.credentials.looked == pytest.approx(10_000 / SIGN_IN_POLL_S, rel=0.01)


@on_virtual_time
async def test_a_call_fails_at_once_with_the_text_of_the_sign_in():
    """Nothing is started for it."""
    bench = Bench()
    async with bench.open() as (_, server):
        began = anyio.current_time()
        with pytest.raises(NotSignedIn, match=r"needs sign-in \(its token was revoked\): asyncfc-mcp login toy"):
            await server.request("tools/call", CALL)
        assert anyio.current_time() == began
        assert bench.starts == 1


@on_virtual_time
async def test_new_credentials_start_the_server():
    """Within about a second, without a call."""
    bench = Bench()
    async with bench.open() as (_, server):
        await anyio.sleep(100)
        bench.credentials.there = 1
        await anyio.sleep(SIGN_IN_POLL_S + 0.01)
        assert server.status is Status.READY
        assert server.reason == ""
        looked = bench.credentials.looked
        await anyio.sleep(100)
        assert bench.credentials.looked == looked, "it looks in that state only"


@on_virtual_time
async def test_a_call_finds_new_credentials_at_once():
    """It does not wait for the next look."""
    bench = Bench()
    async with bench.open() as (_, server):
        await anyio.sleep(SIGN_IN_POLL_S * 1.5)
        bench.credentials.there, began = 1, anyio.current_time()
        await server.request("tools/call", CALL)
        assert anyio.current_time() - began < SIGN_IN_POLL_S / 4


@on_virtual_time
async def test_a_sign_in_in_this_process_starts_the_server_at_once():
    """`signed_in` ends the pause between two looks."""
    bench = Bench()
    async with bench.open() as (_, server):
        bench.credentials.there, began = 1, anyio.current_time()
        server.signed_in()
        await server.wait_until_listed()
        assert anyio.current_time() - began < SIGN_IN_POLL_S / 4
