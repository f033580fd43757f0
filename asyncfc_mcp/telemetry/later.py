"""Work of telemetry that can wait until a request has its answer: attributes and ends of spans, measurements.

Owns its queue and the thread that does the work, a little at a time. What is recorded has its own times, so that it is
the same however late. On the way of a call remain only the starts of spans, whose context is sent on.
"""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

logger = logging.getLogger(__name__)

DELAY_S: Final = 0.2
"""Time for which work gathers, in seconds."""
AT_ONCE: Final = 8
"""Pieces of work after which the thread lets others run: it has the interpreter for a fraction of a millisecond."""
PAUSE_S: Final = 0.0002
MOST: Final = 2_000
"""Pieces that may wait; beyond it, whoever adds one does some of it, so that nothing is lost."""
SWITCH_S: Final = 0.0005
"""Longest time for which a thread that encodes what is sent keeps the interpreter from the event loop, in seconds."""


class Later:
    """A queue of work, which is done by a thread while `around` runs, and otherwise at once."""

    def __init__(self) -> None:
        self._work: deque[Callable[[], None]] = deque()
        self._added = threading.Event()
        self._doing = threading.RLock()
        self._runs = False

    def do(self, work: Callable[[], None]) -> None:
        """Do something soon, after all before it. A failure is logged: it must not end the bridge."""
        self._work.append(work)
        if not self._runs:
            self.finish()
        elif len(self._work) > MOST:
            self._some()
        elif not self._added.is_set():
            self._added.set()

    async def around(self, main: Callable[[], Awaitable[Any]]) -> Any:
        """Run a function, and do the work beside it; what is left at its end is done then."""
        switch_s = sys.getswitchinterval()
        thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._runs = True
        sys.setswitchinterval(min(switch_s, SWITCH_S))
        thread.start()
        try:
            return await main()
        finally:
            sys.setswitchinterval(switch_s)
            self._runs = False
            self._added.set()
            self.finish()

    def finish(self) -> None:
        """Do what is left."""
        while self._work:
            self._some()

    def _some(self) -> None:
        with self._doing:
            for _ in range(min(AT_ONCE, len(self._work))):
                _do(self._work.popleft())

    def _run(self) -> None:
        while self._runs:
            self._added.wait()
            if self._runs:
                time.sleep(DELAY_S)
            self._added.clear()
            while self._work and self._runs:
                self._some()
                time.sleep(PAUSE_S)


def _do(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        logger.exception("telemetry has failed")
