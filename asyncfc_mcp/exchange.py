"""An HTTP request of an MCP client, whatever its protocol era: who may send it, and the way back.

Owns whose pages may talk to us, how much may be said, when an answer becomes a stream of events, that quiet streams
live, and who notices that a client has hung up. Refuses to know what a request asks, what its era makes of a client
that hangs up, and what carries it: ASGI, or `express` as long as it is quick. The SDK's entries do the same through a
router, message models, task groups and memory streams for each request; here a request that is answered at once costs
a parse, two sends and no task.
"""

import hmac
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.abc

from asyncfc_mcp.codec import MalformedMessage, Message, format_message, parse_message
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.futures import Result
from asyncfc_mcp.protocol import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    CallOptions,
    Later,
    RequestId,
    progress_of,
    progress_token,
)
from asyncfc_mcp.requests import Params

if TYPE_CHECKING:
    from starlette.types import Receive, Send

logger = logging.getLogger(__name__)

PING_S: Final = 15.0
"""How long an answer may take until a stream is made of it, and how often a stream then shows that it lives: proxies
close what is silent for longer."""
UNWATCHED_S: Final = 0.05
"""A request that waits for its result this long, or at most twice, has somebody who looks out for its client's hanging
up. By `express` it is handed over to ASGI then, where that time begins anew."""

VERSION: Final = b"mcp-protocol-version"
JSON: Final = (b"content-type", b"application/json")

_ADMITTED_BY: Final = (b"content-type", b"host", b"origin", b"accept")
_JSON_KINDS: Final = ("application/json", "application/*")
_STREAM_KINDS: Final = ("text/event-stream", "text/*")
_STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
)
_PING: Final = b": ping\r\n\r\n"
_LINE_ENDS: Final = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""What ends no line of a stream, but of a text: clients have been seen to split at these."""

Header = tuple[bytes, bytes]


class Refusal(Exception):
    """Answered by HTTP alone: it does not come to JSON-RPC."""

    def __init__(self, status: int, body: bytes = b"", *headers: Header) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


class Explained(Refusal):
    """Answered with an HTTP status and a JSON-RPC error that belongs to no request."""

    def __init__(self, status: int, error: RpcError, *headers: Header) -> None:
        super().__init__(status, format_message({"jsonrpc": "2.0", "id": None, "error": error.wire}), JSON, *headers)


class Headers:
    """The headers of a request; of one that comes several times the first counts."""

    __slots__ = ("raw", "values")

    def __init__(self, raw: list[Header]) -> None:
        self.raw = raw
        self.values: dict[bytes, bytes] = {}
        for name, value in raw:
            if name not in self.values:
                self.values[name] = value

    def get(self, name: bytes) -> str | None:
        value = self.values.get(name)
        return None if value is None else value.decode("latin-1")


def accepted(accept: str) -> tuple[bool, bool]:
    """Whether a client that says so takes JSON, and whether it takes streams of events."""
    kinds = {kind.partition(";")[0].strip().lower() for kind in accept.split(",")}
    if "*/*" in kinds:
        return True, True
    return not kinds.isdisjoint(_JSON_KINDS), not kinds.isdisjoint(_STREAM_KINDS)


class Allowed:
    """Values of a header that are let in: as they are, or with `:*` at their end for any port."""

    def __init__(self, patterns: Collection[str]) -> None:
        self._exactly = frozenset(patterns)
        self._before_port = frozenset(pattern[:-1] for pattern in patterns if pattern.endswith(":*"))

    def __contains__(self, value: str) -> bool:
        if value in self._exactly:
            return True
        name, colon, port = value.rpartition(":")
        return name + colon in self._before_port and port.isdecimal()


class Token:
    """What a client has to show, as `Authorization: Bearer …`."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def demand(self, authorization: bytes) -> None:
        """Let only clients through that show it.

        Raises:
            Refusal: this one does not.
        """
        if not hmac.compare_digest(authorization, self._expected):
            raise Refusal(
                401,
                "Unauthorized: send the bridge's token as 'Authorization: Bearer …'\n".encode(),
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"www-authenticate", b'Bearer realm="asyncfc-mcp"'),
            )


