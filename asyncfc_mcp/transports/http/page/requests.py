"""A request of the page's API: its path, query and body.

Owns their form and bounds. Leaves their meaning to `api`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qs

from asyncfc_mcp.transports.http.asgi import Headers
from asyncfc_mcp.transports.http.page.answers import PageRefusal
from asyncfc_mcp.transports.http.page.peer_user import Address

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

API: Final = "/page/api/"
MOST_BYTES: Final = 4 << 10
"""Largest body."""
MOST_FIELDS: Final = 100
"""Bound on the parts of a query."""

_METHODS: Final = {
    "overview": "GET",
    "calls": "GET",
    "calls/*": "GET",
    "calls/*/cancel": "POST",
    "events": "GET",
    "export": "GET",
    "key": "POST",
    "enter": "POST",
}
"""Operations, by their paths, and the methods that they have."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request.

    Attributes:
        operation: its path, with a star in place of an ID.
        subject: that ID, or an empty string.
    """

    operation: str
    subject: str
    scope: "Scope"
    headers: Headers
    receive: "Receive"
    send: "Send"

    @classmethod
    def of(cls, scope: "Scope", receive: "Receive", send: "Send") -> "PageRequest":
        """Return the request of an ASGI scope whose path begins with `API`.

        Raises:
            PageRefusal: there is no such operation, or it has another method.
        """
        operation, _, rest = scope["path"].removeprefix(API).partition("/")
        subject, slash, action = rest.partition("/")
        if subject:
            operation = f"{operation}/*{slash}{action}"
        elif rest or scope["path"].endswith("/"):
            operation += "/"
        method = _METHODS.get(operation)
        if method is None:
            raise PageRefusal(404, "there is nothing at this path")
        if scope["method"] != method:
            raise PageRefusal(405, f"this path has the method {method}", (b"allow", method.encode()))
        return cls(operation, subject, scope, Headers(scope["headers"]), receive, send)

    @property
    def changes(self) -> bool:
        """True for a request that changes something."""
        return self.scope["method"] == "POST"

    @property
    def client(self) -> Address | None:
        return self.scope.get("client")

    @property
    def server(self) -> Address | None:
        return self.scope.get("server")

    def words(self) -> dict[str, list[str]]:
        """Return the query.

        Raises:
            PageRefusal: it has too many parts.
        """
        query = self.scope["query_string"].decode("latin-1")
        try:
            return parse_qs(query, keep_blank_values=True, max_num_fields=MOST_FIELDS)
        except ValueError:
            raise PageRefusal(400, f"the query has more than {MOST_FIELDS} parts") from None

    async def body(self) -> Mapping[str, Any]:
        """Return the body: an object, empty if there is none. Only JSON is read: a form of another page can send other
        types without asking the browser first.

        Raises:
            PageRefusal: it is no object of JSON, or is too large.
        """
        kind = (self.headers.get(b"content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise PageRefusal(415, "the content type must be application/json")
        received = b""
        while True:
            part = await self.receive()
            if part["type"] != "http.request":
                raise PageRefusal(400, "the body has broken off")
            received += part.get("body", b"")
            if len(received) > MOST_BYTES:
                raise PageRefusal(413, f"the body has more than {MOST_BYTES} bytes")
            if not part.get("more_body", False):
                break
        try:
            value: object = json.loads(received or b"{}")
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise PageRefusal(400, "the body must be an object of JSON")
        return cast("dict[str, Any]", value)
