"""Servers over HTTP that answer badly, forget sessions, or go away: each fault costs the calls that it concerns."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.client import eventually, text_of
from tests.support.hostile_http import Exchange, HostileServer
from tests.support.stage import Stage, free_port
from tests.support.stdio_client import Wire

pytestmark = pytest.mark.timeout(120)

BOM = b"\xef\xbb\xbf"
release = threading.Event()


def good(exchange: Exchange) -> None:
    exchange.send(exchange.text("good"))


def slow(exchange: Exchange) -> None:
    release.wait(60)
    exchange.send(exchange.text("slow"))


def events(*texts: str, end: bool = True) -> Callable[[Exchange], None]:
    """An event stream; `%s` is the answer."""

    def answer(exchange: Exchange) -> None:
        body = exchange.text("good").decode()
        exchange.stream(*(text.replace("%s", body) for text in texts), end=end)
        if not end:
            exchange.close()

    return answer


def body(make: Callable[[bytes], bytes], *, status: int = 200, kind: str | None = "application/json", **headers: str):
    """A body made of the right one."""

    def answer(exchange: Exchange) -> None:
        exchange.send(make(exchange.text("good")), status, kind, **headers)

    return answer


def raw(data: bytes, *, reset: bool = False) -> Callable[[Exchange], None]:
    """Bytes, and the end of the connection."""

    def answer(exchange: Exchange) -> None:
        exchange.raw(data)
        exchange.close(reset=reset)

    return answer


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
BROKEN: dict[str, tuple[Callable[[Exchange], None], str]] = {
    "cut_body": (raw(HEAD + b"content-length: 500\r\n\r\n{"), "before the end of its response"),
    "cut_chunks": (raw(HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{\"a\""), "before the end of its response"),
    "reset_before": (raw(b"", reset=True), "closed the connection without a response"),
    "closed_before": (raw(b""), "closed the connection without a response"),
    "cut_head": (raw(b"HTTP/1.1 200 OK\r\ncont"), "closed the connection without a response"),
    "no_http": (raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "is not HTTP"),
    "bad_chunk": (raw(HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}"), "before the end of its response"),
    "bad_gzip": (body(lambda right: b"no gzip", content_encoding="gzip"), "compression"),
    "empty_200": (body(lambda right: b""), "answered HTTP 200 OK without a result"),
    "blank_200": (body(lambda right: b" \n"), "answered HTTP 200 OK without a result"),
    "no_type_empty": (body(lambda right: b"", kind=None), "without a result"),
    "accepted": (body(lambda right: b"", status=202), "answered HTTP 202 Accepted without a result"),
    "no_content": (raw(b"HTTP/1.1 204 No Content\r\n\r\n"), "answered HTTP 204 No Content without a result"),
    "html": (body(lambda right: b"<h1>Sign in</h1>", kind="text/html"), "text/html in place of JSON: Sign in"),
    "no_json": (body(lambda right: b"{nonsense"), "cannot be read"),
    "half_json": (body(lambda right: right[:-9]), "Invalid answer: Parse error"),
    "no_rpc": (body(lambda right: b'{"ok": true}'), "cannot be read"),
    "a_number": (body(lambda right: b"7"), "JSON that is no response to the request"),
    "empty_batch": (body(lambda right: b"[]"), "JSON that is no response to the request"),
    "empty_stream": (events(), "ended the event stream of its response without a result"),
    "cut_stream": (events('data: {"jsonrpc":', end=False), "before the end of its response"),
    "stream_of_nonsense": (events("data: {nonsense\n\n"), "cannot be read"),
    "half_event": (events("data: %s\n"), "ended the event stream of its response without a result"),
}  # fmt: skip
"""Name → a broken answer, and words of the reason."""

ODD: dict[str, Callable[[Exchange], None]] = {
    "bom": body(lambda right: BOM + right),
    "charset": body(lambda right: right, kind="application/json; charset=utf-8"),
    "wrong_type": body(lambda right: right, kind="text/plain"),
    "no_type": body(lambda right: right, kind=None),
    "upper_type": body(lambda right: right, kind="Application/JSON"),
    "batch": body(lambda right: b"[" + right + b"]"),
    "batch_with_more": body(lambda right: b'[{"jsonrpc":"2.0","method":"notifications/x"},' + right + b",7]"),
    "created": body(lambda right: right, status=201),
    "gzip": body(gzip.compress, content_encoding="gzip"),
    "wrong_id": body(lambda right: json.dumps({**json.loads(right), "id": "another"}).encode()),
    "stream": events("data: %s\n\n"),
    "stream_bom": events("\ufeffdata: %s\n\n"),
    "stream_crlf": events(": hello\r\nevent: message\r\nid: 1\r\nda", "ta: %s\r", "\n\r\n"),
    "stream_cr": events("data: %s\r\r"),
    "stream_not_ended": events("data: %s\n\n", end=False),
    "stream_noise": events("event: ping\ndata: x\n\n", "data: 7\n\n"[:0] + ":\n\n", "id: 7\n\n", "data: %s\n\n"),
    "stream_wrong_type": body(lambda right: b"event: message\ndata: " + right + b"\n\n", kind="text/plain"),
}
"""Name → an answer that is odd, and can be read all the same."""


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    tools = {name: answer for name, (answer, _) in BROKEN.items()} | ODD
    with HostileServer({"good": good, "slow": slow, **tools}) as hostile:
        yield hostile
        release.set()


@pytest.fixture(scope="module")
def bridge(server: HostileServer, shared_stage: Stage) -> Wire:
    wire = shared_stage.serve("--url", server.url)
    wire.wait_for_tools("good")
    return wire


def said(bridge: Wire, tool: str, **arguments: Any) -> str:
    return text_of(bridge.outcome(bridge.submit(tool, arguments).id))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_costs_its_own_call_only(bridge: Wire, name: str) -> None:
    """Whatever a server sends in place of an answer: that call fails with a reason, and what runs beside it goes on."""
    release.clear()
    beside = bridge.submit("slow")
    result = bridge.outcome(bridge.submit(name).id)
    assert result["isError"] is True
    assert BROKEN[name][1] in text_of(result)
    assert said(bridge, "good") == "good"
    release.set()
    assert text_of(bridge.outcome(beside.id)) == "slow"


@pytest.mark.parametrize("name", ODD)
def test_an_odd_answer_is_read_as_good_clients_do(bridge: Wire, name: str) -> None:
    """Byte order marks, other content types, batches, line endings and IDs that do not match."""
    assert said(bridge, name) == "good"


VALUES: dict[str, tuple[str, Any]] = {
    "deep": ('{"a":' * 250 + "1" + "}" * 250, None),
    "surrogates": (r'{"a":"x\ud83dz"}', {"a": "x\ud83dz"}),
    "huge_number": ('{"a":123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
    "nulls": ('{"a":null,"b":[null]}', {"a": None, "b": [None]}),
}
"""Name → structured content as the server writes it, and what a client reads."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_values_that_are_hard_to_carry_arrive_over_http(stage: Stage, name: str, stream: bool) -> None:
    """Deep nesting, lone surrogates and long numbers in results, and in arguments on the way there."""
    written, read = VALUES[name]
    received: list[Any] = []

    def carry(exchange: Exchange) -> None:
        received.append(exchange.arguments)
        answer = f'{{"jsonrpc":"2.0","id":{exchange.id},"result":{{"content":[],"structuredContent":{written}}}}}'
        if stream:
            exchange.stream(f"data: {answer}\n\n", end=True)
        else:
            exchange.send(answer.encode())

    value = read if read is not None else json.loads(written)
    with HostileServer({"carry": carry}) as server:
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("carry")
        assert bridge.outcome(bridge.submit("carry", value).id)["structuredContent"] == value
        assert received == [value]


