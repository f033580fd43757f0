"""Sessions over Streamable HTTP, from raw ASGI: what the SDK's do, questions, streams, and how they end."""

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from mcp.server import streamable_http
from mcp.server.transport_security import TransportSecuritySettings

from asyncfc_mcp import protocol
from asyncfc_mcp.bridge.server_requests import ALL_CLIENT_CAPABILITIES
from asyncfc_mcp.core.identity import LOCAL, LOCAL_PRINCIPAL
from asyncfc_mcp.engine.question_rules import AGAIN_S
from asyncfc_mcp.engine.questions import CLAIM_S
from asyncfc_mcp.errors import RpcError
from asyncfc_mcp.transports.http import admission, routes, session_table
from asyncfc_mcp.transports.http.auth.bearer_token import Principals
from asyncfc_mcp.transports.http.in_flight import PING_S
from asyncfc_mcp.transports.http.session import ABSENT_S, HttpSession
from asyncfc_mcp.transports.sdk_adapter import sdk_server
from asyncfc_mcp.upstream.server import Upstream
from tests.support.asgi_client import HOSTS, LIMIT, ORIGINS, App, Exchange, Http, Json, alive
from tests.support.inprocess_server import Got, Toy, bridge_over, text_result
from tests.support.virtual_time import on_virtual_time

INITIALIZE: dict[str, Any] = {
    "protocolVersion": Http.version,
    "capabilities": {"elicitation": {}},
    "clientInfo": {"name": "test", "version": "1"},
}
CANCELLED = "notifications/cancelled"
FORM = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}}


def ask(method: str, params: Json | None = None, *, id: Any = 1) -> Json:
    """The body of a request."""
    return {"jsonrpc": "2.0", "id": id, "method": method, **({} if params is None else {"params": params})}


def call(tool: str, arguments: Json | None = None, *, id: Any = 1, **more: Any) -> Json:
    return ask("tools/call", {"name": tool, "arguments": arguments or {}, **more}, id=id)


def tell(method: str, params: Json | None = None) -> Json:
    """The body of a notification."""
    return {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}


@dataclass
class Client:
    """A client that has shaken hands."""

    app: App
    session: str

    def exchange(self, body: Any = None, *, method: str = "POST", **headers: str | None) -> Exchange:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return Exchange(self.app, Http(body, {"mcp-session-id": self.session, **given}, method=method))

    async def send(self, body: Any = None, **more: Any) -> Exchange:
        return await self.exchange(body, **more).run()

    async def call(self, tool: str, arguments: Json | None = None, **more: Any) -> Json:
        return last(await self.send(call(tool, arguments, **more)))["result"]


def last(exchange: Exchange) -> Json:
    """The answer, plain or at the end of a stream."""
    return exchange.events()[-1] if exchange.streams else exchange.json


async def shake_hands(app: App, **capabilities: Any) -> Client:
    """Open a session as a good client does."""
    params = {**INITIALIZE, "capabilities": capabilities or INITIALIZE["capabilities"]}
    opened = await Exchange(app, Http(ask("initialize", params))).run()
    assert opened.status == 200
    client = Client(app, opened.headers["mcp-session-id"])
    assert (await client.send(tell("notifications/initialized"))).status == 202
    return client


@dataclass
class Stage:
    """The app as it is served, and the SDK's for the same server."""

    ours: Any
    theirs: App
    toy: Toy
    stop: Callable[[], None]

    @property
    def sessions(self) -> dict[str, HttpSession]:
        return self.ours._sessions._table._sessions


