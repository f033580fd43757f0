"""The loopback address to which a browser returns after a sign-in (RFC 8252, section 7.3).

Owns the listening sockets, and which request is the redirect: a GET of the callback's path, at its own Host, with the
`state` that is waited for. Every other request is refused and changes nothing, since any page in the browser can make
one. The contents of the redirect are left to `authorization`; nothing of them is shown or logged here.
"""

import errno
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from html import escape
from typing import Final
from urllib.parse import urlsplit

import anyio
import h11
from anyio.abc import SocketListener, SocketStream

from asyncfc_mcp.downstream.http.failures import phrase
from asyncfc_mcp.downstream.oauth.authorization import MAX_REDIRECT, is_state, read_params
from asyncfc_mcp.downstream.oauth.failures import CallbackUnavailable

REQUEST_S: Final = 10.0
"""Timeout of one connection, which has one request."""
MAX_CONNECTIONS: Final = 16
"""At once; more are closed. A browser needs two."""
MAX_HEAD: Final = MAX_REDIRECT + 16_384
"""Bytes of a request's head: the address and the browser's own headers."""

_HEADERS: Final = (
    ("content-type", "text/html; charset=utf-8"),
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("connection", "close"),
)


class RedirectListener:
    """Waits for the redirect of one sign-in after another.

    Args:
        redirect_uri: on loopback, with a port.
    """

    def __init__(self, redirect_uri: str) -> None:
        parts = urlsplit(redirect_uri)
        self._origin, self._path, self._port = f"{parts.scheme}://{parts.netloc}", parts.path, parts.port
        self._state: str | None = None
        self._redirected: str | None = None
        self._arrived = anyio.Event()
        self._connections = 0

    def expect(self, state: str) -> None:
        """Take the redirect with this `state`, and no other one, from now on."""
        self._state, self._redirected, self._arrived = state, None, anyio.Event()

    async def redirected(self) -> str:
        """Wait for the redirect, and return its address. Its page has been sent."""
        await self._arrived.wait()
        assert self._redirected is not None
        return self._redirected

    async def handle(self, stream: SocketStream) -> None:
        """Answer the request of one connection."""
        self._connections += 1
        arrived: str | None = None
        try:
            async with stream:
                if self._connections <= MAX_CONNECTIONS:
                    with anyio.move_on_after(REQUEST_S), suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                        arrived = await self._exchange(stream)
        finally:
            self._connections -= 1
        if arrived is not None and not self._arrived.is_set():
            self._redirected = arrived
            self._arrived.set()

    async def _exchange(self, stream: SocketStream) -> str | None:
        """Answer a request; return the address if it is the redirect that is waited for."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        arrived: str | None = None
        try:
            request = await _head(connection, stream)
            if request is None:
                return None
            status, text = 404, "This is not the answer to a sign-in that is waiting."
            if not self._is_own_host(request):
                status, text = 421, "This address is only for the sign-in of a program on this machine."
            elif (target := self._answer_in(request)) is not None:
                status, arrived = 200, f"{self._origin}{target}"
                text = "The sign-in has an answer. You can close this window; the program goes on by itself."
                if "error" in (read_params(target) or {}):
                    text = "The sign-in was not completed. You can close this window; the program says why."
        except h11.RemoteProtocolError as exc:
            status, text = exc.error_status_hint, "This request cannot be understood."
        await stream.send(_response(status, text))
        return arrived

    def _is_own_host(self, request: h11.Request) -> bool:
        """Refuse names that an attacker's DNS points at this machine."""
        hosts = [value.decode("latin-1").lower() for name, value in request.headers if name == b"host"]
        return len(hosts) == 1 and hosts[0] in {f"{name}:{self._port}" for name in ("127.0.0.1", "localhost", "[::1]")}

    def _answer_in(self, request: h11.Request) -> str | None:
        """Return the target of a request if it is the redirect that is waited for."""
        target = request.target.decode("latin-1")
        if request.method != b"GET" or target.partition("?")[0] != self._path or self._state is None:
            return None
        params = read_params(target)
        return target if params is not None and is_state(params.get("state", ""), self._state) else None


async def _head(connection: h11.Connection, stream: SocketStream) -> h11.Request | None:
    """Read the head of a request; None if the connection ends before."""
    while True:
        match connection.next_event():
            case h11.Request() as request:
                return request
            case h11.NEED_DATA:
                try:
                    connection.receive_data(await stream.receive())
                except anyio.EndOfStream:
                    return None
            case _:
                return None


def _response(status: int, text: str) -> bytes:
    """Return a response with a page that has no more than this text. The connection ends after it, so that a HEAD
    request need not be told apart."""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sign-in</title></head>'
        f"<body><p>{escape(text)}</p></body></html>"
    ).encode()
    lines = [f"HTTP/1.1 {status} {phrase(status)}", *(f"{name}: {value}" for name, value in _HEADERS)]
    return "\r\n".join([*lines, f"content-length: {len(page)}", "", ""]).encode() + page


@asynccontextmanager
async def listening(server: str, redirect_uri: str) -> AsyncGenerator[RedirectListener]:
    """Listen at a redirect URI while the block runs. `localhost` is served on both stacks: a browser chooses.

    Args:
        server: name in the configuration, for errors.

    Raises:
        CallbackUnavailable: the port is in use, or not this user's to take.
    """
    parts = urlsplit(redirect_uri)
    port = parts.port or 80
    listener = RedirectListener(redirect_uri)
    failure: Exception | None = None
    async with AsyncExitStack() as stack:
        sockets: list[SocketListener] = []
        for address in ("127.0.0.1", "::1") if parts.hostname == "localhost" else (parts.hostname or "",):
            try:
                opened = await anyio.create_tcp_listener(local_host=address, local_port=port)
            except OSError as exc:
                if sockets and _errno(exc) in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue  # a machine without IPv6
                raise CallbackUnavailable(server, port, _why(exc)) from None
            for each in opened.listeners:
                assert isinstance(each, SocketListener)
                sockets.append(await stack.enter_async_context(each))
        async with anyio.create_task_group() as tasks:
            for each in sockets:
                tasks.start_soon(each.serve, listener.handle)
            try:
                yield listener
            except Exception as exc:  # noqa: BLE001 - raised below: from within the task group it would become a group
                failure = exc
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _errno(exc: OSError) -> int | None:
    return exc.errno if exc.errno is not None or not isinstance(exc.__cause__, OSError) else exc.__cause__.errno


def _why(exc: OSError) -> str:
    code = _errno(exc)
    if code == errno.EADDRINUSE:
        return "is in use"
    return f"cannot be listened at ({os.strerror(code).lower() if code is not None else 'no reason given'})"
