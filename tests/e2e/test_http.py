"""HTTP on either side: both of its transports, who may come in, whose futures are whose, every era with every other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import mcp_types
import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client

from tests.support.client import HANDSHAKE, MODERN, Json, RpcError, canonical, eventually, records, text_of
from tests.support.http_client import HttpWire
from tests.support.process_servers import big_text
from tests.support.stage import HttpBridge, Stage

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def bridge(shared_stage: Stage) -> HttpBridge:
    """A bridge over HTTP that serves SSE too, without auth, on loopback."""
    bridge = shared_stage.http_bridge({"toy": {**shared_stage.toy(), "asyncfc": {"prefix": ""}}}, "--sse", grace_ms=0)
    with session(bridge) as client:
        client.wait_for_tools("echo")
    return bridge


@contextlib.contextmanager
def session(bridge: HttpBridge, **options: Any) -> Iterator[HttpWire]:
    """A client with a session of its own."""
    client = bridge.client(**options)
    try:
        yield client
    finally:
        client.close()


# --- sessions and scopes -------------------------------------------------------------------------------------------


def test_healthz_says_ok(bridge: HttpBridge) -> None:
    """A probe needs neither session nor protocol."""
    assert bridge.get("/healthz")[0] == 200


@pytest.mark.parametrize("era", ["2025-03-26", "2025-06-18", HANDSHAKE, MODERN])
def test_every_version_is_spoken_over_streamable_http(bridge: HttpBridge, era: str) -> None:
    """List, call, await and gather over `/mcp` for every version that knows Streamable HTTP."""
    with session(bridge, era=era) as client:
        assert {"echo", "await_future"} <= set(client.tools())
        ids = [client.submit("echo", {"text": text}).id for text in ("one", "two")]
        assert json.loads(text_of(client.outcome(ids[0]))) == {"text": "one"}
        results = client.gather(ids)["structuredContent"]["results"]
        assert [each["result"]["arguments"]["text"] for each in results] == ["one", "two"]


def test_a_second_session_finds_the_futures_of_the_first(bridge: HttpBridge) -> None:
    """Some frameworks open a new session for every call: futures belong to the principal, not to the session."""
    with session(bridge) as first:
        running = first.submit("sleep", {"seconds": 0.5, "tag": "shared"}).id
    with session(bridge) as second, session(bridge, era=MODERN) as third:
        assert running in [each["future_id"] for each in records(second.call("list_futures"))]
        assert text_of(second.outcome(running)) == "slept 0.5 shared"
        assert text_of(third.outcome(running)) == "slept 0.5 shared"
        later = [client.submit("echo").id for client in (second, third)]
    assert len({running, *later}) == 3


def test_many_sessions_at_once_get_their_own_results(bridge: HttpBridge) -> None:
    """Twenty clients side by side, calling and awaiting: nothing is mixed up."""

    def one(number: int) -> str:
        with session(bridge, era=(HANDSHAKE, MODERN)[number % 2]) as client:
            return text_of(client.outcome(client.submit("sleep", {"seconds": 0.3, "tag": f"n{number}"}).id))

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, range(20))) == [f"slept 0.3 n{number}" for number in range(20)]


def test_results_cross_streamable_http_unchanged(bridge: HttpBridge, shared_stage: Stage) -> None:
    """Byte for byte over HTTP as over stdio."""
    direct = shared_stage.direct(shared_stage.toy())
    with session(bridge) as client:
        for tool in ("rich", "alien", "bad_schema", "fail"):
            assert canonical(client.outcome(client.submit(tool).id)) == canonical(direct.call(tool))
        with pytest.raises(RpcError):
            client.request("no/such/method")


# --- requests of 2026-07-28, byte by byte ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sync_bridge(shared_stage: Stage) -> HttpBridge:
    """A bridge whose calls are answered with their results."""
    bridge = shared_stage.http_bridge({"toy": {**shared_stage.toy(), "asyncfc": {"prefix": "", "mode": "sync"}}})
    with session(bridge) as client:
        client.wait_for_tools("echo")
    return bridge


def posted(tool: str, arguments: Json, *, id: int = 1, chunked: bool = False, **meta: Any) -> tuple[bytes, bytes]:
    """Head and body of a call."""
    envelope = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        **meta,
    }
    params = {"name": tool, "arguments": arguments, "_meta": envelope}
    body = json.dumps({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).encode()
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}\r\n"
        f"Accept: application/json, text/event-stream\r\nMcp-Protocol-Version: {MODERN}\r\n"
        f"Mcp-Method: tools/call\r\nMcp-Name: {tool}\r\n\r\n"
    )
    return head.encode(), body


def read_until(connection: socket.socket, ends: Callable[[bytes], bool]) -> bytes:
    """What a connection brings, until that is enough."""
    got = b""
    while not ends(got):
        chunk = connection.recv(1 << 16)
        assert chunk, got
        got += chunk
    return got


@pytest.fixture
def connection(sync_bridge: HttpBridge) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", sync_bridge.port), timeout=30) as connection:
        yield connection


def test_a_request_may_come_byte_by_byte_and_in_chunks(connection: socket.socket) -> None:
    """Wherever it is cut, and whether or not its length is known before; the connection stays open."""
    whole = b"".join(posted("echo", {"text": "cut"}))
    for each in range(0, len(whole), 7):
        connection.sendall(whole[each : each + 7])
    assert b"cut" in read_until(connection, lambda got: got.rstrip().endswith(b"}"))
    head, body = posted("echo", {"text": "chunked"}, chunked=True)
    connection.sendall(head)
    for each in range(0, len(body), 50):
        piece = body[each : each + 50]
        connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    connection.sendall(b"0\r\n\r\n")
    assert b"chunked" in read_until(connection, lambda got: got.rstrip().endswith(b"}"))


def test_a_client_that_offers_http2_is_answered(connection: socket.socket) -> None:
    """Java's client offers h2c with its first request; that is no reason to lose what it posted."""
    head, body = posted("echo", {"text": "java"})
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    connection.sendall(head.removesuffix(b"\r\n") + offer + body)
    assert b"java" in read_until(connection, lambda got: got.rstrip().endswith(b"}"))


