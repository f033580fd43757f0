"""The page of a daemon: an HTTP server on loopback, from the first request for it to the daemon's end.

Owns its socket, its start and its end. No token but the page's own is accepted: other users of the machine can connect,
and whoever may use the daemon's socket gets a key there. Leaves requests to `transports.http.page`.
"""

import logging
import math
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.abc

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.core.identity import LOCAL_PRINCIPAL
from asyncfc_mcp.monitor.monitor import Monitor

if TYPE_CHECKING:
    from asyncfc_mcp.transports.http.page.page import Page
    from asyncfc_mcp.transports.http.uvicorn_protocol import HttpServer

logger = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
MOST_CONNECTIONS: Final = 256
END_S: Final = 2
"""Time limit for open requests at the end."""
OFF: Final = "its setting page is false"
ENDING: Final = "it is ending; try again"


class PageServer:
    """The page of one daemon.

    Args:
        monitor: None where the page is off.
    """

    def __init__(self, bridge: Bridge, monitor: Monitor | None) -> None:
        self._bridge, self._monitor = bridge, monitor
        self._starting = anyio.Lock()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._server: HttpServer | None = None
        self._page: Page | None = None
        self._port = 0
        self._ending = False

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve the page once it was asked for, until cancelled."""
        try:
            async with anyio.create_task_group() as tg:
                self._tasks = tg
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._tasks = None

    async def open(self) -> dict[str, Any]:
        """Return address and a new key of the page, which listens from now on at the latest; else a `problem`."""
        if self._monitor is None:
            return {"problem": OFF}
        async with self._starting:
            if self._page is None and self._tasks is not None and not self._ending:
                try:
                    await self._start(self._monitor, self._tasks)
                except OSError as exc:
                    return {"problem": f"it cannot listen on {HOST}: {exc.strerror or exc}"}
        if self._page is None or self._ending:
            return {"problem": ENDING}
        from asyncfc_mcp.transports.http.auth.authenticator import Access

        key = self._page.keys.issue(Access(LOCAL_PRINCIPAL), os.geteuid())
        return {"url": self.url, "key": key}

    @property
    def url(self) -> str | None:
        """The page's address; None as long as nobody has asked for it."""
        return f"http://{HOST}:{self._port}/" if self._port else None

    async def _start(self, monitor: Monitor, tasks: anyio.abc.TaskGroup) -> None:
        from asyncfc_mcp.transports.http.page.page import Page
        from asyncfc_mcp.transports.http.page.same_origin import SameOrigin
        from asyncfc_mcp.transports.http.routes import own_names
        from asyncfc_mcp.transports.http.traffic import Traffic

        sock = socket.create_server((HOST, 0), backlog=64)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        names = own_names(HOST, None)
        traffic = Traffic(self._bridge.settings)
        origin = SameOrigin(names.hosts, names.origins)
        self._page = Page(self._bridge, monitor, endpoint=None, origin=origin, traffic=traffic)
        self._port = sock.getsockname()[1]
        await tasks.start(self._serve, sock, self._page)

    async def _serve(
        self, sock: socket.socket, page: "Page", *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        import uvicorn

        from asyncfc_mcp.transports.http.connections import Connections, Limits
        from asyncfc_mcp.transports.http.page.answers import PageRefusal, send_refusal
        from asyncfc_mcp.transports.http.uvicorn_protocol import HttpProtocol, HttpServer

        settings = self._bridge.settings
        connections = Connections(
            Limits(
                min(MOST_CONNECTIONS, settings.max_connections),
                header_timeout_s=settings.header_timeout_s,
                body_timeout_s=settings.body_timeout_s,
            )
        )
        nothing = PageRefusal(404, "there is nothing at this path; the page is at /")
        app: Any = page.before(lambda scope, receive, send: send_refusal(send, nothing))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            http=cast("Any", partial(HttpProtocol, connections=connections, proxies=None)),
            ws="none",
            backlog=connections.backlog,
            timeout_keep_alive=math.ceil(settings.idle_timeout_s),
            proxy_headers=False,
            timeout_graceful_shutdown=END_S,
            lifespan="off",
        )
        server = HttpServer(config)

        async def stop_when_cancelled() -> None:
            # As in `http.serve`: asked to exit, it closes connections in order.
            try:
                await anyio.sleep_forever()
            finally:
                page.close()
                server.should_exit = True

        with sock:
            async with anyio.create_task_group() as tg:
                await tg.start(connections.run)
                tg.start_soon(stop_when_cancelled)
                task_status.started()
                with anyio.CancelScope(shield=True):
                    try:
                        await server.serve(sockets=[sock])
                    except Exception:  # the daemon goes on without its page, which the next request starts again
                        logger.exception("the page has failed")
                self._page, self._port = None, 0
                tg.cancel_scope.cancel()

    def refuse_new(self) -> None:
        """Give out no more keys, and end nothing: the daemon finishes its calls, which a page may show."""
        self._ending = True
        if self._page is not None:
            self._page.refuse_new()
