"""Streamable HTTP: one path for clients of every protocol version, each to the part that serves it.

Owns which that is, and what goes on beside requests. Refuses to answer anything.
"""

from typing import TYPE_CHECKING

import anyio
import anyio.abc

from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.exchange import PING_S, VERSION, Door, Headers, Refusal, Starter, Waits
from asyncfc_mcp.posts import Posts
from asyncfc_mcp.protocol import CONNECTION_CLOSED, HANDSHAKE_VERSIONS
from asyncfc_mcp.server import Upstream
from asyncfc_mcp.sessions import Sessions

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send
    from starlette.types import Message as AsgiMessage


class Streamable:
    """ASGI: Streamable HTTP at one path.

    Args:
        app: what all other paths go to.
        door: who is let in.
        ping_s: see `exchange.PING_S`.
    """

    def __init__(self, app: "ASGIApp", upstream: Upstream, path: str, door: Door, *, ping_s: float = PING_S) -> None:
        self._app = app
        self._paths = (path, f"{path}/")
        self.waits = Waits(ping_s)
        self._posts = Posts(upstream, door, self.waits)
        self._sessions = Sessions(upstream, door, self.waits)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] in self._paths:
            headers = Headers(scope["headers"])
            await self._part_for(headers).serve(scope, headers, receive, send)
        else:
            await self._app(scope, receive, send)

    def _part_for(self, headers: Headers) -> Posts | Sessions:
        version = headers.get(VERSION)
        return self._sessions if version is None or version in HANDSHAKE_VERSIONS else self._posts

    def starter(self, headers: Headers) -> Starter | None:
        """What finds the request of a POST with these headers, for who can answer it without more of ASGI than `send`;
        None where they do not let it in."""
        try:
            return self._part_for(headers).starter(headers)
        except Refusal:
            return None

    async def _live(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """What goes on beside requests, from the server's start to its end, which waits for our sessions' ends."""
        ended = anyio.Event()

        async def beside(*, task_status: anyio.abc.TaskStatus[anyio.CancelScope]) -> None:
            async with anyio.create_task_group() as inner:
                await inner.start(self.waits.run)
                await inner.start(self._sessions.run)
                task_status.started(inner.cancel_scope)
            ended.set()

        async with anyio.create_task_group() as tg:
            running: anyio.CancelScope = await tg.start(beside)

            async def after(message: "AsgiMessage") -> None:
                if message["type"] == "lifespan.shutdown.complete":
                    running.cancel()
                    await ended.wait()
                await send(message)

            await self._app(scope, receive, after)
            running.cancel()

    def stop(self) -> None:
        """Answer what waits, and let go of who listens: the server is about to end."""
        why = RpcError(CONNECTION_CLOSED, "The bridge is stopping")
        self._sessions.leave(why)
        self.waits.end(why)