# --- sessions ------------------------------------------------------------------------------------------------------


GONE: dict[str, tuple[int, bytes, str]] = {
    "the specification": (404, b"", "text/plain"),
    "TypeScript SDK examples": (
        400,
        b'{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"},"id":null}',
        "application/json",
    ),
    "TypeScript SDK": (
        404,
        b'{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}',
        "application/json",
    ),
    "TypeScript SDK, one transport": (
        400,
        b'{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Server not initialized"},"id":null}',
        "application/json",
    ),
    "Python SDK 1": (400, b"Bad Request: No valid session ID provided", "text/plain"),
    "Python SDK 2": (
        404,
        b'{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Session not found"}}',
        "application/json",
    ),
    "Rust SDK": (401, b"Unauthorized: Session not found", "text/plain"),
    "Rust SDK, no session": (422, b"Unexpected message, expect initialize request", "text/plain"),
    "Go SDK": (404, b"session not found\n", "text/plain; charset=utf-8"),
    "a gateway": (400, b'{"error": "Invalid or expired session"}', "application/json"),
}
"""Who → how a request with a session that is not known is refused there."""


@pytest.mark.parametrize("who", GONE)
def test_a_session_that_is_gone_is_made_anew(stage: Stage, who: str) -> None:
    """Whatever words a server has for it: one new session for all waiting calls, each of which is sent again once."""
    status, page, kind = GONE[who]

    def guard(exchange: Exchange) -> bool:
        method = exchange.message.get("method")
        known = exchange.headers.get("mcp-session-id") == server.session
        if exchange.method != "POST" or method in ("initialize", "server/discover") or known:
            return False
        exchange.send(page, status, kind)
        return True

    with HostileServer({"good": good}) as server:
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("good")
        server.override = guard
        server.forget()
        server.tools = {"good": good, "new": good}
        handshakes = server.calls("initialize")
        calls = [bridge.start_call("good", {"_wait": "this"}) for _ in range(5)]
        assert ["good" in text_of(call.result()) for call in calls] == [True] * 5
        assert server.calls("initialize") == handshakes + 1
        assert 6 <= server.calls() <= 10, "each call was sent again at most once"
        bridge.wait_for_tools("new")


