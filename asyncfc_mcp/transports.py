"""How clients reach the bridge: stdio, Streamable HTTP and HTTP+SSE around one `Upstream`.

Owns our standard streams, sockets, who may connect, and when to stop. Refuses to know what is served.
"""

import ipaddress
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.abc
import anyio.lowlevel

from asyncfc_mcp.bridge import Bridge
from asyncfc_mcp.codec import MalformedMessage
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.futures import LOCAL, PUBLIC, Result, Scope
from asyncfc_mcp.lifecycle import drain
from asyncfc_mcp.peer import Inbound, Peer
from asyncfc_mcp.protocol import PROBES, Later
from asyncfc_mcp.requests import Params, Session
from asyncfc_mcp.server import Upstream, has_envelope, read_envelope, wrong_era
from asyncfc_mcp.wire import FdSink, FdSource, LineReader, LineWriter

if TYPE_CHECKING:
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Message, Receive, Send
    from starlette.types import Scope as AsgiScope

    from asyncfc_mcp.exchange import Token
    from asyncfc_mcp.streamable import Streamable

logger = logging.getLogger(__name__)

ORPHAN_POLL_S: Final = 2.0
"""How often a stdio bridge looks whether its parent is still there."""
SHUTDOWN_S: Final = 2
"""How long open HTTP requests may last after we were told to stop."""
EVERYTHING_ASKABLE: Final[Mapping[str, Any]] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}}
"""What servers that shake hands are offered where many clients share them."""
UNSENT_BYTES: Final = 32 << 20
"""Over stdio, how much a client may leave unread while it asks for more."""
MCP_PATH: Final = "/mcp"
MAX_BODY_BYTES: Final = 64 << 20
"""Largest request body over HTTP."""


