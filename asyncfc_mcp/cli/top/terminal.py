"""The terminal of `asyncfc-mcp top`: its keys as they are pressed, and its state restored in the end.

Owns the terminal's mode and the reading of keys, on POSIX and on Windows. Leaves their meaning to `model`, their
decoding to `keys`, and the screen to rich.
"""

import os
import sys
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from typing import Final

import anyio

from asyncfc_mcp.cli.top.keys import Keys
from asyncfc_mcp.errors import BridgeError

ESCAPE_S: Final = 0.05
"""Seconds after which the beginning of a sequence is the key Escape."""
_POLL_S: Final = 0.03
"""Seconds between looks for a key on Windows, whose console cannot be waited for."""


class NoTerminal(BridgeError):
    """`top` was started without a terminal."""

    def __init__(self) -> None:
        super().__init__("top needs a terminal; `asyncfc-mcp log --follow` writes calls to a file or pipe")


def check() -> None:
    """
    Raises:
        NoTerminal: standard input or output is none, or it cannot move its cursor.
    """
    if not (os.isatty(0) and os.isatty(1)) or os.environ.get("TERM") == "dumb":
        raise NoTerminal


def is_unicode(encoding: str | None) -> bool:
    """Return whether a terminal of this encoding shows block characters."""
    return (encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf8sig")


@contextmanager
def keys_at_once() -> Generator[None]:
    """Have the terminal hand over each key when it is pressed, without showing it.

    Ctrl-C remains a signal, so that a program which hangs can be ended; Ctrl-Z and Ctrl-\\ do nothing, since they would
    leave the terminal as it is now.
    """
    if sys.platform == "win32":
        yield
        return
    import termios

    before = termios.tcgetattr(0)
    changed = termios.tcgetattr(0)
    changed[3] &= ~(termios.ECHO | termios.ICANON)
    disabled = os.fpathconf(0, "PC_VDISABLE")
    for character in (termios.VSUSP, termios.VQUIT):
        changed[6][character] = bytes([disabled & 0xFF])
    changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
    termios.tcsetattr(0, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, before)


async def pressed() -> AsyncIterator[str]:
    """Yield keys until the terminal is closed."""
    if sys.platform == "win32":
        async for key in _on_windows():
            yield key
        return
    keys = Keys()
    while True:
        if keys.is_open:
            with anyio.move_on_after(ESCAPE_S) as scope:
                await anyio.wait_readable(0)
            if scope.cancelled_caught:
                for key in keys.close():
                    yield key
                continue
        else:
            await anyio.wait_readable(0)
        try:
            data = os.read(0, 1024)
        except OSError:  # the terminal has gone
            data = b""
        if not data:
            return
        for key in keys.feed(data):
            yield key


async def _on_windows() -> AsyncIterator[str]:
    if sys.platform != "win32":
        return
    import msvcrt

    names = {
        "H": "up",
        "P": "down",
        "K": "left",
        "M": "right",
        "G": "home",
        "O": "end",
        "I": "page-up",
        "Q": "page-down",
    }
    keys = Keys()
    while True:
        if not msvcrt.kbhit():
            await anyio.sleep(_POLL_S)
            continue
        character = msvcrt.getwch()
        if character in ("\x00", "\xe0"):
            if name := names.get(msvcrt.getwch()):
                yield name
        elif character == "\x1b":
            yield "escape"
        else:
            for key in keys.feed(character.encode("utf-8", "ignore")):
                yield key
