"""History: pages of what an engine keeps outside of its memory, for those that show calls.

Pure values. `core.call_query` says which calls are meant; engines find them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.records import FutureRecord

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