def test_requests_in_a_row_are_answered_in_that_order(connection: socket.socket) -> None:
    """Sent without waiting, as HTTP allows."""
    connection.sendall(b"".join(part for n in range(5) for part in posted("echo", {"text": "x"}, id=n)))
    answers = read_until(connection, lambda got: got.count(b"HTTP/1.1 200") == 5 and got.rstrip().endswith(b"}"))
    assert [json.loads(each.partition(b"\r\n\r\n")[2])["id"] for each in answers.split(b"HTTP/1.1 ")[1:]] == [*range(5)]


def test_a_body_that_is_too_large_is_not_read(connection: socket.socket) -> None:
    """Who says that it will send more than 64 MB is refused before it has."""
    head, _ = posted("echo", {})
    connection.sendall(head.replace(b"Content-Length: ", b"Content-Length: 999999"))
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_progress_streams_over_http(connection: socket.socket) -> None:
    """Events while the call runs, then its answer, then the end of the chunks."""
    connection.sendall(b"".join(posted("progress", {"steps": 3}, progressToken="p")))
    answer = read_until(connection, lambda got: got.endswith(b"0\r\n\r\n")).decode()
    assert "content-type: text/event-stream" in answer.lower()
    messages = [json.loads(line[5:]) for line in answer.split("\r\n") if line.startswith("data:")]
    assert {each["params"]["progressToken"] for each in messages[:-1]} == {"p"}
    assert messages[-1]["result"]["content"][0]["text"] == "made 3 steps"


def test_hanging_up_cancels_a_call_over_http(sync_bridge: HttpBridge, connection: socket.socket) -> None:
    """At once, and after a while; the server behind is told."""
    with session(sync_bridge, era=MODERN) as client:

        def told() -> int:
            return len(client.call("seen_cancellations")["structuredContent"]["seen"])

        for after in (0.0, 0.5):
            before = told()
            with socket.create_connection(("127.0.0.1", sync_bridge.port)) as other:
                other.sendall(b"".join(posted("never", {})))
                time.sleep(after)
            eventually(lambda before=before: told() > before, "the toy is told")
    assert "Traceback" not in sync_bridge.stderr()


