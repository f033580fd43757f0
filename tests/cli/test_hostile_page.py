"""The client of a page whose server means harm: every answer is one of its errors, in bounded memory."""

import gzip
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress

import anyio
import anyio.abc
import pytest

from asyncfc_mcp.cli import page_client
from asyncfc_mcp.cli.page_address import PageAddress
from asyncfc_mcp.cli.page_client import PageClient, connected
from asyncfc_mcp.errors import BridgeError

Answer = tuple[str, bytes, bytes]
"""Status, further headers, content."""
DEEP = b"[" * 100_000
ANSWERS: list[Answer] = [
    ("200 OK", b"", b"{"),
    ("200 OK", b"", DEEP),
    ("200 OK", b"", b"[]"),
    ("200 OK", b"", b'"\xff"'),
    ("200 OK", b"", b'{"key": "\\u001b[2J", "token": "a\\nb"}'),
    ("200 OK", b"", b'{"key": 1, "token": null}'),
    ("200 OK", b"", b"{}"),
    ("200 OK", b"content-encoding: gzip\r\n", b"none"),
    ("200 OK", b"content-encoding: gzip\r\n", gzip.compress(b'{"key": "%s"}' % (b" " * 3_000_000))),
    ("302 Found", b"location: http://127.0.0.1:1/\r\n", b""),
    ("500 Oh", b"", DEEP),
    ("500 Oh", b"", b'{"error": 5}'),
    ("500 Oh", b"", b'{"error": "\\u001b[2J\\u202e\\nfurther"}'),
    ("200 OK", b"", b"event: calls\ndata: {\n\n"),
    ("200 OK", b"", b"event: calls\ndata: " + DEEP + b"\n\n"),
    ("200 OK", b"", b"event: calls\ndata: 1\n\n"),
    ("200 OK", b"", b"event: \xff\ndata: {}\n\n"),
    ("200 OK", b"", b"data: " + b" " * 3_000_000),
]


async def _events(client: PageClient) -> None:
    async with aclosing(client.events()) as events:
        async for event in events:
            assert isinstance(event["data"], dict)


REQUESTS: list[Callable[[PageClient], Awaitable[object]]] = [
    PageClient.key,
    lambda client: client.enter("x" * 20),
    _events,
]


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
def test_no_answer_is_a_fault_of_the_client(answer: Answer, monkeypatch: pytest.MonkeyPatch):
    """And nothing of it reaches a terminal as it is."""
    monkeypatch.setattr(page_client, "MOST_ANSWER_BYTES", 1 << 20)
    monkeypatch.setattr(page_client, "MOST_EVENT_BYTES", 1 << 20)
    anyio.run(_asked, answer)


async def _asked(answer: Answer) -> None:
    status, headers, content = answer

    async def serve(stream: anyio.abc.ByteStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):  # the client has left
            await stream.receive()
            head = f"HTTP/1.1 {status}\r\ncontent-length: {len(content)}\r\nconnection: close\r\n"
            await stream.send(head.encode() + headers + b"\r\n" + content)
        await stream.aclose()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, serve)
        for request in REQUESTS:
            async with connected(PageAddress(f"http://127.0.0.1:{port}/")) as client:
                with pytest.raises(BridgeError) as caught:
                    await request(client)
                assert str(caught.value).isprintable()
        tg.cancel_scope.cancel()
