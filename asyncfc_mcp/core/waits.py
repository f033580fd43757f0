"""Waits: what a call has waited for before it started, as its record keeps it.

Pure values. `engine.blockers` finds them, a future keeps those of its call, and whoever shows a call reads them there.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final


class WaitKind(Enum):
    """Why a call has waited for another one. The values appear in records; `WAIT_WORDS` are what users read."""

    VALUE = "value"
    """Its arguments take the other's result."""
    AFTER = "after"
    """It names the other in `_after`."""
    STATE = "state"
    """Both touch the same state, and the other was made earlier."""
    CAPACITY = "capacity"
    """The other had the last place at the server or the tool (`max_concurrency`)."""


WAIT_WORDS: Final = {
    WaitKind.VALUE.value: "result",
    WaitKind.AFTER.value: "_after",
    WaitKind.STATE.value: "same state",
    WaitKind.CAPACITY.value: "capacity",
}
"""Words for users, the same on the page (`static/index.html`), in its traces and in a terminal."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One call that another one has waited for.

    Args:
        on: ID of the future that was waited for; or `engine.reasons.FOREIGN`, where the reader may not see it.
        path: the state that both touch, for `STATE`.
    """

    kind: WaitKind
    on: str
    path: str = ""


def without_paths(waits: Iterable[Wait]) -> tuple[Wait, ...]:
    """Return waits without state paths, which the arguments of a call may have given."""
    return tuple(replace(each, path="") if each.path else each for each in waits)
