"""ASGI requests and responses without a framework: headers, plain responses, and refusals.

Owns their form. Leaves to others which request is refused (`admission`, `stateless`, `sessions`) and responses that are
event streams (`exchange`).
"""

from typing import TYPE_CHECKING, Final

from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.jsonrpc.codec import format_message
from asyncfc_mcp.protocol import RequestId

if TYPE_CHECKING:
    from starlette.types import Send

VERSION: Final = b"mcp-protocol-version"
JSON: Final = (b"content-type", b"application/json")

Header = tuple[bytes, bytes]


class Refusal(Exception):
    """A request that is answered by an HTTP response without reaching JSON-RPC."""

    def __init__(self, status: int, body: bytes = b"", *headers: Header) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


class JsonRpcRefusal(Refusal):
    """A refusal whose body is a JSON-RPC error, without an ID unless one is given."""

    def __init__(self, status: int, error: RpcError, *headers: Header, request_id: RequestId | None = None) -> None:
        message = {"jsonrpc": "2.0", "id": request_id, "error": error.wire}
        super().__init__(status, format_message(message), JSON, *headers)


class Headers:
    """The headers of a request; of a repeated one, the first."""

    __slots__ = ("raw", "values")

    def __init__(self, raw: list[Header]) -> None:
        self.raw = raw
        self.values: dict[bytes, bytes] = {}
        for name, value in raw:
            if name not in self.values:
                self.values[name] = value

    def get(self, name: bytes) -> str | None:
        value = self.values.get(name)
        return None if value is None else value.decode("latin-1")


async def refuse(send: "Send", refusal: Refusal) -> None:
    """Send a refusal as the response."""
    await respond(send, refusal.status, refusal.body, *refusal.headers)


async def respond(send: "Send", status: int, body: bytes = b"", *headers: Header) -> None:
    """Send a response with a `Content-Length`."""
    start = [(b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
