"""One session over Streamable HTTP, for protocol versions with a handshake (before 2026-07-28).

Owns what belongs together across its HTTP requests: calls and their cancellations, questions and their answers, and the
stream of notifications that belong to no request. A request that is answered soon gets plain JSON, after which clients
keep the connection; any other gets an event stream before its result is there. A broken stream is not resumed; while a
client has no stream, only changes of lists are kept for it. Leaves the number and the end of sessions to
`session_table`, and HTTP methods to `sessions`.
"""

import logging
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import anyio

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import CallerIdentity, Principal
from asyncfc_mcp.errors import ConnectionEnded, RpcError
from asyncfc_mcp.jsonrpc.codec import Message
from asyncfc_mcp.protocol import REQUEST_CANCELLED, CallOptions, RequestId
from asyncfc_mcp.signals import WakeUp
from asyncfc_mcp.transports.http.auth.authenticator import Access
from asyncfc_mcp.transports.http.exchange import EventStream, Exchange, notification
from asyncfc_mcp.upstream.request import Params, Session

if TYPE_CHECKING:
    from starlette.types import Send

logger = logging.getLogger(__name__)

SESSION_ID: Final = b"mcp-session-id"
MAX_QUEUED_NOTIFICATIONS: Final = 256
"""Queue bound of a client's own stream; the oldest notification is dropped first. Notifications only tell clients to
refetch, so dropping some is harmless."""
ABSENT_S: Final = 10.0
"""A client without a request or a stream for so long may have disconnected: its questions may be sent to a session that
it has opened since."""
CANCEL_WRITE_S: Final = 5.0
"""Time limit for writing the cancellation of a question."""


class _PendingQuestion:
    """A request to the client that has no response yet."""

    def __init__(self, stream: EventStream) -> None:
        self.stream = stream
        """The stream on which it was sent."""
        self.settled = anyio.Event()
        self.answer: Result | RpcError | None = None

    def settle(self, answer: Result | RpcError) -> None:
        self.answer = answer
        self.settled.set()


