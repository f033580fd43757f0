"""HTTP+SSE, the transport of 2024-11-05, implemented by the SDK.

Owns its routes and the principal that the SDK holds a connection's messages to. Leaves the messages to `sdk_adapter`.
Imported only where it is served: it loads the SDK's server.
"""

from typing import TYPE_CHECKING

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.sse import SseServerTransport
from mcp.server.transport_security import TransportSecuritySettings
from starlette.routing import BaseRoute, Mount, Route

from asyncfc_mcp.core.identity import Principal
from asyncfc_mcp.jsonrpc.codec import format_message
from asyncfc_mcp.transports.http.admission import parse_body
from asyncfc_mcp.transports.http.asgi import Refusal, refuse, respond
from asyncfc_mcp.transports.http.auth.authenticator import Access
from asyncfc_mcp.transports.http.auth.entrance import ADMITTED, Entrance
from asyncfc_mcp.transports.http.options import SSE_PATH
from asyncfc_mcp.transports.http.readiness import Readiness
from asyncfc_mcp.transports.http.streamable import LAPSE_S
from asyncfc_mcp.transports.http.traffic import Traffic
from asyncfc_mcp.transports.sdk_adapter import bounded, serve_streams
from asyncfc_mcp.upstream.server import Upstream

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

MESSAGES_PATH = "/messages/"


def sse_routes(
    upstream: Upstream,
    entrance: Entrance,
    hosts: list[str] | None,
    origins: list[str] | None,
    max_body: int,
    readiness: Readiness,
    traffic: Traffic,
) -> list[BaseRoute]:
    """Return the routes for event streams and for the messages posted beside them.

    Args:
        entrance: authentication of the endpoint.
        hosts, origins: see `admission.AdmissionPolicy`.
        max_body: largest body, in bytes.
        readiness: no connection is opened while the bridge is stopping.
        traffic: bounds on the requests of each principal.
    """
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=hosts is not None, allowed_hosts=hosts or [], allowed_origins=origins or []
    )
    transport = SseServerTransport(MESSAGES_PATH, security_settings=security, max_request_body_size=max_body)

    async def post(scope: "Scope", receive: "Receive", send: "Send") -> None:
        _, principal = scope[ADMITTED]
        if entrance.restricts(principal):
            try:
                receive = await _permitted(entrance, principal, receive)
            except Refusal as exc:
                return await refuse(send, exc)
        await transport.handle_post_message(_with_user(scope), receive, send)

    within_size = bounded(post, max_body)

    async def counted(scope: "Scope", receive: "Receive", send: "Send") -> None:
        with traffic.body(scope[ADMITTED][1]) as body:
            try:
                await within_size(scope, body.counting(receive), send)
            except Refusal as exc:
                await refuse(send, exc)

    class Sse:
        async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
            refused = False
            if readiness.stopping:
                return await respond(send, 503, b"The bridge is stopping\n", (b"retry-after", b"1"))

            access, principal = scope[ADMITTED]
            try:
                entrance.require(principal, None, path=SSE_PATH)
            except Refusal as exc:
                return await refuse(send, exc)

            async def watch(message: "Message") -> None:
                nonlocal refused
                refused = refused or message.get("status", 200) >= 400
                await send(message)

            try:
                async with transport.connect_sse(_with_user(scope), receive, watch) as (reader, writer):
                    async with anyio.create_task_group() as tg:
                        if entrance.authenticator.lapses:
                            tg.start_soon(_end_with, entrance, access, tg.cancel_scope)
                        await serve_streams(upstream, principal, reader, writer)
                        tg.cancel_scope.cancel()
            except ValueError:
                # The SDK responds to a foreign Host or Origin, and raises as well.
                if not refused:
                    raise

    return [Route(SSE_PATH, Sse(), methods=["GET"]), Mount(MESSAGES_PATH, app=counted)]


async def _permitted(entrance: Entrance, principal: Principal, receive: "Receive") -> "Receive":
    """Read a posted message, and return what gives it again.

    Raises:
        Refusal: the principal's token lacks a scope, or the message is malformed.
    """
    part = await receive()
    if part["type"] != "http.request" or part.get("more_body", False):  # broken off, or too large: the SDK's matter
        return _replayed(part, receive)
    message = await parse_body(part["body"])
    method = message.get("method")
    entrance.require(principal, method, message.get("id") if method else None, SSE_PATH)
    # Written anew, so that the SDK's parser reads the method that was checked.
    return _replayed({**part, "body": format_message(message)}, receive)


def _replayed(part: "Message", receive: "Receive") -> "Receive":
    parts = [part]

    async def replay() -> "Message":
        return parts.pop() if parts else await receive()

    return replay


async def _end_with(entrance: Entrance, access: Access, connection: anyio.CancelScope) -> None:
    """Cancel a connection once the access with which it was opened has ended."""
    while not entrance.is_over(access):  # noqa: ASYNC110 - it ends by the time of day, or by a change of a file
        await anyio.sleep(LAPSE_S)
    connection.cancel()


def _with_user(scope: "Scope") -> "Scope":
    """Add the principal in the SDK's form: it accepts messages only from the principal that opened the connection."""
    _, principal = scope[ADMITTED]
    token = AccessToken(token="", client_id=principal.scope.key, scopes=[])
    return {**scope, "user": AuthenticatedUser(token)}
