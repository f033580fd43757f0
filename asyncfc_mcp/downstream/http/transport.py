"""The two ends that a `Peer` reads and writes where messages travel in HTTP requests, for both HTTP transports.

Owns the requests in flight: each runs in a task of its own and fails alone. Also owns the delivery of notifications and
responses, of which a bounded number is sent at a time. Sending a message and reading the HTTP response is left to
`streamable` and `sse`, correlation of results to `peer`.
"""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import anyio
import anyio.abc
import httpx2

from asyncfc_mcp.downstream.http.client import HttpClient, read_start
from asyncfc_mcp.downstream.http.event_stream import BOM
from asyncfc_mcp.downstream.http.failures import INTERRUPTED, refusal, session_gone
from asyncfc_mcp.downstream.http.mirrored_headers import RequestHeaders
from asyncfc_mcp.errors import RpcError, SessionLost, TransportFailure
from asyncfc_mcp.jsonrpc.channel import InputGivenUp
from asyncfc_mcp.jsonrpc.codec import MalformedMessage, Message, Oversized, Related, parse_from_server
from asyncfc_mcp.jsonrpc.large import read_from_server
from asyncfc_mcp.jsonrpc.request_ids import correlation_key
from asyncfc_mcp.protocol import MODERN_VERSIONS, PROTOCOL_VERSION_META_KEY, RequestId
from asyncfc_mcp.signals import Signal

logger = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S: Final = 30.0
"""Timeout for the delivery of a notification, or of the response to a request of the server."""
CANCEL_TIMEOUT_S: Final = 5.0
"""Timeout for the delivery of a cancellation, after which the request's connection is closed."""
ERROR_BODY_TIMEOUT_S: Final = 5.0
"""Timeout for reading the body of an error response."""
MAX_CONCURRENT_RESPONSES: Final = 32
"""Responses to requests of the server that are sent at a time, each in a POST of its own. Without a limit, a server
that floods the bridge with requests would make it open as many connections."""
EVENTS: Final = "text/event-stream"
JSON: Final = "application/json"

OnFailure = Callable[[RequestId, RpcError], None]
"""Called with the ID of a request that has failed, and the reason."""


class Inbox:
    """Received messages, with the interface of a reader of `Peer`."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._consumer: Callable[[], bool] | None = None
        self._changed = Signal()
        self._ended = False
        self._reason = ""

    def put(self, message: Message) -> None:
        """Queue a message, and have the reader's callback take it at once if it has registered one."""
        self._messages.append(message)
        if self._consumer is None or not self._consumer() or self._messages:
            self._changed.notify_all()

    def end(self, reason: str = "") -> None:
        """End the input after the messages that are queued.

        Args:
            reason: a predicate of the server, if a fault of the server is the cause.
        """
        self._reason = self._reason or reason
        self._ended = True
        self._changed.notify_all()

    def set_consumer(self, consumer: Callable[[], bool] | None) -> None:
        """Register a callback for messages that arrive while `receive` waits, as `LineReader.set_consumer` does."""
        self._consumer = consumer

    def receive_nowait(self) -> Message | None:
        """Return the next message, or None if the queue is empty."""
        return self._messages.popleft() if self._messages else None

    async def receive(self) -> Message:
        """Wait for the next message.

        Raises:
            anyio.EndOfStream: the input has ended; `InputGivenUp` if because of a fault of the server.
        """
        while not self._messages:
            if self._ended:
                raise InputGivenUp(self._reason) if self._reason else anyio.EndOfStream
            await self._changed.wait()
        return self._messages.popleft()


class InFlightRequest:
    """A request that is being sent, or waits for its result."""

    __slots__ = ("answered", "done", "message", "own", "scope")

    def __init__(self, message: Message, *, own: bool = False) -> None:
        self.message = message
        self.own = own
        """True for a request of the transport itself, whose response nobody else gets."""
        self.scope = anyio.CancelScope()
        """Of the task that sends the request and reads the response."""
        self.answered = False
        self.done = anyio.Event()
        """Set with `answered`."""

    @property
    def request_id(self) -> RequestId:
        return cast("RequestId", self.message["id"])

    @property
    def modern(self) -> bool:
        """True for a request of the stateless protocol (2026-07-28)."""
        return version_of(self.message) in MODERN_VERSIONS


