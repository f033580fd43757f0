"""Streamable HTTP to a wrapped server, in every protocol version: one POST for each message.

Owns the session and its headers, the response to a POST (a body, or an event stream that is resumed after a disconnect
if the server assigns event IDs), and the GET stream for messages that belong to no request (before 2026-07-28). The
requests in flight are left to `transport`, HTTP to `client`, and the replacement of a session that the server no longer
knows to the supervisor.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import anyio
import httpx2

from asyncfc_mcp.core.backoff import ReconnectBackoff
from asyncfc_mcp.downstream.http.client import (
    MAX_ERROR_BYTES,
    HttpClient,
    content_type,
    iter_body,
    read_start,
)
from asyncfc_mcp.downstream.http.event_stream import BOM, EventDecoder, EventTooLarge, looks_like_events
from asyncfc_mcp.downstream.http.failures import INTERRUPTED, first_text, phrase, quoted
from asyncfc_mcp.downstream.http.mirrored_headers import METHOD_HEADER, VERSION_HEADER
from asyncfc_mcp.downstream.http.transport import (
    EVENTS,
    JSON,
    HttpTransport,
    InFlightRequest,
    error_of_response,
    version_of,
)
from asyncfc_mcp.errors import HttpRefused, RpcError, SessionLost, TransportFailure, UnreadableAnswer
from asyncfc_mcp.jsonrpc.codec import Message
from asyncfc_mcp.jsonrpc.large import write_message

logger = logging.getLogger(__name__)

SESSION_HEADER: Final = "mcp-session-id"

DRAIN_TIMEOUT_S: Final = 1.0
"""Timeout for reading a stream to its end after its result: only then can its connection be reused."""
DELETE_TIMEOUT_S: Final = 2.0
"""Timeout for ending the session."""
RECONNECT_S: Final = (1.0, 60.0)
"""First and longest delay before a stream is reopened, if the server requests none."""
RESUME_TRIES: Final = 3
"""Consecutive failures to reopen the stream of a response after which its request fails."""
HEALTHY_S: Final = 30.0
"""A stream that was open this long resets the delay to the first one."""
MIN_RECONNECT_S: Final = 0.05
"""Shortest delay, whatever the server requests. It doubles while streams are short: up to a second, and up to the
longest delay for GET streams without messages."""
MIN_RENEWAL_AGE_S: Final = 10.0
"""A younger session is not renewed when its GET stream is refused, only when a request is."""


@dataclass(eq=False, slots=True)
class _Session:
    """A session: one handshake with the server and its result."""

    id: str | None = None
    version: str | None = None
    started: float = field(default_factory=anyio.current_time)
    get_scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Of the task that keeps the GET stream open."""


