"""POSTs of 2026-07-28, from raw ASGI: the same answers as the SDK's entry gives, streams, and clients that hang up."""

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared import inbound

from asyncfc_mcp.core.identity import LOCAL, LOCAL_PRINCIPAL
from asyncfc_mcp.transports.http import admission, routes, stateless
from asyncfc_mcp.transports.http.auth.bearer_token import Principals
from asyncfc_mcp.transports.http.in_flight import PING_S, InFlightRequests
from asyncfc_mcp.transports.sdk_adapter import sdk_server
from asyncfc_mcp.upstream.server import Upstream
from tests.support.asgi_client import HOSTS, LIMIT, ORIGINS, App, Exchange, Http, Json, alive
from tests.support.inprocess_server import Got, Toy, bridge_over, text_result
from tests.support.virtual_time import on_virtual_time

VERSION = "2026-07-28"
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
META = {VERSION_KEY: VERSION, CAPABILITIES_KEY: {}}


@dataclass(frozen=True)
class Post(Http):
    """An HTTP request; what is not said is as a good client of 2026-07-28 says it."""

    version = VERSION

    def good_headers(self) -> dict[str, str]:
        said = super().good_headers()
        if isinstance(self.body, dict) and isinstance(self.body.get("method"), str):
            said["mcp-method"] = self.body["method"]
            params = self.body.get("params")
            name = params.get(stateless.NAME_PARAMS.get(said["mcp-method"], "")) if isinstance(params, dict) else None
            if isinstance(name, str):
                said["mcp-name"] = name
        return said


def ask(method: str, params: Json | None = None, *, id: Any = 1, meta: Any = None, **more: Any) -> Json:
    """The body of a request."""
    given: Json = {**(params or {}), "_meta": META if meta is None else meta}
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": given, **more}


def call(tool: str, arguments: Json | None = None, **more: Any) -> Json:
    return ask("tools/call", {"name": tool} if arguments is None else {"name": tool, "arguments": arguments}, **more)


@dataclass
class Stage:
    """The app as it is served, and the SDK's entry for the same server."""

    ours: App
    theirs: App
    toy: Toy
    upstream: Upstream

    async def post(self, body: Any = None, **more: Any) -> Exchange:
        return await Exchange(self.ours, Post(body, **more)).run()


def boom(request: Any) -> Json:
    raise RuntimeError("a secret")


async def later_boom(request: Any) -> Json:
    raise RuntimeError("a secret")


@asynccontextmanager
async def stage(*, mode: str = "sync") -> AsyncGenerator[Stage]:
    toy = Toy()
    declared = {"type": "string", "x-mcp-header": "Region"}
    schema = {"type": "object", "properties": {"region": declared, "text": {"type": "string"}}}
    toy.add("routed", toy._echo, schema=schema, annotations={"readOnlyHint": True})

    async def steps(got: Got) -> Json:
        for step in (1, 2):
            await got.inbound.progress(step, 2, f"step\u2028{step}")
            await anyio.sleep(1)
        return text_result("done\u2028\u2029\u0085.")

    toy.add("steps", steps)
    patched = pytest.MonkeyPatch()
    patched.setattr(admission, "MAX_BODY_BYTES", LIMIT)
    async with AsyncExitStack() as stack:
        stack.callback(patched.undo)
        bridge = await stack.enter_async_context(bridge_over(toy, policy={"mode": mode}))
        upstream = Upstream(bridge)
        upstream._modern = {**upstream._modern, "boom": boom, "later/boom": lambda r: lambda: later_boom(r)}
        tg = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tg.cancel_scope.cancel)
        await tg.start(upstream.run)
        security = TransportSecuritySettings(allowed_hosts=HOSTS, allowed_origins=ORIGINS)
        theirs = sdk_server(upstream, LOCAL_PRINCIPAL).streamable_http_app(
            transport_security=security, max_request_body_size=LIMIT
        )
        ours, _ = routes.http_app(
            upstream, host="127.0.0.1", principals=Principals(anyone=LOCAL), streamable=True, sse=False
        )
        for app in (ours, theirs):
            await stack.enter_async_context(alive(app))
        yield Stage(ours, theirs, toy, upstream)