# --- who may come in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
def test_a_foreign_host_or_origin_is_rejected(bridge: HttpBridge, path: str) -> None:
    """DNS rebinding: a page of the web that resolves to loopback gets no further than its own name."""
    wire = HttpWire(bridge.base + path)
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "evil", "version": "1"}},
    }
    method, body = ("POST", hello) if path == "/mcp" else ("GET", None)
    for headers in ({"Host": f"evil.example:{bridge.port}"}, {"Origin": "http://evil.example"}):
        status, _, answer = wire.exchange(method, body, headers)
        assert 400 <= status < 500, headers
        assert b"serverInfo" not in answer
    if path == "/mcp":
        assert wire.exchange(method, body, {"Host": f"localhost:{bridge.port}"})[0] == 200
    assert "Traceback" not in bridge.stderr(), "anybody on the web could fill the log"


def test_a_public_address_without_a_token_is_refused(stage: Stage) -> None:
    """Binding a non-loopback address without auth: exit code 2 and an explanation that names the way out."""
    config = str(stage.config({"toy": stage.toy()}))
    for transport in ("http", "sse"):
        ran = stage.run("serve", "--config", config, "--transport", transport, "--host", "0.0.0.0", "--port", "0")
        assert ran.code == 2
        assert "--auth-token-env" in ran.stderr
        assert "0.0.0.0" in ran.stderr
        assert "Traceback" not in ran.stderr
        assert not ran.stdout


def test_a_token_variable_that_is_not_set_is_refused(stage: Stage) -> None:
    """An empty token would let everybody in: exit code 2, and the variable is named."""
    config = str(stage.config({"toy": stage.toy()}))
    for env in ({}, {"BRIDGE_TOKEN": ""}):
        ran = stage.run("serve", "--config", config, "--transport", "http", "--auth-token-env", "BRIDGE_TOKEN", env=env)
        assert ran.code == 2
        assert "BRIDGE_TOKEN" in ran.stderr


def test_only_the_bearer_of_the_token_comes_in(stage: Stage) -> None:
    """No token, a wrong one, half of it: 401 on every endpoint. The right one: everything, on a public address too."""
    bridge = stage.http_bridge(
        {"toy": stage.toy()},
        *("--sse", "--host", "0.0.0.0", "--auth-token-env", "BRIDGE_TOKEN"),
        env={"BRIDGE_TOKEN": TOKEN},
    )
    for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {TOKEN[:-1]}"}):
        status, headers, _ = HttpWire(f"{bridge.base}/mcp").exchange("POST", {}, wrong)
        assert status == 401
        assert headers["www-authenticate"].startswith("Bearer")
        assert HttpWire(f"{bridge.base}/sse").exchange("GET", None, wrong)[0] == 401
    right = {"Authorization": f"Bearer {TOKEN}"}
    with session(bridge, headers=right) as first, session(bridge, headers=right, era=MODERN) as second:
        first.wait_for_tools("toy__echo")
        future = first.submit("toy__echo", {"text": "mine"}).id
        assert "mine" in text_of(second.outcome(future))
        stolen = HttpWire(f"{bridge.base}/mcp", headers={"Mcp-Session-Id": str(first.session)})
        assert stolen.exchange("POST", {"jsonrpc": "2.0", "id": 1, "method": "ping"})[0] == 401


def test_without_auth_on_a_public_address_futures_cannot_be_guessed_or_listed(stage: Stage) -> None:
    """`--insecure-no-auth`: IDs of 128 random bits, no listing, and no error that gives one away."""
    bridge = stage.http_bridge({"toy": stage.toy()}, "--host", "0.0.0.0", "--insecure-no-auth", grace_ms=0)
    with session(bridge) as mine, session(bridge) as theirs:
        mine.wait_for_tools("toy__echo")
        ids = [mine.submit("toy__echo", {"text": "secret"}).id for _ in range(8)]
        assert len(set(ids)) == 8
        # 128 bits are 22 characters of the densest alphabet in use for IDs, 32 of hexadecimal.
        assert all(len(future) >= 22 for future in ids)
        assert not set.intersection(*[{future[i : i + 6] for i in range(len(future) - 5)} for future in ids])
        told = canonical(
            [theirs.call("list_futures"), theirs.await_future(ids[0][:-1] + "!"), theirs.await_future("f1")]
        )
        assert not [future for future in ids if future in told]
        assert "secret" in text_of(mine.outcome(ids[0]))
        assert "secret" in text_of(theirs.outcome(ids[1])), "who knows an ID is its owner here"