class HttpTransport:
    """The writing end for a `Peer`; its reading end is `inbox`.

    Attributes:
        on_failure: called for each request that gets no result.
        on_session_lost: called with a session that the server no longer knows, when another message than a request
            shows it.
        on_gap: called when notifications of the server may have been lost.
    """

    renewable: bool
    """True if a new session can be created on the same connection."""
    unsent: int = 0
    """Always 0: no message waits for another, since each has an HTTP request of its own. Part of `Peer`'s writer."""
    position: int = 0
    received: int = 1
    consumed: int = 0
    """Constants with which `Peer` treats every request in flight at the end as possibly received."""

    def __init__(self, http: HttpClient, limit: int) -> None:
        self.http = http
        self.limit = limit
        """Size limit of one message in bytes, after decompression."""
        self.inbox = Inbox()
        self.on_failure: OnFailure = lambda request_id, error: None
        self.on_session_lost: Callable[[object], None] = lambda session: None
        self.on_gap: Callable[[], None] = lambda: None
        self.request_headers = RequestHeaders()
        self.in_flight: dict[object, InFlightRequest] = {}
        self._responses: deque[tuple[Message, float]] = deque()
        """Responses that wait for a sender, each with its deadline."""
        self._responders = 0
        """Tasks that send responses."""
        self._tg: anyio.abc.TaskGroup | None = None

    # --- the writing end -----------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Part of `Peer`'s writer: `received` is constant."""

    def send_nowait(self, message: Message, on_lost: Callable[[bool], None] | None = None) -> bool:
        """Send a message without waiting. Requests and notifications get a task each; responses share a few."""
        if self._tg is None:
            raise anyio.BrokenResourceError
        if "method" not in message:
            self._responses.append((message, anyio.current_time() + DELIVERY_TIMEOUT_S))
            if self._responders < MAX_CONCURRENT_RESPONSES:
                self._responders += 1
                self._tg.start_soon(self._send_responses)
        elif "id" in message:
            request = InFlightRequest(message)
            self.in_flight[correlation_key(message["id"])] = request
            self._tg.start_soon(self._run_request, request)
        elif message["method"] == "notifications/cancelled":
            self._tg.start_soon(self._cancel, message)
        else:
            self._tg.start_soon(self._deliver, message, DELIVERY_TIMEOUT_S)
        return True

    async def send(self, message: Message) -> None:
        """Send a message. Returns after the delivery of a notification, so that it precedes later messages; does not
        wait for requests and cancellations."""
        if "id" in message or message["method"] == "notifications/cancelled":
            self.send_nowait(message)
        else:
            await self._deliver(message, DELIVERY_TIMEOUT_S)

    async def flush(self) -> None:
        """Return at once: nothing is buffered."""

    async def finish(self) -> None:
        """Return at once: nothing is buffered."""

    async def wait_for_write(self) -> None:
        """Return at once: nothing is buffered."""

    # --- for the two transports to implement ---------------------------------------------------------------------

    async def send_request(self, request: InFlightRequest) -> None:
        """Send a request and pass its response to `receive`.

        Raises:
            RpcError: there is no result; the error says why.
        """
        raise NotImplementedError

    async def send_message(self, message: Message) -> None:
        """Send a notification, or the response to a request of the server.

        Raises:
            RpcError: the server did not accept it.
        """
        raise NotImplementedError

    def on_response(self, request: InFlightRequest, message: Message) -> None:
        """Handle the response to a request before the peer gets it."""

    def request_of_anonymous_error(self) -> InFlightRequest | None:
        """Return the request that an error without an ID belongs to, if it did not arrive on a request's own connection
        and only one request is possible."""
        return None

    def cancelled_by_disconnect(self, request: InFlightRequest) -> bool:
        """Return whether closing a request's connection cancels the request, so that no notification is needed."""
        return False

    def on_answered_elsewhere(self, request: InFlightRequest) -> None:
        """End the task of a request whose response did not arrive on its own connection."""
        request.scope.cancel()

    def on_oversized_response(self, refusal: Oversized) -> None:
        """Handle a response above the size limit, on no request's own connection, whose request is unknown."""
        logger.info("the server at %s sent a response of %s, which is dropped", self.http.address, refusal.size)

    # --- tasks ---------------------------------------------------------------------------------------------------

    async def _run_request(self, request: InFlightRequest) -> None:
        why: RpcError | None = None
        try:
            with request.scope:
                await self.send_request(request)
            why = TransportFailure("ended its response without a result")
        except RpcError as exc:
            why = exc
        except Exception:
            # The last resort: an unexpected exception must end this request and no other.
            logger.exception("a request to the server at %s failed unexpectedly", self.http.address)
            why = TransportFailure("could not be called because of an internal error of the bridge")
        finally:
            key = correlation_key(request.request_id)
            if self.in_flight.get(key) is request:
                del self.in_flight[key]
        if not (request.answered or request.scope.cancel_called):
            assert why is not None
            why.__traceback__ = why.__context__ = None  # a stored error would keep the received data in memory
            self.on_failure(request.request_id, why)

    async def _cancel(self, message: Message) -> None:
        request = self.in_flight.get(correlation_key(_params(message).get("requestId")))
        if request is None:
            return
        if not self.cancelled_by_disconnect(request):
            await self._deliver(message, CANCEL_TIMEOUT_S)
        request.scope.cancel()

    async def _send_responses(self) -> None:
        """Send queued responses until none is left. The timeout of each includes its time in the queue: otherwise the
        responses for a server that accepts none would accumulate."""
        try:
            while self._responses:
                message, deadline = self._responses.popleft()
                await self._deliver(message, deadline - anyio.current_time())
        finally:
            self._responders -= 1

    async def _deliver(self, message: Message, timeout_s: float) -> None:
        """Send a message that has no response; drop it if the server does not accept it in time."""
        try:
            with anyio.move_on_after(timeout_s) as delivery:
                await self.send_message(message)
            if delivery.cancelled_caught:
                # At debug level: there may be as many of these as the server has sent requests.
                what = message.get("method", "a response")
                logger.debug("dropped %s: the server at %s did not accept it in time", what, self.http.address)
        except RpcError as exc:
            if isinstance(exc, SessionLost) and self.renewable:
                self.on_session_lost(exc.session)
            else:  # a connection with requests in flight is not closed because of a message without a response
                what = message.get("method", "a response")
                logger.info("the server at %s did not accept %s: it %s", self.http.address, what, exc.message)
        except Exception:
            # The last resort, as for requests: one message is lost, and the connection stays open.
            logger.exception("a message to the server at %s could not be delivered", self.http.address)

    def reopen_subscriptions(self) -> None:
        """End the streams on which notifications are awaited (2026-07-28), which may be dead after a sleep of the
        machine; the subscriptions open others."""
        for request in list(self.in_flight.values()):
            if request.message["method"] == "subscriptions/listen" and not request.answered:
                self.fail(request, TransportFailure(INTERRUPTED))

    def fail(self, request: InFlightRequest, why: RpcError) -> None:
        """Fail a request and end its task."""
        request.answered = True
        request.done.set()
        self.on_failure(request.request_id, why)
        request.scope.cancel()

    # --- received messages ---------------------------------------------------------------------------------------

    async def receive(self, data: bytes, request: InFlightRequest | None = None) -> None:
        """Parse a body or the data of an event, one message or a batch (2025-03-26), and dispatch its messages.

        Args:
            request: the request on whose response the data arrived. An unreadable object fails this request.
        """
        if data.removeprefix(BOM).lstrip()[:1] not in (b"{", b"["):
            # At debug level: a server may send any number of these.
            return logger.debug("the server at %s sent data that is no message: %r", self.http.address, data[:100])
        for message in await read_from_server(data):
            if isinstance(message, MalformedMessage):
                if message.ends is None:
                    self._on_malformed(data, message, request)
                else:
                    self._on_response(dict(message.ends), request)
            elif "method" in message:
                self.inbox.put(message if request is None else Related(message, request.request_id))
            else:
                self._on_response(message, request)

    def _on_malformed(self, data: bytes, problem: MalformedMessage, request: InFlightRequest | None) -> None:
        if request is None and isinstance(problem, Oversized) and problem.hides_an_answer:
            self.on_oversized_response(problem)
        elif request is None or request.answered or not data[:16].removeprefix(BOM).lstrip().startswith(b"{"):
            logger.info("the server at %s sent data that is no message: %s", self.http.address, problem)
        else:
            request.answered = True
            request.done.set()
            why = RpcError(problem.code, f"the server's response cannot be read: {problem}")
            self.on_failure(request.request_id, why)

    def _on_response(self, message: Message, request: InFlightRequest | None) -> None:
        key = correlation_key(message.get("id"))
        found = self.in_flight.get(key)
        if found is None and request is not None:
            # A response on a request's own connection belongs to that request, whatever its ID.
            found, message["id"] = request, request.request_id
        elif key is None and "error" in message and (found := self.request_of_anonymous_error()) is not None:
            message["id"] = found.request_id
        if found is None or found.answered:
            return
        found.answered = True
        found.done.set()
        if found.own:
            return
        self.on_response(found, message)
        self.inbox.put(message)
        if found is not request:
            self.on_answered_elsewhere(found)


