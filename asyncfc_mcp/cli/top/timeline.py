"""The bar of a call on the time line of `top`.

Pure. Each state of a call has a mark of its own, so that bars can be read without colours.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Final

from rich.text import Text

from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.calls.words import Entry
from asyncfc_mcp.cli.figures import short_duration


@dataclass(frozen=True, slots=True)
class Marks:
    """Characters of the screen."""

    waiting: str
    queued: str
    running: str
    asking: str
    earlier: str
    up: str
    dot: str
    selected: str
    rule: str


UNICODE: Final = Marks("░", "▒", "█", "?", "‹", "●", "·", "▸", "─")
ASCII: Final = Marks(".", ":", "#", "?", "<", "*", "-", ">", "-")


def bar(entry: Entry, now: float, span_s: float, width: int, marks: Marks) -> Text:
    """Return a call's part of the last `span_s` seconds; the right edge is now."""
    cells: list[tuple[str, str]] = [(" ", "")] * width
    submitted = words.moment(entry, "submitted_at")
    if width <= 0 or submitted is None:
        return Text("")
    queued, started, ended = (words.moment(entry, f"{name}_at") for name in ("queued", "started", "ended"))
    end = now if ended is None else ended
    begin = min(end, started if started is not None else end)
    place = min(begin, queued if queued is not None else begin)
    state = words.state(entry)
    left = now - span_s
    for first, last, mark, style in (
        (submitted, place, marks.waiting, words.STYLES[words.WAITING]),
        (place, begin, marks.queued, words.STYLES[words.WAITING]),
        (begin, end, marks.asking if state == words.ASKING else marks.running, words.STYLES[state]),
    ):
        if last < left or last <= first:
            continue
        low = max(0, int((first - left) / span_s * width))
        high = min(width, max(low + 1, round((last - left) / span_s * width)))
        cells[low:high] = [(mark, style)] * (high - low)
    if end < left:
        cells[0] = (marks.earlier, words.STYLES[words.WAITING])
    elif (started is not None and end - begin <= 0) or end <= submitted:
        cells[max(0, min(width - 1, int((end - left) / span_s * width)))] = (marks.running, words.STYLES[state])
    text = Text()
    for (mark, style), same in groupby(cells):
        text.append(mark * sum(1 for _ in same), style)
    return text


def scale(span_s: float, width: int) -> str:
    """Return the heading of the time line: its beginning at the left, now at the right."""
    begin, now = f"-{short_duration(span_s).replace('.0s', 's')}", "now"
    return (
        begin + " " * max(1, width - len(begin) - len(now)) + now if width >= len(begin) + len(now) + 1 else now[:width]
    )
