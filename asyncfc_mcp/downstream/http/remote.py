"""Connections to servers with a URL.

Owns the construction of one of the two HTTP transports and its `Peer`. The transports are left to `streamable` and
`sse`. Imported only if a server has a URL: importing the HTTP library is expensive.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

from asyncfc_mcp.config.model import HttpSpec
from asyncfc_mcp.downstream.http.authorizer import Authorizer
from asyncfc_mcp.downstream.http.client import HttpClient
from asyncfc_mcp.downstream.http.sse import SseTransport
from asyncfc_mcp.downstream.http.streamable import StreamableTransport
from asyncfc_mcp.jsonrpc.peer import Peer

Kind = Literal["http", "sse"]


@asynccontextmanager
async def connect(
    spec: HttpSpec, kind: Kind, limit: int, authorizer: Authorizer | None = None
) -> AsyncGenerator[tuple[Peer, StreamableTransport | SseTransport]]:
    """Open a transport and yield a peer that sends its messages over it, with the transport.

    Args:
        kind: `http` for Streamable HTTP, `sse` for HTTP+SSE.
        limit: size limit of one message in bytes, after decompression.
        authorizer: adds credentials to the requests; None: only the configured headers are sent.

    Raises:
        RpcError: the server does not open a connection of this kind.
    """
    async with HttpClient(spec, authorizer) as http:
        transport = SseTransport(http, limit) if kind == "sse" else StreamableTransport(http, limit)
        peer = Peer(transport.inbox, transport)
        transport.on_failure = peer.fail_request
        async with transport.open():
            yield peer, transport
