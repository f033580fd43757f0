"""The bridge over HTTP: Streamable HTTP and HTTP+SSE around one `Upstream`.

Owns the socket, and the server's start and end. Leaves the options to `options`, requests to `routes`, and the bounds
of connections to `connections`.
"""

import errno
import logging
import math
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.lowlevel

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.bridge.server_requests import ALL_CLIENT_CAPABILITIES
from asyncfc_mcp.config.caller_headers import AUTHORIZATION, passes_on_authorization
from asyncfc_mcp.core.identity import PUBLIC
from asyncfc_mcp.monitor.monitor import Monitor
from asyncfc_mcp.suspension import detect_dead_peer
from asyncfc_mcp.transports.http.auth.configured import anyone_at, authenticator_of, protected_resource
from asyncfc_mcp.transports.http.metrics import Exposition
from asyncfc_mcp.transports.http.options import HttpOptions, UnusableOptions, is_loopback, is_unspecified
from asyncfc_mcp.transports.http.page.page import Page
from asyncfc_mcp.transports.http.page.same_origin import SameOrigin
from asyncfc_mcp.transports.http.readiness import Readiness
from asyncfc_mcp.transports.http.routes import http_app, own_names
from asyncfc_mcp.transports.http.traffic import Traffic
from asyncfc_mcp.transports.lifecycle import (
    hand_over,
    reload_on_hang_up,
    stop_on_signals,
    warn_of_unordered_tools,
    warn_of_useless_access,
)
from asyncfc_mcp.transports.systemd import Service
from asyncfc_mcp.upstream.request_tracing import RequestTracer
from asyncfc_mcp.upstream.server import Upstream

if TYPE_CHECKING:
    import uvicorn

    from asyncfc_mcp.transports.http.auth.token_file import TokenFile
    from asyncfc_mcp.transports.http.streamable import StreamableHttp
    from asyncfc_mcp.transports.http.uvicorn_protocol import HttpProtocol

logger = logging.getLogger(__name__)

SHUTDOWN_S: Final = 2
"""Time limit for open HTTP requests after a signal to stop."""
STOP_S: Final = 30
"""Time that servers may take to end after clients were served, as systemd is told."""


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        OSError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host.strip("[]"), port), family=family, backlog=512)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise OSError(exc.errno, f"port {port} of {host} is in use") from None
        raise
    _set_options(sock)
    return sock


def _set_options(sock: socket.socket) -> None:
    # Inherited by connections. asyncio disables Nagle's algorithm only for sockets created with a protocol number,
    # which `create_server` does not pass. With the algorithm, a response in two writes, head and body, takes 40 ms
    # longer (measured): the second write waits for the client's acknowledgement of the first.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    detect_dead_peer(sock)  # clients on machines that fell asleep, behind event streams


def passed_sockets(service: Service, options: HttpOptions) -> tuple[list[socket.socket], HttpOptions]:
    """Return the listening sockets that systemd has passed, and the options with their address in place of `--host` and
    `--port`: that of them which the most clients can reach. No sockets, and the options as they are, if there are none.

    Raises:
        UnusableSocket: one cannot be served.
    """
    sockets = service.take_sockets()
    if not sockets:
        return [], options
    for sock in sockets:
        _set_options(sock)
    addresses = [sock.getsockname()[:2] for sock in sockets]
    host, port = min(addresses, key=lambda each: (is_loopback(each[0]), not is_unspecified(each[0])))
    return sockets, replace(options, host=host, port=port)


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
    options: HttpOptions,
    *,
    token: str | None,
    listening: Callable[[str], None],
    service: Service | None = None,
    tracer: RequestTracer | None = None,
    exposition: Exposition | None = None,
) -> None:
    """Serve clients over HTTP until a signal is received. After the first SIGTERM, requests and running calls are
    finished within `drain_s`; any other signal ends all at once.

    Args:
        token: the token of all clients, if there is one.
        listening: called with the base URL when the socket is open.
        service: is notified of the state, and may have sockets, which are then served in place of the address of the
            options.
        tracer: traces requests; None: nothing does.
        exposition: returns the metrics for Prometheus; None: they are not served.

    Raises:
        BridgeError: an option cannot be used; nothing is started then.
        OSError: the address cannot be listened on.
    """
    import uvicorn

    from asyncfc_mcp.transports.http.connections import Connections, Limits
    from asyncfc_mcp.transports.http.forwarded import TrustedProxies
    from asyncfc_mcp.transports.http.uvicorn_protocol import HttpServer

    settings = bridge.config.settings
    service = service or Service()
    sockets, options = passed_sockets(service, options)
    options.check()
    _check_passed_on(bridge, options)
    persons = None if options.tokens is None else _token_file(options.tokens)
    warn_of_useless_access(settings, () if persons is None else persons.names, tokens=options.issuer is not None)
    public = not options.authenticated and anyone_at(options) is PUBLIC
    scopes = frozenset(scope for each in settings.required_scopes.values() for scope in each)
    proxies = TrustedProxies(options.proxies) if options.proxies else None
    protocol, renewing = _protocol(options)
    # Declared once for all clients; each call passes on the capabilities of its own client.
    bridge.server_requests.set_client_capabilities(ALL_CLIENT_CAPABILITIES)
    readiness, terminated = Readiness(bridge), Terminated()
    async with stop_on_signals(terminated.set, reload_on_hang_up(bridge)), bridge.open():
        with ExitStack() as stack:
            for sock in sockets:
                stack.enter_context(sock)
            if not sockets:
                sockets.append(stack.enter_context(listening_socket(options.host, options.port)))
            upstream = Upstream(bridge, tracer)
            port = options.port or sockets[0].getsockname()[1]
            resource = protected_resource(options, port, scopes)
            principals = authenticator_of(options, token, persons, resource)
            traffic = Traffic(settings)
            monitor = Monitor(bridge, transport="http") if settings.page else None
            page: Page | None = None
            if monitor is not None:
                names = own_names(options.host, options.public_url)
                origin = SameOrigin(names.hosts, names.origins, options.public_url)
                page = Page(bridge, monitor, endpoint=principals, origin=origin, traffic=traffic, resource=resource)
            app, streamable_http = http_app(
                upstream,
                host=options.host,
                principals=principals,
                readiness=readiness,
                streamable=options.streamable,
                sse=options.sse,
                public_url=options.public_url,
                resource=resource,
                exposition=exposition,
                page=page,
                traffic=traffic,
            )
            connections = Connections(
                Limits(
                    settings.max_connections,
                    settings.max_connections_per_address,
                    settings.header_timeout_s,
                    settings.body_timeout_s,
                    public=public,
                )
            )
            config = uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                http=cast("Any", partial(protocol, connections=connections, proxies=proxies)),
                ws="none",  # else an installed WebSocket library would let a connection escape its bounds
                backlog=connections.backlog,
                timeout_keep_alive=math.ceil(settings.idle_timeout_s),
                proxy_headers=False,  # see `forwarded`
                timeout_graceful_shutdown=SHUTDOWN_S,
                lifespan="on",
            )
            async with anyio.create_task_group() as tg:
                await tg.start(upstream.run)
                if monitor is not None:
                    await tg.start(monitor.run)
                await tg.start(connections.run)
                await tg.start(principals.run)
                tg.start_soon(warn_of_unordered_tools, bridge)
                if renewing is not None:
                    tg.start_soon(renewing)
                listening(options.base(port))
                service.ready()
                if bridge.config_file is not None:
                    bridge.config_file.while_reloading = service.reloading
                tg.start_soon(service.run, partial(_status, bridge, options.base(port)))
                server = HttpServer(config)

                async def stop_when_terminated() -> None:
                    await terminated.wait()
                    readiness.stopping = True
                    service.stopping(bridge.settings.drain_s + STOP_S)
                    if streamable_http is not None:
                        streamable_http.refuse_new()
                    if page is not None:
                        page.refuse_new()
                    nothing = anyio.lowlevel.checkpoint
                    await hand_over(bridge, streamable_http.in_flight.answered if streamable_http else nothing)
                    _stop(server, streamable_http, page)

                tg.start_soon(_stop_when_cancelled, server, streamable_http, page)
                tg.start_soon(stop_when_terminated)
                with anyio.CancelScope(shield=True):
                    await server.serve(sockets=sockets)
                service.stopping(STOP_S)
                tg.cancel_scope.cancel()


