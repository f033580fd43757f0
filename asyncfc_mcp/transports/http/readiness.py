"""Readiness over HTTP: whether a load balancer should send requests to this process.

Owns the reasons. Leaves the response to `routes`, and the order of the end to `serve`.
"""

from typing import Final

import anyio

from asyncfc_mcp.bridge.bridge import Bridge
from asyncfc_mcp.redaction import without_secrets

ENGINE_S: Final = 2.0
"""Time limit for the engine's answer. Load balancers wait a few seconds."""


class Readiness:
    """The state of one bridge.

    Attributes:
        stopping: true from the first SIGTERM on.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self.stopping = False

    async def problem(self) -> str | None:
        """Return why no requests should be sent here, without secrets; None if they may be."""
        if self.stopping:
            return "stopping"
        if not self._bridge.has_started:
            return "starting: not every server has started or failed yet"
        problem: str | None = f"the engine has not answered within {ENGINE_S:g} s"
        with anyio.move_on_after(ENGINE_S):
            problem = await self._bridge.engine.problem()
        return None if problem is None else without_secrets(problem, self._bridge.settings.secrets)
