"""uvicorn's protocol with what it lacks: bounds of a connection, and ends that cost nothing.

Owns the end of a connection (after a refusal, a request that is no good HTTP, a phase that takes too long) and headers
that must not come twice. Refuses to know which requests are refused, and how many connections there may be.
"""

import logging
import re
from typing import TYPE_CHECKING, Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from asyncfc_mcp.connections import Connections, Phase
from asyncfc_mcp.exchange import Header, Refusal, respond

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

LINGER_S: Final = 2.0
LINGER_BYTES: Final = 4 << 20
"""After a refusal, what still comes is thrown away for so long and up to that much: a socket that is closed with unread
bytes is reset, and its client may then not see the answer."""
TINY_CHUNKS: Final = 5000
"""Chunks of a few bytes each that a connection may send in floods: h11 takes microseconds for each, and there may be
millions."""
SLICE_BYTES: Final = 8 << 10
"""As much of such a flood is read at once."""

SINGLE: Final = frozenset(
    b"authorization content-length content-type host last-event-id mcp-method mcp-name mcp-protocol-version "
    b"mcp-session-id origin".split()
)
"""Headers of which two readers may take different ones if they come twice."""
CLOSING: Final = frozenset({401, 403, 413, 421, 431, 503})
"""Statuses after which nothing more is read, even where the request was read to its end."""
_CLOSE: Final = (b"connection", b"close")
_TINY: Final = re.compile(rb"\r\n0*[0-9a-fA-F]{1,2}[^\r\n]*(?=\r\n)")
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


def _closing(status: bytes, text: bytes) -> bytes:
    """A whole response after which the connection is closed."""
    head = b"HTTP/1.1 %s\r\nconnection: close\r\n%s: %s\r\ncontent-length: %d\r\n\r\n"
    return head % (status, *_TEXT, len(text)) + text


_FULL: Final = _closing(b"503 Service Unavailable", b"There are too many connections; try again later.\n")
_LATE: Final = _closing(b"408 Request Timeout", b"The request took too long to arrive.\n")


def fault_of(headers: list[Header]) -> Refusal | None:
    """The refusal of a request whose headers say different things to different readers; None for others."""
    names = [name for name, _ in headers]
    if len(set(names)) < len(names):
        for name in SINGLE.intersection(names):
            if names.count(name) > 1:
                return Refusal(400, b"The header " + name + b" must not come more than once\n", _TEXT)
    if b"transfer-encoding" in names and b"content-length" in names:
        return Refusal(400, b"Content-Length and Transfer-Encoding exclude each other\n", _TEXT)
    return None


class _Lingering:
    """The transport as uvicorn's cycle sees it: closed by the protocol, which lets the client read the answer."""

    def __init__(self, protocol: "HttpProtocol") -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        self._protocol.transport.write(data)

    def is_closing(self) -> bool:
        return self._protocol.transport.is_closing()

    def resume_reading(self) -> None:
        self._protocol.transport.resume_reading()

    def close(self) -> None:
        self._protocol.linger()