class StreamableTransport(HttpTransport):
    """The connection to one server. `open` runs it."""

    renewable = True

    def __init__(self, http: HttpClient, limit: int) -> None:
        super().__init__(http, limit)
        self.session = _Session()
        self._url = http.url
        self._stream_scope = anyio.CancelScope()
        """Of the GET stream that is open, or being opened."""
        http.on_wake = self._on_wake

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Send and receive messages while the block runs, then end the session."""
        try:
            async with anyio.create_task_group() as self._tg:
                self._tg.start_soon(self.http.watch_sleeps)
                yield
                self._tg.cancel_scope.cancel()
        finally:
            self._tg = None
            self.inbox.end()
            if self.session.id is not None:
                with anyio.move_on_after(DELETE_TIMEOUT_S, shield=True):
                    await self._end_session()

    def _on_wake(self) -> None:
        """Open anew what may be dead after a sleep of the machine without anybody's notice. A session that the server
        has forgotten meanwhile is noticed with that, or by the next request, which is sent again in a new one."""
        self._stream_scope.cancel()
        self.reopen_subscriptions()

    async def _end_session(self) -> None:
        try:
            async with self.http.stream("DELETE", self._url, self._headers(self.session)) as response:
                await read_start(response)
        except RpcError as exc:
            logger.debug("the session at %s could not be ended: the server %s", self.http.address, exc.message)

    # --- one POST for each message -------------------------------------------------------------------------------

    async def send_request(self, request: InFlightRequest) -> None:
        message = request.message
        opening = message["method"] == "initialize"
        if opening:
            self.session.get_scope.cancel()
            self.session = _Session()
        session = self.session
        async with self._post(session, message) as response:
            if opening:
                session.id = _session_id(response)
            interrupted = await self._read_response(response, request)
        if interrupted is not None:
            await self._resume(request, session, interrupted)

    async def send_message(self, message: Message) -> None:
        session = self.session
        async with self._post(session, message) as response:
            await read_start(response)
        if message.get("method") == "notifications/initialized" and self._tg is not None:
            self._tg.start_soon(self._keep_get_stream, session)

    @asynccontextmanager
    async def _post(self, session: _Session, message: Message) -> AsyncGenerator[httpx2.Response]:
        """POST a message and yield the response.

        Raises:
            RpcError: there is no response, or it is an error.
        """
        headers = {"accept": f"{JSON}, {EVENTS}", "content-type": JSON}
        if (version := version_of(message)) is not None:  # stateless, even on a connection with a session
            headers |= self.request_headers.headers(version, message["method"], message.get("params") or {})
        else:
            headers |= self._headers(session)
        async with self.http.stream("POST", self._url, headers, await write_message(message)) as response:
            if response.status_code >= 300:
                raise await self._error_of(response, session, headers)
            yield response

    @asynccontextmanager
    async def _get(self, session: _Session, last_id: str | None) -> AsyncGenerator[httpx2.Response]:
        """Open an event stream of the session with a GET.

        Args:
            last_id: ID of the event after which the stream resumes; None for a new stream.

        Raises:
            RpcError: the server does not open one.
        """
        headers = {"accept": EVENTS, "cache-control": "no-store", **self._headers(session)}
        if last_id is not None:
            headers["last-event-id"] = last_id
        async with self.http.stream("GET", self._url, headers) as response:
            if response.status_code >= 300 or content_type(response) != EVENTS:
                raise await self._error_of(response, session, headers)
            yield response

    def _headers(self, session: _Session) -> dict[str, str]:
        headers: dict[str, str] = {}
        if session.id is not None:
            headers[SESSION_HEADER] = session.id
        if session.version is not None:
            headers[VERSION_HEADER] = session.version
        return headers

    async def _error_of(self, response: httpx2.Response, session: _Session, headers: Mapping[str, str]) -> RpcError:
        return await error_of_response(
            response, self.http, session, has_session=SESSION_HEADER in headers, stateless=METHOD_HEADER in headers
        )

    # --- the response to a POST ----------------------------------------------------------------------------------

    async def _read_response(self, response: httpx2.Response, request: InFlightRequest) -> EventDecoder | None:
        """Read a body, or the events of a stream until the request has its result.

        Returns:
            The decoder of a stream that ended before the result and can be resumed; None if there is a result.

        Raises:
            TransportFailure: there is no result.
        """
        kind = content_type(response)
        decoder = EventDecoder(limit=self.limit) if kind == EVENTS else None
        body: list[bytes] = []
        size = 0
        chunks = iter_body(response)
        try:
            async for chunk in chunks:
                if decoder is None and not body and kind != JSON and looks_like_events(chunk):
                    decoder = EventDecoder(limit=self.limit)
                if decoder is None:
                    body.append(chunk)
                    size += len(chunk)
                    if size > self.limit:
                        raise self._too_large()
                elif await self._receive_events(decoder, chunk, request):
                    await _drain(chunks)
                    return None
        except (httpx2.HTTPError, httpx2.StreamError):
            if decoder is None or decoder.last_id is None or request.modern:
                raise
        if decoder is None:
            await self._receive_body(response, b"".join(body), request)
        elif decoder.last_id is None or request.modern:
            raise TransportFailure("ended the event stream of its response without a result")
        return decoder

    async def _receive_events(self, decoder: EventDecoder, chunk: bytes, request: InFlightRequest) -> bool:
        """Dispatch the events that a chunk completes; return whether the request has its result."""
        try:
            events = decoder.feed(chunk)
        except EventTooLarge:
            raise self._too_large() from None
        for event in events:
            if event.kind == "message":
                await self.receive(event.data, request)
        return request.answered

    def _too_large(self) -> RpcError:
        return UnreadableAnswer(f"has more than {self.limit} bytes (setting max_message_bytes)")

    async def _receive_body(self, response: httpx2.Response, body: bytes, request: InFlightRequest) -> None:
        kind = content_type(response)
        start = body[:16].removeprefix(BOM).lstrip()
        if not start:
            raise TransportFailure(
                f"answered HTTP {response.status_code} {phrase(response.status_code)} without a result"
            )
        if kind != JSON and not start.startswith((b"{", b"[")):
            said = quoted(first_text(body[:MAX_ERROR_BYTES]), self.http.secrets)
            raise TransportFailure(f"answered with {kind or 'a body without a type'} in place of JSON: {said}")
        await self.receive(body, request)
        if not request.answered:
            raise TransportFailure("answered with JSON that is no response to the request")

    def cancelled_by_disconnect(self, request: InFlightRequest) -> bool:
        return request.modern

    def on_response(self, request: InFlightRequest, message: Message) -> None:
        if request.message["method"] == "initialize" and "result" in message:
            self.session.version = message["result"].get("protocolVersion")

    async def _resume(self, request: InFlightRequest, session: _Session, decoder: EventDecoder) -> None:
        """Reopen a stream that ended before its request's result, from its last event on.

        Args:
            decoder: the decoder of that stream.

        Raises:
            TransportFailure: that is not possible.
        """
        tries = 0
        reopening = ReconnectBackoff(MIN_RECONNECT_S, *RECONNECT_S, RECONNECT_S[0], HEALTHY_S)
        opened, news = anyio.current_time(), False
        while not request.answered:
            lasted = anyio.current_time() - opened
            await anyio.sleep(reopening.pause(lasted, news=news, named=_retry_s(decoder)))
            opened, last_id, news = anyio.current_time(), decoder.last_id, False
            try:
                async with self._get(session, last_id) as response:
                    decoder, tries = decoder.resumed(), 0
                    chunks = iter_body(response)
                    async for chunk in chunks:
                        if await self._receive_events(decoder, chunk, request):
                            await _drain(chunks)
                            return
                        news = decoder.last_id != last_id
            except SessionLost:
                self.on_session_lost(session)
                raise TransportFailure(f"{INTERRUPTED} and no longer knows the session") from None
            except HttpRefused as exc:
                if not exc.may_pass:
                    raise TransportFailure(f"{INTERRUPTED} and does not resume it: {exc.message}") from None
                tries += 1
            except TransportFailure:
                tries += 1
            if tries == RESUME_TRIES:
                raise TransportFailure(f"{INTERRUPTED} and could not be reached again to resume it")

    # --- the GET stream ------------------------------------------------------------------------------------------

    async def _keep_get_stream(self, session: _Session) -> None:
        """Keep the GET stream open, with growing delays between attempts, unless the server offers none."""
        with session.get_scope:
            decoder, offered = EventDecoder(limit=self.limit), False
            reopening = ReconnectBackoff(MIN_RECONNECT_S, *RECONNECT_S, RECONNECT_S[1], HEALTHY_S)
            while True:
                opened, last_id, received = anyio.current_time(), decoder.last_id, False
                self._stream_scope = anyio.CancelScope()
                try:
                    with self._stream_scope:
                        async with self._get(session, last_id) as response:
                            if offered and last_id is None:
                                self.on_gap()
                            offered, decoder = True, decoder.resumed()
                            async for chunk in iter_body(response):
                                for event in decoder.feed(chunk):
                                    received = True
                                    if event.kind == "message":
                                        await self.receive(event.data)
                except EventTooLarge as exc:
                    # A resumed stream would begin with that event again.
                    logger.info("the GET stream of %s ended: the server %s", self.http.address, exc)
                    decoder, received = decoder.resumed(), False
                    decoder.last_id = None
                except SessionLost:
                    if offered and opened - session.started > MIN_RENEWAL_AGE_S:
                        self.on_session_lost(session)
                    return
                except HttpRefused as exc:
                    if not (offered or exc.may_pass):
                        return
                except RpcError as exc:
                    logger.debug("the GET stream of %s ended: the server %s", self.http.address, exc.message)
                except Exception:
                    # The last resort: without this stream, the connection still serves calls.
                    logger.exception("the GET stream of %s failed unexpectedly", self.http.address)
                if self._stream_scope.cancelled_caught:
                    continue  # the machine was asleep
                news = received if decoder.last_id is None else decoder.last_id != last_id
                lasted = anyio.current_time() - opened
                await anyio.sleep(reopening.pause(lasted, news=news, named=_retry_s(decoder)))


def _retry_s(decoder: EventDecoder) -> float | None:
    """Return the reconnection delay that the server requested, in seconds."""
    return None if decoder.retry_ms is None else decoder.retry_ms / 1000


def _session_id(response: httpx2.Response) -> str | None:
    # From the raw bytes, so that the same bytes are sent back: the library guesses an encoding.
    found = (value for name, value in response.headers.raw if name.lower() == SESSION_HEADER.encode())
    value = next(found, None)
    return None if value is None else value.decode(errors="surrogateescape")


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read the rest of a stream whose request has its result, for a bounded time."""
    with anyio.move_on_after(DRAIN_TIMEOUT_S), suppress(httpx2.HTTPError, httpx2.StreamError, UnreadableAnswer):
        async for _ in chunks:
            pass