# --- as the SDK's entry --------------------------------------------------------------------------------------------

ECHO = call("echo", {"text": "hä\u2028"})
LIST = ask("tools/list")
LISTEN = ask("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
ROUTED = call("routed", {"region": "eu", "text": "x"})


def sentinel(text: bytes) -> str:
    return f"=?base64?{base64.b64encode(text).decode()}?="


SAME: dict[str, Post] = {
    # good ones
    "discover": Post(ask("server/discover")),
    "list": Post(LIST),
    "call": Post(ECHO),
    "call without arguments": Post(call("echo")),
    "failed call": Post(call("fail", {"why": "because"})),
    "resources": Post(ask("resources/list")),
    "string id": Post(ask("tools/list", id="seven")),
    "empty string id": Post(ask("tools/list", id="")),
    "large id": Post(ask("tools/list", id=1 << 70)),
    "negative id": Post(ask("tools/list", id=-1)),
    "unknown members": Post(ask("tools/list", extra={"a": 1})),
    "in pieces": Post([json.dumps(ECHO).encode()[:40], json.dumps(ECHO).encode()[40:], b""],
                      headers={"mcp-method": "tools/call", "mcp-name": "echo"}),
    "progress": Post(call("steps", meta={**META, "progressToken": "p"})),
    "progress, number": Post(call("steps", meta={**META, "progressToken": 7})),
    "progress, impossible token": Post(call("steps", meta={**META, "progressToken": True})),
    "half a minute and more": Post(call("sleep", {"s": 40})),
    # bodies
    "lone surrogate": Post(json.dumps(call("echo", {"text": "\ud800"})).encode(),
                           headers={"mcp-method": "tools/call", "mcp-name": "echo"}),
    "duplicate key": Post(b'{"id": 5, ' + json.dumps(LIST).encode()[1:], headers={"mcp-method": "tools/list"}),
    "notification": Post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}),
    "notification without params": Post({"jsonrpc": "2.0", "method": "notifications/initialized", "params": None}),
    "notification without headers": Post({"jsonrpc": "2.0", "method": "x"}, headers={"mcp-method": None}),
    "notification, unknown version": Post({"jsonrpc": "2.0", "method": "x"}, headers={"mcp-protocol-version": "9"}),
    # the envelope
    "capabilities null": Post(ask("tools/list", meta={**META, CAPABILITIES_KEY: None})),
    "capabilities malformed": Post(ask("tools/list", meta={**META, CAPABILITIES_KEY: {"sampling": 1}})),
    "client malformed": Post(ask("tools/list", meta={**META, "io.modelcontextprotocol/clientInfo": "me"})),
    "version number": Post(ask("tools/list", meta={**META, VERSION_KEY: 2026})),
    "version null": Post(ask("tools/list", meta={**META, VERSION_KEY: None})),
    "unknown version": Post(ask("tools/list", meta={**META, VERSION_KEY: "2099-01-01"}),
                            headers={"mcp-protocol-version": "2099-01-01"}),
    "versions differ": Post(LIST, headers={"mcp-protocol-version": "2099-01-01"}),
    "handshake version in the envelope": Post(ask("tools/list", meta={**META, VERSION_KEY: "2025-11-25"})),
    "version not ascii": Post(LIST, headers={"mcp-protocol-version": "ü"}),
    "version empty": Post(LIST, headers={"mcp-protocol-version": ""}),
    # methods
    "unknown method": Post(ask("no/such")),
    "method of the handshake": Post(ask("ping")),
    "initialize": Post(ask("initialize", {"protocolVersion": VERSION, "capabilities": {}})),
    "unknown tool": Post(call("nobody")),
    "no name": Post(ask("tools/call", {})),
    "name is a number": Post(ask("tools/call", {"name": 5})),
    "arguments are a list": Post(ask("tools/call", {"name": "echo", "arguments": [1]})),
    "bad cursor": Post(ask("tools/list", {"cursor": "nowhere"})),
    "missing capability": Post(ask("tasks/get", {"taskId": "t"})),
    "unknown resource": Post(ask("resources/read", {"uri": "future://f99"})),
    "listen to nothing": Post(ask("subscriptions/listen", {})),
    "bug": Post(ask("boom")),
    "bug, later": Post(ask("later/boom")),
    # headers that repeat the body
    "no method": Post(LIST, headers={"mcp-method": None}),
    "empty method": Post(ask(""), headers={"mcp-method": None}),
    "other method": Post(LIST, headers={"mcp-method": "tools/call"}),
    "method in capitals": Post(LIST, headers={"mcp-method": "Tools/List"}),
    "no name header": Post(ECHO, headers={"mcp-name": None}),
    "other name": Post(ECHO, headers={"mcp-name": "sleep"}),
    "name for nothing": Post(LIST, headers={"mcp-name": "echo"}),
    "other uri": Post(ask("resources/read", {"uri": "future://f1"}), headers={"mcp-name": "future://f2"}),
    "other prompt": Post(ask("prompts/get", {"name": "a"}), headers={"mcp-name": "b"}),
    "wrapped name": Post(ECHO, headers={"mcp-name": sentinel(b"echo")}),
    "wrapped name, not canonical": Post(ECHO, headers={"mcp-name": "=?base64?ZWNobx==?="}),
    "wrapped name, not base64": Post(ECHO, headers={"mcp-name": "=?base64?****?="}),
    "wrapped name, not utf-8": Post(ECHO, headers={"mcp-name": sentinel(b"\xff")}),
    "wrapped name, empty": Post(ECHO, headers={"mcp-name": "=?base64??="}),
    "wrapped name, overlapping": Post(ECHO, headers={"mcp-name": "=?base64?="}),
    "version twice": Post(LIST, more=[("mcp-protocol-version", VERSION)]),
    "version twice, second of a handshake": Post(LIST, more=[("mcp-protocol-version", "2025-11-25")]),
    "method twice": Post(LIST, more=[("mcp-method", "tools/list")]),
    "name twice": Post(ECHO, more=[("mcp-name", "echo")]),
    "two twice": Post(ECHO, more=[("mcp-name", "echo"), ("mcp-method", "tools/call")]),
    "twice, in a notification": Post({"jsonrpc": "2.0", "method": "x"}, more=[("mcp-method", "x")]),
    # headers that repeat arguments
    "argument": Post(ROUTED, headers={"mcp-param-region": "eu"}),
    "argument, wrapped": Post(ROUTED, headers={"mcp-param-region": sentinel(b"eu")}),
    "argument missing in the headers": Post(ROUTED),
    "argument missing in the body": Post(call("routed", {"text": "x"}), headers={"mcp-param-region": "eu"}),
    "argument missing in an empty body": Post(call("routed"), headers={"mcp-param-region": "eu"}),
    "argument missing in both": Post(call("routed", {"text": "x"})),
    "other argument": Post(ROUTED, headers={"mcp-param-region": "us"}),
    "argument twice": Post(ROUTED, headers={"mcp-param-region": "eu"}, more=[("mcp-param-region", "eu")]),
    "argument that is not declared": Post(ECHO, headers={"mcp-param-text": "something else"}),
    "argument of nobody": Post(call("nobody", {"a": 1}), headers={"mcp-param-a": "2"}),
    "argument of ours": Post(call("list_futures", {"status": "failed"}), headers={"mcp-param-status": "x"}),
    # media types
    "no content type": Post(LIST, headers={"content-type": None}),
    "text": Post(LIST, headers={"content-type": "text/plain"}),
    "charset": Post(LIST, headers={"content-type": "Application/JSON; charset=utf-8"}),
    "json and more": Post(LIST, headers={"content-type": "application/json-patch+json"}),
    "no accept": Post(LIST, headers={"accept": None}),
    "json only": Post(LIST, headers={"accept": "application/json"}),
    "events only": Post(LIST, headers={"accept": "text/event-stream"}),
    "anything": Post(LIST, headers={"accept": "*/*"}),
    "anything of both": Post(LIST, headers={"accept": "TEXT/*;q=0.1 , application/* ; q=1"}),
    "half of both": Post(LIST, headers={"accept": "text/*, image/png"}),
    "accept twice": Post(LIST, headers={"accept": "application/json"}, more=[("accept", "text/event-stream")]),
    "listen, json only": Post(LISTEN, headers={"accept": "application/json"}),
    # who asks
    "localhost": Post(LIST, headers={"host": "localhost"}),
    "ipv6 alone": Post(LIST, headers={"host": "[::1]"}),
    "ipv6": Post(LIST, headers={"host": "[::1]:80"}),
    "no host": Post(LIST, headers={"host": None}),
    "empty host": Post(LIST, headers={"host": ""}),
    "foreign host": Post(LIST, headers={"host": "evil.example:8642"}),
    "foreign host like ours": Post(LIST, headers={"host": "127.0.0.1.evil.example:80"}),
    "host in capitals": Post(LIST, headers={"host": "LOCALHOST:80"}),
    "our origin": Post(LIST, headers={"origin": "http://localhost:3000"}),
    "our origin without a port": Post(LIST, headers={"origin": "http://localhost"}),
    "empty origin": Post(LIST, headers={"origin": ""}),
    "foreign origin": Post(LIST, headers={"origin": "https://evil.example:443"}),
    "no origin": Post(LIST, headers={"origin": "null"}),
    "foreign host and origin, text": Post(
        LIST, headers={"host": "e", "origin": "e", "content-type": "text/plain", "accept": None}
    ),
    "foreign host and origin": Post(LIST, headers={"host": "e", "origin": "e", "accept": None}),
    "foreign origin, no accept": Post(LIST, headers={"origin": "e", "accept": None}),
    # size
    "too large, and says so": Post(b"{}", headers={"content-length": str(LIMIT + 1), "host": "e"}),
    "too large by far": Post(b"{}", headers={"content-length": "9" * 30}),
    "too large": Post([b" " * LIMIT, b"{}"]),
    "too large in many pieces": Post([b"  "] * LIMIT),
    "as large as allowed": Post(json.dumps(LIST).encode().ljust(LIMIT), headers={"mcp-method": "tools/list"}),
    "odd length": Post(LIST, headers={"content-length": "many"}),
    # not for us
    "get": Post(LIST, method="GET"),
    "delete": Post(LIST, method="DELETE"),
    "put": Post(LIST, method="PUT"),
    "session of nobody": Post(LIST, headers={"mcp-protocol-version": "2025-11-25", "mcp-session-id": "x"}),
}  # fmt: skip
"""Requests that both answer alike, to the word."""

