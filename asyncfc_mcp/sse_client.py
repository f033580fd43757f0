"""HTTP+SSE (2024-11-05) towards a wrapped server.

It speaks on the event stream of one GET, whose first event says where messages are posted. Owns that stream, which is
the session: where it ends, everything that waits for an answer on it is lost, and `downstream` opens another. Leaves
the requests in flight to `http_transport`, and HTTP itself to `http_client`.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final
from urllib.parse import urljoin

import anyio
import httpx2

from asyncfc_mcp.codec import Message, format_message
from asyncfc_mcp.errors import HttpRefused, SessionLost, TransportFailure
from asyncfc_mcp.event_stream import Event, EventDecoder, EventTooLarge
from asyncfc_mcp.http_client import (
    MAX_ERROR_BYTES,
    HttpClient,
    content_type,
    keep_alive,
    read_start,
    same_origin,
)
from asyncfc_mcp.http_errors import place
from asyncfc_mcp.http_transport import EVENTS, JSON, NOTIFY_S, HttpTransport, InFlight, refused

logger = logging.getLogger(__name__)

HEAD_S: Final = 30.0
"""From the request for the stream to its head; servers answer at once, or refuse."""
ENDPOINT_S: Final = 10.0
"""From the head of the stream to the event that says where to post."""


class SseTransport(HttpTransport):
    """One server's connection. `open` drives it."""

    renewable = False

    def __init__(self, http: HttpClient, limit: int) -> None:
        super().__init__(http, limit)
        self.session: object = self
        self._endpoint = http.url

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Send and receive while the block runs, until the server ends its stream.

        Raises:
            RpcError: the server opens none, or does not say where to post.
        """
        headers = {"accept": EVENTS, "cache-control": "no-store"}
        try:
            async with AsyncExitStack() as stack:
                response: httpx2.Response | None = None
                with anyio.move_on_after(HEAD_S):
                    response = await stack.enter_async_context(self.http.stream("GET", self.http.url, headers))
                if response is None:
                    raise TransportFailure(f"did not open its event stream within {HEAD_S:g} s", sent=False)
                if response.status_code >= 300 or content_type(response) != EVENTS:
                    raise await refused(response, self.http, self, has_session=False)
                keep_alive(response)
                events = _events(response, self.limit)
                self._endpoint = await self._find_endpoint(str(response.url), events)
                async with anyio.create_task_group() as self._tg:
                    self._tg.start_soon(self._receive, events)
                    yield
                    self._tg.cancel_scope.cancel()
        finally:
            self._tg = None
            self.inbox.end()

    async def _find_endpoint(self, base: str, events: AsyncIterator[Event]) -> str:
        """The URL of the first event; never of another server than the configured one, whose credentials we carry."""
        with anyio.move_on_after(ENDPOINT_S):
            async for event in events:
                if event.kind == "endpoint":
                    target = urljoin(base, event.data.decode("utf-8", "replace").strip())
                    if not same_origin(base, target):
                        raise TransportFailure(f"wants messages posted to another server ({place(target)})", sent=False)
                    return target
        raise HttpRefused(200, "OK", hint="its event stream does not say where to post messages", sent=False)

    async def _receive(self, events: AsyncIterator[Event]) -> None:
        try:
            async for event in events:
                if event.kind == "message":
                    self.take(event.data)
        except TransportFailure as exc:
            logger.info("the event stream of a server ended: it %s", exc.message)
            self.inbox.end(exc.message)
        except (httpx2.HTTPError, httpx2.StreamError):
            logger.info("the event stream of a server broke off")
        finally:
            self.inbox.end()

    async def ask(self, request: InFlight) -> None:
        try:
            await self.tell(request.message, request)
        except SessionLost:
            self.inbox.end()  # what else waits on this stream waits in vain
            raise
        await request.done.wait()

    async def tell(self, message: Message, request: InFlight | None = None) -> None:
        headers = {"accept": f"{JSON}, {EVENTS}", "content-type": JSON}
        async with self.http.stream("POST", self._endpoint, headers, format_message(message)) as response:
            if response.status_code >= 300:
                raise await refused(response, self.http, self, has_session=True)
            answers = request is not None and content_type(response) == JSON  # some servers answer here
            body = await read_start(response, self.limit + 1 if answers else MAX_ERROR_BYTES)
        if answers and len(body) <= self.limit and body.lstrip().startswith(b"{"):
            self.take(body, request)

    def unidentified(self) -> InFlight | None:
        waiting = [each for each in self.in_flight.values() if not each.answered]
        return waiting[0] if len(waiting) == 1 else None

    def answered_elsewhere(self, request: InFlight) -> None:
        # The answer may arrive before the POST is accepted, whose connection is worth keeping.
        request.scope.deadline = anyio.current_time() + NOTIFY_S


async def _events(response: httpx2.Response, limit: int) -> AsyncGenerator[Event]:
    decoder = EventDecoder(limit=limit)
    async for chunk in response.aiter_bytes():
        try:
            events = decoder.feed(chunk)
        except EventTooLarge as exc:
            raise TransportFailure(str(exc)) from None
        for event in events:
            yield event
