"""Who may use a real bridge over HTTP: persons of a file, subjects of an authorization server, proxies' clients."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.support.certificates import self_signed
from tests.support.client import HANDSHAKE, MODERN, RpcError, eventually, records
from tests.support.http_client import HttpWire
from tests.support.stage import HttpBridge, Stage
from tests.support.token_issuer import TokenIssuer, serving

ERAS = pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
RESOURCE = "https://bridge.example/mcp"


def toy(stage: Stage) -> dict[str, object]:
    return {"toy": {**stage.toy(), "asyncfc": {"prefix": ""}}}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def new_token(stage: Stage, name: str, *options: str) -> tuple[str, str]:
    """A token and its line, of the command."""
    ran = stage.run("token", name, *options)
    assert ran.code == 0
    token = ran.stderr.strip().rpartition(" ")[2]
    assert token.startswith("afc_")
    assert token not in ran.stdout
    return token, ran.stdout


def status_of(bridge: HttpBridge, token: str | None, method: str = "tools/list", **headers: str) -> int:
    wire = HttpWire(f"{bridge.base}/mcp", era=MODERN, headers={**({} if token is None else bearer(token)), **headers})
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta}}
    return wire.exchange("POST", body, wire._session_headers(method, {}))[0]


@contextlib.contextmanager
def client(bridge: HttpBridge, token: str, era: str = HANDSHAKE) -> Iterator[HttpWire]:
    wire = bridge.client(era=era, headers=bearer(token))
    try:
        yield wire
    finally:
        wire.close()


@ERAS
def test_persons_share_a_bridge_and_nothing_else(stage: Stage, era: str):
    """Futures are each person's own, and those of the common token nobody's but its holders'."""
    (alice, hers), (bob, his) = new_token(stage, "alice"), new_token(stage, "bob")
    file = stage.folder / "tokens.toml"
    file.write_text(hers + his)
    file.chmod(0o600)
    options = ("--auth-tokens", str(file), "--auth-token-env", "T")
    bridge = stage.http_bridge(toy(stage), *options, env={"T": "common"}, grace_ms=0)
    assert status_of(bridge, None) == status_of(bridge, "wrong") == 401
    found: dict[str, list[str]] = {}
    for token in (alice, bob, "common"):
        with client(bridge, token, era) as wire:
            wire.wait_for_tools("echo")
            wire.submit("echo", {"text": token})
            found[token] = [each["future_id"] for each in records(wire.call("list_futures"))]
    assert list(found.values()) == [["f1"]] * 3
    assert not [token for token in (alice, bob, "common") if token in bridge.stderr()]


@ERAS
def test_each_person_sees_what_is_allowed_and_has_a_rate_of_its_own(stage: Stage, era: str):
    """`access` and `max_requests_per_s` of a configuration; entries for nobody are a warning at the start."""
    (alice, hers), (bob, his) = new_token(stage, "alice"), new_token(stage, "bob", "--scope", "ops")
    file = stage.folder / "tokens.toml"
    file.write_text(hers + his)
    file.chmod(0o600)
    servers = {**toy(stage), "second": {**stage.toy(), "asyncfc": {"prefix": "second_"}}}
    access = {"alice": {"allow": ["toy"], "deny": ["*/sleep"]}, "scope:ops": {"allow": ["second/echo"]}, "carol": {}}
    bridge = stage.http_bridge(servers, "--auth-tokens", str(file), access=access, max_requests_per_s=5)
    with client(bridge, alice, era) as wire:
        names = wire.wait_for_tools("echo")
        assert not [name for name in names if name == "sleep" or name.startswith("second")]
        assert "hers" in str(wire.call("echo", {"text": "hers", "_wait": "this"}))
        for tool in ("sleep", "second_echo", "none"):
            with pytest.raises(RpcError, match=f"Unknown tool: {tool}"):
                wire.request("tools/call", {"name": tool, "arguments": {}})
    with client(bridge, bob, era) as wire:
        assert [name for name in wire.wait_for_tools("second_echo") if "echo" in name] == ["second_echo"]
        assert "his" in str(wire.call("second_echo", {"text": "his", "_wait": "this"}))
    statuses = [status_of(bridge, alice) for _ in range(200)]
    assert statuses.count(429) > 50
    assert status_of(bridge, bob) == 200
    assert "carol: no principal of that name" in bridge.stderr()


