"""Bytes between a host, on standard streams, and the daemon.

Owns the queues in both directions, and the loop that serves them. Back pressure is passed on: nothing
is read that cannot be written soon. Standard library only. What follows from a loss of the daemon is `conversation`'s
to decide, and how another one is found, `launch`'s.
"""

import os
import select
import time
from collections import deque
from typing import Any, Final, cast

from asyncfc_mcp.thin import greeting, messages
from asyncfc_mcp.thin.conversation import NOT_SENT, Conversation, Sent, is_own
from asyncfc_mcp.thin.launch import REJOIN_S, Joined, Launcher, Unusable
from asyncfc_mcp.thin.messages import ERROR, NOTIFICATION, OTHER, REQUEST, RESULT, Edges, Lines, Message, Piece
from asyncfc_mcp.thin.output import HostGone, Output, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

READ_BYTES: Final = 64 << 10
QUEUED_BYTES: Final = 512 << 10
"""Bytes that may be queued in one direction before reading for it pauses."""
QUEUED_LINES: Final = 256
ORPHAN_POLL_S: Final = 2.0
"""Interval between two checks for a parent process that has exited."""
SETTLED_S: Final = 10.0
"""Life of a connection after which its end is not taken for a consequence of what was sent over it."""
MOST_SHORT_LIVES: Final = 12
"""Shorter ones in a row after which requests are answered with errors."""
LONGEST_BACKOFF_S: Final = 5.0
RETRY_S: Final = 5.0
"""Bound on the attempt to find a daemon that a request makes after the others have failed."""


class _Queued:
    """A line, or a piece of one, for the daemon."""

    __slots__ = ("data", "message", "sent")

    def __init__(self, data: bytes, message: Message, sent: Sent | None = None) -> None:
        self.data, self.message, self.sent = data, message, sent


_HELD: Final = _Queued(greeting.line(held=True), Message(OTHER))
"""Says that the daemon has received all that it will receive."""


class _Long:
    """A long line of the host that is being passed on."""

    __slots__ = ("edges", "lost")

    def __init__(self, head: bytes) -> None:
        self.edges, self.lost = Edges(head), False


