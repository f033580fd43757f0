"""HTTPS of a real bridge: what crosses it, whom it refuses, and that its limits hold from the first byte on."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.support.certificates import Certificate, self_signed
from tests.support.client import HANDSHAKE, MODERN, eventually, text_of
from tests.support.process_servers import big_text
from tests.support.stage import HttpBridge, Stage

ERAS = pytest.mark.parametrize("era", [HANDSHAKE, MODERN])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def bridge(shared_stage: Stage, certificate: Certificate) -> HttpBridge:
    """A bridge with TLS, limits that a test can reach, and SSE."""
    servers = {"toy": {**shared_stage.toy(), "asyncfc": {"prefix": ""}}}
    options = ("--sse", *certificate.options)
    context = certificate.context()
    bridge = shared_stage.http_bridge(
        servers, *options, context=context, grace_ms=0, max_connections=20, header_timeout_s=2
    )
    client = bridge.client()
    client.wait_for_tools("echo")
    client.close()
    return bridge


def closed(sock: socket.socket) -> bool:
    """Whether the other side closes it, within the time limit of the socket."""
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(65536):
            pass
    return True


@ERAS
def test_calls_and_large_results_cross_tls(bridge: HttpBridge, era: str):
    """Of some megabytes, in requests and results, unchanged."""
    client = bridge.client(era=era)
    text = big_text(6 << 20)
    future = client.submit("echo", {"text": text}).id
    assert json.loads(text_of(client.outcome(future))) == {"text": text}
    client.close()


@pytest.mark.anyio
async def test_a_client_of_the_sdk_connects(bridge: HttpBridge, certificate: Certificate):
    """Streamable HTTP over HTTPS, with the certificate verified."""
    async with (
        httpx2.AsyncClient(verify=certificate.context()) as http,
        Client(streamable_http_client(f"{bridge.base}/mcp", http_client=http)) as client,
    ):
        assert "echo" in {tool.name for tool in (await client.list_tools()).tools}


def test_an_event_stream_stays_open(bridge: HttpBridge, certificate: Certificate):
    """HTTP+SSE, byte by byte as it is written."""
    with (
        socket.create_connection(("127.0.0.1", bridge.port), timeout=20) as raw,
        certificate.context().wrap_socket(raw, server_hostname="localhost") as sock,
    ):
        sock.sendall(b"GET /sse HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        found = b""
        while b"session_id=" not in found:
            found += sock.recv(65536)
        assert b"200 OK" in found
        sock.settimeout(3)
        with pytest.raises(TimeoutError):
            sock.recv(1)


def test_old_versions_and_plain_http_are_refused(bridge: HttpBridge, certificate: Certificate):
    """TLS 1.2 is the oldest; who speaks no TLS is disconnected."""
    for version, good in (("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)):
        context = certificate.context()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            if version == "TLSv1_1":
                context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion[version]
        if version == "TLSv1_1":
            context.set_ciphers("ALL:@SECLEVEL=0")
        with (
            socket.create_connection(("127.0.0.1", bridge.port), timeout=20) as raw,
            contextlib.nullcontext() if good else pytest.raises(ssl.SSLError),
        ):
            with context.wrap_socket(raw, server_hostname="localhost") as sock:
                assert sock.version() == version.replace("_", ".")
    with socket.create_connection(("127.0.0.1", bridge.port), timeout=20) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = plain.recv(65536)
        assert b"HTTP" not in answer
        assert closed(plain)
    assert bridge.get("/healthz")[0] == 200


def test_a_handshake_has_the_time_of_a_head(bridge: HttpBridge):
    """A connection that says nothing, or stops within its handshake, is closed."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        silent, half = (
            stack.enter_context(socket.create_connection(("127.0.0.1", bridge.port), timeout=20)) for _ in range(2)
        )
        half.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert closed(silent)
        assert closed(half)
    assert 1 <= time.monotonic() - began < 15


def test_connections_count_before_their_handshake(bridge: HttpBridge):
    """More silent ones than the limit: each new one takes the place of one of them, and clients get in."""
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", bridge.port), timeout=20))
        for _ in range(3):
            assert bridge.get("/healthz")[0] == 200


def test_a_client_that_vanishes_is_forgotten(bridge: HttpBridge, certificate: Certificate):
    """Without a last record, within a request, or with data that is no record."""
    for data in (b"", b"POST /mcp HTTP/1.1\r\n"):
        raw = socket.create_connection(("127.0.0.1", bridge.port), timeout=20)
        sock = certificate.context().wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=True)
        sock.sendall(data)
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
        sock.close()
    with (
        socket.create_connection(("127.0.0.1", bridge.port), timeout=20) as raw,
        certificate.context().wrap_socket(raw, server_hostname="localhost") as sock,
    ):
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"200 OK" in sock.recv(65536)
        assert closed(sock)
    assert bridge.get("/healthz")[0] == 200
    assert "Traceback" not in bridge.stderr()


def test_files_that_cannot_be_used_are_refused_with_words(stage: Stage, tmp_path: Path):
    """Missing, mismatched, encrypted, exchanged: nothing is started."""
    one, other = self_signed(tmp_path, "one"), self_signed(tmp_path, "other")
    secret = self_signed(tmp_path, "secret", password=b"hunter2")
    cases = {
        ("--tls-cert", str(one.certificate)): "--tls-key is missing",
        ("--tls-key", str(one.key)): "--tls-cert is missing",
        ("--tls-cert", str(one.certificate), "--tls-key", str(other.key)): "is not the key",
        ("--tls-cert", str(one.key), "--tls-key", str(one.certificate)): "contains no certificate",
        ("--tls-cert", str(one.certificate), "--tls-key", str(one.certificate)): "contains no private key",
        ("--tls-cert", str(tmp_path / "nothing"), "--tls-key", str(one.key)): "cannot be read",
        secret.options: "is encrypted",
    }
    for options, words in cases.items():
        ran = stage.run("serve", "--transport", "http", "--port", "0", *options, "--", sys.executable, "-c", "pass")
        assert ran.code == 2, options
        assert words in ran.stderr, options
        assert "Traceback" not in ran.stderr


def test_a_renewed_certificate_is_used_without_a_restart(stage: Stage, tmp_path: Path):
    """For new connections; files that do not fit together change nothing."""
    one, other = self_signed(tmp_path, "one"), self_signed(tmp_path, "other")
    servers = {"toy": {**stage.toy(), "asyncfc": {"prefix": ""}}}
    bridge = stage.http_bridge(servers, *one.options, context=one.context())
    one.key.write_bytes(other.key.read_bytes())
    eventually(lambda: "was not renewed" in bridge.stderr(), "it is reported")
    assert bridge.get("/healthz")[0] == 200
    one.certificate.write_bytes(other.certificate.read_bytes())
    bridge = replace(bridge, context=other.context())

    def renewed() -> bool:
        with contextlib.suppress(ssl.SSLError):
            return bridge.get("/healthz")[0] == 200
        return False

    eventually(renewed, "the other certificate is used")


def test_tls_needs_http(stage: Stage, tmp_path: Path):
    """Over stdio there is nobody to hide from."""
    ran = stage.run("serve", *self_signed(tmp_path).options, "--", sys.executable, "-c", "pass")
    assert ran.code == 2
    assert "needs --transport http" in ran.stderr
