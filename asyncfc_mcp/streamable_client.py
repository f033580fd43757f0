"""Streamable HTTP towards a wrapped server, in every protocol version: one POST for each message.

Owns the session and its headers, the answers of a POST (a body or a stream of events, resumed where it breaks and the
server gives event IDs), and the stream that a GET opens for what the server says unasked (before 2026-07-28). Leaves
the requests in flight to `http_transport`, HTTP itself to `http_client`, and a new session, after the server has
forgotten this one, to `downstream`.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import anyio
import httpx2

from asyncfc_mcp.codec import Message, format_message
from asyncfc_mcp.errors import HttpRefused, RpcError, SessionLost, TransportFailure
from asyncfc_mcp.event_stream import BOM, EventDecoder, EventTooLarge, looks_like_events
from asyncfc_mcp.http_client import (
    MAX_ERROR_BYTES,
    HttpClient,
    content_type,
    keep_alive,
    read_start,
)
from asyncfc_mcp.http_errors import first_text, phrase, quoted
from asyncfc_mcp.http_transport import EVENTS, JSON, HttpTransport, InFlight, refused, version_of
from asyncfc_mcp.protocol import INVALID_REQUEST
from asyncfc_mcp.request_headers import METHOD_HEADER, VERSION_HEADER

logger = logging.getLogger(__name__)

SESSION_HEADER: Final = "mcp-session-id"

LINGER_S: Final = 1.0
"""How long the end of a stream is waited for after its answer: a stream that was read to its end leaves its connection
to the next request."""
DELETE_S: Final = 2.0
"""Time limit for ending the session."""
PAUSE_S: Final = (1.0, 60.0)
"""First and longest pause before a stream is opened again, where the server names none."""
RESUME_TRIES: Final = 3
"""How often in a row opening a broken stream of an answer may fail before its request is given up."""
SERVED_S: Final = 30.0
"""A stream that lasted this long or had an event served well: the next pause is the first again."""
MIN_PAUSE_S: Final = 0.05
"""Shortest pause, whatever the server names. It doubles while a stream brings nothing new: up to a second for the
stream of an answer, up to the longest pause for that of notifications."""
RENEW_S: Final = 10.0
"""A younger session is not renewed because its GET stream is refused, but only when a request is."""


@dataclass(eq=False, slots=True)
class _Session:
    """One handshake with the server, and what it negotiated."""

    id: str | None = None
    version: str | None = None
    since: float = field(default_factory=anyio.current_time)
    listening: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """Of the task that keeps the GET stream open."""


class StreamableTransport(HttpTransport):
    """One server's connection. `open` drives it."""

    renewable = True

    def __init__(self, http: HttpClient, limit: int) -> None:
        super().__init__(http, limit)
        self.session = _Session()
        self._url = http.url

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Send and receive while the block runs; at its end the session is ended."""
        try:
            async with anyio.create_task_group() as self._tg:
                yield
                self._tg.cancel_scope.cancel()
        finally:
            self._tg = None
            self.inbox.end()
            if self.session.id is not None:
                with anyio.move_on_after(DELETE_S, shield=True):
                    await self._end_session()

    async def _end_session(self) -> None:
        try:
            async with self.http.stream("DELETE", self._url, self._headers(self.session)) as response:
                await read_start(response)
        except RpcError as exc:
            logger.debug("the session could not be ended: the server %s", exc.message)

    # --- one POST for each message -------------------------------------------------------------------------------

    async def ask(self, request: InFlight) -> None:
        message = request.message
        opening = message["method"] == "initialize"
        if opening:
            self.session.listening.cancel()
            self.session = _Session()
        session = self.session
        async with self._post(session, message) as response:
            if opening:
                session.id = _session_id(response)
            broken = await self._read_answer(response, request)
        if broken is not None:
            await self._resume(request, session, broken)

    async def tell(self, message: Message) -> None:
        session = self.session
        async with self._post(session, message) as response:
            await read_start(response)
        if message.get("method") == "notifications/initialized" and self._tg is not None:
            self._tg.start_soon(self._listen, session)

    @asynccontextmanager
    async def _post(self, session: _Session, message: Message) -> AsyncGenerator[httpx2.Response]:
        """The answer to a message. Raises: RpcError: it is none, or a failure."""
        headers = {"accept": f"{JSON}, {EVENTS}", "content-type": JSON}
        if (version := version_of(message)) is not None:  # stateless, whatever was negotiated before
            headers |= self.mirror.headers(version, message["method"], message.get("params") or {})
        else:
            headers |= self._headers(session)
        async with self.http.stream("POST", self._url, headers, format_message(message)) as response:
            if response.status_code >= 300:
                raise await self._refused(response, session, headers)
            yield response

    @asynccontextmanager
    async def _get(self, session: _Session, last_id: str | None) -> AsyncGenerator[httpx2.Response]:
        """A stream of events of the session. Raises: RpcError: the server opens none."""
        headers = {"accept": EVENTS, "cache-control": "no-store", **self._headers(session)}
        if last_id is not None:
            headers["last-event-id"] = last_id
        async with self.http.stream("GET", self._url, headers) as response:
            if response.status_code >= 300 or content_type(response) != EVENTS:
                raise await self._refused(response, session, headers)
            keep_alive(response)
            yield response

    def _headers(self, session: _Session) -> dict[str, str]:
        headers: dict[str, str] = {}
        if session.id is not None:
            headers[SESSION_HEADER] = session.id
        if session.version is not None:
            headers[VERSION_HEADER] = session.version
        return headers

    async def _refused(self, response: httpx2.Response, session: _Session, headers: Mapping[str, str]) -> RpcError:
        return await refused(
            response, self.http, session, has_session=SESSION_HEADER in headers, stateless=METHOD_HEADER in headers
        )

    # --- the answer of a POST ------------------------------------------------------------------------------------

    async def _read_answer(self, response: httpx2.Response, request: InFlight) -> EventDecoder | None:
        """Take in a body, or the events of a stream until the request is answered.

        Returns:
            The state of a stream that ended or broke before that and can be resumed.

        Raises:
            TransportFailure: there is no answer.
        """
        kind = content_type(response)
        decoder = EventDecoder(limit=self.limit) if kind == EVENTS else None
        body: list[bytes] = []
        size = 0
        chunks = response.aiter_bytes()
        try:
            async for chunk in chunks:
                if decoder is None and not body and kind != JSON and looks_like_events(chunk):
                    decoder = EventDecoder(limit=self.limit)
                if decoder is None:
                    body.append(chunk)
                    size += len(chunk)
                    if size > self.limit:
                        raise self._too_large()
                elif self._take_events(decoder, chunk, request):
                    await _read_on(chunks)
                    return None
        except (httpx2.HTTPError, httpx2.StreamError):
            if decoder is None or decoder.last_id is None or request.modern:
                raise
        if decoder is None:
            self._take_body(response, b"".join(body), request)
        elif decoder.last_id is None or request.modern:
            raise TransportFailure("ended the stream of its answer without a result")
        return decoder

    def _take_events(self, decoder: EventDecoder, chunk: bytes, request: InFlight) -> bool:
        """Take in what a chunk completes; whether the request is answered."""
        try:
            events = decoder.feed(chunk)
        except EventTooLarge:
            raise self._too_large() from None
        for event in events:
            if event.kind == "message":
                self.take(event.data, request)
        return request.answered

    def _too_large(self) -> RpcError:
        # No failure of the transport, after which a call may be made again: the answer would be as large.
        return RpcError(INVALID_REQUEST, f"the answer has more than {self.limit} bytes (setting max_message_bytes)")

    def _take_body(self, response: httpx2.Response, body: bytes, request: InFlight) -> None:
        kind = content_type(response)
        start = body[:16].removeprefix(BOM).lstrip()
        if not start:
            raise TransportFailure(
                f"answered HTTP {response.status_code} {phrase(response.status_code)} without a result"
            )
        if kind != JSON and not start.startswith((b"{", b"[")):
            said = quoted(first_text(body[:MAX_ERROR_BYTES]), self.http.secrets)
            raise TransportFailure(f"answered with {kind or 'a body without a type'} in place of JSON: {said}")
        self.take(body, request)
        if not request.answered:
            raise TransportFailure("answered with JSON that is no answer to the request")

    def closing_cancels(self, request: InFlight) -> bool:
        return request.modern

    def answered(self, request: InFlight, message: Message) -> None:
        if request.message["method"] == "initialize" and "result" in message:
            self.session.version = message["result"].get("protocolVersion")

    async def _resume(self, request: InFlight, session: _Session, broken: EventDecoder) -> None:
        """Open a stream that ended before its request was answered again, from its last event on.

        Raises:
            TransportFailure: that is not possible.
        """
        decoder, tries, pause, least = broken, 0, PAUSE_S[0], MIN_PAUSE_S
        while not request.answered:
            await anyio.sleep(max(_pause(decoder, pause), least))
            pause, least = min(pause * 2, PAUSE_S[1]), min(least * 2, PAUSE_S[0])
            try:
                async with self._get(session, decoder.last_id) as response:
                    decoder, tries = decoder.again(), 0
                    chunks = response.aiter_bytes()
                    async for chunk in chunks:
                        if self._take_events(decoder, chunk, request):
                            await _read_on(chunks)
                            return
                        if decoder.last_id != broken.last_id:
                            broken, pause, least = decoder, PAUSE_S[0], MIN_PAUSE_S
            except SessionLost:
                self.on_session_lost(session)
                raise TransportFailure("broke off its answer and has forgotten the session") from None
            except HttpRefused as exc:
                if not exc.may_pass:
                    raise TransportFailure(f"broke off its answer and does not resume it: {exc.message}") from None
                tries += 1
            except TransportFailure:
                tries += 1
            if tries == RESUME_TRIES:
                raise TransportFailure("broke off its answer and could not be reached again to resume it")

    # --- what the server says unasked ----------------------------------------------------------------------------

    async def _listen(self, session: _Session) -> None:
        """Keep the GET stream open, with growing pauses between attempts, unless the server has none."""
        with session.listening:
            decoder, pause, least, served = EventDecoder(limit=self.limit), PAUSE_S[0], MIN_PAUSE_S, False
            while True:
                opened, last_id, came = anyio.current_time(), decoder.last_id, False
                try:
                    async with self._get(session, last_id) as response:
                        if served and last_id is None:
                            self.on_gap()
                        served, decoder = True, decoder.again()
                        async for chunk in response.aiter_bytes():
                            for event in decoder.feed(chunk):
                                came = True
                                if event.kind == "message":
                                    self.take(event.data)
                except EventTooLarge as exc:
                    # Resumed, the stream would begin with that event again.
                    logger.info("the stream of notifications ended: the server %s", exc)
                    decoder, came = decoder.again(), False
                    decoder.last_id = None
                except SessionLost:
                    if served and opened - session.since > RENEW_S:
                        self.on_session_lost(session)
                    return
                except HttpRefused as exc:
                    if not (served or exc.may_pass):
                        return
                except RpcError as exc:
                    logger.debug("the stream of notifications ended: the server %s", exc.message)
                except Exception:
                    # The last line: without this stream, the connection still serves calls.
                    logger.exception("the stream of notifications failed unexpectedly")
                new = came if decoder.last_id is None else decoder.last_id != last_id
                if new or anyio.current_time() - opened > SERVED_S:
                    pause, least = PAUSE_S[0], MIN_PAUSE_S
                await anyio.sleep(max(_pause(decoder, pause), least))
                pause, least = min(pause * 2, PAUSE_S[1]), min(least * 2, PAUSE_S[1])


def _pause(decoder: EventDecoder, own_s: float) -> float:
    """Seconds until a stream is opened again: as the server asked for, or growing."""
    return own_s if decoder.retry_ms is None else max(decoder.retry_ms / 1000, MIN_PAUSE_S)


def _session_id(response: httpx2.Response) -> str | None:
    # From the bytes, so that the same ones are sent: the library guesses an encoding.
    found = (value for name, value in response.headers.raw if name.lower() == SESSION_HEADER.encode())
    value = next(found, None)
    return None if value is None else value.decode(errors="surrogateescape")


async def _read_on(chunks: AsyncIterator[bytes]) -> None:
    """Read a stream whose request is answered to its end, if that is near."""
    with anyio.move_on_after(LINGER_S), suppress(httpx2.HTTPError, httpx2.StreamError):
        async for _ in chunks:
            pass
