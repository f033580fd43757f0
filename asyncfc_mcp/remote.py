"""Connections to servers at a URL, over Streamable HTTP and HTTP+SSE: the SDK's dispatcher on its message streams.

Owns the connection pool of a connection's whole life, the headers that mirror a request, and which HTTP status
refused us: the SDK turns every refusal into the same error, and the status is what a user needs. Streamable HTTP is
the SDK's. The older HTTP+SSE is our own, because the SDK's ends the connection at an event of 1 MiB and has no setting
for it. Refuses to know what is asked. Imported only where a server has a URL: it brings the whole SDK with it.
"""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import urljoin, urlsplit

import anyio
import anyio.abc
import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import CallOptions as SdkOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    x_mcp_header_map,
)
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from asyncfc_mcp.config import HttpSpec
from asyncfc_mcp.errors import ConnectionEnded, RequestTimedOut, RpcError, TransportFailure
from asyncfc_mcp.protocol import CONNECTION_CLOSED, MODERN_VERSIONS, REQUEST_TIMEOUT, CallOptions, OnNotify, OnRequest

logger = logging.getLogger(__name__)

CONNECT_S: Final = 30.0
"""For connecting and for writing; reading may take as long as a tool does, and `timeout_s` bounds that."""


@dataclass(slots=True)
class Refusal:
    """The last HTTP status that refused us, in words."""

    said: str = ""

    async def note(self, response: httpx2.Response) -> None:
        if response.status_code >= 400:
            try:
                phrase = HTTPStatus(response.status_code).phrase
            except ValueError:
                phrase = response.reason_phrase
            self.said = f"HTTP {response.status_code} {phrase}".strip()


