"""Entries: a call as readers of the record see it, as a JSON object.

Pure. Owns the shape that the page, the log of calls and exports have in common. Leaves which calls a reader may see to
`monitor`, and the look of an entry to those that show it.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final

from asyncfc_mcp.core.failure_reasons import recorded_reason
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.waits import without_paths

_PATH: Final = re.compile(r"same state \S[^;]*")
"""The reason for which a call waits that touches the same state; its arguments may give the path."""

Entry = dict[str, Any]
"""Keys without a value are left out, but for `id`, `tool`, `server`, `state` and `submitted_at`. Times are seconds of
the wall clock."""


def entry_of(
    future: Future,
    offset_s: float,
    waiting_for: tuple[Sequence[str], str] = ((), ""),
    *,
    elsewhere: bool = False,
) -> Entry:
    """Return the entry of a call.

    Args:
        offset_s: added to a time of the future, gives that of the wall clock.
        waiting_for: IDs of the calls that it waits for at this moment, and the reason.
        elsewhere: another replica makes the call.
    """
    entry: Entry = {
        "id": future.id,
        "tool": future.tool,
        "server": future.server,
        "state": future.state.value,
        "submitted_at": round(future.submitted_at + offset_s, 6),
        "scope": future.scope.key,
    }
    for name in ("queued_at", "started_at", "ended_at", "read_at"):
        at = getattr(future, name)
        if at is not None:
            entry[name] = round(at + offset_s, 6)
    if future.name is not None:
        entry["name"] = future.name
    if future.conversation is not None:
        entry["conversation"] = conversation_label(future.conversation)
    if future.caller is not None and future.caller.host:
        entry["host"] = future.caller.host
    if future.waits:
        entry["waits"] = [
            {"kind": wait.kind.value, "on": wait.on, **({"path": wait.path} if wait.path else {})}
            for wait in (without_paths(future.waits) if future.private else future.waits)
        ]
    if not future.done:
        ids, why = waiting_for
        if why:
            shown = _PATH.sub("same state", why) if future.private else why
            entry["waiting_for"] = {"ids": list(ids), "why": shown}
        if future.progress is not None:
            done, total, message = future.progress
            entry["progress"] = {"done": done, "total": total, "message": message}
        if question := future.question:
            entry["question"] = question
    elif (failure := recorded_reason(future)) is not None:
        entry["failure"] = failure
    if future.cause is not None:
        entry["cause"] = future.cause
    if future.started_at is not None and future.attempts > 1:
        entry["attempts"] = future.attempts
    if future.size:
        entry["size"] = future.size
    if future.private:
        entry["private"] = True
    if elsewhere:
        entry["elsewhere"] = True
    return entry


def conversation_label(conversation: str) -> str:
    """Return a short name for a conversation, the same in all runs. Its key itself may be the ID of a session, whose
    knowledge is a right."""
    return hashlib.sha256(conversation.encode("utf-8", "surrogatepass")).hexdigest()[:8]
