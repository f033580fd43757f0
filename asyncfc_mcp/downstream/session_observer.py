"""Interface of what takes note of the sessions with wrapped servers.

Pure interface. Leaves what is done with it to `telemetry`.
"""

from typing import Protocol


class SessionObserver(Protocol):
    """Takes note of sessions with servers. Its methods return at once and raise nothing."""

    def session_ended(self, server: str, duration_s: float, failed: bool) -> None:
        """A session with a server has ended.

        Args:
            duration_s: seconds since the server was ready.
            failed: the connection was lost, rather than closed by the bridge.
        """
        ...

    def restarted(self, server: str) -> None:
        """A server is started again after a failure, or after its connection has ended."""
        ...
