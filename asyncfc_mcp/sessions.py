"""Clients that shake hands, over Streamable HTTP: their sessions.

Owns sessions from `initialize` to DELETE, to half an hour without a request, or to our end; what of a session's traffic
belongs together (a call and its cancellation, a question and its answer); and where that goes which the server says by
itself. What is answered at once is plain JSON, and so is what `express` can answer soon; else the response is a stream
from the beginning, so that its client has read its head when the result comes. No stream that broke off is resumed;
while a client has none, it is only kept that lists have changed. Refuses to know what is asked, and requests of
2026-07-28: those are for `posts`.
"""

import logging
import secrets
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.abc

from asyncfc_mcp.errors import ConnectionEnded, RpcError
from asyncfc_mcp.exchange import (
    Door,
    Exchange,
    Explained,
    Headers,
    Refusal,
    Start,
    Starter,
    Stream,
    Waits,
    notification,
    read_message,
    refuse,
    respond,
)
from asyncfc_mcp.futures import Result
from asyncfc_mcp.protocol import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    REQUEST_CANCELLED,
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
LEFT_S: Final = 60.0
"""Where there are too many, the one that has had no request for longest, and for so long at least, makes room."""
UNHEARD: Final = 256
"""What a client that reads slowly, or not at all, may leave unheard; the oldest goes first."""
END_S: Final = 1.0
"""How long the end of a stream may take that its client may not be reading."""
WITHDRAW_S: Final = 5.0
"""How long telling a client that a question is over may take."""

_ID: Final = b"mcp-session-id"


