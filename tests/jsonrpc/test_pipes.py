"""Pipes: bytes pass through, a closed end wakes its waiters, and what was not read is known."""

import os
import sys

import anyio
import pytest

from asyncfc_mcp.jsonrpc.codec import Message
from asyncfc_mcp.jsonrpc.line_writer import LineWriter
from asyncfc_mcp.jsonrpc.pipes import FdSink, FdSource
from tests.jsonrpc.test_line_reader import read_all


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
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what lies in a pipe")
async def test_what_a_pipe_without_a_reader_holds_was_certainly_not_read():
    """While anything could still read it, and of what was read, nothing is certain."""
    reading, writing = os.pipe()
    other = os.dup(reading)
    sink = FdSink(writing)
    sink.send_nowait(b"first\n")
    assert os.read(reading, 4) == b"firs"
    sink.send_nowait(b"second\n")
    os.close(reading)
    assert sink.unread() == 0, "another process may have the reading end"
    os.close(other)
    assert (sink.position, sink.unread()) == (13, 9)
    with pytest.raises(anyio.BrokenResourceError):
        sink.send_nowait(b"third\n")
    assert (sink.position, sink.unread()) == (13, 9)
    sink.close()
    assert sink.unread() == 0


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what lies in a pipe")
@pytest.mark.parametrize("ending", ["closed", "read on"])
async def test_settling_lasts_until_an_ending_reader_has_closed_its_input_or_read_on(ending: str):
    """The kernel may close the output of an ending process before its input."""
    reading, writing = os.pipe()
    sink = FdSink(writing)
    writer = LineWriter(sink)
    sink.send_nowait(b"read\n")
    os.read(reading, 5)
    with anyio.fail_after(5):
        await writer.settle()  # nothing is unread, so there is nothing to wait for
    sink.send_nowait(b"left\n")
    settled = anyio.Event()

    async def settle() -> None:
        await writer.settle()
        settled.set()

    async with anyio.create_task_group() as tg:
        tg.start_soon(settle)
        await anyio.wait_all_tasks_blocked()
        assert not settled.is_set()
        assert writer.received == 10, "the process can still read it"
        if ending == "closed":
            os.close(reading)
        else:
            os.read(reading, 5)
        await settled.wait()
    assert writer.received == (5 if ending == "closed" else 10)
    sink.close()


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what lies in a pipe")
async def test_settling_ends_although_the_reader_neither_reads_nor_closes():
    reading, writing = os.pipe()
    sink = FdSink(writing)
    sink.send_nowait(b"left\n")
    writer = LineWriter(sink)
    with anyio.fail_after(5):
        await writer.settle()
    assert writer.received == 5
    os.close(reading)
    sink.close()
