"""Bounds on the values of attributes, which clients and servers choose.

Pure. Owns which names have a time series of their own, since each is kept as long as the process lives: tools that were
really called, as long as there are not too many. Owns also which characters are sent: an exporter drops all spans that
it sends together if it cannot encode one of their texts, and `/metrics` fails as a whole.
"""

from typing import Final

from asyncfc_mcp.telemetry.conventions import NAME_LENGTH, OTHER

MOST_NAMES: Final = 500
"""Names of tools and prompts with series of their own. Servers may list endless names; later ones are `_OTHER`."""
MOST_ERRORS: Final = 100
"""The same for `error.type`: servers choose their JSON-RPC error codes."""


def sendable(text: str, length: int = NAME_LENGTH) -> str:
    """Return a text of bounded length that UTF-8 can encode: with `?` in place of lone surrogates."""
    return text[:length].encode("utf-8", "replace").decode()


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
        name = sendable(name)
        if name in self._names:
            return name
        if len(self._names) >= self._most:
            return OTHER
        self._names[name] = None
        return name

    def known(self, name: str) -> str:
        """Return a name that has a place; otherwise `_OTHER`."""
        name = sendable(name)
        return name if name in self._names else OTHER
