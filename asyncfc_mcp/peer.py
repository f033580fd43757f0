"""A JSON-RPC peer: requests, results, notifications, cancellation and progress, both ways.

Owns the correlation of requests and results, and a task for each request that cannot be answered at once and whose
result does not come by itself. Refuses to know MCP beyond the two notifications that correlate (`cancelled`,
`progress`). The SDK's `JSONRPCDispatcher` does the same and costs a multiple of it: here are no message
models, no memory streams, and neither a request that is answered at once nor one that goes out costs a task. Leaves how
messages travel to its reader and writer: lines (`wire`), or HTTP (`http_transport`).
"""

import logging
import math
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel

from asyncfc_mcp.codec import Doubtful, Message
from asyncfc_mcp.errors import ConnectionEnded, RequestTimedOut, RpcError
from asyncfc_mcp.protocol import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    CallOptions,
    Later,
    OnNotify,
    OnRequest,
    RequestId,
    Soon,
    progress_of,
    progress_token,
)
from asyncfc_mcp.wire import InputGivenUp, LineLost

logger = logging.getLogger(__name__)

DOUBT_S: Final = 1.0
"""How long an answer that is no JSON waits for the answer proper: it may have been debug output."""
CANCEL_WRITE_S: Final = 5.0
"""How long telling the other side of a cancellation may take."""
UNREAD_S: Final = 30.0
"""How long a server that stopped reading its input for good may take to answer what it has read."""
FULL_S: Final = 1.0
"""How long reading rests, at most, while the other side does not read its answers."""
BREATH: Final = 32
"""After so many messages that came at once the event loop gets a turn: answering at once must not starve the rest."""

_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")

_T = TypeVar("_T")

Settle = Callable[[dict[str, Any] | None, RpcError | None], None]
"""Told once how a request ended: its result, or else the error."""


def correlation_key(request_id: object) -> int | str | None:
    """IDs correlate as the SDK has it: "7" and 7 are one. None for what can be no ID, which correlates with nothing."""
    if isinstance(request_id, str):
        return int(request_id) if _NUMBER.fullmatch(request_id) else request_id
    # `type` and not `isinstance`: True is an int, and no ID.
    return request_id if type(request_id) is int else None


class Reader(Protocol):
    """Where messages arrive; `wire.LineReader` says more."""

    def offer(self, taker: Callable[[], bool] | None) -> None: ...
    def receive_nowait(self) -> Message | None: ...
    async def receive(self) -> Message: ...


class Writer(Protocol):
    """Where messages go; `wire.LineWriter` says more."""

    unsent: int

    @property
    def position(self) -> int: ...
    @property
    def received(self) -> int: ...
    def post(self, message: Message, lost: Callable[[bool], None] | None = None) -> bool: ...
    async def send(self, message: Message) -> None: ...
    async def flush(self) -> None: ...
    async def finish(self) -> None: ...
    async def moved(self) -> None: ...


class _Pending:
    """A request of ours that waits for its answer."""

    __slots__ = ("answers_without_id", "on_progress", "settle", "start")

    def __init__(self, settle: Settle, opts: CallOptions, start: int) -> None:
        self.settle = settle
        self.start = start
        """How much had been written when it was."""
        self.on_progress = opts.get("on_progress")
        self.answers_without_id = opts.get("answers_without_id", False)


class Inbound:
    """A message of the other side that is being handled: the way back to it."""

    __slots__ = ("_closed", "_peer", "_token", "cancelled", "come", "lasting", "one_way", "request_id", "scope")

    def __init__(self, peer: "Peer", request_id: RequestId | None, params: Mapping[str, Any] | None) -> None:
        self._peer = peer
        self.request_id = request_id
        self._token = progress_token(params)
        self._closed = False
        self.cancelled = False
        self.one_way = False
        """Whether the protocol forbids requests to the other side while handling this one."""
        self.lasting = False
        """Whether it lasts as long as the connection, unless it is cancelled; its answer is not waited for."""
        self.scope: anyio.CancelScope | None = None
        """Of the task that waits for its result, if one does."""
        self.come: Callable[[], None] | None = None
        """Gives it such a task, while it waits without one."""

    @property
    def reachable(self) -> bool:
        return not (self._closed or self.one_way or self._peer.input_ended)

    def cancel(self) -> None:
        """The other side wants no answer any more."""
        self.cancelled = True
        if self.scope is not None:
            self.scope.cancel()
        else:
            self.give_task()

    def give_task(self) -> None:
        """Have it wait in a task from now on, if it waits without one: in that it can be cancelled."""
        if self.come is not None:
            self.come()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        if not self.reachable:
            raise RpcError(INVALID_REQUEST, f"Cannot send {method!r}: there is no way back for requests here")
        return await self._peer.send_raw_request(method, params, opts)

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        if not self._closed:
            await self._peer.notify(method, params)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self._token is None:
            return
        await self.notify("notifications/progress", progress_of(self._token, progress, total, message))

    def close(self) -> None:
        self._closed = True