class Relay:
    """The conversation of one host with the daemon, over as many connections as it takes.

    Args:
        joined: the first connection.
        launcher: finds further ones.
        parent: the process of the host; the session ends when another one has taken its place.
    """

    def __init__(self, joined: Joined, launcher: Launcher, parent: int) -> None:
        self._launcher = launcher
        self._conversation = Conversation()
        self._parent = parent
        self._host_lines = Lines()
        self._pieces: deque[Piece] = deque()
        """Lines of the host that cannot be passed on yet."""
        self._long: _Long | None = None
        self._ended = False
        """True once standard input has ended."""
        self._output = Output()
        self._sock: socket | None = None
        self._daemon_lines = Lines()
        self._arriving = Message(OTHER)
        """The long message of the daemon that is being passed on."""
        self._queue: deque[_Queued] = deque()
        self._offset = 0
        """Bytes of the first queued line that are sent."""
        self._held: deque[_Queued] = deque()
        """Requests for the next daemon, or for this one once the connection is restored."""
        self._draining = self._restoring = self._half_closed = self._swallowing = False
        self._since = 0.0
        self._short_lives = 0
        launcher.wait = self._wait
        self._use(joined)

    def run(self) -> None:
        """Serve the host until it has ended, or the daemon has answered everything after the end of its input.

        Raises:
            HostGone: the host does not read any more, or has exited.
        """
        while not (self._sock is None and self._finished()):
            self._turn()
        self._output.flush()

    def _finished(self) -> bool:
        return self._ended and not self._pieces and (self._half_closed or not self._conversation.waits)

    # -- the loop

    def _turn(self) -> None:
        sock = self._sock
        poll = select.poll()
        reads = not self._ended and not self._pieces and self._room()
        if reads:
            poll.register(0, select.POLLIN)
        poll.register(self._output.fd, select.POLLOUT if self._output.size else 0)
        number = -1
        if sock is not None:
            number = sock.fileno()
            wanted = select.POLLIN if self._output.size < QUEUED_BYTES else 0
            wanted |= select.POLLOUT if self._queue else 0
            if wanted:
                poll.register(number, wanted)
        events = dict(poll.poll(ORPHAN_POLL_S * 1000))
        if not events and os.getppid() != self._parent:
            raise HostGone
        if (found := events.get(self._output.fd)) is not None:
            if found & ~select.POLLOUT:
                raise HostGone
            self._output.write()
        if sock is not None and (found := events.get(number)) is not None:
            self._serve(found)
        if 0 in events:
            self._read_host()
        self._process()

    def _room(self) -> bool:
        waiting = (*self._queue, *self._held) if len(self._queue) + len(self._held) < QUEUED_LINES else None
        return waiting is not None and sum(len(each.data) for each in waiting) < QUEUED_BYTES

    def _wait(self, fd: int | None, seconds: float) -> bool:
        """Wait for a descriptor to be readable while there is no daemon; see `Launcher.wait`.

        Raises:
            HostGone: the host has gone meanwhile.
        """
        poll = select.poll()
        poll.register(self._output.fd, select.POLLOUT if self._output.size else 0)
        if not (self._ended or self._pieces or self._conversation.waits):
            poll.register(0, 0)  # for the end of input
        if fd is not None:
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + seconds
        while True:
            left = min(max(deadline - time.monotonic(), 0), ORPHAN_POLL_S)
            events = dict(poll.poll(left * 1000))
            if os.getppid() != self._parent or events.get(self._output.fd, 0) & ~select.POLLOUT:
                raise HostGone
            if 0 in events:
                if not _has_input():
                    raise HostGone
                poll.unregister(0)  # what it sent before the end is answered
            if self._output.fd in events:
                self._output.write()
                if not self._output.size:
                    poll.modify(self._output.fd, 0)
            if fd in events:
                return True
            if time.monotonic() >= deadline:
                return False

    # -- from the host

    def _read_host(self) -> None:
        try:
            data = os.read(0, READ_BYTES)
        except OSError:
            data = b""
        if data:
            self._pieces.extend(self._host_lines.feed(data))
            return
        self._ended = True
        rest = self._host_lines.rest()
        if rest.strip():
            self._pieces.append(Piece(rest + b"\n", first=True, last=True))
        elif self._host_lines.inside:
            self._pieces.append(Piece(b"\n", first=False, last=True))

    def _process(self) -> None:
        """Take what the host has sent, as far as it can be passed on."""
        while self._pieces and self._room():
            piece = self._pieces[0]
            if piece.first and not piece.last and self._waits():
                break  # a long line is not held; its kind may not even be known
            self._pieces.popleft()
            if piece.first and piece.last:
                self._from_host(piece.data)
            else:
                self._part(piece)
        self._end_input()

    def _waits(self) -> bool:
        return self._sock is not None and (self._draining or self._restoring)

    def _end_input(self) -> None:
        idle = not (self._pieces or self._queue or self._held)
        if self._ended and idle and self._sock is not None and not self._half_closed:
            self._half_closed = True
            try:
                self._sock.shutdown(1)
            except OSError:
                self._lost()

    def _from_host(self, line: bytes) -> None:
        """Pass a complete line on."""
        message = messages.of_host(line)
        if message.kind in (RESULT, ERROR):
            if self._conversation.answered_by_host(message) and self._sock is not None:
                self._queue.append(_Queued(line, message))
            return
        if message.kind == NOTIFICATION:
            if message.method == "notifications/cancelled":
                self._conversation.cancelled(message)
                self._drop_cancelled()
            elif message.method == "notifications/initialized":
                self._conversation.initialized = line
                if self._restoring:
                    return  # sent with the rest
            if self._sock is not None and not self._restoring:
                self._queue.append(_Queued(line, message))
            return
        if message.kind == REQUEST:
            queued = _Queued(line, message, self._conversation.request(message, line))
            if self._sock is None:
                self._held.append(queued)
                self._rejoin(RETRY_S)
            else:
                (self._held if self._waits() else self._queue).append(queued)
            return
        if not line.strip():
            return
        if self._sock is None:
            self._rejoin(RETRY_S)
        if self._sock is not None:
            (self._held if self._waits() else self._queue).append(_Queued(line, message))

    def _drop_cancelled(self) -> None:
        """Remove requests that were cancelled before they were sent."""
        open_ = self._conversation.is_open
        self._held = deque(each for each in self._held if each.sent is None or open_(each.sent))

    def _part(self, piece: Piece) -> None:
        """Pass a piece of a long line on."""
        if piece.first:
            if self._sock is None:
                self._rejoin(RETRY_S)
            self._long = _Long(piece.data)
            self._long.lost = self._sock is None
        long = self._long
        assert long is not None, "a long line begins with its first piece"
        if not piece.first:
            long.edges.add(piece.data)
        message = Message(OTHER)
        sent = None
        if piece.last:
            self._long = None
            message = long.edges.message()
            if message.kind in (RESULT, ERROR):
                self._conversation.answered_by_host(message)
            if message.kind == REQUEST and message.id is not None:
                sent = self._conversation.request(message, None)
                if long.lost:
                    self._output.add(self._conversation.refuse(sent, NOT_SENT))
        if not long.lost:
            self._queue.append(_Queued(piece.data, message, sent))
            if piece.last and self._draining:
                self._queue.append(_HELD)

    # -- the daemon

    def _use(self, joined: Joined) -> None:
        """Go on with a new connection."""
        self._sock = joined.sock
        self._sock.setblocking(False)
        self._daemon_lines = Lines()
        self._draining = self._half_closed = self._swallowing = False
        self._since = time.monotonic()
        for note in joined.about.get("notes") or ():
            say(str(note))
        handshake = self._conversation.handshake
        self._restoring = handshake is not None
        if handshake is not None:
            self._queue.append(_Queued(handshake, Message(OTHER)))
        else:
            self._send_held()
        self._received(joined.received)

    def _send_held(self) -> None:
        self._restoring = False
        self._queue.extend(self._held)
        self._held.clear()

    def _restored(self) -> None:
        """Send what follows the handshake of a connection that is restored."""
        lines = self._conversation.restored()
        self._queue.extend(_Queued(line, Message(OTHER)) for line in lines)
        self._send_held()

    def _serve(self, events: int) -> None:
        sock = self._sock
        assert sock is not None, "it was polled"
        ended = False
        try:
            if events & select.POLLOUT and self._queue:
                self._send(sock)
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        try:
            # What the daemon has written before its end is still there.
            while events & ~select.POLLOUT or ended:
                data = sock.recv(READ_BYTES)
                if not data:
                    ended = True
                    break
                self._received(data)
                if not ended:
                    break
        except BlockingIOError:
            pass
        except OSError:
            ended = True
        if ended:
            self._lost()

    def _send(self, sock: "socket") -> None:
        first = self._queue[0]
        if self._offset == 0 and len(first.data) < 4096 and len(self._queue) > 1:
            data = b"".join(each.data for each in list(self._queue)[:64])
        else:
            data = first.data if self._offset == 0 else memoryview(first.data)[self._offset :]
        self._offset += sock.send(data)
        while self._queue and self._offset >= len(self._queue[0].data):
            done = self._queue.popleft()
            self._offset -= len(done.data)
            if done.sent is not None and not done.sent.repeatable:
                done.sent.line = None

    def _received(self, data: bytes) -> None:
        for piece in self._daemon_lines.feed(data):
            if not piece.first:
                if not self._swallowing:
                    self._output.add(piece.data)
                    if piece.last:
                        self._conversation.from_daemon(self._arriving, b"")
                continue
            if piece.data.startswith(greeting.PREFIX):
                self._swallowing = True
                self._control(piece.data)
                continue
            message = messages.of_daemon(piece.data)
            self._swallowing = is_own(message)
            if self._swallowing:
                if self._restoring:
                    self._restored()
                continue
            if piece.last and self._conversation.is_known_change(message, piece.data):
                continue
            self._arriving = message
            if piece.last:
                self._conversation.from_daemon(message, piece.data)
            self._output.add(piece.data)

    def _control(self, line: bytes) -> None:
        try:
            content = greeting.read(line)
        except greeting.NotAGreeting:
            return
        if (note := content.get("note")) is not None:
            say(str(note))
        draining: Any = content.get("draining")
        if isinstance(draining, dict):
            self._draining = True
            program: Any = cast("dict[str, Any]", draining).get("program")
            if isinstance(program, list) and program:
                self._launcher.program = [str(word) for word in cast("list[Any]", program)]
            self._hold()
            if self._long is None:
                self._queue.append(_HELD)

    def _hold(self) -> None:
        """Take requests out of the queue of which nothing is sent yet."""
        queued, self._queue = self._queue, deque()
        for number, each in enumerate(queued):
            begun = number == 0 and self._offset > 0
            (self._queue if begun or each.sent is None or each.sent.line is None else self._held).append(each)

    # -- a daemon has ended

    def _lost(self) -> None:
        """Go on without the daemon that has ended."""
        assert self._sock is not None, "there was one"
        self._sock.close()
        self._sock = None
        if self._half_closed:
            self._held.clear()
            self._queue.clear()
            return
        if self._daemon_lines.inside and not self._swallowing:
            self._output.add(b"\n")  # the host drops the beginning of a line, and goes on with the next one
        if self._long is not None:
            self._long.lost = True
        unsent, kept = self._unsent()
        if time.monotonic() - self._since > SETTLED_S:
            self._short_lives = 0
            self._conversation.settled()
        loss = self._conversation.lost({each.sent for each in unsent if each.sent is not None})
        for line in loss.to_host:
            self._output.add(line)
        self._held = deque(_Queued(each.line, each.message, each) for each in loss.again if each.line is not None)
        self._held.extend(kept)
        if self._ended and not self._held:
            self._half_closed = True
            return
        if not self._draining:  # an end that was announced follows from nothing that was sent
            if self._short_lives:
                self._wait(None, min(0.1 * 2**self._short_lives, LONGEST_BACKOFF_S))
            self._short_lives += 1
        self._draining = self._restoring = False
        if self._short_lives > MOST_SHORT_LIVES:
            self._give_up("it ends again and again")
        else:
            self._rejoin(REJOIN_S)

    def _unsent(self) -> tuple[list[_Queued], list[_Queued]]:
        """Return the requests that the daemon has certainly not received, and other lines for the next daemon."""
        queued, held = list(self._queue), list(self._held)
        # A line may be understood without the newline at its end.
        if queued and self._offset >= len(queued[0].data.rstrip()):
            del queued[0]
        self._queue.clear()
        self._offset = 0
        unsent = [each for each in (*queued, *held) if each.sent is not None and each.sent.line is not None]
        kept = [each for each in held if each.sent is None]
        kept += [each for each in queued if each.message.kind == NOTIFICATION and each.message.method != _INITIALIZED]
        return unsent, kept

    def _rejoin(self, within_s: float) -> None:
        """Join a daemon again; without one, answer what waits for it."""
        try:
            joined = self._launcher.join(within_s, resumed=True)
        except Unusable as exc:
            self._give_up(str(exc))
            return
        for line in self._conversation.changes():
            self._output.add(line)
        self._use(joined)

    def _give_up(self, why: str) -> None:
        """Answer what waits for a daemon. Further requests try again."""
        reason = f"the asyncfc-mcp daemon has ended and cannot be started again: {why}"
        say(reason)
        for sent in self._conversation.abandon():
            self._output.add(self._conversation.refuse(sent, reason))
        self._held.clear()


_INITIALIZED: Final = "notifications/initialized"


def _has_input() -> bool:
    """Return whether the host has sent anything that was not read, although its output may have ended."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    return any(found & select.POLLIN for _, found in poll.poll(0))
