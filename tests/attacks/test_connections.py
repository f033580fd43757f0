"""Clients before the token: silent, slow, refused, ambiguous. Nobody waits for them, and nothing stays open."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from tests.support import hostile
from tests.support.client import MODERN, eventually
from tests.support.http_client import HttpWire
from tests.support.stage import HttpBridge, Stage

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
    print(f"{used:.2f} s of CPU")
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


@pytest.mark.parametrize("megabytes", [4, pytest.param(25, marks=pytest.mark.attacks_long)])
@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_ends_the_connection(stage: Stage, kind: str, megabytes: int):
    """Chunks of one byte after it: 25 MB of them once cost 24 s of CPU."""
    bridge = guarded(stage)
    with cpu_below(bridge, CPU_S), opened(bridge) as sock:
        sock.sendall((REFUSED[kind] + "Transfer-Encoding: chunked\r\n\r\n").encode())
        said = b""
        chunks = b"1\r\nx\r\n" * 10_000
        with suppress(OSError):
            for _ in range(megabytes * 1_000_000 // len(chunks)):
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


def body_of(tool: str, number: int = 1) -> str:
    envelope = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
    params = {"name": tool, "arguments": {"text": "x" * 100_000}, "_meta": envelope}
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})


def called(tool: str) -> bytes:
    """A whole request of 2026-07-28 with a large argument, which comes back."""
    body = body_of(tool)
    headers = f"Mcp-Protocol-Version: {MODERN}\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n"
    return f"{HEAD}Host: 127.0.0.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}".encode()


HELD: dict[str, bytes] = {
    "silent": b"",
    "half a head": b"POST /mcp HTTP/1.1\r\nHost: 127.0",
    "a slow body": (HEAD + "Host: 127.0.0.1\r\nContent-Length: 60000000\r\n\r\n{").encode(),
    "refused": b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 60000000\r\n\r\n{",
    "answered, with more to come": b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n{",
}


@pytest.fixture
def many_sockets() -> Iterator[None]:
    """The test itself may hold 4,000."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4000 if hard == resource.RLIM_INFINITY else min(4000, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.attacks_long
def test_the_descriptors_of_the_machine_bound_connections(stage: Stage, many_sockets: None):
    """With 256 of them, at most half are connections, whatever is set: 1,200 connections of five kinds at once neither
    keep out a client that has one, nor a new one. All come back: those that are closed, and those that are not."""
    bridge = guarded(
        stage, descriptors=256, header_timeout_s=6, body_timeout_s=6, idle_timeout_s=60, max_connections=100_000
    )
    process = psutil.Process(bridge.process.pid)
    before = process.num_fds()
    with ExitStack() as stack:
        for number in range(1200):
            sock = stack.enter_context(opened(bridge))
            with suppress(OSError):
                sock.sendall(list(HELD.values())[number % len(HELD)])
            if number % 300 == 299:
                bridge.client(headers=RIGHT).wait_for_tools("bad__give")
                assert process.num_fds() < 200
        eventually(lambda: process.num_fds() < before + 15, "connections that are left open are closed", seconds=30)
        bridge.client(headers=RIGHT).wait_for_tools("bad__give")
    assert "Too many open files" not in bridge.stderr()
    assert "Traceback" not in bridge.stderr()


