"""The wire: what is read is what was written, however it was cut up, and no line tears another."""

import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from types import FrameType
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lab import Pipe, on_virtual_time

from asyncfc_mcp.codec import (
    MalformedMessage,
    Message,
    approximate_size,
    carried,
    format_message,
    held_size,
    parse_message,
)
from asyncfc_mcp.protocol import INVALID_REQUEST, PARSE_ERROR
from asyncfc_mcp.wire import HELD_S, FdSink, FdSource, LineReader, LineWriter, StreamSink

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
"""Everything that a Python string can hold, lone surrogates included."""
NUMBERS = st.integers() | st.integers(2**63, 2**200) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
IDS = st.integers() | TEXT
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)
MESSAGES = st.one_of(
    st.builds(lambda i, m, p: {"jsonrpc": "2.0", "id": i, "method": m, "params": p}, IDS, TEXT, OBJECTS),
    st.builds(lambda m, p: {"jsonrpc": "2.0", "method": m, "params": p}, TEXT, OBJECTS),
    st.builds(lambda m: {"jsonrpc": "2.0", "method": m}, TEXT),
    st.builds(lambda i, r: {"jsonrpc": "2.0", "id": i, "result": r}, IDS, OBJECTS),
    st.builds(
        lambda i, c, d: {"jsonrpc": "2.0", "id": i, "error": {"code": c, "message": "no", "data": d}},
        st.none() | IDS,
        st.integers(),
        JSON,
    ),
)


def nested(depth: int) -> Message:
    """A result nested this many arrays deep."""
    value: Any = "core"
    for _ in range(depth):
        value = [value]
    return {"jsonrpc": "2.0", "id": 1, "result": {"value": value}}


# --- one line ------------------------------------------------------------------------------------------------------


