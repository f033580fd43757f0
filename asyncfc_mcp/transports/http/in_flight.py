"""Requests in flight over HTTP: from the handler's answer to the response, with disconnects and shutdown in between.

Owns the disconnect watchers, the pings that keep quiet streams open, and the cancellation of all requests at shutdown.
Leaves the effect of a disconnect to each `Exchange`.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import CONNECTION_CLOSED, Deferred
from asyncfc_mcp.signals import Signal, WakeUp
from asyncfc_mcp.transports.http.asgi import JsonRpcRefusal
from asyncfc_mcp.transports.http.auth.authenticator import Access
from asyncfc_mcp.transports.http.exchange import EventStream, Exchange

if TYPE_CHECKING:
    from starlette.types import Receive

logger = logging.getLogger(__name__)

PING_S: Final = 15.0
"""Silence after which a ping is written, which also turns a pending response into an event stream: proxies close
connections that are silent for longer."""
UNWATCHED_S: Final = 0.05
"""A pending request gets a disconnect watcher after one to two of these intervals."""

Handler = Callable[[], Result | Deferred]
"""Returns the result of a request or its deferred result; raises the error that is the response."""


class InFlightRequests:
    """Requests that wait for their results, and their disconnect watchers.

    Args:
        ping_s: see `PING_S`.
    """

    def __init__(self, ping_s: float = PING_S) -> None:
        self._ping_s = ping_s
        self._pending: dict[Exchange, None] = {}
        self._unwatched: dict[Exchange, Receive] = {}
        """Pending requests without a disconnect watcher, with the channel that a watcher reads."""
        self._added = WakeUp()
        self._removed = Signal()
        self._refused_with: RpcError | None = None
        self._closed_with: RpcError | None = None

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Start a watcher for every request that is not answered soon. A task for each request, or an event stream,
        after which some clients connect anew, would cost most of them more than everything else here."""
        async with anyio.create_task_group() as tg:
            task_status.started()
            while True:
                await self._added.wait()
                while self._unwatched:
                    await self._watch_slow(list(self._unwatched), tg)

    async def _watch_slow(self, pending: list[Exchange], tg: anyio.abc.TaskGroup) -> None:
        """Start watchers for the requests that are still pending after an interval. A method of its own, since the
        frame of `run` would keep the last of them alive until the next one."""
        await anyio.sleep(UNWATCHED_S)
        for exchange in pending:
            receive = self._unwatched.pop(exchange, None)
            if receive is not None:
                exchange.watcher = anyio.CancelScope()
                tg.start_soon(self._watch, exchange, exchange.watcher, receive)

    async def handle(self, receive: "Receive", exchange: Exchange, handler: Handler) -> None:
        """Send the result of `handler`, or its error, as the response."""
        exchange.on_start()
        try:
            try:
                if self._closed_with is not None:
                    raise self._closed_with
                answer = handler()
                result = await self._wait(answer, exchange, receive) if isinstance(answer, Deferred) else answer
                if result is None:
                    if exchange.cancelled_with is None:
                        return  # the client has disconnected
                    raise exchange.cancelled_with
                message, status = exchange.response_to(result)
            except Exception as exc:  # noqa: BLE001 - the place where an exception becomes a response
                message, status = exchange.response_to_error(exc)
            if not exchange.closed:
                await exchange.end(message, status)
        finally:
            exchange.on_end()

    async def _wait(self, deferred: Deferred, exchange: Exchange, receive: "Receive") -> Result | None:
        """Return a deferred result; None if it was cancelled."""
        self._add(exchange, receive)
        try:
            with exchange.scope:
                try:
                    await exchange.on_deferred()
                except Exception:  # handled as a disconnect
                    logger.debug("a client cannot be reached", exc_info=True)
                    exchange.on_disconnect()
                return await deferred()
        finally:
            del self._pending[exchange]
            self._removed.notify_all()
            self._unwatched.pop(exchange, None)
            if exchange.watcher is not None:
                exchange.watcher.cancel()
        return None

    def _add(self, exchange: Exchange, receive: "Receive") -> None:
        if not self._unwatched:
            self._added.set()
        self._unwatched[exchange] = receive
        self._pending[exchange] = None

    async def _watch(self, exchange: Exchange, scope: anyio.CancelScope, receive: "Receive") -> None:
        with scope:
            try:
                await exchange.on_wait()
            except Exception:  # handled as a disconnect: the call continues or is cancelled as after any other
                logger.debug("a client cannot be reached", exc_info=True)
                return exchange.on_disconnect()
            try:
                await self.watch_disconnect(exchange, receive)
                exchange.on_disconnect()
            except Exception:  # contained, since all watchers share a task group
                logger.exception("watching a connection failed; the request is handled as if its client had left")
                exchange.on_disconnect()

    async def watch_disconnect(self, stream: EventStream, receive: "Receive") -> None:
        """Return when the client disconnects; write pings until then."""
        while True:
            with anyio.move_on_after(self._ping_s) as silence:
                if (await receive())["type"] == "http.disconnect":
                    return
            if silence.cancelled_caught:
                await stream.ping()

    def refuse_new(self, error: RpcError) -> None:
        """Admit no further requests; those in flight go on."""
        self._refused_with = error

    def admit(self) -> None:
        """Admit a request, or a stream of a client.

        Raises:
            Refusal: none is admitted any more; another replica may take it.
        """
        if self._refused_with is not None:
            raise JsonRpcRefusal(503, self._refused_with, (b"retry-after", b"1"))

    async def answered(self) -> None:
        """Return when no request waits for its result, but those that last as long as their connection."""
        while any(not exchange.lasting for exchange in self._pending):
            await self._removed.wait()

    def end_lapsed(self, is_over: Callable[[Access], bool]) -> None:
        """End the requests whose access has ended: all if it was taken away; if it expired by itself, only those that
        last as long as their connection. A call that was admitted is answered."""
        for exchange in tuple(self._pending):
            access = exchange.access
            if access is not None and is_over(access) and (exchange.lasting or access.revoked):
                exchange.cancel(RpcError(CONNECTION_CLOSED, "The access of this token has ended"))

    def close(self, error: RpcError) -> None:
        """Respond to all pending requests, and to all later ones, with an error."""
        self._closed_with = error
        for exchange in tuple(self._pending):
            exchange.cancel(error)
