"""Messages over HTTP requests: the two ends that a `Peer` reads and writes, for both HTTP transports.

Owns the requests in flight, each in a task of its own and each with its own fate: a request that fails is reported as
failed, and no other is touched. Leaves how a message is sent and how answers arrive to `streamable_client` and
`sse_client`, and correlation to `peer`.
"""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import anyio
import anyio.abc
import httpx2

from asyncfc_mcp.codec import MalformedMessage, Message, parse_from_server
from asyncfc_mcp.errors import RpcError, SessionLost, TransportFailure
from asyncfc_mcp.event_stream import BOM
from asyncfc_mcp.http_client import HttpClient, read_start
from asyncfc_mcp.http_errors import refusal, session_gone
from asyncfc_mcp.peer import correlation_key
from asyncfc_mcp.protocol import MODERN_VERSIONS, PROTOCOL_VERSION_META_KEY, RequestId
from asyncfc_mcp.request_headers import Mirror
from asyncfc_mcp.wire import InputGivenUp

logger = logging.getLogger(__name__)

NOTIFY_S: Final = 30.0
"""Time limit for delivering a notification, or the answer to a request of the server."""
CANCEL_S: Final = 5.0
"""Time limit for telling the server of a cancellation, after which the request's connection is closed."""

REFUSED_S: Final = 5.0
"""Time limit for reading what a status is explained with."""
EVENTS: Final = "text/event-stream"
JSON: Final = "application/json"

Failed = Callable[[RequestId, RpcError], None]
"""Told that a request has failed."""


class Inbox:
    """Messages that have arrived, in the form in which `Peer` reads them."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._taker: Callable[[], bool] | None = None
        self._stirred = anyio.Event()
        self._ended = False
        self._how = ""

    def put(self, message: Message) -> None:
        """Hand a message over at once if its reader takes them so, else queue it."""
        self._messages.append(message)
        if self._taker is None or not self._taker() or self._messages:
            self._stirred.set()

    def end(self, how: str = "") -> None:
        """There will be no more.

        Args:
            how: why, where that is for a fault of the server; a predicate of it.
        """
        self._how = self._how or how
        self._ended = True
        self._stirred.set()

    def offer(self, taker: Callable[[], bool] | None) -> None:
        """Have `taker` called for messages that arrive while `receive` waits, as `LineReader.offer` does."""
        self._taker = taker

    def receive_nowait(self) -> Message | None:
        """The next message, if there is one."""
        return self._messages.popleft() if self._messages else None

    async def receive(self) -> Message:
        """The next message. Raises: anyio.EndOfStream: there are no more."""
        while not self._messages:
            if self._ended:
                raise InputGivenUp(self._how) if self._how else anyio.EndOfStream
            self._stirred = anyio.Event()
            await self._stirred.wait()
        return self._messages.popleft()


class InFlight:
    """A request that was sent, or is about to be, and has no answer yet."""

    __slots__ = ("answered", "done", "message", "scope")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.scope = anyio.CancelScope()
        """Of the task that sends it and reads its answer."""
        self.answered = False
        self.done = anyio.Event()
        """Set with `answered`."""

    @property
    def request_id(self) -> RequestId:
        return cast("RequestId", self.message["id"])

    @property
    def modern(self) -> bool:
        """It is stateless (2026-07-28)."""
        return version_of(self.message) in MODERN_VERSIONS


class HttpTransport:
    """The writing end for a `Peer`, and the inbox that is its reading end.

    Attributes:
        on_failure: told of each request that gets no answer.
        on_session_lost: told that the server has forgotten the session, by another way than a request.
        on_gap: told that what the server says unasked may have been missed.
    """

    renewable: bool
    """Whether a new session can be made on the same connection."""
    unsent: int = 0
    """Nothing waits here: each message has a connection of its own. For `Peer`, which bounds what waits."""
    position: int = 0
    received: int = 1
    """For `Peer`: a request that is in flight when all of this ends may have been received."""

    def __init__(self, http: HttpClient, limit: int) -> None:
        self.http = http
        self.limit = limit
        """Bound on the bytes of one message, after decompression."""
        self.inbox = Inbox()
        self.on_failure: Failed = lambda request_id, error: None
        self.on_session_lost: Callable[[object], None] = lambda session: None
        self.on_gap: Callable[[], None] = lambda: None
        self.mirror = Mirror()
        self.in_flight: dict[object, InFlight] = {}
        self._tg: anyio.abc.TaskGroup | None = None

    # --- the writing end -----------------------------------------------------------------------------------------

    def post(self, message: Message, lost: Callable[[bool], None] | None = None) -> bool:
        """Send a message in a task of its own."""
        if self._tg is None:
            raise anyio.BrokenResourceError
        if "method" not in message:
            self._tg.start_soon(self._deliver, message, NOTIFY_S)
        elif "id" in message:
            request = InFlight(message)
            self.in_flight[correlation_key(message["id"])] = request
            self._tg.start_soon(self._run, request)
        elif message["method"] == "notifications/cancelled":
            self._tg.start_soon(self._cancel, message)
        else:
            self._tg.start_soon(self._deliver, message, NOTIFY_S)
        return True

    async def send(self, message: Message) -> None:
        """Send a message, and a notification before whatever is sent after it; but nothing waits for a server to
        take in a cancellation."""
        if "id" in message or message["method"] == "notifications/cancelled":
            self.post(message)
        else:
            await self._deliver(message, NOTIFY_S)

    async def flush(self) -> None:
        """Nothing waits here."""

    async def finish(self) -> None:
        """Nothing waits here."""

    async def moved(self) -> None:
        """Nothing waits here."""

    # --- requests ------------------------------------------------------------------------------------------------

    async def ask(self, request: InFlight) -> None:
        """Send a request, and have what the server says to it taken in.

        Raises:
            RpcError: there is no answer, for the reason that its type and words say.
        """
        raise NotImplementedError

    async def tell(self, message: Message) -> None:
        """Send a notification, or the answer to a request of the server.

        Raises:
            RpcError: it was not accepted.
        """
        raise NotImplementedError

    def answered(self, request: InFlight, message: Message) -> None:
        """Note a request's answer before it is handed over."""

    def unidentified(self) -> InFlight | None:
        """The one request that an error without an ID, on no request's own connection, can be about."""
        return None

    def closing_cancels(self, request: InFlight) -> bool:
        """Whether the server takes the end of a request's connection for its cancellation, and needs no message."""
        return False

    def answered_elsewhere(self, request: InFlight) -> None:
        """End the task of a request whose answer did not arrive on its own connection."""
        request.scope.cancel()

    async def _run(self, request: InFlight) -> None:
        why: RpcError | None = None
        try:
            with request.scope:
                await self.ask(request)
            why = TransportFailure("ended its answer without a result")
        except RpcError as exc:
            why = exc
        except Exception:
            # The last line: whatever escapes must end this request and no other.
            logger.exception("a request failed unexpectedly")
            why = TransportFailure("could not be asked, because of an error in the bridge")
        finally:
            key = correlation_key(request.request_id)
            if self.in_flight.get(key) is request:
                del self.in_flight[key]
        if not (request.answered or request.scope.cancel_called):
            self.on_failure(request.request_id, why)

    async def _cancel(self, message: Message) -> None:
        request = self.in_flight.get(correlation_key(_params(message).get("requestId")))
        if request is None:
            return
        if not self.closing_cancels(request):
            await self._deliver(message, CANCEL_S)
        request.scope.cancel()

    async def _deliver(self, message: Message, limit_s: float) -> None:
        """Send what is not answered; one that is not accepted is dropped."""
        try:
            with anyio.move_on_after(limit_s):
                await self.tell(message)
        except RpcError as exc:
            if isinstance(exc, SessionLost) and self.renewable:
                self.on_session_lost(exc.session)
            else:  # a connection with requests in flight is not ended for a message that nothing waits for
                logger.info("the server did not accept %s: it %s", message.get("method", "an answer"), exc.message)
        except Exception:
            # The last line, as for requests: one message is lost, and the connection goes on.
            logger.exception("a message could not be delivered")

    # --- what arrives --------------------------------------------------------------------------------------------

    def take(self, data: bytes, request: InFlight | None = None) -> None:
        """Take in what a body or an event holds: one message, or a batch of them (2025-03-26).

        Args:
            request: the one on whose answer it arrived. An object there that cannot be read fails that request.
        """
        for message in parse_from_server(data):
            if isinstance(message, MalformedMessage):
                if message.ends is None:
                    self._unreadable(data, message, request)
                else:
                    self._answered(dict(message.ends), request)
            elif "method" in message:
                self.inbox.put(message)
            else:
                self._answered(message, request)

    def _unreadable(self, data: bytes, problem: MalformedMessage, request: InFlight | None) -> None:
        if request is None or request.answered or not data[:16].removeprefix(BOM).lstrip().startswith(b"{"):
            logger.info("the server sent something that is no message: %s", problem)
            return
        request.answered = True
        request.done.set()
        self.on_failure(request.request_id, RpcError(problem.code, f"the server's answer cannot be read: {problem}"))

    def _answered(self, message: Message, request: InFlight | None) -> None:
        key = correlation_key(message.get("id"))
        found = self.in_flight.get(key)
        if found is None and request is not None:
            # What answers on a request's own connection answers that request, whatever ID it bears.
            found, message["id"] = request, request.request_id
        elif key is None and "error" in message and (found := self.unidentified()) is not None:
            message["id"] = found.request_id
        if found is None or found.answered:
            return
        found.answered = True
        found.done.set()
        self.answered(found, message)
        self.inbox.put(message)
        if found is not request:
            self.answered_elsewhere(found)