def test_a_session_that_is_gone_for_good_fails_its_call(stage: Stage) -> None:
    """A server that refuses the new session, too, is not asked for ever."""
    with HostileServer({"good": good}) as server:
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("good")

        def refuse(exchange: Exchange) -> bool:
            if exchange.message.get("method") != "tools/call":
                return False
            exchange.send(b"Session not found", 404, "text/plain")
            return True

        server.override = refuse
        failed = bridge.outcome(bridge.submit("good").id)
        assert "HTTP 404 Not Found: Session not found" in text_of(failed)
        assert server.calls() == 2


def test_a_call_that_runs_while_the_session_is_lost_is_not_sent_again(stage: Stage) -> None:
    """It may have taken effect, and says so; calls after it find a new session."""
    running = threading.Event()

    def hang(exchange: Exchange) -> None:
        running.set()
        release.clear()
        release.wait(60)
        exchange.close(reset=True)

    with HostileServer({"good": good, "hang": hang}) as server:
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("good")
        call = bridge.submit("hang")
        assert running.wait(30)
        server.forget()
        assert said(bridge, "good") == "good"
        release.set()
        assert "may or may not have taken effect" in text_of(bridge.outcome(call.id))
        assert server.calls() == 3, "the running call once, the other twice"


def test_a_tool_with_sessions_of_its_own_is_not_called_twice(stage: Stage) -> None:
    """An error of the tool is its answer, whatever its words."""

    def browser(exchange: Exchange) -> None:
        error = {"code": -32602, "message": "browser session not found"}
        exchange.send(json.dumps({"jsonrpc": "2.0", "id": exchange.id, "error": error}).encode(), 400)

    with HostileServer({"browser": browser}) as server:
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("browser")
        assert "browser session not found" in said(bridge, "browser")
        assert server.calls() == 1


def test_a_server_that_was_away_is_found_again(stage: Stage) -> None:
    """Nothing was sent while nobody listened, and the call says so; when the server is back, calls work."""
    port = free_port()
    with HostileServer({"good": good}, port=port) as server:
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("good")
    refused = text_of(bridge.outcome(bridge.submit("good").id))
    assert "not sent" in refused
    assert f"connection refused by 127.0.0.1:{port}" in refused
    with HostileServer({"good": good, "new": good}, port=port) as server:
        server.forget()
        assert said(bridge, "good") == "good"
        bridge.wait_for_tools("new")


def test_calls_right_after_a_refused_connection_wait_for_the_next_one(stage: Stage) -> None:
    """As calls of a server that is starting do; a moment later they would have it started themselves."""
    port = free_port()
    with HostileServer({"good": good}, port=port) as server:
        first = stage.serve("--url", server.url)
        first.wait_for_tools("good")
        first.close()
    bridge = stage.serve("--url", server.url)
    assert "good" in bridge.tools(), "it is listed from the cache"
    eventually(lambda: "connection refused" in text_of(bridge.call("list_futures")), "the connection was refused")
    calls = [bridge.submit("good") for _ in range(5)]
    with HostileServer({"good": good}, port=port):
        assert [text_of(bridge.outcome(call.id)) for call in calls] == ["good"] * 5