@pytest.mark.parametrize("pipelined", [1, 40])
def test_answers_that_are_not_read_are_dropped(stage: Stage, pipelined: int):
    """4 MB for each connection, or as little as the system's buffers leave over: its end is not waited for."""
    bridge = guarded(stage, body_timeout_s=2, idle_timeout_s=2, max_connections=60, mode="sync", grace_ms=0)
    client = bridge.client(headers=RIGHT)
    client.wait_for_tools("bad__give")
    process = psutil.Process(bridge.process.pid)
    before = process.num_fds()
    with ExitStack() as stack:
        for _ in range(30):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.connect(("127.0.0.1", bridge.port))
            sock.settimeout(1)
            with suppress(OSError):
                sock.sendall(called("bad__give") * pipelined)
        assert bridge.get("/healthz")[0] == 200
        eventually(lambda: process.num_fds() < before + 10, "their connections are reset", seconds=40)
        client.wait_for_tools("bad__give")


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
def test_streams_hold_their_places_and_give_them_back(stage: Stage, path: str):
    """As many as there may be connections; who comes then is told at once, and served as soon as one has gone."""
    bridge = guarded(stage, max_connections=40)
    client = bridge.client(headers=RIGHT)
    process = psutil.Process(bridge.process.pid)
    before = process.num_fds()
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nAccept: text/event-stream\r\n"
    with ExitStack() as stack:
        streams: list[socket.socket] = []
        for _ in range(40):
            session = f"Mcp-Session-Id: {bridge.client(headers=RIGHT).session}\r\n" if path == "/mcp" else ""
            sock = stack.enter_context(opened(bridge))
            sock.sendall(f"{head}{session}\r\n".encode())
            assert b"200 OK" in sock.recv(65536)
            streams.append(sock)
        started = time.monotonic()
        assert bridge.get("/healthz")[0] == 503
        assert time.monotonic() - started < 2
        streams.pop().close()
        eventually(lambda: bridge.get("/healthz")[0] == 200, "one place is free")
    eventually(lambda: process.num_fds() < before + 10, "the descriptors come back")
    client.wait_for_tools("bad__give")


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
    "length-equal": [("Content-Length", "2"), ("Content-Length", "2")],
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


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 2\r\nContent-Length: 2\r\n",
        "Content-Length: 2, 2\r\n",
        "Content-Length: +2\r\n",
        "Content-Length:\r\n 2\r\n",
        "Content-Length : 2\r\n",
        "X: y\nContent-Length: 2\r\n",
        "X: a\0b\r\nContent-Length: 2\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: identity\r\nContent-Length: 2\r\n",
        "Transfer-Encoding: identity\r\n",
    ],
)
def test_a_request_behind_one_of_bad_framing_is_not_read(stage_of_module: HttpBridge, headers: str):
    """One answer, 400, and the end. `test_http_framing` has all kinds of bad framing."""
    good = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    with opened(stage_of_module) as sock:
        sock.sendall((HEAD + "Host: 127.0.0.1\r\n" + headers + "\r\n{}" + good).encode())
        said = answer(sock)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1") == 1
    assert b"connection: close" in said


@pytest.mark.parametrize("expects", ["", "Expect: 100-continue\r\n"])
@pytest.mark.parametrize("kind", [each for each in REFUSED if each != "token-get"])
def test_a_request_behind_a_refused_one_is_not_read(stage_of_module: HttpBridge, kind: str, expects: str):
    """Whole or not, and nobody is asked to go on with what was refused."""
    good = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    with opened(stage_of_module) as sock:
        head = f"{REFUSED[kind]}{expects}Content-Length: 1000\r\n\r\n".encode()
        sock.sendall(head + b"x" * 500)
        said = sock.recv(65536)
        with suppress(OSError):
            sock.sendall(b"x" * 500 + good)
        said += answer(sock)
    assert said.split()[1] in (b"401", b"403", b"404", b"405", b"421"), said[:100]
    assert said.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        ("", "A: b\r\n"),
        ("X: ", "y"),
        ("Transfer-Encoding: chunked\r\n\r\n5;", "x"),
        ("Transfer-Encoding: chunked\r\n\r\n", "5;" + "x" * 500 + "\r\nhello\r\n"),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\n", "A: b\r\n"),
        ("Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", "y"),
    ],
    ids=["headers", "header", "extension", "extensions", "trailers", "trailer"],
)
def test_what_never_ends_costs_nobody_anything(stage_of_module: HttpBridge, begin: str, more: str):
    """25 MB of what is not counted as a body, with the token."""
    client = stage_of_module.client(headers=RIGHT)
    quiet = hostile.baseline(client)
    flood = (more * (100_000 // len(more))).encode()
    with hostile.pulse(client) as measured, cpu_below(stage_of_module, 2 * CPU_S), opened(stage_of_module) as sock:
        sock.sendall(f"{HEAD}Host: 127.0.0.1\r\n{begin}".encode())
        with suppress(OSError):
            for _ in range(250):
                sock.sendall(flood)
        said = answer(sock)
    assert said == b"" or said.startswith(b"HTTP/1.1 400 ")
    hostile.assert_steady(measured, quiet)


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
