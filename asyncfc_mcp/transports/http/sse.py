"""HTTP+SSE, the transport of 2024-11-05, implemented by the SDK.

Owns its routes and the principal that the SDK holds a connection's messages to. Leaves the messages to `sdk_adapter`.
Imported only where it is served: it loads the SDK's server.
"""

from typing import TYPE_CHECKING

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.sse import SseServerTransport
from mcp.server.transport_security import TransportSecuritySettings
from starlette.routing import BaseRoute, Mount, Route

from asyncfc_mcp.transports.http.asgi import respond
from asyncfc_mcp.transports.http.auth.entrance import ADMITTED
from asyncfc_mcp.transports.http.readiness import Readiness
from asyncfc_mcp.transports.sdk_adapter import bounded, serve_streams
from asyncfc_mcp.upstream.server import Upstream

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

SSE_PATH = "/sse"
MESSAGES_PATH = "/messages/"


def sse_routes(
    upstream: Upstream, hosts: list[str] | None, origins: list[str] | None, max_body: int, readiness: Readiness
) -> list[BaseRoute]:
    """Return the routes for event streams and for the messages posted beside them.

    Args:
        hosts, origins: see `admission.AdmissionPolicy`.
        max_body: largest body, in bytes.
        readiness: no connection is opened while the bridge is stopping.
    """
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=hosts is not None, allowed_hosts=hosts or [], allowed_origins=origins or []
    )
    transport = SseServerTransport(MESSAGES_PATH, security_settings=security, max_request_body_size=max_body)

    async def post(scope: "Scope", receive: "Receive", send: "Send") -> None:
        await transport.handle_post_message(_with_user(scope), receive, send)

    class Sse:
        async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
            refused = False
            if readiness.stopping:
                return await respond(send, 503, b"The bridge is stopping\n", (b"retry-after", b"1"))

            async def watch(message: "Message") -> None:
                nonlocal refused
                refused = refused or message.get("status", 200) >= 400
                await send(message)

            try:
                async with transport.connect_sse(_with_user(scope), receive, watch) as (reader, writer):
                    _, principal = scope[ADMITTED]
                    await serve_streams(upstream, principal, reader, writer)
            except ValueError:
                # The SDK responds to a foreign Host or Origin, and raises as well.
                if not refused:
                    raise

    return [Route(SSE_PATH, Sse(), methods=["GET"]), Mount(MESSAGES_PATH, app=bounded(post, max_body))]


def _with_user(scope: "Scope") -> "Scope":
    """Add the principal in the SDK's form: it accepts messages only from the principal that opened the connection."""
    _, principal = scope[ADMITTED]
    token = AccessToken(token="", client_id=principal.scope.key, scopes=[])
    return {**scope, "user": AuthenticatedUser(token)}