class Refused(BridgeError):
    """The address that was asked for would expose the tools to whoever reaches it."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"Refused to listen on {host}: everybody who can reach that address could use your tools. "
            f"Set a secret and name its environment variable with --auth-token-env NAME, listen on 127.0.0.1, "
            f"or accept it with --insecure-no-auth"
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def scope_for(host: str, token: str | None, *, insecure: bool) -> Scope:
    """Whose futures the clients of an address see.

    Raises:
        Refused: the address can be reached by others, and nobody would be authenticated.
    """
    if token is not None:
        return Scope("token")
    if is_loopback(host):
        return LOCAL
    if insecure:
        return PUBLIC
    raise Refused(host)


@asynccontextmanager
async def _stopping() -> AsyncGenerator[None]:
    """SIGINT, SIGTERM and SIGHUP cancel everything inside, so that it is cleaned up."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    # Under nohup a bridge is to outlive its terminal.
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    async with anyio.create_task_group() as tg:

        async def watch(*, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
            with anyio.open_signal_receiver(*numbers) as signals:
                task_status.started()
                async for number in signals:
                    logger.info("stopping on %s", number.name)
                    tg.cancel_scope.cancel()

        await tg.start(watch)
        yield
        tg.cancel_scope.cancel()


async def _say_silent(bridge: Bridge) -> None:
    """One line at the start for tools whose order cannot be kept."""
    await bridge.started()
    silent = bridge.silent_tools()
    if silent:
        logger.warning(
            "%d of %d tools do not say what they change, so their order is not kept: they run at the same time as "
            "everything else (see inspect)",
            len(silent),
            len(bridge.catalog.tools),
        )


# --- stdio ---------------------------------------------------------------------------------------------------------


class _OwnPipes:
    """Descriptors 0 and 1 as the wire; in their place reads find the end and prints go to stderr."""

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
        # The flag belongs to the pipe, not to us: whoever shares it wants it back as it was.
        for kept, (fd, blocking) in zip(self._kept, self._blocking, strict=True):
            os.set_blocking(kept, blocking)
            os.dup2(kept, fd)
            os.close(kept)


class _LineServer:
    """One client on a pair of line streams. `initialize`, or a request with a good envelope that is no probe, opens the
    connection in its protocol era; until then each request is answered in its own."""

    def __init__(self, upstream: Upstream, peer: Peer) -> None:
        self._upstream, self._peer = upstream, peer
        self._modern: bool | None = None
        self._session = Session(peer.notify)

    async def run(self) -> None:
        """Serve the client until its input has ended, and what it asked for has."""
        try:
            drained = partial(drain, self._upstream.bridge, self._peer.answered)
            await self._peer.run(self._on_request, self._on_notify, at_end=drained)
        finally:
            await self._session.close()

    def _on_request(self, inbound: Inbound, method: str, params: Params | None) -> Result | Later:
        enveloped = method != "initialize" and has_envelope(params)
        if self._modern or (enveloped and self._modern is None):
            if method == "initialize":
                raise wrong_era(modern=True, params=params)
            if self._modern is None:
                self._open_modern(method, params or {})
            inbound.one_way = True
            inbound.lasting = method == "subscriptions/listen"
            return self._upstream.modern(inbound, method, params)
        if enveloped:
            raise wrong_era(modern=False)
        answer = self._upstream.handshake(self._session, inbound, method, params)
        if method == "initialize":
            self._modern = False
            self._upstream.bridge.introduce(self._session.capabilities, self._peer.send_raw_request)
        return answer

    def _on_notify(self, inbound: Inbound, method: str, params: Params | None) -> Callable[[], Awaitable[None]] | None:
        return None if self._modern else self._upstream.notified(self._session, method)

    def _open_modern(self, method: str, params: Params) -> None:
        """Open the connection for 2026-07-28, unless this is a probe. Either says what the client can be asked, for
        which servers that shake hands are waiting.

        Raises:
            RpcError: the envelope is no good; it opens nothing.
        """
        capabilities = read_envelope(params)[2]
        if method not in PROBES:
            self._modern = True
        self._upstream.bridge.introduce(capabilities)


async def _serve_pipes(upstream: Upstream, orphaned: anyio.Event) -> None:
    """Serve standard input and output until the input ends, or what started us has."""
    if sys.platform == "win32":  # the event loop there cannot wait for standard streams; the SDK uses threads
        from mcp.server.stdio import stdio_server

        from asyncfc_mcp.sdk import sdk_server, serve_streams

        server = sdk_server(upstream)
        async with stdio_server() as (reader, writer):
            await serve_streams(server, upstream, reader, writer)
        await drain(upstream.bridge, anyio.lowlevel.checkpoint)
        return
    pipes = _OwnPipes()
    writer = LineWriter(pipes.sink)

    async def on_malformed(exc: MalformedMessage, line: bytes) -> None:
        if exc.is_answer:
            logger.warning("the client sent an answer that is none: %s", exc)
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
            await _LineServer(upstream, peer).run()
            tg.cancel_scope.cancel()
    finally:
        pipes.close()


async def serve_stdio(bridge: Bridge) -> None:
    """Serve one client on our standard streams until it closes them or our parent is gone, and what was accepted is
    finished (`drain_s`); a signal ends both at once."""
    parent = os.getppid()
    async with _stopping(), bridge.open():
        upstream = Upstream(bridge, LOCAL, pipe=True)
        orphaned = anyio.Event()

        async def watch_parent() -> None:
            # A host that was killed may leave its end of our input open in another process.
            while os.getppid() == parent:  # noqa: ASYNC110 - nobody tells us
                await anyio.sleep(ORPHAN_POLL_S)
            logger.warning("the process that started the bridge is gone; stopping")
            orphaned.set()

        async with anyio.create_task_group() as tg:
            await tg.start(upstream.run)
            tg.start_soon(_say_silent, bridge)
            tg.start_soon(watch_parent)
            await _serve_pipes(upstream, orphaned)
            tg.cancel_scope.cancel()


# --- HTTP ----------------------------------------------------------------------------------------------------------


class _Guarded:
    """ASGI: lets a request through only with the token; `/healthz` needs none."""

    def __init__(self, app: "ASGIApp", token: "Token") -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: "AsgiScope", receive: "Receive", send: "Send") -> None:
        if scope["type"] == "http" and scope["path"] != "/healthz":
            from asyncfc_mcp.exchange import Refusal, refuse

            try:
                self._token.demand(dict(scope["headers"]).get(b"authorization", b""))
            except Refusal as exc:
                return await refuse(send, exc)
        await self._app(scope, receive, send)


