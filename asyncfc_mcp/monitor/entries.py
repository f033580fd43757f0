"""Entries: a call as readers of the record see it, as a JSON object.

Pure. Owns the shape that the page, the log of calls and exports have in common. Leaves which calls a reader may see to
`monitor`, and the look of an entry to those that show it.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from asyncfc_mcp.core.failure_reasons import recorded_reason
from asyncfc_mcp.core.futures import Future
from asyncfc_mcp.core.waits import without_paths
from asyncfc_mcp.quotation import shortened

_STATE: Final = "same state"
"""The reason for which a call waits that touches the same state. Paths follow it, which its arguments may give."""
NAME_LENGTH: Final = 200
"""Maximum characters of a name."""
REASON_LENGTH: Final = 1_000
"""Maximum characters of all other texts. A reader gets thousands of entries at once."""
NOT_SHOWN: Final = "not shown (the tool's setting journal is false)"
"""In place of a server's question, which may quote arguments."""

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
        "tool": shortened(future.tool, NAME_LENGTH),
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
        entry["name"] = shortened(future.name, NAME_LENGTH)
    if future.conversation is not None:
        entry["conversation"] = conversation_label(future.conversation)
    if future.caller is not None and future.caller.host:
        entry["host"] = shortened(future.caller.host, NAME_LENGTH)
    if future.waits:
        entry["waits"] = [
            {"kind": wait.kind.value, "on": wait.on, **({"path": _text(wait.path)} if wait.path else {})}
            for wait in (without_paths(future.waits) if future.private else future.waits)
        ]
    if not future.done:
        ids, why = waiting_for
        if why:
            if future.private and _STATE in why:
                why = why.partition(_STATE)[0] + _STATE
            entry["waiting_for"] = {"ids": list(ids), "why": _text(why)}
        if future.progress is not None:
            done, total, message = future.progress
            message = None if future.private or message is None else _text(message)
            entry["progress"] = {"done": done, "total": total, "message": message}
        if question := future.question:
            entry["question"] = NOT_SHOWN if future.private else _text(question)
    elif (failure := recorded_reason(future)) is not None:
        entry["failure"] = _text(failure)
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


def _text(text: str) -> str:
    return shortened(text, REASON_LENGTH)


def conversation_label(conversation: str) -> str:
    """Return a short name for a conversation, the same in all runs. Its key itself may be the ID of a session, whose
    knowledge is a right."""
    return hashlib.sha256(conversation.encode("utf-8", "surrogatepass")).hexdigest()[:8]
