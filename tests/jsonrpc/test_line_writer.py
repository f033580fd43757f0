"""Writing lines: each is whole, in its place, and no line tears another."""

import os

import anyio
import pytest

from asyncfc_mcp.jsonrpc.codec import Message, format_message, parse_message
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.pipes import FdSink, StreamSink


class Narrow:
    """A sink that takes a few bytes at a time, and of those without waiting only when it is asked nicely."""

    def __init__(self, at_once: int, width: int) -> None:
        self.at_once, self.width = at_once, width
        self.written = b""
        self.open = anyio.Event()

    @property
    def position(self) -> int:
        return len(self.written)

    def send_nowait(self, data: bytes | memoryview) -> int:
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
