"""History: pages of what an engine keeps outside of its memory, for those that show calls.

Pure values, and the bounds that all engines keep. `core.call_query` says which calls are meant; engines find them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.records import FutureRecord

SEARCH_S: Final = 2.0
"""Seconds after which a search returns what it has found."""
SEARCHED_BYTES: Final = 256 << 10
"""Size of arguments and results up to which a query looks into them."""
MOST_RUNS: Final = 200_000
"""Bound on the runs that are returned."""

Serves = Callable[[str], bool]
"""Returns whether the calls of a server may be shown."""


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Records that a query means, the highest number in their ID first; one more than its limit, if there are so many.

    Args:
        until: lowest number that was looked at, where a bound ended the search; None after the last one.
    """

    records: list[FutureRecord]
    until: int | None


@dataclass(frozen=True, slots=True)
class FuturePage:
    """The same as futures of an engine."""

    futures: list[Future]
    until: int | None


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """Start and end of a call, in seconds of the wall clock, and what tells its conversation from others."""

    conversation: str
    started_at: float
    ended_at: float
