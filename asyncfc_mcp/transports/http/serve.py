"""The bridge over HTTP: Streamable HTTP and HTTP+SSE around one `Upstream`.

Owns the socket, the addresses that may be used without a token, and the server's start and end. Leaves requests to
`routes`, and the bounds of connections to `connections`.
"""

import logging
import math
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.lowlevel

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.identity import LOCAL, PUBLIC, TOKEN, Scope
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.transports.http.auth.bearer_token import Principals
from asyncfc_mcp.transports.http.readiness import Readiness
from asyncfc_mcp.transports.http.routes import http_app, is_loopback
from asyncfc_mcp.transports.lifecycle import hand_over, stop_on_signals, warn_of_unordered_tools
from asyncfc_mcp.upstream.server import Upstream

if TYPE_CHECKING:
    import uvicorn

    from asyncfc_mcp.transports.http.streamable import StreamableHttp

logger = logging.getLogger(__name__)

SHUTDOWN_S: Final = 2
"""Time limit for open HTTP requests after a signal to stop."""
ALL_CLIENT_CAPABILITIES: Final[Mapping[str, Any]] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}}
"""Capabilities declared to wrapped servers in the handshake, since many clients share them."""


class Refused(BridgeError):
    """The requested address would expose the tools to every client that can reach it."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"Refused to listen on {host} without a token: every client that can reach it could call your tools. "
            f"Set a token in an environment variable and pass --auth-token-env NAME, listen on 127.0.0.1, "
            f"or accept the risk with --insecure-no-auth"
        )


def scope_for(host: str, token: str | None, *, insecure: bool) -> Scope:
    """Return the scope of the futures that clients of an address share.

    Raises:
        Refused: the address is not a loopback address, and no authentication is configured.
    """
    if token is not None:
        return TOKEN
    if is_loopback(host):
        return LOCAL
    if insecure:
        return PUBLIC
    raise Refused(host)


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        OSError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host.strip("[]"), port), family=family, backlog=512)
    # Inherited by connections. asyncio disables Nagle's algorithm only for sockets created with a protocol number,
    # which `create_server` does not pass. With the algorithm, a response in two writes, head and body, takes 40 ms
    # longer (measured): the second write waits for the client's acknowledgement of the first.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Terminated:
    """A first SIGTERM, which counts only while clients are served: before that, there is nothing to finish."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def set(self) -> bool:
        """Record it; return whether it was waited for."""
        if self._event is None:
            return False
        self._event.set()
        return True

    async def wait(self) -> None:
        self._event = anyio.Event()
        await self._event.wait()


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
    """Serve clients over HTTP until a signal is received. After the first SIGTERM, requests and running calls are
    finished within `drain_s`; any other signal ends all at once.

    Args:
        listening: called with the base URL when the socket is open.

    Raises:
        Refused: see `scope_for`.
        OSError: the address cannot be listened on.
    """
    import uvicorn

    from asyncfc_mcp.transports.http.connections import Connections, Limits
    from asyncfc_mcp.transports.http.uvicorn_protocol import HttpProtocol, HttpServer

    settings = bridge.config.settings
    scope = scope_for(host, token, insecure=insecure)
    principals = Principals(anyone=scope) if token is None else Principals({token: scope})
    # Declared once for all clients; each call passes on the capabilities of its own client.
    bridge.server_requests.set_client_capabilities(ALL_CLIENT_CAPABILITIES)
    readiness, terminated = Readiness(bridge), Terminated()
    async with stop_on_signals(terminated.set), bridge.open():
        with listening_socket(host, port) as sock:
            upstream = Upstream(bridge, pipe=False)
            app, streamable_http = http_app(
                upstream, host=host, principals=principals, readiness=readiness, streamable=streamable, sse=sse
            )
            connections = Connections(
                Limits(
                    settings.max_connections,
                    settings.max_connections_per_address,
                    settings.header_timeout_s,
                    settings.body_timeout_s,
                    public=scope is PUBLIC,
                )
            )
            config = uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                http=cast("Any", partial(HttpProtocol, connections)),
                ws="none",  # else an installed WebSocket library would let a connection escape its bounds
                backlog=connections.backlog,
                timeout_keep_alive=math.ceil(settings.idle_timeout_s),
                proxy_headers=False,  # no decision depends on the client address that a proxy reports
                timeout_graceful_shutdown=SHUTDOWN_S,
                lifespan="on",
            )
            async with anyio.create_task_group() as tg:
                await tg.start(upstream.run)
                await tg.start(connections.run)
                tg.start_soon(warn_of_unordered_tools, bridge)
                shown = f"[{host.strip('[]')}]" if sock.family == socket.AF_INET6 else host
                listening(f"http://{shown}:{sock.getsockname()[1]}")
                server = HttpServer(config)

                async def stop_when_terminated() -> None:
                    await terminated.wait()
                    readiness.stopping = True
                    if streamable_http is not None:
                        streamable_http.refuse_new()
                    nothing = anyio.lowlevel.checkpoint
                    await hand_over(bridge, streamable_http.in_flight.answered if streamable_http else nothing)
                    _stop(server, streamable_http)

                tg.start_soon(_stop_when_cancelled, server, streamable_http)
                tg.start_soon(stop_when_terminated)
                with anyio.CancelScope(shield=True):
                    await server.serve(sockets=[sock])
                tg.cancel_scope.cancel()


async def _stop_when_cancelled(server: "uvicorn.Server", streamable_http: "StreamableHttp | None") -> None:
    # uvicorn is asked to exit instead of being cancelled, which would leave requests hanging and log tracebacks. It
    # waits for open requests, so these are answered now.
    try:
        await anyio.sleep_forever()
    finally:
        _stop(server, streamable_http)


def _stop(server: "uvicorn.Server", streamable_http: "StreamableHttp | None") -> None:
    server.should_exit = True
    if streamable_http is not None:
        streamable_http.stop()
