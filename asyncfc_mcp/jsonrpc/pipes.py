"""Byte streams of a connection: file descriptors that the event loop waits for, and streams where it cannot.

Owns non-blocking reads and writes, their callbacks on the event loop, and the number of bytes that a pipe still
buffers. Leaves framing to `line_reader` and `line_writer`, and starting processes to their owners.
"""

import os
import stat
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import anyio
import anyio.lowlevel

_CHUNK: Final = 64 * 1024
"""Capacity of a pipe. A larger buffer would be mapped for every read, which costs more than the rest of the read."""


class Source(Protocol):
    """A byte stream to read from."""

    async def receive(self) -> bytes:
        """Return the next bytes; none if the consumer has left some.

        Raises:
            anyio.EndOfStream: the stream ended.
        """
        ...


class Sink(Protocol):
    """A byte stream to write to."""

    position: int
    """Bytes that were written, or may have been, since the sink was opened."""

    def unread(self) -> int:
        """Return how many of these bytes were certainly not read and never will be; 0 if that is unknown."""
        ...

    def buffered(self) -> int:
        """Return how many of these bytes were certainly not read yet; 0 if that is unknown."""
        ...

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Write as much as possible without waiting; return the number of bytes.

        Raises:
            anyio.BrokenResourceError: the other side does not read.
        """
        ...

    async def send(self, data: bytes | memoryview) -> None:
        """Write all bytes.

        Raises:
            anyio.BrokenResourceError: the other side does not read.
        """
        ...

    def close(self) -> None:
        """Close the sink, so that writers fail with `anyio.BrokenResourceError`."""
        ...


class _Fd:
    """A non-blocking descriptor that can be closed while a task waits for it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        mode = os.fstat(fd).st_mode
        self._pollable = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)
        if self._pollable:
            os.set_blocking(fd, False)

    def close(self) -> None:
        """Close the descriptor and wake tasks that wait for it; closing twice is harmless."""
        # The attribute is cleared first: the number may belong to another file right after `os.close`.
        fd, self.fd = self.fd, -1
        if fd >= 0:
            anyio.notify_closing(fd)
            os.close(fd)


class _Loop(Protocol):
    """Methods of asyncio's and uvloop's event loops beyond anyio's interface; trio has none."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> object: ...

    def remove_reader(self, fd: int) -> object: ...


class FdSource(_Fd):
    """A descriptor to read from.

    Where the event loop supports reader callbacks, one stays registered as long as data is read as fast as it arrives:
    `anyio.wait_readable` makes two system calls for every read and costs one more turn of the loop (together a sixth of
    the time that the bridge spends on a call, measured).
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._loop: _Loop | None = None
        self._loop_known = False
        self._registered = False
        self._data: deque[bytes] = deque()
        self._arrived: anyio.Event | None = None
        self._left_over = False
        """True when the consumer has not taken everything that it received."""
        self.consumer: Callable[[bytes], bool] | None = None
        """Receives data as it is read, while `receive` waits; returns False to let `receive` return."""

    async def receive(self) -> bytes:
        if not self._data:
            await self._wait()
        if self._left_over:
            self._left_over = False
            return b""
        data = self._data.popleft()
        if not data:
            self._data.append(data)  # every later call finds the end again
            raise anyio.EndOfStream
        return data

    async def _wait(self) -> None:
        while not (self._data or self._left_over):
            if self.fd < 0:
                raise anyio.ClosedResourceError
            if not self._pollable:  # a regular file, which is always ready
                await anyio.lowlevel.checkpoint()
                self._read()
            elif (loop := self._callback_loop()) is None:
                await anyio.wait_readable(self.fd)
                self._read()
            else:
                if not self._registered:
                    self._registered = True
                    loop.add_reader(self.fd, self._on_readable)
                self._arrived = anyio.Event()
                try:
                    await self._arrived.wait()
                finally:
                    self._arrived = None

    def _callback_loop(self) -> _Loop | None:
        if not self._loop_known:
            self._loop_known = True
            native: Any = anyio.lowlevel.current_token().native_token
            # On Windows the method exists and raises; pipes are read in other ways there.
            self._loop = native if hasattr(native, "add_reader") and sys.platform != "win32" else None
        return self._loop

    def _on_readable(self) -> None:
        if self._data:  # the last chunk was not received yet: let the pipe fill up
            self._unregister()
            return
        self._read()
        if not self._data:
            return
        if not self._data[0]:
            self._unregister()
        if self._arrived is not None:
            if self.consumer is not None and self._data[0]:
                if self.consumer(self._data.popleft()):
                    return
                self._left_over = True
            self._arrived.set()

    def _read(self) -> None:
        try:
            self._data.append(os.read(self.fd, _CHUNK))
        except BlockingIOError:
            pass
        except OSError:  # broken off by the other side
            self._data.append(b"")

    def _unregister(self) -> None:
        if self._registered and self._loop is not None:
            self._registered = False
            self._loop.remove_reader(self.fd)

    def close(self) -> None:
        self._unregister()
        super().close()
        if self._arrived is not None:
            self._arrived.set()


class FdSink(_Fd):
    """A descriptor to write to."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.position = 0

    def unread(self) -> int:
        """Return the number of bytes in a pipe without a reading end, which Linux reports: no process can read them."""
        if sys.platform != "linux" or self.fd < 0:
            return 0
        import select

        poll = select.poll()
        poll.register(self.fd, 0)
        return self.buffered() if any(event & select.POLLERR for _, event in poll.poll(0)) else 0

    def buffered(self) -> int:
        """Return the number of bytes in a pipe, which Linux reports."""
        if sys.platform != "linux" or self.fd < 0 or not stat.S_ISFIFO(os.fstat(self.fd).st_mode):
            return 0
        import fcntl
        import termios

        return int.from_bytes(fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)), sys.byteorder)

    def send_nowait(self, data: bytes | memoryview) -> int:
        try:
            count = os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise anyio.BrokenResourceError from exc
        self.position += count
        return count

    async def send(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self.send_nowait(view) :]
                if view:
                    await anyio.wait_writable(self.fd)
        except (anyio.ClosedResourceError, ValueError) as exc:
            raise anyio.BrokenResourceError from exc


class StreamSink:
    """A byte stream to write to, for platforms where no descriptor can be waited for."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]], close: Callable[[], Awaitable[None]]) -> None:
        self._send = send
        self._closed = False
        self.position = 0
        self.aclose = close

    def unread(self) -> int:
        return 0

    def buffered(self) -> int:
        return 0

    def send_nowait(self, data: bytes | memoryview) -> int:
        return 0

    async def send(self, data: bytes | memoryview) -> None:
        if self._closed:
            raise anyio.BrokenResourceError
        self.position += len(data)  # counted first: a part may be written although the rest fails
        try:
            await self._send(bytes(data))
        except (anyio.ClosedResourceError, OSError) as exc:
            raise anyio.BrokenResourceError from exc

    def close(self) -> None:
        self._closed = True
