"""Client capabilities that servers are offered on behalf of a client.

Pure. Owns the choice of what the bridge can offer. Leaves what a client has declared to `upstream`.
"""

from collections.abc import Mapping
from typing import Any

from asyncfc_mcp.engine.question_rules import CAPABILITY
from asyncfc_mcp.protocol import TASKS_EXTENSION


class OfferedCapabilities:
    """Capabilities that servers are offered for a client. The calls of one client declare the same ones, so they are
    worked out once."""

    def __init__(self) -> None:
        self._last: Mapping[str, Any] = {}
        self._offered = offered_capabilities(self._last)

    def of(self, capabilities: Mapping[str, Any]) -> dict[str, Any]:
        """See `offered_capabilities`; not to be changed."""
        if capabilities is not self._last:
            self._last, self._offered = capabilities, offered_capabilities(capabilities)
        return self._offered


def offered_capabilities(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """Return the capabilities that the bridge can offer to a server on behalf of a client: its client's for answering
    questions, and following tasks."""
    asked = {key: capabilities[key] for key in CAPABILITY.values() if capabilities.get(key) is not None}
    return {**asked, "extensions": {TASKS_EXTENSION: {}}}