BETTER_TEXT: dict[str, Post] = {
    "empty": Post(b""),
    "no json": Post(b"what?"),
    "half": Post(b'{"jsonrpc": "2.0"'),
    "not utf-8": Post(b'{"jsonrpc": "\xff"}'),
    "deep": Post(b"[" * 5_000),
    "batch": Post([LIST, LIST]),
    "empty batch": Post([]),
    "null": Post(None),
    "a string": Post("tools/list"),
    "no jsonrpc": Post({"id": 1, "method": "tools/list", "params": {"_meta": META}}),
    "other jsonrpc": Post(ask("tools/list", jsonrpc="1.0")),
    "no method at all": Post({"jsonrpc": "2.0", "id": 1}),
    "method is a number": Post({"jsonrpc": "2.0", "id": 1, "method": 5}),
    "id null": Post(ask("tools/list", id=None)),
    "id true": Post(ask("tools/list", id=True)),
    "id fraction": Post(ask("tools/list", id=1.5)),
    "id list": Post(ask("tools/list", id=[1])),
    "params are a list": Post({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": [1]}),
    "result": Post({"jsonrpc": "2.0", "id": 1, "result": {}}),
    "result of nothing": Post({"jsonrpc": "2.0", "result": {}}),
    "error": Post({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}}),
    "notification, malformed": Post({"method": "x"}),
    "notification, params are a list": Post({"jsonrpc": "2.0", "method": "x", "params": [1]}),
    "no params": Post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
    "params null": Post({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": None}),
    "no meta": Post({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}),
    "meta is a list": Post(ask("tools/list", meta=[1])),
    "meta empty": Post(ask("tools/list", meta={})),
    "no version": Post(ask("tools/list", meta={CAPABILITIES_KEY: {}})),
    "no capabilities": Post(ask("tools/list", meta={VERSION_KEY: VERSION})),
    "no meta and other headers": Post({"jsonrpc": "2.0", "id": 1, "method": "a"}, headers={"mcp-method": "b"}),
}
"""Requests that both refuse with the same codes; ours says what was found."""


async def both(post: Post, it: Stage) -> tuple[Exchange, Exchange]:
    return await Exchange(it.ours, post).run(), await Exchange(it.theirs, post).run()


@pytest.mark.parametrize("case", SAME)
@on_virtual_time
async def test_requests_are_answered_as_the_sdk_answers_them(case: str):
    """Status, headers and body, whatever is wrong with the request or right."""
    async with stage() as it:
        ours, theirs = await both(SAME[case], it)
        assert ours.ended
        assert ours.seen() == theirs.seen()
        assert ours.pings() == theirs.pings()
        assert "secret" not in ours.body.decode()


@pytest.mark.parametrize("case", BETTER_TEXT)
@on_virtual_time
async def test_what_is_no_request_is_refused_with_the_codes_of_the_sdk(case: str):
    """Parse errors, batches, answers, envelopes that lack something: only the text is ours."""
    async with stage() as it:
        ours, theirs = await both(BETTER_TEXT[case], it)
        assert ours.status == theirs.status == 400
        mine, other = ours.json, theirs.json
        assert mine["error"].pop("message") != other["error"].pop("message")
        assert mine == other


@on_virtual_time
async def test_a_byte_order_mark_before_a_body_costs_nothing():
    """As RFC 8259 lets a parser do."""
    async with stage() as it:
        marked = Post(json.dumps(LIST).encode("utf-8-sig"), headers={"mcp-method": "tools/list"})
        got = await Exchange(it.ours, marked).run()
        assert got.status == 200
        assert got.json["result"]["tools"]


ELSEWHERE: dict[str, tuple[Post, int, int]] = {
    # JSON has no such numbers, and is UTF-8 (RFC 8259); Python's parser does not mind.
    "nan": (Post(json.dumps(call("echo", {"a": float("nan")})).encode(),
                 headers={"mcp-method": "tools/call", "mcp-name": "echo"}), 400, -32700),
    "utf-16": (Post(json.dumps(LIST).encode("utf-16"), headers={"mcp-method": "tools/list"}), 400, -32700),
    # The SDK knows no tasks, and falls over a wrapping that is not ASCII. Its clients name no task in a header.
    "other task": (Post(ask("tasks/get", {"taskId": "a"}), headers={"mcp-name": "b"}), 400, -32020),
    "no task header": (Post(ask("tasks/cancel", {"taskId": "a"}), headers={"mcp-name": None}), 400, -32021),
    "wrapped name, not ascii": (Post(ECHO, headers={"mcp-name": "=?base64?ü?="}), 400, -32020),
}  # fmt: skip
"""Where we differ on purpose: a request, our status and code."""


@pytest.mark.parametrize("case", ELSEWHERE)
@on_virtual_time
async def test_where_the_sdk_is_not_followed(case: str):
    """Each is refused in order."""
    post, status, code = ELSEWHERE[case]
    async with stage() as it:
        got = await Exchange(it.ours, post).run()
        assert (got.status, got.json["error"]["code"]) == (status, code)


def test_the_tables_are_those_of_the_sdk():
    """They are written down once more, so that nobody has to load the SDK for them."""
    assert stateless.STATUS == inbound.ERROR_CODE_HTTP_STATUS
    assert {
        k: v for k, v in stateless.NAME_PARAMS.items() if not k.startswith("tasks/")
    } == inbound.NAME_BEARING_METHODS


@pytest.mark.parametrize("text", ["", "a", "ä", " a ", "=?base64?x?=", "\n", "echo"])
def test_headers_are_read_as_the_sdk_writes_them(text: str):
    """Plain where that is possible, wrapped where it is not."""
    assert stateless.decoded(inbound.encode_header_value(text)) == text


@on_virtual_time
async def test_beyond_loopback_every_name_is_let_in():
    """There the token decides who may come in; a name proves nothing."""
    async with stage() as it:
        app, _ = routes.http_app(
            it.upstream, host="0.0.0.0", principals=Principals({"t": LOCAL}), streamable=True, sse=False
        )
        async with alive(app):
            good = {"host": "example.org", "origin": "http://x", "authorization": "Bearer t"}
            assert (await Exchange(app, Post(LIST, headers=good)).run()).status == 200
            for wrong in ("Bearer u", "t", None):
                refused = await Exchange(app, Post(LIST, headers={**good, "authorization": wrong})).run()
                assert refused.status == 401


# --- answers that take their time ----------------------------------------------------------------------------------


@on_virtual_time
async def test_an_answer_that_is_there_at_once_takes_no_task():
    """A handle: no stream, no watcher, nothing left behind."""
    async with stage(mode="future") as it:
        in_flight = in_flight_of(it.ours)
        for number in range(3):
            got = await it.post(call("sleep", {"s": 100, "_as": f"n{number}"}))
            assert got.status == 200
            assert got.json["result"]["structuredContent"]["status"] == "running"
        assert not in_flight._unwatched
        await anyio.sleep(1)
        assert not in_flight._unwatched


def in_flight_of(app: Any) -> InFlightRequests:
    return app.in_flight


@on_virtual_time
async def test_progress_makes_a_stream_of_the_answer():
    """Headers at the first step, each step as an event when it happens, the answer last; lines end where JSON's do."""
    async with stage() as it:
        exchange = Exchange(it.ours, Post(call("steps", meta={**META, "progressToken": "p"})))
        async with anyio.create_task_group() as tg:
            tg.start_soon(exchange.run)
            await anyio.sleep(0.5)
            assert exchange.status == 200
            assert exchange.headers["content-type"] == "text/event-stream"
            assert [each["params"]["progress"] for each in exchange.events()] == [1]
            await anyio.sleep(1)
            assert [each["params"]["progress"] for each in exchange.events()] == [1, 2]
        assert exchange.ended
        *_, answer = exchange.events()
        assert answer["id"] == 1
        assert answer["result"]["content"][0]["text"] == "done\u2028\u2029\u0085."
        assert len(exchange.body.decode().splitlines()) == exchange.body.count(b"\r\n")


@on_virtual_time
async def test_a_failure_after_a_stream_has_begun_is_its_last_event():
    """The status was given away with the first event."""
    async with stage() as it:

        async def fail(got: Got) -> Json:
            await got.inbound.progress(1)
            raise RuntimeError

        it.toy.tools["fail"] = fail
        got = await it.post(call("fail", meta={**META, "progressToken": "p"}))
        assert (got.status, got.streams) == (200, True)
        assert [set(each) for each in got.events()] == [{"jsonrpc", "method", "params"}, {"jsonrpc", "id", "error"}]


@pytest.mark.parametrize("after_s", [0.01, 1, 20])
@on_virtual_time
async def test_hanging_up_cancels_the_call(after_s: float):
    """Before anybody has looked out for it, later, and when the answer has become a stream."""
    async with stage() as it:
        exchange = Exchange(it.ours, Post(call("gate", {"name": "never"})))
        async with anyio.create_task_group() as tg:
            tg.start_soon(exchange.run)
            await anyio.sleep(after_s)
            assert (exchange.status is not None) == (after_s > 15)
            exchange.hang_up()
            await anyio.sleep(1)
            assert it.toy.cancelled == ["gate"]
        assert not exchange.ended
        assert not in_flight_of(it.ours)._unwatched


@on_virtual_time
async def test_hanging_up_in_the_middle_of_a_body_is_the_end():
    """Nothing is answered, nothing is logged."""
    async with stage() as it:
        exchange = Exchange(it.ours, Post([b"{", b"}"]))
        exchange._pieces = []
        exchange.hang_up()
        await exchange.run()
        assert exchange.status is None


@on_virtual_time
async def test_a_listener_hears_until_it_hangs_up():
    """An acknowledgement at once, pings while nothing happens, what happens, and nothing afterwards."""
    async with stage() as it:
        exchange = Exchange(it.ours, Post(LISTEN))
        async with anyio.create_task_group() as tg:
            tg.start_soon(exchange.run)
            await anyio.sleep(1)
            (first,) = exchange.events()
            assert first["method"] == "notifications/subscriptions/acknowledged"
            await anyio.sleep(PING_S * 3)
            assert exchange.pings() == 3
            it.toy.add("late", it.toy._echo)
            await it.toy.changed()
            await anyio.sleep(5)
            assert exchange.events()[-1]["method"] == "notifications/tools/list_changed"
            exchange.hang_up()
        heard = len(exchange.chunks)
        it.toy.add("later", it.toy._echo)
        await it.toy.changed()
        await anyio.sleep(60)
        assert len(exchange.chunks) == heard


@on_virtual_time
async def test_a_client_that_reads_slowly_gets_everything_in_order():
    """Headers before events, events whole and in order, the answer last, and nobody else waits for it."""
    async with stage() as it:
        exchange = Exchange(it.ours, Post(call("steps", meta={**META, "progressToken": "p"})))
        exchange.reads = anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(exchange.run)
            await anyio.sleep(20)
            assert exchange.status is None
            assert (await it.post(ECHO)).status == 200
            exchange.reads.set()
        assert exchange.ended
        steps = [each["params"]["progress"] for each in exchange.events() if "method" in each]
        assert steps == sorted(steps)
        assert steps[0] == 1
        assert exchange.events()[-1]["id"] == 1


@on_virtual_time
async def test_a_client_that_never_reads_can_hang_up():
    """What waited to be written is dropped, and the call is cancelled."""
    async with stage() as it:
        exchange = Exchange(it.ours, Post(call("gate", {"name": "never"}, meta={**META, "progressToken": "p"})))
        exchange.reads = anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(exchange.run)
            await anyio.sleep(40)
            exchange.hang_up()
            await anyio.sleep(1)
            assert it.toy.cancelled == ["gate"]


@on_virtual_time
async def test_a_connection_that_cannot_be_watched_costs_nobody_else_anything():
    """Its call is cancelled; others are watched on."""
    async with stage() as it:
        broken = Exchange(it.ours, Post(call("gate", {"name": "broken"})))
        whole = Exchange(it.ours, Post(call("gate", {"name": "whole"})))

        async def fail(message: Json) -> None:
            raise OSError

        broken._send = fail
        async with anyio.create_task_group() as tg:
            tg.start_soon(broken.run)
            tg.start_soon(whole.run)
            await anyio.sleep(PING_S * 2)
            assert it.toy.cancelled == ["gate"]
            assert whole.pings() == 1
            whole.hang_up()


@on_virtual_time
async def test_a_schema_that_is_odd_stops_no_call():
    """Lone surrogates can be read, and are looked through like everything else."""
    async with stage() as it:
        it.toy.listing[0] = {**it.toy.listing[0], "inputSchema": {"type": "object", "description": "\ud800"}}
        await it.toy.changed()
        await anyio.sleep(5)
        assert (await it.post(ECHO)).status == 200


@on_virtual_time
async def test_many_calls_at_once_are_answered_each_with_its_own():
    """Some quick, some watched, some hung up."""
    async with stage() as it:
        exchanges = [Exchange(it.ours, Post(call("sleep", {"s": n / 10}, id=n))) for n in range(40)]
        async with anyio.create_task_group() as tg:
            for exchange in exchanges:
                tg.start_soon(exchange.run)
            await anyio.sleep(1.05)
            for exchange in exchanges[20:30]:
                exchange.hang_up()
        for number, exchange in enumerate(exchanges):
            if 20 <= number < 30:
                assert exchange.status is None
            else:
                assert exchange.json["id"] == number
                assert exchange.json["result"]["content"][0]["text"] == f"slept {number / 10}"


@on_virtual_time
async def test_a_schema_that_changes_is_looked_at_again():
    """Whether a tool declares headers is remembered only as long as its schema is the same."""
    async with stage() as it:
        assert (await it.post(ECHO)).status == 200
        declared = {"type": "object", "properties": {"text": {"type": "string", "x-mcp-header": "Text"}}}
        it.toy.listing[0] = {**it.toy.listing[0], "inputSchema": declared}
        await it.toy.changed()
        await anyio.sleep(5)
        refused = await it.post(ECHO)
        assert (refused.status, refused.json["error"]["code"]) == (400, -32020)
