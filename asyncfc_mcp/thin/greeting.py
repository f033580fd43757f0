"""First lines of a connection to the daemon, and lines between its messages that are for the thin process.

Owns their form: one JSON object in a line, with the single key `asyncfc`. All other lines are JSON-RPC messages of the
host and the bridge, and pass unchanged. Standard library only.

    thin process → daemon   {"asyncfc": {"protocol": 1, "join": {…}}}
    daemon → thin process   {"asyncfc": {"protocol": 1, "joined": {"version": …, "pid": …, "notes": […]}}}
                            … messages in both directions …
    daemon → thin process   {"asyncfc": {"note": "a line for the host's log"}}
                            {"asyncfc": {"draining": {"program": […] | null}}}
    thin process → daemon   {"asyncfc": {"held": true}}

A daemon that cannot be joined answers the first line with `{"asyncfc": {"protocol": 1, "error": "the reason"}}`. If the
connection ends without an answer, it can be tried again.

A connection that begins with `{"asyncfc": {"protocol": 1, "command": "status" | "stop" | "restart" | "reload"}}` gets
one line with `{"asyncfc": {"answer": {…}}}` and ends.

After `draining` the daemon still answers what it has received. The thin process holds further requests back, which it
says with `held`, so that the daemon knows that it has received all others. It connects again when the connection ends,
and starts the next daemon with `program`, if there is none.
"""

import json
from typing import Any, Final, cast

PROTOCOL: Final = 1
"""Version of these lines. A daemon with another one cannot be joined."""
KEY: Final = "asyncfc"
MOST_BYTES: Final = 4 << 20
"""Longest first line: it has the environment of a session."""
PREFIX: Final = b'{"asyncfc":'
"""Beginning of each of these lines; no JSON-RPC message of the bridge begins so."""


class NotAGreeting(ValueError):
    """A line is none of these."""


def line(**content: Any) -> bytes:
    """Return one of these lines, with its end."""
    return json.dumps({KEY: content}, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def read(text: bytes) -> dict[str, Any]:
    """Return the content of a line.

    Raises:
        NotAGreeting: it has another form.
    """
    try:
        content = json.loads(text)[KEY]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NotAGreeting from None
    if not isinstance(content, dict):
        raise NotAGreeting
    return cast("dict[str, Any]", content)


def join(
    *,
    version: str,
    pid: int,
    conversation: str,
    cwd: str,
    environ: dict[str, str],
    program: list[str],
    resumed: bool,
) -> bytes:
    """Return the first line of a session.

    Args:
        version: of the program that the session runs.
        conversation: identifies the session's conversation, also after a reconnect, and in another process where the
            host says that it is the same one.
        cwd, environ: of the session, for servers that have an instance for each.
        program: the command of this program, without arguments.
        resumed: the session was joined to a daemon before, which has ended.
    """
    return line(
        protocol=PROTOCOL,
        join={
            "version": version,
            "pid": pid,
            "conversation": conversation,
            "cwd": cwd,
            "environ": environ,
            "program": program,
            "resumed": resumed,
        },
    )
