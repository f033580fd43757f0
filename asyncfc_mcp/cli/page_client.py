"""Client of a page's API, for commands that show what the page shows.

Owns requests, their errors in words, and the events of the stream. Leaves finding the page to `page_address`, and what
is shown to the commands.
"""

import json
import os
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import anyio.to_thread
import httpx2

from asyncfc_mcp.cli.page_address import PageAddress, daemon_page, http_page
from asyncfc_mcp.errors import BridgeError
from asyncfc_mcp.quotation import one_line, shortened
from asyncfc_mcp.redaction import shown_url
from asyncfc_mcp.transports.http.options import is_loopback

CONNECT_S: Final = 5.0
ANSWER_S: Final = 60.0
"""Time limit for an answer: a search in a long history takes some time."""
SILENCE_S: Final = 60.0
"""Silence after which a stream has died: comments are sent more often."""
MOST_EVENT_BYTES: Final = 64 << 20
MOST_ANSWER_BYTES: Final = 64 << 20
_WORD: Final = re.compile(r"[A-Za-z0-9._~-]{8,512}")
"""Form of keys and tokens. A key is printed and is part of an address."""


class PageLost(BridgeError):
    """The bridge cannot be reached, or is no more.

    Args:
        url: of its page.
        how: a predicate: what happened.
    """

    def __init__(self, url: str, how: str) -> None:
        super().__init__(f"The bridge at {shown_url(url)} {how}")


class PageRefused(BridgeError):
    """The bridge has refused a request.

    Args:
        why: its reason.

    Attributes:
        status: the HTTP status. 404: there is no such call; 401, 403: the token is not accepted.
    """

    def __init__(self, url: str, status: int, why: str) -> None:
        self.status = status
        text = shortened(one_line(why), 500) or f"HTTP {status}"
        hint = {401: "; set its token in a variable, and pass --auth-token-env NAME"}.get(status, "")
        super().__init__(f"The bridge at {shown_url(url)} refused the request: {text}{hint}")


