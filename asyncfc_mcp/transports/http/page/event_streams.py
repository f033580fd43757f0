"""Streams of events of the page: what happens to calls, until the reader leaves or may not read any more.

Owns the form of the streams, their number, and the reasons for their end: a disconnect, the end of the access, the end
of the bridge. Leaves their content to the monitor's feed, which never queues for a slow reader, and a reader that takes
nothing at all to `connections`.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final

import anyio

from asyncfc_mcp.core.identity import Principal, Scope
from asyncfc_mcp.transports.http.auth.authenticator import Access
from asyncfc_mcp.transports.http.page.answers import UNCACHED, PageRefusal
from asyncfc_mcp.transports.http.page.page_tokens import PageAccess
from asyncfc_mcp.values.text import encode

if TYPE_CHECKING:
    from starlette.types import Receive, Send

Event = Mapping[str, Any]
"""`event`: its kind; `data`: a JSON value."""
Feed = AbstractAsyncContextManager[AsyncIterator[Event]]

MOST_STREAMS: Final = 200
"""Bound on open streams."""
MOST_OWN: Final = 20
"""The same for one principal."""
PING_S: Final = 15.0
"""Interval of comments, which keep proxies from closing the connection."""
LAPSE_S: Final = 1.0
"""Interval between two looks whether the access of a stream or an export has ended."""
END_S: Final = 1.0
"""Time limit for the last event to a reader that takes nothing."""
STOPPING: Final = "the bridge is ending"
OVER: Final = "the access has ended"


class _Stream:
    """One stream."""

    def __init__(self, send: "Send") -> None:
        self._send = send
        self._lock = anyio.Lock()
        self._begun = False
        self.scope = anyio.CancelScope()
        self.reason: str | None = None
        """The reason for the end; None as long as it is open, and if the reader has left."""

    def end(self, reason: str | None) -> None:
        if not self.scope.cancel_called:
            self.reason = reason
            self.scope.cancel()

    async def write(self, data: bytes, *, last: bool = False) -> None:
        async with self._lock:
            if not self._begun:
                self._begun = True
                kind = (b"content-type", b"text/event-stream; charset=utf-8")
                headers = [kind, (b"x-accel-buffering", b"no"), *UNCACHED]
                await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})


class EventStreams:
    """All streams of one endpoint.

    Args:
        is_over: returns whether an access has ended.
        ping_s: see `PING_S`.
    """

    def __init__(self, is_over: Callable[[Access], bool], *, ping_s: float = PING_S) -> None:
        self._is_over, self._ping_s = is_over, ping_s
        self._open: dict[_Stream, Scope] = {}
        self._refuses = False

    def __len__(self) -> int:
        return len(self._open)

    async def serve(
        self, feed_of: Callable[[Principal], Feed], access: Access, receive: "Receive", send: "Send"
    ) -> None:
        """Write the events of a principal until its stream ends.

        Raises:
            PageRefusal: there are too many streams, or the bridge is ending.
        """
        scope = access.principal.scope
        if self._refuses:
            raise PageRefusal(503, STOPPING, (b"retry-after", b"1"))
        if Counter(self._open.values())[scope] >= MOST_OWN or len(self._open) >= MOST_STREAMS:
            raise PageRefusal(429, "too many pages are open; close one", (b"retry-after", b"10"))
        stream = _Stream(send)
        self._open[stream] = scope
        try:
            with stream.scope:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(_watch_reader, stream, receive)
                    tg.start_soon(self._watch_access, stream, access)
                    tg.start_soon(self._ping, stream)
                    async with feed_of(access.principal) as events:
                        async for event in events:
                            await stream.write(_written(event))
                    stream.end(STOPPING)
            if stream.reason is not None:
                with anyio.move_on_after(END_S):
                    await stream.write(_written({"event": "end", "data": {"reason": stream.reason}}), last=True)
        finally:
            del self._open[stream]

    async def _watch_access(self, stream: _Stream, access: Access) -> None:
        await until_over(access, self._is_over)
        stream.end(OVER)

    async def _ping(self, stream: _Stream) -> None:
        while True:
            await anyio.sleep(self._ping_s)
            await stream.write(b": ping\n\n")

    def refuse_new(self) -> None:
        """Open no further streams."""
        self._refuses = True

    def close(self) -> None:
        """End all streams; none is opened any more."""
        self._refuses = True
        for stream in tuple(self._open):
            stream.end(STOPPING)


async def until_over(access: Access, is_over: Callable[[Access], bool]) -> None:
    """Return once an access has ended. Until then it is used."""
    while not is_over(access):
        if isinstance(access, PageAccess):
            access.use()  # a page that is looked at is used
        await anyio.sleep(LAPSE_S)


async def _watch_reader(stream: _Stream, receive: "Receive") -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.end(None)


def _written(event: Event) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (str(event["event"]).encode(), encode(event["data"]))
