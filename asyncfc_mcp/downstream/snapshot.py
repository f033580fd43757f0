"""A wrapped server's description of itself at one time: its capabilities and its raw listings.

Pure. Owns the kinds of listings. Fetching them is left to `listing`, the copy on disk to `listing_cache`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from asyncfc_mcp.protocol import TASKS_EXTENSION

LISTINGS: Final[Mapping[str, tuple[str, str]]] = {
    "tools": ("tools/list", "tools"),
    "prompts": ("prompts/list", "prompts"),
    "resources": ("resources/list", "resources"),
    "resourceTemplates": ("resources/templates/list", "resources"),
}
"""Kind of a listing (the key of the entries in its result) → its method and the capability that it requires."""


@dataclass(frozen=True, slots=True)
class ServerSnapshot:
    """The description of a server at one time, as received."""

    capabilities: Mapping[str, Any] = field(default_factory=dict[str, Any])
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    instructions: str | None = None
    protocol_version: str = ""
    listings: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])

    @property
    def extensions(self) -> Mapping[str, Any]:
        """The protocol extensions that the server declares, except for tasks, which the bridge handles itself."""
        declared = self.capabilities.get("extensions")
        found: Mapping[str, Any] = cast("Mapping[str, Any]", declared) if isinstance(declared, dict) else {}
        # Clients reject the whole response to `initialize` if one of them is no object.
        return {key: value for key, value in found.items() if key != TASKS_EXTENSION and isinstance(value, dict)}

    def listing(self, kind: str) -> list[dict[str, Any]]:
        """Return the entries of one kind; empty if the kind is not known."""
        return self.listings.get(kind, [])
