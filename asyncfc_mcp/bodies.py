"""What handshake clients post over HTTP, looked at before the SDK does: one message, and one request per ID at a time.

The SDK's transport for them takes a request with an impossible ID for a notification, so that its sender waits for
ever; and of two requests with one ID in one session only the second is answered. Refuses to know what is asked, and by
whom. Requests of 2026-07-28 never come here: they are for `posts`.
"""

from typing import TYPE_CHECKING, Final

import anyio
from pydantic_core import to_json

from asyncfc_mcp.wire import MalformedMessage, parse_message

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SESSION: Final = b"mcp-session-id"


class Bodies:
    """ASGI: a POST that is no message is answered with 400 and a JSON-RPC error; a request whose ID is still being
    answered in its session waits for its turn.

    It is not refused: a client may have read its answer, and use the ID again, before the SDK has closed that stream.

    Args:
        app: what all else goes to.
        path: where messages are posted. Bodies must arrive in one piece, their size being checked before.
    """

    def __init__(self, app: "ASGIApp", path: str) -> None:
        self._app, self._path = app, path
        self._answering: dict[tuple[bytes, str], anyio.Event] = {}

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != self._path:
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        first = await receive()
        replayed = False

        async def again() -> "Message":
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return first

        if first["type"] != "http.request" or first.get("more_body"):
            return await self._app(scope, again, send)  # the client has gone
        try:
            message = parse_message(first.get("body", b""))
        except MalformedMessage as exc:
            return await _refuse(exc.code, str(exc), None if exc.is_answer else exc.request_id, send)
        session = headers.get(_SESSION)
        if session is None or "method" not in message or "id" not in message:
            return await self._app(scope, again, send)
        key = (session, str(message["id"]))  # the SDK takes 7 and "7" for one
        while (earlier := self._answering.get(key)) is not None:
            await earlier.wait()
        done = self._answering[key] = anyio.Event()
        try:
            await self._app(scope, again, send)
        finally:
            del self._answering[key]
            done.set()


async def _refuse(code: int, problem: str, request_id: int | str | None, send: "Send") -> None:
    body = to_json({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": problem}})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
