"""Reason of a failure: why a future has no good result, in one line.

Pure. Which other futures a reason may name is decided where a failure is made (`engine.reasons`).
"""

from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.errors import DependencyFailed, PredecessorFailed, Stopped
from asyncfc_mcp.protocol import content_blocks
from asyncfc_mcp.quotation import said


def reason_of(future: Future) -> str:
    """Return the reason for which a future has no good result, in one line."""
    if future.failure is not None:
        if isinstance(future.failure, DependencyFailed | PredecessorFailed | Stopped):
            return future.failure.reason
        return str(future.failure).partition("\n")[0]
    text = " ".join(str(block.get("text", "")) for block in content_blocks(future.result or {}))
    return said(text) or "the tool reported an error"