class _Asked:
    """A question that was put to a client."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        """Where."""
        self.settled = anyio.Event()
        self.answer: Result | RpcError | None = None

    def settle(self, answer: Result | RpcError) -> None:
        self.answer = answer
        self.settled.set()


class _Opened:
    """A session, and what is going on in it."""

    def __init__(self, session_id: str) -> None:
        self.session = Session(self.notify, session_id)
        self.headers = ((_ID, session_id.encode()),)
        self.exchanges: dict[_Exchange, None] = {}
        """Requests that are being answered."""
        self._asked: dict[str, _Asked] = {}
        """Questions that have been put and not answered, by ID."""
        self._count = 0
        self._stream: Stream | None = None
        """Where the client hears what belongs to none of its requests."""
        self._retire: Callable[[], None] = lambda: None
        """Ends that stream."""
        self._unheard: deque[Message] = deque(maxlen=UNHEARD)
        """What it shall hear there."""
        self._more = anyio.Event()
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
        return 0.0 if self._busy or self.exchanges else anyio.current_time() - self._idle_since

    # --- what the server says by itself ----------------------------------------------------------------------------

    @property
    def listens(self) -> bool:
        """Whether the client has a stream of its own."""
        return self._stream is not None

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Tell the client something that belongs to none of its requests. Waits for nothing: it may not be reading."""
        message = notification(method, params)
        if self.listens:
            self._unheard.append(message)
            self._more.set()
        elif method.endswith("/list_changed") and message not in self._unheard:
            # It may not have come to listen yet, and would go on with the old list for ever.
            self._unheard.append(message)

    async def speak(self, stream: Stream, retire: Callable[[], None]) -> None:
        """Say on a stream what the client shall hear, until that is cancelled. `retire` is called to have it cancelled:
        when the session ends, or the client opens another stream, since it may have lost this one unnoticed."""
        self._retire()
        self._stream, self._retire = stream, retire
        try:
            while True:
                self._more = anyio.Event()
                while self._unheard:
                    await stream.write(self._unheard.popleft())
                await self._more.wait()
        finally:
            if self._stream is stream:
                self._stream, self._retire = None, lambda: None
            self.lost(stream)

    # --- questions -------------------------------------------------------------------------------------------------

    async def ask(self, exchange: "_Exchange", method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Put a question on the response to one of the client's requests, or where that is over, on its stream.

        Raises:
            RpcError: its error; `ConnectionEnded` when there is no way to the client, or none any more.
        """
        stream = self._stream if exchange.closed else exchange
        self._count += 1
        question_id = f"asyncfc-{self._count}"
        question: Message = {"jsonrpc": "2.0", "id": question_id, **notification(method, params)}
        if stream is not None:
            self._asked[question_id] = asked = _Asked(stream)
            try:
                if await stream.write(question):
                    await asked.settled.wait()
            except anyio.get_cancelled_exc_class():
                if question_id in self._asked:
                    await self._withdraw(stream, question_id)
                raise
            finally:
                self._asked.pop(question_id, None)
            if isinstance(asked.answer, RpcError):
                raise asked.answer
            if asked.answer is not None:
                return asked.answer
        raise ConnectionEnded("does not listen any more")

    async def _withdraw(self, stream: Stream, question_id: str) -> None:
        """Tell the client that a question is over."""
        params = {"requestId": question_id, "reason": "nobody waits for it any more"}
        with anyio.move_on_after(WITHDRAW_S, shield=True):
            if not await stream.write(notification("notifications/cancelled", params)) and self._stream is not None:
                await self._stream.write(notification("notifications/cancelled", params))

    def answered(self, message: Message) -> None:
        """Take in what the client answers; the first answer counts."""
        asked = self._asked.pop(str(message["id"]), None)
        if asked is None:
            logger.debug("dropped an answer to no question: %r", message["id"])
        elif "result" in message:
            asked.settle(cast("Result", message["result"]))
        else:
            error = cast("dict[str, Any]", message["error"])
            asked.settle(RpcError(error["code"], str(error.get("message", "")), error.get("data")))

    def lost(self, stream: Stream) -> None:
        """The client has hung up on a stream: whoever else awaits what was asked there may be asked instead."""
        for question_id in [each for each, asked in self._asked.items() if asked.stream is stream]:
            self._asked.pop(question_id).settle(ConnectionEnded("has hung up"))

    # --- the end ---------------------------------------------------------------------------------------------------

    def left(self, exchange: "_Exchange") -> None:
        """A request has been answered."""
        self.exchanges.pop(exchange, None)
        self._idle_since = anyio.current_time()

    def cancelled(self, params: Params | None) -> None:
        """The client wants no answer to one of its requests any more."""
        request_id = (params or {}).get("requestId")
        for exchange in tuple(self.exchanges):
            # As the SDK has it: 7 and "7" are one.
            if str(exchange.request_id) == str(request_id):
                exchange.cancel(RpcError(REQUEST_CANCELLED, "Request cancelled"))

    def leave(self, why: RpcError) -> None:
        """Let go of everything that goes on in it."""
        self.over.set()
        self._retire()
        while self._asked:
            self._asked.popitem()[1].settle(why)
        for exchange in tuple(self.exchanges):
            exchange.cancel(why)


class _Exchange(Exchange):
    """Whoever hangs up may want the call all the same: the protocol says so. The client can be asked meanwhile."""

    __slots__ = ("opened",)

    def __init__(self, send: "Send", request_id: RequestId, params: Params, opened: _Opened) -> None:
        super().__init__(send, request_id, params, opened.headers)
        self.opened = opened

    def enter(self) -> None:
        self.opened.exchanges[self] = None

    def leave(self) -> None:
        self.opened.left(self)

    async def waits(self) -> None:
        await self.begin()

    @property
    def reachable(self) -> bool:
        return not self.closed or self.opened.listens

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        return await self.opened.ask(self, method, params)

    def hung_up(self) -> None:
        super().hung_up()
        self.opened.lost(self)


class Sessions:
    """All sessions of one server."""

    def __init__(self, upstream: Upstream, door: Door, waits: Waits) -> None:
        self._upstream, self._door, self._waits = upstream, door, waits
        self._all: dict[str, _Opened] = {}
        self._over = False

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """End sessions that were left, until cancelled; then all."""
        task_status.started()
        try:
            while True:
                await anyio.sleep(SWEEP_S)
                await self._end_all([key for key, opened in self._all.items() if opened.idle_s() > IDLE_S])
        finally:
            with anyio.CancelScope(shield=True):  # each takes a bounded time
                await self._end_all(tuple(self._all))

    async def _end_all(self, session_ids: Sequence[str]) -> None:
        async with anyio.create_task_group() as tg:
            for session_id in session_ids:
                tg.start_soon(self._end, session_id)

    def leave(self, why: RpcError) -> None:
        """Let go of everything that goes on, and open no session any more; those that are open end with `run`."""
        self._over = True
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
        if opened is not None and opened.over.is_set():
            opened = None
        try:
            json, stream = self._door.admit(headers, post=method == "POST")
            if session_id is not None and opened is None:
                raise _unknown()
            match method:
                case "POST":
                    if not (json and stream):
                        raise _refusal(406, "Client must accept both application/json and text/event-stream")
                    with opened.busy() if opened is not None else nullcontext():
                        await self._post(opened, receive, send)
                case "GET":
                    if not stream:
                        raise _refusal(406, "Client must accept text/event-stream")
                    await self._listen(_existing(opened), receive, send)
                case "DELETE":
                    await self._end(str(_existing(opened).session.id))
                    await respond(send, 200, b"", *_existing(opened).headers)
                case _:
                    raise _refusal(405, "Method Not Allowed", (b"allow", b"GET, POST, DELETE"))
        except Refusal as exc:
            await refuse(send, exc)

    async def _listen(self, opened: _Opened, receive: "Receive", send: "Send") -> None:
        """A client's stream of what belongs to no request, until it hangs up or opens another, or the session ends."""
        stream = Stream(send, opened.headers)
        gone = False
        with opened.busy():
            await stream.begin()
            async with anyio.create_task_group() as tg:

                async def until_gone() -> None:
                    nonlocal gone
                    try:
                        await self._waits.attend(stream, receive)
                    except Exception:
                        logger.exception("a stream cannot be kept up any more")
                    gone = True
                    tg.cancel_scope.cancel()

                tg.start_soon(until_gone)
                await opened.speak(stream, tg.cancel_scope.cancel)
        if not gone:
            with anyio.move_on_after(END_S):
                await stream.end(None, 200)

    async def _post(self, opened: _Opened | None, receive: "Receive", send: "Send") -> None:
        with opened.session.order.reading() if opened is not None else nullcontext():
            body = await self._door.read(receive)
        if body is None:
            return
        if opened is not None and opened.over.is_set():
            raise _unknown()  # it ended while the body came
        message = read_message(body)
        method, params = message.get("method"), cast("Params | None", message.get("params"))
        if method == "initialize" and "id" in message:
            return await self._initialize(opened, message, receive, send)
        opened = _existing(opened)
        if method is not None and "id" in message:
            return await self._waits.answer(receive, *self._request(opened, message, send))
        if method is None and message.get("id") is None:
            raise _refusal(400, "Invalid answer: it needs the id of its request")
        await respond(send, 202, b"", *opened.headers)
        if method is None:
            opened.answered(message)
        elif method == "notifications/cancelled":
            opened.cancelled(params)
        elif (rest := self._upstream.notified(opened.session, method)) is not None:
            await rest()

    def starter(self, headers: Headers) -> Starter | None:
        """See `Streamable.starter`."""
        opened = self._all.get(headers.get(_ID) or "")
        if opened is None or not all(self._door.admit(headers)):
            return None
        return partial(self._start, opened)

    def _start(self, opened: _Opened, body: bytes, send: "Send") -> Start | None:
        message = read_message(body)
        if opened.over.is_set() or message.get("method", "initialize") == "initialize" or "id" not in message:
            return None
        return self._request(opened, message, send)

    def _request(self, opened: _Opened, message: Message, send: "Send") -> Start:
        params = cast("Params | None", message.get("params"))
        exchange = _Exchange(send, message["id"], params or {}, opened)
        return exchange, partial(self._upstream.handshake, opened.session, exchange, message["method"], params)

    async def _initialize(self, opened: _Opened | None, message: Message, receive: "Receive", send: "Send") -> None:
        """Shake hands, and open a session where that succeeds; one that is open may do it again."""
        if opened is None:
            await self._make_room()
            opened = _Opened(secrets.token_hex(16))
        params = cast("Params", message.get("params") or {})
        exchange = _Exchange(send, message["id"], params, opened)
        exchange.headers = ()

        def begin() -> Result | Later:
            result = self._upstream.handshake(opened.session, exchange, "initialize", params)
            self._all[str(opened.session.id)] = opened
            exchange.headers = opened.headers
            return result

        await self._waits.answer(receive, exchange, begin)

    async def _make_room(self) -> None:
        """Let there be room for one session more.

        Raises:
            Refusal: all are in use.
        """
        if self._over:
            raise _refusal(503, "The bridge is stopping", code=CONNECTION_CLOSED)
        if len(self._all) < MAX_SESSIONS:
            return
        longest = max(self._all, key=lambda session_id: self._all[session_id].idle_s())
        if self._all[longest].idle_s() < LEFT_S:
            problem = f"{MAX_SESSIONS} sessions are in use; end one (DELETE), or try again later"
            raise _refusal(503, problem, code=INTERNAL_ERROR)
        await self._end(longest)


def _refusal(status: int, problem: str, *headers: tuple[bytes, bytes], code: int = INVALID_REQUEST) -> Refusal:
    return Explained(status, RpcError(code, problem), *headers)


def _unknown() -> Refusal:
    return _refusal(404, "Session not found")


def _existing(opened: _Opened | None) -> _Opened:
    if opened is None:
        raise _refusal(400, "Bad Request: Missing session ID")
    return opened
