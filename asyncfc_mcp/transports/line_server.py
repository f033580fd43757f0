"""One client on a pair of line streams: standard streams, or the socket of a daemon.

Owns the protocol era of the connection. Leaves requests to `Upstream`, and the streams and the end of accepted calls to
its callers.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from secrets import randbelow
from typing import Final

import anyio

from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import Principal
from asyncfc_mcp.jsonrpc.codec import MalformedMessage
from asyncfc_mcp.jsonrpc.inbound import Inbound
from asyncfc_mcp.jsonrpc.line_reader import LineReader
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.peer import Peer
from asyncfc_mcp.jsonrpc.pipes import Source
from asyncfc_mcp.protocol import PROBES, Deferred
from asyncfc_mcp.thin.greeting import PREFIX
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.envelope import has_envelope, read_envelope, wrong_era
from asyncfc_mcp.upstream.request import Params, Session
from asyncfc_mcp.upstream.server import Upstream

logger = logging.getLogger(__name__)

UNSENT_BYTES: Final = 32 << 20
"""Bytes of responses that may be queued before reading from the client pauses."""
MOST_FIRST_ID: Final = 1 << 40
"""Bound on the random number after which a daemon numbers its requests to a session. Clients read IDs as doubles."""


def client_peer(
    source: Source,
    writer: LineWriter,
    *,
    begun: bytes = b"",
    on_control: Callable[[bytes], None] | None = None,
) -> Peer:
    """Return the connection to a client on a pair of streams. A line that is no message is answered with an error.

    Args:
        begun: bytes that were read of the source before.
        on_control: called with a line that is not for the bridge, but for the daemon (`thin.greeting`).
    """

    async def on_malformed(exc: MalformedMessage, line: bytes) -> None:
        if on_control is not None and line.startswith(PREFIX):
            on_control(line)
            return
        if exc.is_answer:
            logger.warning("the client sent an invalid response: %s", exc)
            return
        error = {"code": exc.code, "message": str(exc)}
        with suppress(anyio.BrokenResourceError):
            await writer.send({"jsonrpc": "2.0", "id": exc.request_id, "error": error})

    # A session outlives a daemon: its late answer to a question of the last one must not have the ID of another.
    after_id = 0 if on_control is None else randbelow(MOST_FIRST_ID)
    return Peer(LineReader(source, on_malformed, begun=begun), writer, unsent_limit=UNSENT_BYTES, after_id=after_id)


class LineServer:
    """One client on a pair of line streams. `initialize`, or a request with a valid envelope that is no probe, opens
    the connection in its protocol era; until then each request is answered in its own era.

    Args:
        connection: the client's.
    """

    def __init__(self, upstream: Upstream, principal: Principal, peer: Peer, connection: Connection) -> None:
        self._upstream, self._principal, self._peer, self._connection = upstream, principal, peer, connection
        self._modern: bool | None = None
        self._session = Session(principal, peer.notify, connection=connection)

    async def run(self, drained: Callable[[], Awaitable[None]]) -> None:
        """Serve the client until its input has ended and `drained` has returned; requests without a response are
        cancelled then."""
        try:
            await self._peer.run(self._on_request, self._on_notify, at_end=drained)
        finally:
            await self._session.close()
            self._connection.close()

    def _on_request(self, inbound: Inbound, method: str, params: Params | None) -> Result | Deferred:
        enveloped = method != "initialize" and has_envelope(params)
        if self._modern or (enveloped and self._modern is None):
            if method == "initialize":
                raise wrong_era(modern=True, params=params)
            if self._modern is None:
                self._open_modern(method, params or {})
            inbound.one_way = True
            inbound.lasting = method == "subscriptions/listen"
            return self._upstream.modern(self._principal, inbound, method, params, self._connection)
        if enveloped:
            raise wrong_era(modern=False)
        answer = self._upstream.handshake(self._session, inbound, method, params)
        if method == "initialize":
            self._modern = False
            self._upstream.bridge.introduce(self._principal, self._session.capabilities, self._peer.send_raw_request)
        return answer

    def _on_notify(self, inbound: Inbound, method: str, params: Params | None) -> Callable[[], Awaitable[None]] | None:
        return None if self._modern else self._upstream.notified(self._session, method)

    def _open_modern(self, method: str, params: Params) -> None:
        """Open the connection for 2026-07-28, unless this is a probe. Both declare the capabilities of the client,
        which the handshake with wrapped servers waits for.

        Raises:
            RpcError: the envelope is invalid; the connection is not opened.
        """
        capabilities = read_envelope(params)[2]
        if method not in PROBES:
            self._modern = True
        self._upstream.bridge.introduce(self._principal, capabilities)
