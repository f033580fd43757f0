"""Requests sent to the other side that wait for their responses.

Owns their IDs, and the correlation of responses, errors without an ID, and progress notifications with them. Pure:
writing messages, timeouts and the end of the connection are left to `peer`.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.jsonrpc.codec import Message, Related
from asyncfc_mcp.jsonrpc.request_ids import correlation_key
from asyncfc_mcp.protocol import CallOptions, RequestId

logger = logging.getLogger(__name__)

GIVEN_UP_S: Final = 300.0
"""Time for which the other side may still work on a request that was given up, unless it answers before."""
MOST_GIVEN_UP: Final = 1000
"""Bound on the requests that were given up of which is known for whom they were."""

ResponseCallback = Callable[[dict[str, Any] | RpcError], None]
"""Called once when a request ends, with its result or its error."""


class PendingRequest:
    """A request that has no response yet."""

    __slots__ = ("answers_without_id", "callback", "cause", "lasting", "limited", "on_progress", "start")

    def __init__(self, callback: ResponseCallback, opts: CallOptions, start: int) -> None:
        self.callback = callback
        self.start = start
        """Position of the writer before its first byte."""
        self.on_progress = opts.get("on_progress")
        self.answers_without_id = opts.get("answers_without_id", False)
        self.cause = opts.get("cause")
        self.lasting = opts.get("lasting", False)
        self.limited = opts.get("limited", False) or "timeout" in opts


class PendingRequests:
    """All pending requests of one side of a connection, by the key of their ID; false while there are none.

    Args:
        after_id: the first request gets the next number.
    """

    def __init__(self, after_id: int = 0) -> None:
        self._requests: dict[object, PendingRequest] = {}
        self._given_up: OrderedDict[object, tuple[object, float]] = OrderedDict()
        """Key → whose request it is that was given up, and when that was."""
        self._last_id = after_id
        self.last_written: object = None
        """Key of the last written message if that was a request: an error without an ID may be its response."""

    def __bool__(self) -> bool:
        return bool(self._requests)

    def __contains__(self, key: object) -> bool:
        return key in self._requests

    def message(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions) -> tuple[RequestId, Message]:
        """Return the ID of a new request and its message."""
        request_id: RequestId | None = opts.get("request_id")
        if request_id is None:
            self._last_id += 1
            request_id = self._last_id
        if (on_id := opts.get("on_id")) is not None:
            on_id(request_id)
        if opts.get("on_progress") is not None:
            params = dict(params or {})
            params["_meta"] = {**(params.get("_meta") or {}), "progressToken": request_id}
        message: Message = {"jsonrpc": "2.0", "id": request_id, "method": method}
        if params:
            message["params"] = params
        return request_id, message

    def add(self, key: object, callback: ResponseCallback, opts: CallOptions, start: int) -> PendingRequest:
        """Add a request whose message has been written, or is next to be written."""
        pending = self._requests[key] = PendingRequest(callback, opts, start)
        self.last_written = key
        return pending

    def remove(self, key: object, now: float) -> bool:
        """Remove a request that is given up, without calling its callback; return False if it is not pending."""
        pending = self._requests.pop(key, None)
        if pending is not None:
            self._give_up(key, pending, now)
        return pending is not None

    def remove_if_same(self, key: object, pending: PendingRequest, given_up_at: float | None = None) -> bool:
        """Remove a request unless its ID now belongs to another one; return whether it was removed.

        Args:
            given_up_at: None if it was never sent.
        """
        if self._requests.get(key) is not pending:
            return False
        del self._requests[key]
        if given_up_at is not None:
            self._give_up(key, pending, given_up_at)
        return True

    def _give_up(self, key: object, pending: PendingRequest, now: float) -> None:
        if pending.cause is not None:
            # Not all of the cause, which may be large.
            self._given_up[key] = getattr(pending.cause, "asker", pending.cause), now
            if len(self._given_up) > MOST_GIVEN_UP:
                self._given_up.popitem(last=False)

    def fail(self, key: object, error: RpcError) -> None:
        """End a request with an error, if it is pending."""
        if (pending := self._requests.pop(key, None)) is not None:
            pending.callback(error)

    def fail_all(self, error_for: Callable[[PendingRequest], RpcError]) -> None:
        """End every request with its own error, the newest first."""
        while self._requests:
            _, pending = self._requests.popitem()
            pending.callback(error_for(pending))

    def on_response(self, message: Message) -> None:
        """End the request to which a response belongs. An error without an ID belongs to a request whose transport has
        no other, or to the only pending one if that was written last."""
        key = correlation_key(message.get("id"))
        if key is None and "error" in message:
            key = next((each for each, pending in self._requests.items() if pending.answers_without_id), None)
            if key is None and len(self._requests) == 1 and self.last_written in self._requests:
                key = self.last_written
        pending = self._requests.pop(key, None)
        if pending is None:
            self._given_up.pop(key, None)
            logger.debug("dropped a response to no request: %r", message.get("id"))
        elif "result" in message:
            pending.callback(message["result"])
        else:
            error = message["error"]
            pending.callback(RpcError(error["code"], str(error.get("message") or "no reason given"), error.get("data")))

    def on_progress(self, params: Mapping[str, Any]) -> None:
        """Report progress to the request whose ID is the token; values of wrong types are dropped."""
        pending = self._requests.get(correlation_key(params.get("progressToken")))
        progress = params.get("progress")
        if pending is not None and pending.on_progress is not None and isinstance(progress, int | float):
            total, text = params.get("total"), params.get("message")
            pending.on_progress(
                progress,
                total if isinstance(total, int | float) else None,
                text if isinstance(text, str) else None,
            )

    def causes_of(self, message: Related) -> tuple[object, ...]:
        """Return the cause of the request to which a message of the other side belongs, if that is pending and has
        one."""
        pending = self._requests.get(correlation_key(message.request_id))
        return () if pending is None or pending.cause is None else (pending.cause,)

    def causes(self, now: float) -> list[object]:
        """Return the causes of all requests that the other side may be working on. It need not have stopped working on
        those that were given up, of which the attribute `asker` of the cause is left, if it has one."""
        while self._given_up and now - next(iter(self._given_up.values()))[1] > GIVEN_UP_S:
            self._given_up.popitem(last=False)
        pending = [each.cause for each in self._requests.values() if each.cause is not None]
        return [*pending, *(whose for whose, _ in self._given_up.values())]

    def owed(self, consumed: int) -> list[bool]:
        """Return, for each request before this position that needs a response, whether its time is limited."""
        return [each.limited for each in self._requests.values() if each.start < consumed and not each.lasting]

    @property
    def only_lasting(self) -> bool:
        """True while no request needs a response before the connection ends."""
        return all(each.lasting for each in self._requests.values())
