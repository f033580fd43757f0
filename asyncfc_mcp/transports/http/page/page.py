"""The page over HTTP: its files at `/` and `/page/`, its data at `/page/api/`.

Owns the order of the conditions that a request must meet: its path, its origin, its principal, the principal's rate and
scopes. Leaves each of them to a module of its own, and all other paths to the application behind it.
"""

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from asyncfc_mcp.monitor.monitor import Monitor
from asyncfc_mcp.transports.http.asgi import Headers, Refusal
from asyncfc_mcp.transports.http.auth.authenticator import Authenticator
from asyncfc_mcp.transports.http.auth.entrance import Entrance
from asyncfc_mcp.transports.http.auth.resource import ProtectedResource
from asyncfc_mcp.transports.http.page.answers import PageRefusal, send_refusal
from asyncfc_mcp.transports.http.page.api import Api
from asyncfc_mcp.transports.http.page.event_streams import STOPPING, EventStreams
from asyncfc_mcp.transports.http.page.keys import Keys
from asyncfc_mcp.transports.http.page.page_tokens import PageTokens
from asyncfc_mcp.transports.http.page.requests import API, PageRequest
from asyncfc_mcp.transports.http.page.same_origin import SameOrigin
from asyncfc_mcp.transports.http.page.static_files import INDEX, StaticFiles, send_file
from asyncfc_mcp.transports.http.traffic import Traffic

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from asyncfc_mcp.bridge.bridge import Bridge

logger = logging.getLogger(__name__)

FILES: Final = "/page/"
ALIKE: Final = "tools/call"
"""The method whose scopes the page's data need: a client reads and cancels the same calls with meta-tools."""


class Page:
    """The page of one endpoint.

    Args:
        endpoint: authenticates as the endpoint does; None where the page has only tokens of its own.
        traffic: bounds on the requests of each principal.
        resource: the endpoint as clients see it, if they can sign in.
    """

    def __init__(
        self,
        bridge: "Bridge",
        monitor: Monitor,
        *,
        endpoint: Authenticator | None,
        origin: SameOrigin,
        traffic: Traffic,
        resource: ProtectedResource | None = None,
    ) -> None:
        self._bridge, self._origin, self._traffic = bridge, origin, traffic
        self.keys = Keys()
        tokens = PageTokens(endpoint)
        self._entrance = Entrance(tokens, resource=resource)
        self._configure()
        bridge.observe_reload(lambda _: self._configure())
        self.streams = EventStreams(self._entrance.is_over)
        self._api = Api(monitor, self.keys, tokens, self.streams, self._entrance.is_over)
        self._files = StaticFiles()
        self._refuses = False

    def _configure(self) -> None:
        self._entrance.configure((), self._bridge.settings.required_scopes)

    def before(self, app: "ASGIApp") -> "ASGIApp":
        """Return an application with the page at its paths, and `app` at all others."""

        async def paged(scope: "Scope", receive: "Receive", send: "Send") -> None:
            if scope["type"] != "http" or not _is_of_page(scope):
                return await app(scope, receive, send)
            await self._serve(scope, receive, send)

        return paged

    def refuse_new(self) -> None:
        """Admit no further requests: another process may take them. Streams that are open go on."""
        self._refuses = True
        self.streams.refuse_new()

    def close(self) -> None:
        """End all streams."""
        self.refuse_new()
        self.streams.close()

    async def _serve(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        begun = False

        async def watched(message: "Message") -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            if scope["path"].startswith(API):
                await self._serve_api(PageRequest.of(scope, receive, watched))
            else:
                await self._serve_file(scope, watched)
        except Refusal as exc:
            await send_refusal(send, exc)
        except Exception:
            logger.exception("a request of the page has failed")
            if begun:
                raise  # the connection is closed, so that the response is not taken for a whole one
            await send_refusal(send, PageRefusal(500, "the bridge has failed to answer; its log says why"))

    async def _serve_file(self, scope: "Scope", send: "Send") -> None:
        headers = Headers(scope["headers"])
        self._origin.check_host(headers)
        name = INDEX if scope["path"] == "/" else scope["path"].removeprefix(FILES)
        file = self._files.get(name)
        if file is None:
            raise PageRefusal(404, "there is nothing at this path")
        if scope["method"] not in ("GET", "HEAD"):
            raise PageRefusal(405, "this path has the methods GET and HEAD", (b"allow", b"GET, HEAD"))
        await send_file(send, file, headers, head=scope["method"] == "HEAD")

    async def _serve_api(self, request: PageRequest) -> None:
        self._origin.check(request.headers)
        if request.operation == "enter":
            return await self._api.enter(request)
        if self._refuses:
            raise PageRefusal(503, STOPPING, (b"retry-after", b"1"))
        access, principal = await self._entrance.enter(request.headers, request.scope["path"])
        with self._traffic.request(principal):
            self._entrance.require(principal, ALIKE, path=request.scope["path"])
            await self._api.serve(request, access)


def _is_of_page(scope: "Scope") -> bool:
    path = scope["path"]
    if path.startswith(FILES):
        return True
    # A program that asks for `/` is told what it always was.
    return path == "/" and scope["method"] in ("GET", "HEAD") and _is_browser(scope["headers"])


def _is_browser(headers: Collection[tuple[bytes, bytes]]) -> bool:
    return any(name == b"accept" and b"text/html" in value for name, value in headers)
