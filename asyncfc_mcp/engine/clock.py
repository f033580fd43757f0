"""The engine's clock: that of the event loop, so that tests can run on a virtual one.

Owns nothing else.
"""

from collections.abc import Callable
from typing import Any, cast

import anyio
import anyio.lowlevel


def loop_clock() -> Callable[[], float]:
    """Return the clock of the event loop in which it is first called, in seconds.

    `anyio.current_time` finds out which loop that is on every call: five calls instead of one.
    """
    clock: Callable[[], float] | None = None

    def now() -> float:
        nonlocal clock
        if clock is None:
            loop: Any = anyio.lowlevel.current_token().native_token
            clock = cast("Callable[[], float]", getattr(loop, "time", anyio.current_time))
        return clock()

    return now
