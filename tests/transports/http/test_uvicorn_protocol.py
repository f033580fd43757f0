"""One HTTP connection: framing, pipelining, answers that take their time, and its end.

The protocol that uvicorn runs is on a transport here that keeps what is written; `tests/e2e/test_http.py` has sockets.
"""

import itertools
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from unittest.mock import patch

import anyio
import h11
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from asyncfc_mcp.core.identity import LOCAL
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.protocol import CONNECTION_CLOSED, LOG_LEVEL_META_KEY, REQUEST_CANCELLED
from asyncfc_mcp.transports.http import routes
from asyncfc_mcp.transports.http.auth.bearer_token import Principals
from asyncfc_mcp.transports.http.connections import Phase
from asyncfc_mcp.transports.http.exchange import Exchange
from asyncfc_mcp.transports.http.in_flight import UNWATCHED_S
from asyncfc_mcp.transports.http.streamable import StreamableHttp
from asyncfc_mcp.transports.http.uvicorn_protocol import LINGER_BYTES, HttpProtocol
from asyncfc_mcp.upstream.request import Request
from asyncfc_mcp.upstream.server import Upstream
from asyncfc_mcp.upstream.sync_calls import SyncResult
from tests.support.asgi_client import Json, alive
from tests.support.inprocess_server import Got, Toy, bridge_over, text_result
from tests.support.virtual_time import uncollected, until

pytestmark = pytest.mark.anyio
VERSION = "2026-07-28"
HEAD_BYTES = 16 << 10
"""As much as most servers take of a head."""
BODY_BYTES = 64 << 10
"""As much of a body as uvicorn keeps before it reads no further."""
META = {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {}}
GOOD = {
    "Host": "127.0.0.1:8642",
    "Accept": "application/json, text/event-stream",
    "Content-Type": "application/json",
    "Connection": "keep-alive",
}


@pytest.fixture
def anyio_backend() -> str:
    """uvicorn's, which is no other's."""
    return "asyncio"


