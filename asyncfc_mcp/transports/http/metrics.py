"""`/metrics`: the metrics of this process in the text format of Prometheus.

Owns the response, and that it is for principals who may use every server: it names servers and tools. Leaves what is
measured to `telemetry`, and tokens to `auth`.
"""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

import anyio

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.transports.http.admission import HeaderAllowlist
from asyncfc_mcp.transports.http.auth.entrance import ADMITTED

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

METRICS_PATH: Final = "/metrics"
Exposition = Callable[[], tuple[bytes, str]]
"""Returns all metrics as text, and its media type. May take a few milliseconds; called in a thread."""


def metrics_route(exposition: Exposition, bridge: Bridge, hosts: Collection[str] | None) -> "BaseRoute":
    """Return the route of the metrics.

    Args:
        hosts: allowed values of `Host`; None allows all. Otherwise a page in the user's browser could read them by DNS
            rebinding, where no token is needed.
    """
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    allowed = None if hosts is None else HeaderAllowlist(hosts)

    async def metrics(request: Request) -> Response:
        if allowed is not None and request.headers.get("host", "") not in allowed:
            return Response("Invalid Host header", 421)
        _, principal = request.scope[ADMITTED]
        if bridge.views.of(principal).restricted:
            return Response("metrics are for those who may use every server (setting access)", 403)
        text, media_type = await anyio.to_thread.run_sync(exposition)
        return Response(text, headers={"content-type": media_type, "cache-control": "no-store"})

    return Route(METRICS_PATH, metrics, methods=["GET"])