def test_who_is_removed_is_out_at_once(stage: Stage):
    """An open event stream ends, and the session with it; a new line lets somebody in without a restart."""
    (alice, hers), (bob, his) = new_token(stage, "alice"), new_token(stage, "bob")
    file = stage.folder / "tokens.toml"
    file.write_text(hers)
    file.chmod(0o600)
    bridge = stage.http_bridge(toy(stage), "--sse", "--auth-tokens", str(file))
    with client(bridge, alice) as wire, contextlib.ExitStack() as stack:
        streams = [stack.enter_context(socket.create_connection(("127.0.0.1", bridge.port), timeout=20)) for _ in "ab"]
        session = f"Mcp-Session-Id: {wire.session}\r\nMcp-Protocol-Version: {HANDSHAKE}\r\n"
        for stream, path, more in ((streams[0], "/mcp", session), (streams[1], "/sse", "")):
            head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {alice}\r\n"
            stream.sendall(f"{head}Accept: text/event-stream\r\n{more}\r\n".encode())
            assert b"200 OK" in stream.recv(65536)
        file.write_text(his)
        for stream in streams:
            while stream.recv(65536):
                pass
        eventually(lambda: status_of(bridge, alice) == 401, "alice is refused")
        assert status_of(bridge, bob) == 200
        file.write_text(hers)
        eventually(lambda: status_of(bridge, alice) == 200, "alice is back")
        body = {"jsonrpc": "2.0", "id": 9, "method": "tools/list"}
        assert wire.exchange("POST", body, wire._session_headers("tools/list", {}))[0] == 404
        wire.session = None
    assert "Traceback" not in bridge.stderr()


def test_scopes_are_required_over_sse(stage: Stage):
    """With the status 403, for the stream and for a posted message."""
    little, line = new_token(stage, "alice", "--scope", "mcp")
    nothing, other = new_token(stage, "bob", "--scope", "x")
    file = stage.folder / "tokens.toml"
    file.write_text(line + other)
    file.chmod(0o600)
    scopes = {"*": ["mcp"], "tools/call": ["mcp:call"]}
    bridge = stage.http_bridge(toy(stage), "--sse", "--auth-tokens", str(file), required_scopes=scopes)
    assert bridge.get("/sse", bearer(nothing))[0] == 403
    with socket.create_connection(("127.0.0.1", bridge.port), timeout=20) as stream:
        stream.sendall(f"GET /sse HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {little}\r\n\r\n".encode())
        said = b""
        while b"session_id=" not in said:
            said += stream.recv(65536)
        path = said.partition(b"data: ")[2].split()[0].decode()
        wire = HttpWire(bridge.base + path, headers=bearer(little))
        call = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "echo", "arguments": {}}}
        status, headers, data = wire.exchange("POST", call)
        assert status == 403
        assert 'scope="mcp mcp:call"' in headers["www-authenticate"]
        assert json.loads(data)["id"] == 5
        assert wire.exchange("POST", {"jsonrpc": "2.0", "id": 6, "method": "ping"})[0] == 202
        assert wire.exchange("POST", ["ping"])[0] == 400


@pytest.fixture(scope="module")
def issuer() -> Iterator[TokenIssuer]:
    with serving(TokenIssuer()) as made:
        yield made


@ERAS
def test_subjects_of_an_authorization_server_are_principals(stage: Stage, issuer: TokenIssuer, era: str):
    """By tokens for this bridge only, whose address is the public one."""
    options = ("--auth-jwt", issuer.url, "--public-url", RESOURCE)
    bridge = stage.http_bridge(toy(stage), *options, grace_ms=0, required_scopes={"tools/call": ["mcp"]})
    for subject in ("alice", "bob"):
        with client(bridge, issuer.token(sub=subject, aud=RESOURCE), era) as wire:
            wire.wait_for_tools("echo")
            wire.submit("echo", {"text": subject})
            assert [each["future_id"] for each in records(wire.call("list_futures"))] == ["f1"]
    for wrong in (
        issuer.token(aud="https://other.example"),
        issuer.token(exp=1),
        TokenIssuer(issuer.url).token(aud=RESOURCE),
    ):
        assert status_of(bridge, wrong) == 401
    assert status_of(bridge, issuer.token(aud=RESOURCE, scope="other"), "tools/call") == 403
    status, body = bridge.get("/.well-known/oauth-protected-resource/mcp")
    assert status == 200
    assert json.loads(body)["resource"] == RESOURCE
    assert json.loads(body)["authorization_servers"] == [issuer.url]
    assert "Traceback" not in bridge.stderr()


