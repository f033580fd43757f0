"""The choice of the protocol version of one connection: `server/discover`, or the `initialize` handshake.

Owns the order of the two, their timing, and reading the server's answers. Opening the connection, and the memory of
what a server spoke before, are left to the supervisor.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import anyio

from asyncfc_mcp.downstream.connection import CLIENT_INFO, Connection
from asyncfc_mcp.downstream.snapshot import ServerSnapshot
from asyncfc_mcp.errors import (
    ConnectionEnded,
    HttpRefused,
    RpcError,
    ServerDied,
    ServerUnavailable,
    TransportFailure,
)
from asyncfc_mcp.protocol import (
    LATEST_HANDSHAKE_VERSION,
    MODERN_VERSIONS,
    SERVER_HANDSHAKE_VERSIONS,
    SERVER_INFO_META_KEY,
    CallOptions,
)
from asyncfc_mcp.values.text import without_surrogates

PROBE_S: Final = 2.0
"""Time for the response to `server/discover` before `initialize` is sent in parallel: a server may ignore the unknown
method, or may only be slow to start."""


async def negotiate(connection: Connection, *, handshake_first: bool) -> ServerSnapshot:
    """Choose the protocol version of a connection.

    Args:
        handshake_first: send `initialize` first, to a server that is known to use the handshake.

    Returns:
        The server's description of itself, without listings.

    Raises:
        RpcError: the server refused both.
        ServerDied: the connection ended.
        ServerUnavailable: the server speaks no known protocol version.
    """
    connection.probe_unanswered = False
    snapshot = await (_handshake_first(connection) if handshake_first else _probe_first(connection))
    connection.probe_unanswered = False
    return snapshot


async def _handshake_first(connection: Connection) -> ServerSnapshot:
    try:
        return await _initialize(connection)
    except RpcError as exc:
        # A server without the handshake may refuse it with any error code, as any other unknown method.
        if isinstance(exc, TransportFailure) and not isinstance(exc, HttpRefused):
            raise
        discovered = None
        with anyio.move_on_after(PROBE_S):
            discovered = await _discover(connection)  # that it wants credentials says more than this refusal
        if discovered is None:
            raise
        return _adopt(connection, discovered)


async def _probe_first(connection: Connection) -> ServerSnapshot:
    """Send `server/discover`; without a useful response within `PROBE_S`, shake hands while it is pending."""
    snapshot: ServerSnapshot | None = None
    discovered: dict[str, Any] | None = None
    refused: HttpRefused | None = None
    answered = anyio.Event()

    async def discover() -> None:
        nonlocal discovered, refused
        try:
            discovered = await _discover(connection)
        except HttpRefused as exc:
            refused = exc  # some servers want credentials for all but the handshake
        answered.set()

    async with anyio.create_task_group() as tg:
        tg.start_soon(discover)
        with anyio.move_on_after(PROBE_S):
            await answered.wait()
        try:
            snapshot = await _initialize(connection) if discovered is None else _adopt(connection, discovered)
        except RpcError as exc:
            # The server may be slow and have no handshake.
            with anyio.move_on_after(PROBE_S):
                await answered.wait()
            if discovered is None:
                # A server without the handshake refuses that in its own way, whatever it wants.
                raise refused or exc from None
            snapshot = _adopt(connection, discovered)
        tg.cancel_scope.cancel()
    assert snapshot is not None
    return snapshot


async def _discover(connection: Connection) -> dict[str, Any] | None:
    """Return the result of `server/discover`; None if the server supports no common version of the stateless protocol.

    Raises:
        HttpRefused: the server wants credentials, or other ones.
        ServerDied: the connection ended.
    """
    version = MODERN_VERSIONS[-1]
    params = {"_meta": connection.envelope(connection.capabilities(), version)}
    # Over HTTP, a cancellation only closes the request's own connection; over pipes it would be a notification of a
    # protocol version that the server may not speak.
    options: CallOptions = {"cancel_on_abandon": connection.transport is not None, "answers_without_id": True}
    connection.probe_unanswered = True
    try:
        result = await connection.peer.send_raw_request("server/discover", params, options)
    except RpcError as exc:
        if isinstance(exc, ConnectionEnded):
            raise ServerDied(connection.server, await connection.describe_end(exc)) from None
        if isinstance(exc, HttpRefused) and exc.status in (401, 403):
            raise
        return None
    return result if _common_versions(result) else None


def _adopt(connection: Connection, discovered: dict[str, Any]) -> ServerSnapshot:
    """Use the stateless protocol on a connection."""
    connection.version = _common_versions(discovered)[-1]
    meta = discovered.get("_meta")
    info = cast("dict[str, Any]", meta).get(SERVER_INFO_META_KEY) if isinstance(meta, dict) else None
    return _snapshot_of(discovered, info, connection.version)


async def _initialize(connection: Connection) -> ServerSnapshot:
    """Shake hands.

    Raises:
        RpcError: the server refused.
        ServerDied: the connection ended.
        ServerUnavailable: the server speaks no known protocol version.
    """
    params = {
        "protocolVersion": LATEST_HANDSHAKE_VERSION,
        "capabilities": dict(connection.capabilities()),
        "clientInfo": CLIENT_INFO,
    }
    options: CallOptions = {"cancel_on_abandon": False, "answers_without_id": True}
    try:
        result = await connection.peer.send_raw_request("initialize", params, options)
    except RpcError as exc:
        if isinstance(exc, ConnectionEnded):
            raise ServerDied(connection.server, await connection.describe_end(exc)) from None
        raise
    version = result.get("protocolVersion")
    if version not in SERVER_HANDSHAKE_VERSIONS:
        reason = f"it speaks protocol version {version!r:.80}, which this bridge does not support"
        raise ServerUnavailable(connection.server, reason)
    connection.version = version
    snapshot = _snapshot_of(result, result.get("serverInfo"), version)
    await connection.peer.notify("notifications/initialized", None)
    return snapshot


def _common_versions(discovered: Mapping[str, Any]) -> list[str]:
    """Return the versions of the stateless protocol that both sides support, oldest first."""
    supported = discovered.get("supportedVersions")
    return [version for version in MODERN_VERSIONS if isinstance(supported, list) and version in supported]


def _snapshot_of(result: Mapping[str, Any], info: object, version: str) -> ServerSnapshot:
    capabilities, instructions = result.get("capabilities"), result.get("instructions")
    return ServerSnapshot(
        capabilities=cast("dict[str, Any]", capabilities) if isinstance(capabilities, dict) else {},
        info=cast("dict[str, Any]", info) if isinstance(info, dict) else {},
        instructions=without_surrogates(instructions) if isinstance(instructions, str) else None,
        protocol_version=version,
    )
