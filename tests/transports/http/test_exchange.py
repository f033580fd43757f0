"""An HTTP request whose answer takes its time ends properly, whatever fails on the way."""

from typing import Any

import anyio
import pytest

from asyncfc_mcp.protocol import Deferred
from asyncfc_mcp.transports.http.exchange import Exchange
from asyncfc_mcp.transports.http.in_flight import UNWATCHED_S, InFlightRequests

pytestmark = pytest.mark.anyio


class Broken(Exchange):
    """Its way back fails as soon as something is written to it."""

    __slots__ = ("cancels", "left")

    def __init__(self, cancels: bool) -> None:
        super().__init__(self.refuse, 1, {})
        self.cancels = cancels
        self.left = False

    async def refuse(self, _: object) -> None:
        raise OSError("broken pipe")

    async def on_wait(self) -> None:
        await self.begin()

    def on_disconnect(self) -> None:
        super().on_disconnect()
        if self.cancels:
            self.scope.cancel()

    def on_end(self) -> None:
        self.left = True


async def receive() -> dict[str, Any]:
    await anyio.sleep_forever()
    raise AssertionError


@pytest.mark.parametrize(("cancels", "seen"), [(False, ["began", "ended"]), (True, ["began", "cancelled"])])
async def test_a_client_that_cannot_be_reached_is_one_that_hung_up(cancels: bool, seen: list[str]):
    """What was begun for it goes on or is cancelled, as its era has it; it is never left behind."""
    happened: list[str] = []

    async def later() -> dict[str, Any]:
        happened.append("began")
        try:
            await anyio.sleep(3 * UNWATCHED_S)
        except anyio.get_cancelled_exc_class():
            happened.append("cancelled")
            raise
        happened.append("ended")
        return {}

    in_flight, exchange = InFlightRequests(), Broken(cancels)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            await tg.start(in_flight.run)
            await in_flight.handle(receive, exchange, lambda: Deferred(later))
            tg.cancel_scope.cancel()
    assert happened == seen
    assert exchange.left
    assert exchange.closed
    assert not in_flight._pending
