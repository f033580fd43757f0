"""Clients that shake hands, over Streamable HTTP: their sessions.

Owns sessions from `initialize` to DELETE, to half an hour without a request, or to our end; what of a session's traffic
belongs together (a call and its cancellation, a question and its answer); and where that goes which the server says by
itself. What can be answered at once is plain JSON; else the response is a stream from the beginning, so that its client
has read its head when the result comes. Nothing is kept for a client that comes back: a stream that broke off is not
resumed. Refuses to know what is asked, and requests of
2026-07-28: those are for `posts`.
"""

import logging
import secrets
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.abc

from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.exchange import (
    Door,
    Exchange,
    Headers,
    Refusal,
    Stream,
    Waits,
    notification,
    read_message,
    respond,
    respond_error,
)
from asyncfc_mcp.futures import Result
from asyncfc_mcp.protocol import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    REQUEST_CANCELLED,
    REQUEST_TIMEOUT,
    CallOptions,
    Later,
    RequestId,
)
from asyncfc_mcp.requests import Params, Session
from asyncfc_mcp.server import Upstream
from asyncfc_mcp.wire import Message

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

logger = logging.getLogger(__name__)

MAX_SESSIONS: Final = 10_000
"""More at a time are refused."""
IDLE_S: Final = 1800.0
"""A session without any request for so long has been left: most clients do not say that they go."""
SWEEP_S: Final = 60.0
"""How often somebody looks for such sessions."""
UNHEARD: Final = 64
"""Notifications kept for a client that has not opened its stream yet; the oldest go first."""
WITHDRAW_S: Final = 5.0
"""How long telling a client that a question is over may take."""

_ID: Final = b"mcp-session-id"


class _Opened:
    """A session, and what is going on in it."""

    def __init__(self, session_id: str) -> None:
        self.session = Session(self.notify, session_id)
        self.headers = ((_ID, session_id.encode()),)
        self.exchanges: dict[_Exchange, None] = {}
        """Requests that are being answered."""
        self._asked: dict[str, Callable[[Result | RpcError], None]] = {}
        """Questions that have been put, by ID."""
        self._count = 0
        self._streams: list[Stream] = []
        """What the client hears what nobody asked for on; of several the newest."""
        self._unheard: deque[Message] = deque(maxlen=UNHEARD)
        self.over = anyio.Event()
        self._busy = 0
        self._idle_since = anyio.current_time()

    @contextmanager
    def busy(self) -> Generator[None]:
        """A request of it is being served."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._idle_since = anyio.current_time()

    def idle_s(self) -> float:
        return 0.0 if self._busy else anyio.current_time() - self._idle_since

    # --- what the server says by itself ----------------------------------------------------------------------------

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Tell the client something that belongs to none of its requests."""
        await self._say(notification(method, params))

    async def _say(self, message: Message) -> None:
        if self._streams:
            await self._streams[-1].write(message)
        elif not self.over.is_set():
            # Lists may change before the client has come to listen.
            self._unheard.append(message)

    @contextmanager
    def heard_on(self, stream: Stream) -> Generator[None]:
        """The client listens on a stream."""
        self._streams.append(stream)
        try:
            yield
        finally:
            self._streams.remove(stream)

    async def catch_up(self, stream: Stream) -> None:
        while self._unheard:
            await stream.write(self._unheard.popleft())

    # --- questions -------------------------------------------------------------------------------------------------

    async def ask(
        self, exchange: "_Exchange", method: str, params: Mapping[str, Any] | None, opts: CallOptions
    ) -> dict[str, Any]:
        """Put a question on the response to one of the client's requests, or where that is over, on its stream.

        Raises:
            RpcError: its error; `CONNECTION_CLOSED` when there is no way to the client; `REQUEST_TIMEOUT`.
        """
        self._count += 1
        question_id = f"asyncfc-{self._count}"
        message: Message = {"jsonrpc": "2.0", "id": question_id, **notification(method, params)}
        answers: list[Result | RpcError] = []
        answered = anyio.Event()

        def settle(answer: Result | RpcError) -> None:
            answers.append(answer)
            answered.set()

        self._asked[question_id] = settle
        try:
            with anyio.move_on_after(opts.get("timeout")):
                await self._put(exchange, message)
                await answered.wait()
            if not answers:
                await self._withdraw(exchange, question_id)
                raise RpcError(REQUEST_TIMEOUT, f"Request {method!r} timed out")
        except anyio.get_cancelled_exc_class():
            await self._withdraw(exchange, question_id)
            raise
        finally:
            self._asked.pop(question_id, None)
        [answer] = answers
        if isinstance(answer, RpcError):
            raise answer
        return answer

    async def _put(self, exchange: "_Exchange", message: Message) -> None:
        if not exchange.closed:
            await exchange.write(message)
        elif self._streams:
            await self._say(message)
        else:
            raise RpcError(CONNECTION_CLOSED, "the client does not listen any more")

    async def _withdraw(self, exchange: "_Exchange", question_id: str) -> None:
        params = {"requestId": question_id, "reason": "nobody waits for it any more"}
        with anyio.move_on_after(WITHDRAW_S, shield=True):
            try:
                await self._put(exchange, notification("notifications/cancelled", params))
            except RpcError:
                pass  # who cannot be told need not be

    def answered(self, message: Message) -> None:
        """Take in what the client answers."""
        settle = self._asked.get(str(message["id"]))
        if settle is None:
            logger.debug("dropped an answer to no question: %r", message["id"])
        elif "result" in message:
            settle(cast("Result", message["result"]))
        else:
            error = cast("dict[str, Any]", message["error"])
            settle(RpcError(error["code"], str(error.get("message", "")), error.get("data")))

    # --- the end ---------------------------------------------------------------------------------------------------

    def cancelled(self, params: Params | None) -> None:
        """The client wants no answer to one of its requests any more."""
        request_id = (params or {}).get("requestId")
        for exchange in self.exchanges:
            # As the SDK has it: 7 and "7" are one.
            if str(exchange.request_id) == str(request_id):
                exchange.cancel(RpcError(REQUEST_CANCELLED, "Request cancelled"))

    def leave(self, why: RpcError) -> None:
        """Let go of everything that goes on in it."""
        self.over.set()
        for settle in tuple(self._asked.values()):
            settle(why)
        for exchange in tuple(self.exchanges):
            exchange.cancel(why)