# --- HTTP+SSE ------------------------------------------------------------------------------------------------------


async def over_sse(url: str) -> None:
    """List, call and await over the old transport."""
    async with Client(sse_client(url), mode="legacy") as client:
        echoes: list[str] = []
        with anyio.fail_after(30):
            while not echoes:
                tools = [tool.name for tool in (await client.list_tools()).tools]
                echoes = [name for name in tools if name.endswith("echo")]
                await anyio.sleep(0.05)
        answer = await client.call_tool(echoes[0], {"text": "over sse"})
        assert answer.meta
        future = answer.meta["asyncfc/futures"][0]["future_id"]
        result = await client.call_tool("await_future", {"future_id": future})
        assert result.structured_content == {"arguments": {"text": "over sse"}}


def test_sse_beside_http_shares_the_futures(bridge: HttpBridge) -> None:
    """`--transport http --sse`: old clients and new ones, one bridge, the same futures."""
    with session(bridge) as client:
        before = len(records(client.call("list_futures")))
        anyio.run(over_sse, f"{bridge.base}/sse")
        assert len(records(client.call("list_futures"))) == before + 1


def test_sse_alone_is_served(stage: Stage) -> None:
    """`--transport sse`: `/sse` for old clients, nothing at `/mcp`."""
    bridge = stage.http_bridge({"toy": stage.toy()}, transport="sse")
    anyio.run(over_sse, f"{bridge.base}/sse")
    assert HttpWire(f"{bridge.base}/mcp").exchange("POST", {})[0] == 404


# --- HTTP downstream -----------------------------------------------------------------------------------------------


def test_downstreams_over_http_and_sse(stage: Stage) -> None:
    """`url` with each spelling of `type`, and `serve --url`: tools, results, failures, progress, cancellation."""
    http_url, sse_url = stage.http_toy("--http"), stage.http_toy("--sse")
    servers: dict[str, Json] = {
        "http": {"url": http_url, "type": "http"},
        "streamable": {"url": http_url, "type": "streamable-http"},
        "plain": {"url": http_url},
        "sse": {"url": sse_url, "type": "sse"},
    }
    bridge = stage.bridge(servers)
    lone = stage.serve("--url", http_url)
    bridge.wait_for_tools(*[f"{name}__echo" for name in servers])
    lone.wait_for_tools("echo")
    assert "over" in text_of(lone.outcome(lone.submit("echo", {"text": "over"}).id))
    for name in servers:
        refused = bridge.submit(f"{name}__protocol_error")
        never = bridge.submit(f"{name}__never")
        assert "the toy refuses" in text_of(bridge.outcome(refused.id))
        heard: list[Json] = []
        steps = bridge.submit(f"{name}__progress", {"steps": 40})
        assert text_of(bridge.await_future(steps.id, on_progress=heard.append)) == "made 40 steps"
        assert [each.get("message") for each in heard]
        before = len(cancellations(bridge, name))
        bridge.call("cancel_future", {"future_id": never.id})
        eventually(lambda name=name, before=before: len(cancellations(bridge, name)) > before, f"{name} hears of it")


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_a_result_of_20_mb_arrives_whole(stage: Stage, transport: str) -> None:
    """Big results come over HTTP too, and do not end what runs beside them."""
    size = 20_000_000
    bridge = stage.bridge({"toy": {"url": stage.http_toy(f"--{transport}"), "type": transport}})
    bridge.wait_for_tools("toy__big")
    beside = bridge.submit("toy__sleep", {"seconds": 2})
    big = bridge.submit("toy__big", {"n_bytes": size})
    assert text_of(bridge.outcome(big.id))[-99:] == big_text(size)[-99:]
    assert text_of(bridge.await_future(big.id)) == big_text(size)
    assert text_of(bridge.outcome(beside.id)) == "slept 2"


