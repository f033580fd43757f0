"""Processor time of a step, for bounds that must hold on a machine that is shared and noisy."""

import time
from collections.abc import Callable
from typing import Final

TRIES: Final = 5


def least_cpu_s(step: Callable[[], object], enough_s: float = 0.0) -> float:
    """Return the least processor time of this thread, in seconds, that some runs of a step took.

    Noise only adds time: a neighbour on the same core doubles what a step takes, a garbage collection of everything
    that other tests left adds to it. A step that is too slow is too slow each time.

    Args:
        enough_s: a time at which no further run is made: the bound that is asserted.
    """
    least = float("inf")
    for _ in range(TRIES):
        started = time.thread_time()
        step()
        least = min(least, time.thread_time() - started)
        if least < enough_s:
            break
    return least