# --- statuses ------------------------------------------------------------------------------------------------------


REFUSALS: dict[str, tuple[int, bytes, dict[str, str], str]] = {
    "401": (
        401,
        b'{"error": "invalid_token", "error_description": "it has expired"}',
        {"www_authenticate": 'Bearer realm="x", resource_metadata="https://h/.well-known?t=QUERYTOKEN"'},
        'HTTP 401 Unauthorized: invalid_token: it has expired; it needs a token: set "headers"',
    ),
    "401_header": (
        401,
        b"",
        {"www_authenticate": 'Bearer error="invalid_token", error_description="no audience"'},
        "HTTP 401 Unauthorized: invalid_token: no audience; it needs a token",
    ),
    "403": (403, b"<html><head><title>Sorry</title></head><body>no <b>way</b></body></html>", {}, "Sorry. no way"),
    "404": (404, b"nothing here", {}, "HTTP 404 Not Found: nothing here"),
    "413": (413, b'{"message": "too large"}', {}, "HTTP 413 Request Entity Too Large: too large"),
    "422": (422, b'{"detail": [{"msg": "x", "message": "bad field"}]}', {}, "HTTP 422 Unprocessable Entity: bad field"),
    "429": (429, b"slow down", {"retry_after": "3600"}, "Too Many Requests: slow down; it asks to retry after 3600 s"),
    "500": (500, b"Traceback\r\n\tBearer s3cr3t-value\x1b[31m", {}, "HTTP 500 Internal Server Error: Traceback …;"),
    "503": (503, b'{"error": {"code": 9, "message": "down"}}', {}, "HTTP 503 Service Unavailable: down"),
    "599": (599, b"", {}, "it answered HTTP 599"),
    "rpc": (400, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32602,"message":"no such city"}}', {}, "no such city"),
    "elsewhere": (307, b"", {"location": "https://other.example/mcp?token=QUERYTOKEN"}, "https://other.example/mcp"),
    "moved": (301, b"", {"location": "/new?token=QUERYTOKEN"}, "/new"),
    "long": (400, b"x" * 100_000, {}, "x" * 50),
}  # fmt: skip
"""Name → status, body and headers of a refusal, and words of the reason."""


@pytest.fixture(scope="module")
def refusing(shared_stage: Stage) -> Iterator[Wire]:
    def refuse(status: int, page: bytes, headers: dict[str, str]) -> Callable[[Exchange], None]:
        return lambda exchange: exchange.send(page, status, "text/plain", **headers)

    tools = {f"t{name}": refuse(*answer[:3]) for name, answer in REFUSALS.items()}
    shared_stage.env["HTTP_FAULTS_TOKEN"] = "s3cr3t-value"
    with HostileServer({"good": good, **tools}) as server:
        server.session = None
        headers = {"Authorization": "Bearer ${HTTP_FAULTS_TOKEN}"}
        bridge = shared_stage.bridge({"h": {"url": f"{server.url}?key=QUERYTOKEN", "headers": headers}})
        bridge.wait_for_tools("h__good")
        yield bridge


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_says_status_phrase_and_the_first_of_its_text(refusing: Wire, name: str) -> None:
    """One bounded line, without what is secret in headers and queries."""
    text = said(refusing, f"h__t{name}")
    assert REFUSALS[name][3] in text
    assert "s3cr3t-value" not in text
    assert "QUERYTOKEN" not in text
    assert len(text) < 500
    assert "s3cr3t-value" not in refusing.stderr()
    assert "QUERYTOKEN" not in refusing.stderr()


@pytest.mark.parametrize(
    ("status", "read_only", "sent"), [(429, False, 2), (429, True, 2), (503, True, 2), (503, False, 1), (403, True, 1)]
)
def test_retry_after_is_heeded_where_a_call_may_be_made_again(
    stage: Stage, status: int, read_only: bool, sent: int
) -> None:
    """429 says that nothing was done; after 503 only what is repeatable is made again."""

    def limited(exchange: Exchange) -> None:
        if server.calls() > 1:
            good(exchange)
        else:
            exchange.send(b"not now", status, "text/plain", retry_after="1")

    with HostileServer({"limited": limited}) as server:
        server.annotations = {"limited": {"readOnlyHint": read_only}}
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("limited")
        text = said(bridge, "limited")
        assert server.calls() == sent
        assert ("good" in text) is (sent == 2)


