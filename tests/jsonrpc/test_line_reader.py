"""Reading lines: what is read is what was written, however it was cut up, and over however many lines."""

import json
import sys
from collections.abc import Callable
from itertools import pairwise
from types import FrameType
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncfc_mcp.jsonrpc.codec import MalformedMessage, Message, format_message
from asyncfc_mcp.jsonrpc.line_reader import CONTINUATION_TIMEOUT_S, LineReader
from asyncfc_mcp.protocol import INVALID_REQUEST, PARSE_ERROR
from tests.support.inprocess_server import Pipe
from tests.support.json_values import MESSAGES
from tests.support.virtual_time import on_virtual_time


class Chunks:
    """A source that gives these pieces and then ends."""

    def __init__(self, chunks: list[bytes], end: BaseException | None = None) -> None:
        self._chunks = list(chunks)
        self._end = end or anyio.EndOfStream()

    async def receive(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        if not self._chunks:
            raise self._end
        return self._chunks.pop(0)


async def read_all(source: Any, *, server: bool = False) -> tuple[list[Message], list[bytes]]:
    """All messages of a source, and all lines that were none."""
    messages: list[Message] = []
    malformed: list[bytes] = []

    async def on_malformed(exc: MalformedMessage, line: bytes) -> None:
        malformed.append(line)

    reader = LineReader(source, on_malformed, server=server)
    while True:
        try:
            messages.append(await reader.receive())
        except anyio.EndOfStream:
            return messages, malformed


LINES = st.lists(
    MESSAGES.map(format_message) | st.sampled_from([b"\n", b"  \n", b"noise\n", b"\xff\n", b"[]\n", b"{}\r\n"]),
    max_size=6,
)


@given(LINES, st.booleans(), st.lists(st.integers(0, 400), max_size=12))
@settings(max_examples=150, deadline=None)
def test_lines_are_the_same_however_they_are_cut_up(lines: list[bytes], unfinished: bool, cuts: list[int]):
    """Pipes cut where they like: in a line, in a character, at a newline, with nothing between two cuts."""
    stream = b"".join(lines)
    if unfinished:
        stream = stream.rstrip(b"\n")
    bounds = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    chunks = [stream[start:end] for start, end in pairwise(bounds)]
    if cuts:
        chunks.insert(cuts[0] % (len(chunks) + 1), b"")
    whole = anyio.run(read_all, Chunks([stream]))
    assert anyio.run(read_all, Chunks(chunks)) == whole
    expected = [line.rstrip(b"\n") for line in stream.split(b"\n") if line.strip()]
    assert len(whole[0]) + len(whole[1]) == len(expected)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "rest", ['"result":7', '"result":null', '"error":"text"', '"error":{}', '"jsonrpc":"1.0","result":{}']
)
async def test_an_answer_that_is_none_reaches_whoever_waits_for_it_as_an_error(rest: str):
    """Dropped, it would be waited for until the end of time."""
    line = f'{{"jsonrpc":"2.0","id":5,{rest}}}\n'.encode()
    messages, malformed = await read_all(Chunks([line]))
    assert malformed == [line.rstrip()]
    (message,) = messages
    assert message["id"] == 5
    assert message["error"]["code"] == INVALID_REQUEST
    assert message["error"]["message"].startswith("Invalid answer: ")


def printed(message: Message) -> bytes:
    """As a server prints it for people to read."""
    return json.dumps(message, indent=2).encode() + b"\n"


ONE: Message = {"jsonrpc": "2.0", "id": 1, "result": {"list": [{}, [], {"text": "} {"}]}}


TWO: Message = {"jsonrpc": "2.0", "id": 2, "result": {"n": 2}}


BROKEN = b'{"jsonrpc":"2.0","id":1,"result":{"text":"a'