class _Exchange(Exchange):
    """Whoever hangs up may want the call all the same: the protocol says so. The client can be asked meanwhile."""

    __slots__ = ("opened",)

    def __init__(self, send: "Send", request_id: RequestId, params: Params, opened: _Opened) -> None:
        super().__init__(send, request_id, params, opened.headers)
        self.opened = opened

    async def waits(self) -> None:
        await self.begin()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        return await self.opened.ask(self, method, params, opts or {})


class Sessions:
    """All sessions of one server."""

    def __init__(self, upstream: Upstream, door: Door, waits: Waits) -> None:
        self._upstream, self._door, self._waits = upstream, door, waits
        self._all: dict[str, _Opened] = {}

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """End sessions that were left, until cancelled; then all."""
        task_status.started()
        try:
            while True:
                await anyio.sleep(SWEEP_S)
                for session_id, opened in tuple(self._all.items()):
                    if opened.idle_s() > IDLE_S:
                        logger.info("a session ended: it was left")
                        await self._end(session_id)
        finally:
            with anyio.CancelScope(shield=True):  # each takes a bounded time
                async with anyio.create_task_group() as tg:
                    for session_id in tuple(self._all):
                        tg.start_soon(self._end, session_id)

    def leave(self, why: RpcError) -> None:
        """Let go of everything that goes on; the sessions themselves end with `run`."""
        for opened in self._all.values():
            opened.leave(why)

    async def _end(self, session_id: str) -> None:
        opened = self._all.pop(session_id, None)
        if opened is not None:
            opened.leave(RpcError(CONNECTION_CLOSED, "The session has ended"))
            await opened.session.close()

    # --- HTTP ------------------------------------------------------------------------------------------------------

    async def serve(self, scope: "Scope", headers: Headers, receive: "Receive", send: "Send") -> None:
        """Answer one HTTP request."""
        method = scope["method"]
        session_id = headers.get(_ID)
        opened = self._all.get(session_id) if session_id is not None else None
        try:
            self._door.admit(headers, post=method == "POST")
            if session_id is not None and opened is None:
                raise _Refused(404, "Session not found")
            json, stream = headers.accepted()
            match method:
                case "POST":
                    if not (json and stream):
                        raise _Refused(406, "Client must accept both application/json and text/event-stream")
                    body = await self._door.read(receive)
                    if body is not None:
                        await self._post(opened, body, receive, send)
                case "GET":
                    if not stream:
                        raise _Refused(406, "Client must accept text/event-stream")
                    await self._listen(_existing(opened), receive, send)
                case "DELETE":
                    await self._end(str(_existing(opened).session.id))
                    await respond(send, 200, b"", *_existing(opened).headers)
                case _:
                    raise _Refused(405, "Method Not Allowed", (b"allow", b"GET, POST, DELETE"))
        except Refusal as exc:
            await respond(send, exc.status, exc.text, *exc.headers)
        except _Refused as exc:
            await respond_error(send, exc.status, exc.error, *exc.headers)

    async def _listen(self, opened: _Opened, receive: "Receive", send: "Send") -> None:
        """A client's stream of what belongs to no request, until it hangs up or the session ends."""
        stream = Stream(send, opened.headers)
        with opened.busy():
            await stream.begin()
            with opened.heard_on(stream):
                async with anyio.create_task_group() as tg:

                    async def until_gone() -> None:
                        await self._waits.attend(stream, receive)
                        stream.closed = True
                        tg.cancel_scope.cancel()

                    tg.start_soon(until_gone)
                    await opened.catch_up(stream)
                    await opened.over.wait()
                    tg.cancel_scope.cancel()
        if not stream.closed:
            await stream.end(None, 200)

    async def _post(self, opened: _Opened | None, body: bytes, receive: "Receive", send: "Send") -> None:
        try:
            message = read_message(body)
        except RpcError as exc:
            raise _Refused(400, exc.message, code=exc.code) from None
        method, params = message.get("method"), cast("Params | None", message.get("params"))
        if method == "initialize" and "id" in message:
            return await self._initialize(opened, message, receive, send)
        opened = _existing(opened)
        with opened.busy():
            if method is not None and "id" in message:
                exchange = _Exchange(send, message["id"], params or {}, opened)
                begin = partial(self._upstream.handshake, opened.session, exchange, method, params)
                return await self._answer(exchange, receive, begin)
            await respond(send, 202, b"", *opened.headers)
            if method is None:
                opened.answered(message)
            elif method == "notifications/cancelled":
                opened.cancelled(params)
            elif (rest := self._upstream.notified(opened.session, method)) is not None:
                await rest()

    async def _answer(self, exchange: _Exchange, receive: "Receive", begin: Callable[[], Result | Later]) -> None:
        exchanges = exchange.opened.exchanges
        exchanges[exchange] = None
        try:
            await self._waits.answer(exchange, receive, begin)
        finally:
            del exchanges[exchange]

    async def _initialize(self, opened: _Opened | None, message: Message, receive: "Receive", send: "Send") -> None:
        """Shake hands, and open a session where that succeeds; one that is open may do it again."""
        if opened is None:
            if len(self._all) >= MAX_SESSIONS:
                raise _Refused(503, f"Too many sessions are open (at most {MAX_SESSIONS})", code=INTERNAL_ERROR)
            opened = _Opened(secrets.token_hex(16))
        params = cast("Params", message.get("params") or {})
        exchange = _Exchange(send, message["id"], params, opened)
        exchange.headers = ()

        def begin() -> Result | Later:
            result = self._upstream.handshake(opened.session, exchange, "initialize", params)
            self._all[str(opened.session.id)] = opened
            exchange.headers = opened.headers
            return result

        await self._answer(exchange, receive, begin)


class _Refused(Exception):
    """Answered with an HTTP status, and a JSON-RPC error that belongs to no request."""

    def __init__(self, status: int, text: str, *headers: tuple[bytes, bytes], code: int = INVALID_REQUEST) -> None:
        super().__init__(text)
        self.status, self.headers, self.error = status, headers, RpcError(code, text)


def _existing(opened: _Opened | None) -> _Opened:
    if opened is None:
        raise _Refused(400, "Bad Request: Missing session ID")
    return opened
