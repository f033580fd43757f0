"""The address that a user pastes after a sign-in in the browser of another machine.

Owns reading standard input without blocking the event loop, and the mode of the terminal meanwhile: what is pasted is
not shown, since it holds a code, and may be longer than a line of the terminal (1,024 characters on macOS).
"""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Final

import anyio
import anyio.from_thread
from anyio.lowlevel import current_token

MAX_CHARS: Final = 64 << 10
"""Maximum length of a line; the rest of a longer one is dropped."""


class PastedLines:
    """Lines of standard input.

    Args:
        descriptor: to read from.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = _standard_input() if descriptor is None else descriptor
        self._buffer = b""
        self._ended = False

    async def next(self) -> str | None:
        """Return the next line that is not empty, without spaces around it; None once the input has ended."""
        while True:
            line, mark, rest = self._buffer.replace(b"\r", b"\n").partition(b"\n")
            if mark or self._ended:
                self._buffer = rest
                if text := line.decode("utf-8", "replace").strip():
                    return text
                if not mark:
                    return None
                continue
            data = await self._read()
            self._ended = not data or b"\x04" in data  # Ctrl-D, where the terminal does not interpret it
            self._buffer = (self._buffer + data.partition(b"\x04")[0])[:MAX_CHARS]

    async def _read(self) -> bytes:
        try:
            await anyio.wait_readable(self._descriptor)
        except (OSError, NotImplementedError, ValueError):  # a regular file, or Windows
            return await self._read_in_thread()
        return self._read_now()

    async def _read_in_thread(self) -> bytes:
        """Read in a thread that the end of the program does not wait for, unlike those of anyio."""
        found: list[bytes] = []
        done, token = anyio.Event(), current_token()

        def read() -> None:
            found.append(self._read_now())
            with suppress(RuntimeError):  # the event loop has ended
                anyio.from_thread.run_sync(done.set, token=token)

        Thread(target=read, daemon=True).start()
        await done.wait()
        return found[0]

    def _read_now(self) -> bytes:
        # Not by `sys.stdin`: the lock of its buffer would be held at the end of the program.
        try:
            return os.read(self._descriptor, 4096)
        except OSError:
            return b""


def _standard_input() -> int:
    """Return the descriptor of standard input; one that cannot be read if there is none."""
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        return -1


@contextmanager
def unseen(descriptor: int | None = None) -> Generator[None]:
    """Have a terminal show nothing of what is pasted, and take lines of any length, while the block runs."""
    if sys.platform == "win32":
        yield
        return
    import termios

    fd = _standard_input() if descriptor is None else descriptor
    try:
        before = termios.tcgetattr(fd)
    except (termios.error, OSError, ValueError):  # no terminal
        yield
        return
    mode = list(before)
    mode[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(fd, termios.TCSADRAIN, mode)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