class RemotePeer:
    """The SDK's dispatcher on the streams of `connect`, as a `Peer` is one on lines."""

    def __init__(self, streams: tuple[Any, Any]) -> None:
        self._dispatcher = JSONRPCDispatcher(*streams)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        sdk_opts = cast("SdkOptions", {**(opts or {})})
        if opts is not None and (told := opts.get("on_progress")) is not None:

            async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                told(progress, total, message)

            sdk_opts["on_progress"] = on_progress
        try:
            return await self._dispatcher.send_raw_request(method, params, sdk_opts)
        except MCPError as exc:
            # The SDK has no types for these, only its own words.
            if (exc.code, exc.message) == (CONNECTION_CLOSED, "Connection closed"):
                raise ConnectionEnded from None
            if (exc.code, exc.message) == (CONNECTION_CLOSED, "SSE stream ended without a response"):
                raise TransportFailure("broke off its answer") from None
            if (exc.code, exc.message) == (REQUEST_TIMEOUT, f"Request {method!r} timed out"):
                raise RequestTimedOut(method, sdk_opts.get("timeout") or 0) from None
            raise RpcError(exc.code, exc.message, exc.data) from None

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        await self._dispatcher.notify(method, params, cast("SdkOptions | None", opts))

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        async def answer(channel: Any, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
            try:
                result = on_request(channel, method, params)
                return await result() if callable(result) else result
            except RpcError as exc:
                raise MCPError(exc.code, exc.message, exc.data) from None

        async def take_in(channel: Any, method: str, params: Mapping[str, Any] | None) -> None:
            if (rest := on_notify(channel, method, params)) is not None:
                await rest()

        await self._dispatcher.run(answer, take_in, task_status=task_status)


class Mirror:
    """The HTTP headers that repeat what a request says, for one connection."""

    def __init__(self) -> None:
        self._maps: dict[str, dict[tuple[str, ...], str]] = {}

    def headers(self, version: str, method: str, params: Mapping[str, Any]) -> dict[str, str]:
        """Those of one request."""
        headers = {MCP_PROTOCOL_VERSION_HEADER: version}
        if version in MODERN_VERSIONS:
            headers[MCP_METHOD_HEADER] = method
            key = "taskId" if method.startswith("tasks/") else NAME_BEARING_METHODS.get(method)
            if key is not None and isinstance(name := params.get(key), str):
                headers[MCP_NAME_HEADER] = encode_header_value(name)
                if method == "tools/call" and (header_map := self._maps.get(name)):
                    headers.update(mcp_param_headers(header_map, params.get("arguments") or {}))
        return headers

    def learn(self, server: str, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Learn which arguments travel as headers, too; a tool whose annotations are invalid must be left out."""
        kept: list[dict[str, Any]] = []
        self._maps.clear()
        for tool in tools:
            problem = find_invalid_x_mcp_header(tool.get("inputSchema"))
            if problem is not None:
                logger.warning("server %r: tool %r is left out: %s", server, tool.get("name"), problem)
                continue
            if header_map := x_mcp_header_map(tool.get("inputSchema")):
                self._maps[str(tool.get("name"))] = header_map
            kept.append(tool)
        return kept


@asynccontextmanager
async def connect(spec: HttpSpec, refusal: Refusal) -> AsyncGenerator[tuple[Any, Any]]:
    """Streams of messages from and to the server.

    Raises:
        httpx2.HTTPError: it cannot be reached, or refuses.
    """
    timeout = httpx2.Timeout(CONNECT_S, read=None, pool=None)
    async with httpx2.AsyncClient(
        headers=dict(spec.headers), timeout=timeout, event_hooks={"response": [refusal.note]}
    ) as client:
        opened = (
            _sse(client, spec.url)
            if spec.kind == "sse"
            else streamable_http_client(spec.url, http_client=client, max_sse_event_size=None)
        )
        async with opened as streams:
            yield streams


@asynccontextmanager
async def _sse(client: httpx2.AsyncClient, url: str) -> AsyncGenerator[tuple[Any, Any]]:
    """HTTP+SSE (2024-11-05): the server's messages are events of one GET; ours are POSTs to where its first says."""
    arriving, read = anyio.create_memory_object_stream[SessionMessage | Exception](16)
    write, leaving = anyio.create_memory_object_stream[SessionMessage](16)
    headers = {"accept": "text/event-stream", "cache-control": "no-store"}
    async with (
        arriving,
        read,
        write,
        leaving,
        client.stream("GET", url, headers=headers) as response,
        anyio.create_task_group() as tg,
    ):
        response.raise_for_status()

        async def receive(*, task_status: anyio.abc.TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
            async with arriving:
                try:
                    async for event in httpx2.EventSource(response, max_event_size=None):
                        if event.event == "endpoint":
                            task_status.started(_same_origin(url, event.data))
                        elif event.event == "message" and event.data:
                            try:
                                message = jsonrpc_message_adapter.validate_json(event.data, by_name=False)
                            except ValueError as exc:
                                await arriving.send(exc)
                                continue
                            await arriving.send(SessionMessage(message))
                except (httpx2.HTTPError, httpx2.SSEError) as exc:
                    logger.info("the event stream of %s ended: %s", url, exc)

        async def send(endpoint: str) -> None:
            async for outgoing in leaving:
                body = outgoing.message.model_dump_json(by_alias=True, exclude_unset=True)
                answer = await client.post(
                    endpoint, content=body.encode(), headers={"content-type": "application/json"}
                )
                answer.raise_for_status()

        with anyio.fail_after(CONNECT_S):
            endpoint = await tg.start(receive)
        tg.start_soon(send, endpoint)
        yield read, write
        tg.cancel_scope.cancel()


def _same_origin(url: str, endpoint: str) -> str:
    """Where to post to; never another server than the one that was configured, whose credentials we carry.

    Raises:
        ValueError: it is elsewhere.
    """
    target = urljoin(url, endpoint)
    ours, theirs = urlsplit(url), urlsplit(target)
    if (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc):
        raise ValueError(f"the server wants messages posted to another origin: {target}")
    return target
