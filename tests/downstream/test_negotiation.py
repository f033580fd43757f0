"""The protocol era of a server is found, however slowly it starts, and without asking for more than is needed."""

from typing import Any
from unittest.mock import patch

import anyio
import pytest

from asyncfc_mcp.app import compose
from asyncfc_mcp.config.model import BridgeConfig, ServerConfig, StdioSpec
from asyncfc_mcp.config.settings import Settings
from asyncfc_mcp.downstream.listing_cache import ListingCache, ServerSnapshot
from asyncfc_mcp.downstream.negotiation import PROBE_S
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import METHOD_NOT_FOUND, MODERN_VERSIONS, UNSUPPORTED_PROTOCOL_VERSION
from tests.support.inprocess_server import Toy, bridge_over, spawning
from tests.support.virtual_time import on_virtual_time


class Slow(Toy):
    """A server that reads its input only after a while, as behind `npx` that downloads; with both eras or one."""

    def __init__(self, after_s: float, *, handshake: bool, code: int = UNSUPPORTED_PROTOCOL_VERSION) -> None:
        super().__init__()
        self.after_s, self.handshake, self.code = after_s, handshake, code
        self.methods: list[str] = []

    async def _on_request(self, inbound: Any, method: str, params: Any) -> dict[str, Any]:
        self.methods.append(method)
        if len(self.methods) == 1:
            self.reads_at = anyio.current_time() + self.after_s
        await anyio.sleep_until(self.reads_at)
        if method == "server/discover":
            return {"supportedVersions": list(MODERN_VERSIONS), "capabilities": {"tools": {}}}
        if method == "initialize" and not self.handshake:
            raise RpcError(self.code, "no")
        return await super()._on_request(inbound, method, params)


@pytest.mark.parametrize("code", [UNSUPPORTED_PROTOCOL_VERSION, METHOD_NOT_FOUND, -32000])
@pytest.mark.parametrize("after_s", [0, PROBE_S - 0.1, PROBE_S + 0.1, 40])
@on_virtual_time
async def test_a_server_of_the_new_era_alone_is_found_however_late_it_starts(after_s: float, code: int):
    """A late answer to the probe counts as well; no handshake is tried where it came in time."""
    toy = Slow(after_s, handshake=False, code=code)
    async with bridge_over(toy) as bridge:
        assert bridge.downstreams["toy"].modern
        assert ("initialize" in toy.methods) == (after_s > PROBE_S)
        assert toy.methods.count("server/discover") == 1


@pytest.mark.parametrize(("after_s", "modern"), [(PROBE_S - 0.1, True), (PROBE_S + 0.1, False), (40, False)])
@on_virtual_time
async def test_a_server_of_both_eras_speaks_one(after_s: float, modern: bool):
    """A handshake that was made counts, whatever the probe brings beside it."""
    toy = Slow(after_s, handshake=True)
    async with bridge_over(toy) as bridge:
        assert bridge.downstreams["toy"].modern is modern
        assert toy.methods.count("initialize") == (0 if modern else 1)


@pytest.mark.parametrize("code", [UNSUPPORTED_PROTOCOL_VERSION, METHOD_NOT_FOUND, -32602])
@on_virtual_time
async def test_a_server_that_knows_the_handshake_no_more_is_found(code: int):
    """The cache says that it did; it was replaced by a version that speaks the new era alone."""

    class Remembered(ListingCache):
        def load(self, config: ServerConfig) -> ServerSnapshot:
            return ServerSnapshot(protocol_version="2025-06-18", listings={"tools": []})

    toy = Slow(0, handshake=False, code=code)
    server = ServerConfig("toy", StdioSpec("toy"), prefix="")
    with patch("asyncfc_mcp.downstream.connection.spawn", spawning({"toy": toy})):
        bridge = compose(BridgeConfig((server,), Settings(), source="test"), cache=Remembered(None))
        async with bridge.open():
            await bridge.downstreams["toy"].wait_settled()
            assert bridge.downstreams["toy"].modern
            assert toy.methods[:2] == ["initialize", "server/discover"]


@on_virtual_time
async def test_a_call_goes_on_as_soon_as_its_tool_is_listed():
    """Without waiting for another server that is slower."""
    quick, slow = Slow(1, handshake=True), Slow(8, handshake=True)
    quick.name, slow.name = "quick", "slow"
    quick.add("now", quick._echo)
    servers = tuple(ServerConfig(toy.name, StdioSpec(toy.name), prefix="") for toy in (quick, slow))
    with patch("asyncfc_mcp.downstream.connection.spawn", spawning({"quick": quick, "slow": slow})):
        async with compose(BridgeConfig(servers, Settings(), source="test")).open() as bridge:
            began = anyio.current_time()
            await bridge.directory.wait_for_tool("now")
            assert anyio.current_time() - began < 3
