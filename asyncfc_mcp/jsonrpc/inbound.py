"""Requests and notifications of the other side: the channel that their handlers get, and their responses.

Owns the requests that are being handled, their cancellation, and a task for each that neither is answered at once nor
can report its completion. Leaves reading and writing messages to `peer`.
"""

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.abc

from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.jsonrpc.codec import Message
from asyncfc_mcp.jsonrpc.request_ids import correlation_key
from asyncfc_mcp.protocol import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    CallOptions,
    Deferred,
    OnRequest,
    Outbound,
    RequestId,
    progress_of,
    progress_token,
)
from asyncfc_mcp.signals import Signal

logger = logging.getLogger(__name__)


class Connection(Outbound, Protocol):
    """The connection that messages arrive on, as far as their channels use it."""

    input_ended: bool
    """True once nothing is read, so that no request would get a response."""


class Inbound:
    """A message of the other side that is being handled: the `Channel` to its sender."""

    __slots__ = (
        "_closed", "_connection", "_token", "cancelled", "causes", "lasting", "on_done", "one_way", "request_id",
        "scope",
    )  # fmt: skip

    def __init__(self, connection: Connection, request_id: RequestId | None, params: Mapping[str, Any] | None) -> None:
        self._connection = connection
        self.request_id = request_id
        self._token = progress_token(params)
        self._closed = False
        self.cancelled = False
        self.causes: tuple[object, ...] | None = None
        """Cause of our request to which the message belongs (`CallOptions.cause`). Empty if that request has none or is
        no longer pending; None if the transport does not report to which request a message belongs."""
        self.one_way = False
        """True if the protocol forbids requests to the other side while this one is handled."""
        self.lasting = False
        """True for a request that lasts as long as the connection; `InboundRequests.answered` ignores it."""
        self.scope: anyio.CancelScope | None = None
        """Cancel scope of the task that waits for the result, if there is one."""
        self.on_done: Callable[[], None] | None = None
        """Completion callback of the deferred result, while no task waits for it."""

    @property
    def reachable(self) -> bool:
        return not (self._closed or self.one_way or self._connection.input_ended)

    def cancel(self) -> None:
        """Cancel the request: it gets no response."""
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel()
        else:
            self.start_task()

    def start_task(self) -> None:
        """Start the task in which the result is waited for and can be cancelled, unless it runs already."""
        if self.on_done is not None:
            self.on_done()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        if not self.reachable:
            raise RpcError(INVALID_REQUEST, f"Cannot send {method!r}: there is no way back for requests here")
        return await self._connection.send_raw_request(method, params, opts)

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        if not self._closed:
            await self._connection.notify(method, params)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self._token is None:
            return
        await self.notify("notifications/progress", progress_of(self._token, progress, total, message))

    def close(self) -> None:
        """Drop all further messages to the sender."""
        self._closed = True