class Peer:
    """One side of a connection. `run` drives it; requests may be sent while it runs.

    Args:
        unsent_limit: bytes of answers that may wait for the other side to read on; beyond, little more is read of it.
            None for a server of ours: one that writes before it reads must be read from whatever waits for it.
        ends_unread: whether the connection ends when the other side stopped reading for good, and has answered what
            it read before.
    """

    def __init__(
        self, reader: Reader, writer: Writer, *, unsent_limit: int | None = None, ends_unread: bool = False
    ) -> None:
        self._reader, self._writer = reader, writer
        self._unsent_limit = math.inf if unsent_limit is None else unsent_limit
        self._flushing = False
        self._pending: dict[object, _Pending] = {}
        self._inbound: dict[object, Inbound] = {}
        self._taskless: dict[Inbound, None] = {}
        """Requests that wait without a task. Apart from the others: the other side may use an ID twice."""
        self._latest: object = None
        """Key of the request that was written last, if nothing else was written after it."""
        self._last_id = 0
        self._closed = False
        self._ends_unread = ends_unread
        self.unread = False
        """Whether the other side stopped reading for good."""
        self.how_given_up = ""
        """Why nothing more is read, where that is for a fault of the other side; a predicate of it."""
        self.input_ended = False
        """Nothing is read any more, so no request of ours would be answered."""
        self._reading: anyio.CancelScope | None = None
        self._unanswered = 0
        """Requests that wait for their results, but for those that last."""
        self._all_answered = anyio.Event()
        self._tg: anyio.abc.TaskGroup | None = None

    # --- out -----------------------------------------------------------------------------------------------------

    def post(
        self, method: str, params: Mapping[str, Any] | None, settle: Settle, opts: CallOptions | None = None
    ) -> RequestId | None:
        """Send a request without waiting for anything; `settle` is called when it has ended, never from in here.

        Returns:
            Its ID, by which it can be abandoned; None if it cannot go out at once, and then nothing was sent.
        """
        if self._closed or self.input_ended or self._tg is None or self._writer.unsent:
            return None
        opts = opts or {}
        request_id, message = self._message(method, params, opts)
        key = correlation_key(request_id)
        start = self._writer.position
        if not self._post(message, partial(self._lose, key)):
            return None
        self._pending[key] = _Pending(settle, opts, start)
        self._latest = key
        return request_id

    def _lose(self, key: object, begun: bool) -> None:
        """End a request whose line was queued and cannot be written: the other side stopped reading for good."""
        if (pending := self._pending.pop(key, None)) is not None:
            pending.settle(None, ConnectionEnded("stopped reading its input", sent=begun))

    def _unreadable(self) -> None:
        """Note that nothing more can be written."""
        logger.debug("dropped a message: the other side does not read")
        if not (self.unread or self.input_ended) and self._ends_unread and self._tg is not None:
            self._tg.start_soon(self._end_soon)
        self.unread = True
        self._end_if_useless()

    async def _end_soon(self) -> None:
        """End a connection that can be sent nothing more, whatever it still owes."""
        await anyio.sleep(UNREAD_S)
        self.end_input()

    def _end_if_useless(self) -> None:
        if self.unread and self._ends_unread and not self._pending:
            self.end_input()

    def abandon(self, request_id: RequestId, reason: str) -> None:
        """Tell the other side that nobody waits for its answer any more; `settle` is not called."""
        if self._pending.pop(correlation_key(request_id), None) is not None and not self._closed:
            self._latest = None
            params = {"requestId": request_id, "reason": reason}
            self._post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})

    def fail(self, request_id: RequestId, error: RpcError) -> None:
        """End a request that its transport found to have no answer."""
        if (pending := self._pending.pop(correlation_key(request_id), None)) is not None:
            pending.settle(None, error)

    def _message(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions) -> tuple[RequestId, Message]:
        request_id: RequestId | None = opts.get("request_id")
        if request_id is None:
            self._last_id += 1
            request_id = self._last_id
        if opts.get("on_progress") is not None:
            params = dict(params or {})
            params["_meta"] = {**(params.get("_meta") or {}), "progressToken": request_id}
        message: Message = {"jsonrpc": "2.0", "id": request_id, "method": method}
        if params:
            message["params"] = params
        return request_id, message

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request and wait for its result. Cancelling the wait tells the other side.

        Raises:
            RpcError: its error; `RequestTimedOut` after `opts["timeout"]` seconds; `ConnectionEnded` when the
                connection ended.
        """
        opts = opts or {}
        if self._closed or self.input_ended:
            raise ConnectionEnded("closed its output", sent=False)
        request_id, message = self._message(method, params, opts)
        done = anyio.Event()
        ended: list[tuple[dict[str, Any] | None, RpcError | None]] = []

        def settle(result: dict[str, Any] | None, error: RpcError | None) -> None:
            ended.append((result, error))
            done.set()

        key = correlation_key(request_id)
        self._pending[key] = pending = _Pending(settle, opts, self._writer.position)
        self._latest = key
        timeout = opts.get("timeout")
        sent = False
        try:
            with anyio.move_on_after(timeout):
                try:
                    await self._writer.send(message)
                except LineLost as exc:
                    self._unreadable()
                    raise ConnectionEnded("stopped reading its input", sent=exc.begun) from None
                sent = True
                await done.wait()
            if not ended:
                assert timeout is not None
                await self._tell_abandoned(request_id, f"timed out after {timeout:g} s", opts)
                raise RequestTimedOut(method, timeout)
        except anyio.get_cancelled_exc_class():
            if sent:
                await self._tell_abandoned(request_id, "caller cancelled", opts)
            raise
        finally:
            if self._pending.get(key) is pending:
                del self._pending[key]
                self._end_if_useless()
        [(result, error)] = ended
        if error is not None:
            raise error
        assert result is not None
        return result

    async def _tell_abandoned(self, request_id: RequestId, reason: str, opts: CallOptions) -> None:
        if not opts.get("cancel_on_abandon", True):
            return
        with anyio.move_on_after(CANCEL_WRITE_S, shield=True):
            await self.notify("notifications/cancelled", {"requestId": request_id, "reason": reason})

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification; one that cannot be delivered any more is dropped."""
        if self._closed:
            return
        self._latest = None
        message: Message = {"jsonrpc": "2.0", "method": method}
        if params:
            message["params"] = params
        try:
            await self._writer.send(message)
        except anyio.BrokenResourceError:
            self._unreadable()

    def _post(self, message: Message, lost: Callable[[bool], None] | None = None) -> bool:
        """Write a message at once, or have it written as soon as the other side reads on; False if it does not at all.

        Args:
            lost: called if that turns out later, with whether a part of it was written.
        """
        assert self._tg is not None
        try:
            if not self._writer.post(message, lost) and not self._flushing:
                self._flushing = True
                self._tg.start_soon(self._flush)
        except anyio.BrokenResourceError:
            self._unreadable()
            return False
        return True

    async def _flush(self) -> None:
        try:
            await self._writer.flush()
        except anyio.BrokenResourceError:
            self._unreadable()
        finally:
            self._flushing = False

    # --- in ------------------------------------------------------------------------------------------------------

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        *,
        at_end: Callable[[], Awaitable[None]] | None = None,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Read until the other side closes. A request is answered at once where `on_request` has its result ready, and
        where that comes by itself in the step that brings it; else in a task of its own.

        Args:
            at_end: awaited when the input has ended, while answers can still be written; after it, requests that have
                none are cancelled.
        """
        try:
            async with anyio.create_task_group() as self._tg:
                task_status.started()
                take = partial(self._take, on_request, on_notify)
                self._reader.offer(partial(self._take_all, take))
                try:
                    await self._read(take)
                    self._lose_answers()
                    if at_end is not None:
                        await at_end()
                finally:
                    for inbound in tuple(self._taskless):
                        inbound.give_task()  # so that they end with all others
                    self._reader.offer(None)
                    # Senders are shielded while they finish a line, so this group would wait for them for ever.
                    await self._writer.finish()
                self._close()
                self._tg.cancel_scope.cancel()
        finally:
            self._close()

    async def _read(self, take: Callable[[Message], None]) -> None:
        """Take in messages until the input ends, or is given up."""
        with anyio.CancelScope() as self._reading:
            if self.input_ended:
                return
            try:
                while True:
                    take(await self._reader.receive())
                    if not self._take_all(take):
                        await anyio.lowlevel.checkpoint()
                    if self._writer.unsent > self._unsent_limit:
                        # Not for ever: that its input has ended must be noticed all the same.
                        with anyio.move_on_after(FULL_S):
                            await self._writer.moved()
            except anyio.EndOfStream as exc:
                self.how_given_up = exc.how if isinstance(exc, InputGivenUp) else ""

    def end_input(self) -> None:
        """Read nothing more, as if the other side had closed."""
        self.input_ended = True
        if self._reading is not None:
            self._reading.cancel()

    async def answered(self) -> None:
        """Return when all requests that were read have their answers, but for those that last, and all is written."""
        while self._unanswered or self._writer.unsent:
            if self._unanswered:
                self._all_answered = anyio.Event()
                await self._all_answered.wait()
            else:
                await self._writer.moved()

    def _take_all(self, take: Callable[[Message], None]) -> bool:
        """Take in the messages that are there; whether these were few, and their answers are read."""
        for _ in range(BREATH):
            if self._writer.unsent > self._unsent_limit:
                return False
            message = self._reader.receive_nowait()
            if message is None:
                return True
            take(message)
        return False

    def _take(self, on_request: OnRequest, on_notify: OnNotify, message: Message) -> None:
        try:
            method = message.get("method")
            if method is None:
                self._settle(message)
            elif "id" in message:
                self._requested(message["id"], method, message.get("params"), on_request)
            else:
                self._notified(method, message.get("params"), on_notify)
        except Exception:  # a fault of ours; what it was about is lost, and nothing else
            logger.exception("a message could not be taken in")

    def _close(self) -> None:
        self._closed = True
        self._lose_answers()

    @property
    def how(self) -> str:
        """The end of the connection, as a predicate of the other side."""
        return self.how_given_up or ("stopped reading its input" if self.unread else "closed its output")

    def _lose_answers(self) -> None:
        """End the requests of ours that wait: nothing is read any more."""
        self.input_ended = True
        received = self._writer.received if self._pending else 0
        how = self.how
        while self._pending:
            _, pending = self._pending.popitem()
            pending.settle(None, ConnectionEnded(how, sent=pending.start < received))

    def _settle(self, message: Message) -> None:
        key = correlation_key(message.get("id"))
        if isinstance(message, Doubtful) and key in self._pending:
            assert self._tg is not None
            self._tg.start_soon(self._settle_later, dict(message))
            return
        if key is None and "error" in message:
            key = next((each for each, pending in self._pending.items() if pending.answers_without_id), None)
            if key is None and len(self._pending) == 1 and self._latest in self._pending:
                key = self._latest  # nothing else is left that it could be about
        pending = self._pending.pop(key, None)
        if pending is None:
            logger.debug("dropped an answer to no request: %r", message.get("id"))
        elif "result" in message:
            pending.settle(message["result"], None)
        else:
            error = message["error"]
            pending.settle(
                None, RpcError(error["code"], str(error.get("message") or "no reason given"), error.get("data"))
            )
        self._end_if_useless()

    async def _settle_later(self, message: Message) -> None:
        """End a request with an error that was made of a broken answer, unless the answer proper arrives."""
        await anyio.sleep(DOUBT_S)
        self._settle(message)

    def _notified(self, method: str, params: dict[str, Any] | None, on_notify: OnNotify) -> None:
        assert self._tg is not None
        if method == "notifications/cancelled":
            inbound = self._inbound.get(correlation_key((params or {}).get("requestId")))
            if inbound is not None:
                inbound.cancel()
        elif method == "notifications/progress" and params is not None:
            pending = self._pending.get(correlation_key(params.get("progressToken")))
            progress = params.get("progress")
            if pending is not None and pending.on_progress is not None and isinstance(progress, int | float):
                total, text = params.get("total"), params.get("message")
                pending.on_progress(
                    progress,
                    total if isinstance(total, int | float) else None,
                    text if isinstance(text, str) else None,
                )
        rest = on_notify(Inbound(self, None, params), method, params)
        if rest is not None:
            self._tg.start_soon(_contained(rest))

    def _requested(
        self, request_id: RequestId, method: str, params: Mapping[str, Any] | None, on_request: OnRequest
    ) -> None:
        assert self._tg is not None
        inbound = Inbound(self, request_id, params)
        try:
            answer = on_request(inbound, method, params)
        except Exception as exc:  # noqa: BLE001 - with its like below, where an exception becomes an answer
            self._answer(inbound, error=_error(method, exc))
            return
        if callable(answer):
            self._inbound[correlation_key(request_id)] = inbound
            self._unanswered += not inbound.lasting
            if isinstance(answer, Soon):
                self._wait_for(inbound, method, answer)
            else:
                self._tg.start_soon(self._wait, inbound, method, answer)
        else:
            self._answer(inbound, answer)

    def _wait_for(self, inbound: Inbound, method: str, soon: Soon) -> None:
        """Answer a request when its result comes by itself, or give it a task when something has to be done before."""

        def come() -> None:
            assert self._tg is not None
            soon.call_off()
            inbound.come = None
            del self._taskless[inbound]
            result: dict[str, Any] | None = None
            error: RpcError | None = None
            try:
                result = None if inbound.cancelled else soon.take()
            except Exception as exc:  # noqa: BLE001
                error = _error(method, exc)
            if result is None and error is None:
                self._tg.start_soon(self._wait, inbound, method, soon)
                return
            self._forget(inbound)
            self._answer(inbound, result, error)

        inbound.come = come
        self._taskless[inbound] = None
        soon.watch(come)

    def _forget(self, inbound: Inbound) -> None:
        key = correlation_key(inbound.request_id)
        if self._inbound.get(key) is inbound:
            del self._inbound[key]
        self._unanswered -= not inbound.lasting
        if not self._unanswered:
            self._all_answered.set()

    async def _wait(self, inbound: Inbound, method: str, later: Later) -> None:
        result: dict[str, Any] | None = None
        error: RpcError | None = None
        inbound.scope = scope = anyio.CancelScope()
        if inbound.cancelled:
            scope.cancel()
        try:
            with scope:
                result = await later()
        except Exception as exc:  # noqa: BLE001
            error = _error(method, exc)
        finally:
            inbound.close()
            self._forget(inbound)
        # A request that was cancelled is never answered.
        if not inbound.cancelled and (result is not None or error is not None):
            self._answer(inbound, result, error)

    def _answer(self, inbound: Inbound, result: dict[str, Any] | None = None, error: RpcError | None = None) -> None:
        inbound.close()
        if self._closed:
            return
        if error is None:
            self._post({"jsonrpc": "2.0", "id": inbound.request_id, "result": result})
        else:
            self._post({"jsonrpc": "2.0", "id": inbound.request_id, "error": error.wire})


def in_a_task(handler: Callable[..., Awaitable[_T]]) -> Callable[..., Callable[[], Awaitable[_T]]]:
    """A handler that always takes its time."""

    def taken(*args: object) -> Callable[[], Awaitable[_T]]:
        return partial(handler, *args)

    return taken


def _error(method: str, exc: Exception) -> RpcError:
    if isinstance(exc, RpcError):
        # Whoever keeps it in a variable would be kept by what it passed on its way, the request included.
        exc.__traceback__ = exc.__context__ = None
        return exc
    logger.error("handling %r failed", method, exc_info=exc)
    return RpcError(INTERNAL_ERROR, "Internal error")


def _contained(function: Callable[..., Awaitable[None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """A notification that cannot be handled costs nobody else anything."""

    async def run(*args: object) -> None:
        try:
            await function(*args)
        except Exception:
            logger.exception("handling a notification failed")

    return run
