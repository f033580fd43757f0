"""The loopback redirect: one request ends the wait, and every other one changes nothing."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from asyncfc_mcp.downstream.oauth import redirect_listener
from asyncfc_mcp.downstream.oauth.failures import CallbackUnavailable, NobodySignedIn
from asyncfc_mcp.downstream.oauth.redirect_listener import MAX_CONNECTIONS, Callbacks, RedirectListener, listening

pytestmark = pytest.mark.anyio
STATE = "the-state"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


class Browser:
    """Sends bytes to the listener."""

    def __init__(self, listener: RedirectListener, port: int, host: str) -> None:
        self.listener, self.port, self.host = listener, port, host

    async def connect(self, address: str = "127.0.0.1") -> SocketStream:
        return await anyio.connect_tcp(address, self.port)

    async def send(self, raw: bytes, address: str = "127.0.0.1") -> bytes:
        async with await self.connect(address) as stream:
            await stream.send(raw)
            answer = b""
            while True:
                try:
                    answer += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return answer

    def request(self, target: str, method: str = "GET", host: str | None = None, more: str = "") -> bytes:
        host = f"{self.host}:{self.port}" if host is None else host
        return f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n{more}\r\n".encode()


@asynccontextmanager
async def browser(host: str = "127.0.0.1", state: str | None = STATE) -> AsyncGenerator[Browser]:
    port = free_port()
    with anyio.fail_after(10):
        async with listening("s", f"http://{host}:{port}/callback") as listener:
            if state is not None:
                listener.expect(state)
            yield Browser(listener, port, host)


async def test_the_redirect_is_returned_after_its_page_was_sent():
    """The page says to close the window, and has nothing of the address."""
    async with browser() as it:
        page = await it.send(it.request(f"/callback?code=secret-code&state={STATE}"))
        assert await it.listener.redirected() == f"http://127.0.0.1:{it.port}/callback?code=secret-code&state={STATE}"
    head, _, body = page.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    for header in (b"cache-control: no-store", b"content-security-policy: default-src 'none'", b"no-referrer"):
        assert header in head
    assert b"close this window" in body
    assert b"secret" not in page


async def test_an_error_has_a_page_too():
    """In words of ours: those of the redirect may be an attacker's."""
    async with browser() as it:
        page = await it.send(it.request(f"/callback?error=access_denied&error_description=<b>x&state={STATE}"))
        assert "error=access_denied" in await it.listener.redirected()
    assert b"was not completed" in page
    assert b"<b>" not in page
    assert b"access_denied" not in page


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda it: it.request("/callback?code=x&state=another"), b"404"),
        (lambda it: it.request("/callback?code=x"), b"404"),
        (lambda it: it.request("/callback"), b"404"),
        (lambda it: it.request("/favicon.ico"), b"404"),
        (lambda it: it.request(f"/callback/?code=x&state={STATE}"), b"404"),
        (lambda it: it.request(f"/other?code=x&state={STATE}"), b"404"),
        (lambda it: it.request(f"/callback?code=x&state={STATE}&state={STATE}"), b"404"),
        (lambda it: it.request(f"/callback?code=x&state={STATE}&pad={'x' * 17_000}"), b"404"),
        (lambda it: it.request(f"/callback?code=x&state={STATE}", "HEAD"), b"404"),
        (lambda it: it.request(f"/callback?code=x&state={STATE}", "OPTIONS"), b"404"),
        (lambda it: it.request(f"/callback?code=x&state={STATE}", "POST", more="content-length: 0\r\n"), b"404"),
        (lambda it: it.request(f"/callback?code=x&state={STATE}", host="evil.example"), b"421"),
        (lambda it: it.request(f"/callback?code=x&state={STATE}", host="localhost"), b"421"),
        (lambda it: it.request(f"/callback?code=x&state={STATE}", host=f"127.0.0.1.evil.example:{it.port}"), b"421"),
        (lambda it: it.request("/callback", more="host: localhost\r\n"), b"400"),
        (lambda it: b"GET /callback HTTP/1.0\r\n\r\n", b"421"),
        (lambda it: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (lambda it: it.request("/callback", more="content-length: 5\r\ncontent-length: 6\r\n"), b"400"),
    ],
)
async def test_every_other_request_changes_nothing(make: Callable[[Browser], bytes], status: bytes):
    """Any page in the browser can send one. The redirect still arrives after it."""
    async with browser() as it:
        answer = await it.send(make(it))
        assert answer.split(b" ")[1] == status
        with anyio.move_on_after(0):
            await it.listener.redirected()
            pytest.fail("it was taken for the redirect")
        await it.send(it.request(f"/callback?code=x&state={STATE}"))
        await it.listener.redirected()


async def test_an_endless_request_ends():
    """Its head is bounded."""
    async with browser() as it:
        async with await it.connect() as stream:
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                await stream.send(b"GET /callback HTTP/1.1\r\n" + b"x: " + b"y" * 10_000_000)
                while True:
                    assert b"200 OK" not in await stream.receive()
        await it.send(it.request(f"/callback?code=x&state={STATE}"))
        await it.listener.redirected()


