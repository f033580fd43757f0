"""Operations of the page's API: calls and servers as the monitor shows them, keys and tokens.

Owns what each operation returns and how its errors are answered. Leaves what a principal may see to the monitor, and
who may ask at all to `page`.
"""

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio

from asyncfc_mcp.core.call_query import CallQuery
from asyncfc_mcp.core.identity import Scope
from asyncfc_mcp.errors import BridgeError, InvalidQuery, UnknownFuture
from asyncfc_mcp.monitor.monitor import Monitor
from asyncfc_mcp.transports.http.auth.authenticator import Access
from asyncfc_mcp.transports.http.page.answers import UNCACHED, PageRefusal, send_json
from asyncfc_mcp.transports.http.page.event_streams import EventStreams, until_over
from asyncfc_mcp.transports.http.page.keys import KEY_S, Keys, TooManyKeys
from asyncfc_mcp.transports.http.page.page_tokens import IDLE_S, PageTokens
from asyncfc_mcp.transports.http.page.peer_user import peer_user
from asyncfc_mcp.transports.http.page.requests import PageRequest

if TYPE_CHECKING:
    from starlette.types import Message

_FORMS: Final = {"jsonl": (b"application/jsonl", b"calls.jsonl"), "trace": (b"application/json", b"calls-trace.json")}
"""Forms of an export → content type and name of the file."""
MOST_EXPORTS: Final = 16
"""Bound on exports that are being written."""
MOST_OWN_EXPORTS: Final = 2
"""The same for one principal. A reader may take as long as it likes for an export."""


class Api:
    """The operations.

    Args:
        monitor: returns what principals may see.
        is_over: returns whether an access has ended.
    """

    def __init__(
        self,
        monitor: Monitor,
        keys: Keys,
        tokens: PageTokens,
        streams: EventStreams,
        is_over: Callable[[Access], bool],
    ) -> None:
        self._monitor, self._keys, self._tokens, self._streams = monitor, keys, tokens, streams
        self._is_over = is_over
        self._exports: list[Scope] = []
        """Whose exports are being written."""

    async def enter(self, request: PageRequest) -> None:
        """Exchange a key for a token.

        Raises:
            PageRefusal: the key cannot be exchanged.
        """
        key = (await request.body()).get("key")
        user_of = partial(peer_user, request.client, request.server)
        access = self._keys.exchange(key, user_of) if isinstance(key, str) else None
        if access is None:
            raise PageRefusal(
                401,
                f"this key was used, or is older than {KEY_S:g} s; `asyncfc-mcp open` opens the page with a new one",
            )
        await send_json(request.send, {"token": self._tokens.give(access), "idle_s": IDLE_S})

    async def serve(self, request: PageRequest, access: Access) -> None:
        """Carry out one of the other operations.

        Raises:
            PageRefusal: it cannot be.
        """
        try:
            await self._serve(request, access)
        except UnknownFuture as exc:
            raise PageRefusal(404, str(exc)) from None
        except InvalidQuery as exc:
            raise PageRefusal(400, str(exc)) from None
        except BridgeError as exc:  # the engine cannot be asked at present
            raise PageRefusal(503, str(exc), (b"retry-after", b"1")) from None

    async def _serve(self, request: PageRequest, access: Access) -> None:
        principal, send = access.principal, request.send
        match request.operation:
            case "overview":
                await send_json(send, await self._monitor.overview(principal))
            case "calls":
                page = await self._monitor.calls(principal, CallQuery.of(request.words()))
                await send_json(send, {"calls": page.entries, "next": page.next})
            case "calls/*":
                await send_json(send, await self._monitor.call(principal, request.subject))
            case "calls/*/cancel":
                await request.body()
                await send_json(send, await self._monitor.cancel(principal, request.subject))
            case "events":
                await self._streams.serve(self._monitor.feed, access, request.receive, send)
            case "export":
                await self._export(request, access)
            case "key":
                await request.body()
                await send_json(send, self._key(request, access))
            case _:
                raise AssertionError(request.operation)

    def _key(self, request: PageRequest, access: Access) -> dict[str, Any]:
        user = peer_user(request.client, request.server)
        try:
            return {"key": self._keys.issue(access, user), "expires_in_s": KEY_S}
        except TooManyKeys:
            wait = (b"retry-after", str(math.ceil(KEY_S)).encode())
            raise PageRefusal(429, "too many keys were asked for; try again in a minute", wait) from None

    async def _export(self, request: PageRequest, access: Access) -> None:
        words = request.words()
        form = words.pop("form", ["jsonl"])[-1]
        if form not in _FORMS:
            raise PageRefusal(400, f"form: expected one of {', '.join(_FORMS)}")
        query = CallQuery.of(words)
        scope = access.principal.scope
        if len(self._exports) >= MOST_EXPORTS or self._exports.count(scope) >= MOST_OWN_EXPORTS:
            raise PageRefusal(429, "other exports are being written; try again", (b"retry-after", b"5"))
        self._exports.append(scope)
        try:
            async with aclosing(self._monitor.export(access.principal, query, form)) as parts:
                await _send_file(request, form, parts, access, self._is_over)
        finally:
            self._exports.remove(scope)


async def _send_file(
    request: PageRequest, form: str, parts: AsyncGenerator[bytes], access: Access, is_over: Callable[[Access], bool]
) -> None:
    """Send a file, which breaks off if the access ends or the reader leaves."""
    first = await anext(parts, b"")  # an error in the query is one before the head of the response
    kind, name = _FORMS[form]
    disposition = (b"content-disposition", b'attachment; filename="asyncfc-' + name + b'"')
    headers = [(b"content-type", kind), disposition, *UNCACHED]

    async def write(data: bytes, *, more: bool = True) -> None:
        part: Message = {"type": "http.response.body", "body": data, "more_body": more}
        await request.send(part)

    async with anyio.create_task_group() as tg:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tg.cancel_scope.cancel()

        async def watch_access() -> None:
            await until_over(access, is_over)
            tg.cancel_scope.cancel()

        tg.start_soon(watch)
        tg.start_soon(watch_access)
        await request.send({"type": "http.response.start", "status": 200, "headers": headers})
        await write(first)
        async for part in parts:
            await write(part)
        await write(b"", more=False)
        tg.cancel_scope.cancel()
