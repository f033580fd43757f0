"""Work of telemetry that can wait until a request has its answer: attributes and ends of spans, measurements.

Owns its queue. What is recorded has its own times, so that it is the same however late. OpenTelemetry's SDK takes about
as long for the two spans of a call as the bridge for the rest of it; on the way of a call remain only the starts of
spans, whose context is sent on.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.lowlevel

from asyncfc_mcp.signals import WakeUp

logger = logging.getLogger(__name__)

AT_ONCE: Final = 8
"""Pieces of work between two turns of other tasks."""
MOST: Final = 2_000
"""Pieces that may wait; beyond it, each is done at once."""


class Later:
    """A queue of work, which is done by a task while `around` runs, and otherwise at once."""

    def __init__(self) -> None:
        self._work: deque[Callable[[], None]] = deque()
        self._added = WakeUp()
        self._runs = False

    def do(self, work: Callable[[], None]) -> None:
        """Do something after the present step of the event loop. A failure is logged: it must not end the bridge."""
        if not self._runs or len(self._work) >= MOST:
            _do(work)
            return
        self._work.append(work)
        self._added.set()

    async def around(self, main: Callable[[], Awaitable[Any]]) -> Any:
        """Run a function, and do the work beside it; what is left at its end is done then."""
        result = None
        try:
            async with anyio.create_task_group() as tg:
                tg.start_soon(self._run)
                self._runs = True
                result = await main()
                tg.cancel_scope.cancel()
            return result
        finally:
            self._runs = False
            self.finish()

    def finish(self) -> None:
        """Do what is left."""
        while self._work:
            _do(self._work.popleft())

    async def _run(self) -> None:
        while True:
            await self._added.wait()
            while self._work:
                await anyio.lowlevel.checkpoint()  # answers are written first
                for _ in range(min(AT_ONCE, len(self._work))):
                    _do(self._work.popleft())


def _do(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        logger.exception("telemetry has failed")