async def test_nothing_is_taken_before_it_is_expected():
    """Without a sign-in there is no redirect, whatever its state."""
    async with browser(state=None) as it:
        for state in ("", "None", STATE):
            assert (await it.send(it.request(f"/callback?code=x&state={state}"))).split(b" ")[1] == b"404"


async def test_a_redirect_of_an_earlier_attempt_is_refused():
    """Each attempt has a state of its own."""
    async with browser() as it:
        it.listener.expect("second")
        assert (await it.send(it.request(f"/callback?code=x&state={STATE}"))).split(b" ")[1] == b"404"
        await it.send(it.request("/callback?code=y&state=second"))
        assert "code=y" in await it.listener.redirected()


async def test_silent_connections_do_not_keep_the_redirect_out(monkeypatch: pytest.MonkeyPatch):
    """Browsers open connections ahead; more than a few are closed, and each ends after a while."""
    monkeypatch.setattr(redirect_listener, "REQUEST_S", 0.2)
    async with browser() as it:
        silent = [await it.connect() for _ in range(MAX_CONNECTIONS + 4)]
        for stream in silent:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
            await stream.aclose()
        await it.send(it.request(f"/callback?code=x&state={STATE}"))
        await it.listener.redirected()


async def test_a_port_in_use_is_said_with_what_to_do():
    """In place of a browser that returns to another program."""
    async with browser() as it:
        with pytest.raises(CallbackUnavailable, match=f"port {it.port} .* is in use; .*callbackPort"):
            async with listening("s", f"http://127.0.0.1:{it.port}/callback"):
                pytest.fail("two listeners")


async def test_several_sign_ins_wait_at_one_port():
    """Each gets its own redirect, whatever connection brings it, and none ends the others."""
    port, callbacks = free_port(), Callbacks()
    arrived: dict[str, str] = {}
    ready = {name: anyio.Event() for name in "abc"}
    ended = {name: anyio.Event() for name in "abc"}

    async def wait(name: str, host: str, path: str) -> None:
        async with listening("s", f"http://{host}:{port}{path}", callbacks) as listener:
            listener.expect(f"state-{name}")
            ready[name].set()
            arrived[name] = await listener.redirected()
        ended[name].set()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for name, host, path in (("a", "127.0.0.1", "/x"), ("b", "127.0.0.1", "/y"), ("c", "localhost", "/x")):
                tasks.start_soon(wait, name, host, path)
                await ready[name].wait()
            it = Browser(RedirectListener("http://127.0.0.1/x", callbacks), port, "127.0.0.1")
            assert (await it.send(it.request("/y?code=1&state=state-a"))).split(b" ")[1] == b"404"
            for name, path in (("b", "/y"), ("a", "/x"), ("c", "/x")):
                assert (await it.send(it.request(f"{path}?code={name}&state=state-{name}"))).split(b" ")[1] == b"200"
                await ended[name].wait()
    assert arrived == {
        "a": f"http://127.0.0.1:{port}/x?code=a&state=state-a",
        "b": f"http://127.0.0.1:{port}/y?code=b&state=state-b",
        "c": f"http://localhost:{port}/x?code=c&state=state-c",
    }
    socket.create_server(("127.0.0.1", port)).close()


async def test_a_browser_that_does_not_wait_for_the_page_has_brought_the_redirect():
    """The window may be closed at once."""
    async with browser() as it:
        async with await it.connect() as stream:
            await stream.send(it.request(f"/callback?code=x&state={STATE}"))
            connection = stream.extra(SocketAttribute.raw_socket)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await it.listener.redirected()


async def test_localhost_is_served_on_both_stacks():
    """A browser chooses the address of the name."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    for address in ("127.0.0.1", "::1"):
        async with browser("localhost") as it:
            await it.send(it.request(f"/callback?code=x&state={STATE}"), address)
            assert (await it.listener.redirected()).startswith(f"http://localhost:{it.port}/callback?")


async def test_a_machine_without_ipv6_serves_the_other_stack(monkeypatch: pytest.MonkeyPatch):
    """As in many containers."""
    create = socket.create_server

    def without_ipv6(address: tuple[str, int], **options: object) -> socket.socket:
        if address[0] == "::1":
            raise OSError(errno.EADDRNOTAVAIL, "no")
        return create(address)

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    async with browser("localhost") as it:
        await it.send(it.request(f"/callback?code=x&state={STATE}"))
        await it.listener.redirected()


async def test_the_port_is_free_after_the_sign_in_and_its_error_is_its_own():
    """Not a group, which a caller would not catch."""
    port = free_port()
    for _ in range(2):
        with pytest.raises(NobodySignedIn):
            async with listening("s", f"http://127.0.0.1:{port}/callback"):
                raise NobodySignedIn("s", 60)