class NotAPage(BridgeError):
    """What answers is not the page of a bridge."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(
            f"{shown_url(url)} is not the page of a bridge (HTTP {status}), or the bridge has it turned off (setting "
            f"page) or is of an older version"
        )


class PageClient:
    """A client of one page. Made by `connect`."""

    def __init__(self, client: httpx2.AsyncClient, url: str) -> None:
        self._client = client
        self.url = url
        """The page's address, which ends with a slash."""

    @staticmethod
    @asynccontextmanager
    async def connect(
        config: Path | None = None,
        url: str | None = None,
        *,
        token: str | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> "AsyncGenerator[PageClient]":
        """Connect to a bridge.

        Args:
            config: configuration of a daemon; None: the only daemon, unless there is a URL.
            url: of a bridge over HTTP (`http://127.0.0.1:8642/mcp`).
            token: the token of that bridge.

        Raises:
            BridgeError: there is no such bridge or page, or it cannot be used; the text says what to do.
        """
        if url is not None:
            address = http_page(url, token)
        else:
            address = await anyio.to_thread.run_sync(partial(daemon_page, environ, os.getcwd(), config))
        async with connected(address) as client:
            yield client

    async def get(self, path: str, **params: Any) -> Any:
        """Return an answer: `overview`, `calls` (`{"calls": [entry], "next": cursor or null}`) or `calls/ID`.

        Args:
            path: below `/page/api/`.
            params: the query; a list is a word that is repeated, and None is left out.

        Raises:
            BridgeError: there is none.
        """
        return await self._ask("GET", path, params={k: v for k, v in params.items() if v is not None})

    async def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the answer to a request that changes something: `calls/ID/cancel`, `key`.

        Raises:
            BridgeError: there is none.
        """
        return await self._ask("POST", path, json=dict(body or {}))

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """Yield `{"event": …, "data": …}` for the present state, and for each change, until the bridge ends the stream:
        the last event is `end`, with a `reason`.

        Raises:
            BridgeError: the bridge cannot be reached, or is gone.
        """
        timeout = httpx2.Timeout(CONNECT_S, read=SILENCE_S)
        try:
            async with self._client.stream("GET", "page/api/events", timeout=timeout) as response:
                if response.status_code != 200:
                    self._refuse(response.status_code, _parsed(await _content(response)))
                async for event in _events(response.aiter_bytes()):
                    yield event
                    if event["event"] == "end":
                        return
        except (httpx2.HTTPError, httpx2.StreamError) as exc:
            raise self._lost(exc) from None
        raise PageLost(self.url, "has ended, or broke off the connection")

    async def _ask(self, method: str, path: str, **options: Any) -> Any:
        try:
            async with self._client.stream(method, f"page/api/{path}", **options) as response:
                answer = _parsed(await _content(response))
        except (httpx2.HTTPError, httpx2.StreamError) as exc:
            raise self._lost(exc) from None
        if response.status_code != 200:
            self._refuse(response.status_code, answer)
        if not isinstance(answer, dict):
            raise NotAPage(self.url, response.status_code)
        return cast("Any", answer)

    def _refuse(self, status: int, answer: object) -> None:
        """Raise the error for a response that is none."""
        why = cast("dict[str, Any]", answer).get("error") if isinstance(answer, dict) else None
        if not isinstance(why, str):
            raise NotAPage(self.url, status)
        raise PageRefused(self.url, status, why)

    async def key(self) -> str:
        """Return a one-time key.

        Raises:
            BridgeError: there is none.
        """
        return self._word((await self.post("key")).get("key"))

    async def enter(self, key: str) -> str:
        """Return the token for a one-time key.

        Raises:
            BridgeError: it is not accepted.
        """
        return self._word((await self.post("enter", {"key": key})).get("token"))

    def _word(self, value: object) -> str:
        if not isinstance(value, str) or _WORD.fullmatch(value) is None:
            raise NotAPage(self.url, 200)
        return value

    def _lost(self, exc: Exception) -> PageLost:
        match exc:
            case httpx2.ConnectError() | httpx2.ConnectTimeout():
                return PageLost(self.url, f"cannot be reached ({_reason(exc)}): it does not run, or listens elsewhere")
            case httpx2.TimeoutException():
                return PageLost(self.url, "does not answer")
            case _:
                return PageLost(self.url, "has ended, or broke off the connection")


@asynccontextmanager
async def connected(address: PageAddress) -> AsyncGenerator[PageClient]:
    """Connect to a page whose address is known.

    Raises:
        BridgeError: it cannot be used.
    """
    host = httpx2.URL(address.url).host
    headers = {"accept": "application/json, text/event-stream"}
    if address.token is not None:
        headers["authorization"] = f"Bearer {address.token}"
    # A proxy for the web has no business between programs of one machine, and would see the token: with a transport of
    # its own, the client uses none.
    async with httpx2.AsyncClient(
        base_url=address.url,
        headers=headers,
        timeout=httpx2.Timeout(CONNECT_S, read=ANSWER_S),
        follow_redirects=False,
        transport=httpx2.AsyncHTTPTransport() if is_loopback(host) else None,
    ) as http:
        client = PageClient(http, address.url)
        if address.key is not None:
            http.headers["authorization"] = f"Bearer {await client.enter(address.key)}"
        yield client


async def _events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any]]:
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > MOST_EVENT_BYTES:
            raise httpx2.StreamError("an event is too large")
        if b"\n\n" not in chunk and not (chunk.startswith(b"\n") and len(parts) > 1):
            continue
        *blocks, rest = b"".join(parts).split(b"\n\n")
        parts, size = [rest], len(rest)
        for block in blocks:
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line and line[:1] != b":")
            if b"data" in fields:
                data = _parsed(fields[b"data"])
                if not isinstance(data, dict):
                    raise httpx2.StreamError("an event is no object")
                yield {"event": fields.get(b"event", b"message").decode("utf-8", "replace"), "data": data}


async def _content(response: httpx2.Response) -> bytes:
    """Return the content of a response.

    Raises:
        StreamError: it is too large.
    """
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > MOST_ANSWER_BYTES:
            raise httpx2.StreamError("an answer is too large")
    return b"".join(parts)


def _parsed(content: bytes) -> object:
    """Return a JSON value; None if it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _reason(exc: BaseException) -> str:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return "host name not found"
        if isinstance(cause, OSError) and cause.errno:  # its own text may be that of a call in the event loop
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return "no connection"
