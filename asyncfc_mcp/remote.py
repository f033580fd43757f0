"""Connections to servers at a URL.

Owns the choice of one of the two HTTP transports, and its connection with a `Peer`. Leaves the transports to
`streamable_client` and `sse_client`. Imported only where a server has a URL: it brings the HTTP library with it.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

from asyncfc_mcp.config import HttpSpec
from asyncfc_mcp.http_client import HttpClient
from asyncfc_mcp.peer import Peer
from asyncfc_mcp.sse_client import SseTransport
from asyncfc_mcp.streamable_client import StreamableTransport

Kind = Literal["http", "sse"]


@asynccontextmanager
async def connect(
    spec: HttpSpec, kind: Kind, limit: int
) -> AsyncGenerator[tuple[Peer, StreamableTransport | SseTransport]]:
    """A peer whose messages travel over HTTP, and its transport.

    Args:
        limit: bound on the bytes of one message, after decompression.

    Raises:
        RpcError: the server opens no connection of this kind.
    """
    async with HttpClient(spec) as http:
        transport = SseTransport(http, limit) if kind == "sse" else StreamableTransport(http, limit)
        peer = Peer(transport.inbox, transport)
        transport.on_failure = peer.fail
        async with transport.open():
            yield peer, transport
