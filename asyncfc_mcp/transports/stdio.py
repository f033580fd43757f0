"""The bridge over standard streams: one client, until it closes our input.

Owns the standard streams of the process and the protocol era of the connection. Leaves requests to `Upstream`, and the
end of accepted calls to `lifecycle`.
"""

import logging
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.futures import Result
from asyncfc_mcp.core.identity import LOCAL_PRINCIPAL, Principal
from asyncfc_mcp.jsonrpc.codec import MalformedMessage
from asyncfc_mcp.jsonrpc.inbound import Inbound
from asyncfc_mcp.jsonrpc.line_reader import LineReader
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.peer import Peer
from asyncfc_mcp.jsonrpc.pipes import FdSink, FdSource
from asyncfc_mcp.protocol import PROBES, Deferred
from asyncfc_mcp.transports.lifecycle import drain, stop_on_signals, warn_of_unordered_tools, warn_of_useless_access
from asyncfc_mcp.upstream.envelope import has_envelope, read_envelope, wrong_era
from asyncfc_mcp.upstream.request import Params, Session
from asyncfc_mcp.upstream.server import Upstream

logger = logging.getLogger(__name__)

ORPHAN_POLL_S: Final = 2.0
"""Interval between two checks for a parent process that has exited."""
UNSENT_BYTES: Final = 32 << 20
"""Bytes of responses that may be queued before reading from the client pauses."""


class _OwnPipes:
    """Descriptors 0 and 1, replaced for the rest of the process: reads find the end of file, and prints go to
    stderr."""

    def __init__(self) -> None:
        self._blocking = [(fd, os.get_blocking(fd)) for fd in (0, 1)]
        self._kept = [os.dup(fd) for fd in (0, 1)]
        self.source, self.sink = FdSource(os.dup(0)), FdSink(os.dup(1))
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)

    def close(self) -> None:
        self.source.close()
        self.sink.close()
        # The flag belongs to the pipe, which other processes may share: it is restored.
        for kept, (fd, blocking) in zip(self._kept, self._blocking, strict=True):
            os.set_blocking(kept, blocking)
            os.dup2(kept, fd)
            os.close(kept)


class _LineServer:
    """One client on a pair of line streams. `initialize`, or a request with a valid envelope that is no probe, opens
    the connection in its protocol era; until then each request is answered in its own era."""

    def __init__(self, upstream: Upstream, principal: Principal, peer: Peer) -> None:
        self._upstream, self._principal, self._peer = upstream, principal, peer
        self._modern: bool | None = None
        self._session = Session(principal, peer.notify)

    async def run(self) -> None:
        """Serve the client until its input has ended and its accepted requests have finished."""
        try:
            drained = partial(drain, self._upstream.bridge, self._peer.answered)
            await self._peer.run(self._on_request, self._on_notify, at_end=drained)
        finally:
            await self._session.close()

    def _on_request(self, inbound: Inbound, method: str, params: Params | None) -> Result | Deferred:
        enveloped = method != "initialize" and has_envelope(params)
        if self._modern or (enveloped and self._modern is None):
            if method == "initialize":
                raise wrong_era(modern=True, params=params)
            if self._modern is None:
                self._open_modern(method, params or {})
            inbound.one_way = True
            inbound.lasting = method == "subscriptions/listen"
            return self._upstream.modern(self._principal, inbound, method, params)
        if enveloped:
            raise wrong_era(modern=False)
        answer = self._upstream.handshake(self._session, inbound, method, params)
        if method == "initialize":
            self._modern = False
            self._upstream.bridge.server_requests.set_client_capabilities(
                self._session.capabilities, self._peer.send_raw_request
            )
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
        self._upstream.bridge.server_requests.set_client_capabilities(capabilities)


async def _serve_pipes(upstream: Upstream, orphaned: anyio.Event) -> None:
    """Serve standard input and output until the input ends, or the parent process has exited."""
    if sys.platform == "win32":  # its event loop cannot wait for standard streams; the SDK uses threads
        from mcp.server.stdio import stdio_server

        from asyncfc_mcp.transports.sdk_adapter import serve_streams

        async with stdio_server() as (reader, writer):
            await serve_streams(upstream, LOCAL_PRINCIPAL, reader, writer)
        await drain(upstream.bridge, anyio.lowlevel.checkpoint)
        return
    pipes = _OwnPipes()
    writer = LineWriter(pipes.sink)

    async def on_malformed(exc: MalformedMessage, line: bytes) -> None:
        if exc.is_answer:
            logger.warning("the client sent an invalid response: %s", exc)
            return
        error = {"code": exc.code, "message": str(exc)}
        with suppress(anyio.BrokenResourceError):
            await writer.send({"jsonrpc": "2.0", "id": exc.request_id, "error": error})

    try:
        peer = Peer(LineReader(pipes.source, on_malformed), writer, unsent_limit=UNSENT_BYTES)

        async def end_input() -> None:
            await orphaned.wait()
            peer.end_input()

        async with anyio.create_task_group() as tg:
            tg.start_soon(end_input)
            await _LineServer(upstream, LOCAL_PRINCIPAL, peer).run()
            tg.cancel_scope.cancel()
    finally:
        pipes.close()


async def serve_stdio(bridge: Bridge) -> None:
    """Serve one client on the standard streams until it closes them or the parent process exits, and accepted requests
    are finished (`drain_s`). A signal ends both at once."""
    parent = os.getppid()
    warn_of_useless_access(bridge.settings)
    async with stop_on_signals(), bridge.open():
        upstream = Upstream(bridge, pipe=True)
        orphaned = anyio.Event()

        async def watch_parent() -> None:
            # The write end of our input may stay open in another process when a host is killed.
            while os.getppid() == parent:  # noqa: ASYNC110 - there is no event to wait for
                await anyio.sleep(ORPHAN_POLL_S)
            logger.warning("the parent process has exited; stopping")
            orphaned.set()

        async with anyio.create_task_group() as tg:
            await tg.start(upstream.run)
            tg.start_soon(warn_of_unordered_tools, bridge)
            tg.start_soon(watch_parent)
            await _serve_pipes(upstream, orphaned)
            tg.cancel_scope.cancel()