@asynccontextmanager
async def stage(*, mode: str = "sync", **settings: Any) -> AsyncGenerator[Stage]:
    toy = Toy()

    async def steps(got: Got) -> Json:
        for step in (1, 2):
            await got.inbound.progress(step, 2)
            await anyio.sleep(1)
        return text_result("done")

    async def who(got: Got) -> Json:
        answer = await got.inbound.send_raw_request("elicitation/create", FORM)
        return text_result(json.dumps(answer))

    toy.add("steps", steps)
    toy.add("who", who)
    patched = pytest.MonkeyPatch()
    patched.setattr(admission, "MAX_BODY_BYTES", LIMIT)
    async with AsyncExitStack() as stack:
        stack.callback(patched.undo)
        bridge = await stack.enter_async_context(bridge_over(toy, policy={"mode": mode, "grace_ms": 0}, **settings))
        bridge.server_requests.set_client_capabilities(ALL_CLIENT_CAPABILITIES)
        upstream = Upstream(bridge)
        tg = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tg.cancel_scope.cancel)
        await tg.start(upstream.run)
        security = TransportSecuritySettings(allowed_hosts=HOSTS, allowed_origins=ORIGINS)
        theirs = sdk_server(upstream, LOCAL_PRINCIPAL).streamable_http_app(
            transport_security=security, max_request_body_size=LIMIT
        )
        ours, front = routes.http_app(
            upstream, host="127.0.0.1", principals=Principals(anyone=LOCAL), streamable=True, sse=False
        )
        for app in (ours, theirs):
            await stack.enter_async_context(alive(app))
        assert front is not None
        yield Stage(ours, theirs, toy, front.stop)


# --- as the SDK's sessions -----------------------------------------------------------------------------------------

LIST = ask("tools/list")
SAME: dict[str, tuple[Any, Mapping[str, Any]]] = {
    "ping": (ask("ping"), {}),
    "list": (LIST, {}),
    "call": (call("echo", {"text": "hä\u2028"}), {}),
    "failed call": (call("fail", {"why": "because"}), {}),
    "unknown tool": (call("nobody"), {}),
    "unknown method": (ask("no/such"), {}),
    "method of the other era": (ask("server/discover"), {}),
    "bad cursor": (ask("tools/list", {"cursor": "nowhere"}), {}),
    "string id": (ask("ping", id="seven"), {}),
    "large id": (ask("ping", id=1 << 70), {}),
    "progress": (call("steps", _meta={"progressToken": "p"}), {}),
    "half a minute and more": (call("sleep", {"s": 40}), {}),
    "another handshake": (ask("initialize", INITIALIZE), {}),
    "no version": (LIST, {"mcp_protocol_version": None}),
    "older version": (LIST, {"mcp_protocol_version": "2025-03-26"}),
    "notification": (tell("notifications/initialized"), {}),
    "unknown notification": (tell("no/such"), {}),
    "answer to nothing": ({"jsonrpc": "2.0", "id": 7, "result": {}}, {}),
    "error to nothing": ({"jsonrpc": "2.0", "id": "x", "error": {"code": 1, "message": "m"}}, {}),
    "unknown session": (LIST, {"mcp_session_id": "nobody"}),
    "no session": (LIST, {"mcp_session_id": None}),
    "notification without a session": (tell("notifications/initialized"), {"mcp_session_id": None}),
    "no content type": (LIST, {"content_type": None}),
    "text": (LIST, {"content_type": "text/plain"}),
    "json only": (LIST, {"accept": "application/json"}),
    "events only": (LIST, {"accept": "text/event-stream"}),
    "no accept": (LIST, {"accept": None}),
    "anything": (LIST, {"accept": "*/*"}),
    "foreign host": (LIST, {"host": "evil.example:8642"}),
    "foreign origin": (LIST, {"origin": "https://evil.example"}),
    "our origin": (LIST, {"origin": "http://localhost:3000"}),
    "too large": (b" " * LIMIT + b"{}", {}),
    "too large, and says so": (b"{}", {"content_length": str(LIMIT + 1)}),
    "listening without taking events": (b"", {"method": "GET", "accept": "application/json"}),
    "listening without a session": (b"", {"method": "GET", "mcp_session_id": None}),
    "leaving": (b"", {"method": "DELETE"}),
    "leaving without a session": (b"", {"method": "DELETE", "mcp_session_id": None}),
    "leaving another session": (b"", {"method": "DELETE", "mcp_session_id": "nobody"}),
    "put": (b"", {"method": "PUT"}),
}
"""Requests that both answer alike; ours may be plain where the SDK's is a stream."""
REFUSED: dict[str, tuple[Any, Mapping[str, Any]]] = {
    "empty": (b"", {}),
    "no json": (b"what?", {}),
    "batch": ([LIST, LIST], {}),
    "error of nothing": ({"jsonrpc": "2.0", "error": {"code": 1, "message": "m"}}, {}),
    "no jsonrpc": ({"id": 1, "method": "ping"}, {}),
    "params are a list": ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]}, {}),
}
"""What is no message: 400, whatever the words."""