class HttpSession:
    """A session and the requests, questions and streams in it."""

    def __init__(self, principal: Principal, session_id: str) -> None:
        self.session = Session(principal, self.notify, session_id)
        self.headers = ((SESSION_ID, session_id.encode()),)
        self.access: Access | None = None
        """The access of its last request; None before one."""
        self.exchanges: dict[SessionExchange, None] = {}
        """Requests in flight."""
        self.request_count = 0
        """Number of requests so far, the handshake included."""
        self._questions: dict[str, _PendingQuestion] = {}
        """Pending questions by ID."""
        self._last_question = 0
        self._stream: EventStream | None = None
        """The client's own stream, for messages that belong to none of its requests."""
        self._retire: Callable[[], None] = _nothing
        """Ends that stream."""
        self._queue: list[Message] = []
        """Messages for that stream."""
        self._queued: WakeUp | None = None
        """Set when a message is queued."""
        self.closed = False
        self._busy = 0
        self._idle_since = self._seen_at = anyio.current_time()
        self.session.identity.began_at = self._seen_at
        self.session.identity.left_at = self._left_at

    @contextmanager
    def busy(self) -> Generator[None]:
        """Keep the session from being idle while an HTTP request is served."""
        self._busy += 1
        self.seen()
        try:
            yield
        finally:
            self._busy -= 1
            self._idle_since = anyio.current_time()

    def idle_s(self) -> float:
        return 0.0 if self._busy or self.exchanges else anyio.current_time() - self._idle_since

    def seen(self) -> None:
        """Record a sign of life of the client: it sends a request, or its open request or stream ends. Called before a
        response is written, not in the clean-up after it: a client that has the response may open another session in
        between, and would be taken for another client beside this one."""
        self._seen_at = anyio.current_time()

    def _left_at(self) -> float:
        """See `CallerIdentity.left_at`. A call that continues after its client disconnected is no sign of life."""
        if self.listens or any(not exchange.disconnected for exchange in self.exchanges):
            return math.inf
        return self._seen_at if anyio.current_time() - self._seen_at >= ABSENT_S else math.inf

    # --- notifications ---------------------------------------------------------------------------------------------

    @property
    def listens(self) -> bool:
        """True while the client has a stream of its own."""
        return self._stream is not None

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Queue a notification that belongs to no request. Never waits, since the client may not be reading."""
        message = notification(method, params)
        # Changes of lists are kept without a stream: a client that opens one later would use the old list for ever.
        if self.listens or (method.endswith("/list_changed") and message not in self._queue):
            self._queue.append(message)
            if len(self._queue) > MAX_QUEUED_NOTIFICATIONS:
                del self._queue[0]
        if self._queued is not None:
            self._queued.set()

    async def write_notifications(self, stream: EventStream, retire: Callable[[], None]) -> None:
        """Write queued messages to a stream, until cancelled.

        Args:
            retire: called to have it cancelled: when the session ends, or the client opens another stream, since this
                one may be lost without the client's knowledge.
        """
        self._retire()
        self._stream, self._retire = stream, retire
        queued = self._queued = WakeUp()
        try:
            while True:
                while self._queue:
                    await stream.write(self._queue.pop(0))
                await queued.wait()
        finally:
            if self._stream is stream:
                self._stream, self._retire, self._queued = None, _nothing, None
                self.seen()
            self.stream_lost(stream)

    # --- questions -------------------------------------------------------------------------------------------------

    async def ask(self, exchange: "SessionExchange", method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Send a request to the client, on the response to one of its requests or, if that has ended, on its stream.

        Raises:
            RpcError: the error of its response; `ConnectionEnded` if there is no stream to the client, or it is lost.
        """
        stream = self._stream if exchange.closed else exchange
        self._last_question += 1
        question_id = f"asyncfc-{self._last_question}"
        question: Message = {"jsonrpc": "2.0", "id": question_id, **notification(method, params)}
        if stream is not None:
            self._questions[question_id] = pending = _PendingQuestion(stream)
            try:
                if await stream.write(question):
                    await pending.settled.wait()
            except anyio.get_cancelled_exc_class():
                if question_id in self._questions:
                    await self._cancel_question(stream, question_id)
                raise
            finally:
                self._questions.pop(question_id, None)
            if isinstance(pending.answer, RpcError):
                raise pending.answer
            if pending.answer is not None:
                return pending.answer
        raise ConnectionEnded("has no open stream")

    async def _cancel_question(self, stream: EventStream, question_id: str) -> None:
        """Tell the client that no answer is needed."""
        params = {"requestId": question_id, "reason": "the question is no longer pending"}
        with anyio.move_on_after(CANCEL_WRITE_S, shield=True):
            if not await stream.write(notification("notifications/cancelled", params)) and self._stream is not None:
                await self._stream.write(notification("notifications/cancelled", params))

    def end_lapsed_stream(self, is_over: Callable[[Access], bool]) -> None:
        """End the client's own stream if the access has ended with which it was opened."""
        if self._stream is not None and (access := self._stream.access) is not None and is_over(access):
            self._retire()

    def on_response(self, message: Message) -> None:
        """Settle a question with the client's response; the first one counts."""
        pending = self._questions.pop(str(message["id"]), None)
        if pending is None:
            logger.debug("dropped a response to no question: %r", message["id"])
        elif "result" in message:
            pending.settle(cast("Result", message["result"]))
        else:
            error = cast("dict[str, Any]", message["error"])
            pending.settle(RpcError(error["code"], str(error.get("message", "")), error.get("data")))

    def stream_lost(self, stream: EventStream) -> None:
        """Fail the questions on a lost stream, so that they can be sent to another waiting client."""
        for question_id in [each for each, pending in self._questions.items() if pending.stream is stream]:
            self._questions.pop(question_id).settle(ConnectionEnded("disconnected"))

    # --- the end ---------------------------------------------------------------------------------------------------

    def on_exchange_end(self, exchange: "SessionExchange") -> None:
        """Remove a request that was answered or abandoned."""
        self.exchanges.pop(exchange, None)
        self._idle_since = anyio.current_time()

    def on_cancelled(self, params: Params | None) -> None:
        """Cancel the request that `notifications/cancelled` names."""
        request_id = (params or {}).get("requestId")
        for exchange in tuple(self.exchanges):
            # As in the SDK, 7 and "7" are one ID.
            if str(exchange.request_id) == str(request_id):
                exchange.cancel(RpcError(REQUEST_CANCELLED, "Request cancelled"))

    def close(self, error: RpcError) -> None:
        """End its stream, and its questions and requests with an error."""
        self.closed = True
        # Futures keep the identity of their callers, and must not keep the session with it.
        self.session.identity.left_at = CallerIdentity.never
        self._retire()
        while self._questions:
            self._questions.popitem()[1].settle(error)
        for exchange in tuple(self.exchanges):
            exchange.cancel(error)


def _nothing() -> None: ...


class SessionExchange(Exchange):
    """A request in a session. By the protocol, a disconnect does not cancel it. The client can be asked meanwhile.

    Args:
        streams: a deferred result is an event stream from the start, as the SDK's server does it. False for calls,
            of which many end soon: the SDK's client opens a new connection after every stream.
    """

    __slots__ = ("_streams", "disconnected", "http_session")

    def __init__(
        self, send: "Send", request_id: RequestId, params: Params, http_session: HttpSession, *, streams: bool
    ) -> None:
        super().__init__(send, request_id, params, http_session.headers)
        self.http_session = http_session
        self.disconnected = False
        self._streams = streams

    def on_start(self) -> None:
        self.http_session.exchanges[self] = None
        self.http_session.request_count += 1

    def on_last(self) -> None:
        self.http_session.seen()

    def on_end(self) -> None:
        self.http_session.on_exchange_end(self)

    async def on_deferred(self) -> None:
        if self._streams:
            await self.begin()

    async def on_wait(self) -> None:
        await self.begin()

    @property
    def reachable(self) -> bool:
        return not self.closed or self.http_session.listens

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        return await self.http_session.ask(self, method, params)

    def on_disconnect(self) -> None:
        super().on_disconnect()
        self.disconnected = True
        self.http_session.seen()
        self.http_session.stream_lost(self)
