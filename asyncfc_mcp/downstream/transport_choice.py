"""The choice between the two HTTP transports of a server with a URL.

Pure. Owns the fallback from the configured transport to the other one. Connecting is left to the supervisor.
"""

from typing import Literal

from asyncfc_mcp.errors import HttpRefused


class TransportChoice:
    """The HTTP transport of one server, as far as it is known.

    Args:
        kind: the configured transport, `http` for Streamable HTTP or `sse` for HTTP+SSE; None for a process.
    """

    def __init__(self, kind: Literal["http", "sse"] | None) -> None:
        self.kind: Literal["http", "sse"] | None = kind
        self._first_refusal = ""
        """The reason for which the configured transport was refused, while the other one is tried."""

    @property
    def remote(self) -> bool:
        """True for a server with a URL."""
        return self.kind is not None

    def confirm(self) -> None:
        """Keep the current transport: the server is up."""
        self._first_refusal = ""

    def switch(self, exc: BaseException, reason: str) -> bool:
        """Switch to the other transport if the server's refusal may mean that it only speaks that one.

        Returns:
            True if the other transport should be tried at once; False if there is none or both were refused, in which
            case the next start begins with the first one again.
        """
        refused = isinstance(exc, HttpRefused) and exc.other_transport
        if self.kind is None or not (refused or self._first_refusal):
            return False
        self.kind = "sse" if self.kind == "http" else "http"
        if self._first_refusal:
            return False
        self._first_refusal = reason
        return True

    def take_reason(self, reason: str) -> str:
        """Return the reason of a failed start: of the configured transport, if both were tried."""
        reason, self._first_refusal = self._first_refusal or reason, ""
        return reason