class InboundRequests:
    """Requests of the other side that have no response yet; false while there are none.

    Args:
        write: writes a response without waiting.
    """

    def __init__(self, write: Callable[[Message], object]) -> None:
        self._write = write
        self._requests: dict[object, Inbound] = {}
        self._without_task: dict[Inbound, None] = {}
        """Requests whose deferred result reports completion. Kept by identity: IDs may be used twice."""
        self._unanswered = 0
        """Number of requests without a response, except lasting ones."""
        self._all_answered = Signal()
        self.closed = False
        """True once no response can be written."""

    def __bool__(self) -> bool:
        return bool(self._requests)

    def handle(
        self,
        tg: anyio.abc.TaskGroup,
        inbound: Inbound,
        method: str,
        params: Mapping[str, Any] | None,
        on_request: OnRequest,
    ) -> None:
        """Handle a request, and respond at once or when its deferred result is there."""
        try:
            answer = on_request(inbound, method, params)
        except Exception as exc:  # noqa: BLE001 - here and twice below, an exception becomes a response
            self._respond(inbound, _rpc_error(method, exc))
            return
        if isinstance(answer, Deferred):
            self._requests[correlation_key(inbound.request_id)] = inbound
            self._unanswered += not inbound.lasting
            self._respond_when_done(tg, inbound, method, answer)
        else:
            self._respond(inbound, answer)

    def cancel(self, request_id: object) -> None:
        """Cancel a request, if it has no response yet."""
        inbound = self._requests.get(correlation_key(request_id))
        if inbound is not None:
            inbound.cancel()

    def start_tasks(self) -> None:
        """Start a task for each request that waits without one, so that all end with the task group."""
        for inbound in tuple(self._without_task):
            inbound.start_task()

    async def answered(self) -> None:
        """Return when every request has its response, except lasting ones."""
        while self._unanswered:
            await self._all_answered.wait()

    @property
    def any_unanswered(self) -> bool:
        """True while a request that is not lasting has no response."""
        return self._unanswered > 0

    def _respond_when_done(self, tg: anyio.abc.TaskGroup, inbound: Inbound, method: str, deferred: Deferred) -> None:
        """Respond when a deferred result reports completion. Where that cannot be reported, or there is work to do
        first, start a task."""

        def on_done() -> None:
            deferred.remove_done_callback()
            inbound.on_done = None
            del self._without_task[inbound]
            outcome: dict[str, Any] | RpcError | None = None
            try:
                outcome = None if inbound.cancelled else deferred.result_nowait()
            except Exception as exc:  # noqa: BLE001
                outcome = _rpc_error(method, exc)
            if outcome is None:
                tg.start_soon(self._wait, inbound, method, deferred)
                return
            self._forget(inbound)
            self._respond(inbound, outcome)

        if not deferred.add_done_callback(on_done):
            tg.start_soon(self._wait, inbound, method, deferred)
            return
        inbound.on_done = on_done
        self._without_task[inbound] = None

    async def _wait(self, inbound: Inbound, method: str, deferred: Deferred) -> None:
        outcome: dict[str, Any] | RpcError | None = None
        inbound.scope = scope = anyio.CancelScope()
        if inbound.cancelled:
            scope.cancel()
        try:
            with scope:
                outcome = await deferred()
        except Exception as exc:  # noqa: BLE001
            outcome = _rpc_error(method, exc)
        finally:
            inbound.close()
            self._forget(inbound)
        # A cancelled request gets no response.
        if not inbound.cancelled and outcome is not None:
            self._respond(inbound, outcome)

    def _forget(self, inbound: Inbound) -> None:
        key = correlation_key(inbound.request_id)
        if self._requests.get(key) is inbound:
            del self._requests[key]
        self._unanswered -= not inbound.lasting
        if not self._unanswered:
            self._all_answered.notify_all()

    def _respond(self, inbound: Inbound, outcome: dict[str, Any] | RpcError) -> None:
        inbound.close()
        if self.closed:
            return
        if isinstance(outcome, RpcError):
            self._write({"jsonrpc": "2.0", "id": inbound.request_id, "error": outcome.wire})
        else:
            self._write({"jsonrpc": "2.0", "id": inbound.request_id, "result": outcome})


def deferred_handler(handler: Callable[..., Awaitable[dict[str, Any]]]) -> OnRequest:
    """Return a request handler whose results are always deferred."""

    def handle(channel: Any, method: str, params: Mapping[str, Any] | None) -> Deferred:
        return Deferred(partial(handler, channel, method, params))

    return handle


def contained(function: Callable[..., Awaitable[None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return a notification handler whose exceptions are logged, so that they do not end the connection."""

    async def run(*args: object) -> None:
        try:
            await function(*args)
        except Exception:
            logger.exception("handling a notification failed; the notification is dropped")

    return run


def _rpc_error(method: str, exc: Exception) -> RpcError:
    if isinstance(exc, RpcError):
        # A reference to the error would keep the frames of its traceback alive, and with them the request.
        exc.__traceback__ = exc.__context__ = None
        return exc
    logger.error("handling %r failed", method, exc_info=exc)
    return RpcError(INTERNAL_ERROR, "Internal error")
