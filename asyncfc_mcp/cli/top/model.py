"""State of `asyncfc-mcp top`: calls, servers, and what the user looks at.

Owns the effect of events and keys. Pure: no terminal, no connection and no clock; `view` draws it, and `command` does
what a key asks for. A selected call stays selected while others arrive above it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, cast

from asyncfc_mcp.cli.calls import words
from asyncfc_mcp.cli.calls.words import Entry

MOST: Final = 5_000
"""Calls that are kept; the oldest that have ended are dropped first."""
SPANS_S: Final = (5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
"""Seconds that the time line may show."""
LEAST_SPAN_S: Final = 20.0
MOST_SPAN_S: Final = 900.0
"""Bounds on what it shows unless the user chooses: enough for the calls that have not ended."""
FILTER_LENGTH: Final = 100


class View(Enum):
    """What fills the screen."""

    CALLS = auto()
    CALL = auto()
    """Details of one call."""
    SERVERS = auto()
    HELP = auto()


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel a call: its user has confirmed it."""

    id: str


@dataclass(frozen=True, slots=True)
class Load:
    """Read arguments and result of a call."""

    id: str


@dataclass(frozen=True, slots=True)
class Quit:
    """End the program."""


Action = Cancel | Load | Quit


@dataclass(slots=True)
class Model:
    """What is shown, and what is known.

    Attributes:
        overview: of the bridge, as it sends it.
        problem: the reason why there is no connection; empty while there is one.
        notice: one line on what was done last.
        selected: ID of the selected call; None selects the first row.
        following: the first row is selected, whatever comes.
        detail: arguments and result of the call that is looked at, once they were read.
        asking: ID of the call whose cancellation is to be confirmed.
        typing: the filter is being typed.
        chosen_span_s: seconds on the time line; None: what unfinished calls need.
        scroll: first line of details or of a server's stderr that is shown.
        page: rows that the last drawing had room for.
    """

    overview: Entry = field(default_factory=dict[str, Any])
    problem: str = "connecting"
    notice: str = ""
    view: View = View.CALLS
    before_help: View = View.CALLS
    selected: str | None = None
    following: bool = True
    detail: Entry | None = None
    asking: str | None = None
    typing: bool = False
    filter: str = ""
    chosen_span_s: float | None = None
    server: int = 0
    scroll: int = 0
    page: int = 10
    _entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    _rows: list[Entry] | None = None

    # --- what arrives --------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Note a new connection, which begins with everything that is known."""
        self.problem = ""

    def disconnected(self, reason: str) -> None:
        self.problem = reason or "the connection was closed"

    def receive(self, event: Mapping[str, Any]) -> list[Action]:
        """Take in an event of the bridge; return what is to be done."""
        data = event.get("data")
        if event.get("event") == "overview" and isinstance(data, dict):
            self.overview = cast("Entry", data)
        elif event.get("event") == "calls" and isinstance(data, dict):
            calls = cast("Entry", data)
            if calls.get("reset") is True:  # all that are known follow
                self._entries.clear()
            return self._take(words.parts(calls, "entries"))
        return []

    def _take(self, entries: Iterable[Entry]) -> list[Action]:
        shown = self.selected if self.view is View.CALL else None
        actions: list[Action] = []
        for entry in entries:
            future_id = entry.get("id")
            if not isinstance(future_id, str):
                continue
            before = self._entries.get(future_id)
            self._entries[future_id] = entry
            if future_id == shown and (before is None or words.state(before) != words.state(entry)):
                actions.append(Load(future_id))
        if len(self._entries) > MOST:
            self._drop()
        self._rows = None
        return actions

    def _drop(self) -> None:
        oldest = sorted(self._entries.values(), key=lambda entry: (not words.has_ended(entry), _submitted(entry)))
        for entry in oldest[: len(self._entries) - MOST]:
            del self._entries[entry["id"]]

    def loaded(self, detail: Entry) -> None:
        """Take in arguments and result of a call."""
        if detail.get("id") == self.selected:
            self.detail = detail

    # --- what is shown -------------------------------------------------------------------------------------------

    def rows(self) -> list[Entry]:
        """Return the calls that the filter accepts: those that run, those that wait, and those that have ended, newest
        first each."""
        if self._rows is None:
            wanted = self.filter.casefold().split()
            found = [entry for entry in self._entries.values() if not wanted or _matches(entry, wanted)]
            found.sort(key=_submitted, reverse=True)
            found.sort(key=_rank)
            self._rows = found
        return self._rows

    def entry(self, future_id: str | None) -> Entry | None:
        return None if future_id is None else self._entries.get(future_id)

    @property
    def number(self) -> int:
        """Return how many calls are known, whatever the filter."""
        return len(self._entries)

    def row(self) -> int:
        """Return the number of the selected row."""
        rows = self.rows()
        if not self.following and self.selected is not None:
            for number, entry in enumerate(rows):
                if entry["id"] == self.selected:
                    return number
        return 0

    def servers(self) -> list[Entry]:
        return words.parts(self.overview, "servers")

    # --- keys ----------------------------------------------------------------------------------------------------

    def press(self, key: str, now: float) -> list[Action]:
        """Take in a key; return what is to be done.

        Args:
            now: seconds of the bridge's wall clock.
        """
        if key == "ctrl-c":
            return [Quit()]
        if self.asking is not None:
            return self._confirm(key)
        if self.typing:
            self._type(key)
            return []
        self.notice = ""
        match key:
            case "q":
                return [Quit()]
            case "?" | "h":
                if self.view is not View.HELP:
                    self.before_help, self.view = self.view, View.HELP
                else:
                    self.view = self.before_help
                return []
            case _:
                pass
        match self.view:
            case View.CALLS:
                return self._in_calls(key, now)
            case View.CALL:
                return self._in_call(key)
            case View.SERVERS:
                self._in_servers(key)
            case View.HELP:
                self.view = self.before_help
        return []

    def _in_calls(self, key: str, now: float) -> list[Action]:
        match key:
            case "enter" | "right":
                return self._open()
            case "c":
                self._ask()
            case "f" | "/":
                self.typing = True
            case "s" | "tab":
                self.view, self.scroll = View.SERVERS, 0
            case "escape":
                if self.filter:
                    self.filter, self._rows = "", None
                else:
                    self.following, self.selected = True, None
            case "+" | "=":
                self._zoom(-1, now)
            case "-" | "_":
                self._zoom(1, now)
            case "0":
                self.chosen_span_s = None
            case _:
                self._move(key)
        return []

    def _open(self) -> list[Action]:
        rows = self.rows()
        if not rows:
            return []
        self.selected, self.following = rows[self.row()]["id"], False
        self.view, self.scroll, self.detail = View.CALL, 0, None
        return [Load(rows[self.row()]["id"])]

    def _in_call(self, key: str) -> list[Action]:
        match key:
            case "escape" | "left" | "backspace" | "enter":
                self.view, self.detail = View.CALLS, None
            case "c":
                self._ask()
            case "s":
                self.view, self.scroll = View.SERVERS, 0
            case "n" | "p":
                rows = self.rows()
                self._move("down" if key == "n" else "up")
                self.scroll, self.detail = 0, None
                return [Load(rows[self.row()]["id"])] if rows else []
            case _:
                self._roll(key)
        return []

    def _in_servers(self, key: str) -> None:
        last = max(0, len(self.servers()) - 1)
        match key:
            case "escape" | "left" | "s" | "tab" | "backspace":
                self.view = View.CALLS
            case "up" | "k":
                self.server = max(0, min(self.server, last) - 1)
            case "down" | "j":
                self.server = min(last, self.server + 1)
            case "home" | "g":
                self.server = 0
            case "end" | "G":
                self.server = last
            case "enter":
                servers = self.servers()
                if servers:
                    name = servers[min(self.server, last)].get("name")
                    self.filter, self._rows = (name if isinstance(name, str) else ""), None
                    self.view = View.CALLS
            case _:
                pass

    def _move(self, key: str) -> None:
        rows = self.rows()
        if not rows:
            return
        steps = {
            "up": -1, "k": -1, "down": 1, "j": 1, "page-up": -self.page, "page-down": self.page, " ": self.page,
            "home": -len(rows), "g": -len(rows), "end": len(rows), "G": len(rows),
        }  # fmt: skip
        if key not in steps:
            return
        to = max(0, min(len(rows) - 1, self.row() + steps[key]))
        self.selected = rows[to]["id"]
        # At the top, newer calls are followed again in the table, but not while one is looked at.
        self.following = to == 0 and self.view is View.CALLS

    def _roll(self, key: str) -> None:
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page-up": -self.page, "page-down": self.page, " ": self.page}
        if key in ("home", "g"):
            self.scroll = 0
        elif key in ("end", "G"):
            self.scroll = 1_000_000  # the drawing corrects it
        elif key in steps:
            self.scroll = max(0, self.scroll + steps[key])

    def span_s(self, now: float) -> float:
        """Return the seconds that the time line shows."""
        if self.chosen_span_s is not None:
            return self.chosen_span_s
        begun = [_submitted(entry) for entry in self.rows() if not words.has_ended(entry)]
        wanted = min(MOST_SPAN_S, max(LEAST_SPAN_S, now - min(begun, default=now)))
        return next(span for span in SPANS_S if span >= wanted)

    def _zoom(self, step: int, now: float) -> None:
        at = SPANS_S.index(self.span_s(now))
        self.chosen_span_s = SPANS_S[max(0, min(len(SPANS_S) - 1, at + step))]

    def _ask(self) -> None:
        rows = self.rows()
        entry = self.entry(self.selected) if self.view is View.CALL else (rows[self.row()] if rows else None)
        if entry is None:
            return
        if words.has_ended(entry):
            self.notice = f"{words.text(entry, 'id')} has ended already"
        else:
            self.asking = entry["id"]

    def _confirm(self, key: str) -> list[Action]:
        asked, self.asking = self.asking, None
        if key in ("y", "Y") and asked is not None:
            self.notice = f"cancelling {words.text({'id': asked}, 'id')} …"
            return [Cancel(asked)]
        self.notice = "not cancelled"
        return []

    def _type(self, key: str) -> None:
        match key:
            case "enter" | "down" | "up":
                self.typing = False
            case "escape":
                self.typing, self.filter = False, ""
            case "backspace":
                self.filter = self.filter[:-1]
            case "ctrl-u":
                self.filter = ""
            case "ctrl-w":
                self.filter = self.filter.rstrip().rpartition(" ")[0]
            case _ if len(key) == 1 and len(self.filter) < FILTER_LENGTH:
                self.filter += key
            case _:
                return
        self._rows = None


def _rank(entry: Entry) -> int:
    return 2 if words.has_ended(entry) else 1 if words.state(entry) == words.WAITING else 0


def _submitted(entry: Entry) -> float:
    return words.moment(entry, "submitted_at") or 0.0


def _matches(entry: Entry, wanted: list[str]) -> bool:
    """Return whether every word is in one of the call's texts."""
    keys = ("id", "name", "tool", "server", "host", "conversation", "failure")
    searched = " ".join([*(words.text(entry, key, words.FAILURE_LENGTH) for key in keys), words.name_of_state(entry)])
    searched = searched.casefold()
    return all(word in searched for word in wanted)
