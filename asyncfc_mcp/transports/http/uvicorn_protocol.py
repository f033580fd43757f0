"""uvicorn's HTTP protocol with limits for connections and an orderly close.

Owns closing a connection: after a refusal, an invalid request, or a phase that takes too long. Leaves framing to
`framing`, limits to `connections`, and refusals to the application.
"""

import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from asyncfc_mcp.transports.http.asgi import respond
from asyncfc_mcp.transports.http.connections import Connections, Phase
from asyncfc_mcp.transports.http.forwarded import TrustedProxies
from asyncfc_mcp.transports.http.framing import MAX_HEAD_BYTES, StrictConnection

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

LINGER_S: Final = 2.0
LINGER_BYTES: Final = 4 << 20
"""Time and bytes for which input is discarded after a refusal: closing a socket with unread input resets the
connection, and the client may then lose the response."""
TINY_CHUNKS: Final = 5000
"""Bound on tiny chunks that a connection may send in large reads: h11 takes microseconds for each, and there may be
millions."""
SLICE_BYTES: Final = 8 << 10
"""Bytes of such a read that are parsed in one step."""

JOINED_BYTES: Final = 64 << 10
"""A body up to this size is written together with the head of its response; more is not worth a copy."""

CLOSING: Final = frozenset({401, 403, 413, 421, 431, 503})
"""Statuses after which the connection is closed, even if the request was read to its end."""
_CLOSE: Final = (b"connection", b"close")
_TINY: Final = re.compile(rb"\r\n0*[0-9a-fA-F]{1,2}[^\r\n]*(?=\r\n)")
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


def _closing(status: bytes, text: bytes) -> bytes:
    """Return a complete response after which the connection is closed."""
    head = b"HTTP/1.1 %s\r\nconnection: close\r\n%s: %s\r\ncontent-length: %d\r\n\r\n"
    return head % (status, *_TEXT, len(text)) + text


_FULL: Final = _closing(b"503 Service Unavailable", b"There are too many connections; try again later.\n")
_LATE: Final = _closing(b"408 Request Timeout", b"The request took too long to arrive.\n")


class _LingeringTransport:
    """Transport for uvicorn's cycle whose close lingers, so that the client can read the response."""

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


class _JoiningTransport:
    """Transport for uvicorn's cycle that writes the head of a response together with its body, so that the client wakes
    up once."""

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head: bytes | None = None
        """None before the head; empty once it is written."""

    def write(self, data: bytes) -> None:
        if self._head is None:
            self._head = data
        elif self._head:
            head, self._head = self._head, b""
            if len(data) > JOINED_BYTES:
                self._transport.write(head)
                self._transport.write(data)
            else:
                self._transport.write(head + data)
        elif data:
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def close(self) -> None:
        if self._head:
            self.write(b"")
        self._transport.close()


