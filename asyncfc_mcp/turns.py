"""Turns of the event loop: runs work in slices, with a checkpoint after each.

Owns the maximum duration of a slice. The work itself is a generator (see `slices`).
"""

from time import monotonic
from typing import Final, TypeVar

import anyio.lowlevel

from asyncfc_mcp.slices import Slices

T = TypeVar("T")

SLICE_S: Final = 0.005
"""Seconds of work after which other tasks can run."""


async def in_slices(work: Slices[T]) -> T:
    """Run work to its end. When cancelled, the work remains unfinished."""
    since = monotonic()
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
        if monotonic() - since > SLICE_S:
            await anyio.lowlevel.checkpoint()
            since = monotonic()
