"""Streamable HTTP: one path for clients of every protocol version.

Owns the choice of the endpoint by protocol version, and the background tasks from the ASGI server's start to its end.
Leaves responses to the endpoints: `sessions` and `stateless`.
"""

from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import CONNECTION_CLOSED, HANDSHAKE_VERSIONS
from asyncfc_mcp.transports.http.admission import AdmissionPolicy
from asyncfc_mcp.transports.http.asgi import VERSION, Headers
from asyncfc_mcp.transports.http.in_flight import PING_S, InFlightRequests
from asyncfc_mcp.transports.http.sessions import SessionEndpoint
from asyncfc_mcp.transports.http.stateless import StatelessEndpoint
from asyncfc_mcp.upstream.server import Upstream

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.types import Message as AsgiMessage

LAPSE_S: Final = 1.0
"""Interval between two searches for streams and sessions whose access has ended."""
STOPPING: Final = "The bridge is stopping"


class StreamableHttp:
    """ASGI application: Streamable HTTP at one path.

    Args:
        app: application for all other paths.
        admission: conditions that requests must meet.
        ping_s: see `in_flight.PING_S`.
    """

    def __init__(
        self, app: "ASGIApp", upstream: Upstream, path: str, admission: AdmissionPolicy, *, ping_s: float = PING_S
    ) -> None:
        self._app = app
        self._paths = (path, f"{path}/")
        self._entrance = admission.entrance
        self.in_flight = InFlightRequests(ping_s)
        self._stateless = StatelessEndpoint(upstream, admission, self.in_flight)
        self._sessions = SessionEndpoint(upstream, admission, self.in_flight)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] in self._paths:
            headers = Headers(scope["headers"])
            await self._endpoint_for(headers).serve(scope, headers, receive, send)
        else:
            await self._app(scope, receive, send)

    def _endpoint_for(self, headers: Headers) -> StatelessEndpoint | SessionEndpoint:
        version = headers.get(VERSION)
        return self._sessions if version is None or version in HANDSHAKE_VERSIONS else self._stateless

    async def _lifespan(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Run the background tasks while the application lives; its shutdown completes after all sessions have
        ended."""
        ended = anyio.Event()

        async def background(*, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
            async with anyio.create_task_group() as inner:
                await inner.start(self.in_flight.run)
                await inner.start(self._sessions.run)
                if self._entrance.authenticator.lapses:
                    inner.start_soon(self._end_lapsed)
                task_status.started(inner.cancel_scope)
            ended.set()

        async with anyio.create_task_group() as tg:
            running: anyio.CancelScope = await tg.start(background)

            async def send_after_end(message: "AsgiMessage") -> None:
                if message["type"] == "lifespan.shutdown.complete":
                    running.cancel()
                    await ended.wait()
                await send(message)

            await self._app(scope, receive, send_after_end)
            running.cancel()

    async def _end_lapsed(self) -> None:
        """End what outlives the access with which it was admitted, until cancelled. A timer for each request would
        slow down all of them."""
        while True:
            await anyio.sleep(LAPSE_S)
            self.in_flight.end_lapsed(self._entrance.is_over)
            await self._sessions.end_lapsed()

    def refuse_new(self) -> None:
        """Admit no further requests and streams. Those that are open go on, with what they need: answers to questions,
        cancellations."""
        self.in_flight.refuse_new(RpcError(CONNECTION_CLOSED, STOPPING))

    def stop(self) -> None:
        """Respond to all pending requests and close all streams: the server is about to end."""
        error = RpcError(CONNECTION_CLOSED, STOPPING)
        self._sessions.close(error)
        self.in_flight.close(error)