class Transport:
    """Keeps what is written; of asyncio's as much as uvicorn uses."""

    def __init__(self) -> None:
        self.written = b""
        self.writes = 0
        self.closing = False
        self.aborted = False
        self.unread = 0
        self.ended = False
        self.reads = True
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.written += data
        self.writes += bool(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.protocol.loop.call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def get_write_buffer_size(self) -> int:
        return self.unread

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else None


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def messages(self) -> list[Json]:
        """What was said, plain or in events."""
        if self.headers["content-type"] == "text/event-stream":
            blocks = [block for block in self.body.decode().split("\r\n\r\n") if block and not block.startswith(":")]
            return [json.loads(block.partition("data: ")[2]) for block in blocks]
        return [json.loads(self.body)]

    @property
    def result(self) -> Json:
        return self.messages[-1]["result"]


@dataclass
class Connection:
    """A client's connection."""

    protocol: HttpProtocol
    transport: Transport
    session: str | None = None
    read: int = 0

    def head(
        self, body: bytes, headers: dict[str, str | None] | None = None, line: str = "POST /mcp HTTP/1.1"
    ) -> bytes:
        said: dict[str, str | None] = {**GOOD, "Content-Length": str(len(body))}
        if self.session is not None:
            said |= {"Mcp-Session-Id": self.session, "Mcp-Protocol-Version": "2025-11-25"}
        else:
            message = json.loads(body)
            said |= {"Mcp-Protocol-Version": VERSION, "Mcp-Method": message.get("method")}
            if (params := message.get("params")) and "name" in params:
                said["Mcp-Name"] = params["name"]
        lines = [f"{name}: {value}" for name, value in (said | (headers or {})).items() if value is not None]
        return "\r\n".join([line, *lines, "", ""]).encode()

    def message(self, method: str, params: Json | None = None, *, id: Any = 1, **meta: Any) -> bytes:
        given = dict(params or {})
        if self.session is None:
            given["_meta"] = META | meta
        elif meta:
            given["_meta"] = meta
        return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": given}).encode()

    def request(self, method: str, params: Json | None = None, **more: Any) -> bytes:
        """A plain request, whole."""
        body = self.message(method, params, **more)
        return self.head(body) + body

    def call(self, tool: str, arguments: Json | None = None, **more: Any) -> bytes:
        return self.request("tools/call", {"name": tool, "arguments": arguments or {}}, **more)

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.protocol.data_received(piece)

    def _parsed(self) -> tuple[Response, int] | None:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
        client.send(h11.EndOfMessage())
        if written := self.transport.written[self.read :]:
            client.receive_data(written)
        if self.transport.closing or self.transport.ended:
            client.receive_data(b"")
        response, chunks = None, list[bytes]()
        while True:
            event = client.next_event()
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                chunks.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None
                headers = {name.decode(): value.decode() for name, value in response.headers}
                rest = client.trailing_data[0]
                return Response(response.status_code, headers, b"".join(chunks)), len(self.transport.written) - len(
                    rest
                )
            elif event is h11.NEED_DATA:
                return None

    async def response(self) -> Response:
        """The next response, whole."""
        found: list[tuple[Response, int]] = []

        def whole() -> bool:
            found[:] = [each] if (each := self._parsed()) is not None else []
            return bool(found)

        await until(whole)
        [(response, self.read)] = found
        return response

    def hang_up(self) -> None:
        self.transport.closing = True
        self.protocol.connection_lost(None)


@dataclass
class Stage:
    """A bridge over a toy, as uvicorn serves it."""

    toy: Toy
    front: StreamableHttp
    config: uvicorn.Config
    state: ServerState = field(default_factory=ServerState)

    def connect(self) -> Connection:
        transport = Transport()
        make = cast("Any", self.config.http_protocol_class)
        protocol = transport.protocol = make(config=self.config, server_state=self.state, app_state={})
        protocol.connection_made(transport)
        return Connection(protocol, transport)

    async def shake_hands(self) -> Connection:
        """A connection of a session, on which nothing was sent yet."""
        opener = self.connect()
        opener.session = ""
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        body = opener.message("initialize", params)
        opener.send(opener.head(body, {"Mcp-Session-Id": None}) + body)
        connection = self.connect()
        connection.session = opener.session = (await opener.response()).headers["mcp-session-id"]
        body = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
        opener.send(opener.head(body) + body)
        assert (await opener.response()).status == 202
        return connection

    async def client(self, era: str) -> Connection:
        return await self.shake_hands() if era == "handshake" else self.connect()


@asynccontextmanager
async def stage(*, mode: str = "sync", token: str | None = None) -> AsyncGenerator[Stage]:
    toy = Toy()

    async def steps(got: Got) -> Json:
        await got.inbound.progress(1, 2, "half")
        return text_result("done")

    async def refuse(got: Got) -> Json:
        raise RpcError(-32050, "no")

    toy.add("steps", steps)
    toy.add("refuse", refuse)
    async with AsyncExitStack() as stack:
        stack.enter_context(patch("asyncfc_mcp.bridge.server_requests.CAPABILITIES_WAIT_S", 0.0))
        bridge = await stack.enter_async_context(bridge_over(toy, policy={"mode": mode, "grace_ms": 0}))
        upstream = Upstream(bridge)
        tg = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tg.cancel_scope.cancel)
        await tg.start(upstream.run)
        principals = Principals(anyone=LOCAL) if token is None else Principals({token: LOCAL})
        app, front = routes.http_app(upstream, host="127.0.0.1", principals=principals, streamable=True, sse=False)
        assert front is not None
        await stack.enter_async_context(alive(app))
        config = uvicorn.Config(app, http=cast("Any", HttpProtocol), ws="none", log_config=None, access_log=False)
        config.load()
        yield Stage(toy, front, config)


async def pending(it: Stage) -> Exchange:
    """The request that waits for its result."""
    await until(lambda: it.front.in_flight._pending)
    [exchange] = it.front.in_flight._pending
    return exchange


ERAS = pytest.mark.parametrize("era", ["2026-07-28", "handshake"])


# --- requests ------------------------------------------------------------------------------------------------------


