"""The first line of a connection to the daemon: a session that joins, or a command.

Owns its bounds, and the check of what it says, which a program of this user has written, of whatever version. Its form
is that of `thin.greeting`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast, get_args

import anyio

from asyncfc_mcp.jsonrpc.pipes import FdSource
from asyncfc_mcp.thin import greeting

FIRST_LINE_S: Final = 10.0
"""Time limit for the whole line."""
MOST_WORDS: Final = 100
LONGEST_CONVERSATION: Final = 200
"""Longest key of a conversation, in characters: it is stored with the session's futures."""

Command = Literal["status", "stop", "restart", "reload", "page"]
COMMANDS: Final[tuple[str, ...]] = get_args(Command)


class Refused(Exception):
    """A connection cannot be served; the text is for its other end."""


@dataclass(frozen=True, slots=True)
class Join:
    """A session that joins; see `greeting.join`."""

    version: str
    pid: int
    conversation: str
    cwd: str
    environ: Mapping[str, str] = field(repr=False)
    program: tuple[str, ...]
    resumed: bool


async def receive(source: FdSource) -> tuple[Join | Command, bytes]:
    """Return the content of the first line, and the bytes after it.

    Raises:
        Refused: it is too long, takes too long, or has another form.
        anyio.EndOfStream: the connection ended before.
    """
    received: list[bytes] = []
    size = 0
    with anyio.move_on_after(FIRST_LINE_S):
        while True:
            data = await source.receive()
            head, newline, rest = data.partition(b"\n")
            received.append(head)
            size += len(head)
            if size > greeting.MOST_BYTES:
                raise Refused(f"the first line has more than {greeting.MOST_BYTES} bytes")
            if newline:
                return read(b"".join(received)), rest
    raise Refused(f"the first line did not arrive within {FIRST_LINE_S:g} s")


def read(line: bytes) -> Join | Command:
    """Return the content of a first line.

    Raises:
        Refused: it has another form, or is of another protocol.
    """
    try:
        content = greeting.read(line)
    except greeting.NotAGreeting:
        raise Refused("the first line is not that of a session: sessions are joined with `serve --shared`") from None
    if content.get("protocol") != greeting.PROTOCOL:
        raise Refused(f"this daemon has protocol {greeting.PROTOCOL}, not {content.get('protocol')!r:.20}")
    command = content.get("command")
    if command is not None:
        if command not in COMMANDS:
            raise Refused(f"unknown command {command!r:.40}; known: {', '.join(COMMANDS)}")
        return cast("Command", command)
    return _join(content.get("join"))


def _join(given: object) -> Join:
    if not isinstance(given, dict):
        raise Refused("the first line has neither `join` nor `command`")
    of = cast("dict[str, Any]", given)
    environ = of.get("environ")
    problem = None
    if not _is_text(of.get("version"), 100):
        problem = "version"
    elif type(of.get("pid")) is not int:
        problem = "pid"
    elif not _is_text(of.get("conversation"), LONGEST_CONVERSATION):
        problem = "conversation"
    elif not _is_text(of.get("cwd"), 1 << 16) or not os.path.isabs(of["cwd"]):
        problem = "cwd"
    elif not isinstance(environ, dict) or not all(map(_is_text, cast("dict[object, object]", environ).values())):
        problem = "environ"
    elif not _are_words(of.get("program")):
        problem = "program"
    if problem is not None:
        raise Refused(f"join.{problem} is missing or malformed")
    # Names that no process can be given are of no use to a server, nor a reason to refuse the session.
    usable = {name: value for name, value in of["environ"].items() if name and "=" not in name and "\0" not in name}
    program, resumed = tuple(of["program"]), of.get("resumed") is True
    return Join(of["version"], of["pid"], of["conversation"], of["cwd"], usable, program, resumed)


def _is_text(value: object, most: int = greeting.MOST_BYTES) -> bool:
    return isinstance(value, str) and len(value) <= most and "\0" not in value


def _are_words(value: object) -> bool:
    if not isinstance(value, list):
        return False
    words = cast("list[object]", value)
    return 0 < len(words) <= MOST_WORDS and all(map(_is_text, words))