@given(MESSAGES)
@example({"jsonrpc": "2.0", "id": 1, "result": {"\ud800": "\udfff and \u2028", "n": 2**70, "f": 1e-7, "z": -0.0}})
@example({"jsonrpc": "2.0", "id": "", "result": {"unknown": [None, {}, [], ""]}})
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_read_again(message: Message):
    """One line for each message, whatever text and numbers it carries, unknown members included."""
    line = format_message(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    again = parse_message(line)
    assert again == message
    assert json.dumps(again) == json.dumps(message)  # 1 is not 1.0, and -0.0 not 0


def test_text_is_written_as_it_is():
    """No escapes where none are needed: they would double what a model's provider counts and what is sent."""
    line = format_message({"jsonrpc": "2.0", "method": "Grüße, 世界 🌍"})
    assert line == '{"jsonrpc":"2.0","method":"Grüße, 世界 🌍"}\n'.encode()


def test_whatever_was_nested_shallowly_enough_to_be_read_can_be_written():
    """Even deeper in the program, and inside of an answer that wraps it: an answer must not end the connection."""
    deepest = 0
    for depth in range(0, 4000, 10):
        body = b'{"jsonrpc":"2.0","id":1,"result":{"value":' + b"[" * depth + b'"core"' + b"]" * depth + b"}}"
        try:
            parsed = parse_message(body)
        except MalformedMessage:
            break
        deepest = depth
    else:
        pytest.fail("the reader has no limit to test against")
    parsed = nested(deepest)
    wrapped = {**parsed, "result": {"results": [{"result": parsed["result"]}]}}

    def deeper(frames: int) -> bytes:
        return deeper(frames - 1) if frames else format_message(wrapped)

    line = deeper(100)
    assert line.count(b"[") == deepest + 1
    assert line.endswith(b'"core"' + b"]" * deepest + b"}}]}}\n")


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
def test_a_number_beyond_double_precision_stays_json(number: str):
    """Python reads it as infinity, for which JSON has no word; a line that says so would end the connection."""
    line = format_message(parse_message(b'{"jsonrpc":"2.0","id":1,"result":{"n":[%s,"Infinity"]}}' % number.encode()))

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is not JSON")

    assert json.loads(line, parse_constant=refuse)["result"] == {"n": [float(number), "Infinity"]}


@pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        (b"Loading model... 100%", PARSE_ERROR, None),
        (b'{"half": ', PARSE_ERROR, None),
        (b"\xff\xfe\x00 not UTF-8", PARSE_ERROR, None),
        (b' \xef\xbb\xbf{"jsonrpc":"2.0","method":"m"}', PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"result":{"n":NaN}}', PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"result":{"n":Infinity}}', PARSE_ERROR, None),
        (b'{"jsonrpc":"2.0","id":1,"result":{"n":' + b"9" * 5000 + b"}}", PARSE_ERROR, None),
        (b"[" * 100_000, PARSE_ERROR, None),
        (b"7", INVALID_REQUEST, None),
        (b"null", INVALID_REQUEST, None),
        (b"[]", INVALID_REQUEST, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"m"}]', INVALID_REQUEST, None),
        (b"{}", INVALID_REQUEST, None),
        (b'{"id":3,"method":"m"}', INVALID_REQUEST, 3),
        (b'{"jsonrpc":"1.0","id":3,"method":"m"}', INVALID_REQUEST, 3),
        (b'{"jsonrpc":2.0,"id":3,"method":"m"}', INVALID_REQUEST, 3),
        (b'{"jsonrpc":"2.0"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":"a"}', INVALID_REQUEST, "a"),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":null}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":"x"}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":null,"method":"m"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":true,"method":"m"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"m"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":[1],"method":"m"}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","result":{}}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":null,"result":{}}', INVALID_REQUEST, None),
        (b'{"jsonrpc":"2.0","id":1,"result":"text"}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"result":null}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"error":"text"}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"error":{"message":"no code"}}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":true,"message":"m"}}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":null}}', INVALID_REQUEST, 1),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"},"result":{}}', INVALID_REQUEST, 1),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, bytes) else None,
)
def test_what_is_no_message_gets_the_code_and_the_id_of_its_answer(line: bytes, code: int, request_id: object):
    """-32700 for what is not JSON, -32600 for JSON that is no JSON-RPC; the ID is answered where there is one."""
    with pytest.raises(MalformedMessage) as caught:
        parse_message(line)
    assert caught.value.code == code
    assert caught.value.request_id == request_id
    assert type(caught.value.request_id) is type(request_id)


@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=200, deadline=None)
def test_no_line_raises_anything_but_malformed_message(line: bytes):
    """Whatever a server prints."""
    try:
        message = parse_message(line)
    except MalformedMessage:
        return
    assert message["jsonrpc"] == "2.0"


@given(st.recursive(st.text(max_size=50), lambda inner: st.lists(inner, max_size=5), max_leaves=20))
@settings(deadline=None)
def test_the_size_of_text_is_known_without_writing_it(value: Any):
    """In bytes, whatever the alphabet: the bound on stored results is one on memory and not on characters."""
    escaped = sum(json.dumps(value, ensure_ascii=False).count(mark) for mark in ("\\", "\\u"))
    real = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    assert real - 6 * escaped <= approximate_size(value) <= real * 1.25 + 8


@given(JSON)
@settings(deadline=None)
def test_a_size_can_be_estimated_for_every_value(value: Any):
    """Never an exception, and never nothing."""
    assert approximate_size(value) > 0
    assert approximate_size([value, value]) > approximate_size(value)


MANY: dict[str, str] = {
    "empty lists": "[" + "[]," * 50_000 + "1]",
    "empty objects": "[" + "{}," * 50_000 + "1]",
    "rows": json.dumps([{"id": number, "name": f"n{number}", "on": True, "x": 1.5} for number in range(5_000)]),
    "numbers": json.dumps(list(range(50_000))),
    "short texts": json.dumps([f"t{number}" for number in range(50_000)]),
    "one text": json.dumps("x" * 1_000_000),
    "one wide text": json.dumps("\u20ac" * 500_000, ensure_ascii=False),
    "keys": json.dumps({f"key{number}": None for number in range(20_000)}),
}