class HttpProtocol(H11Protocol):
    """One connection, as uvicorn serves it.

    Args:
        connections: all of them; None where nothing is bounded (tests).
        uvicorn: what uvicorn gives its protocols.
    """

    def __init__(self, connections: Connections | None = None, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._connections = connections
        self._application = self.app
        self.app = cast("Any", self._run)
        self.answered = 0
        self.received = 0
        self._dropped: int | None = None
        """Bytes that were thrown away since a refusal; None before one."""
        self._tiny = 0
        """Chunks of a few bytes that came."""
        self._held = b""
        """What h11 has not read yet."""

    # --- bounds ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        address = str(cast("tuple[Any, ...]", peer)[0]) if isinstance(peer, tuple) and peer else ""
        if self._connections is not None and not self._connections.admit(self, address):
            self._end(_FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connections is not None:
            self._connections.forget(self)
        if self._dropped is not None:
            exc = None  # how it ended matters no more, and the timer is unset
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    @property
    def phase(self) -> Phase:
        """See `connections.Connection`."""
        if self._dropped is not None:
            return Phase.ANSWER
        theirs = self.conn.their_state
        if theirs is h11.IDLE:
            begun = not self.answered or bool(self.conn.trailing_data[0])
            return Phase.HEAD if begun else Phase.IDLE
        return Phase.BODY if theirs is h11.SEND_BODY and not self._is_answering else Phase.ANSWER

    @property
    def _is_answering(self) -> bool:
        cycle = cast("Any", self.cycle)
        return cycle is not None and cycle.response_started

    @property
    def unread(self) -> int:
        """See `connections.Connection`."""
        return cast("Any", self.transport).get_write_buffer_size() if self.flow.write_paused else 0

    def expire(self, phase: Phase) -> None:
        """See `connections.Connection`."""
        if phase in (Phase.HEAD, Phase.BODY) and self.received and not self._is_answering:
            self._end(_LATE)
        elif phase is Phase.ANSWER:
            self.transport.abort()  # what it has not read would be kept until it does
        else:
            self.transport.close()

    def _end(self, response: bytes) -> None:
        """Say why, and close."""
        self.transport.write(response)
        self.transport.close()

    # --- refusals ----------------------------------------------------------------------------------------------------

    async def _run(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """ASGI: the application, and the end of the connection where that refuses a request."""
        cycle = cast("Any", self.cycle)

        async def closing(message: "Message") -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                unread = self.conn.their_state is h11.SEND_BODY and status >= 400
                if unread or status in CLOSING:
                    cycle.transport = _Lingering(self)
                    headers = [header for header in message.get("headers", ()) if header[0] != b"connection"]
                    message = {**message, "headers": [*headers, _CLOSE]}
            await send(message)

        fault = fault_of(scope["headers"])
        if fault is not None:
            cycle.transport = _Lingering(self)
            return await respond(send, fault.status, fault.body, *fault.headers, _CLOSE)
        await self._application(scope, receive, closing)

    def linger(self) -> None:
        """Close, once the client has had time to read what was written."""
        if self._dropped is not None or self.transport.is_closing():
            return
        self._dropped = 0
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(LINGER_S, self.transport.close)
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self.received += len(data)
        if self._dropped is None:
            self.take(data)
        else:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.close()

    def take(self, data: bytes) -> None:
        """Take in what came, before any refusal."""
        self.parse(data)

    def parse(self, data: bytes) -> None:
        """Have h11 read what came: in slices where it comes in tiny chunks, so that others, and the application that
        may refuse the request, have their turns in between."""
        if self._held:
            self._held += data
            return
        if len(data) > SLICE_BYTES and (tiny := len(_TINY.findall(data))) * 32 > len(data):
            self._tiny += tiny
            data, self._held = data[:SLICE_BYTES], data[SLICE_BYTES:]
            self.flow.pause_reading()
        try:
            super().data_received(data)
        except (h11.ProtocolError, ValueError) as exc:  # asyncio would log it with a traceback
            logger.debug("a connection is closed: %s", exc)
            self.transport.close()
        if self._held:  # behind the first step of the application
            self.loop.call_soon(self._parse_rest)

    def _parse_rest(self) -> None:
        data, self._held = self._held, b""
        if self._dropped is not None or self.transport.is_closing():
            return
        if self._tiny > TINY_CHUNKS and not self._is_answering:
            return self.send_400_response("The chunks of the body are too small.")
        self.flow.resume_reading()
        self.parse(data)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn: what came is no HTTP. Said where no response has begun; then nothing more is read."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_closing(b"400 Bad Request", msg.encode("ascii", "replace")))
            if (cycle := cast("Any", self.cycle)) is not None:
                cycle.disconnected = True
                cycle.message_event.set()
            self.linger()
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        """Called by uvicorn."""
        self.answered += 1
        if self._dropped is None:
            super().on_response_complete()
