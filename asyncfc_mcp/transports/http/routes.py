"""Routes over HTTP: `/mcp`, `/sse`, `/healthz`, `/readyz` and the page as one ASGI application.

Owns the paths, and which hosts and origins may use them. Leaves requests to `streamable`, `sse` and `page`,
authentication to `auth`, and the socket to `serve`.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from asyncfc_mcp.config.caller_headers import all_caller_names
from asyncfc_mcp.config.changes import ConfigChanges
from asyncfc_mcp.transports.http.auth.authenticator import Authenticator
from asyncfc_mcp.transports.http.auth.entrance import HEALTH_PATH, READY_PATH, AuthMiddleware, Entrance
from asyncfc_mcp.transports.http.auth.resource import ProtectedResource
from asyncfc_mcp.transports.http.metrics import Exposition, metrics_route
from asyncfc_mcp.transports.http.options import MCP_PATH, is_loopback
from asyncfc_mcp.transports.http.readiness import Readiness
from asyncfc_mcp.transports.http.traffic import Traffic
from asyncfc_mcp.upstream.server import Upstream

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from asyncfc_mcp.transports.http.page.page import Page
    from asyncfc_mcp.transports.http.streamable import StreamableHttp


class OwnNames(NamedTuple):
    """Allowed values of `Host` and `Origin`; None allows all."""

    hosts: list[str] | None
    origins: list[str] | None


def own_names(host: str, public_url: str | None) -> OwnNames:
    """Return the names of an endpoint that listens on `host`. On loopback they prevent DNS rebinding: a page in the
    user's browser, whose own host name resolves to a loopback address.

    Args:
        public_url: the URL by which clients address the bridge through a proxy.
    """
    if not is_loopback(host):
        return OwnNames(None, None)
    names = ["127.0.0.1", "localhost", "[::1]", *({host} - {"127.0.0.1", "localhost", "::1"})]
    hosts = [*names, *(f"{name}:*" for name in names)]
    origins = [f"{scheme}://{name}:*" for scheme in ("http", "https") for name in names]
    if public_url is not None:
        public = urlsplit(public_url)
        hosts += [public.netloc, f"{public.hostname}:*"]
        origins.append(f"{public.scheme}://{public.netloc}")
    return OwnNames(hosts, origins)


def _metadata(document: Callable[[], dict[str, Any]]) -> "Callable[[Request], Awaitable[Response]]":
    """Return the endpoint of a metadata document. Clients in browsers read it from any page, since it holds nothing but
    what everybody may know."""
    from starlette.responses import JSONResponse

    cors = {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "GET",
        "access-control-allow-headers": "*",
        "cache-control": "max-age=300",
    }

    async def metadata(request: "Request") -> "Response":
        return JSONResponse(document(), headers=cors)

    return metadata


def http_app(
    upstream: Upstream,
    *,
    host: str,
    principals: Authenticator,
    streamable: bool,
    sse: bool,
    readiness: Readiness | None = None,
    public_url: str | None = None,
    resource: ProtectedResource | None = None,
    page: "Page | None" = None,
    traffic: Traffic | None = None,
    exposition: Exposition | None = None,
) -> "tuple[ASGIApp, StreamableHttp | None]":
    """Return the ASGI application for `/mcp`, `/sse` or both, `/healthz`, `/readyz` and the page; and the part of it
    for `/mcp`.

    Args:
        public_url: the URL by which clients address the bridge through a proxy.
        resource: the metadata with which clients sign in; None where they cannot.
        page: the page; None for an endpoint without one.
        traffic: bounds on the requests of each principal, if others count for them as well.
        exposition: returns the metrics; None: there is no `/metrics`.
    """
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import BaseRoute, Route

    from asyncfc_mcp.transports.http.admission import MAX_BODY_BYTES, AdmissionPolicy, HeaderAllowlist
    from asyncfc_mcp.transports.http.streamable import StreamableHttp

    readiness = readiness or Readiness(upstream.bridge)
    hosts, origins = own_names(host, public_url)

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        problem = await readiness.problem()
        if problem is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "problem": problem}, status_code=503)

    bridge = upstream.bridge
    entrance = Entrance(principals, resource=resource)

    def configure(changed: ConfigChanges | None = None) -> None:
        required = bridge.settings.required_scopes
        entrance.configure(all_caller_names(bridge.config.servers), required)
        if changed is not None and resource is not None:
            resource.configure({scope for scopes in required.values() for scope in scopes})

    configure()
    bridge.observe_reload(configure)
    traffic = traffic or Traffic(upstream.bridge.settings)
    routes: list[BaseRoute] = [Route(HEALTH_PATH, healthz), Route(READY_PATH, readyz)]
    if resource is not None:
        routes += [
            Route(path, _metadata(partial(resource.metadata, of)), methods=["GET", "OPTIONS"])
            for path, of in resource.metadata_paths().items()
        ]
    if exposition is not None:
        routes.append(metrics_route(exposition, bridge, hosts))
    if sse:
        from asyncfc_mcp.transports.http.sse import sse_routes

        routes += sse_routes(upstream, entrance, hosts, origins, MAX_BODY_BYTES, readiness, traffic)
    app: ASGIApp = AuthMiddleware(Starlette(routes=routes), entrance, traffic)
    if page is not None:
        app = page.before(app)
    if not streamable:
        return app, None
    admission = AdmissionPolicy(
        entrance=entrance,
        traffic=traffic,
        hosts=None if hosts is None else HeaderAllowlist(hosts),
        origins=None if origins is None else HeaderAllowlist(origins),
        max_body=MAX_BODY_BYTES,
    )
    streamable_http = StreamableHttp(app, upstream, MCP_PATH, admission)
    return streamable_http, streamable_http