class Door:
    """Who and what is let in.

    Args:
        token: what clients have to show; None where they are known otherwise, or not at all.
        hosts, origins: what `Host` and `Origin` may say, so that a page in the user's browser cannot reach us under a
            name of its own; None lets everybody in.
        max_body: largest body, in bytes.
    """

    def __init__(
        self, *, hosts: Allowed | None, origins: Allowed | None, max_body: int, token: Token | None = None
    ) -> None:
        self._token = token
        self._hosts, self._origins, self._max_body = hosts, origins, max_body
        self._said: tuple[object, ...] = ()
        self._accepted = False, False

    def admit(self, headers: Headers, *, post: bool = True) -> tuple[bool, bool]:
        """Let a request through whose headers are in order.

        Returns:
            Whether its client takes JSON, and whether it takes streams of events.

        Raises:
            Refusal: they are not in order.
        """
        values = headers.values
        if self._token is not None:
            self._token.demand(values.get(b"authorization", b""))
        if post:
            length = values.get(b"content-length", b"")
            if length.isdigit() and (len(length) > 18 or int(length) > self._max_body):
                raise _too_large()
        # What the last request said, as all of one client do, is compared and no more.
        said = (post, *map(values.get, _ADMITTED_BY))
        if said != self._said:
            self._check(headers, post=post)
            self._accepted = accepted(headers.get(b"accept") or "")
            self._said = said
        return self._accepted

    def _check(self, headers: Headers, *, post: bool) -> None:
        if post and not (headers.get(b"content-type") or "").lower().startswith("application/json"):
            raise Refusal(400, b"Invalid Content-Type header")
        if self._hosts is not None and (headers.get(b"host") or "") not in self._hosts:
            raise Refusal(421, b"Invalid Host header")
        if self._origins is not None and (origin := headers.get(b"origin")) and origin not in self._origins:
            raise Refusal(403, b"Invalid Origin header")

    async def read(self, receive: "Receive") -> bytes | None:
        """The body; None if the client hung up in the middle of it.

        Raises:
            Refusal: it is too large.
        """
        chunks: list[bytes] = []
        size = 0
        while True:
            part = await receive()
            if part["type"] != "http.request":
                return None
            chunk = part.get("body", b"")
            size += len(chunk)
            if size > self._max_body:
                raise _too_large()
            chunks.append(chunk)
            if not part.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large() -> Refusal:
    return Refusal(413, b"Request body too large")


def read_message(body: bytes) -> Message:
    """The message that was posted.

    Raises:
        Refusal: it is none.
    """
    try:
        return parse_message(body)
    except MalformedMessage as exc:
        raise Explained(400, RpcError(exc.code, str(exc))) from None


class Stream:
    """A response of events, each written whole and after the one before.

    Args:
        headers: sent along with those of a stream.
    """

    __slots__ = ("_lock", "begun", "closed", "headers", "send")

    def __init__(self, send: "Send", headers: Sequence[Header] = ()) -> None:
        self.send = send
        self.headers = headers
        self._lock: anyio.Lock | None = None
        self.begun = False
        """Whether its headers are out: until then it may still be something else."""
        self.closed = False

    async def write(self, message: Message) -> bool:
        """Write one message; False if it was too late for that."""
        return await self._write(_event(message))

    async def ping(self) -> None:
        await self._write(_PING)

    async def begin(self) -> None:
        await self._write(b"")

    async def _write(self, event: bytes) -> bool:
        # Several may tell at once; and a client that reads slowly must not see an event before the headers.
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:
            if self.closed:
                return False
            if not self.begun:
                headers = [*_STREAM_HEADERS, *self.headers]
                await self.send({"type": "http.response.start", "status": 200, "headers": headers})
                self.begun = True
            if event:
                await self.send({"type": "http.response.body", "body": event, "more_body": True})
            return True

    async def end(self, message: Message | None, status: int) -> None:
        """Send the last message, or none; nothing comes after it. What has not become a stream is a plain answer."""
        if self._lock is not None:
            async with self._lock:  # until what was said before is out
                self.closed = True
        self.closed = True
        if self.begun:
            await self.send({"type": "http.response.body", "body": _event(message) if message is not None else b""})
        else:
            assert message is not None, "a stream that was never begun"
            await respond(self.send, status, format_message(message), JSON, *self.headers)