def _status(bridge: Bridge, base: str) -> str:
    """Return the line that systemd shows."""
    names: dict[str, list[str]] = {}
    for name, downstream in bridge.downstreams.items():
        names.setdefault(downstream.status.value, []).append(name)
    total = len(bridge.downstreams)
    up = len(names.pop("ready", ()))
    others = "".join(f"; {status}: {', '.join(each)}" for status, each in names.items())
    return f"listening on {base}, {up} of {total} servers are up{others}"


def _check_passed_on(bridge: Bridge, options: HttpOptions) -> None:
    """Refuse to pass the bridge's own tokens on to a server.

    Raises:
        UnusableOptions: a server gets the `Authorization` header of callers, which has such a token.
    """
    server = passes_on_authorization(bridge.config.servers)
    if server is None or not options.authenticated:
        return
    if options.token_env is not None or options.tokens is not None:
        option = "--auth-token-env" if options.token_env is not None else "--auth-tokens"
        raise UnusableOptions(
            f"{option} with ${{caller:authorization}} would send the bridge's own tokens to server {server!r}; give "
            f"it another header of the caller, such as ${{caller:x-{AUTHORIZATION}}}"
        )
    logger.warning(
        "the tokens that --auth-jwt accepts for the bridge are sent to server %r too (${caller:authorization}), which "
        "can use them as its callers; give it another header unless it is meant to",
        server,
    )


def _token_file(path: Path) -> "TokenFile":
    from asyncfc_mcp.transports.http.auth.token_file import TokenFile

    return TokenFile(path)


def _protocol(
    options: HttpOptions,
) -> "tuple[Callable[..., HttpProtocol], Callable[[], Coroutine[Any, Any, None]] | None]":
    """Return what makes the protocol of a connection, and what renews its certificate. TLS is loaded only where it is
    served."""
    if options.certificate is None or options.key is None:
        from asyncfc_mcp.transports.http.uvicorn_protocol import HttpProtocol

        return HttpProtocol, None
    from asyncfc_mcp.transports.http.tls import TlsHttpProtocol, renew, server_context

    context = server_context(options.certificate, options.key)
    return partial(TlsHttpProtocol, context), partial(renew, context, options.certificate, options.key)


async def _stop_when_cancelled(
    server: "uvicorn.Server", streamable_http: "StreamableHttp | None", page: Page | None
) -> None:
    # uvicorn is asked to exit instead of being cancelled, which would leave requests hanging and log tracebacks. It
    # waits for open requests, so these are answered now.
    try:
        await anyio.sleep_forever()
    finally:
        _stop(server, streamable_http, page)


def _stop(server: "uvicorn.Server", streamable_http: "StreamableHttp | None", page: Page | None) -> None:
    server.should_exit = True
    if page is not None:
        page.close()
    if streamable_http is not None:
        streamable_http.stop()
