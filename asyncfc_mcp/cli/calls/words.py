"""Words for the record of one call: times, waits, and how it ended. `log` and `top` share them.

Pure. An entry is the JSON object that `monitor` makes of a call; it may come from another version of the program, so a
value of an unexpected type is left out. Texts of servers and clients become one line without control characters.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, cast

from asyncfc_mcp.cli.figures import duration, size
from asyncfc_mcp.core.waits import WAIT_WORDS
from asyncfc_mcp.quotation import one_line, said

Entry = Mapping[str, Any]

WAITING: Final = "waiting"
RUNNING: Final = "running"
ASKING: Final = "input_required"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
STATES: Final = (WAITING, RUNNING, ASKING, COMPLETED, FAILED, CANCELLED)
ENDED: Final = frozenset((COMPLETED, FAILED, CANCELLED))
STYLES: Final = {
    WAITING: "bright_black",
    RUNNING: "cyan",
    ASKING: "magenta",
    COMPLETED: "green",
    FAILED: "red",
    CANCELLED: "yellow",
}
"""Colour of each state; never the only thing that tells it."""

NAME_LENGTH: Final = 60
"""Maximum characters of an ID, name, tool or host."""
FAILURE_LENGTH: Final = 300
_MOST_NAMED: Final = 3
"""Calls that are named of those which a call has waited for."""
_LATEST: Final = 1e15
"""Bound on numbers of an entry, which may be that of a damaged record: not one is infinite, or too long to print."""
_SHOWN_S: Final = 0.005
"""A shorter wait, for no other call, is not worth its place."""


# --- values of an entry ----------------------------------------------------------------------------------------------


def text(entry: Entry, key: str, limit: int = NAME_LENGTH) -> str:
    """Return a value as one line of at most `limit` characters; empty if it is missing."""
    value = entry.get(key)
    return said(value, limit) if isinstance(value, str) else ""


def moment(entry: Entry, key: str) -> float | None:
    """Return a time, in seconds of the wall clock."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LATEST:
        return None
    return float(value)


def state(entry: Entry) -> str:
    """Return the state; an unknown one counts as waiting."""
    value = entry.get("state")
    return value if isinstance(value, str) and value in STATES else WAITING


def has_ended(entry: Entry) -> bool:
    return state(entry) in ENDED


def part(entry: Entry, key: str) -> Entry:
    """Return an object within an entry; an empty one if it is missing."""
    value = entry.get(key)
    return cast("Entry", value) if isinstance(value, dict) else {}


def parts(entry: Entry, key: str) -> list[Entry]:
    """Return the objects of a list within an entry."""
    value = entry.get(key)
    return [cast("Entry", each) for each in value if isinstance(each, dict)] if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]


def at(seconds: float, *, with_date: bool) -> str:
    """Return a time of the wall clock in the time zone of this machine."""
    try:
        moment = datetime.fromtimestamp(seconds)
    except (OverflowError, OSError, ValueError):
        return "?"
    return f"{moment:%Y-%m-%d %H:%M:%S}" if with_date else f"{moment:%H:%M:%S}"


# --- a call ----------------------------------------------------------------------------------------------------------


def call(entry: Entry) -> str:
    """Return the ID of a call, with its name if its caller gave it one."""
    name = text(entry, "name")
    return f"{text(entry, 'id')} {name}" if name else text(entry, "id")


def tool(entry: Entry) -> str:
    return text(entry, "tool") or text(entry, "server")


def who(entry: Entry) -> str:
    """Return the person of a call where bridges tell persons apart, else its host, else its conversation's label."""
    kind, _, person = text(entry, "scope", 200).partition(":")
    named = person.rpartition("#")[2] if kind in ("person", "oauth") else ""
    return said(named, 24) or text(entry, "host", 24) or text(entry, "conversation", 12)


def waited_s(entry: Entry, now: float) -> tuple[float, float]:
    """Return the seconds that a call has waited for other calls, and then for a place at its server."""
    submitted = moment(entry, "submitted_at")
    if submitted is None:
        return 0.0, 0.0
    began, ended, queued = (moment(entry, f"{word}_at") for word in ("started", "ended", "queued"))
    until = began if began is not None else ended if ended is not None else now
    if queued is None:
        for_place = any(wait.get("kind") == "capacity" for wait in parts(entry, "waits"))
        only_place = for_place and all(wait.get("kind") == "capacity" for wait in parts(entry, "waits"))
        return (0.0, max(0.0, until - submitted)) if only_place else (max(0.0, until - submitted), 0.0)
    return max(0.0, min(queued, until) - submitted), max(0.0, until - queued)


