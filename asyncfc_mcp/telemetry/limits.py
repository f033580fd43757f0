"""Bounds on the values of attributes of metrics: each value is a time series that is kept as long as the process lives.

Pure. Owns which names have a series of their own: tools that were really called, as long as there are not too many.
"""

from typing import Final

from asyncfc_mcp.telemetry.conventions import OTHER

MOST_NAMES: Final = 500
"""Names of tools and prompts with series of their own. Servers may list endless names; later ones are `_OTHER`."""
MOST_ERRORS: Final = 100
"""The same for `error.type`: servers choose their JSON-RPC error codes."""


class Names:
    """A growing set of names of bounded size.

    Args:
        known: names that are in it from the beginning.
    """

    def __init__(self, most: int, known: tuple[str, ...] = ()) -> None:
        self._most = most
        self._names = dict.fromkeys(known)

    def admitted(self, name: str) -> str:
        """Return a name, which gets a place if there is one; otherwise `_OTHER`."""
        if name in self._names:
            return name
        if len(self._names) >= self._most:
            return OTHER
        self._names[name] = None
        return name

    def known(self, name: str) -> str:
        """Return a name that has a place; otherwise `_OTHER`."""
        return name if name in self._names else OTHER
