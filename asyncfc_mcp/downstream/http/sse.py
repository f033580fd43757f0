"""HTTP+SSE (2024-11-05) to a wrapped server.

The server sends its messages on the event stream of one GET, whose first event names the endpoint to which messages are
posted. Owns that stream, which is the session: its end fails all pending requests, and the supervisor opens another
one. The requests in flight are left to `transport`, and HTTP to `client`.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final
from urllib.parse import urljoin

import anyio
import httpx2

from asyncfc_mcp.downstream.http.client import (
    MAX_ERROR_BYTES,
    HttpClient,
    content_type,
    iter_body,
    read_start,
    same_origin,
)
from asyncfc_mcp.downstream.http.event_stream import Event, EventDecoder, EventTooLarge
from asyncfc_mcp.downstream.http.failures import host_and_port
from asyncfc_mcp.downstream.http.transport import (
    DELIVERY_TIMEOUT_S,
    EVENTS,
    JSON,
    HttpTransport,
    InFlightRequest,
    error_of_response,
)
from asyncfc_mcp.errors import HttpRefused, RpcError, SessionLost, TransportFailure
from asyncfc_mcp.jsonrpc.codec import Message, Oversized
from asyncfc_mcp.jsonrpc.large import write_message
from asyncfc_mcp.jsonrpc.request_ids import correlation_key

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S: Final = 30.0
"""Timeout for the response headers of the stream; servers send them, or refuse the request, immediately."""
PROBE_TIMEOUT_S: Final = 15.0
"""Time for the answer to a probe after a sleep of the machine; its network may not be up at once."""
PROBE_PAUSE_S: Final = 1.0
ENDPOINT_TIMEOUT_S: Final = 10.0
"""Timeout for the `endpoint` event, from the response headers on."""


class SseTransport(HttpTransport):
    """The connection to one server. `open` runs it."""

    renewable = False

    def __init__(self, http: HttpClient, limit: int) -> None:
        super().__init__(http, limit)
        self.session: object = self
        self._endpoint = http.url
        self._usable = anyio.Event()
        """Not set while it is unknown if the stream has survived a sleep of the machine."""
        self._usable.set()
        self._waiting: set[InFlightRequest] = set()
        """Requests that are not sent before it is."""
        http.on_wake = self._on_wake

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Send and receive messages while the block runs, until the server ends its stream.

        Raises:
            RpcError: the server does not open the stream, or names no endpoint.
        """
        headers = {"accept": EVENTS, "cache-control": "no-store"}
        try:
            async with AsyncExitStack() as stack:
                response: httpx2.Response | None = None
                with anyio.move_on_after(OPEN_TIMEOUT_S):
                    response = await stack.enter_async_context(self.http.stream("GET", self.http.url, headers))
                if response is None:
                    raise TransportFailure(f"did not open its event stream within {OPEN_TIMEOUT_S:g} s", sent=False)
                if response.status_code >= 300 or content_type(response) != EVENTS:
                    raise await error_of_response(response, self.http, self, has_session=False)
                events = _events(response, self.limit)
                self._endpoint = await self._find_endpoint(str(response.url), events)
                async with anyio.create_task_group() as self._tg:
                    self._tg.start_soon(self._receive_events, events)
                    self._tg.start_soon(self.http.watch_sleeps)
                    yield
                    self._tg.cancel_scope.cancel()
        finally:
            self._tg = None
            self.inbox.end()

    async def _find_endpoint(self, base: str, events: AsyncIterator[Event]) -> str:
        """Return the URL in the `endpoint` event, which must have the origin of the configured URL: requests carry
        credentials.

        Raises:
            RpcError: there is no such event in time, or its URL has another origin.
        """
        with anyio.move_on_after(ENDPOINT_TIMEOUT_S):
            async for event in events:
                if event.kind == "endpoint":
                    target = urljoin(base, event.data.decode("utf-8", "replace").strip())
                    if not same_origin(base, target):
                        where = host_and_port(target)
                        raise TransportFailure(f"names an endpoint on another server ({where})", sent=False)
                    return target
        raise HttpRefused(200, "OK", hint="its event stream has no endpoint event", sent=False)

    async def _receive_events(self, events: AsyncIterator[Event]) -> None:
        try:
            async for event in events:
                if event.kind == "message":
                    await self.receive(event.data)
        except RpcError as exc:
            logger.info("the event stream of %s ended: the server %s", self.http.address, exc.message)
            self.inbox.end(exc.message)
        except (httpx2.HTTPError, httpx2.StreamError):
            logger.info("the event stream of %s was interrupted", self.http.address)
        finally:
            self.inbox.end()

    # --- after a sleep of the machine ----------------------------------------------------------------------------

    def _on_wake(self) -> None:
        if self._tg is not None and self._usable.is_set():
            self._usable = anyio.Event()
            self._tg.start_soon(self._probe)

    async def _probe(self) -> None:
        """Find out if the server still answers on this stream, and end the connection otherwise: a response to a
        request that is sent now would never arrive."""
        request = InFlightRequest({"jsonrpc": "2.0", "id": f"asyncfc-probe-{id(self)}", "method": "ping"}, own=True)
        key = correlation_key(request.request_id)
        self.in_flight[key] = request
        try:
            with anyio.move_on_after(PROBE_TIMEOUT_S):
                while not request.answered:
                    try:
                        await self.send_message(request.message, request)
                        await request.done.wait()
                    except TransportFailure as exc:
                        if exc.sent:
                            break
                        await anyio.sleep(PROBE_PAUSE_S)  # the network may be on its way up
        except RpcError as exc:
            logger.debug("%s was probed after a sleep: it %s", self.http.address, exc.message)
        finally:
            self.in_flight.pop(key, None)
            if not request.answered:
                logger.info("the event stream of %s did not survive a sleep of the machine", self.http.address)
                for waiting in self._waiting:
                    self.fail(waiting, TransportFailure("closed the connection", sent=False))
                self.inbox.end()
            self._usable.set()

    # --- messages ------------------------------------------------------------------------------------------------

    async def send_request(self, request: InFlightRequest) -> None:
        await self.http.check_sleep()
        if not self._usable.is_set():
            self._waiting.add(request)
            try:
                await self._usable.wait()
            finally:
                self._waiting.discard(request)
        try:
            await self.send_message(request.message, request)
        except SessionLost:
            self.inbox.end()  # no other pending request will get its response on this stream
            raise
        await request.done.wait()

    async def send_message(self, message: Message, request: InFlightRequest | None = None) -> None:
        headers = {"accept": f"{JSON}, {EVENTS}", "content-type": JSON}
        async with self.http.stream("POST", self._endpoint, headers, await write_message(message)) as response:
            if response.status_code >= 300:
                raise await error_of_response(response, self.http, self, has_session=True)
            # Some servers send the result in the response to the POST.
            has_result = request is not None and content_type(response) == JSON
            body = await read_start(response, self.limit + 1 if has_result else MAX_ERROR_BYTES)
        if has_result and len(body) <= self.limit and body.lstrip().startswith(b"{"):
            await self.receive(body, request)

    def request_of_anonymous_error(self) -> InFlightRequest | None:
        pending = [request for request in self.in_flight.values() if not request.answered]
        return pending[0] if len(pending) == 1 else None

    def on_oversized_response(self, refusal: Oversized) -> None:
        raise TransportFailure(f"sent a response of {refusal.size}")

    def on_answered_elsewhere(self, request: InFlightRequest) -> None:
        # The result may arrive before the response to the POST, whose connection should stay usable.
        request.scope.deadline = anyio.current_time() + DELIVERY_TIMEOUT_S


async def _events(response: httpx2.Response, limit: int) -> AsyncGenerator[Event]:
    decoder = EventDecoder(limit=limit)
    async for chunk in iter_body(response):
        try:
            events = decoder.feed(chunk)
        except EventTooLarge as exc:
            raise TransportFailure(str(exc)) from None
        for event in events:
            yield event
