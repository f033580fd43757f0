"""A JSON-RPC peer over lines: the SDK's `Dispatcher` interface without its cost.

Owns the correlation of requests and results, a task for each request that comes in, cancellation and progress.
Refuses to know MCP beyond the two notifications that correlate (`cancelled`, `progress`). The SDK's
`JSONRPCDispatcher` does the same over any transport; it serves where messages do not come as lines (HTTP). This one
spends a third of its time on a call: no message models, no memory streams, no tracing span of its own.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, cast

import anyio
import anyio.abc
from mcp.shared.dispatcher import CallOptions, DispatchContext, OnNotify, OnNotifyIntercept, OnRequest, ProgressFnT
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp.shared.message import MessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import CONNECTION_CLOSED, INTERNAL_ERROR, REQUEST_TIMEOUT, ErrorData, RequestId

from asyncfc_mcp.wire import LineReader, LineWriter, Message

logger = logging.getLogger(__name__)

CANCEL_WRITE_S: Final = 5.0
"""How long telling the other side of a cancellation may take."""

_DUPLEX: Final = TransportContext(kind="lines", can_send_request=True)
_ONE_WAY: Final = TransportContext(kind="lines", can_send_request=False)
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")


def _key(request_id: object) -> int | str | None:
    """IDs correlate as the SDK has it: "7" and 7 are one. None for what can be no ID, which correlates with nothing."""
    if isinstance(request_id, str):
        return int(request_id) if _NUMBER.fullmatch(request_id) else request_id
    # `type` and not `isinstance`: True is an int, and no ID.
    return request_id if type(request_id) is int else None


class _Pending:
    """A request of ours that waits for its answer."""

    __slots__ = ("done", "error", "on_progress", "result")

    def __init__(self, on_progress: ProgressFnT | None) -> None:
        self.done = anyio.Event()
        self.result: dict[str, Any] | None = None
        self.error: MCPError | None = None
        self.on_progress = on_progress


class Inbound(DispatchContext[TransportContext]):
    """A message of the other side that is being handled."""

    __slots__ = ("_cancel_event", "_closed", "_peer", "_request_id", "_token", "cancelled", "one_way", "scope")

    def __init__(self, peer: "Peer", request_id: RequestId | None, params: Mapping[str, Any] | None) -> None:
        self._peer = peer
        self._request_id = request_id
        meta = params.get("_meta") if params else None
        token = cast("dict[str, Any]", meta).get("progressToken") if isinstance(meta, dict) else None
        self._token = token if isinstance(token, str | int) and not isinstance(token, bool) else None
        self._closed = False
        self._cancel_event: anyio.Event | None = None
        self.cancelled = False
        self.one_way = False
        """Whether the protocol forbids requests to the other side while handling this one."""
        self.scope = anyio.CancelScope()

    @property
    def transport(self) -> TransportContext:
        return _ONE_WAY if self.one_way else _DUPLEX

    @property
    def can_send_request(self) -> bool:
        return not (self._closed or self.one_way)

    @property
    def request_id(self) -> RequestId | None:
        return self._request_id

    @property
    def message_metadata(self) -> MessageMetadata:
        return None

    @property
    def cancel_requested(self) -> anyio.Event:
        if self._cancel_event is None:
            self._cancel_event = anyio.Event()
            if self.cancelled:
                self._cancel_event.set()
        return self._cancel_event

    def cancel(self) -> None:
        """The other side wants no answer any more."""
        self.cancelled = True
        if self._cancel_event is not None:
            self._cancel_event.set()
        self.scope.cancel()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        if not self.can_send_request:
            raise NoBackChannelError(method)
        return await self._peer.send_raw_request(method, params, opts)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        if not self._closed:
            await self._peer.notify(method, params, opts)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self._token is None:
            return
        params: dict[str, Any] = {"progressToken": self._token, "progress": progress}
        if total is not None:
            params["total"] = total
        if message is not None:
            params["message"] = message
        await self.notify("notifications/progress", params)

    def close(self) -> None:
        self._closed = True


class Peer:
    """One side of a connection. `run` drives it; requests may be sent while it runs.

    Args:
        inline: methods that are handled before the next message is read (`initialize`).
    """

    def __init__(self, reader: LineReader, writer: LineWriter, *, inline: frozenset[str] = frozenset()) -> None:
        self._reader, self._writer = reader, writer
        self._inline = inline
        self._pending: dict[object, _Pending] = {}
        self._inbound: dict[object, Inbound] = {}
        self._last_id = 0
        self._closed = False
        self._tg: anyio.abc.TaskGroup | None = None

    # --- out -----------------------------------------------------------------------------------------------------

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request and wait for its result. Cancelling the wait tells the other side.

        Raises:
            MCPError: its error; `REQUEST_TIMEOUT` after `opts["timeout"]` seconds; `CONNECTION_CLOSED` when the
                connection ended.
        """
        opts = opts or {}
        if self._closed:
            raise MCPError(CONNECTION_CLOSED, "Connection closed")
        request_id: RequestId | None = opts.get("request_id")
        if request_id is None:
            self._last_id += 1
            request_id = self._last_id
        on_progress = opts.get("on_progress")
        if on_progress is not None:
            params = dict(params or {})
            params["_meta"] = {**(params.get("_meta") or {}), "progressToken": request_id}
        message: Message = {"jsonrpc": "2.0", "id": request_id, "method": method}
        if params:
            message["params"] = params
        pending = _Pending(on_progress)
        key = _key(request_id)
        self._pending[key] = pending
        timeout = opts.get("timeout")
        sent = False
        try:
            if timeout is None:
                await self._post(message)
                sent = True
                await pending.done.wait()
            else:
                with anyio.move_on_after(timeout):
                    await self._post(message)
                    sent = True
                    await pending.done.wait()
                if not pending.done.is_set():
                    await self._abandon(request_id, f"timed out after {timeout:g} s", opts)
                    raise MCPError(REQUEST_TIMEOUT, f"Request {method!r} timed out")
        except anyio.get_cancelled_exc_class():
            if sent:
                await self._abandon(request_id, "caller cancelled", opts)
            raise
        finally:
            self._pending.pop(key, None)
        if pending.error is not None:
            raise pending.error
        assert pending.result is not None
        return pending.result

    async def _abandon(self, request_id: RequestId, reason: str, opts: CallOptions) -> None:
        if not opts.get("cancel_on_abandon", True):
            return
        with anyio.move_on_after(CANCEL_WRITE_S, shield=True):
            await self.notify("notifications/cancelled", {"requestId": request_id, "reason": reason})

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification; one that cannot be delivered any more is dropped."""
        message: Message = {"jsonrpc": "2.0", "method": method}
        if params:
            message["params"] = params
        await self._send_or_drop(message)

    async def _post(self, message: Message) -> None:
        try:
            await self._writer.send(message)
        except anyio.BrokenResourceError:
            raise MCPError(CONNECTION_CLOSED, "Connection closed") from None

    async def _send_or_drop(self, message: Message) -> None:
        if self._closed:
            return
        try:
            await self._writer.send(message)
        except anyio.BrokenResourceError:
            logger.debug("dropped a message: the other side is gone")

    # --- in ------------------------------------------------------------------------------------------------------

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Read until the other side closes; each request is handled in a task of its own."""
        try:
            async with anyio.create_task_group() as self._tg:
                task_status.started()
                try:
                    while True:
                        message = await self._reader.receive()
                        method = message.get("method")
                        if method is None:
                            self._settle(message)
                        elif "id" in message:
                            params = message.get("params")
                            inbound = Inbound(self, message["id"], params)
                            self._inbound[_key(message["id"])] = inbound
                            if method in self._inline:
                                await self._handle(inbound, method, params, on_request)
                            else:
                                self._tg.start_soon(self._handle, inbound, method, params, on_request)
                        else:
                            self._notified(method, message.get("params"), on_notify)
                except anyio.EndOfStream:
                    pass
                finally:
                    # Senders are shielded while they finish a line, so this group would wait for them for ever.
                    await self._writer.finish()
                self._close()
                self._tg.cancel_scope.cancel()
        finally:
            self._close()

    def _close(self) -> None:
        self._closed = True
        for pending in self._pending.values():
            if not pending.done.is_set():
                pending.error = MCPError(CONNECTION_CLOSED, "Connection closed")
                pending.done.set()

    def _settle(self, message: Message) -> None:
        pending = self._pending.get(_key(message.get("id")))
        if pending is None or pending.done.is_set():
            logger.debug("dropped an answer to no request: %r", message.get("id"))
            return
        if "result" in message:
            pending.result = message["result"]
        else:
            error = message["error"]
            pending.error = MCPError(error["code"], str(error.get("message", "")), error.get("data"))
        pending.done.set()

    def _notified(self, method: str, params: dict[str, Any] | None, on_notify: OnNotify) -> None:
        assert self._tg is not None
        if method == "notifications/cancelled":
            inbound = self._inbound.get(_key((params or {}).get("requestId")))
            if inbound is not None:
                inbound.cancel()
        elif method == "notifications/progress" and params is not None:
            pending = self._pending.get(_key(params.get("progressToken")))
            progress = params.get("progress")
            if pending is not None and pending.on_progress is not None and isinstance(progress, int | float):
                total, text = params.get("total"), params.get("message")
                self._tg.start_soon(
                    _contained(pending.on_progress),
                    progress,
                    total if isinstance(total, int | float) else None,
                    text if isinstance(text, str) else None,
                )
        self._tg.start_soon(_contained(on_notify), Inbound(self, None, params), method, params)

    async def _handle(
        self, inbound: Inbound, method: str, params: Mapping[str, Any] | None, on_request: OnRequest
    ) -> None:
        request_id = inbound.request_id
        answer: Message = {"jsonrpc": "2.0", "id": request_id}
        try:
            with inbound.scope:
                answer["result"] = await on_request(inbound, method, params)
        except Exception as exc:  # noqa: BLE001 - the one place where an exception becomes an answer
            answer["error"] = self._error(method, exc).model_dump(by_alias=True, exclude_none=True)
        finally:
            inbound.close()
            key = _key(request_id)
            if self._inbound.get(key) is inbound:
                del self._inbound[key]
        # A request that was cancelled is never answered.
        if not inbound.cancelled and ("result" in answer or "error" in answer):
            await self._send_or_drop(answer)

    def _error(self, method: str, exc: Exception) -> ErrorData:
        error = handler_exception_to_error_data(exc)
        if error is None:
            logger.error("handling %r failed", method, exc_info=exc)
            error = ErrorData(code=INTERNAL_ERROR, message="Internal error")
        return error


def _contained(function: Callable[..., Awaitable[None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """A notification that cannot be handled costs nobody else anything."""

    async def run(*args: object) -> None:
        try:
            await function(*args)
        except Exception:
            logger.exception("handling a notification failed")

    return run