@ERAS
async def test_a_quick_result_is_answered_and_the_connection_kept(era: str):
    """Plain JSON in one write, head and body; nothing is left waiting."""
    async with stage() as it:
        client = await it.client(era)
        for number in (1, 2, 3):
            client.send(client.call("echo", {"text": "hä\u2028"}, id=number))
            response = await client.response()
            assert response.status == 200
            assert response.headers["content-type"] == "application/json"
            assert ("mcp-session-id" in response.headers) == (era == "handshake")
            [message] = response.messages
            assert message["id"] == number
            assert response.result["structuredContent"] == {"arguments": {"text": "hä\u2028"}}
            assert client.transport.writes == number
        assert not it.front.in_flight._pending


@ERAS
async def test_a_handle_is_answered_before_anything_is_waited_for(era: str):
    """No request is pending, no watcher is due, and the answer is plain JSON in both eras."""
    async with stage(mode="future") as it:
        client = await it.client(era)
        client.send(client.call("gate", {"name": "never"}))
        response = await client.response()
        assert response.headers["content-type"] == "application/json"
        assert response.result["structuredContent"]["status"] == "running"
        assert client.transport.writes == 1
        assert not it.front.in_flight._pending
        assert not it.front.in_flight._unwatched


@ERAS
async def test_an_error_is_an_answer_too(era: str):
    """With the status of its era: the client that shook hands reads all errors at 200."""
    async with stage() as it:
        client = await it.client(era)
        for request, code, status in (
            (client.call("echo", {"a": 1}), None, 200),
            (client.call("nobody"), -32602, 400),
            (client.request("initialized", {}), -32601, 404),
            (client.call("refuse"), -32050, 200),
        ):
            client.send(request)
            response = await client.response()
            assert response.messages[-1].get("error", {}).get("code") == code
            assert response.status == (200 if era == "handshake" else status)


def whole(client: Connection) -> bytes:
    return client.call("echo", {"text": "x"})


def with_headers(**headers: str | None) -> Callable[[Connection], bytes]:
    def request(client: Connection) -> bytes:
        body = client.message("tools/call", {"name": "echo", "arguments": {"text": "x"}})
        return client.head(body, {name.replace("_", "-"): value for name, value in headers.items()}) + body

    return request


def chunked(client: Connection) -> bytes:
    body = client.message("tools/call", {"name": "echo", "arguments": {"text": "x"}})
    head = client.head(body, {"Content-Length": None, "Transfer-Encoding": "chunked"})
    return head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def large(client: Connection) -> bytes:
    return client.call("echo", {"text": "x", "more": "y" * BODY_BYTES})


def long_head(client: Connection) -> bytes:
    return with_headers(X_Long="z" * HEAD_BYTES)(client)


def on_another_path(client: Connection) -> bytes:
    body = client.message("tools/call", {"name": "echo", "arguments": {"text": "x"}})
    return client.head(body, line="POST /mcp/ HTTP/1.1") + body


