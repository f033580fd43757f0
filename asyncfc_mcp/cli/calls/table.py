"""Lines of `asyncfc-mcp log`: one for each call, in columns.

Owns the columns and their widths. Pure: the time and the width of the terminal are given. Words are `words`'.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.calls.cells import fit, widest, wrapped
from asyncfc_mcp.cli.calls.words import Entry
from asyncfc_mcp.cli.figures import duration

_GAP: Final = "  "
_BOUNDS: Final = {"who": (3, 14), "call": (4, 24), "tool": (8, 40), "waited": (6, 44), "ran": (5, 12)}
"""Least and largest width of each column with a width of its own."""
_USUAL: Final = {"who": 11, "call": 14, "tool": 24, "waited": 24, "ran": 6}
"""Widths that do for most calls."""
_NARROW: Final = {"call": 14, "tool": 22, "waited": 24}
"""Largest widths on a terminal with fewer than `WIDE` columns."""
WIDE: Final = 130
_LEAST_END: Final = 16
"""Cells for the end of a call, below which columns give way."""
_HEADINGS: Final = {
    "when": "WHEN",
    "who": "WHO",
    "call": "CALL",
    "tool": "TOOL",
    "waited": "WAITED",
    "ran": "RAN",
    "end": "END",
}


@dataclass(slots=True)
class Table:
    """Columns for calls of which some are known.

    Args:
        width: of the terminal; None for a file or pipe, where nothing is cut.
        with_date: times have a date.
        more: calls follow whose texts may be longer.
    """

    width: int | None
    with_date: bool
    more: bool = False
    _columns: dict[str, int] = field(default_factory=dict[str, int])

    def measure(self, entries: Sequence[Entry], now: float) -> None:
        """Choose columns and widths for these calls; those that follow are put into the same."""
        rows = [self._cells(entry, now) for entry in entries]
        columns: dict[str, int] = {"when": 19 if self.with_date else 8}
        for name, (least, most) in _BOUNDS.items():
            if self.width is not None and self.width < WIDE:
                most = _NARROW.get(name, most)
            least = min(most, _USUAL[name]) if self.more else max(least, len(_HEADINGS[name]))
            columns[name] = widest((row[name] for row in rows), least, most)
        if self.width is not None:
            # What a reader misses least gives way first: the host, and then room of names and waits.
            if self._rest(columns) < _LEAST_END:
                del columns["who"]
            for name in ("waited", "tool", "call"):
                lacking = _LEAST_END - self._rest(columns)
                if lacking > 0:
                    columns[name] = max(_BOUNDS[name][0], columns[name] - lacking)
            for name in ("waited", "ran"):
                if self._rest(columns) < _LEAST_END // 2:
                    del columns[name]
        self._columns = columns

    def heading(self) -> Text:
        """Return the line above the calls."""
        shown = [fit(_HEADINGS[name], width, right=name == "ran") for name, width in self._columns.items()]
        heading = _GAP.join([*shown, _HEADINGS["end"]])
        return Text(heading if self.width is None else fit(heading, self.width).rstrip(), style="bold")

    def lines(self, entry: Entry, now: float) -> list[Text]:
        """Return the lines of one call: more than one if the reason of a failure needs them."""
        cells, style = self._cells(entry, now), words.STYLES[words.state(entry)]
        line = Text(no_wrap=True)
        for name, width in self._columns.items():
            shown = (
                fit(cells[name], width, right=name == "ran")
                if self.width is not None
                else _padded(cells[name], width, name)
            )
            line.append(shown, style="dim" if name in ("when", "who", "waited") else "")
            line.append(_GAP)
        if self.width is None:
            line.append(cells["end"], style)
            return [line]
        room = self._rest(self._columns)
        if words.state(entry) == words.FAILED and cell_len(cells["end"]) > room:
            line.append(fit("failed", room).rstrip(), style)
            indent = " " * (min(self._columns["when"], self.width // 4) + len(_GAP))
            reason = cells["end"].removeprefix("failed: ")
            return [line, *(Text(indent + each, style="red") for each in wrapped(reason, self.width - len(indent), 3))]
        line.append(fit(cells["end"], room).rstrip(), style)
        return [line]

    def _rest(self, columns: dict[str, int]) -> int:
        """Return the cells that are left for the end of a call."""
        assert self.width is not None
        return max(1, self.width - sum(columns.values()) - len(_GAP) * len(columns))

    def _cells(self, entry: Entry, now: float) -> dict[str, str]:
        submitted, ran = words.moment(entry, "submitted_at"), words.ran_s(entry, now)
        return {
            "when": "?" if submitted is None else words.at(submitted, with_date=self.with_date),
            "who": words.who(entry),
            "call": words.call(entry),
            "tool": words.tool(entry),
            "waited": words.waited(entry, now),
            "ran": "" if ran is None else duration(ran),
            "end": words.outcome(entry),
        }


def _padded(text: str, width: int, name: str) -> str:
    """Return a text of at least `width` cells."""
    return text if cell_len(text) > width else fit(text, width, right=name == "ran")
