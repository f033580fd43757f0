"""Messages in HTTP requests: each fails alone, and what the bridge sends by itself is bounded."""

from typing import Any, cast

import anyio
import pytest

from asyncfc_mcp.downstream.http import transport
from asyncfc_mcp.downstream.http.client import HttpClient
from asyncfc_mcp.downstream.http.transport import HttpTransport, InFlightRequest
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.jsonrpc.codec import Message
from tests.support.virtual_time import on_virtual_time, settle

MOST = 4


class Client:
    """In place of an `HttpClient`, which this transport does not use."""

    address = "server:80"


class Recorder(HttpTransport):
    """A transport whose server accepts messages as the test says."""

    renewable = False

    def __init__(self) -> None:
        super().__init__(cast("HttpClient", Client()), 1 << 20)
        self.begun: list[Any] = []
        self.accepted: list[Any] = []
        self.sending = self.most_sending = 0
        self.accepts = anyio.Event()
        self.refuses = False

    async def send_message(self, message: Message) -> None:
        self.begun.append(message.get("id"))
        self.sending += 1
        self.most_sending = max(self.most_sending, self.sending)
        try:
            await self.accepts.wait()
            if self.refuses:
                raise RpcError(-32000, "no")
            self.accepted.append(message.get("id"))
        finally:
            self.sending -= 1

    async def send_request(self, request: InFlightRequest) -> None:
        await anyio.sleep_forever()

    def respond(self, *numbers: int) -> None:
        for number in numbers:
            self.send_nowait({"jsonrpc": "2.0", "id": number, "result": {}})


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_CONCURRENT_RESPONSES", MOST)


@on_virtual_time
async def test_a_flood_of_requests_is_answered_a_few_at_a_time():
    """All responses are delivered, and no more than a few are out at any time."""
    it = Recorder()
    async with anyio.create_task_group() as it._tg:
        it.respond(*range(100))
        await settle()
        assert sorted(it.begun) == list(range(MOST))
        it.accepts.set()
        await settle()
        await anyio.sleep(1)
        assert sorted(it.accepted) == list(range(100))
        assert it.most_sending == MOST
        it.accepts = anyio.Event()
        it.respond(*range(100, 110))
        await settle()
        assert it.sending == MOST, "as many as before"
        it._tg.cancel_scope.cancel()


@on_virtual_time
async def test_responses_that_a_server_does_not_accept_are_dropped_after_the_timeout():
    """The time in the queue counts, so that they do not accumulate; later ones are sent."""
    it = Recorder()
    async with anyio.create_task_group() as it._tg:
        it.respond(*range(100))
        await anyio.sleep(transport.DELIVERY_TIMEOUT_S + 1)
        assert it.sending == 0
        it.accepts.set()
        it.respond(100)
        await anyio.sleep(1)
        assert it.accepted == [100]
        it._tg.cancel_scope.cancel()


@on_virtual_time
async def test_a_refused_response_does_not_hold_up_the_others():
    """Each fails alone."""
    it = Recorder()
    it.refuses = True
    it.accepts.set()
    async with anyio.create_task_group() as it._tg:
        it.respond(*range(10))
        await anyio.sleep(1)
        it.refuses = False
        it.respond(10)
        await anyio.sleep(1)
        assert sorted(it.begun) == list(range(11))
        assert it.accepted == [10]
        it._tg.cancel_scope.cancel()


@on_virtual_time
async def test_requests_and_notifications_do_not_wait_for_responses():
    """A result or a cancellation must reach the server even while it accepts no response."""
    it = Recorder()
    async with anyio.create_task_group() as it._tg:
        it.respond(*range(20))
        it.send_nowait({"jsonrpc": "2.0", "method": "notifications/x"})
        it.send_nowait({"jsonrpc": "2.0", "id": "mine", "method": "tools/call", "params": {}})
        await settle()
        assert it.begun.count(None) == 1
        assert len(it.in_flight) == 1
        it._tg.cancel_scope.cancel()
