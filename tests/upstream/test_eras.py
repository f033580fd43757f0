"""The protocol era of a connection over a stream: which request opens it, on our own lines and on the SDK's streams."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import anyio
import pytest
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from asyncfc_mcp.core.identity import LOCAL_PRINCIPAL
from asyncfc_mcp.jsonrpc.codec import MalformedMessage
from asyncfc_mcp.jsonrpc.line_reader import LineReader
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.peer import Peer
from asyncfc_mcp.transports.sdk_adapter import serve_streams
from asyncfc_mcp.upstream.server import Upstream
from tests.support.inprocess_client import serve_only
from tests.support.inprocess_server import Pipe, Toy, bridge_over
from tests.support.virtual_time import until

MODERN = "2026-07-28"
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {"sampling": {}}, "clientInfo": {"name": "t", "version": "1"}}


def envelope(version: Any = MODERN, **more: Any) -> dict[str, Any]:
    return {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
            **more,
        }
    }


DISCOVER = ("server/discover", envelope())
BARE_DISCOVER = ("server/discover", None)
STRANGE_DISCOVER = ("server/discover", envelope("2099-01-01"))
BROKEN_DISCOVER = ("server/discover", envelope(7))
PING = ("ping", None)
INITIALIZE = ("initialize", HELLO)
MODERN_LIST = ("tools/list", envelope())
STRANGE_LIST = ("tools/list", envelope("2099-01-01"))
OLD_LIST = ("tools/list", None)


class Connection:
    """A client that has said nothing yet; `ask` gives the result, or the code of the error."""

    def __init__(self, send: Any, receive: Any) -> None:
        self.say, self.hear = send, receive
        self._count = 0

    async def ask(self, *requests: tuple[str, Any]) -> list[Any]:
        """Send requests without waiting between them; what each is answered with."""
        first = self._count + 1
        for method, params in requests:
            self._count += 1
            message = {"jsonrpc": "2.0", "id": self._count, "method": method}
            await self.say(message if params is None else {**message, "params": params})
        answers = [await self.hear() for _ in requests]
        by_id = {answer["id"]: answer.get("result") or answer.get("error", {}).get("code", {}) for answer in answers}
        return [by_id[first + n] for n in range(len(requests))]


@asynccontextmanager
async def over_our_lines(upstream: Upstream) -> AsyncGenerator[Connection]:
    into, out = Pipe(), Pipe()
    answers = LineReader(out, never)

    async def send(message: dict[str, Any]) -> None:
        into.send_nowait(json.dumps(message).encode() + b"\n")

    async with anyio.create_task_group() as tg:
        tg.start_soon(serve_only, upstream, Peer(LineReader(into, never), LineWriter(out)))
        yield Connection(send, answers.receive)
        tg.cancel_scope.cancel()
    into.close()
    out.close()


@asynccontextmanager
async def over_the_sdk(upstream: Upstream) -> AsyncGenerator[Connection]:
    """As over HTTP+SSE."""
    to_server, reader = anyio.create_memory_object_stream[Any](10)
    writer, from_server = anyio.create_memory_object_stream[Any](10)

    async def send(message: dict[str, Any]) -> None:
        await to_server.send(SessionMessage(jsonrpc_message_adapter.validate_python(message)))

    async def receive() -> dict[str, Any]:
        return (await from_server.receive()).message.model_dump(by_alias=True, exclude_unset=True)

    async with to_server, from_server, anyio.create_task_group() as tg:
        tg.start_soon(serve_streams, upstream, LOCAL_PRINCIPAL, reader, writer)
        yield Connection(send, receive)
        tg.cancel_scope.cancel()


async def never(exc: MalformedMessage, line: bytes) -> None:
    raise AssertionError(line)


@pytest.fixture(params=[over_our_lines, over_the_sdk])
async def connection(request: pytest.FixtureRequest) -> AsyncGenerator[Connection]:
    with patch("asyncfc_mcp.bridge.server_requests.CAPABILITIES_WAIT_S", 0):  # it starts before any client
        async with opened(request.param) as connection:
            yield connection


@asynccontextmanager
async def opened(over: Any) -> AsyncGenerator[Connection]:
    async with bridge_over(Toy()) as bridge, anyio.create_task_group() as tg:
        upstream = Upstream(bridge)
        await tg.start(upstream.run)
        with anyio.fail_after(10):
            async with over(upstream) as connection:
                yield connection
        tg.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize(
    "probes",
    [
        [DISCOVER],
        [DISCOVER, DISCOVER],
        [BARE_DISCOVER],
        [STRANGE_DISCOVER],
        [BROKEN_DISCOVER],
        [PING],
        [("ping", envelope())],
        [STRANGE_DISCOVER, DISCOVER, PING],
    ],
    ids=lambda probes: "+".join(method.rpartition("/")[2] for method, _ in probes),
)
async def test_a_client_may_shake_hands_after_any_probe(
    connection: Connection, probes: list[tuple[str, Any]], pipelined: bool
):
    if pipelined:
        *_, hello = await connection.ask(*probes, INITIALIZE)
    else:
        for probe in probes:
            await connection.ask(probe)
        [hello] = await connection.ask(INITIALIZE)
    assert hello["protocolVersion"] == "2025-11-25"
    [listed] = await connection.ask(OLD_LIST)
    assert "resultType" not in listed
    assert {"echo", "await_future"} <= {tool["name"] for tool in listed["tools"]}


@pytest.mark.anyio
async def test_each_probe_is_answered_in_its_own_era(connection: Connection):
    found, bare, strange, broken, pong, modern_ping = await connection.ask(
        DISCOVER, BARE_DISCOVER, STRANGE_DISCOVER, BROKEN_DISCOVER, PING, ("ping", envelope())
    )
    assert found["supportedVersions"] == [MODERN]
    assert (bare, strange, broken, pong, modern_ping) == (-32601, -32022, -32602, {}, -32601)


@pytest.mark.anyio
async def test_a_request_of_the_new_era_opens_it_for_good(connection: Connection):
    """The refusal that comes then is what a client that negotiates goes by."""
    _, listed, refused, again = await connection.ask(DISCOVER, MODERN_LIST, INITIALIZE, MODERN_LIST)
    assert listed["resultType"] == again["resultType"] == "complete"
    assert refused == -32022


@pytest.mark.anyio
async def test_a_handshake_opens_the_older_era_for_good(connection: Connection):
    hello, discovered, listed = await connection.ask(INITIALIZE, DISCOVER, OLD_LIST)
    assert hello["protocolVersion"] == "2025-11-25"
    assert discovered == -32600
    assert listed["tools"]


@pytest.mark.anyio
async def test_servers_are_told_of_the_client_that_shook_hands_after_a_probe():
    """What it can be asked, and that it can be asked at any time, is what `initialize` says."""
    with patch("asyncfc_mcp.bridge.server_requests.CAPABILITIES_WAIT_S", 0):
        async with bridge_over(Toy()) as bridge, anyio.create_task_group() as tg:
            upstream = Upstream(bridge)
            await tg.start(upstream.run)
            async with over_our_lines(upstream) as connection:
                await connection.ask(DISCOVER, INITIALIZE)
                asked: list[Any] = []

                async def ask() -> None:
                    asked.append(
                        await bridge.on_server_request(bridge.downstreams["toy"], "sampling/createMessage", {}, None)
                    )

                tg.start_soon(ask)
                question = await connection.hear()
                assert question["method"] == "sampling/createMessage"
                await connection.say({"jsonrpc": "2.0", "id": question["id"], "result": {"role": "assistant"}})
                await until(lambda: asked)
                assert asked == [{"role": "assistant"}]
            tg.cancel_scope.cancel()