@pytest.mark.parametrize("kind", MANY)
def test_what_a_value_holds_is_near_the_memory_that_it_takes(kind: str):
    """Once 24 times as much was held as was counted."""
    parse_message(b'{"jsonrpc":"2.0","id":1,"result":{}}')
    line = b'{"jsonrpc":"2.0","id":1,"result":{"a":' + MANY[kind].encode() + b"}}"
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        message = parse_message(line)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held / 2 <= held_size(message) <= held * 2


def test_the_size_of_a_deeply_nested_value_is_estimated_without_recursion():
    """Deeper than Python recurses."""
    assert approximate_size(nested(50_000)) > 50_000


# --- reading -------------------------------------------------------------------------------------------------------


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
    pipe.send_now(BROKEN + b"\n")
    began = anyio.current_time()
    assert (await reader.receive())["id"] == 1
    assert anyio.current_time() - began == pytest.approx(HELD_S)
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


# --- writing -------------------------------------------------------------------------------------------------------


class Narrow:
    """A sink that takes a few bytes at a time, and of those without waiting only when it is asked nicely."""

    def __init__(self, at_once: int, width: int) -> None:
        self.at_once, self.width = at_once, width
        self.written = b""
        self.open = anyio.Event()

    @property
    def position(self) -> int:
        return len(self.written)

    def send_now(self, data: bytes | memoryview) -> int:
        taken = min(self.at_once, len(data))
        self.written += data[:taken]
        return taken

    async def send(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            await self.open.wait()
            await anyio.lowlevel.checkpoint()
            self.written += view[: self.width]
            view = view[self.width :]


def numbered(number: int) -> Message:
    return {"jsonrpc": "2.0", "id": number, "result": {"text": str(number) * 40}}


@pytest.mark.anyio
@pytest.mark.parametrize("at_once", [0, 1, 60, 10_000])
async def test_lines_that_are_written_at_the_same_time_do_not_tear_each_other(at_once: int):
    """Each is whole, and they come in the order in which they were sent."""
    sink = Narrow(at_once, 7)
    sink.open.set()
    writer = LineWriter(sink)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            for number in range(20):
                tg.start_soon(writer.send, numbered(number))
    lines = sink.written.splitlines(keepends=True)
    assert sorted(lines) == sorted(format_message(numbered(number)) for number in range(20))


@pytest.mark.anyio
async def test_messages_of_one_sender_keep_their_order():
    """Also when the pipe is full for the first and not for the second."""
    sink = Narrow(0, 1000)
    writer = LineWriter(sink)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            for number in range(5):
                tg.start_soon(writer.send, numbered(number))
                await anyio.wait_all_tasks_blocked()
                sink.at_once = 1000  # there would be room for the next one at once
            sink.open.set()
    assert [parse_message(line)["id"] for line in sink.written.splitlines()] == [0, 1, 2, 3, 4]


@pytest.mark.anyio
async def test_a_line_that_was_begun_is_finished_though_its_sender_is_cancelled():
    """Half a line followed by another would end the connection for everybody."""
    sink = Narrow(10, 7)
    writer = LineWriter(sink)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            scope = anyio.CancelScope()

            async def send() -> None:
                with scope:
                    await writer.send(numbered(1))

            tg.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            assert len(sink.written) == 10
            scope.cancel()
            tg.start_soon(writer.send, numbered(2))
            await anyio.wait_all_tasks_blocked()
            sink.open.set()
    assert sink.written == format_message(numbered(1)) + format_message(numbered(2))


@pytest.mark.anyio
async def test_a_sender_learns_that_nobody_reads_any_more():
    """As one kind of error, whatever carries the bytes."""

    async def closed(data: bytes) -> None:
        raise anyio.ClosedResourceError

    async def close() -> None: ...

    with pytest.raises(anyio.BrokenResourceError):
        await LineWriter(StreamSink(closed, close)).send(numbered(1))
    reading, writing = os.pipe()
    os.close(reading)
    sink = FdSink(writing)
    with pytest.raises(anyio.BrokenResourceError):
        await LineWriter(sink).send(numbered(1))
    sink.close()


@pytest.mark.anyio
async def test_a_message_larger_than_a_pipe_passes_through_it():
    """The reader takes while the writer waits, and nothing is lost."""
    reading, writing = os.pipe()
    source, sink = FdSource(reading), FdSink(writing)
    message = {"jsonrpc": "2.0", "id": 1, "result": {"text": "0123456789" * 100_000}}
    found: list[tuple[list[Message], list[bytes]]] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:

            async def read() -> None:
                found.append(await read_all(source))

            tg.start_soon(read)
            await LineWriter(sink).send(message)
            sink.close()
    source.close()
    assert found == [([message], [])]


@pytest.mark.anyio
async def test_closing_a_descriptor_wakes_whoever_waits_for_it():
    """A full pipe and a silent one both let go at once, and closing twice does no harm."""
    reading, writing = os.pipe()
    source, sink = FdSource(reading), FdSink(writing)
    other_reading, other_writing = os.pipe()
    silent = FdSource(other_reading)
    ended: list[str] = []

    async def write() -> None:
        try:
            await LineWriter(sink).send({"jsonrpc": "2.0", "method": "x" * 1_000_000})
        except anyio.BrokenResourceError:
            ended.append("write")

    async def read() -> None:
        messages, _ = await read_all(silent)
        assert messages == []
        ended.append("read")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            tg.start_soon(write)
            tg.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            sink.close()
            sink.close()
            silent.close()
    assert sorted(ended) == ["read", "write"]
    source.close()
    os.close(other_writing)


@pytest.mark.anyio
async def test_a_reader_that_stopped_reading_keeps_nobody_from_leaving():
    """What was begun gets a moment; then its sender is told that nobody reads."""
    read_end, write_end = os.pipe()
    writer = LineWriter(FdSink(write_end))
    broken = anyio.Event()

    async def send() -> None:
        with pytest.raises(anyio.BrokenResourceError):
            await writer.send({"jsonrpc": "2.0", "id": 1, "result": {"text": "x" * 1_000_000}})
        broken.set()

    try:
        async with anyio.create_task_group() as tg:
            tg.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await writer.finish()
        assert broken.is_set()
    finally:
        os.close(read_end)


def test_text_that_cannot_be_carried_costs_a_list_no_other_entry():
    """One server's lone surrogate becomes a replacement character; what is in order stays the very same."""
    good = {"name": "a", "title": "\U0001f600 \u00e9", "n": [1, None]}
    assert carried(good) is good
    assert carried({"name": "a\ud800b", "\udfff": ["\U0001f600"]}) == {"name": "a\ufffdb", "\ufffd": ["\U0001f600"]}


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what lies in a pipe")
async def test_what_a_pipe_without_a_reader_holds_was_certainly_not_read():
    """While anything could still read it, and of what was read, nothing is certain."""
    reading, writing = os.pipe()
    other = os.dup(reading)
    sink = FdSink(writing)
    sink.send_now(b"first\n")
    assert os.read(reading, 4) == b"firs"
    sink.send_now(b"second\n")
    os.close(reading)
    assert sink.unread() == 0, "another process may have the reading end"
    os.close(other)
    assert (sink.position, sink.unread()) == (13, 9)
    with pytest.raises(anyio.BrokenResourceError):
        sink.send_now(b"third\n")
    assert (sink.position, sink.unread()) == (13, 9)
    sink.close()
    assert sink.unread() == 0
