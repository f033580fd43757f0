"""The loopback address to which a browser returns after a sign-in (RFC 8252, section 7.3).

Owns the listening sockets, and which request is the redirect: a GET of the callback's path, at its own Host, with the
`state` that is waited for. Every other request is refused and changes nothing, since any page in the browser can make
one. The contents of the redirect are left to `authorization`; nothing of them is shown or logged here.
"""

import errno
import os
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
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
LINGER_S: Final = 0.5
"""Time for connections that are open at the end of a sign-in, where another one waits."""
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


class Callbacks:
    """The sign-ins of one process that wait for redirects, several of them at one port.

    Each sign-in accepts connections in tasks of its own, on a duplicate of the port's socket, and any of them may get
    the redirect of another one. So none depends on how long another one lasts. (Rejected: one sign-in at a time, since
    a user who leaves the first page open would keep all others out.)
    """

    def __init__(self) -> None:
        self._sockets: dict[tuple[str, int], tuple[socket.socket, int]] = {}
        """Address and port → a listening socket, and its users."""
        self._waiting: dict[str, RedirectListener] = {}

    @contextmanager
    def accepting(self, address: str, port: int) -> Generator[socket.socket]:
        """Yield a listening socket, which the caller closes.

        Raises:
            OSError: the port is not available.
        """
        key = address, port
        if key not in self._sockets:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            self._sockets[key] = socket.create_server(key, family=family), 0
        shared, users = self._sockets[key]
        self._sockets[key] = shared, users + 1
        try:
            yield shared.dup()
        finally:
            users = self._sockets[key][1] - 1
            self._sockets[key] = shared, users
            if not users:
                del self._sockets[key]
                shared.close()

    def expect(self, listener: "RedirectListener", state: str | None) -> None:
        """Take the redirect with this `state` for a sign-in, and no other one; None: none."""
        for old in [key for key, each in self._waiting.items() if each is listener]:
            del self._waiting[old]
        if state is not None:
            self._waiting[state] = listener

    def waiting_for(self, target: str) -> "RedirectListener | None":
        """Return the sign-in that waits for a redirect; None if there is none."""
        params = read_params(target)
        found = "" if params is None else params.get("state", "")
        return next((listener for state, listener in self._waiting.items() if is_state(found, state)), None)

    def has_others(self, listener: "RedirectListener") -> bool:
        """Return whether another sign-in waits."""
        return any(each is not listener for each in self._waiting.values())


class RedirectListener:
    """Waits for the redirect of a sign-in, or of several one after the other.

    Args:
        redirect_uri: on loopback, with a port.
        callbacks: the sign-ins of this process.
    """

    def __init__(self, redirect_uri: str, callbacks: Callbacks) -> None:
        parts = urlsplit(redirect_uri)
        self._origin, self._path, self._port = f"{parts.scheme}://{parts.netloc}", parts.path, parts.port or 80
        self._callbacks = callbacks
        self._redirected: str | None = None
        self._arrived = anyio.Event()
        self._connections = 0
        self._idle = anyio.Event()

    def expect(self, state: str) -> None:
        """Take the redirect with this `state`, and no other one, from now on."""
        self._redirected, self._arrived = None, anyio.Event()
        self._callbacks.expect(self, state)

    async def redirected(self) -> str:
        """Wait for the redirect, and return its address. Its page has been sent."""
        await self._arrived.wait()
        assert self._redirected is not None
        return self._redirected

    def arrive(self, redirected: str) -> None:
        """Take the redirect; of two, the first."""
        if not self._arrived.is_set():
            self._redirected = redirected
            self._arrived.set()

    async def handle(self, stream: SocketStream) -> None:
        """Answer the request of one connection, which may be the redirect of another sign-in."""
        self._connections += 1
        if self._idle.is_set():
            self._idle = anyio.Event()
        found: tuple[RedirectListener, str] | None = None
        try:
            async with stream:
                if self._connections <= MAX_CONNECTIONS:
                    with anyio.move_on_after(REQUEST_S), suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                        status, text, found = await self._read(stream)
                        # A browser that does not wait for the page has brought the redirect all the same.
                        await stream.send(_response(status, text))
        finally:
            self._connections -= 1
            if found is not None:
                listener, redirected = found
                listener.arrive(redirected)
            if not self._connections:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no connection is open."""
        if self._connections:
            await self._idle.wait()

    async def _read(self, stream: SocketStream) -> tuple[int, str, "tuple[RedirectListener, str] | None"]:
        """Read a request; return the status and the text of its answer, and the sign-in whose redirect it is."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        try:
            request = await _head(connection, stream)
        except h11.RemoteProtocolError as exc:
            return exc.error_status_hint, "This request cannot be understood.", None
        if not self._is_own_host(request):
            return 421, "This address is only for the sign-in of a program on this machine.", None
        target = request.target.decode("latin-1")
        listener = self._callbacks.waiting_for(target) if request.method == b"GET" else None
        if listener is None or (target.partition("?")[0], self._port) != (listener._path, listener._port):
            return 404, "This is not the answer to a sign-in that is waiting.", None
        text = "The sign-in has an answer. You can close this window; the program goes on by itself."
        if "error" in (read_params(target) or {}):
            text = "The sign-in was not completed. You can close this window; the program says why."
        return 200, text, (listener, f"{listener._origin}{target}")

    def _is_own_host(self, request: h11.Request) -> bool:
        """Refuse names that an attacker's DNS points at this machine."""
        hosts = [value.decode("latin-1").lower() for name, value in request.headers if name == b"host"]
        port = "" if self._port == 80 else f":{self._port}"
        return len(hosts) == 1 and hosts[0] in {f"{name}{port}" for name in ("127.0.0.1", "localhost", "[::1]")}


