"""Clients before the token: silent, slow, refused, ambiguous. Nobody waits for them, and nothing stays open."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest
from e2e.harness import HttpBridge, HttpWire, Stage, eventually

from attacks import hostile

SERVER = hostile.__file__
TOKEN = "s3cret"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
HEAD = f"POST /mcp HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nAccept: */*\r\n"
"""Of a request without its `Host`, so that tests can choose it."""
CPU_S = 2.0
"""CPU time that no attack of strangers may cost; what it cost before is in the tests."""


def guarded(stage: Stage, **settings: object) -> HttpBridge:
    """A bridge with a token, on `/mcp` and `/sse`."""
    entry = stage.entry(sys.executable, SERVER, hostile.listing(stage.folder, [hostile.tool("give")]), stage.mark)
    options = ("--sse", "--auth-token-env", "T")
    return stage.http_bridge({"bad": entry}, *options, env={"T": TOKEN}, **settings)


def opened(bridge: HttpBridge) -> socket.socket:
    return socket.create_connection(("127.0.0.1", bridge.port), timeout=20)


def answer(sock: socket.socket) -> bytes:
    """Everything until the other side closes. Fails where it does not."""
    found = b""
    with suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            found += chunk
    return found


@contextmanager
def cpu_below(bridge: HttpBridge, seconds: float) -> Iterator[None]:
    process = psutil.Process(bridge.process.pid)
    before = sum(process.cpu_times()[:2])
    yield
    used = sum(process.cpu_times()[:2]) - before
    assert used < seconds, f"{used:.1f} s of CPU"


REFUSED = {
    "token": "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "token-sse": "POST /messages/?session_id=x HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "token-get": "GET /sse HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "host": HEAD + "Host: evil.example\r\n",
    "origin": HEAD + "Host: 127.0.0.1\r\nOrigin: http://evil.example\r\n",
    "method": f"PUT /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n",
    "path": f"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_ends_the_connection(stage: Stage, kind: str):
    """25 MB of chunks of one byte after it: once 24 s of CPU."""
    bridge = guarded(stage)
    with cpu_below(bridge, CPU_S), opened(bridge) as sock:
        sock.sendall((REFUSED[kind] + "Transfer-Encoding: chunked\r\n\r\n").encode())
        said = b""
        chunks = b"1\r\nx\r\n" * 10_000
        with suppress(OSError):
            for _ in range(70):
                sock.sendall(chunks)
        said = answer(sock)
    assert said.split()[1] in (b"401", b"403", b"404", b"405", b"421"), said[:100]
    assert b"connection: close" in said.lower()


def test_chunks_of_one_byte_with_the_token_are_refused(stage: Stage):
    """h11 would spend seconds on them; a body in chunks of a sensible size is taken."""
    bridge = guarded(stage)
    client = bridge.client(headers=RIGHT)
    quiet = hostile.baseline(client)
    with hostile.pulse(client) as measured, cpu_below(bridge, 2 * CPU_S), opened(bridge) as sock:
        sock.sendall((HEAD + "Host: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n").encode())
        with suppress(OSError):
            for _ in range(400):
                sock.sendall(b"1\r\nx\r\n" * 10_000)
        said = answer(sock)
    assert b" 400 " in said[:20]
    hostile.assert_steady(measured, quiet)


@pytest.mark.parametrize(
    "half", [b"", b"POST /mcp HTTP/1.1\r\nHost: 127.0", b"GET /sse HT"], ids=["silent", "post", "get"]
)
def test_silent_connections_are_closed_and_keep_nobody_out(stage: Stage, half: bytes):
    """1,200 of them took all descriptors for good."""
    bridge = guarded(stage, header_timeout_s=3, max_connections=200)
    process = psutil.Process(bridge.process.pid)
    before = process.num_fds()
    with ExitStack() as stack:
        for _ in range(400):
            sock = stack.enter_context(opened(bridge))
            with suppress(OSError):
                sock.sendall(half)
        started = time.monotonic()
        assert bridge.get("/healthz")[0] == 200
        assert time.monotonic() - started < 2
        assert process.num_fds() < before + 230
        bridge.client(headers=RIGHT).wait_for_tools("bad__give")
        eventually(lambda: process.num_fds() < before + 15, "silent connections are closed", seconds=15)


def test_the_descriptors_of_the_machine_bound_connections(stage: Stage):
    """With 256 descriptors, at most half of them are connections, whatever is set."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            bridge = guarded(stage, header_timeout_s=60, max_connections=100_000)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(400):
            stack.enter_context(opened(bridge)).settimeout(5)
        bridge.client(headers=RIGHT).wait_for_tools("bad__give")
        assert psutil.Process(bridge.process.pid).num_fds() < 200
    assert "Too many open files" not in bridge.stderr()