def seen(exchange: Exchange, session: str) -> tuple[Any, ...]:
    """What a client can tell apart, whether or not it was a stream."""
    kind = exchange.headers.get("content-type")
    messages: Any = exchange.events() if exchange.streams else [exchange.json] if kind and exchange.body else []
    for each in messages:
        if each.get("id") is None and "error" in each:
            each["error"]["message"] = each["error"]["message"].removeprefix("Not Acceptable: ")
    own = exchange.headers.get("mcp-session-id") == session
    return exchange.status, messages, exchange.headers.get("allow"), own if exchange.status < 300 else None


async def both(it: Stage, body: Any, more: Mapping[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for app in (it.ours, it.theirs):
        client = await shake_hands(app)
        exchange = await client.send(body, **more)
        assert exchange.ended
        found.append(seen(exchange, client.session))
    return found[0], found[1]


@pytest.mark.parametrize("case", SAME)
@on_virtual_time
async def test_sessions_answer_as_those_of_the_sdk_do(case: str):
    """Status, messages and session, whatever is wrong with the request or right."""
    async with stage() as it:
        ours, theirs = await both(it, *SAME[case])
        assert ours == theirs


@pytest.mark.parametrize("case", REFUSED)
@on_virtual_time
async def test_what_is_no_message_is_refused(case: str):
    """As the SDK does, in words of our own."""
    async with stage() as it:
        ours, theirs = await both(it, *REFUSED[case])
        assert ours[0] == theirs[0] == 400
        assert ours[1][0]["error"]["message"]


@pytest.mark.parametrize("request_id", [None, True, 1.5, [1]])
@on_virtual_time
async def test_a_request_whose_id_is_none_is_refused(request_id: Any):
    """The SDK takes it for a notification, and its sender waits for ever."""
    async with stage() as it:
        client = await shake_hands(it.ours)
        assert (await client.send(ask("ping", id=request_id))).status == 400


def test_the_code_of_a_cancelled_request_is_that_of_the_sdk():
    """It is written down once more, so that nobody has to load the SDK for it."""
    assert protocol.REQUEST_CANCELLED == streamable_http.REQUEST_CANCELLED


# --- sessions ------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_a_handshake_that_fails_opens_no_session():
    """There is no ID to go on with, and nothing is kept."""
    async with stage() as it:
        refused = await Exchange(it.ours, Http(ask("initialize", {"protocolVersion": 5}))).run()
        assert "error" in refused.json
        assert "mcp-session-id" not in refused.headers
        assert not it.sessions


@on_virtual_time
async def test_sessions_are_told_apart():
    """Each has its own ID, that nobody can guess; what one leaves goes on for the other."""
    async with stage() as it:
        one, other = await shake_hands(it.ours), await shake_hands(it.ours)
        assert one.session != other.session
        assert len(one.session) == 32
        assert (await one.send(method="DELETE")).status == 200
        assert (await one.send(LIST)).status == 404
        assert (await one.send(method="DELETE")).status == 404
        assert (await other.send(LIST)).status == 200


@on_virtual_time
async def test_there_may_be_too_many_sessions():
    """Where all are in use a further one is refused and told what to do; one that ends, or was left, makes room."""
    async with stage(max_sessions=2) as it:
        busy, left = await shake_hands(it.ours), await shake_hands(it.ours)
        assert (await left.send(LIST)).status == 200
        stream = busy.exchange(method="GET")
        async with anyio.create_task_group() as tg:
            tg.start_soon(stream.run)
            await anyio.sleep(1)
            refused = await Exchange(it.ours, Http(ask("initialize", INITIALIZE))).run()
            assert refused.status == 503
            assert "DELETE" in refused.json["error"]["message"]
            assert (await left.send(LIST)).status == 200
            await anyio.sleep(session_table.MIN_IDLE_TO_EVICT_S)
            await shake_hands(it.ours)
            assert (await left.send(LIST)).status == 404
            assert (await busy.send(LIST)).status == 200
            await busy.send(method="DELETE")
        await shake_hands(it.ours)


@on_virtual_time
async def test_sessions_that_only_shake_hands_keep_nobody_out():
    """However many open sessions and do nothing: the oldest of those makes room, and none that is used or listens."""
    async with stage(max_sessions=3) as it:
        used, listening = await shake_hands(it.ours), await shake_hands(it.ours)
        assert (await used.send(LIST)).status == 200
        stream = listening.exchange(method="GET")
        async with anyio.create_task_group() as tg:
            tg.start_soon(stream.run)
            await anyio.sleep(1)
            strangers = [await shake_hands(it.ours)]
            for _ in range(5):
                await anyio.sleep(0.01)
                strangers.append(await shake_hands(it.ours))
            assert len(it.sessions) == 3
            assert (await used.send(LIST)).status == 200
            assert (await listening.send(LIST)).status == 200
            assert [(await each.send(LIST)).status for each in strangers] == [404] * 5 + [200]
            stream.hang_up()


@on_virtual_time
async def test_a_session_that_was_left_ends():
    """Half an hour after its last request, and not while one is being answered or somebody listens."""
    async with stage() as it:
        left, listening, waiting = [await shake_hands(it.ours) for _ in range(3)]
        async with anyio.create_task_group() as tg:
            stream = listening.exchange(method="GET")
            tg.start_soon(stream.run)
            tg.start_soon(waiting.exchange(call("gate", {"name": "long"})).run)
            await anyio.sleep(session_table.IDLE_S / 2)
            assert (await left.send(LIST)).status == 200
            await anyio.sleep(session_table.IDLE_S - 1)
            assert list(it.sessions) == [each.session for each in (left, listening, waiting)]
            await anyio.sleep(2 * session_table.SWEEP_S)
            assert (await left.send(LIST)).status == 404
            assert list(it.sessions) == [each.session for each in (listening, waiting)]
            it.toy.open("long")
            stream.hang_up()


@on_virtual_time
async def test_another_handshake_is_a_request_too():
    """Who shakes hands again and again has not left."""
    async with stage() as it:
        client = await shake_hands(it.ours)
        for _ in range(4):
            await anyio.sleep(session_table.IDLE_S / 2)
            assert (await client.send(ask("initialize", INITIALIZE))).status == 200


@pytest.mark.parametrize("body", [LIST, ask("initialize", INITIALIZE)])
@on_virtual_time
async def test_a_session_that_ends_while_a_body_comes_stays_ended(body: Json):
    """Nothing is done in it any more, and it does not come back."""
    async with stage() as it:
        client = await shake_hands(it.ours)
        whole = json.dumps(body).encode()
        slow = client.exchange([whole[:10], whole[10:]])
        reads, slow_receive = anyio.Event(), slow._receive

        async def receive() -> Json:
            if len(slow._pieces) == 1:
                await reads.wait()
            return await slow_receive()

        slow._receive = receive
        async with anyio.create_task_group() as tg:
            tg.start_soon(slow.run)
            await anyio.sleep(1)
            await client.send(method="DELETE")
            reads.set()
        assert slow.status == 404
        assert (await client.send(LIST)).status == 404


# --- requests ------------------------------------------------------------------------------------------------------


@on_virtual_time
async def test_an_answer_that_is_there_at_once_is_plain_and_any_other_a_stream():
    """Whose head is sent while the call runs. Both carry the session's ID."""
    async with stage(mode="future") as it:
        client = await shake_hands(it.ours)
        plain = await client.send(call("sleep", {"s": 100}))
        assert plain.headers["content-type"] == "application/json"
        assert (await client.send(LIST)).streams, "a list is a stream, as the SDK's"
        steps = client.exchange(call("steps", {"_wait": "this"}, _meta={"progressToken": 5}))
        async with anyio.create_task_group() as tg:
            tg.start_soon(steps.run)
            await anyio.sleep(0.5)
            assert steps.streams
            assert not steps.ended
        *progress, answer = steps.events()
        assert {each["method"] for each in progress} == {"notifications/progress"}
        assert answer["result"]["content"][1]["text"] == "done"
        assert plain.headers["mcp-session-id"] == steps.headers["mcp-session-id"] == client.session


@on_virtual_time
async def test_hanging_up_cancels_nothing():
    """A call goes on without its client, as the protocol has it; the client may come back and ask for its future."""
    async with stage(mode="future") as it:
        client = await shake_hands(it.ours)
        exchange = client.exchange(call("gate", {"name": "g", "_as": "kept", "_wait": "this"}))
        async with anyio.create_task_group() as tg:
            tg.start_soon(exchange.run)
            await anyio.sleep(1)
            exchange.hang_up()
            await anyio.sleep(1)
            assert not it.toy.cancelled
            it.toy.open("g")
        assert not exchange.ended
        answer = await client.call("await_future", {"future_id": "kept"})
        assert answer["content"][0]["text"] == "through g"


@pytest.mark.parametrize("request_id", [5, "five"])
@on_virtual_time
async def test_a_cancelled_request_is_answered_with_an_error(request_id: int | str):
    """Its server is told, and other requests are not touched."""
    async with stage() as it:
        client, other = await shake_hands(it.ours), await shake_hands(it.ours)
        exchange = client.exchange(call("gate", {"name": "g"}, id=request_id))
        beside = client.exchange(call("gate", {"name": "b"}, id=6))
        async with anyio.create_task_group() as tg:
            for each in (exchange, beside):
                tg.start_soon(each.run)
            await anyio.sleep(1)
            stop = tell(CANCELLED, {"requestId": request_id})
            assert (await other.send(stop)).status == 202
            await anyio.sleep(1)
            assert not it.toy.cancelled, "another session's requests are none of its business"
            assert (await client.send(stop)).status == 202
            await anyio.sleep(1)
            assert it.toy.cancelled == ["gate"]
            assert last(exchange)["error"]["code"] == protocol.REQUEST_CANCELLED
            it.toy.open("b")
        assert last(beside)["result"]["content"][0]["text"] == "through b"


@on_virtual_time
async def test_two_requests_with_one_id_are_each_answered():
    """A client that uses an ID again gets both answers, each where it asked."""
    async with stage() as it:
        client = await shake_hands(it.ours)
        exchanges = [client.exchange(call("sleep", {"s": s}, id=1)) for s in (2, 1)]
        async with anyio.create_task_group() as tg:
            for each in exchanges:
                tg.start_soon(each.run)
        assert [last(each)["result"]["content"][0]["text"] for each in exchanges] == ["slept 2", "slept 1"]


# --- what the server says by itself --------------------------------------------------------------------------------


@on_virtual_time
async def test_a_listener_hears_what_changed_before_it_came_and_after():
    """Until it hangs up; pings while nothing happens."""
    async with stage() as it:
        client = await shake_hands(it.ours)
        await it.toy.changed()
        it.toy.add("early", it.toy._echo)
        await it.toy.changed()
        await anyio.sleep(5)
        stream = client.exchange(method="GET")
        async with anyio.create_task_group() as tg:
            tg.start_soon(stream.run)
            await anyio.sleep(1)
            changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
            assert stream.streams
            assert stream.headers["mcp-session-id"] == client.session
            assert stream.events() == [changed]
            await anyio.sleep(PING_S * 2)
            assert stream.pings() == 2
            it.toy.add("late", it.toy._echo)
            await it.toy.changed()
            await anyio.sleep(5)
            assert stream.events() == [changed] * 2
            stream.hang_up()
        it.toy.add("later", it.toy._echo)
        await it.toy.changed()
        await anyio.sleep(5)
        assert stream.events() == [changed] * 2


@on_virtual_time
async def test_another_stream_takes_the_place_of_one_that_is_not_read():
    """A client whose connection was lost listens again before anybody has noticed: what the old one has not taken goes
    to the new one, and nobody waits for the old one."""
    async with stage() as it:
        client = await shake_hands(it.ours)
        old, new = client.exchange(method="GET"), client.exchange(method="GET")
        async with anyio.create_task_group() as tg:
            tg.start_soon(old.run)
            await anyio.sleep(1)
            old.reads = anyio.Event()
            for number in range(3):
                it.toy.add(f"late{number}", it.toy._echo)
                await it.toy.changed()
                await anyio.sleep(5)
            assert not old.events()
            tg.start_soon(new.run)
            await anyio.sleep(5)
            assert len(new.events()) == 2, "one is on its way on the old one"
            it.toy.add("later", it.toy._echo)
            await it.toy.changed()
            await anyio.sleep(5)
            assert len(new.events()) == 3
            assert (await client.send(method="DELETE")).status == 200
        assert new.ended


@on_virtual_time
async def test_a_stream_that_is_not_read_ends_with_its_session():
    """Nobody waits for its client."""
    async with stage() as it:
        client = await shake_hands(it.ours)
        stuck = client.exchange(method="GET")
        async with anyio.create_task_group() as tg:
            tg.start_soon(stuck.run)
            await anyio.sleep(1)
            stuck.reads = anyio.Event()
            it.toy.add("late", it.toy._echo)
            await it.toy.changed()
            await anyio.sleep(5)
            with anyio.fail_after(5):
                assert (await client.send(method="DELETE")).status == 200
        assert not stuck.events()


@on_virtual_time
async def test_a_stream_that_cannot_be_kept_up_ends_alone():
    """Somebody else's fault is logged, and costs nobody else anything."""
    async with stage() as it:
        client = await shake_hands(it.ours)
        broken = client.exchange(method="GET")

        async def fail() -> Json:
            raise OSError

        broken._receive = fail
        await broken.run()
        assert (await client.send(LIST)).status == 200


@on_virtual_time
async def test_who_does_not_listen_is_told_of_lists_alone():
    """And once of each: what else happens without a listener is not kept."""
    async with stage() as it:
        client = await shake_hands(it.ours)
        opened = it.sessions[client.session]
        for _ in range(1000):
            await opened.notify("notifications/message", {"level": "error", "data": "x" * 1000})
            await opened.notify("notifications/tools/list_changed", None)
        assert len(opened._queue) == 1


# --- questions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [{"result": {"action": "decline"}}, {"error": {"code": -1, "message": "not now"}}])
@on_virtual_time
async def test_a_question_is_put_on_the_response_of_the_call_and_answered_by_a_post(answer: Json):
    """The server gets the user's answer, or the client's error, as it is."""
    async with stage() as it:
        client = await shake_hands(it.ours)
        exchange = client.exchange(call("who"))
        async with anyio.create_task_group() as tg:
            tg.start_soon(exchange.run)
            await anyio.sleep(1)
            [question] = exchange.events()
            assert question["method"] == "elicitation/create"
            assert question["params"]["message"] == "Who?"
            assert (await client.send({"jsonrpc": "2.0", "id": question["id"], **answer})).status == 202
        text = json.dumps(exchange.events()[-1])
        assert ("decline" if "result" in answer else "not now") in text
        assert (await client.send({"jsonrpc": "2.0", "id": question["id"], **answer})).status == 202, "said twice"


@pytest.mark.parametrize("then", ["answered again", "the client leaves"])
@on_virtual_time
async def test_the_first_answer_counts(then: str):
    """Whatever else comes in the same step."""
    async with stage() as it:
        client = await shake_hands(it.ours)
        exchange = client.exchange(call("who"))
        async with anyio.create_task_group() as tg:
            tg.start_soon(exchange.run)
            await anyio.sleep(1)
            [question] = exchange.events()
            opened = it.sessions[client.session]
            yes = {"id": question["id"], "result": {"action": "accept", "content": {"name": "Ada"}}}
            opened.on_response(yes)
            if then == "answered again":
                opened.on_response({**yes, "result": {"action": "decline"}})
                await anyio.sleep(1)
                assert "Ada" in json.dumps(last(exchange))
            else:
                opened.close(RpcError(protocol.CONNECTION_CLOSED, "left"))
                await anyio.sleep(1)
                assert exchange.ended


@pytest.mark.parametrize("same", [True, False])
@on_virtual_time
async def test_a_question_whose_client_hangs_up_is_put_to_whoever_awaits_the_call(same: bool):
    """At once, on the response of that wait: by the session that made the call, or another one after its end."""
    async with stage(mode="future") as it:
        client = await shake_hands(it.ours)
        other = client if same else await shake_hands(it.ours)
        first = client.exchange(call("who", {"_wait": "this", "_as": "w"}))
        second = other.exchange(call("await_future", {"future_id": "w"}, id=2))
        async with anyio.create_task_group() as tg:
            tg.start_soon(first.run)
            await anyio.sleep(1)
            assert [each["method"] for each in first.events()] == ["elicitation/create"]
            first.hang_up()
            await anyio.sleep(1)
            tg.start_soon(second.run)
            await anyio.sleep(1)
            if not same:
                assert not second.events()
                await client.send(method="DELETE")
                await anyio.sleep(CLAIM_S)
            [question] = second.events()
            answer = {"action": "accept", "content": {"name": "Ada"}}
            await other.send({"jsonrpc": "2.0", "id": question["id"], "result": answer})
        assert "Ada" in json.dumps(second.events()[-1])


@pytest.mark.parametrize("since", ["gone", "listening", "open beside it"])
@on_virtual_time
async def test_a_session_that_was_left_without_a_word_leaves_its_question_to_the_next(since: str):
    """One that was opened after its last request is asked, a while later; no other, and none while it listens."""
    async with stage(mode="future") as it:
        client = await shake_hands(it.ours)
        beside = await shake_hands(it.ours)
        await anyio.sleep(1)
        await client.send(call("who", {"_as": "w"}))
        async with anyio.create_task_group() as tg:
            if since == "listening":
                tg.start_soon(client.exchange(method="GET").run)
            await anyio.sleep(1)
            other = beside if since == "open beside it" else await shake_hands(it.ours)
            waiting = other.exchange(call("await_future", {"future_id": "w"}, id=2))
            tg.start_soon(waiting.run)
            await anyio.sleep(ABSENT_S - 3)
            assert not waiting.events()
            await anyio.sleep(AGAIN_S + 3)
            if since == "gone":
                [question] = waiting.events()
                answer = {"action": "accept", "content": {"name": "Ada"}}
                await other.send({"jsonrpc": "2.0", "id": question["id"], "result": answer})
                await anyio.sleep(1)
                assert "Ada" in json.dumps(waiting.events()[-1])
            else:
                assert not waiting.events()
            tg.cancel_scope.cancel()


@on_virtual_time
async def test_a_session_is_left_from_its_last_response_however_late_that_is_cleaned_up():
    """A client that has the response may open its next session before the server has done with the request."""

    class Lingering(Exchange):
        """One whose last chunk is with the client long before the server goes on."""

        released = anyio.Event()

        async def _send(self, message: Json) -> None:
            await super()._send(message)
            if self.ended:
                await self.released.wait()

    async with stage(mode="future") as it, anyio.create_task_group() as tg:
        client = await shake_hands(it.ours)
        late = Lingering(it.ours, Http(call("who", {"_as": "w"}), {"mcp-session-id": client.session}))
        tg.start_soon(late.run)
        await anyio.sleep(1)
        assert late.ended
        other = await shake_hands(it.ours)
        await anyio.sleep(1)
        late.released.set()
        waiting = other.exchange(call("await_future", {"future_id": "w"}, id=2))
        tg.start_soon(waiting.run)
        await anyio.sleep(AGAIN_S + 3)
        assert [each["method"] for each in waiting.events()] == ["elicitation/create"]
        tg.cancel_scope.cancel()


@on_virtual_time
async def test_another_session_cannot_answer_a_question():
    """Whatever ID it guesses."""
    async with stage() as it:
        client, other = await shake_hands(it.ours), await shake_hands(it.ours)
        exchange = client.exchange(call("who"))
        async with anyio.create_task_group() as tg:
            tg.start_soon(exchange.run)
            await anyio.sleep(1)
            [question] = exchange.events()
            yes = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"name": "Eve"}}}
            await other.send(yes)
            await anyio.sleep(1)
            assert not exchange.ended
            yes["result"] = {"action": "accept", "content": {"name": "Ada"}}
            await client.send(yes)
        assert "Ada" in json.dumps(exchange.events()[-1])


