"""Responses of the page: JSON, refusals, and the headers that go with all of them.

Owns their form, and what browsers are told about them: nothing may be guessed, framed, or kept. Leaves the reasons to
the modules that refuse.
"""

import json
from typing import TYPE_CHECKING, Any, Final

from asyncfc_mcp.transports.http.asgi import JSON, Header, JsonRpcRefusal, Refusal, respond
from asyncfc_mcp.values.text import encode

if TYPE_CHECKING:
    from starlette.types import Send

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content Security Policy. Without inline scripts and styles, text of servers that became markup would run nothing."""
ALWAYS: Final[tuple[Header, ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"content-security-policy", POLICY.encode()),
    (b"x-frame-options", b"DENY"),
)
UNCACHED: Final[tuple[Header, ...]] = (*ALWAYS, (b"cache-control", b"no-store"))
"""Headers of responses with data."""


class PageRefusal(Refusal):
    """A request of the page that is refused.

    Args:
        why: the reason and what to do, in words.
        headers: sent in addition to those of all responses.
    """

    def __init__(self, status: int, why: str, *headers: Header) -> None:
        super().__init__(status, encode({"error": why}), JSON, *UNCACHED, *headers)


async def send_json(send: "Send", value: Any, status: int = 200) -> None:
    """Send a value as the response."""
    await respond(send, status, encode(value), JSON, *UNCACHED)


async def send_refusal(send: "Send", refusal: Refusal) -> None:
    """Send a refusal of the page, or one of the endpoint in the form of the page's."""
    if isinstance(refusal, PageRefusal):
        return await respond(send, refusal.status, refusal.body, *refusal.headers)
    if isinstance(refusal, JsonRpcRefusal):
        why = str(json.loads(refusal.body)["error"]["message"])
    else:
        why = refusal.body.decode("utf-8", "replace").strip()
    kept = [each for each in refusal.headers if each[0] != b"content-type"]
    await respond(send, refusal.status, encode({"error": why}), JSON, *UNCACHED, *kept)