def test_a_body_that_stands_still_or_trickles_is_ended(stage: Stage):
    """One byte now and then keeps no connection."""
    bridge = guarded(stage, body_timeout_s=2)
    for trickle in (False, True):
        with opened(bridge) as sock:
            sock.sendall((HEAD + "Host: 127.0.0.1\r\nContent-Length: 60000000\r\n\r\n").encode())
            started = time.monotonic()
            sock.settimeout(0.2)
            said = b""
            while time.monotonic() < started + 10:
                with suppress(TimeoutError):
                    said = sock.recv(65536)
                    break
                if trickle:
                    sock.sendall(b"x")
            assert b" 408 " in said[:20]
            assert 1.5 < time.monotonic() - started


def test_streams_and_waits_are_not_idle(stage: Stage):
    """All time limits are short, and a stream of events outlives them."""
    bridge = guarded(stage, header_timeout_s=1, body_timeout_s=1, idle_timeout_s=1)
    client = bridge.client(headers=RIGHT)
    with opened(bridge) as sock:
        head = f"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nAccept: text/event-stream\r\n"
        sock.sendall(f"{head}Mcp-Session-Id: {client.session}\r\n\r\n".encode())
        assert b"200 OK" in sock.recv(65536)
        started = time.monotonic()
        sock.settimeout(1)
        while time.monotonic() < started + 4:
            with suppress(TimeoutError):
                assert sock.recv(65536), "the stream was closed"


AMBIGUOUS = {
    "authorization": [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer wrong")],
    "authorization-last": [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {TOKEN}")],
    "host": [("Host", "127.0.0.1"), ("Host", "evil.example")],
    "length": [("Content-Length", "2"), ("Content-Length", "3")],
    "session": [("Mcp-Session-Id", "a"), ("Mcp-Session-Id", "b")],
    "origin": [("Origin", "http://127.0.0.1"), ("Origin", "http://evil.example")],
    "framing": [("Content-Length", "2"), ("Transfer-Encoding", "chunked")],
    "framing-reversed": [("Transfer-Encoding", "chunked"), ("Content-Length", "2")],
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
@pytest.mark.parametrize("target", ["POST /mcp", "POST /messages/?session_id=x", "GET /sse", "GET /healthz", "POST /x"])
def test_headers_that_two_readers_may_take_differently_are_refused(stage_of_module: HttpBridge, target: str, kind: str):
    """On every path alike, with 400 and the end of the connection."""
    given = AMBIGUOUS[kind]
    names = {name for name, _ in given}
    usual = [("Host", "127.0.0.1"), ("Authorization", f"Bearer {TOKEN}"), ("Content-Type", "application/json")]
    headers = [*given, *(header for header in usual if header[0] not in names), ("Accept", "*/*")]
    if not names & {"Content-Length", "Transfer-Encoding"}:
        headers.append(("Content-Length", "2"))
    lines = [f"{target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    with opened(stage_of_module) as sock:
        sock.sendall("\r\n".join(lines).encode() + (b"2\r\n{}\r\n0\r\n\r\n" if "framing" in kind else b"{}"))
        said = answer(sock)
    assert b" 400 " in said[:20], said[:200]
    assert said.count(b"HTTP/1.1") == 1
    assert b"connection: close" in said.lower()


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50 + b"\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /mcp HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\nzz\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGARBAGE\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 50 + b"\0\0\0\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /mcp HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
    b"\r\n" * 1000,
]


@pytest.mark.parametrize("index", range(len(GARBAGE)))
def test_garbage_leaves_no_traceback(stage_of_module: HttpBridge, index: int):
    """Nor anything else on stderr, and the next client is served."""
    said = len(stage_of_module.stderr())
    with opened(stage_of_module) as sock, suppress(OSError):
        sock.sendall(GARBAGE[index])
        sock.shutdown(socket.SHUT_WR)
        answer(sock)
    assert stage_of_module.get("/healthz")[0] == 200
    assert stage_of_module.stderr()[said:] == ""


@pytest.fixture(scope="module")
def stage_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpBridge]:
    with Stage(tmp_path_factory.mktemp("connections")) as stage:
        bridge = guarded(stage)
        eventually(lambda: "see inspect" in bridge.stderr(), "the bridge has said what it says at its start")
        yield bridge


def test_a_client_may_keep_its_connection(stage_of_module: HttpBridge):
    """What is answered keeps it, errors of JSON-RPC included."""
    wire = HttpWire(f"{stage_of_module.base}/mcp", headers=RIGHT).open()
    with opened(stage_of_module) as sock:
        body = b'{"jsonrpc":"2.0","id":1,"method":"no/such"}'
        head = f"{HEAD}Host: 127.0.0.1\r\nContent-Length: {len(body)}\r\nMcp-Session-Id: {wire.session}\r\n\r\n"
        for _ in range(3):
            sock.sendall(head.encode() + body)
            said = b""
            while b"-32601" not in said or not said.endswith(b"\r\n\r\n"):
                more = sock.recv(65536)
                assert more
                said += more
                if b"application/json" in said and b"-32601" in said:
                    break
            assert b"connection: close" not in said.lower()
