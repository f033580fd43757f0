"""Reading what a user pastes: lines of any length, from terminals, pipes and files, without showing them."""

import os
import pty
import termios
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from asyncfc_mcp.cli.pasted_redirect import MAX_CHARS, PastedLines, unseen

LONG = "http://127.0.0.1:1/callback?code=" + "x" * 8000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_lines_of_a_pipe_are_read_as_they_come() -> None:
    """Empty ones are skipped, spaces around them removed; at the end there is none."""
    read, write = os.pipe()
    lines = PastedLines(read)
    with anyio.fail_after(10):
        os.write(write, b"\n  first \r\n")
        assert await lines.next() == "first"
        os.write(write, b"second\nthi")
        assert await lines.next() == "second"
        os.write(write, b"rd")
        os.close(write)
        assert [await lines.next(), await lines.next()] == ["third", None]
    os.close(read)


@pytest.mark.anyio
async def test_a_file_and_a_closed_input_are_read_to_their_end(tmp_path: Path) -> None:
    """The event loop cannot wait for them."""
    (tmp_path / "f").write_text(f"{LONG}\n")
    with anyio.fail_after(10), (tmp_path / "f").open() as file:
        lines = PastedLines(file.fileno())
        assert [await lines.next(), await lines.next()] == [LONG, None]
        assert await PastedLines(-1).next() is None


@pytest.mark.anyio
async def test_a_line_without_end_is_cut() -> None:
    """Memory is bounded."""
    read, write = os.pipe()
    lines = PastedLines(read)
    found: list[str | None] = []

    async def reading() -> None:
        found.append(await lines.next())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tg:
            tg.start_soon(reading)
            for _ in range(40):
                await anyio.to_thread.run_sync(os.write, write, b"x" * 4096)
            os.close(write)
    os.close(read)
    assert found[0] is not None
    assert len(found[0]) == MAX_CHARS


@pytest.mark.anyio
async def test_a_terminal_shows_nothing_and_takes_long_lines() -> None:
    """Longer than its own line buffer; afterwards its mode is as before. Ctrl-D ends the input."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    try:
        with anyio.fail_after(20), unseen(theirs):
            lines = PastedLines(theirs)
            found: list[str | None] = []

            async def reading() -> None:
                found.extend([await lines.next(), await lines.next()])

            async with anyio.create_task_group() as tg:
                tg.start_soon(reading)
                for start in range(0, len(LONG), 1000):
                    await anyio.to_thread.run_sync(os.write, ours, LONG[start : start + 1000].encode())
                await anyio.to_thread.run_sync(os.write, ours, b"\r\x04")
        assert found == [LONG, None]
        assert termios.tcgetattr(theirs) == before
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)  # nothing was echoed
    finally:
        os.close(ours)
        os.close(theirs)


def test_what_is_no_terminal_has_no_mode() -> None:
    """A pipe, or no input at all."""
    read, write = os.pipe()
    for descriptor in (read, -1):
        with unseen(descriptor):
            pass
    os.close(read)
    os.close(write)
