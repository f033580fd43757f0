"""Reasons for which futures have no good result, as text that their clients may see.

Pure. Owns which other futures a reason may name: where callers are not authenticated, an ID is the right to a future.
"""

from typing import Final

from asyncfc_mcp.core.failure_reasons import reason_of
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.engine.call import Call
from asyncfc_mcp.errors import CallFailed, DependencyFailed, PredecessorFailed, Stopped

FOREIGN: Final = "another client's call"
"""Text in place of the ID of a call that the reader may not see: without authentication, every call but its own."""


def is_visible(other: Future, future: Future) -> bool:
    """Return whether a text for the client of `future` may name `other`, to which that client did not refer itself."""
    return other is future or (other.scope == future.scope and other.scope.listed)


def needed_failed(call: Call, needed: Future) -> CallFailed:
    """Return the failure of a call that needs the value or the success of a future that has ended without."""
    cause, reason = needed.cause or needed.id, reason_of(needed)
    if needed.key in call.sources:
        failure: CallFailed = DependencyFailed(needed.id, cause, reason)
    else:
        written = next((ref for ref, future_id in call.future.after.items() if future_id == needed.id), needed.id)
        failure = PredecessorFailed(written, needed.id, cause, reason, cancelled=needed.state is State.CANCELLED)
    failure.unwritten = _is_unwritten(needed)
    return failure


def _is_unwritten(future: Future) -> bool:
    """Return whether the reason of a future is left out of the journal."""
    return future.private or (future.failure is not None and future.failure.unwritten)


def stopped(future: Future, before: Future, failed: Future) -> Stopped:
    """Return the cancellation of a call by fail-stop (`on_failure: "stop"`).

    Args:
        before: the future directly before it in the order of the state.
        failed: the future whose failure stopped the calls behind it.
    """
    # Calls that are stopped together end one after another: while `before` has not ended, `failed` is the reason.
    root = before if before.done else failed
    if not (is_visible(before, future) and is_visible(root, future)):
        name = before.id if is_visible(before, future) else FOREIGN
        return Stopped(name, FOREIGN, "its client knows why")
    failure = Stopped(before.id, root.cause or root.id, reason_of(root))
    failure.unwritten = _is_unwritten(root)
    return failure
