"""Reason of a failure: why a future has no good result, in one line.

Pure. Which other futures a reason may name is decided where a failure is made (`engine.reasons`).
"""

from typing import Final

from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.errors import (
    CallTimedOut,
    Cancelled,
    DependencyFailed,
    Interrupted,
    NotClaimed,
    NotDrained,
    NotResumed,
    PredecessorFailed,
    Stopped,
)
from asyncfc_mcp.protocol import content_blocks
from asyncfc_mcp.quotation import said

QUOTING_NOTHING: Final = (CallTimedOut, Cancelled, Interrupted, NotClaimed, NotDrained, NotResumed)
"""Failures whose text has nothing of arguments, results and servers."""


def reason_of(future: Future) -> str:
    """Return the reason for which a future has no good result, in one line."""
    if future.failure is not None:
        if isinstance(future.failure, DependencyFailed | PredecessorFailed | Stopped):
            return future.failure.reason
        return str(future.failure).partition("\n")[0]
    text = " ".join(str(block.get("text", "")) for block in content_blocks(future.result or {}))
    return said(text) or "the tool reported an error"


def recorded_reason(future: Future) -> str | None:
    """Return the reason for which a future has no good result as the record of calls may have it: nothing that the
    tool's settings keep from it, and nothing that has to be read first. None if it has a good result, or has not
    ended."""
    if future.state is State.COMPLETED or not future.done:
        return None
    failure = future.failure
    if failure is None and (future.private or not future.loaded):
        return "the tool reported an error"
    unwritten = future.private or (failure is not None and failure.unwritten)
    if unwritten and not isinstance(failure, QUOTING_NOTHING):
        return "it failed; the reason is not recorded (setting journal: false)"
    return reason_of(future)
