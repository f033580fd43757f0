"""Messages of one side of a connection written without waiting.

Owns the task that writes queued messages, and the discovery that the other side has stopped reading. Leaves the queue
to the writer (`channel.Writer`), and the consequences for the connection to `peer`.
"""

import logging
from collections.abc import Callable

import anyio
import anyio.abc

from asyncfc_mcp.jsonrpc.channel import Writer
from asyncfc_mcp.jsonrpc.codec import Message

logger = logging.getLogger(__name__)


class Sender:
    """Writes messages at once where the writer takes them, else in one task for all that are queued.

    Args:
        on_failed: called when a message is dropped because the other side has stopped reading, with whether it is the
            first one.

    Attributes:
        tg: task group for that task; None until the connection runs.
        failed: True once the other side has stopped reading for good.
    """

    def __init__(self, writer: Writer, on_failed: Callable[[bool], None]) -> None:
        self._writer = writer
        self._on_failed = on_failed
        self._flushing = False
        self.tg: anyio.abc.TaskGroup | None = None
        self.failed = False

    def write_nowait(self, message: Message, on_lost: Callable[[bool], None] | None = None) -> bool:
        """Write a message at once, or queue it until the other side reads on; return False if it has stopped reading.

        Args:
            on_lost: called if the queued message could not be written, with whether a part of it was.
        """
        assert self.tg is not None
        try:
            if not self._writer.send_nowait(message, on_lost) and not self._flushing:
                self._flushing = True
                self.tg.start_soon(self._flush)
        except anyio.BrokenResourceError:
            self.fail()
            return False
        return True

    async def _flush(self) -> None:
        try:
            await self._writer.flush()
        except anyio.BrokenResourceError:
            self.fail()
        finally:
            self._flushing = False

    def fail(self) -> None:
        """Record that a message was dropped."""
        logger.debug("dropped a message: the other side does not read")
        first, self.failed = not self.failed, True
        self._on_failed(first)
