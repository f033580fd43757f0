"""The interface between a peer and the transport of its messages: one reader, one writer, and the ways both end.

Owns the protocols and their two exceptions. Leaves framing to the implementations: lines over pipes
(`line_reader`, `line_writer`), and HTTP (`downstream.http.transport`).
"""

from collections.abc import Callable
from typing import Protocol

import anyio

from asyncfc_mcp.jsonrpc.codec import Message


class InputGivenUp(anyio.EndOfStream):
    """Reading ended early because of a fault of the other side; `how` is a predicate whose subject is that side."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how


class LineLost(anyio.BrokenResourceError):
    """A line could not be written: the sink is broken. `begun` is true if a part of the line was written."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__()
        self.begun = begun


class Reader(Protocol):
    """The receiving half of a transport; see `line_reader.LineReader`."""

    def set_consumer(self, consumer: Callable[[], bool] | None) -> None:
        """Register a callback that takes messages with `receive_nowait` as they arrive; None removes it."""
        ...

    def receive_nowait(self) -> Message | None:
        """Return the next message if it is already there."""
        ...

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            anyio.EndOfStream: the input ended; `InputGivenUp` if that is a fault of the other side.
        """
        ...


class Writer(Protocol):
    """The sending half of a transport; see `line_writer.LineWriter`."""

    unsent: int
    """Bytes of messages that are queued until the other side reads on."""

    @property
    def position(self) -> int:
        """Bytes written so far."""
        ...

    @property
    def received(self) -> int:
        """Bytes that the other side has read or may have read."""
        ...

    async def settle(self) -> None:
        """Return when `received` is exact, for a connection whose other side is ending; after a bounded time."""
        ...

    @property
    def consumed(self) -> int:
        """As `received`, without those that are still buffered and those of the line being written."""
        ...

    def send_nowait(self, message: Message, on_lost: Callable[[bool], None] | None = None) -> bool:
        """Write a message at once if possible, else queue it: then False is returned, and `flush` must be run.

        Args:
            on_lost: called if the queued message could not be written, with whether a part of it was.

        Raises:
            anyio.BrokenResourceError: the other side does not read.
        """
        ...

    async def send(self, message: Message) -> None:
        """Write a message.

        Raises:
            LineLost: the other side does not read.
        """
        ...

    async def flush(self) -> None:
        """Write all queued messages.

        Raises:
            anyio.BrokenResourceError: the other side does not read.
        """
        ...

    async def finish(self) -> None:
        """Write queued messages for a bounded time, then close."""
        ...

    async def wait_for_write(self) -> None:
        """Return when one queued message fewer is left, or the queue was given up."""
        ...