async def _head(connection: h11.Connection, stream: SocketStream) -> h11.Request:
    """Read the head of a request.

    Raises:
        h11.RemoteProtocolError: it is malformed, or larger than allowed.
        ClosedResourceError: the connection ended before.
    """
    while True:
        match connection.next_event():
            case h11.Request() as request:
                return request
            case h11.NEED_DATA:
                try:
                    connection.receive_data(await stream.receive())
                except anyio.EndOfStream:
                    raise anyio.ClosedResourceError from None
            case _:
                raise anyio.ClosedResourceError


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
async def listening(
    server: str, redirect_uri: str, callbacks: Callbacks | None = None
) -> AsyncGenerator[RedirectListener]:
    """Listen at a redirect URI while the block runs. `localhost` is served on both stacks: a browser chooses.

    Args:
        server: name in the configuration, for errors.
        callbacks: the sign-ins of this process that may use the port at the same time; None: only this one.

    Raises:
        CallbackUnavailable: the port is in use, or not this user's to take.
    """
    parts = urlsplit(redirect_uri)
    port = parts.port or 80
    callbacks = Callbacks() if callbacks is None else callbacks
    listener = RedirectListener(redirect_uri, callbacks)
    failure: Exception | None = None
    async with AsyncExitStack() as stack:
        sockets: list[SocketListener] = []
        for address in ("127.0.0.1", "::1") if parts.hostname == "localhost" else (parts.hostname or "",):
            try:
                opened = stack.enter_context(callbacks.accepting(address, port))
            except OSError as exc:
                if sockets and exc.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue  # a machine without IPv6
                raise CallbackUnavailable(server, port, _why(exc)) from None
            sockets.append(await stack.enter_async_context(await SocketListener.from_socket(opened)))
        async with anyio.create_task_group() as handlers, anyio.create_task_group() as accepting:
            for each in sockets:
                accepting.start_soon(each.serve, listener.handle, handlers)
            try:
                yield listener
            except Exception as exc:  # noqa: BLE001 - raised below: from within the task group it would become a group
                failure = exc
            finally:
                callbacks.expect(listener, None)
            accepting.cancel_scope.cancel()
            if callbacks.has_others(listener):
                # A connection may be bringing the redirect of another sign-in at this moment.
                with anyio.move_on_after(LINGER_S):
                    await listener.wait_idle()
            handlers.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _why(exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        return "is in use"
    return f"cannot be listened at ({os.strerror(exc.errno).lower() if exc.errno is not None else 'no reason given'})"
