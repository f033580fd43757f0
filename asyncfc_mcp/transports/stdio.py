"""The bridge over standard streams: one client, until it closes our input.

Owns the standard streams of the process. Leaves the connection on them to `line_server`, and the end of accepted calls
to `lifecycle`.
"""

import logging
import os
import sys
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.identity import LOCAL_PRINCIPAL
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.pipes import FdSink, FdSource
from asyncfc_mcp.transports.lifecycle import (
    drain,
    reload_on_hang_up,
    stop_on_signals,
    warn_of_unordered_tools,
    warn_of_useless_access,
)
from asyncfc_mcp.transports.line_server import LineServer, client_peer
from asyncfc_mcp.upstream.connection import Connection
from asyncfc_mcp.upstream.request_tracing import RequestTracer
from asyncfc_mcp.upstream.server import Upstream

logger = logging.getLogger(__name__)

ORPHAN_POLL_S: Final = 2.0
"""Interval between two checks for a parent process that has exited."""


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


async def _serve_pipes(upstream: Upstream, orphaned: anyio.Event) -> None:
    """Serve standard input and output until the input ends, or the parent process has exited."""
    if sys.platform == "win32":  # its event loop cannot wait for standard streams; the SDK uses threads
        from mcp.server.stdio import stdio_server

        from asyncfc_mcp.transports.sdk_adapter import serve_streams

        async with stdio_server() as (reader, writer):
            await serve_streams(upstream, LOCAL_PRINCIPAL, reader, writer, Connection())
        await drain(upstream.bridge, anyio.lowlevel.checkpoint)
        return
    pipes = _OwnPipes()
    try:
        peer = client_peer(pipes.source, LineWriter(pipes.sink))

        async def end_input() -> None:
            await orphaned.wait()
            peer.end_input()

        drained = partial(drain, upstream.bridge, peer.answered)
        async with anyio.create_task_group() as tg:
            tg.start_soon(end_input)
            await LineServer(upstream, LOCAL_PRINCIPAL, peer, Connection()).run(drained)
            tg.cancel_scope.cancel()
    finally:
        pipes.close()


async def serve_stdio(bridge: Bridge, tracer: RequestTracer | None = None) -> None:
    """Serve one client on the standard streams until it closes them or the parent process exits, and accepted requests
    are finished (`drain_s`). A signal ends both at once."""
    parent = os.getppid()
    warn_of_useless_access(bridge.settings)
    async with stop_on_signals(hang_up=reload_on_hang_up(bridge)), bridge.open():
        upstream = Upstream(bridge, tracer)
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
