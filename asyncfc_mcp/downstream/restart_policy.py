"""The times at which a wrapped server that failed or ended is started again.

Pure. Owns the arithmetic and its state; the clock, waiting and starting are left to the supervisor.
"""

import math
from typing import Final

from asyncfc_mcp.core.backoff import Backoff

BACKOFF_S: Final = (0.5, 60.0)
"""First and longest pause before a server that failed is started again."""
HEALTHY_S: Final = 10.0
"""A server that was up this long starts with the first pause again."""
PROCESS_RETRY_S: Final = 2.0
"""After a process failed to come up, requests do not start it again before this time."""
HTTP_RETRY_S: Final = BACKOFF_S[0] / 2
"""The same for a server with a URL, where a start costs no more than a connection, so that requests wait for it."""


class RestartPolicy:
    """Decides when one server is started again.

    Args:
        remote: the server has a URL.
    """

    def __init__(self, *, remote: bool) -> None:
        self._retry_s = HTTP_RETRY_S if remote else PROCESS_RETRY_S
        self._backoff = Backoff(*BACKOFF_S)
        self.failures = 0
        """Failures since the server was last healthy."""
        self._came_up = True
        self._failed_at = -math.inf

    def on_ready(self) -> None:
        """Record that the server is up."""
        self._came_up = True

    def on_failure(self, now: float, *, ready_since: float | None) -> float:
        """Record that the server ended or failed to start; return the pause before the next start, in seconds.

        Args:
            now: time of the caller's monotonic clock.
            ready_since: the time since which it was up; None if it did not come up.
        """
        self._came_up = ready_since is not None
        if ready_since is not None and now - ready_since > HEALTHY_S:
            self.failures = 0
            self._backoff.reset()
        self.failures += 1
        self._failed_at = now
        return self._backoff.next()

    def request_delay(self, now: float) -> float:
        """Return the seconds until a request may start the server before the end of the pause."""
        if self._came_up:
            return 0.0
        return max(0.0, self._failed_at + self._retry_s - now)