def cancellations(bridge: Any, server: str) -> list[Any]:
    """What a toy says it was told to cancel."""
    return bridge.outcome(bridge.submit(f"{server}__seen_cancellations").id)["structuredContent"]["seen"]


def test_an_http_downstream_keeps_one_pool_of_connections(stage: Stage) -> None:
    """Sixty calls do not open sixty connections."""
    url = stage.http_toy()
    toy = psutil.Process(stage.processes[-1].pid)
    opened: set[int] = set()
    bridge = stage.serve("--url", url)
    bridge.wait_for_tools("echo")
    for number in range(60):
        bridge.outcome(bridge.submit("echo", {"text": str(number)}).id)
        opened |= {each.raddr.port for each in toy.net_connections("tcp") if each.raddr}
    assert len(opened) <= 10


def test_an_http_downstream_that_dies_fails_its_calls_and_is_found_again(stage: Stage) -> None:
    """The server goes away mid-call: its futures fail with a reason; when it is back, calls work."""
    port = int(stage.http_toy().split(":")[2].split("/")[0])
    first = stage.processes[-1]
    bridge = stage.serve("--url", f"http://127.0.0.1:{port}/mcp")
    bridge.wait_for_tools("never")
    running = bridge.submit("never")
    first.kill()
    first.wait()
    assert bridge.outcome(running.id)["isError"] is True
    down = bridge.outcome(bridge.submit("echo").id)
    assert down["isError"] is True
    stage.http_toy("--http", "--http", str(port))

    def back() -> bool:
        return not bridge.outcome(bridge.submit("echo", {"text": "back"}).id).get("isError")

    eventually(back, "calls work again")


