"""A TCP proxy whose connections can die without a word, as those of a machine that slept, or moved to another network.

Owns one listener on loopback. What is sent on a dead connection is accepted and lost.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.abc

_BROKEN = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class BlackHole:
    """Forwards connections to a server.

    Attributes:
        port: of the proxy.
        target: port of the server; connections that are made from now on go there.
        accepted: number of connections so far.
        lost: bytes that were sent on dead connections.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.accepted = 0
        self.lost = 0
        self._generation = 0

    def kill(self) -> None:
        """Have all connections that are open die silently; new ones work."""
        self._generation += 1

    async def forward(self, client: anyio.abc.SocketStream) -> None:
        """Forward one connection until it ends."""
        self.accepted += 1
        generation = self._generation
        async with client, await anyio.connect_tcp("127.0.0.1", self.target) as server, anyio.create_task_group() as tg:

            async def copy(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream) -> None:
                try:
                    while True:
                        data = await source.receive()
                        if generation == self._generation:
                            await sink.send(data)
                        else:
                            self.lost += len(data)
                except _BROKEN:
                    # Of a dead connection, only its client's end is passed on: packets from inside pass a router that
                    # has forgotten the connection.
                    if generation == self._generation or source is client:
                        tg.cancel_scope.cancel()

            tg.start_soon(copy, client, server)
            tg.start_soon(copy, server, client)


@asynccontextmanager
async def black_hole(target: int, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[BlackHole]:
    """Run a proxy until the block ends.

    Args:
        target: port of the server.
    """
    proxy = BlackHole(target)
    listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
    async with listener, anyio.create_task_group() as tg:
        proxy.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        tg.start_soon(listener.serve, proxy.forward)
        yield proxy
        tg.cancel_scope.cancel()
