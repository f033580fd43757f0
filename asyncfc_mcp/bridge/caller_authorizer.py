"""Credentials of callers: adds the headers of a caller's requests to the requests to a server.

Owns what the server gets of them, and its refusals. Leaves the templates of headers to `config.caller_headers`, and
whose connection it is to `caller_connections`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from asyncfc_mcp.config.caller_headers import caller_names, filled
from asyncfc_mcp.config.model import HttpSpec
from asyncfc_mcp.errors import CallerCredentialsRefused
from asyncfc_mcp.redaction import SHORTEST_SECRET

_SCHEMES: Final = frozenset({"bearer", "basic", "token", "digest", "apikey", "negotiate"})
"""Words before a credential, which are not hidden in texts."""


class CallerAuthorizer:
    """Adds the caller's present headers to the requests to one server. Implements `Authorizer`.

    Args:
        headers: returns them, by lower-case name; all that the server needs are among them.
    """

    def __init__(self, server: str, spec: HttpSpec, headers: Callable[[], Mapping[str, str]]) -> None:
        self._server = server
        self._templates = spec.caller_headers
        self._names = caller_names(spec)
        self._headers = headers
        self._refused: Mapping[str, str] | None = None
        """Headers that the server has refused."""

    @property
    def secrets(self) -> Sequence[str]:
        words = {word for name in self._names for word in self._headers()[name].split()}
        found = [word for word in words if len(word) >= SHORTEST_SECRET and word.lower() not in _SCHEMES]
        return sorted(found, key=len, reverse=True)

    def renewed(self) -> bool:
        return self._refused is not None and self._filled() != self._refused

    async def headers(self) -> Mapping[str, str]:
        return self._filled()

    async def refused(self, status: int, challenges: Sequence[str], sent: Mapping[str, str]) -> bool:
        if self._filled() != sent:
            return True  # the caller has sent others since
        self._refused = sent
        raise CallerCredentialsRefused(self._server, self._names, status)

    def _filled(self) -> dict[str, str]:
        headers = self._headers()
        # As bytes they are sent as they were received, whatever their encoding.
        return {
            name: filled(text, headers).encode("latin-1", "replace").decode("utf-8", "surrogateescape")
            for name, text in self._templates.items()
        }


def lacks(names: Sequence[str]) -> str:
    """Return the reason why a server cannot be used by a caller without these headers."""
    return f"needs the header{'s' if len(names) > 1 else ''} {' and '.join(names)} of your client's requests"