# --- reachability --------------------------------------------------------------------------------------------------


def unavailable(bridge: Wire, server: str) -> str:
    """What is said of a server that is not up."""

    def reason() -> str:
        text = text_of(bridge.call("list_futures"))
        return text if f"Server {server}: failed" in text else ""

    return eventually(reason, "the reason is shown")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:{port}/mcp?token=QUERYTOKEN", "connection refused by 127.0.0.1:{port}"),
        ("http://user:QUERYTOKEN@localhost:{port}/mcp", "connection refused by localhost:{port}"),
        ("http://no-such-host.invalid/mcp?token=QUERYTOKEN", "the host name no-such-host.invalid was not found"),
        ("https://127.0.0.1:{plain}/mcp?token=QUERYTOKEN", "no TLS connection to 127.0.0.1:{plain}"),
    ],
)
def test_a_server_that_cannot_be_reached_has_a_reason_in_words(stage: Stage, url: str, words: str) -> None:
    """Where it was tried and what happened, without class names, queries and users."""
    with HostileServer({}) as plain:
        ports = {"port": free_port(), "plain": plain.port}
        config = stage.config({"away": {"url": url.format(**ports)}})
        bridge = stage.serve("--verbose", "--config", str(config))
        text = unavailable(bridge, "away") + bridge.stderr()
    assert words.format(**ports) in text
    assert "QUERYTOKEN" not in text
    assert "ConnectError" not in text


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_loopback_is_reached_without_the_proxy_of_the_environment(stage: Stage, variable: str) -> None:
    """A proxy elsewhere cannot reach what listens on this machine."""
    stage.env[variable] = f"http://127.0.0.1:{free_port()}"
    with HostileServer({"good": good}) as server:
        bridge = stage.bridge(
            {"ip": {"url": server.url}, "name": {"url": server.url.replace("127.0.0.1", "localhost")}}
        )
        bridge.wait_for_tools("ip__good", "name__good")
        assert said(bridge, "name__good") == "good"


def test_other_hosts_are_reached_through_the_proxy_of_the_environment(stage: Stage) -> None:
    """As every other client does; the credentials of the proxy are not shown."""
    asked = threading.Event()

    def proxy(exchange: Exchange) -> bool:
        if exchange.path.startswith("http://mcp.example/"):
            asked.set()
        exchange.send(b"no way through", 403, "text/plain")
        return True

    with HostileServer({}) as server:
        server.override = proxy
        stage.env["HTTP_PROXY"] = f"http://user:QUERYTOKEN@127.0.0.1:{server.port}"
        bridge = stage.bridge({"far": {"url": "http://mcp.example/mcp"}})
        text = unavailable(bridge, "far")
    assert asked.is_set()
    assert "HTTP 403 Forbidden: no way through" in text
    assert "QUERYTOKEN" not in text + bridge.stderr()


# --- streams -------------------------------------------------------------------------------------------------------


def test_a_stream_that_breaks_is_resumed_where_the_server_gives_ids(stage: Stage) -> None:
    """However often it breaks, from the last event that arrived whole; the call runs once."""
    asked: list[str] = []
    pending: list[bytes] = []

    def polled(exchange: Exchange) -> None:
        pending.append(exchange.text("resumed"))
        exchange.stream("retry: 50\nid: 0\ndata:\n\n", "id: half\ndata: {")
        exchange.close()

    def resume(exchange: Exchange) -> bool:
        last = exchange.headers.get("last-event-id")
        if exchange.method != "GET" or last is None:
            return False
        asked.append(last)
        match len(asked):
            case 1:
                exchange.stream('id: 1\ndata: {"jsonrpc":"2.0","method":"notifications/message"}\n\n', end=True)
            case 2:
                exchange.close(reset=True)
            case 3:
                exchange.send(b"busy", 503, "text/plain")
            case _:
                exchange.stream(f"id: 2\ndata: {pending[0].decode()}\n\n", end=True)
        return True

    with HostileServer({"polled": polled}) as server:
        server.override = resume
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("polled")
        assert said(bridge, "polled") == "resumed"
        assert asked == ["0", "1", "1", "1"]
        assert server.calls() == 1