@ERAS
@pytest.mark.parametrize(
    "request_of",
    [
        chunked,
        large,
        on_another_path,
        with_headers(Expect="100-continue"),
        with_headers(Upgrade="h2c", Connection="Upgrade, HTTP2-Settings"),
        with_headers(Connection="close"),
        with_headers(TE="trailers"),
    ],
)
async def test_requests_of_every_framing_are_answered(era: str, request_of: Callable[[Connection], bytes]):
    """In one piece and in seven."""
    async with stage() as it:
        for pieces in (1, 7):
            client = await it.client(era)
            request = request_of(client)
            step = -(-len(request) // pieces)
            client.send(*(request[at : at + step] for at in range(0, len(request), step)))
            response = await client.response()
            if response.status == 100:
                response = await client.response()
            assert response.result["structuredContent"]["arguments"]["text"] == "x"


@ERAS
async def test_a_long_head_is_taken(era: str):
    """Up to h11's bound of 64 KiB."""
    async with stage() as it:
        client = await it.client(era)
        request = long_head(client)
        client.send(request[:HEAD_BYTES], request[HEAD_BYTES:])
        assert (await client.response()).result["structuredContent"]["arguments"] == {"text": "x"}


async def test_a_head_whose_lines_end_with_lf_alone_is_refused():
    """A proxy may read it as one line; `test_http_framing` has more of the kind."""
    async with stage() as it:
        client = it.connect()
        client.send(whole(client).replace(b"\r\n", b"\n"), whole(client))
        response = await client.response()
        assert (response.status, response.body) == (400, b"Lines must end with CR LF\n")
        assert response.headers["connection"] == "close"
        await until(lambda: client.transport.ended)
        assert client.read == len(client.transport.written)
        assert not it.toy.got


async def test_an_answer_before_the_end_of_a_body_ends_the_connection():
    """Of any status: what nobody reads has no time limit of its own."""
    async with stage() as it:
        client = it.connect()
        client.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\nx")
        response = await client.response()
        assert response.status == 200
        assert response.headers["connection"] == "close"
        assert client.transport.ended
        assert client.protocol.phase is Phase.END
        client.send(b"x" * LINGER_BYTES)
        await until(lambda: client.transport.closing)


async def test_an_offer_of_websockets_is_not_taken():
    """The connection stays one of HTTP, within its bounds."""
    async with stage() as it:
        client = it.connect()
        offer = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        for _ in range(2):
            client.send(offer)
            assert (await client.response()).status == 200
        assert client.transport.protocol is client.protocol


async def test_a_connection_that_must_go_is_aborted_where_its_client_does_not_read():
    """Closed, it would stay open until its client has read everything."""
    async with stage() as it:
        for unread, phase in ((1, Phase.IDLE), (1, Phase.HEAD), (0, Phase.END), (0, Phase.ANSWER)):
            client = it.connect()
            client.send(b"POST")
            client.transport.unread = unread
            client.protocol.expire(phase)
            assert client.transport.aborted
        client = it.connect()
        client.send(b"POST")
        client.protocol.expire(Phase.HEAD)
        assert b" 408 " in client.transport.written
        assert not client.transport.aborted


async def test_framings_may_follow_each_other_on_a_connection():
    """Each request is read by its own."""
    async with stage() as it:
        client = it.connect()
        for request_of in (chunked, whole, large, chunked, whole):
            client.send(request_of(client))
            assert (await client.response()).result["structuredContent"]["arguments"]["text"] == "x"
        assert not client.transport.closing


REFUSED: dict[str, tuple[bytes | None, dict[str, str | None], int]] = {
    "another host": (None, {"Host": "evil.example"}, 421),
    "another origin": (None, {"Origin": "http://evil.example"}, 403),
    "another type": (None, {"Content-Type": "text/plain"}, 400),
    "takes no streams": (None, {"Accept": "application/json"}, 406),
    "no JSON": (b"{", {"Mcp-Method": "tools/call", "Mcp-Name": "echo"}, 400),
    "an answer": (b'{"jsonrpc":"2.0","id":1,"result":{}}', {}, 400),
    "another method in the headers": (None, {"Mcp-Method": "tools/list"}, 400),
    "two hosts": (None, {"Host": "127.0.0.1\r\nHost: localhost"}, 400),
    "two lengths": (None, {"Content-Length": "7\r\nContent-Length: 8"}, 400),
    "no host": (None, {"Host": None}, 400),
    "a length that is none": (None, {"Content-Length": "+7"}, 400),
    "a name that is none": (None, {"Bad Name": "x"}, 400),
    "a value that is none": (None, {"X": "a\x00b"}, 400),
    "white space before the colon": (None, {"Host ": "127.0.0.1"}, 400),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_no_good_request_is_refused(case: str):
    """Before anything is done."""
    body, headers, status = REFUSED[case]
    async with stage() as it:
        client = it.connect()
        body = body or client.message("tools/call", {"name": "echo", "arguments": {"text": "x"}})
        given = json.loads(client.message("x")) if body == b"{" else None
        head = client.head(body if given is None else json.dumps(given).encode(), headers | {"Content-Length": (
            headers.get("Content-Length") or str(len(body)))})  # fmt: skip
        client.send(head + body)
        assert (await client.response()).status == status
        assert not it.toy.got


async def test_the_token_is_asked_for():
    """A request without it reaches no tool."""
    async with stage(token="secret") as it:
        for given, status in (("Bearer secret", 200), ("Bearer secret2", 401), (None, 401), ("Bearer secret", 200)):
            for request_of in (with_headers(Authorization=given), with_headers(Authorization=given, TE="trailers")):
                client = it.connect()
                client.send(request_of(client))
                assert (await client.response()).status == status
        assert len(it.toy.got) == 4


# --- pieces, and what is sent ahead --------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 600), max_size=5))
def test_a_request_may_come_in_any_pieces(cuts: list[int]):
    """The answer is the same."""

    async def play() -> None:
        async with stage() as it:
            client = it.connect()
            request = whole(client)
            edges = [0, *sorted(cut for cut in set(cuts) if cut < len(request)), len(request)]
            client.send(*(request[a:b] for a, b in itertools.pairwise(edges)))
            assert (await client.response()).result["structuredContent"] == {"arguments": {"text": "x"}}

    anyio.run(play)


@ERAS
@pytest.mark.parametrize("together", [True, False])
async def test_requests_that_are_sent_ahead_are_answered_in_order(era: str, together: bool):
    """In one piece, or one after another while the first is still being answered."""
    async with stage() as it:
        client = await it.client(era)
        requests = [client.call("gate", {"name": "first"}), *(client.call("echo", {"n": n}, id=n) for n in (2, 3, 4))]
        client.send(*([b"".join(requests)] if together else requests))
        await until(lambda: it.toy.got)
        it.toy.open("first")
        assert [(await client.response()).messages[-1]["id"] for _ in requests] == [1, 2, 3, 4]
        client.send(client.call("echo", {"n": 5}, id=5))
        assert (await client.response()).messages[-1]["id"] == 5


async def test_no_more_is_read_of_who_sends_too_much_ahead():
    """Until the answer is there that it could have waited for."""
    async with stage() as it:
        client = it.connect()
        client.send(client.call("gate", {"name": "first"}))
        client.send(large(client)[: BODY_BYTES + 1])
        assert not client.transport.reads
        it.toy.open("first")
        await client.response()
        await until(lambda: client.transport.reads)


async def test_who_does_not_read_is_not_answered_further():
    """What waits to be read is bounded by uvicorn, which stops there."""
    async with stage() as it:
        client = it.connect()
        client.protocol.pause_writing()
        client.send(whole(client))
        for _ in range(20):
            await anyio.sleep(0.001)
        assert not client.transport.written
        client.protocol.resume_writing()
        assert (await client.response()).status == 200


# --- what takes longer ---------------------------------------------------------------------------------------------


@ERAS
async def test_a_slow_result_is_watched_and_answered(era: str):
    """The call is made once; after a while its client's hanging up is watched for. The connection goes on."""
    async with stage() as it:
        client = await it.client(era)
        client.send(client.call("gate", {"name": "slow"}))
        exchange = await pending(it)
        assert exchange.watcher is None
        await until(lambda: exchange.watcher is not None)
        it.toy.open("slow")
        response = await client.response()
        assert response.result["content"][0]["text"] == "through slow"
        assert response.headers["content-type"] == ("text/event-stream" if era == "handshake" else "application/json")
        assert [got.tool for got in it.toy.got] == ["gate"]
        client.send(whole(client))
        assert (await client.response()).status == 200


@ERAS
async def test_progress_makes_a_stream_of_the_response(era: str):
    """The step first, then the result."""
    async with stage() as it:
        client = await it.client(era)
        client.send(client.call("steps", progressToken="p"))
        response = await client.response()
        assert response.headers["content-type"] == "text/event-stream"
        step, answer = response.messages
        assert step["params"] == {"progressToken": "p", "progress": 1, "total": 2, "message": "half"}
        assert answer["result"]["content"][0]["text"] == "done"


@ERAS
@pytest.mark.parametrize("others", [0, 3])
async def test_a_log_message_makes_a_stream_of_the_response(era: str, others: int):
    """It comes before the result, as it was said, however many hear it."""
    async with stage() as it:

        async def chatty(got: Got) -> Json:
            await got.inbound.notify("notifications/message", {"level": "info", "data": "hello"})
            return text_result("done")

        it.toy.tools["steps"] = chatty
        meta = {} if era == "handshake" else {LOG_LEVEL_META_KEY: "debug"}
        waiting = [await it.client(era) for _ in range(others)]
        for other in waiting:
            other.send(other.call("gate", {"name": "g"}, **meta))
        client = await it.client(era)
        client.send(client.call("steps", **meta))
        said, answer = (await client.response()).messages
        assert said["params"] == {"level": "info", "data": "hello"}
        assert answer["result"]["content"][0]["text"] == "done"
        it.toy.open("g")
        for other in waiting:
            said, answer = (await other.response()).messages
            assert said["params"]["data"] == "hello"


async def test_what_several_say_before_the_result_is_one_stream():
    """Its head once, and each event whole."""
    async with stage() as it:
        client = it.connect()
        client.send(client.call("gate", {"name": "g"}))
        exchange = await pending(it)
        async with anyio.create_task_group() as tg:
            for number in range(3):
                tg.start_soon(exchange.notify, "x", {"n": number})
        it.toy.open("g")
        *said, answer = (await client.response()).messages
        assert [each["params"]["n"] for each in said] == [0, 1, 2]
        assert answer["result"]["content"][0]["text"] == "through g"


@ERAS
async def test_a_request_whose_client_hangs_up_at_once_is_not_made(era: str):
    """It was read, and its task has had no turn yet."""
    async with stage() as it:
        client = await it.client(era)
        client.send(client.call("gate", {"name": "never"}))
        client.hang_up()
        await until(lambda: not it.state.tasks)
        assert not it.toy.got
        assert not it.front.in_flight._pending


async def test_what_was_sent_ahead_of_the_end_is_not_answered():
    """The connection is closed behind the answer that it waited for."""
    async with stage() as it:
        client = it.connect()
        client.send(client.call("gate", {"name": "g"}), client.call("echo", id=2))
        client.protocol.shutdown()
        it.toy.open("g")
        assert (await client.response()).messages[-1]["id"] == 1
        await until(lambda: client.transport.closing)
        assert [got.tool for got in it.toy.got] == ["gate"]


async def test_a_request_that_cannot_be_watched_costs_no_other_anything(caplog: pytest.LogCaptureFixture):
    """It is given up as if its client had hung up, and the others go on."""
    async with stage() as it:

        async def boom() -> Any:
            raise RuntimeError("boom")

        client = it.connect()
        for name in ("never", "g"):
            client = it.connect()
            client.send(client.call("gate", {"name": name}))
            await until(lambda name=name: name in it.toy.gates)
        broken, watched = it.front.in_flight._unwatched
        it.front.in_flight._unwatched[broken] = boom
        await until(lambda: watched.watcher is not None)
        await until(lambda: it.toy.cancelled == ["gate"])
        it.toy.open("g")
        assert (await client.response()).result["content"][0]["text"] == "through g"
        assert "boom" in caplog.text


async def test_what_is_said_to_who_hung_up_is_dropped():
    """Whoever says it is not kept."""
    async with stage() as it:
        client = it.connect()
        client.send(client.call("gate", {"name": "never"}))
        exchange = await pending(it)
        say = exchange.send
        client.hang_up()
        with anyio.fail_after(5):
            await say({"type": "http.response.start", "status": 200, "headers": []})
        await until(lambda: exchange.closed)
        assert not await exchange.write({"jsonrpc": "2.0", "method": "x"})
        assert not client.transport.written


# --- what is left of it --------------------------------------------------------------------------------------------


@ERAS
@pytest.mark.parametrize("tool", ["echo", "refuse", "steps", "slow"])
async def test_nothing_is_left_of_a_request_that_was_answered(era: str, tool: str):
    """Its arguments are freed with its answer, not by the garbage collector some time later."""
    async with stage() as it:

        async def slow(got: Got) -> Json:
            await anyio.sleep(UNWATCHED_S * 2.5)
            return text_result("done")

        it.toy.add("slow", slow)
        await it.toy.changed()
        client = await it.client(era)
        await until(lambda: "slow" in it.front._stateless._upstream.bridge.directory.routes)
        client.send(client.call("echo"))
        await client.response()
        with uncollected(Exchange, Request, Call, SyncResult) as left:
            client.send(client.call(tool, **({"progressToken": 1} if tool == "steps" else {})))
            await client.response()
            client.send(client.call("echo"))  # uvicorn keeps the last one
            await client.response()
            await until(lambda: not left())


# --- how it ends ---------------------------------------------------------------------------------------------------


@ERAS
@pytest.mark.parametrize("late", [False, True])
async def test_hanging_up_cancels_where_the_protocol_says_so(era: str, late: bool):
    """On 2026-07-28; clients that shook hands may want the call all the same."""
    async with stage() as it:
        client = await it.client(era)
        client.send(client.call("gate", {"name": "g"}))
        await until(lambda: it.toy.got)
        if late:
            await anyio.sleep(UNWATCHED_S * 2.5)
        client.hang_up()
        if era == "handshake":
            await anyio.sleep(0.05)
            assert not it.toy.cancelled
            it.toy.open("g")
            await until(lambda: not it.front.in_flight._pending)
        else:
            await until(lambda: it.toy.cancelled)
        assert not it.front.in_flight._unwatched


async def test_a_cancelled_request_is_answered_with_that():
    """By a notification, which comes on another connection."""
    async with stage() as it:
        client = await it.shake_hands()
        client.send(client.call("gate", {"name": "never"}, id=7))
        other = it.connect()
        other.session = client.session
        body = json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}).encode()
        other.send(other.head(body) + body)
        assert (await other.response()).status == 202
        assert (await client.response()).messages[-1]["error"]["code"] == REQUEST_CANCELLED
        await until(lambda: it.toy.cancelled)