async def error_of_response(
    response: httpx2.Response, http: HttpClient, session: object, *, has_session: bool, stateless: bool = False
) -> RpcError:
    """Return the failure of an error response: a lost session, the JSON-RPC error in the body, or else the HTTP status.

    Args:
        has_session: the request carried a session ID.
        stateless: the request belongs to no session (2026-07-28), so that none can have been lost.
    """
    body = b""
    with anyio.move_on_after(ERROR_BODY_TIMEOUT_S), suppress(httpx2.HTTPError, httpx2.StreamError):
        body = await read_start(response)
    status = response.status_code
    errors = _errors_in(body)
    why = refusal(status, response.headers, body, http.secrets, errors)
    if not stateless and session_gone(status, body, errors, has_session=has_session):
        return SessionLost(why, session)
    # Gateways in front of a server send 429 and 503, too, and name the time of the next try in a header.
    return why if not errors or status in (429, 503) else errors[0]


def _errors_in(body: bytes) -> list[RpcError]:
    """Return the JSON-RPC errors in a body."""
    found = [message for message in parse_from_server(body) if not isinstance(message, MalformedMessage)]
    errors = [cast("dict[str, Any]", message["error"]) for message in found if message.get("error") is not None]
    return [RpcError(error["code"], error["message"], error.get("data")) for error in errors]


def version_of(message: Message) -> str | None:
    """Return the protocol version in a request's envelope; None for a request of the handshake protocol."""
    meta = _params(message).get("_meta")
    return cast("dict[str, Any]", meta).get(PROTOCOL_VERSION_META_KEY) if isinstance(meta, dict) else None


def _params(message: Message) -> dict[str, Any]:
    return message.get("params") or {}
