"""Standard output and error of the thin process: bytes for the host, written without waiting for it.

Owns what is queued for the host, and how much of it is written at a time. Standard library only.
"""

import os
import select
import stat
from collections import deque


class HostGone(Exception):
    """The host has ended, or reads no more."""


class Output:
    """Standard output, written without waiting for the host."""

    def __init__(self) -> None:
        self.fd = 1
        self.size = 0
        self._queue: deque[memoryview] = deque()
        # A pipe that is writable takes so many bytes at once. Its flags are not this process's alone.
        self._most = select.PIPE_BUF if stat.S_ISFIFO(os.fstat(1).st_mode) else 16 << 10

    def add(self, data: bytes) -> None:
        """Queue data."""
        if data:
            self._queue.append(memoryview(data))
            self.size += len(data)

    def write(self) -> None:
        """Write as much as the host takes now.

        Raises:
            HostGone: it does not read any more.
        """
        if not self._queue:
            return
        data = self._queue[0][: self._most]
        if len(self._queue) > 1 and len(data) < self._most:
            joined = bytearray()
            for each in self._queue:
                joined += each[: self._most - len(joined)]
                if len(joined) >= self._most:
                    break
            data = memoryview(joined)
        try:
            written = os.write(self.fd, data)
        except BlockingIOError:
            return
        except OSError:
            raise HostGone from None
        self.size -= written
        while written:
            first = self._queue[0]
            if written < len(first):
                self._queue[0] = first[written:]
                return
            written -= len(first)
            self._queue.popleft()

    def flush(self) -> None:
        """Write the rest, and wait for the host as long as it reads."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        while self._queue:
            if any(found & ~select.POLLOUT for _, found in poll.poll()):
                raise HostGone
            self.write()


def say(text: str) -> None:
    """Write a line for the host's log."""
    try:
        os.write(2, f"asyncfc-mcp: {' '.join(text.split())}\n".encode(errors="replace"))
    except OSError:
        pass
