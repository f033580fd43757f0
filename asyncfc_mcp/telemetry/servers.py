"""Wrapped servers in telemetry: attributes of their connections, their sessions and restarts.

Implements `downstream.session_observer.SessionObserver`. Owns which attributes a server has. Leaves calls to `calls`.
"""

from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from opentelemetry.util.types import AttributeValue

from asyncfc_mcp.config.model import HttpSpec, ServerConfig
from asyncfc_mcp.telemetry import conventions
from asyncfc_mcp.telemetry.instruments import Instruments


class Servers:
    """The servers of a configuration.

    Args:
        version_of: returns the protocol version that is spoken with a server; empty while it is unknown.
    """

    def __init__(self, instruments: Instruments, version_of: Callable[[str], str] = lambda name: "") -> None:
        self._instruments = instruments
        self.version_of = version_of
        self._attributes: Mapping[str, Mapping[str, AttributeValue]] = {}

    def configure(self, servers: Iterable[ServerConfig]) -> None:
        """Use the servers of another configuration."""
        self._attributes = {server.name: _attributes(server) for server in servers}

    def attributes(self, server: str) -> dict[str, AttributeValue]:
        """Return the attributes of the connection to a server."""
        attributes = dict(self._attributes.get(server, {conventions.SERVER: server}))
        version = self.version_of(server)
        if version in conventions.VERSIONS:
            attributes[conventions.PROTOCOL_VERSION] = version
        return attributes

    def session_ended(self, server: str, duration_s: float, failed: bool) -> None:
        attributes = self.attributes(server)
        if failed:
            attributes[conventions.ERROR_TYPE] = "ServerDied"
        self._instruments.client_session.record(duration_s, attributes)

    def restarted(self, server: str) -> None:
        self._instruments.restarts.add(1, {conventions.SERVER: server})


def _attributes(server: ServerConfig) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {conventions.SERVER: server.name}
    if not isinstance(server.spec, HttpSpec):
        return {**attributes, conventions.TRANSPORT: "pipe"}
    attributes |= {conventions.TRANSPORT: "tcp", conventions.NETWORK_PROTOCOL: "http"}
    url = urlsplit(server.spec.url)
    if url.hostname:
        attributes[conventions.SERVER_ADDRESS] = url.hostname
        try:
            port = url.port
        except ValueError:
            port = None
        attributes[conventions.SERVER_PORT] = port or (443 if url.scheme == "https" else 80)
    return attributes