class HttpServer(uvicorn.Server):
    """uvicorn's server without its handlers of signals, which would end it at the first one (see `lifecycle`)."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class HttpProtocol(H11Protocol):
    """One connection, as uvicorn serves it.

    Args:
        connections: limits of all connections; None for no limits (tests).
        proxies: proxies whose requests count for their clients.
        uvicorn: arguments of uvicorn's protocols.
    """

    def __init__(
        self, connections: Connections | None = None, proxies: TrustedProxies | None = None, **uvicorn: Any
    ) -> None:
        super().__init__(**uvicorn)
        self._strict = StrictConnection(self.config.h11_max_incomplete_event_size or MAX_HEAD_BYTES)
        self.conn = self._strict
        self._connections = connections
        self._proxies = proxies
        self._behind_proxy = False
        """True if the peer is a proxy that is believed."""
        self._application = self.app
        self.app = cast("Any", self._run)
        self.answered = 0
        self.received = 0
        self.sent = 0
        self._dropped: int | None = None
        """Bytes discarded since a refusal; None before one."""
        self._tiny = 0
        """Tiny chunks received in large reads."""
        self._held = b""
        """Input that h11 has not parsed yet."""

    # --- bounds ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        address = str(cast("tuple[Any, ...]", peer)[0]) if isinstance(peer, tuple) and peer else ""
        self._behind_proxy = self._proxies is not None and self._proxies.trusts_peer(address)
        if self._connections is not None and not self._connections.admit(self, address, proxy=self._behind_proxy):
            self._end(_FULL)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connections is not None:
            self._connections.forget(self)
        if self._dropped is not None:
            exc = None  # expected while lingering
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        # Both refer back to the protocol: a lost connection would wait for a full garbage collection, which is rare.
        self.app = self._application
        self.cycle = None  # type: ignore[assignment]

    @property
    def phase(self) -> Phase:
        """See `connections.Connection`."""
        if self._dropped is not None:
            return Phase.END
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
        return cast("Any", self.transport).get_write_buffer_size()

    def expire(self, phase: Phase) -> None:
        """See `connections.Connection`."""
        if self.unread or phase in (Phase.ANSWER, Phase.END):
            self.transport.abort()  # close() would wait until the client has read everything
        elif phase in (Phase.HEAD, Phase.BODY) and self.received and not self._is_answering:
            self._end(_LATE)
        else:
            self.transport.close()

    def _end(self, response: bytes) -> None:
        """Write a response and close; the connection is aborted if the client does not read it in time."""
        self.transport.write(response)
        self.transport.close()
        self.loop.call_later(LINGER_S, self.transport.abort)

    # --- refusals ----------------------------------------------------------------------------------------------------

    async def _run(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Run the ASGI application, and close the connection if it refuses the request."""
        cycle = cast("Any", self.cycle)

        async def closing(message: "Message") -> None:
            if message["type"] == "http.response.start":
                # A response before the end of the body ends the request: the rest of the body would have no limit.
                if self.conn.their_state is h11.SEND_BODY or message["status"] in CLOSING:
                    cycle.transport = _LingeringTransport(self)
                    headers = [header for header in message.get("headers", ()) if header[0] != b"connection"]
                    message = {**message, "headers": [*headers, _CLOSE]}
                elif any(header[0] == b"content-length" for header in message.get("headers", ())):
                    cycle.transport = _JoiningTransport(self.transport)
            await send(message)
            self.sent += len(message.get("body", b""))

        if self._behind_proxy:
            scope = self._forwarded(scope)
            client = scope.get("client")
            if self._connections is not None and not self._connections.attribute(self, client[0] if client else ""):
                return await respond(closing, 503, b"This address has too many connections; try again later.\n", _TEXT)
        await self._application(scope, receive, closing)

    def _forwarded(self, scope: "Scope") -> "Scope":
        """Return the scope of a request with the client and the scheme that the proxy reports."""
        assert self._proxies is not None
        client, scheme = self._proxies.client_of(scope["headers"])
        if client is not None:
            scope = {**scope, "client": (client, 0)}
        return scope if scheme is None else {**scope, "scheme": scheme}

    def linger(self) -> None:
        """Close after the client has had time to read the response."""
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
            self._parse(data)
        else:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.close()

    def _parse(self, data: bytes) -> None:
        """Parse input with h11: in slices if it has many tiny chunks, so that other connections, and the application
        that may refuse the request, run in between."""
        if self._held:
            self._held += data
            return
        if len(data) > SLICE_BYTES and (tiny := len(_TINY.findall(data))) * 32 > len(data):
            self._tiny += tiny
            data, self._held = data[:SLICE_BYTES], data[SLICE_BYTES:]
            self.flow.pause_reading()
        try:
            super().data_received(data)
        except (h11.ProtocolError, ValueError) as exc:  # asyncio would log a traceback
            logger.debug("closed a connection after a protocol error: %s", exc)
            self.transport.close()
        if self._held:  # after the first step of the application
            self.loop.call_soon(self._parse_rest)

    def _parse_rest(self) -> None:
        data, self._held = self._held, b""
        if self._dropped is not None or self.transport.is_closing():
            return
        if self._tiny > TINY_CHUNKS and not self._is_answering:
            return self.send_400_response("The chunks of the body are too small.")
        self.flow.resume_reading()
        self._parse(data)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for invalid HTTP. Sends the response unless one has begun; nothing more is read."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            text = f"{self._strict.fault or msg}\n"
            self.transport.write(_closing(b"400 Bad Request", text.encode("ascii", "replace")))
            if (cycle := cast("Any", self.cycle)) is not None:
                cycle.disconnected = True
                cycle.message_event.set()
            self.linger()
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        """Called by uvicorn."""
        self.answered += 1
        if self._behind_proxy and self._connections is not None:
            self._connections.attribute(self, None)
        if self._dropped is None:
            super().on_response_complete()
