"""A daemon whose side of each connection is a test's: it says what the test says, and ends when the test wants.

Owns the socket at the place where sessions of an environment look for their daemon.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Mapping
from typing import Any

from asyncfc_mcp.thin import greeting
from asyncfc_mcp.thin.place import Place, daemon_name, make_folder, runtime_folder
from tests.support.client import PATIENCE, Json

CAPABILITIES: Json = {"tools": {"listChanged": True}, "resources": {"listChanged": True, "subscribe": True}}


class Session:
    """One connection of a thin process."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE)
        self._file = sock.makefile("rb")
        self.join: Json = {}

    def line(self) -> bytes:
        """The next line; empty at the end."""
        return self._file.readline()

    def read(self) -> Json:
        """The next message."""
        line = self.line()
        assert line.endswith(b"\n"), f"the connection ended, with {line!r}"
        return json.loads(line)

    def expect(self, method: str) -> Json:
        """The next message, which has this method."""
        message = self.read()
        assert message.get("method") == method, message
        return message

    def send(self, message: Json) -> None:
        """Write a message in the form of the bridge."""
        self.sock.sendall(json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode() + b"\n")

    def control(self, **content: Any) -> None:
        """Write a line for the thin process."""
        self.sock.sendall(greeting.line(**content))

    def answer(self, request: Json, result: Json) -> None:
        """Answer a request."""
        self.send({"id": request["id"], "result": result})

    def open(self) -> Session:
        """Play the handshake."""
        self.answer(self.expect("initialize"), {"protocolVersion": "2025-11-25", "capabilities": CAPABILITIES})
        self.expect("notifications/initialized")
        return self

    def finish(self) -> None:
        """Read to the end of the session's side, and end the connection."""
        if not self._file.closed:
            while self.line():
                pass
            self.end()

    def end(self) -> None:
        """End the connection, as the end of the daemon does."""
        self._file.close()
        self.sock.close()


class FakeDaemon:
    """Listens for sessions with this source and environment.

    Args:
        words: as `place.source_words` returns them.
    """

    def __init__(self, words: list[str], environ: Mapping[str, str], cwd: str) -> None:
        self.place = Place(runtime_folder(environ), daemon_name(words, environ, cwd))
        make_folder(self.place.folder)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.place.socket)
        self._listener.listen()
        self._listener.settimeout(PATIENCE)
        self.sessions: list[Session] = []

    def wait_for_session(self) -> None:
        """Return once a session connects, which has to wait for `accept`."""
        assert select.select([self._listener], [], [], PATIENCE)[0], "no session connects"

    def accept(self, **joined: Any) -> Session:
        """The next session, with the first lines exchanged."""
        session = Session(self._listener.accept()[0])
        self.sessions.append(session)
        session.join = greeting.read(session.line())["join"]
        session.control(protocol=greeting.PROTOCOL, joined={"version": "1", "pid": 1, "notes": [], **joined})
        return session

    def refuse(self, line: bytes = b"") -> None:
        """Answer the next session with another line, or none."""
        sock = self._listener.accept()[0]
        sock.recv(1 << 20)
        sock.sendall(line)
        sock.close()

    def finish(self, *, half_open: bool = False) -> None:
        """Listen no more, and end each connection; unless `half_open`, once the session has ended its side."""
        self._listener.close()
        if os.path.exists(self.place.socket):
            os.unlink(self.place.socket)
        for session in self.sessions:
            if half_open:
                session.end()
            else:
                session.finish()
