"""The short way over HTTP: a plain POST of a request that is answered at once, or soon, takes no ASGI and no task.

Owns what is plain (a head without surprises, a small body, nothing sent ahead) and the response to it. Refuses to know
what is asked, and everything that is not plain or takes longer: that goes to uvicorn, whose protocol this is, as if it
had only just come. uvicorn's way, h11 and a task for each request, costs as much as all that the bridge does about a
call (`benchmarks/`, `overhead`). Rejected: its faster parser, httptools, which takes a third of that off, keeps white
space around the values of headers, and loses the body of a request that offers h2c, as Java's clients do.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
from h11 import IDLE
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES

from asyncfc_mcp.codec import Message, format_message
from asyncfc_mcp.connections import Connections, Phase
from asyncfc_mcp.exchange import Exchange, Header, Headers, Refusal, Starter
from asyncfc_mcp.http_protocol import SINGLE, HttpProtocol
from asyncfc_mcp.protocol import Later, Soon
from asyncfc_mcp.streamable import Streamable

if TYPE_CHECKING:
    from starlette.types import Message as AsgiMessage
    from starlette.types import Receive, Scope, Send

HEAD_BYTES: Final = 16 << 10
BODY_BYTES: Final = 64 << 10
"""What is larger takes the long way, which reads no further while that much of a body waits."""

# Stricter than h11: what this takes, h11 reads in the same way. A test holds them to that.
_HEAD: Final = re.compile(rb"POST ([!-~]+) HTTP/1\.1\r\n((?:[-!#$%&'*+.^_`|~0-9a-zA-Z]+:[\t !-~\x80-\xff]*\r\n)+)\r\n")
_LENGTH: Final = re.compile(rb"[0-9]{1,7}")
_SURPRISES: Final = frozenset({b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade"})


class Express(HttpProtocol):
    """One connection. It is

    - *idle*, or collects a request that may be plain (`_got`, and once its head has come `_start`);
    - *answering* one (`_exchange`): waiting for its result (`_soon`) or just about to respond. Meanwhile the client's
      next bytes are kept (`_ahead`), as HTTP wants answers in order;
    - *long* (`_long`): uvicorn has the request. The first that it gets may be one that was being answered here
      (`_handed_over`), until the application takes that over.

    Of uvicorn's protocol it relies on `app`, which runs each request, `data_received`, `connection_lost`, `shutdown`,
    `on_response_complete`, the keep-alive timer, `cycle`, `conn`, `flow`, `transport` and the default headers; not on
    limits of concurrency, which would run another application. h11 hears nothing of the requests that are answered
    here, nor does an access log.

    Args:
        front: what answers requests.
        path: where, as it stands in a request.
        connections: see `HttpProtocol`.
        uvicorn: what uvicorn gives its protocols.
    """

    def __init__(self, front: Streamable, path: bytes, connections: Connections | None = None, **uvicorn: Any) -> None:
        super().__init__(connections, **uvicorn)
        self._front, self._path = front, path
        self._got = b""
        self._start: tuple[Starter, int, int] | None = None
        """Of a request whose head has come: what finds it, where the head ends, and where the request does."""
        self._exchange: Exchange | None = None
        self._soon: Soon | None = None
        self._request = b""
        """What is being answered, as it came."""
        self._ahead = b""
        self._long = False
        self._handed_over: tuple[Exchange, Later, anyio.Event] | None = None
        """With what is set when it is taken over."""
        self._defaults: Sequence[Header] = ()
        self._default_lines = b""
        self._last = False
        """Whether the connection is to be closed after the answer."""

    # --- what comes --------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """See `connections.Connection`."""
        if self._exchange is not None:
            return Phase.ANSWER
        if self._long:
            return super().phase
        if self._start is not None:
            return Phase.BODY
        return Phase.HEAD if self._got or not self.answered else Phase.IDLE

    def take(self, data: bytes) -> None:
        if self._exchange is not None or self._ahead:
            self._ahead += data
            if len(self._ahead) > BODY_BYTES:
                self.flow.pause_reading()
        elif self._long:
            self.parse(data)
        else:
            self._unset_keepalive_if_required()
            self._got += data
            if self.flow.write_paused or not self._try_short_way():
                self._go_long_way(self._got)

    def _try_short_way(self) -> bool:
        """Answer the request that has come, or wait for the rest of it; False if it is for the long way."""
        if self._start is None:
            end = self._got.find(b"\r\n\r\n") + 4
            if end < 4:
                return (
                    len(self._got) < HEAD_BYTES
                    and self._got[:5] == b"POST "[: len(self._got)]
                    and self._got.count(b"\n") == self._got.count(b"\r\n")  # h11 takes LF alone for the end of a line
                )
            head = _HEAD.fullmatch(self._got, 0, end)
            headers = plain_headers(head[2]) if head is not None and head[1] == self._path else None
            starter = self._front.starter(headers) if headers is not None else None
            if headers is None or starter is None:
                return False
            self._start = starter, end, end + int(headers.values[b"content-length"])
        starter, end, size = self._start
        if len(self._got) < size:
            return True
        return len(self._got) == size and self._begin(starter, end)

    def _go_long_way(self, data: bytes) -> None:
        self._got, self._start = b"", None
        self._long = True
        self.parse(data)

    def on_response_complete(self) -> None:
        """Called by uvicorn. What the client has sent ahead goes the same way, since h11 has it."""
        super().on_response_complete()
        if self.conn.their_state is IDLE and not self.conn.trailing_data[0]:
            self._long = False

    # --- the answer --------------------------------------------------------------------------------------------------

    def _begin(self, starter: Starter, body_at: int) -> bool:
        """Begin to answer the request whose body begins there; False if that is for the long way."""
        try:
            start = starter(self._got[body_at:], _unsent)
        except Refusal:
            return False
        if start is None:
            return False
        exchange, begin = start
        exchange.send = partial(self._send, exchange)
        self._exchange, self._request = exchange, self._got
        self._got, self._start = b"", None
        exchange.enter()
        try:
            self._front.waits.check()
            answer = begin()
            if callable(answer):
                self._wait(exchange, answer)
                return True
            done = exchange.answer(answer)
        except Exception as exc:  # noqa: BLE001 - with its like below, where an exception becomes an answer
            done = exchange.failure(exc)
        self._respond(exchange, *done)
        return True

    def _wait(self, exchange: Exchange, answer: Later) -> None:
        if isinstance(answer, Soon):
            self._soon = answer
            self._front.waits.expect(exchange, self._hand_over)
            exchange.on_cancel = self._cancelled
            answer.watch(self._come)
        else:
            self._hand_over(answer)

    def _come(self) -> None:
        """The result is there, or has to be waited for in a task."""
        exchange, soon = self._exchange, self._soon
        assert exchange is not None
        assert soon is not None
        try:
            result = soon.take()
            if result is None:
                return self._hand_over()
            done = exchange.answer(result)
        except Exception as exc:  # noqa: BLE001
            done = exchange.failure(exc)
        self._call_off()
        self._respond(exchange, *done)

    def _cancelled(self) -> None:
        """The client, or our end, wants an error for an answer. The call is ended behind it."""
        exchange = self._exchange
        assert exchange is not None
        assert exchange.verdict is not None
        soon = self._call_off()
        self._respond(exchange, *exchange.failure(exchange.verdict))
        self._front.waits.abandoned(exchange, soon)

    def _call_off(self) -> Soon:
        """Wait no more, here."""
        exchange, soon = self._exchange, self._soon
        assert exchange is not None
        assert soon is not None
        self._soon = exchange.on_cancel = None
        soon.call_off()
        self._front.waits.forget(exchange)
        return soon

    def _respond(self, exchange: Exchange, message: Message, status: int) -> None:
        self._exchange, self._request = None, b""
        exchange.closed, exchange.send = True, _unsent  # which referred to it
        exchange.leave()
        body = format_message(message)
        defaults = self.server_state.default_headers  # uvicorn makes new ones every second: they tell the time
        if defaults is not self._defaults:
            self._defaults, self._default_lines = defaults, _lines(defaults)
        head = b"HTTP/1.1 %d %s\r\n%s%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (
            status, STATUS_PHRASES[status], self._default_lines, _lines(exchange.headers), len(body),
        )  # fmt: skip
        self.transport.write(head + body)
        self.answered += 1
        self.server_state.total_requests += 1
        if self._last:
            self.transport.close()
            return
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if self._ahead:
            # Not from in here: this may be in the midst of the end of a call, and a request may be the next call.
            self.loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        data, self._ahead = self._ahead, b""
        self.flow.resume_reading()
        if data and not self.transport.is_closing():
            self.take(data)

    # --- the long way after all --------------------------------------------------------------------------------------

    def _hand_over(self, later: Later | None = None) -> None:
        """Let uvicorn have the request; the application goes on with it where we are."""
        exchange = self._exchange
        assert exchange is not None
        if later is None:
            later = self._call_off()
        self._handed_over = exchange, later, anyio.Event()
        request, ahead = self._request, self._ahead
        self._exchange, self._request, self._ahead = None, b"", b""
        self._go_long_way(request + ahead)
        if self._last:
            self.cycle.keep_alive = False

    async def _run(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """ASGI: the application, where it takes over what was handed over."""
        if self._handed_over is None:
            return await super()._run(scope, receive, send)
        (exchange, later, taken_over), self._handed_over = self._handed_over, None
        exchange.send = send
        taken_over.set()
        await self._front.waits.go_on(receive, exchange, later)

    async def _send(self, exchange: Exchange, message: "AsgiMessage") -> None:
        """Send what comes before the result, which makes the response a stream: that is uvicorn's."""
        if self._soon is not None and self._exchange is exchange:
            self._hand_over()
        if self._handed_over is not None and self._handed_over[0] is exchange:
            await self._handed_over[2].wait()
            await exchange.send(message)

    # --- the end -----------------------------------------------------------------------------------------------------

    def connection_lost(self, exc: Exception | None) -> None:
        exchange, self._ahead = self._exchange, b""
        if self._soon is not None and exchange is not None:
            soon = self._call_off()
            self._exchange = None
            self._front.waits.abandoned(exchange, soon)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Called by uvicorn, which is about to end."""
        if self._exchange is not None:
            self._last = True
        else:
            super().shutdown()


def express(front: Streamable, path: str, connections: Connections | None = None) -> type[HttpProtocol]:
    """The protocol of a server whose MCP endpoint is at `path`, for `uvicorn.Config`."""
    return cast("type[HttpProtocol]", partial(Express, front, path.encode(), connections))


def plain_headers(lines: bytes) -> Headers | None:
    """The headers of a request, from their lines; None if anything but the answer depends on them."""
    raw: list[Header] = []
    for line in lines[:-2].split(b"\r\n"):
        name, _, value = line.partition(b":")
        raw.append((name.lower(), value.strip()))
    headers = Headers(raw)
    values = headers.values
    length = values.get(b"content-length", b"")
    if (
        b"host" not in values
        or _LENGTH.fullmatch(length) is None
        or int(length) > BODY_BYTES
        or values.get(b"connection", b"keep-alive").lower() != b"keep-alive"
        or not _SURPRISES.isdisjoint(values)
    ):
        return None
    if len(raw) > len(values):
        names = [name for name, _ in raw]
        if names.count(b"connection") > 1 or any(names.count(name) > 1 for name in SINGLE.intersection(names)):
            return None
    return headers


def _lines(headers: Sequence[Header]) -> bytes:
    return b"".join([b"%s: %s\r\n" % header for header in headers])


async def _unsent(message: "AsgiMessage") -> None:
    raise AssertionError("nothing is said before an exchange begins, nor after it has ended")