@ERAS
async def test_a_bridge_that_stops_answers_what_waits_and_what_comes(era: str):
    """With an error that says so."""
    async with stage() as it:
        client = await it.client(era)
        client.send(client.call("gate", {"name": "never"}))
        await pending(it)
        late = it.connect()
        it.front.stop()
        assert (await client.response()).messages[-1]["error"]["code"] == CONNECTION_CLOSED
        await until(lambda: it.toy.cancelled)
        for request in (late.call("gate", {"name": "never"}), with_headers(TE="trailers")(late)):
            late.send(request)
            assert (await late.response()).messages[-1]["error"]["code"] == CONNECTION_CLOSED
        assert [got.tool for got in it.toy.got] == ["gate"], "who comes too late has no call made"


@pytest.mark.parametrize("slow", [False, True])
async def test_a_server_that_ends_closes_connections_after_their_answers(slow: bool):
    """None in the middle; those on which nothing goes on at once."""
    async with stage() as it:
        idle, client = it.connect(), it.connect()
        client.send(client.call("gate", {"name": "g"}))
        idle.protocol.shutdown()
        client.protocol.shutdown()
        assert idle.transport.closing
        assert not client.transport.closing
        if slow:
            exchange = await pending(it)
            await until(lambda: exchange.watcher is not None)
        it.toy.open("g")
        assert (await client.response()).result["content"][0]["text"] == "through g"
        await until(lambda: client.transport.closing)
        await until(lambda: not it.state.connections)


async def test_a_connection_that_is_not_used_any_more_is_closed():
    """After as long as uvicorn gives it; a request in time begins that time anew."""
    async with stage() as it:
        client = it.connect()
        client.send(whole(client))
        await client.response()
        first = client.protocol.timeout_keep_alive_task
        assert first is not None
        client.send(whole(client))
        assert first.cancelled()
        await client.response()
        second = client.protocol.timeout_keep_alive_task
        assert second is not None
        client.protocol.timeout_keep_alive_handler()
        assert client.transport.closing
