"""The envelope of a 2026-07-28 request: protocol version, client name and capabilities in `params._meta`.

Owns reading and validating it, and the bounds on what a client may declare, which hold for handshakes, too. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MODERN_VERSIONS,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
)
from asyncfc_mcp.upstream.request import Params
from asyncfc_mcp.values.sizes import held_size

ENVELOPE: Final = (PROTOCOL_VERSION_META_KEY, CLIENT_CAPABILITIES_META_KEY)
"""Keys that every request of 2026-07-28 must have in its `_meta`."""
CLIENT_CAPABILITIES: Final = ("elicitation", "experimental", "extensions", "roots", "sampling", "tasks")
"""Capabilities that a client may declare, each an object."""
NAME_LENGTH: Final = 200
"""Characters of a client's name that are kept: it is stored for as long as the client may return."""
CAPABILITIES_BYTES: Final = 64 << 10
"""Bound on the memory of a client's capabilities: they are stored for each session."""


def has_envelope(params: object) -> bool:
    """Return whether a request carries its own envelope (2026-07-28), in place of a connection's handshake."""
    meta = cast("dict[str, Any]", params).get("_meta") if isinstance(params, dict) else None
    return isinstance(meta, dict) and PROTOCOL_VERSION_META_KEY in meta


def envelope_of(params: Params) -> Mapping[str, Any]:
    """Return the `_meta` of a 2026-07-28 request, whose values are not validated.

    Raises:
        RpcError: a key that it must have is missing.
    """
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        raise RpcError(
            INVALID_PARAMS, f"params._meta must be an object with the keys {' and '.join(ENVELOPE)} (2026-07-28)"
        )
    meta = cast("dict[str, Any]", meta)
    if missing := [key for key in ENVELOPE if key not in meta]:
        raise RpcError(INVALID_PARAMS, f"params._meta lacks {' and '.join(missing)}")
    return meta


def read_envelope(params: Params) -> tuple[str, str | None, Mapping[str, Any]]:
    """Return the protocol version, the client's name if it has one, and its capabilities, of a 2026-07-28 request.

    Raises:
        RpcError: a value is missing or malformed, or the version is not supported.
    """
    meta = envelope_of(params)
    version, capabilities = (meta[key] for key in ENVELOPE)
    info = meta.get(CLIENT_INFO_META_KEY)
    if not isinstance(version, str):
        raise RpcError(INVALID_PARAMS, f"params._meta: {PROTOCOL_VERSION_META_KEY} must be a string")
    if version not in MODERN_VERSIONS:
        raise unsupported(version)
    if not are_capabilities(capabilities):
        raise RpcError(
            INVALID_PARAMS,
            f"params._meta: {CLIENT_CAPABILITIES_META_KEY} must be an object; found {capabilities!r:.80}",
        )
    name = client_name(info)
    if name is None and info is not None:
        raise RpcError(
            INVALID_PARAMS, f"params._meta: {CLIENT_INFO_META_KEY} must be an object with a name; found {info!r:.80}"
        )
    return version, name, bounded(cast("dict[str, Any]", capabilities))


class EnvelopeReader:
    """Reads envelopes. One that equals the previous one, as all of a client do, is compared and not read again."""

    def __init__(self) -> None:
        self._last: tuple[Any, ...] = ()
        self._read: tuple[str, str | None, Mapping[str, Any]] = ("", None, {})

    def read(self, params: Params) -> tuple[str, str | None, Mapping[str, Any]]:
        """See `read_envelope`."""
        meta: Any = params.get("_meta")
        if meta.__class__ is not dict:
            return read_envelope(params)
        envelope = (
            meta.get(PROTOCOL_VERSION_META_KEY),
            meta.get(CLIENT_CAPABILITIES_META_KEY),
            meta.get(CLIENT_INFO_META_KEY),
        )
        if envelope != self._last:
            self._read = read_envelope(params)
            self._last = envelope
        return self._read


def unsupported(version: object) -> RpcError:
    """Return the error for a protocol version that the bridge does not support."""
    data = {"supported": list(MODERN_VERSIONS), "requested": version}
    return RpcError(UNSUPPORTED_PROTOCOL_VERSION, "Unsupported protocol version", data)


def wrong_era(*, modern: bool, params: Params | None = None) -> RpcError:
    """Return the error for a request of the other protocol era than that of its connection.

    Args:
        modern: the connection was opened with 2026-07-28.
    """
    if modern:
        return RpcError(
            UNSUPPORTED_PROTOCOL_VERSION,
            "this connection was opened with the 2026-07-28 protocol; the initialize handshake is not accepted",
            {"supported": list(MODERN_VERSIONS), "requested": (params or {}).get("protocolVersion")},
        )
    return RpcError(
        INVALID_REQUEST,
        "this connection was opened with the initialize handshake; "
        "requests with the 2026-07-28 envelope are not accepted on it",
    )


def with_checked_meta(params: Params | None) -> Params:
    """Return the parameters of a handshake version's request, empty where it has none.

    Raises:
        RpcError: `_meta` is not an object.
    """
    meta = (params or {}).get("_meta")
    if meta is not None and not isinstance(meta, dict):
        raise RpcError(INVALID_PARAMS, "_meta must be an object")
    return params or {}


def are_capabilities(value: object) -> bool:
    """Return whether a value is an object of capabilities, as far as MCP defines them."""
    return isinstance(value, dict) and all(
        isinstance(cast("dict[str, Any]", value).get(key), dict | None) for key in CLIENT_CAPABILITIES
    )


def client_name(info: object) -> str | None:
    """Return the name in a `clientInfo`, shortened to its bound; None if there is none."""
    name = cast("dict[str, Any]", info).get("name") if isinstance(info, dict) else None
    return name[:NAME_LENGTH] if isinstance(name, str) else None


def bounded(capabilities: dict[str, Any]) -> dict[str, Any]:
    """Return a client's capabilities.

    Raises:
        RpcError: they take more memory than allowed.
    """
    if (size := held_size(capabilities)) > CAPABILITIES_BYTES:
        raise RpcError(
            INVALID_PARAMS,
            f"the client's capabilities take {size} bytes of memory; at most {CAPABILITIES_BYTES} may be",
        )
    return capabilities
