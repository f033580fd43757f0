"""A proxy before PostgreSQL that breaks connections, before a request reaches the server or before its answer returns.

Owns one listener on loopback. A transaction whose answer is lost was executed; one that is lost before was not.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from enum import Enum

import anyio
import anyio.abc

_BROKEN = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)
_READY = b"Z\x00\x00\x00\x05"
"""Begins the message with which the server ends an answer."""


class Fate(Enum):
    """Outcome of a request."""

    DELIVERED = "delivered"
    LOST = "lost"
    """It does not reach the server."""
    ANSWER_LOST = "answer lost"
    """It is executed."""


class LossyProxy:
    """Forwards connections to a server.

    Args:
        port: of the server.

    Attributes:
        fate: returns the outcome of the next request.
        lost: number of connections that were broken.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.port = 0
        self.fate: Callable[[], Fate] = lambda: Fate.DELIVERED
        self.lost = 0

    async def forward(self, client: anyio.abc.SocketStream) -> None:
        """Forward one connection until it ends."""
        async with client, await anyio.connect_tcp("127.0.0.1", self._server_port) as server:
            connection = _Connection(self, client, server)
            async with anyio.create_task_group() as tg:
                tg.start_soon(connection.requests, tg.cancel_scope)
                tg.start_soon(connection.answers, tg.cancel_scope)


class _Connection:
    def __init__(self, proxy: LossyProxy, client: anyio.abc.SocketStream, server: anyio.abc.SocketStream) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._authenticated = self._dropping = False

    async def requests(self, scope: anyio.CancelScope) -> None:
        try:
            while True:
                data = await self._client.receive()
                fate = self._proxy.fate() if self._authenticated and not self._dropping else Fate.DELIVERED
                if fate is not Fate.DELIVERED:
                    self._proxy.lost += 1
                if fate is Fate.LOST:
                    break
                self._dropping |= fate is Fate.ANSWER_LOST
                await self._server.send(data)
        except _BROKEN:
            pass
        scope.cancel()

    async def answers(self, scope: anyio.CancelScope) -> None:
        try:
            while True:
                data = await self._server.receive()
                complete = data[-6:-1] == _READY
                if self._dropping and complete:
                    break
                if not self._dropping:
                    self._authenticated |= complete
                    await self._client.send(data)
        except _BROKEN:
            pass
        scope.cancel()


@asynccontextmanager
async def lossy_proxy(port: int) -> AsyncGenerator[LossyProxy]:
    """Run a proxy until the block ends; it breaks nothing until `fate` is set."""
    proxy = LossyProxy(port)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tg:
        proxy.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        tg.start_soon(listener.serve, proxy.forward)
        yield proxy
        tg.cancel_scope.cancel()