def test_a_stream_that_cannot_be_resumed_fails_its_call(stage: Stage) -> None:
    """A server that gives event IDs and does not know them again."""

    def broken(exchange: Exchange) -> None:
        exchange.stream("retry: 10\nid: 0\ndata:\n\n", end=True)

    with HostileServer({"broken": broken}) as server:
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("broken")
        text = said(bridge, "broken")
        assert "before the end of its response and does not resume it: answered HTTP 405" in text
        assert "may or may not have taken effect" in text


def test_the_stream_of_notifications_is_opened_again_however_often_it_broke(stage: Stage) -> None:
    """After each break a change of the tools still arrives; so it does after the server refused a second stream."""
    opened: list[str | None] = []
    changed = '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'

    def listen(exchange: Exchange) -> bool:
        if exchange.method != "GET":
            return False
        opened.append(exchange.headers.get("mcp-session-id"))
        if len(opened) % 3 == 2:
            exchange.send(b"Conflict: Only one SSE stream is allowed per session", 409, "text/plain")
            return True
        server.tools = {**server.tools, f"tool{len(opened)}": good}
        exchange.stream("retry: 50\n\n", f"data: {changed}\n\n")
        exchange.close(reset=len(opened) % 2 == 0)
        return True

    with HostileServer({"good": good}) as server:
        server.override = listen
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("tool1", "tool4", "tool7", "tool10")
        assert set(opened) == {"one"}


def test_event_and_session_ids_need_not_be_ascii(stage: Stage) -> None:
    """They are sent as the bytes that arrived, and the stream is resumed with them."""
    session, event_id = "s\u00fc", "\u00fc1"
    resumed: list[str] = []

    def answer(exchange: Exchange) -> bool:
        if exchange.message.get("method") == "initialize":
            info = {"name": "hostile", "version": "1"}
            body = exchange.result(protocolVersion="2025-11-25", capabilities={"tools": {}}, serverInfo=info)
            exchange.send(body, mcp_session_id=session)
            return True
        if exchange.method != "GET":
            return False
        last = exchange.headers.get("last-event-id")
        if last is None:
            exchange.stream(f"retry: 50\nid: {event_id}\n\n")
            exchange.close()
        else:
            resumed.append(last)
            server.tools = {"good": good, "new": good}
            exchange.stream('data: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n\n')
            release.wait(1)
        return True

    with HostileServer({"good": good}) as server:
        server.session = session.encode().decode("latin-1")
        server.override = answer
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("good", "new")
        assert resumed[0] == event_id.encode().decode("latin-1")
        assert said(bridge, "good") == "good"
        assert server.calls("initialize") == 1


def test_a_stream_of_notifications_without_any_is_opened_ever_less_often(stage: Stage) -> None:
    """Whatever pause the server names: each is twice the one before, and listings are asked for no more often."""
    opened: list[float] = []

    def listen(exchange: Exchange) -> bool:
        if exchange.method != "GET":
            return False
        opened.append(time.monotonic())
        exchange.stream("retry: 0\n\n", ": nothing\n\n", end=True)
        return True

    with HostileServer({"good": good}) as server:
        server.override = listen
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("good")
        eventually(lambda: len(opened) >= 7, "the stream was opened again")
        assert opened[6] - opened[0] >= 0.05 * (2**6 - 1) - 0.1
        assert server.calls("tools/list") <= len(opened) + 2
        assert said(bridge, "good") == "good"


def test_a_stream_of_notifications_is_not_resumed_at_an_event_that_is_too_large(stage: Stage) -> None:
    """It would begin with that event again: a new one is opened, and what may have been missed is asked for."""
    asked: list[str | None] = []

    def listen(exchange: Exchange) -> bool:
        if exchange.method != "GET":
            return False
        asked.append(exchange.headers.get("last-event-id"))
        server.tools = {"good": good, **{f"tool{number}": good for number in range(1, len(asked) + 1)}}
        exchange.stream("retry: 10\nid: 1\n\n", f"data: {'x' * 300_000}\n\n")
        return True

    with HostileServer({"good": good}) as server:
        server.override = listen
        bridge = stage.bridge({"s": {"url": server.url}}, max_message_bytes=100_000)
        bridge.wait_for_tools("s__tool3")
        assert set(asked) == {None}