def ran_s(entry: Entry, now: float) -> float | None:
    """Return the seconds that a call has run; None if it never started."""
    started = moment(entry, "started_at")
    if started is None:
        return None
    ended = moment(entry, "ended_at")
    return max(0.0, (now if ended is None else ended) - started)


def waited(entry: Entry, now: float) -> str:
    """Return what a call has waited for, and how long: `1.2 s on f1 (result), 0.3 s for capacity`."""
    for_calls, for_place = waited_s(entry, now)
    on = waits_on(entry)
    shown: list[str] = []
    if on:
        shown.append(f"{duration(for_calls)} on {on}")
    elif for_calls >= _SHOWN_S:
        shown.append(duration(for_calls))
    if for_place >= _SHOWN_S or (not shown and any(wait.get("kind") == "capacity" for wait in parts(entry, "waits"))):
        shown.append(f"{duration(for_place)} for capacity")
    return ", ".join(shown)


def waits_on(entry: Entry) -> str:
    """Return the calls that a call has waited for, each with the reason: `f1 (result), f2 (same state)`."""
    reasons: dict[str, list[str]] = {}
    for wait in parts(entry, "waits"):
        kind = text(wait, "kind", 20)
        if kind != "capacity":
            kinds = reasons.setdefault(text(wait, "on", 40) or "another call", [])
            reason = WAIT_WORDS.get(kind, kind)
            if reason and reason not in kinds:
                kinds.append(reason)
    named = [f"{on} ({', '.join(kinds)})" if kinds else on for on, kinds in reasons.items()]
    if len(named) > _MOST_NAMED + 1:
        return f"{', '.join(named[:_MOST_NAMED])} and {len(named) - _MOST_NAMED} more"
    return ", ".join(named)


def waiting_for(entry: Entry) -> str:
    """Return what a call waits for now: `f1 (needs the result)`; empty if that is not known."""
    now_for = part(entry, "waiting_for")
    ids = now_for.get("ids")
    named = (
        [said(each, 40) for each in cast("list[object]", ids) if isinstance(each, str)] if isinstance(ids, list) else []
    )
    why = text(now_for, "why", 80)
    on = ", ".join(named[:_MOST_NAMED]) + (f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else "")
    return f"{on} ({why})" if on and why else on or why


def progress(entry: Entry) -> str:
    """Return the progress that a server has reported: `33 % reading`."""
    reported = part(entry, "progress")
    done, total = moment(reported, "done"), moment(reported, "total")
    message = text(reported, "message", 80)
    if done is None:
        return message
    if total is not None and total > 0:
        number = f"{max(0.0, min(1.0, done / total)):.0%}".replace("%", " %")
    else:
        number = f"{done:g}"
    return f"{number} {message}".rstrip()


def outcome(entry: Entry) -> str:
    """Return how a call ended, or what it does now."""
    match state(entry):
        case "completed":
            count = entry.get("size")
            shown = (
                f"completed, {size(count)}" if isinstance(count, int) and not isinstance(count, bool) else "completed"
            )
        case "failed":
            failure = text(entry, "failure", FAILURE_LENGTH)
            shown = f"failed: {failure}" if failure else "failed"
            cause = text(entry, "cause", 40)
            if cause and cause not in failure:
                shown += f" (because of {cause})"
        case "cancelled":
            failure = text(entry, "failure", FAILURE_LENGTH)
            shown = "cancelled" if not failure or failure.startswith("cancelled") else f"cancelled: {failure}"
        case "input_required":
            question = text(entry, "question", 120)
            shown = f"question: {question}" if question else "question to its client"
        case "running":
            shown = f"running {progress(entry)}".rstrip()
        case _:
            on = waiting_for(entry)
            shown = f"waits for {on}" if on else "waiting"
    attempts = entry.get("attempts")
    if isinstance(attempts, int) and attempts > 1:
        shown += f" ({attempts} attempts)"
    return f"{shown} (in another process)" if entry.get("elsewhere") is True and not has_ended(entry) else shown


def name_of_state(entry: Entry) -> str:
    """Return the state in a word that users read."""
    found = state(entry)
    return "question" if found == ASKING else one_line(found)
