"""Queries for calls: which calls of the record a reader wants, parsed from words.

Pure. The only place that reads such words, whether they are parameters of a URL or options of a command. Leaves finding
the calls to the engine and to `monitor`.
"""

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from asyncfc_mcp.core.failure_reasons import recorded_reason
from asyncfc_mcp.core.futures import Future, State
from asyncfc_mcp.core.identity import is_id
from asyncfc_mcp.errors import InvalidQuery, nearest
from asyncfc_mcp.values.text import encode

LIMIT: Final = 100
"""Calls of a page, where the query does not say how many."""
MOST: Final = 500
"""Bound on the calls of a page."""
TEXT_LENGTH: Final = 200
"""Bound on a text that is searched for, in characters."""
MOST_WORDS: Final = 100
"""Bound on the servers, tools and states of a query, each."""
WORDS: Final = ("server", "tool", "state", "text", "since", "until", "before", "limit")
"""Names of all words, each as a reader writes it."""
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DAYS: Final = {"today": 0, "yesterday": 1}
"""Days of this machine's time zone, which mean their beginning → days before now."""
_AGE: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhd])")
_LONGEST_TIME: Final = 40
_NUMBER: Final = re.compile(r"\d{1,11}(?:\.\d{1,9})?")


@dataclass(frozen=True, slots=True)
class CallQuery:
    """Which calls to return, newest first. Empty parts exclude nothing.

    Args:
        servers, tools: names; of tools those for clients.
        text: part of an ID, a name, a tool, a server, a failure, or of recorded arguments and results; without regard
            to case.
        since, until: bounds of the time of submission, in seconds of the wall clock; `until` itself is excluded.
        before: ID of the last call of the page before.
        limit: most calls of a page.
    """

    servers: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    text: str = ""
    since: float | None = None
    until: float | None = None
    before: str | None = None
    limit: int = LIMIT

    @classmethod
    def of(cls, words: Mapping[str, str | Sequence[str]], now: float | None = None) -> "CallQuery":
        """Parse a query. An empty word is as good as none.

        Args:
            words: name → value, or several values of a word that may be repeated. One value may list several names,
                separated by commas.
            now: time from which ages (`15m`) count, in seconds of the wall clock; None: the present.

        Raises:
            InvalidQuery: a word is unknown, or its value is wrong.
        """
        for name in words:
            if name not in WORDS:
                raise InvalidQuery(name, f"there is no such word; the nearest is {_near(name)}")
        now = time.time() if now is None else now
        return cls(
            servers=_several(words, "server"),
            tools=_several(words, "tool"),
            states=tuple(map(_state, _several(words, "state"))),
            text=_text(_one(words, "text")),
            since=_time("since", _one(words, "since"), now),
            until=_time("until", _one(words, "until"), now),
            before=_cursor(_one(words, "before")),
            limit=_limit(_one(words, "limit")),
        )

    def after(self, future_id: str) -> "CallQuery":
        """Return the query for the page that follows the call with this ID."""
        return replace(self, before=future_id)

    @property
    def before_number(self) -> float:
        """Number of the ID in `before`, infinite without one: pages are in the order of these numbers."""
        return math.inf if self.before is None else int(self.before[1:])

    def accepts(self, *, future_id: str, server: str, tool: str, state: State, submitted_at: float) -> bool:
        """Return whether a call fulfils all of the query but `text`."""
        return (
            int(future_id[1:]) < self.before_number
            and (not self.servers or server in self.servers)
            and (not self.tools or tool in self.tools)
            and (not self.states or state in self.states)
            and (self.since is None or submitted_at >= self.since)
            and (self.until is None or submitted_at < self.until)
        )

    def finds(self, texts: Iterable[str | None]) -> bool:
        """Return whether one of these texts of a call has the text of the query; without one, any call is found."""
        if not self.text:
            return True
        wanted = self.text.casefold()
        return any(text is not None and wanted in text.casefold() for text in texts)

    def finds_in(self, future: Future) -> bool:
        """Return whether a call has the text of the query, apart from its arguments and result."""
        return self.finds((future.id, future.name, future.tool, future.server, recorded_reason(future)))

    def finds_in_json(self, *texts: str | None) -> bool:
        """Return whether arguments or results have the text of the query, as JSON: in JSON, quotation marks are
        escaped."""
        return replace(self, text=encode(self.text).decode()[1:-1]).finds(texts)


def _one(words: Mapping[str, str | Sequence[str]], name: str) -> str:
    value = words.get(name, "")
    if not isinstance(value, str):
        if len(value) > 1:
            raise InvalidQuery(name, "it is given several times")
        value = value[0] if value else ""
    return value.strip()


def _several(words: Mapping[str, str | Sequence[str]], name: str) -> tuple[str, ...]:
    value = words.get(name, ())
    parts = [part.strip() for each in ([value] if isinstance(value, str) else value) for part in each.split(",")]
    found = tuple(dict.fromkeys(filter(None, parts)))
    if len(found) > MOST_WORDS:
        raise InvalidQuery(name, f"at most {MOST_WORDS} values are allowed")
    return found


def _state(word: str) -> State:
    known = {state.value: state for state in State}
    if word not in known:
        raise InvalidQuery("state", f"{word[:40]!r} is none of {', '.join(known)}")
    return known[word]


def _text(word: str) -> str:
    if len(word) > TEXT_LENGTH:
        raise InvalidQuery("text", f"at most {TEXT_LENGTH} characters are allowed")
    return word


def _time(name: str, word: str, now: float) -> float | None:
    if not word:
        return None
    if match := _AGE.fullmatch(word):
        return now - float(match[1]) * _UNITS[match[2]]
    if _NUMBER.fullmatch(word):
        return float(word)
    if word in _DAYS:
        midnight = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
        return (midnight - timedelta(days=_DAYS[word])).timestamp()
    if len(word) <= _LONGEST_TIME and "-" in word:
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromisoformat(word).timestamp()
    raise InvalidQuery(
        name,
        f"{word[:40]!r} is no time: write an age such as 15m or 2h, today or yesterday, a time such as "
        "2026-01-31T12:00, or seconds since 1970",
    )


def _cursor(word: str) -> str | None:
    if not word:
        return None
    if not is_id(word) or not word[1:].isdecimal() or len(word) > 19:
        raise InvalidQuery("before", f"{word[:40]!r} is not the ID of a call, such as f12")
    return word


def _limit(word: str) -> int:
    if not word:
        return LIMIT
    if not word.isdecimal() or not word.isascii() or len(word) > 6 or not 1 <= int(word) <= MOST:
        raise InvalidQuery("limit", f"{word[:40]!r} is not a number from 1 to {MOST}")
    return int(word)


def _near(name: str) -> str:
    return repr((nearest(name, WORDS) or [WORDS[0]])[0])