# --- the older transport -------------------------------------------------------------------------------------------


class OldServer(HostileServer):
    """HTTP+SSE at `/mcp`, with POSTs to `/post`; both behind a redirect if asked for."""

    def __init__(self, tools: dict[str, Callable[[Exchange], None]], *, post_status: int = 405, moved: bool = False):
        super().__init__(tools)
        self.session = None
        self.streams: list[Exchange] = []
        self.ended = threading.Event()
        self.moved = moved
        self.post_status = post_status
        self.override = self._route

    def say(self, message: bytes) -> None:
        """An event on the newest stream."""
        self.streams[-1].event(f"event: message\ndata: {message.decode()}\n\n")

    def _route(self, exchange: Exchange) -> bool:
        place, _, query = exchange.path.partition("?")
        if self.moved and place in ("/mcp", "/post"):
            exchange.send(status=307 if place == "/mcp" else 308, location=f"{place}/new?{query}")
        elif exchange.method == "GET":
            stream = f"stream={len(self.streams) + 1}"
            exchange.stream(f"event: endpoint\ndata: /post?{stream}\n\n")
            self.streams.append(exchange)
            self.ended.wait(60)
        elif place.startswith("/mcp"):
            exchange.send(b"no", self.post_status, "text/plain")
        elif query != f"stream={len(self.streams)}":
            exchange.send(b"Could not find session", 404, "text/plain")
        else:
            return self._posted(exchange)
        return True

    def _posted(self, exchange: Exchange) -> bool:
        method = exchange.message.get("method")
        if method == "tools/call":
            self.tools[exchange.message["params"]["name"]](exchange)
            return True
        outer = exchange.send
        answers: list[bytes] = []
        exchange.send = lambda body=b"", *_, **__: answers.append(body)  # type: ignore[method-assign]
        self._answer(exchange)
        outer(b"Accepted", 202, "text/plain")
        if exchange.id is not None:
            self.say(answers[0])
        return True


def told(exchange: Exchange, text: str) -> None:
    """Accept a POST and answer on the stream."""
    exchange.send(b"Accepted", 202, "text/plain")
    server = exchange.server
    assert isinstance(server, OldServer)
    server.say(exchange.text(text))


def good_old(exchange: Exchange) -> None:
    told(exchange, "good")


@pytest.mark.parametrize(("status", "moved"), [(405, False), (404, False), (400, False), (405, True)])
def test_a_server_of_the_older_transport_is_found_behind_any_type(stage: Stage, status: int, moved: bool) -> None:
    """A POST that is refused, and an event stream that says where to post; redirects are followed."""
    server = OldServer({"good": good_old}, post_status=status, moved=moved)
    with server:
        bridge = stage.bridge({"old": {"url": server.url, "type": "http"}, "plain": {"url": server.url}})
        bridge.wait_for_tools("old__good", "plain__good")
        server.ended.set()


def test_the_older_transport_posts_at_the_same_time_and_fails_call_by_call(stage: Stage) -> None:
    """POSTs overlap; a refused one costs its call; a slow answer to `cancelled` holds up nobody."""
    together = threading.Barrier(3)
    stuck = threading.Event()

    def overlapping(exchange: Exchange) -> None:
        together.wait(30)
        told(exchange, "overlapped")

    def limited(exchange: Exchange) -> None:
        exchange.send(b"slow down", 429, "text/plain", retry_after="3600")

    def never(exchange: Exchange) -> None:
        exchange.send(b"Accepted", 202, "text/plain")

    server = OldServer({"overlapping": overlapping, "limited": limited, "never": never, "good": good_old})
    route = server.override

    def guard(exchange: Exchange) -> bool:
        if exchange.message.get("method") == "notifications/cancelled":
            stuck.set()
            server.ended.wait(60)
        return route(exchange)

    server.override = guard
    with server:
        bridge = stage.serve("--url", server.url)
        bridge.wait_for_tools("good")
        never_ends = bridge.submit("never")
        calls = [bridge.submit("overlapping") for _ in range(3)]
        assert [text_of(bridge.outcome(call.id)) for call in calls] == ["overlapped"] * 3
        assert "HTTP 429 Too Many Requests: slow down" in said(bridge, "limited")
        bridge.call("cancel_future", {"future_id": never_ends.id})
        assert stuck.wait(30)
        assert said(bridge, "good") == "good"
        server.ended.set()