CUT_OFF: Message = {"jsonrpc": "2.0", "id": 1, "error": {"code": PARSE_ERROR, "message": "Invalid answer"}}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("stream", "read", "noise"),
    [
        pytest.param(printed(ONE) + format_message(TWO), [ONE, TWO], 0, id="one after the other"),
        pytest.param(b"\xef\xbb\xbf" + printed(ONE).replace(b"\n", b"\r\n"), [ONE], 0, id="from Windows"),
        pytest.param(printed(ONE).replace(b"{}", b"{\n\n}"), [ONE], 0, id="empty lines"),
        pytest.param(json.dumps([ONE, TWO], indent=1).encode() + b"\n", [ONE, TWO], 0, id="a batch"),
        pytest.param(BROKEN + b'\nb"}}\n', [{**ONE, "result": {"text": "a\nb"}}], 0, id="a raw line end in a text"),
        pytest.param(b"{\n" + format_message(TWO), [TWO], 1, id="the beginning of something else"),
        pytest.param(b"{ debug: 1\n[INFO] up\n" + format_message(TWO), [TWO], 2, id="what looks like JSON"),
        pytest.param(BROKEN + b"\n" + format_message(TWO), [CUT_OFF, TWO], 1, id="cut off, and another"),
        pytest.param(BROKEN + b"\n", [CUT_OFF], 1, id="cut off at the end"),
        pytest.param(BROKEN + b'",}}\n' + format_message(TWO), [CUT_OFF, TWO], 1, id="no JSON, and another"),
        pytest.param(b"{\n" * 3 + b"}}\n" + format_message(TWO), [TWO], 4, id="braces that never match"),
    ],
)
async def test_what_a_server_prints_over_several_lines_is_one_message(stream: bytes, read: list[Any], noise: int):
    """As the Go SDK reads it (`json.Decoder`), and no line that is a message by itself waits for what was begun."""
    for size in (1, 7, len(stream)):
        chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
        messages, malformed = await read_all(Chunks(chunks), server=True)
        for message in messages:
            if "error" in message:
                message["error"]["message"] = message["error"]["message"].partition(":")[0]
        assert messages == read
        assert len(malformed) == noise


@on_virtual_time
async def test_the_beginning_of_a_message_does_not_wait_for_its_end_for_ever():
    """When nothing follows, the request that it would have answered ends."""
    pipe = Pipe()

    async def on_malformed(exc: MalformedMessage, line: bytes) -> None:
        assert line == BROKEN

    reader = LineReader(pipe, on_malformed, server=True)
    pipe.send_nowait(BROKEN + b"\n")
    began = anyio.current_time()
    assert (await reader.receive())["id"] == 1
    assert anyio.current_time() - began == pytest.approx(CONTINUATION_TIMEOUT_S)
    pipe.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "end", [anyio.EndOfStream(), anyio.ClosedResourceError(), anyio.BrokenResourceError(), OSError(5, "EIO")], ids=repr
)
async def test_a_last_line_without_its_newline_is_still_a_line(end: Exception):
    """However the source ends, what came is delivered, and after it the end, as often as it is asked for."""
    source = Chunks([b'{"jsonrpc":"2.0","method":"a"}\n{"jsonrpc":"2.0",', b'"method":"b"}'], end)

    async def on_malformed(exc: MalformedMessage, line: bytes) -> None:
        pytest.fail(str(exc))

    reader = LineReader(source, on_malformed)
    assert [(await reader.receive())["method"] for _ in range(2)] == ["a", "b"]
    for _ in range(2):
        with pytest.raises(anyio.EndOfStream):
            await reader.receive()


def joins(work: Callable[[], Any]) -> int:
    """How often `work` calls `bytes.join`."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        if event == "c_call" and argument.__name__ == "join" and isinstance(argument.__self__, bytes):
            count += 1

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_a_long_line_is_put_together_once():
    """A line in a thousand pieces costs one join, not one for every piece: that would be quadratic."""
    line = format_message({"jsonrpc": "2.0", "id": 1, "result": {"text": "x" * 100_000}})
    pieces = [line[start : start + 100] for start in range(0, len(line), 100)]
    assert len(pieces) > 1000

    async def read() -> None:
        messages, malformed = await read_all(Chunks(pieces * 3))
        assert (len(messages), malformed) == (3, [])

    assert joins(lambda: anyio.run(read)) < 10