class Exchange(Stream):
    """The way back to a client while its request is answered: a `Channel` over HTTP.

    A notification makes the answer a stream of events; until then it may still be a plain one, with its own status.
    """

    __slots__ = ("_scope", "_token", "on_cancel", "request_id", "verdict", "watcher")

    def __init__(self, send: "Send", request_id: RequestId, params: Params, headers: Sequence[Header] = ()) -> None:
        super().__init__(send, headers)
        self.request_id: RequestId | None = request_id
        self._token = progress_token(params)
        self._scope: anyio.CancelScope | None = None
        self.verdict: RpcError | None = None
        """What is answered where the request was cancelled, and its client is still there."""
        self.watcher: anyio.CancelScope | None = None
        """What waits for the client to hang up, once something does."""
        self.on_cancel: Callable[[], None] | None = None
        """Called when the scope was cancelled, while nobody is in it."""

    @property
    def scope(self) -> anyio.CancelScope:
        """Cancelled when nobody wants the answer any more. Made when it is needed: most requests wait in none."""
        if self._scope is None:
            self._scope = anyio.CancelScope()
        return self._scope

    def enter(self) -> None:
        """It is being answered from now on; said again when somebody else goes on with that."""

    def leave(self) -> None:
        """It is answered, or nobody wants the answer any more."""

    async def waits(self) -> None:
        """Its result takes its time."""

    def status_of(self, error: RpcError) -> int:
        """The HTTP status of an error that is an answer by itself."""
        return 200

    def hung_up(self) -> None:
        """The client is gone."""
        self.closed = True

    def cancel(self, verdict: RpcError) -> None:
        """Answer the request with an error, instead of what it waits for."""
        self.verdict = verdict
        self.scope.cancel()
        if self.on_cancel is not None:
            self.on_cancel()

    def answer(self, result: Result) -> tuple[Message, int]:
        """A result as the message that it is, and its HTTP status."""
        return {"jsonrpc": "2.0", "id": self.request_id, "result": result}, 200

    def failure(self, exc: Exception) -> tuple[Message, int]:
        """An exception as the message that it becomes, and its HTTP status."""
        error = exc if isinstance(exc, RpcError) else _bug(exc)
        return {"jsonrpc": "2.0", "id": self.request_id, "error": error.wire}, self.status_of(error)

    @property
    def reachable(self) -> bool:
        return False

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise RpcError(INVALID_REQUEST, f"Cannot send {method!r}: there is no way back for requests here")

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        await self.write(notification(method, params))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self._token is not None:
            await self.notify("notifications/progress", progress_of(self._token, progress, total, message))


Begin = Callable[[], Result | Later]
"""Gives the answer to a request or what brings it, or raises the error that is the answer."""
Start = tuple[Exchange, Begin]
"""A request that nothing stands in the way of: where it is answered, and what answers it."""
Starter = Callable[[bytes, "Send"], Start | None]
"""Finds the request in a body that came with headers which let it in; None if there is none, or it takes more than
JSON-RPC to answer it. Raises `Refusal`. In neither case is anything done."""