def http_app(
    upstream: Upstream, *, host: str, token: str | None, streamable: bool, sse: bool
) -> "tuple[ASGIApp, Streamable | None]":
    """The ASGI application: `/mcp`, `/sse` or both, and `/healthz`; and the part of it that is `/mcp`."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import BaseRoute, Route

    from asyncfc_mcp.exchange import Allowed, Door, Token
    from asyncfc_mcp.streamable import Streamable

    hosts = origins = None
    if is_loopback(host):
        # A page in the user's browser must not reach us under a name of its own that resolves to loopback.
        names = ["127.0.0.1", "localhost", "[::1]", *({host} - {"127.0.0.1", "localhost", "::1"})]
        hosts = [*names, *(f"{name}:*" for name in names)]
        origins = [f"{scheme}://{name}:*" for scheme in ("http", "https") for name in names]

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    routes: list[BaseRoute] = [Route("/healthz", healthz)]
    if sse:
        routes += _sse_routes(upstream, hosts, origins)
    app: ASGIApp = Starlette(routes=routes)
    shown = None if token is None else Token(token)
    if shown is not None:
        app = _Guarded(app, shown)
    if not streamable:
        return app, None
    door = Door(
        token=shown,
        hosts=None if hosts is None else Allowed(hosts),
        origins=None if origins is None else Allowed(origins),
        max_body=MAX_BODY_BYTES,
    )
    front = Streamable(app, upstream, MCP_PATH, door)
    return front, front


def _sse_routes(upstream: Upstream, hosts: list[str] | None, origins: list[str] | None) -> "list[BaseRoute]":
    """HTTP+SSE, the transport of 2024-11-05, by the SDK."""
    from mcp.server.sse import SseServerTransport
    from mcp.server.transport_security import TransportSecuritySettings
    from starlette.routing import Mount, Route

    from asyncfc_mcp.sdk import sdk_server, serve_streams

    server = sdk_server(upstream)
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=hosts is not None, allowed_hosts=hosts or [], allowed_origins=origins or []
    )
    transport = SseServerTransport("/messages/", security_settings=security, max_request_body_size=MAX_BODY_BYTES)

    class Sse:
        async def __call__(self, scope: "AsgiScope", receive: "Receive", send: "Send") -> None:
            refused = False

            async def watch(message: "Message") -> None:
                nonlocal refused
                refused = refused or message.get("status", 200) >= 400
                await send(message)

            try:
                async with transport.connect_sse(scope, receive, watch) as (reader, writer):
                    await serve_streams(server, upstream, reader, writer)
            except ValueError:
                # The SDK answers a foreign Host or Origin, and then raises all the same.
                if not refused:
                    raise

    return [Route("/sse", Sse(), methods=["GET"]), Mount("/messages/", app=transport.handle_post_message)]


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host.strip("[]"), port), family=family, backlog=512)
    # Connections inherit it. asyncio turns Nagle's algorithm off by itself only where the socket was made with a
    # protocol number, which `create_server` does not give. With it an answer in two pieces, head and body, takes 40 ms
    # longer (measured): the second waits until the client has acknowledged the first.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def serve_http(
    bridge: Bridge,
    *,
    host: str,
    port: int,
    token: str | None,
    insecure: bool,
    streamable: bool,
    sse: bool,
    listening: Callable[[str], None],
) -> None:
    """Serve any number of clients over HTTP until a signal comes.

    Args:
        listening: told the base URL when the socket is open.

    Raises:
        Refused: see `scope_for`.
        OSError: the address cannot be listened on.
    """
    import uvicorn

    from asyncfc_mcp.connections import Connections, Limits
    from asyncfc_mcp.express import express
    from asyncfc_mcp.http_protocol import HttpProtocol

    settings = bridge.config.settings
    scope = scope_for(host, token, insecure=insecure)
    # Clients come and go, and each call says what its own can be asked.
    bridge.introduce(EVERYTHING_ASKABLE)
    async with _stopping(), bridge.open():
        with listening_socket(host, port) as sock:
            upstream = Upstream(bridge, scope, pipe=False)
            app, front = http_app(upstream, host=host, token=token, streamable=streamable, sse=sse)
            connections = Connections(
                Limits(
                    settings.max_connections,
                    settings.max_connections_per_address,
                    settings.header_timeout_s,
                    settings.body_timeout_s,
                )
            )
            protocol = express(front, MCP_PATH, connections) if front else partial(HttpProtocol, connections)
            config = uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                http=cast("Any", protocol),
                backlog=connections.backlog,
                timeout_keep_alive=math.ceil(settings.idle_timeout_s),
                proxy_headers=False,  # nothing here goes by who a proxy says that the client is
                timeout_graceful_shutdown=SHUTDOWN_S,
                lifespan="on",
            )
            async with anyio.create_task_group() as tg:
                await tg.start(upstream.run)
                await tg.start(connections.run)
                tg.start_soon(_say_silent, bridge)
                shown = f"[{host.strip('[]')}]" if sock.family == socket.AF_INET6 else host
                listening(f"http://{shown}:{sock.getsockname()[1]}")
                server = uvicorn.Server(config)
                tg.start_soon(_stop_when_cancelled, server, front)
                with anyio.CancelScope(shield=True):
                    await server.serve(sockets=[sock])
                tg.cancel_scope.cancel()


async def _stop_when_cancelled(server: Any, front: "Streamable | None") -> None:
    # uvicorn is asked, not cancelled: cancelled in the middle, it leaves requests hanging and says so with tracebacks.
    # It waits for those that are being answered, so they are answered now.
    try:
        await anyio.sleep_forever()
    finally:
        server.should_exit = True
        if front is not None:
            front.stop()
