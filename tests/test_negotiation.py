"""The protocol era of a server is found, however slowly it starts, and without asking for more than is needed."""

from typing import Any

import anyio
import pytest
from lab import Toy, bridge_over, on_virtual_time

from asyncfc_mcp.downstream import PROBE_S
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import METHOD_NOT_FOUND, MODERN_VERSIONS, UNSUPPORTED_PROTOCOL_VERSION


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