@on_virtual_time
async def test_a_question_that_is_over_is_withdrawn():
    """The call was cancelled while the user thought about it."""
    async with stage(mode="future") as it:
        client = await shake_hands(it.ours)
        exchange, stream = client.exchange(call("who", {"_wait": "this"})), client.exchange(method="GET")
        async with anyio.create_task_group() as tg:
            for each in (exchange, stream):
                tg.start_soon(each.run)
            await anyio.sleep(1)
            [question] = exchange.events()
            await client.call("cancel_future", {"future_id": "f1"}, id=2)
            await anyio.sleep(1)
            told = [each for each in (*exchange.events(), *stream.events()) if each.get("method") == CANCELLED]
            assert [each["params"]["requestId"] for each in told] == [question["id"]]
            stream.hang_up()


# --- the end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["the client leaves", "the server stops"])
@on_virtual_time
async def test_the_end_answers_what_waits_and_ends_streams(how: str):
    """Calls are answered with an error that says so, their servers are told, nobody hangs."""
    async with stage() as it:
        client = await shake_hands(it.ours)
        waiting, asking = client.exchange(call("gate", {"name": "g"})), client.exchange(call("who", id=2))
        stream = client.exchange(method="GET")
        async with anyio.create_task_group() as tg:
            for each in (waiting, asking, stream):
                tg.start_soon(each.run)
            await anyio.sleep(1)
            if how == "the client leaves":
                assert (await client.send(method="DELETE")).status == 200
            else:
                it.stop()
        said = "The session has ended" if how == "the client leaves" else "The bridge is stopping"
        assert last(waiting)["error"]["message"] == last(asking)["error"]["message"] == said
        assert stream.ended
        if how == "the server stops":
            assert (await client.send(call("gate", {"name": "late"}))).status == 404
            assert (await client.send(method="GET")).status == 404
            assert (await Exchange(it.ours, Http(ask("initialize", INITIALIZE))).run()).status == 503
        await anyio.sleep(1)
        assert sorted(it.toy.cancelled) == ["gate", "who"]
