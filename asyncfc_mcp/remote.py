"""Connections to servers at a URL, over Streamable HTTP and HTTP+SSE, as the SDK's message streams.

Owns the connection pool of a connection's whole life and remembers which HTTP status refused us: the SDK turns every
refusal into the same error, and the status is what a user needs. Streamable HTTP is the SDK's. The older HTTP+SSE is
our own, because the SDK's ends the connection at an event of 1 MiB and has no setting for it.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import anyio
import anyio.abc
import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from asyncfc_mcp.config import HttpSpec

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