def test_headers_of_the_config_reach_the_downstream(stage: Stage) -> None:
    """`headers`, with `${VAR}` expanded, go with every request; an answer of 401 is the reason that a user reads."""
    seen: list[str | None] = []

    class Guard(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append(self.headers.get("Authorization"))
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    stage.env["SECRET"] = "s3cret"
    with ThreadingHTTPServer(("127.0.0.1", 0), Guard) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/mcp"
            bridge = stage.bridge({"guarded": {"url": url, "headers": {"Authorization": "Bearer ${SECRET}"}}})
            eventually(lambda: seen, "the bridge knocks")
            said = eventually(
                lambda: (text := text_of(bridge.call("list_futures"))) and "401" in text and text,
                "list_futures gives the reason, once the server is no longer starting",
            )
            assert "guarded" in said
            assert "s3cret" not in said + bridge.stderr()
        finally:
            server.shutdown()
            thread.join()
    assert set(seen) == {"Bearer s3cret"}


# --- the end -------------------------------------------------------------------------------------------------------


def test_sigterm_ends_an_http_bridge_with_calls_and_streams_open(stage: Stage) -> None:
    """Open event streams and running calls do not keep a bridge from ending."""
    bridge = stage.http_bridge({"toy": stage.toy("raw", "--spawn-child", "stubborn")}, "--sse", drain_s=1)
    with session(bridge) as client:
        client.wait_for_tools("toy__never")
        future = client.submit("toy__never").id
        streams = [
            HttpWire(f"{bridge.base}/mcp", headers={"Mcp-Session-Id": str(client.session)}),
            HttpWire(f"{bridge.base}/sse"),
        ]
        with ThreadPoolExecutor(3) as pool:
            open_ends: list[Callable[[], object]] = [
                lambda: streams[0].exchange("GET", None, {"Mcp-Protocol-Version": HANDSHAKE}),
                lambda: streams[1].exchange("GET"),
                lambda: client.await_future(future),
            ]
            waits = [pool.submit(end) for end in open_ends]
            connections = psutil.Process(bridge.process.pid)
            eventually(
                lambda: len([c for c in connections.net_connections("tcp") if c.raddr]) >= 3, "three streams are open"
            )
            os.kill(bridge.process.pid, signal.SIGTERM)
            assert bridge.process.wait(20) in (0, 128 + signal.SIGTERM, -signal.SIGTERM)
            for wait in waits:
                wait.exception(20)  # each has ended, one way or another
        client.session = None
    stage.assert_nothing_left()
    assert "Traceback" not in bridge.stderr()


# --- every era with every other ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def downstreams(shared_stage: Stage) -> dict[str, Json]:
    """Both eras over every transport."""
    return {
        "raw": shared_stage.toy("raw"),
        "modern": shared_stage.toy("modern"),
        "http": {"url": shared_stage.http_toy("--http")},
        "sse": {"url": shared_stage.http_toy("--sse"), "type": "sse"},
    }


@pytest.mark.parametrize("upstream", ["stdio", "http"])
def test_python_clients_of_both_eras_with_downstreams_of_both_eras(
    shared_stage: Stage, downstreams: dict[str, Json], upstream: str
) -> None:
    """Python SDK 2.3 in `auto` and `legacy` mode × handshake and modern servers × stdio, Streamable HTTP and SSE."""
    config = str(shared_stage.config(downstreams))
    url = f"{shared_stage.http_bridge(downstreams).base}/mcp" if upstream == "http" else None

    @contextlib.asynccontextmanager
    async def connect(mode: str) -> AsyncIterator[Client]:
        with (shared_stage.folder / f"{mode}.stderr").open("w") as log:
            parameters = StdioServerParameters(
                command=shared_stage.command()[0],
                args=[*shared_stage.command()[1:], "serve", "--config", config],
                env=shared_stage.env,
                cwd=shared_stage.folder,
            )
            async with Client(url or stdio_client(parameters, errlog=log), mode=mode, cache=None) as client:
                yield client

    async def outcome(client: Client, future: str) -> mcp_types.CallToolResult:
        """Await a future again while it runs: one wait ends before the client's time-out, which is 5 s for the SDK."""
        while True:
            result = await client.call_tool("await_future", {"future_id": future})
            [record] = (result.meta or {}).get("asyncfc/futures") or [None]
            if record is None or record["status"] in ("failed", "cancelled"):
                return result

    async def drive(mode: str, version: str) -> None:
        async with connect(mode) as client:
            assert client.protocol_version == version
            tools: set[str] = set()
            with anyio.fail_after(30):
                while not {f"{name}__echo" for name in downstreams} <= tools:
                    tools = {tool.name for tool in (await client.list_tools()).tools}
                    await anyio.sleep(0.05)
            futures: list[str] = []
            for name in downstreams:
                answer = await client.call_tool(f"{name}__sleep", {"seconds": 0.3, "tag": name})
                assert answer.meta
                futures.append(answer.meta["asyncfc/futures"][0]["future_id"])
                rich = await client.call_tool(f"{name}__rich")
                assert rich.meta
                rich = await outcome(client, rich.meta["asyncfc/futures"][0]["future_id"])
                kinds = ["text", "image", "audio", "resource", "resource_link"]
                assert [block.type for block in rich.content] == kinds
            for name, future in zip(downstreams, futures, strict=True):
                result = await outcome(client, future)
                assert [block.text for block in result.content if block.type == "text"] == [f"slept 0.3 {name}"]
            gathered = await client.call_tool("gather", {"future_ids": futures})
            assert gathered.structured_content
            assert [each["result"] for each in gathered.structured_content["results"]] == [
                f"slept 0.3 {name}" for name in downstreams
            ]
            heard: list[float] = []

            async def hear(progress: float, total: float | None, message: str | None) -> None:
                heard.append(progress)

            for name in downstreams:
                heard.clear()
                steps = await client.call_tool(f"{name}__progress", {"steps": 40})
                assert steps.meta
                future = steps.meta["asyncfc/futures"][0]["future_id"]
                await client.call_tool("await_future", {"future_id": future}, progress_callback=hear)
                assert heard, f"no progress from {name} for {mode}"
            prompt = await client.get_prompt("http__greet", {"name": "Ada"})
            assert prompt.messages

    async def both() -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(drive, "auto", MODERN)
            tg.start_soon(drive, "legacy", HANDSHAKE)

    anyio.run(both)