def test_the_stream_of_the_older_transport_is_opened_again(stage: Stage) -> None:
    """However often it ends: what ran on it may have taken effect, and the next call works."""

    def hang(exchange: Exchange) -> None:
        exchange.send(b"Accepted", 202, "text/plain")
        server.streams[-1].close()

    server = OldServer({"hang": hang, "good": good_old})
    with server:
        bridge = stage.bridge({"old": {"url": server.url, "type": "sse"}})
        bridge.wait_for_tools("old__good")
        for round_number in range(1, 4):
            assert len(server.streams) == round_number
            text = said(bridge, "old__hang")
            assert "closed the connection while this call was running; the call may or may not" in text
            assert said(bridge, "old__good") == "good"
        server.ended.set()


def test_a_server_that_sends_messages_elsewhere_is_refused(stage: Stage) -> None:
    """Credentials go to the configured server only."""

    def route(exchange: Exchange) -> bool:
        exchange.stream("event: endpoint\ndata: http://evil.example/post?token=QUERYTOKEN\n\n")
        release.wait(1)
        return True

    with HostileServer({}) as server:
        server.override = route
        bridge = stage.bridge({"old": {"url": server.url, "type": "sse"}})
        text = unavailable(bridge, "old")
    assert "another server (evil.example:80)" in text
    assert "QUERYTOKEN" not in text + bridge.stderr()


def test_a_refused_cancellation_leaves_the_older_transport_as_it_is(stage: Stage) -> None:
    """A 404 to a message that nothing waits for: the stream, and what runs on it, go on."""
    running, refused = threading.Event(), threading.Event()

    def never(exchange: Exchange) -> None:
        exchange.send(b"Accepted", 202, "text/plain")
        running.set()

    server = OldServer({"never": never, "good": good_old})
    route = server.override

    def guard(exchange: Exchange) -> bool:
        if exchange.message.get("method") != "notifications/cancelled":
            return route(exchange)
        exchange.send(b"Could not find session", 404, "text/plain")
        refused.set()
        return True

    server.override = guard
    with server:
        bridge = stage.bridge({"old": {"url": server.url, "type": "sse"}})
        bridge.wait_for_tools("old__good")
        for _ in range(2):
            running.clear()
            refused.clear()
            call = bridge.submit("old__never")
            assert running.wait(30)
            bridge.call("cancel_future", {"future_id": call.id})
            assert refused.wait(30)
            assert said(bridge, "old__good") == "good"
        assert len(server.streams) == 1
        server.ended.set()


def test_an_error_without_an_id_ends_the_only_request_of_the_older_transport(stage: Stage) -> None:
    """It can be about nothing else; with two in flight it ends neither."""
    error = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"no idea"}}'
    running = threading.Event()
    held: list[Exchange] = []

    def broken(exchange: Exchange) -> None:
        exchange.send(b"Accepted", 202, "text/plain")
        server.say(error)

    def hold(exchange: Exchange) -> None:
        exchange.send(b"Accepted", 202, "text/plain")
        held.append(exchange)
        running.set()

    def both(exchange: Exchange) -> None:
        broken(exchange)
        for each in (*held, exchange):
            server.say(each.text("good"))

    server = OldServer({"broken": broken, "hold": hold, "both": both})
    with server:
        bridge = stage.bridge({"old": {"url": server.url, "type": "sse"}})
        bridge.wait_for_tools("old__broken")
        assert "no idea" in said(bridge, "old__broken")
        call = bridge.submit("old__hold")
        assert running.wait(30)
        assert said(bridge, "old__both") == "good"
        assert text_of(bridge.outcome(call.id)) == "good"
        server.ended.set()


def test_an_answer_in_the_post_of_the_older_transport_may_be_long(stage: Stage) -> None:
    """It is read up to the bound on messages, not to that on error pages."""
    text = "x" * 200_000
    server = OldServer({"large": lambda exchange: exchange.send(exchange.text(text))})
    with server:
        bridge = stage.bridge({"old": {"url": server.url, "type": "sse"}})
        bridge.wait_for_tools("old__large")
        assert said(bridge, "old__large") == text
        server.ended.set()
