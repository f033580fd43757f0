"""One side of a JSON-RPC connection: requests, responses, notifications, cancellation and progress, both ways.

Owns reading and dispatching messages, and the end of the connection. Leaves requests and their responses to `outbound`
and `inbound`, queued messages to `sender`, and the transport of messages to a reader and a writer: lines over pipes
(`line_reader`, `line_writer`), or HTTP (`downstream.http.transport`). Of MCP it handles only the two notifications
that refer to requests, `cancelled` and `progress`. The SDK's `JSONRPCDispatcher` does the same at a multiple of the
cost: here are no message models and no memory streams, and neither a request that is answered at once nor one that is
sent without waiting needs a task.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

import anyio
import anyio.abc
import anyio.lowlevel

from asyncfc_mcp.errors import ConnectionEnded, RequestTimedOut, RpcError
from asyncfc_mcp.jsonrpc.channel import InputGivenUp, LineLost, Reader, Writer
from asyncfc_mcp.jsonrpc.codec import Doubtful, Message, Related
from asyncfc_mcp.jsonrpc.inbound import Inbound, InboundRequests, contained
from asyncfc_mcp.jsonrpc.outbound import PendingRequests, ResponseCallback
from asyncfc_mcp.jsonrpc.request_ids import correlation_key
from asyncfc_mcp.jsonrpc.sender import Sender
from asyncfc_mcp.protocol import CallOptions, OnNotify, OnRequest, RequestId

logger = logging.getLogger(__name__)

DOUBT_S: Final = 1.0
"""Time for which a response that is not JSON waits for a valid one: it may have been debug output."""
CANCEL_WRITE_S: Final = 5.0
"""Time limit for writing the notification that a request is cancelled."""
BACKPRESSURE_S: Final = 1.0
"""Longest pause between two reads while the other side does not read its responses."""
MESSAGES_PER_TURN: Final = 32
"""Messages handled before other tasks run: answering a flood of requests at once must not starve them."""


class Peer:
    """One side of a connection. `run` drives it; requests can be sent while it runs.

    Args:
        unsent_limit: bytes of queued responses at which reading pauses; None for a server, which may write first.
        after_id: the first request to the other side gets the next number.

    Attributes:
        drained: awaited when the other side has stopped reading for good and still owes responses. The connection ends
            when it returns, or all responses have arrived; None keeps it open.
    """

    def __init__(self, reader: Reader, writer: Writer, *, unsent_limit: int | None = None, after_id: int = 0) -> None:
        self._reader, self._writer = reader, writer
        self._unsent_limit = math.inf if unsent_limit is None else unsent_limit
        self._pending = PendingRequests(after_id)
        self._sender = Sender(writer, self._on_write_failed)
        self._inbound = InboundRequests(self._sender.write_nowait)
        self._closed = False
        self.drained: Callable[[], Awaitable[None]] | None = None
        self._input_fault = ""
        """Fault of the other side that ended reading, as a predicate whose subject is that side."""
        self.input_ended = False
        """True once nothing is read, so that no request would get a response."""
        self._reading: anyio.CancelScope | None = None
        self._tg: anyio.abc.TaskGroup | None = None

    # --- requests to the other side --------------------------------------------------------------------------------

    def send_request_nowait(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        callback: ResponseCallback,
        opts: CallOptions | None = None,
    ) -> RequestId | None:
        """Send a request without waiting. `callback` is called when it ends, never from within this method.

        Returns:
            Its ID, for `cancel_request`; None if it cannot be written or queued at once, and then nothing was sent.
        """
        if self._closed or self.input_ended or self._tg is None or self._writer.unsent:
            return None
        opts = opts or {}
        request_id, message = self._pending.message(method, params, opts)
        key = correlation_key(request_id)
        start = self._writer.position
        if not self._sender.write_nowait(message, partial(self._on_lost, key)):
            return None
        self._pending.add(key, callback, opts, start)
        return request_id

    def _on_lost(self, key: object, begun: bool) -> None:
        """End a request that was queued and cannot be written: the other side has stopped reading for good."""
        self._pending.fail(key, ConnectionEnded("stopped reading its input", sent=begun))

    def cancel_request(self, request_id: RequestId, reason: str) -> None:
        """Cancel a request on the other side; its callback is not called."""
        if self._pending.remove(correlation_key(request_id), anyio.current_time()) and not self._closed:
            self._pending.last_written = None
            params = {"requestId": request_id, "reason": reason}
            self._sender.write_nowait({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})

    def fail_request(self, request_id: RequestId, error: RpcError) -> None:
        """End a request that gets no response, as its transport has found out."""
        self._pending.fail(correlation_key(request_id), error)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request and wait for its result. If the wait is cancelled, so is the request.

        Raises:
            RpcError: the error in its response; `RequestTimedOut` after `opts["timeout"]` seconds; `ConnectionEnded`
                when the connection ended.
        """
        opts = opts or {}
        if self._closed or self.input_ended:
            raise ConnectionEnded("closed its output", sent=False)
        request_id, message = self._pending.message(method, params, opts)
        done = anyio.Event()
        outcomes: list[dict[str, Any] | RpcError] = []

        def callback(outcome: dict[str, Any] | RpcError) -> None:
            outcomes.append(outcome)
            done.set()

        key = correlation_key(request_id)
        pending = self._pending.add(key, callback, opts, self._writer.position)
        timeout = opts.get("timeout")
        sent = False
        try:
            with anyio.move_on_after(timeout):
                try:
                    await self._writer.send(message)
                except LineLost as exc:
                    self._sender.fail()
                    raise ConnectionEnded("stopped reading its input", sent=exc.begun) from None
                sent = True
                await done.wait()
            if not outcomes:
                assert timeout is not None
                await self._notify_cancelled(request_id, f"timed out after {timeout:g} s", opts)
                raise RequestTimedOut(method, timeout)
        except anyio.get_cancelled_exc_class():
            if sent:
                await self._notify_cancelled(request_id, "caller cancelled", opts)
            raise
        finally:
            if self._pending.remove_if_same(key, pending, anyio.current_time() if sent else None):
                self._end_if_useless()
        [outcome] = outcomes
        if isinstance(outcome, RpcError):
            raise outcome
        return outcome

    async def _notify_cancelled(self, request_id: RequestId, reason: str, opts: CallOptions) -> None:
        if not opts.get("cancel_on_abandon", True):
            return
        with anyio.move_on_after(CANCEL_WRITE_S, shield=True):
            await self.notify("notifications/cancelled", {"requestId": request_id, "reason": reason})

    def causes(self) -> list[object]:
        """Return the causes of all requests that the other side may be working on; see `PendingRequests.causes`."""
        return self._pending.causes(anyio.current_time())

    def owed(self) -> list[bool]:
        """Return, for each request that the other side may have read and not answered, whether its time is limited."""
        return self._pending.owed(self._writer.consumed)

    # --- writing ---------------------------------------------------------------------------------------------------

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification; it is dropped if it cannot be delivered."""
        if self._closed:
            return
        self._pending.last_written = None
        message: Message = {"jsonrpc": "2.0", "method": method}
        if params:
            message["params"] = params
        try:
            await self._writer.send(message)
        except anyio.BrokenResourceError:
            self._sender.fail()

    def _on_write_failed(self, first: bool) -> None:
        if first and not self.input_ended and self.drained is not None and self._tg is not None:
            self._tg.start_soon(self._end_input_after, self.drained)
        self._end_if_useless()

    async def _end_input_after(self, drained: Callable[[], Awaitable[None]]) -> None:
        """End a connection that cannot be written to, even if responses are missing."""
        await drained()
        self.end_input()

    def _end_if_useless(self) -> None:
        if self._sender.failed and self.drained is not None and self._pending.only_lasting:
            self.end_input()

    # --- reading ---------------------------------------------------------------------------------------------------

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        *,
        at_end: Callable[[], Awaitable[None]] | None = None,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Read until the other side closes its output. A request is answered at once where `on_request` returns its
        result, and by a callback where its deferred result can report completion; else in a task of its own.

        Args:
            at_end: awaited when the input has ended, while responses can still be written; requests without a response
                are cancelled after it.
        """
        try:
            async with anyio.create_task_group() as self._tg:
                self._sender.tg = self._tg
                task_status.started()
                handle = partial(self._handle, on_request, on_notify)
                self._reader.set_consumer(partial(self._handle_arrived, handle))
                try:
                    await self._read(handle)
                    self.input_ended = True
                    if self._pending:
                        await self._writer.settle()
                    self._on_input_end()
                    if at_end is not None:
                        await at_end()
                finally:
                    self._inbound.start_tasks()  # which end with the task group
                    self._reader.set_consumer(None)
                    # Senders are shielded while they finish a line, so the task group would wait for them for ever.
                    await self._writer.finish()
                self._close()
                self._tg.cancel_scope.cancel()
        finally:
            self._close()

    async def _read(self, handle: Callable[[Message], None]) -> None:
        """Handle messages until the input ends, or is given up."""
        with anyio.CancelScope() as self._reading:
            if self.input_ended:
                return
            try:
                while True:
                    handle(await self._reader.receive())
                    if not self._handle_arrived(handle):
                        await anyio.lowlevel.checkpoint()
                    if self._writer.unsent > self._unsent_limit:
                        # For a limited time, so that the end of the input is noticed.
                        with anyio.move_on_after(BACKPRESSURE_S):
                            await self._writer.wait_for_write()
            except anyio.EndOfStream as exc:
                self._input_fault = exc.how if isinstance(exc, InputGivenUp) else ""

    def _handle_arrived(self, handle: Callable[[Message], None]) -> bool:
        """Handle messages that have arrived; return False if there may be more, or reading must pause."""
        for _ in range(MESSAGES_PER_TURN):
            if self._writer.unsent > self._unsent_limit:
                return False
            message = self._reader.receive_nowait()
            if message is None:
                return True
            handle(message)
        return False

    def _handle(self, on_request: OnRequest, on_notify: OnNotify, message: Message) -> None:
        try:
            method = message.get("method")
            if method is None:
                self._on_response(message)
            elif "id" in message:
                self._on_request(message, on_request)
            else:
                self._on_notification(method, message.get("params"), on_notify)
        except Exception:  # a bug; the connection continues without this message
            logger.exception("handling a message failed; the message is dropped")

    def _on_response(self, message: Message) -> None:
        if isinstance(message, Doubtful) and correlation_key(message.get("id")) in self._pending:
            assert self._tg is not None
            self._tg.start_soon(self._on_doubtful_response, dict(message))
            return
        self._pending.on_response(message)
        self._end_if_useless()

    async def _on_doubtful_response(self, message: Message) -> None:
        """End a request with the error made of a broken response, unless a valid one arrives in time."""
        await anyio.sleep(DOUBT_S)
        self._on_response(message)

    def _on_request(self, message: Message, on_request: OnRequest) -> None:
        assert self._tg is not None
        params: Mapping[str, Any] | None = message.get("params")
        inbound = Inbound(self, message["id"], params)
        if isinstance(message, Related):
            inbound.causes = self._pending.causes_of(message)
        self._inbound.handle(self._tg, inbound, message["method"], params, on_request)

    def _on_notification(self, method: str, params: dict[str, Any] | None, on_notify: OnNotify) -> None:
        assert self._tg is not None
        if method == "notifications/cancelled":
            self._inbound.cancel((params or {}).get("requestId"))
        elif method == "notifications/progress" and params is not None:
            self._pending.on_progress(params)
        rest = on_notify(Inbound(self, None, params), method, params)
        if rest is not None:
            self._tg.start_soon(contained(rest))

    # --- the end ---------------------------------------------------------------------------------------------------

    def end_input(self) -> None:
        """Read nothing more, as if the other side had closed its output."""
        self.input_ended = True
        if self._reading is not None:
            self._reading.cancel()

    async def answered(self) -> None:
        """Return when all requests that were read have responses, except lasting ones, and all messages are written."""
        while self._inbound.any_unanswered or self._writer.unsent:
            if self._inbound.any_unanswered:
                await self._inbound.answered()
            else:
                await self._writer.wait_for_write()

    @property
    def write_failed(self) -> bool:
        """True once the other side has stopped reading for good."""
        return self._sender.failed

    @property
    def end_reason(self) -> str:
        """The reason why the connection ended, as a predicate whose subject is the other side."""
        return self._input_fault or ("stopped reading its input" if self.write_failed else "closed its output")

    def _on_input_end(self) -> None:
        """End all pending requests: no response will be read."""
        self.input_ended = True
        if not self._pending:
            return
        received, reason = self._writer.received, self.end_reason
        self._pending.fail_all(lambda pending: ConnectionEnded(reason, sent=pending.start < received))

    def _close(self) -> None:
        self._closed = self._inbound.closed = True
        self._on_input_end()