class Waits:
    """Requests that wait for their results, and who looks out for their clients' hanging up.

    Args:
        ping_s: see `PING_S`.
    """

    def __init__(self, ping_s: float = PING_S) -> None:
        self._ping_s = ping_s
        self._waiting: dict[Exchange, None] = {}
        self._unwatched: dict[Exchange, Callable[[], None]] = {}
        """Those for whose end nobody looks out yet, and what has somebody do it."""
        self._tasks: anyio.abc.TaskGroup | None = None
        self._some = anyio.Event()
        self._over: RpcError | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Give a watcher to every request that is not answered soon: a task for each would cost most of them more than
        everything else here."""
        async with anyio.create_task_group() as self._tasks:
            task_status.started()
            while True:
                await self._some.wait()
                self._some = anyio.Event()
                while self._unwatched:
                    await self._look_out_for(list(self._unwatched))

    async def _look_out_for(self, waiting: list[Exchange]) -> None:
        """Have somebody look out for the clients of these, if they wait for much longer. (Apart from `run`, which would
        keep the last of them until there are others.)"""
        await anyio.sleep(UNWATCHED_S)
        for exchange in waiting:
            look_out = self._unwatched.pop(exchange, None)
            try:
                if look_out is not None:
                    look_out()
            except Exception:  # it must cost no other request anything
                logger.exception("a request cannot be watched any more")

    def check(self) -> None:
        """Let a request be answered.

        Raises:
            RpcError: the server is about to end.
        """
        if self._over is not None:
            raise self._over

    def expect(self, exchange: Exchange, look_out: Callable[[], None]) -> None:
        """A request begins to wait for its result.

        Args:
            look_out: called when that takes long, so that somebody looks out for its client's hanging up.
        """
        if not self._unwatched:
            self._some.set()
        self._unwatched[exchange] = look_out
        self._waiting[exchange] = None

    def forget(self, exchange: Exchange) -> None:
        """It waits no more, or somebody else is about to say that it does."""
        self._waiting.pop(exchange, None)
        self._unwatched.pop(exchange, None)
        if exchange.watcher is not None:
            exchange.watcher.cancel()

    async def answer(self, receive: "Receive", exchange: Exchange, begin: Begin) -> None:
        """Answer a request with what `begin` gives or brings, or with the error that either raises."""

        def checked() -> Result | Later:
            self.check()
            return begin()

        await self._answer(receive, exchange, checked)

    async def go_on(self, receive: "Receive", exchange: Exchange, later: Later) -> None:
        """Wait for the result of a request that somebody else has begun to answer, and answer it."""
        await self._answer(receive, exchange, lambda: later)

    async def _answer(self, receive: "Receive", exchange: Exchange, begin: Begin) -> None:
        exchange.enter()
        try:
            try:
                answer = begin()
                result = await self._awaited(answer, exchange, receive) if callable(answer) else answer
                if result is None:
                    if exchange.verdict is None:
                        return  # there is nobody to be answered
                    raise exchange.verdict
                done, status = exchange.answer(result)
            except Exception as exc:  # noqa: BLE001 - where an exception becomes an answer
                done, status = exchange.failure(exc)
            if not exchange.closed:
                await exchange.end(done, status)
        finally:
            exchange.leave()

    async def _awaited(self, later: Later, exchange: Exchange, receive: "Receive") -> Result | None:
        """A result that takes its time; None if it was cancelled."""
        self.expect(exchange, partial(self._look_out, exchange, receive))
        try:
            with exchange.scope:
                try:
                    await exchange.waits()
                except anyio.get_cancelled_exc_class():
                    await later()  # what was begun must be gone through; cancelled at once, it ends what it stands for
                    raise
                return await later()
        finally:
            self.forget(exchange)
        return None

    def abandoned(self, exchange: Exchange, later: Later) -> None:
        """Go on with a request that needs no answer any more, before anybody waited for its result: as if its client
        had hung up in the middle of that."""
        assert self._tasks is not None

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(_: object) -> None: ...

        exchange.send = send
        exchange.hung_up()
        self._tasks.start_soon(self.go_on, receive, exchange, later)

    def _look_out(self, exchange: Exchange, receive: "Receive") -> None:
        assert self._tasks is not None
        exchange.watcher = anyio.CancelScope()
        self._tasks.start_soon(self._watch, exchange, exchange.watcher, receive)

    async def _watch(self, exchange: Exchange, scope: anyio.CancelScope, receive: "Receive") -> None:
        with scope:
            try:
                await self.attend(exchange, receive)
                exchange.hung_up()
            except Exception:  # all watchers share a task group
                logger.exception("a connection cannot be watched any more")
                exchange.hung_up()

    async def attend(self, stream: Stream, receive: "Receive") -> None:
        """Show that a stream lives while nothing else is said on it, until its client hangs up."""
        while True:
            with anyio.move_on_after(self._ping_s) as silence:
                if (await receive())["type"] == "http.disconnect":
                    return
            if silence.cancelled_caught:
                await stream.ping()

    def end(self, verdict: RpcError) -> None:
        """Answer everything that waits with an error, and whatever would wait from now on."""
        self._over = verdict
        for exchange in tuple(self._waiting):
            exchange.cancel(verdict)


def _bug(exc: Exception) -> RpcError:
    logger.error("handling a request failed", exc_info=exc)
    return RpcError(INTERNAL_ERROR, "Internal server error")


def notification(method: str, params: Mapping[str, Any] | None) -> Message:
    message: Message = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return message


def _event(message: Message) -> bytes:
    data = format_message(message)[:-1]
    for raw, escaped in _LINE_ENDS:
        data = data.replace(raw, escaped)
    return b"event: message\r\ndata: " + data + b"\r\n\r\n"


async def refuse(send: "Send", refusal: Refusal) -> None:
    """The response that a refusal is."""
    await respond(send, refusal.status, refusal.body, *refusal.headers)


async def respond(send: "Send", status: int, body: bytes = b"", *headers: Header) -> None:
    """A plain response."""
    start = [(b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