@pytest.mark.anyio
async def test_a_client_of_the_sdk_uses_a_token_over_tls(stage: Stage, issuer: TokenIssuer, tmp_path: Path):
    """The audience is the address of the bridge itself."""
    certificate = self_signed(tmp_path)
    options = ("--auth-jwt", issuer.url, *certificate.options)
    bridge = stage.http_bridge(toy(stage), *options, context=certificate.context())
    token = issuer.token(aud=f"{bridge.base}/mcp")
    async with (
        httpx2.AsyncClient(verify=certificate.context(), headers=bearer(token)) as http,
        Client(streamable_http_client(f"{bridge.base}/mcp", http_client=http)) as sdk,
    ):
        result = await sdk.call_tool("list_futures", {})
        assert not result.is_error


def test_a_server_that_is_down_at_the_start_does_not_keep_the_bridge_from_starting(stage: Stage):
    """Requests get 503 until it is there; then the same token gets in."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    made = TokenIssuer(f"http://127.0.0.1:{port}")
    bridge = stage.http_bridge(toy(stage), "--auth-jwt", made.url, "--audience", "me")
    assert status_of(bridge, made.token(aud="me")) == 503
    said = bridge.stderr()
    assert "cannot be fetched: http" in said
    assert "cannot be reached (" in said
    assert "ConnectError" not in said
    with serving(made, port):
        eventually(lambda: status_of(bridge, made.token(aud="me")) == 200, "the token gets in")


def test_options_that_contradict_each_other_are_refused_with_words(stage: Stage):
    """Before anything is started."""
    file = stage.folder / "tokens.toml"
    file.write_text('alice = "afc_plain"\n')
    http = ("--transport", "http", "--port", "0")
    cases = {
        ("--auth-tokens", str(file)): "needs --transport http",
        ("--auth-jwt", "https://login.example"): "needs --transport http",
        ("--public-url", "https://b.example/mcp"): "needs --transport http",
        ("--forwarded-allow-ips", "*"): "needs --transport http",
        ("--port", "8642"): "--port needs --transport http",
        ("--host", "127.0.0.1"): "--host needs --transport http",
        ("--sse",): "--sse needs --transport http",
        ("--insecure-no-auth",): "--insecure-no-auth needs --transport http",
        (*http, "--auth-tokens", str(file)): "no hash of a token for alice",
        (*http, "--auth-tokens", str(file) + "x"): "cannot be read",
        (*http, "--auth-jwt", "http://login.example"): "cannot be an issuer",
        (*http, "--audience", "me"): "--auth-jwt ISSUER, which is missing",
        (*http, "--public-url", "b.example"): "cannot be the address of the bridge",
        (*http, "--forwarded-allow-ips", "proxy"): "expected addresses or networks",
        (*http, "--host", "0.0.0.0", "--auth-jwt", "https://login.example"): "needs --public-url",
        (*http, "--host", "0.0.0.0"): "Refused to listen",
    }
    for options, words in cases.items():
        ran = stage.run("serve", *options, "--", sys.executable, "-c", "pass")
        assert ran.code == 2, options
        assert words in ran.stderr, options
        assert "afc_plain" not in ran.stderr
        assert "Traceback" not in ran.stderr
    assert stage.run("token", "scope:admin").code == 2


def test_clients_behind_a_proxy_count_by_their_own_address(stage: Stage):
    """One that holds as many connections as it may gets 503; another one, and the proxy itself, do not."""
    options = ("--forwarded-allow-ips", "127.0.0.1")
    bridge = stage.http_bridge(toy(stage), *options, max_connections_per_address=2)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stream = stack.enter_context(socket.create_connection(("127.0.0.1", bridge.port), timeout=20))
            wire = bridge.client()
            head = "GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 1.1.1.1, 203.0.113.7\r\n"
            session = f"Mcp-Session-Id: {wire.session}\r\nMcp-Protocol-Version: {HANDSHAKE}\r\n"
            stream.sendall(f"{head}{session}Accept: text/event-stream\r\n\r\n".encode())
            assert b"200 OK" in stream.recv(65536)
        for forwarded, status in (("203.0.113.7", 503), ("5.5.5.5, 203.0.113.7", 503), ("203.0.113.8", 200), ("", 200)):
            assert status_of(bridge, None, **{"X-Forwarded-For": forwarded}) == status
    eventually(lambda: status_of(bridge, None, **{"X-Forwarded-For": "203.0.113.7"}) == 200, "its connections ended")