async def refused(
    response: httpx2.Response, http: HttpClient, session: object, *, has_session: bool, stateless: bool = False
) -> RpcError:
    """The failure that a status means: a lost session, the JSON-RPC error in the body, or else the status itself.

    Args:
        stateless: the request belongs to no session (2026-07-28), so that none can have been lost.
    """
    body = b""
    with anyio.move_on_after(REFUSED_S), suppress(httpx2.HTTPError, httpx2.StreamError):
        body = await read_start(response)
    status = response.status_code
    errors = _errors_in(body)
    why = refusal(status, response.headers, body, http.secrets, errors)
    if not stateless and session_gone(status, body, errors, has_session=has_session):
        return SessionLost(why, session)
    # What stands before a server answers 429 and 503, too, and says when to ask again.
    return why if not errors or status in (429, 503) else errors[0]


def _errors_in(body: bytes) -> list[RpcError]:
    """The JSON-RPC errors in a body."""
    found = [message for message in parse_from_server(body) if not isinstance(message, MalformedMessage)]
    errors = [cast("dict[str, Any]", message["error"]) for message in found if message.get("error") is not None]
    return [RpcError(error["code"], error["message"], error.get("data")) for error in errors]


def version_of(message: Message) -> str | None:
    """The protocol version that a request says itself, as requests since 2026-07-28 do."""
    meta = _params(message).get("_meta")
    return cast("dict[str, Any]", meta).get(PROTOCOL_VERSION_META_KEY) if isinstance(meta, dict) else None


def _params(message: Message) -> dict[str, Any]:
    return message.get("params") or {}
